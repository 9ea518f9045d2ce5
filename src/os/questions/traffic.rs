//! Asks the kernel about connections: how many a generation has, how many wait in queues, how many a full queue has
//! lost. A dump of the kernel's tables is taken once in a turn of the loop, whoever asks for it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::stat::fstat;
use nix::time::ClockId;

use super::{Facts, Questions};
use crate::config::{Kind, Span};
use crate::core::report::Status;
use crate::core::{Counted, GenerationId, SlotId, SocketNote, Traffic};
use crate::os::children::Children;
use crate::os::diag::{self, Handshakes, InetSocket, SocketState, UnixSocket};
use crate::os::socket::{HeldSocket, NamedSocket};
use crate::os::waiters::{self, SocketInode};
use crate::os::warning::Warn;

/// Connections of one unix socket that may count as idle.
const UNIX_CONNECTIONS: usize = 1 << 16;

/// So long after a slot has lost the traffic its handshakes are listed: the dump takes a CPU for milliseconds, which the
/// first connections on the new slot need.
const HANDSHAKES: Duration = Duration::from_millis(10);

/// What earlier counts have shown.
#[derive(Debug, Default)]
pub(super) struct TrafficMemory {
    /// Half-open connections soon after their slot lost the traffic. The kernel does not say whose they are: some may be of
    /// the slot that has the traffic now, and one of these whose client never answers is waited for as if it were ours.
    handshakes: BTreeMap<SlotId, Handshakes>,
    /// Slots of which these are to be listed, by when, and at which addresses.
    unlisted: BTreeMap<SlotId, (Instant, Vec<SocketAddr>)>,
    /// The quiet connections of each generation that was counted.
    silent: BTreeMap<GenerationId, QuietSince>,
    /// The log has said that the kernel does not answer.
    is_refusal_told: bool,
    /// What was lost by then, when the files were read last.
    lost: Option<Lost>,
}

/// On AF_UNIX: since when nothing was seen in either queue of a connection, by its cookie.
type QuietSince = HashMap<u64, Instant>;

/// How many clients found a full queue and had to try again.
#[derive(Debug)]
struct Lost {
    /// The number of connections that found a full queue, on the whole host.
    overflows: u64,
    /// The connections that each held socket has dropped for any reason, by its inode.
    drops: HashMap<u64, u32>,
}

/// One answer of the kernel to Question::Count, which is put together from several dumps.
struct CountUnderWay<'a> {
    facts: &'a Facts<'a>,
    generation: GenerationId,
    slot: SlotId,
    quiet: Span,
    begun: Instant,
    before: QuietSince,
    silent: QuietSince,
    /// What the processes of the generation have open, once somebody has asked.
    inodes: Option<Rc<HashSet<u32>>>,
}

impl<'a> CountUnderWay<'a> {
    fn new(generation: GenerationId, slot: SlotId, quiet: Span, facts: &'a Facts<'a>) -> Self {
        let (before, silent, inodes) = Default::default();
        Self { facts, generation, slot, quiet, begun: Instant::now(), before, silent, inodes }
    }

    fn inodes(&mut self) -> io::Result<Rc<HashSet<u32>>> {
        if let Some(known) = &self.inodes {
            return Ok(Rc::clone(known));
        }
        let found = Rc::new(diag::inodes_of(&self.facts.children.pids(self.generation)?)?);
        self.inodes = Some(Rc::clone(&found));
        Ok(found)
    }

    /// Those of these unix connections that have been silent for all of DrainQuiet=, as far as anybody has looked.
    fn quiet_for_long<'s>(&mut self, sockets: &[&'s UnixSocket]) -> Vec<&'s UnixSocket> {
        let mut found = Vec::new();
        self.silent.reserve(sockets.len().min(UNIX_CONNECTIONS));
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

/// Measures what a look costs, from its beginning.
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

/// The CPU time of all our threads, some of which look for the main one.
fn cpu_time() -> Span {
    let time = ClockId::CLOCK_PROCESS_CPUTIME_ID.now().expect("Linux has this clock");
    Span::from_nanos(u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX))
}

