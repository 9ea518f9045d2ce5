//! The event loop of the supervisor: makes events for the core of what a poll brings and carries out its actions, in
//! the order that os/mod.rs states.

mod ask;
mod configuration;
mod ended;
mod keeping;
mod open;
mod recover;
mod reexec;
mod reread;
mod saved;
mod start;
mod starter;
mod woken;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::time::{ClockId, clock_gettime};

use super::background::Background;
use super::children::{Children, Store};
use super::control::server::ControlServer;
use super::fd_store::FdStore;
use super::keeper::Keeper;
use super::listeners::{ListenerContext, Listeners};
use super::manager::ManagerSocket;
use super::outbox::Outbox;
use super::questions::Questions;
use super::reap;
use super::signal::{self, ReceivedSignal, Signals};
use super::snapshot;
use super::sys::memory;
use super::tokens;
use super::warning::{Told, Warn};
use crate::config::{Config, Instance, Signal};
use crate::core::{Action, ClientId, Event, GenerationId, Reply, Sender, Supervisor, Terminal, Time};
use configuration::Configuration;
use keeping::Keeping;
use reexec::Tryout;
pub use reexec::{LeftState, TRY, left_state, resume, try_saved};
use woken::Woken;

/// The exit status for what parses but cannot be done.
const CANNOT: u8 = 125;

/// With --detach: the first server was started, and ended before it was ready.
const NEVER_READY: u8 = 1;

/// Reads the units and the flags of the command line anew. Warnings that the reading before had are left out.
pub type Reader = Box<dyn FnMut() -> Result<(Config, Vec<String>), String>>;

/// Holds the sockets and runs the server until there is no more to do; returns the exit status.
pub fn run(
    config: Config,
    instance: &Instance,
    reader: Option<Reader>,
    background: Option<Background>,
) -> u8 {
    status_of(begin(config, instance, reader, background))
}

/// Not inlined: what it has on the stack is not needed as long as supervise runs.
#[inline(never)]
fn begin(
    config: Config,
    instance: &Instance,
    reader: Option<Reader>,
    background: Option<Background>,
) -> Result<Box<Shell>, String> {
    let mut shell = Box::new(Shell::open(config, instance, reader)?);
    if background.is_some() {
        shell.supervisor.end_unless_ready();
    }
    shell.background = background;
    shell.outbox.push(Event::Begun);
    shell.dispatch();
    // The first process did not have to wait for this.
    shell.control.iter_mut().for_each(ControlServer::begin);
    shell.begin_keeping();
    Ok(shell)
}

fn status_of(shell: Result<Box<Shell>, String>) -> u8 {
    let status = shell.and_then(|mut shell| {
        let mut status = shell.turn_until_exit();
        // What could not even be started has a status that says so.
        if shell.background.is_some() && shell.state.is_announced {
            status = status.map(|_| NEVER_READY);
        }
        shell.close();
        status.map_err(|error| format!("cannot wait for events: {error}"))
    });
    status.unwrap_or_else(|error| {
        log::error!("{error}");
        CANNOT
    })
}

struct Shell {
    supervisor: Supervisor,
    /// What is to be given to the core, and to be told.
    outbox: Outbox,
    poll: Poll,
    signals: Signals,
    listeners: Listeners,
    questions: Questions,
    configuration: Configuration,
    children: Children,
    store: FdStore,
    control: Option<ControlServer>,
    manager: Option<ManagerSocket>,
    /// Whoever started us with --detach waits until the first server is ready.
    background: Option<Background>,
    /// A program that is being tried.
    trial: Option<Tryout>,
    keeping: Keeping,
    state: LoopState,
}

