//! The rules of slots, where whether there are any may change with each reading of the files.

use super::*;

/// Records events and orders, which the rules compare later ones with.
impl Units {
    pub(super) fn note_answer(&mut self, id: GenerationId, finding: &Finding) {
        let seen = &mut self.of(id).seen;
        match finding {
            Finding::Probed(_) => (seen.is_asked, seen.may_end) = (false, false),
            Finding::Looked(looked) => {
                seen.is_knocked_at = looked.sight == Sight::Asked;
                self.rules.mark("looked at", true);
            }
            Finding::Counted(counted) => {
                let is_over = counted.traffic.is_some_and(Traffic::is_over);
                self.rules.mark("drained", is_over);
            }
        }
    }
}

/// Checks what the core orders about slots.
impl Units {
    fn steers(&self) -> bool {
        self.setting.steers || self.staged.as_ref().is_some_and(|staged| staged.steers)
    }

    /// Of those started where there were slots.
    pub(super) fn a_slot_has_one_living_generation(&mut self, id: GenerationId, slot: SlotId) {
        // A later command of Type=oneshot stays where it is.
        let steers = self.steers() && self.of(id).seen.slot.is_none();
        let others = self.groups.iter().filter(|(other, it)| **other != id && !it.seen.forgotten);
        for (other, generation) in others {
            assert!(!steers || generation.seen.slot != Some(slot), "{other} and {id} share {slot:?}");
        }
        let seen = &mut self.of(id).seen;
        assert!(seen.slot.is_none_or(|before| before == slot), "{id} changes its slot");
        seen.slot = Some(slot);
    }

    pub(super) fn asks_only_who_gets_ready(&mut self, id: GenerationId) {
        let generation = self.of(id);
        assert!(!generation.seen.is_asked, "{id} is asked twice at once");
        (generation.seen.is_asked, generation.seen.may_end) = (true, true);
        let may = generation.policy.ready == Ready::Http && generation.seen.ready.is_none();
        assert!(may && !generation.seen.told && !generation.seen.forgotten, "{id} is asked");
        self.rules.mark("asked", true);
    }

    pub(super) fn looks_only_at_who_runs(&mut self, id: GenerationId) {
        let seen = &mut self.of(id).seen;
        seen.is_called_off = false;
        assert!(seen.has_started() && !seen.told && !seen.forgotten, "{id} is looked at");
    }

    pub(super) fn only_who_is_asked_is_left_alone(&mut self, id: GenerationId) {
        let seen = &mut self.of(id).seen;
        // It ends both kinds of question, and the core may order it for each.
        let may_end = take(&mut seen.is_knocked_at) || take(&mut seen.may_end);
        (seen.is_asked, seen.is_called_off) = (false, true);
        assert!(may_end, "EndProbe for one that is not asked");
    }

    pub(super) fn nobody_is_asked_who_leaves(&mut self) {
        for (id, Group { seen, .. }) in &self.groups {
            // The step that looked may have called it off as well, before it heard that there is a connection.
            let is_asked = seen.is_asked || (seen.is_knocked_at && !seen.is_called_off);
            assert!(!is_asked || !seen.told && !seen.forgotten, "{id} leaves and is still asked");
        }
    }

    /// As in check/slots.rs; what a canary may do is looked at there.
    pub(super) fn traffic_is_where_it_belongs(&self, status: &Status) {
        let slot = |id: GenerationId| self.groups.get(&id).and_then(|generation| generation.seen.slot);
        // What was read may not have been told to the core yet.
        let steers = match status.state {
            State::Swapping => self.steers(),
            State::Running => self.setting.steers,
            // Where slots are new, who is being replaced may have none of them.
            _ => false,
        };
        let Some(current) = status.generation.filter(|_| steers) else { return };
        let is_all = self.net.wanted.canary.is_none();
        let target = Some(self.net.wanted.slot);
        let candidate = role(status, Role::Candidate);
        match (slot(GenerationId(current)), candidate.and_then(slot)) {
            // The generation has not started yet.
            (None, _) => {}
            (old, None) => {
                assert!(is_all && target == old, "{current} has no traffic: {:?}", self.net.wanted)
            }
            (old, new) => assert!(target == old || target == new, "nobody has it: {:?}", self.net.wanted),
        }
        let again = |at: u64| self.now <= at + limits::RESCUE_AGAIN.as_nanos();
        let is_tried_again = self.net.unrescued.is_some_and(again);
        if is_tried_again || status.state != State::Running || !self.is_quiet() {
            return;
        }
        let net = &self.net;
        let mut waiting = net.waiting().map(|(slot, _)| slot);
        let forgotten = waiting.find(|slot| net.guarded.contains(slot) && !net.relayed.contains(slot));
        assert_eq!(forgotten, None, "what has arrived is not taken to {current}");
    }
}
