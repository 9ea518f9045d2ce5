//! The classic BPF program of an SO_REUSEPORT group: which member gets a new connection or datagram.
//!
//! The kernel runs it with SO_ATTACH_REUSEPORT_CBPF (socket(7), Linux 4.5) and takes what it returns as an index into
//! the members; one out of range means its own hash.

use libc::sock_filter;

use crate::core::SlotId;

/// Among the ancillary data of <linux/filter.h>: the number of the interface, and a random number.
const INTERFACE: u32 = AD + 8;
const RANDOM: u32 = AD + 56;
const AD: u32 = libc::SKF_AD_OFF as u32;
/// Offsets from here on count from the IP header.
const NET: u32 = libc::SKF_NET_OFF as u32;

/// The number of `lo` in every network namespace.
const LOOPBACK: u32 = 1;

/// The length of an IPv6 header: the ports follow, for what our own host sends has no extension headers.
const IPV6_HEADER: u32 = 40;

/// Connections from this port of this host go to this slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbePort {
    pub source_port: u16,
    pub slot: SlotId,
}

/// All to `index`, or so many of a hundred to another. Before that a probe: what comes over the loopback interface from
/// this source port goes to this member.
pub(super) fn program(index: u32, canary: Option<(u32, u8)>, probe: Option<(u16, u32)>) -> Vec<sock_filter> {
    let mut program = probe.map_or_else(Vec::new, |(port, index)| probe_part(port, index).into());
    match canary {
        None => program.push(ret(index)),
        Some((other, percent)) => program.extend([
            load(libc::BPF_W | libc::BPF_ABS, RANDOM),
            statement(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 100),
            jump(libc::BPF_JGE, percent.into(), 0, 1),
            ret(index),
            ret(other),
        ]),
    }
    program
}

/// The source port stands behind a header of another length in IPv4 (with options) and IPv6. A client elsewhere that
/// happens to have the same port is kept out by the interface. What is no probe falls through to what follows.
fn probe_part(source_port: u16, index: u32) -> [sock_filter; 12] {
    [
        load(libc::BPF_W | libc::BPF_ABS, INTERFACE),
        jump(libc::BPF_JEQ, LOOPBACK, 0, 10),
        load(libc::BPF_B | libc::BPF_ABS, NET),
        statement(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 4),
        jump(libc::BPF_JEQ, 6, 0, 2),
        load(libc::BPF_H | libc::BPF_ABS, NET + IPV6_HEADER),
        statement(libc::BPF_JMP | libc::BPF_JA, 3),
        // A version that is neither cannot come here.
        jump(libc::BPF_JEQ, 4, 0, 4),
        // The length of the IPv4 header.
        statement(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, NET),
        load(libc::BPF_H | libc::BPF_IND, NET),
        jump(libc::BPF_JEQ, source_port.into(), 0, 1),
        ret(index),
    ]
}

/// A filter of a listening TCP socket (SO_ATTACH_FILTER), which sees segments from their TCP header on: those that open a
/// connection are dropped, all others pass.
pub(super) fn no_more_connections() -> [sock_filter; 5] {
    const FLAGS: u32 = 13;
    const SYN: u32 = 2;
    const ACK: u32 = 16;
    [
        load(libc::BPF_B | libc::BPF_ABS, FLAGS),
        statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, SYN | ACK),
        jump(libc::BPF_JEQ, SYN, 0, 1),
        ret(0),
        ret(u32::MAX),
    ]
}

fn load(mode: u32, offset: u32) -> sock_filter {
    statement(libc::BPF_LD | mode, offset)
}

fn ret(value: u32) -> sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, value)
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// How many instructions are left out when the comparison holds, and when it does not.
fn jump(comparison: u32, k: u32, if_true: u8, if_false: u8) -> sock_filter {
    sock_filter { jt: if_true, jf: if_false, ..statement(libc::BPF_JMP | comparison | libc::BPF_K, k) }
}
