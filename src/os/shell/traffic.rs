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
use crate::config::{Kind, Span};
use crate::core::report::Status;
use crate::core::{Counted, Event, GenerationId, SlotId, SocketNote, Steering, Taking, Traffic};
use crate::os::diag::{self, Diag, Handshakes, InetSocket, State, UnixSocket};
use crate::os::socket::HeldSocket;
use crate::os::waiters::{self, Inode};

/// Connections of one unix socket that may count as idle.
const UNIX_CONNECTIONS: usize = 4096;

/// What was asked and is remembered.
#[derive(Debug, Default)]
pub(super) struct Questions {
    pub(super) diag: Diag,
    /// Half-open connections at the moment their slot lost the traffic.
    handshakes: BTreeMap<SlotId, Handshakes>,
    /// Of each generation that was counted.
    seen: BTreeMap<GenerationId, Seen>,
    /// That the kernel does not answer was told.
    is_refusal_told: bool,
    /// ListenOverflows when the files were read last.
    overflows: Option<u64>,
    /// How many connections had come to this host when the slot with the traffic got its first, and how many of these
    /// waited there. None: not known, or some go elsewhere.
    came_before: Option<(u64, u64)>,
    /// Other people's sockets in our groups, by ours.
    pub(super) strangers: Vec<(Rc<HeldSocket>, Vec<u64>)>,
}

/// What a generation had when it was counted last, each by its cookie.
#[derive(Debug, Default)]
struct Seen {
    /// Connections that nobody had accepted.
    waiting: HashSet<u64>,
    /// On AF_UNIX: since when nothing was seen in either queue of a connection.
    silent: HashMap<u64, Instant>,
    /// Not one of its processes ran.
    is_all_stopped: bool,
    /// Not all who waited are known.
    is_partial: bool,
}

/// One count.
struct Counting {
    generation: GenerationId,
    slot: SlotId,
    quiet: Span,
    begun: Instant,
    before: Seen,
    seen: Seen,
}

impl Counting {
    /// The connections of one socket.
    fn see<'a>(&mut self, connections: impl Iterator<Item = &'a InetSocket>) {
        for one in connections {
            if one.inode == 0 {
                self.seen.waiting.insert(one.cookie);
            }
        }
    }

    /// Those of these unix connections that have been silent for all of DrainQuiet=, as far as anybody has looked.
    fn quiet_for_long<'a>(&mut self, sockets: &[&'a UnixSocket]) -> Vec<&'a UnixSocket> {
        let mut found = Vec::new();
        for socket in sockets.iter().filter(|one| one.is_silent()).take(UNIX_CONNECTIONS) {
            let since = *self.before.silent.get(&socket.cookie).unwrap_or(&self.begun);
            self.seen.silent.insert(socket.cookie, since);
            if self.begun.duration_since(since).as_nanos() >= u128::from(self.quiet.as_nanos()) {
                found.push(*socket);
            }
        }
        found
    }

    /// Who waits is shown for TCP alone; elsewhere it takes that there is nobody who could accept. `have_come`: how many
    /// connections have come to this host since the slot got its first. Where so many wait, none was accepted. Others on
    /// this host that accept some make it too many, and then nobody is blamed.
    fn taking(&self, waits: bool, have_come: impl Fn() -> Option<u64>) -> Taking {
        let (before, now) = (&self.before, &self.seen);
        let is_untouched = !before.waiting.is_empty() && before.waiting.is_subset(&now.waiting);
        let all_wait = || have_come().is_some_and(|count| now.waiting.len() as u64 >= count);
        if before.is_all_stopped && now.is_all_stopped && waits {
            Taking::Stopped
        } else if is_untouched && !now.is_partial && all_wait() {
            Taking::Nothing
        } else {
            Taking::Something
        }
    }
}

/// The CPU time of this thread: what a look costs is the difference. On a busy machine, or when we are stopped by a signal,
/// a look takes longer, and costs no more.
pub(super) fn cpu_time() -> Span {
    let time = ClockId::CLOCK_THREAD_CPUTIME_ID.now().expect("Linux has this clock");
    Span::from_nanos(u64::try_from(Duration::from(time).as_nanos()).unwrap_or(u64::MAX))
}

pub(super) fn cost_since(begun: Span) -> Span {
    Span::from_nanos(cpu_time().as_nanos().saturating_sub(begun.as_nanos()))
}

impl Questions {
    fn have_come(&self) -> Option<u64> {
        let (before, waited) = self.came_before?;
        Some(diag::passive_opens().ok()?.saturating_sub(before) + waited)
    }

    /// The server's side of a connection to `at`: its state, and its inode, which is 0 as long as it is not accepted.
    /// None: there is none.
    pub(super) fn other_side(
        &mut self,
        at: SocketAddr,
        from: SocketAddr,
    ) -> io::Result<Option<(State, u32)>> {
        let sockets = self.diag.tcp(at)?;
        let is_it = |one: &&InetSocket| one.is_at(at) && one.remote == from;
        Ok(sockets.iter().find(is_it).map(|one| (one.state, one.inode)))
    }
}

