//! The state machine of the one service: which generations there are, which one serves, what happens next.
//!
//! # Phases
//!
//! ```text
//!   Listening ──connection──▶ Up ◀──────── Waiting ◀──┐            Listening  no server; the next connection starts one
//!       ▲                     │ │ ▲                   │            Up         one generation has the traffic, ready or not
//!       └──clean exit, table──┘ │ └─rolled back─┐     │            Swapping   a candidate runs beside it: the gate (new.ready
//!                     swap      ▼               │     │                       is None), the canary (till new.switched), the bake
//!   Paused ◀─pause── Replacing  Swapping ───────┘     │            Replacing  the current one was told to stop; what then?
//!      │                 │         │ ready and baked  │            Waiting    RestartSec=
//!      └──resume──▶ Up ◀─┘         ▼                  │            Paused     stopped by `pause`
//!                               Up ──exit, table──────┘            Failed     the start limit was hit
//!                                                                  Stopping   everything ends
//! ```
//!
//! Generations that a phase does not name are *draining*: they have lost the traffic. First they finish what they have
//! (`drain`), then they are told to stop (`ending`) and only waited for. Who has the traffic is read off the phase (slots.rs).
//!
//! # A generation
//!
//! ```text
//!   ExecCondition= ─▶ ExecStartPre= ─▶ main process ─▶ up (Type=) ─▶ ExecStartPost= ─▶ active ─┐
//!         │                │           (`started`)       └──────────── Ready= ──── `gate` ─────┴─▶ `ready`
//!         ▼                ▼                │
//!     `end`: Skipped,   Untried         Exited ◀── kill signal ◀── ExecStop= ◀── told to stop (`ending`)
//!         └────────────────┴────────────────┴──▶ what is left is ended ─▶ `Cleared` ─▶ ExecStopPost= ─▶ finished
//! ```
//!
//! One command of a list runs at a time (`command`); what follows from its end is in command.rs. The end has two
//! steps: `Exited` is the main process, `Cleared` is everything it left behind. What comes next is decided when the
//! generation is finished, as systemd's RestartSec= counts from the complete stop; a swap reacts at `Exited`.
//!
//! Each generation keeps the policy it was started with: files may have changed since.
//!
//! # Rules that hold everywhere
//!
//! - The old generation of a swap is not signalled before the new one is ready and the bake is over.
//! - A request for a swap is kept in `clients.next_swap`; [`Step::settle`] begins it as soon as the phase allows it, so
//!   any number of requests in between are one swap.
//! - Whatever goes wrong with a start becomes an [`End`] of that generation; there is no second failure path.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::note::{Note, ReadyBy};
use super::report::{LastSwap, Reply};
use super::restart::{Failure, Ledger};
use super::waiting::Waiting;
use super::{
    Action, ClientId, Command, End, Exit, GenerationId, Reread, Setting, SlotId, Steering, Time, Traffic,
    limits,
};
use crate::config::{KillMode, Policy, Signal, Span};

