//! Carries out the core's orders about slots: which of them the poll watches or guards, and which gets new
//! connections.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use mio::event::Event as Ready;
use mio::unix::SourceFd;
use mio::{Interest, Token};

use super::{ListenerContext, Listeners, set_of};
use crate::core::{Event, SlotId, SocketNote, Stage, StartFailure, Steering, limits};
use crate::os::outbox::Outbox;
use crate::os::socket::{self, HeldSocket, NamedSocket};
use crate::os::tokens::SOCKETS;
use crate::os::warning::Warn;

/// What the core wants of the slots, and what is registered with the poll.
#[derive(Debug)]
pub(super) struct SlotWatch {
    pub(super) steering: Steering,
    guarded: BTreeSet<SlotId>,
    /// The core wants `Connected` when a connection waits.
    is_watching: bool,
    /// UDP addresses for which the log has said that a swap moves their flows.
    pub(super) moved_flows: BTreeSet<String>,
    /// What is registered with the poll, each at the index that its token says.
    watched: Vec<Option<Watched>>,
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
pub struct WokenSocket {
    index: usize,
    has_hung_up: bool,
}

impl WokenSocket {
    pub fn new(event: &Ready) -> Self {
        Self { index: event.token().0 - SOCKETS, has_hung_up: event.is_read_closed() || event.is_error() }
    }
}

impl SlotWatch {
    pub(super) fn new() -> Self {
        Self {
            steering: Steering::all_to(SlotId(0)),
            guarded: BTreeSet::new(),
            is_watching: false,
            moved_flows: BTreeSet::new(),
            watched: Vec::new(),
        }
    }

    /// A listener is never writable, so WRITABLE means that only a hang-up is told, and no connection wakes us. (With
    /// PRIORITY epoll(7) would tell of none either, but each would wake us inside it.) Datagram sockets are writable.
    fn interest(&self, socket: &HeldSocket, slot: SlotId) -> Option<Interest> {
        if self.is_watched(socket, slot) || (socket.is_steered() && self.guarded.contains(&slot)) {
            Some(Interest::READABLE)
        } else {
            socket.kind.listens().then_some(Interest::WRITABLE)
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

/// The sockets that the poll watches.
impl Listeners {
    /// Makes the poll watch what is wanted now. Each fd is deregistered before it is closed.
    pub fn arm(&mut self) {
        let wanted = self.slots.wanted(&self.held());
        let mut interests: HashMap<_, _> =
            wanted.iter().map(|one| (Rc::as_ptr(&one.fd), (one.slot, one.interest))).collect();
        let mut free = Vec::new();
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
                        self.registry.reregister(source, Token(SOCKETS + index), interest)
                    } else {
                        Ok(())
                    }
                }
                None => {
                    let result = self.registry.deregister(source);
                    *place = None;
                    free.push(index);
                    result
                }
            };
            warn(result);
        }
        for new in wanted.into_iter().filter(|one| interests.contains_key(&Rc::as_ptr(&one.fd))) {
            let index = free.pop().unwrap_or(self.slots.watched.len());
            let result = self.registry.register(
                &mut SourceFd(&new.fd.as_raw_fd()),
                Token(SOCKETS + index),
                new.interest,
            );
            warn(result);
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
                let result = self.registry.reregister(&mut SourceFd(&fd), token, watched.interest);
                warn(result);
            }
        }
    }

    pub fn watch(&mut self, on: bool) {
        if self.slots.is_watching != on {
            self.slots.is_watching = on;
            self.arm();
        }
    }

    pub fn guard(&mut self, slot: SlotId, on: bool) {
        if on {
            self.slots.guarded.insert(slot);
        } else {
            self.slots.guarded.remove(&slot);
        }
        self.arm();
    }

    pub fn on_socket(&mut self, woken: WokenSocket, cx: &mut ListenerContext<'_>) {
        let Some(Some(watched)) = self.slots.watched.get(woken.index).cloned() else { return };
        let Watched { socket, slot, .. } = watched;
        if woken.has_hung_up {
            self.mend(&socket, slot, cx);
        }
        let waits = socket.queued(slot).is_ok_and(|queued| queued > 0);
        if waits && self.slots.is_watched(&socket, slot) {
            self.watch(false);
            cx.outbox.push(Event::Connected);
        } else if waits && self.slots.guarded.contains(&slot) {
            cx.outbox.push(Event::Arrived { slot });
        }
    }
}