/// What one turn of the loop leaves for a later one.
#[derive(Debug, Default)]
struct LoopState {
    /// Generations that had more datagrams than one turn reads.
    talkative: BTreeSet<GenerationId>,
    is_sweeping: bool,
    /// A generation is waited for that may be gone already, and then no SIGCHLD tells.
    is_clearing: bool,
    is_announced: bool,
    /// A process was started, a generation is gone, a status was asked for or a timer fired since supervise last rested.
    has_worked: bool,
    exit: Option<u8>,
    /// The program that takes our place when this turn is over, and who waits for that.
    successor: Option<(ClientId, PathBuf)>,
}

/// Before the loop sleeps for at least this long, free memory goes back to the kernel.
const REST: Duration = Duration::from_secs(1);

/// The event loop.
impl Shell {
    fn turn_until_exit(&mut self) -> io::Result<u8> {
        let mut events = Events::with_capacity(64);
        loop {
            if self.state.is_sweeping || std::mem::take(&mut self.state.is_clearing) {
                // The sweep may have found nobody, and then no SIGCHLD tells.
                self.reap();
            }
            // Before anything is closed that the state before this turn names.
            self.keep(&[]);
            self.tidy();
            if let Some(status) = self.state.exit {
                return Ok(status);
            }
            if let Some((client, program)) = self.state.successor.take() {
                self.execute(client, &program);
            }
            // The dumps may be large, and are of no use to the next turn.
            self.questions.diag.forget();
            let patience = self.patience();
            let rests = patience.is_none_or(|patience| patience >= REST);
            if rests && std::mem::take(&mut self.state.has_worked) {
                memory::give_back();
            }
            match self.poll.poll(&mut events, patience) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            self.state.has_worked |= events.is_empty();
            self.turn(Woken::from(&events));
        }
    }

    /// How long the loop may sleep if no event comes.
    fn patience(&self) -> Option<Duration> {
        if !self.state.talkative.is_empty() || self.state.is_clearing {
            return Some(Duration::ZERO);
        }
        let due =
            self.supervisor.next_wake().map(|(due, _)| Duration::from_nanos(due.since(now()).as_nanos()));
        let ours = [self.listeners.patience(), self.questions.patience(), self.trial_patience()];
        due.into_iter().chain(ours.into_iter().flatten()).min()
    }

    fn turn(&mut self, mut woken: Woken) {
        let signals = if woken.signals { self.read_signals() } else { Vec::new() };
        woken.notified.append(&mut self.state.talkative);
        for generation in woken.notified {
            self.receive(generation);
        }
        self.reap();
        for generation in woken.mains {
            self.on_main_gone(generation);
        }
        for received in signals {
            self.on_signal(&received);
        }
        for token in woken.control {
            self.on_control(token);
        }
        for number in woken.stored {
            self.store.hung_up(self.poll.registry(), number);
        }
        if woken.keeper {
            self.on_keeper_gone();
        }
        if let Some(control) = &mut self.control {
            control.catch_up();
        }
        self.outbox.events.extend(self.questions.on_turn());
        self.dispatch();
        self.on_intercepted();
        self.listeners.wake_paths();
        if woken.paths {
            self.with_listeners(Listeners::on_paths);
            self.dispatch();
        }
        for socket in woken.sockets {
            self.with_listeners(|listeners, cx| listeners.on_socket(socket, cx));
            self.dispatch();
        }
        self.with_listeners(Listeners::look_for_strangers_in_time);
        self.end_late_trial();
        if self.supervisor.next_wake().is_some_and(|(due, _)| due <= now()) {
            self.outbox.push(Event::Tick);
            self.dispatch();
        }
        // After all by which a generation may have become ready.
        self.look_at_queues(false);
        self.pass_notes();
    }