/// All state there is; the same bytes are the saved state of the core.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Service {
    /// What counts now; a generation has its own.
    pub(super) policy: Policy,
    pub(super) setting: Setting,
    /// What the files say now, until the swap that read them is decided.
    pub(super) staged: Option<Reread>,
    pub(super) phase: Phase,
    /// Who has the traffic; which slots are guarded, and on which of these something waits for a generation that could
    /// take it.
    pub(super) steering: Steering,
    pub(super) guarded: BTreeSet<SlotId>,
    pub(super) stranded: BTreeSet<SlotId>,
    /// When a rescue is tried again that could not be begun.
    pub(super) rescue_due: Option<Time>,
    /// Where processes may be left that were left alone, as KillMode=process and SendSIGKILL=no ask.
    pub(super) haunted: BTreeSet<SlotId>,
    /// In the order of their numbers, until nothing of them is left.
    pub(super) generations: Vec<Generation>,
    pub(super) last_id: u64,
    pub(super) ledger: Ledger,
    /// Nobody is looked at before then, after what the last looks cost.
    pub(super) rests_until: Time,
    /// The generation that is or was current last has sent READY=1: of the next, only that counts (Ready=auto).
    pub(super) server_notifies: bool,
    /// One that runs was told once how to take the sockets.
    pub(super) hint_told: bool,
    /// Sockets on which the server was ever seen to wait: it knows of them.
    pub(super) waited_on: BTreeSet<String>,
    /// Some generation was seen to wait on a socket or to accept a connection.
    pub(super) has_served: bool,
    /// The start that somebody waits for, or that a swap made.
    pub(super) attempt: Option<Attempt>,
    pub(super) clients: Clients,
    pub(super) last_swap: Option<LastSwap>,
    pub(super) manager_told: bool,
    pub(super) dropped_signal_told: bool,
    /// What the server last ended with, as an exit status.
    pub(super) last_status: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// `hold_until`: too many connections started a server that ended again; they wait until then.
    Listening {
        hold_until: Option<Time>,
    },
    Up {
        current: GenerationId,
    },
    Swapping {
        old: GenerationId,
        new: GenerationId,
    },
    Replacing {
        current: GenerationId,
        then: Then,
    },
    Waiting {
        until: Time,
    },
    Paused,
    Failed,
    Stopping {
        stop: Stop,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Then {
    Start,
    Pause,
}

/// The end of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stop {
    /// What we end with.
    pub(super) status: u8,
    pub(super) since: Time,
    /// The last SIGKILL comes at the latest now.
    pub(super) deadline: Time,
    /// Once no generation is left: what else is left.
    pub(super) sweep: Option<Sweep>,
    /// [`super::Action::Exit`] was given; nothing follows it.
    pub(super) is_over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sweep {
    pub(super) killed: bool,
    pub(super) due: Time,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Generation {
    pub(super) id: GenerationId,
    pub(super) policy: Policy,
    /// Where it accepts, where the sockets have slots.
    pub(super) slot: SlotId,
    /// When its main process was first ordered (before that: the generation), and when last (a busy file is tried
    /// again). Ages count from the latter.
    pub(super) spawned: Time,
    pub(super) ordered: Time,
    /// The main process. None before and after it, and where nobody knows which one it is.
    pub(super) pid: Option<u32>,
    /// Its start was ordered and is not answered yet.
    pub(super) is_ordered: bool,
    /// Which command of ExecStart= it is (Type=oneshot may have several).
    pub(super) index: usize,
    /// When its execve(2) had succeeded: what it must live for counts from here.
    pub(super) started: Option<Time>,
    /// Something of it ran, so that something may be left.
    pub(super) has_run: bool,
    /// The command that runs beside the main process, before it or after it.
    pub(super) command: Option<Running>,
    /// The start is done as Type= means it, and ExecStartPost= was begun.
    pub(super) is_up: bool,
    /// ExecStartPost= is done as well.
    pub(super) active: Option<Time>,
    /// What Ready= waits for has come.
    pub(super) gate: Option<ReadyBy>,
    /// Both.
    pub(super) ready: Option<Time>,
    /// It has sent READY=1.
    pub(super) notifies: bool,
    /// Ready=http: asks for it.
    pub(super) probe: Option<Probing>,
    /// Who waits on its sockets; None: it has none.
    pub(super) waiting: Option<Waiting>,
    /// Of a candidate: it has all of the traffic, which a canary puts off.
    pub(super) switched: Option<Time>,
    /// Likewise: when it is counted; [`Time::NEVER`] until that is answered.
    pub(super) trial: Option<Time>,
    /// Of an old one: it finishes what it has. Its connections are counted until its end, and what that cut off.
    pub(super) drain: Option<Drain>,
    /// Since when another has its place for good.
    pub(super) replaced: Option<Time>,
    /// It can accept nothing on a socket any more, which matters where it gets the traffic back.
    pub(super) lost: Option<String>,
    pub(super) counting: Option<Counting>,
    pub(super) cut: u32,
    pub(super) end: Option<End>,
    pub(super) failure: Option<Failure>,
    pub(super) ending: Option<Ending>,
    /// ExecStop= was begun, ExecStopPost= was begun: each runs once.
    pub(super) stop_begun: bool,
    pub(super) stop_post_begun: bool,
    /// The main process ended, but it does not count (ExitType=cgroup, Type=forking).
    pub(super) last_exit: Option<Exit>,
    /// Since when the main process is looked for (Type=forking).
    pub(super) sought: Option<Time>,
    pub(super) reload: Option<Reload>,
    /// The period of the watchdog (WatchdogSec=, WATCHDOG_USEC=), and when WATCHDOG=1 is overdue.
    pub(super) watchdog_period: Span,
    pub(super) watchdog: Option<Time>,
    /// EXTEND_TIMEOUT_USEC=: no timeout before then.
    pub(super) extended: Option<Time>,
    /// When a busy file is executed again, or the PIDFile= looked for.
    pub(super) retry: Option<Time>,
    /// STATUS= and ERRNO=
    pub(super) status: Option<String>,
    pub(super) errno: Option<i32>,
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
    /// RELOADING=1 came; READY=1 ends it then.
    pub(super) was_said: bool,
    /// It said so as it started: no news.
    pub(super) is_start: bool,
    pub(super) clients: Vec<ClientId>,
}

/// From the switch until it is told to stop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Drain {
    pub(super) since: Time,
    /// When Drain= is over.
    pub(super) due: Time,
    /// Nothing was left when it was looked at last; a dump is not one moment, so two of them have to agree.
    pub(super) was_over: bool,
    /// The queue as it was when it last got shorter, and since when it has not.
    pub(super) queued: u32,
    pub(super) stuck_since: Time,
    /// When it was told last what is left, and what that was.
    pub(super) told: (Time, Traffic),
    /// Whoever waits for the end of the swap, and what they will hear. None: the next one is yet to come.
    pub(super) swap: Option<(Vec<ClientId>, LastSwap)>,
}

impl Drain {
    /// At the latest.
    pub(super) fn end(&self) -> Time {
        self.due.after(limits::LAST_MOMENT)
    }
}

/// The kernel is asked for the connections of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Counting {
    pub(super) next: Time,
    pub(super) gap: Span,
    /// None: the kernel did not say.
    pub(super) seen: Option<Traffic>,
    /// What was seen last before it was told to stop.
    pub(super) told_with: Option<Traffic>,
}

