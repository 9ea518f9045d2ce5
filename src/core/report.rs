//! Every line a user reads from us while we run, and what `status` shows: one place for words.
//!
//! A [`Note`] is a line of the log (and of the progress of a waiting verb), a [`Reply`] ends a verb, a [`Status`] is
//! the object of `status --json`. Client and supervisor share these types as their wire format.

use serde::{Deserialize, Serialize};

/// One line of the control socket, supervisor to client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// Progress, as the log says it.
    Note(String),
    /// The last line.
    Reply(Reply),
}

/// The end of a verb.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The exit status of the verb: 0 done, 1 refused, failed or rolled back.
    pub exit: u8,
    /// One sentence.
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
    /// The shell's to fill in, like `pid`, `version` and `sockets`.
    pub name: String,
    pub pid: u32,
    pub version: String,
    pub state: State,
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
    /// From its start until it was ready; null: not yet.
    pub ready_ms: Option<u64>,
    pub connections: Option<u64>,
    pub rss_kb: Option<u64>,
    /// The last STATUS= it sent.
    pub status: Option<String>,
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
    pub to: u64,
    pub outcome: Outcome,
    /// A sentence; null when all went well.
    pub reason: Option<String>,
    pub ready_ms: Option<u64>,
    pub drain_ms: Option<u64>,
    pub cut: Option<u64>,
    pub closed_idle: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Swapped,
    RolledBack,
}

/// The next thing that happens by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Next {
    /// Unix milliseconds. The core writes nanoseconds of CLOCK_MONOTONIC, the shell converts.
    pub at_ms: u64,
    pub why: String,
}
