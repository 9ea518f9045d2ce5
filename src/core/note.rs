//! The lines that the core logs, as one type with all their words.

mod bind;
mod socket;
mod swap;

use std::fmt;

use super::report::rounded;
pub use bind::BindNote;
pub use socket::{Damage, SocketNote};
pub use swap::SwapNote;
pub(super) use swap::unseen;

use serde::{Deserialize, Serialize};

use super::restart::Failure;
use super::{End, Exit, GenerationId, HintAt, limits};
use crate::config::{Signal, Span, StartLimit};

/// One line of the log; verbs that wait print it too.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    Started {
        generation: GenerationId,
        pid: u32,
    },
    /// `generation` is `None` for the very first one, whose failure ends supervise.
    CannotStart {
        generation: Option<GenerationId>,
        what: String,
    },
    /// The first one was to become ready, or supervise to end (--detach).
    NeverReady {
        reason: String,
    },
    Ready {
        generation: GenerationId,
        after: Span,
        by: ReadyBy,
    },
    Hint {
        generation: GenerationId,
        sockets: String,
        at: HintAt,
        /// Whether binding one of them needs a privilege.
        privileged: bool,
        remedy: String,
    },
    Exited {
        generation: GenerationId,
        exit: Exit,
        after: Span,
    },
    /// `is_no`: ExecCondition= said no, which is no failure.
    CommandFailed {
        generation: GenerationId,
        what: String,
        is_no: bool,
    },
    /// The main process has changed (MAINPID=, PIDFile=). `pid` is `None` where
    /// Type=forking left several processes and nobody knows which is the main one.
    MainIs {
        generation: GenerationId,
        pid: Option<u32>,
    },
    /// The server sent STOPPING=1.
    StopsItself {
        generation: GenerationId,
        patience: Span,
    },
    Reload(GenerationId, ReloadNote),
    /// A living generation is stopped for this reason.
    Failed {
        reason: String,
    },
    Swap(SwapNote),
    Socket(SocketNote),
    Restarting {
        after: Span,
        holds_sockets: bool,
    },
    Listening,
    /// The server has ended early several times, so the next start is delayed.
    ListeningLater {
        span: Span,
    },
    TriggersHeld {
        span: Span,
    },
    /// `ends` says whether supervise ends as well (StartLimitAction=exit).
    LimitHit {
        limit: StartLimit,
        ends: bool,
    },
    /// The current generation is stopped before the next starts, or for a pause.
    Replacing {
        generation: GenerationId,
        patience: Span,
    },
    Killing {
        generation: GenerationId,
        after: Span,
        signal: Signal,
    },
    /// `cut`: the number of connections that were not idle.
    Gone {
        generation: GenerationId,
        after: Span,
        cut: u32,
    },
    /// SendSIGKILL=no spares its processes.
    LeftAlone {
        generation: GenerationId,
    },
    /// Processes survive SIGKILL. `generation` is `None` if they belong to none.
    LeftBehind {
        generation: Option<GenerationId>,
    },
    Paused,
    PausedNoSwap,
    Stopping {
        signal: Signal,
        patience: Span,
    },
    StopForced,
    HangUp,
    HangUpIgnored,
    SignalDropped {
        signal: Signal,
    },
}

/// The progress of a reload.
#[derive(Clone, Debug, PartialEq)]
pub enum ReloadNote {
    Begun,
    Done {
        after: Span,
    },
    /// `serves`: the generation goes on with what it had loaded.
    Failed {
        why: String,
        serves: bool,
    },
}

/// The evidence by which a generation counts as ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadyBy {
    /// It sent READY=1.
    Notify,
    Exec,
    /// It has lived long enough.
    Alive,
    /// It answered the GET of Ready=http:.
    Http,
    /// It was seen waiting on these sockets.
    Waits {
        sockets: String,
    },
    /// It has accepted connections of clients on these sockets.
    Serves {
        sockets: String,
    },
    /// It accepted our silent connection; whether it waits cannot be seen.
    Accepted,
    /// It has lived long enough; nothing else can be seen.
    Blind,
    /// Nobody waits on these sockets, but no other generation exists.
    Unseen {
        sockets: String,
    },
    /// It has not accepted our silent connection, but no other generation exists.
    NotAccepted,
    /// It sent no READY=1 as earlier ones did, but no other generation exists.
    Alone,
}

