//! Ends supervise: generations first, then processes that escaped them, then itself.

use super::note::Note;
use super::report::Reply;
use super::service::{Phase, Step, Stop, Sweep};
use super::{Action, GenerationId, Manager, limits};
use crate::config::{KillMode, Signal};

impl Step<'_> {
    /// Ends supervise with the status of its server.
    pub(super) fn end_with(&mut self, status: u8) {
        self.stop(status, self.service.policy.kill_signal);
    }

    pub(super) fn stop(&mut self, status: u8, signal: Signal) {
        let patience = self.service.policy.timeout_stop;
        for client in self.abandon_swap("supervise is stopping") {
            self.reply(client, Reply::failed("supervise is stopping"));
        }
        // The files may not be read any more; should they be, nobody waits for it.
        let rereading = self.service.clients.rereading.clients().map(std::mem::take).unwrap_or_default();
        for client in rereading {
            self.reply(client, Reply::failed("supervise is stopping"));
        }
        for client in std::mem::take(&mut self.service.clients.pause) {
            self.reply(client, Reply::failed("supervise is stopping"));
        }
        self.leave_listening();
        let stop =
            Stop { status, since: self.now, deadline: self.now.after(patience), sweep: None, is_over: false };
        self.service.phase = Phase::Stopping { stop };
        self.out.push(Action::TellManager(Manager::Stopping));
        if self.service.generations.iter().any(|generation| generation.runs() || generation.command.is_some())
        {
            self.tell(Note::Stopping { signal, patience });
        }
        for id in self.generation_ids() {
            self.stop_generation(id, signal, patience);
        }
        self.sweep_if_alone();
    }

    pub(super) fn generation_ids(&self) -> Vec<GenerationId> {
        self.service.generations.iter().map(|generation| generation.id).collect()
    }

    /// Sends SIGKILL at once, after a second request to stop.
    pub(super) fn force_stop(&mut self) {
        let Phase::Stopping { stop } = self.service.phase else { return };
        self.tell(Note::StopForced);
        for id in self.generation_ids() {
            self.kill(id);
        }
        self.service.phase = Phase::Stopping { stop: Stop { deadline: self.now, ..stop } };
        if stop.sweep.is_some() {
            self.sweep(Signal::KILL);
        }
    }

    /// Once no generation is left: end what escaped them all (left its process group), then ourselves.
    pub(super) fn sweep_if_alone(&mut self) {
        let Phase::Stopping { stop } = self.service.phase else { return };
        if !self.service.generations.is_empty() || stop.sweep.is_some() || stop.is_over {
            return;
        }
        // KillMode=process and SendSIGKILL=no promise to leave processes alone; as pid 1 nobody can survive us.
        let policy = &self.service.policy;
        if (policy.kill_mode == KillMode::Process || !policy.send_sigkill) && !self.service.setting.init {
            return self.exit(stop.status);
        }
        self.sweep(if stop.deadline <= self.now { Signal::KILL } else { self.service.policy.kill_signal });
    }

    pub(super) fn sweep(&mut self, signal: Signal) {
        let Phase::Stopping { stop } = self.service.phase else { return };
        let killed = signal == Signal::KILL;
        let due = if killed { self.now.after(limits::AFTER_KILL) } else { stop.deadline };
        self.service.phase = Phase::Stopping { stop: Stop { sweep: Some(Sweep { killed, due }), ..stop } };
        self.out.push(Action::Sweep { signal });
    }

    pub(super) fn on_childless(&mut self) {
        if let Phase::Stopping { stop: Stop { status, sweep: Some(_), is_over: false, .. } } =
            self.service.phase
        {
            self.exit(status);
        }
    }

    pub(super) fn exit(&mut self, status: u8) {
        if let Phase::Stopping { stop } = &mut self.service.phase {
            stop.is_over = true;
        }
        for (client, _) in std::mem::take(&mut self.service.clients.status) {
            self.reply_status(client);
        }
        for client in std::mem::take(&mut self.service.clients.stop) {
            self.reply(client, Reply::done("stopped"));
        }
        self.out.push(Action::Exit(status));
    }
}
