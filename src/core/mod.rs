//! The core, a state machine that takes all decisions about the server: facts go in as [`Event`]s, orders come out as
//! [`Action`]s, time is an argument.
//!
//! No I/O, no clock, no randomness, no `unsafe` anywhere below: that is what lets tests/sim run thousands of histories
//! with faults, and every short one, on virtual time. What needs no decision (bytes of control lines, fds, paths) stays
//! outside.

#![forbid(unsafe_code)]
#![deny(clippy::wildcard_enum_match_arm)]

mod command;
mod drain;
mod early;
mod end;
mod exit;
mod failure;
mod finish;
mod generation;
pub mod note;
pub mod notify;
mod reload;
pub mod report;
mod request;
mod reread;
mod restart;
mod restored;
mod service;
mod shutdown;
mod slots;
mod start;
mod status;
mod supervisor;
mod swap;
mod timers;
mod watch;
mod why;

use serde::{Deserialize, Serialize};

pub use self::{notify::Notify, report::Reply, supervisor::Supervisor, why::Why};
use crate::config::{CommandList, Policy, Signal, Span};
pub use failure::{Stage, StartFailure};
pub use note::{BindNote, Damage, Note, SocketNote};
pub use restart::{RunOutcome, RunResult};
pub use watch::{Counted, Finding, HintAt, Looked, MayConnect, Question, Sight, Traffic};

/// The limits of the core, in one place.
pub mod limits {
    use crate::config::Span;

    /// The most generations that live at once (current, candidate and draining); a further swap waits for one to end.
    pub const GENERATIONS: usize = 8;
    /// The most clients that may wait for an answer; further ones are refused.
    pub const CLIENTS: usize = 64;
    /// The most bytes of STATUS= that are kept.
    pub const STATUS_BYTES: usize = 512;
    /// The first and the longest gap between looks (does a starting generation wait on its sockets?) and between counts
    /// (the connections of a draining one).
    pub const LOOK_FIRST: Span = Span::from_millis(5);
    pub const LOOK_LAST: Span = Span::from_millis(250);
    /// The gap is at least this many times as long as the last look or count took.
    pub const LOOK_COST: u64 = 10;
    /// The longest gap between counts is so many times as long as the last one took, if that is longer, and at most
    /// [`DRAIN_NEWS`]: what is left for long may be seen to go a little later.
    pub const COUNT_COST: u64 = 100;
    /// How often the log says what a draining generation still has.
    pub const DRAIN_NEWS: Span = Span::from_secs(1);
    /// A draining generation that accepts nothing from its queue for this long loses the queue.
    pub const QUEUE_STUCK: Span = Span::from_secs(1);
    /// How long after Drain= a moment without connections in flight is waited for.
    pub const LAST_MOMENT: Span = Span::from_millis(100);
    /// A server that takes longer than this to exit after the kill signal is finishing its connections.
    pub const FINISHES: Span = Span::from_millis(50);
    /// When a rescue that failed to start is tried again.
    pub const RESCUE_AGAIN: Span = Span::from_secs(1);
    /// Ready=http: the gap between requests, and the time limit of one.
    pub const PROBE_GAP: Span = Span::from_millis(100);
    pub const PROBE: Span = Span::from_secs(2);
    /// Ready=auto: a generation about which nothing can be seen counts as ready after this.
    pub const AUTO_ALIVE: Span = Span::from_secs(1);
    /// RELOADING=1 within this time after a start belongs to the start.
    pub const START_RELOAD: Span = Span::from_secs(1);
    /// A generation that is alone and neither said READY=1 nor waits on its sockets counts as ready after this.
    pub const AUTO_ALONE: Span = Span::from_secs(10);
    /// The hint comes when no process was seen to wait on a socket for this long.
    pub const HINT: Span = Span::from_secs(5);
    /// A generation that was ready for this long resets the restart delay.
    pub const HEALTHY: Span = Span::from_secs(10);
    /// A candidate that failed its gate gets this long between the kill signal and SIGKILL.
    pub const FAILED_CANDIDATE: Span = Span::from_secs(2);
    /// How long after SIGKILL a process that still exists is reported; it hangs in the kernel.
    pub const AFTER_KILL: Span = Span::from_secs(2);
    /// The least delay before a restart if execve(2) or a step before it failed.
    pub const NOT_STARTED: Span = Span::from_millis(100);
    /// How long and how often execve(2) is retried after ETXTBSY (the file is still being written).
    pub const TEXT_BUSY: Span = Span::from_secs(2);
    pub const TEXT_BUSY_RETRY: Span = Span::from_millis(20);
    /// Type=forking: how often the main process is looked for, and for how long where several are left: one of them may
    /// be on its way out (setsid(1) forks).
    pub const PID_FILE_RETRY: Span = Span::from_millis(20);
    pub const SEVERAL_LEFT: Span = Span::from_millis(200);
    /// After a supervise that was killed, a start is not too late before this: it could not be asked meanwhile.
    pub const UNWATCHED: Span = Span::from_secs(1);
    /// A second stop signal within this time is the same request: timeout(1) and some shells send it to us and to our
    /// group.
    pub const SAME_STOP: Span = Span::from_millis(100);
}

