//! The slots of the held sockets: which are watched for what, who gets the traffic, and what servers did to them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use mio::event::Event as Ready;
use mio::unix::SourceFd;
use mio::{Interest, Token};

use super::Shell;
use crate::config::Kind;
use crate::core::{Damage, Event, GenerationId, SlotId, SocketNote, Stage, StartFailure, Steering, limits};
use crate::os::socket::{self, HeldSocket, NamedSocket};
use crate::os::tokens::SOCKETS;

/// What is wanted of the slots, and what the poll was told.
#[derive(Debug)]
pub(super) struct SlotWatch {
    pub(super) steering: Steering,
    pub(super) guarded: BTreeSet<SlotId>,
    /// The core wants `Connected` when a connection waits.
    pub(super) is_watching: bool,
    /// Addresses whose rescue failed, which was told.
    pub(super) unrescued: BTreeSet<String>,
    /// Those that cannot be listened on again, and those whose path cannot be put back, were told.
    unlistened: BTreeSet<String>,
    pub(super) lost_paths: BTreeSet<String>,
    /// UDP addresses that a generation under InterceptBind= has connected: one that binds them again within the time of
    /// one rescue gets a new socket.
    pub(super) to_be_bound: BTreeSet<(GenerationId, String)>,
    /// Of these it was told that a server that connects them gets no further socket.
    pub(super) unrenewed: BTreeSet<String>,
    /// UDP addresses of which it was told that a swap moves their flows.
    moved_flows: BTreeSet<String>,
    /// What living generations did to a socket, and how often each did so again.
    damages: Vec<(Damaged, u32)>,
    /// What was told that a program did to a socket. Many a server does the same at the end of each generation; as no
    /// connection is lost then, it is told once.
    told: HashSet<(Vec<String>, String, Damage)>,
    /// What is registered with the poll, each at the index that its token says.
    watched: Vec<Option<Watched>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Damaged {
    pub(super) socket: String,
    pub(super) generation: Option<GenerationId>,
    pub(super) damage: Damage,
}

#[derive(Clone, Debug)]
struct Watched {
    socket: Rc<HeldSocket>,
    slot: SlotId,
    fd: Rc<OwnedFd>,
    interest: Interest,
}

/// A socket that poll has something to say of.
#[derive(Clone, Copy, Debug)]
pub(super) struct WokenSocket {
    index: usize,
    has_hung_up: bool,
}

impl WokenSocket {
    pub(super) fn new(event: &Ready) -> Self {
        Self { index: event.token().0 - SOCKETS, has_hung_up: event.is_read_closed() || event.is_error() }
    }
}

impl SlotWatch {
    pub(super) fn new() -> Self {
        Self {
            steering: Steering::all_to(SlotId(0)),
            guarded: BTreeSet::new(),
            is_watching: false,
            unrescued: BTreeSet::new(),
            unlistened: BTreeSet::new(),
            lost_paths: BTreeSet::new(),
            to_be_bound: BTreeSet::new(),
            unrenewed: BTreeSet::new(),
            moved_flows: BTreeSet::new(),
            damages: Vec::new(),
            told: HashSet::new(),
            watched: Vec::new(),
        }
    }

    /// A listener is never writable, so WRITABLE means that only a hang-up is told, and no connection wakes us. (With
    /// PRIORITY epoll(7) would tell of none either, but each would wake us inside it.) Datagram sockets are writable.
    fn interest(&self, socket: &HeldSocket, slot: SlotId) -> Option<Interest> {
        if self.is_watched(socket, slot) || (socket.is_steered() && self.guarded.contains(&slot)) {
            Some(Interest::READABLE)
        } else {
            matches!(socket.kind, Kind::Tcp | Kind::Unix | Kind::SeqPacket).then_some(Interest::WRITABLE)
        }
    }

    fn is_watched(&self, socket: &HeldSocket, slot: SlotId) -> bool {
        self.is_watching && (!socket.is_steered() || slot == self.steering.slot)
    }