    /// Lends the owner of the sockets what its methods may look at and hand over to.
    fn with_listeners<T>(&mut self, call: impl FnOnce(&mut Listeners, &mut ListenerContext<'_>) -> T) -> T {
        let mut cx = ListenerContext {
            children: &self.children,
            launcher: &self.configuration.current.launcher,
            questions: &mut self.questions,
            outbox: &mut self.outbox,
        };
        call(&mut self.listeners, &mut cx)
    }

    /// Looks at the queues; with `now` even if it is not yet time for it.
    fn look_at_queues(&mut self, now: bool) {
        let serving = self.children.on_slot(self.listeners.target());
        let serving = serving.map(|generation| (generation, self.supervisor.is_ready(generation)));
        self.with_listeners(|listeners, cx| listeners.look_at_queues(serving, now, cx));
    }

    fn receive(&mut self, generation: GenerationId) {
        let mut store =
            Store { fds: &mut self.store, registry: self.poll.registry(), tokens: tokens::STORED };
        if self.children.receive(generation, &mut store, &mut self.outbox.events) {
            self.state.talkative.insert(generation);
        }
        self.watch_main(generation);
        self.dispatch();
    }

    /// A main process that we did not start is watched by its pidfd: who reaps it may be another.
    fn watch_main(&self, generation: GenerationId) {
        let Some(pidfd) = self.children.adopted(generation) else { return };
        let token = tokens::main(generation);
        let fd = pidfd.as_raw_fd();
        match self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Warn::WatchMain(generation).because(error);
            }
            Ok(()) | Err(_) => {}
        }
    }

    fn on_signal(&mut self, received: &ReceivedSignal) {
        // SIGCHLD only woke us: children are reaped at every turn.
        if received.signal.number() == libc::SIGCHLD {
            return;
        }
        let terminal =
            if received.signal == Signal::HUP { self.signals.terminal_now() } else { Terminal::Unchanged };
        self.outbox.push(Event::Signalled { signal: received.signal, sender: received.sender, terminal });
        self.dispatch();
    }

    fn on_intercepted(&mut self) {
        for generation in self.with_listeners(Listeners::on_intercepted) {
            let sockets = (self.listeners.current(), self.listeners.staged());
            self.configuration.use_sockets(sockets, generation, &mut self.children);
        }
        self.dispatch();
    }

    fn on_control(&mut self, token: Token) {
        if let Some(control) = &mut self.control {
            self.outbox.events.extend(control.ready(token));
            self.dispatch();
        }
    }
}

/// Actions of the core.
impl Shell {
    /// Gives every queued fact to the core and carries out what follows.
    fn dispatch(&mut self) {
        self.pass_notes();
        let mut actions = Vec::new();
        while let Some(event) = self.outbox.events.pop_front() {
            self.supervisor.step(now(), event, &mut actions);
            // The answers to these orders come before anything that was queued earlier.
            let waiting = std::mem::take(&mut self.outbox.events);
            if Self::changes_the_world(&actions) {
                self.keep(&actions);
            }
            for action in actions.drain(..) {
                let is_kept = action.is_kept();
                self.apply(action);
                self.note_carried_out(is_kept);
                self.pass_notes();
            }
            self.outbox.events.extend(waiting);
        }
    }

