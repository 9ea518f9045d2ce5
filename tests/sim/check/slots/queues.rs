//! What waits in a queue does not wait in vain.

use socket_supervise::core::note::SwapNote;
use socket_supervise::core::report::{State, Status};
use socket_supervise::core::{Action, Event, GenerationId, Note, SlotId, Time, Why, limits};

use super::Check;
use crate::kernel::Net;

impl Check {
    /// The big one. Looked at whenever everything that has happened was told.
    pub(crate) fn every_queued_connection_has_a_server_a_next_start_or_a_rescue(
        &self,
        now: u64,
        wake: Option<(Time, Why)>,
        net: &Net,
    ) {
        let Some(status) = self.before.as_ref().filter(|_| self.setting.holds_sockets) else { return };
        if matches!(status.state, State::Paused | State::Failed | State::Stopping) {
            return;
        }
        let slot_of = |id: u64| SlotId(self.slots.slot(id));
        let runs = |id: GenerationId| self.seen.get(&id).is_some_and(|seen| seen.started.is_some());
        let target = net.wanted.slot;
        let again = |at: u64| at + limits::RESCUE_AGAIN.as_nanos() + 2 * Self::LATE;
        // TimeoutStopSec=infinity: the user wants to wait for a server that does not end.
        let waits_for_ever = self.policy.timeout_stop.is_infinite() && !status.generations.is_empty();
        let lives = |entry: u64| self.seen.get(&GenerationId(entry)).is_some_and(|seen| !seen.ended);
        for (slot, _) in net.waiting().filter(|(slot, _)| !net.relayed.contains(slot)) {
            let here = |id: u64| !self.setting.steers || slot_of(id) == slot;
            let mut entries = status.generations.iter().map(|entry| entry.generation);
            let mut others = status.generations.iter().map(|entry| GenerationId(entry.generation));
            let serves = |id: GenerationId| !self.is_leaving(id) && !self.stops_itself(id);
            let has_hope = if slot == target {
                match status.state {
                    State::Listening => net.watched || wake.is_some(),
                    State::Waiting => wake.is_some() || waits_for_ever,
                    _ => wake.is_some() || waits_for_ever || entries.any(|id| here(id) && lives(id)),
                }
            } else if others.clone().any(|id| here(id.0) && serves(id)) {
                true
            } else {
                let is_served = others.any(|id| slot_of(id.0) == target && runs(id) && serves(id));
                let is_due = wake.is_some() || waits_for_ever;
                let is_tried_again = net.unrescued.is_some_and(|at| now <= again(at));
                net.guarded.contains(&slot) && (!is_served || is_tried_again) && is_due
            };
            assert!(has_hope, "a connection on {slot:?} is forgotten at {now}: {status:?} {net:?}");
        }
    }

    /// A queue out of which a draining generation takes nothing is taken elsewhere after a second.
    pub(crate) fn stuck_queues_are_rescued(&self, now: u64, net: &Net) {
        if net.is_blind || !self.setting.steers {
            return;
        }
        let patience = limits::QUEUE_STUCK.as_nanos() + 2 * limits::LOOK_LAST.as_nanos() + 4 * Self::LATE;
        let patience = patience + 2 * Self::COST * limits::LOOK_COST * limits::GENERATIONS as u64;
        for (slot, queue) in net.waiting().filter(|(slot, _)| !net.relayed.contains(slot)) {
            for (id, on) in
                self.slots.of.iter().filter(|(id, on)| on.slot == slot.0 && !self.is_leaving(**id))
            {
                let Some(drains) = on.drains.filter(|_| !self.stops_itself(*id)) else { continue };
                let failed = net.unrescued.unwrap_or_default();
                let since = drains.saturating_add(on.slept).max(queue.since).max(failed);
                assert!(now <= since.saturating_add(patience), "the queue of generation {} is stuck", id.0);
            }
        }
    }

    /// A candidate that has not run for the last seconds of its bake is not taken.
    pub(crate) fn who_is_stopped_is_not_taken(
        &mut self,
        now: u64,
        (event, status): (&Event, &Status),
        frozen: impl Fn(GenerationId) -> Option<u64>,
    ) {
        const SOME: u64 = limits::LOOK_FIRST.as_nanos() + 2 * Check::LATE;
        let Some(id) = self.taken.take() else { return };
        let bake = self.policy.bake.as_nanos();
        let is_baked = *event == Event::Tick && bake > SOME && status.generation == Some(id.0);
        if !is_baked {
            return;
        }
        let slept = self.slots.of.get(&id).map_or(0, |on| on.slept);
        let since = frozen(id).map(|frozen| frozen.max(self.restored) + slept);
        let hangs = since.is_some_and(|since| now >= since + SOME);
        assert!(!hangs, "who_is_stopped_is_not_taken: {id} is stopped since {since:?}");
    }

    /// Nor is one rolled back for it that runs.
    pub(crate) fn nobody_else_is_thrown_out(
        &mut self,
        actions: &[Action],
        frozen: impl Fn(GenerationId) -> Option<u64>,
    ) {
        let thrown_out = actions.iter().find_map(|action| match action {
            Action::Tell(Note::Swap(SwapNote::RolledBack { to, reason, .. })) => {
                reason.contains("is stopped by a signal").then_some(*to)
            }
            _ => None,
        });
        let Some(id) = thrown_out else { return };
        assert!(frozen(id).is_some(), "{id} is thrown out");
        self.mark("thrown out", true);
    }
}
