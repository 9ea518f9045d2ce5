//! The rules of units.rs, each a function named for what it promises. They see events, orders, `status` and the next
//! wake-up, and nothing inside the core; the order of commands is that of systemd.service(5).

mod orders;
mod slots;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;

use socket_supervise::config::{
    CommandList, ExitType, FailureMode, KillMode, Policy, Ready, Signal, Span, Type,
};
use socket_supervise::core::report::{Reply, Role, State, Status};
use socket_supervise::core::{
    Action, ClientId, Command, End, Event, Exit, Finding, Found, GenerationId, Note, Question, Request,
    Scope, Sight, SlotId, Traffic, limits,
};

use super::Units;
use super::scripts::EXTENSION;
use crate::kernel::{Group, Part, Rules, Step};

const SPARED: u64 = limits::UNWATCHED.as_nanos();

/// Steps at one instant, at most.
const STEPS: u32 = 150;

/// What has happened to one generation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    slot: Option<SlotId>,
    /// Type=forking: PIDFile= is never written.
    pub(super) never_found: bool,
    /// A question of Ready=http: is not answered, or a connection of ours not accepted.
    is_asked: bool,
    may_end: bool,
    is_knocked_at: bool,
    is_called_off: bool,
    /// How many commands of each list were begun, and which list has failed.
    done: BTreeMap<CommandList, usize>,
    broken: BTreeSet<CommandList>,
    /// The command that runs: of which list, since when, and whether we sent it a signal.
    last_list: Option<CommandList>,
    command_since: u64,
    command_signalled: bool,
    /// Some command took too long.
    is_overdue: bool,
    /// When its main process was started, the last of them with Type=oneshot.
    started: Option<u64>,
    starts: usize,
    /// An order to start it is not answered.
    is_ordered: bool,
    text_busy: bool,
    /// It could not be started, ended badly unasked, or took too long.
    failed: bool,
    ready_said: Option<u64>,
    found: bool,
    pub(super) ready: Option<u64>,
    extended: u64,
    /// It is not late before then: we were killed.
    spared: u64,
    reload_signalled: Option<u64>,
    /// The last that we heard or did of a reload.
    reload_begun: u64,
    stopping_said: bool,
    watchdog_said: bool,
    /// Its main process has ended well and RemainAfterExit= keeps it: systemd's state `exited`, without timers.
    remains: bool,
    /// We began to end it.
    pub(super) told: bool,
    killed: bool,
    pub(crate) forgotten: bool,
}

/// A client that was not answered yet.
#[derive(Clone, Debug)]
struct Asked {
    request: Request,
    at: u64,
    /// How often the files had been read.
    readings: u32,
}

pub(crate) struct UnitRules {
    before: Status,
    instant: (u64, u32),
    clients: BTreeMap<ClientId, Asked>,
    readings: u32,
    /// Since the present candidate was begun, somebody asked for something that stops the current generation.
    disturbed: bool,
    stop_by: Option<u64>,
    /// What was due before is dealt with at this time.
    unwatched_until: u64,
    pub(crate) marks: BTreeMap<&'static str, u32>,
}

impl Rules for UnitRules {
    type Seen = Seen;

    fn decided(units: &mut Units, step: &Step) {
        units.note_event(step.event);
        for action in step.actions {
            // It may be gone before the order to end it is obeyed, where we were killed between.
            if let Action::Tell(Note::CommandFailed { generation, what, .. }) = action {
                units.of(*generation).seen.is_overdue |= what.ends_with("took too long");
            }
        }
    }

    fn ordered(units: &mut Units, step: &Step, action: &Action) {
        assert!(units.ended.is_none(), "an order after Exit: {action:?}");
        units.rules_of(step.event, action, step.status);
        units.draw(action);
    }

    fn ordered_again(units: &mut Units, action: &Action) {
        if let Action::FindMain { .. } = action {
            units.draw(action);
        }
    }

    fn obeyed(units: &mut Units, step: &Step) {
        units.after_step(step);
    }

    fn slept(units: &mut Units, _span: u64) {
        units.rules.unwatched_until = units.now;
    }

    fn waits(units: &Units, tick: Option<u64>, happening: Option<u64>) {
        units.nothing_is_waited_for_in_vain(tick, happening);
    }

    fn moves_main(units: &mut Units, generation: GenerationId) {
        units.moves_main(generation);
    }
}

impl UnitRules {
    pub(crate) fn new(before: Status) -> Self {
        Self {
            before,
            instant: (0, 0),
            clients: BTreeMap::new(),
            readings: 0,
            disturbed: false,
            stop_by: None,
            unwatched_until: 0,
            marks: BTreeMap::new(),
        }
    }

