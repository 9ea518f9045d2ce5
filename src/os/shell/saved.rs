//! The whole state as it goes over to the program that takes our place: text in a memfd, and fds that stay open.
//!
//! The text is JSON with a version. A program reads what has its own first number: one with a higher second number may have
//! added fields, each with a default where it is missing, and what a program does not know it leaves out.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::rc::Rc;

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};
use serde::{Deserialize, Serialize};

use super::configuration::{Configuration, Setup};
use super::{LoopState, Reader, Shell};
use crate::config::{Health, Instance, Policy, SocketCommands};
use crate::core::{ClientId, Supervisor};
use crate::os::children::{Children, SavedChildren};
use crate::os::control::server::{ControlServer, SavedControl};
use crate::os::fd_store::{FdStore, SavedFdStore};
use crate::os::launch::{Launcher, SavedLauncher};
use crate::os::listeners::{Listeners, SavedListeners};
use crate::os::manager::ManagerSocket;
use crate::os::outbox::Outbox;
use crate::os::questions::Questions;
use crate::os::reap;
use crate::os::saved::{KeptFds, Shared, at};
use crate::os::signal::Signals;
use crate::os::socket::{self, HeldSocket, SavedSocket};
use crate::os::spawn;
use crate::os::sys::left::LeftFds;
use crate::os::sys::memory;
use crate::os::tokens::{self, CONTROL, SIGNALS};

/// The version of what is saved.
const STATE: (u32, u32) = (1, 0);

/// What every version has.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    state: (u32, u32),
    /// The version of the program that has saved it.
    version: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Saved {
    #[serde(flatten)]
    header: Header,
    /// Who waits for it.
    pub(super) client: Option<ClientId>,
    fds: Vec<RawFd>,
    core: String,
    sockets: Vec<SavedSocket>,
    launchers: Vec<SavedLauncher>,
    current: SavedSetup,
    staged: Option<SavedSetup>,
    listeners: SavedListeners,
    children: SavedChildren,
    store: SavedFdStore,
    control: Option<SavedControl>,
    had_tty: bool,
    open_files: Option<u64>,
    is_sweeping: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedSetup {
    policy: Policy,
    launcher: usize,
    socket_commands: SocketCommands,
    health: Option<Health>,
}

impl SavedSetup {
    fn of(setup: &Setup, launchers: &mut Shared<Launcher>) -> Self {
        Self {
            policy: setup.policy.clone(),
            launcher: launchers.place(&setup.launcher),
            socket_commands: setup.socket_commands.clone(),
            health: setup.health.clone(),
        }
    }

    fn setup(self, launchers: &[Rc<Launcher>]) -> Result<Setup, String> {
        let Self { policy, launcher, socket_commands, health } = self;
        Ok(Setup { policy, launcher: at(launchers, launcher)?, socket_commands, health })
    }
}

impl Saved {
    /// # Errors
    /// A sentence: this program cannot go on from it.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let unreadable = |error: serde_json::Error| format!("cannot read the state: {error}");
        let Header { state, version } = serde_json::from_str(text).map_err(unreadable)?;
        if state.0 != STATE.0 {
            return Err(format!(
                "supervise {version} keeps its state in version {}.{}, and supervise {} reads {}.x",
                state.0,
                state.1,
                env!("CARGO_PKG_VERSION"),
                STATE.0
            ));
        }
        let saved: Self = serde_json::from_str(text).map_err(unreadable)?;
        Supervisor::restore(&saved.core).map_err(|error| format!("cannot read the state: {error}"))?;
        Ok(saved)
    }

    pub(super) fn version(&self) -> &str {
        &self.header.version
    }
}

