//! The rules every history must keep, looked at after every step; each is a function named for what it promises.
//!
//! They see what the shell sees (events, actions, `status`, the next wake-up) and nothing inside the core.

mod rules;
mod slots;
mod waiting;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::Hash;

use socket_supervise::config::{Policy, Signal, Span};
use socket_supervise::core::report::{Outcome, Reply, Role, State, Status};
use socket_supervise::core::{
    Action, ClientId, Event, Exit, GenerationId, Note, Request, Sender, Setting, Stage, StartFailure,
    Terminal, limits,
};

use crate::history::Mood;
use crate::kernel::{MS, SECOND, Step};
use slots::Slots;

/// What is known of one generation from outside.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// A `Spawn` that was not answered yet.
    pending: bool,
    text_busy: bool,
    /// The last `Spawn`: its age counts from there.
    ordered: u64,
    /// When its start was ordered, then when it had started; the time that we slept does not count.
    waits_since: Option<u64>,
    /// It cannot be late before then, because we were killed.
    spared: u64,
    started: Option<u64>,
    ready_said: bool,
    stopping_said: bool,
    ready: Option<u64>,
    /// Its socket, for good.
    lost: bool,
    /// WATCHDOG=1, or the moment it became ready.
    pinged: u64,
    /// WATCHDOG=trigger, which needs no WatchdogSec= (sd_notify(3)).
    triggered: bool,
    ended: bool,
    cleared: bool,
    forgotten: bool,
    /// Our first signal that asks it to end.
    told: Option<u64>,
    killed: Option<u64>,
}

/// A client that was not answered yet.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// The newest generation at the time of the request.
    newest: u64,
    /// It waits for a server to serve, for as long as that takes.
    patient: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Check {
    /// What the user of a seeded history is up to; None: there is none, or no longer.
    pub(crate) mood: Option<Mood>,
    policy: Policy,
    setting: Setting,
    seen: BTreeMap<GenerationId, Seen>,
    last: u64,
    clients: BTreeMap<ClientId, Waiting>,
    before: Option<Status>,
    /// Since the present candidate was started, somebody asked for something that stops the current generation.
    disturbed: bool,
    /// Somebody asked for a start that did not come yet.
    asked: bool,
    stop_by: Option<u64>,
    stops_asked: u32,
    stop_asked: Option<u64>,
    /// It began to end before anybody asked for it: its server's end is its own.
    ends_itself: bool,
    ends: BTreeSet<u8>,
    /// When the last current generation was over, left-overs included: RestartSec= counts from then.
    last_end: u64,
    swept: Option<u64>,
    /// All that is left was told to end at once.
    is_forced: bool,
    automatic: VecDeque<u64>,
    triggered: VecDeque<u64>,
    /// An instant, the ticks and the starts in it.
    instant: (u64, u32, u32),
    exited: bool,
    /// In this step connections were asked for: one that came before starts a server at once.
    listens: bool,
    slots: Slots,
    /// In this step a swap was decided for it.
    taken: Option<GenerationId>,
    /// When the core was restored last; who waited before is not known any more.
    restored: u64,
    waiting: waiting::Waiting,
    /// How often the situations came up that the histories are for.
    pub(crate) marks: BTreeMap<&'static str, u32>,
}

impl Check {
    /// A wake-up comes at most this much later than asked for.
    pub(crate) const LATE: u64 = 500 * MS;
    /// One look at the connections of a generation takes less than this.
    pub(crate) const COST: u64 = 4 * MS;

    pub(crate) fn new(policy: Policy, setting: Setting) -> Self {
        Self {
            mood: None,
            policy,
            setting,
            seen: BTreeMap::new(),
            last: 0,
            clients: BTreeMap::new(),
            before: None,
            disturbed: false,
            asked: false,
            stop_by: None,
            stops_asked: 0,
            stop_asked: None,
            ends_itself: false,
            ends: BTreeSet::new(),
            last_end: 0,
            swept: None,
            is_forced: false,
            automatic: VecDeque::new(),
            triggered: VecDeque::new(),
            instant: (0, 0, 0),
            exited: false,
            listens: false,
            slots: Slots::new(),
            taken: None,
            restored: 0,
            waiting: waiting::Waiting::default(),
            marks: BTreeMap::new(),
        }
    }

