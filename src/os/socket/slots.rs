//! The slots of a held socket: several sockets of one address, of which each generation gets one, or one for all.

use std::collections::hash_map::DefaultHasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::{fmt, io};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockaddrStorage, UnixAddr, getsockname, getsockopt, sockopt};
use nix::sys::stat::fstat;

use super::HeldSocket;
use super::program::ProbePort;
use super::saved::SavedSlots;
use super::target::Target;
use crate::config::{Address, Kind};
use crate::core::{SlotId, Steering};
use crate::os::saved::KeptFds;
use crate::os::sys;

/// What the sockets of one address can do, each kind in its own way: one for all (`one`), a group of TCP or UDP, nodes
/// of AF_UNIX. Each method is what the one of [`HeldSocket`] with its name promises; a kind has those that mean something
/// to it.
pub(super) trait Slots: fmt::Debug {
    fn slot(&self, slot: SlotId) -> Option<Rc<OwnedFd>>;

    fn first(&self) -> Rc<OwnedFd> {
        self.slot(SlotId(0)).expect("slot 0 is made first and never given up")
    }

    fn ready_slot(&mut self, slot: SlotId) -> io::Result<Rc<OwnedFd>>;

    fn ready_in_place(&mut self, slot: SlotId) -> io::Result<Option<Rc<OwnedFd>>> {
        self.ready_slot(slot).map(Some)
    }

    fn ready_mends_all(&self, _slot: SlotId) -> bool {
        false
    }

    fn learn_options(&self) {}

    fn refresh(&mut self) -> io::Result<()>;

    fn mend(&mut self, slot: SlotId) -> io::Result<bool>;

    /// All sockets, if other processes can join the address.
    fn fds(&self) -> Vec<Rc<OwnedFd>> {
        Vec::new()
    }

    fn why_shared(&self) -> Option<&str> {
        None
    }

    fn steer(&mut self, _steering: &Steering) -> io::Result<()> {
        Ok(())
    }

    fn probe(&mut self, _probe: Option<ProbePort>) -> io::Result<()> {
        Ok(())
    }

    /// `at`: where a client on this host connects.
    fn verify(&mut self, _suspect: SlotId, _at: SocketAddr) -> io::Result<()> {
        Ok(())
    }

    fn is_lost(&self, _slot: SlotId) -> bool {
        false
    }

    fn renew(&mut self, _slot: SlotId, _used: &[SlotId], _may_connect: bool) -> io::Result<bool> {
        Ok(false)
    }

    fn renews(&self) -> bool {
        false
    }

    fn keep_heir(&mut self, _used: &[SlotId]) -> io::Result<()> {
        Ok(())
    }

    fn shut(&mut self, _slot: SlotId) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The length and limit of a TCP queue; `None` where the kernel does not say.
    fn queue(&self) -> io::Result<Option<(u32, u32)>> {
        Ok(None)
    }

    fn set_strangers(&mut self, _inodes: &[u64]) -> io::Result<()> {
        Ok(())
    }

    fn may_move(&self) -> bool {
        false
    }

    fn is_labelled(&self) -> bool {
        false
    }

    fn path_of(&self, _slot: SlotId) -> Option<PathBuf> {
        None
    }

    fn made_paths(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn watch_paths(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn check_path(&mut self) -> io::Result<Option<Checked>> {
        Ok(None)
    }

    /// RemoveOnStop=
    fn set_removes(&mut self, _removes: bool) {}

    fn save(&self, fds: &mut KeptFds) -> SavedSlots;

    /// Adds what differs where [`Self::save`] does.
    fn fingerprint(&self, _hasher: &mut DefaultHasher) {}
}

/// What a public path leads to, after [`HeldSocket::check_path`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathState {
    Ours,
    /// It was missing, and leads to the target again.
    LinkedBack,
    /// It leads to another process's file, which was not touched.
    Taken,
}

/// The result of [`HeldSocket::check_path`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    pub state: PathState,
    /// Slots whose last name was gone: they have new sockets, which no running process has.
    pub anew: Vec<SlotId>,
}

