//! Slots in the histories of units.rs: whether there are any may change with each reading of the files. The kernel here only
//! says what it likes of connections; where each of them goes is looked at in world.rs.

use std::collections::{BTreeMap, BTreeSet};

use socket_supervise::config::{Ready, Span};
use socket_supervise::core::report::{Role, State, Status};
use socket_supervise::core::{
    Counted, Event, Finding, GenerationId, Looked, MayConnect, Sight, SlotId, Steering, Traffic, limits,
};

use super::kernel::{Happening, Kernel, MS, SECOND};

pub(crate) struct Slots {
    pub(super) steering: Steering,
    guarded: BTreeSet<SlotId>,
    /// Where something waits that the shell was told of.
    waiting: BTreeSet<SlotId>,
    /// When a rescue failed last.
    unrescued: Option<u64>,
    asked: BTreeMap<GenerationId, u64>,
    /// A silent connection is on its way to them.
    knocked: BTreeSet<GenerationId>,
    questions: u64,
}

impl Slots {
    pub(super) fn new() -> Self {
        Self {
            steering: Steering::all_to(SlotId(0)),
            guarded: BTreeSet::new(),
            waiting: BTreeSet::new(),
            unrescued: None,
            asked: BTreeMap::new(),
            knocked: BTreeSet::new(),
            questions: 0,
        }
    }
}

impl Kernel {
    /// Something comes to a slot that nobody serves.
    pub(super) fn stray(&mut self) {
        let slot = SlotId(self.rng.u8(..limits::GENERATIONS as u8));
        if self.slots.guarded.contains(&slot) && self.setting.steers {
            self.slots.waiting.insert(slot);
            self.queue.push_back(Event::Arrived { slot });
            self.rules.mark("arrived", true);
        }
    }

    pub(super) fn guard(&mut self, slot: SlotId, on: bool) {
        if on {
            self.slots.guarded.insert(slot)
        } else {
            self.slots.guarded.remove(&slot)
        };
        self.slots.waiting.remove(&slot);
    }

    /// Refused now and then; where connections go then is looked at in world.rs.
    pub(super) fn steer(&mut self, steering: Steering) {
        self.slots.steering = steering;
        if self.rng.u8(..16) == 0 {
            self.answers.push_back(Event::SteerFailed { why: "Operation not permitted".to_owned() });
            self.rules.mark("steering failed", true);
        }
    }

    pub(super) fn rescue(&mut self, slot: SlotId) {
        if self.rng.u8(..4) == 0 {
            self.slots.unrescued = Some(self.now);
            self.rules.mark("rescue failed", true);
            return self.answers.push_back(Event::RescueFailed { slot });
        }
        self.slots.waiting.remove(&slot);
    }

    /// It has less and less, most of the time.
    pub(super) fn count(&mut self, generation: GenerationId) {
        let traffic = match self.rng.u8(..8) {
            0 => None,
            1 | 2 => Some(Traffic { in_flight: 1, queued: self.rng.u32(..2), ..Traffic::default() }),
            _ => Some(Traffic::default()),
        };
        let is_stopped = self.rng.u8(..4) == 0;
        let counted = Counted { traffic, is_stopped, cost: Span::from_nanos(self.rng.u64(..4 * MS)) };
        self.answers.push_back(Event::Answered { generation, finding: Finding::Counted(counted) });
        self.rules.mark("drained", traffic.is_some_and(Traffic::is_over));
    }

    pub(super) fn probe(&mut self, generation: GenerationId) {
        self.slots.questions += 1;
        let number = self.slots.questions;
        self.slots.asked.insert(generation, number);
        let after = if self.rng.u8(..4) == 0 { 10 * SECOND } else { self.rng.u64(..100 * MS) };
        self.plan(after, Happening::Replies(generation, number));
        self.rules.mark("asked", true);
    }

    pub(super) fn end_probe(&mut self, generation: GenerationId) {
        let is_asked = self.slots.asked.remove(&generation).is_some();
        let is_asked = self.slots.knocked.remove(&generation) || is_asked;
        assert!(is_asked, "EndProbe for one that is not asked");
    }

