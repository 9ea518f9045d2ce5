//! Sockets that an outer manager bound and handed to us (sd_listen_fds(3)): those asked for as `--listen fd:NAME`
//! or `--listen fd:NUMBER`, and those that are where we would bind.

use std::ffi::OsString;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
};
use serde::{Deserialize, Serialize};

use super::{BindError, addresses, own_address};
use crate::config::{Address, Domain, Kind, Listener, Semantics};
use crate::os::own;
use crate::os::saved::KeptFds;
use crate::os::sys;
use crate::os::sys::left::LeftFds;

/// SD_LISTEN_FDS_START of sd_listen_fds(3).
const FIRST: RawFd = 3;

/// The numbers of the fds that LISTEN_FDS announces to the process `pid`, open or not.
pub fn announced(pid: u32) -> Range<RawFd> {
    let variable = |name| std::env::var_os(name).map(OsString::into_encoded_bytes);
    let (of, count) = (variable("LISTEN_PID"), variable("LISTEN_FDS"));
    let is_ours = number(of.as_deref()) == Some(pid);
    let count = number(count.as_deref()).filter(|_| is_ours).unwrap_or(0);
    FIRST..FIRST.saturating_add_unsigned(count)
}

/// The fds announced to this very process, with their names.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Inherited {
    fds: Vec<(RawFd, String)>,
}

impl Inherited {
    /// Reads LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES. To be called once at start, before any fd is opened: what is
    /// announced gets close-on-exec, asked for or not. Variables meant for another process, or that do not hold
    /// together, are as if they were not there.
    pub fn from_environment() -> Self {
        let variable = |name| std::env::var_os(name).map(OsString::into_encoded_bytes);
        Self::from_variables(
            FIRST,
            own::started_as(),
            variable("LISTEN_PID").as_deref(),
            variable("LISTEN_FDS").as_deref(),
            variable("LISTEN_FDNAMES").as_deref(),
        )
    }

    fn from_variables(
        first: RawFd,
        own_pid: u32,
        pid: Option<&[u8]>,
        count: Option<&[u8]>,
        names: Option<&[u8]>,
    ) -> Self {
        let (Some(pid), Some(count)) = (number(pid), number(count)) else { return Self::default() };
        if pid != own_pid {
            return Self::default();
        }
        let names: Vec<String> = names
            .map(|names| {
                names.split(|byte| *byte == b':').map(|name| name.escape_ascii().to_string()).collect()
            })
            .unwrap_or_default();
        let fds = (first..first.saturating_add_unsigned(count))
            // The first number that is not open ends it: the count may be anything.
            .take_while(|fd| sys::close_on_exec(*fd).is_ok())
            .zip(0..)
            // "unknown" is systemd's own name for a socket without one.
            .map(|(fd, index)| (fd, names.get(index).cloned().unwrap_or_else(|| "unknown".to_owned())))
            .collect();
        Self { fds }
    }

    /// They stay open for the program that takes our place.
    pub fn keep(&self, fds: &mut KeptFds) {
        for (number, _) in &self.fds {
            fds.keep_number(*number);
        }
    }

    /// The program before us has left them open.
    pub fn take_over(&self, fds: &mut LeftFds) {
        for (number, _) in &self.fds {
            fds.take_number(*number);
        }
    }

    /// The socket asked for by name, number or, unless one of `taken`, by being where the listener is to be. `None` if
    /// it is to be bound. A number need not have been announced.
    pub(super) fn take(&self, listener: &Listener, taken: &[RawFd]) -> Result<Option<Taken>, BindError> {
        let number = match &listener.address {
            Address::InheritedNumber(number) => *number,
            Address::InheritedName(wanted) => {
                let found = self.fds.iter().find(|(_, name)| name == wanted);
                found.ok_or_else(|| BindError::no_such_name(listener, wanted, &self.fds))?.0
            }
            _ => match self.find(listener, taken) {
                Some(number) => number,
                None => return Ok(None),
            },
        };
        let fd = sys::duplicate(number).map_err(|_| BindError::not_open(listener, number, &self.fds))?;
        let kind = kind_of(&fd).map_err(|errno| BindError::unusable(listener, number, errno))?;
        // The number we were given would otherwise reach the server too; 0 to 2 are for the spawn to set.
        if number >= FIRST {
            sys::close_on_exec(number).map_err(|_| BindError::not_open(listener, number, &self.fds))?;
        }
        Ok(Some(Taken { fd, number, kind }))
    }

    #[cfg(test)]
    pub(super) fn from_listeners<const N: usize>(fds: [(RawFd, &str); N]) -> Self {
        Self { fds: fds.map(|(fd, name)| (fd, name.to_owned())).into() }
    }

