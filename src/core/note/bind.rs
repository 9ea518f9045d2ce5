//! The words about sockets that a server binds for itself.

use std::fmt;

/// What InterceptBind= has done, or cannot do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindNote {
    /// InterceptBind= has no effect.
    NotIntercepted { why: String },
    /// InterceptBind= has no effect on a process of this name.
    Unseen { process: String, why: String },
    /// The server binds `wanted` (as in `--listen`) by an IPv4 socket, which the IPv6 one `socket` cannot replace.
    WrongFamily { socket: String, wanted: String },
    /// The server also binds `wanted`, for IPv6 alone, and only `socket` is held.
    Beside { socket: String, wanted: String },
    /// The server binds `wanted` and got `socket`, for IPv4 alone, because the generation before it wanted that.
    Narrow { socket: String, wanted: String },
    /// `asked` was held; now `bound` is, in its place or (`both`) beside it.
    Families { asked: String, bound: String, wanted: String, both: bool },
    /// The server binds UDP anew for each client, and all binds get one socket.
    OneForAll { socket: String, why: String },
    /// The server had registered its own socket with epoll, and the held one could not be registered in its place.
    Unregistered { socket: String, why: String },
}

impl fmt::Display for BindNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotIntercepted { why } => {
                write!(f, "--intercept-bind (InterceptBind=) has no effect: {why}")
            }
            Self::Unseen { process, why } => write!(
                f,
                "--intercept-bind (InterceptBind=) has no effect on {process:?}, whose memory supervise may not read: {why} \
                 (run supervise as its user, or with CAP_SYS_PTRACE)"
            ),
            Self::WrongFamily { socket, wanted } => {
                write!(
                    f,
                    "the server binds {wanted} for itself, on an IPv4 socket, which {socket}, an IPv6 one, cannot \
                     replace (write --listen {wanted}"
                )?;
                if socket.contains("[::]:") && wanted.contains("0.0.0.0:") {
                    write!(f, ", or if it binds {socket} as well, {}", both(wanted, socket))?;
                }
                f.write_str(")")
            }
            Self::Beside { socket, wanted } => write!(
                f,
                "the server binds {wanted} as well as {socket}, and supervise does not hold it: a swap fails, because old \
                 and new cannot both bind it (write {})",
                both(socket, wanted)
            ),
            Self::Narrow { socket, wanted } => write!(
                f,
                "the server binds {wanted}, for IPv6 as well, and got {socket}, which the one before it bound: the kernel \
                 refuses clients that come by IPv6 (`supervise restart` binds what it wants; or write {})",
                both(socket, wanted)
            ),
            Self::Families { asked, bound, both: true, .. } => {
                write!(f, "listening on {bound} as well as {asked}: the server binds each for itself")
            }
            Self::Families { asked, bound, wanted, both: false } => write!(
                f,
                "listening on {bound} instead of {asked}: the server binds {wanted} (a swap keeps that)"
            ),
            Self::OneForAll { socket, why } => write!(
                f,
                "the server binds {socket} anew while it has a client, as servers do that connect(2) a socket to each \
                 client, but there is one socket for all: {why}; its other clients get no answer (leave --handover shared out: \
                 then each bind gets a socket)"
            ),
            Self::Unregistered { socket, why } => write!(
                f,
                "the server registered a socket with epoll(7) before it bound it, and {socket}, which it got instead, could \
                 not be registered everywhere in its place: {why}; it does not hear of connections there (have it register \
                 after bind, or take the socket from LISTEN_FDS)"
            ),
        }
    }
}

fn both(ipv4: &str, ipv6: &str) -> String {
    format!("--listen {ipv4} --listen {ipv6} -p BindIPv6Only=ipv6-only")
}