    pub(crate) fn step(&mut self, now: u64, &Step { event, actions, status, wake }: &Step) {
        assert!(!self.exited, "a step after Exit");
        self.listens = false;
        self.note_event(now, event);
        self.note_slot_event(now, event);
        self.note_waiting_event(event);
        self.no_spin(now, event, actions, wake);
        for action in actions {
            assert!(!self.exited, "Exit is not the last action");
            self.note_slot_action(now, action);
            self.note_waiting_action(now, action);
            self.note_action(now, event, action, status);
        }
        self.one_current_one_candidate(status);
        self.note_ready(now, status);
        self.keep_slot_rules(now, event, actions, status);
        self.failed_swap_changes_nothing(status);
        self.swapped_means_seen(status);
        self.ends_itself |= status.state == State::Stopping && self.stops_asked == 0 && !pausing(status);
        self.signals_are_passed_on_once(event, actions);
        self.hung_ones_are_killed(now);
        self.late_starts_fail(now, status);
        self.stop_terminates(now);
        self.note_marks(event, actions, status);
        let candidate = role(status, Role::Candidate);
        if candidate.is_some()
            && candidate != self.before.as_ref().and_then(|status| role(status, Role::Candidate))
        {
            self.disturbed = false;
        }
        self.before = Some(status.clone());
    }

    pub(crate) fn was_told_to_stop(&self, id: GenerationId) -> bool {
        self.seen.get(&id).is_some_and(|seen| seen.told.is_some() || seen.killed.is_some())
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.clients.values().all(|waiting| waiting.patient)
    }

    /// What else the rules depend on, besides the state of the core.
    pub(crate) fn fingerprint(&self) -> impl Hash + use<> {
        (self.disturbed, self.asked, self.stops_asked, self.ends_itself, self.slots_fingerprint())
    }

    /// We were stopped for this long and could keep no deadline.
    pub(crate) fn slept(&mut self, span: u64) {
        let later = |time: &mut Option<u64>| *time = time.map(|time| time.saturating_add(span));
        later(&mut self.stop_by);
        self.slots_slept(span);
        for seen in self.seen.values_mut() {
            later(&mut seen.waits_since);
            seen.spared = seen.spared.saturating_add(span);
            later(&mut seen.told);
            later(&mut seen.killed);
        }
    }

    /// What was read and lost is nobody's fault.
    pub(crate) fn lost(&mut self, now: u64, event: &Event) {
        if let Event::Notified { generation, message } = event
            && message.watchdog
            && let Some(seen) = self.seen.get_mut(generation)
        {
            seen.pinged = now;
        }
    }

    // Events and orders are recorded, which the rules compare later ones with.

    fn note_event(&mut self, now: u64, event: &Event) {
        match event {
            Event::Started { generation, .. } => {
                let seen = self.seen.entry(*generation).or_default();
                (seen.pending, seen.started, seen.waits_since) = (false, Some(now), Some(now));
            }
            Event::StartFailed { generation, failure } => {
                let seen = self.seen.entry(*generation).or_default();
                seen.pending = false;
                seen.text_busy = failure.errno == ETXTBSY;
                seen.ended = !seen.text_busy;
                self.ends.insert(failed_status(failure));
            }
            Event::Exited { generation, exit } => {
                self.seen.entry(*generation).or_default().ended = true;
                self.ends.insert(exit_status(*exit));
            }
            Event::Cleared { generation } => self.seen.entry(*generation).or_default().cleared = true,
            Event::Notified { generation, message } => {
                if let Some(seen) = self.seen.get_mut(generation) {
                    seen.ready_said |= message.ready;
                    if message.watchdog {
                        seen.pinged = now;
                    }
                    seen.triggered |= message.watchdog_trigger;
                    seen.stopping_said |= message.stopping;
                }
            }
            Event::Signalled { signal, sender, terminal } => {
                self.note_signal(now, *signal, *sender, *terminal)
            }
            Event::Requested { client, request } => {
                let patient = matches!(request, Request::Status { wait_ns: Some(_) });
                self.clients.insert(*client, Waiting { newest: self.last, patient });
                match request {
                    Request::Stop => self.note_stop(now, true),
                    Request::Restart => (self.disturbed, self.asked) = (true, true),
                    Request::Pause | Request::Abort => self.disturbed = true,
                    Request::Swap { .. } | Request::Resume => self.asked = true,
                    Request::Kill { .. } | Request::Status { .. } | Request::Reload | Request::Reexec => {}
                }
            }
            Event::ClientGone { client } => {
                self.clients.remove(client);
            }
            Event::Recovered => {
                let spared = now + limits::UNWATCHED.as_nanos();
                self.seen.values_mut().for_each(|seen| seen.spared = spared);
            }
            Event::Begun
            | Event::Restored
            | Event::Connected
            | Event::Childless
            | Event::Tick
            | Event::CommandEnded { .. }
            | Event::MainChanged { .. }
            | Event::MainSought { .. }
            | Event::Arrived { .. }
            | Event::SteerFailed { .. }
            | Event::RescueFailed { .. }
            | Event::SocketLost { .. }
            | Event::Answered { .. }
            | Event::Reread { .. } => {}
        }
    }

