//! Who waits on the sockets of a generation is looked at again and again, until that suffices (gate.rs); and the hint for a
//! server that never does.
//!
//! A generation has to be seen on each of its sockets once, not on all of them in one look: a thread that works is not
//! waiting. A candidate has to be seen only where the current one was: a server may leave a socket alone on purpose. What
//! cannot be seen is found out by a connection of our own; where that is impossible too, a second of life has to do.

use std::collections::BTreeSet;

use super::generation::Generation;
use super::note::ReadyBy;
use super::service::{Service, Step};
use super::sight::{HintAt, Looked, Sight, Waiting};
use super::{Action, End, Exit, GenerationId, Time, limits};
use crate::config::{Signal, Span, Type};

impl Service {
    /// When it is looked at next.
    pub(super) fn next_look(&self, generation: &Generation) -> Option<Time> {
        let waiting = generation.waiting.as_ref().filter(|_| generation.lives())?;
        let is_for_hint = !self.hint_told && !waiting.is_known;
        let is_for_gate = self.is_gate_to_be_seen(generation) || self.may_be_seen_late(generation);
        let is_wanted = is_for_hint || is_for_gate || self.may_be_proved(generation);
        is_wanted.then_some(waiting.next.max(self.rests_until))
    }

    /// Who took long to start may be seen a little later; the one that serves, when it is looked at for the sake of a
    /// candidate, as soon as that; and who is asked, as soon as that.
    fn look_gap(&self, generation: &Generation, now: Time) -> Span {
        let candidate = self.candidate().filter(|_| self.may_be_seen_late(generation));
        let since = candidate.map_or_else(|| generation.started(), |candidate| Some(candidate.spawned));
        // A connection of ours is in the way of a server that serves one client at a time.
        let asked = generation.waiting.as_ref().and_then(|waiting| waiting.asked);
        let age = asked.max(since).map_or(Span::ZERO, |since| now.since(since));
        Span::from_nanos(age.as_nanos() / 8).clamp(limits::LOOK_FIRST, limits::LOOK_LAST)
    }
}