    pub(crate) fn some_client(&self) -> Option<ClientId> {
        self.clients.keys().next().copied()
    }

    pub(super) fn mark(&mut self, what: &'static str, hit: bool) {
        if hit {
            *self.marks.entry(what).or_default() += 1;
        }
    }
}

pub(super) fn role(status: &Status, role: Role) -> Option<GenerationId> {
    status.generations.iter().find(|entry| entry.role == role).map(|entry| GenerationId(entry.generation))
}

/// Records events and orders, which the rules compare later ones with.
impl Units {
    fn note_event(&mut self, event: &Event) {
        let now = self.now;
        if self.rules.instant.0 != now {
            self.rules.instant = (now, 0);
        }
        self.rules.instant.1 += 1;
        assert!(self.rules.instant.1 < STEPS, "no_spin: {event:?}: {:?}", self.rules.before);
        match event {
            Event::Started { generation, .. } => {
                let seen = &mut self.of(*generation).seen;
                (seen.is_ordered, seen.started) = (false, Some(now));
                seen.starts += 1;
            }
            Event::StartFailed { generation, failure } => {
                let seen = &mut self.of(*generation).seen;
                (seen.is_ordered, seen.text_busy) = (false, failure.errno == 26);
                seen.failed |= !seen.text_busy;
            }
            Event::Exited { generation, exit } => self.note_exit(*generation, *exit),
            Event::CommandEnded { generation, end } => self.note_command_end(*generation, end),
            Event::MainSought { generation, found } => {
                self.of(*generation).seen.found |= matches!(found, Found::Main(_) | Found::Unknown);
                self.rules.mark("main found", matches!(found, Found::Main(_)));
                self.rules.mark("main unknown", *found == Found::Unknown);
                self.rules.mark("main not yet", *found == Found::NotYet);
                self.rules.mark("main nobody", *found == Found::Nobody);
            }
            Event::Notified { generation, message } => {
                let seen = &mut self.of(*generation).seen;
                if message.ready {
                    seen.ready_said = Some(now);
                }
                seen.stopping_said |= message.stopping;
                if message.reloading {
                    seen.reload_begun = now;
                }
                seen.watchdog_said |= message.watchdog_usec.is_some();
                if message.extend_timeout_usec.is_some() {
                    seen.extended = seen.extended.max(now + EXTENSION);
                }
            }
            Event::Signalled { signal, .. } => {
                self.note_asked_to_stop(matches!(*signal, Signal::TERM | Signal::INT))
            }
            Event::Requested { client, request } => {
                self.note_asked_to_stop(*request == Request::Stop);
                self.rules.disturbed |= matches!(request, Request::Restart | Request::Pause | Request::Abort);
                let asked = Asked { request: request.clone(), at: now, readings: self.rules.readings };
                self.rules.clients.insert(*client, asked);
            }
            Event::ClientGone { client } => drop(self.rules.clients.remove(client)),
            Event::Arrived { .. } => self.rules.mark("arrived", true),
            Event::SteerFailed { .. } => self.rules.mark("steering failed", true),
            Event::RescueFailed { .. } => self.rules.mark("rescue failed", true),
            Event::Answered { generation, finding } => self.note_answer(*generation, finding),
            Event::Recovered => self.note_next_life(),
            Event::Begun
            | Event::Restored
            | Event::MainChanged { .. }
            | Event::Cleared { .. }
            | Event::Reread { .. }
            | Event::Connected
            | Event::SocketLost { .. }
            | Event::Childless
            | Event::Tick => {}
        }
    }

    /// Nobody is asked any more, and no start is late for a while.
    fn note_next_life(&mut self) {
        for Group { seen, .. } in self.groups.values_mut() {
            (seen.is_asked, seen.is_knocked_at, seen.spared) = (false, false, self.now + SPARED);
        }
        self.rules.mark("killed itself", true);
    }

    fn note_exit(&mut self, id: GenerationId, exit: Exit) {
        let generation = self.of(id);
        // With several commands any `-` counts here; that is too kind, but never wrong.
        let is_forking = generation.policy.service_type == Type::Forking && !generation.seen.found;
        // Its daemon tells how it has ended.
        let may_be_clean = exit == Exit::Unknown && is_forking;
        let is_clean = exit == Exit::Code(0)
            || may_be_clean
            || generation.policy.commands.start.contains(&true)
            || matches!(exit, Exit::Signal { signal: Signal::TERM | Signal::INT | Signal::HUP, .. });
        // ExitType=cgroup: the end of the main process is not the end.
        let counts = generation.policy.exit_type == ExitType::Main && !generation.seen.told;
        generation.seen.failed |= counts && !is_clean;
        generation.seen.remains |= generation.policy.remain_after_exit && is_clean;
    }

