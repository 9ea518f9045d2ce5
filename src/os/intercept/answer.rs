//! Decides which held socket a bind(2) is meant for, if any.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::address::Wanted;
use crate::config::Kind;

/// The socket that a server wants to bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WantedSocket {
    pub(super) family: WantedFamily,
    pub(super) kind: WantedType,
    /// IPV6_V6ONLY; `None` where it cannot be seen.
    pub(super) v6_only: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WantedFamily {
    V4,
    V6,
    Unix,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WantedType {
    Stream,
    Datagram,
    /// AF_UNIX with datagrams or packets.
    NoStream,
}

/// The address of a held socket, for the comparison with the wanted one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HeldPlace {
    pub(super) kind: Kind,
    /// The bound address; a path is absolute.
    pub(super) at: Wanted,
    /// Whether it is `[::]` and takes IPv4 as well.
    pub(super) takes_ipv4: bool,
    /// Whether a bare port was asked for, so that the server chooses the families.
    pub(super) is_port: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It means no held socket; the kernel carries it out.
    Pass,
    /// It means the held socket with this index.
    Held(usize),
    /// It means this one, but an IPv4 socket cannot be replaced by an IPv6 one: the server would read the addresses
    /// of its clients into buffers that are too short.
    WrongFamily(usize),
    /// It wants IPv6 beside this one, which is IPv4. It may, but old and new generation will both want it.
    Beside(usize),
    /// It wants both families by one socket, and may have that, because a bare port was asked for; this one is IPv4.
    Wider(usize),
}

/// Whether `wanted` may mean a held socket, whatever the server's own is: the cheap question before the expensive ones.
pub(super) fn is_near(wanted: &Wanted, held: &[HeldPlace]) -> bool {
    held.iter().any(|place| match (&place.at, wanted) {
        (Wanted::Inet(held), Wanted::Inet(wanted)) => held.port() == wanted.port(),
        (Wanted::Path(held), Wanted::Path(wanted)) => held.file_name() == wanted.file_name(),
        (held, wanted) => held == wanted,
    })
}

/// Decides. `is_same_path` compares the wanted path, relative to the server's directory, with an absolute one of ours.
pub(super) fn answer(
    socket: WantedSocket,
    wanted: &Wanted,
    held: &[HeldPlace],
    is_same_path: impl Fn(&HeldPlace) -> bool,
) -> Answer {
    let suits = |place: &&HeldPlace| match socket.kind {
        WantedType::Stream => place.kind.is_stream(),
        WantedType::Datagram => place.kind.has_datagrams(),
        WantedType::NoStream => place.kind.is_unix() && !place.kind.is_stream(),
    };
    let number = |place: &HeldPlace| held.iter().position(|other| std::ptr::eq(place, other));
    let of_inet = |address: &SocketAddr| {
        let same_port = |place: &&HeldPlace| port(place) == Some(address.port());
        let candidates: Vec<&HeldPlace> = held.iter().filter(suits).filter(same_port).collect();
        let Some(best) = nearest(socket.family, *address, &candidates) else {
            let is_for_all = |place: &&&HeldPlace| place.is_port && is_ipv4(place);
            let beside = candidates.iter().find(is_for_all).filter(|_| address.is_ipv6());
            return beside.and_then(|place| number(place)).map_or(Answer::Pass, Answer::Beside);
        };
        let Some(number) = number(best) else { return Answer::Pass };
        match (socket.family, &best.at) {
            (WantedFamily::V4, Wanted::Inet(SocketAddr::V6(_))) => Answer::WrongFamily(number),
            (WantedFamily::V6, Wanted::Inet(SocketAddr::V4(_))) if socket.v6_only == Some(true) => {
                Answer::Beside(number)
            }
            (WantedFamily::V6, Wanted::Inet(SocketAddr::V4(_)))
                if best.is_port && address.is_ipv6() && address.ip().is_unspecified() =>
            {
                Answer::Wider(number)
            }
            _ => Answer::Held(number),
        }
    };
    match wanted {
        Wanted::Inet(_) if socket.family == WantedFamily::Unix => Answer::Pass,
        Wanted::Inet(address) => of_inet(address),
        Wanted::Path(_) | Wanted::Abstract(_) if socket.family != WantedFamily::Unix => Answer::Pass,
        Wanted::Path(_) => held
            .iter()
            .filter(suits)
            .find(|place| matches!(place.at, Wanted::Path(_)) && is_same_path(place))
            .and_then(number)
            .map_or(Answer::Pass, Answer::Held),
        Wanted::Abstract(_) => held
            .iter()
            .filter(suits)
            .find(|place| place.at == *wanted)
            .and_then(number)
            .map_or(Answer::Pass, Answer::Held),
    }
}

fn port(place: &HeldPlace) -> Option<u16> {
    match &place.at {
        Wanted::Inet(address) => Some(address.port()),
        Wanted::Path(_) | Wanted::Abstract(_) => None,
    }
}

fn is_ipv4(place: &HeldPlace) -> bool {
    matches!(&place.at, Wanted::Inet(at) if at.is_ipv4())
}

/// The held socket with this address; else one whose address includes it; else, for a server that wants all of a
/// port, the only one of that port. Among equals, the one of the same family as the server's socket.
fn nearest<'a>(
    family: WantedFamily,
    wanted: SocketAddr,
    candidates: &[&'a HeldPlace],
) -> Option<&'a HeldPlace> {
    let is_own_family = |place: &HeldPlace| is_ipv4(place) == (family == WantedFamily::V4);
    let rank = |place: &HeldPlace| {
        let Wanted::Inet(at) = &place.at else { return None };
        let rank = if is_same_ip(*at, wanted) {
            0
        } else if includes(place, at.ip(), wanted.ip()) || is_part_of(family, at.ip(), wanted.ip()) {
            2
        } else if wanted.ip().is_unspecified() && candidates.len() == 1 {
            4
        } else {
            return None;
        };
        Some(rank + u8::from(!is_own_family(place)))
    };
    let ranked = candidates.iter().filter_map(|place| Some((rank(place)?, *place)));
    ranked.min_by_key(|(rank, _)| *rank).map(|(_, place)| place)
}

/// Whether two addresses are equal, where a missing scope matches any.
fn is_same_ip(one: SocketAddr, other: SocketAddr) -> bool {
    let scope = |address| match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(v6) => v6.scope_id(),
    };
    one.ip() == other.ip() && (scope(one) == scope(other) || scope(one) == 0 || scope(other) == 0)
}

/// Whether the held socket receives what comes to `wanted`.
fn includes(place: &HeldPlace, held: IpAddr, wanted: IpAddr) -> bool {
    match held {
        IpAddr::V4(held) => held == Ipv4Addr::UNSPECIFIED && wanted.is_ipv4(),
        IpAddr::V6(held) => held == Ipv6Addr::UNSPECIFIED && (wanted.is_ipv6() || place.takes_ipv4),
    }
}

/// Whether all of IPv4 is held and the server wants that and all of IPv6.
fn is_part_of(family: WantedFamily, held: IpAddr, wanted: IpAddr) -> bool {
    family == WantedFamily::V6 && held.is_unspecified() && wanted.is_unspecified()
}

#[cfg(test)]
mod tests;
