//! Relays TCP and unix stream sockets: one poll loop accepts, connects and carries.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigEvent, SigevNotify, Signal as NixSignal};
use nix::sys::socket::{SockaddrStorage, getpeername, getsockname, getsockopt, setsockopt, sockopt};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;

use super::link::{CLIENT, Link, LinkProgress, SERVER, reset};
use super::{PASSED_ON, Post, QUIET, REFUSED, canonical, comes_back, is_ready};
use crate::os::socket::Target;
use crate::os::sys;

/// The most connections at once; others stay in the queue. RLIMIT_NOFILE may allow fewer, with two fds for each.
const MOST: usize = 1000;

/// How often and how long connect(2) to a unix socket with a full queue is tried again (EAGAIN, without an event).
const AGAIN: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(5);

/// After how many milliseconds a blocked accept(2) is interrupted.
const BLOCKED: i64 = 5;

/// An accepted connection whose connection to the target is not made yet.
#[derive(Debug)]
struct Connecting {
    client: OwnedFd,
    server: OwnedFd,
    /// Whether connect(2) was begun, which ends when the socket is writable; otherwise it is tried again.
    is_begun: bool,
    since: Instant,
    /// Our address towards the target, once connect(2) was begun; `None` on unix sockets.
    own: Option<SocketAddr>,
}

#[derive(Debug)]
enum Item {
    Call(Connecting),
    /// The second field is our address towards the target.
    Link(Link, Option<SocketAddr>),
}

/// Carries until the queue is empty and nothing is carried, or the slot was left.
pub(super) fn carry(post: &mut Post, target: &Target) -> io::Result<()> {
    let mut acceptor = Acceptor::new()?;
    let mut items: Vec<Item> = Vec::new();
    // Whether no fd is left until one of these has ended.
    let mut is_short = false;
    let mut active = Instant::now();
    loop {
        let quiet = QUIET.saturating_sub(active.elapsed());
        if items.is_empty() && (post.slot.is_none() || quiet.is_zero()) {
            return Ok(());
        }
        let can_accept = items.len() < MOST && !is_short;
        let slot = post.slot.as_ref().filter(|_| can_accept);
        let woken = wait(post, slot, &items, quiet)?;
        let before = items.len();
        step_all(&mut items, &woken.items, target);
        if items.len() < before {
            is_short = false;
        }
        if !items.is_empty() {
            active = Instant::now();
        }
        if woken.is_to_leave {
            post.leave();
        }
        let Some(slot) = post.slot.as_ref().filter(|_| woken.slot) else { continue };
        match acceptor.take(slot, target) {
            TakenStream::Call(call) if is_from_us(&call, &items, target) => {
                reset(call.client);
                return Err(comes_back());
            }
            TakenStream::Call(call) => items.extend(Item::Call(call).step([PollFlags::empty(); 2], target)),
            TakenStream::Nothing => {}
            TakenStream::NoRoom(error) if items.is_empty() => return Err(error),
            TakenStream::NoRoom(_) => is_short = true,
            TakenStream::Closed => post.slot = None,
        }
        active = Instant::now();
    }
}

/// The result of poll(2).
struct WokenStreams {
    is_to_leave: bool,
    slot: bool,
    items: Vec<[PollFlags; 2]>,
}

