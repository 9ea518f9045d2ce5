//! Decides which slot gets new connections, which slots are guarded, and where connections are taken that wait in a
//! slot without a server.
//!
//! A slot is one of several sockets of each address. New connections go to one slot (with a canary, to two); a generation
//! accepts only from its own. Nothing here is remembered twice: who should have the traffic, and which slots nobody
//! serves, is read off the phase after every step ([`Step::settle_slots`]) and ordered where it has changed.
//!
//! * *guarded*: no generation accepts there, so the shell says when something arrives;
//! * *stranded*: something has arrived there, and is to be taken to whoever serves, by a *rescue*.

use super::generation::Generation;
use super::note::SocketNote;
use super::restart::Failure;
use super::service::{Phase, Service, Step, Trial};
use super::{Action, GenerationId, SlotId, Steering, limits};

impl Service {
    /// At least one socket has slots: of those held, or of those that the swap under way has bound.
    pub(super) fn steers(&self) -> bool {
        self.setting.steers || self.staged.as_ref().is_some_and(|staged| staged.steers)
    }

    /// The slot for a new generation: the one with the traffic, so that it finds the queue there, unless somebody has it.
    pub(super) fn free_slot(&self) -> SlotId {
        if !self.steers() {
            return SlotId(0);
        }
        let is_free = |slot: &SlotId| !self.generations.iter().any(|generation| generation.slot == *slot);
        let traffic = self.steering.slot;
        let clean = SlotId::all().filter(|slot| !self.haunted.contains(slot));
        // There are as many slots as generations, and `settle_swap` begins no swap that would make one too many.
        std::iter::once(traffic).chain(clean).chain(SlotId::all()).find(is_free).unwrap_or(traffic)
    }

    /// Who should have the traffic now.
    fn wanted_steering(&self) -> Steering {
        let slot = |id: GenerationId| self.get(id).map_or(self.steering.slot, |generation| generation.slot);
        let all = Steering::all_to;
        match self.phase {
            Phase::Up { current } => all(slot(current)),
            Phase::Swapping { old, trial: Trial::Gate, .. } => all(slot(old)),
            Phase::Swapping { old, new, trial: Trial::Canary { .. } } => {
                let percent = self.get(new).and_then(|new| new.policy.canary).map(|canary| canary.percent);
                Steering { slot: slot(old), canary: percent.map(|percent| (slot(new), percent)) }
            }
            Phase::Swapping { new, trial: Trial::Bake { .. }, .. } => all(slot(new)),
            // It finishes what it has; the rest waits where the next one will find it.
            Phase::Replacing { current, .. }
                if self
                    .get(current)
                    .is_some_and(|old| old.is_draining() && old.slot == self.steering.slot) =>
            {
                all(self.free_slot())
            }
            Phase::Listening { .. }
            | Phase::Replacing { .. }
            | Phase::Waiting { .. }
            | Phase::Paused
            | Phase::Failed
            | Phase::Stopping { .. } => all(self.steering.slot),
        }
    }

    /// How many of a hundred new connections the generation gets; `None` where the sockets are shared.
    pub(super) fn traffic(&self, generation: &Generation) -> Option<u8> {
        let share = self.steering.canary.map_or(0, |(_, percent)| percent);
        let is_canary = self.steering.canary.is_some_and(|(slot, _)| slot == generation.slot);
        self.steers().then_some(match generation.lives() {
            true if is_canary => share,
            true if self.steering.slot == generation.slot => 100 - share,
            true | false => 0,
        })
    }

    /// Nobody accepts there any more, or nobody has yet: what arrives (a handshake begun before a switch; a server
    /// that shut the other slots down) has to be taken elsewhere.
    fn is_abandoned(&self, slot: SlotId) -> bool {
        slot != self.steering.slot
            && !self.generations.iter().any(|generation| generation.slot == slot && generation.lives())
    }

    /// The generation with the traffic accepts, or will as soon as it gets to it.
    fn target_serves(&self) -> bool {
        let serves = |generation: &Generation| generation.runs() && generation.lives();
        self.generations.iter().any(|generation| generation.slot == self.steering.slot && serves(generation))
    }
}

impl Step<'_> {
    /// Gives the traffic to whom it belongs now. Before anything that follows from having lost it.
    pub(super) fn settle_steering(&mut self) {
        let wanted = self.service.wanted_steering();
        if self.service.steers() && wanted != self.service.steering {
            self.service.steering = wanted;
            self.out.push(Action::Steer(wanted));
        }
    }

    pub(super) fn settle_slots(&mut self) {
        if !self.service.steers() || matches!(self.service.phase, Phase::Stopping { .. }) {
            return;
        }
        self.settle_steering();
        for slot in SlotId::all() {
            let on = self.service.is_abandoned(slot);
            let guarded = &mut self.service.guarded;
            if on != guarded.contains(&slot) {
                if on {
                    guarded.insert(slot)
                } else {
                    guarded.remove(&slot)
                };
                self.out.push(Action::Guard { slot, on });
            }
        }
        if self.service.target_serves() && self.service.rescue_due.is_none() {
            for slot in std::mem::take(&mut self.service.stranded) {
                if self.service.guarded.contains(&slot) {
                    self.out.push(Action::Rescue { slot });
                }
            }
        }
    }

    /// Something waits on a guarded slot. `settle_slots` has it taken to whoever serves, now or as soon as somebody does.
    pub(super) fn on_arrived(&mut self, slot: SlotId) {
        if self.service.guarded.contains(&slot) {
            self.service.stranded.insert(slot);
            self.on_connected();
        }
    }

    /// What is lost without the traffic is lost before the old one is touched: a candidate that cannot get it is not taken.
    pub(super) fn on_steer_failed(&mut self, why: String) {
        if let Phase::Swapping { new, trial: Trial::Canary { .. } | Trial::Bake { .. }, .. } =
            self.service.phase
        {
            self.roll_back(format!("generation {} cannot get the traffic: {why}", new.0));
        } else {
            self.tell(SocketNote::NotSteered { why }.into());
        }
    }

    pub(super) fn on_rescue_failed(&mut self, slot: SlotId) {
        self.service.stranded.insert(slot);
        self.service.rescue_due = Some(self.now.after(limits::RESCUE_AGAIN));
    }

    /// A server that cannot accept any more has failed; one that only finishes what it has does not need to.
    pub(super) fn on_socket_lost(&mut self, slot: SlotId, socket: &str) {
        let serves = |generation: &&Generation| {
            generation.slot == slot && generation.lives() && !generation.is_draining()
        };
        let Some(generation) = self.service.generations.iter().find(serves) else { return };
        let (id, signal) = (generation.id, generation.policy.kill_signal);
        let reason = format!("generation {} can accept nothing on {socket} any more", id.0);
        if let Phase::Swapping { old, trial: Trial::Bake { lost, .. }, .. } = &mut self.service.phase
            && *old == id
        {
            // Nothing comes to it any more, and it may finish what it has.
            *lost = Some(reason);
            return;
        }
        self.fail_generation(id, Failure::Protocol, reason, signal);
    }
}