impl From<SocketNote> for Note {
    fn from(note: SocketNote) -> Self {
        Self::Socket(note)
    }
}

impl From<SwapNote> for Note {
    fn from(note: SwapNote) -> Self {
        Self::Swap(note)
    }
}

impl Note {
    pub fn level(&self) -> log::Level {
        match self {
            Self::Socket(socket) => socket.level(),
            Self::CannotStart { generation: None, .. } | Self::NeverReady { .. } => log::Level::Error,
            Self::Swap(
                SwapNote::RolledBack { .. }
                | SwapNote::Unseen { .. }
                | SwapNote::OldDied { .. }
                | SwapNote::Refused { .. }
                | SwapNote::QueueStuck { .. }
                | SwapNote::Stored { both: true, .. },
            )
            | Self::CommandFailed { is_no: false, .. }
            | Self::Reload(_, ReloadNote::Failed { .. })
            | Self::CannotStart { generation: Some(_), .. }
            | Self::Failed { .. }
            | Self::TriggersHeld { .. }
            | Self::LimitHit { .. }
            | Self::Killing { .. }
            | Self::Gone { cut: 1.., .. }
            | Self::LeftBehind { .. }
            | Self::LeftAlone { .. }
            | Self::PausedNoSwap
            | Self::SignalDropped { .. }
            | Self::Ready { by: ReadyBy::Alone | ReadyBy::Unseen { .. } | ReadyBy::NotAccepted, .. }
            | Self::Hint { .. } => log::Level::Warn,
            Self::Swap(
                SwapNote::Begun { .. }
                | SwapNote::Waits
                | SwapNote::Held { .. }
                | SwapNote::Canary { .. }
                | SwapNote::Baking { .. }
                | SwapNote::FinishesFirst { .. }
                | SwapNote::StopsFirst { .. }
                | SwapNote::Stored { both: false, .. }
                | SwapNote::Draining { .. }
                | SwapNote::Drained { .. }
                | SwapNote::Done { .. },
            )
            | Self::Started { .. }
            | Self::CommandFailed { is_no: true, .. }
            | Self::MainIs { .. }
            | Self::StopsItself { .. }
            | Self::Reload(_, ReloadNote::Begun | ReloadNote::Done { .. })
            | Self::Ready { .. }
            | Self::Exited { .. }
            | Self::Restarting { .. }
            | Self::Listening
            | Self::ListeningLater { .. }
            | Self::Replacing { .. }
            | Self::Gone { cut: 0, .. }
            | Self::Paused
            | Self::Stopping { .. }
            | Self::StopForced
            | Self::HangUp
            | Self::HangUpIgnored => log::Level::Info,
        }
    }
}

impl Note {
    /// Whether the reply to a verb says the same, so that the verb need not print both.
    pub fn is_conclusion(&self) -> bool {
        matches!(
            self,
            Self::Paused
                | Self::Swap(
                    SwapNote::Done { drain: None, .. }
                        | SwapNote::RolledBack { .. }
                        | SwapNote::Unseen { .. }
                        | SwapNote::Refused { .. }
                )
                | Self::Reload(_, ReloadNote::Done { .. } | ReloadNote::Failed { .. })
        )
    }
}

