//! The living generations, by number: pid, pidfd and NOTIFY_SOCKET of each.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use nix::unistd::getuid;

use super::launch::Launcher;
use super::notify::{NotifySocket, Received};
use super::{reap, spawn};
use crate::config::Signal;
use crate::core::{Event, GenerationId, Scope, Stage, StartFailure};

/// Datagrams of one generation that are read in one turn, so that a flood cannot hold up the rest.
const DATAGRAMS: usize = 32;

#[derive(Debug, Default)]
pub struct Children {
    generations: BTreeMap<GenerationId, Running>,
}

#[derive(Debug)]
struct Running {
    pid: i32,
    pidfd: OwnedFd,
    notify: NotifySocket,
    /// The uid it was started with.
    uid: u32,
    /// The main process was reaped; what is left of the group is waited for.
    reaped: bool,
    /// Its process group was seen empty after that: the number may be another's by now (before Linux 6.9 it matters).
    group_is_gone: bool,
    /// SIGKILL was sent to all of it.
    is_killed: bool,
    /// A notification was dropped, and that was told.
    has_dropped: bool,
}

impl Children {
    /// Starts a generation. `watch` gets its notify socket before anything can be sent there.
    ///
    /// # Errors
    /// Nothing runs then.
    pub fn start(
        &mut self,
        generation: GenerationId,
        launcher: &Launcher,
        watch: impl FnOnce(&NotifySocket) -> io::Result<()>,
    ) -> Result<i32, StartFailure> {
        let no_socket = |error: io::Error| StartFailure {
            stage: Stage::Resources,
            errno: error.raw_os_error().unwrap_or(0),
            what: format!("cannot open a notify socket: {error}"),
        };
        let notify = NotifySocket::open().map_err(no_socket)?;
        let plan = launcher.plan(generation, &notify.address())?;
        let uid = plan.identity.uid.unwrap_or_else(|| getuid().as_raw());
        let child = spawn::spawn(&plan)?;
        for shortfall in &child.shortfalls {
            log::warn!("{generation}: {shortfall}");
        }
        // A process that nobody hears is still a process: the server runs, only READY=1 will not arrive.
        if let Err(error) = watch(&notify) {
            log::warn!("{generation}: cannot listen to its notify socket: {error}");
        }
        let running = Running {
            pid: child.pid,
            pidfd: child.pidfd,
            notify,
            uid,
            reaped: false,
            group_is_gone: false,
            is_killed: false,
            has_dropped: false,
        };
        self.generations.insert(generation, running);
        Ok(child.pid)
    }

    /// Sends a signal. One that comes too late, to a process that is gone, is no error.
    pub fn kill(&mut self, generation: GenerationId, signal: Signal, scope: Scope) {
        let Some(running) = self.generations.get_mut(&generation) else { return };
        let result = match scope {
            Scope::Main if running.reaped => return,
            Scope::Main => reap::signal_main(&running.pidfd, signal),
            Scope::All => {
                running.is_killed |= signal == Signal::KILL;
                let signalled = match running.group_is_gone {
                    true => Ok(false),
                    false => reap::signal_group(&running.pidfd, running.pid, signal),
                };
                self.signal_others(generation, signal);
                signalled
            }
        };
        if let Err(error) = result {
            log::warn!("cannot send {signal} to {generation}: {error}");
        }
    }

    /// Processes of the generation that left its process group: those still below its main process, and those that
    /// lost their parent and so became our children.
    fn signal_others(&self, generation: GenerationId, signal: Signal) {
        let Some(running) = self.generations.get(&generation) else { return };
        let mut heads = self.strays_of(generation);
        if !running.reaped {
            heads.push(running.pid);
        }
        if let Err(error) = reap::signal_trees(heads, running.pid, signal) {
            log::warn!("cannot send {signal} to all that {generation} has started: {error}");
        }
    }

    fn strays_of(&self, generation: GenerationId) -> Vec<i32> {
        let mains: Vec<i32> =
            self.generations.values().filter(|running| !running.reaped).map(|running| running.pid).collect();
        let mut strays = reap::strays(&mains).unwrap_or_else(|error| {
            log::warn!("cannot look for what {generation} left behind: {error}");
            Vec::new()
        });
        strays.retain(|pid| reap::generation_of(*pid) == Some(generation.0));
        strays
    }

    pub fn forget(&mut self, generation: GenerationId) -> Option<NotifySocket> {
        self.generations.remove(&generation).map(|running| running.notify)
    }

    /// The generation whose main process this was; from now on its pid means nothing.
    pub fn reaped(&mut self, pid: i32) -> Option<GenerationId> {
        let (generation, running) =
            self.generations.iter_mut().find(|(_, running)| running.pid == pid && !running.reaped)?;
        running.reaped = true;
        Some(*generation)
    }

    /// Generations whose main process is gone and of which nothing is left now. `has_children` is false where we are
    /// known to have no child of any kind, which saves the search.
    pub fn cleared(&mut self, has_children: bool) -> Vec<GenerationId> {
        for running in
            self.generations.values_mut().filter(|running| running.reaped && !running.group_is_gone)
        {
            running.group_is_gone = !reap::group_lives(&running.pidfd, running.pid).unwrap_or(true);
        }
        let mut cleared = Vec::new();
        for (generation, running) in self.generations.iter().filter(|(_, running)| running.reaped) {
            let has_others = has_children && !self.strays_of(*generation).is_empty();
            if has_others && running.is_killed {
                // What SIGKILL ended has left us its own children meanwhile.
                self.signal_others(*generation, Signal::KILL);
            }
            if !has_others && running.group_is_gone {
                cleared.push(*generation);
            }
        }
        cleared
    }

    /// No main process lives.
    pub fn is_empty(&self) -> bool {
        self.generations.values().all(|running| running.reaped)
    }

    /// What the generation has sent, as events. True: there may be more.
    pub fn receive(&mut self, generation: GenerationId, events: &mut impl Extend<Event>) -> bool {
        let Some(running) = self.generations.get_mut(&generation) else { return false };
        // A sender that is gone already (`systemd-notify --no-block`) can only be judged by its uid.
        let (main, users) = (running.pid, [0, getuid().as_raw(), running.uid]);
        let believes =
            |pid, uid| reap::belongs(pid, main, generation.0).unwrap_or_else(|| users.contains(&uid));
        for _ in 0..DATAGRAMS {
            match running.notify.receive(believes) {
                Received::Nothing => return false,
                Received::Message(message) => events.extend([Event::Notified { generation, message }]),
                Received::Dropped(why) => {
                    let level = if running.has_dropped { log::Level::Debug } else { log::Level::Warn };
                    running.has_dropped = true;
                    log::log!(level, "{generation}: a notification was dropped: {why}");
                }
            }
        }
        true
    }
}
