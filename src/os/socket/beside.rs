//! Binds one address family of a port beside the held socket of the other or of both, for a server that binds what is
//! not held, where only a port was asked for. Until it is known which of the two the server keeps, the port is bound
//! by both, and never free.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use nix::sys::socket::{setsockopt, sockopt};

use super::plan::Families;
use super::program::no_more_connections;
use super::{HeldSocket, NamedSocket, inet, own_address};
use crate::config::{Address, Handover, Kind};
use crate::os::sys;
use crate::os::warning::Warn;

impl HeldSocket {
    /// Nothing but a port was asked for, so that it is for the server to say which families of addresses it means.
    pub fn is_port_alone(&self) -> bool {
        let is_inet = self.kind.is_inet();
        let is_for_both = self.asked.options.v6_only != Some(true);
        is_inet && is_for_both && matches!(self.asked.address, Address::Port(_)) && self.inherited.is_none()
    }

    pub fn is_ipv4(&self) -> bool {
        self.local_address().is_some_and(|address| address.is_ipv4())
    }

    /// The other of the two has what comes by IPv4, or no longer.
    fn set_ipv4_beside(&self, has: bool) {
        self.has_ipv4_beside.set(has);
    }
}

impl HeldSocket {
    /// It is about to be closed, once what waits in it was passed on. A client whose connection began in between would see
    /// it reset; one that is not answered asks again a second later, and is then refused, or meets the other of the two.
    pub fn take_no_more(&self) -> io::Result<()> {
        if self.kind != Kind::Tcp {
            return Ok(());
        }
        let filter = no_more_connections();
        self.slots.borrow().fds().iter().try_for_each(|fd| sys::attach_filter(fd, &filter))
    }

    /// The other of the two is about to go.
    pub fn be_alone_again(&self) -> io::Result<()> {
        self.set_ipv4_beside(false);
        if !self.is_steered() {
            setsockopt(&self.first(), sockopt::ReusePort, &false)?;
        }
        Ok(())
    }
}

impl NamedSocket {
    /// All of IPv4, of IPv6 or of both, at the same port and with the same options.
    ///
    /// # Errors
    /// The kernel refuses it, or it was not asked for by a port alone.
    pub fn beside(&self, families: Families) -> io::Result<Self> {
        let Some(port) = self.port.filter(|_| self.is_port_alone()) else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        // A server may have taken it away.
        self.refresh()?;
        if !self.is_steered() {
            setsockopt(&self.first(), sockopt::ReusePort, &true)?;
        }
        let handover = if self.is_steered() { Handover::Steered } else { Handover::Shared };
        let slots = inet::hold_beside(&self.asked, families, port, handover).map_err(|error| {
            if let Err(error) = self.be_alone_again() {
                Warn::JoinPort(&self.address).because(error);
            }
            io::Error::other(error)
        })?;
        let (address, port) = own_address(&slots.first())?;
        // The kernel prefers the socket of IPv4 for what comes by IPv4.
        self.set_ipv4_beside(families == Families::V4);
        let socket = HeldSocket {
            own_path: None,
            slots: RefCell::new(slots),
            kind: self.kind,
            address,
            port,
            backlog: self.backlog,
            asked: Rc::clone(&self.asked),
            inherited: None,
            is_beside: true,
            has_ipv4_beside: Cell::new(families == Families::Both),
        };
        Ok(Self { name: self.name.clone(), socket: Rc::new(socket) })
    }
}