impl Shell {
    /// What another program needs to go on, and the fds that have to stay open for it. Threads that answer for servers
    /// rest until [`Self::go_on`].
    pub(super) fn save(&self, client: Option<ClientId>) -> (Saved, KeptFds) {
        let (mut fds, mut sockets, mut launchers) =
            (KeptFds::default(), Shared::default(), Shared::default());
        let current = SavedSetup::of(&self.configuration.current, &mut launchers);
        let staged = self.configuration.staged.as_ref().map(|setup| SavedSetup::of(setup, &mut launchers));
        let children = self.children.save(&mut fds, &mut launchers);
        let listeners = self.listeners.save(&mut fds, &mut sockets);
        let launchers = launchers.list().iter().map(|launcher| launcher.save(&mut sockets)).collect();
        let saved = Saved {
            header: Header { state: STATE, version: env!("CARGO_PKG_VERSION").to_owned() },
            client,
            core: self.supervisor.save(),
            sockets: sockets.list().iter().map(|socket: &Rc<HeldSocket>| socket.save(&mut fds)).collect(),
            launchers,
            current,
            staged,
            listeners,
            children,
            store: self.store.save(&mut fds),
            control: self.control.as_ref().map(|control| control.save(&mut fds)),
            had_tty: self.signals.had_tty(),
            open_files: spawn::open_files(),
            is_sweeping: self.state.is_sweeping,
            fds: fds.numbers().collect(),
        };
        (saved, fds)
    }

    /// The shell of a program that has taken the place of another one.
    ///
    /// # Errors
    /// A sentence: something is missing that the other one had.
    pub(super) fn from_saved(
        saved: Saved,
        instance: &Instance,
        reader: Option<Reader>,
    ) -> Result<Self, String> {
        memory::use_one_arena();
        let mut fds = LeftFds::new(&saved.fds);
        let cannot = |what: &'static str| move |error: std::io::Error| format!("cannot {what}: {error}");
        let signals = Signals::open_again(saved.had_tty).map_err(cannot("read signals"))?;
        reap::prepare().map_err(cannot("adopt orphans"))?;
        spawn::remember_open_files(saved.open_files);
        let poll = Poll::new().map_err(cannot("make a poll"))?;
        let registry = || poll.registry().try_clone().map_err(cannot("make a poll"));
        let watch = |fd: RawFd, token| {
            let watched = poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE);
            watched.map_err(cannot("watch an fd"))
        };
        watch(signals.as_fd().as_raw_fd(), SIGNALS)?;
        let sockets = socket::from_saved(saved.sockets, &mut fds)?;
        let mut launchers = Vec::new();
        for launcher in saved.launchers {
            launchers.push(Rc::new(Launcher::from_saved(launcher, &sockets)?));
        }
        let configuration = Configuration {
            current: saved.current.setup(&launchers)?,
            staged: saved.staged.map(|setup| setup.setup(&launchers)).transpose()?,
            reader,
        };
        let mut listeners = Listeners::from_saved(saved.listeners, &mut fds, &sockets, registry()?)?;
        let children = Children::from_saved(saved.children, &mut fds, &launchers, |id, saved, fds| {
            listeners.go_on_intercepting(id, saved, fds)
        })?;
        listeners.see_who_is_alone(&children);
        for (generation, notify) in children.notify_sockets() {
            watch(notify.as_fd().as_raw_fd(), tokens::notify(generation))?;
        }
        let store = FdStore::from_saved(saved.store, &mut fds, poll.registry(), tokens::STORED)?;
        let control = saved.control.map(|control| {
            ControlServer::from_saved(control, instance, &mut fds, poll.registry(), Token(CONTROL))
        });
        let shell = Self {
            supervisor: Supervisor::restore(&saved.core)?,
            outbox: Outbox::default(),
            control: control.transpose()?,
            poll,
            signals,
            listeners,
            questions: Questions::default(),
            configuration,
            store,
            manager: ManagerSocket::from_environment(),
            state: LoopState {
                // What came while nobody looked: datagrams, and the ends of processes.
                talkative: children.notify_sockets().map(|(generation, _)| generation).collect(),
                is_clearing: true,
                is_sweeping: saved.is_sweeping,
                is_announced: true,
                has_worked: true,
                ..LoopState::default()
            },
            children,
            trial: None,
        };
        for (generation, _) in shell.children.notify_sockets() {
            shell.watch_main(generation);
        }
        Ok(shell)
    }

    /// Nobody has taken our place.
    pub(super) fn go_on(&self) {
        self.children.go_on_intercepting();
    }
}
