//! Relays UDP: each client gets a socket of ours that is connected to the target, and what comes back on it is sent
//! to the client through the slot, and so from the address that the client wrote to.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendto};

use super::{PASSED_ON, Post, QUIET, REFUSED, canonical, comes_back, is_ready};
use crate::os::sys;

/// The most clients at once; datagrams of others stay in the queue.
const MOST: usize = 256;

/// A client is dropped after this long without a datagram either way.
const SILENCE: Duration = Duration::from_secs(2);

/// The most datagrams of one source before the others get their turn.
const BATCH: usize = 64;

/// How often in a row poll(2) may report a datagram that is not there: the slot was shut down, or a server is faster.
const IN_VAIN: usize = 16;

/// The longest datagram.
const LONGEST: usize = 1 << 16;

struct Client {
    name: SockaddrStorage,
    socket: UdpSocket,
    /// Our address towards the target.
    own: Option<SocketAddr>,
    last: Instant,
    is_refused: bool,
}

impl Drop for Client {
    fn drop(&mut self) {
        Post::count(if self.is_refused { REFUSED } else { PASSED_ON });
    }
}

/// Carries until the queue is empty and every client has been silent for [`SILENCE`]. After SIGTERM it reads nothing
/// more from the slot, but still sends answers through it.
pub(super) fn carry(post: &mut Post, target: SocketAddr) -> io::Result<()> {
    let Some(slot) = post.slot.take() else { return Ok(()) };
    let mut relay = DatagramRelay {
        slot,
        target,
        clients: Vec::new(),
        spare: None,
        is_short: false,
        buffer: vec![0; LONGEST],
    };
    let (mut active, mut in_vain) = (Instant::now(), 0);
    loop {
        relay.drop_done();
        let left = relay.clients.iter().map(|client| SILENCE.saturating_sub(client.last.elapsed())).min();
        let quiet = QUIET.saturating_sub(active.elapsed());
        if left.is_none() && (post.has_left() || quiet.is_zero()) {
            return Ok(());
        }
        let listens = !post.has_left() && !relay.is_short && relay.clients.len() < MOST;
        let woken = relay.wait(post, listens, left.unwrap_or(quiet))?;
        for index in woken.clients {
            relay.answer(index);
        }
        if woken.is_to_leave {
            post.leave();
        }
        if !woken.slot.is_empty() && !post.has_left() {
            if woken.slot.contains(PollFlags::POLLERR) {
                drop_errors(&relay.slot);
            }
            if relay.forward()? {
                (active, in_vain) = (Instant::now(), 0);
            } else {
                in_vain += 1;
            }
            if in_vain == IN_VAIN {
                post.leave();
            }
        }
        if !relay.clients.is_empty() {
            active = Instant::now();
        }
    }
}

struct DatagramRelay {
    slot: OwnedFd,
    target: SocketAddr,
    clients: Vec<Client>,
    /// The socket for the next client, made before its datagram is taken from the queue.
    spare: Option<UdpSocket>,
    /// Whether no fd is left for one more client.
    is_short: bool,
    buffer: Vec<u8>,
}

/// The result of poll(2).
struct WokenDatagrams {
    is_to_leave: bool,
    slot: PollFlags,
    /// The clients whose fds are polled, as indices into the table.
    clients: Vec<usize>,
}

