//! TCP and UDP sockets as inet_diag shows them (<linux/inet_diag.h>, <linux/tcp.h>).

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::netlink::{attributes, bytes_at, u32_at};

/// Attributes of the answer.
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_SOCKOPT: u16 = 22;
/// The request's field `ext` is a set of attributes, counted from 1. SOCKOPT is always sent.
const EXT_INFO: u8 = 1 << (INET_DIAG_INFO - 1);
/// All states except TCPF_BOUND_INACTIVE (bound, not connected), which Linux 6.8 would add.
pub(super) const ALL_STATES: u32 = 0x1ffe;
/// The size of inet_diag_msg; the attributes follow it.
const MESSAGE: usize = 72;

/// The states of TCP that matter here (<net/tcp_states.h>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketState {
    Established,
    SynReceived,
    CloseWait,
    Listen,
    /// A closing connection, or a UDP socket that is not connected.
    Other,
}

impl SocketState {
    pub(super) fn of(number: u8) -> Self {
        match number {
            1 => Self::Established,
            3 | 12 => Self::SynReceived,
            8 => Self::CloseWait,
            10 => Self::Listen,
            _ => Self::Other,
        }
    }

    pub(super) const fn mask(self) -> u32 {
        match self {
            Self::Established => 1 << 1,
            Self::SynReceived => 1 << 3 | 1 << 12,
            Self::CloseWait => 1 << 8,
            Self::Listen => 1 << 10,
            Self::Other => ALL_STATES,
        }
    }
}

/// One socket. Addresses are canonical: IPv4 in IPv6 is shown as IPv4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InetSocket {
    pub state: SocketState,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// The inode; 0 for a connection that no process has accepted, or whose fds are all closed.
    pub inode: u32,
    /// The kernel's identifier, which stays the same from the handshake on.
    pub cookie: u64,
    pub uid: u32,
    /// Bytes received and not read; of a listener, the length of its accept queue.
    pub rqueue: u32,
    /// Bytes written and not acknowledged; of a listener, the limit of its accept queue.
    pub wqueue: u32,
    /// The number of the slot, in options that have no meaning for TCP and that accepted connections inherit:
    /// IP_MULTICAST_LOOP (on by default) counts 1, IP_BIND_ADDRESS_NO_PORT 2, IP_FREEBIND 4. `None` before Linux 5.10.
    pub label: Option<u8>,
    /// `None` for a socket that is no complete connection.
    pub activity: Option<Activity>,
}

/// What TCP_INFO says of the segments of a connection. Times are in the kernel's ticks (1 to 10 ms), so two equal
/// ones may have been in either order; an event that never happened has the time of the connection's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    pub since_sent_ms: u32,
    pub since_received_ms: u32,
    /// Any segment with an acknowledgement, with or without data.
    pub since_acknowledged_ms: u32,
    /// The number of segments with data that were sent and received.
    pub sent: u32,
    pub received: u32,
    /// The number of bytes received; a FIN of the client counts as one.
    pub bytes_received: u64,
    /// The number of segments sent without data.
    pub bare_sent: u32,
}

/// The number of segments with data that a client sends in a TLS handshake: its hello, and the end of the handshake.
const TLS_HANDSHAKE: u32 = 2;
/// A client that has sent fewer bytes did not send a hello with a post-quantum key share (X25519MLKEM768: 1.2 kB),
/// which fills two segments on most networks.
const LARGE_HELLO: u64 = 1400;

impl InetSocket {
    /// The same without a TLS handshake: the first request counts as the first data received.
    #[must_use]
    pub fn after_handshake(&self) -> Self {
        let mut socket = self.clone();
        if let Some(activity) = &mut socket.activity {
            let is_large = activity.bytes_received >= LARGE_HELLO;
            activity.received = activity.received.saturating_sub(TLS_HANDSHAKE + u32::from(is_large));
        }
        socket
    }

    /// Whether a socket bound to `held` serves the local address of this one.
    pub fn is_at(&self, held: SocketAddr) -> bool {
        let (own, held_ip) = (self.local.ip(), held.ip().to_canonical());
        let wildcard = held_ip.is_unspecified() && (held_ip.is_ipv6() || own.is_ipv4());
        self.local.port() == held.port() && (wildcard || own == held_ip)
    }
}

