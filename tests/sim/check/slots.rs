//! The rules of steered hand-over: who has the traffic, who is signalled when, and that nothing waits in vain.

mod queues;

use std::collections::BTreeMap;

use socket_supervise::config::{Handover, Ready, Signal, Span};
use socket_supervise::core::report::{Role, State, Status};
use socket_supervise::core::{
    Action, Counted, Event, Finding, GenerationId, Looked, Question, SlotId, Steering, Traffic, limits,
};

use super::{Check, is_passed_on, role};

/// What is known of the slots from outside.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    steering: Steering,
    pub(super) of: BTreeMap<GenerationId, OnSlot>,
    /// Nobody is looked at before, after what the looks so far cost.
    pub(super) rests_until: u64,
}

/// What is known of one generation.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub(super) struct OnSlot {
    pub(super) slot: u8,
    /// Since when it has lost the traffic for good and finishes what it has.
    pub(super) drains: Option<u64>,
    /// Handover=stop-first: it does so before there is another.
    is_first: bool,
    /// It can accept nothing on one of its sockets.
    has_lost: bool,
    /// How many times in a row nothing was left of its connections.
    over: u32,
    /// When they were counted last, in what stage, and how often in it.
    looked: Option<u64>,
    stage: Option<Stage>,
    looks: u32,
    /// When it was asked last, and whether the answer is still to come.
    asked: Option<u64>,
    is_asked: bool,
    was_good: bool,
    /// How long we were stopped since it was started.
    pub(super) slept: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Hash)]
enum Stage {
    /// A candidate, which has to accept.
    Tried,
    Drains,
    /// Drain= is over.
    Late,
    Told,
}

impl Slots {
    pub(super) fn new() -> Self {
        Self { steering: all(0), of: BTreeMap::new(), rests_until: 0 }
    }

    fn of(&mut self, id: GenerationId) -> &mut OnSlot {
        self.of.entry(id).or_default()
    }

    /// All looks together take a tenth of the time.
    fn rest_after(&mut self, now: u64, cost: Span) {
        self.rests_until = self.rests_until.max(now) + cost.as_nanos() * limits::LOOK_COST;
    }

    pub(super) fn slot(&self, id: u64) -> u8 {
        self.of.get(&GenerationId(id)).map_or(0, |on| on.slot)
    }
}

const fn all(slot: u8) -> Steering {
    Steering::all_to(SlotId(slot))
}

/// What is remembered.
impl Check {
    pub(super) fn note_slot_event(&mut self, now: u64, event: &Event) {
        match event {
            Event::Answered { finding: Finding::Looked(Looked { cost, .. }), .. } => {
                self.slots.rest_after(now, *cost);
            }
            Event::Answered { generation, finding: Finding::Counted(Counted { traffic, cost, .. }) } => {
                self.slots.rest_after(now, *cost);
                let on = self.slots.of(*generation);
                let left = |it: Traffic| it.in_flight + it.recent + it.queued + it.handshakes;
                let is_over = traffic.is_some_and(|traffic| left(traffic) == 0);
                on.over = if is_over { on.over + 1 } else { 0 };
                self.mark("the kernel does not count", traffic.is_none());
            }
            Event::Answered { generation, finding: Finding::Probed(result) } => {
                let on = self.slots.of(*generation);
                (on.is_asked, on.was_good) = (false, result.is_ok());
            }
            Event::Restored | Event::Recovered => {
                self.slots.of.values_mut().for_each(|on| on.is_asked = false);
                self.restored = now;
                self.mark("restored", *event == Event::Restored);
                self.mark("killed itself", *event == Event::Recovered);
            }
            Event::Arrived { .. } => self.mark("arrived where nobody serves", true),
            Event::RescueFailed { .. } => self.mark("rescue failed", true),
            Event::SocketLost { slot, .. } => {
                for id in self.on(*slot) {
                    self.seen.entry(id).or_default().lost = true;
                }
            }
            _ => {}
        }
    }

