//! Which held socket a bind(2) is meant for, if any.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::address::Wanted;
use crate::config::Kind;

/// The socket that a server wants to bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WantedSocket {
    pub(super) family: WantedFamily,
    pub(super) kind: WantedType,
    /// IPV6_V6ONLY; None: it cannot be seen.
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
    /// AF_UNIX: of datagrams or packets.
    NoStream,
}

/// What is held, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeldPlace {
    pub(super) kind: Kind,
    /// Where it is bound; a path is absolute.
    pub(super) at: Wanted,
    /// `[::]` that takes IPv4 as well.
    pub(super) takes_ipv4: bool,
    /// A port alone was asked for: the families are the server's choice.
    pub(super) is_port: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Not ours: let it bind.
    Pass,
    /// The held socket with this index is the one that it binds.
    Held(usize),
    /// This one was meant, but an IPv4 socket cannot be replaced by one of IPv6: the server would read the addresses of
    /// its clients into buffers that are too short.
    WrongFamily(usize),
    /// It serves IPv6 beside this one of IPv4: let it bind, but old and new will both want to.
    Beside(usize),
    /// It wants both families by one socket, and may: for a port alone was asked, of which this one of IPv4 is held.
    Wider(usize),
}

/// Whether `wanted` may be one of them, whatever its socket is: the cheap question before the dear ones.
pub(super) fn is_near(wanted: &Wanted, held: &[HeldPlace]) -> bool {
    held.iter().any(|place| match (&place.at, wanted) {
        (Wanted::Inet(held), Wanted::Inet(wanted)) => held.port() == wanted.port(),
        (Wanted::Path(held), Wanted::Path(wanted)) => held.file_name() == wanted.file_name(),
        (held, wanted) => held == wanted,
    })
}

/// `is_same_path` compares a path of ours with the wanted one, which is relative to a directory of the server's.
pub(super) fn answer(
    socket: WantedSocket,
    wanted: &Wanted,
    held: &[HeldPlace],
    is_same_path: impl Fn(&HeldPlace) -> bool,
) -> Answer {
    let suits = |place: &&HeldPlace| match socket.kind {
        WantedType::Stream => matches!(place.kind, Kind::Tcp | Kind::Unix),
        WantedType::Datagram => matches!(place.kind, Kind::Udp | Kind::UnixGram),
        WantedType::NoStream => matches!(place.kind, Kind::UnixGram | Kind::SeqPacket),
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

/// The very address first, one that includes it next, and for a server that wants all of a port the only one held. Among
/// equals the family of its socket.
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

/// A scope that one of them leaves out may be the other's.
fn is_same_ip(one: SocketAddr, other: SocketAddr) -> bool {
    let scope = |address| match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(v6) => v6.scope_id(),
    };
    one.ip() == other.ip() && (scope(one) == scope(other) || scope(one) == 0 || scope(other) == 0)
}

/// What is held takes what comes to `wanted`.
fn includes(place: &HeldPlace, held: IpAddr, wanted: IpAddr) -> bool {
    match held {
        IpAddr::V4(held) => held == Ipv4Addr::UNSPECIFIED && wanted.is_ipv4(),
        IpAddr::V6(held) => held == Ipv6Addr::UNSPECIFIED && (wanted.is_ipv6() || place.takes_ipv4),
    }
}

/// All of IPv4 is held, and the server wants that and all of IPv6.
fn is_part_of(family: WantedFamily, held: IpAddr, wanted: IpAddr) -> bool {
    family == WantedFamily::V6 && held.is_unspecified() && wanted.is_unspecified()
}

#[cfg(test)]
mod tests;
