//! Rows of [Socket]. The loader copies the options of each .socket file into its listeners.

use std::path::PathBuf;

use super::super::choice::choice;
use super::super::number::{boolean, integer, octal, size};
use super::super::{
    Config, Kind, Listener, Problem, Protocol, Span, Timestamping, address, command_line, printable,
};
use super::row::Heading::Sockets;
use super::row::Section::Socket;
use super::row::{
    COMMAND, Context, Directive, LIST, MODE, NUMBER, SIZE, SPAN, SWITCH, SetResult, expanded, row, scoped,
};
use super::values::{count, grow, optional, put, span, timeout, units};

#[rustfmt::skip]
pub(super) const ROWS: &[Directive] = &[
    scoped("ListenStream", Socket, Sockets, "ADDRESS", |c, v, s| listen(c, None, v, s),
        "hold a TCP port or a unix socket"),
    scoped("ListenDatagram", Socket, Sockets, "ADDRESS", |c, v, s| listen(c, Some(Kind::Udp), v, s),
        "hold a UDP port or a unix datagram socket"),
    scoped("ListenSequentialPacket", Socket, Sockets, "ADDRESS", |c, v, s| listen(c, Some(Kind::SeqPacket), v, s),
        "hold a unix seqpacket socket"),
    expanded("FileDescriptorName", Socket, Sockets, "NAME", name,
        "the name of all sockets of the file; without it the name of the file"),
    expanded("Service", Socket, Sockets, "UNIT", |_, v| units(v, "service"),
        "the service it is for"),
    row("Accept", Socket, Sockets, SWITCH, |_, v| boolean(v).map(drop),
        "no; with yes systemd itself would accept, which this version does not").default("no"),
    row("Backlog", Socket, Sockets, NUMBER, |c, v| count(v, &mut c.socket.backlog),
        "the length of the accept queue; the kernel limits it to net.core.somaxconn").default("4294967295"),
    row("BindIPv6Only", Socket, Sockets, MODE, bind_ipv6_only,
        "default, both or ipv6-only: whether [::] takes IPv4, too").default("default"),
    row("SocketMode", Socket, Sockets, MODE, |c, v| put(octal(v, 0o777)?, &mut c.socket.mode),
        "the mode of unix paths, octal").default("0666"),
    row("DirectoryMode", Socket, Sockets, MODE, |c, v| put(octal(v, 0o7777)?, &mut c.socket.directory_mode),
        "the mode of directories made for unix paths").default("0755"),
    expanded("SocketUser", Socket, Sockets, "USER", |c, v| optional(v, &mut c.socket.user),
        "the owner of unix paths"),
    expanded("SocketGroup", Socket, Sockets, "GROUP", |c, v| optional(v, &mut c.socket.group),
        "the group of unix paths"),
    scoped("Symlinks", Socket, Sockets, LIST, symlinks,
        "symbolic links to the unix path"),
    row("RemoveOnStop", Socket, Sockets, SWITCH, |c, v| put(boolean(v)?, &mut c.socket.remove_on_stop),
        "remove unix paths when supervise ends").default("yes"),
    row("FreeBind", Socket, Sockets, SWITCH, |c, v| put(boolean(v)?, &mut c.socket.free_bind),
        "bind addresses that this host does not have yet").default("no"),
    row("Transparent", Socket, Sockets, SWITCH, |c, v| put(boolean(v)?, &mut c.socket.transparent),
        "IP_TRANSPARENT").default("no"),
    row("ReusePort", Socket, Sockets, SWITCH, |c, v| put(boolean(v)?, &mut c.socket.reuse_port),
        "SO_REUSEPORT").default("no"),
    row("BindToDevice", Socket, Sockets, "INTERFACE", |c, v| optional(v, &mut c.socket.device),
        "SO_BINDTODEVICE"),
    row("SocketProtocol", Socket, Sockets, "PROTOCOL", protocol,
        "udplite, sctp or mptcp"),
    row("NoDelay", Socket, Sockets, SWITCH, |c, v| put(boolean(v)?, &mut c.socket.no_delay),
        "TCP_NODELAY").default("no"),
    row("KeepAlive", Socket, Sockets, SWITCH, |c, v| put(boolean(v)?, &mut c.socket.keep_alive),
        "SO_KEEPALIVE").default("no"),
    row("KeepAliveTimeSec", Socket, Sockets, SPAN, |c, v| keep_alive(v, &mut c.socket.keep_alive_time),
        "TCP_KEEPIDLE, whole seconds"),
    row("KeepAliveIntervalSec", Socket, Sockets, SPAN, |c, v| keep_alive(v, &mut c.socket.keep_alive_interval),
        "TCP_KEEPINTVL, whole seconds"),
    row("KeepAliveProbes", Socket, Sockets, NUMBER, |c, v| {
            let number = integer(v, 0, 127)?;
            put(u32::try_from(number).ok().filter(|probes| *probes > 0), &mut c.socket.keep_alive_probes)
        },
        "TCP_KEEPCNT"),
    row("DeferAcceptSec", Socket, Sockets, SPAN, defer_accept,
        "TCP_DEFER_ACCEPT, whole seconds; 0 is off").default("0"),
    row("ReceiveBuffer", Socket, Sockets, SIZE, |c, v| buffer(v, &mut c.socket.receive_buffer),
        "SO_RCVBUF, bytes or 64K"),
    row("SendBuffer", Socket, Sockets, SIZE, |c, v| buffer(v, &mut c.socket.send_buffer),
        "SO_SNDBUF, bytes or 64K"),
    row("Priority", Socket, Sockets, NUMBER, |c, v| number(v, 0, i32::MAX, &mut c.socket.priority),
        "SO_PRIORITY"),
    row("IPTOS", Socket, Sockets, "TOS", ip_tos,
        "IP_TOS; low-delay, throughput, reliability, low-cost or a number"),
    row("IPTTL", Socket, Sockets, NUMBER, |c, v| number(v, 1, 255, &mut c.socket.ip_ttl),
        "IP_TTL and IPV6_UNICAST_HOPS"),
    row("Mark", Socket, Sockets, NUMBER, mark,
        "SO_MARK"),
    row("TCPCongestion", Socket, Sockets, "NAME", |c, v| optional(v, &mut c.socket.tcp_congestion),
        "TCP_CONGESTION"),
    row("Broadcast", Socket, Sockets, SWITCH, |c, v| put(boolean(v)?, &mut c.socket.broadcast),
        "SO_BROADCAST").default("no"),
    row("PassCredentials", Socket, Sockets, SWITCH, |c, v| put(boolean(v)?, &mut c.socket.pass_credentials),
        "SO_PASSCRED").default("no"),
    row("PassSecurity", Socket, Sockets, SWITCH, |c, v| put(boolean(v)?, &mut c.socket.pass_security),
        "SO_PASSSEC").default("no"),
    row("PassPacketInfo", Socket, Sockets, SWITCH, |c, v| put(boolean(v)?, &mut c.socket.pass_packet_info),
        "IP_PKTINFO and its kin").default("no"),
    row("Timestamping", Socket, Sockets, "UNIT", timestamping,
        "off, us or ns: SO_TIMESTAMP or SO_TIMESTAMPNS").default("off"),
    row("TriggerLimitIntervalSec", Socket, Sockets, SPAN, |c, v| span(v, &mut c.policy.trigger_limit.interval),
        "the time within which TriggerLimitBurst= counts").default("2s"),
    row("TriggerLimitBurst", Socket, Sockets, NUMBER, |c, v| count(v, &mut c.policy.trigger_limit.burst),
        "at most this many starts by connections per TriggerLimitIntervalSec=").default("20"),
    row("PollLimitIntervalSec", Socket, Sockets, SPAN, |c, v| span(v, &mut c.policy.poll_limit.interval),
        "the time within which PollLimitBurst= counts"),
    row("PollLimitBurst", Socket, Sockets, NUMBER, |c, v| count(v, &mut c.policy.poll_limit.burst),
        "at most this many looks for connections per PollLimitIntervalSec=; in unit files 15 in 2s"),
    scoped("ExecStartPre", Socket, Sockets, COMMAND, |c, v, s| {
            grow(&mut c.socket_commands.start_pre, command_line::parse(v, s)?, v)
        },
        "run before the sockets are bound"),
    scoped("ExecStartPost", Socket, Sockets, COMMAND, |c, v, s| {
            grow(&mut c.socket_commands.start_post, command_line::parse(v, s)?, v)
        },
        "run after that"),
    scoped("ExecStopPre", Socket, Sockets, COMMAND, |c, v, s| {
            grow(&mut c.socket_commands.stop_pre, command_line::parse(v, s)?, v)
        },
        "run before they are closed at the end"),
    scoped("ExecStopPost", Socket, Sockets, COMMAND, |c, v, s| {
            grow(&mut c.socket_commands.stop_post, command_line::parse(v, s)?, v)
        },
        "run after that"),
    row("TimeoutSec", Socket, Sockets, SPAN, |c, v| timeout(v, &mut c.socket_commands.timeout),
        "how long each command of the socket may take; 0 or infinity: for ever").default("90s"),
];

