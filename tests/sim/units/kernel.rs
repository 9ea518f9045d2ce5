//! The fake kernel and shell of units.rs; its rules are looked at with every order of the core.

mod rules;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fastrand::Rng;
use socket_supervise::config::{CommandList, KillMode, Policy, Signal, Type};
use socket_supervise::core::report::Status;
use socket_supervise::core::{
    Action, ClientId, Command, End, Event, Exit, Found, GenerationId, Notify, Request, Reread, Scope, Sender,
    Setting, Stage, StartFailure, Supervisor, Terminal, Time,
};

pub(crate) const SECOND: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;
/// Steps at one instant, at most.
const STEPS: u32 = 500;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Main,
    Command,
    /// What a daemon or a command left behind.
    Other,
}

#[derive(Clone, Debug)]
enum Happening {
    Ends(GenerationId, Who, u64, Exit),
    Says(GenerationId, Notify),
}

#[derive(Clone, Debug, Default)]
struct Generation {
    policy: Option<Policy>,
    /// The number of the process that lives, and whether it takes SIGTERM.
    main: Option<(u64, bool)>,
    command: Option<(u64, bool, Command)>,
    other: Option<(u64, bool)>,
    awaited: bool,
    // What has happened, for the rules.
    done: BTreeMap<CommandList, usize>,
    broken: BTreeSet<CommandList>,
    main_started: bool,
    main_failed: bool,
    told: bool,
    killed: bool,
    forgotten: bool,
}

pub(crate) struct Kernel {
    pub(crate) rng: Rng,
    core: Supervisor,
    now: u64,
    same_instant: u32,
    answers: VecDeque<Event>,
    queue: VecDeque<Event>,
    agenda: BTreeMap<(u64, u64), Happening>,
    numbers: u64,
    generations: BTreeMap<GenerationId, Generation>,
    policy: Policy,
    staged: Option<Policy>,
    make_policy: fn(&mut Rng) -> Policy,
    setting: Setting,
    watched: bool,
    sweeping: bool,
    clients: u64,
    waiting: BTreeSet<ClientId>,
    ended: bool,
    steps: u32,
    is_traced: bool,
}

impl Kernel {
    pub(crate) fn new(
        rng: Rng,
        policy: Policy,
        setting: Setting,
        make_policy: fn(&mut Rng) -> Policy,
    ) -> Self {
        let mut kernel = Self {
            rng,
            core: Supervisor::new(policy.clone(), setting),
            now: 1_000 * SECOND,
            same_instant: 0,
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
            sweeping: false,
            clients: 0,
            waiting: BTreeSet::new(),
            ended: false,
            steps: 0,
            is_traced: std::env::var_os("SEED").is_some(),
        };
        kernel.run_for(0);
        kernel
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(crate) fn status(&self) -> Status {
        self.core.status()
    }

    pub(crate) fn request(&mut self, request: Request) {
        self.clients += 1;
        let client = ClientId(self.clients);
        self.waiting.insert(client);
        self.queue.push_back(Event::Requested { client, request });
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
            let happening = self.agenda.first_key_value().map(|((time, _), _)| *time);
            let tick = self.core.next_wake().map(|(time, _)| time.0.max(self.now));
            let Some(time) = happening.into_iter().chain(tick).min().filter(|time| *time <= until) else {
                break;
            };
            if time > self.now {
                (self.now, self.same_instant) = (time, 0);
            }
            if tick == Some(time) {
                self.step(Event::Tick);
            } else if let Some((_, happening)) = self.agenda.pop_first() {
                self.happen(happening);
            }
        }
        self.now = self.now.max(until);
    }

