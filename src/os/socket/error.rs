//! A failed bind in words: where it was asked for, what is wrong, what to do about it.

use std::fmt;
use std::fs::{self, FileType};
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use nix::errno::Errno;

use super::holder::{self, Occupant};
use super::node::LONGEST_PATH;
use super::plan::InetError;
use crate::config::{Address, Kind, Listener};
use crate::os::spawn::more_open_files;

/// Below this port CAP_NET_BIND_SERVICE is needed (ip(7), Linux 4.11).
const UNPRIVILEGED_PORT_START: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// Why a socket could not be had: one line, `place: cause (remedy)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindError {
    /// The place of the listener ([`Listener::place`]).
    pub place: String,
    pub cause: String,
    /// Empty only where the cause already says what to do.
    pub remedy: String,
    /// The error of the system call; `None` where none failed.
    pub errno: Option<i32>,
    /// The address is in use by this very process.
    pub by_us: bool,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.cause)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, " ({})", self.remedy) }
    }
}

impl std::error::Error for BindError {}

impl BindError {
    fn new(listener: &Listener, errno: Option<Errno>, cause: String, remedy: String) -> Self {
        let place = listener.place.clone();
        Self { place, cause, remedy, errno: errno.map(|errno| errno as i32), by_us: false }
    }

    /// A step that fails only where the machine is short of something, or a sandbox is in the way.
    pub(super) fn plain(listener: &Listener, step: &str, errno: Errno) -> Self {
        let remedy = match errno {
            Errno::EMFILE => more_open_files(),
            Errno::ENFILE => "raise the sysctl fs.file-max".to_owned(),
            Errno::ENOBUFS | Errno::ENOMEM => "the machine is short of memory".to_owned(),
            Errno::EPERM | Errno::EACCES => "a sandbox or security module forbids it".to_owned(),
            _ => String::new(),
        };
        Self::new(listener, Some(errno), format!("{step}: {}", errno.desc()), remedy)
    }

    pub(super) fn mismatch(listener: &Listener) -> Self {
        let cause = "the address does not fit its kind".to_owned();
        let remedy = "tcp and udp take a port, unix kinds a path or @name, fd a name or number";
        Self::new(listener, None, cause, remedy.to_owned())
    }

    pub(super) fn in_use(listener: &Listener, what: &str, holder: &Occupant) -> Self {
        let by_us = holder.is_us();
        let remedy = match holder {
            Occupant::Processes(_) if by_us && is_all_of_ipv6(&listener.address) => {
                "list it once: it takes IPv4 as well; for one socket of each write -p BindIPv6Only=ipv6-only"
            }
            Occupant::Processes(_) if by_us => "list it once, or with ReusePort=yes",
            Occupant::Processes(all) if all.len() > 1 => "stop them, or listen elsewhere",
            Occupant::Processes(_) => "stop it, or listen elsewhere",
            Occupant::Unseen { .. } | Occupant::Unknown => {
                "stop it, or listen elsewhere; run as root to see which it is"
            }
        };
        let cause = format!("{what} is {holder}");
        Self { by_us, ..Self::new(listener, Some(Errno::EADDRINUSE), cause, remedy.to_owned()) }
    }

    pub(super) fn inet(listener: &Listener, error: &InetError) -> Self {
        let InetError { step, errno, address } = *error;
        let new = |cause, remedy: String| Self::new(listener, Some(errno), cause, remedy);
        match (step, errno) {
            ("bind" | "listen", Errno::EADDRINUSE) => {
                let holder = holder::of_port(listener.kind == Kind::Udp, address);
                Self::in_use(listener, &format!("port {}", address.port()), &holder)
            }
            ("bind", Errno::EACCES) => {
                let sysctl = fs::read_to_string(UNPRIVILEGED_PORT_START).ok();
                let (cause, remedy) = forbidden_port(address.port(), sysctl.as_deref());
                new(cause, remedy)
            }
            ("bind", Errno::EADDRNOTAVAIL) => new(
                format!("this host has no address {}", address.ip()),
                "`ip address` lists those it has; -p FreeBind=yes binds one that comes later".to_owned(),
            ),
            ("bind", Errno::EINVAL) if needs_interface(address) => new(
                format!("the link-local address {} is not complete without an interface", address.ip()),
                format!("[{}]:{}%INTERFACE", address.ip(), address.port()),
            ),
            ("socket", Errno::EAFNOSUPPORT) => new(
                format!("this host has no {}", if address.is_ipv6() { "IPv6" } else { "IPv4" }),
                if address.is_ipv6() {
                    format!("0.0.0.0:{} listens on IPv4", address.port())
                } else {
                    format!("[::]:{} listens on IPv6", address.port())
                },
            ),
            ("BindToDevice=", Errno::ENODEV) => {
                Self::no_interface(listener, listener.options.device.as_deref().unwrap_or_default())
            }
            ("socket", Errno::EPROTONOSUPPORT | Errno::ESOCKTNOSUPPORT | Errno::EINVAL) => new(
                "SocketProtocol=: this kernel does not have it for this kind of socket".to_owned(),
                "udplite is for datagrams, sctp and mptcp are for streams; load the module, or leave it out"
                    .to_owned(),
            ),
            _ => Self::plain(listener, step, errno),
        }
    }