impl fmt::Display for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {}", self.0)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started { generation, pid } => write!(f, "{generation} started, pid {pid}"),
            Self::CannotStart { generation: Some(generation), what } => write!(f, "{generation}: {what}"),
            Self::CannotStart { generation: None, what } => f.write_str(what),
            Self::Ready { generation, after, by } => ready(f, *generation, *after, by),
            Self::Hint { generation, sockets, at, privileged, remedy } => {
                f.write_str(&hint(*generation, sockets, *at, *privileged, remedy))
            }
            Self::Exited { generation, exit, after } => {
                write!(f, "{generation} {} after {}", ended(*exit), rounded(*after))
            }
            Self::CommandFailed { generation, what, is_no } => {
                write!(f, "{generation}: {what}{}", if *is_no { "; the server is not started" } else { "" })
            }
            Self::MainIs { generation, pid } => f.write_str(&main_is(*generation, *pid)),
            Self::StopsItself { generation, patience } => {
                write!(f, "{generation} has sent STOPPING=1{}", then_kill(*patience))
            }
            Self::Reload(generation, reload) => reload.write(f, *generation),
            Self::NeverReady { reason } => f.write_str(&never_ready(reason)),
            Self::Failed { reason } => write!(f, "{reason}; supervise stops it"),
            Self::Restarting { after, holds_sockets } => {
                let meanwhile = if *holds_sockets { "; connections wait in the queue" } else { "" };
                write!(f, "restart in {}{meanwhile}", rounded(*after))
            }
            Self::Listening => write!(f, "listening; the next connection starts the server"),
            Self::ListeningLater { span } => {
                write!(f, "listening; a connection starts the server, in {} at the earliest", rounded(*span))
            }
            Self::TriggersHeld { span } => write!(
                f,
                "connections start the server again and again, and it ends; supervise starts it again in {} at the earliest",
                rounded(*span)
            ),
            Self::LimitHit { limit, ends } => f.write_str(&limit_hit(*limit, *ends)),
            Self::Replacing { generation, patience } => {
                write!(f, "telling {generation} to stop{}", then_kill(*patience))
            }
            Self::Killing { generation, after, signal } => {
                write!(f, "{generation} did not stop within {}; supervise sends {signal}", rounded(*after))
            }
            Self::Gone { generation, after, cut } => f.write_str(&gone(*generation, *after, *cut)),
            Self::LeftAlone { generation } => {
                write!(f, "{generation} has not ended; supervise sends no SIGKILL (SendSIGKILL=no)")
            }
            Self::LeftBehind { generation } => {
                let who = generation.map_or_else(|| "there are".to_owned(), |id| format!("{id} has"));
                write!(f, "{who} processes that SIGKILL does not end; supervise goes on without them")
            }
            Self::Swap(swap) => swap.fmt(f),
            Self::Socket(socket) => socket.fmt(f),
            Self::Paused => write!(f, "paused; new connections wait in the queue"),
            Self::PausedNoSwap => {
                write!(f, "paused: \"supervise resume\" starts the server, a swap does not")
            }
            Self::Stopping { signal, patience } => {
                write!(f, "stopping with {signal}{}", then_kill(*patience))
            }
            Self::StopForced => write!(f, "stopping at once with SIGKILL"),
            Self::HangUp => write!(f, "the terminal has closed"),
            Self::HangUpIgnored => write!(f, "the terminal has closed; supervise goes on (nohup)"),
            Self::SignalDropped { signal } => {
                write!(f, "dropped {signal}, because no server runs (said once)")
            }
        }
    }
}

fn never_ready(reason: &str) -> String {
    let remedy = "to see what it printed, leave out --detach, or -p StandardError=append:FILE";
    format!("not in the background: {reason}; supervise ends ({remedy})")
}

fn main_is(generation: GenerationId, pid: Option<u32>) -> String {
    match pid {
        Some(pid) => format!("pid {pid} is the main process of {generation} now"),
        None => format!(
            "{generation} left several processes; it ends with the last one (PIDFile= would name the main one)"
        ),
    }
}

impl ReloadNote {
    fn write(&self, f: &mut fmt::Formatter<'_>, generation: GenerationId) -> fmt::Result {
        match self {
            Self::Begun => write!(f, "{generation} reloads"),
            Self::Done { after } => write!(f, "{generation} has reloaded in {}", rounded(*after)),
            Self::Failed { why, serves: true } => write!(f, "reload failed: {why}; {generation} serves on"),
            Self::Failed { why, serves: false } => write!(f, "reload failed: {why}"),
        }
    }
}

impl ReadyBy {
    /// Why it may not serve, for evidence that is a doubt.
    pub fn doubt(&self) -> Option<String> {
        let is_doubtful = matches!(self, Self::Unseen { .. } | Self::NotAccepted | Self::Alone);
        is_doubtful.then(|| self.to_string().trim_start_matches(": ").to_owned())
    }
}

