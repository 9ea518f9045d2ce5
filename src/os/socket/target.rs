//! The address at which a client on this host reaches a slot, and how we connect to it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::socket::{SockaddrStorage, UnixAddr, connect};

use crate::os::sys;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
    /// A name of AF_UNIX that is no path, without the NUL that it begins with.
    Abstract(Vec<u8>),
    Udp(SocketAddr),
}

impl Target {
    /// A stream socket of its family, which does not block.
    ///
    /// # Errors
    /// Where the kernel has no fd left.
    pub fn stream(&self) -> io::Result<OwnedFd> {
        let family = match self {
            Self::Unix(_) | Self::Abstract(_) => libc::AF_UNIX,
            Self::Tcp(SocketAddr::V4(_)) | Self::Udp(SocketAddr::V4(_)) => libc::AF_INET,
            Self::Tcp(SocketAddr::V6(_)) | Self::Udp(SocketAddr::V6(_)) => libc::AF_INET6,
        };
        sys::socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)
    }

    /// A client that says nothing and goes: on this host the handshake is over when connect(2) returns. It may be a living
    /// server that it comes to, so it ends as most clients do: some servers die of a reset.
    pub(super) fn knock(&self) -> io::Result<()> {
        match self.connect(&self.stream()?) {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// # Errors
    /// Those of connect(2). A path too long for sockaddr_un is refused like any other that leads nowhere.
    pub fn connect(&self, socket: &OwnedFd) -> nix::Result<()> {
        match self {
            Self::Unix(path) => connect(socket.as_raw_fd(), &UnixAddr::new(path)?),
            Self::Abstract(name) => connect(socket.as_raw_fd(), &UnixAddr::new_abstract(name)?),
            Self::Tcp(address) | Self::Udp(address) => {
                connect(socket.as_raw_fd(), &SockaddrStorage::from(*address))
            }
        }
    }
}
