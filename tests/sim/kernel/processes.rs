//! The processes of the fake kernel: what they do by themselves, how they take signals, and how the shell hears of it.

use socket_supervise::config::{Policy, Signal};
use socket_supervise::core::{
    Command, End, Event, Exit, GenerationId, Notify, Scope, Sender, SlotId, Stage, StartFailure, Terminal,
    Traffic,
};

use super::killed::Unanswered;
use super::{Kernel, MS, Rules, SECOND};

/// A process that belongs to no generation: what PID 1 adopted.
pub(crate) const STRANGERS: GenerationId = GenerationId(0);

/// What a started COMMAND does if nobody interferes; spans are nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// READY=1 after this; it accepts connections from then on.
    pub(crate) ready: Option<u64>,
    pub(crate) exits: Option<(u64, Exit)>,
    /// Grandchildren, started at once.
    pub(crate) children: usize,
    /// Dies of nothing but SIGKILL; so do its grandchildren if `stubborn_children`.
    pub(crate) stubborn: bool,
    pub(crate) stubborn_children: bool,
    /// From a signal that it obeys to its end.
    pub(crate) lag: u64,
    /// How it ends then; None: of the signal.
    pub(crate) farewell: Option<u8>,
    /// How long the kernel holds it after SIGKILL.
    pub(crate) hang: u64,
    /// WATCHDOG=1 this often, this many times.
    pub(crate) pings: Option<(u64, u32)>,
    /// It accepts from its start on, or never, whenever it says READY=1.
    pub(crate) is_early: bool,
    pub(crate) is_deaf: bool,
    /// It never says READY=1, and accepts all the same.
    pub(crate) is_mute: bool,
    /// The sockets that it waits on while it accepts.
    pub(crate) waits_on: &'static [&'static str],
    /// How long a request takes; None: for ever.
    pub(crate) service: Option<u64>,
    /// How it answers Ready=http:.
    pub(crate) health: Health,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Health {
    Good,
    Bad,
    Silent,
}

impl Script {
    /// A server as it should be.
    pub(crate) const fn good() -> Self {
        Self {
            ready: Some(20 * MS),
            exits: None,
            children: 0,
            stubborn: false,
            stubborn_children: false,
            lag: 5 * MS,
            farewell: Some(0),
            hang: 0,
            pings: None,
            is_early: false,
            is_deaf: false,
            is_mute: false,
            waits_on: &super::SOCKETS,
            service: Some(5 * MS),
            health: Health::Good,
        }
    }

    /// Does nothing unless told to.
    pub(crate) const fn idle() -> Self {
        Self { ready: None, ..Self::good() }
    }

    pub(crate) const fn dies(after: u64, code: u8) -> Self {
        Self { exits: Some((after, Exit::Code(code))), ..Self::idle() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Life {
    Alive,
    Zombie(Exit),
    Gone,
}

/// What a process is to its generation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Part {
    Main,
    Command(Command),
    /// A child of one of the others.
    Other,
}

#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) part: Part,
    pub(crate) life: Life,
    pub(crate) script: Script,
    /// The child of this life of supervise.
    pub(super) is_ours: bool,
}

/// One generation as the kernel sees it. `S`: what the rules remember of it.
#[derive(Clone, Debug)]
pub(crate) struct Group<S> {
    /// That of the files as they were read last when it was begun.
    pub(crate) policy: Policy,
    pub(crate) processes: Vec<Process>,
    pub(crate) slot: SlotId,
    pub(crate) accepts: bool,
    /// For good: its socket is not the one that clients find.
    pub(crate) is_lost: bool,
    pub(crate) traffic: Traffic,
    /// Stopped by a signal: nothing of it runs, what it would do is in `held`.
    pub(crate) stopped: bool,
    /// Since when it is stopped by a signal, in nanoseconds.
    pub(crate) stopped_at: u64,
    pub(crate) held: Vec<Deed>,
    /// The core waits for the last of them.
    pub(super) awaited: bool,
    pub(super) unanswered: Unanswered,
    pub(crate) seen: S,
}

impl<S> Group<S> {
    pub(crate) fn left(&self) -> impl DoubleEndedIterator<Item = &Process> {
        self.processes.iter().filter(|process| process.life != Life::Gone)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.left().next().is_none()
    }