    /// Who waits is seen sooner or later, cannot be seen, or never waits.
    pub(super) fn look(&mut self, generation: GenerationId, ask: MayConnect) {
        let ask = ask != MayConnect::No;
        let sight = match self.rng.u8(..16) {
            0 if ask => Sight::Asked,
            1 if ask => Sight::Accepted,
            2 if ask => Sight::Blind,
            3 => Sight::Dim,
            _ => Sight::Clear,
        };
        let socket = BTreeSet::from(["http".to_owned()]);
        let (mut waited, mut accepted, mut others) = Default::default();
        match self.rng.u8(..8) {
            0 | 1 => waited = socket,
            2 => accepted = socket,
            _ => others = socket,
        }
        self.slots.knocked.remove(&generation);
        if sight == Sight::Asked {
            self.slots.knocked.insert(generation);
        }
        let is_blind = sight != Sight::Clear && self.rng.bool();
        let cost = Span::from_nanos(self.rng.u64(..4 * MS));
        let looked = Looked { waited, accepted, others, sight, is_blind, cost };
        self.answers.push_back(Event::Answered { generation, finding: Finding::Looked(looked) });
        self.rules.mark("looked at", true);
    }

    pub(super) fn replies(&mut self, generation: GenerationId, number: u64) {
        if self.slots.asked.get(&generation) == Some(&number) {
            self.slots.asked.remove(&generation);
            let result = if self.rng.bool() { Ok(()) } else { Err("500".to_owned()) };
            self.queue.push_back(Event::Answered { generation, finding: Finding::Probed(result) });
        }
    }
}

/// The rules.
impl Kernel {
    fn steers(&self) -> bool {
        self.setting.steers || self.staged.as_ref().is_some_and(|staged| staged.steers)
    }

    /// Of those started where there were slots.
    pub(super) fn a_slot_has_one_living_generation(&mut self, id: GenerationId, slot: SlotId) {
        let steers = self.steers();
        let others = self.generations.iter().filter(|(other, it)| **other != id && !it.seen.forgotten);
        for (other, generation) in others {
            assert!(!steers || generation.slot != Some(slot), "{other} and {id} share {slot:?}");
        }
        let generation = self.of(id);
        assert!(generation.slot.is_none_or(|before| before == slot), "{id} changes its slot");
        generation.slot = Some(slot);
    }

    pub(super) fn asks_only_who_gets_ready(&mut self, id: GenerationId) {
        assert!(!self.slots.asked.contains_key(&id), "{id} is asked twice at once");
        let generation = self.of(id);
        let may = generation.policy.ready == Ready::Http && generation.seen.ready.is_none();
        assert!(may && !generation.seen.told && !generation.seen.forgotten, "{id} is asked");
    }

    pub(super) fn looks_only_at_who_runs(&mut self, id: GenerationId) {
        let seen = &self.of(id).seen;
        assert!(seen.has_started() && !seen.told && !seen.forgotten, "{id} is looked at");
    }

    pub(super) fn nobody_is_asked_who_leaves(&mut self) {
        for id in self.slots.asked.keys().chain(&self.slots.knocked) {
            let seen = &self.generations[id].seen;
            assert!(!seen.told && !seen.forgotten, "{id} leaves and is still asked");
        }
    }

    /// As in check/slots.rs; what a canary may do is looked at there.
    pub(super) fn traffic_is_where_it_belongs(&self, status: &Status) {
        let slot = |id: GenerationId| self.generations.get(&id).and_then(|generation| generation.slot);
        // What was read may not have been told to the core yet.
        let steers = match status.state {
            State::Swapping => self.steers(),
            State::Running => self.setting.steers,
            // Where slots are new, who is being replaced may have none of them.
            _ => false,
        };
        let Some(current) = status.generation.filter(|_| steers) else { return };
        let is_all = self.slots.steering.canary.is_none();
        let target = Some(self.slots.steering.slot);
        let candidate = super::rules::role(status, Role::Candidate);
        match (slot(GenerationId(current)), candidate.and_then(slot)) {
            // Not started yet.
            (None, _) => {}
            (old, None) => {
                assert!(is_all && target == old, "{current} has no traffic: {:?}", self.slots.steering)
            }
            (old, new) => assert!(target == old || target == new, "nobody has it: {:?}", self.slots.steering),
        }
        let again = |at: u64| self.now <= at + limits::RESCUE_AGAIN.as_nanos();
        let is_tried_again = self.slots.unrescued.is_some_and(again);
        let waits = self.slots.waiting.is_empty() || is_tried_again || status.state != State::Running;
        assert!(waits, "what has arrived is not taken to {current}: {:?}", self.slots.waiting);
    }
}