    pub(super) fn note_slot_action(&mut self, now: u64, action: &Action) {
        match action {
            Action::Spawn { generation, slot, .. } => {
                self.a_slot_has_one_living_generation(*generation, *slot)
            }
            Action::Steer(steering) => {
                assert!(self.setting.steers, "nothing can be steered");
                self.mark("canary", steering.canary.is_some());
                self.slots.steering = *steering;
            }
            Action::Rescue { slot } => {
                assert!(
                    *slot != self.slots.steering.slot,
                    "what has the traffic is taken elsewhere: {slot:?}"
                );
                self.mark("rescued", true);
                let here = self.slots.of.iter().filter(|(_, on)| on.slot == slot.0 && on.drains.is_some());
                let is_stuck = here.map(|(id, _)| *id).any(|id| !self.is_leaving(id));
                self.mark("stuck queue", is_stuck);
            }
            Action::Ask(Question::Count { generation, slot, .. }) => {
                assert_eq!(slot.0, self.slots.slot(generation.0), "counted on another slot");
                self.looks_have_growing_gaps(now, *generation);
            }
            Action::Ask(Question::Probe { generation, slot }) => {
                assert_eq!(slot.0, self.slots.slot(generation.0), "asked on another slot");
                self.asks_only_who_gets_ready(now, *generation);
            }
            Action::Ask(Question::EndProbe { generation }) => {
                let on = self.slots.of(*generation);
                let is_asked = std::mem::take(&mut on.is_asked);
                let is_asked = self.nobody_asks_it_any_more(*generation) || is_asked;
                assert!(is_asked, "EndProbe for one that is not asked");
            }
            _ => {}
        }
    }

    pub(super) fn was_asked(&self, id: GenerationId) -> bool {
        self.slots.of.get(&id).is_some_and(|on| on.was_good)
    }

    pub(super) fn slots_slept(&mut self, span: u64) {
        for on in self.slots.of.values_mut() {
            on.slept += span;
        }
    }

    /// What of it the core knows as well is left out.
    pub(super) fn slots_fingerprint(&self) -> Vec<(bool, u32, bool)> {
        self.slots.of.values().map(|on| (on.drains.is_some(), on.over.min(2), on.is_asked)).collect()
    }

    /// Told to stop or ended.
    pub(super) fn is_leaving(&self, id: GenerationId) -> bool {
        self.seen
            .get(&id)
            .is_none_or(|seen| seen.told.is_some() || seen.killed.is_some() || seen.ended || seen.forgotten)
    }
}

/// The rules, looked at with each order.
impl Check {
    /// Where slots are steered nobody else has the socket of a generation, left-overs included.
    fn a_slot_has_one_living_generation(&mut self, id: GenerationId, slot: SlotId) {
        let again = self.slots.of.get(&id).map(|on| on.slot);
        assert!(again.is_none_or(|before| before == slot.0), "generation {} changes its slot", id.0);
        self.slots.of(id).slot = slot.0;
        if !self.setting.steers {
            return assert_eq!(slot.0, 0, "there is but one socket");
        }
        let living = self.seen.iter().filter(|(other, seen)| **other != id && !seen.forgotten);
        for (other, _) in living {
            assert_ne!(self.slots.slot(other.0), slot.0, "generations {} and {} share a slot", other.0, id.0);
        }
        self.mark("third slot", slot.0 == 2);
    }

    /// A dump of the kernel costs time: each look is later than the one before, by 5 ms and up to 250 ms. When nothing is
    /// left one more comes soon.
    fn looks_have_growing_gaps(&mut self, now: u64, id: GenerationId) {
        let is_told = self.is_leaving(id);
        let drain = self.policy.drain.as_nanos();
        let on = self.slots.of(id);
        let is_late = on.drains.is_some_and(|since| now >= since.saturating_add(drain));
        let stage = match (is_told, is_late) {
            (true, _) => Stage::Told,
            (false, true) => Stage::Late,
            (false, false) if on.drains.is_none() => Stage::Tried,
            (false, false) => Stage::Drains,
        };
        let first = limits::LOOK_FIRST.as_nanos();
        let looks = if on.stage == Some(stage) { on.looks } else { 0 };
        let gap = match stage {
            _ if looks == 0 => 0,
            Stage::Tried | Stage::Late => first,
            Stage::Drains if on.over == 1 => first,
            Stage::Drains | Stage::Told => (first << (looks - 1).min(16)).min(limits::LOOK_LAST.as_nanos()),
        };
        let since = on.looked.map_or(u64::MAX, |looked| now - looked);
        // The first look of all, and that at a candidate, come when they have to.
        let may_not_rest = looks == 0 || stage == Stage::Tried;
        let gap = if may_not_rest { 0 } else { gap };
        assert!(since >= gap, "no_spin: generation {} is looked at after {since} ns ({stage:?})", id.0);
        (on.looked, on.stage, on.looks) = (Some(now), Some(stage), looks + 1);
        assert!(may_not_rest || now >= self.slots.rests_until, "generation {} is looked at too soon", id.0);
    }