    /// The main process, until it is reaped.
    pub(crate) fn main(&self) -> Option<&Process> {
        self.left().rfind(|process| process.part == Part::Main)
    }

    /// Whether the main process runs.
    pub(crate) fn is_alive(&self) -> bool {
        self.main().is_some_and(|main| main.life == Life::Alive)
    }

    pub(crate) fn is_accepting(&self) -> bool {
        self.accepts && !self.is_lost && !self.stopped && self.is_alive()
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Happening {
    /// A generation does this, or as soon as it is no longer stopped.
    Does(GenerationId, Deed),
    Quiet(GenerationId),
    Thaws(GenerationId),
    /// A client completes a handshake that it began earlier.
    Completes(SlotId),
    Rescued(SlotId),
    /// The shell hears of the dead.
    Reaping,
    /// SIGCONT after we stopped ourselves.
    Continued,
    /// The next thing a user does.
    User,
}

#[derive(Clone, Debug)]
pub(crate) enum Deed {
    Says(Notify),
    Accepts,
    /// WATCHDOG=1, and so many times more.
    Pings(u32),
    /// The process of this index.
    Dies(usize, Exit),
    /// A client gets its answer.
    Answers,
    /// The question of this number, asked for Ready=http:, gets its answer.
    Replies(u64),
    /// MAINPID= names a process that the main one has started.
    MovesMain,
}

impl<R: Rules> Kernel<R> {
    pub(crate) fn is_alive(&self, generation: GenerationId) -> bool {
        self.groups.get(&generation).is_some_and(Group::is_alive)
    }

    pub(crate) fn living(&self) -> impl DoubleEndedIterator<Item = GenerationId> + '_ {
        self.groups.iter().filter(|(_, group)| group.is_alive()).map(|(id, _)| *id)
    }

    /// Processes of all kinds that still run.
    pub(crate) fn processes(&self) -> usize {
        let all = self.groups.values().flat_map(|group| &group.processes);
        all.filter(|process| process.life == Life::Alive).count()
    }

    /// Adopted by PID 1 before anything else.
    pub(crate) fn adopt_strangers(&mut self, count: usize, stubborn: bool) {
        self.begin(STRANGERS, SlotId(0));
        for _ in 0..count {
            self.add(STRANGERS, Part::Other, Script { stubborn, ..Script::idle() });
        }
    }

    /// The first order for a generation fixes its policy.
    pub(crate) fn begin(&mut self, generation: GenerationId, slot: SlotId) -> &mut Group<R::Seen> {
        self.groups.entry(generation).or_insert_with(|| Group {
            policy: self.staged.as_ref().map_or(&self.policy, |staged| &staged.policy).clone(),
            processes: Vec::new(),
            slot,
            accepts: false,
            is_lost: false,
            traffic: Traffic::default(),
            stopped: false,
            stopped_at: 0,
            held: Vec::new(),
            awaited: false,
            unanswered: Unanswered::default(),
            seen: R::Seen::default(),
        })
    }

    pub(super) fn start(&mut self, generation: GenerationId, slot: SlotId, part: Part) {
        if !self.orderly {
            // fork(2) and execve(2) take their time.
            self.now += self.rng.u64(20_000..2 * MS);
        }
        self.begin(generation, slot);
        if self.was_started(generation, part) {
            return;
        }
        let planned = match &self.fault {
            Some((failure, until)) if self.now < *until => Err(failure.clone()),
            Some(_) | None => self.scripts.pop_front().unwrap_or_else(|| Ok(self.default_script())),
        };
        match (planned, part) {
            (Ok(script), _) => {
                self.trace.aside(self.now, || format!("g{} will {script:?}", generation.0));
                let child = Script { stubborn: script.stubborn_children, exits: None, ..script.clone() };
                let count = script.children;
                let pid = self.add(generation, part, script);
                for _ in 0..count {
                    self.add(generation, Part::Other, child.clone());
                }
                self.has_started(generation, part, pid);
            }
            (Err(failure), Part::Command(_)) => {
                let end = End::NotStarted(failure);
                self.answers.push_back(Event::CommandEnded { generation, end });
            }
            (Err(failure), Part::Main | Part::Other) => {
                self.answers.push_back(Event::StartFailed { generation, failure });
            }
        }
    }

    fn default_script(&self) -> Script {
        let watchdog = self.policy.watchdog.as_nanos();
        Script { pings: (watchdog > 0).then_some((watchdog / 2, u32::MAX)), ..self.default.clone() }
    }

    /// One more process of a generation, with what its script says. Returns its process id.
    pub(crate) fn add(&mut self, generation: GenerationId, part: Part, script: Script) -> u32 {
        let who = self.groups[&generation].processes.len();
        if part == Part::Main {
            self.plan_main(generation, &script);
        }
        if let Some((after, exit)) = script.exits {
            self.will(generation, after, Deed::Dies(who, exit));
        }
        let processes = &mut self.groups.get_mut(&generation).expect("begun").processes;
        processes.push(Process { part, life: Life::Alive, script, is_ours: true });
        pid(generation, who)
    }

    fn plan_main(&mut self, generation: GenerationId, script: &Script) {
        if script.is_early {
            self.will(generation, 0, Deed::Accepts);
        }
        if let Some(after) = script.ready {
            let message = Notify { ready: true, ..Notify::default() };
            if !script.is_mute {
                self.will(generation, after, Deed::Says(message));
            }
            if !script.is_deaf {
                self.will(generation, after, Deed::Accepts);
            }
        }
        if let Some((every, left)) = script.pings {
            self.will(generation, every, Deed::Pings(left));
        }
    }

    pub(super) fn kill(&mut self, generation: GenerationId, signal: Signal, scope: Scope) {
        let now = self.now;
        let Some(group) = self.groups.get_mut(&generation) else { return };
        if signal == Signal::STOP || signal == Signal::TSTP {
            if !std::mem::replace(&mut group.stopped, true) {
                group.stopped_at = now;
            }
            return;
        }
        if signal == Signal::CONT {
            group.stopped = false;
            let slot = group.slot;
            for deed in std::mem::take(&mut group.held) {
                self.will(generation, 0, deed);
            }
            self.serve(slot);
            return;
        }
        let deadly = [Signal::INT, Signal::QUIT, Signal::ABRT, Signal::TERM, group.policy.kill_signal];
        let mut deaths = Vec::new();
        for (who, Process { part, life, script, .. }) in group.processes.iter().enumerate() {
            let is_meant = match scope {
                Scope::All => true,
                Scope::Main => *part == Part::Main,
                Scope::Command => matches!(part, Part::Command(_)),
            };
            if !is_meant || *life != Life::Alive {
                continue;
            }
            let exit = match script.farewell {
                Some(code) if signal != Signal::KILL => Exit::Code(code),
                Some(_) | None => Exit::Signal { signal, core: signal == Signal::ABRT },
            };
            if signal == Signal::KILL {
                deaths.push((script.hang, Deed::Dies(who, exit)));
            } else if !script.stubborn && deadly.contains(&signal) {
                deaths.push((script.lag, Deed::Dies(who, exit)));
            }
        }
        for (after, death) in deaths {
            self.will(generation, after, death);
        }
    }

    /// Somebody stops a server, of which nobody is told.
    pub(crate) fn freeze(&mut self) {
        let living: Vec<GenerationId> = self.living().collect();
        if !living.is_empty() {
            let id = living[self.rng.usize(..living.len())];
            self.kill(id, Signal::STOP, Scope::All);
            let after = self.rng.u64(..60 * SECOND);
            self.plan(after, Happening::Thaws(id));
        }
    }

    /// A generation does this some time later.
    pub(crate) fn will(&mut self, generation: GenerationId, after: u64, deed: Deed) {
        self.plan(after, Happening::Does(generation, deed));
    }

    pub(super) fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Does(generation, deed) => self.does(generation, deed),
            Happening::Quiet(generation) => self.quiet(generation),
            Happening::Thaws(generation) => self.kill(generation, Signal::CONT, Scope::All),
            Happening::Completes(slot) => self.completes(slot),
            Happening::Rescued(slot) => self.rescued(slot),
            Happening::Reaping => self.reap(),
            Happening::Continued => self.continued(),
            Happening::User => R::user_acts(self),
        }
    }

