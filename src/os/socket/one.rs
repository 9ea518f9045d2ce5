//! The slots of an address that cannot be steered, or is not to be: a single socket, which all generations share.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use nix::sys::socket::{SockaddrStorage, getpeername, getsockopt, sockopt};

use super::saved::SavedSlots;
use super::slots::Slots;
use crate::config::Kind;
use crate::core::SlotId;
use crate::os::saved::KeptFds;
use crate::os::sys;

/// Why a socket is shared that could be steered.
pub(super) const NOT_ASKED: &str = "it was bound without Handover=steered";

#[derive(Debug)]
pub(super) struct OneSocket {
    fd: Rc<OwnedFd>,
    kind: Kind,
    /// The backlog; `None` for datagrams, and where an outer manager has called listen(2).
    backlog: Option<u32>,
    why_shared: String,
}

impl OneSocket {
    pub(super) fn hold(
        fd: OwnedFd,
        kind: Kind,
        backlog: Option<u32>,
        why_shared: impl Into<String>,
    ) -> Box<dyn Slots> {
        Box::new(Self { fd: Rc::new(fd), kind, backlog, why_shared: why_shared.into() })
    }
}

impl Slots for OneSocket {
    fn slot(&self, _slot: SlotId) -> Option<Rc<OwnedFd>> {
        Some(Rc::clone(&self.fd))
    }

    fn ready_slot(&mut self, _slot: SlotId) -> io::Result<Rc<OwnedFd>> {
        self.refresh()?;
        Ok(Rc::clone(&self.fd))
    }

    fn ready_mends_all(&self, _slot: SlotId) -> bool {
        true
    }

    fn refresh(&mut self) -> io::Result<()> {
        self.backlog.map_or(Ok(()), |backlog| sys::listen(&self.fd, backlog))
    }

    fn mend(&mut self, _slot: SlotId) -> io::Result<bool> {
        if self.backlog.is_none() || getsockopt(&self.fd, sockopt::AcceptConn)? {
            return Ok(false);
        }
        self.refresh()?;
        Ok(true)
    }

    fn fds(&self) -> Vec<Rc<OwnedFd>> {
        vec![Rc::clone(&self.fd)]
    }

    fn why_shared(&self) -> Option<&str> {
        Some(&self.why_shared)
    }

    fn is_lost(&self, _slot: SlotId) -> bool {
        self.kind == Kind::Udp && getpeername::<SockaddrStorage>(self.fd.as_raw_fd()).is_ok()
    }

    fn queue(&self) -> io::Result<Option<(u32, u32)>> {
        if self.kind == Kind::Tcp { sys::tcp_listen_queue(&self.fd).map(Some) } else { Ok(None) }
    }

    fn save(&self, fds: &mut KeptFds) -> SavedSlots {
        SavedSlots::One { fd: fds.keep(&self.fd), why_shared: self.why_shared.clone() }
    }
}