impl Step<'_> {
    /// The main process runs: from now on it may wait on its sockets.
    pub(super) fn begin_looking(&mut self, id: GenerationId) {
        let next = self.now.after(limits::LOOK_FIRST);
        let holds_sockets = self
            .service
            .staged
            .as_ref()
            .map_or(self.service.setting.holds_sockets, |staged| staged.holds_sockets);
        let Some(generation) = self.service.get_mut(id) else { return };
        if holds_sockets && generation.policy.service_type != Type::Oneshot {
            generation.waiting.get_or_insert(Waiting {
                next,
                ordered: None,
                looked: None,
                waits: false,
                seen: BTreeSet::new(),
                unseen: BTreeSet::new(),
                sight: Sight::Clear,
                asked: None,
                is_blind: false,
                is_known: false,
            });
        }
    }

    pub(super) fn on_look_due(&mut self, id: GenerationId) {
        let now = self.now;
        let Some(generation) = self.service.get(id) else { return };
        let ask = self.service.is_to_be_asked(generation, now);
        let gap = self.service.look_gap(generation, now);
        let Some(generation) = self.service.get_mut(id) else { return };
        let (slot, hint) = (generation.slot, generation.hint_due());
        let Some(waiting) = &mut generation.waiting else { return };
        (waiting.ordered, waiting.next) = (Some(now), now.after(gap));
        if now < hint {
            // One look is in time for the hint.
            waiting.next = waiting.next.min(hint);
        }
        self.out.push(Action::Look { generation: id, slot, ask });
    }

    pub(super) fn on_looked(&mut self, id: GenerationId, looked: Looked) {
        let now = self.now;
        self.rest_after(looked.cost);
        self.service.waited_on.extend(looked.waited.iter().chain(&looked.accepted).cloned());
        self.service.has_served |= !self.service.waited_on.is_empty() || looked.sight == Sight::Accepted;
        let is_alone = self.service.is_alone(id);
        let Some(generation) = self.service.get_mut(id) else { return };
        let is_late = now >= generation.hint_due();
        let Some(waiting) = &mut generation.waiting else { return };
        let is_blind = looked.is_blind;
        waiting.looked = Some(now);
        waiting.waits |= !looked.waited.is_empty();
        waiting.seen.extend(looked.waited.into_iter().chain(looked.accepted));
        waiting.unseen = looked.others.difference(&waiting.seen).cloned().collect();
        (waiting.is_blind, waiting.sight) = (is_blind, looked.sight);
        if is_alone && !is_blind && waiting.sight == Sight::Blind {
            // There is nothing that it could be asked by, but what was seen is all there is.
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
        let unseen = waiting.unseen.clone();
        if !self.service.get(id).is_some_and(Generation::lives) {
            return;
        }
        self.check_gate(id);
        if let Some(candidate) = self.service.candidate().map(|candidate| candidate.id) {
            // It is held to what the one that serves shows.
            self.check_gate(candidate);
        }
        if let Some(at) = at {
            let was_told = std::mem::replace(&mut self.service.hint_told, true);
            if !was_told {
                self.out.push(Action::Hint { generation: id, sockets: unseen, at });
            }
        }
        let is_over = |generation: &Generation| self.service.next_look(generation).is_none();
        if self.service.get(id).is_some_and(is_over) {
            self.end_asking(id);
        }
    }

    /// No connection of ours has to be accepted any more.
    pub(super) fn end_asking(&mut self, id: GenerationId) {
        let waiting = self.service.get_mut(id).and_then(|generation| generation.waiting.as_mut());
        if let Some(waiting) = waiting.filter(|waiting| waiting.sight == Sight::Asked) {
            waiting.sight = Sight::Dim;
            self.out.push(Action::EndProbe { generation: id });
        }
    }

    /// It has ended unasked, before anybody waited on a socket: it may have met its address in use, which it says on
    /// its stderr alone.
    pub(super) fn hint_at_end(&mut self, id: GenerationId, end: &End) {
        let now = self.now;
        let Some(generation) = self.service.get(id) else { return };
        let Some(waiting) = &generation.waiting else { return };
        // As a program that panics ends, too.
        let is_failure =
            matches!(end, End::Exited(Exit::Code(1..) | Exit::Signal { signal: Signal::ABRT, .. }));
        let is_unseen = waiting.is_plainly_unseen();
        let is_ready = generation.said.ready || generation.passed_by() == Some(&ReadyBy::Http);
        // One that fails where another has waited has another fault.
        let waited_on = &self.service.waited_on;
        let is_known = !waited_on.is_empty() && waiting.unseen.is_subset(waited_on);
        let is_in_time = generation.ending().is_none() && now < generation.hint_due();
        if is_failure && is_unseen && !is_ready && is_in_time && !is_known {
            // What it says for itself may be another thing, so the shell knows whether there is a hint.
            let sockets = waiting.unseen.clone();
            self.out.push(Action::Hint { generation: id, sockets, at: HintAt::Failure });
        }
    }
}

impl Generation {
    pub(super) fn hint_due(&self) -> Time {
        self.started().map_or(Time::NEVER, |started| started.after(limits::HINT))
    }
}

