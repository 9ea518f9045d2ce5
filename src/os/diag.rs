//! What the kernel says about sockets: sock_diag(7) for connections, queues and whoever else is on a port, /proc for
//! what it does not answer. Only facts: [`traffic`] sorts them by the rules of draining, others decide.
//!
//! A dump is not one moment: the kernel walks its tables in pieces, so a connection that moves between two pieces may be
//! seen twice or not at all. Whoever acts on "nothing left" looks twice.

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

/// The netlink socket is opened at the first question: most runs of `supervise` never ask one. It belongs to the
/// network namespace it was opened in.
#[derive(Debug, Default)]
pub struct Diag {
    channel: Option<Channel>,
    /// Answers that whoever asks the same gets until [`Diag::forget`]: a dump takes the kernel milliseconds.
    tcp: HashMap<Port, Rc<[InetSocket]>>,
    unix: Option<Rc<UnixSockets>>,
}

/// Whether it is of IPv4, and the number.
type Port = (bool, u16);

fn port_of(at: SocketAddr) -> Port {
    (at.is_ipv4(), at.port())
}

/// Ranges of ports in one question: the kernel compares each socket with each.
const RANGES: usize = 16;

/// The answer about several addresses.
#[derive(Debug, Default)]
pub struct FoundSockets(HashMap<Port, Vec<InetSocket>>);

impl FoundSockets {
    /// Those of this address's family on its port.
    pub fn at(&self, at: SocketAddr) -> &[InetSocket] {
        self.0.get(&port_of(at)).map_or(&[], Vec::as_slice)
    }

    pub fn all(&self) -> impl Iterator<Item = &InetSocket> {
        self.0.values().flatten()
    }
}

impl Diag {
    /// All TCP sockets of this address's family on its port, of any process: listeners, handshakes, connections and what is
    /// left of them. A socket for IPv6 has its IPv4 clients among those of IPv6. The kernel walks a table as large as the
    /// machine's memory makes it: milliseconds, whatever is in it. So the answer stays the same until [`Self::forget`].
    ///
    /// Errors: a kernel or sandbox without sock_diag, an answer that makes no sense. The next question starts afresh.
    pub fn tcp(&mut self, at: SocketAddr) -> io::Result<Rc<[InetSocket]>> {
        self.learn_tcp(&[at])?;
        Ok(self.tcp.get(&port_of(at)).map(Rc::clone).unwrap_or_default())
    }

    /// Asks once for all of these that [`Self::tcp`] is about to ask for one by one.
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

    /// All unix sockets of the network namespace, until [`Self::forget`]; the kernel cannot choose among them.
    pub fn unix(&mut self) -> io::Result<Rc<UnixSockets>> {
        if let Some(known) = &self.unix {
            return Ok(Rc::clone(known));
        }
        let found = Rc::new(UnixSockets::new(self.ask(&local::request(), local::parse)?));
        self.unix = Some(Rc::clone(&found));
        Ok(found)
    }

    /// What was true is not any more: the next question is the kernel's again.
    pub fn forget(&mut self) {
        self.tcp.clear();
        self.unix = None;
    }

    /// Those of them that are handshakes.
    pub fn handshakes(&mut self, at: &[SocketAddr]) -> io::Result<FoundSockets> {
        self.inet(libc::IPPROTO_TCP, at, SocketState::SynReceived.mask())
    }

    /// Those of them that listen: cheap however many connections there are. Of a listener `rqueue` is how
    /// many wait to be accepted and `wqueue` how many may.
    pub fn listeners(&mut self, at: &[SocketAddr]) -> io::Result<FoundSockets> {
        self.inet(libc::IPPROTO_TCP, at, SocketState::Listen.mask())
    }

    /// The UDP sockets of these addresses' families on their ports; `rqueue` is the memory, in bytes, that unread datagrams take.
    pub fn udp(&mut self, at: &[SocketAddr]) -> io::Result<FoundSockets> {
        self.inet(libc::IPPROTO_UDP, at, inet::ALL_STATES)
    }

    /// One question for each family, however many ports: what an answer costs is mostly the walk.
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
                // Others may lie between them, and a kernel that took no notice of the filter would mix in all.
                if ports.contains(&socket.local.port()) {
                    found.0.entry((is_ipv4, socket.local.port())).or_default().push(socket);
                }
            }
        }
        Ok(found)
    }

    /// A channel that failed is dropped: the rest of a broken answer is not to be read as the next one.
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