    fn note_signal(&mut self, now: u64, signal: Signal, sender: Sender, terminal: Terminal) {
        let is_hang_up = terminal == Terminal::Gone && sender != Sender::Process;
        match signal {
            Signal::TERM | Signal::INT => self.note_stop(now, true),
            Signal::QUIT => self.note_stop(now, true),
            Signal::HUP if is_hang_up && !self.setting.hup_ignored => self.note_stop(now, false),
            Signal::HUP if is_hang_up => {}
            Signal::HUP => self.asked = true,
            _ => {}
        }
    }

    fn note_stop(&mut self, now: u64, by_signal: bool) {
        self.disturbed = true;
        let after_kill = limits::AFTER_KILL.as_nanos();
        let slack = 2 * after_kill + 4 * Self::LATE;
        let first = *self.stop_asked.get_or_insert(now);
        let again = by_signal && self.stops_asked > 0 && now >= first + limits::SAME_STOP.as_nanos();
        // At the end of PID 1 what the main process leaves behind is asked as well, and has as long.
        let rounds = if self.setting.init { 2 } else { 1 };
        let patience = self.policy.timeout_stop.as_nanos().saturating_mul(rounds);
        let patience = if again { 0 } else { patience };
        let by = now.saturating_add(patience).saturating_add(slack);
        self.stop_by = Some(self.stop_by.map_or(by, |earlier| earlier.min(by)));
        self.stops_asked += 1;
    }

    fn note_action(&mut self, now: u64, event: &Event, action: &Action, status: &Status) {
        match action {
            Action::Spawn { generation, .. } if *event == Event::Recovered => {
                assert!(self.seen[generation].pending, "generation {} is started twice", generation.0);
            }
            Action::Spawn { generation, .. } => self.generation_numbers_grow(now, event, *generation),
            Action::Kill { generation, signal, scope } => {
                self.no_signal_after_reap(*generation, *scope);
                if *signal != Signal::CONT && !is_passed_on(event) {
                    self.traffic_goes_before_the_signal(event, *generation, *signal, status);
                    self.old_untouched_until_drained(now, *generation, *signal, status);
                    self.old_untouched_until_new_ready(now, *generation, *signal, status);
                    self.watchdog_kills_only_the_silent(now, *generation, *signal);
                    let seen = self.seen.entry(*generation).or_default();
                    seen.told.get_or_insert(now);
                    if *signal == Signal::KILL {
                        seen.killed.get_or_insert(now);
                    }
                }
                // By a verb while supervise stops, which hastens that.
                if *signal == Signal::KILL && self.is_forced {
                    self.seen.entry(*generation).or_default().killed.get_or_insert(now);
                }
            }
            Action::Tell(Note::StopForced) => self.is_forced = true,
            Action::Forget { generation } => {
                let seen = self.seen.get_mut(generation).expect("Forget of a generation that never was");
                assert!(!seen.forgotten, "generation {} is forgotten twice", generation.0);
                assert!(
                    !seen.pending,
                    "generation {} is forgotten before its start was answered",
                    generation.0
                );
                seen.forgotten = true;
                if seen.killed.is_some() && !seen.ended {
                    self.ends.insert(exit_status(Exit::Signal { signal: Signal::KILL, core: false }));
                }
                if self.before.as_ref().is_some_and(|status| status.generation == Some(generation.0)) {
                    self.last_end = now;
                }
            }
            Action::Reply { client, reply } => self.one_reply_per_request(*client, reply),
            // The next shell answers.
            Action::Reexec { client } => self.one_reply_per_request(*client, &Reply::done("")),
            Action::Sweep { signal } => {
                if *signal == Signal::KILL {
                    self.swept.get_or_insert(now);
                }
            }
            Action::Exit(code) => {
                self.listener_stays_open(*code);
                self.exited = true;
            }
            // For a swap that was asked for; with stop-first its start is still to come.
            Action::Reread => self.asked = true,
            Action::Suspend => assert!(!self.setting.init, "PID 1 stops itself"),
            Action::WakeOnConnection { on } => self.listens |= on,
            Action::Run { .. } | Action::FindMain { .. } => unreachable!("no commands in these histories"),
            Action::Tell(_)
            | Action::TellManager(_)
            | Action::AwaitClear { .. }
            | Action::Steer(_)
            | Action::Guard { .. }
            | Action::Rescue { .. }
            | Action::Ask(_)
            | Action::Adopt
            | Action::Discard => {}
        }
    }

