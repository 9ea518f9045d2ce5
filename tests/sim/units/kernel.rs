//! The fake kernel and shell of units.rs: processes that start, end, speak and take signals, and what the shell tells
//! the core of them. Its rules are in rules.rs.

use std::collections::{BTreeMap, VecDeque};

use fastrand::Rng;
use socket_supervise::config::{CommandList, Policy, Signal, Type};
use socket_supervise::core::report::Status;
use socket_supervise::core::{
    Action, ClientId, Command, End, Event, Exit, Found, GenerationId, Notify, Question, Request, Reread,
    Scope, Sender, Setting, SlotId, Stage, StartFailure, Supervisor, Terminal, Time,
};

use super::rules::{Rules, Seen};
use super::slots::Slots;

pub(crate) const SECOND: u64 = 1_000_000_000;
pub(crate) const MS: u64 = 1_000_000;
/// What every EXTEND_TIMEOUT_USEC= asks for.
pub(crate) const EXTENSION: u64 = 3 * SECOND;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    number: u64,
    /// Ends of a signal other than SIGKILL.
    obeys: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Happening {
    Ends(GenerationId, u64, Exit),
    Says(GenerationId, Notify),
    /// To a question of Ready=http:.
    Replies(GenerationId, u64),
    /// MAINPID= names a process that the main one has started.
    MainChanges(GenerationId),
}

/// The processes of one generation, and what is remembered of it for the rules.
#[derive(Clone, Debug)]
pub(crate) struct Generation {
    pub(crate) policy: Policy,
    pub(crate) slot: Option<SlotId>,
    pub(crate) main: Option<Process>,
    pub(crate) command: Option<(Process, Command)>,
    /// What the main process, a daemon or a command left behind.
    pub(crate) others: Vec<Process>,
    awaited: bool,
    /// Type=forking: PIDFile= is never written.
    never_found: bool,
    pub(crate) seen: Seen,
}

pub(crate) struct Kernel {
    pub(crate) rng: Rng,
    core: Supervisor,
    pub(crate) now: u64,
    pub(super) answers: VecDeque<Event>,
    pub(super) queue: VecDeque<Event>,
    agenda: BTreeMap<(u64, u64), Happening>,
    numbers: u64,
    pub(crate) generations: BTreeMap<GenerationId, Generation>,
    pub(crate) policy: Policy,
    pub(crate) staged: Option<Reread>,
    make_policy: fn(&mut Rng) -> Policy,
    pub(crate) setting: Setting,
    watched: bool,
    pub(crate) slots: Slots,
    sweeping: bool,
    clients: u64,
    pub(crate) ended: bool,
    steps: u32,
    is_traced: bool,
    pub(crate) rules: Rules,
}

impl Kernel {
    pub(crate) fn new(
        rng: Rng,
        policy: Policy,
        setting: Setting,
        make_policy: fn(&mut Rng) -> Policy,
    ) -> Self {
        let core = Supervisor::new(policy.clone(), setting);
        let rules = Rules::new(core.status());
        let mut kernel = Self {
            rng,
            core,
            now: 1_000 * SECOND,
            answers: VecDeque::new(),
            queue: VecDeque::from([Event::Begun]),
            agenda: BTreeMap::new(),
            numbers: 0,
            generations: BTreeMap::new(),
            policy,
            staged: None,
            make_policy,
            setting,
            watched: false,
            slots: Slots::new(),
            sweeping: false,
            clients: 0,
            ended: false,
            steps: 0,
            is_traced: std::env::var_os("SEED").is_some(),
            rules,
        };
        kernel.run_for(0);
        kernel
    }

    pub(crate) fn status(&self) -> Status {
        self.core.status()
    }

    pub(crate) fn request(&mut self, request: Request) {
        self.clients += 1;
        self.queue.push_back(Event::Requested { client: ClientId(self.clients), request });
    }

    /// A client that was not answered yet goes away.
    pub(crate) fn client_goes(&mut self) {
        if let Some(client) = self.rules.some_client() {
            self.queue.push_back(Event::ClientGone { client });
        }
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        let (sender, terminal) = (Sender::Process, Terminal::Unchanged);
        self.queue.push_back(Event::Signalled { signal, sender, terminal });
    }

    pub(crate) fn connect(&mut self) {
        if std::mem::take(&mut self.watched) {
            self.queue.push_back(Event::Connected);
        }
    }

