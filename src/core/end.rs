//! The end of a generation: telling it to stop, SIGKILL, its exit, what it leaves behind, and what comes next.

use super::note::{self, Note, SwapNote};
use super::report::{Outcome, Reply, rounded};
use super::restart::{self, End, Failure};
use super::service::{Ending, Generation, Phase, Step, Then};
use super::{Action, Exit, GenerationId, Scope, Time, limits};
use crate::config::{KillMode, Ready, Restart, Signal, Span};

/// Stopping one generation.
impl Step<'_> {
    /// Tells a generation to stop; SIGKILL follows after `patience`. Nothing happens to one that was told before.
    pub(super) fn stop_generation(&mut self, id: GenerationId, signal: Signal, patience: Span) {
        let now = self.now;
        let Some(generation) = self.service.get_mut(id) else { return };
        if generation.retry.is_some() {
            // Between two tries to start it: nothing runs.
            return self.finish(id);
        }
        if !generation.is_up() {
            return;
        }
        generation.ending =
            Some(Ending { was_told: true, since: now, due: now.after(patience), killed: false });
        if generation.pid.is_none() {
            // Its start was ordered and is not answered yet; `on_started` comes back here.
            return;
        }
        let scope = match self.policy.kill_mode {
            KillMode::Mixed | KillMode::Process => Scope::Main,
            KillMode::ControlGroup => Scope::All,
        };
        self.out.push(Action::Kill { generation: id, signal, scope });
        // A stopped process acts on nothing but SIGKILL until it is continued.
        self.out.push(Action::Kill { generation: id, signal: Signal::CONT, scope });
    }

    /// The current generation goes, then something else happens.
    pub(super) fn replace(&mut self, current: GenerationId, then: Then) {
        self.service.phase = Phase::Replacing { current, then };
        let patience = self.policy.timeout_stop;
        if self.service.get(current).is_some_and(Generation::is_up) {
            self.tell(Note::Replacing { generation: current, patience });
        }
        self.stop_generation(current, self.policy.kill_signal, patience);
    }

    /// SIGKILL to all of a generation, the main process included.
    pub(super) fn kill(&mut self, id: GenerationId) {
        let now = self.now;
        let Some(generation) = self.service.get_mut(id) else { return };
        let due = now.after(limits::AFTER_KILL);
        let told = Ending { was_told: generation.end.is_none(), since: now, due, killed: true };
        generation.ending = Some(Ending { due, killed: true, ..generation.ending.unwrap_or(told) });
        let scope = match self.policy.kill_mode {
            KillMode::Mixed | KillMode::ControlGroup => Scope::All,
            KillMode::Process => Scope::Main,
        };
        if generation.pid.is_some() && (scope == Scope::All || generation.end.is_none()) {
            self.out.push(Action::Kill { generation: id, signal: Signal::KILL, scope });
        }
    }

    pub(super) fn on_kill_due(&mut self, id: GenerationId) {
        let Some(ending) = self.service.get(id).and_then(|generation| generation.ending) else { return };
        self.tell(Note::Killing { generation: id, after: self.now.since(ending.since) });
        self.kill(id);
    }

    /// SIGKILL did not help for a while: the kernel holds it. Nothing waits for it any longer.
    pub(super) fn on_abandon_due(&mut self, id: GenerationId) {
        self.tell(Note::LeftBehind { generation: Some(id) });
        if self.service.get(id).is_some_and(|generation| generation.end.is_none()) {
            self.ended(id, End::Exited(Exit::Signal { signal: Signal::KILL, core: false }));
        }
        self.finish(id);
    }

    pub(super) fn on_start_timeout(&mut self, id: GenerationId) {
        let reason = format!("generation {} was not ready within {}", id.0, self.policy.timeout_start);
        self.fail_generation(id, Failure::Timeout, reason, self.policy.kill_signal);
    }

    pub(super) fn on_watchdog_missed(&mut self, id: GenerationId) {
        let reason = format!("generation {} missed its watchdog", id.0);
        self.fail_generation(id, Failure::Watchdog, reason, Signal::ABRT);
    }

    /// A living generation has failed: a candidate is rolled back, any other is stopped with `signal`.
    fn fail_generation(&mut self, id: GenerationId, failure: Failure, reason: String, signal: Signal) {
        let Some(generation) = self.service.get_mut(id) else { return };
        generation.failure = Some(failure);
        if matches!(self.service.phase, Phase::Swapping { new, .. } if new == id) {
            return self.roll_back(reason);
        }
        self.tell(Note::Failed { reason: reason.clone() });
        self.fail_attempt_of(id, reason);
        self.stop_generation(id, signal, self.policy.timeout_stop);
    }

    fn fail_attempt_of(&mut self, id: GenerationId, reason: String) {
        if self.service.attempt.as_ref().is_some_and(|attempt| attempt.generation == Some(id)) {
            self.fail_attempt(reason);
        }
    }
}

