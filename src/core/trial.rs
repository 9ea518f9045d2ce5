//! A candidate that was ready and is stopped by a signal just before its canary or its bake is over is not taken: the old
//! one has the traffic back.
//!
//! Nothing else tells a server that hangs from one that is at work, maybe for a client that is gone by now.

use super::service::{Generation, Phase, Step};
use super::{Action, GenerationId, Time, limits};
use crate::config::Span;

impl Step<'_> {
    /// Its canary or its bake begins.
    pub(super) fn begin_trial(&mut self, id: GenerationId, span: Span) {
        let now = self.now;
        let Some(generation) = self.service.get_mut(id) else { return };
        let before = span.as_nanos().checked_sub(limits::LOOK_FIRST.as_nanos());
        generation.trial = before.map(|before| now.after(Span::from_nanos(before)));
    }

    /// What follows the window waits for this count, which therefore waits for no rest.
    pub(super) fn on_trial_due(&mut self, id: GenerationId) {
        let Some(Generation { trial, policy, slot, .. }) = self.service.get_mut(id) else { return };
        *trial = Some(Time::NEVER);
        self.out.push(Action::Count { generation: id, slot: *slot, quiet: policy.drain_quiet });
    }

    /// It was counted.
    pub(super) fn try_candidate(&mut self, id: GenerationId, is_stopped: bool) {
        let Phase::Swapping { new, .. } = self.service.phase else { return };
        let Some(generation) = self.service.get_mut(id).filter(|_| new == id) else { return };
        if generation.trial != Some(Time::NEVER) {
            return;
        }
        generation.trial = None;
        if is_stopped {
            self.roll_back(format!("generation {} is stopped by a signal", id.0));
        }
    }
}
