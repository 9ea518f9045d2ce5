//! The words about swaps.

use std::fmt;

use crate::config::{Canary, Span};
use crate::core::report::rounded;
use crate::core::{GenerationId, Traffic};

/// The progress of a swap.
#[derive(Clone, Debug, PartialEq)]
pub enum SwapNote {
    Begun {
        from: GenerationId,
        to: GenerationId,
        within: Span,
    },
    Waits,
    /// The unit files cannot be read or say something invalid.
    Refused {
        why: String,
    },
    /// As many generations live as there are slots, so the swap waits.
    Held {
        generations: usize,
    },
    Baking {
        from: GenerationId,
        to: GenerationId,
        span: Span,
    },
    /// Handover=stop-first: the old generation finishes its connections before it is stopped.
    FinishesFirst {
        from: GenerationId,
        drain: Span,
    },
    /// Handover=stop-first on sockets that are shared: the old generation is stopped with the connections it has.
    StopsFirst {
        from: GenerationId,
        patience: Span,
    },
    /// Stored fds go to the next generation. `both`: the old one still has them then.
    Stored {
        from: GenerationId,
        count: usize,
        both: bool,
    },
    Canary {
        to: GenerationId,
        canary: Canary,
    },
    /// `drain`: how long the old generation may finish its connections; it is `None` if it is told to stop at once.
    Done {
        from: GenerationId,
        to: GenerationId,
        drain: Option<Span>,
    },
    /// The connections that an old generation still has.
    Draining {
        generation: GenerationId,
        traffic: Traffic,
    },
    /// An old generation is told to stop, with these connections left.
    Drained {
        generation: GenerationId,
        after: Span,
        left: Traffic,
    },
    /// An old generation accepts nothing any more, so its queue is taken to the current one.
    QueueStuck {
        generation: GenerationId,
        queued: u32,
    },
    RolledBack {
        from: GenerationId,
        to: GenerationId,
        reason: String,
    },
    /// The new generation took over, though nothing shows that it serves.
    Unseen {
        reason: String,
    },
    OldDied {
        old: GenerationId,
        new: GenerationId,
    },
}

impl fmt::Display for SwapNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Begun { from, to, within } => {
                write!(f, "swap: {to} starts beside {from}{}", must_be_ready(*within))
            }
            Self::Waits => write!(f, "swap: another swap follows the one under way"),
            Self::Refused { why } => write!(f, "no swap, nothing is changed: {why}"),
            Self::Held { generations } => {
                write!(
                    f,
                    "swap: it waits for a free slot: one of {generations} living generations has to end first"
                )
            }
            Self::Baking { from, to, span } => {
                write!(f, "{from} stays untouched for another {}, in case {to} dies", rounded(*span))
            }
            Self::FinishesFirst { from, drain } => {
                let long =
                    if drain.is_infinite() { String::new() } else { format!(" within {}", rounded(*drain)) };
                write!(
                    f,
                    "swap: {from} finishes its connections{long}; new ones wait in the queue for the next generation"
                )
            }
            Self::StopsFirst { from, patience } => f.write_str(&stops_first(*from, *patience)),
            Self::Stored { from, count, both } => f.write_str(&stored(*from, *count, *both)),
            Self::Canary { to, canary } => write!(
                f,
                "{to} gets {} % of the new connections for {}",
                canary.percent,
                rounded(canary.span)
            ),
            Self::Done { from, to, drain: None } => {
                write!(f, "swapped: {to} has taken over; supervise tells {from} to stop")
            }
            Self::Done { from, to, drain: Some(drain) } if drain.is_infinite() => {
                write!(f, "{to} has taken over; {from} finishes its connections")
            }
            Self::Done { from, to, drain: Some(drain) } => write!(
                f,
                "{to} has taken over; {from} may take {} to finish its connections",
                rounded(*drain)
            ),
            Self::Draining { generation, traffic } => {
                write!(f, "{generation} is draining: {}", connections(*traffic))
            }
            Self::Drained { generation, after, left } => {
                let left = if left.is_over() {
                    format!("has finished its connections after {}", rounded(*after))
                } else {
                    format!("still has {} after {} (Drain=)", connections(*left), rounded(*after))
                };
                write!(f, "{generation} {left}; supervise tells it to stop")
            }
            Self::QueueStuck { generation, queued } => {
                write!(
                    f,
                    "{generation} accepts nothing from its queue; supervise takes the {queued} connections there to the current generation"
                )
            }
            Self::RolledBack { from, to: _, reason } => write!(f, "rolled back: {reason}; {from} serves on"),
            Self::Unseen { reason } => write!(f, "taken over unseen: {reason}"),
            Self::OldDied { old, new } => {
                write!(f, "{old} ended during the swap; clients wait in the queue for {new}")
            }
        }
    }
}

/// Why a swap ends as `taken over unseen`, and how to avoid that.
pub(in crate::core) fn unseen(to: GenerationId, is_oneshot: bool) -> String {
    if is_oneshot {
        return format!(
            "the commands of {to} have ended, as those of Type=oneshot do, and supervise does not look whether a process \
             that they left accepts connections; use Type=simple for a server that stays in the foreground, \
             Type=forking for one that leaves it"
        );
    }
    format!(
        "{to} runs and gets the new connections, but no generation was ever seen to wait on its sockets or to accept a \
         connection; have the server send READY=1 (sd_notify), or use --ready http:/PATH or --ready delay:SPAN"
    )
}

fn stops_first(from: GenerationId, patience: Span) -> String {
    let time = if patience.is_infinite() { String::new() } else { format!(" within {}", rounded(patience)) };
    format!(
        "swap: the sockets are shared, so {from} is told to stop at once and has to end{time}, with the connections that \
         it has; new ones wait in the queue for the next generation"
    )
}

fn must_be_ready(within: Span) -> String {
    if within.is_infinite() {
        String::new()
    } else {
        format!(" and must be ready within {}", rounded(within))
    }
}

fn stored(from: GenerationId, count: usize, both: bool) -> String {
    let fds = if count == 1 { "a stored fd".to_owned() } else { format!("{count} stored fds") };
    if both {
        format!(
            "swap: the new server gets {fds} (FileDescriptorStoreMax=) while {from} still has them; of a connection that both \
             read each gets a part (one at a time: --handover stop-first)"
        )
    } else {
        format!(
            "swap: supervise stops {from} first: it has {fds} (FileDescriptorStoreMax=), and of a connection that two \
             generations read each gets a part (if they can share it: --handover steered)"
        )
    }
}

/// The connections by kind, leaving out what there is none of: `3 in flight, 5 idle`.
fn connections(traffic: Traffic) -> String {
    let Traffic { in_flight, recent, idle, queued, handshakes } = traffic;
    let counts = [
        (in_flight, "in flight"),
        (recent, "just answered or without a request yet"),
        (queued, "in its queue"),
        (handshakes, "in a handshake"),
        (idle, "idle"),
    ];
    let texts: Vec<String> = counts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if texts.is_empty() { "no connections".to_owned() } else { texts.join(", ") }
}
