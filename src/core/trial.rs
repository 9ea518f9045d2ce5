//! A candidate that was ready and hangs is not taken, at the end of its canary and of its bake, as far as it can be seen.
//!
//! In the last second it is counted again and again. A server with its hands full accepts nothing, and who gave it work may
//! be gone by then. So it is a fault only where everybody who has come since it got all of the traffic still waits, or where
//! it is stopped by a signal (see [`Taking`]). Where nobody waits nothing is known, and it is taken.

use serde::{Deserialize, Serialize};

use super::drain::Taking;
use super::service::{Generation, Phase, Step};
use super::{Action, GenerationId, Time, limits};
use crate::config::Span;

/// Of a candidate that is ready, until its canary or its bake is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trial {
    /// When it is counted next; [`Time::NEVER`] until that is answered.
    next: Time,
    gap: Span,
    /// When it is counted for the last time.
    last: Time,
    counted: Option<Time>,
    /// For how long it has accepted nothing, as far as we were there to see it.
    nothing_for: Span,
}

impl Trial {
    /// The last second of this span; None: there is no time for one.
    fn of(now: Time, span: Span) -> Option<Self> {
        let before =
            |span: Span, less: Span| Span::from_nanos(span.as_nanos().saturating_sub(less.as_nanos()));
        let last = before(span, limits::LOOK_FIRST);
        let next = now.after(before(last, limits::QUEUE_STUCK));
        let trial = Self {
            next,
            gap: limits::TRIAL_GAP,
            last: now.after(last),
            counted: None,
            nothing_for: Span::ZERO,
        };
        (next < trial.last).then_some(trial)
    }

    pub(super) const fn next(self) -> Time {
        self.next
    }

    fn has_accepted_nothing(&mut self, now: Time, taking: Taking) -> Option<Span> {
        let gap = self.counted.replace(now).map_or(Span::ZERO, |counted| now.since(counted));
        let enough = match taking {
            Taking::Something => {
                self.nothing_for = Span::ZERO;
                return None;
            }
            Taking::Nothing => limits::ACCEPTS_NOTHING,
            Taking::Stopped => Span::from_nanos(1),
        };
        // A long one is that of a machine that was stopped, and with it the candidate.
        let gap = gap.min(limits::TRIAL_GAP_COUNTED);
        self.nothing_for = Span::from_nanos(self.nothing_for.as_nanos().saturating_add(gap.as_nanos()));
        (self.nothing_for >= enough).then_some(self.nothing_for)
    }
}

impl Step<'_> {
    /// Its canary or its bake begins.
    pub(super) fn begin_trial(&mut self, id: GenerationId, span: Span) {
        let now = self.now;
        let steers = self.service.steers();
        if let Some(generation) = self.service.get_mut(id) {
            generation.trial = Trial::of(now, span).filter(|_| steers);
        }
    }

    pub(super) fn on_trial_due(&mut self, id: GenerationId) {
        let Some(Generation { trial: Some(trial), policy, slot, .. }) = self.service.get_mut(id) else {
            return;
        };
        trial.next = Time::NEVER;
        self.out.push(Action::Count { generation: id, slot: *slot, quiet: policy.drain_quiet });
    }

    /// It was counted. What follows the window waits for the last count, which therefore waits for no rest.
    pub(super) fn try_candidate(&mut self, id: GenerationId, taking: Taking, queued: u32) {
        let (now, rests_until) = (self.now, self.service.rests_until);
        let Phase::Swapping { new, .. } = self.service.phase else { return };
        let Some(generation) = self.service.get_mut(id).filter(|_| new == id) else { return };
        let Some(trial) = generation.trial.as_mut().filter(|trial| trial.next == Time::NEVER) else { return };
        let nothing_for = trial.has_accepted_nothing(now, taking);
        if now < trial.last {
            trial.next = now.after(trial.gap).max(rests_until).min(trial.last);
            trial.gap = Span::from_nanos(trial.gap.as_nanos() * 2).min(limits::LOOK_LAST);
            return;
        }
        generation.trial = None;
        if let Some(span) = nothing_for {
            let is_stopped = if taking == Taking::Stopped { "is stopped by a signal and " } else { "" };
            let span = Span::from_millis(span.as_millis());
            let reason = format!(
                "generation {} {is_stopped}has accepted nothing for {span} while {queued} wait",
                id.0
            );
            self.roll_back(reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counted every 300 ms: for how long it has accepted nothing in the end.
    fn judged(takings: &[Taking]) -> Option<Span> {
        let mut trial = Trial::of(Time(0), Span::from_secs(5)).unwrap();
        let times = (0..).step_by(300_000_000).map(Time);
        times.zip(takings).map(|(now, taking)| trial.has_accepted_nothing(now, *taking)).last().unwrap()
    }

    #[test]
    fn whoever_accepts_one_begins_anew() {
        use Taking::{Nothing, Something, Stopped};
        for (takings, hangs_for) in [
            (&[Something, Nothing, Nothing, Nothing][..], Some(900)),
            (&[Something, Nothing, Nothing], None),
            (&[Nothing, Something, Nothing, Nothing, Nothing], Some(900)),
            (&[Nothing, Nothing, Something, Nothing, Nothing], None),
            (&[Nothing, Nothing, Nothing, Something], None),
            (&[Something, Stopped], Some(300)),
            (&[Something, Nothing, Stopped], Some(600)),
            (&[Stopped, Something], None),
        ] {
            assert_eq!(judged(takings), hangs_for.map(Span::from_millis), "{takings:?}");
        }
    }
}
