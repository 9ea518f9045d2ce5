//! What the kernel is asked about connections: how many a generation has, how many wait, what was lost. A dump of the
//! kernel's tables is taken once in a turn of the loop, whoever asks for it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::stat::fstat;
use nix::time::ClockId;

use super::Shell;
use super::strangers::ToldStranger;
use crate::config::{Kind, Span};
use crate::core::report::Status;
use crate::core::{Counted, Event, GenerationId, SlotId, SocketNote, Traffic};
use crate::os::diag::{self, Diag, Handshakes, InetSocket, SocketState, UnixSocket};
use crate::os::socket::HeldSocket;
use crate::os::waiters::{self, SocketInode};

/// Connections of one unix socket that may count as idle.
const UNIX_CONNECTIONS: usize = 4096;

/// What was asked and is remembered.
#[derive(Debug, Default)]
pub(super) struct Questions {
    pub(super) diag: Diag,
    /// Half-open connections at the moment their slot lost the traffic.
    handshakes: BTreeMap<SlotId, Handshakes>,
    /// Of each generation that was counted.
    silent: BTreeMap<GenerationId, QuietSince>,
    /// That the kernel does not answer was told.
    is_refusal_told: bool,
    /// What was lost by then, when the files were read last.
    lost: Option<Lost>,
    /// Other people's sockets in our groups, by ours.
    pub(super) strangers: Vec<(Rc<HeldSocket>, Vec<u64>)>,
    pub(super) told_strangers: HashSet<ToldStranger>,
}

/// On AF_UNIX: since when nothing was seen in either queue of a connection, by its cookie.
type QuietSince = HashMap<u64, Instant>;

/// Clients that had to try again.
#[derive(Debug)]
struct Lost {
    /// By full queues of the whole host.
    overflows: u64,
    /// At each socket of ours, by its inode, for whatever reason.
    drops: HashMap<u64, u32>,
}

/// One answer of the kernel to Action::Count, which is put together from several dumps.
struct CountUnderWay {
    generation: GenerationId,
    slot: SlotId,
    quiet: Span,
    begun: Instant,
    before: QuietSince,
    silent: QuietSince,
    /// What the processes of the generation have open, once somebody has asked.
    inodes: Option<Rc<HashSet<u32>>>,
}

impl CountUnderWay {
    fn new(generation: GenerationId, slot: SlotId, quiet: Span) -> Self {
        let (before, silent, inodes) = Default::default();
        Self { generation, slot, quiet, begun: Instant::now(), before, silent, inodes }
    }

    /// Those of these unix connections that have been silent for all of DrainQuiet=, as far as anybody has looked.
    fn quiet_for_long<'a>(&mut self, sockets: &[&'a UnixSocket]) -> Vec<&'a UnixSocket> {
        let mut found = Vec::new();
        for socket in sockets.iter().filter(|one| one.is_silent()).take(UNIX_CONNECTIONS) {
            let since = *self.before.get(&socket.cookie).unwrap_or(&self.begun);
            self.silent.insert(socket.cookie, since);
            if self.begun.duration_since(since).as_nanos() >= u128::from(self.quiet.as_nanos()) {
                found.push(*socket);
            }
        }
        found
    }
}

/// What a look costs, from its beginning.
pub(super) struct Effort {
    begun: Instant,
    cpu: Span,
}

impl Effort {
    pub(super) fn begin() -> Self {
        Self { begun: Instant::now(), cpu: cpu_time() }
    }

    /// The CPU time: on a busy machine a look takes longer and costs no more. But a tenth of the time at least, of a second
    /// at most, since it may also wait for what a server has locked, and the loop with it.
    pub(super) fn cost(&self) -> Span {
        let cpu = cpu_time().as_nanos().saturating_sub(self.cpu.as_nanos());
        let time = self.begun.elapsed().min(Duration::from_secs(1));
        Span::from_nanos(cpu.max(time.as_nanos() as u64 / 10))
    }
}

/// Of all our threads: some look for the main one.
fn cpu_time() -> Span {
    let time = ClockId::CLOCK_PROCESS_CPUTIME_ID.now().expect("Linux has this clock");
    Span::from_nanos(u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX))
}

