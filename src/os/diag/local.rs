//! Unix sockets as unix_diag shows them (<linux/unix_diag.h>).

use std::collections::HashMap;
use std::ops::Deref;

use nix::sys::stat::makedev;

use super::inet::SocketState;
use super::netlink::{attributes, bytes_at, u32_at};

const SHOW_NAME: u32 = 1 << 0;
const SHOW_VFS: u32 = 1 << 1;
const SHOW_PEER: u32 = 1 << 2;
const SHOW_RQLEN: u32 = 1 << 4;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_VFS: u16 = 1;
const UNIX_DIAG_PEER: u16 = 2;
const UNIX_DIAG_RQLEN: u16 = 4;
/// The size of unix_diag_msg; the attributes follow it.
const MESSAGE: usize = 16;

/// The address of a socket. Accepted connections have that of their listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    Node(Node),
    /// An abstract name without its leading NUL.
    Abstract(Vec<u8>),
}

/// The file that a socket is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    pub device: u64,
    /// The low 32 bits of the inode number, which is what the kernel reports.
    pub inode: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixSocket {
    /// [`SocketState::Listen`], [`SocketState::Established`] or neither.
    pub state: SocketState,
    /// The inode; a connection that is not accepted has none and is not reported.
    pub inode: u32,
    /// The kernel's identifier, which stays the same from connect(2) on.
    pub cookie: u64,
    /// Its address; `None` for an unnamed socket.
    pub place: Option<Place>,
    /// The inode of the peer, where it was asked for; 0 if that is not accepted yet.
    pub peer: Option<u32>,
    /// Bytes to be read; of a listener, the length of its accept queue.
    pub rqueue: u32,
    /// Memory of what was written and not yet read by the peer; of a listener, the limit of its accept queue.
    pub wqueue: u32,
}

impl UnixSocket {
    /// Whether this is an accepted connection with empty queues.
    pub fn is_silent(&self) -> bool {
        self.state == SocketState::Established && self.rqueue == 0 && self.wqueue == 0
    }
}

/// A dump of unix sockets with indices of the listeners by inode, and of all by address.
#[derive(Debug)]
pub struct UnixSockets {
    sockets: Vec<UnixSocket>,
    listeners: HashMap<u32, usize>,
    by_place: HashMap<Place, Vec<usize>>,
}

impl UnixSockets {
    pub(super) fn new(sockets: Vec<UnixSocket>) -> Self {
        let mut by_place: HashMap<Place, Vec<usize>> = HashMap::new();
        for (index, socket) in sockets.iter().enumerate() {
            if let Some(place) = &socket.place {
                by_place.entry(place.clone()).or_default().push(index);
            }
        }
        // There may be thousands of the others.
        let listeners = sockets.iter().enumerate().filter(|(_, one)| one.state == SocketState::Listen);
        let listeners = listeners.map(|(index, one)| (one.inode, index)).collect();
        Self { sockets, listeners, by_place }
    }

    /// The listening socket with this inode.
    pub fn listener(&self, inode: u64) -> Option<&UnixSocket> {
        let index = self.listeners.get(&u32::try_from(inode).ok()?)?;
        self.sockets.get(*index)
    }

    /// The listener at an address and its connections.
    pub fn at(&self, place: &Place) -> impl Iterator<Item = &UnixSocket> {
        self.by_place.get(place).into_iter().flatten().filter_map(|index| self.sockets.get(*index))
    }
}

impl Deref for UnixSockets {
    type Target = [UnixSocket];

    fn deref(&self) -> &[UnixSocket] {
        &self.sockets
    }
}

/// Where each socket is bound, and its queues.
pub(super) const PLACES: u32 = SHOW_NAME | SHOW_VFS | SHOW_RQLEN;
/// The peer of each. It is most of what a dump costs: the kernel goes from socket to socket in its memory.
pub(super) const PEERS: u32 = SHOW_PEER;

/// The request for a dump of all unix sockets: struct unix_diag_req of <linux/unix_diag.h>.
pub(super) fn request(show: u32) -> Vec<u8> {
    const ALL_STATES: u32 = u32::MAX;
    const ANY: [u8; 4] = [0; 4];
    const NO_COOKIE: [u8; 8] = [0; 8];
    let mut request = vec![libc::AF_UNIX as u8, 0, 0, 0];
    request.extend(ALL_STATES.to_ne_bytes());
    request.extend(ANY);
    request.extend(show.to_ne_bytes());
    request.extend(NO_COOKIE);
    request
}

/// `None` if it is too short.
pub(super) fn parse(bytes: &[u8]) -> Option<UnixSocket> {
    let [_family, _kind, state] = bytes_at(bytes, 0)?;
    let mut socket = UnixSocket {
        state: SocketState::of(state),
        inode: u32_at(bytes, 4)?,
        cookie: u64::from_ne_bytes(bytes_at(bytes, 8)?),
        place: None,
        peer: None,
        rqueue: 0,
        wqueue: 0,
    };
    for (kind, value) in attributes(bytes.get(MESSAGE..)?) {
        match kind {
            UNIX_DIAG_NAME => {
                if let Some((0, name)) = value.split_first() {
                    socket.place = Some(Place::Abstract(name.to_vec()));
                }
            }
            UNIX_DIAG_VFS => socket.place = node(value).map(Place::Node),
            UNIX_DIAG_PEER => socket.peer = Some(u32_at(value, 0)?),
            UNIX_DIAG_RQLEN => {
                socket.rqueue = u32_at(value, 0)?;
                socket.wqueue = u32_at(value, 4)?;
            }
            _ => {}
        }
    }
    Some(socket)
}

/// Reads the file of a socket. The kernel's device number has a minor number of twenty bits below the major number.
fn node(value: &[u8]) -> Option<Node> {
    let (inode, device) = (u32_at(value, 0)?, u32_at(value, 4)?);
    Some(Node { device: makedev(u64::from(device >> 20), u64::from(device & 0xf_ffff)), inode })
}
