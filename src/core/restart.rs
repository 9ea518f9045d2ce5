//! Decides whether and when a server that ended is restarted, and when supervise gives up: pure functions and two
//! counters.
//!
//! The rules are those of systemd.service(5) (Restart=, RestartSec=) and systemd.unit(5) (StartLimit*=), as
//! service_shall_restart() and ratelimit_below() apply them; the healthy-time reset is ours.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Command, End, Exit, Stage, Time, limits};
use crate::config::{Policy, Restart, RestartDelay, Signal, Span, StatusSet, Type};

/// A failure before the end of the main process, which takes precedence over its exit status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Failure {
    /// Not ready within TimeoutStartSec=, not gone within TimeoutStopSec=, or a command that took too long.
    Timeout,
    /// RuntimeMaxSec=
    Runtime,
    /// WATCHDOG=1 did not come in time.
    Watchdog,
    /// Ended cleanly, but without READY=1 although only that counts.
    Protocol,
    /// A command before or after the main one.
    Command(Command, End),
}

/// The result of a run, as $SERVICE_RESULT of systemd.exec(5) names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunResult {
    Success,
    ExitCode,
    Signal,
    CoreDump,
    Timeout,
    Watchdog,
    Protocol,
    Resources,
    ExecCondition,
}

impl fmt::Display for RunResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Success => "success",
            Self::ExitCode => "exit-code",
            Self::Signal => "signal",
            Self::CoreDump => "core-dump",
            Self::Timeout => "timeout",
            Self::Watchdog => "watchdog",
            Self::Protocol => "protocol",
            Self::Resources => "resources",
            Self::ExecCondition => "exec-condition",
        })
    }
}

/// What ExecStop= and ExecStopPost= are told: $SERVICE_RESULT, and the status of the main process where it has one
/// ($EXIT_CODE, $EXIT_STATUS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunOutcome {
    pub result: RunResult,
    pub status: Option<Exit>,
}

impl End {
    /// The status of the main process; a failed start has those of systemd.exec(5), "Process Exit Codes".
    /// It is `None` where no main process was ever ordered, where it failed for want of resources, or where nobody knows.
    pub(super) fn status(&self) -> Option<Exit> {
        match self {
            Self::Exited(exit) => exit.known(),
            Self::Skipped | Self::Untried => None,
            Self::NotStarted(failure) => match failure.stage {
                Stage::Resources | Stage::Environment => None,
                Stage::Directory => Some(Exit::Code(200)),
                Stage::OpenFile => Some(Exit::Code(202)),
                Stage::Stdin => Some(Exit::Code(208)),
                Stage::Stdout => Some(Exit::Code(209)),
                Stage::Stderr => Some(Exit::Code(222)),
                Stage::RuntimeDirectory => Some(Exit::Code(233)),
                Stage::StateDirectory => Some(Exit::Code(238)),
                Stage::CacheDirectory => Some(Exit::Code(239)),
                Stage::LogsDirectory => Some(Exit::Code(240)),
                Stage::ConfigurationDirectory => Some(Exit::Code(241)),
                Stage::Exec => Some(Exit::Code(203)),
                Stage::Setup => Some(Exit::Code(205)),
                Stage::Group => Some(Exit::Code(216)),
                Stage::User => Some(Exit::Code(217)),
            },
        }
    }

    /// What we end with where the server's end is ours: its code, or 128 + n for signal n; 1 where nobody knows.
    pub(super) fn exit_status(&self) -> u8 {
        match self {
            Self::Exited(Exit::Code(code)) => *code,
            Self::Exited(Exit::Signal { signal, .. }) => 128 + signal.number() as u8,
            Self::NotStarted(failure) => failure.exit_status(),
            Self::Skipped => 0,
            Self::Exited(Exit::Unknown) | Self::Untried => 1,
        }
    }