    fn find(&self, listener: &Listener, taken: &[RawFd]) -> Option<RawFd> {
        let wanted = addresses(listener);
        let is_it = |number: RawFd| {
            let fd = sys::duplicate(number).ok()?;
            let (address, _) = own_address(&fd).ok()?;
            (kind_of(&fd) == Ok(listener.kind) && wanted.contains(&address)).then_some(number)
        };
        let mut free = self.fds.iter().map(|(number, _)| *number).filter(|number| !taken.contains(number));
        free.find_map(is_it)
    }
}

/// A duplicate of a socket that we were handed.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) fd: OwnedFd,
    /// The number it was handed to us as.
    pub(super) number: RawFd,
    /// The kind that the kernel reports.
    pub(super) kind: Kind,
}

fn number(text: Option<&[u8]>) -> Option<u32> {
    std::str::from_utf8(text?).ok()?.parse().ok()
}

/// ENOTSOCK for what is no socket, EINVAL for one that neither listens nor takes datagrams.
fn kind_of(fd: &OwnedFd) -> nix::Result<Kind> {
    let kind = getsockopt(fd, sockopt::SockType)?;
    if matches!(kind, SockType::Stream | SockType::SeqPacket) && !getsockopt(fd, sockopt::AcceptConn)? {
        return Err(Errno::EINVAL);
    }
    let address: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    let domain = match address.family() {
        Some(AddressFamily::Inet | AddressFamily::Inet6) => Domain::Inet,
        Some(AddressFamily::Unix) => Domain::Unix,
        _ => return Ok(Kind::Fd),
    };
    let semantics = match kind {
        SockType::Stream => Semantics::Stream,
        SockType::Datagram => Semantics::Datagram,
        SockType::SeqPacket => Semantics::SeqPacket,
        _ => return Ok(Kind::Fd),
    };
    Ok(Kind::of(domain, semantics))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    fn asked(address: Address) -> Listener {
        Listener {
            kind: Kind::Fd,
            address,
            name: "x".to_owned(),
            options: crate::config::SocketOptions::new().into(),
            place: "--listen fd:x".to_owned(),
        }
    }

    #[test]
    fn variables_for_another_process_or_without_a_pid_are_ignored() {
        for (pid, count) in [
            (Some(&b"99"[..]), Some(&b"1"[..])),
            (None, Some(b"1")),
            (Some(b"7"), None),
            (Some(b"7x"), Some(b"1")),
            (Some(b"7"), Some(b"-1")),
            (Some(b"7"), Some(b"99999999999999999999")),
        ] {
            let inherited = Inherited::from_variables(FIRST, 7, pid, count, Some(b"web"));
            assert!(inherited.fds.is_empty(), "{pid:?} {count:?}");
        }
    }

    #[test]
    fn what_is_announced_is_listed_up_to_the_first_fd_that_is_not_open() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let first = listener.as_raw_fd();
        let read = |count, names| Inherited::from_variables(first, 7, Some(b"7"), Some(count), names);
        assert_eq!(read(b"1", Some(b"web:more")).fds, [(first, "web".to_owned())]);
        assert_eq!(read(b"1", None).fds, [(first, "unknown".to_owned())]);
        assert_eq!(read(b"0", Some(b"web")).fds, []);
        let stale = Inherited::from_variables(1_000_000, 7, Some(b"7"), Some(b"4294967295"), None);
        assert_eq!(stale.fds, [], "and not two thousand million system calls");
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_names_there_are() {
        let inherited = Inherited { fds: vec![(3, "web".to_owned()), (4, "admin".to_owned())] };
        let error =
            inherited.take(&asked(Address::InheritedName("wbe".to_owned())), &[]).expect_err("no such name");
        assert!(error.to_string().contains("web, admin"), "{error}");
        let error = Inherited::default().take(&asked(Address::InheritedName("web".to_owned())), &[]);
        assert!(error.expect_err("none at all").to_string().contains("no sockets were handed to us"));
    }

    #[test]
    fn a_socket_is_found_by_name_and_by_number_and_says_what_it_is() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let inherited = Inherited { fds: vec![(listener.as_raw_fd(), "web".to_owned())] };
        for address in
            [Address::InheritedName("web".to_owned()), Address::InheritedNumber(listener.as_raw_fd())]
        {
            let taken = inherited.take(&asked(address), &[]).unwrap().unwrap();
            assert_eq!(taken.kind, Kind::Tcp);
            assert_ne!(taken.fd.as_raw_fd(), listener.as_raw_fd());
        }
    }

    #[test]
    fn what_does_not_listen_is_refused() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let file = tempfile::tempfile().unwrap();
        for (number, word) in [
            (connection.as_raw_fd(), "not listening"),
            (file.as_raw_fd(), "not a socket"),
            (1_000_000, "not open"),
        ] {
            let error =
                Inherited::default().take(&asked(Address::InheritedNumber(number)), &[]).expect_err(word);
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
