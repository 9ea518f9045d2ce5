//! One generation: how far its start came, what is left of it, what was said about it, and the data that each of these
//! states has. What follows from them is decided in the files named in lib.rs.
//!
//! ```text
//!   ExecCondition= ─▶ ExecStartPre= ─▶ main process ─▶ up (Type=) ─▶ ExecStartPost= ─▶ active     Progress
//!                                                                     gate of Ready= (watch.rs) ─▶ ready
//!   lives ─▶ told to stop: ExecStop=, kill signal, SIGKILL ─▶ ended: what it left is ended          Life
//! ```
//!
//! Its progress stays as it is when it is told to stop and when it ends: what it was is asked for until it is finished.

use serde::{Deserialize, Serialize};

use super::report::LastSwap;
use super::restart::Failure;
use super::{ClientId, Command, End, Exit, GenerationId, SlotId, Time};
use crate::config::{KillMode, Policy, Signal, Span, Type};

/// One start of COMMAND, until nothing of it is left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Generation {
    pub(super) id: GenerationId,
    /// The policy it was started with: files may have changed since.
    pub(super) policy: Policy,
    /// Where it accepts, where the sockets have slots.
    pub(super) slot: SlotId,
    /// When it was made, or when its busy file was last executed again. Ages count from here.
    pub(super) ordered: Time,
    pub(super) progress: Progress,
    pub(super) life: Life,
    pub(super) main: Main,
    /// Which command of ExecStart= the main process is (Type=oneshot may have several).
    pub(super) index: usize,
    /// How a main process ended whose end was not that of the generation (ExitType=cgroup, Type=forking).
    pub(super) last_exit: Option<Exit>,
    /// Something of it ran, so that something may be left.
    pub(super) has_run: bool,
    /// The command that runs beside the main process, before it or after it.
    pub(super) command: Option<Running>,
    pub(super) last_list: LastList,
    /// Its start is not late before then, because supervise was killed and did not see it.
    pub(super) start_spared: Time,
    /// `Cleared` is still to come.
    pub(super) awaits_clear: bool,
    /// A failure that outweighs how the main process ends.
    pub(super) failure: Option<Failure>,
    pub(super) reload: Option<Reload>,
    /// Set once another generation has its place, or will have it when this one has finished.
    pub(super) replaced: Option<Replaced>,
    pub(super) said: Said,
}

/// How far its start came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Progress {
    /// ExecCondition= or ExecStartPre= runs, or the start of the main process is ordered.
    Preparing,
    /// The execve(2) of its main process (of Type=oneshot: the last one so far) had succeeded at this time.
    Started { at: Time },
    /// The start is done as Type= means it; ExecStartPost= runs.
    Up { started: Time },
    /// ExecStartPost= is done as well.
    Active { started: Time, at: Time },
    /// What Ready= waits for has come, too. `watchdog`: when WATCHDOG=1 is overdue.
    Ready { started: Time, active: Time, at: Time, watchdog: Option<Time> },
}

/// Whether the generation lives, is being ended, or has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Life {
    Lives,
    /// It was told to stop, or stops by itself.
    Stopping(Ending),
    /// The main process is gone. `clearing`: what it left behind is being ended.
    Ended {
        end: End,
        clearing: Option<Ending>,
    },
}

/// Where the main process is: whether it was ordered, runs, is looked for, or is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Main {
    /// There is none: not yet, between the commands of Type=oneshot, or because others count (ExitType=cgroup,
    /// RemainAfterExit=).
    Absent,
    /// Its start was ordered, for the first time then, and is not answered yet.
    Ordered { since: Time },
    /// Its file was being written (ETXTBSY), and is executed again at this time.
    Busy { since: Time, again: Time },
    /// It runs, or was the last one when the generation ended.
    Runs { pid: u32 },
    /// Type=forking: the process that was started has ended, and its daemon is looked for: since when, and when again.
    /// Without `again` an answer is awaited, or several processes are left of which none can be told to be the main one.
    Sought { since: Time, again: Option<Time> },
}

