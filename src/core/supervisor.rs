//! The entry to the core: routes each event, and handles signals and requests to supervise.

use serde::{Deserialize, Serialize};

use super::note::Note;
use super::report::Status;
use super::service::{Phase, Service, Step, Then};
use super::status;
use super::timers;
use super::why::Why;
use super::{
    Action, ClientId, Event, GenerationId, Manager, Notify, Scope, Sender, Setting, Terminal, Time, limits,
};
use crate::config::{Policy, Signal, Span};

/// The whole core: the state of the service, and the entry to what it decides.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Supervisor {
    service: Service,
}

impl Supervisor {
    pub fn new(policy: Policy, setting: Setting) -> Self {
        Self { service: Service::new(policy, setting) }
    }

    /// The end of a first generation that was never ready is to be ours, whatever Restart= says.
    pub fn end_unless_ready(&mut self) {
        self.service.ends_unless_ready = true;
    }

    /// Takes one fact and adds the orders that follow from it to `actions`, which are to be carried out in this order
    /// before the next event.
    pub fn step(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        let mut step = Step { service: &mut self.service, now, out: actions };
        match event {
            Event::Begun => step.start_automatically(),
            Event::Restored => step.on_restored(),
            Event::Recovered => step.on_recovered(),
            Event::Started { generation, pid } => step.on_started(generation, pid),
            Event::StartFailed { generation, failure } => step.on_start_failed(generation, failure),
            Event::Exited { generation, exit } => step.on_exited(generation, exit),
            Event::CommandEnded { generation, end } => step.on_command_ended(generation, end),
            Event::MainChanged { generation, pid } => step.on_main_changed(generation, pid),
            Event::MainSought { generation, found } => step.on_main_sought(generation, found),
            Event::Cleared { generation } => step.on_cleared(generation),
            Event::Reread { result } => step.on_reread(result),
            Event::Notified { generation, message } => step.on_notified(generation, message),
            Event::Connected => step.on_connected(),
            Event::Arrived { slot } => step.on_arrived(slot),
            Event::SteerFailed { why } => step.on_steer_failed(why),
            Event::RescueFailed { slot } => step.on_rescue_failed(slot),
            Event::SocketLost { slot, socket } => step.on_socket_lost(slot, &socket),
            Event::Answered { generation, finding } => step.on_answered(generation, finding),
            Event::Signalled { signal, sender, terminal } => step.on_signal(signal, sender, terminal),
            Event::Requested { client, request } => step.on_request(client, &request),
            Event::ClientGone { client } => step.on_client_gone(client),
            Event::Childless => step.on_childless(),
            Event::Tick => step.on_tick(),
        }
        step.settle();
    }

    /// Whether a generation was ever ready.
    pub fn is_ready(&self, generation: GenerationId) -> bool {
        self.service.get(generation).is_some_and(|generation| generation.ready().is_some())
    }

    /// Whether this client waits for an answer: then something would be another without it.
    pub fn waits(&self, client: ClientId) -> bool {
        let mut service = self.service.clone();
        let out = &mut Vec::new();
        Step { service: &mut service, now: Time(0), out }.on_client_gone(client);
        service != self.service
    }

    /// When to call `step` with [`Event::Tick`], and what for; `None` if no timer is set.
    pub fn next_wake(&self) -> Option<(Time, Why)> {
        timers::next(&self.service)
    }

    /// The snapshot for `status`, without what only the shell can see.
    pub fn status(&self) -> Status {
        status::status(&self.service, self.next_wake())
    }

    /// The state as text; [`Supervisor::restore`] continues from it, with [`Event::Restored`] or [`Event::Recovered`].
    pub fn save(&self) -> String {
        serde_json::to_string(&self.service).expect("plain data with text keys always serialises")
    }

    /// # Errors
    /// When `saved` is not the text of a state of this version.
    pub fn restore(saved: &str) -> Result<Self, String> {
        let service = serde_json::from_str(saved).map_err(|error| error.to_string())?;
        Ok(Self { service })
    }
}