/// Counting the connections of a generation.
impl Questions {
    /// Has the handshakes remembered that are under way on a slot that has just lost the traffic.
    pub fn remember_handshakes(&mut self, slot: SlotId, held: &[Rc<HeldSocket>]) {
        let steered = held.iter().filter(|socket| socket.is_steered() && socket.kind == Kind::Tcp);
        let addresses: Vec<_> = steered.filter_map(|socket| socket.local_address()).collect();
        self.memory.handshakes.remove(&slot);
        if !addresses.is_empty() {
            self.memory.unlisted.insert(slot, (Instant::now() + HANDSHAKES, addresses));
        }
    }

    /// When handshakes are to be listed, if no event comes before.
    pub(super) fn handshakes_due(&self) -> Option<Instant> {
        self.memory.unlisted.values().map(|(due, _)| *due).min()
    }

    pub(super) fn list_due_handshakes(&mut self) {
        let now = Instant::now();
        let is_due = |(slot, (due, _)): (&SlotId, &(Instant, _))| (*due <= now).then_some(*slot);
        for slot in self.memory.unlisted.iter().filter_map(is_due).collect::<Vec<_>>() {
            self.list_handshakes(slot);
        }
    }

    fn list_handshakes(&mut self, slot: SlotId) {
        let Some((_, addresses)) = self.memory.unlisted.remove(&slot) else { return };
        let begun = self.diag.handshakes(&addresses).map(|found| diag::handshakes(found.all()));
        let begun =
            begun.inspect_err(|error| log::debug!("cannot list the TCP handshakes under way: {error}"));
        self.memory.handshakes.insert(slot, begun.unwrap_or_default());
    }

    /// The connections of one generation on steered sockets; `None` where the kernel does not say.
    pub fn count(
        &mut self,
        generation: GenerationId,
        slot: SlotId,
        quiet: Span,
        facts: &Facts<'_>,
    ) -> Counted {
        let effort = Effort::begin();
        self.list_handshakes(slot);
        let held = facts.held.iter().filter(|one| one.is_steered()).cloned().collect();
        let before = self.memory.silent.remove(&generation).unwrap_or_default();
        let mut counting = CountUnderWay {
            begun: effort.begun,
            before,
            ..CountUnderWay::new(generation, slot, quiet, facts)
        };
        let traffic = self.traffic(held, &mut counting).map_err(|error| {
            if !std::mem::replace(&mut self.memory.is_refusal_told, true) {
                Warn::SeeConnections.because(error);
            }
        });
        self.memory.silent.insert(generation, counting.silent);
        let is_stopped = facts.children.is_stopped(generation);
        Counted { traffic: traffic.ok(), is_stopped, cost: effort.cost() }
    }

    pub fn forget_traffic(&mut self, generation: GenerationId) {
        self.memory.silent.remove(&generation);
        self.silent.forget(generation);
    }

    /// The connections of one generation on all sockets.
    fn connections(&mut self, generation: GenerationId, slot: SlotId, facts: &Facts<'_>) -> Option<u64> {
        let mut counting = CountUnderWay::new(generation, slot, Span::INFINITY, facts);
        let traffic = self.traffic(facts.held.clone(), &mut counting).ok()?;
        Some(u64::from(traffic.in_flight) + u64::from(traffic.recent) + u64::from(traffic.idle))
    }

    /// From which of these sockets this generation has accepted connections that are open. Only who has the traffic does.
    pub(super) fn accepted(
        &mut self,
        generation: GenerationId,
        slot: SlotId,
        sockets: &[Rc<HeldSocket>],
        facts: &Facts<'_>,
    ) -> Vec<bool> {
        let is_asked = |socket: &HeldSocket| {
            let has_clients = !socket.is_steered() || slot == facts.target;
            has_clients && socket.kind.listens()
        };
        let tcp = sockets.iter().filter(|socket| is_asked(socket) && socket.kind == Kind::Tcp);
        let tcp: Vec<_> = tcp.filter_map(|socket| socket.local_address()).collect();
        if self.diag.learn_tcp(&tcp).is_err() {
            return vec![false; sockets.len()];
        }
        let mut counting = CountUnderWay::new(generation, slot, Span::INFINITY, facts);
        let mut has_accepted = |socket: &Rc<HeldSocket>| {
            let traffic = self.traffic(vec![Rc::clone(socket)], &mut counting);
            traffic.is_ok_and(|traffic| traffic.in_flight + traffic.recent + traffic.idle > 0)
        };
        sockets.iter().map(|socket| is_asked(socket) && has_accepted(socket)).collect()
    }