    pub(super) fn no_interface(listener: &Listener, interface: &str) -> Self {
        let cause = format!("there is no network interface `{interface}`");
        Self::new(listener, Some(Errno::ENODEV), cause, "`ip link` lists those there are".to_owned())
    }

    pub(super) fn scope_of_ipv4(listener: &Listener, interface: &str) -> Self {
        let cause = format!("`%{interface}` belongs to an IPv6 address");
        Self::new(listener, None, cause, "leave it out".to_owned())
    }

    /// The error of bind(2) to a path.
    pub(super) fn path(listener: &Listener, path: &Path, errno: Errno) -> Self {
        let directory = path.parent().unwrap_or(path).display();
        let (cause, remedy) = match errno {
            Errno::ENOENT => (format!("{directory} is gone again"), "see who removes it".to_owned()),
            Errno::ENOTDIR => (format!("{directory} is not a directory"), "choose another path".to_owned()),
            Errno::EACCES | Errno::EPERM => (
                format!("no permission to create a socket in {directory}"),
                "choose a directory of our own, or give us write and search permission on it".to_owned(),
            ),
            Errno::EROFS => (format!("{directory} is read-only"), "choose another directory".to_owned()),
            Errno::EADDRINUSE => {
                let holder = holder::of_unix_name(path.as_os_str().as_encoded_bytes());
                return Self::in_use(listener, &path.display().to_string(), &holder);
            }
            errno => return Self::plain(listener, "bind", errno),
        };
        Self::new(listener, Some(errno), cause, remedy)
    }

    pub(super) fn io(listener: &Listener, path: &Path, error: &io::Error) -> Self {
        let errno = error.raw_os_error().map(Errno::from_raw);
        if errno == Some(Errno::EMFILE) {
            // No path is at fault, least of all one of ours that the user has never seen.
            return Self::plain(listener, "open", Errno::EMFILE);
        }
        Self::new(listener, errno, format!("{}: {error}", path.display()), String::new())
    }

    /// A directory on the way to `path`.
    pub(super) fn directory(listener: &Listener, directory: &Path, error: &io::Error) -> Self {
        let errno = error.raw_os_error().map(Errno::from_raw);
        let directory = directory.display();
        let (cause, remedy) = match error.kind() {
            io::ErrorKind::AlreadyExists => {
                (format!("{directory} is not a directory"), "choose another path".to_owned())
            }
            _ => (format!("cannot make the directory {directory}: {error}"), format!("mkdir -p {directory}")),
        };
        Self::new(listener, errno, cause, remedy)
    }

    /// SocketUser= or SocketGroup= that is not there; `cause` says what to do.
    pub(super) fn no_owner(listener: &Listener, directive: &str, cause: &str) -> Self {
        Self::new(listener, None, format!("{directive} {cause}"), String::new())
    }

    pub(super) fn cannot_give(listener: &Listener, path: &Path, error: &io::Error) -> Self {
        let errno = error.raw_os_error().map(Errno::from_raw);
        let cause = format!("SocketUser=, SocketGroup=: cannot give {} away: {error}", path.display());
        let remedy = "run as root, name a group that we are in, or leave it out";
        Self::new(listener, errno, cause, remedy.to_owned())
    }

    pub(super) fn path_too_long(listener: &Listener, path: &Path) -> Self {
        let cause = format!("the path has {} bytes", path.as_os_str().len());
        let remedy = format!("a unix socket has room for {LONGEST_PATH}");
        Self::new(listener, Some(Errno::ENAMETOOLONG), cause, remedy)
    }

