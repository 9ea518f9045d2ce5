//! The slots of a TCP or UDP address: the members of one SO_REUSEPORT group, and a program that says which of them gets
//! what comes.
//!
//! * Slot 0 is bound without SO_REUSEPORT: where another listens already, that is EADDRINUSE as ever. It has its program
//!   before it listens, which also keeps it from joining a group that came into being in between.
//! * Slot 1 is there from the start: were slot 0 alone and a server shut it down, the group and its program would be
//!   gone, and a stranger could be the first to come back.
//! * UDP joins its group at bind(2), and a program cannot be attached after a bind without SO_REUSEPORT.
//! * A program is attached only through a slot that listens. Through another the kernel would make a group of its own for
//!   it, and its next listen(2) would be EADDRINUSE for ever.
//! * shutdown(2) takes a TCP slot out of the group and listen(2) brings it back as the last: each moves indices, so the
//!   program is attached anew. UDP stays in, whatever a server does, but for connect(2).

mod ready;
mod renew;
mod saved;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use nix::sys::socket::{Shutdown, SockaddrStorage, getpeername, getsockopt, setsockopt, shutdown, sockopt};

use super::options::errno_of;
use super::order::Order;
use super::plan::{InetError, InetPlan, NoGroup};
use super::program::{ProbePort, program};
use super::restore;
use super::saved::SavedSlots;
use super::slots::Slots;
use super::target::Target;
use crate::core::{SlotId, Steering};
use crate::os::saved::KeptFds;
use crate::os::sys;

/// The number of connections in a row that must land on the wrong slot, as single late ones may come from clients.
const PROOF: usize = 3;

#[derive(Debug)]
pub(super) struct Group {
    plan: InetPlan,
    /// The slots by their number.
    slots: Vec<Option<Slot>>,
    order: Order,
    steering: Steering,
    probe: Option<ProbePort>,
    is_labelled: bool,
    /// A server has connected its socket to a client, and got another (UDP).
    renews: bool,
}

#[derive(Debug)]
struct Slot {
    fd: Rc<OwnedFd>,
    /// Whether no server has had it yet and we have not shut it down.
    is_fresh: bool,
    /// We have shut it down, so that nothing arrives there.
    is_shut: bool,
    /// Whether a server has connected it (UDP), so that it has left the group, even if it was disconnected since.
    is_out: bool,
}

impl Hash for Slot {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.fd.as_raw_fd(), self.is_fresh, self.is_shut, self.is_out).hash(state);
    }
}

impl Slot {
    fn new(fd: OwnedFd) -> Self {
        Self { fd: Rc::new(fd), is_fresh: true, is_shut: false, is_out: false }
    }
}

/// Making a group.
impl Group {
    /// Makes a group of `fd`, which is not bound yet, as slot 0.
    pub(super) fn make(plan: &InetPlan, fd: OwnedFd) -> Result<Self, NoGroup> {
        if let Err((step, errno)) = Self::bind_first(plan, &fd)? {
            return Err(Self::give_up(plan, fd, step, errno));
        }
        let mut group = Self {
            // FreeBind= is one of the three bits, and the user's.
            is_labelled: !plan.is_udp() && !plan.listener.options.free_bind,
            plan: plan.clone(),
            slots: Vec::new(),
            order: Order::default(),
            steering: Steering::all_to(SlotId(0)),
            probe: None,
            renews: false,
        };
        if let Err(error) = group.label(SlotId(0), &fd, true) {
            log::debug!("{}: cannot label its connections: {error}", plan.listener.place);
            group.is_labelled = false;
        }
        plan.listen(&fd)?;
        if plan.is_beside
            && let Err((step, errno)) = Self::attach_first(&fd)
        {
            return Err(Self::give_up(plan, fd, step, errno));
        }
        match group.another(SlotId(1)) {
            Ok(second) => {
                group.slots = vec![Some(Slot::new(fd)), Some(Slot::new(second))];
                group.order.join(SlotId(0));
                group.order.join(SlotId(1));
                Ok(group)
            }
            Err(error) => Err(Self::give_up(plan, fd, error.step, error.errno)),
        }
    }

    /// Slot 0, up to listen(2). The inner error: it is bound, but cannot be steered.
    fn bind_first(plan: &InetPlan, fd: &OwnedFd) -> Result<Result<(), (&'static str, Errno)>, InetError> {
        let set = |on| setsockopt(fd, sockopt::ReusePort, &on).map_err(|errno| ("SO_REUSEPORT", errno));
        let attach = || Self::attach_first(fd);
        if plan.is_beside {
            plan.bind(fd)?;
            return Ok(Ok(()));
        }
        if plan.is_udp() {
            let attached = set(true).and_then(|()| attach());
            if !matches!(attached, Err(("SO_REUSEPORT", _))) {
                // Otherwise a socket of our user that is there already would let us in.
                set(false).map_err(|(step, errno)| plan.failed(step)(errno))?;
            }
            plan.bind(fd)?;
            return Ok(attached.and_then(|()| set(true)));
        }
        plan.bind(fd)?;
        Ok(set(true).and_then(|()| attach()))
    }

