//! The living generations as they go over to the program that takes our place. Their processes stay its children.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::kin::Kin;
use super::{Children, Leader, LivingGeneration};
use crate::config::NotifyAccess;
use crate::core::{Command, GenerationId, SlotId};
use crate::os::cgroup::{Cgroups, SavedCgroups};
use crate::os::intercept::{Interceptor, SavedInterceptor};
use crate::os::launch::Launcher;
use crate::os::notify::{NotifySocket, SavedNotify};
use crate::os::reap::ProcessIdentity;
use crate::os::saved::{KeptFds, Past, Shared, at};
use crate::os::sys::left::LeftFds;

#[derive(Debug, Serialize, Deserialize)]
pub struct SavedChildren {
    generations: Vec<SavedGeneration>,
    /// The children of ours that were looked at, and the sessions and groups in which they were.
    known: Vec<(i32, ProcessIdentity, GenerationId)>,
    groups: Vec<(i32, GenerationId)>,
    own_children: BTreeSet<i32>,
    has_only_ours: bool,
    cgroups: SavedCgroups,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedGeneration {
    id: GenerationId,
    launcher: usize,
    notify: SavedNotify,
    notify_access: NotifyAccess,
    uid: u32,
    slot: SlotId,
    leaders: Vec<SavedLeader>,
    main: Option<i32>,
    adopted: Option<RawFd>,
    command: Option<(i32, Command)>,
    awaits_clear: bool,
    is_found: bool,
    guessed: Option<Past>,
    named: Option<i32>,
    looks_empty: bool,
    is_killed: bool,
    has_dropped: bool,
    has_dropped_stopping: bool,
    interceptors: Vec<SavedInterceptor>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedLeader {
    pid: i32,
    pidfd: RawFd,
    is_ours: bool,
    is_reaped: bool,
    group_is_gone: bool,
}

impl Children {
    /// To be called after [`Self::tidy`]: what is left of generations that are gone is closed.
    pub fn save(&self, fds: &mut KeptFds, launchers: &mut Shared<Launcher>) -> SavedChildren {
        let kin = self.kin.borrow();
        let generations = self.generations.iter();
        SavedChildren {
            generations: generations.map(|(id, running)| running.save(*id, fds, launchers)).collect(),
            known: kin.known.iter().map(|(pid, (identity, of))| (*pid, *identity, *of)).collect(),
            groups: kin.groups.iter().map(|(group, of)| (*group, *of)).collect(),
            own_children: kin.own_children.clone(),
            has_only_ours: kin.has_only_ours,
            cgroups: self.cgroups.save(),
        }
    }

    /// `intercept` makes the thread that goes on to answer what processes of a generation bind.
    ///
    /// # Errors
    /// A sentence: an fd is missing, or a thread cannot be made.
    pub fn from_saved(
        saved: SavedChildren,
        fds: &mut LeftFds,
        launchers: &[Rc<Launcher>],
        mut intercept: impl FnMut(GenerationId, SavedInterceptor, &mut LeftFds) -> Result<Interceptor, String>,
    ) -> Result<Self, String> {
        let mut generations = BTreeMap::new();
        for mut one in saved.generations {
            let mut interceptors = Vec::new();
            for interceptor in std::mem::take(&mut one.interceptors) {
                interceptors.push(intercept(one.id, interceptor, fds)?);
            }
            generations.insert(one.id, one.living(fds, launchers, interceptors)?);
        }
        let kin = Kin {
            known: saved.known.into_iter().map(|(pid, identity, of)| (pid, (identity, of))).collect(),
            groups: saved.groups.into_iter().collect(),
            own_children: saved.own_children,
            has_only_ours: saved.has_only_ours,
            own: OnceCell::new(),
            has_foreign: generations.values().any(LivingGeneration::is_foreign),
            strangers: BTreeMap::new(),
        };
        Ok(Self {
            generations,
            kin: RefCell::new(kin),
            cgroups: Cgroups::from_saved(saved.cgroups),
            remains: Vec::new(),
            has_nobody: false,
        })
    }

    /// The generations and the notify socket of each.
    pub fn notify_sockets(&self) -> impl Iterator<Item = (GenerationId, &NotifySocket)> {
        self.generations.iter().map(|(id, running)| (*id, &running.notify))
    }
}

impl LivingGeneration {
    fn save(&self, id: GenerationId, fds: &mut KeptFds, launchers: &mut Shared<Launcher>) -> SavedGeneration {
        let leader = |leader: &Leader| SavedLeader {
            pid: leader.pid,
            pidfd: fds.keep(&leader.pidfd),
            is_ours: leader.is_ours,
            is_reaped: leader.is_reaped,
            group_is_gone: leader.group_is_gone,
        };
        SavedGeneration {
            id,
            launcher: launchers.place(&self.launcher),
            leaders: self.leaders.iter().map(leader).collect(),
            notify: self.notify.save(fds),
            notify_access: self.notify_access,
            uid: self.uid,
            slot: self.slot,
            main: self.main,
            adopted: self.adopted.as_ref().map(|pidfd| fds.keep(pidfd)),
            command: self.command,
            awaits_clear: self.awaits_clear,
            is_found: self.is_found,
            guessed: self.guessed.map(Past::from),
            named: self.named,
            looks_empty: self.looks_empty,
            is_killed: self.is_killed,
            has_dropped: self.has_dropped,
            has_dropped_stopping: self.has_dropped_stopping,
            interceptors: self.interceptors.iter().filter_map(|one| one.save(fds)).collect(),
        }
    }
}

impl SavedGeneration {
    fn living(
        self,
        fds: &mut LeftFds,
        launchers: &[Rc<Launcher>],
        interceptors: Vec<Interceptor>,
    ) -> Result<LivingGeneration, String> {
        let mut leaders = Vec::new();
        for SavedLeader { pid, pidfd, is_ours, is_reaped, group_is_gone } in self.leaders {
            // One whose pidfd is closed was let go after this was saved.
            if let Ok(pidfd) = fds.take(pidfd) {
                leaders.push(Leader { pid, pidfd, is_ours, is_reaped, group_is_gone });
            }
        }
        Ok(LivingGeneration {
            launcher: at(launchers, self.launcher)?,
            notify: NotifySocket::from_saved(self.notify, fds)?,
            notify_access: self.notify_access,
            uid: self.uid,
            slot: self.slot,
            leaders,
            main: self.main,
            adopted: self.adopted.and_then(|pidfd| fds.take(pidfd).ok()),
            command: self.command,
            awaits_clear: self.awaits_clear,
            is_found: self.is_found,
            guessed: self.guessed.map(Instant::from),
            named: self.named,
            looks_empty: self.looks_empty,
            is_killed: self.is_killed,
            has_dropped: self.has_dropped,
            has_dropped_stopping: self.has_dropped_stopping,
            interceptors,
        })
    }
}
