//! What the user asked for, as plain data: text goes in, a [`Config`] or an [`Error`] comes out. No I/O here.
//!
//! A command line is a unit file written inline, so both fill this one structure through one table,
//! [`directives`]. Values keep their systemd meaning; where the command line has another default than systemd,
//! [`Config::for_command_line`] is the place that says so.

pub mod address;
pub mod directives;
pub mod environment;
pub mod instance;
pub mod number;
pub mod placeholder;
pub mod status;
pub mod value;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

pub use address::{Address, Kind, Listener};
pub use instance::{Color, Control, Instance};
pub use status::StatusSet;
pub use value::{Signal, Span};

/// Everything one instance needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// In the order of the fds: the first is fd 3.
    pub listeners: Vec<Listener>,
    /// Socket options, the same for all listeners of the command line.
    pub socket: SocketOptions,
    pub launch: Launch,
    pub policy: Policy,
}

/// What the core decides by; nothing here names a file or an fd.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub restart: Restart,
    pub delay: RestartDelay,
    pub start_limit: StartLimit,
    /// SuccessExitStatus=: clean besides 0, SIGHUP, SIGINT, SIGTERM and SIGPIPE.
    pub success: StatusSet,
    /// RestartPreventExitStatus=
    pub prevent: StatusSet,
    /// RestartForceExitStatus=
    pub force: StatusSet,
    pub ready: Ready,
    /// TimeoutStartSec=; [`Span::INFINITY`] is never.
    pub timeout_start: Span,
    /// TimeoutStopSec=: from the kill signal to the last SIGKILL.
    pub timeout_stop: Span,
    pub kill_signal: Signal,
    pub kill_mode: KillMode,
    /// WatchdogSec=; [`Span::ZERO`] is off.
    pub watchdog: Span,
    /// How long the old generation stays untouched after the new one was ready.
    pub bake: Span,
    pub handover: Handover,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartDelay {
    pub base: Span,
    /// 0: the delay does not grow.
    pub steps: u32,
    /// [`Span::INFINITY`]: the delay does not grow.
    pub max: Span,
}

/// StartLimitBurst=, StartLimitIntervalSec= and StartLimitAction= (systemd.unit(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartLimit {
    /// 0: no limit.
    pub burst: u32,
    /// Zero: no limit. Infinity: the burst counts for ever.
    pub interval: Span,
    pub action: StartLimitAction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartLimitAction {
    /// Hold the sockets, state `failed`.
    None,
    /// End with the server's last status.
    Exit,
}