/// The end of one generation.
impl Step<'_> {
    /// The main process is gone and reaped. The sockets are untouched, whatever happened.
    pub(super) fn on_exited(&mut self, id: GenerationId, exit: Exit) {
        let now = self.now;
        let Some(generation) = self.service.get_mut(id) else { return };
        if generation.end.is_some() {
            return;
        }
        if generation.ready.is_none() && self.policy.ready == Ready::Notify && generation.is_up() {
            generation.failure.get_or_insert(Failure::Protocol);
        }
        let age = now.since(generation.ordered);
        self.tell(Note::Exited { generation: id, exit, after: age });
        self.ended(id, End::Exited(exit));
        self.clear(id);
    }

    /// What the phase makes of an end, before anything is cleaned up.
    pub(super) fn ended(&mut self, id: GenerationId, end: End) {
        let Some(generation) = self.service.get_mut(id) else { return };
        generation.end = Some(end.clone());
        generation.watchdog = None;
        let reason = describe(generation, &end, self.now);
        match self.service.phase {
            Phase::Swapping { new, .. } if new == id => self.roll_back(reason),
            Phase::Swapping { old, new } if old == id => {
                self.tell(SwapNote::OldDied { old, new }.into());
                self.service.phase = Phase::Up { current: new };
                if self.service.get(new).is_some_and(|generation| generation.ready.is_some()) {
                    self.service.ledger.reset();
                    self.succeed_attempt();
                }
            }
            Phase::Up { current } if current == id => self.fail_attempt_of(id, reason),
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

    /// Ends what the main process left behind.
    fn clear(&mut self, id: GenerationId) {
        // At the end of pid 1 nobody is killed unasked: there is no later, and nobody else to ask them.
        let asks_all = self.setting.init && matches!(self.service.phase, Phase::Stopping { .. });
        match self.policy.kill_mode {
            KillMode::Process => self.finish(id),
            KillMode::Mixed if !asks_all => self.kill(id),
            KillMode::Mixed => self.ask_rest(id),
            KillMode::ControlGroup => {
                // Whoever was told to stop was told as a group.
                if self.service.get(id).is_some_and(|generation| generation.ending.is_none()) {
                    self.ask_rest(id);
                }
            }
        }
    }

    fn ask_rest(&mut self, id: GenerationId) {
        let since = self.now;
        let due = since.after(self.policy.timeout_stop);
        let Some(generation) = self.service.get_mut(id) else { return };
        generation.ending.get_or_insert(Ending { was_told: false, since, due, killed: false });
        for signal in [self.policy.kill_signal, Signal::CONT] {
            self.out.push(Action::Kill { generation: id, signal, scope: Scope::All });
        }
    }

    /// Nothing of the generation is left: forget it, and go on with what waited for that.
    pub(super) fn finish(&mut self, id: GenerationId) {
        let Some(index) = self.service.generations.iter().position(|generation| generation.id == id) else {
            return;
        };
        let generation = self.service.generations.remove(index);
        self.out.push(Action::Forget { generation: id });
        match self.service.phase {
            Phase::Up { current } if current == id => self.after_end(&generation),
            Phase::Replacing { current, then } if current == id => self.after_replaced(then),
            Phase::Stopping { .. } => self.sweep_if_alone(),
            Phase::Up { .. }
            | Phase::Swapping { .. }
            | Phase::Replacing { .. }
            | Phase::Listening { .. }
            | Phase::Waiting { .. }
            | Phase::Paused
            | Phase::Failed => self.drained(&generation),
        }
    }

    fn drained(&mut self, generation: &Generation) {
        let Some(ending) = generation.ending.filter(|ending| ending.was_told) else { return };
        let after = self.now.since(ending.since);
        self.tell(Note::Gone { generation: generation.id, after });
        if let Some(swap) = &mut self.service.last_swap
            && swap.from == Some(generation.id.0)
            && swap.outcome == Outcome::Swapped
        {
            swap.drain_ms = Some(after.as_millis());
        }
    }

    fn after_replaced(&mut self, then: Then) {
        match then {
            Then::Start => self.spawn_alone(),
            Then::Pause => {
                self.service.phase = Phase::Paused;
                self.tell(Note::Paused);
                for client in std::mem::take(&mut self.service.clients.pause) {
                    self.reply(client, Reply::done("paused; new connections wait in the queue"));
                }
            }
        }
    }

    /// The only generation ended by itself: Restart= decides.
    fn after_end(&mut self, generation: &Generation) {
        // Without an end it was never started: a start that a stop overtook.
        let Some(end) = &generation.end else { return self.start_automatically() };
        let status = end.exit_status();
        self.service.last_status = status;
        if let Some(clients) = self.service.clients.next_swap.take() {
            return self.start_by_request(true, None, clients);
        }
        if restart::shall_restart(self.policy, end, generation.failure) {
            let healthy = restart::was_healthy(generation.ready, self.now);
            let delay = self.service.ledger.next_delay(&self.policy.delay, healthy);
            // RestartSec=0 must not make a missing file a busy loop.
            let floor = if matches!(end, End::NotStarted(_)) { limits::NOT_STARTED } else { Span::ZERO };
            let delay = delay.max(floor);
            let until = self.now.after(delay);
            self.tell(Note::Restarting { after: delay, holds_sockets: self.setting.holds_sockets });
            self.service.phase = Phase::Waiting { until };
            if delay == Span::ZERO {
                self.restart();
            }
        } else if self.setting.holds_sockets && self.policy.restart != Restart::No {
            self.tell(Note::Listening);
            self.listen();
        } else {
            self.end_with(status);
        }
    }
}

/// A sentence for the user: how a generation ended, and whether it had been ready.
fn describe(generation: &Generation, end: &End, now: Time) -> String {
    let id = generation.id.0;
    match end {
        End::NotStarted(failure) => failure.what.clone(),
        End::Exited(exit) => {
            let age = now.since(generation.ordered);
            let when = if generation.ready.is_some() { "after it was ready" } else { "before it was ready" };
            let hint = match exit {
                Exit::Code(0) if generation.ready.is_none() => " (a server must stay in the foreground)",
                Exit::Code(_) | Exit::Signal { .. } => "",
            };
            format!("generation {id} {} after {}, {when}{hint}", note::ended(*exit), rounded(age))
        }
    }
}