/// Nanoseconds of CLOCK_MONOTONIC. `Instant` could neither be saved with the state nor be made up by tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Time(pub u64);

impl Time {
    /// The time that never comes.
    pub const NEVER: Self = Self(u64::MAX);

    /// `self + span`, or [`Time::NEVER`] if that is infinite.
    #[must_use]
    pub const fn after(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.as_nanos()))
    }

    /// The span since `earlier`; zero if that is later.
    pub const fn since(self, earlier: Self) -> Span {
        Span::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// One start of COMMAND, numbered from 1, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GenerationId(pub u64);

/// A control connection that waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClientId(pub u64);

/// The index of a generation's socket among those of each address, below [`limits::GENERATIONS`]. An address that
/// cannot be steered has one socket for all slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotId(pub u8);

impl SlotId {
    pub fn all() -> impl DoubleEndedIterator<Item = Self> {
        (0..limits::GENERATIONS as u8).map(Self)
    }
}

/// The slots that get new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steering {
    pub slot: SlotId,
    /// Another slot and its share in percent (1 to 99). On AF_UNIX all connections go to `slot`.
    pub canary: Option<(SlotId, u8)>,
}

impl Steering {
    /// All new connections go to `slot`.
    pub const fn all_to(slot: SlotId) -> Self {
        Self { slot, canary: None }
    }
}

/// How a main process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    Code(u8),
    Signal {
        signal: Signal,
        core: bool,
    },
    /// Nobody could tell: supervise was killed since the process was started, which is not its child any more.
    Unknown,
}

impl Exit {
    /// What is known of it.
    pub(crate) fn known(self) -> Option<Self> {
        Some(self).filter(|exit| *exit != Self::Unknown)
    }
}

/// Facts about this process that hold from start to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Whether at least one socket is held; [`Event::Reread`] may change it.
    pub holds_sockets: bool,
    /// Whether at least one socket has slots; [`Event::Reread`] may change it.
    pub steers: bool,
    /// Whether SIGHUP was ignored at our start (nohup).
    pub hup_ignored: bool,
    /// Whether we are pid 1.
    pub init: bool,
}

/// How a command ended, or why it did not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    Exited(Exit),
    NotStarted(StartFailure),
    /// ExecCondition= prevented the start of the main process.
    Skipped,
    /// The main process was not started, because a command before it failed or a stop came first.
    Untried,
}

/// One command of a list such as ExecStartPre=.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    pub list: CommandList,
    pub index: usize,
}

/// The answer to [`Action::FindMain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Its exit will be reported as that of the main process.
    Main(u32),
    /// PIDFile= does not name a process of this generation yet.
    NotYet,
    /// Several processes are left, and which is the main one is unknown.
    Unknown,
    /// No process is left.
    Nobody,
}

