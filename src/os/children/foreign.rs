//! Processes that a supervise before us has started, which was killed. They are not our children: their ends are told by
//! their pidfds, and how they ended is read where the kernel still shows it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Children, Leader, LivingGeneration};
use crate::config::CommandList;
use crate::core::{Command, Exit, GenerationId};
use crate::os::keeper::board::Birth;
use crate::os::reap;
use crate::os::sys::Waited;

impl Children {
    /// None of those that live is a child of ours.
    pub fn become_foreign(&mut self) {
        for leader in self.generations.values_mut().flat_map(|running| &mut running.leaders) {
            leader.is_ours = false;
        }
        let kin = self.kin.get_mut();
        (kin.has_foreign, kin.has_only_ours) = (true, false);
    }

    /// A process that was started just before the end of the one that did. `false`: the saved state has it, or does not know its
    /// generation.
    pub fn take_birth(&mut self, birth: Birth, pidfd: &OwnedFd) -> bool {
        let Some(running) = self.generations.get_mut(&birth.generation) else { return false };
        let Birth { command, pid, .. } = birth;
        if running.leaders.iter().any(|leader| leader.pid == pid) {
            return true;
        }
        let Ok(pidfd) = pidfd.try_clone() else { return false };
        match command.list {
            CommandList::Start => (running.main, running.adopted) = (Some(pid), None),
            _ => running.command = Some((pid, command)),
        }
        let (is_ours, is_reaped, group_is_gone) = (false, false, false);
        running.leaders.push(Leader { pid, pidfd, is_ours, is_reaped, group_is_gone });
        true
    }

    /// The main process that was started for this command, or the process of this command, if it was not seen to end.
    pub fn started(&self, generation: GenerationId, command: Command) -> Option<i32> {
        let running = self.generations.get(&generation)?;
        match command.list {
            CommandList::Start => running.main,
            _ => running.command.filter(|(_, of)| *of == command).map(|(pid, _)| pid),
        }
    }

    /// Whether a generation was begun by a supervise before us.
    pub fn has_foreign(&self) -> bool {
        self.generations.values().any(LivingGeneration::is_foreign)
    }

    /// The pidfds to watch, each with the generation of its process.
    pub fn foreign_pidfds(&self) -> impl Iterator<Item = (GenerationId, BorrowedFd<'_>)> {
        self.generations.iter().flat_map(|(generation, running)| {
            let foreign = running.leaders.iter().filter(|leader| !leader.is_ours && !leader.is_reaped);
            foreign.map(|leader| (*generation, leader.pidfd.as_fd()))
        })
    }

    /// One that has ended, and how, as far as that can be found out.
    pub fn ended_foreign(&self) -> Option<Waited> {
        let leaders = self.generations.values().flat_map(|running| &running.leaders);
        let mut foreign = leaders.filter(|leader| !leader.is_ours && !leader.is_reaped);
        let ended = foreign.find(|leader| reap::has_ended(&leader.pidfd).unwrap_or(false))?;
        let exit = reap::exit_of(ended.pid, &ended.pidfd).unwrap_or(Exit::Unknown);
        Some(Waited { pid: ended.pid, exit })
    }
}

impl LivingGeneration {
    /// A process of it was started by a supervise before us.
    pub(super) fn is_foreign(&self) -> bool {
        self.leaders.iter().any(|leader| !leader.is_ours)
    }
}
