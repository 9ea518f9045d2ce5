//! The living generations, by number: their processes, and the NOTIFY_SOCKET of each.
//!
//! A generation has leaders (the processes that we started: each leads its own group) and whatever these started. One
//! leader may be its main process; or that is a process we did not start but know by its pid (MAINPID=, PIDFile=).

mod foreign;
mod interception;
mod kin;
mod queries;
mod remains;
mod saved;
mod signals;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

use mio::Registry;

use super::cgroup::Cgroups;
use super::fd_store::FdStore;
use super::intercept::Interceptor;
use super::keeper::board::Board;
use super::launch::{Launcher, StartRequest};
use super::notify::{self, Notifier, NotifySocket, Received};
use super::warning::Warn;
use super::{reap, spawn, sys};
use crate::config::{CommandList, NotifyAccess, Signal};
use crate::core::{
    Command, Event, Exit, Found, GenerationId, Notify, RunOutcome, SlotId, Stage, StartFailure,
};
use crate::os::own;
pub use interception::Started;
use kin::Kin;
use remains::Remains;
pub use saved::SavedChildren;

/// Datagrams of one generation that are read in one turn, so that a flood cannot hold up the rest.
const DATAGRAMS: usize = 32;

#[derive(Debug, Default)]
pub struct Children {
    generations: BTreeMap<GenerationId, LivingGeneration>,
    kin: RefCell<Kin>,
    cgroups: Cgroups,
    /// Of generations that are gone: let go when nobody waits.
    remains: Vec<Remains>,
    /// When a child ended no other one lived, and none was started since: no process of a generation is left.
    has_nobody: bool,
}

#[derive(Debug)]
struct LivingGeneration {
    launcher: Rc<Launcher>,
    notify: NotifySocket,
    /// Who may speak by sd_notify(3); a server changes it by NOTIFYACCESS=.
    notify_access: NotifyAccess,
    /// The uid its main process was started with, and the slot it got.
    uid: u32,
    slot: SlotId,
    leaders: Vec<Leader>,
    /// The main process, if it lives and is known.
    main: Option<i32>,
    /// The pidfd of a main process that supervise did not start.
    adopted: Option<OwnedFd>,
    /// The command beside it, if one runs.
    command: Option<(i32, Command)>,
    awaits_clear: bool,
    /// Type=forking: its daemon was found; when, if it was only guessed; nobody was there in the last look.
    is_found: bool,
    guessed: Option<Instant>,
    /// MAINPID= that came before the process we started has ended.
    named: Option<i32>,
    looks_empty: bool,
    /// SIGKILL was sent to all of it.
    is_killed: bool,
    /// A notification was dropped, and the log has said so. A dropped STOPPING=1 has a line of its own.
    has_dropped: bool,
    has_dropped_stopping: bool,
    /// Answers what its processes bind; one for each that was started.
    interceptors: Vec<Interceptor>,
}

#[derive(Debug)]
struct Leader {
    pid: i32,
    pidfd: OwnedFd,
    /// It is a child of ours, and not of one that was killed. Else its end is told by its pidfd alone.
    is_ours: bool,
    is_reaped: bool,
    /// Its process group was seen empty after that: the number may be another's by now (before Linux 6.9 it matters).
    group_is_gone: bool,
}

/// The store of fds, and what it takes to watch them.
#[derive(Debug)]
pub struct Store<'a> {
    pub fds: &'a mut FdStore,
    pub registry: &'a Registry,
    /// Added to the number of a stored fd.
    pub tokens: usize,
}

/// The kind of child that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Main(GenerationId),
    Command(GenerationId),
    /// A process that nothing waits for.
    Other,
}

/// How generations and their processes begin.
impl Children {
    /// A new generation, of which nothing runs yet. `watch` gets its notify socket before anything can be sent there, and
    /// whether another generation had it before.
    ///
    /// # Errors
    /// There is no notify socket for it.
    pub fn admit(
        &mut self,
        generation: GenerationId,
        launcher: &Rc<Launcher>,
        slot: SlotId,
        watch: impl FnOnce(&NotifySocket, bool) -> io::Result<()>,
    ) -> Result<(), StartFailure> {
        if self.generations.contains_key(&generation) {
            return Ok(());
        }
        let no_socket = |error: io::Error| StartFailure {
            stage: Stage::Resources,
            errno: error.raw_os_error().unwrap_or(0),
            what: format!("cannot open a notify socket: {error}"),
        };
        let left = self.left_notify_socket();
        let is_used = left.is_some();
        let notify = left.map_or_else(NotifySocket::open, Ok).map_err(no_socket)?;
        // A process that nobody hears is still a process: the server runs, only READY=1 will not arrive.
        if let Err(error) = watch(&notify, is_used) {
            Warn::WatchNotify(generation).because(error);
        }
        let admitted = LivingGeneration {
            launcher: Rc::clone(launcher),
            notify,
            notify_access: launcher.notify_access(),
            uid: own::uid(),
            slot,
            leaders: Vec::new(),
            main: None,
            adopted: None,
            command: None,
            awaits_clear: false,
            is_found: false,
            guessed: None,
            named: None,
            looks_empty: false,
            is_killed: false,
            has_dropped: false,
            has_dropped_stopping: false,
            interceptors: Vec::new(),
        };
        self.generations.insert(generation, admitted);
        Ok(())
    }

