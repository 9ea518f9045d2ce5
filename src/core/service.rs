//! The state machine of the one service: which generations there are, which one serves, what happens next.
//!
//! # Phases
//!
//! ```text
//!   Listening ──connection──▶ Up ◀──────── Waiting ◀──┐            Listening  no server; the next connection starts one
//!       ▲                     │ │ ▲                   │            Up         one generation has the traffic, ready or not
//!       └──clean exit, table──┘ │ └─rolled back─┐     │            Swapping   a candidate runs beside it: its trial is the
//!                     swap      ▼               │     │                       gate, then the canary, then the bake
//!   Paused ◀─pause── Replacing  Swapping ───────┘     │            Replacing  the current one was told to stop; what then?
//!      │                 │         │ ready and baked  │            Waiting    RestartSec=
//!      └──resume──▶ Up ◀─┘         ▼                  │            Paused     stopped by `pause`
//!                               Up ──exit, table──────┘            Failed     the start limit was hit
//!                                                                  Stopping   everything ends
//! ```
//!
//! Generations that a phase does not name are *draining*: they have lost the traffic (`Replaced`). First they finish
//! what they have, then they are told to stop and only waited for. Who has the traffic is read off the phase (slots.rs).
//!
//! # A generation
//!
//! ```text
//!   ExecCondition= ─▶ ExecStartPre= ─▶ main process ─▶ up (Type=) ─▶ ExecStartPost= ─▶ active ─┐
//!         │                │                │            └──────────── Ready= ──── gate ───────┴─▶ ready
//!         ▼                ▼                ▼
//!     ended: Skipped,   Untried         Exited ◀── kill signal ◀── ExecStop= ◀── told to stop
//!         └────────────────┴────────────────┴──▶ what is left is ended ─▶ `Cleared` ─▶ ExecStopPost= ─▶ finished
//! ```
//!
//! Its states are in generation.rs. What Ready= waits for, and what an old generation still has, is found out by the second
//! machine, watch.rs. One command of a list runs at a time; what follows from its end is in command.rs. The
//! end has two steps: `Exited` is the main process, `Cleared` is everything it left behind. What comes next is decided when
//! the generation is finished, as systemd's RestartSec= counts from the complete stop; a swap reacts at `Exited`.
//!
//! # Rules that hold everywhere
//!
//! - The old generation of a swap is not signalled before the new one is ready and the bake is over.
//! - A request for a swap is kept in `clients.next_swap`; [`Step::settle`] begins it as soon as the phase allows it, so
//!   any number of requests in between are one swap.
//! - Whatever goes wrong with a start becomes an [`End`] of that generation; there is no second failure path.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::generation::Generation;
use super::note::Note;
use super::report::{LastSwap, Reply};
use super::restart::Ledger;
use super::watch::{Scene, View, Watch, Watching};
use super::{Action, ClientId, GenerationId, Reread, Setting, SlotId, Steering, Time};
use crate::config::Policy;

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
    /// The generations in the order of their numbers. Each stays until none of its processes is left.
    pub(super) generations: Vec<Generation>,
    pub(super) last_id: u64,
    pub(super) ledger: Ledger,
    /// The state machine that observes the generations by questions to the kernel.
    pub(super) watch: Watch,
    /// The start that somebody waits for, or that a swap made.
    pub(super) attempt: Option<Attempt>,
    pub(super) clients: Clients,
    pub(super) last_swap: Option<LastSwap>,
    pub(super) manager_told: bool,
    /// We end when a generation does before one was ever ready (--detach).
    #[serde(default)]
    pub(super) ends_unless_ready: bool,
    pub(super) dropped_signal_told: bool,
    /// SIGTSTP has stopped us and all servers.
    pub(super) is_suspended: bool,
    /// What the server last ended with, as an exit status.
    pub(super) last_status: u8,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
        trial: Trial,
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

/// What a candidate has shown, and what it got for that.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Trial {
    /// It is not ready yet, so it has no traffic.
    Gate,
    /// It is ready, and has its share of the traffic until then.
    Canary { over: Time },
    /// It has all of the traffic; the old one can take it back until then. `lost`: why the old one can accept nothing any
    /// more, which matters if it gets the traffic back.
    Bake { over: Time, lost: Option<String> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Then {
    Start,
    Pause,
}

/// The end of supervise itself and of all generations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stop {
    /// The exit status of supervise.
    pub(super) status: u8,
    pub(super) since: Time,
    /// The last SIGKILL comes at the latest now.
    pub(super) deadline: Time,
    /// The search for processes that generations left behind; it begins when no generation is left.
    pub(super) sweep: Option<Sweep>,
    /// [`super::Action::Exit`] was given; nothing follows it.
    pub(super) is_over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sweep {
    pub(super) killed: bool,
    pub(super) due: Time,
}

/// A start whose outcome is reported: a swap (also of nothing: HUP while waiting), restart or resume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Attempt {
    /// `None` while the generation before it is still being stopped.
    pub(super) generation: Option<GenerationId>,
    pub(super) from: Option<GenerationId>,
    pub(super) is_swap: bool,
    pub(super) clients: Vec<ClientId>,
}

