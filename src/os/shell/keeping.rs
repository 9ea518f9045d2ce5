//! What the keeper needs to know is saved here: before orders of the core are carried out, and when a turn is over. And our
//! side of its life: it is made when the first server was started, and again where it ends.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use mio::Interest;
use mio::unix::SourceFd;
use serde::{Deserialize, Serialize};

use super::Shell;
use super::saved::{SavedState, Saving};
use crate::core::Action;
use crate::os::keeper::Keeper;
use crate::os::own;
use crate::os::tokens::KEEPER;
use crate::os::warning::Warn;

/// A keeper that ends this often within this time is not made again: something here kills it.
const ENDS: usize = 3;
const WITHIN: Duration = Duration::from_secs(60);

/// The keeper, and what it was told last.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    pub(super) keeper: Option<Keeper>,
    /// Of the setting that was saved last, and the fds that it names.
    fingerprint: u64,
    setting_fds: Vec<RawFd>,
    ends: Vec<Instant>,
}

/// A state, and what was still to be done.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Moment {
    pub(super) state: SavedState,
    /// As far as they are kept.
    pub(super) orders: Vec<Action>,
}

impl Shell {
    /// Nobody waits for this. Without a keeper all goes on, and ends with us.
    pub(super) fn begin_keeping(&mut self) {
        // The end of pid 1 is the end of everything.
        // With --detach it is made once the first server is ready: until then our end is that of the start.
        let is_awaited = self.background.is_some();
        if !self.configuration.current.launcher.has_keeper() || own::pid() == 1 || is_awaited {
            return;
        }
        match Keeper::new() {
            Ok(keeper) => self.keeping.keeper = Some(keeper),
            Err(error) => return Warn::Keeper.because(error),
        }
        self.keep(&[]);
        self.start_keeper();
    }

    fn start_keeper(&mut self) {
        let Some(keeper) = &mut self.keeping.keeper else { return };
        let started = keeper.start().and_then(|pidfd| {
            let fd = pidfd.as_raw_fd();
            self.poll.registry().register(&mut SourceFd(&fd), KEEPER, Interest::READABLE)
        });
        match started {
            Ok(()) => keeper.pid().into_iter().for_each(|pid| self.children.is_of_nobody(pid)),
            Err(error) => {
                Warn::Keeper.because(error);
                self.keeping.keeper = None;
            }
        }
    }

    /// Poll says that it has ended.
    pub(super) fn on_keeper_gone(&mut self) {
        let Some(keeper) = &mut self.keeping.keeper else { return };
        if !keeper.reap() {
            return;
        }
        self.keeping.ends.retain(|end| end.elapsed() < WITHIN);
        self.keeping.ends.push(Instant::now());
        if self.keeping.ends.len() >= ENDS {
            Warn::KeeperEnds.because(format_args!("{ENDS} times within {} s", WITHIN.as_secs()));
            self.keeping.keeper = None;
        } else {
            log::debug!("the keeper was killed, so supervise makes another one");
            self.start_keeper();
        }
    }

    /// Saves the state with these orders, which are about to be carried out.
    pub(super) fn keep(&mut self, orders: &[Action]) {
        if self.keeping.keeper.is_none() {
            return;
        }
        let mut saving = Saving::default();
        let state = self.save_state(&mut saving);
        let orders = orders.iter().filter(|order| order.is_kept()).cloned().collect();
        let state = serde_json::to_vec(&Moment { state, orders }).expect("plain data always serialises");
        let fingerprint = self.fingerprint();
        let is_new = fingerprint != self.keeping.fingerprint;
        let setting = is_new.then(|| self.save_setting(&mut saving));
        let setting =
            setting.map(|setting| serde_json::to_vec(&setting).expect("plain data always serialises"));
        if is_new {
            self.keeping.setting_fds = saving.fds.numbers().collect();
        }
        for number in &self.keeping.setting_fds {
            saving.fds.keep_number(*number);
        }
        let fds: Vec<_> = saving.fds.numbers().collect();
        let saved = self.keeping.keeper.as_ref().map(|keeper| keeper.save(&fds, &state, setting.as_deref()));
        match saved {
            Some(Ok(())) | None => self.keeping.fingerprint = fingerprint,
            Some(Err(error)) => Warn::Keeper.because(error),
        }
    }

    /// Whether the orders are to be saved before they are carried out. The start of a generation is not: a restart would have to
    /// wait for that. Where we are killed before the end of the turn, the process that was started is known by the board, and
    /// ended, and the step that led to it comes again.
    pub(super) fn changes_the_world(orders: &[Action]) -> bool {
        orders.iter().any(|order| {
            !matches!(
                order,
                Action::Tell(_)
                    | Action::TellManager(_)
                    | Action::Ask(_)
                    | Action::Guard { .. }
                    | Action::WakeOnConnection { .. }
                    | Action::AwaitClear { .. }
                    | Action::FindMain { .. }
                    | Action::Reply { .. }
                    | Action::Spawn { index: 0, .. }
            )
        })
    }

    /// `is_kept`: it is among those that were saved.
    pub(super) fn note_carried_out(&self, is_kept: bool) {
        if let Some(keeper) = self.keeping.keeper.as_ref().filter(|_| is_kept) {
            keeper.board.one_more_carried_out();
        }
    }

    /// It differs where the setting does.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let configuration = &self.configuration;
        for setup in [Some(&configuration.current), configuration.staged.as_ref()] {
            setup.map(|setup| Rc::as_ptr(&setup.launcher)).hash(&mut hasher);
        }
        for (generation, launcher) in self.children.launchers() {
            (generation.0, Rc::as_ptr(launcher)).hash(&mut hasher);
        }
        for socket in self.listeners.every() {
            Rc::as_ptr(&socket).hash(&mut hasher);
            socket.fingerprint(&mut hasher);
        }
        // 0 is that of none.
        hasher.finish() | 1
    }
}
