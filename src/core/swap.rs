//! Carries a swap from its begin through readiness, canary and bake to its outcome: the candidate is promoted or
//! rolled back.

use super::generation::{Drain, Generation, Progress};
use super::note::{self, Note, ReadyBy, SwapNote};
use super::report::{LastSwap, Outcome, Reply};
use super::restart::Failure;
use super::service::{Attempt, Phase, Step, Then, Trial};
use super::watch::{Conclusion, Finding, Question};
use super::{Action, ClientId, GenerationId, Manager, Reread, limits};
use crate::config::{Canary, Handover, Policy, Span, Type};

impl Step<'_> {
    /// The files are read: what they say now is staged.
    pub(super) fn begin_swap(&mut self, old: GenerationId, clients: Vec<ClientId>) {
        self.service.attempt = Some(Attempt { generation: None, from: Some(old), is_swap: true, clients });
        if self.old_goes_first(old) {
            self.adopt();
            self.service.ledger.reset();
            return self.replace_when_finished(old);
        }
        let new = self.spawn();
        self.service.phase = Phase::Swapping { old, new, trial: Trial::Gate };
        self.watch().compare();
        let within =
            self.service.get(new).map_or(Span::INFINITY, |generation| generation.policy.timeout_start);
        self.tell(SwapNote::Begun { from: old, to: new, within }.into());
    }

    /// Whether two of them cannot run at once: Handover= says so, or fds are stored. Of a connection that two read each
    /// would get a part.
    fn old_goes_first(&mut self, old: GenerationId) -> bool {
        let is_serial = |policy: &Policy| policy.handover == Handover::StopFirst;
        let Some(Reread { policy, stored_fds, .. }) = &self.service.staged else { return false };
        if is_serial(policy) || self.service.get(old).is_some_and(|generation| is_serial(&generation.policy))
        {
            return true;
        }
        let (count, both) = (*stored_fds, policy.must_overlap());
        if count > 0 {
            self.tell(SwapNote::Stored { from: old, count, both }.into());
        }
        count > 0 && !both
    }

    /// Stop first: nothing new comes to the old one any more, it finishes what it has, and only then is it told to stop. Many
    /// a server drops at the signal what it has accepted.
    fn replace_when_finished(&mut self, old: GenerationId) {
        let Some(generation) = self.service.get(old) else { return };
        let drain = generation.policy.drain;
        let (lives, patience) = (generation.lives(), generation.policy.timeout_stop);
        if lives && !self.service.steers() && self.service.setting.holds_sockets {
            self.tell(SwapNote::StopsFirst { from: old, patience }.into());
        }
        if !self.service.steers() || !lives || drain == Span::ZERO {
            return self.replace(old, Then::Start);
        }
        self.service.phase = Phase::Replacing { current: old, then: Then::Start };
        self.tell(SwapNote::FinishesFirst { from: old, drain }.into());
        self.begin_drain(old, Drain::First);
        self.settle_steering();
    }

    pub(super) fn on_ready_said(&mut self, id: GenerationId) {
        let Some(generation) = self.service.get(id) else { return };
        if generation.started().is_none() {
            // Only the main process has to be ready, and there is none yet.
            return;
        }
        let is_notify_type = generation.is_notify_type();
        self.watch().said_ready(id);
        self.on_reload_ready_said(id);
        self.check_gate(id);
        if is_notify_type {
            self.main_up(id);
        }
    }

    /// What watch.rs has found out about a generation, and what follows from it.
    pub(super) fn on_answered(&mut self, id: GenerationId, finding: Finding) {
        for conclusion in self.watch().answered(id, finding) {
            match conclusion {
                Conclusion::Ready(id) => self.on_gate_open(id),
                Conclusion::Stopped(id) => {
                    self.roll_back(format!("generation {} is stopped by a signal", id.0));
                }
                Conclusion::Drains(generation, traffic) => {
                    self.tell(SwapNote::Draining { generation, traffic }.into());
                }
                Conclusion::Stuck(generation, queued) => {
                    self.tell(SwapNote::QueueStuck { generation, queued }.into());
                    self.out.extend(self.service.get(generation).map(|it| Action::Rescue { slot: it.slot }));
                }
                Conclusion::Drained(id) => self.end_drain(id),
                Conclusion::Ask(question) => self.out.push(Action::Ask(question)),
            }
        }
    }

    /// Something came that may be what Ready= waits for.
    pub(super) fn check_gate(&mut self, id: GenerationId) {
        if self.watch().check_gate(id) {
            self.on_gate_open(id);
        }
    }

    /// What Ready= waits for has come.
    pub(super) fn pass_gate(&mut self, id: GenerationId, by: ReadyBy) {
        if self.service.get(id).is_some_and(Generation::lives) {
            self.watch().open(id, by);
            self.on_gate_open(id);
        }
    }

    /// The generation has lived for as long as Ready= asks.
    pub(super) fn on_lived(&mut self, id: GenerationId) {
        self.watch().lived(id);
        self.on_gate_open(id);
    }

    fn on_gate_open(&mut self, id: GenerationId) {
        if self.service.get(id).is_some_and(Generation::is_notify_type) {
            self.main_up(id);
        }
        self.check_ready(id);
    }

    /// Ready is who has passed the gate and whose ExecStartPost= is done.
    pub(super) fn check_ready(&mut self, id: GenerationId) {
        let now = self.now;
        let by = self.service.watch.passed_by(id).cloned();
        if let Some(by) = by
            && let Some(generation) = self.service.get_mut(id).filter(|generation| generation.lives())
            && let Progress::Active { started, at: active } = generation.progress
        {
            let after = now.since(generation.ordered);
            let (period, canary) = (generation.said.watchdog_period, generation.policy.canary);
            let watchdog = (period != Span::ZERO).then(|| now.after(period));
            generation.progress = Progress::Ready { started, active, at: now, watchdog };
            self.tell(Note::Ready { generation: id, after, by });
            self.became_ready(id, canary);
        }
    }

    fn became_ready(&mut self, id: GenerationId, canary: Option<Canary>) {
        if !self.service.manager_told {
            self.service.manager_told = true;
            self.out.push(Action::TellManager(Manager::Ready));
        }
        let before = self.service.steering;
        let canary = canary.filter(|_| self.service.steers());
        if let Phase::Swapping { new, trial, .. } = &mut self.service.phase
            && *new == id
        {
            match canary {
                Some(canary) => {
                    *trial = Trial::Canary { over: self.now.after(canary.span) };
                    self.watch().try_for(id, canary.span);
                    self.tell(SwapNote::Canary { to: id, canary }.into());
                }
                None => self.switch(id),
            }
        } else if self.service.is_alone(id) {
            self.watch().ready_alone(id);
            self.succeed_attempt();
        }
        if self.service.steers() && self.service.steering == before {
            // Nothing changes, but what the server did to its socket until now is undone.
            self.out.push(Action::Steer(before));
        }
    }

    /// The candidate gets all of the traffic; the old one stays as it is until the bake is over.
    pub(super) fn switch(&mut self, id: GenerationId) {
        let bake = self.service.get(id).map_or(Span::ZERO, |generation| generation.policy.bake);
        let Phase::Swapping { old, new, trial } = &mut self.service.phase else { return };
        if *new != id {
            return;
        }
        let from = *old;
        *trial = Trial::Bake { over: self.now.after(bake), lost: None };
        self.watch().try_for(id, bake);
        // Also without a bake the old one stays until this is known to have worked.
        self.settle_steering();
        if bake != Span::ZERO {
            self.tell(SwapNote::Baking { from, to: id, span: bake }.into());
        }
    }

    /// The candidate has proved itself: the old one finishes what it has, and goes.
    pub(super) fn promote(&mut self) {
        let Phase::Swapping { old, new, .. } = self.service.phase else { return };
        self.service.phase = Phase::Up { current: new };
        self.watch().took_over(new, false);
        self.service.ledger.reset();
        self.adopt();
        let drain = self.service.get(old).map_or(Span::ZERO, |generation| generation.policy.drain);
        let drain = Some(drain).filter(|drain| *drain != Span::ZERO && self.service.steers());
        let (outcome, reason) = self.judge(new);
        if outcome == Outcome::Swapped || drain.is_some() {
            self.tell(SwapNote::Done { from: old, to: new, drain }.into());
        }
        let attempt = self.service.attempt.take();
        let told = attempt.map_or(Drain::First, |attempt| {
            let swap = self.record(&attempt, Some(new), outcome, reason);
            Drain::Last(attempt.clients, swap)
        });
        self.begin_drain(old, told);
    }

    /// A swap to this generation went through; whether anybody is served by it may not be known.
    fn judge(&mut self, to: GenerationId) -> (Outcome, Option<String>) {
        let is_oneshot = self.service.get(to).is_some_and(|generation| {
            generation.policy.service_type == Type::Oneshot && self.service.setting.holds_sockets
        });
        if !is_oneshot && !self.service.watch.is_unseen(to) {
            return (Outcome::Swapped, None);
        }
        let reason = note::unseen(to, is_oneshot);
        self.tell(SwapNote::Unseen { reason: reason.clone() }.into());
        (Outcome::TakenOverUnseen, Some(reason))
    }

    /// The candidate is not taken; the old generation never knew.
    pub(super) fn roll_back(&mut self, reason: String) {
        let Phase::Swapping { old, new, ref mut trial } = self.service.phase else { return };
        let lost = match trial {
            Trial::Bake { lost, .. } => lost.take(),
            Trial::Gate | Trial::Canary { .. } => None,
        };
        self.service.phase = Phase::Up { current: old };
        self.watch().end_asking(old);
        self.settle_steering();
        let note = SwapNote::RolledBack { from: old, to: new, reason: reason.clone() };
        let text = note.to_string();
        self.tell(note.into());
        self.fail_attempt_saying(Outcome::RolledBack, reason, &text);
        self.discard();
        self.stop_by_policy(new, limits::FAILED_CANDIDATE);
        if let Some(reason) = lost {
            self.fail_generation(old, Failure::Protocol, reason, self.kill_signal_of(old));
        }
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
        self.fail_attempt_saying(Outcome::Refused, why, &text);
    }

    pub(super) fn succeed_attempt(&mut self) {
        let Some(attempt) = self.service.attempt.take() else { return };
        let Some(to) = attempt.generation else { return };
        let (outcome, reason) = if attempt.is_swap { self.judge(to) } else { (Outcome::Swapped, None) };
        let swap = self.record(&attempt, Some(to), outcome, reason);
        let reply = if attempt.is_swap { taken_over(&swap) } else { started(to.0) };
        self.answer(attempt.clients, &swap, &reply);
    }

    pub(super) fn fail_attempt(&mut self, reason: String) {
        let text = format!("failed: {reason}");
        self.fail_attempt_saying(Outcome::RolledBack, reason, &text);
    }

    fn fail_attempt_saying(&mut self, outcome: Outcome, reason: String, text: &str) {
        let Some(attempt) = self.service.attempt.take() else { return };
        let swap = self.record(&attempt, attempt.generation, outcome, Some(reason));
        self.answer(attempt.clients, &swap, &Reply::failed(text));
    }

    pub(super) fn answer(&mut self, clients: Vec<ClientId>, swap: &LastSwap, reply: &Reply) {
        for client in clients {
            self.reply(client, Reply { swap: Some(swap.clone()), ..reply.clone() });
        }
    }

    /// How the attempt went, for `status`.
    fn record(
        &mut self,
        attempt: &Attempt,
        to: Option<GenerationId>,
        outcome: Outcome,
        reason: Option<String>,
    ) -> LastSwap {
        let ready = |new: &Generation| Some(new.ready()?.since(new.ordered).as_millis());
        let ready_ms = to.filter(|_| outcome.is_taken()).and_then(|to| ready(self.service.get(to)?));
        let swap = LastSwap {
            from: attempt.from.map(|id| id.0),
            to: to.map(|id| id.0),
            outcome,
            reason,
            ready_ms,
            drain_ms: None,
            cut: None,
            closed_idle: None,
        };
        if attempt.is_swap {
            self.service.last_swap = Some(swap.clone());
            self.out.push(Action::Ask(Question::Overflows));
            if self.service.manager_told {
                self.out.push(Action::TellManager(Manager::Ready));
            }
        }
        swap
    }

    /// Begins the swap that is wanted as soon as the phase allows it, and answers whoever waits for service.
    pub(super) fn settle(&mut self) {
        self.settle_swap();
        self.settle_slots();
        if self.service.serves() && !self.service.clients.status.is_empty() {
            for (client, _) in std::mem::take(&mut self.service.clients.status) {
                self.reply_status(client);
            }
        }
    }

    fn settle_swap(&mut self) {
        if self.service.clients.next_swap.is_none() || self.service.clients.is_rereading() {
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

/// The answer to a swap that was not rolled back.
pub(super) fn taken_over(swap: &LastSwap) -> Reply {
    let to = swap.to.unwrap_or_default();
    match (&swap.reason, swap.from) {
        (Some(reason), _) => Reply::failed(SwapNote::Unseen { reason: reason.clone() }.to_string()),
        (None, Some(from)) => Reply::done(format!("swapped: generation {to} took over from {from}")),
        (None, None) => started(to),
    }
}

fn started(generation: u64) -> Reply {
    Reply::done(format!("started: generation {generation} serves"))
}