/// Adds an address; an empty text removes all Listen...= lines of the file.
fn listen(config: &mut Config, kind: Option<Kind>, text: &str, scope: &Context<'_>) -> SetResult {
    if text.is_empty() {
        config.listeners.clear();
        return Ok(());
    }
    let text = (scope.expand)(text)?;
    config.listeners.push(Listener::of_unit(&text, kind, scope.place)?);
    Ok(())
}

fn name(config: &mut Config, text: &str) -> SetResult {
    address::check_name(text).map_err(|problem| Problem {
        remedy: "write printable ASCII characters without a colon".to_owned(),
        ..problem
    })?;
    optional(text, &mut config.socket.name)
}

fn bind_ipv6_only(config: &mut Config, text: &str) -> SetResult {
    let modes = [("default", None), ("both", Some(false)), ("ipv6-only", Some(true))];
    put(choice(text, &modes)?, &mut config.socket.v6_only)
}

fn symlinks(config: &mut Config, text: &str, scope: &Context<'_>) -> SetResult {
    let mut new = Vec::new();
    for word in command_line::unquote(text, scope.warn)? {
        let path = (scope.expand)(&word)?;
        if path.starts_with('/') {
            new.push(PathBuf::from(path));
        } else {
            let cause = format!("{:?} is no absolute path", printable(&path));
            (scope.warn)(Problem::new(cause, "write it from the root on: /run/web.sock"));
        }
    }
    grow(&mut config.socket.symlinks, new, text)
}

