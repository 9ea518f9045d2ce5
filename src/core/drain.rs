//! Drains a generation that has lost the traffic: it may finish its connections, is then told to stop, and those that
//! its end cut off are counted.

use super::generation::{Drain, Replaced};
use super::note::SwapNote;
use super::service::{Phase, Step};
use super::swap::taken_over;
use super::watch::EndedBy;
use super::{End, Exit, GenerationId, limits};
use crate::config::Span;

impl Step<'_> {
    /// The old generation has lost the traffic: it may finish what it has before it is told to stop.
    pub(super) fn begin_drain(&mut self, id: GenerationId, drain: Drain) {
        let now = self.now;
        let steers = self.service.steers();
        let Some(generation) = self.service.get_mut(id) else { return };
        let span = generation.policy.drain;
        generation.replaced = Some(Replaced { since: now, drain, cut: 0 });
        let is_counted = steers && generation.lives();
        if is_counted {
            self.watch().drain(id, span);
        }
        if span == Span::ZERO || !is_counted {
            self.end_drain(id);
        }
    }

    /// It is told to stop, unless it has ended by itself, and whoever waited for the swap hears of it.
    pub(super) fn end_drain(&mut self, id: GenerationId) {
        let Some(generation) = self.service.get_mut(id) else { return };
        let lives = generation.lives();
        let Some(replaced) = &mut generation.replaced else { return };
        let (since, drain) = (replaced.since, std::mem::replace(&mut replaced.drain, Drain::Over));
        if drain == Drain::Over {
            return;
        }
        if let Some(left) = self.watch().end_drain(id) {
            if lives {
                let after = self.now.since(since);
                self.tell(SwapNote::Drained { generation: id, after, left }.into());
            }
            if left.is_over() {
                // Nothing is left that its end could cut off.
                self.set_cut(id, 0, left.idle);
            }
        }
        let Drain::Last(clients, swap) = drain else {
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

    /// Its main process has ended: what of its connections that cut off.
    pub(super) fn count_cut(&mut self, id: GenerationId, end: &End) {
        let Some(generation) = self.service.get(id) else { return };
        let ending = generation.ending();
        let by = match end {
            End::Exited(Exit::Signal { signal, .. })
                if ending.is_some_and(|ending| !ending.killed && ending.signal == *signal) =>
            {
                EndedBy::OurSignal
            }
            End::Exited(Exit::Code(_))
                if ending.is_some_and(|ending| self.now >= ending.since.after(limits::FINISHES)) =>
            {
                EndedBy::Finishing
            }
            End::Exited(_) | End::NotStarted(_) | End::Skipped | End::Untried => EndedBy::Other,
        };
        if let Some((cut, idle)) = self.watch().cut(id, by) {
            self.set_cut(id, cut, idle);
        }
    }

    fn set_cut(&mut self, id: GenerationId, cut: u32, idle: u32) {
        if let Some(replaced) = self.service.get_mut(id).and_then(|generation| generation.replaced.as_mut()) {
            replaced.cut = cut;
        }
        if let Some(swap) = &mut self.service.last_swap
            && swap.from == Some(id.0)
            && swap.outcome.is_taken()
        {
            (swap.cut, swap.closed_idle) = (Some(cut.into()), Some(idle.into()));
        }
    }
}
