//! Decides when the connections of a generation are counted: of an old one until it has finished them, of a candidate
//! once, just before its canary or its bake is over.
//!
//! The latter is not for the connections: a candidate that was ready and is stopped by a signal is not taken, and the old one
//! has the traffic back. Nothing else tells a server that hangs from one that is at work, maybe for a client that is gone.

use serde::{Deserialize, Serialize};

use super::traffic::{Counted, Traffic};
use super::{Conclusion, Observed, Question, View, Watching};
use crate::config::Span;
use crate::core::{GenerationId, Time, limits};

/// Whether a candidate is looked at once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum LastLook {
    Due(Time),
    /// It was ordered; nothing happens before its answer.
    Ordered,
    Done,
}

/// Supervise asks the kernel again and again for the connections of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Counting {
    next: Time,
    gap: Span,
    /// What the last count cost.
    cost: Span,
    /// What the last answer was; `None` if the kernel did not say.
    seen: Option<Traffic>,
    /// What was seen last before it was told to stop.
    told_with: Option<Traffic>,
    /// `None` once it was told to stop.
    drain: Option<Finishing>,
}

/// It finishes what it has, and is not told to stop yet.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Finishing {
    /// The time at which Drain= is over.
    due: Time,
    /// Nothing was left when it was looked at last; a dump is not one moment, so two of them have to agree.
    was_over: bool,
    /// The queue as it was when it last got shorter, and since when it has not.
    queued: u32,
    stuck_since: Time,
    /// When it was told last what is left, and what that was.
    told: (Time, Traffic),
}

/// By what a main process ended, which says how many of its connections were cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::core) enum EndedBy {
    /// It was told to stop, and some time later ended by itself: it was finishing them.
    Finishing,
    /// The signal to stop, at once, with all that it had then: an exit takes its time, and what was seen in its midst is
    /// less.
    OurSignal,
    /// What was seen last is what was cut.
    Other,
}

impl Observed {
    /// The answer to the last look is lost; and where Drain= has ended while nobody watched, the moment without connections
    /// in flight was not seen.
    pub(super) fn count_again(&mut self, now: Time) {
        if self.last_look == LastLook::Ordered {
            self.last_look = LastLook::Due(now);
        }
        if let Some(drain) = self.counting.as_mut().and_then(|counting| counting.drain.as_mut()) {
            drain.due = drain.due.max(now);
        }
    }

    /// When it is told to stop, whatever it still has.
    pub(super) fn drain_end(&self) -> Option<Time> {
        Some(self.counting?.drain?.due.after(limits::LAST_MOMENT))
    }
}

impl View<'_> {
    /// When the kernel is asked again: as long as it drains, and until it has stopped.
    pub(super) fn next_count(self, observed: &Observed) -> Option<Time> {
        let counting = observed.counting.filter(|counting| counting.drain.is_some() || observed.leaves)?;
        Some(counting.next.max(self.watch.rests_until))
    }

    /// Its last look is over, so that it can be taken.
    pub(in crate::core) fn is_tried(self, id: GenerationId) -> bool {
        self.watch.get(id).is_some_and(|observed| observed.last_look == LastLook::Done)
    }
}