/// Ready=http: it is asked again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Probing {
    /// When it is asked next; while it is being asked, when that has taken too long.
    pub(super) due: Time,
    pub(super) is_asking: bool,
    pub(super) asked: Time,
    /// What was wrong with the last answer.
    pub(super) last: Option<String>,
}

/// Told to stop: first by ExecStop=, then with `signal`. `due` is the SIGKILL ([`Time::NEVER`] as long as ExecStop= runs),
/// after it (`killed`) the moment at which we stop waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ending {
    /// False: its main process ended by itself, and the rest is being ended.
    pub(super) was_told: bool,
    pub(super) since: Time,
    pub(super) signal: Signal,
    pub(super) patience: Span,
    pub(super) due: Time,
    pub(super) killed: bool,
}

impl Ending {
    /// Of a generation that was not told: what is left of it is being ended.
    pub(super) const fn new(since: Time, signal: Signal, patience: Span, due: Time) -> Self {
        Self { was_told: false, since, signal, patience, due, killed: false }
    }
}

/// A start whose outcome is reported: a swap (also of nothing: HUP while waiting), restart or resume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Attempt {
    /// None while the one before is still being stopped.
    pub(super) generation: Option<GenerationId>,
    pub(super) from: Option<GenerationId>,
    pub(super) is_swap: bool,
    pub(super) clients: Vec<ClientId>,
}

/// Who waits for what, besides the clients of the present [`Attempt`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Clients {
    /// Some: one more swap is wanted; these wait for it.
    pub(super) next_swap: Option<Vec<ClientId>>,
    /// Some: for the swap that begins, the files are being read.
    pub(super) rereading: Option<Vec<ClientId>>,
    /// That swap was taken back meanwhile: what is read does not count.
    pub(super) reread_is_void: bool,
    /// It was told that the swap waits for a generation to end.
    pub(super) held_told: bool,
    pub(super) pause: Vec<ClientId>,
    pub(super) stop: Vec<ClientId>,
    pub(super) status: Vec<(ClientId, Time)>,
}

