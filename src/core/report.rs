//! The types of the control socket and of `status --json`.
//!
//! A [`Note`] is a line of the log (and of the progress of a waiting verb), a [`Reply`] ends a verb, a [`Status`] is
//! the object of `status --json`. Client and supervisor share these types as their wire format.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::Span;

/// One line of the control socket, supervisor to client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// The request was read; the reply may take long.
    Accepted,
    /// A line of progress, as in the log.
    Note(String),
    /// The answer to the request; no line follows it.
    Reply(Reply),
}

/// The end of a verb.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The exit status of the verb: 0 done, 1 refused, failed or rolled back.
    pub exit: u8,
    /// One sentence for the user.
    pub text: String,
    /// What `swap --json` prints.
    pub swap: Option<LastSwap>,
    /// What `status` prints.
    pub status: Option<Box<Status>>,
}

impl Reply {
    pub fn done(text: impl Into<String>) -> Self {
        Self { exit: 0, text: text.into(), swap: None, status: None }
    }

    pub fn failed(text: impl Into<String>) -> Self {
        Self { exit: 1, text: text.into(), swap: None, status: None }
    }
}

/// The object of `status --json`. Unknown figures are null.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Filled in by the shell, as are `pid`, `version` and `sockets`.
    pub name: String,
    pub pid: u32,
    pub version: String,
    pub state: State,
    /// Why the current generation may not serve, though it counts as ready; absent where it was seen to serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
    /// Which generation has to end before the next one starts, and how; absent where none has to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// The current generation; null when none is.
    pub generation: Option<u64>,
    pub generations: Vec<GenerationStatus>,
    pub sockets: Vec<SocketStatus>,
    pub restarts: u64,
    pub last_swap: Option<LastSwap>,
    pub next: Option<Next>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Listening,
    Starting,
    Running,
    Swapping,
    Waiting,
    Paused,
    Stopping,
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Current,
    Candidate,
    Draining,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerationStatus {
    pub generation: u64,
    /// Null between two tries to start it.
    pub pid: Option<u32>,
    pub role: Role,
    /// When it was started. The core writes nanoseconds of CLOCK_MONOTONIC, the shell turns them into RFC 3339.
    pub since: String,
    /// The time from its start until it was ready; null if it is not.
    pub ready_ms: Option<u64>,
    pub connections: Option<u64>,
    pub rss_kb: Option<u64>,
    /// The last STATUS= it sent.
    pub status: Option<String>,
    /// How many of a hundred new connections it gets; null where sockets are shared, so that nobody decides it.
    pub traffic: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SocketStatus {
    pub name: String,
    pub address: String,
    pub kind: String,
    pub fd: i32,
    pub queue: Option<u32>,
    pub backlog: Option<u32>,
    /// How it is handed over: `shared` or `stop-first`.
    pub mode: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastSwap {
    /// Null when nothing ran before.
    pub from: Option<u64>,
    /// Null when none was started.
    pub to: Option<u64>,
    pub outcome: Outcome,
    /// A sentence; null when all went well.
    pub reason: Option<String>,
    pub ready_ms: Option<u64>,
    pub drain_ms: Option<u64>,
    pub cut: Option<u64>,
    pub closed_idle: Option<u64>,
}

impl LastSwap {
    /// The object of a swap that was not begun; `reason` is a sentence.
    pub fn refused(reason: &str) -> Self {
        let (outcome, reason) = (Outcome::Refused, Some(reason.to_owned()));
        let (ready_ms, drain_ms, cut, closed_idle) = (None, None, None, None);
        Self { from: None, to: None, outcome, reason, ready_ms, drain_ms, cut, closed_idle }
    }

    /// The object of a swap of which nothing is known but that it was begun: the same keys, null but for the sentence.
    pub fn begun(reason: &str) -> Value {
        let mut object =
            serde_json::to_value(Self::refused(reason)).expect("plain data with text keys is always JSON");
        object["outcome"] = Value::Null;
        object
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Swapped,
    /// The new one has the traffic, but no generation was ever seen to serve.
    TakenOverUnseen,
    RolledBack,
    /// It did not begin, because the files are invalid or another verb prevented it.
    Refused,
}

impl Outcome {
    /// Whether the old generation was replaced.
    pub const fn is_taken(self) -> bool {
        match self {
            Self::Swapped | Self::TakenOverUnseen => true,
            Self::RolledBack | Self::Refused => false,
        }
    }
}

/// What the core does next by itself, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Next {
    /// Unix milliseconds. The core writes nanoseconds of CLOCK_MONOTONIC, the shell converts.
    pub at_ms: u64,
    pub why: String,
}

/// A span as a person reads it: two units at most. `100ms`, `1.5s`, `12s`, `2min 5s`, `3h 20min`.
pub fn rounded(span: Span) -> String {
    let (secs, tenths) = (span.as_millis() / 1_000, span.as_millis() % 1_000 / 100);
    match secs {
        _ if span.is_infinite() => "infinity".to_owned(),
        0 => format!("{}ms", span.as_millis()),
        1..60 if tenths == 0 => format!("{secs}s"),
        1..60 => format!("{secs}.{tenths}s"),
        60..3_600 => two_units(secs / 60, "min", secs % 60, "s"),
        3_600..86_400 => two_units(secs / 3_600, "h", secs % 3_600 / 60, "min"),
        _ => two_units(secs / 86_400, "d", secs % 86_400 / 3_600, "h"),
    }
}

fn two_units(large: u64, unit: &str, small: u64, rest: &str) -> String {
    if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit} {small}{rest}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units_at_most() {
        let cases = [
            (7, "7ms"),
            (999, "999ms"),
            (1_050, "1s"),
            (59_999, "59.9s"),
            (60_000, "1min"),
            (61_000, "1min 1s"),
            (3_660_000, "1h 1min"),
            (90_000_000, "1d 1h"),
        ];
        for (millis, text) in cases {
            assert_eq!(rounded(Span::from_millis(millis)), text);
        }
        assert_eq!(rounded(Span::INFINITY), "infinity");
    }
}
