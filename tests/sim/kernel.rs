//! The fake kernel and shell under the core: virtual time, processes as scripts, and what can be seen of them.
//!
//! Nothing here decides anything about the service; it plays the contract written at `Action` and `Event`, in the
//! nastiest order the contract allows. Two simulators drive it: histories of swaps, slots and queues (world.rs,
//! history.rs, check.rs) and histories of unit files (units.rs). Each brings its scripts and its rules.

mod killed;
mod processes;
mod slots;
mod waiting;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash};

use fastrand::Rng;
use socket_supervise::config::{Policy, Signal};
use socket_supervise::core::report::{Reply, State, Status};
use socket_supervise::core::{
    Action, ClientId, Event, Exit, GenerationId, Notify, Question, Request, Reread, Scope, Sender, Setting,
    StartFailure, Supervisor, Terminal, Time, Traffic, Why,
};

use crate::trace::Trace;
pub(crate) use killed::{Killed, Moment};
use processes::Life;
pub(crate) use processes::{Deed, Group, Happening, Health, Part, STRANGERS, Script, failure};
pub(crate) use slots::Net;
pub(crate) use waiting::SOCKETS;

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MS;

/// One step of the core, as the rules are told of it.
pub(crate) struct Step<'a> {
    pub(crate) event: &'a Event,
    pub(crate) actions: &'a [Action],
    /// As it is after the step, like the next wake-up.
    pub(crate) status: &'a Status,
    pub(crate) wake: Option<(Time, Why)>,
}

/// The rules that every history of one simulator must keep. They are told of each step and panic where one is broken.
pub(crate) trait Rules: Sized {
    /// What they remember of one generation.
    type Seen: Clone + Debug + Default;

    /// The core has decided; no order was obeyed yet.
    fn decided(kernel: &mut Kernel<Self>, step: &Step);

    /// This order is obeyed next.
    fn ordered(_: &mut Kernel<Self>, _: &Step, _: &Action) {}

    /// This order is obeyed next, for the second time: supervise was killed, and its next life does not know of the first.
    fn ordered_again(_: &mut Kernel<Self>, _: &Action) {}

    /// Supervise has read this, and was killed.
    fn lost(_: &mut Kernel<Self>, _: &Event) {}

    /// All orders of the step were obeyed.
    fn obeyed(kernel: &mut Kernel<Self>, step: &Step);

    /// Everything that has happened was told; the next wake-up and the next happening come at these times.
    fn waits(_: &Kernel<Self>, _tick: Option<u64>, _happening: Option<u64>) {}

    /// We were stopped, or not there, for this long and could keep no deadline.
    fn slept(_: &mut Kernel<Self>, _span: u64) {}

    /// The time of [`Happening::User`] has come.
    fn user_acts(_: &mut Kernel<Self>) {}

    /// The time of [`Deed::MovesMain`] has come.
    fn moves_main(_: &mut Kernel<Self>, _: GenerationId) {}
}

pub(crate) struct Kernel<R: Rules> {
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    pub(crate) core: Supervisor,
    pub(crate) policy: Policy,
    pub(crate) setting: Setting,
    pub(crate) trace: Trace,
    pub(crate) rules: R,
    /// The scripts of the next starts; `default` when there is none.
    pub(crate) scripts: VecDeque<Result<Script, StartFailure>>,
    pub(crate) default: Script,
    /// Every start fails with this until then.
    pub(crate) fault: Option<(StartFailure, u64)>,
    /// Everything is delivered at once and in its order, and nothing takes time. What looks show is another matter.
    pub(crate) orderly: bool,
    /// Now and then a wake-up comes up to this much later than asked for.
    pub(crate) lateness: u64,
    /// A core restored from what this one saved is compared with it for so many steps, then the next one; 0: never.
    pub(crate) twin_steps: u32,
    pub(crate) ended: Option<u8>,
    pub(crate) steps: u32,
    pub(crate) answers: VecDeque<Event>,
    /// The verb reexec was obeyed, and the next shell goes on when this step is over.
    is_replaced: bool,
    /// What the files say when they are read next; None: what they said before.
    pub(crate) files: Option<Result<Reread, String>>,
    /// What was read and is neither adopted nor discarded.
    pub(crate) staged: Option<Reread>,
    /// Whatever happened meanwhile is told before what the files say.
    pub(crate) rereads_late: bool,
    queue: VecDeque<Event>,
    pub(crate) agenda: BTreeMap<(u64, u64), Happening>,
    sequence: u64,
    pub(crate) groups: BTreeMap<GenerationId, Group<R::Seen>>,
    /// What the core asked for, and when it gets it.
    pub(crate) tick: Option<(u64, u64)>,
    suspended: Option<u64>,
    pub(crate) net: Net,
    sweeping: bool,
    clients: u64,
    replies: BTreeMap<ClientId, Reply>,
    /// The restored core, and for how many more steps it is compared.
    twin: Option<(Supervisor, u32)>,
    pub(crate) killed: Killed,
    /// The time of the last step.
    pub(crate) decided_at: u64,
    actions: Vec<Action>,
}

