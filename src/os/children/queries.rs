//! What is asked about the generations that live.

use std::io;
use std::rc::Rc;

use nix::unistd::Pid;

use super::Children;
use crate::core::{GenerationId, SlotId};
use crate::os::launch::Launcher;
use crate::os::reap;

impl Children {
    /// Every process of a generation that can be found.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn pids(&self, generation: GenerationId) -> io::Result<Vec<Pid>> {
        let Some(running) = self.generations.get(&generation) else { return Ok(Vec::new()) };
        let mut heads = self.strays_of(generation);
        heads.extend(running.leaders.iter().filter(|leader| !leader.is_reaped).map(|leader| leader.pid));
        reap::trees(heads)
    }

    /// A signal has stopped its main process, and none of the others runs. One that a debugger has stopped is another matter.
    pub fn is_stopped(&self, generation: GenerationId) -> bool {
        let main = self.generations.get(&generation).and_then(|running| running.main);
        // The main process first: to find all of them takes reading all of /proc.
        main.is_some_and(reap::is_stopped)
            && self.pids(generation).is_ok_and(|pids| !pids.iter().any(|pid| reap::runs(pid.as_raw())))
    }

    /// What it was started with.
    pub fn launcher(&self, generation: GenerationId) -> Option<&Rc<Launcher>> {
        self.generations.get(&generation).map(|running| &running.launcher)
    }

    /// The last one that got this slot.
    pub fn on_slot(&self, slot: SlotId) -> Option<GenerationId> {
        let mut living = self.generations.iter().rev();
        living.find(|(_, running)| running.slot == slot).map(|(generation, _)| *generation)
    }

    pub fn slots(&self) -> Vec<(GenerationId, SlotId)> {
        self.generations.iter().map(|(generation, running)| (*generation, running.slot)).collect()
    }

    /// No main process lives.
    pub fn has_no_main(&self) -> bool {
        self.generations.values().all(|running| running.main.is_none())
    }
}