    /// A socket that has its program already does not come beside others: the kernel says EADDRINUSE.
    fn attach_first(fd: &OwnedFd) -> Result<(), (&'static str, Errno)> {
        sys::attach_reuseport_program(fd, &program(0, None, None))
            .map_err(|error| ("SO_ATTACH_REUSEPORT_CBPF", errno_of(&error)))
    }

    /// `fd` is bound. It must not be joined by others.
    fn give_up(plan: &InetPlan, fd: OwnedFd, step: &str, errno: Errno) -> NoGroup {
        if !plan.is_beside
            && let Err(errno) = setsockopt(&fd, sockopt::ReusePort, &false)
        {
            log::debug!("{}: cannot clear SO_REUSEPORT: {}", plan.listener.place, errno.desc());
        }
        if let Err(error) = plan.listen(&fd) {
            return NoGroup::Bind(error);
        }
        let why = format!("the kernel refuses {step} for a second socket of its address ({})", errno.desc());
        NoGroup::Shared(fd, why)
    }

    /// One more socket, which joins the group as its last member.
    fn another(&self, slot: SlotId) -> Result<OwnedFd, InetError> {
        let (fd, _) = self.plan.unbound()?;
        setsockopt(&fd, sockopt::ReusePort, &true).map_err(self.plan.failed("SO_REUSEPORT"))?;
        self.plan.bind(&fd)?;
        self.label(slot, &fd, true)
            .map_err(|error| self.plan.failed("IP_BIND_ADDRESS_NO_PORT")(errno_of(&error)))?;
        self.plan.listen(&fd)?;
        Ok(fd)
    }

    /// The number of the slot in three options, which connections inherit.
    fn label(&self, slot: SlotId, fd: &OwnedFd, is_new: bool) -> io::Result<()> {
        if !self.is_labelled {
            return Ok(());
        }
        for (bit, name, default) in [
            (1, libc::IP_MULTICAST_LOOP, true),
            (2, libc::IP_BIND_ADDRESS_NO_PORT, false),
            (4, libc::IP_FREEBIND, false),
        ] {
            let wanted = slot.0 & bit != 0;
            if !is_new || wanted != default {
                sys::set_int_option(fd, libc::IPPROTO_IP, name, wanted.into())?;
            }
        }
        Ok(())
    }
}

impl Slots for Group {
    fn slot(&self, slot: SlotId) -> Option<Rc<OwnedFd>> {
        self.get(slot).map(|slot| Rc::clone(&slot.fd))
    }

    fn ready_slot(&mut self, id: SlotId) -> io::Result<Rc<OwnedFd>> {
        match self.ready_in_place(id)? {
            Some(fd) => Ok(fd),
            None => self.ready_anew(id),
        }
    }

    fn ready_in_place(&mut self, id: SlotId) -> io::Result<Option<Rc<OwnedFd>>> {
        self.in_place(id)
    }

    fn ready_mends_all(&self, id: SlotId) -> bool {
        (0..)
            .map(SlotId)
            .zip(&self.slots)
            .all(|(one, slot)| one == id || slot.as_ref().is_none_or(|slot| slot.is_fresh))
    }

    fn learn_options(&self) {
        restore::learn(&self.plan);
    }

    fn refresh(&mut self) -> io::Result<()> {
        for (id, fd) in self.usable() {
            setsockopt(&fd, sockopt::ReusePort, &true)?;
            match self.listens(id)? {
                // The server's own listen(2) may have brought the socket back.
                true => self.order.join(id),
                false => self.order.leave(id),
            }
        }
        self.attach()?;
        for (id, fd) in self.usable() {
            if self.order.index_of(id).is_some() {
                self.listen(&fd)?;
            }
        }
        Ok(())
    }

    fn mend(&mut self, id: SlotId) -> io::Result<bool> {
        let Some(slot) = self.get(id).filter(|slot| !slot.is_shut) else { return Ok(false) };
        let fd = Rc::clone(&slot.fd);
        if self.order.index_of(id).is_some() && self.listens(id)? {
            return Ok(false);
        }
        self.rejoin(id, &fd)?;
        Ok(true)
    }