    fn note_command_end(&mut self, id: GenerationId, end: &End) {
        let generation = self.of(id);
        // The last one begun is the only one there is.
        let Some((list, done)) = generation.seen.running_list() else { return };
        let ignored = generation.policy.commands.list(list)[done - 1];
        let is_known = *end != End::Exited(Exit::Unknown);
        match list {
            // It runs once more.
            CommandList::Condition | CommandList::StartPre if !is_known && !ignored => {
                generation.seen.done.insert(list, done - 1);
            }
            CommandList::StartPost if !is_known => {}
            _ if *end == End::Exited(Exit::Code(0)) || ignored => {}
            _ => drop(generation.seen.broken.insert(list)),
        }
        generation.seen.last_list = None;
    }

    /// The bound is the sum of all timeouts of the slowest generation, and of the sweep.
    fn note_asked_to_stop(&mut self, is_stop: bool) {
        if !is_stop {
            return;
        }
        self.rules.disturbed = true;
        let after_kill = limits::AFTER_KILL.as_nanos();
        let bound = |policy: &Policy| {
            let stop = policy.timeout_stop.max(policy.timeout_abort.unwrap_or(Span::ZERO)).as_nanos();
            let (stops, posts) = (policy.commands.stop.len() as u64, policy.commands.stop_post.len() as u64);
            2 * stops * stop + posts * (stop + after_kill) + 2 * stop + 4 * after_kill + 8 * EXTENSION
        };
        let living = self.groups.values().filter(|generation| !generation.seen.forgotten);
        let slowest = living.map(|generation| bound(&generation.policy)).max().unwrap_or_default();
        let by = self.now + slowest + self.policy.timeout_stop.as_nanos() + 2 * after_kill;
        self.rules.stop_by = Some(self.rules.stop_by.map_or(by, |earlier| earlier.min(by)));
    }

    fn after_step(&mut self, &Step { event, actions, status, .. }: &Step) {
        let (now, decided_at) = (self.now, self.decided_at);
        for entry in &status.generations {
            let seen = &mut self.of(GenerationId(entry.generation)).seen;
            if entry.ready_ms.is_some() && seen.ready.is_none() {
                seen.ready = Some(decided_at);
            }
        }
        self.a_broken_file_changes_nothing(event, actions, status);
        self.traffic_is_where_it_belongs(status);
        self.nobody_is_asked_who_leaves();
        if now > self.rules.unwatched_until {
            self.late_starts_fail();
            self.runtime_max_is_kept();
        }
        self.slow_commands_are_ended();
        let is_late = self.rules.stop_by.is_some_and(|by| now > by.max(self.rules.unwatched_until));
        assert!(self.ended.is_some() || !is_late, "stop_terminates: {status:?}");
        let candidate = role(status, Role::Candidate);
        if candidate.is_some() && candidate != role(&self.rules.before, Role::Candidate) {
            self.rules.disturbed = false;
        }
        self.rules
            .mark("baked", self.rules.before.state == State::Swapping && actions.contains(&Action::Adopt));
        self.rules.before = status.clone();
    }

    pub(crate) fn check_end(&self) {
        assert!(self.rules.clients.is_empty(), "unanswered: {:?}", self.rules.clients);
        assert!(self.staged.is_none(), "what was read was neither adopted nor discarded");
        for (id, generation) in &self.groups {
            assert!(generation.seen.forgotten, "{id} was not finished: {generation:?}");
        }
    }
}

impl Group<Seen> {
    fn command(&self) -> Option<Command> {
        self.left().find_map(|process| match process.part {
            Part::Command(command) => Some(command),
            Part::Main | Part::Other => None,
        })
    }

    /// Whether the main process, a daemon or a command left something behind.
    pub(super) fn has_others(&self) -> bool {
        self.left().any(|process| process.part == Part::Other)
    }

    /// The command that is given up (SIGKILL did not end it, or must not be sent) is one of the others from now on.
    fn give_up_command(&mut self) {
        for process in &mut self.processes {
            if let Part::Command(_) = process.part {
                process.part = Part::Other;
            }
        }
    }

    fn length(&self, list: CommandList) -> usize {
        self.policy.commands.list(list).len()
    }

    /// KillMode=process and SendSIGKILL=no promise to leave processes alone.
    fn leaves_others(&self) -> bool {
        self.policy.kill_mode == KillMode::Process || !self.policy.send_sigkill
    }
}

impl Seen {
    pub(super) fn has_started(&self) -> bool {
        self.started.is_some()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.forgotten || self.done.contains_key(&CommandList::StopPost)
    }

    fn running_list(&self) -> Option<(CommandList, usize)> {
        let list = self.last_list?;
        Some((list, self.done.get(&list).copied()?))
    }
}