    /// Clean as systemd means it (is_clean_exit): code 0, SIGHUP, SIGINT, SIGTERM, SIGPIPE (not with Type=oneshot), or
    /// listed. Prefix `-` of ExecStart=: whatever it was.
    fn is_clean(&self, policy: &Policy) -> bool {
        let start = &policy.commands.start;
        if matches!(self, Self::Exited(_)) && !start.is_empty() && start.iter().all(|ignored| *ignored) {
            return true;
        }
        match self.status() {
            None | Some(Exit::Signal { core: true, .. }) => false,
            Some(Exit::Code(0)) => true,
            Some(Exit::Signal {
                signal: Signal::HUP | Signal::INT | Signal::TERM | Signal::PIPE, ..
            }) if policy.service_type != Type::Oneshot => true,
            Some(status) => is_listed(&policy.success, status),
        }
    }
}

fn is_listed(set: &StatusSet, status: Exit) -> bool {
    match status {
        Exit::Code(code) => set.contains_code(code),
        Exit::Signal { signal, .. } => set.contains_signal(signal),
        Exit::Unknown => false,
    }
}

/// Whether Restart= and its lists ask for another start. The order is systemd's: prevent, force, then the table.
pub(super) fn shall_restart(policy: &Policy, end: &End, failure: Option<&Failure>) -> bool {
    let result = result(policy, end, failure);
    if let Some(status) = end.status() {
        if is_listed(&policy.prevent, status) {
            return false;
        }
        let is_done = policy.service_type == Type::Oneshot && result == RunResult::Success;
        if is_listed(&policy.force, status) && !is_done {
            return true;
        }
    }
    is_in_table(policy.restart, result)
}

/// The table of systemd.service(5), Restart=.
fn is_in_table(restart: Restart, result: RunResult) -> bool {
    let was_killed = matches!(result, RunResult::Signal | RunResult::CoreDump);
    match (restart, result) {
        (Restart::No, _) | (_, RunResult::ExecCondition) => false,
        (Restart::Always, _) => true,
        (Restart::OnSuccess, result) => result == RunResult::Success,
        (Restart::OnFailure, result) => result != RunResult::Success,
        (Restart::OnAbnormal, result) => !matches!(result, RunResult::Success | RunResult::ExitCode),
        (Restart::OnAbort, _) => was_killed,
        (Restart::OnWatchdog, result) => result == RunResult::Watchdog,
    }
}

/// The result of a run: the first failure counts.
pub(super) fn result(policy: &Policy, end: &End, failure: Option<&Failure>) -> RunResult {
    match failure {
        Some(Failure::Timeout | Failure::Runtime) => RunResult::Timeout,
        Some(Failure::Watchdog) => RunResult::Watchdog,
        Some(Failure::Protocol) => RunResult::Protocol,
        Some(Failure::Command(_, end)) => unclean(end),
        None if *end == End::Skipped => RunResult::ExecCondition,
        // Stopped before it was started.
        None if *end == End::Untried || end.is_clean(policy) => RunResult::Success,
        None => unclean(end),
    }
}

fn unclean(end: &End) -> RunResult {
    match end {
        End::Exited(Exit::Signal { core: true, .. }) => RunResult::CoreDump,
        End::Exited(Exit::Signal { core: false, .. }) => RunResult::Signal,
        // What nobody saw was most likely no orderly exit: whatever killed supervise may have killed it, too.
        end if end.status().is_none() => RunResult::Resources,
        End::Exited(Exit::Code(_) | Exit::Unknown) | End::NotStarted(_) | End::Skipped | End::Untried => {
            RunResult::ExitCode
        }
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
    let step = nth_root(delay.max.as_nanos() as f64 / base, delay.steps);
    Span::from_nanos((base * power(step, n - 1)) as u64)
}

/// The `n`th root of a number of at least 1, by bisection: powf() would make every start load the library of
/// mathematics for this one line.
fn nth_root(number: f64, n: u32) -> f64 {
    let (mut low, mut high) = (1.0, number);
    for _ in 0..64 {
        let middle = f64::midpoint(low, high);
        if power(middle, n) > number { high = middle } else { low = middle }
    }
    low
}

/// `base` to the power of `n`, by squaring.
fn power(base: f64, n: u32) -> f64 {
    let (mut result, mut square, mut rest) = (1.0, base, n);
    while rest > 0 {
        if rest & 1 == 1 {
            result *= square;
        }
        square *= square;
        rest >>= 1;
    }
    result
}

/// systemd's ratelimit: a fixed window that opens at its first event; `burst` events pass in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RateLimit {
    begin: Option<Time>,
    count: u32,
}

