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

use std::io;

pub use inet::{Activity, InetSocket, State};
pub use local::{Node, UnixSocket};
pub use proc::{inodes_of, listen_overflows, somaxconn};
pub use traffic::{Handshakes, handshakes, traffic, unix_traffic};

pub use super::socket::holder::{Holder, of_inode as holder};

use netlink::Channel;

/// The netlink socket is opened at the first question: most runs of `supervise` never ask one. It belongs to the
/// network namespace it was opened in.
#[derive(Debug, Default)]
pub struct Diag(Option<Channel>);

impl Diag {
    /// All TCP sockets on this local port, IPv4 and IPv6, of any process: listeners, handshakes, connections and what is
    /// left of them.
    ///
    /// Errors: a kernel or sandbox without sock_diag, an answer that makes no sense. The next question starts afresh.
    pub fn tcp(&mut self, port: u16) -> io::Result<Vec<InetSocket>> {
        self.inet(libc::IPPROTO_TCP, port, inet::ALL_STATES)
    }

    /// The listening TCP sockets of this port: cheap however many connections there are. Of a listener `rqueue` is how
    /// many wait to be accepted and `wqueue` how many may.
    pub fn listeners(&mut self, port: u16) -> io::Result<Vec<InetSocket>> {
        self.inet(libc::IPPROTO_TCP, port, State::Listen.mask())
    }

    /// The UDP sockets bound to this port; `rqueue` is the memory, in bytes, that unread datagrams take.
    pub fn udp(&mut self, port: u16) -> io::Result<Vec<InetSocket>> {
        self.inet(libc::IPPROTO_UDP, port, inet::ALL_STATES)
    }

    /// All unix sockets of the network namespace; the kernel cannot choose among them.
    pub fn unix(&mut self) -> io::Result<Vec<UnixSocket>> {
        self.ask(&local::request(), local::parse)
    }

    fn inet(&mut self, protocol: libc::c_int, port: u16, states: u32) -> io::Result<Vec<InetSocket>> {
        let mut found = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let request = inet::request(family as u8, protocol as u8, port, states);
            found.append(&mut self.ask(&request, inet::parse)?);
        }
        // A kernel that took no notice of the filter would mix in the connections of others.
        found.retain(|socket| socket.local.port() == port);
        Ok(found)
    }

    /// A channel that failed is dropped: the rest of a broken answer is not to be read as the next one.
    fn ask<T>(&mut self, request: &[u8], parse: fn(&[u8]) -> Option<T>) -> io::Result<Vec<T>> {
        let mut channel = match self.0.take() {
            Some(channel) => channel,
            None => Channel::open()?,
        };
        let answer = channel.dump(request, parse)?;
        self.0 = Some(channel);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests;
