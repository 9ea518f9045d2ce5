//! What the connections of a generation are doing, for draining. A connection is idle only where the kernel's numbers
//! say that it owes nobody an answer; whatever they leave open counts as busy, for longer than it may have to.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::net::SocketAddr;

use super::inet::{Activity, InetSocket, SocketState};
use super::local::UnixSocket;
use crate::config::Span;
use crate::core::Traffic;

/// Half-open connections, by our address and theirs. The kernel does not say which slot's they are.
pub type Handshakes = HashSet<(SocketAddr, SocketAddr)>;

/// The handshakes under way now: remembered at a switch and given to [`traffic`] later.
pub fn handshakes<'a>(sockets: impl IntoIterator<Item = &'a InetSocket>) -> Handshakes {
    let begun = sockets.into_iter().filter(|socket| socket.state == SocketState::SynReceived);
    begun.map(|socket| (socket.local, socket.remote)).collect()
}

/// The TCP connections that `is_ours` picks (by label: those of a slot, accepted or not; by inode: those of some
/// processes), and how many of the handshakes in `begun` are still under way.
pub fn traffic<'a>(
    sockets: impl IntoIterator<Item = &'a InetSocket>,
    is_ours: impl Fn(&InetSocket) -> bool,
    quiet: Span,
    begun: &Handshakes,
) -> Traffic {
    let mut traffic = Traffic::default();
    for socket in sockets {
        match socket.state {
            SocketState::Listen => {}
            SocketState::SynReceived => {
                traffic.handshakes += u32::from(begun.contains(&(socket.local, socket.remote)));
            }
            _ if !is_ours(socket) => {}
            _ if socket.inode != 0 => count(&mut traffic, work(socket, quiet)),
            SocketState::Established | SocketState::CloseWait => traffic.queued += 1,
            // What a process has closed, or left behind, is the kernel's to end.
            SocketState::Other => {}
        }
    }
    traffic
}

/// The sockets of one unix listener. The kernel does not know when they last said something: which of those that have
/// nothing in their queues are idle is the caller's to say.
pub fn unix_traffic<'a>(
    sockets: impl IntoIterator<Item = &'a UnixSocket>,
    is_idle: impl Fn(&UnixSocket) -> bool,
) -> Traffic {
    let mut traffic = Traffic::default();
    for socket in sockets {
        match socket.state {
            SocketState::Listen => traffic.queued += socket.rqueue,
            SocketState::Established => {
                let work = match socket {
                    socket if !socket.is_silent() => Work::InFlight,
                    socket if is_idle(socket) => Work::Idle,
                    _ => Work::Recent,
                };
                count(&mut traffic, work);
            }
            _ => {}
        }
    }
    traffic
}

enum Work {
    InFlight,
    Recent,
    Idle,
}

fn count(traffic: &mut Traffic, work: Work) {
    match work {
        Work::InFlight => traffic.in_flight += 1,
        Work::Recent => traffic.recent += 1,
        Work::Idle => traffic.idle += 1,
    }
}

/// The client's FIN counts as a byte until the server has read it; after a FIN there is nothing else.
fn unread(socket: &InetSocket) -> u32 {
    socket.rqueue.saturating_sub(u32::from(socket.state == SocketState::CloseWait))
}

/// What an accepted connection is doing.
fn work(socket: &InetSocket, quiet: Span) -> Work {
    let unread = unread(socket);
    if unread > 0 || socket.wqueue > 0 {
        return Work::InFlight;
    }
    let Some(activity) = socket.activity else { return Work::Recent };
    let silence = activity.since_sent_ms.min(activity.since_received_ms);
    if owes_an_answer(&activity) {
        Work::InFlight
    } else if has_not_asked(socket, &activity) || Span::from_millis(u64::from(silence)) < quiet {
        Work::Recent
    } else {
        Work::Idle
    }
}

/// Its first request may be on its way: a browser connects before it has one, a pool keeps some ready. Only a client that
/// has sent its FIN says no more.
fn has_not_asked(socket: &InetSocket, activity: &Activity) -> bool {
    activity.received == 0 && socket.state == SocketState::Established
}

/// Whether the last to say something was the client.
///
/// A client on a fast network sends its next request in the same tick as it got the answer, and a fast server answers in
/// the tick of the request: equal times mean either. Two things tell them apart. A client that is done acknowledges the
/// answer in a segment of its own, mostly 40 ms later; one that asks again does it with the request. And a request that
/// is not answered at once is acknowledged alone; so is the first data of every connection, but then no more, if all
/// answers come at once. So an unanswered request on top of an answered one makes two.
fn owes_an_answer(activity: &Activity) -> bool {
    if activity.received == 0 || activity.sent == 0 {
        return activity.received > 0;
    }
    match activity.since_received_ms.cmp(&activity.since_sent_ms) {
        Ordering::Less => true,
        Ordering::Greater => false,
        Ordering::Equal => {
            activity.since_acknowledged_ms >= activity.since_received_ms && activity.bare_sent > 1
        }
    }
}
