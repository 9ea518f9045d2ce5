//! When a server that ended is started again, after how long, and when it is given up: pure functions and two counters.
//!
//! The rules are those of systemd.service(5) (Restart=, RestartSec=) and systemd.unit(5) (StartLimit*=), as
//! service_shall_restart() and ratelimit_below() apply them; the healthy-time reset is ours.

use serde::{Deserialize, Serialize};

use super::{Exit, Stage, StartFailure, Time, limits};
use crate::config::{Policy, Restart, RestartDelay, Signal, Span, StatusSet};

/// How a generation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum End {
    Exited(Exit),
    NotStarted(StartFailure),
}

/// A failure that we saw before the main process ended; it outweighs how that process then ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Failure {
    /// Not ready within TimeoutStartSec=.
    Timeout,
    /// WATCHDOG=1 did not come in time.
    Watchdog,
    /// Ended without READY=1 although only that counts.
    Protocol,
}

impl End {
    /// The status of the main process; a failed start has those of systemd.exec(5), "Process Exit Codes".
    /// None: it never came to have one.
    fn status(&self) -> Option<Exit> {
        match self {
            Self::Exited(exit) => Some(*exit),
            Self::NotStarted(failure) => match failure.stage {
                Stage::Resources | Stage::Environment => None,
                Stage::Directory => Some(Exit::Code(200)),
                Stage::Exec => Some(Exit::Code(203)),
                Stage::Setup => Some(Exit::Code(205)),
                Stage::Group => Some(Exit::Code(216)),
                Stage::User => Some(Exit::Code(217)),
            },
        }
    }

    /// What we end with where the server's end is ours: its code, or 128 + n for signal n.
    pub(super) fn exit_status(&self) -> u8 {
        match self {
            Self::Exited(Exit::Code(code)) => *code,
            Self::Exited(Exit::Signal { signal, .. }) => 128 + signal.number() as u8,
            Self::NotStarted(failure) => failure.exit_status(),
        }
    }

    /// Clean as systemd means it (is_clean_exit): code 0, SIGHUP, SIGINT, SIGTERM, SIGPIPE, or listed.
    fn is_clean(&self, policy: &Policy) -> bool {
        match self.status() {
            None | Some(Exit::Signal { core: true, .. }) => false,
            Some(Exit::Code(0)) => true,
            Some(Exit::Signal {
                signal: Signal::HUP | Signal::INT | Signal::TERM | Signal::PIPE, ..
            }) => true,
            Some(status) => is_listed(&policy.success, status),
        }
    }
}

fn is_listed(set: &StatusSet, status: Exit) -> bool {
    match status {
        Exit::Code(code) => set.codes.contains(&code),
        Exit::Signal { signal, .. } => set.signals.contains(&signal),
    }
}

impl StartFailure {
    const ENOENT: i32 = 2;
    const ETXTBSY: i32 = 26;

    /// 127: COMMAND is not there; 126: it is, but cannot be executed; 125: we could not get that far.
    pub(super) fn exit_status(&self) -> u8 {
        match (self.stage, self.errno) {
            (Stage::Exec, Self::ENOENT) => 127,
            (Stage::Exec, _) => 126,
            (_, _) => 125,
        }
    }

    /// The file is being written at this moment.
    pub(super) fn is_text_busy(&self) -> bool {
        self.stage == Stage::Exec && self.errno == Self::ETXTBSY
    }
}

/// Whether Restart= and its lists ask for another start. The order is systemd's: prevent, force, then the table.
pub(super) fn shall_restart(policy: &Policy, end: &End, failure: Option<Failure>) -> bool {
    if let Some(status) = end.status() {
        if is_listed(&policy.prevent, status) {
            return false;
        }
        if is_listed(&policy.force, status) {
            return true;
        }
    }
    let abnormal_signal = matches!(end, End::Exited(Exit::Signal { .. }));
    match policy.restart {
        Restart::No => false,
        Restart::Always => true,
        Restart::OnSuccess => failure.is_none() && end.is_clean(policy),
        Restart::OnFailure => failure.is_some() || !end.is_clean(policy),
        Restart::OnAbnormal => match failure {
            Some(_) => true,
            None => !end.is_clean(policy) && (abnormal_signal || end.status().is_none()),
        },
        Restart::OnAbort => failure.is_none() && !end.is_clean(policy) && abnormal_signal,
        Restart::OnWatchdog => failure == Some(Failure::Watchdog),
    }
}

/// The delay before automatic restart number `n` (from 1), as service_restart_usec_next() computes it.
pub(super) fn restart_delay(delay: &RestartDelay, n: u32) -> Span {
    if n <= 1 || delay.steps == 0 || delay.max.is_infinite() || delay.base >= delay.max {
        return delay.base;
    }
    if n > delay.steps {
        return delay.max;
    }
    // RestartSec=0 cannot be multiplied up; systemd counts from one microsecond then.
    let base = (delay.base.as_nanos() as f64).max(1_000.0);
    let ratio = delay.max.as_nanos() as f64 / base;
    Span::from_nanos((base * ratio.powf(f64::from(n - 1) / f64::from(delay.steps))) as u64)
}

/// systemd's ratelimit: a fixed window that opens at its first event; `burst` events pass in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Window {
    begin: Option<Time>,
    count: u32,
}

impl Window {
    /// Counts one event. `Err` is the time at which the window ends, [`Time::NEVER`] if it has no end.
    /// A burst or an interval of 0 is no limit.
    pub(super) fn admit(&mut self, now: Time, burst: u32, interval: Span) -> Result<(), Time> {
        if burst == 0 || interval == Span::ZERO {
            return Ok(());
        }
        match self.begin {
            Some(begin) if now <= begin.after(interval) => {
                if self.count >= burst {
                    return Err(Time(begin.after(interval).0.saturating_add(1)));
                }
                self.count += 1;
            }
            Some(_) | None => *self = Self { begin: Some(now), count: 1 },
        }
        Ok(())
    }
}

/// What is remembered from start to start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ledger {
    /// Automatic restarts since the last healthy generation or request: n of the delay.
    pub(super) failures: u32,
    /// Automatic restarts in all, for `status`.
    pub(super) restarts: u64,
    /// StartLimit*=
    pub(super) starts: Window,
    /// TriggerLimit*=
    pub(super) triggers: Window,
}

impl Ledger {
    /// Somebody asked for a start: everything that counts against one is forgotten.
    pub(super) fn reset(&mut self) {
        *self = Self { restarts: self.restarts, ..Self::default() };
    }

    /// The delay before the restart that is now due; counts it.
    pub(super) fn next_delay(&mut self, delay: &RestartDelay, healthy: bool) -> Span {
        if healthy {
            self.failures = 0;
        }
        self.failures = self.failures.saturating_add(1);
        self.restarts += 1;
        restart_delay(delay, self.failures)
    }
}

/// Whether a generation that was ready from `ready` to `end` had been well for long enough.
pub(super) fn was_healthy(ready: Option<Time>, end: Time) -> bool {
    ready.is_some_and(|ready| end >= ready.after(limits::HEALTHY))
}
