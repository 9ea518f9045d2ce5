//! The configuration as read anew for a swap: sockets that stay are untouched, added ones are bound before the swap,
//! removed ones are closed after it; a broken file changes nothing.

use super::Shell;
use super::configuration::Setup;
use super::open::{check, departures};
use crate::core::{Event, Reread};
use crate::os::launch;

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
        let (config, warnings) = reader()?;
        for warning in warnings {
            self.outbox.warn(warning);
        }
        launch::check(&config.launch)?;
        let sockets = self.listeners.rebind(&config.listeners, config.policy.handover);
        let sockets = sockets.map_err(|error| error.to_string())?;
        check(&config, &sockets)?;
        let staged = Setup::new(config, &sockets)?;
        self.listeners.stage(sockets)?;
        self.configuration.staged = Some(staged);
        Ok(())
    }

    pub(super) fn adopt(&mut self) {
        let Some(staged) = self.configuration.staged.take() else { return };
        let new = self.listeners.adopt(&mut self.questions);
        // ExecStopPre= and ExecStopPost= of [Socket] are those of the new files; those of its start are past.
        self.configuration.current = staged;
        let Setup { policy, launcher, .. } = &self.configuration.current;
        self.store.set_max(self.poll.registry(), launcher.fd_store_max());
        for note in departures(policy.handover, &new) {
            self.outbox.tell(note);
        }
    }
}
