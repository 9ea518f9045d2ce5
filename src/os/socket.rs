//! The sockets we hold: bound once, all or none, and kept until we end whatever the server does.
//!
//! [`bind_all`] is called once, before anything is started. How a kind is bound is in `inet`, `local` (AF_UNIX) and
//! `inherited`; who is in the way is found out by `holder`; `error` puts it into words.

mod error;
mod holder;
mod inet;
mod inherited;
mod local;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::net::if_::if_indextoname;
use nix::sys::socket::{SockaddrStorage, getsockname};

use super::sys;
use crate::config::{Address, Kind, Listener};
pub use error::BindError;
pub use inherited::Inherited;
pub use local::OwnPath;

/// One held socket. Close-on-exec; O_NONBLOCK is off unless it was inherited with it.
#[derive(Debug)]
pub struct HeldSocket {
    /// The path to unlink at the end; None for all that we did not create. First, because it is dropped first: an open
    /// socket keeps its inode number from being used again.
    pub own_path: Option<OwnPath>,
    pub fd: OwnedFd,
    /// LISTEN_FDNAMES.
    pub name: String,
    /// What it is; [`Kind::Fd`] only for an inherited socket of none of the other kinds.
    pub kind: Kind,
    /// As getsockname(2) has it, with the port the kernel picked: `[::]:443`, `/run/x.sock`, `@abstract`.
    pub address: String,
    /// None for AF_UNIX.
    pub port: Option<u16>,
    /// None where nobody listens (datagrams), and where the listening is an outer manager's.
    pub backlog: Option<u32>,
}

impl AsFd for HeldSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Binds all of them, or none: at the first error those already bound are closed, and the paths created for them are
/// gone again.
pub fn bind_all(listeners: &[Listener], inherited: &Inherited) -> Result<Vec<HeldSocket>, BindError> {
    listeners.iter().map(|listener| hold(listener, inherited)).collect()
}

fn hold(listener: &Listener, inherited: &Inherited) -> Result<HeldSocket, BindError> {
    let options = &listener.options;
    let mut own_path = None;
    let mut kind = listener.kind;
    let fd = match (&listener.address, kind) {
        (Address::Port(port), Kind::Tcp | Kind::Udp) => inet::hold_port(listener, *port, options)?,
        (Address::Inet { address, interface }, Kind::Tcp | Kind::Udp) => {
            inet::hold_address(listener, *address, interface.as_deref(), options)?
        }
        (Address::Path(path), Kind::Unix | Kind::UnixGram | Kind::SeqPacket) => {
            let (fd, own) = local::hold_path(listener, path, options)?;
            own_path = Some(own);
            fd
        }
        (Address::Abstract(name), Kind::Unix | Kind::UnixGram | Kind::SeqPacket) => {
            local::hold_abstract(listener, name, options)?
        }
        (Address::InheritedName(_) | Address::InheritedNumber(_), Kind::Fd) => {
            let (fd, real) = inherited.take(listener)?;
            kind = real;
            fd
        }
        _ => return Err(BindError::mismatch(listener)),
    };
    let (address, port) =
        own_address(&fd).map_err(|errno| BindError::plain(listener, "getsockname", errno))?;
    let listens = matches!(listener.kind, Kind::Tcp | Kind::Unix | Kind::SeqPacket);
    let backlog = listens.then_some(options.backlog);
    Ok(HeldSocket { own_path, fd, name: listener.name.clone(), kind, address, port, backlog })
}

/// The address a socket is bound to, as text, and its port.
fn own_address(fd: &OwnedFd) -> nix::Result<(String, Option<u16>)> {
    let address: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    if let Some(v4) = address.as_sockaddr_in() {
        return Ok((v4.to_string(), Some(v4.port())));
    }
    if let Some(v6) = address.as_sockaddr_in6() {
        let mut text = format!("[{}]:{}", v6.ip(), v6.port());
        if v6.scope_id() != 0 {
            // systemd's way of writing it: the interface comes after the port.
            let name = if_indextoname(v6.scope_id())
                .map_or_else(|_| v6.scope_id().to_string(), |name| name.to_string_lossy().into_owned());
            text.push('%');
            text.push_str(&name);
        }
        return Ok((text, Some(v6.port())));
    }
    Ok((address.as_unix_addr().map_or_else(|| "unknown".to_owned(), local::name_of), None))
}

/// Connections in the accept queue, and its limit; None where the kernel does not say (all but listening TCP).
pub fn queue(socket: &HeldSocket) -> (Option<u32>, Option<u32>) {
    if socket.kind != Kind::Tcp {
        return (None, None);
    }
    match sys::tcp_listen_queue(socket) {
        Ok((depth, limit)) => (Some(depth), Some(limit)),
        Err(error) => {
            log::debug!("{}: TCP_INFO: {error}", socket.address);
            (None, None)
        }
    }
}

/// listen(2) once more, with the backlog that was asked for: it costs nothing, and mends what a server did with a small
/// listen(2) of its own or, on TCP, with shutdown(2).
pub fn listen_again(socket: &HeldSocket) -> io::Result<()> {
    socket.backlog.map_or(Ok(()), |backlog| sys::listen(socket, backlog))
}

/// O_NONBLOCK belongs to the open file description, so this changes it for every process that has the socket.
pub fn set_non_blocking(socket: &HeldSocket, on: bool) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
    let mut wanted = flags;
    wanted.set(OFlag::O_NONBLOCK, on);
    if wanted != flags {
        fcntl(socket, FcntlArg::F_SETFL(wanted))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
