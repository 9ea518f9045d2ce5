//! Who started supervise is told how far it is: a service manager, and the process that waits with --detach.

use super::Shell;
use crate::core::Manager;
use crate::os::warning::Warn;

impl Shell {
    pub(super) fn tell_manager(&mut self, message: &Manager) {
        if *message == Manager::Ready
            && let Some(background) = self.background.take()
        {
            background.let_go(self.control.as_ref().map(|control| control.socket().name()));
            self.begin_keeping();
        }
        if let Some(manager) = &self.manager
            && let Err(error) = manager.tell(message)
        {
            Warn::NotifyManager.because(error);
            self.manager = None;
        }
    }
}
