//! The part that decides. Facts go in as [`Event`]s, orders come out as [`Action`]s, time is an argument.
//!
//! No I/O, no clock, no randomness, no `unsafe` anywhere below: that is what lets tests/sim run thousands of
//! histories with faults, and every short one, on virtual time. Whatever has no decision in it (bytes of control
//! lines, fds, paths) stays outside.

#![forbid(unsafe_code)]
#![deny(clippy::wildcard_enum_match_arm)]

mod command;
mod drain;
mod early;
mod end;
mod exit;
mod failure;
mod finish;
mod gate;
mod generation;
mod health;
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
mod sight;
mod slots;
mod start;
mod status;
mod supervisor;
mod swap;
mod timers;
mod traffic;
mod trial;
mod waiting;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use self::{notify::Notify, report::Reply, supervisor::Supervisor, timers::Why};
use crate::config::{CommandList, Policy, Signal, Span};
pub use failure::{Stage, StartFailure};
pub use note::{BindNote, Damage, Note, SocketNote};
pub use restart::{RunOutcome, RunResult};
pub use sight::{Ask, HintAt, Looked, Sight};
pub use traffic::{Counted, Traffic};

/// The limits of the core, in one place.
pub mod limits {
    use crate::config::Span;

    /// Generations alive at once (current, candidate and draining). A swap beyond that waits for one to end.
    pub const GENERATIONS: usize = 8;
    /// Clients waiting for an answer; the next one is refused.
    pub const CLIENTS: usize = 64;
    /// STATUS= is kept up to this many bytes.
    pub const STATUS_BYTES: usize = 512;
    /// Of looks (who of a generation that starts waits) and counts (the connections of one that drains): how soon there
    /// is the next, at first and at last.
    pub const LOOK_FIRST: Span = Span::from_millis(5);
    pub const LOOK_LAST: Span = Span::from_millis(250);
    /// So many times as long as they took, there is none.
    pub const LOOK_COST: u64 = 10;
    /// How often is told what a generation that drains still has.
    pub const DRAIN_NEWS: Span = Span::from_secs(1);
    /// A queue out of which a draining generation has taken nothing for this long is taken elsewhere.
    pub const QUEUE_STUCK: Span = Span::from_secs(1);
    /// When Drain= is over a moment is looked for in which nothing is in flight, for this long.
    pub const LAST_MOMENT: Span = Span::from_millis(100);
    /// Whoever takes longer than this to exit after the kill signal finishes what it has.
    pub const FINISHES: Span = Span::from_millis(50);
    /// When a rescue that could not be begun is tried again.
    pub const RESCUE_AGAIN: Span = Span::from_secs(1);
    /// Ready=http: how often, and how long one answer may take.
    pub const PROBE_GAP: Span = Span::from_millis(100);
    pub const PROBE: Span = Span::from_secs(2);
    /// Ready=auto: a generation of which nothing can be known counts as ready after this.
    pub const AUTO_ALIVE: Span = Span::from_secs(1);
    /// RELOADING=1 until this long after readiness belongs to the start.
    pub const START_RELOAD: Span = Span::from_secs(1);
    /// A generation that is alone and neither said READY=1 nor waits on its sockets counts as ready after this.
    pub const AUTO_ALONE: Span = Span::from_secs(10);
    /// A generation that nobody was seen to wait in for this long, on one of its sockets, is told of.
    pub const HINT: Span = Span::from_secs(5);
    /// Ready for this long: the restart delay starts from its beginning again.
    pub const HEALTHY: Span = Span::from_secs(10);
    /// A candidate that failed its gate gets this long between the kill signal and SIGKILL.
    pub const FAILED_CANDIDATE: Span = Span::from_secs(2);
    /// After the last SIGKILL: what is not gone by then hangs in the kernel, and is reported.
    pub const AFTER_KILL: Span = Span::from_secs(2);
    /// The least delay before a restart of what could not even be executed.
    pub const NOT_STARTED: Span = Span::from_millis(100);
    /// ETXTBSY (the file is still being written) is tried again for this long, this often.
    pub const TEXT_BUSY: Span = Span::from_secs(2);
    pub const TEXT_BUSY_RETRY: Span = Span::from_millis(20);
    /// Type=forking: how often the main process is looked for, and for how long where several are left: one of them may
    /// be on its way out (setsid(1) forks).
    pub const PID_FILE_RETRY: Span = Span::from_millis(20);
    pub const SEVERAL_LEFT: Span = Span::from_millis(200);
    /// A second stop signal this soon is the same request: timeout(1) and some shells send each to us and to our group.
    pub const SAME_STOP: Span = Span::from_millis(100);
}

