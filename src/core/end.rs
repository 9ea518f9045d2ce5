//! Stops a generation and handles its end: ExecStop=, the kill signal, SIGKILL, the exit of its main process, and the
//! processes that this leaves behind. What comes next is decided in finish.rs.

use super::command::failure_signal;
use super::exit::{AfterExit, describe};
use super::generation::{Ending, LastList, Main};
use super::note::{Note, SwapNote};
use super::restart::{Failure, RunResult};
use super::service::{Phase, Step, Then};
use super::{Action, End, Exit, GenerationId, Scope, Time, limits};
use crate::config::{CommandList, KillMode, Signal, Span};

/// How one generation is stopped.
impl Step<'_> {
    /// Tells a generation to stop: ExecStop= if it was active, then the signal; SIGKILL follows after `patience`. Nothing
    /// happens to one that was told before.
    pub(super) fn stop_generation(&mut self, id: GenerationId, signal: Signal, patience: Span) {
        let now = self.now;
        let Some(generation) = self.service.get_mut(id).filter(|generation| generation.ending().is_none())
        else {
            return;
        };
        if generation.has_ended() && generation.command.is_none() {
            return;
        }
        let due = if generation.command.is_some() { now.after(patience) } else { Time::NEVER };
        generation.set_ending(Ending { was_told: true, ..Ending::new(now, signal, patience, due) });
        generation.main = generation.main.without_retry();
        self.watch().leaves(id);
        self.end_drain(id);
        let Some(generation) = self.service.get_mut(id) else { return };
        if let Main::Ordered { .. } = generation.main {
            // Its start was ordered and is not answered yet; `on_started` comes back here.
            return;
        }
        let has_command = generation.command.is_some();
        let is_reload = generation.command.is_some_and(|running| running.command.list == CommandList::Reload);
        let (has_stop, has_ended) = (generation.has_stop(), generation.has_ended());
        if has_command {
            // A reload that does not end must not use up the time that the server has to stop.
            let signal = if is_reload { Signal::KILL } else { signal };
            for signal in [signal, Signal::CONT] {
                self.signal_command(id, signal);
            }
        }
        if has_ended {
            // Only a command still runs; `wind_down` follows it.
        } else if has_stop && !has_command {
            self.begin_stop(id);
        } else if !has_stop {
            self.send_kill_signal(id);
        }
        self.reload_failed(id, "it is told to stop");
    }

    fn begin_stop(&mut self, id: GenerationId) {
        if let Some(generation) = self.service.get_mut(id) {
            generation.last_list = LastList::Stop;
            self.run_list(id, CommandList::Stop);
        }
    }

    /// The kill signal, and what follows when nobody is there who could get it.
    pub(super) fn send_kill_signal(&mut self, id: GenerationId) {
        let now = self.now;
        let Some(generation) = self.service.get_mut(id) else { return };
        let Some(ending) = generation.ending() else { return };
        generation.set_ending(Ending { due: now.after(ending.patience), ..ending });
        let signal = ending.signal;
        let policy = &generation.policy;
        let scope = match policy.kill_mode {
            // Which process is the main one may not be known.
            KillMode::Mixed if generation.main.pid().is_some() => Scope::Main,
            KillMode::Process => Scope::Main,
            KillMode::Mixed | KillMode::ControlGroup => Scope::All,
        };
        let sighup = policy.send_sighup.then_some(Signal::HUP);
        let is_process = policy.kill_mode == KillMode::Process;
        let (has_main, has_started) = (generation.main.pid().is_some(), generation.started().is_some());
        let has_command = generation.command.is_some();
        if has_main || has_started {
            // A stopped process acts on nothing but SIGKILL until it is continued.
            for signal in [Some(signal), Some(Signal::CONT), sighup].into_iter().flatten() {
                self.out.push(Action::Kill { generation: id, signal, scope });
            }
        }
        match (has_main, has_started) {
            (true, _) => {}
            (false, true) if is_process => self.on_cleared(id),
            (false, true) => self.await_clear(id),
            (false, false) if has_command => {}
            (false, false) => {
                self.ended(id, End::Untried);
                self.wind_down(id);
            }
        }
    }

    /// ExecStop= is done: the kill signal follows, or what is left is ended.
    pub(super) fn after_stop(&mut self, id: GenerationId) {
        match self.service.get(id).map(|generation| generation.has_ended()) {
            Some(true) => self.clear(id),
            Some(false) => self.send_kill_signal(id),
            None => {}
        }
    }

    /// A command that was interrupted is gone: what it held up.
    pub(super) fn go_on_ending(&mut self, id: GenerationId) {
        let Some(generation) = self.service.get(id) else { return };
        if generation.has_ended() {
            self.wind_down(id);
        } else if generation.has_stop() {
            self.begin_stop(id);
        } else if generation.started().is_none() {
            self.ended(id, End::Untried);
            self.wind_down(id);
        }
    }

    /// The current generation goes, then something else happens.
    pub(super) fn replace(&mut self, current: GenerationId, then: Then) {
        self.service.phase = Phase::Replacing { current, then };
        let Some(generation) = self.service.get(current) else { return };
        let policy = &generation.policy;
        let patience = policy.timeout_stop;
        let signal = match then {
            Then::Start => policy.restart_kill_signal.unwrap_or(policy.kill_signal),
            Then::Pause => policy.kill_signal,
        };
        if generation.lives() {
            self.tell(Note::Replacing { generation: current, patience });
        }
        self.stop_generation(current, signal, patience);
    }

    /// SIGKILL to all of a generation, the main process included.
    pub(super) fn kill(&mut self, id: GenerationId) {
        let now = self.now;
        self.watch().killed(id);
        let Some(generation) = self.service.get_mut(id) else { return };
        let due = now.after(limits::AFTER_KILL);
        let signal = generation.policy.final_kill_signal;
        let was_told = !generation.has_ended();
        let told = Ending { was_told, ..Ending::new(now, signal, Span::ZERO, due) };
        generation.set_ending(Ending { due, killed: true, ..generation.ending().unwrap_or(told) });
        let scope = match generation.policy.kill_mode {
            KillMode::Mixed | KillMode::ControlGroup => Scope::All,
            KillMode::Process => Scope::Main,
        };
        let has_run = generation.has_run;
        if scope == Scope::Main && generation.command.is_some() {
            self.signal_command(id, signal);
        }
        if has_run {
            self.out.push(Action::Kill { generation: id, signal, scope });
        }
    }

    pub(super) fn on_kill_due(&mut self, id: GenerationId) {
        let Some(generation) = self.service.get_mut(id) else { return };
        let Some(ending) = generation.ending() else { return };
        // A stop that took too long is a failure of the run, unless it had one before.
        if !generation.has_ended() {
            generation.failure.get_or_insert(Failure::Timeout);
        }
        if generation.policy.send_sigkill {
            let signal = generation.policy.final_kill_signal;
            self.tell(Note::Killing { generation: id, after: self.now.since(ending.since), signal });
            self.kill(id);
        } else {
            self.tell(Note::LeftAlone { generation: id });
            self.abandon(id);
        }
    }

    /// SIGKILL did not help for a while: the kernel holds it. Nothing waits for it any longer.
    pub(super) fn on_abandon_due(&mut self, id: GenerationId) {
        self.tell(Note::LeftBehind { generation: Some(id) });
        self.abandon(id);
    }

    fn abandon(&mut self, id: GenerationId) {
        let Some(generation) = self.service.get_mut(id) else { return };
        generation.command = None;
        if !generation.has_ended() {
            self.ended(id, End::Exited(Exit::Signal { signal: Signal::KILL, core: false }));
        }
        self.on_cleared(id);
    }

    pub(super) fn on_start_timeout(&mut self, id: GenerationId) {
        let Some(generation) = self.service.get(id) else { return };
        let policy = &generation.policy;
        let signal = failure_signal(policy, policy.start_failure_mode);
        let missing = self.service.watched().what_is_missing(id).unwrap_or_default();
        let reason = format!("generation {} was not ready within {}{missing}", id.0, policy.timeout_start);
        self.fail_generation(id, Failure::Timeout, reason, signal);
    }

    pub(super) fn on_watchdog_missed(&mut self, id: GenerationId) {
        let Some(generation) = self.service.get(id) else { return };
        let signal = generation.policy.watchdog_signal;
        let reason = format!("generation {} missed its watchdog", id.0);
        self.fail_generation(id, Failure::Watchdog, reason, signal);
    }

    /// RuntimeMaxSec=
    pub(super) fn on_runtime_over(&mut self, id: GenerationId) {
        let Some(generation) = self.service.get(id) else { return };
        let signal = generation.policy.kill_signal;
        let reason = format!("generation {} has run for {}", id.0, generation.policy.runtime_max);
        self.fail_generation(id, Failure::Runtime, reason, signal);
    }

    /// A living generation has failed: a candidate is rolled back, any other is stopped with `signal`.
    pub(super) fn fail_generation(
        &mut self,
        id: GenerationId,
        failure: Failure,
        reason: String,
        signal: Signal,
    ) {
        let Some(generation) = self.service.get_mut(id) else { return };
        // Not asked by ExecStop=: that is for a server that works (systemd goes to its signal at once).
        if failure != Failure::Runtime {
            generation.last_list = generation.last_list.max(LastList::Stop);
        }
        generation.failure.get_or_insert(failure);
        let policy = &generation.policy;
        let patience = match policy.timeout_abort {
            Some(abort) if signal == policy.watchdog_signal => abort,
            Some(_) | None => policy.timeout_stop,
        };
        if self.service.is_candidate(id) {
            return self.roll_back(reason);
        }
        self.tell(Note::Failed { reason: reason.clone() });
        self.fail_attempt_of(id, reason);
        self.stop_generation(id, signal, patience);
    }

    fn fail_attempt_of(&mut self, id: GenerationId, reason: String) {
        if self.service.attempt.as_ref().is_some_and(|attempt| attempt.generation == Some(id)) {
            self.fail_attempt(reason);
        }
    }

    /// STOPPING=1: it has begun to stop by itself, and gets as long as if it had been told.
    pub(super) fn on_stopping_said(&mut self, id: GenerationId) {
        let now = self.now;
        let Some(generation) = self.service.get_mut(id).filter(|generation| generation.lives()) else {
            return;
        };
        let (signal, patience) = (generation.policy.kill_signal, generation.policy.timeout_stop);
        let due = now.after(patience);
        generation.set_ending(Ending::new(now, signal, patience, due));
        generation.last_list = generation.last_list.max(LastList::Stop);
        self.tell(Note::StopsItself { generation: id, patience });
        self.watch().leaves(id);
        if self.service.is_candidate(id) {
            self.roll_back(format!("generation {} stops by itself", id.0));
        }
    }
}

