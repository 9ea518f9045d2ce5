//! The data of waiting.rs and gate.rs: on which sockets of a generation a process was seen to wait, and where none
//! was.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::config::Span;
use crate::core::{Time, limits};

/// What one look at the processes of a generation has shown; its sockets by words that tell them apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Looked {
    pub waited: BTreeSet<String>,
    /// Nobody waited there, but connections that it has accepted are open.
    pub accepted: BTreeSet<String>,
    /// The other sockets, on which nobody was seen.
    pub others: BTreeSet<String>,
    pub sight: Sight,
    /// The processes that wait could not be seen, for instance because they belong to another user.
    pub is_blind: bool,
    /// The CPU time that it took the shell (see [`limits::LOOK_COST`]).
    pub cost: Span,
}

/// How sure it is that nobody waits where nobody was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Sight {
    #[default]
    Clear,
    /// Somebody may wait unseen, and the shell has not tried to find out by a connection.
    Dim,
    /// The shell has connected to this generation, which has not accepted that connection yet; or another generation has
    /// accepted it, and the shell connects again at the next look.
    Asked,
    Accepted,
    /// The shell cannot connect to this generation alone, so nobody can tell.
    Blind,
}

/// Whether supervise may connect to a generation to learn whether it accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MayConnect {
    No,
    /// Only where the processes that wait cannot be seen.
    WhereBlind,
    /// Also where no process is seen to wait: a server may poll its sockets from time to time.
    Anyway,
}

/// The situation in which the user gets a hint how this server takes the sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HintAt {
    /// The server runs, and nobody waits on its sockets.
    Running,
    /// The server runs, who waits cannot be seen, and it does not accept a connection from supervise.
    Unaccepted,
    /// The server failed before anybody waited.
    Failure,
    /// The server ended cleanly before anybody waited, as those before it did.
    CleanEnds,
}

/// What was seen so far of who waits on the sockets of one generation. It begins with its start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Waiting {
    /// The time at which its main process was started.
    pub(super) since: Time,
    pub(super) next: Time,
    /// When the last look was ordered, and when answered.
    pub(super) ordered: Option<Time>,
    pub(super) looked: Option<Time>,
    /// Where it was seen to wait or to have accepted so far, where not yet, and how well the last look saw.
    pub(super) seen: BTreeSet<String>,
    pub(super) unseen: BTreeSet<String>,
    pub(super) sight: Sight,
    /// Some process of it was seen to wait on one of its sockets.
    pub(super) waits: bool,
    /// The time since when a connection from supervise waits to be accepted by it.
    pub(super) asked: Option<Time>,
    /// At the last look, who waits could not be seen.
    pub(super) is_blind: bool,
    /// It was looked at late enough to tell who never waits.
    pub(super) is_known: bool,
}

impl Waiting {
    pub(super) fn new(now: Time) -> Self {
        Self {
            since: now,
            next: now.after(limits::LOOK_FIRST),
            ordered: None,
            looked: None,
            seen: BTreeSet::new(),
            unseen: BTreeSet::new(),
            sight: Sight::Clear,
            waits: false,
            asked: None,
            is_blind: false,
            is_known: false,
        }
    }

    /// The time at which the user gets the hint, if nobody was seen to wait by then.
    pub(super) const fn hint_due(&self) -> Time {
        self.since.after(limits::HINT)
    }

    /// Nothing of ours is on its way to it any more; the next look begins anew.
    pub(super) fn ask_again(&mut self) {
        if self.sight == Sight::Asked {
            self.sight = Sight::Dim;
            self.asked = None;
        }
    }

    pub(super) fn look_soon(&mut self, now: Time) {
        let earliest = self.ordered.map_or(now, |ordered| ordered.after(limits::LOOK_FIRST).max(now));
        self.next = self.next.min(earliest);
    }

    /// To wait, or to have accepted a connection.
    pub(super) fn was_seen(&self) -> bool {
        !self.seen.is_empty() || self.sight == Sight::Accepted
    }

    /// Nobody is there: it is not only that he cannot be seen.
    pub(super) fn is_plainly_unseen(&self) -> bool {
        !self.was_seen() && !self.is_blind
    }

    /// A connection of ours has had time to be accepted, if there is one.
    pub(super) fn has_had_time(&self, now: Time, time: Span) -> bool {
        self.asked.is_none_or(|asked| now >= asked.after(time))
    }

    /// What it shows now is known: it was looked at since then, and no answer of it is awaited.
    pub(super) fn is_settled(&self, since: Time) -> bool {
        self.looked.is_some_and(|looked| looked >= since) && self.sight != Sight::Asked
    }
}