/// Ready=: when a generation counts as ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// READY=1, or alive for a second where no generation ever sent it.
    Auto,
    /// READY=1 and nothing else.
    Notify,
    /// execve(2) succeeded.
    Exec,
    /// Alive for this long.
    Delay(Span),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillMode {
    /// The kill signal to the main process, SIGKILL to what it leaves behind.
    Mixed,
    /// The kill signal to the whole process group.
    ControlGroup,
    /// The main process alone, always.
    Process,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handover {
    /// Both generations accept from one socket while they overlap.
    Shared,
    /// The old generation is gone before the new one starts.
    StopFirst,
}

/// What is needed to start a generation. Paths, users and files are looked up anew for each.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// COMMAND and its arguments, placeholders not yet replaced. Never empty in a finished [`Config`].
    pub command: Vec<OsString>,
    pub user: Option<String>,
    pub group: Option<String>,
    pub supplementary_groups: Vec<String>,
    /// None: the directory we were started in, by its logical path.
    pub directory: Option<PathBuf>,
    /// Environment=, in order; later wins.
    pub environment: Vec<(String, String)>,
    /// EnvironmentFile=, in order, after `environment`.
    pub environment_files: Vec<EnvironmentFile>,
    pub umask: Option<u32>,
    pub stdin: Stdin,
    /// NonBlocking=: O_NONBLOCK on the sockets passed.
    pub non_blocking: bool,
    /// IgnoreSIGPIPE=
    pub ignore_sigpipe: bool,
    /// LimitNOFILE= and its kin.
    pub limits: Vec<Limit>,
    /// Nice=
    pub nice: Option<i32>,
    /// OOMScoreAdjust=
    pub oom_score_adjust: Option<i32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentFile {
    pub path: PathBuf,
    /// `-` before the path: a missing file is no error.
    pub optional: bool,
}

/// One resource limit; None is `infinity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub resource: Resource,
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

/// The RLIMIT_ names of getrlimit(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    Cpu,
    Fsize,
    Data,
    Stack,
    Core,
    Rss,
    Nofile,
    As,
    Nproc,
    Memlock,
    Locks,
    Sigpending,
    Msgqueue,
    Nice,
    Rtprio,
    Rttime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdin {
    Null,
    Inherit,
}

/// Options of the held sockets ([Socket] of systemd.socket(5)).
#[derive(Clone, Debug, PartialEq)]
pub struct SocketOptions {
    /// Backlog=; the kernel caps it at net.core.somaxconn.
    pub backlog: u32,
    /// BindIPv6Only=; None leaves it to net.ipv6.bindv6only.
    pub v6_only: Option<bool>,
    /// SocketMode= of a unix path.
    pub mode: u32,
    pub free_bind: bool,
    pub no_delay: bool,
    pub keep_alive: bool,
    /// DeferAcceptSec=; zero is off, whole seconds.
    pub defer_accept: Span,
    /// ReceiveBuffer= and SendBuffer=, bytes.
    pub receive_buffer: Option<u64>,
    pub send_buffer: Option<u64>,
}

impl Config {
    /// The defaults of the command line (CLI.md, Options).
    pub fn for_command_line() -> Self {
        Self {
            listeners: Vec::new(),
            socket: SocketOptions {
                backlog: u32::MAX,
                v6_only: None,
                mode: 0o666,
                free_bind: false,
                no_delay: false,
                keep_alive: false,
                defer_accept: Span::ZERO,
                receive_buffer: None,
                send_buffer: None,
            },
            launch: Launch {
                command: Vec::new(),
                user: None,
                group: None,
                supplementary_groups: Vec::new(),
                directory: None,
                environment: Vec::new(),
                environment_files: Vec::new(),
                umask: None,
                stdin: Stdin::Null,
                non_blocking: false,
                ignore_sigpipe: false,
                limits: Vec::new(),
                nice: None,
                oom_score_adjust: None,
            },
            policy: Policy {
                restart: Restart::OnFailure,
                delay: RestartDelay { base: Span::from_millis(100), steps: 8, max: Span::from_secs(30) },
                start_limit: StartLimit {
                    burst: 0,
                    interval: Span::from_secs(10),
                    action: StartLimitAction::None,
                },
                success: StatusSet::default(),
                prevent: StatusSet::default(),
                force: StatusSet::default(),
                ready: Ready::Auto,
                timeout_start: Span::from_secs(60),
                timeout_stop: Span::from_secs(8),
                kill_signal: Signal::TERM,
                kill_mode: KillMode::Mixed,
                watchdog: Span::ZERO,
                bake: Span::from_secs(1),
                handover: Handover::Shared,
            },
        }
    }
}

/// Why a text was refused: where it stands, what is wrong with it, what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// `--listen 8080=a:b`, or `web.service:7`.
    pub place: String,
    pub cause: String,
    /// Empty only where the cause already says what to do.
    pub remedy: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.cause)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, " ({})", self.remedy) }
    }
}

impl std::error::Error for Error {}

/// An [`Error`] before its place is known: parsers of values do not know who asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub cause: String,
    pub remedy: String,
}

impl Problem {
    pub fn new(cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        // Both may quote what was typed, and a message is one line.
        let line = |text: String| if text.contains(char::is_control) { escape(text.chars()) } else { text };
        Self { cause: line(cause.into()), remedy: line(remedy.into()) }
    }

    pub fn at(self, place: impl Into<String>) -> Error {
        Error { place: place.into(), cause: self.cause, remedy: self.remedy }
    }
}

/// Something that was understood but has no effect, or another than it seems; one line for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub Error);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `text` as it may stand in a one-line message: control characters escaped, cut after 200 characters.
pub fn printable(text: &str) -> String {
    let mut chars = text.chars();
    let mut out = escape(chars.by_ref().take(200));
    if chars.next().is_some() {
        out.push('…');
    }
    out
}

fn escape(chars: impl Iterator<Item = char>) -> String {
    chars.fold(String::new(), |mut out, c| {
        if c.is_control() {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
        out
    })
}