impl Watching<'_> {
    /// Its canary or its bake begins, and lasts for `span`.
    pub(in crate::core) fn try_for(&mut self, id: GenerationId, span: Span) {
        let Some(observed) = self.watch.get_mut(id) else { return };
        observed.last_look = match span.as_nanos().checked_sub(limits::LOOK_FIRST.as_nanos()) {
            Some(before) => LastLook::Due(self.now.after(Span::from_nanos(before))),
            // The trial would be over before the answer came.
            None => LastLook::Done,
        };
    }

    /// What follows the canary or the bake waits for this count, which therefore waits for no rest.
    pub(in crate::core) fn look_last(&mut self, id: GenerationId) {
        let Some(observed) = self.watch.get_mut(id) else { return };
        observed.last_look = LastLook::Ordered;
        let (slot, quiet) = (observed.slot, observed.quiet);
        self.ask(Question::Count { generation: id, slot, quiet });
    }

    /// It has lost the traffic, and may finish what it has for `span`.
    pub(in crate::core) fn drain(&mut self, id: GenerationId, span: Span) {
        let now = self.now;
        let Some(observed) = self.watch.get_mut(id) else { return };
        let (due, told) = (now.after(span), (now, Traffic::default()));
        let drain = Some(Finishing { due, was_over: false, queued: 0, stuck_since: now, told });
        observed.counting = Some(Counting {
            next: now,
            gap: limits::LOOK_FIRST,
            cost: Span::ZERO,
            seen: None,
            told_with: None,
            drain,
        });
        // Also for Drain=0: what the signal cuts off is counted before it is sent.
        self.count(id);
    }

    /// Asks the kernel now; the next time is later, and later from time to time, but not later than Drain= is over.
    pub(in crate::core) fn count(&mut self, id: GenerationId) {
        let now = self.now;
        let Some(observed) = self.watch.get_mut(id) else { return };
        let Some(counting) = &mut observed.counting else { return };
        let due = counting.drain.map_or(Time::NEVER, |drain| drain.due);
        if now >= due {
            counting.next = now.after(limits::LOOK_FIRST);
        } else {
            counting.next = now.after(counting.gap).min(due);
            counting.gap = Span::from_nanos(counting.gap.as_nanos() * 2).min(longest_gap(counting.cost));
        }
        let (slot, quiet) = (observed.slot, observed.quiet);
        self.ask(Question::Count { generation: id, slot, quiet });
    }

    pub(super) fn counted(&mut self, id: GenerationId, counted: Counted) -> Option<Conclusion> {
        let now = self.now;
        self.rest_after(counted.cost);
        let is_candidate = self.scene.candidate == Some(id);
        let observed = self.watch.get_mut(id)?;
        if is_candidate && observed.last_look == LastLook::Ordered {
            observed.last_look = LastLook::Done;
            return counted.is_stopped.then_some(Conclusion::Stopped(id));
        }
        let counting = observed.counting.as_mut()?;
        (counting.seen, counting.cost) = (counted.traffic, counted.cost);
        if observed.leaves && counting.told_with.is_none() {
            // The question was asked before the signal, and the answer came after it.
            counting.told_with = counted.traffic;
        }
        let (drain, traffic) = (counting.drain.as_mut()?, counted.traffic?);
        if traffic.queued < drain.queued || traffic.queued == 0 {
            drain.stuck_since = now;
        }
        drain.queued = traffic.queued;
        // Drain= is over, but a moment in which nothing is in flight may be near.
        let is_late = now >= drain.due;
        let is_stuck = traffic.queued > 0 && now >= drain.stuck_since.after(limits::QUEUE_STUCK);
        if is_stuck {
            drain.stuck_since = now;
        }
        let was_over = std::mem::replace(&mut drain.was_over, traffic.is_over());
        if traffic.is_over() && !was_over {
            // The moment may be short: clients come back.
            counting.next = now.after(limits::LOOK_FIRST);
        }
        if (traffic.is_over() && was_over) || (is_late && traffic.in_flight == 0) {
            return Some(Conclusion::Drained(id));
        }
        let is_news = traffic != drain.told.1 && now >= drain.told.0.after(limits::DRAIN_NEWS);
        if is_news {
            drain.told = (now, traffic);
        }
        match (is_stuck, is_news) {
            (true, _) => Some(Conclusion::Stuck(id, traffic.queued)),
            (false, true) => Some(Conclusion::Drains(id, traffic)),
            (false, false) => None,
        }
    }

    /// It is told to stop, or has ended by itself. What was seen of it last, which its end may cut off; where nothing is
    /// left, nobody asks any more.
    pub(in crate::core) fn end_drain(&mut self, id: GenerationId) -> Option<Traffic> {
        let observed = self.watch.get_mut(id)?;
        let counting = observed.counting.as_mut()?;
        (counting.drain, counting.told_with) = (None, counting.seen);
        // What the kill signal ends at once was seen before it; in the midst of an exit some fds are closed already.
        (counting.next, counting.gap) = (self.now.after(limits::FINISHES), limits::LOOK_FIRST);
        let left = counting.seen?;
        if left.is_over() {
            observed.counting = None;
        }
        Some(left)
    }

    /// SIGKILL is sent: what is seen from now on tells nothing.
    pub(in crate::core) fn killed(&mut self, id: GenerationId) {
        if let Some(counting) = self.watch.get_mut(id).and_then(|observed| observed.counting.as_mut()) {
            counting.next = Time::NEVER;
        }
    }

    /// Its main process has ended: how many connections that cut off, and how many were idle.
    pub(in crate::core) fn cut(&mut self, id: GenerationId, by: EndedBy) -> Option<(u32, u32)> {
        let counting = self.watch.get_mut(id)?.counting.take()?;
        let seen = if by == EndedBy::OurSignal { counting.told_with } else { counting.seen }?;
        let cut = if by == EndedBy::Finishing { 0 } else { seen.in_flight + seen.recent };
        Some((cut, seen.idle))
    }
}

/// The longest gap after a count that cost so much: what is dear to see and has not changed for long is seen less often.
fn longest_gap(cost: Span) -> Span {
    let dear = Span::from_nanos(cost.as_nanos().saturating_mul(limits::COUNT_COST));
    dear.clamp(limits::LOOK_LAST, limits::DRAIN_NEWS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_drain_is_counted_for_a_hundredth_of_the_time_and_once_a_second() {
        for (cost, gap) in [(0, 250), (2, 250), (6, 600), (10, 1_000), (500, 1_000)] {
            assert_eq!(longest_gap(Span::from_millis(cost)), Span::from_millis(gap), "{cost} ms");
        }
    }
}
