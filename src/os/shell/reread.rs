//! The configuration as read anew for a swap: sockets that stay are untouched, added ones are bound before the swap,
//! removed ones are closed after it; a broken file changes nothing.

use std::rc::Rc;

use super::open::{check_canary, departures};
use super::slots::set_of;
use super::{Launcher, Shell, Staged, health};
use crate::config::Config;
use crate::core::{Event, Reread};
use crate::os::launch;
use crate::os::socket::{self, NamedSocket};

impl Shell {
    pub(super) fn reread(&mut self) {
        let result = self.stage().map(|()| {
            let (policy, sockets) = match &self.staged {
                Some(staged) => (&staged.policy, &staged.sockets),
                None => (&self.policy, &self.sockets),
            };
            let steers = sockets.iter().any(|socket| socket.is_steered());
            let stored_fds = self.store.count();
            Box::new(Reread {
                policy: policy.clone(),
                holds_sockets: !sockets.is_empty(),
                steers,
                stored_fds,
            })
        });
        // First of all answers: what is started next is started from what was read, and the core has to know.
        self.queue.push_front(Event::Reread { result });
    }

    /// Without files nothing can have changed.
    fn stage(&mut self) -> Result<(), String> {
        let Some(reader) = &mut self.reader else { return Ok(()) };
        let config: Config = reader()?;
        launch::check(&config.launch)?;
        let sockets =
            socket::rebind(&self.sockets, &config.listeners, &self.inherited, config.policy.handover)
                .map_err(|error| error.to_string())?;
        if let Some(health) = &config.health {
            health::socket_of(health, &sockets)?;
        }
        check_canary(&config.policy, &sockets)?;
        // Where the traffic is when nobody runs, it is for them as well.
        let held = set_of(&self.sockets);
        for socket in sockets.iter().filter(|one| !held.contains(&Rc::as_ptr(&one.socket))) {
            let steered = socket.steer(&self.slots.steering);
            steered.map_err(|error| format!("cannot steer {}: {error}", socket.address))?;
        }
        let launcher = Launcher::new(config.launch, config.policy.watchdog, &sockets)
            .map_err(|problem| problem.to_string())?;
        self.staged = Some(Staged {
            policy: config.policy,
            launcher: Rc::new(launcher),
            sockets,
            socket_commands: config.socket_commands,
            health: config.health,
        });
        self.arm();
        Ok(())
    }

    pub(super) fn adopt(&mut self) {
        let Some(staged) = self.staged.take() else { return };
        self.tell_sockets(&staged.sockets);
        let held = set_of(&self.sockets);
        let new = staged.sockets.iter().filter(|one| !held.contains(&Rc::as_ptr(&one.socket)));
        let notes = departures(staged.policy.handover, new);
        (self.policy, self.launcher, self.sockets) = (staged.policy, staged.launcher, staged.sockets);
        // ExecStopPre= and ExecStopPost= of [Socket]; those of its start are past.
        self.socket_commands = staged.socket_commands;
        self.health = staged.health;
        self.store.set_max(self.poll.registry(), self.launcher.fd_store_max());
        self.arm();
        for note in notes {
            self.tell(&note);
        }
    }

    /// What is held from now on, and what no longer is.
    fn tell_sockets(&self, new: &[NamedSocket]) {
        let (before, after) = (set_of(&self.sockets), set_of(new));
        for socket in new.iter().filter(|one| !before.contains(&Rc::as_ptr(&one.socket))) {
            log::info!("listening on {} as {}", socket.shown(), socket.name);
        }
        for socket in self.sockets.iter().filter(|one| !after.contains(&Rc::as_ptr(&one.socket))) {
            log::info!("no longer listening on {} ({})", socket.shown(), socket.name);
        }
    }
}
