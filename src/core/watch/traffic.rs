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
    /// Connections that are quiet, so that nobody loses an answer when they are closed.
    pub idle: u32,
    /// Connections and datagrams that nobody has accepted or read yet.
    pub queued: u32,
    /// Handshakes that the slot answered before it lost the traffic.
    pub handshakes: u32,
}

/// The answer to [`super::Question::Count`]: what the kernel shows of the connections of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// `None` where the kernel does not say it.
    pub traffic: Option<Traffic>,
    /// A signal has stopped all of its processes, so that none of them runs.
    pub is_stopped: bool,
    /// The CPU time that it took the shell (see [`limits::LOOK_COST`]).
    pub cost: Span,
}

impl Traffic {
    /// Whether nothing is left that a kill signal could cut off.
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