    /// What of a status takes asking the kernel.
    pub fn complete(&mut self, status: &mut Status, sockets: &[NamedSocket], facts: &Facts<'_>) {
        let slots = facts.children.slots();
        for of in &mut status.generations {
            let slot = slots.iter().find(|(generation, _)| generation.0 == of.generation);
            of.connections = slot.and_then(|(generation, slot)| self.connections(*generation, *slot, facts));
        }
        for (index, of) in status.sockets.iter_mut().enumerate() {
            let socket = sockets.get(index).map(|named| Rc::clone(&named.socket));
            let unix = socket.clone().filter(|one| has_unix_connections(one));
            if let Some((queue, limit)) = unix.and_then(|socket| self.unix_queue(&socket, facts.target)) {
                (of.queue, of.backlog) = (Some(queue), Some(limit));
            }
            let ours = socket.map_or(0, |socket| self.ours_in(&socket, None));
            of.queue = of.queue.map(|queue| queue.saturating_sub(ours));
        }
    }

    fn traffic(
        &mut self,
        sockets: Vec<Rc<HeldSocket>>,
        counting: &mut CountUnderWay<'_>,
    ) -> io::Result<Traffic> {
        let (unix, sockets): (Vec<_>, Vec<_>) =
            sockets.into_iter().partition(|socket| has_unix_connections(socket));
        let addresses: Vec<_> = sockets.iter().map(|socket| socket.local_address()).collect();
        let is_tcp = |socket: &HeldSocket| socket.kind == Kind::Tcp;
        let tcp = sockets.iter().zip(&addresses).filter(|(socket, _)| is_tcp(socket));
        self.diag.learn_tcp(&tcp.filter_map(|(_, at)| *at).collect::<Vec<_>>())?;
        let mut sum = if unix.is_empty() { Traffic::default() } else { self.unix_traffic(&unix, counting)? };
        for (socket, at) in sockets.iter().zip(addresses) {
            sum += match at.filter(|_| is_tcp(socket)) {
                Some(at) => self.tcp_traffic(socket, at, counting)?,
                None => Traffic { queued: socket.queued(counting.slot)?, ..Traffic::default() },
            };
        }
        // Connections of our own need no answer.
        for socket in unix.iter().chain(&sockets) {
            sum.queued = sum.queued.saturating_sub(self.ours_in(socket, Some(counting.slot)));
        }
        Ok(sum)
    }

    /// Attributes connections by label, or without labels by the fds of the generation's processes.
    fn tcp_traffic(
        &mut self,
        socket: &HeldSocket,
        at: SocketAddr,
        counting: &mut CountUnderWay<'_>,
    ) -> io::Result<Traffic> {
        let (slot, quiet) = (counting.slot, counting.quiet);
        let mut dump = self.diag.tcp(at)?;
        if counting.facts.speaks_tls(socket, at) {
            dump = dump.iter().map(InetSocket::after_handshake).collect();
        }
        let of_nobody = counting.facts.of_nobody(slot)?;
        // Another socket of ours may have the same port at another address.
        let is_meant = |one: &&InetSocket| one.is_at(at) && !of_nobody.contains(&one.inode);
        let sockets = || dump.iter().filter(is_meant);
        let none = Handshakes::default();
        let begun = self.memory.handshakes.get(&slot).unwrap_or(&none);
        // What is left of a connection, or not one yet, shows no label in any kernel.
        let is_whole =
            |one: &&InetSocket| matches!(one.state, SocketState::Established | SocketState::CloseWait);
        if socket.is_labelled() && sockets().filter(is_whole).all(|one| one.label.is_some()) {
            let is_ours = |one: &InetSocket| one.label == Some(slot.0);
            return Ok(diag::traffic(sockets(), is_ours, quiet, begun));
        }
        let inodes = counting.inodes()?;
        let is_ours = |one: &InetSocket| one.inode != 0 && inodes.contains(&one.inode);
        let traffic = diag::traffic(sockets(), is_ours, quiet, begun);
        Ok(Traffic { queued: socket.queued(slot)?, ..traffic })
    }

