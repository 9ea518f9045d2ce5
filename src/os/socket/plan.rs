//! The type [`InetPlan`], from which all sockets of one TCP or UDP address are made, and the steps of making one:
//! options, bind(2), listen(2).

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use nix::sys::socket::{SetSockOpt, SockaddrStorage, bind, getsockname, setsockopt, sockopt};

use super::options::{self, Family, errno_of};
use crate::config::{Kind, Listener};
use crate::os::sys;

/// What went wrong, before it is put into words.
#[derive(Clone, Copy, Debug)]
pub(super) struct InetError {
    /// The system call or the directive.
    pub(super) step: &'static str,
    pub(super) errno: Errno,
    pub(super) address: SocketAddr,
}

/// Why there is no group at an address.
pub(super) enum NoGroup {
    /// The first socket serves all generations: it is bound and listens, and the kernel refused the second one.
    Shared(OwnedFd, String),
    /// bind(2) or a step before it failed.
    Bind(InetError),
}

impl From<InetError> for NoGroup {
    fn from(error: InetError) -> Self {
        Self::Bind(error)
    }
}

/// Whose addresses a socket takes, all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    V4,
    V6,
    /// IPv6, and what comes by IPv4 as well.
    Both,
}

/// What the sockets of one address are made from.
#[derive(Clone, Debug)]
pub(super) struct InetPlan {
    pub(super) listener: Rc<Listener>,
    /// IPV6_V6ONLY; `None` leaves it to net.ipv6.bindv6only. IPv4 has none.
    pub(super) v6_only: Option<bool>,
    pub(super) address: SocketAddr,
    /// Another socket of ours has the same port, and both have SO_REUSEPORT.
    pub(super) is_beside: bool,
}

impl InetPlan {
    /// A port that nobody has, learned with a scratch socket.
    pub(super) fn free_port(&self) -> Result<u16, InetError> {
        let (scratch, _) = self.unbound()?;
        self.bind(&scratch)?;
        let address: SockaddrStorage =
            getsockname(scratch.as_raw_fd()).map_err(self.failed("getsockname"))?;
        sys::inet_address(&address)
            .map(|address| address.port())
            .ok_or_else(|| self.failed("getsockname")(Errno::EAFNOSUPPORT))
    }

    /// A socket with all its options, and a sentence for each that could not be set.
    pub(super) fn unbound(&self) -> Result<(OwnedFd, Vec<String>), InetError> {
        let options = &self.listener.options;
        let is_ipv6 = self.address.is_ipv6();
        let family = if is_ipv6 { libc::AF_INET6 } else { libc::AF_INET };
        let kind = if self.is_udp() { libc::SOCK_DGRAM } else { libc::SOCK_STREAM };
        let fd = sys::socket(family, kind, options::protocol(options))
            .map_err(|error| self.failed("socket")(errno_of(&error)))?;
        if let Some(v6_only) = self.v6_only {
            self.set(&fd, "BindIPv6Only=", sockopt::Ipv6V6Only, &v6_only)?;
        }
        if let Some(device) = &options.device {
            // The kernel cuts a longer name off, and what is left may be another interface.
            if device.len() >= libc::IFNAMSIZ {
                return Err(self.failed("BindToDevice=")(Errno::ENODEV));
            }
            self.set(&fd, "BindToDevice=", sockopt::BindToDevice, &device.into())?;
        }
        if !self.is_udp() {
            self.set(&fd, "SO_REUSEADDR", sockopt::ReuseAddr, &true)?;
        }
        if self.is_beside {
            self.set(&fd, "SO_REUSEPORT", sockopt::ReusePort, &true)?;
        }
        let family = if is_ipv6 { Family::Inet6 } else { Family::Inet };
        let failures = options::set(&fd, family, self.listener.kind, options);
        Ok((fd, failures))
    }

    pub(super) fn bind(&self, fd: &OwnedFd) -> Result<(), InetError> {
        bind(fd.as_raw_fd(), &SockaddrStorage::from(self.address)).map_err(self.failed("bind"))
    }

    /// Listens, unless the socket takes datagrams.
    pub(super) fn listen(&self, fd: &OwnedFd) -> Result<(), InetError> {
        if self.is_udp() {
            return Ok(());
        }
        // Two TCP sockets with SO_REUSEADDR may both bind; the second listen(2) is what fails then.
        sys::listen(fd, self.listener.options.backlog)
            .map_err(|error| self.failed("listen")(errno_of(&error)))
    }

    pub(super) fn is_udp(&self) -> bool {
        self.listener.kind == Kind::Udp
    }

    fn set<O: SetSockOpt>(
        &self,
        fd: &OwnedFd,
        step: &'static str,
        option: O,
        value: &O::Val,
    ) -> Result<(), InetError> {
        setsockopt(fd, option, value).map_err(self.failed(step))
    }

    pub(super) fn failed(&self, step: &'static str) -> impl Fn(Errno) -> InetError + use<> {
        let address = self.address;
        move |errno| InetError { step, errno, address }
    }
}

impl From<InetError> for io::Error {
    fn from(failure: InetError) -> Self {
        failure.errno.into()
    }
}