/// Who waits for what, besides the clients of the present [`Attempt`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Clients {
    /// If one more swap is wanted, the clients that wait for it.
    pub(super) next_swap: Option<Vec<ClientId>>,
    pub(super) rereading: Rereading,
    /// The log has said that the swap waits for a generation to end.
    pub(super) held_told: bool,
    pub(super) pause: Vec<ClientId>,
    pub(super) stop: Vec<ClientId>,
    pub(super) status: Vec<(ClientId, Time)>,
}

/// Whether the files are being read, and for whom.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) enum Rereading {
    #[default]
    No,
    /// For the swap that begins, which these wait for.
    For(Vec<ClientId>),
    /// That swap was taken back meanwhile: what is read does not count.
    Void,
}

impl Clients {
    /// What the files say is still to come.
    pub(super) fn is_rereading(&self) -> bool {
        self.rereading != Rereading::No
    }
}

impl Rereading {
    pub(super) const fn clients(&mut self) -> Option<&mut Vec<ClientId>> {
        match self {
            Self::For(clients) => Some(clients),
            Self::No | Self::Void => None,
        }
    }
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
            watch: Watch::default(),
            attempt: None,
            clients: Clients::default(),
            last_swap: None,
            manager_told: false,
            ends_unless_ready: false,
            dropped_signal_told: false,
            is_suspended: false,
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
    pub(super) const fn current(&self) -> Option<GenerationId> {
        self.scene().current
    }

    const fn scene(&self) -> Scene {
        let (current, candidate) = match self.phase {
            Phase::Up { current } | Phase::Replacing { current, .. } => (Some(current), None),
            Phase::Swapping { old, new, .. } => (Some(old), Some(new)),
            Phase::Listening { .. }
            | Phase::Waiting { .. }
            | Phase::Paused
            | Phase::Failed
            | Phase::Stopping { .. } => (None, None),
        };
        Scene { current, candidate, stays: matches!(self.phase, Phase::Up { .. }) }
    }

    /// The state machine that observes the generations by questions to the kernel.
    pub(super) const fn watched(&self) -> View<'_> {
        View { watch: &self.watch, scene: self.scene() }
    }

    pub(super) const fn is_candidate(&self, id: GenerationId) -> bool {
        matches!(self.phase, Phase::Swapping { new, .. } if new.0 == id.0)
    }

    /// Whether it is the current one and no swap is under way.
    pub(super) const fn is_alone(&self, id: GenerationId) -> bool {
        matches!(self.phase, Phase::Up { current } if current.0 == id.0)
    }

    /// A ready generation serves, or the next connection brings one that may.
    pub(super) fn serves(&self) -> bool {
        let is_ready =
            |id| self.get(id).is_some_and(|generation| generation.ready().is_some() && generation.lives());
        match self.phase {
            Phase::Listening { .. } => !self.ends_too_early(),
            Phase::Up { current } => is_ready(current),
            Phase::Swapping { old, new, .. } => is_ready(old) || is_ready(new),
            Phase::Replacing { .. }
            | Phase::Waiting { .. }
            | Phase::Paused
            | Phase::Failed
            | Phase::Stopping { .. } => false,
        }
    }
}

/// One step of the machine: the state, the time, and where the orders go.
pub(super) struct Step<'a> {
    pub(super) service: &'a mut Service,
    pub(super) now: Time,
    pub(super) out: &'a mut Vec<Action>,
}

impl Step<'_> {
    pub(super) const fn watch(&mut self) -> Watching<'_> {
        let scene = self.service.scene();
        Watching { watch: &mut self.service.watch, scene, now: self.now, out: self.out }
    }

    pub(super) fn tell(&mut self, note: Note) {
        self.out.push(Action::Tell(note));
    }

    pub(super) fn reply(&mut self, client: ClientId, reply: Reply) {
        self.out.push(Action::Reply { client, reply });
    }
}
