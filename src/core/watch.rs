//! The state machine that observes generations: which questions the kernel is asked about them, when, and what its
//! answers mean.
//!
//! The service (service.rs) decides who has the traffic, who is started and who is stopped. For that it has to know things
//! that nobody says: whether a generation is ready, what an old one still has to do, whether a candidate is stopped by a
//! signal. They are found out by questions that are asked again and again until an answer suffices. All of that is here;
//! the service hands on findings and hears conclusions, and does not know when the next question is due. (It asks for the
//! overflows of queues itself, which concern no generation.)
//!
//! ```text
//!   service.rs ── made, started, READY=1, drains, leaves, ended ──▶ watch ── Question ──▶ shell
//!              ◀── Ready, Stopped, Drains, Stuck, Drained ─────────       ◀── Finding ───
//! ```
//!
//! - *Is it ready?* gate.rs has what opens the gate of each Ready=. Of `auto` and Type=notify it is decided by who waits on
//!   the sockets (waiting.rs asks, sight.rs has what was seen), of `http:` by an answer (health.rs).
//! - *What does it still have? Is it stopped?* counts.rs counts connections (traffic.rs): of an old generation until nothing
//!   is left, of a candidate once, just before it is taken.
//!
//! [`Observed`] is what is known of one generation. It is told what it has to know of the rest of that generation's life, for
//! instance that it leaves; which place a generation has in a swap is not kept here but handed in with each step
//! ([`Scene`]). What the service wants to know at once it reads from a [`View`]; to all that changes something it goes by
//! a [`Watching`]. Nothing is armed: when the next question is due is read off the state ([`View::deadlines`]).
//!
//! Two things are left to the service on purpose. `Progress::Ready` (generation.rs) says that a generation has passed its
//! gate *and* has run ExecStartPost=, which is no question to the kernel. And when the canary and the bake are over is part
//! of the phase, because that alone moves the traffic; only the last look before it is here.

mod counts;
mod gate;
mod health;
mod sight;
mod traffic;
mod waiting;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::note::ReadyBy;
use super::why::Why;
use super::{Action, GenerationId, SlotId, Time, limits};
use crate::config::{Policy, Ready, Span};
pub(super) use counts::EndedBy;
use counts::{Counting, LastLook};
use health::Probing;
use sight::Waiting;
pub use sight::{HintAt, Looked, MayConnect, Sight};
pub use traffic::{Counted, Traffic};

/// What the shell is to find out, or to tell of what the kernel shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Question {
    /// Count the connections of a generation; one that was quiet for `quiet` is idle. Answered by [`Finding::Counted`].
    Count {
        generation: GenerationId,
        slot: SlotId,
        quiet: Span,
    },
    /// Send the request of Ready=http: to this generation alone. Answered by [`Finding::Probed`], unless `EndProbe` comes
    /// first.
    Probe {
        generation: GenerationId,
        slot: SlotId,
    },
    EndProbe {
        generation: GenerationId,
    },
    /// See which of its sockets the processes of this generation wait on, and where they have accepted connections; as `ask`
    /// says, have one of our own accepted. Answered by [`Finding::Looked`]; what is begun is ended by `EndProbe`.
    Look {
        generation: GenerationId,
        slot: SlotId,
        ask: MayConnect,
    },
    /// Log how this command would take these sockets (none: all). Not answered.
    Hint {
        generation: GenerationId,
        sockets: BTreeSet<String>,
        at: HintAt,
    },
    /// Log how many connections found a full queue since the last [`Action::Reread`]. Not answered.
    Overflows,
}

/// The answer to a [`Question`].
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    Counted(Counted),
    /// `Ok` if the server answered the GET with 2xx or 3xx, else what was wrong.
    Probed(Result<(), String>),
    Looked(Looked),
}

/// What the questions have shown, as the service hears it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Conclusion {
    /// What Ready= waits for has come.
    Ready(GenerationId),
    /// A signal has stopped all of a candidate that is about to be taken.
    Stopped(GenerationId),
    /// What one that finishes still has, once in a while.
    Drains(GenerationId, Traffic),
    /// It takes nothing out of its queue any more, where so many wait.
    Stuck(GenerationId, u32),
    /// It has finished, or has had its time.
    Drained(GenerationId),
    /// The service orders this question after it has acted on the conclusions before it.
    Ask(Question),
}