/// Which slot gets new connections.
impl Listeners {
    pub fn steer(&mut self, steering: Steering, cx: &mut ListenerContext<'_>) {
        let old = std::mem::replace(&mut self.slots.steering, steering).slot;
        // What is counted from now on shall not be what was there before.
        cx.questions.diag.forget();
        // This comes before our slots rejoin their groups, behind sockets of other processes.
        self.look_for_strangers(cx);
        // What only one of the two generations of a swap has stays with it.
        let mut common = self.held();
        if let Some(staged) = &self.staged {
            let (now, then) = (set_of(&self.current), set_of(staged));
            common.retain(|one| now.contains(&Rc::as_ptr(one)) && then.contains(&Rc::as_ptr(one)));
        }
        let mut failed = Vec::new();
        for socket in common {
            if old != steering.slot && socket.kind.has_datagrams() && socket.is_steered() {
                self.tell_flows_move(&socket.address, cx.outbox);
            }
            match socket.steer(&steering) {
                // Its path leads to supervise again.
                Ok(()) => self.paths.lead_to_us(&socket.address),
                Err(error) => failed.push(format!("{}: {error}", socket.address)),
            }
        }
        if !failed.is_empty() {
            cx.outbox.push(Event::SteerFailed { why: failed.join(", ") });
        }
        if old != steering.slot {
            cx.questions.remember_handshakes(old, &self.held());
        }
        self.arm();
    }

    /// The group of a UDP socket picks by datagram: the kernel keeps no flows that could stay with the old generation.
    fn tell_flows_move(&mut self, address: &str, outbox: &mut Outbox) {
        if self.slots.moved_flows.insert(address.to_owned()) {
            outbox.tell(SocketNote::FlowsMove { socket: address.to_owned() });
        }
    }

    /// The sockets of a slot for a generation that starts: O_NONBLOCK is as the files say only now, for it belongs to the
    /// open file and would change under the hands of a server.
    pub fn ready_slot(
        &mut self,
        slot: SlotId,
        non_blocking: bool,
        cx: &mut ListenerContext<'_>,
    ) -> Result<(), StartFailure> {
        let ready = self.ready_sockets(slot, non_blocking, cx);
        if ready.is_err() {
            // Those after the one that failed have to be mended without a start.
            self.expect_damage();
        }
        ready
    }

    fn ready_sockets(
        &mut self,
        slot: SlotId,
        non_blocking: bool,
        cx: &mut ListenerContext<'_>,
    ) -> Result<(), StartFailure> {
        self.end_relays(slot);
        cx.questions.forget_withdrawn(slot);
        let has_shared_with_nobody = cx.children.has_no_main();
        let known = set_of(&self.current);
        let slots = cx.children.slots();
        let used: Vec<_> = slots.iter().map(|(_, used)| *used).chain([slot]).collect();
        self.mend_all_but(slot, cx);
        // A socket of datagrams gets some as soon as it is in its group, and one that was staged joins one anew.
        let may_join = |socket: &NamedSocket| socket.kind.has_datagrams();
        if self.staged.is_some() || self.strangers.is_any_known() || self.next().iter().any(may_join) {
            self.look_for_unseen_strangers(cx);
        }
        for index in 0..self.next().len() {
            let socket = Rc::clone(&self.next()[index].socket);
            let failed = |error: io::Error| StartFailure {
                stage: Stage::Resources,
                errno: error.raw_os_error().unwrap_or(0),
                what: format!("cannot get a socket of {} ready: {error}", socket.address),
            };
            let fd = match socket.ready_in_place(slot).map_err(failed)? {
                Some(fd) => fd,
                None => {
                    self.look_for_unseen_strangers(cx);
                    socket.ready_slot(slot).map_err(failed)?
                }
            };
            if let Err(error) = socket.keep_heir(&used) {
                log::debug!(
                    "{}: cannot make a spare socket for a server that connects its own: {error}",
                    socket.address
                );
            }
            let is_new = !known.contains(&Rc::as_ptr(&socket));
            if is_new {
                // No server has this socket yet.
                socket.steer(&Steering::all_to(slot)).map_err(failed)?;
            }
            if socket.is_steered() || is_new || has_shared_with_nobody {
                socket::set_non_blocking(&fd, non_blocking).map_err(failed)?;
            }
        }
        Ok(())
    }
}

fn warn(result: io::Result<()>) {
    if let Err(error) = result {
        Warn::WatchSocket.because(error);
    }
}