/// The slots. Where there is one socket for all, each of them is that one.
impl HeldSocket {
    /// Why all generations share one socket: words to go on with after "... is shared: ". None where it is steered.
    pub fn why_shared(&self) -> Option<String> {
        self.slots.borrow().why_shared().map(str::to_owned)
    }

    pub fn is_steered(&self) -> bool {
        self.slots.borrow().why_shared().is_none()
    }

    /// The first slot, which is always there: for what is the same on all of them.
    pub fn first(&self) -> Rc<OwnedFd> {
        self.slots.borrow().first()
    }

    /// The socket of a generation: it was made ready for it.
    pub fn of(&self, slot: SlotId) -> Rc<OwnedFd> {
        self.slot(slot).unwrap_or_else(|| self.first())
    }

    /// The socket of a slot; `None` if it has not been made.
    pub fn slot(&self, slot: SlotId) -> Option<Rc<OwnedFd>> {
        self.slots.borrow().slot(slot)
    }

    /// For a generation that is about to start, on a slot where nobody lives: made where it is missing, listening, with the
    /// options it was made with. O_NONBLOCK is the caller's. A slot that a server has spoiled for good is replaced, so
    /// what [`Self::slot`] said before may be another socket.
    ///
    /// # Errors
    /// What making or mending it failed with; InvalidInput for a slot beyond the last.
    pub fn ready_slot(&self, slot: SlotId) -> io::Result<Rc<OwnedFd>> {
        self.slots.borrow_mut().ready_slot(slot)
    }

    /// The same, but it returns `None` instead of letting a socket join the group of its address: before one does, the caller
    /// has to know who else is in the group.
    pub fn ready_in_place(&self, slot: SlotId) -> io::Result<Option<Rc<OwnedFd>>> {
        self.slots.borrow_mut().ready_in_place(slot)
    }

    /// Whether [`Self::ready_slot`] does all that [`Self::refresh`] would do now: no server has had another slot.
    pub fn ready_mends_all(&self, slot: SlotId) -> bool {
        self.slots.borrow().ready_mends_all(slot)
    }

    /// To be called while nobody waits: looks what [`Self::ready_slot`] will have to know of a new socket.
    pub fn learn_options(&self) {
        self.slots.borrow().learn_options();
    }

    /// Who gets what comes from now on. What a server did to the group is undone first ([`Self::refresh`]).
    pub fn steer(&self, steering: &Steering) -> io::Result<()> {
        self.slots.borrow_mut().steer(steering)
    }

    /// A probe before the steering, beginning now; None ends it.
    ///
    /// # Errors
    /// NotConnected: nobody listens on the slot.
    pub fn probe(&self, probe: Option<ProbePort>) -> io::Result<()> {
        self.slots.borrow_mut().probe(probe)
    }

    /// Undoes what a server may have done to what all slots share, and a small listen(2) of its own. It is safe under
    /// living servers. A slot of a group that no longer listens is steered around until [`Self::mend`].
    pub fn refresh(&self) -> io::Result<()> {
        self.slots.borrow_mut().refresh()
    }

    /// Listens again where a server has shut the socket down; it is called after EPOLLHUP, and harmless at any time. Returns
    /// whether the server had.
    pub fn mend(&self, slot: SlotId) -> io::Result<bool> {
        self.slots.borrow_mut().mend(slot)
    }

    /// Checks whether connections go where they should, after something has come to a slot without the traffic, and repairs
    /// that. Only TCP needs it, because a server can move the members of its group.
    pub fn verify(&self, suspect: SlotId) -> io::Result<()> {
        let Some(at) = self.address_to_connect() else { return Ok(()) };
        self.slots.borrow_mut().verify(suspect, at)
    }

