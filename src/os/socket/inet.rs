//! TCP and UDP.
//!
//! SO_REUSEADDR is set on TCP, so that a restart does not wait for TIME_WAIT; two listeners still exclude each other.
//! It is not set on UDP, where it means something else: a second socket, of any user, could bind the same port and
//! take the datagrams. SO_REUSEPORT is set only where ReusePort= asks for it, for the same reason.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::net::if_::{if_indextoname, if_nametoindex};
use nix::sys::socket::{SetSockOpt, SockaddrStorage, bind, getsockname, setsockopt, sockopt};

use super::BindError;
use super::options::{self, Family};
use crate::config::{Kind, Listener, SocketOptions};
use crate::os::sys;

/// How often a port picked by the kernel is tried before giving up: somebody took it between two system calls.
const PORT_TRIES: u32 = 16;

/// What went wrong, before it is put into words.
pub(super) struct Failure {
    /// The system call or the directive.
    pub(super) step: &'static str,
    pub(super) errno: Errno,
    pub(super) address: SocketAddr,
}

/// A port alone: `[::]` with IPv4 included, or `0.0.0.0` where the host has no IPv6.
pub(super) fn hold_port(
    listener: &Listener,
    port: u16,
    options: &SocketOptions,
) -> Result<OwnedFd, BindError> {
    let v6 = Plan {
        listener,
        kind: listener.kind,
        v6_only: Some(options.v6_only.unwrap_or(false)),
        address: SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
        options,
    };
    let result = match v6.hold() {
        // Not for BindIPv6Only=ipv6-only: IPv4 is what it asked to keep out.
        Err(Failure { errno: Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL, .. })
            if options.v6_only != Some(true) =>
        {
            Plan { v6_only: None, address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), ..v6 }.hold()
        }
        result => result,
    };
    result.map_err(|failure| BindError::inet(listener, &failure))
}

pub(super) fn hold_address(
    listener: &Listener,
    mut address: SocketAddr,
    interface: Option<&str>,
    options: &SocketOptions,
) -> Result<OwnedFd, BindError> {
    if let Some(interface) = interface {
        let SocketAddr::V6(v6) = &mut address else {
            return Err(BindError::scope_of_ipv4(listener, interface));
        };
        let index = interface_index(interface).ok_or_else(|| BindError::no_interface(listener, interface))?;
        v6.set_scope_id(index);
    }
    let v6_only = if address.is_ipv6() { options.v6_only } else { None };
    let plan = Plan { listener, kind: listener.kind, v6_only, address, options };
    plan.hold().map_err(|failure| BindError::inet(listener, &failure))
}

/// By name first: an interface may be called `2`.
fn interface_index(interface: &str) -> Option<u32> {
    if let Ok(index) = if_nametoindex(interface) {
        return Some(index);
    }
    let index = interface.parse().ok()?;
    if_indextoname(index).is_ok().then_some(index)
}

/// One socket to be made.
struct Plan<'a> {
    listener: &'a Listener,
    kind: Kind,
    /// None leaves it to net.ipv6.bindv6only, and for IPv4.
    v6_only: Option<bool>,
    address: SocketAddr,
    options: &'a SocketOptions,
}

impl Plan<'_> {
    /// A port picked by the kernel is not locked: after shutdown(2) and listen(2) by a server it would change. So the
    /// number is learned with a scratch socket and then asked for by name.
    fn hold(&self) -> Result<OwnedFd, Failure> {
        let mut tries = 1;
        loop {
            if self.address.port() != 0 {
                return self.listening(self.address);
            }
            let mut address = self.address;
            address.set_port(self.free_port()?);
            match self.listening(address) {
                Err(Failure { errno: Errno::EADDRINUSE, .. }) if tries < PORT_TRIES => tries += 1,
                result => return result,
            }
        }
    }

    fn free_port(&self) -> Result<u16, Failure> {
        let scratch = self.bound(self.address, &mut Vec::new())?;
        let address: SockaddrStorage =
            getsockname(scratch.as_raw_fd()).map_err(self.failed("getsockname", self.address))?;
        let port = address.as_sockaddr_in().map(|v4| v4.port());
        port.or_else(|| address.as_sockaddr_in6().map(|v6| v6.port())).ok_or(Failure {
            step: "getsockname",
            errno: Errno::EAFNOSUPPORT,
            address: self.address,
        })
    }

    fn listening(&self, address: SocketAddr) -> Result<OwnedFd, Failure> {
        let mut failures = Vec::new();
        let fd = self.bound(address, &mut failures)?;
        if self.kind == Kind::Tcp {
            // Two TCP sockets with SO_REUSEADDR may both bind; the second listen(2) is what fails then.
            sys::listen(&fd, self.options.backlog)
                .map_err(|error| self.failed("listen", address)(errno_of(&error)))?;
        }
        options::warn(self.listener, &failures);
        Ok(fd)
    }

    /// What could not be set goes to `failures`.
    fn bound(&self, address: SocketAddr, failures: &mut Vec<String>) -> Result<OwnedFd, Failure> {
        let is_ipv6 = address.is_ipv6();
        let family = if is_ipv6 { libc::AF_INET6 } else { libc::AF_INET };
        let kind = if self.kind == Kind::Tcp { libc::SOCK_STREAM } else { libc::SOCK_DGRAM };
        let fd = sys::socket(family, kind, options::protocol(self.options))
            .map_err(|error| self.failed("socket", address)(errno_of(&error)))?;
        if let Some(v6_only) = self.v6_only {
            self.set(&fd, "BindIPv6Only=", sockopt::Ipv6V6Only, &v6_only)?;
        }
        if let Some(device) = &self.options.device {
            // The kernel cuts a longer name off, and what is left may be another interface.
            if device.len() >= libc::IFNAMSIZ {
                return Err(self.failed("BindToDevice=", address)(Errno::ENODEV));
            }
            self.set(&fd, "BindToDevice=", sockopt::BindToDevice, &device.into())?;
        }
        if self.kind == Kind::Tcp {
            self.set(&fd, "SO_REUSEADDR", sockopt::ReuseAddr, &true)?;
        }
        let family = if is_ipv6 { Family::Inet6 } else { Family::Inet };
        *failures = options::set(&fd, family, self.kind, self.options);
        bind(fd.as_raw_fd(), &SockaddrStorage::from(address)).map_err(self.failed("bind", address))?;
        Ok(fd)
    }

    fn set<O: SetSockOpt>(
        &self,
        fd: &OwnedFd,
        step: &'static str,
        option: O,
        value: &O::Val,
    ) -> Result<(), Failure> {
        setsockopt(fd, option, value).map_err(self.failed(step, self.address))
    }

    fn failed(&self, step: &'static str, address: SocketAddr) -> impl Fn(Errno) -> Failure + use<> {
        move |errno| Failure { step, errno, address }
    }
}

/// The errno of a system call's error.
pub(super) fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}