    /// Ready=http: asks one that runs and is neither ready nor told to stop, one question at a time, every 100 ms.
    fn asks_only_who_gets_ready(&mut self, now: u64, id: GenerationId) {
        let seen = &self.seen[&id];
        let may = self.policy.ready == Ready::Http && seen.started.is_some() && seen.ready.is_none();
        assert!(may && !self.is_leaving(id), "generation {} is asked: {seen:?}", id.0);
        let on = self.slots.of(id);
        let since = on.asked.map_or(u64::MAX, |asked| now - asked);
        assert!(!on.is_asked, "generation {} is asked twice at once", id.0);
        assert!(
            since >= limits::PROBE_GAP.as_nanos(),
            "no_spin: generation {} is asked after {since} ns",
            id.0
        );
        (on.asked, on.is_asked) = (Some(now), true);
    }

    /// Whoever loses the traffic loses it before the signal, so that nothing new reaches a server that ends.
    pub(super) fn traffic_goes_before_the_signal(
        &self,
        event: &Event,
        id: GenerationId,
        signal: Signal,
        after: &Status,
    ) {
        let keeps =
            after.generation == Some(id.0) || after.generation.is_none() || after.state == State::Stopping;
        // It fails while it has the traffic, and something else takes that away in the same step.
        let seen = &self.seen[&id];
        let own_fault = signal == self.policy.watchdog_signal || seen.ready.is_none() || seen.lost;
        let is_current = self.before.as_ref().is_some_and(|before| before.generation == Some(id.0));
        let may = keeps || (is_current && own_fault) || self.is_leaving(id) || is_passed_on(event);
        if self.setting.steers && !may {
            let slot = SlotId(self.slots.slot(id.0));
            let Steering { slot: target, canary } = self.slots.steering;
            let has_some = slot == target || canary.is_some_and(|(canary, _)| canary == slot);
            assert!(!has_some, "traffic_goes_before_the_signal: generation {} has some", id.0);
        }
    }

    /// The old generation finishes what it has: no signal before nothing is left, twice in a row, or Drain= is over.
    pub(super) fn old_untouched_until_drained(
        &mut self,
        now: u64,
        id: GenerationId,
        signal: Signal,
        after: &Status,
    ) {
        let drain = self.policy.drain.as_nanos();
        if self.is_leaving(id) || self.stops_asked > 0 || !self.setting.steers {
            return;
        }
        // One that missed its watchdog, was never ready or lost its socket is ended for a fault of its own.
        let seen = &self.seen[&id];
        let is_silent = signal == self.policy.watchdog_signal || seen.ready.is_none() || seen.lost;
        let before = self.before.as_ref();
        let candidate = before.and_then(|before| role(before, Role::Candidate));
        let is_old = candidate.is_some() && before.and_then(|before| before.generation) == Some(id.0);
        let is_switch = is_old && after.generation == candidate && drain > 0;
        assert!(is_silent || !is_switch, "old_untouched_until_drained: generation {} was not drained", id.0);
        let Some(on) = self.slots.of.get(&id).copied() else { return };
        let Some(since) = on.drains else { return };
        let is_late = now >= since.saturating_add(drain);
        let ends = after.state == State::Stopping && (on.is_first || after.generation.is_none());
        assert!(
            on.over >= 2 || is_late || is_silent || ends,
            "old_untouched_until_drained: generation {} is signalled {} ns after the switch",
            id.0,
            now - since
        );
        self.mark("drained", on.over >= 2);
        self.mark("drain cut short", on.over < 2 && is_late && drain > 0);
    }
}

/// The rules, looked at after each step.
impl Check {
    pub(super) fn keep_slot_rules(&mut self, now: u64, event: &Event, actions: &[Action], status: &Status) {
        self.note_drain(now, actions, status);
        self.note_finishing_first(now, actions, status);
        self.drain_ends(now, status);
        for (id, on) in &self.slots.of {
            assert!(!(on.is_asked && self.is_leaving(*id)), "generation {} leaves and is still asked", id.0);
        }
        if self.setting.steers {
            self.traffic_is_where_it_belongs(now, status);
            self.ready_mends_the_slots(actions, status);
            self.who_cannot_be_steered_to_is_not_taken(event, status);
            self.who_has_lost_its_socket_has_no_traffic(event);
            self.marks_of_slots(event, status);
        }
    }

