//! The kinds of sockets. Each is a row: what it is called, where its addresses are, how it carries data. All that differs
//! between kinds follows from that.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    Tcp,
    Udp,
    Unix,
    UnixGram,
    SeqPacket,
    /// A listening socket that the process which started us (systemd, another supervise) passed.
    Fd,
}

/// Where its addresses are (address_families(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// AF_INET and AF_INET6: an address of IPv4 or IPv6, and a port.
    Inet,
    Unix,
}

/// How it carries data (socket(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Semantics {
    Stream,
    Datagram,
    SeqPacket,
}

impl Kind {
    pub const ALL: [Self; 6] = [Self::Tcp, Self::Udp, Self::Unix, Self::UnixGram, Self::SeqPacket, Self::Fd];

    /// The name of the kind, where its addresses are, and how it carries data. An `fd` has the latter two only once supervise
    /// has taken it over and seen what it is.
    const fn row(self) -> (&'static str, Option<(Domain, Semantics)>) {
        match self {
            Self::Tcp => ("tcp", Some((Domain::Inet, Semantics::Stream))),
            Self::Udp => ("udp", Some((Domain::Inet, Semantics::Datagram))),
            Self::Unix => ("unix", Some((Domain::Unix, Semantics::Stream))),
            Self::UnixGram => ("unixgram", Some((Domain::Unix, Semantics::Datagram))),
            Self::SeqPacket => ("seqpacket", Some((Domain::Unix, Semantics::SeqPacket))),
            Self::Fd => ("fd", None),
        }
    }

    /// `Fd` where none is known to be so.
    pub fn of(domain: Domain, semantics: Semantics) -> Self {
        let is_it = |kind: &Self| kind.row().1 == Some((domain, semantics));
        Self::ALL.into_iter().find(is_it).unwrap_or(Self::Fd)
    }

    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    pub fn semantics(self) -> Option<Semantics> {
        self.row().1.map(|(_, semantics)| semantics)
    }

    fn is_in(self, domain: Domain) -> bool {
        self.row().1.is_some_and(|(own, _)| own == domain)
    }

    pub fn is_inet(self) -> bool {
        self.is_in(Domain::Inet)
    }

    pub fn is_unix(self) -> bool {
        self.is_in(Domain::Unix)
    }

    pub fn is_stream(self) -> bool {
        self.semantics() == Some(Semantics::Stream)
    }

    pub fn has_datagrams(self) -> bool {
        self.semantics() == Some(Semantics::Datagram)
    }

    /// It has connections, which wait in a queue until they are accepted.
    pub fn listens(self) -> bool {
        matches!(self.semantics(), Some(Semantics::Stream | Semantics::SeqPacket))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_kinds_are_the_same() {
        for kind in Kind::ALL {
            let row = kind.row();
            assert!(row.1.is_none_or(|(domain, semantics)| Kind::of(domain, semantics) == kind), "{row:?}");
            assert_eq!(Kind::ALL.into_iter().filter(|one| one.as_str() == row.0).count(), 1, "{row:?}");
        }
    }
}