/// Nanoseconds of CLOCK_MONOTONIC. Not `Instant`: it is part of the state, and tests make it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Time(pub u64);

impl Time {
    /// The far end: a span of infinity added to any time.
    pub const NEVER: Self = Self(u64::MAX);

    /// `self + span`, [`Time::NEVER`] where that has no end.
    #[must_use]
    pub const fn after(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.as_nanos()))
    }

    /// How long ago `earlier` was; zero if it is still to come.
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

/// Which of the sockets of each address a generation gets: below [`limits::GENERATIONS`]. An address that cannot be
/// steered has one socket for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotId(pub u8);

impl SlotId {
    pub fn all() -> impl DoubleEndedIterator<Item = Self> {
        (0..limits::GENERATIONS as u8).map(Self)
    }
}

/// Who gets new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steering {
    pub slot: SlotId,
    /// Another slot, and how many of a hundred go there (1 to 99). Not on AF_UNIX: there all go to `slot`.
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
    Signal { signal: Signal, core: bool },
}

/// What is true of this process from start to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// At least one socket is held. May change at a swap, by [`Event::Reread`].
    pub holds_sockets: bool,
    /// At least one socket has slots. May change likewise.
    pub steers: bool,
    /// SIGHUP was ignored when we were started (nohup).
    pub hup_ignored: bool,
    /// We are pid 1.
    pub init: bool,
}

/// How something that was to be executed ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    Exited(Exit),
    NotStarted(StartFailure),
    /// ExecCondition= said that the main process is not to be started.
    Skipped,
    /// The main process was never tried: a command before it failed, or a stop came first.
    Untried,
}

/// One command of a list: ExecStartPre=, ...
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    pub list: CommandList,
    pub index: usize,
}

/// What became of [`Action::FindMain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Its exit will be reported as that of the main process.
    Main(u32),
    /// PIDFile= does not name a process of this generation yet.
    NotYet,
    /// Processes are left, but which of them is the main one cannot be known.
    Unknown,
    /// No process is left.
    Nobody,
}

/// Facts, in the past tense.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The first event of every history: the sockets are held.
    Begun,
    /// The first event of a core that was restored.
    Restored,
    /// The execve(2) of this generation succeeded.
    Started {
        generation: GenerationId,
        pid: u32,
    },
    /// Nothing runs: the start failed before or in execve(2).
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
    /// Nothing of the generation is left. Comes once for each [`Action::AwaitClear`].
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
    /// Something waits on a guarded slot.
    Arrived {
        slot: SlotId,
    },
    /// [`Action::Steer`] could not be carried out for some socket; a sentence.
    SteerFailed {
        why: String,
    },
    /// [`Action::Rescue`] could not be begun for some socket.
    RescueFailed {
        slot: SlotId,
    },
    /// Whoever runs on this slot can accept nothing from this socket any more, ever (its address).
    SocketLost {
        slot: SlotId,
        socket: String,
    },
    /// Answers [`Action::Count`].
    Counted {
        generation: GenerationId,
        counted: Counted,
    },
    /// Answers [`Action::Probe`]: one good answer, or what was wrong with it.
    Probed {
        generation: GenerationId,
        result: Result<(), String>,
    },
    /// Answers [`Action::Look`].
    Looked {
        generation: GenerationId,
        looked: Looked,
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
    /// After [`Action::Sweep`]: we have no child of any kind any more.
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
    /// How many fds servers have given us to keep (FDSTORE=1). The next generation gets them, whoever else has them.
    pub stored_fds: usize,
}

/// Who sent a signal, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    Kernel,
    /// The leader of our session: a shell that passes its own SIGHUP on.
    SessionLeader,
    Process,
}