/// Facts, in the past tense.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The first event of every history: the sockets are held.
    Begun,
    /// The first event of a core that was restored where all orders were carried out, and answered as far as the shell
    /// can answer by itself.
    Restored,
    /// The core was restored from what was saved after some step of a supervise that was killed. The first event after
    /// the rest of that step's orders ([`Action::is_kept`]) and their answers. What happened meanwhile is told after it:
    /// first processes that ended and datagrams, then [`Event::Tick`].
    Recovered,
    /// The execve(2) of this generation succeeded.
    Started {
        generation: GenerationId,
        pid: u32,
    },
    /// The start failed before or in execve(2), so no process runs.
    StartFailed {
        generation: GenerationId,
        failure: StartFailure,
    },
    /// The main process ended and was reaped. Others of its generation may live on.
    Exited {
        generation: GenerationId,
        exit: Exit,
    },
    /// The command of [`Action::Run`] ended and was reaped, or could not be started.
    CommandEnded {
        generation: GenerationId,
        end: End,
    },
    /// Another process of the generation is its main one from now on (MAINPID=).
    MainChanged {
        generation: GenerationId,
        pid: u32,
    },
    /// Answers [`Action::FindMain`].
    MainSought {
        generation: GenerationId,
        found: Found,
    },
    /// No process of the generation is left; the answer to [`Action::AwaitClear`].
    Cleared {
        generation: GenerationId,
    },
    /// Answers [`Action::Reread`], before any other event: what the files say now, or why they are not taken (a sentence with the place).
    Reread {
        result: Result<Box<Reread>, String>,
    },
    /// A datagram on the generation's NOTIFY_SOCKET.
    Notified {
        generation: GenerationId,
        message: Notify,
    },
    /// A connection waits on a watched socket.
    Connected,
    /// A connection waits on a guarded slot.
    Arrived {
        slot: SlotId,
    },
    /// [`Action::Steer`] failed for a socket; `why` is a sentence.
    SteerFailed {
        why: String,
    },
    /// [`Action::Rescue`] failed to start for a socket.
    RescueFailed {
        slot: SlotId,
    },
    /// The server on this slot can never again accept from this socket, given by its address.
    SocketLost {
        slot: SlotId,
        socket: String,
    },
    /// Answers [`Action::Ask`].
    Answered {
        generation: GenerationId,
        finding: Finding,
    },
    Signalled {
        signal: Signal,
        sender: Sender,
        terminal: Terminal,
    },
    Requested {
        client: ClientId,
        request: Request,
    },
    /// The client went away before it was answered.
    ClientGone {
        client: ClientId,
    },
    /// After [`Action::Sweep`]: we have no child left.
    Childless,
    /// The time of `next_wake` has come.
    Tick,
}

/// The configuration as read anew; it counts from [`Action::Adopt`] on, and before that for the candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reread {
    pub policy: Policy,
    pub holds_sockets: bool,
    pub steers: bool,
    /// The number of stored fds (FDSTORE=1), which the next generation gets even if the old one still has them.
    pub stored_fds: usize,
}

/// The sender of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    Kernel,
    /// The leader of our session, such as a shell that passes its SIGHUP on.
    SessionLeader,
    Process,
}

/// The state of the terminal that supervise was started from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terminal {
    /// There was none at the start, or it still opens.
    Unchanged,
    /// /dev/tty opened at the start and no longer does.
    Gone,
}

