//! The words of a swap.

use std::fmt;

use crate::config::{Canary, Span};
use crate::core::report::rounded;
use crate::core::{GenerationId, Traffic};

/// What a swap has come to.
#[derive(Clone, Debug, PartialEq)]
pub enum SwapNote {
    Begun {
        from: GenerationId,
        to: GenerationId,
        within: Span,
    },
    Waits,
    /// The files cannot be taken as they are.
    Refused {
        why: String,
    },
    /// Too many generations live.
    Held {
        generations: usize,
    },
    Baking {
        from: GenerationId,
        to: GenerationId,
        span: Span,
    },
    /// Handover=stop-first: the old generation finishes what it has before it is stopped.
    FinishesFirst {
        from: GenerationId,
        drain: Span,
    },
    /// Fds are stored, which the next generation gets. `both`: it gets them while the old one has them.
    Stored {
        from: GenerationId,
        count: usize,
        both: bool,
    },
    Canary {
        to: GenerationId,
        canary: Canary,
    },
    /// `drain`: how long the old one may finish what it has. None: it is told to stop at once.
    Done {
        from: GenerationId,
        to: GenerationId,
        drain: Option<Span>,
    },
    /// What an old generation still has to do.
    Draining {
        generation: GenerationId,
        traffic: Traffic,
    },
    /// It is told to stop, with this left.
    Drained {
        generation: GenerationId,
        after: Span,
        left: Traffic,
    },
    /// It takes nothing out of its queue any more, so others get it.
    QueueStuck {
        generation: GenerationId,
        queued: u32,
    },
    RolledBack {
        from: GenerationId,
        to: GenerationId,
        reason: String,
    },
    /// It took over, but nobody has ever been seen to serve.
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
            Self::Waits => write!(f, "swap: one more swap follows the one under way"),
            Self::Refused { why } => write!(f, "no swap, nothing is changed: {why}"),
            Self::Held { generations } => {
                write!(f, "swap: it waits until one of {generations} living generations has ended")
            }
            Self::Baking { from, to, span } => {
                write!(f, "{from} stays untouched for another {}, in case {to} dies", rounded(*span))
            }
            Self::FinishesFirst { from, drain } => {
                let long =
                    if drain.is_infinite() { String::new() } else { format!(" for {}", rounded(*drain)) };
                write!(f, "swap: {from} may finish what it has{long}; new connections wait for the next one")
            }
            Self::Stored { from, count, both: false } => write!(
                f,
                "swap: {from} is stopped first, because of {} (FileDescriptorStoreMax=), and two that read one \
                 connection would each get a part (where they can share them: --handover steered)",
                fds(*count)
            ),
            Self::Stored { from, count, both: true } => write!(
                f,
                "swap: the new server gets {} (FileDescriptorStoreMax=) while {from} still has them: of a connection that \
                 both read each gets a part (--handover stop-first gives them to one at a time)",
                fds(*count)
            ),
            Self::Canary { to, canary } => write!(
                f,
                "{to} gets {} % of the new connections for {}",
                canary.percent,
                rounded(canary.span)
            ),
            Self::Done { from, to, drain: None } => {
                write!(f, "swapped: {to} took over; {from} is told to stop")
            }
            Self::Done { from, to, drain: Some(drain) } if drain.is_infinite() => {
                write!(f, "{to} has the traffic for good; {from} finishes what it has")
            }
            Self::Done { from, to, drain: Some(drain) } => write!(
                f,
                "{to} has the traffic for good; {from} may finish what it has for {}",
                rounded(*drain)
            ),
            Self::Draining { generation, traffic } => {
                write!(f, "{generation} finishes: {}", connections(*traffic))
            }
            Self::Drained { generation, after, left } => {
                let left = if left.is_over() {
                    format!("has finished what it had after {}", rounded(*after))
                } else {
                    format!("still has {} after {} (Drain=)", connections(*left), rounded(*after))
                };
                write!(f, "{generation} {left}; it is told to stop")
            }
            Self::QueueStuck { generation, queued } => {
                write!(f, "{generation} takes nothing out of its queue, where {queued} wait")
            }
            Self::RolledBack { from, to: _, reason } => write!(f, "rolled back: {reason}; {from} serves on"),
            Self::Unseen { reason } => write!(f, "taken over unseen: {reason}"),
            Self::OldDied { old, new } => write!(f, "{old} ended during the swap; {new} is all there is"),
        }
    }
}

/// Why a swap is not called one, and what makes it one.
pub(in crate::core) fn unseen(to: GenerationId) -> String {
    format!(
        "{to} lives and has the traffic, but no generation was ever seen to wait on its sockets or to accept a \
         connection; have the server send READY=1 (sd_notify), ask it by --ready http:/PATH, or say by --ready delay:SPAN \
         how long it takes"
    )
}

fn must_be_ready(within: Span) -> String {
    if within.is_infinite() {
        String::new()
    } else {
        format!(" and must be ready within {}", rounded(within))
    }
}

fn fds(count: usize) -> String {
    if count == 1 { "a stored fd".to_owned() } else { format!("{count} stored fds") }
}

/// `3 in flight, 5 idle`: what there is of it.
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