impl<R: Rules> Kernel<R> {
    pub(crate) fn under(rules: R, rng: Rng, policy: Policy, setting: Setting) -> Self {
        Self {
            now: 1_000 * SECOND,
            rng,
            core: Supervisor::new(policy.clone(), setting),
            rules,
            policy,
            setting,
            trace: Trace::default(),
            scripts: VecDeque::new(),
            default: Script::good(),
            fault: None,
            orderly: true,
            lateness: 0,
            twin_steps: 0,
            ended: None,
            steps: 0,
            answers: VecDeque::new(),
            is_replaced: false,
            files: None,
            staged: None,
            rereads_late: false,
            queue: VecDeque::from([Event::Begun]),
            agenda: BTreeMap::new(),
            sequence: 0,
            groups: BTreeMap::new(),
            tick: None,
            suspended: None,
            net: Net::new(),
            sweeping: false,
            clients: 0,
            replies: BTreeMap::new(),
            twin: None,
            killed: Killed::new(),
            decided_at: 0,
            actions: Vec::new(),
        }
    }

    /// What is true now, as `status` tells it.
    pub(crate) fn status(&self) -> Status {
        self.core.status()
    }

    pub(crate) fn state(&self) -> State {
        self.core.status().state
    }

    pub(crate) fn reply(&self, client: ClientId) -> Option<&Reply> {
        self.replies.get(&client)
    }

    /// The same for states from which the same can happen. What the rules remember is not in it.
    pub(crate) fn hash_state(&self, hasher: &mut DefaultHasher) {
        (self.core.save(), self.now, self.net.fingerprint()).hash(hasher);
        for (id, group) in &self.groups {
            let Traffic { in_flight, recent, .. } = group.traffic;
            (id.0, group.is_alive(), group.is_empty(), group.accepts, in_flight, recent).hash(hasher);
        }
    }

    /// What a failure shows: the last steps, and what they were decided by.
    pub(crate) fn text(&self) -> String {
        format!("{:?}\n{:?}\n{}", self.policy, self.setting, self.trace.text())
    }

    // What somebody outside does.

    pub(crate) fn push(&mut self, event: Event) {
        self.queue.push_back(event);
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        self.push(Event::Signalled { signal, sender: Sender::Process, terminal: Terminal::Unchanged });
    }

    pub(crate) fn request(&mut self, request: Request) -> ClientId {
        self.clients += 1;
        let client = ClientId(self.clients);
        self.push(Event::Requested { client, request });
        client
    }

    pub(crate) fn say(&mut self, generation: GenerationId, message: Notify) {
        self.push(Event::Notified { generation, message });
    }

    pub(crate) fn says_ready(&mut self, generation: GenerationId) {
        self.say(generation, Notify { ready: true, ..Notify::default() });
    }

    /// The last generation that was started.
    pub(crate) fn newest(&self) -> GenerationId {
        self.groups.last_key_value().map_or(STRANGERS, |(id, _)| *id)
    }

    pub(crate) fn clients(&self) -> u64 {
        self.clients
    }

    pub(crate) fn plan(&mut self, after: u64, happening: Happening) {
        self.sequence += 1;
        self.agenda.insert((self.now.saturating_add(after), self.sequence), happening);
    }

    /// The main process, as far as it still runs.
    pub(crate) fn ends(&mut self, generation: GenerationId, exit: Exit) {
        self.dies(generation, 0, exit);
        self.settle_agenda();
    }

    // Time passes from one happening to the next.

    /// Whether everything that has happened was delivered.
    pub(crate) fn is_quiet(&self) -> bool {
        self.answers.is_empty() && self.queue.is_empty() && !self.killed.is_recovering()
    }

    pub(crate) fn is_suspended(&self) -> bool {
        self.suspended.is_some()
    }

