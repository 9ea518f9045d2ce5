//! What the core decides by: when a generation is ready, when it is stopped, when it is started again.

use serde::{Deserialize, Serialize};

use super::{Signal, Span, StatusSet};

/// Everything that the core knows of the configuration; nothing here names a file or an fd.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    pub service_type: Type,
    /// The commands round the main one, by what of them the core needs.
    pub commands: CommandPolicy,
    pub restart: Restart,
    pub delay: RestartDelay,
    pub start_limit: StartLimit,
    /// TriggerLimitIntervalSec= and TriggerLimitBurst= (systemd.socket(5)): starts caused by connections. Beyond it they
    /// wait for the end of the interval; the socket stays open.
    pub trigger_limit: Rate,
    /// PollLimitIntervalSec= and PollLimitBurst=: how often a waiting connection is looked at. Of all sockets together.
    pub poll_limit: Rate,
    /// SuccessExitStatus=: clean besides 0, SIGHUP, SIGINT, SIGTERM and SIGPIPE.
    pub success: StatusSet,
    /// RestartPreventExitStatus=
    pub prevent: StatusSet,
    /// RestartForceExitStatus=
    pub force: StatusSet,
    pub ready: Ready,
    /// TimeoutStartSec=; [`Span::INFINITY`] is never. Of each command before and after the main one, too.
    pub timeout_start: Span,
    /// TimeoutStopSec=: from the kill signal to the last SIGKILL. Of each ExecStop= and ExecStopPost= command, too.
    pub timeout_stop: Span,
    /// TimeoutAbortSec=: the same after WatchdogSignal=. None: as `timeout_stop`.
    pub timeout_abort: Option<Span>,
    /// TimeoutStartFailureMode= and TimeoutStopFailureMode=
    pub start_failure_mode: FailureMode,
    pub stop_failure_mode: FailureMode,
    /// RuntimeMaxSec=, counted from the end of the start; [`Span::INFINITY`] is never.
    pub runtime_max: Span,
    /// RuntimeRandomizedExtraSec=: up to so much more.
    pub runtime_extra: Span,
    /// RemainAfterExit=: up also without a process, after a clean exit.
    pub remain_after_exit: bool,
    /// ExitType=cgroup: lives as long as any of its processes does.
    pub exit_type: ExitType,
    /// PIDFile= is given: Type=forking waits for it.
    pub has_pid_file: bool,
    pub kill_signal: Signal,
    /// RestartKillSignal=: in place of `kill_signal` where another start follows at once.
    pub restart_kill_signal: Option<Signal>,
    /// FinalKillSignal=
    pub final_kill_signal: Signal,
    /// WatchdogSignal=
    pub watchdog_signal: Signal,
    /// ReloadSignal=, which Type=notify-reload sends.
    pub reload_signal: Signal,
    /// SendSIGHUP=: after the kill signal, SIGHUP as well.
    pub send_sighup: bool,
    /// SendSIGKILL=
    pub send_sigkill: bool,
    pub kill_mode: KillMode,
    /// WatchdogSec=; [`Span::ZERO`] is off.
    pub watchdog: Span,
    /// How long the old generation stays untouched after the new one was ready.
    pub bake: Span,
    /// Drain=: how long the old generation may finish what is in flight before its kill signal.
    pub drain: Span,
    /// DrainQuiet=: a connection that is quiet this long after an answer is idle.
    pub drain_quiet: Span,
    /// Canary=; None: all new connections at once.
    pub canary: Option<Canary>,
    pub handover: Handover,
    /// Handover= was written: it holds whatever we find out.
    pub handover_given: bool,
    /// Restart=no, asked for on the command line: the server's end is ours, also where sockets are held.
    pub no_restart_ends: bool,
}

impl Policy {
    /// systemd's defaults (systemd.service(5), systemd.kill(5)).
    pub(super) fn for_units() -> Self {
        Self {
            service_type: Type::Simple,
            commands: CommandPolicy::default(),
            restart: Restart::No,
            delay: RestartDelay { base: Span::from_millis(100), steps: 0, max: Span::INFINITY },
            start_limit: StartLimit {
                burst: 5,
                interval: Span::from_secs(10),
                action: StartLimitAction::None,
            },
            trigger_limit: Rate { burst: 20, interval: Span::from_secs(2) },
            poll_limit: Rate { burst: 15, interval: Span::from_secs(2) },
            success: StatusSet::default(),
            prevent: StatusSet::default(),
            force: StatusSet::default(),
            ready: Ready::Auto,
            timeout_start: Span::from_secs(90),
            timeout_stop: Span::from_secs(90),
            timeout_abort: None,
            start_failure_mode: FailureMode::Terminate,
            stop_failure_mode: FailureMode::Terminate,
            runtime_max: Span::INFINITY,
            runtime_extra: Span::ZERO,
            remain_after_exit: false,
            exit_type: ExitType::Main,
            has_pid_file: false,
            kill_signal: Signal::TERM,
            restart_kill_signal: None,
            final_kill_signal: Signal::KILL,
            watchdog_signal: Signal::ABRT,
            reload_signal: Signal::HUP,
            send_sighup: false,
            send_sigkill: true,
            kill_mode: KillMode::ControlGroup,
            watchdog: Span::ZERO,
            bake: Span::from_secs(1),
            drain: Span::from_secs(10),
            drain_quiet: Span::from_secs(1),
            canary: None,
            handover: Handover::Steered,
            handover_given: false,
            no_restart_ends: false,
        }
    }