/// Connections.
impl Shell {
    pub(super) fn remember_handshakes(&mut self, slot: SlotId) {
        let mut begun = Handshakes::default();
        for socket in self.held().iter().filter(|socket| socket.is_steered() && socket.kind == Kind::Tcp) {
            let Some(at) = socket.local_address() else { continue };
            match self.questions.diag.handshakes(at) {
                Ok(sockets) => begun.extend(diag::handshakes(&sockets)),
                Err(error) => log::debug!("cannot look for handshakes of {}: {error}", socket.address),
            }
        }
        self.questions.handshakes.insert(slot, begun);
    }

    /// The traffic is about to go where it did not go before.
    pub(super) fn remember_who_came(&mut self, before: Steering) {
        let Steering { slot, canary } = self.slots.steering;
        let has_had_some = before.slot == slot || before.canary.is_some_and(|(other, _)| other == slot);
        // What only the new generation has is its own from the start.
        let has_others =
            self.staged.as_ref().is_some_and(|staged| staged.sockets.iter().any(|one| self.lacks(one)));
        self.questions.came_before = None;
        if canary.is_some() || has_had_some || has_others {
            return;
        }
        // Whoever comes from here on may be accepted there; who still goes to the old one makes it too many.
        let Ok(count) = diag::passive_opens() else { return };
        let queued = self.held().iter().map(|socket| u64::from(socket.queued(slot).unwrap_or(0))).sum();
        self.questions.came_before = Some((count, queued));
    }

    /// The connections of one generation on the sockets that are steered. None: the kernel does not say.
    pub(super) fn count(&mut self, generation: GenerationId, slot: SlotId, quiet: Span) {
        let (begun, cpu) = (Instant::now(), cpu_time());
        let (held, others): (Vec<_>, Vec<_>) = self.held().into_iter().partition(|one| one.is_steered());
        let before = self.questions.seen.remove(&generation).unwrap_or_default();
        let mut counting = Counting { generation, slot, quiet, begun, before, seen: Seen::default() };
        // What it does for those is not looked at.
        counting.seen.is_partial = !others.is_empty();
        let traffic = self.traffic(held, &mut counting).map_err(|error| {
            if !std::mem::replace(&mut self.questions.is_refusal_told, true) {
                log::warn!(
                    "cannot see which connections there are: {error}; an old generation gets all of Drain="
                );
            }
        });
        // The main process first: to find all of them takes reading all of /proc.
        let is_stopped = self.children.is_stopped(generation);
        counting.seen.is_all_stopped = is_stopped && self.children.is_all_stopped(generation);
        counting.seen.is_partial |= traffic.is_err();
        let waits = traffic.is_ok_and(|traffic| traffic.queued > 0);
        // After the dump: who comes between the two makes it too many.
        let taking = counting
            .taking(waits, || self.questions.have_come().filter(|_| slot == self.slots.steering.slot));
        self.questions.seen.insert(generation, counting.seen);
        let counted = Counted { traffic: traffic.ok(), taking, cost: cost_since(cpu) };
        self.queue.push_back(Event::Counted { generation, counted });
    }

    pub(super) fn forget_traffic(&mut self, generation: GenerationId) {
        self.questions.seen.remove(&generation);
    }

    /// The connections of one generation on all sockets.
    fn connections(&mut self, generation: GenerationId, slot: SlotId) -> Option<u64> {
        let (quiet, begun) = (Span::INFINITY, Instant::now());
        let (before, seen) = (Seen::default(), Seen::default());
        let mut counting = Counting { generation, slot, quiet, begun, before, seen };
        let traffic = self.traffic(self.held(), &mut counting).ok()?;
        Some(u64::from(traffic.in_flight) + u64::from(traffic.recent) + u64::from(traffic.idle))
    }

    /// What of a status takes asking the kernel.
    pub(super) fn complete_traffic(&mut self, status: &mut Status) {
        let slots = self.children.slots();
        for of in &mut status.generations {
            let slot = slots.iter().find(|(generation, _)| generation.0 == of.generation);
            of.connections = slot.and_then(|(generation, slot)| self.connections(*generation, *slot));
        }
        for (index, of) in status.sockets.iter_mut().enumerate() {
            let socket = self.sockets.get(index).map(|named| Rc::clone(&named.socket));
            let unix = socket.filter(|one| matches!(one.kind, Kind::Unix | Kind::SeqPacket));
            if let Some((queue, limit)) = unix.and_then(|socket| self.unix_queue(&socket)) {
                (of.queue, of.backlog) = (Some(queue), Some(limit));
            }
        }
    }

    fn traffic(&mut self, sockets: Vec<Rc<HeldSocket>>, counting: &mut Counting) -> io::Result<Traffic> {
        let mut sum = Traffic::default();
        for socket in sockets {
            sum += match (socket.kind, socket.local_address()) {
                (Kind::Tcp, Some(at)) => self.tcp_traffic(&socket, at, counting)?,
                (Kind::Unix, _) => self.unix_traffic(&socket, counting)?,
                _ => {
                    counting.seen.is_partial = true;
                    Traffic { queued: socket.queued(counting.slot)?, ..Traffic::default() }
                }
            };
        }
        Ok(sum)
    }

