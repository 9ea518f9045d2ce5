//! A candidate that was ready and is stopped by a signal just before its canary or its bake is over is not taken: the old
//! one has the traffic back.
//!
//! Nothing else tells a server that hangs from one that is at work, maybe for a client that is gone by now.

use super::service::{LastLook, Phase, Service, Step, Trial, Window};
use super::{Action, GenerationId, Time, limits};
use crate::config::Span;

impl Window {
    pub(super) const fn new(now: Time, span: Span) -> Self {
        let look = match span.as_nanos().checked_sub(limits::LOOK_FIRST.as_nanos()) {
            Some(before) => LastLook::Due(now.after(Span::from_nanos(before))),
            // It would be over before the answer.
            None => LastLook::Done,
        };
        Self { over: now.after(span), look }
    }
}

impl Service {
    /// The canary or the bake of the candidate.
    const fn window(&mut self) -> Option<(GenerationId, &mut Window)> {
        let Phase::Swapping { new, trial: Trial::Canary(window) | Trial::Bake { window, .. }, .. } =
            &mut self.phase
        else {
            return None;
        };
        Some((*new, window))
    }
}

impl Step<'_> {
    /// What follows the window waits for this count, which therefore waits for no rest.
    pub(super) fn on_trial_due(&mut self, id: GenerationId) {
        if let Some((_, window)) = self.service.window() {
            window.look = LastLook::Ordered;
        }
        if let Some(generation) = self.service.get(id) {
            let quiet = generation.policy.drain_quiet;
            self.out.push(Action::Count { generation: id, slot: generation.slot, quiet });
        }
    }

    /// It was counted.
    pub(super) fn try_candidate(&mut self, id: GenerationId, is_stopped: bool) {
        let Some((candidate, window)) = self.service.window() else { return };
        if candidate != id || window.look != LastLook::Ordered {
            return;
        }
        window.look = LastLook::Done;
        if is_stopped {
            self.roll_back(format!("generation {} is stopped by a signal", id.0));
        }
    }
}