    fn step(&mut self, event: Event) {
        self.same_instant += 1;
        assert!(self.same_instant < STEPS, "no_spin: {event:?} at {}: {:?}", self.now, self.status());
        self.steps += 1;
        if self.steps.is_multiple_of(5) {
            let saved = self.core.save();
            let restored = Supervisor::restore(&saved).expect("reexec_roundtrip");
            assert_eq!(restored.save(), saved, "reexec_roundtrip");
            assert_eq!(restored.next_wake(), self.core.next_wake(), "reexec_roundtrip");
            self.core = restored;
        }
        let mut actions = Vec::new();
        let text = self.is_traced.then(|| format!("{event:?}"));
        self.core.step(Time(self.now), event, &mut actions);
        if let Some(text) = text {
            println!("{:>12} ms {text}", self.now / MS - 1_000_000);
            actions.iter().for_each(|action| println!("                 -> {action:?}"));
        }
        for action in actions {
            assert!(!self.ended, "an order after Exit: {action:?}");
            self.obey(action);
        }
    }

    fn plan(&mut self, after: u64, happening: Happening) {
        self.numbers += 1;
        self.agenda.insert((self.now.saturating_add(after), self.numbers), happening);
    }

    fn of(&mut self, id: GenerationId) -> &mut Generation {
        self.generations.get_mut(&id).expect("an order for a generation that was begun")
    }

    /// A process starts; unless it hangs, it ends by itself some time.
    fn process(&mut self, id: GenerationId, who: Who, longest: u64) -> (u64, bool) {
        self.numbers += 1;
        let number = self.numbers;
        if self.rng.u8(..6) > 0 {
            let exit = match self.rng.u8(..10) {
                0 => Exit::Code(self.rng.u8(1..)),
                1 => Exit::Code(255),
                2 => Exit::Signal { signal: Signal::ABRT, core: self.rng.bool() },
                _ => Exit::Code(0),
            };
            let after = self.rng.u64(..longest);
            self.plan(after, Happening::Ends(id, who, number, exit));
        }
        (number, self.rng.u8(..5) > 0)
    }

    fn begin(&mut self, id: GenerationId) {
        let policy = self.staged.as_ref().unwrap_or(&self.policy).clone();
        let generation = self.generations.entry(id).or_default();
        assert!(!generation.forgotten, "{id} goes on after it was forgotten");
        generation.policy.get_or_insert(policy);
    }

    fn spawn(&mut self, id: GenerationId, index: usize) {
        self.begin(id);
        let generation = self.of(id);
        assert!(generation.main.is_none() && generation.command.is_none(), "{id}: main beside another");
        assert!(!generation.broken.contains(&CommandList::Condition), "{id}: a condition said no");
        assert!(!generation.broken.contains(&CommandList::StartPre), "{id}: ExecStartPre= has failed");
        let policy = generation.policy.clone().expect("set when it was begun");
        for list in [CommandList::Condition, CommandList::StartPre] {
            let done = generation.done.get(&list).copied().unwrap_or_default();
            assert_eq!(done, policy.commands.list(list).len(), "{id}: main before the end of {list:?}");
        }
        generation.main_started = true;
        if self.rng.u8(..20) == 0 {
            self.of(id).main_failed = true;
            let failure = StartFailure { stage: Stage::Exec, errno: 13, what: "no".to_owned() };
            return self.answers.push_back(Event::StartFailed { generation: id, failure });
        }
        let _ = index;
        let short = matches!(policy.service_type, Type::Forking | Type::Oneshot);
        let process = self.process(id, Who::Main, if short { SECOND } else { 30 * SECOND });
        self.of(id).main = Some(process);
        self.answers.push_back(Event::Started { generation: id, pid: 100 + process.0 as u32 });
        self.will_say(id);
    }

    fn will_say(&mut self, id: GenerationId) {
        let words: [fn(&mut Notify); 6] = [
            |notify| notify.ready = true,
            |notify| notify.reloading = true,
            |notify| notify.stopping = true,
            |notify| notify.watchdog = true,
            |notify| notify.extend_timeout_usec = Some(3_000_000),
            |notify| notify.watchdog_usec = Some(2_000_000),
        ];
        for _ in 0..self.rng.usize(..4) {
            let mut notify = Notify::default();
            let after = self.rng.u64(..3 * SECOND);
            notify.monotonic_usec = Some((self.now + after) / 1_000);
            // READY=1 is what most servers say most of the time.
            let which = if self.rng.u8(..2) == 0 { 0 } else { self.rng.usize(..words.len()) };
            words[which](&mut notify);
            self.plan(after, Happening::Says(id, notify));
        }
    }

