//! The configuration as read anew for a swap: sockets that stay are untouched, added ones are bound before the swap,
//! removed ones are closed after it; a broken file changes nothing.

use std::rc::Rc;

use super::configuration::Setup;
use super::open::{check_canary, departures};
use super::slots::set_of;
use super::{Shell, health};
use crate::config::Config;
use crate::core::{Event, Reread};
use crate::os::launch;
use crate::os::socket::{self, NamedSocket};

impl Shell {
    pub(super) fn reread(&mut self) {
        let result = self.stage().map(|()| {
            let sockets = self.listeners.next();
            Box::new(Reread {
                policy: self.configuration.next().policy.clone(),
                holds_sockets: !sockets.is_empty(),
                steers: sockets.iter().any(|socket| socket.is_steered()),
                stored_fds: self.store.count(),
            })
        });
        // First of all answers: what is started next is started from what was read, and the core has to know.
        self.outbox.events.push_front(Event::Reread { result });
    }

    /// Without files nothing can have changed.
    fn stage(&mut self) -> Result<(), String> {
        let Some(reader) = &mut self.configuration.reader else { return Ok(()) };
        let config: Config = reader()?;
        launch::check(&config.launch)?;
        let sockets = socket::rebind(
            &self.listeners.current,
            &config.listeners,
            &self.listeners.inherited,
            config.policy.handover,
        )
        .map_err(|error| error.to_string())?;
        if let Some(health) = &config.health {
            health::socket_of(health, &sockets)?;
        }
        check_canary(&config.policy, &sockets)?;
        // Where the traffic is when nobody runs, it is for them as well.
        let held = set_of(&self.listeners.current);
        for socket in sockets.iter().filter(|one| !held.contains(&Rc::as_ptr(&one.socket))) {
            let steered = socket.steer(&self.slots.steering);
            steered.map_err(|error| format!("cannot steer {}: {error}", socket.address))?;
        }
        self.configuration.staged = Some(Setup::new(config, &sockets)?);
        self.listeners.staged = Some(sockets);
        self.arm();
        Ok(())
    }

    pub(super) fn adopt(&mut self) {
        let Some(staged) = self.configuration.staged.take() else { return };
        let Some(sockets) = self.listeners.staged.take() else { return };
        self.tell_sockets(&sockets);
        let held = set_of(&self.listeners.current);
        let new = sockets.iter().filter(|one| !held.contains(&Rc::as_ptr(&one.socket)));
        let notes = departures(staged.policy.handover, new);
        (self.configuration.current, self.listeners.current) = (staged, sockets);
        self.store.set_max(self.poll.registry(), self.configuration.current.launcher.fd_store_max());
        self.arm();
        for note in notes {
            self.outbox.tell(note);
        }
    }

    /// What is held from now on, and what no longer is.
    fn tell_sockets(&self, new: &[NamedSocket]) {
        let (before, after) = (set_of(&self.listeners.current), set_of(new));
        for socket in new.iter().filter(|one| !before.contains(&Rc::as_ptr(&one.socket))) {
            log::info!("listening on {} as {}", socket.shown(), socket.name);
        }
        for socket in self.listeners.current.iter().filter(|one| !after.contains(&Rc::as_ptr(&one.socket))) {
            log::info!("no longer listening on {} ({})", socket.shown(), socket.name);
        }
    }
}