    /// A swap is decided: the old generation, if it lives, has until the end of Drain=.
    fn note_drain(&mut self, now: u64, actions: &[Action], status: &Status) {
        let Some(before) = &self.before else { return };
        let candidate = role(before, Role::Candidate);
        let Some(old) = before.generation.filter(|_| candidate.is_some() && status.generation == candidate)
        else {
            return;
        };
        let old = GenerationId(old);
        self.taken = candidate.map(GenerationId);
        if !self.setting.steers || self.seen[&old].ended || self.seen[&old].forgotten {
            return;
        }
        let looks = |action: &Action| matches!(action, Action::Ask(Question::Count { generation, .. }) if *generation == old);
        // STOPPING=1 was said by it, which is seen nowhere else: then nothing has to be looked at.
        let is_looked_at = actions.iter().any(looks);
        assert!(
            is_looked_at || self.policy.drain == Span::ZERO || self.is_leaving(old) || self.stops_itself(old),
            "generation {} drains and is not looked at",
            old.0
        );
        let on = self.slots.of(old);
        (on.drains, on.over) = (Some(now), 0);
    }

    /// Stop first: the traffic goes where nobody is, for the next one to find.
    fn note_finishing_first(&mut self, now: u64, actions: &[Action], status: &Status) {
        let current = role(status, Role::Current).map(GenerationId);
        let Some(id) = current.filter(|_| self.policy.handover == Handover::StopFirst) else { return };
        let is = self.slots.steering.slot;
        let lives = |other: &GenerationId| !self.seen[other].ended && !self.seen[other].forgotten;
        let is_taken = self.slots.of.iter().any(|(other, on)| on.slot == is.0 && lives(other));
        let looks = |action: &Action| matches!(action, Action::Ask(Question::Count { generation, .. }) if *generation == id);
        let on = self.slots.of.entry(id).or_default();
        if !on.is_first && is.0 != on.slot && !is_taken && actions.iter().any(looks) {
            assert_eq!(status.state, State::Starting, "generation {} finishes for another", id.0);
            (on.drains, on.over, on.is_first) = (Some(now), 0, true);
            self.mark("finishes first", true);
        }
    }

    pub(super) fn stops_itself(&self, id: GenerationId) -> bool {
        self.seen.get(&id).is_some_and(|seen| seen.stopping_said)
    }

    /// At the end of Drain= and its last moment, or when nothing is left.
    fn drain_ends(&self, now: u64, status: &Status) {
        let by = self.policy.drain.as_nanos().saturating_add(limits::LAST_MOMENT.as_nanos());
        for (id, on) in
            self.slots.of.iter().filter(|(id, _)| !self.is_leaving(**id) && !self.stops_itself(**id))
        {
            let is_current = role(status, Role::Current) == Some(id.0);
            let Some(since) = on.drains.filter(|_| on.is_first || !is_current) else { continue };
            let is_late = now > since.saturating_add(by).saturating_add(on.slept + 2 * Self::LATE);
            assert!(!is_late, "drain_ends: generation {} drains for ever", id.0);
            // Who is just being started is told as soon as it runs.
            let runs = self.seen.get(id).is_some_and(|seen| seen.started.is_some());
            assert!(
                on.over < 2 || !runs,
                "drain_ends: nothing is left of generation {} and it is not told",
                id.0
            );
        }
    }

