//! Opens what an instance needs before a server is started (signals, control socket, held sockets), and closes it at
//! the end.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd};

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};

use super::configuration::{Configuration, Setup};
use super::keeping::Keeping;
use super::{LoopState, Reader, Shell};
use crate::config::{Config, Exec, Handover, Input, Instance, SocketCommands, SocketOptions, Span};
use crate::core::{Note, Setting, SocketNote, Supervisor};
use crate::os::children::Children;
use crate::os::control::ControlSocket;
use crate::os::control::server::ControlServer;
use crate::os::diag;
use crate::os::fd_store::FdStore;
use crate::os::launch;
use crate::os::listeners::Listeners;
use crate::os::manager::ManagerSocket;
use crate::os::notify;
use crate::os::outbox::Outbox;
use crate::os::own;
use crate::os::questions::{self, Questions};
use crate::os::reap;
use crate::os::signal::{HupIgnored, Signals};
use crate::os::socket::{self, Inherited, NamedSocket};
use crate::os::spawn::raise_open_files;
use crate::os::sys::memory;
use crate::os::tokens::{CONTROL, SIGNALS};
use crate::os::warning::{Told, Warn};

impl Shell {
    /// Everything that can fail before something is started. The order: what could be lost first (signals), then what
    /// others may hold (addresses, the name).
    pub(super) fn open(config: Config, instance: &Instance, reader: Option<Reader>) -> Result<Self, String> {
        memory::use_one_arena();
        // Before any fd of our own is open: they are named by number.
        let inherited = Inherited::from_environment();
        let cannot = |what: &'static str| move |error: io::Error| format!("cannot {what}: {error}");
        let (signals, HupIgnored(hup_ignored)) = Signals::open().map_err(cannot("read signals"))?;
        reap::prepare().map_err(cannot("adopt orphans"))?;
        if let Err(error) = raise_open_files() {
            log::debug!("cannot raise the limit of open files: {error}");
        }
        launch::check(&config.launch)?;
        if config.launch.stdin == Input::Inherit && io::stdin().is_terminal() {
            Warn::StdinIsTerminal.because("the kernel stops a server that reads from it in the background");
        }
        let poll = Poll::new().map_err(cannot("make a poll"))?;
        let control = open_control(instance, &config, &poll)?;
        let sockets = hold_sockets(&config, &inherited, &signals)?;
        check(&config, &sockets)?;
        let fd = signals.as_fd().as_raw_fd();
        poll.registry()
            .register(&mut SourceFd(&fd), SIGNALS, Interest::READABLE)
            .map_err(cannot("watch for signals"))?;
        let setting = Setting {
            holds_sockets: !sockets.is_empty(),
            steers: sockets.iter().any(|socket| socket.is_steered()),
            hup_ignored,
            init: own::pid() == 1,
        };
        let store = FdStore::new(config.launch.fd_store_max);
        let registry = poll.registry().try_clone().map_err(cannot("make a poll"))?;
        let current = Setup::new(config, &sockets)?;
        Ok(Self {
            supervisor: Supervisor::new(current.policy.clone(), setting),
            configuration: Configuration { current, staged: None, reader },
            listeners: Listeners::new(sockets, inherited, registry),
            store,
            outbox: Outbox::default(),
            poll,
            signals,
            questions: Questions::default(),
            children: Children::default(),
            control,
            manager: ManagerSocket::from_environment(),
            background: None,
            trial: None,
            keeping: Keeping::default(),
            state: LoopState::default(),
        })
    }

    /// The end: what goes with us, and the commands round the closing of the sockets.
    pub(super) fn close(self) {
        let Self { configuration, listeners, signals, children, .. } = self;
        let Setup { socket_commands, launcher, .. } = configuration.current;
        let SocketCommands { stop_pre, stop_post, timeout, .. } = socket_commands;
        let run = |key, list: &[Exec]| {
            if let Err(error) = run_commands(key, list, timeout, &signals) {
                log::warn!("{error}");
            }
        };
        run("ExecStopPre", &stop_pre);
        launcher.we_end();
        drop(children);
        // The launcher holds the sockets as well.
        drop((listeners, launcher));
        run("ExecStopPost", &stop_post);
    }