impl fmt::Display for ReadyBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Notify => " (READY=1)",
            Self::Http => " (it answered the GET)",
            Self::Exec | Self::Alive => "",
            Self::Waits { sockets } => return write!(f, " (waits on {sockets})"),
            Self::Serves { sockets } => return write!(f, " (has accepted connections on {sockets})"),
            Self::Accepted => " (accepted a connection from supervise)",
            Self::Blind => " (it is alive; who waits on its sockets cannot be seen)",
            Self::Unseen { sockets } => {
                return write!(f, ": nobody waits on {sockets}; kept, because no other generation exists");
            }
            Self::NotAccepted => {
                ": it has not accepted a connection from supervise, and who waits cannot be seen; kept, because no other generation exists"
            }
            Self::Alone => ": it sent no READY=1 as earlier ones did; kept, because no other generation exists",
        })
    }
}

fn ready(f: &mut fmt::Formatter<'_>, generation: GenerationId, after: Span, by: &ReadyBy) -> fmt::Result {
    write!(f, "{generation} is ready after {}{by}", rounded(after))
}

fn hint(generation: GenerationId, sockets: &str, at: HintAt, privileged: bool, remedy: &str) -> String {
    match at {
        HintAt::Running => {
            let after = limits::HINT;
            format!("{generation} runs for {after}, and nobody waits on {sockets} (said once): {remedy}")
        }
        HintAt::Unaccepted => {
            let after = limits::HINT;
            format!(
                "{generation} has not accepted a connection from supervise on {sockets} for {after} (said once): {remedy}"
            )
        }
        HintAt::Failure => {
            let denied =
                if privileged { ", or that permission is denied for a port below 1024," } else { "," };
            format!(
                "{generation} ended before it waited on {sockets}; if it says that the address is in use{denied} it does \
                 not take the socket (said once): {remedy}"
            )
        }
        HintAt::CleanEnds => format!(
            "{generation} ended without an error before it waited on {sockets}, as those before it did, so supervise \
             waits longer before each start; if it reports no error, it went into the background, and a server must stay in \
             the foreground: {remedy}"
        ),
    }
}

fn limit_hit(limit: StartLimit, ends: bool) -> String {
    let hint = if ends { "" } else { "; \"supervise swap\" or SIGHUP starts it again" };
    format!("gave up after {} starts in {}{hint}", limit.burst, limit.interval)
}

fn gone(generation: GenerationId, after: Span, cut: u32) -> String {
    let cut = match cut {
        0 => String::new(),
        1 => "; 1 connection was cut that was not idle".to_owned(),
        cut => format!("; {cut} connections were cut that were not idle"),
    };
    format!("{generation} has ended, {} after it was told to stop{cut}", rounded(after))
}

fn then_kill(patience: Span) -> String {
    if patience.is_infinite() { String::new() } else { format!("; SIGKILL follows in {}", rounded(patience)) }
}

/// How a process ended: `exited with status 3`, `was killed by SIGSEGV (core dumped)`.
pub(super) fn ended(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exited with status {code}"),
        Exit::Signal { signal, core: false } => format!("was killed by {signal}"),
        Exit::Signal { signal, core: true } => format!("was killed by {signal} (core dumped)"),
        Exit::Unknown => "ended (exit status unknown: supervise was killed since its start)".to_owned(),
    }
}

/// How a command failed: `ExecStartPre= exited with status 1`; empty for another failure.
pub(super) fn command_failed(failure: &Failure) -> String {
    let Failure::Command(command, end) = failure else { return String::new() };
    let which = match command.index {
        0 => String::new(),
        index => format!(" (command {})", index + 1),
    };
    let key = command.list.key();
    match end {
        End::Exited(exit) => format!("{key}={which} {}", ended(*exit)),
        End::NotStarted(failure) => format!("{key}={which}: {}", failure.what),
        End::Skipped | End::Untried => format!("{key}={which} was not run"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_ends_with_its_remedy_and_names_what_the_server_may_say() {
        let said = |privileged| {
            let (sockets, remedy) = ("http (0.0.0.0:80)".to_owned(), "add X".to_owned());
            let at = HintAt::Failure;
            Note::Hint { generation: GenerationId(1), sockets, at, privileged, remedy }.to_string()
        };
        let [low, high] = [true, false].map(said);
        assert!(
            low.contains("address is in use, or that permission is denied for a port below 1024,"),
            "{low}"
        );
        assert!(!high.contains("permission") && high.ends_with(" (said once): add X"), "{high}");
    }
}
