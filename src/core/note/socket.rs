//! The words about held sockets: what happened to one, by whom, and what supervise did.

use std::fmt;

use super::BindNote;
use crate::core::GenerationId;

/// One line about a held socket; `socket` is its address.
#[derive(Clone, Debug, PartialEq)]
pub enum SocketNote {
    /// Steering was asked for, but the socket has no slots.
    Shared {
        socket: String,
        why: String,
    },
    /// New connections may go to the wrong slot.
    NotSteered {
        why: String,
    },
    /// A server damaged a socket, and supervise repaired it. `generation` is `None` if none runs on that slot.
    Mended {
        socket: String,
        generation: Option<GenerationId>,
        damage: Damage,
    },
    /// The server has done the same damage `again` more times, and supervise repaired it each time.
    MendedAgain {
        socket: String,
        generation: Option<GenerationId>,
        again: u32,
    },
    /// Connections wait on a slot without a server and cannot be taken elsewhere for now.
    NotRescued {
        socket: String,
        why: String,
    },
    /// The path leads to something that is not ours.
    PathTaken {
        socket: String,
    },
    /// The path leads to the held socket again.
    PathBack {
        socket: String,
    },
    /// The path is gone and cannot be made again.
    PathLost {
        socket: String,
        why: String,
    },
    /// Another process listens on the port by SO_REUSEPORT. `takes`: the more specific address at which it takes
    /// connections from ours; at the same address it gets none. `is_server`: a process of a generation, whose bind
    /// InterceptBind= would answer with the held socket.
    Stranger {
        socket: String,
        who: String,
        takes: Option<String>,
        is_server: bool,
    },
    StrangerGone {
        socket: String,
    },
    /// Connections on a slot without a server were taken to the slot with the traffic. `relayed`: by a process of
    /// ours, which the server then sees as the client.
    Rescued {
        socket: String,
        count: Option<u32>,
        relayed: bool,
    },
    /// A line about InterceptBind=.
    Bind(BindNote),
    /// The first swap of a steered UDP socket.
    FlowsMove {
        socket: String,
    },
    /// Connections found a queue of ours full during a swap. `sockets`: which.
    Overflowed {
        count: u64,
        sockets: String,
    },
    /// Backlog= is above net.core.somaxconn.
    BacklogCapped {
        socket: String,
        backlog: u32,
        somaxconn: u32,
    },
}

/// What a server did to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Damage {
    /// shutdown(2) or connect(2) on TCP; supervise listens again, which holds for the server's fd as well.
    Shutdown,
    /// shutdown(2) on a unix socket, or all its links removed. The next generation gets a new socket.
    Ended,
    /// The path was removed by unlink(2).
    Unlinked,
    /// listen(2) with a smaller backlog, after the generation was ready.
    Shortened,
    /// connect(2) on UDP. Even if it is undone, the next generation gets a new socket.
    Connected,
}

/// The remedy for a server that binds for itself.
const INSTEAD: &str = "add --intercept-bind, or let it take the socket that is passed as LISTEN_FDS";

impl SocketNote {
    pub(super) const fn level(&self) -> log::Level {
        match self {
            Self::StrangerGone { .. }
            | Self::PathBack { .. }
            | Self::Shared { .. }
            | Self::FlowsMove { .. }
            | Self::Bind(BindNote::Families { .. })
            | Self::Rescued { relayed: false, .. } => log::Level::Info,
            Self::Mended { .. }
            | Self::MendedAgain { .. }
            | Self::NotRescued { .. }
            | Self::PathTaken { .. }
            | Self::PathLost { .. }
            | Self::Stranger { .. }
            | Self::NotSteered { .. }
            | Self::Bind(_)
            | Self::Rescued { relayed: true, .. }
            | Self::Overflowed { .. }
            | Self::BacklogCapped { .. } => log::Level::Warn,
        }
    }
}

