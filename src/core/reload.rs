//! `reload`: ExecReload=, then the signal of Type=notify-reload, in the current generation; and RELOADING=1.

use super::generation::{Generation, Reload};
use super::note::{Note, ReloadNote};
use super::report::Reply;
use super::service::{Phase, Step};
use super::{Action, ClientId, GenerationId, Manager, Scope, Time, limits};
use crate::config::{CommandList, Type};

impl Step<'_> {
    pub(super) fn on_reload_requested(&mut self, client: ClientId) {
        let Phase::Up { current } = self.service.phase else {
            let why = if let Phase::Swapping { .. } = self.service.phase {
                "a swap is under way, and its server loads everything anew"
            } else {
                "no server runs that could reload; \"supervise status\" says why"
            };
            return self.reply(client, Reply::failed(why));
        };
        let now = self.now;
        let Some(generation) = self.service.get_mut(current) else { return };
        let refusal = if generation.ready().is_none() || !generation.lives() {
            Some(format!("{current} is not ready; it loads everything as it starts"))
        } else if generation.policy.commands.reload.is_empty()
            && generation.policy.service_type != Type::NotifyReload
        {
            Some(format!(
                "{current} has neither ExecReload= nor Type=notify-reload; \"supervise swap\" starts a new one"
            ))
        } else if generation.reload.is_some() || generation.command.is_some() {
            Some(format!("{current} is reloading already; ask again when it is done"))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return self.reply(client, Reply::failed(refusal));
        }
        generation.reload = Some(Reload {
            since: now,
            due: Time::NEVER,
            was_said: false,
            is_start: false,
            clients: vec![client],
        });
        self.tell(Note::Reload(current, ReloadNote::Begun));
        self.out.push(Action::TellManager(Manager::Reloading));
        self.run_list(current, CommandList::Reload);
    }

    /// ExecReload= is done: with Type=notify-reload the server is asked by its signal as well.
    pub(super) fn reload_by_signal(&mut self, id: GenerationId) {
        let now = self.now;
        let Some(generation) = self.service.get_mut(id) else { return };
        if generation.policy.service_type != Type::NotifyReload {
            return self.reloaded(id);
        }
        let (signal, due) = (generation.policy.reload_signal, now.after(generation.policy.timeout_start));
        if let Some(reload) = &mut generation.reload {
            (reload.since, reload.due) = (now, due);
        }
        self.out.push(Action::Kill { generation: id, signal, scope: Scope::Main });
    }

    /// RELOADING=1. After our signal only with a MONOTONIC_USEC= from then on: an older one is another reload's.
    pub(super) fn on_reloading_said(&mut self, id: GenerationId, at: Option<Time>) {
        let now = self.now;
        let Some(generation) = self.service.get_mut(id) else { return };
        let is_up = generation.is_up();
        match &mut generation.reload {
            Some(reload) => reload.was_said |= at.is_some_and(|at| at >= reload.since),
            None if is_up => {
                // systemd arms TimeoutStartSec= for a reload by notification as well.
                let due = now.after(generation.policy.timeout_start);
                // A few servers say so as they load their files for the first time.
                let is_start = generation.ready().is_none_or(|ready| now.since(ready) < limits::START_RELOAD);
                generation.reload =
                    Some(Reload { since: now, due, was_said: true, is_start, clients: Vec::new() });
                if !is_start {
                    self.tell(Note::Reload(id, ReloadNote::Begun));
                }
                if self.service.current() == Some(id) {
                    self.out.push(Action::TellManager(Manager::Reloading));
                }
            }
            None => {}
        }
    }

    /// READY=1 ends a reload that was announced.
    pub(super) fn on_reload_ready_said(&mut self, id: GenerationId) {
        let Some(generation) = self.service.get(id) else { return };
        // As long as ExecReload= runs, its end is what counts.
        let is_done = generation.command.is_none() && generation.reload.as_ref().is_some_and(|r| r.was_said);
        if is_done {
            self.reloaded(id);
        }
    }

    fn reloaded(&mut self, id: GenerationId) {
        let now = self.now;
        let Some(reload) = self.service.get_mut(id).and_then(|generation| generation.reload.take()) else {
            return;
        };
        if !reload.is_start {
            self.tell(Note::Reload(id, ReloadNote::Done { after: now.since(reload.since) }));
        }
        for client in reload.clients {
            self.reply(client, Reply::done(format!("{id} has reloaded")));
        }
        if self.service.current() == Some(id) {
            self.out.push(Action::TellManager(Manager::Ready));
        }
    }

    /// Ends a reload that failed; the server goes on with the configuration that it had.
    pub(super) fn reload_failed(&mut self, id: GenerationId, why: &str) {
        let Some(reload) = self.service.get_mut(id).and_then(|generation| generation.reload.take()) else {
            return;
        };
        let serves = self.service.get(id).is_some_and(Generation::lives);
        let note = Note::Reload(id, ReloadNote::Failed { why: why.to_owned(), serves });
        let text = note.to_string();
        self.tell(note);
        for client in reload.clients {
            self.reply(client, Reply::failed(text.clone()));
        }
        if self.service.current() == Some(id) && self.service.serves() {
            self.out.push(Action::TellManager(Manager::Ready));
        }
    }

    pub(super) fn on_reload_due(&mut self, id: GenerationId) {
        self.reload_failed(id, "the server did not send RELOADING=1 with MONOTONIC_USEC= and then READY=1 within TimeoutStartSec=");
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Event, Notify, Setting, Supervisor};
    use super::*;
    use crate::config::Config;

    /// caddy and haproxy -Ws send RELOADING=1 while they start.
    #[test]
    fn a_server_that_says_as_it_starts_that_it_reloads_is_no_news() {
        let setting = Setting { holds_sockets: false, steers: false, hup_ignored: false, init: false };
        let mut core = Supervisor::new(Config::for_command_line().policy, setting);
        let mut said = |millis: u64, event: Event| {
            let mut actions = Vec::new();
            core.step(Time(millis * 1_000_000), event, &mut actions);
            actions.iter().filter(|action| matches!(action, Action::Tell(Note::Reload(..)))).count()
        };
        let id = GenerationId(1);
        let says = |reloading, ready| {
            let message = Notify { reloading, ready, ..Notify::default() };
            Event::Notified { generation: id, message }
        };
        said(0, Event::Begun);
        said(0, Event::Started { generation: id, pid: 7 });
        assert_eq!(said(10, says(true, false)) + said(20, says(false, true)), 0);
        assert_eq!(said(500, says(true, false)) + said(510, says(false, true)), 0);
        assert_eq!((said(3000, says(true, false)), said(3010, says(false, true))), (1, 1));
    }
}
