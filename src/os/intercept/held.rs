//! What is held, as the thread has it: the socket of one generation for an address, to be given in the place of a server's
//! own.

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path;
use std::sync::atomic::AtomicBool;

use nix::sys::stat::fstat;

use super::address::Wanted;
use super::answer::HeldPlace;
use crate::config::{Address, Kind};
use crate::core::SlotId;
use crate::os::socket::{HeldSocket, carry_over, set_non_blocking};

/// The socket of one generation for an address.
#[derive(Debug)]
pub struct Held {
    pub(super) place: HeldPlace,
    pub(super) socket: OwnedFd,
    pub(super) inode: u64,
    /// As we call it.
    pub(super) address: String,
    /// No other generation has this socket: O_NONBLOCK and options may become what this server wants, and the loop puts a
    /// path back that the server has removed.
    pub(super) is_steered: bool,
    /// The server got it in the place of one of its own.
    pub(super) is_given: AtomicBool,
    /// What the server wanted when it got it last is more than this one has.
    pub(super) is_narrow: AtomicBool,
}

impl Held {
    /// # Errors
    /// No fd is left for a copy of the socket.
    pub fn new(socket: &HeldSocket, slot: SlotId) -> io::Result<Self> {
        let fd = socket.of(slot).try_clone()?;
        let at = match (socket.local_address(), socket.asked_address()) {
            (Some(address), _) => Wanted::Inet(address),
            (None, Address::Abstract(name)) => Wanted::Abstract(name.as_bytes().to_vec()),
            (None, Address::Path(path)) => Wanted::Path(path::absolute(path)?),
            (None, _) => match socket.address.strip_prefix('@') {
                Some(name) => Wanted::Abstract(name.as_bytes().to_vec()),
                None => Wanted::Path(path::absolute(&socket.address)?),
            },
        };
        Ok(Self {
            inode: fstat(&fd)?.st_ino,
            place: HeldPlace {
                kind: socket.kind,
                at,
                takes_ipv4: socket.takes_ipv4(),
                is_port: socket.is_port_alone(),
            },
            socket: fd,
            address: socket.address.clone(),
            is_steered: socket.is_steered(),
            is_given: AtomicBool::new(false),
            is_narrow: AtomicBool::new(false),
        })
    }

    /// Like the socket that it takes the place of.
    pub(super) fn become_like(&self, theirs: Option<&OwnedFd>, non_blocking: bool) {
        let options = theirs.map_or(Ok(()), |theirs| carry_over(theirs, &self.socket));
        if let Err(error) = set_non_blocking(&self.socket, non_blocking).and(options) {
            log::debug!("{}: the options of a server's socket: {error}", self.address);
        }
    }

    /// The server has removed the path first, as many do.
    pub(super) fn is_gone(&self) -> bool {
        match &self.place.at {
            Wanted::Path(path) => matches!(path.try_exists(), Ok(false)),
            Wanted::Inet(_) | Wanted::Abstract(_) => false,
        }
    }
}

/// Where a port has IPv6 for another generation as well, one that binds IPv4 may only try whether the port is free: it is
/// for this one. So it gets a socket at which nobody calls.
pub(super) fn stand_in(place: &HeldPlace) -> io::Result<Held> {
    let at = (Ipv4Addr::LOCALHOST, 0);
    let socket: OwnedFd = match place.kind {
        Kind::Udp => UdpSocket::bind(at)?.into(),
        _ => TcpListener::bind(at)?.into(),
    };
    Ok(Held {
        place: HeldPlace { is_port: false, ..place.clone() },
        inode: fstat(&socket)?.st_ino,
        socket,
        address: "a socket at which nobody calls".to_owned(),
        is_steered: true,
        is_given: AtomicBool::new(false),
        is_narrow: AtomicBool::new(false),
    })
}
