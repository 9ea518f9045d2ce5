//! Carries out the requests of verbs, and answers them.

use super::generation::{Drain, Replaced};
use super::note::{Note, SwapNote};
use super::report::Reply;
use super::service::{Attempt, Phase, Rereading, Step, Then};
use super::status;
use super::timers;
use super::{Action, ClientId, Request, Scope, Time, limits};
use crate::config::Signal;

impl Step<'_> {
    pub(super) fn on_request(&mut self, client: ClientId, request: &Request) {
        if matches!(self.service.phase, Phase::Stopping { .. })
            && !matches!(
                request,
                Request::Stop | Request::Status { .. } | Request::Kill { signal: Signal::KILL }
            )
        {
            return self.reply(client, stopping());
        }
        match request {
            Request::Swap { wait } => self.on_swap_requested(client, *wait),
            Request::Abort => self.on_abort_requested(client),
            Request::Reload => self.on_reload_requested(client),
            Request::Restart => self.on_restart_requested(client),
            Request::Pause => self.on_pause_requested(client),
            Request::Resume => self.on_resume_requested(client),
            Request::Stop if matches!(self.service.phase, Phase::Stopping { stop } if stop.is_over) => {
                self.reply(client, Reply::done("stopped"));
            }
            Request::Stop => {
                self.service.clients.stop.push(client);
                self.on_stop_signal(self.service.policy.kill_signal);
            }
            Request::Kill { signal: Signal::KILL }
                if matches!(self.service.phase, Phase::Stopping { .. }) =>
            {
                self.force_stop();
                self.reply(
                    client,
                    Reply::done("sent SIGKILL to all that is left; supervise waits for nothing more"),
                );
            }
            Request::Kill { signal } => match self.running_current() {
                Some(generation) => {
                    self.out.push(Action::Kill { generation, signal: *signal, scope: Scope::Main });
                    self.reply(client, Reply::done(format!("sent {signal} to {generation}")));
                }
                None => {
                    let text =
                        format!("no generation runs that could get {signal}; \"supervise status\" says why");
                    self.reply(client, Reply::failed(text));
                }
            },
            Request::Reexec => self.out.push(Action::Reexec { client }),
            Request::Status { wait_ns: Some(wait) } if !self.service.serves() => {
                self.service.clients.status.push((client, Time(self.now.0.saturating_add(*wait))));
            }
            Request::Status { .. } => self.reply_status(client),
        }
    }

    pub(super) fn on_swap_requested(&mut self, client: ClientId, wait: bool) {
        if self.is_paused() {
            return self.reply(client, paused());
        }
        if wait {
            self.want_swap(Some(client));
        } else {
            self.want_swap(None);
            self.reply(client, Reply::done("requested a swap; \"supervise status\" shows its outcome"));
        }
    }

    /// The old generation keeps the traffic or has it back, and no further swap follows.
    pub(super) fn on_abort_requested(&mut self, client: ClientId) {
        let reply = match self.service.phase {
            Phase::Swapping { old, .. } => {
                self.drop_wanted_swap();
                self.roll_back("somebody ran \"supervise abort\"".to_owned());
                Reply::done(format!("aborted: {old} serves on"))
            }
            Phase::Replacing { then: Then::Start, .. } => Reply::failed(
                "the old server stops before the new one starts (--handover stop-first, or a restart), so nothing can be \
                 taken back; wait for the new one",
            ),
            Phase::Replacing { then: Then::Pause, .. } | Phase::Paused => paused(),
            Phase::Up { .. } | Phase::Listening { .. } | Phase::Waiting { .. } | Phase::Failed => {
                if self.drop_wanted_swap() {
                    Reply::done("aborted before the swap began")
                } else {
                    Reply::failed(
                        "no swap is under way; \"supervise status\" shows the outcome of the last one",
                    )
                }
            }
            Phase::Stopping { .. } => stopping(),
        };
        self.reply(client, reply);
    }

    /// Drops the wanted swap; `false` if there was none.
    fn drop_wanted_swap(&mut self) -> bool {
        let clients = &mut self.service.clients;
        let wanted = clients.next_swap.take();
        // The files are being read for it already, which goes on to its end.
        let begun = clients.rereading.clients().map(std::mem::take);
        if begun.is_some() {
            clients.rereading = Rereading::Void;
        }
        let is_wanted = wanted.is_some() || begun.is_some();
        for waiting in wanted.into_iter().chain(begun).flatten() {
            self.reply(waiting, Reply::failed("\"supervise abort\" came before this swap began"));
        }
        is_wanted
    }

    /// Asks for another swap; [`Step::settle`] begins it.
    pub(super) fn want_swap(&mut self, client: Option<ClientId>) {
        let is_busy =
            matches!(self.service.phase, Phase::Swapping { .. } | Phase::Replacing { then: Then::Start, .. });
        if is_busy && self.service.clients.next_swap.is_none() {
            self.tell(SwapNote::Waits.into());
        }
        self.service.clients.next_swap.get_or_insert_default().extend(client);
    }

    pub(super) fn on_restart_requested(&mut self, client: ClientId) {
        match self.service.phase {
            Phase::Up { .. } | Phase::Swapping { .. } => {
                // A swap that is wanted besides follows the restart: only a swap reads the files anew.
                let wanted = self.service.clients.next_swap.take();
                self.abandon_swap("somebody ran \"supervise restart\"");
                self.service.clients.next_swap = wanted;
                self.service.ledger.reset();
                self.replace_with_attempt(vec![client]);
            }
            Phase::Replacing { then: Then::Start, .. } => {
                if let Some(attempt) = &mut self.service.attempt {
                    attempt.clients.push(client);
                }
            }
            Phase::Listening { .. } | Phase::Waiting { .. } | Phase::Failed => {
                self.start_by_request(false, None, vec![client]);
            }
            Phase::Replacing { then: Then::Pause, .. } | Phase::Paused => self.reply(client, paused()),
            Phase::Stopping { .. } => self.reply(client, stopping()),
        }
    }

    pub(super) fn replace_with_attempt(&mut self, clients: Vec<ClientId>) {
        let Some(current) = self.service.current() else { return };
        self.service.attempt =
            Some(Attempt { generation: None, from: Some(current), is_swap: false, clients });
        self.replace(current, Then::Start);
    }

    pub(super) fn on_pause_requested(&mut self, client: ClientId) {
        match self.service.phase {
            Phase::Up { current }
            | Phase::Swapping { old: current, .. }
            | Phase::Replacing { current, .. } => {
                self.service.clients.pause.push(client);
                let why = "somebody ran \"supervise pause\"";
                for waiting in self.abandon_swap(why) {
                    self.reply(
                        waiting,
                        Reply::failed(format!("{why}; \"supervise resume\" starts the server")),
                    );
                }
                self.replace(current, Then::Pause);
            }
            Phase::Listening { .. } | Phase::Waiting { .. } | Phase::Failed => {
                self.leave_listening();
                self.service.phase = Phase::Paused;
                self.tell(Note::Paused);
                self.reply(client, Reply::done("paused; new connections wait in the queue"));
            }
            Phase::Paused => {
                self.reply(client, Reply::done("already paused; \"supervise resume\" starts the server"))
            }
            Phase::Stopping { .. } => self.reply(client, stopping()),
        }
    }

    pub(super) fn on_resume_requested(&mut self, client: ClientId) {
        match self.service.phase {
            Phase::Paused => self.start_by_request(false, None, vec![client]),
            Phase::Replacing { current, then: Then::Pause } => {
                for waiting in std::mem::take(&mut self.service.clients.pause) {
                    self.reply(
                        waiting,
                        Reply::failed("\"supervise resume\" came before the server had stopped"),
                    );
                }
                self.service.phase = Phase::Replacing { current, then: Then::Start };
                self.service.ledger.reset();
                self.service.attempt = Some(Attempt {
                    generation: None,
                    from: Some(current),
                    is_swap: false,
                    clients: vec![client],
                });
            }
            Phase::Up { .. } | Phase::Swapping { .. } | Phase::Replacing { then: Then::Start, .. } => {
                self.reply(client, Reply::done("not paused: the server runs, or supervise is starting it"));
            }
            Phase::Listening { .. } | Phase::Waiting { .. } | Phase::Failed => {
                self.reply(client, Reply::failed("not paused; \"supervise restart\" starts the server"));
            }
            Phase::Stopping { .. } => self.reply(client, stopping()),
        }
    }

    pub(super) fn on_client_gone(&mut self, client: ClientId) {
        let clients = &mut self.service.clients;
        let swaps = clients.next_swap.as_mut().into_iter().chain(clients.rereading.clients());
        for waiting in [&mut clients.pause, &mut clients.stop].into_iter().chain(swaps) {
            waiting.retain(|other| *other != client);
        }
        clients.status.retain(|(other, _)| *other != client);
        if let Some(attempt) = &mut self.service.attempt {
            attempt.clients.retain(|other| *other != client);
        }
        for generation in &mut self.service.generations {
            if let Some(Replaced { drain: Drain::Last(clients, _), .. }) = &mut generation.replaced {
                clients.retain(|other| *other != client);
            }
            if let Some(reload) = &mut generation.reload {
                reload.clients.retain(|other| *other != client);
            }
        }
    }

    /// Ends the start or swap that is under way or wanted, if there is one, and returns the clients of the wanted one.
    pub(super) fn abandon_swap(&mut self, reason: &str) -> Vec<ClientId> {
        if let Phase::Swapping { old, new, .. } = self.service.phase {
            self.service.phase = Phase::Up { current: old };
            self.settle_steering();
            self.discard();
            self.stop_by_policy(new, limits::FAILED_CANDIDATE);
        }
        self.fail_attempt(reason.to_owned());
        self.service.clients.next_swap.take().unwrap_or_default()
    }

    pub(super) fn is_paused(&self) -> bool {
        matches!(self.service.phase, Phase::Paused | Phase::Replacing { then: Then::Pause, .. })
    }

    pub(super) fn reply_status(&mut self, client: ClientId) {
        let next = timers::next(self.service);
        let exit = u8::from(!self.service.serves());
        let status = Some(Box::new(status::status(self.service, next)));
        self.reply(client, Reply { exit, text: String::new(), swap: None, status });
    }
}

fn stopping() -> Reply {
    Reply::failed("supervise is stopping; \"supervise stop\" again sends SIGKILL to all that is left")
}

fn paused() -> Reply {
    Reply::failed("paused: \"supervise resume\" starts the server")
}