    /// Counts on all unix sockets at once, so that one look at the server's threads is enough.
    fn unix_traffic(
        &mut self,
        sockets: &[Rc<HeldSocket>],
        counting: &mut CountUnderWay<'_>,
    ) -> io::Result<Traffic> {
        let dump = self.diag.unix()?;
        let of_nobody = counting.facts.of_nobody(counting.slot)?;
        let (mut all, mut quiet, mut device) = (Vec::new(), Vec::new(), 0);
        for socket in sockets {
            // Connections carry the node or the abstract name of the listener that they came by, as the kernel sees it:
            // on some file systems stat(2) sees another node.
            let own = SocketInode::from(&fstat(socket.of(counting.slot))?);
            device = own.device;
            let place = dump.listener(own.number).and_then(|one| one.place.as_ref());
            let Some(place) = place else { continue };
            let at_place = dump.at(place);
            let ours: Vec<&UnixSocket> = if socket.is_steered() {
                at_place.filter(|one| !of_nobody.contains(&one.inode)).collect()
            } else {
                let inodes = counting.inodes()?;
                at_place
                    .filter(|one| inodes.contains(&one.inode) && !of_nobody.contains(&one.inode))
                    .collect()
            };
            quiet.extend(counting.quiet_for_long(&ours));
            all.extend(ours);
        }
        let idle = waited_for(counting.generation, &quiet, device, counting.facts.children);
        Ok(diag::unix_traffic(all, |one| idle.contains(&one.cookie)))
    }
}

/// Whether its connections are in the table of AF_UNIX.
fn has_unix_connections(socket: &HeldSocket) -> bool {
    socket.kind.is_unix() && socket.kind.listens()
}

/// Which of these connections a thread of the server does nothing but wait on. One that works on a request for long
/// leaves both queues empty as well; and who serves by epoll waits on those at work, too.
fn waited_for(
    generation: GenerationId,
    quiet: &[&UnixSocket],
    device: u64,
    children: &Children,
) -> HashSet<u64> {
    if quiet.is_empty() {
        return HashSet::new();
    }
    let inodes: Vec<SocketInode> =
        quiet.iter().map(|one| SocketInode { number: one.inode.into(), device }).collect();
    let pids = children.pids(generation).unwrap_or_default();
    let waited = waiters::look_for_readers(&pids, &inodes).waited;
    quiet.iter().zip(waited).filter(|(_, waited)| *waited).map(|(one, _)| one.cookie).collect()
}

/// Looking at the queues of listening sockets.
impl Questions {
    /// What waits on a listening unix socket, on all of its slots, and how much may: TCP says it of itself.
    pub fn unix_queue(&mut self, socket: &HeldSocket, target: SlotId) -> Option<(u32, u32)> {
        let own: BTreeSet<u64> = SlotId::all().filter_map(|slot| socket.inode(slot).ok()).collect();
        let target = socket.inode(target).ok()?;
        let listeners = self.diag.unix().ok()?;
        let limit = listeners.listener(target)?.wqueue;
        let own = own.into_iter().filter_map(|inode| listeners.listener(inode));
        Some((own.map(|one| one.rqueue).sum(), limit))
    }
}

/// Connections that the kernel dropped because a queue was full.
impl Questions {
    pub fn begin_overflows(&mut self, held: &[Rc<HeldSocket>]) {
        let drops = held.iter().flat_map(|socket| socket.drops()).collect();
        self.memory.lost = diag::listen_overflows().ok().map(|overflows| Lost { overflows, drops });
    }

    /// What a queue of ours lost is no more than what those of the host lost, nor than what ours dropped.
    pub fn overflows(&mut self, held: &[Rc<HeldSocket>]) -> Option<SocketNote> {
        let (before, now) = (self.memory.lost.take()?, diag::listen_overflows().ok()?);
        let (mut dropped, mut sockets) = (0, Vec::new());
        for socket in held {
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
        (count > 0).then(|| SocketNote::Overflowed { count, sockets: sockets.join(", ") })
    }
}