    /// Whether old and new are to run at once even where that is known to do harm: Handover= asks for it, or Canary= or
    /// Ready=http:, which need both of them.
    pub fn must_overlap(&self) -> bool {
        let overlaps = self.handover != Handover::StopFirst;
        overlaps && (self.handover_given || self.canary.is_some() || self.ready == Ready::Http)
    }

    /// Whether the end of a server that is not restarted is the end of everything, sockets or not.
    pub fn ends_with_server(&self) -> bool {
        self.restart == Restart::No && self.no_restart_ends
    }
}

/// Type= of systemd.service(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Type {
    /// `simple`, and `idle`, which is the same here.
    Simple,
    Exec,
    Notify,
    NotifyReload,
    Forking,
    Oneshot,
}

/// The lists of commands of a service, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CommandList {
    Condition,
    StartPre,
    /// ExecStart=: the main process; several with Type=oneshot.
    Start,
    StartPost,
    Reload,
    Stop,
    StopPost,
}

/// Something for each command of each list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lists<T> {
    pub condition: Vec<T>,
    pub start_pre: Vec<T>,
    pub start: Vec<T>,
    pub start_post: Vec<T>,
    pub reload: Vec<T>,
    pub stop: Vec<T>,
    pub stop_post: Vec<T>,
}

/// How many commands each list has: one entry a command, true for the prefix `-` (its failure is ignored).
pub type CommandPolicy = Lists<bool>;

impl<T> Lists<T> {
    pub fn list(&self, list: CommandList) -> &[T] {
        match list {
            CommandList::Condition => &self.condition,
            CommandList::StartPre => &self.start_pre,
            CommandList::Start => &self.start,
            CommandList::StartPost => &self.start_post,
            CommandList::Reload => &self.reload,
            CommandList::Stop => &self.stop,
            CommandList::StopPost => &self.stop_post,
        }
    }
}

/// Each list is empty.
impl<T> Default for Lists<T> {
    fn default() -> Self {
        Self {
            condition: Vec::new(),
            start_pre: Vec::new(),
            start: Vec::new(),
            start_post: Vec::new(),
            reload: Vec::new(),
            stop: Vec::new(),
            stop_post: Vec::new(),
        }
    }
}

impl CommandList {
    /// The directive that fills it.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Condition => "ExecCondition",
            Self::StartPre => "ExecStartPre",
            Self::Start => "ExecStart",
            Self::StartPost => "ExecStartPost",
            Self::Reload => "ExecReload",
            Self::Stop => "ExecStop",
            Self::StopPost => "ExecStopPost",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Restart {
    No,
    OnSuccess,
    OnFailure,
    OnAbnormal,
    OnAbort,
    OnWatchdog,
    Always,
}

/// RestartSec=, RestartSteps= and RestartMaxDelaySec= (systemd.service(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartDelay {
    pub base: Span,
    /// 0: the delay does not grow.
    pub steps: u32,
    /// [`Span::INFINITY`]: the delay does not grow.
    pub max: Span,
}

/// StartLimitBurst=, StartLimitIntervalSec= and StartLimitAction= (systemd.unit(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartLimit {
    /// StartLimitBurst=; 0 is no limit.
    pub burst: u32,
    /// Zero: no limit. Infinity: the burst counts for ever.
    pub interval: Span,
    pub action: StartLimitAction,
}

/// At most `burst` events in `interval`; zero in either: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    pub burst: u32,
    pub interval: Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartLimitAction {
    /// Hold the sockets, state `failed`.
    None,
    /// End with the server's last status.
    Exit,
}

/// Ready=: when a generation counts as ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ready {
    /// Seen to wait on its sockets, and READY=1 where the server sends it or the current one did. READY=1 is enough
    /// where nobody else was seen.
    Auto,
    /// READY=1 and nothing else.
    Notify,
    /// Type=notify without Ready=: READY=1, and seen to wait on its sockets where the current one was.
    NotifyType,
    /// execve(2) succeeded; with Type=forking the daemon has gone to the background, with oneshot all is done.
    Exec,
    /// Alive for this long.
    Delay(Span),
    /// A GET of [`super::Health`] was answered with 2xx or 3xx. Only with [`Handover::Steered`].
    Http,
}

/// Canary=: this share of the new connections, for this long, before all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// How many of a hundred new connections the candidate gets: 1 to 99.
    pub percent: u8,
    pub span: Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KillMode {
    /// The kill signal to the main process, SIGKILL to what it leaves behind.
    Mixed,
    /// The kill signal to the whole process group.
    ControlGroup,
    /// The main process alone, always.
    Process,
}

/// What a timeout brings: the kill signal, WatchdogSignal=, or SIGKILL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureMode {
    Terminate,
    Abort,
    Kill,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitType {
    Main,
    Cgroup,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Handover {
    /// Each generation has sockets of its own for an address, and we say which get the new connections. Where a socket
    /// cannot be steered it is shared.
    Steered,
    /// Both generations accept from one socket while they overlap.
    Shared,
    /// The old generation is gone before the new one starts.
    StopFirst,
}
