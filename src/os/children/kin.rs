//! Which generation a process belongs to. Its cgroup says so where we may make one for each; elsewhere, or where it was
//! moved, its environment, unless that is gone: servers write their title over that memory (nginx, Perl's `$0`,
//! PostgreSQL), and a zombie has none.
//!
//! Remembered are the children of ours that were looked at, with the time of their start, and the sessions and process
//! groups in which they were seen: who is in one of them later is of the same generation. What is left is decided
//! by elimination, where one generation lives and nobody else can have children below us.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{Children, LivingGeneration};
use crate::core::{Exit, GenerationId};
use crate::os::cgroup::Cgroups;
use crate::os::own;
use crate::os::reap::{self, ProcessIdentity};
use crate::os::sys;
use crate::os::warning::Warn;

/// Sessions and groups remembered; a server that has more alive is known by its environment alone.
const GROUPS: usize = 1 << 16;
/// The process between two forks ends this soon after it was taken for the main one.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Kin {
    /// Our children by pid.
    pub(super) known: BTreeMap<i32, (ProcessIdentity, GenerationId)>,
    /// The generation of each session and process group, by its number.
    pub(super) groups: BTreeMap<i32, GenerationId>,
    /// Children that are processes of our own program and of no generation, the relays: they lead groups of their own.
    pub(super) own_children: BTreeSet<i32>,
    /// Every other child of ours descends from a generation: we began without children, and are not pid 1, to which the kernel
    /// gives the orphans of others.
    pub(super) has_only_ours: bool,
    /// Ours, asked when it is needed first.
    pub(super) own: OnceCell<Option<ProcessIdentity>>,
    /// Processes of a supervise before us are children of who has adopted them, and not of us.
    pub(super) has_foreign: bool,
    /// Other children of that one, by pid, and when they began.
    pub(super) strangers: BTreeMap<i32, u64>,
}

impl Default for Kin {
    fn default() -> Self {
        Self {
            known: BTreeMap::new(),
            groups: BTreeMap::new(),
            own_children: BTreeSet::new(),
            has_only_ours: own::pid() != 1 && !reap::has_children(),
            own: OnceCell::new(),
            has_foreign: false,
            strangers: BTreeMap::new(),
        }
    }
}

impl Kin {
    fn own(&self) -> Option<ProcessIdentity> {
        *self.own.get_or_init(|| reap::identity(reap::our_pid()))
    }

    /// The generation of a child of ours.
    fn owner(
        &mut self,
        pid: i32,
        generations: &BTreeMap<GenerationId, LivingGeneration>,
        cgroups: &Cgroups,
    ) -> Option<GenerationId> {
        if self.own_children.contains(&pid) {
            return None;
        }
        let identity = reap::identity(pid)?;
        if let Some((before, generation)) = self.known.get(&pid)
            && before.start == identity.start
        {
            let generation = *generation;
            self.remember(pid, identity, generation);
            return Some(generation);
        }
        // A leader is known by itself, which saves the question.
        let is_its = |running: &LivingGeneration| {
            running.leaders.iter().any(|leader| leader.pid == pid && !leader.is_reaped)
        };
        let leads =
            generations.iter().find(|(_, running)| is_its(running)).map(|(generation, _)| *generation);
        let is_foreign = self.has_foreign && !reap::is_child(pid);
        let generation = match leads.or_else(|| cgroups.owner(pid)) {
            Some(generation) => generation,
            // Those that we start and wait for at once stay in our own group.
            None if self.own().is_some_and(|own| own.group == identity.group) => return None,
            None if self.strangers.get(&pid) == Some(&identity.start) => return None,
            None => match self.told(pid, &identity, generations, is_foreign) {
                Some(generation) => generation,
                None => {
                    if is_foreign && self.strangers.len() < GROUPS {
                        self.strangers.insert(pid, identity.start);
                    }
                    return None;
                }
            },
        };
        self.remember(pid, identity, generation);
        Some(generation)
    }

    fn told(
        &self,
        pid: i32,
        identity: &ProcessIdentity,
        generations: &BTreeMap<GenerationId, LivingGeneration>,
        is_foreign: bool,
    ) -> Option<GenerationId> {
        // Of a child of another the number alone does not tell whose it is.
        let said = |pid| match is_foreign {
            false => reap::generation_of(pid).map(GenerationId),
            true => {
                let (number, notify) = reap::generation_and_notify_of(pid)?;
                let running = generations.get(&GenerationId(number))?;
                (running.notify.address().as_bytes() == notify).then_some(GenerationId(number))
            }
        };
        // What the kernel has comes first: it costs nothing more, where an environment takes a thread to read.
        let leads = |running: &LivingGeneration| {
            running.leaders.iter().any(|leader| leader.pid == identity.group && !leader.group_is_gone)
        };
        if let Some((generation, _)) = generations.iter().find(|(_, running)| leads(running)) {
            return Some(*generation);
        }
        if let Some(generation) = Some(pid).filter(|_| !identity.has_ended).and_then(said) {
            return Some(generation);
        }
        if let Some(generation) = [identity.group, identity.session].iter().find_map(|id| self.of_group(*id))
        {
            return Some(generation);
        }
        let is_left =
            |(_, generation): &(ProcessIdentity, GenerationId)| !generations.contains_key(generation);
        match generations.keys().collect::<Vec<_>>()[..] {
            [only] if self.has_only_ours && !self.known.values().any(is_left) => Some(*only),
            _ => None,
        }
    }

    /// The number of a group may be given away once nobody is in it: a leader that lives must be the one we know.
    fn of_group(&self, id: i32) -> Option<GenerationId> {
        let generation = self.groups.get(&id)?;
        let is_same = match (reap::identity(id), self.known.get(&id)) {
            (Some(now), Some((before, _))) => now.start == before.start,
            (Some(_), None) => false,
            (None, _) => true,
        };
        is_same.then_some(*generation)
    }

