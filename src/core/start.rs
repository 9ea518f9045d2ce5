//! Starting a generation, and the limits that hold for starts nobody asked for.

use super::generation::{Generation, Main, Progress};
use super::note::{Note, ReadyBy};
use super::restart::Failure;
use super::service::{Attempt, Phase, Step};
use super::{Action, ClientId, End, Exit, Found, GenerationId, StartFailure, limits};
use crate::config::{CommandList, Ready, StartLimitAction, Type};

impl Step<'_> {
    /// A start that nobody asked for just now: the first, a restart, one by a connection. These count towards the limit.
    pub(super) fn start_automatically(&mut self) {
        let limit = self.service.policy.start_limit;
        match self.service.ledger.starts.admit(self.now, limit.burst, limit.interval) {
            Ok(()) => self.spawn_alone(),
            Err(_) => self.give_up(),
        }
    }

    /// Makes the start that RestartSec= has delayed.
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
        let policy = match &self.service.staged {
            Some(staged) => staged.policy.clone(),
            None => self.service.policy.clone(),
        };
        let slot = self.service.free_slot();
        self.watch().made(id, slot, &policy);
        self.service.generations.push(Generation::new(id, policy, slot, self.now));
        if let Some(attempt) = &mut self.service.attempt {
            attempt.generation.get_or_insert(id);
        }
        self.run_list(id, CommandList::Condition);
        id
    }

    /// Starts the main process; with Type=oneshot, past the last of its commands, the start is done.
    pub(super) fn start_main(&mut self, id: GenerationId, index: usize) {
        let now = self.now;
        let Some(generation) = self.service.get_mut(id) else { return };
        generation.main = Main::Absent;
        if generation.policy.service_type == Type::Oneshot && index >= generation.policy.commands.start.len()
        {
            if generation.progress == Progress::Preparing {
                generation.progress = Progress::Started { at: now };
            }
            return self.main_done(id);
        }
        generation.index = index;
        generation.main = Main::Ordered { since: now };
        let slot = generation.slot;
        self.watch().spawned(id);
        self.out.push(Action::Spawn { generation: id, index, slot });
    }

    /// The start of Type=oneshot or forking is complete.
    fn main_done(&mut self, id: GenerationId) {
        let Some(generation) = self.service.get(id) else { return };
        let is_up = generation.is_up();
        if generation.policy.ready == Ready::Exec {
            self.pass_gate(id, ReadyBy::Exec);
        }
        if is_up { self.on_active(id) } else { self.main_up(id) }
    }

    /// StartLimitBurst= was reached: nothing is started any more before somebody asks for it.
    fn give_up(&mut self) {
        let limit = self.service.policy.start_limit;
        let ends = !self.service.setting.holds_sockets || limit.action == StartLimitAction::Exit;
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
        generation.main = Main::Runs { pid };
        generation.progress = Progress::Started { at: now };
        generation.has_run = true;
        let ending = generation.ending();
        let (service_type, ready) = (generation.policy.service_type, generation.policy.ready);
        if ending.is_none() {
            let setting = self.service.setting.holds_sockets;
            let holds_sockets = self.service.staged.as_ref().map_or(setting, |staged| staged.holds_sockets);
            self.watch().started(id, holds_sockets && service_type != Type::Oneshot);
        }
        self.tell(Note::Started { generation: id, pid });
        match (ending, service_type) {
            (Some(ending), _) if ending.killed => self.kill(id),
            (Some(_), _) => self.send_kill_signal(id),
            (None, Type::Forking | Type::Oneshot) => {}
            (None, Type::Simple | Type::Exec | Type::Notify | Type::NotifyReload) => {
                if ready == Ready::Exec {
                    self.pass_gate(id, ReadyBy::Exec);
                }
                if matches!(service_type, Type::Simple | Type::Exec) {
                    self.main_up(id);
                }
            }
        }
    }

    pub(super) fn on_start_failed(&mut self, id: GenerationId, failure: StartFailure) {
        let now = self.now;
        let Some(generation) = self.service.get_mut(id) else { return };
        if let Main::Ordered { since } = generation.main
            && failure.is_text_busy()
            && generation.ending().is_none()
            && now < since.after(limits::TEXT_BUSY)
        {
            generation.main = Main::Busy { since, again: now.after(limits::TEXT_BUSY_RETRY) };
            return;
        }
        generation.main = Main::Absent;
        let is_very_first = id == GenerationId(1)
            && generation.started().is_none()
            && matches!(self.service.phase, Phase::Up { .. });
        let status = failure.exit_status();
        self.tell(Note::CannotStart {
            generation: (!is_very_first).then_some(id),
            what: failure.what.clone(),
        });
        self.ended(id, End::NotStarted(failure));
        if is_very_first {
            self.end_with(status);
        }
        self.wind_down(id);
    }

    pub(super) fn on_retry(&mut self, id: GenerationId) {
        let now = self.now;
        let Some(generation) = self.service.get_mut(id) else { return };
        match generation.main {
            Main::Sought { .. } => {
                generation.main = generation.main.without_retry();
                self.out.push(Action::FindMain { generation: id });
            }
            Main::Busy { since, .. } => {
                (generation.ordered, generation.main) = (now, Main::Ordered { since });
                let (index, slot) = (generation.index, generation.slot);
                self.out.push(Action::Spawn { generation: id, index, slot });
            }
            Main::Absent | Main::Ordered { .. } | Main::Runs { .. } => {}
        }
    }

    /// Type=forking: the first process has ended, its daemon goes on.
    pub(super) fn on_main_sought(&mut self, id: GenerationId, found: Found) {
        let now = self.now;
        let Some(generation) = self.service.get_mut(id).filter(|generation| !generation.has_ended()) else {
            return;
        };
        // MAINPID= may have said it meanwhile.
        let Main::Sought { since, .. } = generation.main else { return };
        if let Found::Main(pid) = found {
            generation.main = Main::Runs { pid };
        }
        if generation.ending().is_some() {
            return self.send_kill_signal(id);
        }
        let again = Some(now.after(limits::PID_FILE_RETRY));
        match found {
            Found::Unknown if now < since.after(limits::SEVERAL_LEFT) => {
                generation.main = Main::Sought { since, again };
            }
            Found::Main(pid) => {
                self.tell(Note::MainIs { generation: id, pid: Some(pid) });
                self.main_done(id);
            }
            // ExecStartPost= may write the file.
            Found::NotYet if generation.starts_post_first() => self.main_up(id),
            Found::NotYet => generation.main = Main::Sought { since, again },
            Found::Unknown => {
                self.tell(Note::MainIs { generation: id, pid: None });
                self.await_clear(id);
                self.main_done(id);
            }
            Found::Nobody => {
                if generation.policy.has_pid_file {
                    generation.failure = Some(Failure::Protocol);
                }
                let exit = generation.last_exit.unwrap_or(Exit::Code(0));
                self.ended(id, End::Exited(exit));
                self.wind_down(id);
            }
        }
    }

    pub(super) fn on_main_changed(&mut self, id: GenerationId, pid: u32) {
        let Some(generation) = self.service.get_mut(id).filter(|generation| generation.runs()) else {
            return;
        };
        // The next command of Type=oneshot is on its way: the process named is none of it.
        if matches!(generation.main, Main::Ordered { .. } | Main::Busy { .. }) {
            return;
        }
        let is_sought = matches!(generation.main, Main::Sought { .. });
        if is_sought && (!generation.is_up() || generation.policy.has_pid_file) {
            // The search goes on, and finds it where no PIDFile= says otherwise.
            return;
        }
        let main = Main::Runs { pid };
        if std::mem::replace(&mut generation.main, main) != main {
            self.tell(Note::MainIs { generation: id, pid: Some(pid) });
        }
    }

    pub(super) fn on_connected(&mut self) {
        if !matches!(self.service.phase, Phase::Listening { hold_until: None }) {
            return;
        }
        let (trigger, poll) = (self.service.policy.trigger_limit, self.service.policy.poll_limit);
        let ledger = &mut self.service.ledger;
        let admitted = ledger.polls.admit(self.now, poll.burst, poll.interval);
        match admitted.and_then(|()| ledger.triggers.admit(self.now, trigger.burst, trigger.interval)) {
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
        self.out.push(Action::WakeOnConnection { on: true });
        if self.service.steers() && !self.service.stranded.is_empty() {
            // It arrived while the last generation was being ended, and is told only once.
            self.on_connected();
        }
    }

    pub(super) fn leave_listening(&mut self) {
        if let Phase::Listening { .. } = self.service.phase {
            self.out.push(Action::WakeOnConnection { on: false });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Event, Setting, Supervisor, Time};
    use super::*;
    use crate::config::Config;

    /// Several processes are left of a daemon, and one of them says which is the main one.
    #[test]
    fn mainpid_does_not_end_the_search_for_a_daemon() {
        let setting = Setting { holds_sockets: false, steers: false, hup_ignored: false, init: false };
        let mut policy = Config::for_command_line().policy;
        (policy.service_type, policy.ready) = (Type::Forking, Ready::Exec);
        let mut core = Supervisor::new(policy, setting);
        let generation = GenerationId(1);
        let mut step = |millis: u64, event: Event| {
            let mut actions = Vec::new();
            core.step(Time(millis * 1_000_000), event, &mut actions);
            (actions.contains(&Action::FindMain { generation }), core.is_ready(generation))
        };
        step(0, Event::Begun);
        step(0, Event::Started { generation, pid: 7 });
        assert_eq!(step(1, Event::Exited { generation, exit: Exit::Code(0) }), (true, false));
        step(1, Event::MainSought { generation, found: Found::Unknown });
        step(2, Event::MainChanged { generation, pid: 9 });
        assert_eq!(step(50, Event::Tick), (true, false));
        assert_eq!(step(50, Event::MainSought { generation, found: Found::Main(9) }), (false, true));
    }
}