/// Which generations have a place in what happens, as the phase of the service says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Scene {
    /// It has the traffic, or will have it.
    pub(super) current: Option<GenerationId>,
    /// It is to replace the current one in a swap.
    pub(super) candidate: Option<GenerationId>,
    /// The current one stays: there is no swap, and it is not to be gone before the next one starts.
    pub(super) stays: bool,
}

impl Scene {
    fn is_alone(self, id: GenerationId) -> bool {
        self.stays && self.current == Some(id)
    }
}

/// What is known of all generations together, and of each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Watch {
    observed: Vec<Observed>,
    /// Nobody is looked at before then, after what the last looks cost.
    rests_until: Time,
    /// The generation that is or was current last has sent READY=1: of the next, only that counts (Ready=auto).
    server_notifies: bool,
    /// The user got a hint for a running server already; there is one at most.
    hint_told: bool,
    /// Sockets on which the server was ever seen to wait: it knows of them.
    waited_on: BTreeSet<String>,
    /// A generation of this supervise was seen to wait on a socket or to accept a connection.
    has_served: bool,
}

/// What is known of one generation, until nothing of it is left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Observed {
    id: GenerationId,
    slot: SlotId,
    /// What its gate waits for, and for how long an idle connection of it has been quiet.
    ready: Ready,
    quiet: Span,
    /// When its main process was first ordered; before that, when the generation was made.
    spawned: Time,
    said_ready: bool,
    /// It was told to stop, stops by itself or has ended.
    leaves: bool,
    /// What has opened its gate: that is what Ready= waits for. Until then `probe`: with Ready=http: it is asked for it.
    passed_by: Option<ReadyBy>,
    probe: Option<Probing>,
    last_look: LastLook,
    /// What was seen of who waits on its sockets; `None` if it has no sockets.
    waiting: Option<Waiting>,
    /// Its connections, from the switch on, until what its end cuts off is known.
    counting: Option<Counting>,
}

/// The state of the machine, for methods that only read it.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) watch: &'a Watch,
    pub(super) scene: Scene,
}

/// One step of this machine: the state, who is who, the time, and where the orders go.
pub(super) struct Watching<'a> {
    pub(super) watch: &'a mut Watch,
    pub(super) scene: Scene,
    pub(super) now: Time,
    pub(super) out: &'a mut Vec<Action>,
}

impl Watch {
    fn get(&self, id: GenerationId) -> Option<&Observed> {
        self.observed.iter().find(|observed| observed.id == id)
    }

    fn get_mut(&mut self, id: GenerationId) -> Option<&mut Observed> {
        self.observed.iter_mut().find(|observed| observed.id == id)
    }
}

impl<'a> View<'a> {
    fn candidate(self) -> Option<&'a Observed> {
        self.watch.get(self.scene.candidate?)
    }

    /// The generation that a candidate is to replace.
    fn replaced(self) -> Option<&'a Observed> {
        self.scene.candidate.and(self.watch.get(self.scene.current?))
    }

    fn is_candidate(self, observed: &Observed) -> bool {
        self.scene.candidate == Some(observed.id)
    }

    /// When the next questions are due.
    pub(super) fn deadlines(self, due: &mut Vec<(Time, Why)>) {
        for observed in &self.watch.observed {
            let id = observed.id;
            due.extend(observed.probe.as_ref().map(|probe| (probe.due, Why::Probe(id))));
            due.extend(self.next_look(observed).map(|time| (time, Why::Look(id))));
            due.extend(self.next_count(observed).map(|time| (time, Why::Count(id))));
            due.extend(observed.drain_end().map(|time| (time, Why::DrainOver(id))));
            if let LastLook::Due(time) = observed.last_look
                && self.is_candidate(observed)
            {
                due.push((time, Why::Trial(id)));
            }
        }
    }
}

