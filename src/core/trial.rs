//! A candidate that was ready and accepts nothing is not taken: at the end of its canary, and of its bake, somebody must
//! have come out of its queue.
//!
//! It is counted from the moment at which the first connection comes, again and again. Who waits is known one by one, and
//! a queue is first in, first out: where all that waited at one count still wait at the next, nothing was accepted in
//! between, however many came. Once it has accepted anybody it may be busy for that one, whose connection may be over by
//! now, and then only being stopped by a signal is a fault. Where nobody comes nothing is known, and it is taken.

use serde::{Deserialize, Serialize};

use super::drain::Taking;
use super::service::{Generation, Phase, Step};
use super::{Action, GenerationId, SlotId, Time, limits};
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
    /// Nobody has come to its slot yet.
    pub(super) awaits_first: bool,
}

impl Trial {
    /// Within this span; None: there is no time for one.
    fn of(now: Time, span: Span) -> Option<Self> {
        let last = now.after(before(span, limits::LOOK_FIRST));
        let trial = Self {
            next: last,
            gap: limits::TRIAL_GAP,
            last,
            counted: None,
            nothing_for: Span::ZERO,
            awaits_first: true,
        };
        (now < last).then_some(trial)
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

    /// Later from time to time, but no sooner than after `rest`; of one that accepts only its end matters.
    fn count_again(&mut self, now: Time, rest: Span, accepts: bool) {
        let next = now.after(self.gap.max(rest)).min(self.last);
        let end = Time(self.last.0.saturating_sub(limits::QUEUE_STUCK.as_nanos()));
        (self.next, self.gap) = if accepts && next < end {
            (end, limits::TRIAL_GAP)
        } else {
            (next, Span::from_nanos(self.gap.as_nanos() * 2).min(limits::LOOK_LAST))
        };
    }
}

fn before(span: Span, less: Span) -> Span {
    Span::from_nanos(span.as_nanos().saturating_sub(less.as_nanos()))
}

impl Step<'_> {
    /// Its canary or its bake begins. Before it gets any traffic, so that the first who comes is not missed.
    pub(super) fn begin_trial(&mut self, id: GenerationId, span: Span) {
        if !self.service.steers() {
            return;
        }
        let now = self.now;
        let Some(generation) = self.service.get_mut(id) else { return };
        generation.trial = Trial::of(now, span);
        self.settle_guards();
    }

    /// Somebody has come to this slot, and may have been accepted by now.
    pub(super) fn begin_counting(&mut self, slot: SlotId) {
        let is_first = |one: &&mut Generation| one.slot == slot && one.awaits_first();
        let Some(generation) = self.service.generations.iter_mut().find(is_first) else { return };
        if let Some(trial) = &mut generation.trial {
            trial.awaits_first = false;
        }
        let id = generation.id;
        self.on_trial_due(id);
    }

    pub(super) fn on_trial_due(&mut self, id: GenerationId) {
        let Some(Generation { trial: Some(trial), policy, slot, .. }) = self.service.get_mut(id) else {
            return;
        };
        trial.next = Time::NEVER;
        self.out.push(Action::Count { generation: id, slot: *slot, quiet: policy.drain_quiet });
    }

    /// It was counted, which took so long that the next count should be no sooner than after `rest`. What follows the
    /// window waits for the last one.
    pub(super) fn try_candidate(&mut self, id: GenerationId, taking: Taking, queued: u32, rest: Span) {
        let now = self.now;
        let Phase::Swapping { new, .. } = self.service.phase else { return };
        let Some(generation) = self.service.get_mut(id).filter(|_| new == id) else { return };
        let Some(trial) = generation.trial.as_mut().filter(|trial| trial.next == Time::NEVER) else { return };
        generation.accepts |= taking == Taking::Something && !trial.awaits_first;
        let nothing_for = trial.has_accepted_nothing(now, taking);
        let nothing_for = nothing_for.filter(|_| taking == Taking::Stopped || !generation.accepts);
        if now < trial.last {
            return trial.count_again(now, rest, generation.accepts);
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

impl Generation {
    pub(super) fn awaits_first(&self) -> bool {
        self.trial.is_some_and(|trial| trial.awaits_first)
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