/// Which of ExecStop= and ExecStopPost= was begun last, or is not to run any more. Each runs once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum LastList {
    Neither,
    Stop,
    StopPost,
}

/// What it has said by sd_notify(3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Said {
    /// STATUS=
    pub(super) status: Option<String>,
    /// ERRNO=
    pub(super) errno: Option<i32>,
    /// EXTEND_TIMEOUT_USEC=: no timeout before then.
    pub(super) extended: Time,
    /// WATCHDOG_USEC=, and before that WatchdogSec=: the period of the watchdog.
    pub(super) watchdog_period: Span,
}

/// One command of a list that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Running {
    pub(super) command: Command,
    /// When it has taken too long; `is_over`: it has, and is only waited for.
    pub(super) due: Time,
    pub(super) is_over: bool,
}

/// ExecReload= runs, or the server was asked by a signal to load its configuration anew, or does so by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reload {
    pub(super) since: Time,
    pub(super) due: Time,
    /// The server sent RELOADING=1, so its next READY=1 ends the reload.
    pub(super) was_said: bool,
    /// The server sent RELOADING=1 while it started, so that supervise logs nothing of it.
    pub(super) is_start: bool,
    pub(super) clients: Vec<ClientId>,
}

/// Another generation has its place for good, or will have it when this one has finished (Handover=stop-first).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Replaced {
    pub(super) since: Time,
    pub(super) drain: Drain,
    /// How many connections its end cut off.
    pub(super) cut: u32,
}

/// Whether it still finishes what it has, before it is told to stop, and what follows then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Drain {
    /// The next generation starts when this one has finished.
    First,
    /// The next generation has its place already: these clients hear then how the swap went.
    Last(Vec<ClientId>, LastSwap),
    /// It was told to stop, or has ended.
    Over,
}

/// Told to stop: first by ExecStop=, then with `signal`. `due` is the SIGKILL ([`Time::NEVER`] as long as ExecStop= runs),
/// after it (`killed`) the moment at which we stop waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ending {
    /// Whether it was told to stop. `false` if its main process ended by itself, and supervise ends the processes it left.
    pub(super) was_told: bool,
    pub(super) since: Time,
    pub(super) signal: Signal,
    pub(super) patience: Span,
    pub(super) due: Time,
    pub(super) killed: bool,
}

impl Ending {
    /// The ending of a generation that was not told to stop: supervise ends what its main process left.
    pub(super) const fn new(since: Time, signal: Signal, patience: Span, due: Time) -> Self {
        Self { was_told: false, since, signal, patience, due, killed: false }
    }
}

impl Main {
    pub(super) const fn pid(self) -> Option<u32> {
        match self {
            Self::Runs { pid } => Some(pid),
            Self::Absent | Self::Ordered { .. } | Self::Busy { .. } | Self::Sought { .. } => None,
        }
    }

    /// When a busy file is executed again, or the daemon looked for again.
    pub(super) const fn retry(self) -> Option<Time> {
        match self {
            Self::Busy { again, .. } => Some(again),
            Self::Sought { again, .. } => again,
            Self::Absent | Self::Ordered { .. } | Self::Runs { .. } => None,
        }
    }

    /// This state without the time of a further try.
    pub(super) const fn without_retry(self) -> Self {
        match self {
            Self::Busy { .. } => Self::Absent,
            Self::Sought { since, .. } => Self::Sought { since, again: None },
            Self::Absent | Self::Ordered { .. } | Self::Runs { .. } => self,
        }
    }
}