impl DatagramRelay {
    fn wait(&self, post: &Post, listens: bool, timeout: Duration) -> io::Result<WokenDatagrams> {
        let stdout = io::stdout();
        let mut polled = post.to_poll(&stdout);
        let told = polled.len();
        polled.extend(listens.then(|| PollFd::new(self.slot.as_fd(), PollFlags::POLLIN)));
        let first = polled.len();
        polled
            .extend(self.clients.iter().map(|client| PollFd::new(client.socket.as_fd(), PollFlags::POLLIN)));
        let timeout = PollTimeout::try_from(timeout + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let clients = polled[first..].iter().enumerate().filter(|(_, polled)| is_ready(polled));
        Ok(WokenDatagrams {
            is_to_leave: polled[..told].iter().any(is_ready),
            slot: polled[told..first].iter().filter_map(PollFd::revents).collect(),
            clients: clients.map(|(index, _)| index).collect(),
        })
    }

    fn drop_done(&mut self) {
        let before = self.clients.len();
        self.clients.retain(|client| !client.is_refused && client.last.elapsed() < SILENCE);
        self.is_short &= self.clients.len() == before;
    }

    /// Passes datagrams of the slot on to the target; returns whether there were any. A living server may read them
    /// before us, hence MSG_DONTWAIT, since O_NONBLOCK belongs to that server.
    fn forward(&mut self) -> io::Result<bool> {
        let mut has_received = false;
        for _ in 0..BATCH {
            if self.clients.len() >= MOST || !self.has_spare()? {
                break;
            }
            let (length, segment, name) = match receive(&self.slot, &mut self.buffer) {
                Ok(ReceivedDatagram { length, segment, name: Some(name) }) => (length, segment, name),
                Err(Errno::EAGAIN) => break,
                Err(errno @ (Errno::EBADF | Errno::ENOTSOCK | Errno::ENOMEM)) => return Err(errno.into()),
                // udp(7) reports an error of an earlier datagram once.
                Ok(_) | Err(_) => continue,
            };
            has_received = true;
            if self.is_from_us(&name) {
                return Err(comes_back());
            }
            let index = self.clients.iter().position(|client| client.name == name);
            if index.is_none() {
                let Some(socket) = self.spare.take() else { break };
                let own = socket.local_addr().ok().map(canonical);
                self.clients.push(Client { name, socket, own, last: Instant::now(), is_refused: false });
            }
            let index = index.unwrap_or(self.clients.len() - 1);
            let client = &mut self.clients[index];
            client.last = Instant::now();
            for datagram in split(&self.buffer[..length], segment) {
                let result = client.socket.send(datagram);
                client.is_refused |= is_refusal(&result);
            }
        }
        Ok(has_received)
    }

    fn is_from_us(&self, name: &SockaddrStorage) -> bool {
        let Some(name) = sys::inet_address(name) else { return false };
        self.clients.iter().any(|client| client.own == Some(canonical(name)))
    }

    fn has_spare(&mut self) -> io::Result<bool> {
        if self.spare.is_none() {
            match socket_to(self.target) {
                Ok(socket) => self.spare = Some(socket),
                Err(error) if self.clients.is_empty() => return Err(error),
                Err(_) => self.is_short = true,
            }
        }
        Ok(self.spare.is_some())
    }

    /// Passes the target's answers on to this client. Errors are ignored like lost datagrams.
    fn answer(&mut self, index: usize) {
        let client = &mut self.clients[index];
        for _ in 0..BATCH {
            let result = client.socket.recv(&mut self.buffer);
            client.is_refused |= is_refusal(&result);
            let Ok(length) = result else { break };
            client.last = Instant::now();
            let answer = &self.buffer[..length];
            let _lost = sendto(self.slot.as_raw_fd(), answer, &client.name, MsgFlags::MSG_DONTWAIT);
        }
    }
}

fn socket_to(target: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr =
        if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(target)?;
    Ok(socket)
}

/// Whether no process reads at the target. Any other error loses one datagram, as a network may.
fn is_refusal(result: &io::Result<usize>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

struct ReceivedDatagram {
    length: usize,
    /// The segment size of UDP_GRO, if a server has set it (udp(7), Linux 5.0): several datagrams arrive as one.
    segment: Option<usize>,
    name: Option<SockaddrStorage>,
}

fn receive(slot: &OwnedFd, buffer: &mut [u8]) -> Result<ReceivedDatagram, Errno> {
    let mut buffers = [IoSliceMut::new(buffer)];
    // This leaves room for messages that other options of the server add.
    let mut space = cmsg_space!([u8; 512]);
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(slot.as_raw_fd(), &mut buffers, Some(&mut space), flags)?;
    let segment = message.cmsgs().ok().and_then(|mut all| {
        all.find_map(|one| match one {
            ControlMessageOwned::UdpGroSegments(length) => usize::try_from(length).ok(),
            _ => None,
        })
    });
    Ok(ReceivedDatagram { length: message.bytes, segment, name: message.address })
}

/// Splits what arrived as one into datagrams. An empty one counts.
fn split(all: &[u8], segment: Option<usize>) -> impl Iterator<Item = &[u8]> {
    let (first, rest) =
        all.split_at(segment.filter(|length| *length > 0).unwrap_or(all.len()).min(all.len()));
    std::iter::once(first).chain(rest.chunks(first.len().max(1)))
}

/// Reads the error queue. Where a server has set IP_RECVERR, errors of undeliverable answers are queued, and poll(2)
/// reports them until they are read (ip(7)).
fn drop_errors(slot: &OwnedFd) {
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    for _ in 0..BATCH {
        if recvmsg::<()>(slot.as_raw_fd(), &mut [], None, flags).is_err() {
            break;
        }
    }
}
