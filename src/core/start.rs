//! Starting a generation, and the limits that hold for starts nobody asked for.

use super::note::{Note, ReadyBy};
use super::restart::End;
use super::service::{Attempt, Generation, Phase, Step};
use super::{Action, ClientId, GenerationId, StartFailure, limits};
use crate::config::{Ready, StartLimitAction};

impl Step<'_> {
    /// A start that nobody asked for just now: the first, a restart, one by a connection. These count towards the limit.
    pub(super) fn start_automatically(&mut self) {
        let limit = self.policy.start_limit;
        match self.service.ledger.starts.admit(self.now, limit.burst, limit.interval) {
            Ok(()) => self.spawn_alone(),
            Err(_) => self.give_up(),
        }
    }

    /// The start that RestartSec= waited for.
    pub(super) fn restart(&mut self) {
        self.start_automatically();
        if let Phase::Up { .. } = self.service.phase {
            self.service.ledger.restarts += 1;
        }
    }

    /// A start that somebody asked for; `clients` hear how it went.
    pub(super) fn start_by_request(
        &mut self,
        is_swap: bool,
        from: Option<GenerationId>,
        clients: Vec<ClientId>,
    ) {
        self.leave_listening();
        self.service.ledger.reset();
        self.service.attempt = Some(Attempt { generation: None, from, is_swap, clients });
        self.spawn_alone();
    }

    pub(super) fn spawn_alone(&mut self) {
        let id = self.spawn();
        self.service.phase = Phase::Up { current: id };
    }

    pub(super) fn spawn(&mut self) -> GenerationId {
        self.service.last_id += 1;
        let id = GenerationId(self.service.last_id);
        self.service.generations.push(Generation {
            id,
            spawned: self.now,
            ordered: self.now,
            pid: None,
            started: None,
            ready: None,
            end: None,
            failure: None,
            ending: None,
            watchdog: None,
            retry: None,
            status: None,
        });
        if let Some(attempt) = &mut self.service.attempt {
            attempt.generation.get_or_insert(id);
        }
        self.out.push(Action::Spawn { generation: id });
        id
    }

    /// StartLimitBurst= was reached.
    fn give_up(&mut self) {
        let limit = self.policy.start_limit;
        let ends = !self.setting.holds_sockets || limit.action == StartLimitAction::Exit;
        self.tell(Note::LimitHit { limit, ends });
        self.fail_attempt("the start limit was hit".to_owned());
        if ends {
            self.end_with(self.service.last_status);
        } else {
            self.service.phase = Phase::Failed;
        }
    }

    pub(super) fn on_started(&mut self, id: GenerationId, pid: u32) {
        let now = self.now;
        let Some(generation) = self.service.get_mut(id) else { return };
        generation.pid = Some(pid);
        generation.started = Some(now);
        generation.retry = None;
        let ending = generation.ending.take();
        self.tell(Note::Started { generation: id, pid });
        match ending {
            Some(ending) if ending.killed => self.kill(id),
            Some(_) => self.stop_generation(id, self.policy.kill_signal, self.policy.timeout_stop),
            None if self.policy.ready == Ready::Exec => self.become_ready(id, ReadyBy::Exec),
            None => {}
        }
    }

    pub(super) fn on_start_failed(&mut self, id: GenerationId, failure: StartFailure) {
        let now = self.now;
        let Some(generation) = self.service.get_mut(id) else { return };
        if failure.is_text_busy()
            && generation.ending.is_none()
            && now < generation.spawned.after(limits::TEXT_BUSY)
        {
            generation.retry = Some(now.after(limits::TEXT_BUSY_RETRY));
            return;
        }
        generation.retry = None;
        let is_very_first = id == GenerationId(1) && matches!(self.service.phase, Phase::Up { .. });
        let status = failure.exit_status();
        self.tell(Note::CannotStart {
            generation: (!is_very_first).then_some(id),
            what: failure.what.clone(),
        });
        self.ended(id, End::NotStarted(failure));
        if is_very_first {
            self.end_with(status);
        }
        self.finish(id);
    }

    pub(super) fn on_retry(&mut self, id: GenerationId) {
        let now = self.now;
        if let Some(generation) = self.service.get_mut(id) {
            generation.retry = None;
            generation.ordered = now;
            self.out.push(Action::Spawn { generation: id });
        }
    }

    pub(super) fn on_connected(&mut self) {
        if !matches!(self.service.phase, Phase::Listening { hold_until: None }) {
            return;
        }
        match self.service.ledger.triggers.admit(self.now, limits::TRIGGER_BURST, limits::TRIGGER_INTERVAL) {
            Ok(()) => {
                self.leave_listening();
                self.start_automatically();
            }
            Err(until) => {
                self.tell(Note::TriggersHeld { span: until.since(self.now) });
                self.service.phase = Phase::Listening { hold_until: Some(until) };
            }
        }
    }

    pub(super) fn listen(&mut self) {
        self.service.phase = Phase::Listening { hold_until: None };
        self.out.push(Action::Watch { on: true });
    }

    pub(super) fn leave_listening(&mut self) {
        if let Phase::Listening { .. } = self.service.phase {
            self.out.push(Action::Watch { on: false });
        }
    }
}
