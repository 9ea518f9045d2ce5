//! The loop: what the module above promises, carried out.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::time::{ClockId, clock_gettime};

use super::children::Children;
use super::control::ControlSocket;
use super::control::server::ControlServer;
use super::launch::{self, Launcher};
use super::manager::ManagerSocket;
use super::notify::NotifySocket;
use super::reap::{self, Reaped};
use super::signal::{self, HupIgnored, Received, Signals};
use super::snapshot;
use super::socket::{self, Inherited, NamedSocket};
use super::sys::Waited;
use crate::config::{Config, Handover, Input, Instance, Signal};
use crate::core::{
    Action, ClientId, Event, GenerationId, Note, Reply, Sender, Setting, Supervisor, Terminal, Time,
};

/// The exit status for what parses but cannot be done.
const CANNOT: u8 = 125;

const SIGNALS: Token = Token(0);
/// Held sockets: this plus their index.
const SOCKETS: usize = 1 << 20;
/// The control socket and its clients: from here on.
const CONTROL: usize = 1 << 24;
/// Notify sockets: this plus the generation's number.
const NOTIFY: usize = 1 << 25;

/// Holds the sockets and runs the server until there is no more to do; returns the exit status.
pub fn run(config: Config, instance: &Instance) -> u8 {
    let status = Shell::open(config, instance).and_then(|mut shell| {
        shell.queue.push_back(Event::Begun);
        shell.dispatch();
        let status = shell.turn_until_exit();
        status.map_err(|error| format!("cannot wait for events: {error}"))
    });
    status.unwrap_or_else(|error| {
        log::error!("{error}");
        CANNOT
    })
}

struct Shell {
    supervisor: Supervisor,
    queue: VecDeque<Event>,
    poll: Poll,
    signals: Signals,
    sockets: Vec<NamedSocket>,
    is_watching: bool,
    launcher: Launcher,
    children: Children,
    /// Generations that had more datagrams than one turn reads.
    talkative: BTreeSet<GenerationId>,
    control: Option<ControlServer>,
    manager: Option<ManagerSocket>,
    is_sweeping: bool,
    is_announced: bool,
    exit: Option<u8>,
    handover: Handover,
}

/// What one poll brought.
#[derive(Default)]
struct Woken {
    signals: bool,
    connected: bool,
    notified: BTreeSet<GenerationId>,
    control: Vec<Token>,
}

/// Opening and closing.
impl Shell {
    /// Everything that can fail before something is started. The order: what could be lost first (signals), then what
    /// others may hold (addresses, the name).
    fn open(config: Config, instance: &Instance) -> Result<Self, String> {
        // Before any fd of our own is open: they are named by number.
        let inherited = Inherited::from_environment();
        let cannot = |what: &'static str| move |error: io::Error| format!("cannot {what}: {error}");
        let (signals, HupIgnored(hup_ignored)) = Signals::open().map_err(cannot("read signals"))?;
        reap::prepare().map_err(cannot("adopt orphans"))?;
        launch::check(&config.launch)?;
        if config.launch.stdin == Input::Inherit && io::stdin().is_terminal() {
            log::warn!(
                "--stdin inherit: our stdin is a terminal; the kernel stops a server that reads from it, because it \
                 is not in the foreground (use a pipe, a file, or --stdin null)"
            );
        }
        let sockets = socket::bind_all(&config.listeners, &inherited).map_err(|error| error.to_string())?;
        let poll = Poll::new().map_err(cannot("make a poll"))?;
        let control = open_control(instance, &config, &poll)?;
        let fd = signals.as_fd().as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&fd), SIGNALS, Interest::READABLE)
            .map_err(cannot("watch for signals"))?;
        let setting =
            Setting { holds_sockets: !sockets.is_empty(), hup_ignored, init: std::process::id() == 1 };
        let handover = config.policy.handover;
        let launcher = Launcher::new(config.launch, config.policy.watchdog, &sockets)
            .map_err(|problem| problem.to_string())?;
        Ok(Self {
            launcher,
            supervisor: Supervisor::new(config.policy, setting),
            queue: VecDeque::new(),
            poll,
            signals,
            sockets,
            is_watching: false,
            children: Children::default(),
            talkative: BTreeSet::new(),
            control,
            manager: ManagerSocket::from_environment(),
            is_sweeping: false,
            is_announced: false,
            exit: None,
            handover,
        })
    }

    /// Said once something runs: what could not even be started is one line.
    fn announce(&mut self) {
        if std::mem::replace(&mut self.is_announced, true) {
            return;
        }
        for (socket, fd) in self.sockets.iter().zip(3..) {
            log::info!("listening on {} as {} (fd {fd})", socket.address, socket.name);
        }
        if let Some(control) = &self.control {
            let socket = control.socket();
            log::info!("{} is our name; control socket {}", socket.name(), socket.path().display());
        }
    }
}