/// An inet_diag_req_v2 with a program that accepts local ports in these ranges. Every kernel has S_GE and S_LE.
pub(super) fn request(family: u8, protocol: u8, ranges: &[(u16, u16)], states: u32) -> Vec<u8> {
    const ID: usize = 48;
    const REQ_BYTECODE: u16 = 1;
    const JMP: u8 = 1;
    const S_GE: u8 = 2;
    const S_LE: u8 = 3;
    /// The bytes of one range in the program: two operations with their operands, and a jump.
    const RANGE: u16 = 20;
    let program = RANGE * ranges.len() as u16;
    let mut request = vec![family, protocol, EXT_INFO, 0];
    request.extend(states.to_ne_bytes());
    request.extend([0; ID]);
    request.extend((4 + program).to_ne_bytes());
    request.extend(REQ_BYTECODE.to_ne_bytes());
    // inet_diag_bc_op: the operation, the offset if true, the offset if false (the end accepts, four bytes past it
    // rejects); the operand is the `no` of a second one. JMP always takes the offset of `no`.
    for (index, (first, last)) in ranges.iter().enumerate() {
        let left = program - RANGE * index as u16;
        let otherwise = if left == RANGE { RANGE + 4 } else { RANGE };
        for (code, no, port) in [(S_GE, otherwise, first), (S_LE, otherwise - 8, last)] {
            request.extend([code, 8]);
            request.extend(no.to_ne_bytes());
            request.extend([0, 0]);
            request.extend(port.to_ne_bytes());
        }
        request.extend([JMP, 4]);
        request.extend((left - 16).to_ne_bytes());
    }
    request
}

/// At most `most` ranges that contain these ports. If there are more ports, those nearest to each other share a range.
pub(super) fn ranges(ports: &BTreeSet<u16>, most: usize) -> Vec<(u16, u16)> {
    let ports: Vec<u16> = ports.iter().copied().collect();
    let mut gaps: Vec<usize> = (1..ports.len()).collect();
    gaps.sort_by_key(|at| Reverse(ports[*at] - ports[at - 1]));
    gaps.truncate(most.saturating_sub(1));
    gaps.sort_unstable();
    let ends = gaps.iter().copied().chain([ports.len()]);
    let mut begin = 0;
    let range = |end: usize| Some((*ports.get(std::mem::replace(&mut begin, end))?, *ports.get(end - 1)?));
    if ports.is_empty() { Vec::new() } else { ends.filter_map(range).collect() }
}

/// `None` if it is too short.
pub(super) fn parse(bytes: &[u8]) -> Option<InetSocket> {
    let [family, state] = bytes_at(bytes, 0)?;
    let address = |port_at, ip_at| {
        let port = u16::from_be_bytes(bytes_at(bytes, port_at)?);
        let ip = if i32::from(family) == libc::AF_INET {
            IpAddr::from(bytes_at::<4>(bytes, ip_at)?)
        } else {
            IpAddr::from(bytes_at::<16>(bytes, ip_at)?).to_canonical()
        };
        Some(SocketAddr::new(ip, port))
    };
    let mut socket = InetSocket {
        state: SocketState::of(state),
        local: address(4, 8)?,
        remote: address(6, 24)?,
        rqueue: u32_at(bytes, 56)?,
        wqueue: u32_at(bytes, 60)?,
        uid: u32_at(bytes, 64)?,
        inode: u32_at(bytes, 68)?,
        cookie: u64::from_ne_bytes(bytes_at(bytes, 44)?),
        label: None,
        activity: None,
    };
    for (kind, value) in attributes(bytes.get(MESSAGE..)?) {
        match kind {
            INET_DIAG_INFO => socket.activity = activity(value),
            INET_DIAG_SOCKOPT => socket.label = bytes_at(value, 0).map(label),
            _ => {}
        }
    }
    Some(socket)
}

/// Reads inet_diag_sockopt, whose bit fields depend on the byte order.
fn label(bytes: [u8; 2]) -> u8 {
    let [first, second] = if cfg!(target_endian = "big") { bytes.map(u8::reverse_bits) } else { bytes };
    let (freebind, multicast_loop, address_no_port) = (first >> 2 & 1, first >> 4 & 1, second & 1);
    multicast_loop | address_no_port << 1 | freebind << 2
}

/// Reads tcp_info up to tcpi_data_segs_out (Linux 4.6).
fn activity(info: &[u8]) -> Option<Activity> {
    let sent = u32_at(info, 156)?;
    Some(Activity {
        since_sent_ms: u32_at(info, 44)?,
        since_received_ms: u32_at(info, 52)?,
        since_acknowledged_ms: u32_at(info, 56)?,
        sent,
        received: u32_at(info, 152)?,
        bytes_received: u64::from_ne_bytes(bytes_at(info, 128)?),
        bare_sent: u32_at(info, 136)?.wrapping_sub(sent),
    })
}
