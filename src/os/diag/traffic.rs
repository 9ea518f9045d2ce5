//! Classifies the connections of a generation for draining: in flight, recently active or idle. A connection is idle
//! only if the kernel's numbers show that the server owes no answer; where they leave that open, it counts as busy.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::net::SocketAddr;

use super::inet::{Activity, InetSocket, SocketState};
use super::local::UnixSocket;
use crate::config::Span;
use crate::core::Traffic;

/// Half-open connections by local and remote address. The kernel does not say to which slot they belong.
pub type Handshakes = HashSet<(SocketAddr, SocketAddr)>;

/// The handshakes in progress, which the caller remembers at a switch and gives to [`traffic`] later.
pub fn handshakes<'a>(sockets: impl IntoIterator<Item = &'a InetSocket>) -> Handshakes {
    let begun = sockets.into_iter().filter(|socket| socket.state == SocketState::SynReceived);
    begun.map(|socket| (socket.local, socket.remote)).collect()
}

/// Counts the TCP connections that `is_ours` selects (by label: those of a slot, accepted or not; by inode: those of
/// some processes), and the handshakes of `begun` that are still in progress.
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
            // The kernel finishes connections that a process has closed.
            SocketState::Other => {}
        }
    }
    traffic
}

/// Counts the connections of one unix listener. The kernel does not know when they were last used, so the caller
/// decides which of those with empty queues are idle.
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

/// Unread bytes without the client's FIN, which counts as one until the server has read it.
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

/// Whether the first request may still be on its way: a browser connects before it has one, and a pool keeps
/// connections ready. Only a client that has sent its FIN has nothing to ask.
fn has_not_asked(socket: &InetSocket, activity: &Activity) -> bool {
    activity.received == 0 && socket.state == SocketState::Established
}

/// Whether the client was the last to send data.
///
/// A client on a fast network sends its next request in the same tick in which it got the answer, and a fast server
/// answers in the tick of the request, so equal times mean either. Two things distinguish them. A client that is done
/// acknowledges the answer in a segment of its own, mostly 40 ms later; one that asks again does so with the request.
/// And a request that is not answered at once is acknowledged alone; so is the first data of every connection, but no
/// more if all answers come at once. So an unanswered request after an answered one makes two.
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