    /// Everything goes to the current generation; in a swap to the old one until the new one is ready, then the share of a
    /// canary while that lasts, then to the new one. A candidate that fails has lost it in the same step.
    fn traffic_is_where_it_belongs(&mut self, now: u64, status: &Status) {
        let is = self.slots.steering;
        let Some(current) = status.generation else {
            return assert_eq!(is.canary, None, "a canary without a swap");
        };
        let old = self.slots.slot(current);
        let Some(candidate) = role(status, Role::Candidate) else {
            if self.slots.of.get(&GenerationId(current)).is_some_and(|on| on.is_first) {
                return assert!(is != all(old), "generation {current} finishes and gets more");
            }
            return assert_eq!(
                is,
                all(old),
                "traffic_goes_back_at_once: generation {current} is the only one"
            );
        };
        let new = self.slots.slot(candidate);
        let Some(ready) = self.seen[&GenerationId(candidate)].ready else {
            return assert_eq!(is, all(old), "a_candidate_gets_nothing_before_it_is_ready");
        };
        let over = ready.saturating_add(self.policy.canary.map_or(0, |canary| canary.span.as_nanos()));
        let share = self.policy.canary.map(|canary| (SlotId(new), canary.percent));
        let is_baking = is == all(new) && now >= over;
        let is_canary = is == Steering { slot: SlotId(old), canary: share }
            && share.is_some()
            && now <= over.saturating_add(self.slots.of[&GenerationId(candidate)].slept + 2 * Self::LATE);
        assert!(
            is_baking || is_canary,
            "canary_share_only_in_its_window: {is:?} at {now}, window until {over}"
        );
        self.mark("baking", is_baking);
    }

    /// Whatever a server did to the sockets is undone when one becomes ready.
    fn ready_mends_the_slots(&self, actions: &[Action], status: &Status) {
        let Some(before) = &self.before else { return };
        let ready = |status: &Status| {
            status
                .generations
                .iter()
                .filter(|entry| entry.ready_ms.is_some())
                .map(|entry| entry.generation)
                .max()
        };
        let is_new = ready(status) > ready(before);
        let steers = actions.iter().any(|action| matches!(action, Action::Steer(_)));
        assert!(!is_new || steers, "ready_mends_the_slots: {actions:?}");
    }

    /// A candidate without the traffic proves nothing, and the old one is still there.
    fn who_cannot_be_steered_to_is_not_taken(&mut self, event: &Event, status: &Status) {
        let (Event::SteerFailed { .. }, Some(before)) = (event, &self.before) else { return };
        let candidate = role(before, Role::Candidate);
        let is_ready = |id: &u64| self.seen[&GenerationId(*id)].ready.is_some();
        let is_swap = candidate.filter(is_ready).is_some();
        assert!(
            !is_swap || role(status, Role::Candidate).is_none(),
            "{candidate:?} gets no traffic and goes on"
        );
        self.mark("steering failed in a swap", is_swap);
        self.mark("steering failed", !is_swap);
    }

    /// It finishes what it has, or is told to end, and in any case gets no traffic.
    fn who_has_lost_its_socket_has_no_traffic(&mut self, event: &Event) {
        if let Event::SocketLost { slot, .. } = event {
            for id in self.on(*slot) {
                let on = self.slots.of(id);
                on.has_lost = true;
                let (drains, is_served) = (on.drains.is_some(), self.slots.steering.slot == *slot);
                self.mark("socket lost", !drains);
                self.mark("socket lost in a bake", !drains && !is_served && !self.is_leaving(id));
            }
        }
        for (id, on) in self.slots.of.iter().filter(|(_, on)| on.has_lost && on.drains.is_none()) {
            let is_over = self.is_leaving(*id) || self.stops_itself(*id);
            let is_replaced = self.slots.steering.slot.0 != on.slot;
            assert!(is_over || is_replaced, "generation {} can accept nothing and serves on", id.0);
        }
    }

    /// Who runs there.
    fn on(&self, slot: SlotId) -> Vec<GenerationId> {
        let lives = |id: &GenerationId| self.seen.get(id).is_some_and(|it| it.started.is_some() && !it.ended);
        let here = self.slots.of.iter().filter(|(_, on)| on.slot == slot.0).map(|(id, _)| *id);
        here.filter(lives).collect()
    }

    fn marks_of_slots(&mut self, event: &Event, status: &Status) {
        let Some(before) = &self.before else { return };
        let baked = role(before, Role::Candidate).filter(|candidate| {
            self.seen[&GenerationId(*candidate)].ready.is_some() && role(status, Role::Candidate).is_none()
        });
        let died = matches!(event, Event::Exited { generation, .. } if baked == Some(generation.0));
        self.mark("died in its bake", died);
        let ended = match event {
            Event::Exited { generation, .. } => self.slots.of.get(generation),
            _ => None,
        };
        self.mark("a draining one died", ended.is_some_and(|on| on.drains.is_some()));
    }
}