fn open_control(instance: &Instance, config: &Config, poll: &Poll) -> Result<Option<ControlServer>, String> {
    let command =
        config.launch.commands.start.first().map(|exec| exec.path.to_string_lossy()).unwrap_or_default();
    let default_name = command.rsplit('/').next().unwrap_or(&command);
    let socket = ControlSocket::open(instance, default_name).map_err(|error| error.to_string())?;
    let server = socket.map(|socket| ControlServer::new(socket, poll.registry(), Token(CONTROL))).transpose();
    server.map_err(|error| format!("cannot watch the control socket: {error}"))
}

/// One turn.
impl Shell {
    fn turn_until_exit(&mut self) -> io::Result<u8> {
        let mut events = Events::with_capacity(64);
        loop {
            if self.is_sweeping {
                // The sweep may have found nobody, and then no SIGCHLD tells.
                self.reap();
            }
            if let Some(status) = self.exit {
                return Ok(status);
            }
            match self.poll.poll(&mut events, self.patience()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            let woken = Woken::from(&events);
            self.turn(woken);
        }
    }

    /// How long nothing happens by itself.
    fn patience(&self) -> Option<Duration> {
        if !self.talkative.is_empty() {
            return Some(Duration::ZERO);
        }
        let (due, _) = self.supervisor.next_wake()?;
        Some(Duration::from_nanos(due.since(now()).as_nanos()))
    }

    fn turn(&mut self, mut woken: Woken) {
        let signals = if woken.signals { self.read_signals() } else { Vec::new() };
        woken.notified.append(&mut self.talkative);
        for generation in woken.notified {
            self.receive(generation);
        }
        self.reap();
        for received in signals {
            self.on_signal(&received);
        }
        for token in woken.control {
            self.on_control(token);
        }
        if let Some(control) = &mut self.control {
            control.catch_up();
        }
        if woken.connected && self.is_watching {
            self.watch(false);
            self.queue.push_back(Event::Connected);
            self.dispatch();
        }
        if self.supervisor.next_wake().is_some_and(|(due, _)| due <= now()) {
            self.queue.push_back(Event::Tick);
            self.dispatch();
        }
    }

    fn read_signals(&self) -> Vec<Received> {
        let mut received = Vec::new();
        loop {
            match self.signals.read() {
                Ok(Some(signal)) => received.push(signal),
                Ok(None) => return received,
                Err(error) => {
                    log::warn!("cannot read signals: {error}");
                    return received;
                }
            }
        }
    }

    fn receive(&mut self, generation: GenerationId) {
        if self.children.receive(generation, &mut self.queue) {
            self.talkative.insert(generation);
        }
        self.dispatch();
    }

    fn reap(&mut self) {
        let has_children = loop {
            match reap::next() {
                Ok(Reaped::Ended(waited)) => self.on_reaped(&waited),
                Ok(Reaped::NoneYet) => break true,
                Ok(Reaped::NoChildren) => break false,
                Err(error) => {
                    log::warn!("cannot wait for children: {error}");
                    break true;
                }
            }
        };
        for generation in self.children.cleared(has_children) {
            self.queue.push_back(Event::Cleared { generation });
            self.dispatch();
        }
        if self.is_sweeping && !has_children {
            self.is_sweeping = false;
            self.queue.push_back(Event::Childless);
            self.dispatch();
        }
    }

    fn on_reaped(&mut self, waited: &Waited) {
        let Some(generation) = self.children.reaped(waited.pid) else {
            return log::debug!("reaped pid {}, which a server left behind", waited.pid);
        };
        self.mend_sockets();
        // What it sent last is there by now, also where poll had not seen it yet.
        self.receive(generation);
        self.queue.push_back(Event::Exited { generation, exit: waited.exit });
        self.dispatch();
    }

    fn on_signal(&mut self, received: &Received) {
        // SIGCHLD only woke us: children are reaped at every turn.
        if received.signal.number() == libc::SIGCHLD {
            return;
        }
        let terminal =
            if received.signal == Signal::HUP { self.signals.terminal_now() } else { Terminal::Unchanged };
        self.queue.push_back(Event::Signalled { signal: received.signal, sender: received.sender, terminal });
        self.dispatch();
    }

    fn on_control(&mut self, token: Token) {
        if let Some(control) = &mut self.control {
            self.queue.extend(control.ready(token));
            self.dispatch();
        }
    }
}

/// Orders of the core.
impl Shell {
    /// Gives every queued fact to the core and carries out what follows.
    fn dispatch(&mut self) {
        let mut actions = Vec::new();
        while let Some(event) = self.queue.pop_front() {
            self.supervisor.step(now(), event, &mut actions);
            // The answers to these orders come before anything that was queued earlier.
            let waiting = std::mem::take(&mut self.queue);
            for action in actions.drain(..) {
                self.apply(action);
            }
            self.queue.extend(waiting);
        }
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Spawn { generation } => self.spawn(generation),
            Action::Kill { generation, signal, scope } => self.children.kill(generation, signal, scope),
            Action::Forget { generation } => self.forget(generation),
            Action::Watch { on } => self.watch(on),
            Action::Sweep { signal } => self.sweep(signal),
            Action::Reply { client, reply } => self.reply(client, reply),
            Action::Tell(note) => self.tell(&note),
            Action::TellManager(message) => {
                if let Some(manager) = &self.manager
                    && let Err(error) = manager.tell(message)
                {
                    log::warn!("cannot tell our manager: {error}");
                    self.manager = None;
                }
            }
            Action::Suspend => {
                if let Err(error) = signal::suspend() {
                    log::warn!("cannot stop ourselves: {error}");
                }
                // SIGCONT is read in the next turn; the time that passed must not count in this one.
                let (sender, terminal) = (Sender::Kernel, Terminal::Unchanged);
                self.queue.push_back(Event::Signalled { signal: Signal::CONT, sender, terminal });
            }
            Action::Exit(status) => self.exit = Some(status),
        }
    }