impl Questions {
    /// The server's side of a connection to `at`: its state, and its inode, which is 0 as long as it is not accepted.
    /// None: there is none.
    pub(super) fn other_side(
        &mut self,
        at: SocketAddr,
        from: SocketAddr,
    ) -> io::Result<Option<(SocketState, u32)>> {
        let sockets = self.diag.tcp(at)?;
        let is_it = |one: &&InetSocket| one.is_at(at) && one.remote == from;
        Ok(sockets.iter().find(is_it).map(|one| (one.state, one.inode)))
    }
}

/// The connections of a generation.
impl Shell {
    pub(super) fn remember_handshakes(&mut self, slot: SlotId) {
        let held = self.listeners.held();
        let steered = held.iter().filter(|socket| socket.is_steered() && socket.kind == Kind::Tcp);
        let addresses: Vec<_> = steered.filter_map(|socket| socket.local_address()).collect();
        let begun = self.questions.diag.handshakes(&addresses).map(|found| diag::handshakes(found.all()));
        let begun = begun.inspect_err(|error| log::debug!("cannot look for handshakes: {error}"));
        self.questions.handshakes.insert(slot, begun.unwrap_or_default());
    }

    /// The connections of one generation on the sockets that are steered. None: the kernel does not say.
    pub(super) fn count(&mut self, generation: GenerationId, slot: SlotId, quiet: Span) {
        let effort = Effort::begin();
        let held = self.listeners.held().into_iter().filter(|one| one.is_steered()).collect();
        let before = self.questions.silent.remove(&generation).unwrap_or_default();
        let mut counting =
            CountUnderWay { begun: effort.begun, before, ..CountUnderWay::new(generation, slot, quiet) };
        let traffic = self.traffic(held, &mut counting).map_err(|error| {
            if !std::mem::replace(&mut self.questions.is_refusal_told, true) {
                log::warn!(
                    "cannot see which connections there are: {error}; an old generation gets all of Drain="
                );
            }
        });
        self.questions.silent.insert(generation, counting.silent);
        let is_stopped = self.children.is_stopped(generation);
        let counted = Counted { traffic: traffic.ok(), is_stopped, cost: effort.cost() };
        self.outbox.push(Event::Counted { generation, counted });
    }

    pub(super) fn forget_traffic(&mut self, generation: GenerationId) {
        self.questions.silent.remove(&generation);
    }

    /// The connections of one generation on all sockets.
    fn connections(&mut self, generation: GenerationId, slot: SlotId) -> Option<u64> {
        let mut counting = CountUnderWay::new(generation, slot, Span::INFINITY);
        let traffic = self.traffic(self.listeners.held(), &mut counting).ok()?;
        Some(u64::from(traffic.in_flight) + u64::from(traffic.recent) + u64::from(traffic.idle))
    }

    /// From which of these sockets this generation has accepted connections that are open. Only who has the traffic does.
    pub(super) fn accepted(
        &mut self,
        generation: GenerationId,
        slot: SlotId,
        sockets: &[Rc<HeldSocket>],
    ) -> Vec<bool> {
        let current = self.slots.steering.slot;
        let is_asked = |socket: &HeldSocket| {
            let has_clients = !socket.is_steered() || slot == current;
            has_clients && matches!(socket.kind, Kind::Tcp | Kind::Unix | Kind::SeqPacket)
        };
        let tcp = sockets.iter().filter(|socket| is_asked(socket) && socket.kind == Kind::Tcp);
        let tcp: Vec<_> = tcp.filter_map(|socket| socket.local_address()).collect();
        if self.questions.diag.learn_tcp(&tcp).is_err() {
            return vec![false; sockets.len()];
        }
        let mut counting = CountUnderWay::new(generation, slot, Span::INFINITY);
        let mut has_accepted = |socket: &Rc<HeldSocket>| {
            let traffic = self.traffic(vec![Rc::clone(socket)], &mut counting);
            traffic.is_ok_and(|traffic| traffic.in_flight + traffic.recent + traffic.idle > 0)
        };
        sockets.iter().map(|socket| is_asked(socket) && has_accepted(socket)).collect()
    }