    fn does(&mut self, generation: GenerationId, deed: Deed) {
        let Some(group) = self.groups.get_mut(&generation) else { return };
        let is_killed = matches!(deed, Deed::Dies(_, Exit::Signal { signal: Signal::KILL, .. }));
        if group.stopped && !is_killed {
            return group.held.push(deed);
        }
        let is_alive = group.is_alive();
        match deed {
            Deed::Dies(who, exit) => self.dies(generation, who, exit),
            Deed::MovesMain => R::moves_main(self, generation),
            _ if !is_alive => {}
            Deed::Says(message) => self.say(generation, message),
            Deed::Accepts => {
                group.accepts = true;
                let slot = group.slot;
                self.serve(slot);
            }
            Deed::Pings(left) => {
                let pings = group.main().and_then(|main| main.script.pings);
                if let (Some((every, _)), Some(left)) = (pings, left.checked_sub(1)) {
                    self.say(generation, Notify { watchdog: true, ..Notify::default() });
                    self.will(generation, every, Deed::Pings(left));
                }
            }
            Deed::Answers => self.answered(generation),
            Deed::Replies(number) => self.replies(generation, number),
        }
    }

    pub(crate) fn dies(&mut self, generation: GenerationId, who: usize, exit: Exit) {
        let Some(group) = self.groups.get_mut(&generation) else { return };
        let process = &mut group.processes[who];
        if process.life != Life::Alive {
            return;
        }
        process.life = Life::Zombie(exit);
        if process.part == Part::Main {
            group.accepts = false;
            group.traffic = Traffic::default();
        }
        // SIGCHLD merges, and we may be busy: the dead are found some time later, several at once.
        let delay = if self.orderly || self.rng.bool() { 0 } else { self.rng.u64(..50 * MS) };
        self.plan(delay, Happening::Reaping);
    }