impl fmt::Display for SocketNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shared { socket, why } => {
                write!(f, "{socket} is shared by old and new generation during a swap, not steered: {why}")
            }
            Self::Mended { socket, generation, damage } => mended(f, socket, *generation, *damage),
            Self::MendedAgain { socket, generation, again } => {
                let who = generation.map_or_else(|| "a process".to_owned(), |id| id.to_string());
                write!(
                    f,
                    "{who} has done the same to {socket} {again} times more; supervise repaired it each time"
                )
            }
            Self::FlowsMove { socket } => write!(
                f,
                "UDP flows in progress on {socket} move to the new generation with their next datagram; a protocol \
                 that keeps state for each client (QUIC, DTLS) has to start again (said once)"
            ),
            Self::NotRescued { socket, why } => write!(
                f,
                "{socket}: clients wait where nobody accepts, and supervise cannot take them elsewhere: {why}; it tries \
                 again every second"
            ),
            Self::NotSteered { why } => write!(
                f,
                "cannot steer connections: {why}; some may wait where nobody accepts (\"supervise restart\" gives \
                 the server new sockets)"
            ),
            Self::Bind(note) => note.fmt(f),
            Self::PathTaken { socket } => write!(
                f,
                "a file of another process is at {socket}; clients do not reach supervise until it is gone (move it away, \
                 or for a server that binds the path itself: add --intercept-bind)"
            ),
            Self::PathBack { socket } => {
                write!(f, "{socket} leads to supervise again: the file of another process is gone")
            }
            Self::PathLost { socket, why } => write!(
                f,
                "{socket} is gone, and supervise cannot put it back: {why} (let supervise write into its directory, then \
                 \"supervise swap\")"
            ),
            Self::Stranger { socket, who, takes: None, is_server } => {
                let remedy = if *is_server { INSTEAD } else { "let it take another port" };
                write!(
                    f,
                    "{who} has bound {socket} as well, by SO_REUSEPORT, and gets no connection there ({remedy})"
                )
            }
            Self::Stranger { socket, who, takes: Some(address), is_server } => write!(
                f,
                "{who} has bound {address}, and takes the connections to it from {socket} ({}listen on {address} as well)",
                if *is_server { format!("{INSTEAD}, or ") } else { String::new() }
            ),
            Self::StrangerGone { socket } => write!(f, "supervise alone listens on {socket} again"),
            Self::Rescued { socket, count, relayed } => rescued(f, socket, *count, *relayed),
            Self::Overflowed { count, sockets } => write!(
                f,
                "{count} connections found a full queue during the swap and had to try again, on {sockets} (raise \
                 Backlog= and net.core.somaxconn)"
            ),
            Self::BacklogCapped { socket, backlog, somaxconn } => write!(
                f,
                "{socket}: the kernel limits Backlog={backlog} to net.core.somaxconn, {somaxconn} (to allow it: sysctl -w \
                 net.core.somaxconn={backlog})"
            ),
        }
    }
}

fn mended(
    f: &mut fmt::Formatter<'_>,
    socket: &str,
    generation: Option<GenerationId>,
    damage: Damage,
) -> fmt::Result {
    let who = generation.map_or_else(|| "a process that is gone".to_owned(), |id| id.to_string());
    match damage {
        Damage::Shutdown => {
            write!(f, "{who} has shut {socket} down; supervise listens again (the server must not do that)")
        }
        Damage::Ended => write!(
            f,
            "{who} has shut {socket} down or removed all its links; connections wait in a new socket, which the next \
             generation gets (\"supervise swap\")"
        ),
        Damage::Unlinked => {
            write!(
                f,
                "a process has removed {socket}; supervise has put it back (the server must not do that)"
            )
        }
        Damage::Shortened => write!(
            f,
            "{who} has made the queue of {socket} shorter by a listen(2) of its own; supervise has undone that (give the \
             server a larger backlog)"
        ),
        Damage::Connected => write!(
            f,
            "{who} has connected {socket} to one client and does not hear the others; the next generation gets a new \
             socket (a server that undoes that works with --handover shared; one that binds a socket for each client, with \
             --intercept-bind and without --handover shared)"
        ),
    }
}

fn rescued(f: &mut fmt::Formatter<'_>, socket: &str, count: Option<u32>, relayed: bool) -> fmt::Result {
    let what = match count {
        Some(1) => "1 connection".to_owned(),
        Some(count) => format!("{count} connections"),
        None => "clients".to_owned(),
    };
    let how = match (relayed, count) {
        (true, Some(_)) => {
            "supervise passes them on to the generation that serves now or next, which sees supervise as the client (to \
             keep client addresses: sysctl net.ipv4.tcp_migrate_req=1)"
        }
        (true, None) => "supervise passes them on to the generation that serves now or next",
        (false, _) => "supervise has moved them to the generation that serves now or next",
    };
    write!(f, "{socket}: {what} waited where nobody accepts; {how}")
}