    fn run(&mut self, id: GenerationId, command: Command) {
        self.begin(id);
        self.rules_of_order(id, command);
        *self.of(id).done.entry(command.list).or_default() = command.index + 1;
        if self.rng.u8(..15) == 0 {
            let failure = StartFailure { stage: Stage::Exec, errno: 2, what: "no".to_owned() };
            let end = End::NotStarted(failure);
            self.note_command_end(id, command, &end);
            return self.answers.push_back(Event::CommandEnded { generation: id, end });
        }
        let (number, obeys) = self.process(id, Who::Command, 2 * SECOND);
        self.of(id).command = Some((number, obeys, command));
    }

    fn kill(&mut self, id: GenerationId, signal: Signal, scope: Scope) {
        let generation = self.of(id);
        assert!(!generation.forgotten, "no_signal_after_reap: {id}");
        if signal == Signal::CONT || signal == Signal::STOP {
            return;
        }
        let is_reload = signal == Signal::HUP && scope == Scope::Main;
        if is_reload {
            return;
        }
        generation.told |= scope != Scope::Command;
        let kills = signal == Signal::KILL;
        generation.killed |= kills;
        let main = generation.main.filter(|_| scope != Scope::Command).map(|process| (Who::Main, process));
        let command = generation.command.filter(|_| scope != Scope::Main);
        let command = command.map(|(number, obeys, _)| (Who::Command, (number, obeys)));
        let other = generation.other.filter(|_| scope == Scope::All).map(|process| (Who::Other, process));
        for (who, (number, obeys)) in [main, command, other].into_iter().flatten() {
            if kills || obeys {
                let after = self.rng.u64(..200 * MS);
                let exit = Exit::Signal { signal, core: false };
                self.plan(after, Happening::Ends(id, who, number, exit));
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Says(generation, message) => {
                if self.of(generation).main.is_some() {
                    self.queue.push_back(Event::Notified { generation, message });
                }
            }
            Happening::Ends(id, who, number, exit) => self.ends(id, who, number, exit),
        }
    }

    fn ends(&mut self, id: GenerationId, who: Who, number: u64, exit: Exit) {
        let generation = self.of(id);
        match who {
            Who::Main if generation.main.is_some_and(|(lives, _)| lives == number) => {
                generation.main = None;
                let index_ignores = |policy: &Policy| policy.commands.start.iter().any(|ignored| *ignored);
                let policy = generation.policy.as_ref().expect("set when it was begun");
                let clean = exit == Exit::Code(0)
                    || index_ignores(policy)
                    || matches!(exit, Exit::Signal { signal: Signal::TERM | Signal::HUP, .. });
                generation.main_failed |= !clean && !generation.told;
                self.queue.push_back(Event::Exited { generation: id, exit });
            }
            Who::Command => {
                let Some((_, _, command)) = generation.command.take_if(|(lives, ..)| *lives == number) else {
                    return;
                };
                let end = End::Exited(exit);
                self.note_command_end(id, command, &end);
                self.queue.push_back(Event::CommandEnded { generation: id, end });
            }
            Who::Other if generation.other.is_some_and(|(lives, _)| lives == number) => {
                generation.other = None;
            }
            Who::Main | Who::Other => return,
        }
        self.look(id);
    }

    /// The shell looks whether anything is left.
    fn look(&mut self, id: GenerationId) {
        let generation = self.of(id);
        if generation.is_empty() && std::mem::take(&mut generation.awaited) {
            self.queue.push_back(Event::Cleared { generation: id });
        }
        if self.sweeping && self.generations.values().all(Generation::is_empty) {
            self.sweeping = false;
            self.queue.push_back(Event::Childless);
        }
    }

    fn find_main(&mut self, id: GenerationId) -> Found {
        match self.rng.u8(..6) {
            0 => Found::NotYet,
            1 => Found::Nobody,
            2 => {
                let process = self.process(id, Who::Other, 10 * SECOND);
                self.of(id).other = Some(process);
                Found::Unknown
            }
            _ => {
                let process = self.process(id, Who::Main, 30 * SECOND);
                self.of(id).main = Some(process);
                Found::Main(process.0 as u32)
            }
        }
    }

    fn reread(&mut self) -> Event {
        assert!(self.staged.is_none(), "read anew before the last reading was decided");
        if self.rng.u8(..4) == 0 {
            return Event::Reread { result: Err("web.service:7: broken".to_owned()) };
        }
        let policy = if self.rng.bool() { (self.make_policy)(&mut self.rng) } else { self.policy.clone() };
        self.staged = Some(policy.clone());
        let holds_sockets = self.setting.holds_sockets;
        Event::Reread { result: Ok(Box::new(Reread { policy, holds_sockets })) }
    }

    fn obey(&mut self, action: Action) {
        match action {
            Action::Spawn { generation, index } => self.spawn(generation, index),
            Action::Run { generation, command, outcome } => {
                let is_end = matches!(command.list, CommandList::Stop | CommandList::StopPost);
                assert_eq!(outcome.is_some(), is_end, "$SERVICE_RESULT is for the end");
                self.run(generation, command);
            }
            Action::Kill { generation, signal, scope } => self.kill(generation, signal, scope),
            Action::FindMain { generation } => {
                let found = self.find_main(generation);
                self.answers.push_back(Event::MainSought { generation, found });
            }
            Action::AwaitClear { generation } => {
                self.of(generation).awaited = true;
                self.look(generation);
            }
            Action::Forget { generation } => self.forget(generation),
            Action::Reread => {
                let event = self.reread();
                self.answers.push_back(event);
            }
            Action::Adopt => self.policy = self.staged.take().expect("something was read"),
            Action::Discard => drop(self.staged.take().expect("something was read")),
            Action::Watch { on } => self.watched = on,
            Action::Sweep { signal } => self.sweep(signal),
            Action::Reply { client, .. } => {
                assert!(self.waiting.remove(&client), "one_reply_per_request: {client:?}");
            }
            Action::Exit(_) => self.ended = true,
            Action::Tell(_) | Action::TellManager(_) | Action::Suspend => {}
        }
    }

    fn sweep(&mut self, signal: Signal) {
        self.sweeping = true;
        let living: Vec<GenerationId> =
            self.generations.iter().filter(|(_, one)| !one.is_empty()).map(|(id, _)| *id).collect();
        for id in &living {
            for (who, process) in [(Who::Main, self.of(*id).main), (Who::Other, self.of(*id).other)] {
                if let Some((number, obeys)) = process
                    && (obeys || signal == Signal::KILL)
                {
                    let exit = Exit::Signal { signal, core: false };
                    self.plan(MS, Happening::Ends(*id, who, number, exit));
                }
            }
        }
        if living.is_empty() {
            self.sweeping = false;
            self.queue.push_back(Event::Childless);
        }
    }

    fn forget(&mut self, id: GenerationId) {
        let generation = self.of(id);
        assert!(!std::mem::replace(&mut generation.forgotten, true), "{id} is forgotten twice");
        let policy = generation.policy.as_ref().expect("set when it was begun");
        let ran = generation.done.get(&CommandList::StopPost).copied().unwrap_or_default();
        assert!(ran > 0 || policy.commands.stop_post.is_empty(), "{id}: ExecStopPost= did not run");
        assert!(generation.is_empty() || generation.killed || generation.leaves_others(), "{id} is left");
    }

    pub(crate) fn check_end(&self) {
        assert!(self.waiting.is_empty(), "unanswered: {:?}", self.waiting);
        for (id, generation) in &self.generations {
            assert!(generation.forgotten, "{id} was not finished: {generation:?}");
        }
    }
}

impl Generation {
    fn is_empty(&self) -> bool {
        self.main.is_none() && self.command.is_none() && self.other.is_none()
    }

    /// KillMode=process and SendSIGKILL=no promise to leave processes alone.
    fn leaves_others(&self) -> bool {
        self.policy
            .as_ref()
            .is_some_and(|policy| policy.kill_mode == KillMode::Process || !policy.send_sigkill)
    }
}
