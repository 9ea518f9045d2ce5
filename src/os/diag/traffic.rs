//! What the connections of a generation are doing, for draining. A connection is idle only where the kernel's numbers
//! say that it owes nobody an answer; whatever they leave open counts as busy, for longer than it may have to.

use std::collections::HashSet;
use std::net::SocketAddr;

use super::inet::{InetSocket, State};
use super::local::UnixSocket;
use crate::config::Span;
use crate::core::Traffic;

/// Half-open connections, by our address and theirs. The kernel does not say which slot's they are.
pub type Handshakes = HashSet<(SocketAddr, SocketAddr)>;

/// The handshakes under way now: remembered at a switch and given to [`traffic`] later.
pub fn handshakes(sockets: &[InetSocket]) -> Handshakes {
    let begun = sockets.iter().filter(|socket| socket.state == State::SynReceived);
    begun.map(|socket| (socket.local, socket.remote)).collect()
}

/// The TCP connections that `is_ours` picks (by label: those of a slot, accepted or not; by inode: those of some
/// processes), and how many of the handshakes in `begun` are still under way.
pub fn traffic(
    sockets: &[InetSocket],
    is_ours: impl Fn(&InetSocket) -> bool,
    quiet: Span,
    begun: &Handshakes,
) -> Traffic {
    let mut traffic = Traffic::default();
    for socket in sockets {
        match socket.state {
            State::Listen => {}
            State::SynReceived => {
                traffic.handshakes += u32::from(begun.contains(&(socket.local, socket.remote)));
            }
            _ if !is_ours(socket) => {}
            _ if socket.inode != 0 => count(&mut traffic, work(socket, quiet)),
            State::Established | State::CloseWait => traffic.queued += 1,
            // What a process has closed, or left behind, is the kernel's to end.
            State::Other => {}
        }
    }
    traffic
}

/// The connections of one unix listener. Nobody knows when they last said something, so none is ever idle.
pub fn unix_traffic(sockets: &[UnixSocket], is_ours: impl Fn(&UnixSocket) -> bool) -> Traffic {
    let mut traffic = Traffic::default();
    for socket in sockets.iter().filter(|socket| is_ours(socket)) {
        match socket.state {
            State::Listen => traffic.queued += socket.rqueue,
            State::Established if socket.inode != 0 => {
                let busy = socket.rqueue > 0 || socket.wqueue > 0;
                count(&mut traffic, if busy { Work::InFlight } else { Work::Recent });
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

/// What an accepted connection is doing.
fn work(socket: &InetSocket, quiet: Span) -> Work {
    if socket.rqueue > 0 || socket.wqueue > 0 {
        return Work::InFlight;
    }
    let Some(activity) = socket.activity else { return Work::Recent };
    // Without a byte sent the time of sending is that of the start, which may be the same tick as the request's.
    let unanswered =
        activity.received && (!activity.sent || activity.since_received_ms < activity.since_sent_ms);
    let silence = activity.since_sent_ms.min(activity.since_received_ms);
    if unanswered {
        Work::InFlight
    } else if Span::from_millis(u64::from(silence)) < quiet {
        Work::Recent
    } else {
        Work::Idle
    }
}