    fn note_ready(&mut self, now: u64, status: &Status) {
        for entry in &status.generations {
            let id = GenerationId(entry.generation);
            let Some(seen) = self.seen.get_mut(&id) else { continue };
            if entry.ready_ms.is_some() && seen.ready.is_none() {
                seen.ready = Some(now);
                seen.pinged = seen.pinged.max(now);
                self.ready_means_ready(now, id);
            }
        }
    }

    fn mark(&mut self, what: &'static str, hit: bool) {
        if hit {
            *self.marks.entry(what).or_default() += 1;
        }
    }

    fn note_marks(&mut self, event: &Event, actions: &[Action], status: &Status) {
        let Some(before) = self.before.clone() else { return };
        let new = before.last_swap != status.last_swap;
        let outcome =
            status.last_swap.as_ref().filter(|swap| new && swap.from.is_some()).map(|swap| swap.outcome);
        self.mark("swapped", outcome == Some(Outcome::Swapped));
        self.mark("rolled back", outcome == Some(Outcome::RolledBack));
        let entered = |state| before.state != state && status.state == state;
        self.mark("failed", entered(State::Failed));
        self.mark("waiting", entered(State::Waiting));
        self.mark("paused", entered(State::Paused));
        self.mark("listening", entered(State::Listening));
        self.mark("stopped in a swap", before.state == State::Swapping && status.state == State::Stopping);
        self.mark(
            "eight generations",
            entered(State::Swapping) && status.generations.len() == limits::GENERATIONS,
        );
        let old_died =
            matches!(event, Event::Exited { generation, .. } if before.generation == Some(generation.0));
        self.mark("old died in a swap", old_died && before.state == State::Swapping);
        self.mark("childless", matches!(event, Event::Childless));
        self.mark("second stop", self.stops_asked > 1 && matches!(event, Event::Signalled { .. }));
        for action in actions {
            self.mark("suspended", matches!(action, Action::Suspend));
            self.mark("watchdog", matches!(action, Action::Kill { signal: Signal::ABRT, .. }));
            self.mark("killed", matches!(action, Action::Kill { signal: Signal::KILL, .. }));
            if let Action::Forget { generation } = action {
                let gone = self.seen.get(generation).is_some_and(|seen| seen.ended);
                self.mark("left behind", !gone);
            }
        }
        if matches!(event, Event::Connected | Event::Arrived { .. }) {
            let started = actions.iter().any(|action| matches!(action, Action::Spawn { .. }));
            self.mark("started by a connection", started);
            self.mark("connection held back", !started && status.state == State::Listening);
        }
    }
}

/// `pause` shows as stopping as well, but then a current generation is there until it is gone.
fn pausing(status: &Status) -> bool {
    status.generation.is_some()
}

const ETXTBSY: i32 = 26;

fn role(status: &Status, role: Role) -> Option<u64> {
    status.generations.iter().find(|entry| entry.role == role).map(|entry| entry.generation)
}

/// Kills in answer to this are the sender's, not ours.
fn is_passed_on(event: &Event) -> bool {
    match event {
        Event::Requested { request: Request::Kill { .. }, .. } => true,
        Event::Signalled { signal, .. } => {
            !matches!(*signal, Signal::HUP | Signal::TERM | Signal::INT | Signal::QUIT)
        }
        _ => false,
    }
}

fn exit_status(exit: Exit) -> u8 {
    match exit {
        Exit::Code(code) => code,
        Exit::Signal { signal, .. } => 128 + signal.number() as u8,
        Exit::Unknown => 1,
    }
}

/// "Exit status" in docs/guide.md.
fn failed_status(failure: &StartFailure) -> u8 {
    match (failure.stage, failure.errno) {
        (Stage::Exec, 2) => 127,
        (Stage::Exec, _) => 126,
        (_, _) => 125,
    }
}

/// A bound on how long anything takes once all processes behave.
pub(crate) fn calm_within(policy: &Policy) -> u64 {
    let finite = |span: Span| if span.is_infinite() { 0 } else { span.as_nanos() };
    let canary = policy.canary.map_or(Span::ZERO, |canary| canary.span);
    let (start, stop) = (policy.timeout_start, policy.timeout_stop);
    let spans = [policy.delay.max, policy.delay.base, canary, policy.bake, policy.drain, start, stop];
    // Thrice: the start under way, one swap that was wanted since, and a restart between them.
    3 * spans.into_iter().map(finite).sum::<u64>() + 60 * SECOND
}