/// Timers and notifications.
impl Step<'_> {
    fn on_tick(&mut self) {
        let mut last = None;
        while let Some(next) = timers::next(self.service) {
            let (due, why) = next;
            // What is due twice in a row was not dealt with: whatever the fault, the rest of us goes on.
            if due > self.now || last == Some(next) {
                return;
            }
            last = Some(next);
            self.on_due(why);
        }
    }

    pub(super) fn on_due(&mut self, why: Why) {
        match why {
            Why::Ready(id) => self.on_lived(id),
            Why::Retry(id) => self.on_retry(id),
            Why::Probe(id) => self.watch().probe(id),
            Why::Look(id) => self.watch().look(id),
            Why::Trial(id) => self.watch().look_last(id),
            Why::CanaryOver(id) => self.switch(id),
            Why::BakeOver(_) => self.promote(),
            Why::Rescue => self.service.rescue_due = None,
            Why::Count(id) => self.watch().count(id),
            Why::DrainOver(id) => self.end_drain(id),
            Why::StartTimeout(id) => self.on_start_timeout(id),
            Why::Watchdog(id) => self.on_watchdog_missed(id),
            Why::Command(id) => self.on_command_due(id),
            Why::Reload(id) => self.on_reload_due(id),
            Why::RuntimeMax(id) => self.on_runtime_over(id),
            Why::Kill(id) => self.on_kill_due(id),
            Why::Abandon(id) => self.on_abandon_due(id),
            Why::Restart => self.restart(),
            Why::Listen => self.listen(),
            Why::SweepKill => self.sweep(Signal::KILL),
            Why::SweepAbandon => {
                self.tell(Note::LeftBehind { generation: None });
                self.on_childless();
            }
            Why::StatusWait(client) => {
                self.service.clients.status.retain(|(waiting, _)| *waiting != client);
                self.reply_status(client);
            }
        }
    }

    pub(super) fn on_notified(&mut self, id: GenerationId, message: Notify) {
        let now = self.now;
        let is_current = self.service.current() == Some(id);
        let Some(generation) = self.service.get_mut(id) else { return };
        // It extends the timeouts of ExecStop= and ExecStopPost= as well, when the main process is gone.
        if let Some(micros) = message.extend_timeout_usec {
            generation.said.extended = now.after(Span::from_micros(micros));
        }
        if generation.has_ended() {
            return;
        }
        if let Some(status) = message.status {
            generation.said.status = (!status.is_empty()).then(|| status.clone());
            if is_current {
                self.out.push(Action::TellManager(Manager::Status(status)));
            }
        }
        generation.said.errno = message.errno.or(generation.said.errno);
        if !generation.lives() {
            // A generation that was told to stop is not made ready, or kept alive, by what it still says.
            return;
        }
        if let Some(micros) = message.watchdog_usec {
            let period = Span::from_micros(micros);
            generation.said.watchdog_period = if period.is_infinite() { Span::ZERO } else { period };
        }
        let period = generation.said.watchdog_period;
        if (message.watchdog && generation.watchdog().is_some()) || message.watchdog_usec.is_some() {
            generation.set_watchdog((period != Span::ZERO).then(|| now.after(period)));
        }
        // In one message STOPPING=1 outweighs READY=1, and RELOADING=1 with READY=1 is a reload that is over.
        if message.stopping {
            self.on_stopping_said(id);
        } else {
            if message.reloading {
                let at = message.monotonic_usec.map(|micros| Time(micros.saturating_mul(1_000)));
                self.on_reloading_said(id, at);
            }
            if message.ready {
                self.on_ready_said(id);
            }
        }
        if message.watchdog_trigger {
            self.on_watchdog_missed(id);
        }
    }
}

/// Signals to supervise.
impl Step<'_> {
    pub(super) fn on_signal(&mut self, signal: Signal, sender: Sender, terminal: Terminal) {
        match signal {
            Signal::HUP => self.on_hangup(sender, terminal),
            Signal::TERM | Signal::INT => self.on_stop_signal(self.service.policy.kill_signal),
            Signal::QUIT => self.on_stop_signal(Signal::QUIT),
            Signal::TSTP if self.service.setting.init => {}
            Signal::TSTP => {
                self.service.is_suspended = true;
                self.signal_all(Signal::STOP);
                self.out.push(Action::Suspend);
            }
            Signal::CONT => self.on_continued(),
            Signal::WINCH if sender == Sender::Kernel => {}
            signal => self.pass_on(signal),
        }
    }

    pub(super) fn on_hangup(&mut self, sender: Sender, terminal: Terminal) {
        let has_closed = terminal == Terminal::Gone && sender != Sender::Process;
        if has_closed && matches!(self.service.phase, Phase::Stopping { .. }) {
            // The kernel and then the shell tell of the same closed terminal: not a second request.
        } else if has_closed && self.service.setting.hup_ignored {
            self.tell(Note::HangUpIgnored);
        } else if has_closed {
            self.tell(Note::HangUp);
            self.on_stop_signal(self.service.policy.kill_signal);
        } else if matches!(self.service.phase, Phase::Paused | Phase::Replacing { then: Then::Pause, .. }) {
            self.tell(Note::PausedNoSwap);
        } else {
            self.want_swap(None);
        }
    }

    pub(super) fn on_stop_signal(&mut self, signal: Signal) {
        let Phase::Stopping { stop } = self.service.phase else { return self.stop(0, signal) };
        if self.now >= stop.since.after(limits::SAME_STOP) {
            self.force_stop();
        }
    }

    pub(super) fn on_continued(&mut self) {
        self.service.is_suspended = false;
        self.spare_watchdogs();
        self.signal_all(Signal::CONT);
    }

    /// The time we were stopped, or not there, does not count against the server's watchdog; nor does a WATCHDOG=1 that we
    /// may have read and lost.
    pub(super) fn spare_watchdogs(&mut self) {
        for generation in &mut self.service.generations {
            let next = self.now.after(generation.said.watchdog_period);
            generation.set_watchdog(generation.watchdog().map(|_| next));
        }
    }

    pub(super) fn signal_all(&mut self, signal: Signal) {
        for generation in self.service.generations.iter().filter(|generation| generation.runs()) {
            self.out.push(Action::Kill { generation: generation.id, signal, scope: Scope::All });
        }
    }

    pub(super) fn pass_on(&mut self, signal: Signal) {
        if let Some(generation) = self.running_current() {
            self.out.push(Action::Kill { generation, signal, scope: Scope::Main });
        } else if !self.service.dropped_signal_told {
            self.service.dropped_signal_told = true;
            self.tell(Note::SignalDropped { signal });
        }
    }

    pub(super) fn running_current(&self) -> Option<GenerationId> {
        let current = self.service.get(self.service.current()?)?;
        current.runs().then_some(current.id)
    }
}