impl Generation {
    pub(super) fn new(id: GenerationId, policy: Policy, slot: SlotId, now: Time) -> Self {
        let watchdog_period = policy.watchdog;
        Self {
            id,
            policy,
            slot,
            ordered: now,
            progress: Progress::Preparing,
            life: Life::Lives,
            main: Main::Absent,
            index: 0,
            last_exit: None,
            has_run: false,
            command: None,
            last_list: LastList::Neither,
            start_spared: Time(0),
            awaits_clear: false,
            failure: None,
            reload: None,
            replaced: None,
            said: Said { status: None, errno: None, extended: Time(0), watchdog_period },
        }
    }

    /// When its execve(2) had succeeded: what it must live for counts from here.
    pub(super) const fn started(&self) -> Option<Time> {
        match self.progress {
            Progress::Preparing => None,
            Progress::Started { at: started }
            | Progress::Up { started }
            | Progress::Active { started, .. }
            | Progress::Ready { started, .. } => Some(started),
        }
    }

    /// The start is done as Type= means it.
    pub(super) const fn is_up(&self) -> bool {
        matches!(self.progress, Progress::Up { .. } | Progress::Active { .. } | Progress::Ready { .. })
    }

    /// Since when ExecStartPost= is done.
    pub(super) const fn active(&self) -> Option<Time> {
        match self.progress {
            Progress::Active { at, .. } | Progress::Ready { active: at, .. } => Some(at),
            Progress::Preparing | Progress::Started { .. } | Progress::Up { .. } => None,
        }
    }

    /// Since when it is ready; also of one that has ended since.
    pub(super) const fn ready(&self) -> Option<Time> {
        if let Progress::Ready { at, .. } = self.progress { Some(at) } else { None }
    }

    /// When WATCHDOG=1 is overdue.
    pub(super) const fn watchdog(&self) -> Option<Time> {
        if let Progress::Ready { watchdog, .. } = self.progress { watchdog } else { None }
    }

    /// Nothing happens to one that is not ready.
    pub(super) const fn set_watchdog(&mut self, due: Option<Time>) {
        if let Progress::Ready { watchdog, .. } = &mut self.progress {
            *watchdog = due;
        }
    }

    /// How the main process ended, or why it never ran; None as long as it may still run.
    pub(super) const fn end(&self) -> Option<&End> {
        match &self.life {
            Life::Ended { end, .. } => Some(end),
            Life::Lives | Life::Stopping(_) => None,
        }
    }

    pub(super) const fn has_ended(&self) -> bool {
        self.end().is_some()
    }

    /// It was told to stop, or what it left behind is being ended.
    pub(super) const fn ending(&self) -> Option<Ending> {
        match self.life {
            Life::Lives => None,
            Life::Stopping(ending) => Some(ending),
            Life::Ended { clearing, .. } => clearing,
        }
    }

    pub(super) fn set_ending(&mut self, ending: Ending) {
        match &mut self.life {
            Life::Ended { clearing, .. } => *clearing = Some(ending),
            Life::Lives | Life::Stopping(_) => self.life = Life::Stopping(ending),
        }
    }

    pub(super) fn set_end(&mut self, end: End) {
        self.life = Life::Ended { end, clearing: self.ending() };
    }

    /// Whether it has neither ended nor been told to.
    pub(super) const fn lives(&self) -> bool {
        matches!(self.life, Life::Lives)
    }

    /// Whether supervise leaves alone what it leaves behind.
    pub(super) fn leaves_all(&self) -> bool {
        self.policy.kill_mode == KillMode::Process || !self.policy.send_sigkill
    }

    /// Its main process is there, or one of the others if nobody knows which it is.
    pub(super) const fn runs(&self) -> bool {
        self.started().is_some() && !self.has_ended()
    }

    /// Only READY=1 says that its start is done.
    pub(super) const fn is_notify_type(&self) -> bool {
        matches!(self.policy.service_type, Type::Notify | Type::NotifyReload)
    }

    /// It finishes what it has, and is not told to stop yet.
    pub(super) fn is_draining(&self) -> bool {
        self.replaced.as_ref().is_some_and(|replaced| replaced.drain != Drain::Over)
    }
}