    fn wanted(&self, sockets: &[Rc<HeldSocket>]) -> Vec<Watched> {
        let mut wanted = Vec::new();
        for socket in sockets {
            let count = if socket.is_steered() { limits::GENERATIONS } else { 1 };
            for slot in SlotId::all().take(count) {
                if let Some(fd) = socket.slot(slot)
                    && let Some(interest) = self.interest(socket, slot)
                {
                    wanted.push(Watched { socket: Rc::clone(socket), slot, fd, interest });
                }
            }
        }
        wanted
    }
}

/// What the poll watches.
impl Shell {
    /// Makes the poll watch what is wanted now. epoll is told of each that goes before it is closed.
    pub(super) fn arm(&mut self) {
        self.forget_unheld();
        let wanted = self.slots.wanted(&self.listeners.held());
        let mut interests: HashMap<_, _> =
            wanted.iter().map(|one| (Rc::as_ptr(&one.fd), (one.slot, one.interest))).collect();
        let mut free = Vec::new();
        let registry = self.poll.registry();
        for (index, place) in self.slots.watched.iter_mut().enumerate() {
            let Some(watched) = place else {
                free.push(index);
                continue;
            };
            let fd = watched.fd.as_raw_fd();
            let source = &mut SourceFd(&fd);
            let result = match interests.remove(&Rc::as_ptr(&watched.fd)) {
                Some((slot, interest)) => {
                    watched.slot = slot;
                    let has_changed = std::mem::replace(&mut watched.interest, interest) != interest;
                    if has_changed {
                        registry.reregister(source, Token(SOCKETS + index), interest)
                    } else {
                        Ok(())
                    }
                }
                None => {
                    let result = registry.deregister(source);
                    *place = None;
                    free.push(index);
                    result
                }
            };
            warn(&result, "watch a socket otherwise");
        }
        for new in wanted.into_iter().filter(|one| interests.contains_key(&Rc::as_ptr(&one.fd))) {
            let index = free.pop().unwrap_or(self.slots.watched.len());
            let result =
                registry.register(&mut SourceFd(&new.fd.as_raw_fd()), Token(SOCKETS + index), new.interest);
            warn(&result, "watch a socket");
            if index == self.slots.watched.len() {
                self.slots.watched.push(None);
            }
            self.slots.watched[index] = Some(new);
        }
        self.watch_paths();
    }

    /// Has the poll say again what it said already: it tells a change once.
    pub(super) fn rearm(&self, socket: &Rc<HeldSocket>, slot: SlotId) {
        for (index, watched) in self.slots.watched.iter().enumerate() {
            if let Some(watched) = watched
                && watched.slot == slot
                && Rc::ptr_eq(&watched.socket, socket)
            {
                let fd = watched.fd.as_raw_fd();
                let token = Token(SOCKETS + index);
                let result = self.poll.registry().reregister(&mut SourceFd(&fd), token, watched.interest);
                warn(&result, "watch a socket again");
            }
        }
    }

    pub(super) fn watch(&mut self, on: bool) {
        if self.slots.is_watching != on {
            self.slots.is_watching = on;
            self.arm();
        }
    }

    pub(super) fn guard(&mut self, slot: SlotId, on: bool) {
        if on {
            self.slots.guarded.insert(slot);
        } else {
            self.slots.guarded.remove(&slot);
        }
        self.arm();
    }

    pub(super) fn on_socket(&mut self, woken: WokenSocket) {
        let Some(Some(watched)) = self.slots.watched.get(woken.index).cloned() else { return };
        let Watched { socket, slot, .. } = watched;
        if woken.has_hung_up {
            self.mend(&socket, slot);
        }
        let waits = socket.queued(slot).is_ok_and(|queued| queued > 0);
        if waits && self.slots.is_watched(&socket, slot) {
            self.watch(false);
            self.outbox.push(Event::Connected);
        } else if waits && self.slots.guarded.contains(&slot) {
            self.outbox.push(Event::Arrived { slot });
        }
        self.dispatch();
    }
}

/// Who gets the traffic.
impl Shell {
    pub(super) fn steer(&mut self, steering: Steering) {
        let old = std::mem::replace(&mut self.slots.steering, steering).slot;
        // What is counted from now on shall not be what was there before.
        self.questions.diag.forget();
        // Before slots of ours come back to their groups, behind whoever is there.
        self.look_for_strangers();
        // What only one of the two generations of a swap has stays with it.
        let mut common = self.listeners.held();
        if let Some(staged) = &self.listeners.staged {
            let (now, then) = (set_of(&self.listeners.current), set_of(staged));
            common.retain(|one| now.contains(&Rc::as_ptr(one)) && then.contains(&Rc::as_ptr(one)));
        }
        let mut failed = Vec::new();
        for socket in common {
            if old != steering.slot && socket.kind == Kind::Udp && socket.is_steered() {
                self.tell_flows_move(&socket.address);
            }
            match socket.steer(&steering) {
                // Its path leads to us.
                Ok(()) => drop(self.taken.remove(&socket.address)),
                Err(error) => failed.push(format!("{}: {error}", socket.address)),
            }
        }
        if !failed.is_empty() {
            self.outbox.push(Event::SteerFailed { why: failed.join(", ") });
        }
        if old != steering.slot {
            self.remember_handshakes(old);
        }
        self.arm();
    }

    /// The group of a UDP socket picks by datagram: the kernel keeps no flows that could stay with the old generation.
    fn tell_flows_move(&mut self, address: &str) {
        if self.slots.moved_flows.insert(address.to_owned()) {
            self.outbox.tell(SocketNote::FlowsMove { socket: address.to_owned() });
        }
    }