    /// Starts a process of the generation: its main one if the command is one of ExecStart=, which alone gets what is
    /// stored.
    ///
    /// # Errors
    /// It does not run then.
    pub fn start(
        &mut self,
        generation: GenerationId,
        command: Command,
        outcome: Option<RunOutcome>,
        store: &FdStore,
        board: Option<&Board>,
    ) -> Result<Started, StartFailure> {
        let Some(running) = self.generations.get_mut(&generation) else {
            return Err(StartFailure {
                stage: Stage::Resources,
                errno: 0,
                what: format!("{generation} has no notify socket"),
            });
        };
        let address = running.notify.address();
        let mut plan = running.launcher.plan(&StartRequest {
            generation: Some((generation, &address)),
            command,
            main_pid: running.main,
            outcome,
            stored: &store.list(),
            slot: running.slot,
        })?;
        let uid = plan.identity.uid.unwrap_or_else(own::uid);
        plan.cgroup = self.cgroups.open(generation);
        self.has_nobody = false;
        plan.cradle = board.map(|board| board.expect(generation, command));
        let child =
            spawn::spawn(&plan).inspect_err(|_| plan.cradle.iter().for_each(|cradle| cradle.clear()))?;
        if plan.cgroup.is_some() {
            self.cgroups.started(generation, child.in_cgroup);
        }
        self.cgroups.sweep();
        for shortfall in &child.shortfalls {
            log::warn!("{generation}: {shortfall}");
        }
        if command.list == CommandList::Start {
            (running.uid, running.main, running.adopted) = (uid, Some(child.pid), None);
        } else {
            running.command = Some((child.pid, command));
        }
        running.leaders.retain(|leader| !leader.group_is_gone);
        running.is_killed = false;
        running.leaders.push(Leader {
            pid: child.pid,
            pidfd: child.pidfd,
            is_reaped: false,
            group_is_gone: false,
            is_ours: true,
        });
        Ok(Started { pid: child.pid, listener: child.listener })
    }
}

/// The main process.
impl Children {
    /// Type=forking: the process that is the main one now. PIDFile= says it; without one it is the only orphan.
    pub fn find_main(&mut self, generation: GenerationId) -> Found {
        let orphans = self.strays_of(generation);
        let Some(running) = self.generations.get_mut(&generation) else { return Found::Nobody };
        let is_empty = orphans.is_empty() && !running.leaders.iter().any(Leader::group_lives);
        let looked_empty = std::mem::replace(&mut running.looks_empty, is_empty);
        let pid = match running.launcher.pid_file() {
            // One that has ended is no main process, reaped or not.
            Some(path) => reap::pid_in_file(path).filter(|pid| reap::lives(*pid)),
            None if running.named.is_some_and(reap::runs) => running.named,
            None => match orphans[..] {
                [pid] if running.launcher.guesses_main_pid() => Some(pid),
                [] if is_empty => None,
                _ => return Found::Unknown,
            },
        };
        let Some(pid) = pid else {
            // A second look: what lost its parent during the first is in no list then.
            return if is_empty && looked_empty { Found::Nobody } else { Found::NotYet };
        };
        let is_guessed = running.launcher.pid_file().is_none() && running.named != Some(pid);
        match self.adopt(generation, pid) {
            Ok(()) => {
                if let Some(running) = self.generations.get_mut(&generation) {
                    running.is_found = true;
                    running.guessed = is_guessed.then(Instant::now);
                }
                Found::Main(pid.unsigned_abs())
            }
            Err(why) => {
                log::debug!("{generation}: pid {pid} is not its main process: {why}");
                if let Some(running) = self.generations.get_mut(&generation) {
                    running.named.take_if(|named| *named == pid);
                }
                Found::NotYet
            }
        }
    }

