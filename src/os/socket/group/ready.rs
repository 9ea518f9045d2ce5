//! A slot of a group is made ready for a generation: what the server before it did to the socket is undone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use super::super::restore::restore;
use super::Group;
use crate::core::SlotId;
use crate::core::limits::GENERATIONS;
use crate::os::sys;

impl Group {
    /// `None`: there is no socket that can stay where it is in the group.
    pub(super) fn in_place(&mut self, id: SlotId) -> io::Result<Option<Rc<OwnedFd>>> {
        if usize::from(id.0) >= GENERATIONS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let Some(slot) = self.slots.get_mut(usize::from(id.0)).and_then(Option::as_mut) else {
            return Ok(None);
        };
        let fd = Rc::clone(&slot.fd);
        if std::mem::replace(&mut slot.is_fresh, false) {
            return Ok(Some(fd));
        }
        slot.is_shut = false;
        if self.is_spoiled(id, &fd)? {
            return Ok(None);
        }
        restore(&fd, &self.plan);
        self.label(id, &fd, false)?;
        setsockopt(&fd, sockopt::ReusePort, &true)?;
        if self.order.index_of(id).is_none() || !self.listens(id)? {
            return Ok(None);
        }
        self.listen(&fd)?;
        // It listens, so it does as well as any other. Where its server has locked it, another one has to.
        match sys::attach_reuseport_program(&fd, &self.program()) {
            Ok(()) => {}
            Err(_) => self.attach()?,
        }
        Ok(Some(fd))
    }

    /// After [`Self::in_place`]: a socket that comes back as the last of the group, or a new one.
    pub(super) fn ready_anew(&mut self, id: SlotId) -> io::Result<Rc<OwnedFd>> {
        let fd = match self.get(id) {
            Some(slot) => Rc::clone(&slot.fd),
            None => return self.place(id),
        };
        if self.is_spoiled(id, &fd)? {
            return self.place(id);
        }
        match self.rejoin(id, &fd) {
            // A server attached a program of its own while it did not listen.
            Err(error) if error.raw_os_error() == Some(Errno::EADDRINUSE as i32) => self.place(id),
            result => result.map(|()| fd),
        }
    }

    /// shutdown(2) and connect(2) are for ever on UDP. A filter that is locked (SO_LOCK_FILTER) cannot be taken off, and
    /// may drop everything; what waits behind it is worth more than that.
    fn is_spoiled(&self, id: SlotId, fd: &OwnedFd) -> io::Result<bool> {
        // Detaches a filter that the server attached: ENOENT where there is none, EPERM where it is locked.
        let detached = sys::set_int_option(fd, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0);
        let is_locked = detached.is_err_and(|error| error.raw_os_error() == Some(Errno::EPERM as i32));
        if !is_locked && !self.plan.is_udp() {
            return Ok(false);
        }
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO)?;
        let events = fds[0].revents().unwrap_or(PollFlags::empty());
        if is_locked && !events.contains(PollFlags::POLLIN) {
            return Ok(true);
        }
        Ok(self.plan.is_udp() && (!self.listens(id)? || events.contains(PollFlags::POLLHUP)))
    }
}
