//! The held sockets as the thread of InterceptBind= knows them: those of one generation, to replace the server's own.

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path;
use std::sync::atomic::AtomicBool;

use nix::sys::stat::fstat;

use super::address::Wanted;
use super::answer::HeldPlace;
use crate::config::Address;
use crate::core::SlotId;
use crate::os::socket::{HeldSocket, carry_over, set_non_blocking};

/// The socket of one generation for an address.
#[derive(Debug)]
pub struct Held {
    pub(super) place: HeldPlace,
    pub(super) socket: OwnedFd,
    pub(super) inode: u64,
    /// The address in the form of our messages.
    pub(super) address: String,
    /// Whether no other generation has this socket, so that its O_NONBLOCK and options may become what this server
    /// wants, and the event loop puts a path back that the server has removed.
    pub(super) is_steered: bool,
    /// Whether the server was given it in place of its own.
    pub(super) is_given: AtomicBool,
    /// Whether the server wanted more than this socket has when it last got it.
    pub(super) is_narrow: AtomicBool,
}

impl Held {
    /// A copy of a held socket for this generation's slot.
    ///
    /// # Errors
    /// No fd is left for the copy.
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

    /// Takes the options of the server's socket over, and its O_NONBLOCK.
    pub(super) fn become_like(&self, theirs: Option<&OwnedFd>, non_blocking: bool) {
        let options = theirs.map_or(Ok(()), |theirs| carry_over(theirs, &self.socket));
        if let Err(error) = set_non_blocking(&self.socket, non_blocking).and(options) {
            log::debug!("{}: cannot take over the options of the server's socket: {error}", self.address);
        }
    }

    /// Whether the server has removed the path, which many do before bind(2).
    pub(super) fn is_gone(&self) -> bool {
        match &self.place.at {
            Wanted::Path(path) => matches!(path.try_exists(), Ok(false)),
            Wanted::Inet(_) | Wanted::Abstract(_) => false,
        }
    }
}

/// A socket that no client finds, for a server that only tries whether the port is free for IPv4.
pub(super) fn stand_in(place: &HeldPlace) -> io::Result<Held> {
    let at = (Ipv4Addr::LOCALHOST, 0);
    let socket: OwnedFd =
        if place.kind.has_datagrams() { UdpSocket::bind(at)?.into() } else { TcpListener::bind(at)?.into() };
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
