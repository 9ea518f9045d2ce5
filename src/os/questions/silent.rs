//! A silent connection of our own, which a generation has to accept where nobody is seen to wait on its sockets.
//!
//! Over a socket that is steered it reaches one generation alone. Where all generations share one, whoever is faster gets
//! it, and has its other end among its fds: it is tried until that is the one that is asked, so many times at most, for
//! a server with one thread serves nobody as long as it waits for us to say something. What nobody has accepted is taken
//! out of the queue of a generation that has ended, before clients that wait there are passed on.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::stat::fstat;

use super::Questions;
use super::health::{Asking, begin_probe};
use crate::core::{GenerationId, Sight, SlotId};
use crate::os::children::Children;
use crate::os::diag::{self, Diag, InetSocket, SocketState};
use crate::os::probe::{Heard, Probe};
use crate::os::socket::{self, HeldSocket, NamedSocket};
use crate::os::sys;

/// A server with TCP_DEFER_ACCEPT gets no connection that has not said anything.
const SILENCE: Duration = Duration::from_millis(100);

/// Connections to one generation through a socket that it shares with another. If one of two that look for clients from
/// time to time is ahead of the other by a tenth of that time, it accepts nine of ten: all of these once in 29 times.
const TRIES: u32 = 32;

/// Connections that were ended before anybody had accepted them and are remembered.
const REMEMBERED: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Silent {
    /// Who was asked through a shared socket since a generation was started last, and how often.
    tried: BTreeMap<GenerationId, u32>,
    /// Connections that were never accepted, oldest first.
    withdrawn: Vec<Asking>,
    /// Who has accepted one of ours, and on which socket.
    accepted: Vec<(GenerationId, Rc<HeldSocket>)>,
}

impl Silent {
    pub(super) fn has_accepted(&self, generation: GenerationId, socket: &Rc<HeldSocket>) -> bool {
        self.accepted.iter().any(|(by, on)| *by == generation && Rc::ptr_eq(on, socket))
    }

    pub(super) fn forget(&mut self, generation: GenerationId) {
        self.accepted.retain(|(by, _)| *by != generation);
    }
}

/// The state of a silent connection.
enum Fate {
    Waits,
    Accepted,
    /// Another generation has accepted it, or an unknown one.
    Missed,
}

impl Questions {
    /// Has one silent connection on its way to this generation, and says what has become of it.
    pub(super) fn ask_to_accept(
        &mut self,
        generation: GenerationId,
        slot: SlotId,
        sockets: &[NamedSocket],
        is_blind: bool,
        children: &Children,
    ) -> Sight {
        // No other generation could accept it.
        let is_alone = children.slots().iter().all(|(id, _)| *id == generation);
        let can_be_reached = |one: &&NamedSocket| one.kind.is_stream() && one.target(slot).is_some();
        let steered = sockets.iter().filter(can_be_reached).find(|one| one.is_steered());
        // Whose fds cannot be seen cannot be told from others.
        let shared = || sockets.iter().filter(|_| !is_blind || is_alone).find(can_be_reached);
        let Some(named) = steered.or_else(shared) else { return Sight::Blind };
        match self.asking.take() {
            Some(mut asking) if asking.generation == generation && asking.is_silent => {
                asking.is_alone &= is_alone;
                let fate = self.fate(&mut asking, children);
                self.asking = Some(asking);
                match fate {
                    Ok(Fate::Waits) => return Sight::Asked,
                    Ok(Fate::Accepted) => {
                        let asked = self.close_probe().map(|asking| (generation, asking.socket));
                        self.silent.accepted.extend(asked);
                        return Sight::Accepted;
                    }
                    // The generation that accepted it looks for another as soon as this one is closed, and would take that
                    // as well. By the next look it sleeps again.
                    Ok(Fate::Missed) => {
                        self.close_probe();
                        return Sight::Asked;
                    }
                    Err(error) => {
                        log::debug!(
                            "{generation}: the connection from supervise that it was to accept failed: {error}"
                        );
                        self.close_probe();
                    }
                }
            }
            // One question at a time: the next look has its turn.
            Some(other) => {
                self.asking = Some(other);
                return Sight::Asked;
            }
            None => {}
        }
        if named.is_steered() || self.may_try(generation) {
            self.begin_to_ask(generation, slot, named, is_alone)
        } else {
            Sight::Dim
        }
    }

