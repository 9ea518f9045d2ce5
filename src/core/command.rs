//! The commands before, beside and after the main process: ExecCondition=, ExecStartPre=, ExecStartPost=, ExecReload=,
//! ExecStop= and ExecStopPost=, one at a time, in systemd's order (systemd.service(5), ExecStart= and following).

use super::generation::{Generation, Progress, Running};
use super::note::{self, Note};
use super::restart::{Failure, RunOutcome, RunResult, result};
use super::service::Step;
use super::{Action, Command, End, Exit, GenerationId, Scope, Time, limits};
use crate::config::{CommandList, FailureMode, Policy, Signal, Type};

impl Step<'_> {
    pub(super) fn run_list(&mut self, id: GenerationId, list: CommandList) {
        self.run_from(id, list, 0);
    }

    /// Runs command `index` of a list; past its end, goes on with what follows the list.
    fn run_from(&mut self, id: GenerationId, list: CommandList, index: usize) {
        let now = self.now;
        let Some(generation) = self.service.get_mut(id) else { return };
        if index >= generation.policy.commands.list(list).len() {
            return self.list_done(id, list);
        }
        let is_end = matches!(list, CommandList::Stop | CommandList::StopPost);
        let timeout = if is_end { generation.policy.timeout_stop } else { generation.policy.timeout_start };
        let command = Command { list, index };
        generation.has_run = true;
        generation.command = Some(Running { command, due: now.after(timeout), is_over: false });
        let outcome = is_end.then(|| generation.outcome());
        let slot = generation.slot;
        self.out.push(Action::Run { generation: id, command, outcome, slot });
    }

    fn list_done(&mut self, id: GenerationId, list: CommandList) {
        match list {
            CommandList::Condition => self.run_list(id, CommandList::StartPre),
            CommandList::StartPre => self.start_main(id, 0),
            CommandList::Start => {}
            CommandList::StartPost => self.on_active(id),
            CommandList::Reload => self.reload_by_signal(id),
            CommandList::Stop => self.after_stop(id),
            CommandList::StopPost => self.after_stop_post(id),
        }
    }

    pub(super) fn on_command_ended(&mut self, id: GenerationId, end: End) {
        let Some(generation) = self.service.get_mut(id) else { return };
        let Some(running) = generation.command.take() else { return };
        let (has_ended, is_told) = (generation.has_ended(), generation.ending().is_some());
        let Command { list, index } = running.command;
        let ignored = generation.policy.commands.list(list).get(index).copied().unwrap_or_default();
        match list {
            CommandList::StopPost if running.is_over => self.after_stop_post(id),
            CommandList::Reload if running.is_over && !is_told && !has_ended => {}
            CommandList::Stop if running.is_over => self.go_on_ending(id),
            CommandList::Stop | CommandList::StopPost => {
                self.after_command(id, running.command, end, ignored)
            }
            // The main process has ended meanwhile: the list is gone through all the same, as systemd does it.
            CommandList::StartPost if has_ended && !is_told && !running.is_over => {
                self.after_command(id, running.command, end, ignored);
            }
            CommandList::Condition
            | CommandList::StartPre
            | CommandList::Start
            | CommandList::StartPost
            | CommandList::Reload
                if is_told || has_ended =>
            {
                self.go_on_ending(id);
            }
            CommandList::Condition
            | CommandList::StartPre
            | CommandList::Start
            | CommandList::StartPost
            | CommandList::Reload => self.after_command(id, running.command, end, ignored),
        }
    }

    fn after_command(&mut self, id: GenerationId, command: Command, end: End, ignored: bool) {
        let is_done = match (command.list, &end) {
            _ if ignored => true,
            // How it ended was not seen. What a restart would run again may as well be run again now, and a server that
            // works is not stopped for a guess.
            (CommandList::Condition | CommandList::StartPre, End::Exited(Exit::Unknown)) => {
                return self.run_from(id, command.list, command.index);
            }
            (CommandList::StartPost, End::Exited(Exit::Unknown)) => true,
            (_, end) => *end == End::Exited(Exit::Code(0)),
        };
        if is_done {
            return self.run_from(id, command.list, command.index + 1);
        }
        // 1 to 254 is an answer, not a failure (systemd.service(5), ExecCondition=).
        let is_no = command.list == CommandList::Condition && matches!(end, End::Exited(Exit::Code(1..=254)));
        let failure = Failure::Command(command, end);
        let what = note::command_failed(&failure);
        let has_ended = self.service.get(id).is_some_and(|generation| generation.has_ended());
        if command.list != CommandList::StartPost || has_ended {
            // For ExecStartPost= the reason of the stop says it.
            self.tell(Note::CommandFailed { generation: id, what: what.clone(), is_no });
        }
        match command.list {
            CommandList::Condition if is_no => self.never_starts(id, End::Skipped, None),
            CommandList::Condition | CommandList::StartPre => {
                self.never_starts(id, End::Untried, Some(failure));
            }
            CommandList::StartPost if has_ended => {
                self.record_failure(id, failure);
                self.wind_down(id);
            }
            CommandList::StartPost => {
                let signal = self.kill_signal_of(id);
                self.fail_generation(id, failure, format!("generation {}: {what}", id.0), signal);
            }
            CommandList::Start => {}
            CommandList::Reload => self.reload_failed(id, &what),
            CommandList::Stop => {
                self.record_failure(id, failure);
                self.after_stop(id);
            }
            CommandList::StopPost => {
                self.record_failure(id, failure);
                self.after_stop_post(id);
            }
        }
    }

    /// The main process is not started: ExecStopPost= still runs.
    fn never_starts(&mut self, id: GenerationId, end: End, failure: Option<Failure>) {
        if let Some(generation) = self.service.get_mut(id) {
            generation.failure = failure;
        }
        self.ended(id, end);
        self.wind_down(id);
    }

    /// Only the first failure of a run is its result.
    fn record_failure(&mut self, id: GenerationId, failure: Failure) {
        if let Some(generation) = self.service.get_mut(id)
            && generation.outcome().result == RunResult::Success
        {
            generation.failure = Some(failure);
        }
    }

    /// A command took longer than TimeoutStartSec= or TimeoutStopSec=.
    pub(super) fn on_command_due(&mut self, id: GenerationId) {
        let now = self.now;
        let Some(generation) = self.service.get_mut(id) else { return };
        let has_ended = generation.has_ended();
        let Some(running) = &mut generation.command else { return };
        let list = running.command.list;
        if running.is_over {
            return self.give_up_command(id, list);
        }
        running.is_over = true;
        let is_alone = has_ended && list == CommandList::StartPost;
        let is_killed = is_alone || matches!(list, CommandList::Reload | CommandList::StopPost);
        running.due = if is_killed {
            now.after(limits::AFTER_KILL)
        } else if list == CommandList::Stop {
            now.after(generation.policy.timeout_stop)
        } else {
            Time::NEVER
        };
        let policy = &generation.policy;
        let start_signal = failure_signal(policy, policy.start_failure_mode);
        let stop_signal = failure_signal(policy, policy.stop_failure_mode);
        let what = format!("{}= took too long", list.key());
        match list {
            CommandList::Reload => self.reload_failed(id, &what),
            CommandList::StartPost if is_alone => self.timed_out(id, what),
            CommandList::Condition | CommandList::StartPre | CommandList::Start | CommandList::StartPost => {
                let reason = format!("generation {}: {what}", id.0);
                self.fail_generation(id, Failure::Timeout, reason, start_signal);
            }
            CommandList::Stop | CommandList::StopPost => self.timed_out(id, what),
        }
        if is_killed {
            self.signal_command(id, Signal::KILL);
        } else if list == CommandList::Stop {
            self.signal_command(id, stop_signal);
            self.after_stop(id);
        }
    }

    fn timed_out(&mut self, id: GenerationId, what: String) {
        self.tell(Note::CommandFailed { generation: id, what, is_no: false });
        self.record_failure(id, Failure::Timeout);
    }

    /// SIGKILL did not end it: the kernel holds it. Or SIGKILL is not to be sent.
    fn give_up_command(&mut self, id: GenerationId, list: CommandList) {
        let Some(generation) = self.service.get_mut(id) else { return };
        generation.command = None;
        let has_ended = generation.has_ended();
        if list == CommandList::Stop && generation.policy.send_sigkill {
            self.signal_command(id, Signal::KILL);
        }
        self.tell(Note::LeftBehind { generation: Some(id) });
        if list == CommandList::StopPost {
            self.after_stop_post(id);
        } else if has_ended {
            self.go_on_ending(id);
        }
    }

    pub(super) fn signal_command(&mut self, id: GenerationId, signal: Signal) {
        self.out.push(Action::Kill { generation: id, signal, scope: Scope::Command });
    }

    pub(super) fn kill_signal_of(&self, id: GenerationId) -> Signal {
        self.service.get(id).map_or(Signal::TERM, |generation| generation.policy.kill_signal)
    }

    /// The start is done as Type= means it; ExecStartPost= follows.
    pub(super) fn main_up(&mut self, id: GenerationId) {
        let Some(generation) = self.service.get_mut(id) else { return };
        if let Progress::Started { at } = generation.progress {
            generation.progress = Progress::Up { started: at };
            self.run_list(id, CommandList::StartPost);
        }
    }

    /// Makes the generation active, because ExecStartPost= is done.
    pub(super) fn on_active(&mut self, id: GenerationId) {
        let Some(generation) = self.service.get_mut(id) else { return };
        if !generation.has_ended() && generation.policy.has_pid_file && generation.has_no_daemon() {
            // ExecStartPost= was to write the PIDFile=.
            return self.out.push(Action::FindMain { generation: id });
        }
        if let Some(started) = generation.started() {
            generation.progress = Progress::Active { started, at: self.now };
        }
        if generation.has_ended() {
            return self.wind_down(id);
        }
        let is_done = generation.policy.service_type == Type::Oneshot && !generation.policy.remain_after_exit;
        let exit = generation.last_exit.unwrap_or(Exit::Code(0));
        self.check_ready(id);
        if is_done && self.service.get(id).is_some_and(Generation::lives) {
            self.ended(id, End::Exited(exit));
            self.wind_down(id);
        }
    }
}

impl Generation {
    /// The result of the run so far.
    pub(super) fn outcome(&self) -> RunOutcome {
        let none_yet = End::Exited(Exit::Code(0));
        let end = self.end().unwrap_or(&none_yet);
        let status = match self.end() {
            Some(End::Exited(_)) | None if self.has_no_daemon() => None,
            Some(end) => end.status(),
            // The generation remains after the exit of its main process (RemainAfterExit=).
            None if self.main.pid().is_none() => self.last_exit.and_then(Exit::known),
            None => None,
        };
        RunOutcome { result: result(&self.policy, end, self.failure.as_ref()), status }
    }
}

/// TimeoutStartFailureMode= and TimeoutStopFailureMode=
pub(super) const fn failure_signal(policy: &Policy, mode: FailureMode) -> Signal {
    match mode {
        FailureMode::Terminate => policy.kill_signal,
        FailureMode::Abort => policy.watchdog_signal,
        FailureMode::Kill => policy.final_kill_signal,
    }
}