impl Service {
    pub(super) fn new(policy: Policy, setting: Setting) -> Self {
        Self {
            policy,
            setting,
            staged: None,
            phase: Phase::Paused,
            steering: Steering::all_to(SlotId(0)),
            guarded: BTreeSet::new(),
            stranded: BTreeSet::new(),
            rescue_due: None,
            haunted: BTreeSet::new(),
            generations: Vec::new(),
            last_id: 0,
            ledger: Ledger::default(),
            rests_until: Time(0),
            server_notifies: false,
            hint_told: false,
            waited_on: BTreeSet::new(),
            has_served: false,
            attempt: None,
            clients: Clients::default(),
            last_swap: None,
            manager_told: false,
            dropped_signal_told: false,
            last_status: 0,
        }
    }

    pub(super) fn get(&self, id: GenerationId) -> Option<&Generation> {
        self.generations.iter().find(|generation| generation.id == id)
    }

    pub(super) fn get_mut(&mut self, id: GenerationId) -> Option<&mut Generation> {
        self.generations.iter_mut().find(|generation| generation.id == id)
    }

    /// The generation that has the traffic, or will have it.
    pub(super) fn current(&self) -> Option<GenerationId> {
        match self.phase {
            Phase::Up { current } | Phase::Replacing { current, .. } => Some(current),
            Phase::Swapping { old, .. } => Some(old),
            Phase::Listening { .. }
            | Phase::Waiting { .. }
            | Phase::Paused
            | Phase::Failed
            | Phase::Stopping { .. } => None,
        }
    }

    /// A ready generation serves, or the next connection brings one that may.
    pub(super) fn serves(&self) -> bool {
        let is_ready =
            |id| self.get(id).is_some_and(|generation| generation.ready.is_some() && generation.lives());
        match self.phase {
            Phase::Listening { .. } => !self.ends_too_early(),
            Phase::Up { current } => is_ready(current),
            Phase::Swapping { old, new } => is_ready(old) || is_ready(new),
            Phase::Replacing { .. }
            | Phase::Waiting { .. }
            | Phase::Paused
            | Phase::Failed
            | Phase::Stopping { .. } => false,
        }
    }
}

impl Generation {
    pub(super) fn new(id: GenerationId, policy: Policy, slot: SlotId, now: Time) -> Self {
        Self {
            id,
            watchdog_period: policy.watchdog,
            policy,
            slot,
            spawned: now,
            ordered: now,
            pid: None,
            is_ordered: false,
            index: 0,
            started: None,
            has_run: false,
            command: None,
            is_up: false,
            active: None,
            gate: None,
            ready: None,
            notifies: false,
            probe: None,
            waiting: None,
            switched: None,
            trial: None,
            drain: None,
            replaced: None,
            lost: None,
            counting: None,
            cut: 0,
            end: None,
            failure: None,
            ending: None,
            stop_begun: false,
            stop_post_begun: false,
            last_exit: None,
            sought: None,
            reload: None,
            watchdog: None,
            extended: None,
            retry: None,
            status: None,
            errno: None,
        }
    }

    /// Neither ended nor told to.
    pub(super) fn lives(&self) -> bool {
        self.end.is_none() && self.ending.is_none()
    }

    /// What it leaves behind is left alone.
    pub(super) fn leaves_all(&self) -> bool {
        self.policy.kill_mode == KillMode::Process || !self.policy.send_sigkill
    }

    /// Its main process is there, or one of the others if nobody knows which it is.
    pub(super) fn runs(&self) -> bool {
        self.started.is_some() && self.end.is_none()
    }
}

/// One step of the machine: the state, the time, and where the orders go.
pub(super) struct Step<'a> {
    pub(super) service: &'a mut Service,
    pub(super) now: Time,
    pub(super) out: &'a mut Vec<Action>,
}

impl Step<'_> {
    pub(super) fn tell(&mut self, note: Note) {
        self.out.push(Action::Tell(note));
    }

    pub(super) fn reply(&mut self, client: ClientId, reply: Reply) {
        self.out.push(Action::Reply { client, reply });
    }
}