    /// One event, or one thing that happens and may lead to some. False: nothing will ever happen again.
    pub(crate) fn advance(&mut self, until: u64) -> bool {
        if self.ended.is_some() {
            return false;
        }
        if let Some(event) = self.next_event() {
            self.step(event);
            return true;
        }
        let is_replaced = std::mem::take(&mut self.is_replaced);
        if is_replaced || (!self.orderly && self.steps % 64 == 5 && self.suspended.is_none()) {
            self.reexec();
            return true;
        }
        let happening = self.agenda.first_key_value().map(|((time, _), _)| *time);
        let tick = self.tick.filter(|_| self.suspended.is_none()).map(|(_, at)| at);
        R::waits(self, tick, happening);
        let (time, is_tick) = match (happening, tick) {
            (None, None) => return false,
            (Some(time), None) => (time, false),
            (None, Some(at)) => (at, true),
            (Some(time), Some(at)) if time == at => (time, self.orderly || self.rng.bool()),
            (Some(time), Some(at)) => (time.min(at), at < time),
        };
        if time > until {
            self.now = self.now.max(until);
            return false;
        }
        self.now = self.now.max(time);
        if is_tick {
            self.step(Event::Tick);
        } else if let Some((_, happening)) = self.agenda.pop_first() {
            self.happen(happening);
        }
        true
    }

    /// Everything that happens within this span.
    pub(crate) fn run_for(&mut self, span: u64) {
        let until = self.now.saturating_add(span);
        while self.advance(until) {}
        if self.ended.is_none() {
            self.now = self.now.max(until);
        }
    }

    /// Everything that happens now.
    pub(crate) fn settle(&mut self) {
        self.run_for(0);
    }

    /// The time of the core's next wake-up comes.
    pub(crate) fn skip_to_tick(&mut self) {
        if let Some((_, at)) = self.tick {
            while self.ended.is_none() && self.now < at && self.advance(at) {}
            self.settle();
        }
    }

    pub(crate) fn has_tick(&self) -> bool {
        self.tick.is_some()
    }

