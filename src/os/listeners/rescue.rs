//! Moves the connections that wait in a slot without a server to the slot with the traffic: by the kernel, or by a
//! relay.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal as NixSignal, kill};
use nix::unistd::Pid;

use super::{ListenerContext, Listeners};
use crate::config::Kind;
use crate::core::limits::GENERATIONS;
use crate::core::note::Damage;
use crate::core::{Event, GenerationId, SlotId, SocketNote};
use crate::os::children::Children;
use crate::os::relay::{self, Relay};
use crate::os::socket::HeldSocket;
use crate::os::warning::{Told, Warn};

/// The running relays.
#[derive(Debug, Default)]
pub(super) struct Relays {
    pub(super) passing: Vec<Passing>,
    /// Addresses whose rescue failed, as far as that was logged.
    pub(super) unrescued: BTreeSet<String>,
}

impl Relays {
    pub(super) fn pids(&self) -> Vec<(SlotId, Pid)> {
        self.passing.iter().map(|passing| (passing.slot, Pid::from_raw(passing.relay.pid))).collect()
    }
}

/// A relay that was not reaped yet.
#[derive(Debug)]
pub(super) struct Passing {
    pub(super) relay: Relay,
    pub(super) socket: Rc<HeldSocket>,
    pub(super) slot: SlotId,
    /// The relay has got SIGTERM, by which it leaves the slot. It may carry what it has for hours.
    pub(super) has_left: bool,
    /// It serves the end of another socket, which was replaced by this one; and since when.
    pub(super) last: Option<(Rc<HeldSocket>, Instant)>,
}

/// A socket that was replaced is closed after so long, whatever still waits in it.
const LAST: Duration = Duration::from_secs(10);

/// Whether the kernel moves the queue of a listener that is shut down to another of its group (Linux 5.14).
fn kernel_migrates() -> bool {
    fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req").is_ok_and(|value| value.trim() == "1")
}

impl Listeners {
    pub fn rescue(&mut self, slot: SlotId, cx: &mut ListenerContext<'_>) {
        for socket in self.held().into_iter().filter(|socket| socket.is_steered()) {
            let queued = socket.queued(slot).unwrap_or(0);
            let is_passing = |one: &Passing| {
                !one.has_left && one.last.is_none() && one.slot == slot && Rc::ptr_eq(&one.socket, &socket)
            };
            if queued == 0
                || self.relays.passing.iter().any(is_passing)
                || cx.questions.take_out_ours(&socket, slot, cx.children)
            {
                continue;
            }
            match self.rescue_one(&socket, slot, cx.children) {
                Ok(relayed) => {
                    self.relays.unrescued.remove(&socket.address);
                    let count = (socket.kind == Kind::Tcp).then_some(queued);
                    cx.outbox.tell(SocketNote::Rescued { socket: socket.address.clone(), count, relayed });
                }
                Err(_) if socket.is_lost(self.slots.steering.slot) => {
                    self.lost_to_connect(&socket, cx);
                    cx.outbox.push(Event::RescueFailed { slot });
                }
                Err(why) => {
                    cx.outbox.push(Event::RescueFailed { slot });
                    // Supervise tries it again and again, so it logs the reason once.
                    if self.relays.unrescued.insert(socket.address.clone()) {
                        cx.outbox.tell(SocketNote::NotRescued { socket: socket.address.clone(), why });
                    }
                }
            }
        }
        // Steering may have made a new slot.
        self.arm();
    }

    /// Rescues one socket; `true` if by a relay.
    fn rescue_one(
        &mut self,
        socket: &Rc<HeldSocket>,
        slot: SlotId,
        children: &Children,
    ) -> Result<bool, String> {
        let target = self.slots.steering.slot;
        // A server may have steered it there, with a program of its own or by leaving the group and coming back: a
        // relay would come back to itself.
        socket.steer(&self.slots.steering).map_err(|error| format!("it cannot be steered: {error}"))?;
        socket.verify(slot).map_err(|error| format!("it is unknown which slot gets connections: {error}"))?;
        if socket.is_lost(target) {
            return Err("nothing reaches the socket of the server".to_owned());
        }
        if kernel_migrates() && socket.shut(slot).is_ok() {
            return Ok(false);
        }
        self.pass_on((socket, slot), socket, children).map(|()| true)
    }

    fn lost_to_connect(&mut self, socket: &HeldSocket, cx: &mut ListenerContext<'_>) {
        let serving = cx.children.on_slot(self.target());
        let may_bind_again = |id: &GenerationId| !cx.children.interceptors(*id).is_empty();
        if let Some(generation) = serving.filter(may_bind_again)
            && self.intercepting.to_be_bound.insert((generation, socket.address.clone()))
        {
            // What it binds for itself is answered: this is tried again after a while.
            return;
        }
        self.lose(&socket.address, self.target(), Damage::Connected, cx);
    }

