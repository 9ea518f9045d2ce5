//! Decides when it is looked at whether a generation waits on its sockets, until that suffices (gate.rs), and when a
//! server that never waits on them gets a hint.
//!
//! A generation has to be seen on each of its sockets once, not on all of them in one look: a thread that works is not
//! waiting. A candidate has to be seen only where the current one was: a server may leave a socket alone on purpose. What
//! cannot be seen is found out by a connection of our own; where that is impossible too, a second of life has to do.

use std::collections::BTreeSet;

use super::sight::{HintAt, Looked, Sight, Waiting};
use super::{Conclusion, Observed, Question, View, Watch, Watching};
use crate::config::{Signal, Span};
use crate::core::note::ReadyBy;
use crate::core::{Action, End, Exit, GenerationId, Time, limits};

impl Watch {
    /// So far nobody was ever seen to wait on a socket, and in this generation, which is as young as that, there is
    /// nobody who would have been seen; nor has it shown in another way that it serves.
    pub(in crate::core) fn has_not_come_to_serve(&self, id: GenerationId, now: Time) -> bool {
        let Some(observed) = self.get(id) else { return false };
        let is_unseen = |waiting: &Waiting| waiting.is_plainly_unseen() && now < waiting.hint_due();
        self.waited_on.is_empty()
            && observed.waiting.as_ref().is_some_and(is_unseen)
            && !matches!(observed.passed_by, Some(ReadyBy::Notify | ReadyBy::Http))
    }
}

impl View<'_> {
    /// When supervise looks at it next.
    pub(super) fn next_look(self, observed: &Observed) -> Option<Time> {
        let waiting = observed.waiting.as_ref().filter(|_| !observed.leaves)?;
        let is_for_hint = !self.watch.hint_told && !waiting.is_known;
        let is_for_gate = self.is_gate_to_be_seen(observed) || self.may_be_seen_late(observed);
        let is_wanted = is_for_hint || is_for_gate || self.may_be_proved(observed);
        is_wanted.then_some(waiting.next.max(self.watch.rests_until))
    }

    /// Who took long to start may be seen a little later; the one that serves, when it is looked at for the sake of a
    /// candidate, as soon as that; and who is asked, as soon as that.
    fn look_gap(self, observed: &Observed, waiting: &Waiting, now: Time) -> Span {
        let candidate = self.candidate().filter(|_| self.may_be_seen_late(observed));
        let since = candidate.map_or(waiting.since, |candidate| candidate.spawned);
        // A connection of ours is in the way of a server that serves one client at a time.
        let age = now.since(waiting.asked.map_or(since, |asked| asked.max(since)));
        Span::from_nanos(age.as_nanos() / 8).clamp(limits::LOOK_FIRST, limits::LOOK_LAST)
    }
}

