//! TCP and UDP.
//!
//! SO_REUSEADDR is set on TCP, so that a restart does not wait for TIME_WAIT; two listeners still exclude each other.
//! It is not set on UDP, where it means something else: a second socket, of any user, could bind the same port and
//! take the datagrams. For the same reason a first socket is bound without SO_REUSEPORT, unless ReusePort= asks for it;
//! what follows, where there are to be several of one address, is in `group`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::net::if_::{if_indextoname, if_nametoindex};
use nix::sys::socket::{SetSockOpt, SockaddrStorage, bind, getsockname, setsockopt, sockopt};

use super::BindError;
use super::beside::Families;
use super::group::Group;
use super::options::{self, Family};
use super::slots::{NOT_ASKED, Slots};
use crate::config::{Handover, Kind, Listener, Protocol};
use crate::os::sys;

/// How often a port picked by the kernel is tried before giving up: somebody took it between two system calls.
const PORT_TRIES: u32 = 16;

/// What went wrong, before it is put into words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    /// The system call or the directive.
    pub(super) step: &'static str,
    pub(super) errno: Errno,
    pub(super) address: SocketAddr,
}

/// A port alone: `[::]` with IPv4 included, or `0.0.0.0` where the host has no IPv6.
pub(super) fn hold_port(listener: &Listener, port: u16, handover: Handover) -> Result<Slots, BindError> {
    let v6_only = listener.options.v6_only;
    let v6 = Plan {
        listener: listener.clone(),
        v6_only: Some(v6_only.unwrap_or(false)),
        address: SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
        is_beside: false,
    };
    let v4 = || Plan {
        listener: listener.clone(),
        v6_only: None,
        address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        is_beside: false,
    };
    let result = match v6.hold(handover) {
        // Not for BindIPv6Only=ipv6-only: IPv4 is what it asked to keep out.
        Err(Failure { errno: Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL, .. }) if v6_only != Some(true) => {
            v4().hold(handover)
        }
        result => result,
    };
    result.map_err(|failure| BindError::inet(listener, &failure))
}

pub(super) fn hold_address(
    listener: &Listener,
    mut address: SocketAddr,
    interface: Option<&str>,
    handover: Handover,
) -> Result<Slots, BindError> {
    if let Some(interface) = interface {
        let SocketAddr::V6(v6) = &mut address else {
            return Err(BindError::scope_of_ipv4(listener, interface));
        };
        let index = interface_index(interface).ok_or_else(|| BindError::no_interface(listener, interface))?;
        v6.set_scope_id(index);
    }
    let v6_only = if address.is_ipv6() { listener.options.v6_only } else { None };
    let plan = Plan { listener: listener.clone(), v6_only, address, is_beside: false };
    plan.hold(handover).map_err(|failure| BindError::inet(listener, &failure))
}

/// One family of a port alone, or both, beside a socket of ours that has another one, or both: the kernel prefers that of
/// IPv4 for what comes by IPv4. Both sockets need SO_REUSEPORT for that.
pub(super) fn hold_beside(
    listener: &Listener,
    families: Families,
    port: u16,
    handover: Handover,
) -> Result<Slots, BindError> {
    let (ip, v6_only) = match families {
        Families::V4 => (IpAddr::from(Ipv4Addr::UNSPECIFIED), None),
        Families::V6 => (Ipv6Addr::UNSPECIFIED.into(), Some(true)),
        Families::Both => (Ipv6Addr::UNSPECIFIED.into(), Some(false)),
    };
    let plan =
        Plan { listener: listener.clone(), v6_only, address: SocketAddr::new(ip, port), is_beside: true };
    plan.hold(handover).map_err(|failure| BindError::inet(listener, &failure))
}

/// By name first: an interface may be called `2`.
fn interface_index(interface: &str) -> Option<u32> {
    if let Ok(index) = if_nametoindex(interface) {
        return Some(index);
    }
    let index = interface.parse().ok()?;
    if_indextoname(index).is_ok().then_some(index)
}