    /// Takes `pid` for the main process from now on.
    ///
    /// # Errors
    /// A sentence: it does not live, or is none of this generation.
    fn adopt(&mut self, generation: GenerationId, pid: i32) -> Result<(), String> {
        // The number is pinned first and looked at then.
        let pidfd = sys::pidfd_open(pid).map_err(|error| format!("no such process ({error})"))?;
        let belongs = self.belongs(pid, generation) == Some(true);
        let Some(running) = self.generations.get_mut(&generation) else {
            return Err("the generation is over".to_owned());
        };
        let is_leader = running.leaders.iter().any(|leader| leader.pid == pid && !leader.is_reaped);
        if !is_leader && !belongs {
            return Err("it was not started by this generation".to_owned());
        }
        running.adopted = (!is_leader).then_some(pidfd);
        (running.main, running.guessed) = (Some(pid), None);
        Ok(())
    }

    /// An adopted main process is gone, and its parent has its status.
    pub fn lost_main(&mut self, generation: GenerationId) -> bool {
        let Some(running) = self.generations.get_mut(&generation) else { return false };
        let is_gone = running.adopted.as_ref().is_some_and(|pidfd| reap::has_ended(pidfd).unwrap_or(false));
        if is_gone {
            (running.main, running.adopted) = (None, None);
        }
        is_gone
    }
}

/// How generations and their processes end.
impl Children {
    /// The generation that a process which just ended was a leader or the main process of.
    pub fn generation_of(&self, pid: i32) -> Option<GenerationId> {
        let is_its = |running: &LivingGeneration| {
            running.main == Some(pid)
                || running.leaders.iter().any(|leader| leader.pid == pid && !leader.is_reaped)
        };
        self.generations.iter().find(|(_, running)| is_its(running)).map(|(generation, _)| *generation)
    }

    /// Whose process this was; from now on its pid means nothing.
    pub fn reaped(&mut self, pid: i32, exit: Exit) -> Ended {
        if matches!(exit, Exit::Signal { signal: Signal::KILL, .. })
            && let Some(generation) = self.generation_of(pid)
        {
            self.cgroups.may_be_killed(generation);
        }
        self.no_kin(pid);
        for (generation, running) in &mut self.generations {
            let leader = running.leaders.iter_mut().find(|leader| leader.pid == pid && !leader.is_reaped);
            let is_leader = leader.is_some();
            if let Some(leader) = leader {
                leader.is_reaped = true;
            }
            if running.main == Some(pid) && (is_leader || running.adopted.is_some()) {
                (running.main, running.adopted) = (None, None);
                return Ended::Main(*generation);
            }
            if let Some((_, command)) = running.command.take_if(|(command, _)| is_leader && *command == pid) {
                running.end_leftovers_of(pid, command.list);
                return Ended::Command(*generation);
            }
        }
        Ended::Other
    }

    pub fn await_clear(&mut self, generation: GenerationId) {
        if let Some(running) = self.generations.get_mut(&generation) {
            running.awaits_clear = true;
        }
    }

    /// Generations that are to be waited for and of which nothing is left now. `has_children` is false where we are
    /// known to have no child of any kind, which saves the search.
    pub fn cleared(&mut self, has_children: bool) -> Vec<GenerationId> {
        for leader in self.generations.values_mut().flat_map(|running| &mut running.leaders) {
            leader.group_is_gone = leader.group_is_gone || (leader.is_reaped && !leader.group_lives());
        }
        let mut cleared = Vec::new();
        for (generation, running) in self.generations.iter().filter(|(_, running)| running.awaits_clear) {
            let groups_are_gone = running.leaders.iter().all(|leader| leader.group_is_gone);
            let has_others = has_children && self.has_strays(*generation);
            if has_others && running.is_killed {
                // What SIGKILL ended has left us its own children meanwhile.
                self.signal_others(*generation, Signal::KILL);
            }
            if !has_others && groups_are_gone {
                cleared.push(*generation);
            }
        }
        for generation in &cleared {
            if let Some(running) = self.generations.get_mut(generation) {
                running.awaits_clear = false;
            }
        }
        cleared
    }
}