impl Watching<'_> {
    pub(in crate::core) fn look(&mut self, id: GenerationId) {
        let now = self.now;
        let Some(observed) = self.watch.get(id) else { return };
        let Some(waiting) = &observed.waiting else { return };
        let (slot, hint) = (observed.slot, waiting.hint_due());
        let ask = self.view().is_to_be_asked(observed, now);
        let mut next = now.after(self.view().look_gap(observed, waiting, now));
        if now < hint {
            // One look is in time for the hint.
            next = next.min(hint);
        }
        if let Some(waiting) = self.waiting(id) {
            (waiting.ordered, waiting.next) = (Some(now), next);
        }
        self.ask(Question::Look { generation: id, slot, ask });
    }

    pub(super) fn looked(&mut self, id: GenerationId, looked: Looked) -> Vec<Conclusion> {
        let now = self.now;
        self.rest_after(looked.cost);
        self.watch.waited_on.extend(looked.waited.iter().chain(&looked.accepted).cloned());
        self.watch.has_served |= !self.watch.waited_on.is_empty() || looked.sight == Sight::Accepted;
        let is_alone = self.scene.is_alone(id);
        let Some(waiting) = self.waiting(id) else { return Vec::new() };
        let (is_late, is_blind) = (now >= waiting.hint_due(), looked.is_blind);
        waiting.looked = Some(now);
        waiting.waits |= !looked.waited.is_empty();
        waiting.seen.extend(looked.waited.into_iter().chain(looked.accepted));
        waiting.unseen = looked.others.difference(&waiting.seen).cloned().collect();
        (waiting.is_blind, waiting.sight) = (is_blind, looked.sight);
        if is_alone && !is_blind && waiting.sight == Sight::Blind {
            // Supervise cannot connect to it, but it is the only generation, so what was seen is all that can be seen.
            waiting.sight = Sight::Clear;
        }
        waiting.asked = if looked.sight == Sight::Asked { waiting.asked.or(Some(now)) } else { None };
        let at = match waiting.sight {
            Sight::Clear | Sight::Dim | Sight::Asked if !is_blind => Some(HintAt::Running),
            Sight::Asked => Some(HintAt::Unaccepted),
            Sight::Clear | Sight::Dim | Sight::Accepted | Sight::Blind => None,
        };
        let is_due = match at {
            Some(HintAt::Unaccepted) => waiting.has_had_time(now, limits::HINT),
            Some(_) | None => is_late && waiting.has_had_time(now, limits::AUTO_ALIVE),
        };
        waiting.is_known |= is_due || waiting.unseen.is_empty() || at != Some(HintAt::Running);
        let at = at.filter(|_| is_due && !waiting.unseen.is_empty());
        let sockets = waiting.unseen.clone();
        if self.watch.get(id).is_some_and(|observed| observed.leaves) {
            return Vec::new();
        }
        // The candidate is held to what the one that serves shows.
        let ready = [Some(id), self.scene.candidate].into_iter().flatten().filter(|id| self.check_gate(*id));
        let mut conclusions: Vec<Conclusion> = ready.map(Conclusion::Ready).collect();
        if let Some(at) = at
            && !std::mem::replace(&mut self.watch.hint_told, true)
        {
            conclusions.push(Conclusion::Ask(Question::Hint { generation: id, sockets, at }));
        }
        if self.watch.get(id).is_some_and(|observed| self.view().next_look(observed).is_none()) {
            conclusions.extend(self.give_up_asking(id).map(Conclusion::Ask));
        }
        conclusions
    }

    fn waiting(&mut self, id: GenerationId) -> Option<&mut Waiting> {
        self.watch.get_mut(id)?.waiting.as_mut()
    }

    /// No connection of ours has to be accepted any more.
    pub(in crate::core) fn end_asking(&mut self, id: GenerationId) {
        let question = self.give_up_asking(id);
        self.out.extend(question.map(Action::Ask));
    }

    fn give_up_asking(&mut self, id: GenerationId) -> Option<Question> {
        let waiting = self.waiting(id).filter(|waiting| waiting.sight == Sight::Asked)?;
        waiting.sight = Sight::Dim;
        Some(Question::EndProbe { generation: id })
    }

    /// It has ended unasked, before anybody waited on a socket: it may have met its address in use, which it says on
    /// its stderr alone.
    pub(in crate::core) fn ended_unasked(&mut self, id: GenerationId, end: &End) {
        let Some(observed) = self.watch.get(id) else { return };
        let Some(waiting) = &observed.waiting else { return };
        // A program that panics ends with a failure as well.
        let is_failure =
            matches!(end, End::Exited(Exit::Code(1..) | Exit::Signal { signal: Signal::ABRT, .. }));
        let is_ready = observed.said_ready || observed.passed_by == Some(ReadyBy::Http);
        // One that fails where another has waited has another fault.
        let waited_on = &self.watch.waited_on;
        let is_known = !waited_on.is_empty() && waiting.unseen.is_subset(waited_on);
        let is_in_time = self.now < waiting.hint_due();
        if is_failure && waiting.is_plainly_unseen() && !is_ready && is_in_time && !is_known {
            // What it says for itself may be another thing, so the shell knows whether there is a hint.
            self.hint_unseen(id, HintAt::Failure);
        }
    }

    /// How to take the sockets on which nobody was seen.
    pub(in crate::core) fn hint_unseen(&mut self, id: GenerationId, at: HintAt) {
        let sockets = self.waiting(id).map(|waiting| waiting.unseen.clone()).unwrap_or_default();
        self.ask(Question::Hint { generation: id, sockets, at });
    }
}