impl RateLimit {
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

/// What supervise remembers from start to start: how many there were, and when, for delays and limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ledger {
    /// Automatic restarts since the last healthy generation or request: n of the delay.
    pub(super) failures: u32,
    /// Automatic restarts in all, for `status`.
    pub(super) restarts: u64,
    /// Clean ends in a row, each before anybody waited on a socket.
    pub(super) early_ends: u32,
    /// StartLimit*=
    pub(super) starts: RateLimit,
    /// TriggerLimit*= and PollLimit*=
    pub(super) triggers: RateLimit,
    pub(super) polls: RateLimit,
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
        restart_delay(delay, self.failures)
    }
}

/// Whether a generation that was ready from `ready` to `end` had been well for long enough.
pub(super) fn was_healthy(ready: Option<Time>, end: Time) -> bool {
    ready.is_some_and(|ready| end >= ready.after(limits::HEALTHY))
}

#[cfg(test)]
mod tests {
    use super::super::StartFailure;
    use super::*;
    use crate::config::Config;

    const ALL: [Restart; 7] = [
        Restart::No,
        Restart::OnSuccess,
        Restart::OnFailure,
        Restart::OnAbnormal,
        Restart::OnAbort,
        Restart::OnWatchdog,
        Restart::Always,
    ];

    fn signal(number: i32) -> End {
        killed(number, false)
    }

    fn killed(number: i32, core: bool) -> End {
        End::Exited(Exit::Signal { signal: Signal::from_number(number).expect("a signal"), core })
    }

    fn code(code: u8) -> End {
        End::Exited(Exit::Code(code))
    }

    fn not_started(stage: Stage) -> End {
        End::NotStarted(StartFailure { stage, errno: 11, what: String::new() })
    }

    fn policy(change: impl Fn(&mut Policy)) -> Policy {
        let mut policy = Config::for_command_line().policy;
        change(&mut policy);
        policy
    }

    /// One character for each value of Restart=, in the order of `ALL`: R restarted, - not.
    fn row(end: &End, failure: Option<Failure>, change: impl Fn(&mut Policy)) -> String {
        ALL.iter()
            .map(|restart| {
                let policy = policy(|policy| {
                    change(policy);
                    policy.restart = *restart;
                });
                if shall_restart(&policy, end, failure.as_ref()) { 'R' } else { '-' }
            })
            .collect()
    }

    /// Every cell of the table in systemd.service(5), Restart=; order: no, on-success, on-failure, on-abnormal,
    /// on-abort, on-watchdog, always.
    #[test]
    fn the_restart_matrix() {
        let plain = |_: &mut Policy| {};
        let cases = [
            ("clean code", code(0), None, "-R----R"),
            ("clean signal", signal(15), None, "-R----R"),
            ("SIGHUP", signal(1), None, "-R----R"),
            ("SIGPIPE", signal(13), None, "-R----R"),
            ("unclean code", code(3), None, "--R---R"),
            ("SIGKILL", signal(9), None, "--RRR-R"),
            ("core dump", killed(11, true), None, "--RRR-R"),
            ("SIGTERM with core is not clean", killed(15, true), None, "--RRR-R"),
            ("start timeout, then SIGTERM", signal(15), Some(Failure::Timeout), "--RR--R"),
            ("watchdog, then SIGABRT", signal(6), Some(Failure::Watchdog), "--RR-RR"),
            ("READY=1 never came", code(0), Some(Failure::Protocol), "--RR--R"),
            ("fork failed", not_started(Stage::Resources), None, "--RR--R"),
            ("exec failed: 203", not_started(Stage::Exec), None, "--R---R"),
            ("nobody knows", End::Exited(Exit::Unknown), None, "--RR--R"),
        ];
        for (name, end, failure, expected) in cases {
            assert_eq!(row(&end, failure, plain), expected, "{name}");
        }
    }