    pub(crate) fn run_for(&mut self, span: u64) {
        let until = self.now + span;
        while !self.ended {
            if let Some(event) = self.answers.pop_front().or_else(|| self.queue.pop_front()) {
                self.step(event);
                continue;
            }
            // The shell looks for it after everything else that it has found out.
            if self.report_clear() {
                continue;
            }
            let happening = self.agenda.first_key_value().map(|((time, _), _)| *time);
            let tick = self.core.next_wake().map(|(time, _)| time.0.max(self.now));
            self.nothing_is_waited_for_in_vain(tick, happening);
            let Some(time) = happening.into_iter().chain(tick).min().filter(|time| *time <= until) else {
                break;
            };
            self.now = time;
            if tick == Some(time) {
                self.step(Event::Tick);
            } else if let Some((_, happening)) = self.agenda.pop_first() {
                self.happen(happening);
            }
        }
        self.now = self.now.max(until);
    }

    fn step(&mut self, event: Event) {
        self.steps += 1;
        if self.steps.is_multiple_of(5) {
            let saved = self.core.save();
            let restored = Supervisor::restore(&saved).expect("reexec_roundtrip");
            assert_eq!(restored.save(), saved, "reexec_roundtrip");
            assert_eq!(restored.next_wake(), self.core.next_wake(), "reexec_roundtrip");
            self.core = restored;
        }
        let mut actions = Vec::new();
        if self.is_traced {
            println!("{:>12.3} ms {event:?}", (self.now - 1_000 * SECOND) as f64 / MS as f64);
        }
        self.before_step(&event);
        self.core.step(Time(self.now), event.clone(), &mut actions);
        let status = self.core.status();
        for action in &actions {
            if self.is_traced {
                println!("                -> {action:?}");
            }
            assert!(!self.ended, "an order after Exit: {action:?}");
            self.rules_of(&event, action, &status);
            self.obey(action);
        }
        self.after_step(&event, &actions, status);
    }

    pub(super) fn plan(&mut self, after: u64, happening: Happening) {
        self.numbers += 1;
        self.agenda.insert((self.now.saturating_add(after), self.numbers), happening);
    }

    pub(crate) fn of(&mut self, id: GenerationId) -> &mut Generation {
        self.generations.get_mut(&id).expect("an order for a generation that was begun")
    }

    /// The first order for a generation fixes its policy: that of the files as they were read last.
    pub(crate) fn begin(&mut self, id: GenerationId) {
        let policy = self.staged.as_ref().map_or(&self.policy, |staged| &staged.policy).clone();
        self.generations.entry(id).or_insert_with(|| Generation {
            policy,
            slot: None,
            main: None,
            command: None,
            others: Vec::new(),
            awaited: false,
            never_found: false,
            seen: Seen::default(),
        });
    }

    /// A process starts; unless it hangs, it ends by itself some time.
    fn process(&mut self, id: GenerationId, longest: u64) -> Process {
        self.numbers += 1;
        let number = self.numbers;
        if self.rng.u8(..8) > 0 {
            let exit = match self.rng.u8(..12) {
                0 => Exit::Code(self.rng.u8(1..)),
                1 => Exit::Code(255),
                2 => Exit::Signal { signal: Signal::ABRT, core: self.rng.bool() },
                _ => Exit::Code(0),
            };
            let after = self.rng.u64(..longest);
            self.plan(after, Happening::Ends(id, number, exit));
        }
        Process { number, obeys: self.rng.u8(..5) > 0 }
    }

    fn leaves(&mut self, id: GenerationId) {
        if self.rng.u8(..6) == 0 {
            let process = self.process(id, 10 * SECOND);
            self.of(id).others.push(process);
        }
    }

    fn spawn(&mut self, id: GenerationId) {
        let faults = self.rng.u8(..20);
        if faults < 2 {
            let errno = if faults == 0 { 13 } else { 26 };
            let failure = StartFailure { stage: Stage::Exec, errno, what: "no".to_owned() };
            return self.answers.push_back(Event::StartFailed { generation: id, failure });
        }
        let never_found = self.rng.u8(..6) == 0;
        let generation = self.of(id);
        generation.never_found = never_found;
        let is_short = matches!(generation.policy.service_type, Type::Forking | Type::Oneshot);
        let process = self.process(id, if is_short { SECOND } else { 30 * SECOND });
        self.of(id).main = Some(process);
        self.leaves(id);
        self.answers.push_back(Event::Started { generation: id, pid: 100 + process.number as u32 });
        self.will_say(id);
    }

