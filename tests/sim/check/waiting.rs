//! The rules of Ready=auto: who counts as ready was seen to wait on its sockets, and nobody is looked at without end.

use std::collections::{BTreeMap, BTreeSet};

use socket_supervise::config::Ready;
use socket_supervise::core::report::{Outcome, Role, Status};
use socket_supervise::core::{
    Action, Event, Finding, GenerationId, HintAt, Looked, MayConnect, Question, Sight, limits,
};

use super::{Check, role};
use crate::kernel::SOCKETS;

/// What is known of who waits.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting {
    of: BTreeMap<GenerationId, Seen>,
    hints: u32,
    /// Some generation was seen to wait or to accept.
    is_known: bool,
}

#[derive(Clone, Debug, Default, Hash)]
struct Seen {
    waited: BTreeSet<String>,
    sight: Option<Sight>,
    looked: Option<u64>,
    /// A connection of ours is on its way.
    is_asked: bool,
}

impl Seen {
    fn is_known(&self) -> bool {
        !self.waited.is_empty() || self.sight == Some(Sight::Accepted)
    }
}

impl Check {
    pub(super) fn note_waiting_event(&mut self, event: &Event) {
        if let Event::Answered { generation, finding: Finding::Looked(looked) } = event {
            let Looked { waited, accepted, sight, .. } = looked;
            let seen = self.waiting.of.entry(*generation).or_default();
            seen.waited.extend(waited.iter().chain(accepted).cloned());
            (seen.sight, seen.is_asked) = (Some(*sight), *sight == Sight::Asked);
            self.waiting.is_known |= seen.is_known();
            self.mark("accepted ours", *sight == Sight::Accepted);
            self.mark("has accepted", !accepted.is_empty());
            self.mark("blind", *sight == Sight::Blind);
        }
        if matches!(event, Event::Restored | Event::Recovered) {
            self.waiting.of.values_mut().for_each(|seen| seen.is_asked = false);
        }
    }

    pub(super) fn note_waiting_action(&mut self, now: u64, action: &Action) {
        match action {
            Action::Ask(Question::Look { generation, ask, .. }) => {
                self.looks_end(now, *generation, *ask != MayConnect::No)
            }
            Action::Ask(Question::Hint { sockets, at, .. }) => {
                let is_running = matches!(at, HintAt::Running | HintAt::Unaccepted);
                self.waiting.hints += u32::from(is_running);
                assert!(self.waiting.hints <= 1, "the hint is given twice");
                assert!(!is_running || !sockets.is_empty(), "a hint for no socket");
                self.mark("hint", is_running);
                self.mark("hint at the end", *at == HintAt::Failure);
                self.mark("hint after clean ends", *at == HintAt::CleanEnds);
            }
            _ => {}
        }
    }

    /// Returns whether it was being asked.
    pub(super) fn nobody_asks_it_any_more(&mut self, id: GenerationId) -> bool {
        self.waiting.of.get_mut(&id).is_some_and(|seen| std::mem::take(&mut seen.is_asked))
    }

    /// Only who runs is looked at, every 5 ms at most; for the hint until it is five seconds old, and never again once
    /// it was given.
    fn looks_end(&mut self, now: u64, id: GenerationId, ask: bool) {
        let started = self.seen[&id].started.expect("nobody runs who could wait");
        assert!(self.setting.holds_sockets && !self.seen[&id].ended, "generation {} is looked at", id.0);
        assert!(now >= self.slots.rests_until, "generation {} is looked at too soon", id.0);
        let (is_ready, hints) = (self.seen[&id].ready.is_some(), self.waiting.hints);
        let is_any_known = self.waiting.is_known;
        let seen = self.waiting.of.entry(id).or_default();
        let since = seen.looked.map_or(u64::MAX, |looked| now - looked);
        let is_hint = now >= started + limits::HINT.as_nanos();
        assert!(
            since >= limits::LOOK_FIRST.as_nanos() || (is_hint && since > 0),
            "no_spin: generation {} is looked at after {since} ns",
            id.0
        );
        seen.looked = Some(now);
        let before = self.before.as_ref();
        let candidate = before.and_then(|status| role(status, Role::Candidate));
        // For a candidate the one that serves is looked at, and a candidate of which nobody knows while it is tried.
        let serves = candidate.is_some() && before.and_then(|status| status.generation) == Some(id.0);
        let is_compared = serves && !seen.is_known();
        let is_tried = candidate == Some(id.0) && !is_any_known && !ask;
        // One that is alone may be asked as long as nobody is seen, lest it be told that nobody waits.
        let is_doubted =
            candidate.is_none_or(|candidate| candidate == id.0) && (!seen.is_known() || seen.is_asked);
        let is_over = is_ready && ((ask && !is_doubted) || hints > 0);
        assert!(!is_over || is_compared || is_tried, "generation {} is ready and looked at", id.0);
        let is_whole = seen.waited.len() == SOCKETS.len();
        assert!(!is_ready || !is_whole, "generation {} was seen everywhere and is looked at", id.0);
    }

