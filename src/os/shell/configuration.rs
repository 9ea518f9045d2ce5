//! The configuration as the shell uses it: the one in force, and the one that was read anew for the swap that is
//! under way.

use std::rc::Rc;

use super::Reader;
use crate::config::{Config, Health, Policy, SocketCommands};
use crate::core::GenerationId;
use crate::os::children::Children;
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

    /// The sockets, current and staged, have changed by what this generation bound.
    pub(super) fn use_sockets(
        &mut self,
        (sockets, staged_sockets): (&[NamedSocket], Option<&[NamedSocket]>),
        generation: GenerationId,
        children: &mut Children,
    ) {
        let own = children.launcher(generation).cloned();
        let mut new = None;
        let staged = self.staged.as_mut().zip(staged_sockets);
        for (setup, sockets) in [(&mut self.current, sockets)].into_iter().chain(staged) {
            let changed = Rc::new(setup.launcher.on(sockets));
            let before = std::mem::replace(&mut setup.launcher, Rc::clone(&changed));
            if own.as_ref().is_some_and(|own| Rc::ptr_eq(own, &before)) {
                new = Some(changed);
            }
        }
        // Where the files were read anew, neither may be what it was started with.
        if let Some(new) = new.or_else(|| Some(Rc::new(own?.on(sockets)))) {
            children.set_launcher(generation, new);
        }
    }
}
