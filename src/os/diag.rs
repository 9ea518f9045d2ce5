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

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

pub use inet::{Activity, InetSocket, State};
pub use local::{Node, UnixSocket};
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
    tcp: HashMap<(bool, u16), Rc<[InetSocket]>>,
    unix: Option<Rc<[UnixSocket]>>,
}

impl Diag {
    /// All TCP sockets of this address's family on its port, of any process: listeners, handshakes, connections and what is
    /// left of them. A socket for IPv6 has its IPv4 clients among those of IPv6. The kernel walks a table as large as the
    /// machine's memory makes it: milliseconds, whatever is in it. So the answer stays the same until [`Self::forget`].
    ///
    /// Errors: a kernel or sandbox without sock_diag, an answer that makes no sense. The next question starts afresh.
    pub fn tcp(&mut self, at: SocketAddr) -> io::Result<Rc<[InetSocket]>> {
        let key = (at.is_ipv4(), at.port());
        if let Some(known) = self.tcp.get(&key) {
            return Ok(Rc::clone(known));
        }
        let found = Rc::from(self.inet(libc::IPPROTO_TCP, at, inet::ALL_STATES)?);
        self.tcp.insert(key, Rc::clone(&found));
        Ok(found)
    }

    /// All unix sockets of the network namespace, until [`Self::forget`]; the kernel cannot choose among them.
    pub fn unix(&mut self) -> io::Result<Rc<[UnixSocket]>> {
        if let Some(known) = &self.unix {
            return Ok(Rc::clone(known));
        }
        let found = Rc::from(self.ask(&local::request(), local::parse)?);
        self.unix = Some(Rc::clone(&found));
        Ok(found)
    }

    /// What was true is not any more: the next question is the kernel's again.
    pub fn forget(&mut self) {
        self.tcp.clear();
        self.unix = None;
    }

    /// Those of them that are handshakes.
    pub fn handshakes(&mut self, at: SocketAddr) -> io::Result<Vec<InetSocket>> {
        self.inet(libc::IPPROTO_TCP, at, State::SynReceived.mask())
    }

    /// Those of them that listen: cheap however many connections there are. Of a listener `rqueue` is how
    /// many wait to be accepted and `wqueue` how many may.
    pub fn listeners(&mut self, at: SocketAddr) -> io::Result<Vec<InetSocket>> {
        self.inet(libc::IPPROTO_TCP, at, State::Listen.mask())
    }

    /// The UDP sockets of this address's family on its port; `rqueue` is the memory, in bytes, that unread datagrams take.
    pub fn udp(&mut self, at: SocketAddr) -> io::Result<Vec<InetSocket>> {
        self.inet(libc::IPPROTO_UDP, at, inet::ALL_STATES)
    }

    fn inet(&mut self, protocol: libc::c_int, at: SocketAddr, states: u32) -> io::Result<Vec<InetSocket>> {
        let family = if at.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let request = inet::request(family as u8, protocol as u8, at.port(), states);
        let mut found = self.ask(&request, inet::parse)?;
        // A kernel that took no notice of the filter would mix in the connections of others.
        found.retain(|socket| socket.local.port() == at.port());
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
