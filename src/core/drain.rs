//! The old generation after a switch: it finishes what it has, is then told to stop, and what that cut is counted.

use super::generation::{Counting, Drain, Generation, Replaced};
use super::note::SwapNote;
use super::report::LastSwap;
use super::service::{Phase, Service, Step};
use super::swap::taken_over;
use super::traffic::{Counted, Traffic};
use super::{Action, ClientId, End, Exit, GenerationId, Time, limits};
use crate::config::Span;

impl Step<'_> {
    /// The old generation has lost the traffic: it may finish what it has before it is told to stop.
    pub(super) fn begin_drain(&mut self, id: GenerationId, swap: Option<(Vec<ClientId>, LastSwap)>) {
        let now = self.now;
        let steers = self.service.steers();
        let Some(generation) = self.service.get_mut(id) else { return };
        let span = generation.policy.drain;
        let drain = Drain {
            due: now.after(span),
            was_over: false,
            queued: 0,
            stuck_since: now,
            told: (now, Traffic::default()),
            swap,
        };
        generation.replaced = Some(Replaced { since: now, drain: Some(drain), counting: None, cut: 0 });
        let lives = generation.lives();
        if steers && lives {
            // Also for Drain=0: what the signal cuts off is counted before it is sent.
            self.count(id);
        }
        if span == Span::ZERO || !steers || !lives {
            self.end_drain(id);
        }
    }

    /// Asks the kernel now; the next time is later, and later from time to time, but not later than Drain= is over.
    pub(super) fn count(&mut self, id: GenerationId) {
        let now = self.now;
        let Some(generation) = self.service.get_mut(id) else { return };
        let Some(replaced) = &mut generation.replaced else { return };
        let due = replaced.drain.as_ref().map_or(Time::NEVER, |drain| drain.due);
        let counting = replaced.counting.get_or_insert(Counting {
            next: now,
            gap: limits::LOOK_FIRST,
            seen: None,
            told_with: None,
        });
        if now >= due {
            counting.next = now.after(limits::LOOK_FIRST);
        } else {
            counting.next = now.after(counting.gap).min(due);
            counting.gap = Span::from_nanos(counting.gap.as_nanos() * 2).min(limits::LOOK_LAST);
        }
        let quiet = generation.policy.drain_quiet;
        self.out.push(Action::Count { generation: id, slot: generation.slot, quiet });
    }

    /// All looks together (who waits, which connections there are) take a tenth of our time at most. So all rest for
    /// what any of them cost; those that are due by then are made in one turn, which takes one dump of the kernel's tables.
    pub(super) fn rest_after(&mut self, cost: Span) {
        let rest = Span::from_nanos(cost.as_nanos().saturating_mul(limits::LOOK_COST));
        self.service.rests_until = self.service.rests_until.max(self.now).after(rest);
    }

    pub(super) fn on_counted(&mut self, id: GenerationId, counted: Counted) {
        let now = self.now;
        self.rest_after(counted.cost);
        let traffic = counted.traffic;
        self.try_candidate(id, counted.is_stopped);
        let Some(generation) = self.service.get_mut(id) else { return };
        let (slot, is_told) = (generation.slot, generation.ending().is_some());
        let Some(Replaced { counting: Some(counting), drain, .. }) = &mut generation.replaced else { return };
        counting.seen = traffic;
        if is_told && counting.told_with.is_none() {
            // Asked for before the signal, answered after it.
            counting.told_with = traffic;
        }
        let (Some(drain), Some(traffic)) = (drain, traffic) else { return };
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
            return self.end_drain(id);
        }
        let is_news = traffic != drain.told.1 && now >= drain.told.0.after(limits::DRAIN_NEWS);
        if is_news {
            drain.told = (now, traffic);
        }
        if is_stuck {
            self.tell(SwapNote::QueueStuck { generation: id, queued: traffic.queued }.into());
            self.out.push(Action::Rescue { slot });
        } else if is_news {
            self.tell(SwapNote::Draining { generation: id, traffic }.into());
        }
    }

    /// It is told to stop, unless it has ended by itself, and whoever waited for the swap hears of it.
    pub(super) fn end_drain(&mut self, id: GenerationId) {
        let now = self.now;
        let Some(generation) = self.service.get_mut(id) else { return };
        let lives = generation.lives();
        let Some(replaced) = &mut generation.replaced else { return };
        let (since, Some(drain)) = (replaced.since, replaced.drain.take()) else { return };
        if let Some(counting) = &mut replaced.counting {
            counting.told_with = counting.seen;
            // What the kill signal ends at once was seen before it; in the midst of an exit some fds are closed already.
            (counting.next, counting.gap) = (now.after(limits::FINISHES), limits::LOOK_FIRST);
            let left = counting.seen.unwrap_or_default();
            let is_known = counting.seen.is_some();
            if is_known && lives {
                self.tell(SwapNote::Drained { generation: id, after: now.since(since), left }.into());
            }
            if is_known && left.is_over() {
                // Nothing is left that its end could cut off.
                self.set_cut(id, 0, left.idle);
            }
        }
        let Some((clients, swap)) = drain.swap else {
            let is_told = self.service.get(id).is_none_or(|generation| generation.ending().is_some());
            if let Phase::Replacing { current, then } = self.service.phase
                && current == id
                && !is_told
            {
                self.replace(id, then);
            }
            return;
        };
        self.stop_by_policy(id, Span::INFINITY);
        // What is known of the cut by now is in it.
        let swap = self.service.last_swap.clone().filter(|last| last.to == swap.to).unwrap_or(swap);
        self.answer(clients, &swap, &taken_over(&swap));
    }

    /// Its main process has ended: what of its connections that cut off. One that ended by itself some time after it was
    /// told was finishing them; of others what was seen last is what was cut.
    pub(super) fn count_cut(&mut self, id: GenerationId, end: &End) {
        let now = self.now;
        let Some(generation) = self.service.get(id) else { return };
        let Some(counting) = generation.counting() else { return };
        // Whom the signal to stop ends at once, it ended with all it had then: an exit takes its time, and what was seen
        // in its midst is less.
        let by_that_signal = |end: &End| {
            let told = generation.ending().filter(|ending| !ending.killed).map(|ending| ending.signal);
            matches!(end, End::Exited(Exit::Signal { signal, .. }) if Some(*signal) == told)
        };
        let seen = if by_that_signal(end) { counting.told_with } else { counting.seen };
        let Some(seen) = seen else { return };
        let finished = matches!(end, End::Exited(Exit::Code(_)))
            && generation.ending().is_some_and(|ending| now >= ending.since.after(limits::FINISHES));
        let cut = if finished { 0 } else { seen.in_flight + seen.recent };
        self.set_cut(id, cut, seen.idle);
    }

    fn set_cut(&mut self, id: GenerationId, cut: u32, idle: u32) {
        if let Some(replaced) = self.service.get_mut(id).and_then(|generation| generation.replaced.as_mut()) {
            (replaced.counting, replaced.cut) = (None, cut);
        }
        if let Some(swap) = &mut self.service.last_swap
            && swap.from == Some(id.0)
            && swap.outcome.is_taken()
        {
            (swap.cut, swap.closed_idle) = (Some(cut.into()), Some(idle.into()));
        }
    }
}

impl Service {
    /// When the kernel is asked again: as long as it drains, and until it has stopped.
    pub(super) fn next_count(&self, generation: &Generation) -> Option<Time> {
        let is_ending = generation.ending().is_some_and(|ending| !ending.killed);
        let matters = (generation.drain().is_some() || is_ending) && !generation.has_ended();
        generation.counting().filter(|_| matters).map(|counting| counting.next.max(self.rests_until))
    }
}