/// `http, https`
pub(super) fn listed(sockets: &BTreeSet<String>) -> String {
    sockets.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::{Counted, Finding, MayConnect, SlotId, Traffic};
    use super::*;
    use crate::config::{Config, Policy, Ready};
    use crate::core::{Event, Setting, Supervisor, Why};

    const ID: GenerationId = GenerationId(1);

    /// All that was looked at in this moment.
    fn step(core: &mut Supervisor, millis: u64, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        core.step(Time(millis * 1_000_000), event, &mut actions);
        actions
            .retain(|action| matches!(action, Action::Ask(Question::Look { .. } | Question::Count { .. })));
        actions
    }

    fn looked(cost: u64) -> Event {
        let others = BTreeSet::from(["http".to_owned()]);
        let cost = Span::from_millis(cost);
        let looked = Looked { others, cost, ..Looked::default() };
        Event::Answered { generation: ID, finding: Finding::Looked(looked) }
    }

    fn counted(cost: u64) -> Event {
        let (traffic, cost) = (Some(Traffic::default()), Span::from_millis(cost));
        let counted = Counted { traffic, is_stopped: false, cost };
        Event::Answered { generation: ID, finding: Finding::Counted(counted) }
    }

    /// A core whose first generation, which has sockets, was started at time 0.
    fn started(policy: Policy) -> Supervisor {
        let setting = Setting { holds_sockets: true, steers: true, hup_ignored: false, init: false };
        let mut core = Supervisor::new(policy, setting);
        step(&mut core, 0, Event::Begun);
        step(&mut core, 0, Event::Started { generation: ID, pid: 7 });
        core
    }

    /// A server with an io_uring.
    #[test]
    fn a_connection_of_ours_that_is_not_accepted_for_long_is_enough_for_the_hint() {
        let mut core = started(Config::for_command_line().policy);
        let mut hints = |millis: u64, sight| {
            let others = BTreeSet::from(["http".to_owned()]);
            let looked = Looked { others, sight, is_blind: true, ..Looked::default() };
            let mut actions = Vec::new();
            let event = Event::Answered { generation: ID, finding: Finding::Looked(looked) };
            core.step(Time(millis * 1_000_000), event, &mut actions);
            actions.retain(|action| matches!(action, Action::Ask(Question::Hint { .. })));
            actions
        };
        assert_eq!(hints(5, Sight::Dim), []);
        assert_eq!(hints(500, Sight::Asked), []);
        assert_eq!(hints(5_000, Sight::Asked), []);
        let sockets = BTreeSet::from(["http".to_owned()]);
        let hint = [Action::Ask(Question::Hint { generation: ID, sockets, at: HintAt::Unaccepted })];
        assert_eq!(hints(5_500, Sight::Asked), hint);
        assert_eq!(hints(6_000, Sight::Asked), []);
    }

    /// Alone, and it can be seen that nobody waits.
    #[test]
    fn one_that_accepts_a_connection_of_ours_is_told_nothing_and_one_that_does_not_in_time() {
        let gates = [Ready::Auto, Ready::Exec, Ready::Notify, Ready::NotifyType];
        for (accepts, gate) in gates.into_iter().flat_map(|gate| [(true, gate), (false, gate)]) {
            let mut policy = Config::for_command_line().policy;
            policy.ready = gate;
            let mut core = started(policy);
            let (mut asked, mut hinted, mut ended) = (None, None, None);
            while let Some((now, _)) = core.next_wake().filter(|(now, _)| now.0 <= 20_000_000_000) {
                let mut actions = Vec::new();
                core.step(now, Event::Tick, &mut actions);
                while let Some(action) = actions.pop() {
                    let at = now.0 / 1_000_000;
                    if let Action::Ask(Question::Hint { at: hint, .. }) = action {
                        hinted = Some((at, hint));
                    }
                    if let Action::Ask(Question::EndProbe { .. }) = action {
                        ended = Some(at);
                    }
                    let Action::Ask(Question::Look { ask, .. }) = action else { continue };
                    let sight = match ask {
                        MayConnect::No | MayConnect::WhereBlind => Sight::Clear,
                        MayConnect::Anyway if accepts && asked.is_some() => Sight::Accepted,
                        MayConnect::Anyway => Sight::Asked,
                    };
                    if sight == Sight::Asked {
                        asked.get_or_insert(at);
                    }
                    let others = BTreeSet::from(["http".to_owned()]);
                    let looked = Looked { others, sight, ..Looked::default() };
                    let event = Event::Answered { generation: ID, finding: Finding::Looked(looked) };
                    core.step(now, event, &mut actions);
                }
            }
            assert!(asked.is_some_and(|asked| (1_000..1_250).contains(&asked)), "{gate:?}: {asked:?}");
            let hint = (!accepts).then_some((5_000, HintAt::Running));
            assert_eq!(hinted.map(|(at, hint)| (at / 250 * 250, hint)), hint, "{gate:?}");
            // The connection is closed as soon as nothing depends on it.
            let end = match (accepts, gate) {
                (true, _) => None,
                (false, Ready::Auto) => Some(10_000),
                (false, _) => Some(5_000),
            };
            assert_eq!(ended.map(|ended| ended / 250 * 250), end, "{gate:?}");
        }
    }

    #[test]
    fn looks_rest_for_ten_times_what_all_of_them_cost() {
        let mut core = started(Config::for_command_line().policy);
        let next = |core: &Supervisor| core.next_wake().map(|(time, why)| (time.0 / 1_000_000, why));
        assert_eq!(next(&core), Some((5, Why::Look(ID))));
        let look =
            [Action::Ask(Question::Look { generation: ID, slot: SlotId(0), ask: MayConnect::WhereBlind })];
        assert_eq!(step(&mut core, 5, Event::Tick), look);
        // A cheap one is made again as soon as if it had cost nothing, a dear one later.
        step(&mut core, 5, looked(0));
        assert_eq!(next(&core), Some((10, Why::Look(ID))));
        assert_eq!(step(&mut core, 10, Event::Tick), look);
        step(&mut core, 10, looked(30));
        assert_eq!(next(&core), Some((310, Why::Look(ID))));
        // So is one that others have paid for.
        step(&mut core, 50, counted(20));
        assert_eq!(next(&core), Some((510, Why::Look(ID))));
        assert_eq!(step(&mut core, 509, Event::Tick), []);
        assert_eq!(step(&mut core, 510, Event::Tick), look);
    }
}
