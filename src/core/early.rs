//! Delays the next start of a server that has ended cleanly several times in a row before it waited on its sockets.
//! Such a server goes into the background, or finds that it cannot serve. For Restart= that is no failure, but no
//! client is served.

use super::generation::Generation;
use super::note::Note;
use super::restart::{RunResult, restart_delay};
use super::service::{Phase, Service, Step};
use super::{End, HintAt};

/// The number of such ends in a row that counts as a fault.
const TOO_MANY: u32 = 3;

impl Service {
    /// Whether the server keeps ending early, so that a connection would not be served.
    pub(super) fn ends_too_early(&self) -> bool {
        self.ledger.early_ends >= TOO_MANY
    }
}

impl Step<'_> {
    /// Counts an end of the only generation, by itself, before it waited.
    pub(super) fn count_early_end(&mut self, generation: &Generation) {
        let id = generation.id;
        if !self.service.watch.has_not_come_to_serve(id, self.now) || !generation.has_ended_cleanly() {
            self.service.ledger.early_ends = 0;
            return;
        }
        let ends = &mut self.service.ledger.early_ends;
        *ends = ends.saturating_add(1);
        if *ends == TOO_MANY {
            self.watch().hint_unseen(id, HintAt::CleanEnds);
        }
    }

    /// Lets the next connection start the server; after too many early ends only after the delay of a failure.
    pub(super) fn listen_after(&mut self, generation: &Generation) {
        if !self.service.ends_too_early() {
            self.tell(Note::Listening);
            return self.listen();
        }
        let count = self.service.ledger.early_ends - TOO_MANY + 1;
        let span = restart_delay(&generation.policy.delay, count);
        self.tell(Note::ListeningLater { span });
        self.service.phase = Phase::Listening { hold_until: Some(self.now.after(span)) };
    }
}

impl Generation {
    /// It has exited with a clean status, and nobody had told it to stop.
    fn has_ended_cleanly(&self) -> bool {
        let was_told = self.ending().is_some_and(|ending| ending.was_told);
        let is_clean =
            matches!(self.end(), Some(End::Exited(_))) && self.outcome().result == RunResult::Success;
        !was_told && is_clean
    }
}