    /// The generation that serves, where this one is its candidate. One that ended in this step, or was given up in it,
    /// serves no more.
    fn replaced_by(&self, id: GenerationId) -> Option<GenerationId> {
        let before = self.before.as_ref().filter(|status| role(status, Role::Candidate) == Some(id.0))?;
        let current = GenerationId(before.generation?);
        let seen = &self.seen[&current];
        (!seen.ended && !seen.forgotten).then_some(current)
    }

    /// READY=1 alone does not make a candidate ready where the one that serves was seen; nor where nothing of it can be.
    pub(super) fn said_is_enough(&self, age: u64, id: GenerationId) -> bool {
        let of_current = self.replaced_by(id).and_then(|current| self.waiting.of.get(&current));
        let is_blind = self.waiting.of.get(&id).is_some_and(|seen| seen.sight == Some(Sight::Blind));
        !of_current.is_some_and(Seen::is_known) || is_blind || self.auto_means_seen(age, id)
    }

    /// A swap is called one where somebody was ever seen to wait or to accept, or the server says so itself.
    pub(super) fn swapped_means_seen(&mut self, status: &Status) {
        // What is drained is added later: by then somebody may have been seen.
        let told = |status: &Status| status.last_swap.as_ref().map(|swap| (swap.to, swap.outcome));
        let is_new = self.before.as_ref().is_some_and(|before| told(before) != told(status));
        let Some(swap) = status.last_swap.as_ref().filter(|_| is_new) else { return };
        self.mark("taken over unseen", swap.outcome == Outcome::TakenOverUnseen);
        if self.policy.ready != Ready::Auto || !self.setting.holds_sockets || swap.from.is_none() {
            assert!(swap.outcome != Outcome::TakenOverUnseen || self.policy.ready == Ready::Auto);
            return;
        }
        match swap.outcome {
            Outcome::Swapped => {
                let to = swap.to.expect("a swap has a generation");
                let has_said = self.seen[&GenerationId(to)].ready_said;
                assert!(has_said || self.waiting.is_known, "generation {to} has taken over unseen");
            }
            Outcome::TakenOverUnseen => {
                assert!(!self.waiting.is_known, "generation {:?} or one before it was seen", swap.to);
            }
            Outcome::RolledBack => {}
            Outcome::Refused => assert_eq!(swap.to, None, "a refused swap has a generation"),
        }
    }

    /// Nobody counts as ready before it was seen, but for the exceptions of the contract.
    pub(super) fn auto_means_seen(&self, age: u64, id: GenerationId) -> bool {
        let current = self.replaced_by(id);
        let of_current = current.and_then(|current| self.waiting.of.get(&current));
        let current_is_known = of_current.is_some_and(Seen::is_known);
        let seen = self.waiting.of.get(&id).cloned().unwrap_or_default();
        let is_required = |socket: &&&str| {
            let of_current = of_current.map(|seen| &seen.waited).filter(|waited| !waited.is_empty());
            of_current.is_none_or(|waited| waited.contains(**socket))
        };
        let is_seen =
            seen.is_known() && SOCKETS.iter().filter(is_required).all(|socket| seen.waited.contains(*socket));
        let has_nothing_to_see = !self.setting.holds_sockets || seen.sight == Some(Sight::Blind);
        let lives_for = match current {
            _ if has_nothing_to_see => limits::AUTO_ALIVE.as_nanos(),
            None => limits::AUTO_ALONE.as_nanos(),
            Some(_) if current_is_known => u64::MAX,
            Some(_) => limits::AUTO_ALIVE.as_nanos(),
        };
        is_seen || seen.sight == Some(Sight::Accepted) || age >= lives_for
    }
}
