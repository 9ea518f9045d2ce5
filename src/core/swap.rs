//! Ready, and what a swap makes of it: promote the candidate, or roll back.

use super::note::{Note, ReadyBy, SwapNote};
use super::report::{LastSwap, Outcome, Reply};
use super::service::{Attempt, Generation, Phase, Step, Then};
use super::{Action, ClientId, GenerationId, Manager, limits};
use crate::config::{Handover, Policy, Ready, Span, Type};

impl Step<'_> {
    /// The files are read: what they say now is staged.
    pub(super) fn begin_swap(&mut self, old: GenerationId, clients: Vec<ClientId>) {
        self.service.attempt = Some(Attempt { generation: None, from: Some(old), is_swap: true, clients });
        let is_serial = |policy: &Policy| policy.handover == Handover::StopFirst;
        let new_is_serial = self.service.staged.as_ref().is_some_and(|staged| is_serial(&staged.policy));
        if new_is_serial || self.service.get(old).is_some_and(|generation| is_serial(&generation.policy)) {
            self.adopt();
            self.service.ledger.reset();
            return self.replace(old, Then::Start);
        }
        let new = self.spawn();
        self.service.phase = Phase::Swapping { old, new };
        let within =
            self.service.get(new).map_or(Span::INFINITY, |generation| generation.policy.timeout_start);
        self.tell(SwapNote::Begun { from: old, to: new, within }.into());
    }

    pub(super) fn on_ready_said(&mut self, id: GenerationId) {
        self.service.server_notifies = true;
        let Some(generation) = self.service.get(id) else { return };
        let policy = &generation.policy;
        let is_notify_type = matches!(policy.service_type, Type::Notify | Type::NotifyReload);
        let is_gate = matches!(policy.ready, Ready::Auto | Ready::Notify);
        if generation.started.is_none() {
            // Only the main process has to be ready, and there is none yet.
            return;
        }
        self.on_reload_ready_said(id);
        if is_gate {
            self.pass_gate(id, ReadyBy::Notify);
        }
        if is_notify_type {
            self.main_up(id);
        }
    }

    /// What Ready= waits for has come.
    pub(super) fn pass_gate(&mut self, id: GenerationId, by: ReadyBy) {
        let Some(generation) = self.service.get_mut(id).filter(|generation| generation.lives()) else {
            return;
        };
        generation.gate.get_or_insert(by);
        if matches!(generation.policy.service_type, Type::Notify | Type::NotifyReload) {
            self.main_up(id);
        }
        self.check_ready(id);
    }

    /// Ready is who has passed the gate and whose ExecStartPost= is done.
    pub(super) fn check_ready(&mut self, id: GenerationId) {
        if let Some(generation) = self.service.get(id)
            && let Some(by) = generation.gate
            && generation.active.is_some()
        {
            self.become_ready(id, by);
        }
    }

    /// The generation has lived for as long as Ready= asks.
    pub(super) fn on_lived(&mut self, id: GenerationId) {
        let is_auto = self.service.get(id).is_some_and(|generation| generation.policy.ready == Ready::Auto);
        let by = if self.service.server_notifies && is_auto { ReadyBy::Alone } else { ReadyBy::Alive };
        self.pass_gate(id, by);
    }

    fn become_ready(&mut self, id: GenerationId, by: ReadyBy) {
        let now = self.now;
        let Some(generation) = self.service.get_mut(id) else { return };
        let (Some(_), None, true) = (generation.started, generation.ready, generation.lives()) else {
            return;
        };
        let after = now.since(generation.ordered);
        generation.ready = Some(now);
        let (watchdog, bake) = (generation.watchdog_period, generation.policy.bake);
        generation.watchdog = (watchdog != Span::ZERO).then(|| now.after(watchdog));
        self.tell(Note::Ready { generation: id, after, by });
        if !self.service.manager_told {
            self.service.manager_told = true;
            self.out.push(Action::TellManager(Manager::Ready));
        }
        match self.service.phase {
            Phase::Swapping { new, .. } if new == id && bake == Span::ZERO => self.promote(),
            Phase::Swapping { old, new } if new == id => {
                self.tell(SwapNote::Baking { from: old, to: id, span: bake }.into());
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
        self.adopt();
        self.tell(SwapNote::Done { from: old, to: new }.into());
        self.stop_by_policy(old, Span::INFINITY);
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
        self.discard();
        self.stop_by_policy(new, limits::FAILED_CANDIDATE);
    }

    /// Stops a generation as its own policy says, with at most so much patience.
    pub(super) fn stop_by_policy(&mut self, id: GenerationId, at_most: Span) {
        if let Some(generation) = self.service.get(id) {
            let patience = generation.policy.timeout_stop.min(at_most);
            self.stop_generation(id, generation.policy.kill_signal, patience);
        }
    }

    /// The swap that somebody asked for is not even begun.
    pub(super) fn refuse_swap(&mut self, why: String) {
        let text = SwapNote::Refused { why: why.clone() }.to_string();
        self.tell(SwapNote::Refused { why: why.clone() }.into());
        self.fail_attempt_saying(why, &text);
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
            if self.service.manager_told {
                self.out.push(Action::TellManager(Manager::Ready));
            }
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
        if self.service.clients.next_swap.is_none() || self.service.clients.rereading.is_some() {
            return;
        }
        match self.service.phase {
            Phase::Up { current } => {
                let is_up = self.service.get(current).is_some_and(Generation::lives);
                // A start that somebody waits for is decided first; then one more swap answers all who asked meanwhile.
                if !is_up || self.service.attempt.is_some() {
                    return;
                }
                let generations = self.service.generations.len();
                if generations < limits::GENERATIONS {
                    self.service.clients.held_told = false;
                    let clients = self.service.clients.next_swap.take().unwrap_or_default();
                    self.reread(clients);
                } else if !std::mem::replace(&mut self.service.clients.held_told, true) {
                    self.tell(SwapNote::Held { generations }.into());
                }
            }
            Phase::Listening { .. } | Phase::Waiting { .. } | Phase::Failed => {
                let clients = self.service.clients.next_swap.take().unwrap_or_default();
                self.reread(clients);
            }
            Phase::Swapping { .. } | Phase::Replacing { .. } | Phase::Paused | Phase::Stopping { .. } => {}
        }
    }
}