    /// By label; where there are none, by what the processes of the generation have open.
    fn tcp_traffic(
        &mut self,
        socket: &HeldSocket,
        at: SocketAddr,
        counting: &mut Counting,
    ) -> io::Result<Traffic> {
        let (slot, quiet) = (counting.slot, counting.quiet);
        let dump = self.questions.diag.tcp(at)?;
        let relayed = self.relayed(slot)?;
        // Another socket of ours may have the same port at another address.
        let is_meant = |one: &&InetSocket| one.is_at(at) && !relayed.contains(&one.inode);
        let sockets = || dump.iter().filter(is_meant);
        let none = Handshakes::default();
        let begun = self.questions.handshakes.get(&slot).unwrap_or(&none);
        // What is left of a connection, or not one yet, shows no label in any kernel.
        let is_whole = |one: &&InetSocket| matches!(one.state, State::Established | State::CloseWait);
        if socket.is_labelled() && sockets().filter(is_whole).all(|one| one.label.is_some()) {
            let is_ours = |one: &InetSocket| one.label == Some(slot.0);
            counting.see(sockets().filter(is_whole).filter(|one| is_ours(one)));
            return Ok(diag::traffic(sockets(), is_ours, quiet, begun));
        }
        counting.seen.is_partial = true;
        let inodes = diag::inodes_of(&self.children.pids(counting.generation)?)?;
        let is_ours = |one: &InetSocket| one.inode != 0 && inodes.contains(&one.inode);
        let traffic = diag::traffic(sockets(), is_ours, quiet, begun);
        Ok(Traffic { queued: socket.queued(slot)?, ..traffic })
    }

    fn unix_traffic(&mut self, socket: &HeldSocket, counting: &mut Counting) -> io::Result<Traffic> {
        counting.seen.is_partial = true;
        let dump = self.questions.diag.unix()?;
        // Connections carry the node of the listener that they came by, as the kernel sees it: on some file systems
        // stat(2) sees another.
        let own = Inode::from(&fstat(socket.of(counting.slot))?);
        let listener = dump.iter().find(|one| u64::from(one.inode) == own.number);
        let Some(node) = listener.and_then(|one| one.node) else { return Ok(Traffic::default()) };
        let at_node = dump.iter().filter(|one| one.node == Some(node));
        let ours: Vec<&UnixSocket> = if socket.is_steered() {
            let relayed = self.relayed(counting.slot)?;
            at_node.filter(|one| !relayed.contains(&one.inode)).collect()
        } else {
            let inodes = diag::inodes_of(&self.children.pids(counting.generation)?)?;
            at_node.filter(|one| inodes.contains(&one.inode)).collect()
        };
        let quiet = counting.quiet_for_long(&ours);
        let idle = self.waited_for(counting.generation, &quiet, own.device);
        Ok(diag::unix_traffic(ours, |one| idle.contains(&one.cookie)))
    }

    /// Which of these connections a thread of the server does nothing but wait on. One that works on a request for long
    /// leaves both queues empty as well; and who serves by epoll waits on those at work, too.
    fn waited_for(&self, generation: GenerationId, quiet: &[&UnixSocket], device: u64) -> HashSet<u64> {
        if quiet.is_empty() {
            return HashSet::new();
        }
        let inodes: Vec<Inode> = quiet.iter().map(|one| Inode { number: one.inode.into(), device }).collect();
        let pids = self.children.pids(generation).unwrap_or_default();
        let waited = waiters::look_for_readers(&pids, &inodes).waited;
        quiet.iter().zip(waited).filter(|(_, waited)| *waited).map(|(one, _)| one.cookie).collect()
    }
}

/// Queues.
impl Shell {
    /// What waits on a listening unix socket, on all of its slots, and how much may: TCP says it of itself.
    pub(super) fn unix_queue(&mut self, socket: &HeldSocket) -> Option<(u32, u32)> {
        let own: BTreeSet<u64> = SlotId::all().filter_map(|slot| socket.inode(slot).ok()).collect();
        let target = socket.inode(self.slots.steering.slot).ok()?;
        let listeners = self.questions.diag.unix().ok()?;
        let ours = |one: &&UnixSocket| one.state == State::Listen && own.contains(&one.inode.into());
        let limit = listeners.iter().filter(ours).find(|one| u64::from(one.inode) == target)?.wqueue;
        Some((listeners.iter().filter(ours).map(|one| one.rqueue).sum(), limit))
    }
}

/// What was lost.
impl Shell {
    pub(super) fn begin_overflows(&mut self) {
        self.questions.overflows = diag::listen_overflows().ok();
    }

    pub(super) fn tell_overflows(&mut self) {
        let (Some(before), Ok(now)) = (self.questions.overflows.take(), diag::listen_overflows()) else {
            return;
        };
        let count = now.saturating_sub(before);
        if count > 0 {
            self.tell(&SocketNote::Overflowed { count }.into());
        }
    }
}
