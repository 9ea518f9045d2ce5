//! What [Socket] of systemd.socket(5) sets on a socket before it is bound.
//!
//! All of it is set before bind(2): buffers that come after listen(2) no longer change the window scaling, and the
//! rest is all the same to the kernel. What belongs to another kind of socket is left out without a word: one .socket
//! file may list a port and a path. As with systemd only BindIPv6Only= and BindToDevice= are worth failing for;
//! whatever else cannot be set is a warning.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::socket::{SetSockOpt, setsockopt, sockopt};

use crate::config::{Kind, Listener, Protocol, SocketOptions, Span, Timestamping};
use crate::os::sys;

/// An option of <linux/sctp.h> that libc lacks.
const SCTP_NODELAY: libc::c_int = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Inet,
    Inet6,
    Unix,
}

/// Sets all that may fail, and returns a sentence for each that did.
pub(super) fn set(fd: &OwnedFd, family: Family, kind: Kind, options: &SocketOptions) -> Vec<String> {
    let mut setter = OptionSetter { fd, failures: Vec::new() };
    setter.buffers(options);
    setter.any(options);
    match family {
        Family::Unix => setter.unix(options),
        Family::Inet | Family::Inet6 => {
            setter.inet(family == Family::Inet6, options);
            match (kind, options.protocol) {
                (Kind::Tcp, Some(Protocol::Sctp)) if options.no_delay => {
                    setter.raw("NoDelay=", libc::IPPROTO_SCTP, SCTP_NODELAY, 1);
                }
                (Kind::Tcp, None | Some(Protocol::Mptcp)) => setter.tcp(options),
                _ => {}
            }
        }
    }
    setter.failures
}

/// Logs the failures that [`set`] returned.
pub(super) fn warn(listener: &Listener, failures: &[String]) {
    for failure in failures {
        log::warn!("{}: {failure}", listener.place);
    }
}

/// Whole seconds as the kernel takes them: a part of one is a whole one, and what does not fit is for ever.
fn seconds(span: Span) -> i32 {
    span.as_nanos().div_ceil(1_000_000_000).min(i32::MAX as u64) as i32
}

struct OptionSetter<'a> {
    fd: &'a OwnedFd,
    failures: Vec<String>,
}