    fn settle_agenda(&mut self) {
        while let Some(entry) = self.agenda.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let happening = entry.remove();
            self.happen(happening);
        }
    }

    fn next_event(&mut self) -> Option<Event> {
        if let Some(event) = self.answers.pop_front() {
            return Some(event);
        }
        if self.suspended.is_some() {
            return None;
        }
        // Sources are read in a fixed order, but what happens between two reads can look out of order.
        if !self.orderly && self.queue.len() > 1 && self.rng.u8(..16) == 0 {
            self.queue.rotate_left(1);
        }
        loop {
            match self.queue.pop_front()? {
                // It has started another command since.
                Event::Cleared { generation } if self.is_unclear(generation) => {}
                // Nobody asks for it any more.
                Event::Connected if !self.net.watched || !self.is_connected() => {}
                Event::Connected => {
                    self.net.watched = false;
                    return Some(Event::Connected);
                }
                event => return Some(event),
            }
        }
    }

    // Each step hands an event to the core and carries out what it orders.

    fn step(&mut self, event: Event) {
        if self.is_killed_before(&event) {
            self.steps += 1;
            return self.next_life(Some(event), None);
        }
        let mut actions = std::mem::take(&mut self.actions);
        actions.clear();
        (self.steps, self.decided_at) = (self.steps + 1, self.now);
        self.trace.begin(self.now, &event);
        self.core.step(Time(self.now), event.clone(), &mut actions);
        let status = self.core.status();
        self.trace.step(self.now, &event, &actions, status.state);
        let wake = self.core.next_wake();
        let step = Step { event: &event, actions: &actions, status: &status, wake };
        R::decided(self, &step);
        self.compare_twin(&event, &actions);
        self.saved(&step);
        self.tick = wake.map(|(Time(time), _)| match self.tick {
            Some((wish, at)) if wish == time && at > self.now => (wish, at),
            _ => (time, time.max(self.now).saturating_add(self.delay())),
        });
        self.carry_out(&step);
        self.actions = actions;
    }

    /// Another process had the processor.
    fn delay(&mut self) -> u64 {
        if self.lateness == 0 || self.rng.u8(..8) > 0 { 0 } else { self.rng.u64(..self.lateness) }
    }

    fn compare_twin(&mut self, event: &Event, actions: &[Action]) {
        if let Some((twin, left)) = &mut self.twin {
            let mut same = Vec::new();
            twin.step(Time(self.now), event.clone(), &mut same);
            assert_eq!(same, actions, "reexec_roundtrip: the restored core decides differently");
            *left -= 1;
            if *left == 0 {
                assert_eq!(twin.save(), self.core.save(), "reexec_roundtrip: the restored core diverged");
                self.twin = None;
            }
        } else if self.twin_steps > 0 {
            let saved = self.core.save();
            let twin = Supervisor::restore(&saved)
                .unwrap_or_else(|error| panic!("reexec_roundtrip: {error}: {saved}"));
            assert_eq!(twin.save(), saved, "reexec_roundtrip: saved again, it differs");
            assert_eq!(twin.next_wake(), self.core.next_wake(), "reexec_roundtrip: next_wake");
            self.twin = Some((twin, self.twin_steps));
        }
    }

    /// The core goes on under a shell that has forgotten what it was told, and asked of others.
    fn reexec(&mut self) {
        self.core = Supervisor::restore(&self.core.save()).expect("what was saved is restored");
        self.twin = None;
        let held = self.net.held();
        self.net.forget(self.setting.steers);
        self.step(Event::Restored);
        assert_eq!(self.net.held(), held, "what the shell has to keep to is not ordered anew");
    }

    fn reread(&mut self) {
        let present = || Reread {
            policy: self.policy.clone(),
            holds_sockets: self.setting.holds_sockets,
            steers: self.setting.steers,
            stored_fds: 0,
        };
        let result = self.files.take().unwrap_or_else(|| Ok(present()));
        self.staged = result.as_ref().ok().cloned();
        let event = Event::Reread { result: result.map(Box::new) };
        if self.rereads_late {
            self.queue.push_back(event);
        } else {
            self.answers.push_front(event);
        }
    }

    /// What was read is adopted or discarded.
    fn decided(&mut self) -> Option<Reread> {
        let staged = self.staged.take();
        assert!(staged.is_some() || self.killed.is_repeated(), "Adopt or Discard once for what was read");
        staged
    }

    fn adopt_files(&mut self) {
        let Some(staged) = self.decided() else { return };
        self.policy = staged.policy;
        (self.setting.holds_sockets, self.setting.steers) = (staged.holds_sockets, staged.steers);
    }

    fn obey(&mut self, action: &Action) {
        match action {
            Action::Spawn { generation, slot, .. } => {
                self.take_slot(*slot);
                self.start(*generation, *slot, Part::Main);
            }
            Action::Run { generation, command, slot, .. } => {
                self.start(*generation, *slot, Part::Command(*command));
            }
            Action::AwaitClear { generation } => self.await_clear(*generation),
            Action::Reread => self.reread(),
            Action::Adopt => self.adopt_files(),
            Action::Discard => drop(self.decided()),
            Action::Kill { generation, signal, scope } => self.kill(*generation, *signal, *scope),
            Action::WakeOnConnection { on } => self.watch(*on),
            Action::Steer(steering) => self.steer(*steering),
            Action::Guard { slot, on } => self.guard(*slot, *on),
            Action::Rescue { slot } => self.rescue(*slot),
            Action::Ask(Question::Count { generation, slot, .. }) => self.count(*generation, *slot),
            Action::Ask(Question::Probe { generation, .. }) => self.probe(*generation),
            Action::Ask(Question::Look { generation, ask, .. }) => self.look(*generation, *ask),
            Action::Ask(Question::EndProbe { generation }) => self.end_probe(*generation),
            Action::Sweep { signal } => {
                self.sweeping = true;
                for id in self.groups.keys().copied().collect::<Vec<_>>() {
                    self.kill(id, *signal, Scope::All);
                }
                self.look_for_children();
            }
            Action::Reply { client, reply } => {
                self.replies.insert(*client, reply.clone());
            }
            Action::Reexec { client } => {
                self.replies.insert(*client, Reply::done(""));
                self.is_replaced = true;
            }
            Action::Suspend => {
                self.suspended = Some(self.now);
                let span = self.rng.u64(..5 * SECOND);
                self.plan(span, Happening::Continued);
            }
            Action::Exit(code) => self.ended = Some(*code),
            // The scripts of units.rs answer; elsewhere nobody has daemons.
            Action::FindMain { .. } => {}
            // Nothing comes back for these.
            Action::Forget { .. }
            | Action::Tell(_)
            | Action::Ask(Question::Hint { .. } | Question::Overflows)
            | Action::TellManager(_) => {}
        }
    }
}
