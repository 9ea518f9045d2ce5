//! Ready, and what a swap makes of it: promote the candidate, or roll back.

use super::note::{Note, ReadyBy, SwapNote};
use super::report::{LastSwap, Outcome, Reply};
use super::service::{Attempt, Generation, Phase, Step, Then};
use super::{Action, ClientId, GenerationId, Manager, limits};
use crate::config::{Handover, Ready, Span};

impl Step<'_> {
    fn begin_swap(&mut self, old: GenerationId, clients: Vec<ClientId>) {
        if self.policy.handover == Handover::StopFirst {
            self.service.attempt =
                Some(Attempt { generation: None, from: Some(old), is_swap: true, clients });
            self.service.ledger.reset();
            return self.replace(old, Then::Start);
        }
        self.service.attempt = Some(Attempt { generation: None, from: Some(old), is_swap: true, clients });
        let new = self.spawn();
        self.service.phase = Phase::Swapping { old, new };
        self.tell(SwapNote::Begun { from: old, to: new, within: self.policy.timeout_start }.into());
    }

    pub(super) fn on_ready_said(&mut self, id: GenerationId) {
        self.service.server_notifies = true;
        match self.policy.ready {
            Ready::Auto | Ready::Notify => self.become_ready(id, ReadyBy::Notify),
            Ready::Exec | Ready::Delay(_) => {}
        }
    }

    /// The generation has lived for as long as Ready= asks.
    pub(super) fn on_lived(&mut self, id: GenerationId) {
        let by = if self.service.server_notifies && self.policy.ready == Ready::Auto {
            ReadyBy::Alone
        } else {
            ReadyBy::Alive
        };
        self.become_ready(id, by);
    }

    pub(super) fn become_ready(&mut self, id: GenerationId, by: ReadyBy) {
        let (now, watchdog) = (self.now, self.policy.watchdog);
        let Some(generation) = self.service.get_mut(id) else { return };
        let (Some(_), None, true) = (generation.started, generation.ready, generation.is_up()) else {
            return;
        };
        let after = now.since(generation.ordered);
        generation.ready = Some(now);
        generation.watchdog = (watchdog != Span::ZERO).then(|| now.after(watchdog));
        self.tell(Note::Ready { generation: id, after, by });
        if !self.service.manager_told {
            self.service.manager_told = true;
            self.out.push(Action::TellManager(Manager::Ready));
        }
        match self.service.phase {
            Phase::Swapping { new, .. } if new == id && self.policy.bake == Span::ZERO => self.promote(),
            Phase::Swapping { old, new } if new == id => {
                self.tell(SwapNote::Baking { from: old, to: id, span: self.policy.bake }.into());
            }
            Phase::Up { current } if current == id => self.succeed_attempt(),
            Phase::Swapping { .. }
            | Phase::Up { .. }
            | Phase::Listening { .. }
            | Phase::Replacing { .. }
            | Phase::Waiting { .. }
            | Phase::Paused
            | Phase::Failed
            | Phase::Stopping { .. } => {}
        }
    }

    /// The candidate has proved itself: the old one is told to stop.
    pub(super) fn promote(&mut self) {
        let Phase::Swapping { old, new } = self.service.phase else { return };
        self.service.phase = Phase::Up { current: new };
        self.service.ledger.reset();
        self.tell(SwapNote::Done { from: old, to: new }.into());
        self.stop_generation(old, self.policy.kill_signal, self.policy.timeout_stop);
        self.succeed_attempt();
    }

    /// The candidate is not taken; the old generation never knew.
    pub(super) fn roll_back(&mut self, reason: String) {
        let Phase::Swapping { old, new } = self.service.phase else { return };
        self.service.phase = Phase::Up { current: old };
        let note = SwapNote::RolledBack { from: old, to: new, reason: reason.clone() };
        let text = note.to_string();
        self.tell(note.into());
        self.fail_attempt_saying(reason, &text);
        let patience = limits::FAILED_CANDIDATE.min(self.policy.timeout_stop);
        self.stop_generation(new, self.policy.kill_signal, patience);
    }

    pub(super) fn succeed_attempt(&mut self) {
        let Some(attempt) = self.service.attempt.take() else { return };
        let Some(to) = attempt.generation else { return };
        let ready_ms = self.service.get(to).and_then(|new| Some(new.ready?.since(new.ordered).as_millis()));
        let text = match attempt.from {
            Some(from) if attempt.is_swap => {
                format!("swapped: generation {} took over from {}", to.0, from.0)
            }
            Some(_) | None => format!("started: generation {} serves", to.0),
        };
        self.conclude(attempt, to, Outcome::Swapped, None, ready_ms, &Reply::done(text));
    }

    pub(super) fn fail_attempt(&mut self, reason: String) {
        let text = format!("failed: {reason}");
        self.fail_attempt_saying(reason, &text);
    }

    fn fail_attempt_saying(&mut self, reason: String, text: &str) {
        let Some(attempt) = self.service.attempt.take() else { return };
        let to = attempt.generation.unwrap_or(GenerationId(self.service.last_id + 1));
        self.conclude(attempt, to, Outcome::RolledBack, Some(reason), None, &Reply::failed(text));
    }

    fn conclude(
        &mut self,
        attempt: Attempt,
        to: GenerationId,
        outcome: Outcome,
        reason: Option<String>,
        ready_ms: Option<u64>,
        reply: &Reply,
    ) {
        let swap = LastSwap {
            from: attempt.from.map(|id| id.0),
            to: to.0,
            outcome,
            reason,
            ready_ms,
            drain_ms: None,
            cut: None,
            closed_idle: None,
        };
        for client in attempt.clients {
            self.reply(client, Reply { swap: Some(swap.clone()), ..reply.clone() });
        }
        if attempt.is_swap {
            self.service.last_swap = Some(swap);
        }
    }

    /// Begins the swap that is wanted as soon as the phase allows it, and answers whoever waits for service.
    pub(super) fn settle(&mut self) {
        self.settle_swap();
        if self.service.serves() && !self.service.clients.status.is_empty() {
            for (client, _) in std::mem::take(&mut self.service.clients.status) {
                self.reply_status(client);
            }
        }
    }

    fn settle_swap(&mut self) {
        if self.service.clients.next_swap.is_none() {
            return;
        }
        match self.service.phase {
            Phase::Up { current } => {
                let is_up = self.service.get(current).is_some_and(Generation::is_up);
                // A start that somebody waits for is decided first; then one more swap answers all who asked meanwhile.
                if !is_up || self.service.attempt.is_some() {
                    return;
                }
                let generations = self.service.generations.len();
                if generations < limits::GENERATIONS {
                    self.service.clients.held_told = false;
                    let clients = self.service.clients.next_swap.take().unwrap_or_default();
                    self.begin_swap(current, clients);
                } else if !std::mem::replace(&mut self.service.clients.held_told, true) {
                    self.tell(SwapNote::Held { generations }.into());
                }
            }
            Phase::Listening { .. } | Phase::Waiting { .. } | Phase::Failed => {
                let clients = self.service.clients.next_swap.take().unwrap_or_default();
                self.start_by_request(true, None, clients);
            }
            Phase::Swapping { .. } | Phase::Replacing { .. } | Phase::Paused | Phase::Stopping { .. } => {}
        }
    }
}