/// `http, https`
pub(super) fn listed(sockets: &BTreeSet<String>) -> String {
    sockets.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::{Ask, Counted, Event, Setting, SlotId, Supervisor, Traffic, Why};
    use super::*;
    use crate::config::{Config, Ready};

    const ID: GenerationId = GenerationId(1);

    /// All that was looked at in this moment.
    fn step(core: &mut Supervisor, millis: u64, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        core.step(Time(millis * 1_000_000), event, &mut actions);
        actions.retain(|action| matches!(action, Action::Look { .. } | Action::Count { .. }));
        actions
    }

    fn looked(cost: u64) -> Event {
        let others = BTreeSet::from(["http".to_owned()]);
        let cost = Span::from_millis(cost);
        Event::Looked {
            generation: ID,
            looked: Looked {
                waited: BTreeSet::new(),
                accepted: BTreeSet::new(),
                others,
                sight: Sight::Clear,
                is_blind: false,
                cost,
            },
        }
    }

    fn counted(cost: u64) -> Event {
        let (traffic, cost) = (Some(Traffic::default()), Span::from_millis(cost));
        Event::Counted { generation: ID, counted: Counted { traffic, is_stopped: false, cost } }
    }

    /// A server with an io_uring.
    #[test]
    fn a_connection_of_ours_that_is_not_accepted_for_long_is_enough_for_the_hint() {
        let setting = Setting { holds_sockets: true, steers: true, hup_ignored: false, init: false };
        let mut core = Supervisor::new(Config::for_command_line().policy, setting);
        step(&mut core, 0, Event::Begun);
        step(&mut core, 0, Event::Started { generation: ID, pid: 7 });
        let mut hints = |millis: u64, sight| {
            let others = BTreeSet::from(["http".to_owned()]);
            let looked = Looked { others, sight, is_blind: true, ..Looked::default() };
            let mut actions = Vec::new();
            core.step(Time(millis * 1_000_000), Event::Looked { generation: ID, looked }, &mut actions);
            actions.retain(|action| matches!(action, Action::Hint { .. }));
            actions
        };
        assert_eq!(hints(5, Sight::Dim), []);
        assert_eq!(hints(500, Sight::Asked), []);
        assert_eq!(hints(5_000, Sight::Asked), []);
        let sockets = BTreeSet::from(["http".to_owned()]);
        let hint = [Action::Hint { generation: ID, sockets, at: HintAt::Unaccepted }];
        assert_eq!(hints(5_500, Sight::Asked), hint);
        assert_eq!(hints(6_000, Sight::Asked), []);
    }

    /// Alone, and it can be seen that nobody waits.
    #[test]
    fn one_that_accepts_a_connection_of_ours_is_told_nothing_and_one_that_does_not_in_time() {
        let setting = Setting { holds_sockets: true, steers: true, hup_ignored: false, init: false };
        for (accepts, gate) in [(true, ""), (false, ""), (true, "exec"), (false, "exec")] {
            let mut policy = Config::for_command_line().policy;
            if gate == "exec" {
                policy.ready = Ready::Exec;
            }
            let mut core = Supervisor::new(policy, setting);
            step(&mut core, 0, Event::Begun);
            step(&mut core, 0, Event::Started { generation: ID, pid: 7 });
            let (mut asked, mut hinted, mut ended) = (None, None, None);
            while let Some((now, _)) = core.next_wake().filter(|(now, _)| now.0 <= 20_000_000_000) {
                let mut actions = Vec::new();
                core.step(now, Event::Tick, &mut actions);
                while let Some(action) = actions.pop() {
                    let at = now.0 / 1_000_000;
                    if let Action::Hint { at: hint, .. } = action {
                        hinted = Some((at, hint));
                    }
                    if let Action::EndProbe { .. } = action {
                        ended = Some(at);
                    }
                    let Action::Look { ask, .. } = action else { continue };
                    let sight = match ask {
                        Ask::No | Ask::WhereBlind => Sight::Clear,
                        Ask::Anyway if accepts && asked.is_some() => Sight::Accepted,
                        Ask::Anyway => Sight::Asked,
                    };
                    if sight == Sight::Asked {
                        asked.get_or_insert(at);
                    }
                    let others = BTreeSet::from(["http".to_owned()]);
                    let looked = Looked { others, sight, ..Looked::default() };
                    core.step(now, Event::Looked { generation: ID, looked }, &mut actions);
                }
            }
            assert!(asked.is_some_and(|asked| (1_000..1_250).contains(&asked)), "{gate}: {asked:?}");
            let hint = (!accepts).then_some((5_000, HintAt::Running));
            assert_eq!(hinted, hint, "{gate}");
            // It is out of the way once nothing depends on it.
            let end = match (accepts, gate) {
                (true, _) => None,
                (false, "exec") => Some(5_000),
                (false, _) => Some(10_000),
            };
            assert_eq!(ended, end, "{gate}");
        }
    }

    #[test]
    fn looks_rest_for_ten_times_what_all_of_them_cost() {
        let setting = Setting { holds_sockets: true, steers: true, hup_ignored: false, init: false };
        let mut core = Supervisor::new(Config::for_command_line().policy, setting);
        step(&mut core, 0, Event::Begun);
        step(&mut core, 0, Event::Started { generation: ID, pid: 7 });
        let next = |core: &Supervisor| core.next_wake().map(|(time, why)| (time.0 / 1_000_000, why));
        assert_eq!(next(&core), Some((5, Why::Look(ID))));
        let look = [Action::Look { generation: ID, slot: SlotId(0), ask: Ask::WhereBlind }];
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