impl OptionSetter<'_> {
    fn set<O: SetSockOpt>(&mut self, directive: &str, option: O, value: &O::Val) {
        self.note(directive, setsockopt(self.fd, option, value));
    }

    fn switch<O: SetSockOpt<Val = bool>>(&mut self, directive: &str, option: O, on: bool) {
        if on {
            self.set(directive, option, &true);
        }
    }

    fn raw(&mut self, directive: &str, level: libc::c_int, name: libc::c_int, value: libc::c_int) {
        let result = sys::set_int_option(self.fd, level, name, value);
        self.note(directive, result.map_err(|error| errno_of(&error)));
    }

    fn note(&mut self, directive: &str, result: nix::Result<()>) {
        let Err(errno) = result else { return };
        let remedy = match errno {
            Errno::EPERM | Errno::EACCES => "run as root, or with CAP_NET_ADMIN",
            Errno::ENOENT if directive == "TCPCongestion=" => {
                "the sysctl net.ipv4.tcp_available_congestion_control lists those there are"
            }
            Errno::EINVAL | Errno::ERANGE | Errno::EDOM => "the kernel does not take this value",
            Errno::ENOPROTOOPT | Errno::EOPNOTSUPP => "this kernel has it not for this kind of socket",
            _ => "leave it out",
        };
        self.failures.push(format!("{directive} has no effect: {} ({remedy})", errno.desc()));
    }

    /// Sets the buffers, beyond net.core.rmem_max and wmem_max where we may.
    fn buffers(&mut self, options: &SocketOptions) {
        // The kernel doubles the figure in an int.
        let clamp = |bytes: u64| bytes.min(i32::MAX as u64 / 2) as usize;
        if let Some(bytes) = options.receive_buffer.map(clamp)
            && setsockopt(self.fd, sockopt::RcvBufForce, &bytes).is_err()
        {
            self.set("ReceiveBuffer=", sockopt::RcvBuf, &bytes);
        }
        if let Some(bytes) = options.send_buffer.map(clamp)
            && setsockopt(self.fd, sockopt::SndBufForce, &bytes).is_err()
        {
            self.set("SendBuffer=", sockopt::SndBuf, &bytes);
        }
    }

    fn any(&mut self, options: &SocketOptions) {
        self.switch("KeepAlive=", sockopt::KeepAlive, options.keep_alive);
        if let Some(priority) = options.priority {
            self.set("Priority=", sockopt::Priority, &priority);
        }
        if let Some(mark) = options.mark {
            self.set("Mark=", sockopt::Mark, &mark);
        }
        match options.timestamping {
            Timestamping::Off => {}
            Timestamping::Microseconds => self.set("Timestamping=", sockopt::ReceiveTimestamp, &true),
            Timestamping::Nanoseconds => self.set("Timestamping=", sockopt::ReceiveTimestampns, &true),
        }
    }

    fn unix(&mut self, options: &SocketOptions) {
        self.switch("PassCredentials=", sockopt::PassCred, options.pass_credentials);
        if options.pass_security {
            self.raw("PassSecurity=", libc::SOL_SOCKET, libc::SO_PASSSEC, 1);
        }
    }

    /// An IPv6 socket may speak IPv4 as well, so it gets the options of both. FreeBind= and Transparent= are one flag
    /// for both families, which the IPv4 option sets on either.
    fn inet(&mut self, is_ipv6: bool, options: &SocketOptions) {
        self.switch("ReusePort=", sockopt::ReusePort, options.reuse_port);
        self.switch("FreeBind=", sockopt::IpFreebind, options.free_bind);
        self.switch("Transparent=", sockopt::IpTransparent, options.transparent);
        self.switch("Broadcast=", sockopt::Broadcast, options.broadcast);
        if let Some(tos) = options.ip_tos {
            self.set("IPTOS=", sockopt::Ipv4Tos, &tos);
            if is_ipv6 {
                self.set("IPTOS=", sockopt::Ipv6TClass, &tos);
            }
        }
        if let Some(ttl) = options.ip_ttl {
            self.set("IPTTL=", sockopt::Ipv4Ttl, &ttl);
            if is_ipv6 {
                self.set("IPTTL=", sockopt::Ipv6Ttl, &ttl);
            }
        }
        if is_ipv6 {
            self.switch("PassPacketInfo=", sockopt::Ipv6RecvPacketInfo, options.pass_packet_info);
        } else {
            self.switch("PassPacketInfo=", sockopt::Ipv4PacketInfo, options.pass_packet_info);
        }
    }

    fn tcp(&mut self, options: &SocketOptions) {
        self.switch("NoDelay=", sockopt::TcpNoDelay, options.no_delay);
        if let Some(time) = options.keep_alive_time {
            self.set("KeepAliveTimeSec=", sockopt::TcpKeepIdle, &seconds(time).unsigned_abs());
        }
        if let Some(interval) = options.keep_alive_interval {
            self.set("KeepAliveIntervalSec=", sockopt::TcpKeepInterval, &seconds(interval).unsigned_abs());
        }
        if let Some(probes) = options.keep_alive_probes {
            self.set("KeepAliveProbes=", sockopt::TcpKeepCount, &probes);
        }
        if options.defer_accept > Span::ZERO {
            let seconds = seconds(options.defer_accept);
            self.raw("DeferAcceptSec=", libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds);
        }
        if let Some(name) = &options.tcp_congestion {
            self.set("TCPCongestion=", sockopt::TcpCongestion, &name.into());
        }
    }
}

/// The protocol for socket(2); 0 is the family's own.
pub(super) fn protocol(options: &SocketOptions) -> libc::c_int {
    match options.protocol {
        None => 0,
        Some(Protocol::UdpLite) => libc::IPPROTO_UDPLITE,
        Some(Protocol::Sctp) => libc::IPPROTO_SCTP,
        Some(Protocol::Mptcp) => libc::IPPROTO_MPTCP,
    }
}

/// The errno of a system call's error; 0 where it has none.
pub(super) fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}

#[cfg(test)]
mod tests;
