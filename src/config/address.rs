//! `--listen [KIND:]ADDRESS[=NAME]` and the address grammar of systemd.socket(5).

use std::net::SocketAddr;
use std::path::PathBuf;

/// One held socket, as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub kind: Kind,
    pub address: Address,
    /// LISTEN_FDNAMES: 0 to 255 printable ASCII characters without `:`.
    pub name: String,
    /// Where it was asked for, for messages: `--listen 0.0.0.0:443=https`.
    pub place: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tcp,
    Udp,
    Unix,
    UnixGram,
    SeqPacket,
    /// Inherited from whoever started us.
    Fd,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A port alone: `[::]` for both families, or `0.0.0.0` where the host has no IPv6. 0 lets the kernel pick.
    Port(u16),
    Inet {
        address: SocketAddr,
        /// `%eth0` after the port: name or number of an interface.
        interface: Option<String>,
    },
    Path(PathBuf),
    /// Without the leading `@`.
    Abstract(String),
    /// The name an outer manager gave it in LISTEN_FDNAMES.
    InheritedName(String),
    /// Its fd number.
    InheritedNumber(i32),
}
