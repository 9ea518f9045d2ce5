//! What is left of generations that are gone, until nobody waits: a restart comes first, and may use some of it.

use super::{Children, Leader, LivingGeneration};
use crate::core::GenerationId;
use crate::os::notify::NotifySocket;
use crate::os::reap;

#[derive(Debug)]
pub(super) struct Remains {
    notify: Option<NotifySocket>,
    /// Closing their pidfds can wait.
    _leaders: Vec<Leader>,
    /// No child of ours lived when it was gone, so none of its descendants is left.
    has_left_nobody: bool,
}

impl Children {
    /// A generation is gone. Returns `false` if there was none of this number.
    pub fn forget(&mut self, generation: GenerationId) -> bool {
        let has_left_nobody = !self.has_foreign() && (self.has_nobody || !reap::has_children());
        if !has_left_nobody {
            // What it leaves alive is known as its own later.
            self.strays_of(generation);
        }
        let Some(gone) = self.generations.remove(&generation) else { return false };
        self.cgroups.over(generation);
        gone.launcher.is_gone(self.generations.values().map(|running| &*running.launcher));
        let LivingGeneration { notify, leaders, .. } = gone;
        self.remains.push(Remains { notify: Some(notify), _leaders: leaders, has_left_nobody });
        true
    }

    /// To be called when nobody waits: lets go what is left of generations that are gone. `unwatch` gets their notify
    /// sockets before they are closed.
    pub fn tidy(&mut self, unwatch: impl Fn(&NotifySocket)) {
        let gone = self.remains.drain(..);
        gone.filter_map(|remains| remains.notify).for_each(|notify| unwatch(&notify));
        self.cgroups.tidy();
    }

    /// The notify socket of the generation before, where no descendant of ours is left that knows it. Who else kept its path
    /// (a job of at(1), say) is judged by its credentials, as every sender is.
    pub(super) fn left_notify_socket(&mut self) -> Option<NotifySocket> {
        let remains = self.remains.last_mut().filter(|remains| remains.has_left_nobody)?;
        remains.notify.take_if(|notify| notify.is_as_new())
    }
}
