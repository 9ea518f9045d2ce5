//! The connections of a generation, as the kernel shows them: the data of counts.rs.

use serde::{Deserialize, Serialize};

use crate::config::Span;

/// The connections of one generation, as the kernel shows them at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// A request is being read, worked on or answered, or bytes wait in a queue.
    pub in_flight: u32,
    /// Answered, but not for DrainQuiet= yet: more of the answer may come. Or no request has come yet.
    pub recent: u32,
    /// Quiet: closing them costs nobody an answer.
    pub idle: u32,
    /// Connections and datagrams that nobody has accepted or read yet.
    pub queued: u32,
    /// Handshakes that the slot answered before it lost the traffic.
    pub handshakes: u32,
}

/// What counting has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// None: the kernel does not say.
    pub traffic: Option<Traffic>,
    /// None of its processes runs: a signal has stopped all of them.
    pub is_stopped: bool,
    /// What it took the shell (see [`limits::LOOK_COST`]).
    pub cost: Span,
}

impl Traffic {
    /// Nothing that a kill signal could cut off.
    pub fn is_over(self) -> bool {
        self.in_flight + self.recent + self.queued + self.handshakes == 0
    }
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        let Self { in_flight, recent, idle, queued, handshakes } = other;
        self.in_flight += in_flight;
        self.recent += recent;
        self.idle += idle;
        self.queued += queued;
        self.handshakes += handshakes;
    }
}