    /// What of a status takes asking the kernel.
    pub(super) fn complete_traffic(&mut self, status: &mut Status) {
        let slots = self.children.slots();
        for of in &mut status.generations {
            let slot = slots.iter().find(|(generation, _)| generation.0 == of.generation);
            of.connections = slot.and_then(|(generation, slot)| self.connections(*generation, *slot));
        }
        for (index, of) in status.sockets.iter_mut().enumerate() {
            let socket = self.listeners.current.get(index).map(|named| Rc::clone(&named.socket));
            let unix = socket.clone().filter(|one| matches!(one.kind, Kind::Unix | Kind::SeqPacket));
            if let Some((queue, limit)) = unix.and_then(|socket| self.unix_queue(&socket)) {
                (of.queue, of.backlog) = (Some(queue), Some(limit));
            }
            let ours = socket.map_or(0, |socket| self.ours_in(&socket, None));
            of.queue = of.queue.map(|queue| queue.saturating_sub(ours));
        }
    }

    fn traffic(&mut self, sockets: Vec<Rc<HeldSocket>>, counting: &mut CountUnderWay) -> io::Result<Traffic> {
        let (unix, sockets): (Vec<_>, Vec<_>) =
            sockets.into_iter().partition(|socket| matches!(socket.kind, Kind::Unix | Kind::SeqPacket));
        let addresses: Vec<_> = sockets.iter().map(|socket| socket.local_address()).collect();
        let is_tcp = |socket: &HeldSocket| socket.kind == Kind::Tcp;
        let tcp = sockets.iter().zip(&addresses).filter(|(socket, _)| is_tcp(socket));
        self.questions.diag.learn_tcp(&tcp.filter_map(|(_, at)| *at).collect::<Vec<_>>())?;
        let mut sum = if unix.is_empty() { Traffic::default() } else { self.unix_traffic(&unix, counting)? };
        for (socket, at) in sockets.iter().zip(addresses) {
            sum += match at.filter(|_| is_tcp(socket)) {
                Some(at) => self.tcp_traffic(socket, at, counting)?,
                None => Traffic { queued: socket.queued(counting.slot)?, ..Traffic::default() },
            };
        }
        // Nobody has to serve a connection of ours.
        for socket in unix.iter().chain(&sockets) {
            sum.queued = sum.queued.saturating_sub(self.ours_in(socket, Some(counting.slot)));
        }
        Ok(sum)
    }

    fn inodes(&self, counting: &mut CountUnderWay) -> io::Result<Rc<HashSet<u32>>> {
        if let Some(known) = &counting.inodes {
            return Ok(Rc::clone(known));
        }
        let found = Rc::new(diag::inodes_of(&self.children.pids(counting.generation)?)?);
        counting.inodes = Some(Rc::clone(&found));
        Ok(found)
    }

    /// By label; where there are none, by what the processes of the generation have open.
    fn tcp_traffic(
        &mut self,
        socket: &HeldSocket,
        at: SocketAddr,
        counting: &mut CountUnderWay,
    ) -> io::Result<Traffic> {
        let (slot, quiet) = (counting.slot, counting.quiet);
        let mut dump = self.questions.diag.tcp(at)?;
        if self.speaks_tls(socket, at) {
            dump = dump.iter().map(InetSocket::after_handshake).collect();
        }
        let of_nobody = self.of_nobody(slot)?;
        // Another socket of ours may have the same port at another address.
        let is_meant = |one: &&InetSocket| one.is_at(at) && !of_nobody.contains(&one.inode);
        let sockets = || dump.iter().filter(is_meant);
        let none = Handshakes::default();
        let begun = self.questions.handshakes.get(&slot).unwrap_or(&none);
        // What is left of a connection, or not one yet, shows no label in any kernel.
        let is_whole =
            |one: &&InetSocket| matches!(one.state, SocketState::Established | SocketState::CloseWait);
        if socket.is_labelled() && sockets().filter(is_whole).all(|one| one.label.is_some()) {
            let is_ours = |one: &InetSocket| one.label == Some(slot.0);
            return Ok(diag::traffic(sockets(), is_ours, quiet, begun));
        }
        let inodes = self.inodes(counting)?;
        let is_ours = |one: &InetSocket| one.inode != 0 && inodes.contains(&one.inode);
        let traffic = diag::traffic(sockets(), is_ours, quiet, begun);
        Ok(Traffic { queued: socket.queued(slot)?, ..traffic })
    }

    /// By its number or name, since the kernel does not know. There a handshake alone is no request.
    fn speaks_tls(&self, socket: &HeldSocket, at: SocketAddr) -> bool {
        let mut named = self.listeners.named();
        let is_said = |name: &str| ["https", "tls", "ssl"].iter().any(|word| name.contains(word));
        at.port() % 1000 == 443
            || named.any(|one| {
                std::ptr::eq(Rc::as_ptr(&one.socket), socket) && is_said(&one.name.to_ascii_lowercase())
            })
    }

