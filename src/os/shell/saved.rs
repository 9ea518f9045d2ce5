//! The whole state as it goes over to the program that takes our place: text in a memfd, and fds that stay open.
//!
//! The text is JSON with a version. A program reads what has its own first number: one with a higher second number may have
//! added fields, each with a default where it is missing, and what a program does not know it leaves out.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::rc::Rc;

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::configuration::{Configuration, Setup};
use super::{LoopState, Reader, Shell};
use crate::config::{Health, Instance, Policy, SocketCommands};
use crate::core::{ClientId, Supervisor};
use crate::os::children::{Children, SavedChildren};
use crate::os::control::server::{ControlServer, SavedControl};
use crate::os::fd_store::{FdStore, SavedFdStore};
use crate::os::keeper::Keeper;
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
const FORMAT: (u32, u32) = (1, 0);

/// What every version has, under this name.
#[derive(Debug, Deserialize)]
struct Begin {
    header: Header,
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    /// The version of what is saved.
    format: (u32, u32),
    /// The version of the program that has saved it.
    version: String,
}

/// What the verb reexec hands over.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Saved {
    header: Header,
    /// Who waits for it.
    pub(super) client: Option<ClientId>,
    /// The keeper, which ends where the next program has taken over.
    pub(super) keeper: Option<i32>,
    pub(super) fds: Vec<RawFd>,
    pub(super) state: SavedState,
    pub(super) setting: SavedSetting,
}

/// What changes with each step.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedState {
    core: Box<RawValue>,
    listeners: SavedListeners,
    children: SavedChildren,
    store: SavedFdStore,
    control: Option<SavedControl>,
    had_tty: bool,
    open_files: Option<u64>,
    is_sweeping: bool,
}

/// What changes where files are read anew, or a socket of a slot is another one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedSetting {
    sockets: Vec<SavedSocket>,
    launchers: Vec<SavedLauncher>,
    current: SavedSetup,
    staged: Option<SavedSetup>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedSetup {
    policy: Policy,
    launcher: usize,
    socket_commands: SocketCommands,
    health: Option<Health>,
}

/// What is saved, as far as several parts refer to it.
#[derive(Debug, Default)]
pub(super) struct Saving {
    pub(super) fds: KeptFds,
    pub(super) sockets: Shared<HeldSocket>,
    pub(super) launchers: Shared<Launcher>,
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
        let Begin { header: Header { format, version } } = serde_json::from_str(text).map_err(unreadable)?;
        if format.0 != FORMAT.0 {
            return Err(format!(
                "supervise {version} keeps its state in version {}.{}, and supervise {} reads {}.x",
                format.0,
                format.1,
                env!("CARGO_PKG_VERSION"),
                FORMAT.0
            ));
        }
        let saved: Self = serde_json::from_str(text).map_err(unreadable)?;
        Supervisor::restore(saved.state.core.get())
            .map_err(|error| format!("cannot read the state: {error}"))?;
        Ok(saved)
    }

    pub(super) fn version(&self) -> &str {
        &self.header.version
    }
}

impl Shell {
    /// What another program needs to go on. Threads that answer for servers rest until [`Self::go_on`].
    pub(super) fn save(&self, client: Option<ClientId>) -> Saved {
        let mut saving = Saving::default();
        self.children.rest_intercepting();
        let state = self.save_state(&mut saving);
        let setting = self.save_setting(&mut saving);
        Saved {
            header: Header { format: FORMAT, version: env!("CARGO_PKG_VERSION").to_owned() },
            client,
            keeper: self.keeping.keeper.as_ref().and_then(Keeper::pid),
            fds: saving.fds.numbers().collect(),
            state,
            setting,
        }
    }

