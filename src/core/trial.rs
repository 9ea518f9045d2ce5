//! A candidate that was ready and is then stopped by a signal is not taken: just before its canary is over, and its bake, it
//! is counted. Where somebody waits for it and it is stopped, the old one has the traffic back.
//!
//! Nothing else tells a server that hangs from one that is at work, maybe for a client that is gone by now.

use super::service::{Generation, Phase, Step};
use super::{Action, GenerationId, Time, limits};
use crate::config::Span;

impl Step<'_> {
    /// Its canary or its bake begins.
    pub(super) fn begin_trial(&mut self, id: GenerationId, span: Span) {
        let now = self.now;
        let steers = self.service.steers();
        let Some(generation) = self.service.get_mut(id) else { return };
        let before = span.as_nanos().checked_sub(limits::LOOK_FIRST.as_nanos());
        generation.trial = before.filter(|_| steers).map(|before| now.after(Span::from_nanos(before)));
    }

    /// What follows the window waits for this count, which therefore waits for no rest.
    pub(super) fn on_trial_due(&mut self, id: GenerationId) {
        let Some(Generation { trial, policy, slot, .. }) = self.service.get_mut(id) else { return };
        *trial = Some(Time::NEVER);
        self.out.push(Action::Count { generation: id, slot: *slot, quiet: policy.drain_quiet });
    }

    /// It was counted.
    pub(super) fn try_candidate(&mut self, id: GenerationId, is_stopped: bool, queued: u32) {
        let Phase::Swapping { new, .. } = self.service.phase else { return };
        let Some(generation) = self.service.get_mut(id).filter(|_| new == id) else { return };
        if generation.trial != Some(Time::NEVER) {
            return;
        }
        generation.trial = None;
        if is_stopped && queued > 0 {
            self.roll_back(format!("generation {} is stopped by a signal while {queued} wait for it", id.0));
        }
    }
}