    /// Said once something runs: what could not even be started is one line.
    pub(super) fn announce(&mut self) {
        if std::mem::replace(&mut self.state.is_announced, true) {
            return;
        }
        notify::sweep_left_over();
        for (socket, fd) in self.listeners.current().iter().zip(3..) {
            Told::Listening(&socket.shown(), &socket.name, Some(fd)).log();
        }
        for note in departures(self.configuration.current.policy.handover, self.listeners.current()) {
            self.outbox.tell(note);
        }
        if let Some(control) = &self.control {
            let socket = control.socket();
            Told::Instance(socket.name(), socket.path()).log();
        }
    }
}

/// What is not as it was asked for.
pub(super) fn departures(handover: Handover, sockets: &[NamedSocket]) -> Vec<Note> {
    let somaxconn = diag::somaxconn().unwrap_or(u32::MAX);
    let mut notes = Vec::new();
    for socket in sockets {
        let address = || socket.address.clone();
        if let Some(why) = socket.why_shared().filter(|_| handover == Handover::Steered) {
            notes.push(SocketNote::Shared { socket: address(), why }.into());
        }
        // Where nothing was asked for it is as much as the kernel has.
        let asked = socket.backlog.filter(|backlog| *backlog < SocketOptions::new().backlog);
        if let Some(backlog) = asked.filter(|backlog| *backlog > somaxconn) {
            notes.push(SocketNote::BacklogCapped { socket: address(), backlog, somaxconn }.into());
        }
    }
    notes
}

/// Whether there are the sockets that directives want: Ready=http: one that reaches one generation alone, Canary= one whose
/// connections can be shared out.
pub(super) fn check(config: &Config, sockets: &[NamedSocket]) -> Result<(), String> {
    if let Some(health) = &config.health {
        questions::socket_of(health, sockets)?;
    }
    let can = |one: &NamedSocket| one.is_steered() && one.kind.is_inet();
    if config.policy.canary.is_none() || sockets.iter().any(can) {
        return Ok(());
    }
    let why = sockets.iter().find_map(|one| one.why_shared()).unwrap_or_default();
    Err(format!("Canary=: no TCP or UDP socket can be steered: {why} (leave it out)"))
}

/// The commands of [Socket], one after the other; each is waited for.
fn run_commands(key: &str, commands: &[Exec], timeout: Span, signals: &Signals) -> Result<(), String> {
    // They are not the server's: its user, directory and files are not theirs.
    let launch = Config::for_units().launch;
    for exec in commands {
        Told::SocketCommand(key, &exec.path.to_string_lossy(), timeout).log();
        match launch::run_to_end(&launch, exec, timeout, Some(signals)) {
            Err(error) if exec.ignore_failure => Warn::IgnoredFailure.because(error),
            result => result?,
        }
    }
    Ok(())
}

/// The sockets, between the commands of [Socket] for their start; where one fails, those for their end follow.
fn hold_sockets(
    config: &Config,
    inherited: &Inherited,
    signals: &Signals,
) -> Result<Vec<NamedSocket>, String> {
    let SocketCommands { start_pre, start_post, stop_post, timeout, .. } = &config.socket_commands;
    let held = run_commands("ExecStartPre", start_pre, *timeout, signals).and_then(|()| {
        let sockets = socket::bind_all(&config.listeners, inherited, config.policy.handover)
            .map_err(|error| error.to_string())?;
        run_commands("ExecStartPost", start_post, *timeout, signals)?;
        Ok(sockets)
    });
    held.inspect_err(|_| {
        if let Err(error) = run_commands("ExecStopPost", stop_post, *timeout, signals) {
            log::warn!("{error}");
        }
    })
}

fn open_control(instance: &Instance, config: &Config, poll: &Poll) -> Result<Option<ControlServer>, String> {
    let command =
        config.launch.commands.start.first().map(|exec| exec.path.to_string_lossy()).unwrap_or_default();
    let file_name = command.rsplit('/').next().unwrap_or(&command);
    let default_name = config.name.as_deref().unwrap_or(file_name);
    let socket = ControlSocket::open(instance, default_name).map_err(|error| error.to_string())?;
    let server = socket.map(|socket| ControlServer::new(socket, poll.registry(), Token(CONTROL))).transpose();
    server.map_err(|error| format!("cannot watch the control socket: {error}"))
}