    /// A server has connected the socket of this slot (UDP): it has left its group.
    pub fn is_lost(&self, slot: SlotId) -> bool {
        self.slots.borrow().is_lost(slot)
    }

    /// Gives the slot a new socket, when its server binds the address again because it has connected the one that it had to
    /// a client, or is about to where we `may_connect` it: a datagram waits there for that. `used` are the slots of
    /// generations. Returns whether there is a new one, which only steered UDP can have.
    pub fn renew(&self, slot: SlotId, used: &[SlotId], may_connect: bool) -> io::Result<bool> {
        self.slots.borrow_mut().renew(slot, used, may_connect)
    }

    /// Servers have connected sockets of this address to clients, and got others ([`Self::renew`]).
    pub fn renews(&self) -> bool {
        self.slots.borrow().renews()
    }

    /// A generation more has slots: those are `used`. The next [`Self::renew`] has a socket ready.
    pub fn keep_heir(&self, used: &[SlotId]) -> io::Result<()> {
        self.slots.borrow_mut().keep_heir(used)
    }

    /// shutdown(2) of a slot that has not the traffic, until [`Self::ready_slot`]: what waits there goes to the others
    /// where net.ipv4.tcp_migrate_req is 1, and is reset where it is 0.
    ///
    /// # Errors
    /// InvalidInput: the slot has the traffic, or others than these two are members. Unsupported: all but steered TCP.
    pub fn shut(&self, slot: SlotId) -> io::Result<()> {
        self.slots.borrow_mut().shut(slot)
    }

    /// Connections in the accept queue of all slots, and the limit of the one with the traffic; None where the kernel
    /// does not say (all but listening TCP).
    pub fn queue(&self) -> (Option<u32>, Option<u32>) {
        match self.slots.borrow().queue() {
            Ok(queue) => queue.unzip(),
            Err(error) => {
                log::debug!("{}: cannot read the length of its queue (TCP_INFO): {error}", self.address);
                (None, None)
            }
        }
    }