fn wait(post: &Post, slot: Option<&OwnedFd>, items: &[Item], quiet: Duration) -> io::Result<WokenStreams> {
    let stdout = io::stdout();
    let mut polled = post.to_poll(&stdout);
    let told = polled.len();
    polled.extend(slot.map(|slot| PollFd::new(slot.as_fd(), PollFlags::POLLIN)));
    let first = polled.len();
    let mut places = Vec::new();
    for (index, item) in items.iter().enumerate() {
        for side in [CLIENT, SERVER] {
            let Some((socket, flags)) = item.interest(side) else { continue };
            polled.push(PollFd::new(socket, flags));
            places.push((index, side));
        }
    }
    let timeout = if items.iter().any(Item::is_to_try_again) {
        timeout(AGAIN)
    } else if items.is_empty() {
        timeout(quiet)
    } else {
        PollTimeout::NONE
    };
    match poll(&mut polled, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mut woken = WokenStreams {
        is_to_leave: polled[..told].iter().any(is_ready),
        slot: polled[told..first].iter().any(is_ready),
        items: vec![[PollFlags::empty(); 2]; items.len()],
    };
    for (polled, (index, side)) in polled[first..].iter().zip(places) {
        woken.items[index][side] = polled.revents().unwrap_or(PollFlags::empty());
    }
    Ok(woken)
}

/// Rounded up, because a timeout that comes early makes a turn without work.
fn timeout(span: Duration) -> PollTimeout {
    PollTimeout::try_from(span + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
}

fn step_all(items: &mut Vec<Item>, events: &[[PollFlags; 2]], target: &Target) {
    // From the end, so that the item which replaces a removed one has had its turn.
    for (index, events) in events.iter().enumerate().rev() {
        if events.iter().all(|events| events.is_empty()) && !items[index].is_to_try_again() {
            continue;
        }
        let item = items.swap_remove(index);
        items.extend(item.step(*events, target));
    }
}

impl Item {
    fn interest(&self, side: usize) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match self {
            Self::Link(link, _) => link.interest(side),
            // Events of the client are handled once the target is connected.
            Self::Call(call) if call.is_begun && side == SERVER => {
                Some((call.server.as_fd(), PollFlags::POLLOUT))
            }
            Self::Call(_) => None,
        }
    }

    fn is_to_try_again(&self) -> bool {
        matches!(self, Self::Call(call) if !call.is_begun)
    }

    /// Does what the events allow; `None` when it has ended.
    fn step(self, events: [PollFlags; 2], target: &Target) -> Option<Self> {
        match self {
            Self::Call(call) if call.is_begun => {
                let result = getsockopt(&call.server, sockopt::SocketError);
                let result =
                    result.and_then(|error| if error == 0 { Ok(()) } else { Err(Errno::from_raw(error)) });
                call.answered(result, target)
            }
            Self::Call(mut call) => {
                let result = target.connect(&call.server);
                call.own = name(getsockname(call.server.as_raw_fd()));
                call.answered(result, target)
            }
            Self::Link(mut link, own) => match link.turn(events) {
                LinkProgress::Carrying => Some(Self::Link(link, own)),
                LinkProgress::Done => None,
                LinkProgress::Broken => {
                    link.reset();
                    None
                }
            },
        }
    }
}

impl Connecting {
    fn answered(mut self, result: Result<(), Errno>, target: &Target) -> Option<Item> {
        match result {
            Ok(()) => {
                Post::count(PASSED_ON);
                let is_unix = matches!(target, Target::Unix(_) | Target::Abstract(_));
                return Some(Item::Link(Link::new(self.client, self.server, is_unix), self.own));
            }
            Err(Errno::EINPROGRESS) => self.is_begun = true,
            Err(Errno::EAGAIN) if self.since.elapsed() < PATIENCE => {}
            Err(_) => {
                Post::count(REFUSED);
                reset(self.client);
                return None;
            }
        }
        Some(Item::Call(self))
    }
}

/// Whether the client is one of our own connections to the target. The address is compared as well, because the
/// kernel may use one port for several destinations.
fn is_from_us(call: &Connecting, items: &[Item], target: &Target) -> bool {
    let Target::Tcp(target) = target else { return false };
    let asked = name(getsockname(call.client.as_raw_fd()));
    let is_asked = |asked: SocketAddr| {
        let is_same_ip = asked.ip() == target.ip().to_canonical() || target.ip().is_unspecified();
        is_same_ip && asked.port() == target.port()
    };
    let peer = name(getpeername(call.client.as_raw_fd())).filter(|_| asked.is_some_and(is_asked));
    let is_same = |item: &Item| match item {
        Item::Call(Connecting { own, .. }) | Item::Link(_, own) => *own == peer,
    };
    peer.is_some() && items.iter().any(is_same)
}

/// `None` on unix sockets, and where the connection is gone.
fn name(name: nix::Result<SockaddrStorage>) -> Option<SocketAddr> {
    sys::inet_address(&name.ok()?).map(canonical)
}

/// A socket for one connection to the target, without Nagle's algorithm, which the sender has applied already.
fn socket_to(target: &Target) -> io::Result<OwnedFd> {
    let socket = target.stream()?;
    no_delay(&socket);
    Ok(socket)
}

fn no_delay(socket: &OwnedFd) {
    // Unix sockets do not have this option.
    let _of_tcp_alone = setsockopt(socket, sockopt::TcpNoDelay, &true);
}

/// The result of an attempt to accept a connection.
enum TakenStream {
    Call(Connecting),
    Nothing,
    /// No fd, no memory or no permission (of a security module); the connection stays in the queue.
    NoRoom(io::Error),
    /// The slot was shut down, and its queue is lost or was moved to another slot.
    Closed,
}

/// An accept(2) that returns even without O_NONBLOCK, which belongs to the open file description that a living server
/// shares; that server may take the connection which poll(2) reported. A timer interrupts the call. It fires
/// repeatedly, because the first signal may come before the call.
struct Acceptor {
    timer: Timer,
}

impl Acceptor {
    fn new() -> io::Result<Self> {
        sys::let_alarms_interrupt()?;
        let event = SigEvent::new(SigevNotify::SigevSignal { signal: NixSignal::SIGALRM, si_value: 0 });
        Ok(Self { timer: Timer::new(ClockId::CLOCK_MONOTONIC, event)? })
    }

    fn take(&mut self, slot: &OwnedFd, target: &Target) -> TakenStream {
        // The other socket is made first, so that no connection is accepted that cannot be carried.
        let server = match socket_to(target) {
            Ok(server) => server,
            Err(error) => return TakenStream::NoRoom(error),
        };
        let error = match self.accept(slot) {
            Ok(client) => {
                no_delay(&client);
                // The connection inherits SO_LINGER of the listener, which would make close(2) wait or discard data.
                let _of_sockets =
                    setsockopt(&client, sockopt::Linger, &libc::linger { l_onoff: 0, l_linger: 0 });
                return TakenStream::Call(Connecting {
                    client,
                    server,
                    is_begun: false,
                    since: Instant::now(),
                    own: None,
                });
            }
            Err(error) => error,
        };
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EPERM | libc::EACCES) => {
                TakenStream::NoRoom(error)
            }
            Some(libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP) => TakenStream::Closed,
            // accept(2) was interrupted, or another process took the connection, or it is gone already.
            _ => TakenStream::Nothing,
        }
    }

    fn accept(&mut self, slot: &OwnedFd) -> io::Result<OwnedFd> {
        self.set(BLOCKED)?;
        let result = sys::accept(slot);
        self.set(0)?;
        result
    }

    /// Sets the timer; 0 disarms it.
    fn set(&mut self, milliseconds: i64) -> io::Result<()> {
        let interval = Expiration::Interval(TimeSpec::milliseconds(milliseconds));
        Ok(self.timer.set(interval, TimerSetTimeFlags::empty())?)
    }
}