    /// Of all of them: one look at the server's threads is enough.
    fn unix_traffic(
        &mut self,
        sockets: &[Rc<HeldSocket>],
        counting: &mut CountUnderWay,
    ) -> io::Result<Traffic> {
        let dump = self.questions.diag.unix()?;
        let of_nobody = self.of_nobody(counting.slot)?;
        let (mut all, mut quiet, mut device) = (Vec::new(), Vec::new(), 0);
        for socket in sockets {
            // Connections carry the node or the abstract name of the listener that they came by, as the kernel sees it:
            // on some file systems stat(2) sees another node.
            let own = SocketInode::from(&fstat(socket.of(counting.slot))?);
            device = own.device;
            let place = dump.of_inode(own.number).and_then(|one| one.place.as_ref());
            let Some(place) = place else { continue };
            let at_place = dump.at(place);
            let ours: Vec<&UnixSocket> = if socket.is_steered() {
                at_place.filter(|one| !of_nobody.contains(&one.inode)).collect()
            } else {
                let inodes = self.inodes(counting)?;
                at_place
                    .filter(|one| inodes.contains(&one.inode) && !of_nobody.contains(&one.inode))
                    .collect()
            };
            quiet.extend(counting.quiet_for_long(&ours));
            all.extend(ours);
        }
        let idle = self.waited_for(counting.generation, &quiet, device);
        Ok(diag::unix_traffic(all, |one| idle.contains(&one.cookie)))
    }

    /// Which of these connections a thread of the server does nothing but wait on. One that works on a request for long
    /// leaves both queues empty as well; and who serves by epoll waits on those at work, too.
    fn waited_for(&self, generation: GenerationId, quiet: &[&UnixSocket], device: u64) -> HashSet<u64> {
        if quiet.is_empty() {
            return HashSet::new();
        }
        let inodes: Vec<SocketInode> =
            quiet.iter().map(|one| SocketInode { number: one.inode.into(), device }).collect();
        let pids = self.children.pids(generation).unwrap_or_default();
        let waited = waiters::look_for_readers(&pids, &inodes).waited;
        quiet.iter().zip(waited).filter(|(_, waited)| *waited).map(|(one, _)| one.cookie).collect()
    }
}

/// The queues of listening sockets.
impl Shell {
    /// What waits on a listening unix socket, on all of its slots, and how much may: TCP says it of itself.
    pub(super) fn unix_queue(&mut self, socket: &HeldSocket) -> Option<(u32, u32)> {
        let own: BTreeSet<u64> = SlotId::all().filter_map(|slot| socket.inode(slot).ok()).collect();
        let target = socket.inode(self.slots.steering.slot).ok()?;
        let listeners = self.questions.diag.unix().ok()?;
        let listener = |inode| listeners.of_inode(inode).filter(|one| one.state == SocketState::Listen);
        let limit = listener(target)?.wqueue;
        Some((own.into_iter().filter_map(listener).map(|one| one.rqueue).sum(), limit))
    }
}

/// Connections that the kernel dropped because a queue was full.
impl Shell {
    pub(super) fn begin_overflows(&mut self) {
        let drops = self.listeners.held().iter().flat_map(|socket| socket.drops()).collect();
        self.questions.lost = diag::listen_overflows().ok().map(|overflows| Lost { overflows, drops });
    }

    /// What a queue of ours lost is no more than what those of the host lost, nor than what ours dropped.
    pub(super) fn tell_overflows(&mut self) {
        let (Some(before), Ok(now)) = (self.questions.lost.take(), diag::listen_overflows()) else {
            return;
        };
        let (mut dropped, mut sockets) = (0, Vec::new());
        for socket in self.listeners.held() {
            let known: HashMap<u64, u32> = socket.drops().into_iter().collect();
            let since =
                |(inode, drops): (u64, u32)| drops.wrapping_sub(*before.drops.get(&inode).unwrap_or(&0));
            let new: u64 = known.into_iter().map(since).map(u64::from).sum();
            if new > 0 {
                dropped += new;
                sockets.push(socket.address.clone());
            }
        }
        let count = now.saturating_sub(before.overflows).min(dropped);
        if count > 0 {
            self.outbox.tell(SocketNote::Overflowed { count, sockets: sockets.join(", ") });
        }
    }
}