/// The end of one generation.
impl Step<'_> {
    /// The main process is gone and reaped. The sockets are untouched, whatever happened.
    pub(super) fn on_exited(&mut self, id: GenerationId, exit: Exit) {
        let now = self.now;
        let waits_for_gate = self.service.watched().is_gate_closed(id);
        let Some(generation) = self.service.get_mut(id).filter(|generation| !generation.has_ended()) else {
            return;
        };
        let after = now.since(generation.ordered);
        let is_told = generation.failure.is_some();
        let next =
            if generation.lives() { generation.after_exit(exit, waits_for_gate) } else { AfterExit::End };
        if next != AfterExit::End {
            generation.last_exit = Some(exit);
            generation.main = match next {
                AfterExit::FindMain => Main::Sought { since: now, again: None },
                AfterExit::NextCommand(_) | AfterExit::LastProcess | AfterExit::Remain | AfterExit::End => {
                    Main::Absent
                }
            };
        }
        let is_protocol = !is_told && generation.failure == Some(Failure::Protocol);
        self.tell(Note::Exited { generation: id, exit, after });
        if is_protocol && next == AfterExit::End {
            let what = "it ended without READY=1, which was waited for".to_owned();
            self.tell(Note::CommandFailed { generation: id, what, is_no: false });
        }
        match next {
            AfterExit::End => {
                self.ended(id, End::Exited(exit));
                self.wind_down(id);
            }
            AfterExit::NextCommand(index) => self.start_main(id, index),
            AfterExit::FindMain => self.out.push(Action::FindMain { generation: id }),
            AfterExit::LastProcess => self.await_clear(id),
            AfterExit::Remain => self.remain(id),
        }
    }

    /// Active without a process: nothing can be late any more (systemd arms no timer in its state `exited`).
    fn remain(&mut self, id: GenerationId) {
        if let Some(generation) = self.service.get_mut(id) {
            generation.set_watchdog(None);
            generation.policy.runtime_max = Span::INFINITY;
        }
    }

    /// What the phase makes of an end, before anything is cleaned up.
    pub(super) fn ended(&mut self, id: GenerationId, end: End) {
        if self.service.get(id).is_some_and(|generation| generation.ending().is_none()) {
            self.watch().ended_unasked(id, &end);
        }
        let Some(generation) = self.service.get_mut(id) else { return };
        generation.set_end(end.clone());
        generation.set_watchdog(None);
        self.count_cut(id, &end);
        self.end_drain(id);
        self.watch().leaves(id);
        let Some(generation) = self.service.get(id) else { return };
        let reason = describe(generation, &end, self.service.is_candidate(id), self.now);
        self.reload_failed(id, "it ended");
        if self.service.is_candidate(id) {
            self.roll_back(reason);
        } else if self.service.is_alone(id) {
            self.fail_attempt_of(id, reason);
        } else if let Phase::Swapping { old, new, .. } = self.service.phase
            && old == id
        {
            self.old_died(old, new);
        }
    }

    /// Makes the candidate the current generation, ready or not, because the old one has died.
    fn old_died(&mut self, old: GenerationId, new: GenerationId) {
        self.tell(SwapNote::OldDied { old, new }.into());
        self.service.phase = Phase::Up { current: new };
        self.watch().took_over(new, true);
        self.settle_steering();
        self.adopt();
        self.check_gate(new);
        if self.service.get(new).is_some_and(|new| new.ready().is_some()) {
            self.service.ledger.reset();
            self.succeed_attempt();
        }
    }

    /// What follows the end of the main process: ExecStop= where it ended well by itself, then what it left behind.
    pub(super) fn wind_down(&mut self, id: GenerationId) {
        let now = self.now;
        let Some(generation) = self.service.get_mut(id) else { return };
        let (signal, patience) = (generation.policy.kill_signal, generation.policy.timeout_stop);
        if generation.command.is_some() {
            // The end of that command continues from here.
            return;
        }
        let is_good = generation.outcome().result == RunResult::Success;
        if generation.ending().is_none() && is_good && generation.has_stop() {
            generation.set_ending(Ending::new(now, signal, patience, Time::NEVER));
            return self.begin_stop(id);
        }
        self.clear(id);
    }

    /// Ends what the main process left behind.
    fn clear(&mut self, id: GenerationId) {
        // At the end of pid 1 nobody is killed unasked: there is no later, and nobody else to ask them.
        let asks_all = self.service.setting.init && matches!(self.service.phase, Phase::Stopping { .. });
        let Some(generation) = self.service.get(id) else { return };
        match generation.policy.kill_mode {
            _ if !generation.has_run => return self.on_cleared(id),
            KillMode::Process => return self.on_cleared(id),
            KillMode::Mixed if !generation.policy.send_sigkill => return self.on_cleared(id),
            KillMode::Mixed if !asks_all => self.kill(id),
            KillMode::Mixed => self.ask_rest(id),
            KillMode::ControlGroup => {
                // The signal to stop has gone to the whole process group already.
                if generation.ending().is_none_or(|ending| ending.due == Time::NEVER) {
                    self.ask_rest(id);
                }
            }
        }
        self.await_clear(id);
    }

    fn ask_rest(&mut self, id: GenerationId) {
        let since = self.now;
        let Some(generation) = self.service.get_mut(id) else { return };
        let (signal, patience) = (generation.policy.kill_signal, generation.policy.timeout_stop);
        let ending = generation.ending().unwrap_or_else(|| Ending::new(since, signal, patience, since));
        generation.set_ending(Ending { due: since.after(patience), ..ending });
        for signal in [signal, Signal::CONT] {
            self.out.push(Action::Kill { generation: id, signal, scope: Scope::All });
        }
    }

    /// Hears of it as soon as nothing of the generation is left.
    pub(super) fn await_clear(&mut self, id: GenerationId) {
        if let Some(generation) = self.service.get_mut(id) {
            generation.awaits_clear = true;
            self.out.push(Action::AwaitClear { generation: id });
        }
    }

    /// Nothing of it is left: ExecStopPost=, once, and after that it is finished.
    pub(super) fn on_cleared(&mut self, id: GenerationId) {
        let Some(generation) = self.service.get_mut(id) else { return };
        generation.awaits_clear = false;
        if generation.command.is_some() || matches!(generation.main, Main::Ordered { .. }) {
            return;
        }
        if !generation.has_ended() {
            // Which process was the main one did not count, or nobody knew.
            let exit = generation.last_exit.unwrap_or(Exit::Code(0));
            self.ended(id, End::Exited(exit));
            return self.wind_down(id);
        }
        if std::mem::replace(&mut generation.last_list, LastList::StopPost) == LastList::StopPost {
            self.finish(id);
        } else {
            self.run_list(id, CommandList::StopPost);
        }
    }

    /// ExecStopPost= is done; its own processes go as well.
    pub(super) fn after_stop_post(&mut self, id: GenerationId) {
        let Some(generation) = self.service.get(id) else { return };
        if generation.policy.commands.stop_post.is_empty() || generation.leaves_all() {
            return self.finish(id);
        }
        self.kill(id);
        self.await_clear(id);
    }
}
