//! Read-only queries about living generations: their processes, slot and launcher, whether one is stopped; and the
//! answer to a `supervise exec` that fetches its sockets.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::unistd::Pid;

use super::{Children, LivingGeneration};
use crate::core::{GenerationId, SlotId};
use crate::os::fd_store::FdStore;
use crate::os::fetch;
use crate::os::launch::Launcher;
use crate::os::own;
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

    /// The pidfd of a main process that we did not start; it shows its end even if another process reaps it.
    pub fn adopted(&self, generation: GenerationId) -> Option<BorrowedFd<'_>> {
        self.generations.get(&generation)?.adopted.as_ref().map(AsFd::as_fd)
    }

    /// The launcher that started the generation.
    pub fn launcher(&self, generation: GenerationId) -> Option<&Rc<Launcher>> {
        self.generations.get(&generation).map(|running| &running.launcher)
    }

    /// The launcher of each generation.
    pub fn launchers(&self) -> impl Iterator<Item = (GenerationId, &Rc<Launcher>)> {
        self.generations.iter().map(|(generation, running)| (*generation, &running.launcher))
    }

    /// The last one that got this slot.
    pub fn on_slot(&self, slot: SlotId) -> Option<GenerationId> {
        let mut living = self.generations.iter().rev();
        living.find(|(_, running)| running.slot == slot).map(|(generation, _)| *generation)
    }

    pub fn slots(&self) -> Vec<(GenerationId, SlotId)> {
        self.generations.iter().map(|(generation, running)| (*generation, running.slot)).collect()
    }

    /// Whether no generation has a main process.
    pub fn has_no_main(&self) -> bool {
        self.generations.values().all(|running| running.main.is_none())
    }
}

impl LivingGeneration {
    /// Sends the sockets once more, to a process below a wrapper that has closed them (`supervise exec`).
    pub(super) fn pass_again(
        &self,
        (pid, uid): (i32, u32),
        is_its: bool,
        to: &[OwnedFd],
        store: &FdStore,
    ) -> Result<(), String> {
        let is_main = self.main == Some(pid);
        if !is_main && !is_its {
            return Err(format!("pid {pid} (uid {uid}) asks for the sockets, and is none of its processes"));
        }
        // The main process may have become another user (gosu, setpriv). Its children under another uid get nothing here:
        // what they are to have, they inherit.
        if !is_main && ![0, own::uid(), self.uid].contains(&uid) {
            log::debug!("pid {pid} of another user, uid {uid}, asks for the sockets and gets none");
            return Ok(());
        }
        let sockets: Vec<_> = self
            .launcher
            .sockets()
            .iter()
            .map(|socket| (socket.name.clone(), socket.of(self.slot)))
            .collect();
        let held = sockets.iter().map(|(name, fd)| (name.clone(), fd.as_raw_fd()));
        let passed: Vec<_> = held.chain(store.list()).collect();
        let to = to.first().ok_or("the sockets are asked for without a place to send them to")?;
        fetch::answer(to, &passed).map_err(|error| format!("pid {pid} cannot get the sockets: {error}"))
    }
}