    pub(super) fn not_a_file_name(listener: &Listener, path: &Path) -> Self {
        let cause = format!("`{}` names no file", path.display());
        Self::new(listener, None, cause, "an absolute path such as /run/web.sock".to_owned())
    }

    pub(super) fn not_a_socket(listener: &Listener, path: &Path, kind: FileType) -> Self {
        let kind = match kind {
            kind if kind.is_file() => "a regular file",
            kind if kind.is_dir() => "a directory",
            kind if kind.is_symlink() => "a symbolic link",
            kind if kind.is_fifo() => "a FIFO",
            _ => "a device",
        };
        let cause = format!("{} is {kind}, not a socket", path.display());
        Self::new(listener, Some(Errno::EADDRINUSE), cause, "move it away, or listen elsewhere".to_owned())
    }

    pub(super) fn cannot_ask(listener: &Listener, path: &Path, errno: Errno) -> Self {
        let path = path.display();
        let cause = format!("{path} exists, and cannot be asked whether it is in use: {}", errno.desc());
        Self::new(listener, Some(errno), cause, format!("rm {path} if nothing uses it"))
    }

    pub(super) fn cannot_remove(listener: &Listener, path: &Path, error: &io::Error) -> Self {
        let path = path.display();
        let cause = format!("a dead socket is in the way and cannot be removed: {error}");
        Self::new(listener, error.raw_os_error().map(Errno::from_raw), cause, format!("rm {path}"))
    }

    pub(super) fn no_such_name(listener: &Listener, wanted: &str, there: &[(RawFd, String)]) -> Self {
        let cause = format!("no socket named `{wanted}` was handed to us");
        Self::new(listener, None, cause, handed_over(there))
    }

    pub(super) fn not_open(listener: &Listener, number: RawFd, there: &[(RawFd, String)]) -> Self {
        let cause = format!("fd {number} is not open");
        Self::new(listener, Some(Errno::EBADF), cause, handed_over(there))
    }

    pub(super) fn unusable(listener: &Listener, number: RawFd, errno: Errno) -> Self {
        let cause = match errno {
            Errno::ENOTSOCK => format!("fd {number} is not a socket"),
            Errno::EINVAL => format!("fd {number} is a socket that is not listening"),
            errno => format!("fd {number}: {}", errno.desc()),
        };
        Self::new(listener, Some(errno), cause, "hand over a listening or a datagram socket".to_owned())
    }
}

fn handed_over(there: &[(RawFd, String)]) -> String {
    if there.is_empty() {
        return "no sockets were handed to us: LISTEN_FDS and LISTEN_PID name none for this process"
            .to_owned();
    }
    let names: Vec<&str> = there.iter().map(|(_, name)| name.as_str()).collect();
    format!("there are: {}", names.join(", "))
}

fn needs_interface(address: SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0)
}

/// Cause and remedy for EACCES, given the text of the sysctl where it can be read.
fn forbidden_port(port: u16, sysctl: Option<&str>) -> (String, String) {
    let start = sysctl.and_then(|text| text.trim().parse::<u16>().ok());
    match start {
        Some(start) if port >= start => (
            format!("no permission to bind port {port}"),
            "a sandbox or security module forbids it".to_owned(),
        ),
        start => {
            let is = start.map(|start| format!(", now {start}")).unwrap_or_default();
            (
                format!("port {port} needs CAP_NET_BIND_SERVICE"),
                format!("run as root, or lower the sysctl net.ipv4.ip_unprivileged_port_start{is}"),
            )
        }
    }
}

/// `[::]` takes IPv4 as well, unless it is told not to (ipv6(7), IPV6_V6ONLY).
fn is_all_of_ipv6(address: &Address) -> bool {
    match address {
        Address::Port(_) => true,
        Address::Inet { address, .. } => address.is_ipv6() && address.ip().is_unspecified(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_port_names_the_capability_and_the_sysctl_with_its_value() {
        let (cause, remedy) = forbidden_port(443, Some("1024\n"));
        assert!(cause.contains("CAP_NET_BIND_SERVICE"), "{cause}");
        assert!(remedy.contains("net.ipv4.ip_unprivileged_port_start, now 1024"), "{remedy}");
        let (_, remedy) = forbidden_port(443, None);
        assert!(remedy.ends_with("ip_unprivileged_port_start"), "{remedy}");
    }

    #[test]
    fn a_high_port_blames_something_else() {
        assert!(!forbidden_port(8080, Some("1024\n")).0.contains("CAP_"));
    }
}
