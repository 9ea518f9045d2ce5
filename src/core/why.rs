//! The type [`Why`], the purpose of each deadline of the core, with its words; the order of its variants says which
//! of two goes first at one instant.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ClientId, GenerationId};

/// What supervise does at a deadline, or what has happened by then, as `status` shows it after `next in`. At one instant
/// the earlier variant goes first: a server that is ready in the moment its time runs out is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Why {
    /// When a generation has lived long enough to count as ready.
    Ready(GenerationId),
    /// When the file that was busy is executed again.
    Retry(GenerationId),
    /// When Ready=http: asks again, or has waited for long enough.
    Probe(GenerationId),
    /// When supervise looks on which sockets the processes of a generation wait.
    Look(GenerationId),
    /// When supervise looks whether a signal has stopped the candidate.
    Trial(GenerationId),
    /// When a candidate has proved itself on its share, and gets the whole.
    CanaryOver(GenerationId),
    /// When the old generation has been kept long enough beside the new one.
    BakeOver(GenerationId),
    /// When supervise tries again to pass on connections that wait where nobody accepts.
    Rescue,
    /// When the connections of a generation that finishes are counted again.
    Count(GenerationId),
    /// When an old generation is told to stop, finished or not.
    DrainOver(GenerationId),
    /// When a generation that is not ready has used up TimeoutStartSec=.
    StartTimeout(GenerationId),
    /// When the next WATCHDOG=1 is overdue.
    Watchdog(GenerationId),
    /// When a command beside the main process has taken too long.
    Command(GenerationId),
    /// When READY=1 after RELOADING=1 is overdue.
    Reload(GenerationId),
    /// When RuntimeMaxSec= is over.
    RuntimeMax(GenerationId),
    /// When a generation told to stop gets SIGKILL.
    Kill(GenerationId),
    /// When we stop waiting for what SIGKILL did not end.
    Abandon(GenerationId),
    /// When RestartSec= is over.
    Restart,
    /// When connections may start the server again.
    Listen,
    /// When what is left at the end gets SIGKILL.
    SweepKill,
    /// When we end without what is left.
    SweepAbandon,
    /// When `status --wait` is answered as things are.
    StatusWait(ClientId),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready(g) => write!(f, "generation {} counts as ready", g.0),
            Self::Retry(g) => {
                write!(f, "try generation {} again (its program or its PIDFile= is still being written)", g.0)
            }
            Self::Probe(g) => write!(f, "ask generation {} whether it is ready", g.0),
            Self::Look(g) => write!(f, "check whether generation {} accepts connections", g.0),
            Self::Trial(g) => {
                write!(f, "check whether a signal has stopped generation {}", g.0)
            }
            Self::CanaryOver(g) => write!(f, "generation {} gets all new connections", g.0),
            Self::Rescue => write!(f, "pass on connections that wait where nobody accepts"),
            Self::Count(g) => write!(f, "count the connections of generation {}", g.0),
            Self::DrainOver(g) => write!(f, "tell generation {} to stop, finished or not", g.0),
            Self::BakeOver(g) => {
                write!(f, "generation {} keeps all new connections, and the old one finishes", g.0)
            }
            Self::StartTimeout(g) => write!(f, "generation {} must be ready", g.0),
            Self::Watchdog(g) => write!(f, "generation {} must have sent WATCHDOG=1", g.0),
            Self::Command(g) => write!(f, "a command of generation {} must have ended", g.0),
            Self::Reload(g) => write!(f, "generation {} must have reloaded", g.0),
            Self::RuntimeMax(g) => {
                write!(f, "stop generation {}, which has then run for RuntimeMaxSec=", g.0)
            }
            Self::Kill(g) => write!(f, "send SIGKILL to generation {}", g.0),
            Self::Abandon(g) => write!(f, "give up what is left of generation {}", g.0),
            Self::Restart => write!(f, "restart"),
            Self::Listen => write!(f, "connections may start the server again"),
            Self::SweepKill => write!(f, "send SIGKILL to the processes left"),
            Self::SweepAbandon => write!(f, "end without the processes left"),
            Self::StatusWait(_) => write!(f, "answer a status that waits"),
        }
    }
}
