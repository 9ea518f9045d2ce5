//! What the user asked for, as it is put to use: what is in force, and what was read anew for the swap that is under way.

use std::rc::Rc;

use super::Reader;
use crate::config::{Config, Health, Policy, SocketCommands};
use crate::os::launch::Launcher;
use crate::os::socket::NamedSocket;

pub(super) struct Configuration {
    pub(super) current: Setup,
    pub(super) staged: Option<Setup>,
    pub(super) reader: Option<Reader>,
}

/// What one reading of the files leads to, but for the sockets.
pub(super) struct Setup {
    pub(super) policy: Policy,
    pub(super) launcher: Rc<Launcher>,
    pub(super) socket_commands: SocketCommands,
    pub(super) health: Option<Health>,
}

impl Setup {
    /// # Errors
    /// A sentence: a server cannot be started with this.
    pub(super) fn new(config: Config, sockets: &[NamedSocket]) -> Result<Self, String> {
        let launcher = Launcher::new(config.launch, config.policy.watchdog, sockets)
            .map_err(|problem| problem.to_string())?;
        Ok(Self {
            policy: config.policy,
            launcher: Rc::new(launcher),
            socket_commands: config.socket_commands,
            health: config.health,
        })
    }
}

impl Configuration {
    /// What the next generation is started by.
    pub(super) fn next(&self) -> &Setup {
        self.staged.as_ref().unwrap_or(&self.current)
    }
}