/// What became of the terminal we were started from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terminal {
    /// There was none at the start, or it still opens.
    Unchanged,
    /// /dev/tty opened at the start and no longer does.
    Gone,
}

/// Orders: each one thing to do, with nothing left to decide.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Start the main process of this generation, command `index` of ExecStart=. Answered by `Started` or `StartFailed`.
    /// The same generation may be asked for again: after a `StartFailed` (ETXTBSY), and for the next command of
    /// Type=oneshot.
    Spawn {
        generation: GenerationId,
        index: usize,
        /// The sockets it gets. Nobody else has them, and whoever passed their queue on (`Rescue`) stops accepting there.
        slot: SlotId,
    },
    /// Run one of the commands round the main one; answered by `CommandEnded`. One at a time for each generation.
    /// `outcome` is for $SERVICE_RESULT, $EXIT_CODE and $EXIT_STATUS.
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
    /// Report `Cleared` once as soon as nothing of the generation is left.
    AwaitClear {
        generation: GenerationId,
    },
    /// Read the configuration anew and bind what was added. Answered by `Reread`. What is started next is started by
    /// it.
    Reread,
    /// What was read last counts from now on: sockets that it does not name are closed.
    Adopt,
    /// What was read last is forgotten, and the sockets bound for it are closed.
    Discard,
    Kill {
        generation: GenerationId,
        signal: Signal,
        scope: Scope,
    },
    /// The generation is over: close what belongs to it.
    Forget {
        generation: GenerationId,
    },
    /// Report `Connected` once as soon as a connection waits on any socket that has no slots, or on the slot with the
    /// traffic (on), or stop doing so.
    Watch {
        on: bool,
    },
    /// New connections go there from now on; whatever servers did to the sockets so far is undone.
    Steer(Steering),
    /// Report `Arrived` whenever something waits on this slot of any socket (on), or stop doing so.
    Guard {
        slot: SlotId,
        on: bool,
    },
    /// Take what waits on this slot to the one with the traffic.
    Rescue {
        slot: SlotId,
    },
    /// Count the connections of a generation; those are idle that were quiet for so long. Answered by `Counted`.
    Count {
        generation: GenerationId,
        slot: SlotId,
        quiet: Span,
    },
    /// Ask this generation, on its slot, as Ready=http: says. Answered by `Probed`, unless `EndProbe` comes first.
    Probe {
        generation: GenerationId,
        slot: SlotId,
    },
    EndProbe {
        generation: GenerationId,
    },
    /// See which of its sockets the processes of this generation wait on, and where they have accepted connections; as `ask`
    /// says, have one of our own accepted. Answered by `Looked`; what is begun is ended by `EndProbe`.
    Look {
        generation: GenerationId,
        slot: SlotId,
        ask: Ask,
    },
    /// Tell how this very command would get at these sockets (none: all).
    Hint {
        generation: GenerationId,
        sockets: BTreeSet<String>,
        at: HintAt,
    },
    /// Say how many connections found a full queue since the last `Reread`.
    TellOverflows,
    /// Signal every child and adopted grandchild that is left; then report `Childless` as soon as there is none.
    Sweep {
        signal: Signal,
    },
    Reply {
        client: ClientId,
        reply: Reply,
    },
    Tell(Note),
    /// sd_notify(3) to whoever started us.
    TellManager(Manager),
    /// Stop ourselves, as the terminal asked (SIGTSTP).
    Suspend,
    /// End with this status.
    Exit(u8),
}

/// Whom a signal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Main,
    /// The command of [`Action::Run`] and its process group.
    Command,
    /// The process group and whatever else is known to belong to the generation.
    All,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manager {
    Ready,
    Reloading,
    Stopping,
    /// STATUS= of the current generation.
    Status(String),
}

/// What a verb asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "verb")]
pub enum Request {
    /// `wait: false`: answered as soon as it was accepted.
    Swap {
        wait: bool,
    },
    /// The swap under way is taken back.
    Abort,
    Reload,
    Restart,
    Pause,
    Resume,
    Stop,
    Kill {
        signal: Signal,
    },
    /// With `wait_ns`: answered when a ready generation serves, at the latest then.
    Status {
        wait_ns: Option<u64>,
    },
}