    #[test]
    fn lists_change_the_matrix() {
        let three = |set: &mut StatusSet| {
            set.codes.insert(3);
        };
        assert_eq!(row(&code(3), None, |policy| three(&mut policy.success)), "-R----R");
        assert_eq!(row(&code(3), None, |policy| three(&mut policy.prevent)), "-------");
        assert_eq!(row(&code(3), None, |policy| three(&mut policy.force)), "RRRRRRR");
        let both = |policy: &mut Policy| {
            three(&mut policy.prevent);
            three(&mut policy.force);
        };
        assert_eq!(row(&code(3), None, both), "-------", "prevent beats force");
        let usr1 = |policy: &mut Policy| {
            policy.success.signals.insert(Signal::from_number(10).expect("SIGUSR1"));
        };
        assert_eq!(row(&signal(10), None, usr1), "-R----R");
        let exec = |policy: &mut Policy| {
            policy.prevent.codes.insert(203);
        };
        assert_eq!(row(&not_started(Stage::Exec), None, exec), "-------");
    }

    /// The examples of systemd.service(5), RestartSteps=.
    #[test]
    fn the_delay_grows_geometrically() {
        let delays = |base, steps, max: u64| -> Vec<u64> {
            let delay = RestartDelay { base: Span::from_millis(base), steps, max: Span::from_millis(max) };
            (1..=6).map(|n| restart_delay(&delay, n).as_millis()).collect()
        };
        assert_eq!(delays(1_000, 4, 16_000), [1_000, 2_000, 4_000, 8_000, 16_000, 16_000]);
        assert_eq!(delays(100, 5, 10_000), [100, 251, 630, 1_584, 3_981, 10_000]);
        assert_eq!(delays(5_000, 0, 10_000), [5_000; 6]);
        assert_eq!(delays(0, 4, 1_000)[0], 0);
        let delay = RestartDelay { base: Span::from_millis(7), steps: 3, max: Span::INFINITY };
        assert_eq!(restart_delay(&delay, 1_000), Span::from_millis(7));
    }

    #[test]
    fn a_window_lets_its_burst_pass_and_opens_anew() {
        let interval = Span::from_secs(10);
        let mut window = RateLimit::default();
        for second in 0..3 {
            assert_eq!(window.admit(Time(0).after(Span::from_secs(second)), 3, interval), Ok(()));
        }
        let later =
            window.admit(Time(0).after(Span::from_secs(9)), 3, interval).expect_err("the burst is used up");
        assert_eq!(window.admit(later, 3, interval), Ok(()));
        assert_eq!(window.admit(later, 0, interval), Ok(()), "no limit");
        let mut for_ever = RateLimit::default();
        assert_eq!(for_ever.admit(Time(5), 1, Span::INFINITY), Ok(()));
        assert_eq!(for_ever.admit(Time(u64::MAX - 1), 1, Span::INFINITY), Err(Time::NEVER));
    }

    #[test]
    fn exit_statuses_are_the_shells() {
        assert_eq!(code(7).exit_status(), 7);
        assert_eq!(signal(9).exit_status(), 137);
        assert_eq!(End::Exited(Exit::Unknown).exit_status(), 1);
        let failure = |stage, errno| StartFailure { stage, errno, what: String::new() }.exit_status();
        assert_eq!(
            [failure(Stage::Exec, 2), failure(Stage::Exec, 13), failure(Stage::User, 2)],
            [127, 126, 125]
        );
    }
}