    fn remember(&mut self, pid: i32, identity: ProcessIdentity, generation: GenerationId) {
        self.known.insert(pid, (identity, generation));
        for id in [identity.group, identity.session] {
            let is_own = self.own().is_none_or(|own| own.group == id || own.session == id);
            if id > 1 && !is_own && self.groups.len() < GROUPS {
                self.groups.insert(id, generation);
            }
        }
    }

    /// Forgets a process that was reaped, and the groups in which nobody is left.
    fn forget(&mut self, pid: i32) {
        self.own_children.remove(&pid);
        let Some((identity, _)) = self.known.remove(&pid) else { return };
        for id in [pid, identity.group, identity.session] {
            if self.groups.contains_key(&id) && !reap::has_group(id) {
                self.groups.remove(&id);
            }
        }
    }
}

impl Children {
    /// A child of ours has ended and is about to be reaped: the last moment in which its session can be read. Where it
    /// was a main process or a command, those that have become our children by its end are looked at as well. If no child of
    /// ours lives, there is nobody to look at.
    pub fn look_at(&mut self, pid: i32) {
        self.has_nobody = !self.has_foreign() && !sys::has_living_children();
        if self.has_nobody {
            return;
        }
        if let Some(generation) = self.generation_of(pid) {
            self.strays_of(generation);
        }
        self.owner(pid);
    }

    /// The children of ours that are of this generation, but for its leaders.
    pub(super) fn strays_of(&self, generation: GenerationId) -> Vec<i32> {
        let mut strays = self.strays(generation);
        strays.retain(|pid| self.owner(*pid) == Some(generation));
        strays
    }

    /// Whether one is left. It is asked at each end of a process: one that was looked at before is not looked at again.
    pub(super) fn has_strays(&self, generation: GenerationId) -> bool {
        let strays = self.strays(generation);
        strays.iter().any(|pid| self.is_known(*pid, generation))
            || strays.iter().any(|pid| self.owner(*pid) == Some(generation))
    }

    /// Children of ours that we did not start.
    fn strays(&self, generation: GenerationId) -> Vec<i32> {
        if self.has_nobody {
            return Vec::new();
        }
        let leaders = self.generations.values().flat_map(|running| &running.leaders);
        let known: Vec<i32> = leaders.filter(|leader| !leader.is_reaped).map(|leader| leader.pid).collect();
        let mut strays = reap::strays(&known).unwrap_or_else(|error| {
            Warn::FindLeft(generation).because(error);
            Vec::new()
        });
        if self.has_foreign() {
            strays.extend(reap::adopted().into_iter().filter(|pid| !known.contains(pid)));
        }
        strays
    }

    /// The generation of a child of ours that is no leader.
    pub(super) fn owner(&self, pid: i32) -> Option<GenerationId> {
        self.kin.borrow_mut().owner(pid, &self.generations, &self.cgroups)
    }

    /// Whether a child of ours was found to be of this generation before.
    pub(super) fn is_known(&self, pid: i32, generation: GenerationId) -> bool {
        self.kin.borrow().known.get(&pid).is_some_and(|(_, of)| *of == generation)
    }

    pub(super) fn no_kin(&self, pid: i32) {
        self.kin.borrow_mut().forget(pid);
    }

    /// A child of ours that is of no generation, until it is reaped: it is not ended with one, and none waits for its end.
    pub fn is_of_nobody(&self, pid: i32) {
        self.kin.borrow_mut().own_children.insert(pid);
    }

    /// Whether a process is of this generation. `None` if it does not exist any more.
    pub(super) fn belongs(&self, pid: i32, generation: GenerationId) -> Option<bool> {
        let running = self.generations.get(&generation)?;
        if let Some(owner) = self.cgroups.owner(pid) {
            return Some(owner == generation);
        }
        let adopter = if self.kin.borrow().has_foreign { reap::adopter() } else { None };
        let child = reap::child_above(pid, adopter)?;
        let is_led = running.leaders.iter().any(|leader| {
            (leader.pid == child && !leader.is_reaped)
                || (!leader.group_is_gone && reap::identity(pid).is_some_and(|it| it.group == leader.pid))
        });
        Some(is_led || (child != 0 && self.owner(child) == Some(generation)))
    }

    /// The main process from now on, after the one there was has ended.
    pub fn successor(&mut self, generation: GenerationId, exit: Exit) -> Option<i32> {
        let guessed = self.generations.get(&generation)?.guessed;
        let was_guessed = exit == Exit::Code(0) && guessed.is_some_and(|when| when.elapsed() < ON_ITS_WAY);
        let moved = self.moved_main(generation);
        moved.or_else(|| if was_guessed { self.guess_again(generation) } else { None })
    }

    /// The main process has ended, and PIDFile= names another one of the generation that lives: that is it from now on.
    fn moved_main(&mut self, generation: GenerationId) -> Option<i32> {
        let running = self.generations.get(&generation)?;
        let path = running.launcher.pid_file().filter(|_| running.is_found || !running.launcher.forks())?;
        let pid = reap::pid_in_file(path).filter(|pid| reap::runs(*pid))?;
        self.adopt(generation, pid).ok()?;
        Some(pid)
    }

    /// The process taken for the main one was only guessed, ended well, and exactly one other is left: it was on its way.
    fn guess_again(&mut self, generation: GenerationId) -> Option<i32> {
        let [pid] = self.strays_of(generation)[..] else { return None };
        self.adopt(generation, pid).ok()?;
        self.generations.get_mut(&generation)?.guessed = Some(Instant::now());
        Some(pid)
    }
}