    fn may_try(&mut self, generation: GenerationId) -> bool {
        let tried = self.silent.tried.entry(generation).or_default();
        *tried += 1;
        *tried <= TRIES
    }

    fn begin_to_ask(
        &mut self,
        generation: GenerationId,
        slot: SlotId,
        named: &NamedSocket,
        is_alone: bool,
    ) -> Sight {
        let mut probe = match begin_probe(&named.socket, slot, Probe::silent) {
            Ok(probe) => probe,
            Err(why) => {
                log::debug!("{generation}: cannot steer a connection from supervise to it: {why}");
                return Sight::Blind;
            }
        };
        let connected = probe.connect();
        let (socket, begun) = (Rc::clone(&named.socket), Instant::now());
        self.asking = Some(Asking { generation, slot, socket, probe, is_silent: true, is_alone, begun });
        if let Err(why) = connected {
            log::debug!("{generation}: cannot connect to it: {why}");
        }
        Sight::Asked
    }

    fn fate(&mut self, asking: &mut Asking, children: &Children) -> io::Result<Fate> {
        let Asking { generation, socket, slot, probe, begun, is_alone, .. } = asking;
        let is_steered = socket.is_steered() || *is_alone;
        let over = || Ok(if is_steered { Fate::Accepted } else { Fate::Missed });
        match probe.heard()? {
            // Only somebody who has accepted it can say or end anything.
            Heard::Something => return over(),
            Heard::Nothing => {}
        }
        let is_silent_for_long = begun.elapsed() >= SILENCE;
        match other_end(&mut self.diag, socket, probe) {
            Ok(Some((SocketState::Established | SocketState::CloseWait, 0))) => Ok(Fate::Waits),
            Ok(Some((SocketState::Established | SocketState::CloseWait, _))) if is_steered => {
                Ok(Fate::Accepted)
            }
            Ok(Some((SocketState::Established | SocketState::CloseWait, inode))) => {
                let inodes = diag::inodes_of(&children.pids(*generation)?)?;
                Ok(if inodes.contains(&inode) { Fate::Accepted } else { Fate::Missed })
            }
            Ok(Some((SocketState::SynReceived, _)) | None) => {
                if is_silent_for_long {
                    probe.say_something()?;
                }
                Ok(Fate::Waits)
            }
            // The server has accepted it, and it is closed by now.
            Ok(Some((SocketState::Listen | SocketState::Other, _))) => over(),
            Err(error) if !is_steered => Err(error),
            // The kernel does not tell of connections, only how many wait; not of those that have said nothing.
            Err(_) => {
                let has_spoken = is_silent_for_long && !probe.say_something()?;
                Ok(if has_spoken && socket.queued(*slot)? == 0 { Fate::Accepted } else { Fate::Waits })
            }
        }
    }

    /// Withdraws a connection that no process has accepted.
    pub(super) fn withdraw(&mut self, asking: Asking, held: &[Rc<HeldSocket>]) {
        if !asking.is_silent || !is_among(held, &asking) {
            return;
        }
        asking.probe.withdraw();
        if self.silent.withdrawn.len() >= REMEMBERED {
            self.silent.withdrawn.remove(0);
        }
        self.silent.withdrawn.push(asking);
    }

    /// A generation is about to get this slot: it accepts whatever waits there.
    pub fn forget_withdrawn(&mut self, slot: SlotId) {
        self.silent.withdrawn.retain(|one| one.slot != slot);
        self.silent.tried.clear();
    }

    /// A connection of ours keeps no socket bound that is not held any more.
    pub fn forget_unheld(&mut self, held: &[Rc<HeldSocket>]) {
        self.silent.withdrawn.retain(|one| is_among(held, one));
        self.silent.accepted.retain(|(_, on)| held.iter().any(|one| Rc::ptr_eq(one, on)));
    }