    fn fds(&self) -> Vec<Rc<OwnedFd>> {
        self.slots.iter().flatten().map(|slot| Rc::clone(&slot.fd)).collect()
    }

    fn steer(&mut self, steering: &Steering) -> io::Result<()> {
        self.steering = *steering;
        self.refresh()
    }

    fn probe(&mut self, probe: Option<ProbePort>) -> io::Result<()> {
        if let Some(probe) = probe
            && self.order.index_of(probe.slot).is_none()
        {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.probe = probe;
        self.attach()
    }

    /// Something has come to a slot without the traffic. A server may have shut its slot down and brought it back before
    /// anybody saw it: then members have changed places. Connections of our own tell, all of which end up there.
    fn verify(&mut self, suspect: SlotId, at: SocketAddr) -> io::Result<()> {
        let Some(fd) = self.slot(suspect).filter(|_| !self.plan.is_udp() && suspect != self.steering.slot)
        else {
            return Ok(());
        };
        // A canary may well be the one that has changed places.
        let canary = self.steering.canary.take();
        let is_wrong = self.attach().and_then(|()| comes_to(&fd, at));
        self.steering.canary = canary;
        if *is_wrong.as_ref().unwrap_or(&false) {
            self.order.exchange(suspect, self.steering.slot);
        }
        self.attach()?;
        is_wrong.map(drop)
    }

    /// Nothing of what is sent to the address can ever come to it.
    fn is_lost(&self, id: SlotId) -> bool {
        self.plan.is_udp() && self.get(id).is_some() && self.order.index_of(id).is_none()
    }

    fn renew(&mut self, id: SlotId, used: &[SlotId], may_connect: bool) -> io::Result<bool> {
        self.replace(id, used, may_connect)
    }

    fn renews(&self) -> bool {
        self.renews
    }

    fn keep_heir(&mut self, used: &[SlotId]) -> io::Result<()> {
        self.have_heir(used)
    }

    fn shut(&mut self, id: SlotId) -> io::Result<()> {
        if self.plan.is_udp() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let canary = self.steering.canary.map(|(slot, _)| slot);
        // The kernel moves the queue to any of the others, by its hash: none but the one with the traffic may be there.
        let is_safe = self.order.is_only([id, self.steering.slot]);
        if id == self.steering.slot || Some(id) == canary || !is_safe {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let Some(slot) = self.slots.get_mut(usize::from(id.0)).and_then(Option::as_mut) else {
            return Ok(());
        };
        let fd = Rc::clone(&slot.fd);
        (slot.is_shut, slot.is_fresh) = (true, false);
        if self.probe.is_some_and(|probe| probe.slot == id) {
            self.probe = None;
        }
        self.attach()?;
        match shutdown(fd.as_raw_fd(), Shutdown::Both) {
            // ENOTCONN: a server has shut it down already.
            Ok(()) | Err(Errno::ENOTCONN) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.order.leave(id);
        self.attach()
    }

    /// How many connections wait, and how many may, as [`sys::tcp_listen_queue`] says of one socket.
    fn queue(&self) -> io::Result<Option<(u32, u32)>> {
        if self.plan.is_udp() {
            return Ok(None);
        }
        let (mut depth, mut limit) = (0, 0);
        for id in self.order.slots() {
            let Some(slot) = self.get(id) else { continue };
            // A socket that does not listen has no queue.
            if !getsockopt(&slot.fd, sockopt::AcceptConn)? {
                continue;
            }
            let (waiting, room) = sys::tcp_listen_queue(&slot.fd)?;
            depth += waiting;
            if limit == 0 || id == self.steering.slot {
                limit = room;
            }
        }
        Ok(Some((depth, limit)))
    }

    fn set_strangers(&mut self, inodes: &[u64]) -> io::Result<()> {
        let before = self.order.clone();
        self.order.set_strangers(inodes);
        if before == self.order { Ok(()) } else { self.attach() }
    }

    fn may_move(&self) -> bool {
        self.order.may_move()
    }

    fn is_labelled(&self) -> bool {
        self.is_labelled
    }

    fn save(&self, fds: &mut KeptFds) -> SavedSlots {
        SavedSlots::Group(self.saved(fds))
    }

    fn fingerprint(&self, hasher: &mut DefaultHasher) {
        (&self.slots, &self.order, self.steering.slot, self.is_labelled, self.renews).hash(hasher);
    }
}

/// What a group is asked for.
impl Group {
    fn get(&self, slot: SlotId) -> Option<&Slot> {
        self.slots.get(usize::from(slot.0))?.as_ref()
    }

    /// Whether it is in the group; UDP is until a server connects it.
    fn listens(&self, id: SlotId) -> io::Result<bool> {
        let Some(slot) = self.get(id) else { return Ok(false) };
        if !self.plan.is_udp() {
            return Ok(getsockopt(&slot.fd, sockopt::AcceptConn)?);
        }
        let is_alone = || getpeername::<SockaddrStorage>(slot.fd.as_raw_fd()) == Err(Errno::ENOTCONN);
        Ok(!slot.is_out && is_alone())
    }
}

/// Steering new connections.
impl Group {
    /// A new socket as this slot. It joins as the last, and if one is replaced that is still in the group, it takes over
    /// that one's index when that leaves.
    fn place(&mut self, id: SlotId) -> io::Result<Rc<OwnedFd>> {
        if !self.listens(id)? {
            self.order.leave(id);
        }
        let slot = Slot { is_fresh: false, ..Slot::new(self.another(id)?) };
        let fd = Rc::clone(&slot.fd);
        let index = usize::from(id.0);
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        if let Some(old) = self.slots[index].replace(slot)
            && !self.plan.is_udp()
        {
            // A process that was left behind may have it, too. Else this is ENOTCONN.
            let _left = shutdown(old.fd.as_raw_fd(), Shutdown::Both);
        }
        self.order.join(id);
        self.attach()?;
        Ok(fd)
    }

    /// A slot that left the group comes back as its last member.
    fn rejoin(&mut self, id: SlotId, fd: &OwnedFd) -> io::Result<()> {
        self.order.leave(id);
        setsockopt(fd, sockopt::ReusePort, &true)?;
        self.attach()?;
        self.listen(fd)?;
        self.order.join(id);
        self.attach()
    }

    fn listen(&self, fd: &OwnedFd) -> io::Result<()> {
        Ok(self.plan.listen(fd)?)
    }

    /// The slots, without those that supervise has shut.
    fn usable(&self) -> Vec<(SlotId, Rc<OwnedFd>)> {
        let numbered = (0..).map(SlotId).zip(&self.slots);
        let usable =
            numbered.filter_map(|(id, slot)| Some((id, slot.as_ref().filter(|slot| !slot.is_shut)?)));
        usable.map(|(id, slot)| (id, Rc::clone(&slot.fd))).collect()
    }

    /// The program as it is to be now. Where servers have locked every slot (SO_LOCK_FILTER), it comes by a new one.
    fn attach(&mut self) -> io::Result<()> {
        match self.attach_through_ours() {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                let is_free = |id: &SlotId| self.get(*id).is_none();
                let free = SlotId::all().rev().find(is_free);
                free.map_or(Err(error), |id| self.place(id).map(|_| ()))
            }
            result => result,
        }
    }

    /// While nobody of ours listens there is nothing to attach it to: the next that does brings it.
    fn attach_through_ours(&mut self) -> io::Result<()> {
        let mut refused = Ok(());
        for id in self.order.slots().collect::<Vec<_>>() {
            if !self.listens(id)? {
                continue;
            }
            let Some(slot) = self.get(id) else { continue };
            match sys::attach_reuseport_program(&slot.fd, &self.program()) {
                // A server set SO_LOCK_FILTER on its slot.
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => refused = Err(error),
                // A server has connected and disconnected the socket since we looked.
                Err(error) if self.plan.is_udp() && error.raw_os_error() == Some(libc::EINVAL) => {
                    self.leave_for_good(id);
                }
                result => return result,
            }
        }
        refused
    }

    fn leave_for_good(&mut self, id: SlotId) {
        if let Some(slot) = self.slots.get_mut(usize::from(id.0)).and_then(Option::as_mut) {
            slot.is_out = true;
        }
        self.order.leave(id);
    }

    /// What was asked for, or the nearest to it that listens.
    fn program(&self) -> Vec<libc::sock_filter> {
        let any = || self.order.slots().next().and_then(|id| self.order.index_of(id));
        let index = self.order.index_of(self.steering.slot).or_else(any).unwrap_or(0);
        let canary = self.steering.canary;
        let canary = canary.and_then(|(slot, percent)| Some((self.order.index_of(slot)?, percent)));
        let probe = self.probe.and_then(|probe| Some((probe.source_port, self.order.index_of(probe.slot)?)));
        program(index, canary, probe)
    }
}

/// Whether connections come to this queue: none of ours goes elsewhere.
fn comes_to(fd: &OwnedFd, at: SocketAddr) -> io::Result<bool> {
    for _ in 0..PROOF {
        let before = sys::tcp_listen_queue(fd)?.0;
        Target::Tcp(at).knock()?;
        if sys::tcp_listen_queue(fd)?.0 <= before {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