    fn will_say(&mut self, id: GenerationId) {
        let words: [fn(&mut Notify); 8] = [
            |notify| notify.ready = true,
            |notify| notify.reloading = true,
            |notify| (notify.reloading, notify.ready) = (true, true),
            |notify| notify.stopping = true,
            |notify| notify.watchdog = true,
            |notify| notify.watchdog_trigger = true,
            |notify| notify.extend_timeout_usec = Some(EXTENSION / 1_000),
            |notify| notify.watchdog_usec = Some(2_000_000),
        ];
        for _ in 0..self.rng.usize(..4) {
            let mut notify = Notify::default();
            let after = self.rng.u64(..3 * SECOND);
            notify.monotonic_usec = Some((self.now + after) / 1_000);
            // READY=1 is what most servers say most of the time.
            let which = if self.rng.bool() { 0 } else { self.rng.usize(..words.len()) };
            words[which](&mut notify);
            self.plan(after, Happening::Says(id, notify));
        }
        if self.rng.u8(..8) == 0 {
            let after = self.rng.u64(..3 * SECOND);
            self.plan(after, Happening::MainChanges(id));
        }
    }

    fn run(&mut self, id: GenerationId, command: Command) {
        if self.rng.u8(..15) == 0 {
            let failure = StartFailure { stage: Stage::Exec, errno: 2, what: "no".to_owned() };
            let end = End::NotStarted(failure);
            return self.answers.push_back(Event::CommandEnded { generation: id, end });
        }
        let process = self.process(id, 2 * SECOND);
        self.of(id).command = Some((process, command));
        self.leaves(id);
    }

    fn kill(&mut self, id: GenerationId, signal: Signal, scope: Scope) {
        let generation = self.of(id);
        let is_harmless = [Signal::CONT, Signal::STOP, Signal::HUP, generation.policy.reload_signal];
        if is_harmless.contains(&signal) {
            return self.answers_reload(id, signal);
        }
        let main = generation.main.filter(|_| scope != Scope::Command);
        let command = generation.command.filter(|_| scope != Scope::Main).map(|(process, _)| process);
        let others = generation.others.iter().filter(|_| scope == Scope::All).copied();
        let whom: Vec<Process> = main.into_iter().chain(command).chain(others).collect();
        for process in whom.into_iter().filter(|process| process.obeys || signal == Signal::KILL) {
            // Some die with others, in the same instant.
            let after = if self.rng.bool() { 0 } else { self.rng.u64(..200 * MS) };
            let exit = Exit::Signal { signal, core: false };
            self.plan(after, Happening::Ends(id, process.number, exit));
        }
    }

    /// A server that knows Type=notify-reload does as it says.
    fn answers_reload(&mut self, id: GenerationId, signal: Signal) {
        if signal == self.of(id).policy.reload_signal && self.rng.u8(..4) > 0 {
            let now = self.now / 1_000 + 1;
            let reloading = Notify { reloading: true, monotonic_usec: Some(now), ..Notify::default() };
            self.plan(MS, Happening::Says(id, reloading));
            self.plan(20 * MS, Happening::Says(id, Notify { ready: true, ..Notify::default() }));
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Says(generation, message) => {
                if self.of(generation).main.is_some() {
                    self.queue.push_back(Event::Notified { generation, message });
                }
            }
            Happening::Ends(id, number, exit) => self.ends(id, number, exit),
            Happening::Replies(id, number) => self.replies(id, number),
            Happening::MainChanges(id) => {
                // Only a process of the server can say so, and only while there is one.
                let generation = self.of(id);
                let can = generation.main.is_some() || !generation.others.is_empty();
                if can && !generation.seen.has_ended() {
                    let process = self.process(id, 20 * SECOND);
                    let generation = self.of(id);
                    let before = generation.main.replace(process);
                    generation.others.extend(before);
                    let pid = 100 + process.number as u32;
                    self.queue.push_back(Event::MainChanged { generation: id, pid });
                }
            }
        }
    }

    fn ends(&mut self, id: GenerationId, number: u64, exit: Exit) {
        let generation = self.of(id);
        if generation.main.take_if(|main| main.number == number).is_some() {
            self.queue.push_back(Event::Exited { generation: id, exit });
        } else if generation.command.take_if(|(process, _)| process.number == number).is_some() {
            self.queue.push_back(Event::CommandEnded { generation: id, end: End::Exited(exit) });
        } else {
            generation.others.retain(|other| other.number != number);
        }
    }