    pub(super) fn save_state(&self, saving: &mut Saving) -> SavedState {
        let Saving { fds, sockets, launchers } = saving;
        let core = serde_json::value::to_raw_value(&self.supervisor);
        SavedState {
            core: core.expect("plain data with text keys always serialises"),
            children: self.children.save(fds, launchers),
            listeners: self.listeners.save(fds, sockets),
            store: self.store.save(fds),
            control: self.control.as_ref().map(|control| control.save(fds)),
            had_tty: self.signals.had_tty(),
            open_files: spawn::open_files(),
            is_sweeping: self.state.is_sweeping,
        }
    }

    /// After [`Self::save_state`], whose lists go on.
    pub(super) fn save_setting(&self, saving: &mut Saving) -> SavedSetting {
        let Saving { fds, sockets, launchers } = saving;
        let current = SavedSetup::of(&self.configuration.current, launchers);
        let staged = self.configuration.staged.as_ref().map(|setup| SavedSetup::of(setup, launchers));
        let launchers = launchers.list().iter().map(|launcher| launcher.save(sockets)).collect();
        let sockets = sockets.list().iter().map(|socket: &Rc<HeldSocket>| socket.save(fds)).collect();
        SavedSetting { sockets, launchers, current, staged }
    }

    /// The shell of a program that goes on after another one. `fds` are those that were left for it.
    ///
    /// # Errors
    /// A sentence: something is missing that the other one had.
    pub(super) fn from_saved(
        (state, setting): (SavedState, SavedSetting),
        mut fds: LeftFds,
        instance: &Instance,
        reader: Option<Reader>,
    ) -> Result<Self, String> {
        memory::use_one_arena();
        let cannot = |what: &'static str| move |error: io::Error| format!("cannot {what}: {error}");
        let signals = Signals::open_again(state.had_tty).map_err(cannot("read signals"))?;
        reap::prepare().map_err(cannot("adopt orphans"))?;
        spawn::remember_open_files(state.open_files);
        let poll = Poll::new().map_err(cannot("make a poll"))?;
        let registry = || poll.registry().try_clone().map_err(cannot("make a poll"));
        let watch = |fd: RawFd, token| {
            let watched = poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE);
            watched.map_err(cannot("watch an fd"))
        };
        watch(signals.as_fd().as_raw_fd(), SIGNALS)?;
        let sockets = socket::from_saved(setting.sockets, &mut fds)?;
        let mut launchers = Vec::new();
        for launcher in setting.launchers {
            launchers.push(Rc::new(Launcher::from_saved(launcher, &sockets)?));
        }
        let configuration = Configuration {
            current: setting.current.setup(&launchers)?,
            staged: setting.staged.map(|setup| setup.setup(&launchers)).transpose()?,
            reader,
        };
        let mut listeners = Listeners::from_saved(state.listeners, &mut fds, &sockets, registry()?)?;
        let children = Children::from_saved(state.children, &mut fds, &launchers, |id, saved, fds| {
            listeners.go_on_intercepting(id, saved, fds)
        })?;
        listeners.see_who_is_alone(&children);
        for (generation, notify) in children.notify_sockets() {
            watch(notify.as_fd().as_raw_fd(), tokens::notify(generation))?;
        }
        let store = FdStore::from_saved(state.store, &mut fds, poll.registry(), tokens::STORED);
        let control = state.control.map(|control| {
            ControlServer::from_saved(control, instance, &mut fds, poll.registry(), Token(CONTROL))
        });
        let shell = Self {
            supervisor: Supervisor::restore(state.core.get())?,
            outbox: Outbox::default(),
            control: control.transpose()?,
            poll,
            signals,
            listeners,
            questions: Questions::default(),
            configuration,
            store,
            manager: ManagerSocket::from_environment(),
            background: None,
            state: LoopState {
                // What came while nobody looked: datagrams, and the ends of processes.
                talkative: children.notify_sockets().map(|(generation, _)| generation).collect(),
                is_clearing: true,
                is_sweeping: state.is_sweeping,
                is_announced: true,
                has_worked: true,
                ..LoopState::default()
            },
            children,
            trial: None,
            keeping: Default::default(),
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
