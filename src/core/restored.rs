//! Repeats orders of a core that was restored from its saved state: a new shell (src/os) knows the processes and sockets,
//! but not what was ordered.
//!
//! After an orderly hand-over these are the standing orders alone: what a shell can answer by itself it has answered before
//! it saved. After a supervise that was killed any answer may be lost, so every order comes again that has none. What
//! became of the processes a shell knows by itself.

use super::generation::{Generation, Main, Progress};
use super::service::{Phase, Step, Stop};
use super::{Action, limits};
use crate::config::{CommandList, Signal};

impl Step<'_> {
    /// Orders what the shell has to keep to, and has the server asked once more what it may not have answered.
    pub(super) fn on_restored(&mut self) {
        self.repeat_standing_orders();
        self.watch().restored();
    }

    pub(super) fn on_recovered(&mut self) {
        if let Phase::Stopping { stop: Stop { is_over: true, status, .. } } = self.service.phase {
            return self.out.push(Action::Exit(status));
        }
        self.repeat_standing_orders();
        for generation in &self.service.generations {
            generation.repeat_orders(self.out);
        }
        if self.service.clients.is_rereading() {
            self.out.push(Action::Reread);
        }
        if let Phase::Stopping { stop: Stop { sweep: Some(sweep), .. } } = self.service.phase {
            let signal = if sweep.killed { Signal::KILL } else { self.service.policy.kill_signal };
            self.out.push(Action::Sweep { signal });
        }
        self.watch().recovered();
        let spared = self.now.after(limits::UNWATCHED);
        self.service.generations.iter_mut().for_each(|generation| generation.start_spared = spared);
        if self.service.is_suspended {
            // Whoever was to continue us would not find us.
            self.on_continued();
        } else {
            self.spare_watchdogs();
        }
    }

    fn repeat_standing_orders(&mut self) {
        let service = &*self.service;
        if service.steers() {
            self.out.push(Action::Steer(service.steering));
        }
        // Also those of sockets that had slots: the next configuration may give them back.
        self.out.extend(service.guarded.iter().map(|slot| Action::Guard { slot: *slot, on: true }));
        if matches!(service.phase, Phase::Listening { hold_until: None }) {
            self.out.push(Action::WakeOnConnection { on: true });
        }
    }
}

impl Generation {
    /// Those whose answer is still to come.
    fn repeat_orders(&self, out: &mut Vec<Action>) {
        let (generation, slot) = (self.id, self.slot);
        if let Main::Ordered { .. } = self.main {
            out.push(Action::Spawn { generation, index: self.index, slot });
        }
        if let Some(running) = self.command {
            let command = running.command;
            let is_end = matches!(command.list, CommandList::Stop | CommandList::StopPost);
            let outcome = is_end.then(|| self.outcome());
            out.push(Action::Run { generation, command, outcome, slot });
        }
        if self.awaits_main() {
            out.push(Action::FindMain { generation });
        }
        if self.awaits_clear {
            out.push(Action::AwaitClear { generation });
        }
    }

    /// Type=forking: its daemon is looked for just now.
    fn awaits_main(&self) -> bool {
        let was_told = self.ending().is_some_and(|ending| ending.was_told);
        let is_sought = matches!(self.main, Main::Sought { again: None, .. });
        // Several were left, or ExecStartPost= is run before the search goes on.
        let is_over = match self.progress {
            Progress::Preparing | Progress::Started { .. } => false,
            Progress::Up { .. } => self.command.is_some() || !self.policy.has_pid_file,
            Progress::Active { .. } | Progress::Ready { .. } => true,
        };
        is_sought && !is_over && !was_told && !self.has_ended()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        ClientId, Counted, Event, Finding, GenerationId, Request, Reread, Setting, Supervisor, Time, Traffic,
    };
    use super::*;
    use crate::config::{Config, Policy, Ready, Span};

    /// Drain= ends while nobody watches, and the request that is in flight then has its last moment all the same.
    #[test]
    fn a_drain_that_ended_unwatched_is_looked_at_before_it_is_cut() {
        let setting = Setting { holds_sockets: true, steers: true, hup_ignored: false, init: false };
        let (bake, drain) = (Span::ZERO, Span::from_secs(1));
        let policy = Policy { ready: Ready::Exec, bake, drain, ..Config::for_command_line().policy };
        let mut core = Supervisor::new(policy.clone(), setting);
        let old = GenerationId(1);
        let step = |core: &mut Supervisor, millis: u64, event: Event| {
            let mut actions = Vec::new();
            core.step(Time(millis * 1_000_000), event, &mut actions);
            actions
                .iter()
                .any(|action| matches!(action, Action::Kill { generation, .. } if *generation == old))
        };
        let counted = |in_flight| {
            let traffic = Some(Traffic { in_flight, ..Traffic::default() });
            let finding = Finding::Counted(Counted { traffic, is_stopped: false, cost: Span::ZERO });
            Event::Answered { generation: old, finding }
        };
        let reread = Reread { policy, holds_sockets: true, steers: true, stored_fds: 0 };
        for event in [
            Event::Begun,
            Event::Started { generation: old, pid: 7 },
            Event::Requested { client: ClientId(1), request: Request::Swap { wait: true } },
            Event::Reread { result: Ok(Box::new(reread)) },
            Event::Started { generation: GenerationId(2), pid: 8 },
            Event::Tick,
            counted(1),
        ] {
            assert!(!step(&mut core, 0, event));
        }
        let mut core = Supervisor::restore(&core.save()).expect("its own state");
        for event in [Event::Recovered, Event::Tick, counted(1)] {
            assert!(!step(&mut core, 1_200, event), "it has a request in flight");
        }
        assert!(step(&mut core, 1_210, counted(0)));
    }
}