/// Notifications of generations (sd_notify(3)).
impl Children {
    /// Reads what the generation has sent, as events. Returns whether there may be more.
    pub fn receive(
        &mut self,
        generation: GenerationId,
        store: &mut Store<'_>,
        events: &mut impl Extend<Event>,
    ) -> bool {
        for _ in 0..DATAGRAMS {
            let Some(running) = self.generations.get_mut(&generation) else { return false };
            match running.notify.receive(store.fds.is_open()) {
                Received::Nothing => return false,
                Received::Dropped(why) => tell_dropped(&mut running.has_dropped, generation, &why),
                // Dropping the message closes its fd, which is all that a barrier asks for, from any sender.
                // `systemd-notify --ready` says READY=1 in the name of its parent, but this in its own.
                Received::Message { notify, .. } if notify.barrier => {}
                Received::Message { notify, pid, uid, fds } if notify.fetch => {
                    let is_its = self.belongs(pid, generation).unwrap_or(false);
                    let Some(running) = self.generations.get_mut(&generation) else { return false };
                    if let Err(why) = running.pass_again((pid, uid), is_its, &fds, store.fds) {
                        tell_dropped(&mut running.has_dropped, generation, &why);
                    }
                }
                Received::Message { mut notify, pid, uid, fds } => {
                    let sender = self.sender(pid, uid, generation);
                    let Some(running) = self.generations.get_mut(&generation) else { return false };
                    if let Err(why) = notify::judge(running.notify_access, sender, pid, uid) {
                        tell_dropped(&mut running.has_dropped, generation, &why);
                        continue;
                    }
                    if notify::drop_what_main_alone_may_say(&mut notify, sender) {
                        let why = format!("STOPPING=1 from pid {pid}, which is not its main process");
                        tell_dropped(&mut running.has_dropped_stopping, generation, &why);
                    }
                    running.notify_access = notify.notify_access.unwrap_or(running.notify_access);
                    if store.fds.is_open() {
                        store.fds.take(store.registry, &notify, fds, store.tokens);
                    }
                    events.extend(self.main_changed(generation, &notify));
                    events.extend([Event::Notified { generation, message: notify }]);
                }
            }
        }
        true
    }

    fn sender(&self, pid: i32, uid: u32, generation: GenerationId) -> Notifier {
        let Some(running) = self.generations.get(&generation) else { return Notifier::Stranger };
        if running.main == Some(pid) {
            return Notifier::Main;
        }
        if running.command.is_some_and(|(command, _)| reap::is_below(pid, command)) {
            return Notifier::Command;
        }
        // A sender that is gone already (`systemd-notify --no-block`) can only be judged by its uid.
        let is_ours = [0, own::uid(), running.uid].contains(&uid);
        if self.belongs(pid, generation).unwrap_or(is_ours) { Notifier::Other } else { Notifier::Stranger }
    }

    fn main_changed(&mut self, generation: GenerationId, notify: &Notify) -> Option<Event> {
        let pid = notify.main_pid?;
        let is_its = self.belongs(pid, generation) == Some(true);
        let running = self.generations.get_mut(&generation)?;
        if is_its && running.launcher.forks() && !running.is_found && running.main_was_started() {
            // The end of the first process completes the start, and the named one is looked for then.
            running.named = Some(pid);
            return None;
        }
        match self.adopt(generation, pid) {
            Ok(()) => Some(Event::MainChanged { generation, pid: pid.unsigned_abs() }),
            Err(why) => {
                Warn::TakeMainPid(generation, pid).because(why);
                None
            }
        }
    }
}

impl LivingGeneration {
    fn main_pidfd(&self) -> Option<&OwnedFd> {
        let main = self.main?;
        let leader = self.leaders.iter().find(|leader| leader.pid == main && !leader.is_reaped);
        self.adopted.as_ref().or_else(|| leader.map(|leader| &leader.pidfd))
    }

    /// Whether the main process is one that we started.
    fn main_was_started(&self) -> bool {
        self.leaders.iter().any(|leader| self.main == Some(leader.pid) && !leader.is_reaped)
    }

    fn command_leader(&self) -> Option<&Leader> {
        let (pid, _) = self.command?;
        self.leaders.iter().find(|leader| leader.pid == pid && !leader.is_reaped)
    }

    /// What ExecCondition= and ExecStartPre= start does not outlive them (systemd.service(5), ExecStartPre=).
    fn end_leftovers_of(&self, pid: i32, list: CommandList) {
        let is_before = matches!(list, CommandList::Condition | CommandList::StartPre);
        if let Some(leader) = self.leaders.iter().find(|leader| leader.pid == pid).filter(|_| is_before)
            && let Err(error) = leader.signal_group(Signal::KILL)
        {
            Warn::EndCommand(list.key()).because(error);
        }
    }
}

fn tell_dropped(told: &mut bool, generation: GenerationId, why: &str) {
    let level = if std::mem::replace(told, true) { log::Level::Debug } else { log::Level::Warn };
    Warn::TakeNotification(generation).log(level, why);
}

impl Leader {
    fn signal_group(&self, signal: Signal) -> io::Result<bool> {
        if self.group_is_gone { Ok(false) } else { reap::signal_group(&self.pidfd, self.pid, signal) }
    }

    fn group_lives(&self) -> bool {
        !self.group_is_gone
            && reap::group_lives(&self.pidfd, self.pid).unwrap_or(true)
            && (self.is_ours || reap::group_runs(self.pid))
    }
}