    /// Whether `Cleared` or `Childless` could be told.
    fn report_clear(&mut self) -> bool {
        for (id, generation) in &mut self.generations {
            if generation.is_empty() && std::mem::take(&mut generation.awaited) {
                self.queue.push_back(Event::Cleared { generation: *id });
            }
        }
        if self.sweeping && self.generations.values().all(Generation::is_empty) {
            self.sweeping = false;
            self.queue.push_back(Event::Childless);
        }
        !self.queue.is_empty()
    }

    fn find_main(&mut self, id: GenerationId) -> Found {
        let choice = if self.of(id).never_found { 0 } else { self.rng.u8(..6) };
        match choice {
            0 => Found::NotYet,
            1 if self.of(id).is_empty() => Found::Nobody,
            2 => {
                let process = self.process(id, 10 * SECOND);
                self.of(id).others.push(process);
                Found::Unknown
            }
            _ => {
                let process = self.process(id, 30 * SECOND);
                self.of(id).main = Some(process);
                Found::Main(process.number as u32)
            }
        }
    }

    fn reread(&mut self) -> Result<Box<Reread>, String> {
        if self.rng.u8(..4) == 0 {
            return Err("web.service:7: broken".to_owned());
        }
        let policy = if self.rng.bool() { (self.make_policy)(&mut self.rng) } else { self.policy.clone() };
        let holds_sockets = self.setting.holds_sockets ^ (self.rng.u8(..8) == 0);
        let steers = holds_sockets && (self.setting.steers ^ (self.rng.u8(..8) == 0));
        let reread =
            Reread { policy, holds_sockets, steers, stored_fds: self.rng.usize(..8).saturating_sub(6) };
        self.staged = Some(reread.clone());
        Ok(Box::new(reread))
    }

    fn obey(&mut self, action: &Action) {
        match action {
            Action::Spawn { generation, .. } => self.spawn(*generation),
            Action::Run { generation, command, .. } => self.run(*generation, *command),
            Action::Kill { generation, signal, scope } => self.kill(*generation, *signal, *scope),
            Action::FindMain { generation } => {
                let found = self.find_main(*generation);
                self.answers.push_back(Event::MainSought { generation: *generation, found });
            }
            Action::AwaitClear { generation } => self.of(*generation).awaited = true,
            Action::Forget { generation } => self.of(*generation).awaited = false,
            Action::Reread => {
                let result = self.reread();
                self.answers.push_front(Event::Reread { result });
            }
            Action::Adopt => {
                let staged = self.staged.take().expect("Adopt or Discard once for what was read");
                self.policy = staged.policy;
                (self.setting.holds_sockets, self.setting.steers) = (staged.holds_sockets, staged.steers);
            }
            Action::Discard => {
                self.staged.take().expect("Adopt or Discard once for what was read");
            }
            Action::WakeOnConnection { on } => self.watched = *on,
            Action::Steer(steering) => self.steer(*steering),
            Action::Guard { slot, on } => self.guard(*slot, *on),
            Action::Rescue { slot } => self.rescue(*slot),
            Action::Ask(Question::Count { generation, .. }) => self.count(*generation),
            Action::Ask(Question::Probe { generation, .. }) => self.probe(*generation),
            Action::Ask(Question::Look { generation, ask, .. }) => self.look(*generation, *ask),
            Action::Ask(Question::EndProbe { generation }) => self.end_probe(*generation),
            Action::Sweep { signal } => self.sweep(*signal),
            Action::Exit(_) => self.ended = true,
            Action::Reply { .. }
            | Action::Tell(_)
            | Action::Ask(Question::Hint { .. } | Question::Overflows)
            | Action::TellManager(_)
            | Action::Suspend => {}
        }
    }

    fn sweep(&mut self, signal: Signal) {
        self.sweeping = true;
        for id in self.generations.keys().copied().collect::<Vec<_>>() {
            self.kill(id, signal, Scope::All);
        }
    }
}

impl Generation {
    pub(crate) fn is_empty(&self) -> bool {
        self.main.is_none() && self.command.is_none() && self.others.is_empty()
    }

    /// The command that is given up (SIGKILL did not end it, or must not be sent) is one of the others from now on.
    pub(crate) fn give_up_command(&mut self) {
        self.others.extend(self.command.take().map(|(process, _)| process));
    }

    pub(crate) fn length(&self, list: CommandList) -> usize {
        self.policy.commands.list(list).len()
    }
}
