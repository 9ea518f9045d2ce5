//! The type [`Policy`], the settings by which the core decides: when a generation is ready, when it is stopped, when
//! it is started again.

use serde::{Deserialize, Serialize};

use super::{Signal, Span, StatusSet};

/// The part of the configuration that the core knows; it names neither files nor fds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    pub service_type: Type,
    /// How many commands run before and after the main one, and which may fail.
    pub commands: CommandPolicy,
    pub restart: Restart,
    pub delay: RestartDelay,
    pub start_limit: StartLimit,
    /// TriggerLimitIntervalSec= and TriggerLimitBurst= (systemd.socket(5)): starts caused by connections. Above it
    /// connections wait until the interval ends; unlike in systemd the socket stays open.
    pub trigger_limit: Rate,
    /// PollLimitIntervalSec= and PollLimitBurst=: how often all sockets together are looked at for waiting connections.
    pub poll_limit: Rate,
    /// SuccessExitStatus=: clean in addition to 0, SIGHUP, SIGINT, SIGTERM and SIGPIPE.
    pub success: StatusSet,
    /// RestartPreventExitStatus=
    pub prevent: StatusSet,
    /// RestartForceExitStatus=
    pub force: StatusSet,
    pub ready: Ready,
    /// TimeoutStartSec=, also of each command before and after the main one; [`Span::INFINITY`] is none.
    pub timeout_start: Span,
    /// TimeoutStopSec=: from the kill signal to the last SIGKILL, also of each ExecStop= and ExecStopPost= command.
    pub timeout_stop: Span,
    /// TimeoutAbortSec=: the same after WatchdogSignal=; `None` means `timeout_stop`.
    pub timeout_abort: Option<Span>,
    /// TimeoutStartFailureMode= and TimeoutStopFailureMode=
    pub start_failure_mode: FailureMode,
    pub stop_failure_mode: FailureMode,
    /// RuntimeMaxSec=, counted from the end of the start; [`Span::INFINITY`] is none.
    pub runtime_max: Span,
    /// RuntimeRandomizedExtraSec=: a random extra of up to this is added to `runtime_max`.
    pub runtime_extra: Span,
    /// RemainAfterExit=: the service stays active after its processes have exited cleanly.
    pub remain_after_exit: bool,
    /// ExitType=: whether the service ends with its main process or (`cgroup`) with its last one.
    pub exit_type: ExitType,
    /// Whether there is a PIDFile=, which Type=forking then waits for.
    pub has_pid_file: bool,
    pub kill_signal: Signal,
    /// RestartKillSignal=: replaces `kill_signal` where a start follows at once.
    pub restart_kill_signal: Option<Signal>,
    /// FinalKillSignal=
    pub final_kill_signal: Signal,
    /// WatchdogSignal=
    pub watchdog_signal: Signal,
    /// ReloadSignal=, sent by Type=notify-reload.
    pub reload_signal: Signal,
    /// SendSIGHUP=: SIGHUP follows the kill signal.
    pub send_sighup: bool,
    /// SendSIGKILL=
    pub send_sigkill: bool,
    pub kill_mode: KillMode,
    /// WatchdogSec=; [`Span::ZERO`] is off.
    pub watchdog: Span,
    /// Bake=: how long the old generation stays untouched after the new one was ready.
    pub bake: Span,
    /// Drain=: how long the old generation may finish its connections before its kill signal.
    pub drain: Span,
    /// DrainQuiet=: a connection counts as idle once it has been quiet this long after an answer.
    pub drain_quiet: Span,
    /// Canary=; with `None` all new connections switch at once.
    pub canary: Option<Canary>,
    pub handover: Handover,
    /// Whether Handover= was written; then nothing that is found out about the server changes it.
    pub handover_given: bool,
    /// Restart=no on the command line: supervise ends with its server, even with sockets held.
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

    /// Whether old and new must run at once even if that does harm, by Handover=, Canary= or Ready=http:.
    pub fn must_overlap(&self) -> bool {
        let overlaps = self.handover != Handover::StopFirst;
        overlaps && (self.handover_given || self.canary.is_some() || self.ready == Ready::Http)
    }

    /// Whether supervise ends when the server has ended and is not restarted, even with sockets held.
    pub fn ends_with_server(&self) -> bool {
        self.restart == Restart::No && self.no_restart_ends
    }
}

/// Type= of systemd.service(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Type {
    /// `simple`; `idle` is read as this.
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
    /// ExecStart=: the main process; Type=oneshot may have several.
    Start,
    StartPost,
    Reload,
    Stop,
    StopPost,
}

impl CommandList {
    pub const ALL: [Self; 7] = [
        Self::Condition,
        Self::StartPre,
        Self::Start,
        Self::StartPost,
        Self::Reload,
        Self::Stop,
        Self::StopPost,
    ];
}

/// One value of `T` for each command of each list.
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

/// For each command whether its failure is ignored (the prefix `-`).
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

/// No list has an entry.
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
    /// The directive whose commands these are.
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
    /// The number of steps to `max`; 0: the delay does not grow.
    pub steps: u32,
    /// The delay after the last step; [`Span::INFINITY`]: the delay does not grow.
    pub max: Span,
}

/// StartLimitBurst=, StartLimitIntervalSec= and StartLimitAction= (systemd.unit(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartLimit {
    /// StartLimitBurst=; 0: no limit.
    pub burst: u32,
    /// StartLimitIntervalSec=; zero: no limit, infinity: all starts count.
    pub interval: Span,
    pub action: StartLimitAction,
}

/// At most `burst` events per `interval`; zero in either means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    pub burst: u32,
    pub interval: Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartLimitAction {
    /// Keep the sockets; the state is `failed`.
    None,
    /// Exit with the server's last status.
    Exit,
}

/// Ready=: when a generation counts as ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ready {
    /// It is seen waiting on its sockets, and sends READY=1 if it does so at all or the current one did. READY=1
    /// alone is enough where no generation was ever seen waiting.
    Auto,
    /// READY=1 was sent; nothing else counts.
    Notify,
    /// Type=notify without Ready=: READY=1, and seen waiting on its sockets if the current one was.
    NotifyType,
    /// execve(2) has succeeded; Type=forking: it is in the background; oneshot: all commands have ended.
    Exec,
    /// It has lived this long.
    Delay(Span),
    /// A GET of [`super::Health`] was answered with 2xx or 3xx; needs [`Handover::Steered`].
    Http,
}

/// Canary=: the candidate gets this share of the new connections for this long, then all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// The candidate's share in percent, 1 to 99.
    pub percent: u8,
    pub span: Span,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KillMode {
    /// The kill signal goes to the main process, SIGKILL to all that are left.
    Mixed,
    /// The kill signal goes to the whole process group.
    ControlGroup,
    /// All signals go to the main process alone.
    Process,
}

/// What is sent after a timeout: the kill signal, WatchdogSignal=, or SIGKILL.
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
    /// Each generation has its own socket for an address, and supervise chooses which of them gets new connections. A
    /// socket that cannot be steered is shared.
    Steered,
    /// Both generations accept from one socket while both run.
    Shared,
    /// The old generation ends before the new one starts.
    StopFirst,
}