    pub(super) fn reap(&mut self) {
        let mut found = Vec::new();
        let tells_all = self.killed.tells_ends;
        for (id, group) in &mut self.groups {
            let generation = *id;
            for Process { part, life, is_ours, .. } in &mut group.processes {
                let Life::Zombie(exit) = *life else { continue };
                let exit = if *is_ours || tells_all { exit } else { Exit::Unknown };
                *life = Life::Gone;
                match part {
                    Part::Main => found.push(Event::Exited { generation, exit }),
                    Part::Command(_) => {
                        found.push(Event::CommandEnded { generation, end: End::Exited(exit) });
                    }
                    Part::Other => {}
                }
            }
            if group.is_empty() && std::mem::take(&mut group.awaited) {
                found.push(Event::Cleared { generation });
            }
        }
        if !self.orderly {
            self.rng.shuffle(&mut found);
        }
        self.queue.extend(found);
        self.look_for_children();
    }

    /// `Cleared` comes at once where nothing is left, or never was, but after the end of its commands.
    pub(super) fn await_clear(&mut self, generation: GenerationId) {
        let is_its =
            |event: &Event| matches!(event, Event::CommandEnded { generation: it, .. } if *it == generation);
        let cleared = Event::Cleared { generation };
        match self.groups.get_mut(&generation) {
            Some(group) if !group.is_empty() => group.awaited = true,
            Some(_) if self.queue.iter().any(is_its) => self.queue.push_back(cleared),
            Some(_) | None => self.answers.push_back(cleared),
        }
    }

    /// Whether something is left after all; then its end is waited for as before.
    pub(super) fn is_unclear(&mut self, generation: GenerationId) -> bool {
        let group = self.groups.get_mut(&generation).filter(|group| !group.is_empty());
        group.map(|group| group.awaited = true).is_some()
    }

    pub(super) fn look_for_children(&mut self) {
        if self.sweeping && self.groups.values().all(Group::is_empty) {
            self.sweeping = false;
            self.queue.push_back(Event::Childless);
        }
    }

    pub(super) fn continued(&mut self) {
        if let Some(since) = self.suspended.take() {
            R::slept(self, self.now - since);
            self.net.slept(self.now - since);
            let event = Event::Signalled {
                signal: Signal::CONT,
                sender: Sender::Process,
                terminal: Terminal::Unchanged,
            };
            if self.rng.bool() {
                self.queue.push_front(event);
            } else {
                self.queue.push_back(event);
            }
        }
    }
}

/// The process id of number `who` of a generation.
pub(super) const fn pid(generation: GenerationId, who: usize) -> u32 {
    100 + 100 * generation.0 as u32 + who as u32
}

/// A start that failed in this step with this errno.
pub(crate) fn failure(stage: Stage, errno: i32) -> StartFailure {
    StartFailure { stage, errno, what: format!("{stage:?} failed with errno {errno}") }
}