    /// A relay takes what waits on a slot of `from` to `to`; where that is another socket, until nothing waits any more.
    fn pass_on(
        &mut self,
        (from, slot): (&Rc<HeldSocket>, SlotId),
        to: &Rc<HeldSocket>,
        children: &Children,
    ) -> Result<(), String> {
        let target = to.target(self.target()).ok_or("it cannot be reached from this host (BindToDevice=)")?;
        let fd = from.slot(slot).ok_or("its slot is gone")?;
        let relay = relay::start(Path::new(relay::OURSELVES), fd.as_fd(), &target)
            .map_err(|error| format!("cannot start a process that passes it on: {error}"))?;
        children.is_of_nobody(relay.pid);
        let last = (!Rc::ptr_eq(from, to)).then(|| (Rc::clone(from), Instant::now()));
        self.relays.passing.push(Passing { relay, socket: Rc::clone(to), slot, has_left: false, last });
        Ok(())
    }

    /// `old` is about to be held no longer: what waits there goes to `new`.
    pub(super) fn pass_to(&mut self, new: &Rc<HeldSocket>, old: &Rc<HeldSocket>, children: &Children) {
        for passing in self.relays.passing.iter_mut().filter(|passing| Rc::ptr_eq(&passing.socket, old)) {
            (passing.socket, passing.last) = (Rc::clone(new), Some((Rc::clone(old), Instant::now())));
        }
        // One that was opened for a candidate had its connections on the slot of that.
        for slot in SlotId::all().take(if old.is_steered() { GENERATIONS } else { 1 }) {
            let queued = old.queued(slot).unwrap_or(0);
            if queued > 0 {
                match self.pass_on((old, slot), new, children) {
                    Ok(()) => Told::PassesOn(&old.address, &new.address).log(),
                    Err(why) => Warn::Lost(&old.address, queued).because(why),
                }
            }
        }
    }

    /// Sockets that are no longer held, and are open until what waits in them was passed on.
    pub(super) fn replaced(&self) -> impl Iterator<Item = &Rc<HeldSocket>> {
        self.relays.passing.iter().filter_map(|passing| passing.last.as_ref().map(|(old, _)| old))
    }

    /// A generation is about to get the slot: what waits there from now on is its own.
    pub(super) fn end_relays(&mut self, slot: SlotId) {
        self.end_relays_if(|passing| passing.slot == slot && passing.last.is_none());
    }

    /// The socket was shut down and listens again, of which a relay that saw the end does not know.
    pub(super) fn end_relays_of(&mut self, socket: &Rc<HeldSocket>, slot: SlotId) {
        self.end_relays_if(|passing| {
            passing.slot == slot && passing.last.is_none() && Rc::ptr_eq(&passing.socket, socket)
        });
    }

    /// Ends the relays of closed sockets whose queue is empty; `true` if others are left.
    pub(super) fn end_last_relays(&mut self) -> bool {
        let is_over = |passing: &Passing| {
            passing.last.as_ref().is_some_and(|(old, since)| {
                // A queue of datagrams may fill again.
                let is_empty =
                    old.kind.has_datagrams() || old.queued(passing.slot).is_ok_and(|queued| queued == 0);
                is_empty || since.elapsed() >= LAST
            })
        };
        self.end_relays_if(is_over);
        self.relays.passing.iter().any(|passing| passing.last.is_some())
    }

    fn end_relays_if(&mut self, is_meant: impl Fn(&Passing) -> bool) {
        for passing in self.relays.passing.iter_mut().filter(|passing| !passing.has_left && is_meant(passing))
        {
            // What it was replaced by has all that comes from now on.
            (passing.has_left, passing.last) = (true, None);
            // The relay is not reaped yet, so no other process has its pid.
            if let Err(errno) = kill(Pid::from_raw(passing.relay.pid), NixSignal::SIGTERM) {
                log::debug!("cannot send SIGTERM to the relay, process {}: {errno}", passing.relay.pid);
            }
        }
    }

    /// At the end of everything, when no server is left that they could pass anything on to: how many there are.
    pub fn kill_relays(&self) -> usize {
        for passing in &self.relays.passing {
            if let Err(errno) = kill(Pid::from_raw(passing.relay.pid), NixSignal::SIGKILL) {
                log::debug!("cannot send SIGKILL to the relay, process {}: {errno}", passing.relay.pid);
            }
        }
        self.relays.passing.len()
    }

    /// Relays that a supervise before us has started, as far as they have ended: their pipe says so.
    pub fn ended_foreign_relays(&self) -> Vec<i32> {
        let foreign = self.relays.passing.iter().filter(|passing| !passing.relay.is_ours());
        foreign.filter(|passing| passing.relay.has_ended()).map(|passing| passing.relay.pid).collect()
    }

    /// Whether this was a relay. What came to its slot at its very end is looked for again.
    pub fn on_relay_gone(&mut self, pid: i32) -> bool {
        let Some(at) = self.relays.passing.iter().position(|passing| passing.relay.pid == pid) else {
            return false;
        };
        let Passing { mut relay, socket, slot, .. } = self.relays.passing.swap_remove(at);
        match relay.carried() {
            Ok(carried) if carried.refused > 0 => {
                Warn::RefusedByServer(&socket.address).because(format_args!("{} of them", carried.refused));
            }
            Ok(carried) => {
                log::debug!("{}: the relay passed {} connections on", socket.address, carried.passed_on)
            }
            Err(error) => log::debug!(
                "{}: the relay did not report how many connections it passed on: {error}",
                socket.address
            ),
        }
        self.rearm(&socket, slot);
        true
    }
}