/// What the sockets of one address are made from.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    listener: Listener,
    /// None leaves it to net.ipv6.bindv6only, and for IPv4.
    v6_only: Option<bool>,
    address: SocketAddr,
    /// Another socket of ours has the same port, and both have SO_REUSEPORT.
    is_beside: bool,
}

impl Plan {
    /// A port picked by the kernel is not locked: after shutdown(2) and listen(2) by a server it would change. So the
    /// number is learned with a scratch socket and then asked for by name.
    fn hold(mut self, handover: Handover) -> Result<Slots, Failure> {
        if self.address.port() != 0 {
            return self.slots(handover);
        }
        let mut tries = 1;
        loop {
            self.address.set_port(0);
            self.address.set_port(self.free_port()?);
            match self.slots(handover) {
                Err(Failure { errno: Errno::EADDRINUSE, .. }) if tries < PORT_TRIES => tries += 1,
                result => return result,
            }
        }
    }

    fn slots(&self, handover: Handover) -> Result<Slots, Failure> {
        let (fd, failures) = self.unbound()?;
        let slots = match self.why_shared(handover) {
            None => Group::make(self, fd)?,
            Some(why) => {
                self.bind(&fd)?;
                self.listen(&fd)?;
                Slots::one(fd, why)
            }
        };
        // Of one beside another it was said already.
        if !self.is_beside {
            options::warn(&self.listener, &failures);
        }
        Ok(slots)
    }

    /// What is known to be impossible, or not asked for.
    fn why_shared(&self, handover: Handover) -> Option<&'static str> {
        let options = &self.listener.options;
        if handover == Handover::Shared {
            return Some(NOT_ASKED);
        }
        if options.reuse_port {
            return Some("with ReusePort=yes others may listen there, too");
        }
        match options.protocol {
            Some(Protocol::UdpLite) => return Some("UDP-Lite cannot be steered"),
            Some(Protocol::Sctp) => return Some("SCTP cannot be steered"),
            Some(Protocol::Mptcp) => return Some("MPTCP cannot be steered"),
            None => {}
        }
        // The kernel copies these to every socket of the port: the others would only collect them.
        let is_for_many = options.broadcast || self.address.ip().is_multicast();
        (self.is_udp() && is_for_many).then_some("broadcasts and multicasts reach every socket of a port")
    }

    fn free_port(&self) -> Result<u16, Failure> {
        let (scratch, _) = self.unbound()?;
        self.bind(&scratch)?;
        let address: SockaddrStorage =
            getsockname(scratch.as_raw_fd()).map_err(self.failed("getsockname"))?;
        sys::inet_address(&address)
            .map(|address| address.port())
            .ok_or_else(|| self.failed("getsockname")(Errno::EAFNOSUPPORT))
    }

    /// A socket with all its options, and a sentence for each that could not be set.
    pub(super) fn unbound(&self) -> Result<(OwnedFd, Vec<String>), Failure> {
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

    pub(super) fn bind(&self, fd: &OwnedFd) -> Result<(), Failure> {
        bind(fd.as_raw_fd(), &SockaddrStorage::from(self.address)).map_err(self.failed("bind"))
    }

    /// Datagrams come without it.
    pub(super) fn listen(&self, fd: &OwnedFd) -> Result<(), Failure> {
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

    pub(super) fn is_beside(&self) -> bool {
        self.is_beside
    }

    pub(super) fn listener(&self) -> &Listener {
        &self.listener
    }

    fn set<O: SetSockOpt>(
        &self,
        fd: &OwnedFd,
        step: &'static str,
        option: O,
        value: &O::Val,
    ) -> Result<(), Failure> {
        setsockopt(fd, option, value).map_err(self.failed(step))
    }

    pub(super) fn failed(&self, step: &'static str) -> impl Fn(Errno) -> Failure + use<> {
        let address = self.address;
        move |errno| Failure { step, errno, address }
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        failure.errno.into()
    }
}

/// The errno of a system call's error.
pub(super) fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}
