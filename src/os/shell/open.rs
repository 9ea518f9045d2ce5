//! Everything that can fail before something is started.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;

use mio::unix::SourceFd;
use mio::{Interest, Poll, Token};

use super::{CONTROL, Reader, SIGNALS, Shell};
use crate::config::{Config, Input, Instance};
use crate::core::{Setting, Supervisor};
use crate::os::children::Children;
use crate::os::control::ControlSocket;
use crate::os::control::server::ControlServer;
use crate::os::fd_store::FdStore;
use crate::os::launch::{self, Launcher};
use crate::os::manager::ManagerSocket;
use crate::os::reap;
use crate::os::signal::{HupIgnored, Signals};
use crate::os::socket::{self, Inherited};

impl Shell {
    /// Everything that can fail before something is started. The order: what could be lost first (signals), then what
    /// others may hold (addresses, the name).
    pub(super) fn open(config: Config, instance: &Instance, reader: Option<Reader>) -> Result<Self, String> {
        // Before any fd of our own is open: they are named by number.
        let inherited = Inherited::from_environment();
        let cannot = |what: &'static str| move |error: io::Error| format!("cannot {what}: {error}");
        let (signals, HupIgnored(hup_ignored)) = Signals::open().map_err(cannot("read signals"))?;
        reap::prepare().map_err(cannot("adopt orphans"))?;
        launch::check(&config)?;
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
        let store = FdStore::new(config.launch.fd_store_max);
        let launcher = Launcher::new(config.launch, config.policy.watchdog, &sockets)
            .map_err(|problem| problem.to_string())?;
        Ok(Self {
            inherited,
            launcher: Rc::new(launcher),
            reader,
            staged: None,
            store,
            supervisor: Supervisor::new(config.policy.clone(), setting),
            policy: config.policy,
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
            is_clearing: false,
            is_announced: false,
            exit: None,
        })
    }

    /// Said once something runs: what could not even be started is one line.
    pub(super) fn announce(&mut self) {
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
    let file_name = command.rsplit('/').next().unwrap_or(&command);
    let default_name = config.name.as_deref().unwrap_or(file_name);
    let socket = ControlSocket::open(instance, default_name).map_err(|error| error.to_string())?;
    let server = socket.map(|socket| ControlServer::new(socket, poll.registry(), Token(CONTROL))).transpose();
    server.map_err(|error| format!("cannot watch the control socket: {error}"))
}
