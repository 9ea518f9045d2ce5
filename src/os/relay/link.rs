//! Two connected stream sockets and the bytes between them, as a state machine over non-blocking calls.
//!
//! End of input on one side becomes a shutdown(2) of the other once everything before it is written, so a half-close is
//! kept. A broken connection becomes a RST of the other side, after what came before the break. Unix sockets do not
//! break: what was sent before a close(2) arrives, and only a writer to a closed socket gets an error. Each direction
//! keeps at most [`MOST`] bytes and reads no more until they are written, so that back-pressure reaches the sender.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};
use nix::unistd::{read, write};

/// The most bytes kept for a reader that is slower than its writer.
const MOST: usize = 16 * 1024;

/// The most reads of one direction before the other connections get their turn.
const READS: usize = 16;

/// The state of a link after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkProgress {
    Carrying,
    /// Both directions have ended.
    Done,
    /// Reading or writing failed on one side.
    Broken,
}

/// The indices of the two sides.
pub(super) const CLIENT: usize = 0;
pub(super) const SERVER: usize = 1;

#[derive(Debug)]
pub(super) struct Link {
    sides: [Side; 2],
    is_unix: bool,
}

#[derive(Debug)]
struct Side {
    socket: OwnedFd,
    /// The bytes read from this side and not yet written to the other.
    pending: Vec<u8>,
    /// Whether this side has ended its output and the other was told; it is valid once nothing is pending.
    has_ended: bool,
    /// Whether poll(2) reported POLLHUP, which it would do for ever, so this side is not polled any more. What it
    /// sent before is still in its queue.
    is_gone: bool,
}

impl Side {
    fn new(socket: OwnedFd) -> Self {
        Self { socket, pending: Vec::new(), has_ended: false, is_gone: false }
    }

    fn end(&mut self, to: &Self) -> Result<(), Errno> {
        (self.pending, self.has_ended) = (Vec::new(), true);
        shutdown(to.socket.as_raw_fd(), Shutdown::Write)
    }

    /// Shuts reading down, so that the next write(2) of this side fails, as it would without us.
    fn refuse(&mut self) -> Result<(), Errno> {
        self.pending = Vec::new();
        self.has_ended = true;
        match shutdown(self.socket.as_raw_fd(), Shutdown::Read) {
            // This side has ended as well.
            Err(Errno::ENOTCONN) => Ok(()),
            result => result,
        }
    }
}

impl Link {
    /// Both sockets must be non-blocking.
    pub(super) fn new(client: OwnedFd, server: OwnedFd, is_unix: bool) -> Self {
        Self { sides: [Side::new(client), Side::new(server)], is_unix }
    }

    /// What to poll for on a side; `None` for nothing.
    pub(super) fn interest(&self, side: usize) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let (this, other) = (&self.sides[side], &self.sides[1 - side]);
        if this.is_gone {
            return None;
        }
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, !this.has_ended && this.pending.is_empty());
        flags.set(PollFlags::POLLOUT, !other.pending.is_empty());
        Some((this.socket.as_fd(), flags))
    }

    /// Carries what can be carried now, after poll(2) reported these events for the two sides.
    pub(super) fn turn(&mut self, events: [PollFlags; 2]) -> LinkProgress {
        let mut is_broken = false;
        for (side, events) in self.sides.iter_mut().zip(events) {
            is_broken |= !self.is_unix && events.contains(PollFlags::POLLERR);
            side.is_gone |= events.contains(PollFlags::POLLHUP);
        }
        // Both directions, whichever is broken: an answer that came before the break must still be delivered.
        for from in [CLIENT, SERVER] {
            is_broken |= self.pump(from).is_err();
        }
        // Nobody is left to read what the other side may still send.
        let is_over = |side: &Side| side.is_gone && side.has_ended;
        if is_broken {
            LinkProgress::Broken
        } else if self.sides.iter().all(|side| side.has_ended) || self.sides.iter().any(is_over) {
            LinkProgress::Done
        } else {
            LinkProgress::Carrying
        }
    }

    /// Carries one direction until there is nothing to read or no room to write.
    fn pump(&mut self, from: usize) -> Result<(), Errno> {
        let is_unix = self.is_unix;
        let [client, server] = &mut self.sides;
        let (from, to) = if from == CLIENT { (client, server) } else { (server, client) };
        for _ in 0..READS {
            match flush(&mut from.pending, to.socket.as_fd()) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(Errno::EPIPE | Errno::ECONNRESET) if is_unix => return from.refuse(),
                Err(errno) => return Err(errno),
            }
            if from.has_ended {
                return Ok(());
            }
            from.pending.resize(MOST, 0);
            let result = read(&from.socket, &mut from.pending);
            from.pending.truncate(result.unwrap_or(0));
            match result {
                Ok(1..) => {}
                Ok(0) => return from.end(to),
                // The peer closed with unread data, and everything that it had sent was read before this error.
                Err(Errno::ECONNRESET) if is_unix => return from.end(to),
                Err(Errno::EAGAIN) => {
                    // Most connections are idle, so their buffer is freed.
                    from.pending = Vec::new();
                    return Ok(());
                }
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Ends both connections at once; over TCP by a RST that discards what is on its way.
    pub(super) fn reset(self) {
        for side in self.sides {
            reset(side.socket);
        }
    }
}

/// Writes what is pending; returns whether all of it is written.
fn flush(pending: &mut Vec<u8>, to: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut written = 0;
    let result = loop {
        if written == pending.len() {
            break Ok(true);
        }
        match write(to, &pending[written..]) {
            Ok(length) => written += length,
            Err(Errno::EAGAIN) => break Ok(false),
            Err(errno) => break Err(errno),
        }
    };
    pending.drain(..written);
    result
}

/// Closes a connection with a RST (socket(7), SO_LINGER). A unix socket has no RST and is just closed.
pub(super) fn reset(socket: OwnedFd) {
    let now = libc::linger { l_onoff: 1, l_linger: 0 };
    // This fails for a socket that is not connected any more, which needs no RST.
    let _unconnected = setsockopt(&socket, sockopt::Linger, &now);
}