    fn apply(&mut self, action: Action) {
        // A start mends the sockets that it hands over by itself, and before it nothing that leaves them alone has to wait.
        let concerns_sockets = !matches!(
            action,
            Action::Tell(_)
                | Action::TellManager(_)
                | Action::Kill { .. }
                | Action::AwaitClear { .. }
                | Action::Forget { .. }
                | Action::Reexec { .. }
                | Action::Spawn { .. }
        );
        if concerns_sockets {
            self.with_listeners(Listeners::mend_sockets);
        }
        match action {
            Action::Spawn { generation, index, slot } => self.spawn(generation, index, slot),
            Action::Run { generation, command, outcome, slot } => {
                self.run(generation, command, outcome, slot);
            }
            Action::FindMain { generation } => {
                let found = self.children.find_main(generation);
                self.watch_main(generation);
                self.outbox.push(Event::MainSought { generation, found });
            }
            Action::AwaitClear { generation } => {
                self.children.await_clear(generation);
                self.state.is_clearing = true;
            }
            Action::Reread => {
                self.questions.begin_overflows(&self.listeners.held());
                self.reread();
            }
            Action::Adopt => self.adopt(),
            Action::Discard => {
                self.configuration.staged = None;
                self.listeners.discard(&mut self.questions);
            }
            Action::Kill { generation, signal, scope } => self.children.kill(generation, signal, scope),
            Action::Forget { generation } => self.forget(generation),
            Action::WakeOnConnection { on } => self.listeners.watch(on),
            Action::Steer(steering) => self.with_listeners(|listeners, cx| listeners.steer(steering, cx)),
            Action::Guard { slot, on } => self.listeners.guard(slot, on),
            Action::Rescue { slot } => self.with_listeners(|listeners, cx| listeners.rescue(slot, cx)),
            Action::Ask(question) => self.ask(question),
            Action::Sweep { signal } => self.sweep(signal),
            Action::Reply { client, reply } => self.reply(client, reply),
            Action::Tell(note) => self.outbox.tell(note),
            Action::TellManager(message) => self.tell_manager(&message),
            Action::Reexec { client } => self.begin_reexec(client),
            Action::Suspend => {
                if let Err(error) = signal::suspend() {
                    Warn::StopOurselves.because(error);
                }
                // SIGCONT is read in the next turn; the time that passed must not count in this one.
                let (signal, sender, terminal) = (Signal::CONT, Sender::Kernel, Terminal::Unchanged);
                self.outbox.push(Event::Signalled { signal, sender, terminal });
            }
            Action::Exit(status) => self.state.exit = Some(status),
        }
    }

    /// Ends the relays, then signals all processes that are left.
    fn sweep(&mut self, signal: Signal) {
        self.state.is_sweeping = true;
        self.keeping.keeper.iter_mut().for_each(Keeper::end);
        let relays = self.listeners.kill_relays();
        match reap::sweep(signal) {
            // Only relays are left, which end in a moment.
            Ok(count) if count <= relays => {}
            Ok(_) => Told::SentToAllLeft(signal).log(),
            Err(error) => Warn::FindAllLeft.because(error),
        }
    }

    fn forget(&mut self, generation: GenerationId) {
        self.state.has_worked = true;
        self.state.talkative.remove(&generation);
        self.listeners.forget(generation, &mut self.outbox);
        self.questions.forget_traffic(generation);
        if !self.children.forget(generation) {
            return;
        }
        self.questions.take_out_forgotten(&self.listeners.held(), &self.children);
        self.listeners.see_who_is_alone(&self.children);
    }

    /// Lets go what is left of generations that are gone, when nobody waits.
    fn tidy(&mut self) {
        let registry = self.poll.registry();
        self.children.tidy(|notify| {
            if let Err(error) = registry.deregister(&mut SourceFd(&notify.as_fd().as_raw_fd())) {
                log::debug!("cannot stop watching a notify socket: {error}");
            }
        });
    }

    /// Passes notes on to the clients of the control socket.
    fn pass_notes(&mut self) {
        for (text, is_logged) in self.outbox.take_notes() {
            if let Some(control) = &mut self.control {
                control.note_all(&text, is_logged);
            }
        }
    }

    fn reply(&mut self, client: ClientId, mut reply: Reply) {
        if let Some(status) = &mut reply.status
            && let Some(name) = self.control.as_ref().map(|control| control.socket().name().to_owned())
        {
            self.state.has_worked = true;
            self.look_at_queues(true);
            let (sockets, handover) = (self.listeners.current(), self.configuration.current.policy.handover);
            snapshot::complete(status, &name, sockets, handover, now());
            self.questions.complete(status, sockets, &self.listeners.facts(&self.children, &self.store));
        }
        self.pass_notes();
        if let Some(control) = &mut self.control {
            control.reply(client, reply);
        }
    }
}

/// CLOCK_MONOTONIC.
fn now() -> Time {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has CLOCK_MONOTONIC");
    Time(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}
