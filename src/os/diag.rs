//! What the kernel says about sockets: sock_diag(7) for connections, queues and other sockets on a port, /proc for
//! the rest. It reports facts; [`traffic`] sorts them by the rules of draining.
//!
//! A dump is not a snapshot: the kernel walks its tables in pieces, so a connection that moves between two pieces may
//! be seen twice or not at all. A caller that acts on "nothing left" looks twice.

mod inet;
mod local;
mod netlink;
mod proc;
mod traffic;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

pub use inet::{Activity, InetSocket, SocketState};
pub use local::{Node, Place, UnixSocket, UnixSockets};
pub use proc::{inodes_of, listen_overflows, somaxconn};
pub use traffic::{Handshakes, handshakes, traffic, unix_traffic};

pub use super::socket::holder::of_inode as holder;

use netlink::Channel;

/// The netlink socket is opened at the first question, since most runs of supervise never ask one. It belongs to the
/// network namespace in which it was opened.
#[derive(Debug, Default)]
pub struct Diag {
    channel: Option<Channel>,
    /// Answers that are kept until [`Diag::forget`], because a dump takes the kernel milliseconds.
    tcp: HashMap<Port, Rc<[InetSocket]>>,
    unix: Option<Rc<UnixSockets>>,
}

/// Whether the port is of IPv4, and its number.
type Port = (bool, u16);

fn port_of(at: SocketAddr) -> Port {
    (at.is_ipv4(), at.port())
}

/// The most ranges of ports in one question; the kernel compares each socket with each.
const RANGES: usize = 16;

/// The sockets found on several addresses.
#[derive(Debug, Default)]
pub struct FoundSockets(HashMap<Port, Vec<InetSocket>>);

impl FoundSockets {
    /// The sockets of this address's family on its port.
    pub fn at(&self, at: SocketAddr) -> &[InetSocket] {
        self.0.get(&port_of(at)).map_or(&[], Vec::as_slice)
    }

    pub fn all(&self) -> impl Iterator<Item = &InetSocket> {
        self.0.values().flatten()
    }
}

impl Diag {
    /// All TCP sockets of this address's family on its port, of any process: listeners, handshakes, connections and
    /// their remains. IPv4 clients of an IPv6 socket are among those of IPv6. The kernel walks a table whose size
    /// depends on the machine's memory, which takes milliseconds, so the answer is kept until [`Self::forget`].
    ///
    /// Errors: a kernel or sandbox without sock_diag, or a malformed answer. The next question starts afresh.
    pub fn tcp(&mut self, at: SocketAddr) -> io::Result<Rc<[InetSocket]>> {
        self.learn_tcp(&[at])?;
        Ok(self.tcp.get(&port_of(at)).map(Rc::clone).unwrap_or_default())
    }

    /// Asks in one question for all these addresses, before [`Self::tcp`] is called for each.
    pub fn learn_tcp(&mut self, at: &[SocketAddr]) -> io::Result<()> {
        let is_unknown = |at: &SocketAddr| !self.tcp.contains_key(&port_of(*at));
        let unknown: Vec<SocketAddr> = at.iter().copied().filter(is_unknown).collect();
        let mut found = self.inet(libc::IPPROTO_TCP, &unknown, inet::ALL_STATES)?.0;
        for port in unknown.into_iter().map(port_of) {
            let sockets = || Rc::from(found.remove(&port).unwrap_or_default());
            self.tcp.entry(port).or_insert_with(sockets);
        }
        Ok(())
    }

    /// All unix sockets of the network namespace, kept until [`Self::forget`]; the kernel cannot filter them.
    pub fn unix(&mut self) -> io::Result<Rc<UnixSockets>> {
        if let Some(known) = &self.unix {
            return Ok(Rc::clone(known));
        }
        let found = Rc::new(UnixSockets::new(self.ask(&local::request(local::PLACES), local::parse)?));
        self.unix = Some(Rc::clone(&found));
        Ok(found)
    }

    /// The inode of the other end of this unix socket, 0 if that is not accepted yet; `None` for a socket that is not
    /// there or has no other end.
    pub fn unix_peer(&mut self, inode: u64) -> io::Result<Option<u32>> {
        let found = self.ask(&local::request(local::PEERS), local::parse)?;
        Ok(found.iter().find(|one| u64::from(one.inode) == inode).and_then(|one| one.peer))
    }

    /// Drops the kept answers, so that the next question goes to the kernel.
    pub fn forget(&mut self) {
        self.tcp = HashMap::new();
        self.unix = None;
    }

    /// The handshakes among the sockets of these addresses.
    pub fn handshakes(&mut self, at: &[SocketAddr]) -> io::Result<FoundSockets> {
        self.inet(libc::IPPROTO_TCP, at, SocketState::SynReceived.mask())
    }

    /// The listeners among them, which is cheap however many connections there are. For a listener `rqueue` is the
    /// length of its accept queue and `wqueue` the limit.
    pub fn listeners(&mut self, at: &[SocketAddr]) -> io::Result<FoundSockets> {
        self.inet(libc::IPPROTO_TCP, at, SocketState::Listen.mask())
    }

    /// The UDP sockets of these addresses' families and ports; `rqueue` is the memory in bytes of unread data.
    pub fn udp(&mut self, at: &[SocketAddr]) -> io::Result<FoundSockets> {
        self.inet(libc::IPPROTO_UDP, at, inet::ALL_STATES)
    }

    /// Asks once for each family, however many ports there are, since the walk costs most.
    fn inet(&mut self, protocol: libc::c_int, at: &[SocketAddr], states: u32) -> io::Result<FoundSockets> {
        let mut found = FoundSockets::default();
        for (family, is_ipv4) in [(libc::AF_INET, true), (libc::AF_INET6, false)] {
            let of_family = at.iter().filter(|at| at.is_ipv4() == is_ipv4);
            let ports: BTreeSet<u16> = of_family.map(SocketAddr::port).collect();
            if ports.is_empty() {
                continue;
            }
            let ranges = inet::ranges(&ports, RANGES);
            let request = inet::request(family as u8, protocol as u8, &ranges, states);
            for socket in self.ask(&request, inet::parse)? {
                // A range may contain other ports, and a kernel that ignores the filter reports all.
                if ports.contains(&socket.local.port()) {
                    found.0.entry((is_ipv4, socket.local.port())).or_default().push(socket);
                }
            }
        }
        Ok(found)
    }

    /// Asks and parses. After an error the channel is dropped, lest the rest be read as the next answer.
    fn ask<T>(&mut self, request: &[u8], parse: fn(&[u8]) -> Option<T>) -> io::Result<Vec<T>> {
        let mut channel = match self.channel.take() {
            Some(channel) => channel,
            None => Channel::open()?,
        };
        let answer = channel.dump(request, parse)?;
        self.channel = Some(channel);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests;