fn protocol(config: &mut Config, text: &str) -> SetResult {
    if text.is_empty() {
        return put(None, &mut config.socket.protocol);
    }
    let protocols = [("udplite", Protocol::UdpLite), ("sctp", Protocol::Sctp), ("mptcp", Protocol::Mptcp)];
    put(Some(choice(text, &protocols)?), &mut config.socket.protocol)
}

/// A keep-alive time; zero leaves the kernel's default.
fn keep_alive(text: &str, field: &mut Option<Span>) -> SetResult {
    put(Some(Span::parse(text)?).filter(|span| *span != Span::ZERO), field)
}

fn defer_accept(config: &mut Config, text: &str) -> SetResult {
    let value = Span::parse(text)?;
    // The socket option is an int of seconds, and the kernel gives up long before a day.
    if value > Span::from_secs(86_400) {
        return Err(Problem::new("longer than a day", "write seconds: 5"));
    }
    put(value, &mut config.socket.defer_accept)
}

fn buffer(text: &str, field: &mut Option<u64>) -> SetResult {
    if text.is_empty() {
        return put(None, field);
    }
    let bytes = size(text)?;
    if i32::try_from(bytes).is_err() {
        return Err(Problem::new(
            "the buffer is larger than 2G",
            "the kernel caps it at net.core.rmem_max or wmem_max",
        ));
    }
    put(Some(bytes), field)
}

/// A number from `min` to `max`; -1 unsets it, as in systemd.
fn number(text: &str, min: i32, max: i32, field: &mut Option<i32>) -> SetResult {
    if text == "-1" {
        return put(None, field);
    }
    let number = integer(text, min.into(), max.into())?;
    put(Some(i32::try_from(number).expect("between two i32")), field)
}

fn ip_tos(config: &mut Config, text: &str) -> SetResult {
    let names = [("low-delay", 0x10), ("throughput", 0x08), ("reliability", 0x04), ("low-cost", 0x02)];
    if text.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
        return number(text, 0, 255, &mut config.socket.ip_tos);
    }
    put(Some(choice(text, &names)?), &mut config.socket.ip_tos)
}

fn mark(config: &mut Config, text: &str) -> SetResult {
    if text == "-1" {
        return put(None, &mut config.socket.mark);
    }
    let mut value = 0;
    count(text, &mut value)?;
    put(Some(value), &mut config.socket.mark)
}

fn timestamping(config: &mut Config, text: &str) -> SetResult {
    let values = [
        ("off", Timestamping::Off),
        ("us", Timestamping::Microseconds),
        ("usec", Timestamping::Microseconds),
        ("ns", Timestamping::Nanoseconds),
        ("nsec", Timestamping::Nanoseconds),
    ];
    put(choice(text, &values)?, &mut config.socket.timestamping)
}