    /// How many connections wait in a slot. Where the kernel does not say, all but TCP: 1 if anything waits.
    pub fn queued(&self, slot: SlotId) -> io::Result<u32> {
        let Some(fd) = self.slot(slot) else { return Ok(0) };
        if self.kind == Kind::Tcp {
            return Ok(sys::tcp_listen_queue(&fd)?.0);
        }
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO)?;
        Ok(fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN)).into())
    }

    /// What TCP has dropped so far, by the inode of each socket of ours; nothing where the kernel does not say.
    pub fn drops(&self) -> Vec<(u64, u32)> {
        let slots = SlotId::all().filter(|_| self.kind == Kind::Tcp).filter_map(|slot| self.slot(slot));
        let drops = |fd: Rc<OwnedFd>| Some((fstat(&fd).ok()?.st_ino, sys::drops(&fd).ok()?));
        slots.filter_map(drops).collect()
    }

    /// The sockets of this address that listen and are not ours, in the order they came: they have places in the
    /// group, and ours may have moved.
    pub fn set_strangers(&self, inodes: &[u64]) -> io::Result<()> {
        self.slots.borrow_mut().set_strangers(inodes)
    }

    /// Sockets of ours change places in the group when one that is not ours leaves it, of which nothing tells.
    pub fn may_move(&self) -> bool {
        self.slots.borrow().may_move()
    }

    /// The inode of this slot's socket, as in fstat(2) and sock_diag(7).
    pub fn inode(&self, slot: SlotId) -> io::Result<u64> {
        Ok(fstat(self.of(slot))?.st_ino)
    }

    /// The inodes of all slots; none of AF_UNIX, which no other process can join.
    pub fn inodes(&self) -> io::Result<Vec<u64>> {
        self.slots.borrow().fds().iter().map(|fd| Ok(fstat(fd)?.st_ino)).collect()
    }

    /// Whether accepted connections say which slot they came from: IP_MULTICAST_LOOP, which means nothing to TCP, counts
    /// 1, IP_BIND_ADDRESS_NO_PORT 2, IP_FREEBIND 4. Whether sock_diag(7) shows it (Linux 5.10) is another question.
    pub fn is_labelled(&self) -> bool {
        self.slots.borrow().is_labelled()
    }

    /// Where a client on this host finds this slot; over TCP and UDP, which slot it finds is a matter of steering. None
    /// where it is bound to an interface that such a client would not come through.
    pub fn target(&self, slot: SlotId) -> Option<Target> {
        match self.kind {
            Kind::Unix => self.path_of(slot).map(Target::Unix).or_else(|| self.name_to_connect()),
            Kind::Udp => self.address_to_connect().map(Target::Udp),
            Kind::Tcp => self.address_to_connect().map(Target::Tcp),
            Kind::UnixGram | Kind::SeqPacket | Kind::Fd => None,
        }
    }

    /// The address to connect to, for AF_UNIX.
    fn name_to_connect(&self) -> Option<Target> {
        let name: UnixAddr = getsockname(self.first().as_raw_fd()).ok()?;
        let path = name.path().map(|path| Target::Unix(path.to_path_buf()));
        path.or_else(|| name.as_abstract().map(|name| Target::Abstract(name.to_vec())))
    }

    /// Where a client on this host finds it; None for AF_UNIX, and where it is bound to an interface that such a client
    /// would not come through.
    pub fn address_to_connect(&self) -> Option<SocketAddr> {
        if self.asked.options.device.as_deref().is_some_and(|device| device != "lo") {
            return None;
        }
        let mut address = self.local_address()?;
        if address.ip().is_unspecified() {
            // A host may have [::] and no ::1.
            address.set_ip(if address.is_ipv4() || self.takes_ipv4() {
                IpAddr::from(Ipv4Addr::LOCALHOST)
            } else {
                Ipv6Addr::LOCALHOST.into()
            });
        }
        Some(address)
    }

    /// `[::]` with IPv4 included, unless another socket of ours has that.
    pub fn takes_ipv4(&self) -> bool {
        let is_wildcard = |address: SocketAddr| address.is_ipv6() && address.ip().is_unspecified();
        !self.has_ipv4_beside.get()
            && self.local_address().is_some_and(is_wildcard)
            && getsockopt(&self.first(), sockopt::Ipv6V6Only).is_ok_and(|only| !only)
    }

    /// The address for which it was bound. For AF_UNIX it can differ from the name that the kernel reports.
    pub fn asked_address(&self) -> &Address {
        &self.asked.address
    }

    /// The local address (getsockname(2)); `None` for AF_UNIX.
    pub fn local_address(&self) -> Option<SocketAddr> {
        let address: SockaddrStorage = getsockname(self.first().as_raw_fd()).ok()?;
        sys::inet_address(&address)
    }

    /// Where this slot alone is reached; None for all but steered AF_UNIX.
    pub fn path_of(&self, slot: SlotId) -> Option<PathBuf> {
        self.slots.borrow().path_of(slot)
    }

    /// What we made in the file system for it.
    pub fn made_paths(&self) -> Vec<PathBuf> {
        let own = self.own_path.iter().flat_map(|own| own.made_paths());
        own.chain(self.slots.borrow().made_paths()).collect()
    }

    /// What to watch with inotify(7) for [`super::WATCH`], and to look at with [`Self::check_path`] then.
    pub fn watch_paths(&self) -> Vec<PathBuf> {
        self.slots.borrow().watch_paths()
    }

    /// Sees to it that the path leads to us. None for all but steered AF_UNIX.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn check_path(&self) -> io::Result<Option<Checked>> {
        self.slots.borrow_mut().check_path()
    }

    /// RemoveOnStop=
    pub(super) fn set_removes(&mut self, removes: bool) {
        if let Some(path) = &mut self.own_path {
            path.set_removes(removes);
        }
        self.slots.get_mut().set_removes(removes);
    }
}