/// What the service tells the machine.
impl Watching<'_> {
    const fn view(&self) -> View<'_> {
        View { watch: self.watch, scene: self.scene }
    }

    fn ask(&mut self, question: Question) {
        self.out.push(Action::Ask(question));
    }

    pub(super) fn made(&mut self, id: GenerationId, slot: SlotId, policy: &Policy) {
        self.watch.observed.push(Observed {
            id,
            slot,
            ready: policy.ready,
            quiet: policy.drain_quiet,
            spawned: self.now,
            said_ready: false,
            leaves: false,
            passed_by: None,
            probe: None,
            last_look: LastLook::Done,
            waiting: None,
            counting: None,
        });
    }

    /// The start of its main process is ordered.
    pub(super) fn spawned(&mut self, id: GenerationId) {
        if let Some(observed) = self.watch.get_mut(id) {
            observed.spawned = self.now;
        }
    }

    /// Its main process runs: from now on it may answer, and wait on its sockets.
    pub(super) fn started(&mut self, id: GenerationId, has_sockets: bool) {
        let now = self.now;
        let Some(observed) = self.watch.get_mut(id) else { return };
        observed.begin_probing(now);
        if has_sockets {
            observed.waiting.get_or_insert_with(|| Waiting::new(now));
        }
    }

    /// READY=1
    pub(super) fn said_ready(&mut self, id: GenerationId) {
        let now = self.now;
        self.watch.server_notifies |= self.scene.current == Some(id);
        let Some(observed) = self.watch.get_mut(id) else { return };
        observed.said_ready = true;
        if let Some(waiting) = &mut observed.waiting {
            waiting.look_soon(now);
        }
    }

    /// The generation is ready and there is no other.
    pub(super) fn ready_alone(&mut self, id: GenerationId) {
        self.watch.server_notifies &= self.watch.passed_by(id) != Some(&ReadyBy::Alone);
    }

    /// It takes the place of the one that served: of one that was swapped for it, or has ended beside it.
    pub(super) fn took_over(&mut self, id: GenerationId, has_other_ended: bool) {
        let says = self.watch.get(id).is_some_and(|observed| observed.said_ready);
        self.watch.server_notifies = says || (has_other_ended && self.watch.server_notifies);
    }

    /// It is told to stop, stops by itself or has ended: nobody asks it any more.
    pub(super) fn leaves(&mut self, id: GenerationId) {
        self.end_asking(id);
        let Some(observed) = self.watch.get_mut(id) else { return };
        observed.leaves = true;
        if observed.probe.take().is_some_and(|probe| probe.is_asking) {
            self.ask(Question::EndProbe { generation: id });
        }
    }

    /// Forgets a generation of which no process is left.
    pub(super) fn forget(&mut self, id: GenerationId) {
        self.watch.observed.retain(|observed| observed.id != id);
    }

    /// The shell is a new one, which knows nothing of what was asked.
    pub(super) fn restored(&mut self) {
        for observed in &mut self.watch.observed {
            observed.probe.iter_mut().for_each(|probe| probe.ask_again(self.now));
            observed.waiting.iter_mut().for_each(Waiting::ask_again);
        }
    }

    /// Besides, supervise was killed: any answer may be lost, and what was due may have been missed.
    pub(super) fn recovered(&mut self) {
        self.restored();
        let now = self.now;
        self.watch.observed.iter_mut().for_each(|observed| observed.count_again(now));
    }

    pub(super) fn answered(&mut self, id: GenerationId, finding: Finding) -> Vec<Conclusion> {
        match finding {
            Finding::Counted(counted) => self.counted(id, counted).into_iter().collect(),
            Finding::Probed(result) => self.probed(id, result).into_iter().collect(),
            Finding::Looked(looked) => self.looked(id, looked),
        }
    }

    /// All looks together (who waits, which connections there are) take a tenth of our time at most. So all rest for
    /// what any of them cost; those that are due by then are made in one turn, which takes one dump of the kernel's tables.
    fn rest_after(&mut self, cost: Span) {
        let rest = Span::from_nanos(cost.as_nanos().saturating_mul(limits::LOOK_COST));
        self.watch.rests_until = self.watch.rests_until.max(self.now).after(rest);
    }
}