    /// How many connections from supervise wait in the queue of this slot, or of all slots for `None`.
    pub(super) fn ours_in(&mut self, socket: &HeldSocket, slot: Option<SlotId>) -> u32 {
        let Self { silent, asking, diag, .. } = self;
        let all = silent.withdrawn.iter().chain(asking.iter().filter(|one| one.is_silent));
        let is_there = |one: &Asking| slot.is_none_or(|slot| one.slot == slot);
        let here = all.filter(|one| is_there(one) && std::ptr::eq(Rc::as_ptr(&one.socket), socket));
        let waits = |one: &&Asking| {
            matches!(
                other_end(diag, socket, &one.probe),
                Ok(Some((SocketState::Established | SocketState::CloseWait, 0)))
            )
        };
        here.filter(waits).count() as u32
    }

    /// A generation is gone. What we have left in its queue is no client that the next one is started for.
    pub fn take_out_forgotten(&mut self, held: &[Rc<HeldSocket>], children: &Children) {
        let left: Vec<_> =
            self.silent.withdrawn.iter().map(|one| (Rc::clone(&one.socket), one.slot)).collect();
        for (socket, slot) in left {
            if children.on_slot(slot).is_none() && held.iter().any(|one| Rc::ptr_eq(one, &socket)) {
                self.take_out_ours(&socket, slot, children);
            }
        }
    }

    /// Takes connections from supervise out of a queue where nothing else waits. Returns whether the queue has no client
    /// whom a relay would have to pass on.
    pub fn take_out_ours(&mut self, socket: &HeldSocket, slot: SlotId, children: &Children) -> bool {
        let is_any = self.silent.withdrawn.iter().any(|one| one.slot == slot);
        if !is_any {
            return false;
        }
        // What it was at the beginning of this turn is not what it is now. A client that comes later is behind ours.
        self.diag.forget();
        let ours = self.ours_in(socket, Some(slot));
        if ours == 0 || self.waiting_in(socket, slot) != Some(ours) {
            return false;
        }
        // O_NONBLOCK belongs to the open file, which those who run there have as well; they may still accept ours.
        let is_free = match socket.is_steered() {
            true => children.on_slot(slot).is_none(),
            false => children.slots().is_empty(),
        };
        if is_free && let Some(fd) = socket.slot(slot) {
            let taken = socket::set_non_blocking(&fd, true)
                .and_then(|()| (0..ours).try_for_each(|_| sys::accept(fd.as_fd()).map(drop)));
            if let Err(error) = taken {
                log::debug!(
                    "{}: cannot take a connection from supervise out of its queue: {error}",
                    socket.address
                );
                return false;
            }
            self.silent
                .withdrawn
                .retain(|one| one.slot != slot || !std::ptr::eq(Rc::as_ptr(&one.socket), socket));
        }
        true
    }

    /// How many connections wait in the queue of this slot.
    fn waiting_in(&mut self, socket: &HeldSocket, slot: SlotId) -> Option<u32> {
        if socket.kind.is_unix() {
            return Some(self.diag.unix().ok()?.listener(socket.inode(slot).ok()?)?.rqueue);
        }
        socket.queued(slot).ok()
    }
}

fn is_among(held: &[Rc<HeldSocket>], asking: &Asking) -> bool {
    held.iter().any(|one| Rc::ptr_eq(one, &asking.socket))
}

/// The server's side of a connection of ours: its state, and its inode, which is 0 as long as it is not accepted.
/// `None` if there is none.
fn other_end(diag: &mut Diag, socket: &HeldSocket, probe: &Probe) -> io::Result<Option<(SocketState, u32)>> {
    if let Some(at) = socket.local_address() {
        let (from, sockets) = (probe.local_address()?, diag.tcp(at)?);
        let is_it = |one: &&InetSocket| one.is_at(at) && one.remote == from;
        return Ok(sockets.iter().find(is_it).map(|one| (one.state, one.inode)));
    }
    let own = fstat(probe.as_fd())?.st_ino;
    let peer = diag.unix_peer(own)?;
    // A kernel, or an end, that says nothing of the other one.
    let peer = peer.ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))?;
    Ok(Some((SocketState::Established, peer)))
}