/// An order to the shell, with nothing left to decide.
///
/// Supervise may be killed before it has saved that it carried one out, and then does so a second time: that has to do
/// no harm. After [`Event::Recovered`] come, besides, all orders again of which the answer is missing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Action {
    /// Start the main process of this generation, command `index` of ExecStart=. Answered by `Started` or `StartFailed`.
    /// The same generation may be asked for again: after a `StartFailed` (ETXTBSY), and for the next command of
    /// Type=oneshot. After `Recovered` nothing is started where that was done already: the answer is the same, and
    /// `Exited` follows where the process has ended since.
    Spawn {
        generation: GenerationId,
        index: usize,
        /// The slot whose sockets it gets. No other generation has them, and a relay on this slot stops accepting.
        slot: SlotId,
    },
    /// Run one of the commands before or after the main one; answered by `CommandEnded`. One at a time for each
    /// generation. `outcome` is for $SERVICE_RESULT, $EXIT_CODE and $EXIT_STATUS. After `Recovered` nothing is run where
    /// that was done already: the answer comes when it ends, or at once.
    Run {
        generation: GenerationId,
        command: Command,
        outcome: Option<RunOutcome>,
        slot: SlotId,
    },
    /// The main process has gone to the background (Type=forking): find the one that is it now. Answered by
    /// `MainSought`.
    FindMain {
        generation: GenerationId,
    },
    /// Report `Cleared` once as soon as no process of the generation is left.
    AwaitClear {
        generation: GenerationId,
    },
    /// Read the configuration anew and bind what was added. Answered by `Reread`. What is started next is started by
    /// it.
    Reread,
    /// Take over the configuration that was read last, and close the sockets that it does not name.
    Adopt,
    /// Forget the configuration that was read last, and close the sockets bound for it.
    Discard,
    Kill {
        generation: GenerationId,
        signal: Signal,
        scope: Scope,
    },
    /// Close what belongs to the generation, which has ended.
    Forget {
        generation: GenerationId,
    },
    /// Report `Connected` once as soon as a connection waits on any socket that has no slots, or on the slot with the
    /// traffic (on), or stop doing so.
    WakeOnConnection {
        on: bool,
    },
    /// Send new connections there from now on, and undo what servers did to the sockets.
    Steer(Steering),
    /// Report `Arrived` whenever something waits on this slot of any socket (on), or stop doing so.
    Guard {
        slot: SlotId,
        on: bool,
    },
    /// Take the connections that wait on this slot to the slot with the traffic.
    Rescue {
        slot: SlotId,
    },
    /// Find out, or tell, what the kernel shows of a generation.
    Ask(Question),
    /// Signal every child and adopted grandchild that is left; then report `Childless` as soon as there is none.
    Sweep {
        signal: Signal,
    },
    Reply {
        client: ClientId,
        reply: Reply,
    },
    #[serde(skip)]
    Tell(Note),
    /// Notify the service manager that started supervise (sd_notify(3)).
    TellManager(Manager),
    /// Execute the program at our own path in this process, if it can go on from here, and answer the client.
    Reexec {
        client: ClientId,
    },
    /// Stop this process, as SIGTSTP asked.
    Suspend,
    /// Exit with this status.
    Exit(u8),
}

impl Action {
    /// Whether the order is saved with the state, and carried out by the supervise that takes over from one that was
    /// killed before it had. A line of the log is not worth it; who is suspended would stay so for ever; and a supervise that
    /// takes over need not be replaced.
    pub fn is_kept(&self) -> bool {
        !matches!(self, Self::Tell(_) | Self::Suspend | Self::Reexec { .. })
    }
}

/// The processes that a signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    Main,
    /// The command of [`Action::Run`] and its process group.
    Command,
    /// The process group, and all other processes known to belong to the generation.
    All,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Manager {
    Ready,
    Reloading,
    Stopping,
    /// STATUS= of the current generation.
    Status(String),
}

/// The request of a verb.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "verb")]
pub enum Request {
    /// `wait`: whether the answer comes at the end of the swap or at once.
    Swap {
        wait: bool,
    },
    /// Take the swap under way back.
    Abort,
    Reload,
    Restart,
    Pause,
    Resume,
    Stop,
    Kill {
        signal: Signal,
    },
    /// Let a new version of supervise take the place of this one.
    Reexec,
    /// With `wait_ns`: answered when a ready generation serves, or after that time in nanoseconds.
    Status {
        wait_ns: Option<u64>,
    },
}