    /// The sockets of a slot for a generation that starts: O_NONBLOCK is as the files say only now, for it belongs to the
    /// open file and would change under the hands of a server.
    pub(super) fn ready_slot(&mut self, slot: SlotId) -> Result<(), StartFailure> {
        self.end_relays(slot);
        self.forget_withdrawn(slot);
        // Before anything of ours ran, nobody can be a stranger.
        if self.state.is_announced {
            self.look_for_strangers();
        }
        let non_blocking = self.configuration.next().launcher.non_blocking();
        let has_shared_with_nobody = self.children.has_no_main();
        let known = set_of(&self.listeners.current);
        let slots = self.children.slots();
        let used: Vec<_> = slots.iter().map(|(_, used)| *used).chain([slot]).collect();
        for socket in self.listeners.next() {
            let failed = |error: io::Error| StartFailure {
                stage: Stage::Resources,
                errno: error.raw_os_error().unwrap_or(0),
                what: format!("cannot get a socket of {} ready: {error}", socket.address),
            };
            let fd = socket.ready_slot(slot).map_err(failed)?;
            if let Err(error) = socket.keep_heir(&used) {
                log::debug!("{}: no spare socket for a server that connects it: {error}", socket.address);
            }
            let is_new = !known.contains(&Rc::as_ptr(&socket.socket));
            if is_new {
                // Nobody else has it.
                socket.steer(&Steering::all_to(slot)).map_err(failed)?;
            }
            if socket.is_steered() || is_new || has_shared_with_nobody {
                socket::set_non_blocking(&fd, non_blocking).map_err(failed)?;
            }
        }
        Ok(())
    }
}

/// What servers do to the sockets, and must not.
impl Shell {
    /// At each exit: shutdown(2) and a small listen(2) are undone. The queue of a socket that nobody runs on is as
    /// long as it was asked for.
    pub(super) fn mend_sockets(&mut self) {
        for socket in self.listeners.held() {
            self.listen_again(&socket);
        }
        // Where what is there could not be watched.
        if !self.taken.is_empty() {
            self.check_paths();
        }
    }

    fn mend(&mut self, socket: &Rc<HeldSocket>, slot: SlotId) {
        // Of a unix socket that is replaced; its queue is reset when the last one closes it.
        let old = socket.slot(slot);
        match socket.mend(slot) {
            Ok(false) => {}
            Ok(true) => {
                self.end_relays_of(socket, slot);
                let is_new =
                    old.is_some_and(|old| socket.slot(slot).is_some_and(|new| !Rc::ptr_eq(&old, &new)));
                let damage = if is_new { Damage::Ended } else { Damage::Shutdown };
                let generation = self.children.on_slot(slot);
                let socket = socket.address.clone();
                self.tell_damage(Damaged { socket: socket.clone(), generation, damage });
                if is_new {
                    self.outbox.push(Event::SocketLost { slot, socket });
                }
                self.arm();
            }
            Err(error) => log::warn!("{} was shut down and cannot be mended: {error}", socket.address),
        }
    }

    /// True: it listens with the queue that was asked for. That it does not is told once.
    pub(super) fn listen_again(&mut self, socket: &HeldSocket) -> bool {
        let result = socket.refresh();
        let Err(error) = &result else {
            self.slots.unlistened.remove(&socket.address);
            return true;
        };
        if self.slots.unlistened.insert(socket.address.clone()) {
            log::warn!(
                "cannot listen on {} again: {error} (its queue may be short; \"supervise restart\" gives the server new sockets)",
                socket.address
            );
        }
        false
    }

    /// The first time; neither a server that does it in a loop nor one that does it at each of its ends fills the log. What
    /// costs a generation its socket is told of each.
    pub(super) fn tell_damage(&mut self, done: Damaged) {
        if let Some((_, again)) = self.slots.damages.iter_mut().find(|(told, _)| *told == done) {
            *again = again.saturating_add(1);
            return;
        }
        let Damaged { socket, generation, damage } = done.clone();
        self.slots.damages.push((done, 0));
        let launcher = generation.and_then(|generation| self.children.launcher(generation));
        let program = launcher.unwrap_or(&self.configuration.current.launcher).words();
        let is_mended = matches!(damage, Damage::Shutdown | Damage::Unlinked | Damage::Shortened);
        let is_new = self.slots.told.insert((program, socket.clone(), damage));
        if is_new || !is_mended {
            self.outbox.tell(SocketNote::Mended { socket, generation, damage });
        }
    }

    /// How often it did so again, if that is many times, and what was done by nobody knows whom meanwhile.
    pub(super) fn tell_damages(&mut self, ended: GenerationId) {
        let is_over = |(told, _): &mut (Damaged, u32)| told.generation.is_none_or(|id| id == ended);
        let over: Vec<_> = self.slots.damages.extract_if(.., is_over).collect();
        for (Damaged { socket, generation, .. }, again) in over {
            if again > 1 {
                self.outbox.tell(SocketNote::MendedAgain { socket, generation, again });
            }
        }
    }
}

/// To look many up; their addresses in memory are theirs for as long as they are held.
pub(super) fn set_of(list: &[NamedSocket]) -> HashSet<*const HeldSocket> {
    list.iter().map(|named| Rc::as_ptr(&named.socket)).collect()
}

fn warn(result: &io::Result<()>, what: &str) {
    if let Err(error) = result {
        log::warn!("cannot {what}: {error}");
    }
}
