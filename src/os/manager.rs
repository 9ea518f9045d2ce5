//! Tells the service manager that started supervise about its state (sd_notify(3)).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nix::time::{ClockId, clock_gettime};

use crate::core;

/// The NOTIFY_SOCKET that supervise was started with.
#[derive(Clone, Debug)]
pub struct ManagerSocket {
    address: OsString,
}

impl ManagerSocket {
    /// `None` where NOTIFY_SOCKET is not set.
    pub fn from_environment() -> Option<Self> {
        Self::new(std::env::var_os("NOTIFY_SOCKET")?)
    }

    fn new(address: OsString) -> Option<Self> {
        (!address.is_empty()).then_some(Self { address })
    }

    /// Sends one message without waiting.
    pub fn tell(&self, message: &core::Manager) -> io::Result<()> {
        let text = match message {
            core::Manager::Ready => "READY=1".to_owned(),
            core::Manager::Stopping => "STOPPING=1".to_owned(),
            core::Manager::Status(text) => format!("STATUS={text}"),
            core::Manager::Reloading => {
                let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
                let micros = now.tv_sec() * 1_000_000 + now.tv_nsec() / 1_000;
                format!("RELOADING=1\nMONOTONIC_USEC={micros}")
            }
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let result = parse(&self.address).and_then(|address| socket.send_to_addr(text.as_bytes(), &address));
        result.map(|_| ()).map_err(|error| {
            io::Error::new(error.kind(), format!("NOTIFY_SOCKET={}: {error}", self.address.display()))
        })
    }
}

/// Reads a path, or an abstract name after `@`. systemd's third form, vsock, is for virtual machines and not supported.
fn parse(address: &OsStr) -> io::Result<SocketAddr> {
    match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(address),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "neither a path nor @ and an abstract name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Notify;
    use crate::os::notify::{NotifySocket, Received};

    #[test]
    fn an_abstract_manager_is_told() {
        let manager = NotifySocket::open().unwrap();
        let socket = ManagerSocket::new(manager.address().into()).unwrap();
        socket.tell(&core::Manager::Ready).unwrap();
        socket.tell(&core::Manager::Stopping).unwrap();
        socket.tell(&core::Manager::Reloading).unwrap();
        socket.tell(&core::Manager::Status("up".to_owned())).unwrap();
        let next = || match manager.receive(false) {
            Received::Message { notify, .. } => notify,
            other => panic!("{other:?}"),
        };
        assert_eq!(next(), Notify { ready: true, ..Notify::default() });
        assert_eq!(next(), Notify { stopping: true, ..Notify::default() });
        let reloading = next();
        assert!(reloading.reloading && reloading.monotonic_usec.is_some());
        assert_eq!(next(), Notify { status: Some("up".to_owned()), ..Notify::default() });
    }

    #[test]
    fn a_manager_at_a_path_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        ManagerSocket::new(path.into()).unwrap().tell(&core::Manager::Ready).unwrap();
        let mut buffer = [0; 16];
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
    }

    #[test]
    fn trouble_is_an_error_that_names_the_address() {
        for address in ["/nowhere/notify", "vsock:2:1234", "relative"] {
            let socket = ManagerSocket::new(address.into()).unwrap();
            let error = socket.tell(&core::Manager::Ready).expect_err(address);
            assert!(error.to_string().contains(address), "{error}");
        }
        assert!(ManagerSocket::new(OsString::new()).is_none());
    }

    #[test]
    fn a_manager_that_does_not_read_does_not_block_us() {
        let manager = NotifySocket::open().unwrap();
        let socket = ManagerSocket::new(manager.address().into()).unwrap();
        let full = (0..100_000).find_map(|_| socket.tell(&core::Manager::Ready).err());
        assert_eq!(full.map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
    }
}