    fn spawn(&mut self, generation: GenerationId) {
        self.mend_sockets();
        let registry = self.poll.registry();
        let watch = |notify: &NotifySocket| {
            let token = Token(NOTIFY + generation.0 as usize);
            registry.register(&mut SourceFd(&notify.as_fd().as_raw_fd()), token, Interest::READABLE)
        };
        let event = match self.children.start(generation, &self.launcher, watch) {
            Ok(pid) => {
                self.announce();
                Event::Started { generation, pid: pid.unsigned_abs() }
            }
            Err(failure) => Event::StartFailed { generation, failure },
        };
        self.queue.push_back(event);
    }

    /// Undoes what a server may have done to the sockets: shutdown(2) and a small listen(2) at any time; O_NONBLOCK only
    /// while no server lives, for it belongs to the open file and would change under its hands.
    fn mend_sockets(&self) {
        for socket in &self.sockets {
            if let Err(error) = socket::listen_again(socket) {
                log::warn!("cannot listen on {} again: {error}", socket.address);
            }
            if self.children.is_empty()
                && let Err(error) = socket::set_non_blocking(socket, self.launcher.non_blocking())
            {
                log::warn!("cannot set O_NONBLOCK of {}: {error}", socket.address);
            }
        }
    }

    fn forget(&mut self, generation: GenerationId) {
        self.talkative.remove(&generation);
        let Some(notify) = self.children.forget(generation) else { return };
        if let Err(error) = self.poll.registry().deregister(&mut SourceFd(&notify.as_fd().as_raw_fd())) {
            log::debug!("cannot stop watching the notify socket of {generation}: {error}");
        }
    }

    fn watch(&mut self, on: bool) {
        if self.is_watching == on {
            return;
        }
        self.is_watching = on;
        let registry = self.poll.registry();
        for (index, socket) in self.sockets.iter().enumerate() {
            let fd = socket.fd.as_raw_fd();
            let result = if on {
                registry.register(&mut SourceFd(&fd), Token(SOCKETS + index), Interest::READABLE)
            } else {
                registry.deregister(&mut SourceFd(&fd))
            };
            if let Err(error) = result {
                log::warn!("cannot watch {}: {error}", socket.address);
            }
        }
    }

    fn sweep(&mut self, signal: Signal) {
        self.is_sweeping = true;
        match reap::sweep(signal) {
            Ok(0) => {}
            Ok(count) => log::info!("{count} processes are left over; sent {signal}"),
            Err(error) => log::warn!("cannot look for processes left over: {error}"),
        }
    }

    fn tell(&mut self, note: &Note) {
        let text = note.to_string();
        log::log!(note.level(), "{text}");
        if let Some(control) = &mut self.control
            && !note.is_conclusion()
        {
            control.note_all(&text);
        }
    }

    fn reply(&mut self, client: ClientId, mut reply: Reply) {
        let Some(control) = &mut self.control else { return };
        if let Some(status) = &mut reply.status {
            snapshot::complete(status, control.socket().name(), &self.sockets, self.handover, now());
        }
        control.reply(client, reply);
    }
}

impl From<&Events> for Woken {
    fn from(events: &Events) -> Self {
        let mut woken = Self::default();
        for event in events {
            match event.token() {
                SIGNALS => woken.signals = true,
                Token(token) if token >= NOTIFY => {
                    woken.notified.insert(GenerationId((token - NOTIFY) as u64));
                }
                Token(token) if token >= CONTROL => {
                    woken.control.push(event.token());
                }
                Token(_) => woken.connected = true,
            }
        }
        woken
    }
}

/// CLOCK_MONOTONIC.
fn now() -> Time {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has CLOCK_MONOTONIC");
    Time(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}
