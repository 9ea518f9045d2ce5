//! The processes of the fake kernel: what they do by themselves, how they take signals, and how the shell hears of it.

use socket_supervise::config::Signal;
use socket_supervise::core::{
    Event, Exit, GenerationId, Notify, Sender, SlotId, Stage, StartFailure, Terminal, Traffic,
};

use super::{MS, SECOND, World};

/// A process that belongs to no generation: what PID 1 adopted.
pub(super) const STRANGERS: GenerationId = GenerationId(0);

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
pub(super) enum Life {
    Alive,
    Zombie(Exit),
    Gone,
}

/// One generation as the kernel sees it: process 0 is the main process, the others are its grandchildren.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) script: Script,
    pub(super) lives: Vec<Life>,
    pub(super) slot: SlotId,
    pub(super) accepts: bool,
    /// For good: its socket is not the one that clients find.
    pub(super) is_lost: bool,
    pub(super) traffic: Traffic,
    /// Stopped by a signal: nothing of it runs, what it would do is in `held`.
    pub(super) stopped: bool,
    /// Since when it is stopped by a signal, in nanoseconds.
    pub(super) stopped_at: u64,
    held: Vec<Happening>,
    /// The core waits for the last of them.
    awaited: bool,
}

impl Group {
    pub(super) fn is_empty(&self) -> bool {
        self.lives.iter().all(|life| *life == Life::Gone)
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Happening {
    Says {
        generation: GenerationId,
        message: Notify,
    },
    Accepts {
        generation: GenerationId,
    },
    Pings {
        generation: GenerationId,
        left: u32,
    },
    Dies {
        generation: GenerationId,
        who: usize,
        exit: Exit,
    },
    Answered {
        generation: GenerationId,
    },
    Quiet {
        generation: GenerationId,
    },
    Thaws {
        generation: GenerationId,
    },
    /// A late handshake.
    Completes {
        slot: SlotId,
    },
    Rescued {
        slot: SlotId,
    },
    /// To a question of Ready=http:.
    Replies {
        generation: GenerationId,
        number: u64,
    },
    /// The shell hears of the dead.
    Reaping,
    /// SIGCONT after we stopped ourselves.
    Continued,
    /// The next thing a user does.
    User,
}

impl World {
    pub(crate) fn is_alive(&self, generation: GenerationId) -> bool {
        self.groups.get(&generation).is_some_and(|group| group.lives[0] == Life::Alive)
    }

    pub(crate) fn living(&self) -> impl DoubleEndedIterator<Item = GenerationId> + '_ {
        self.groups.iter().filter(|(_, group)| group.lives[0] == Life::Alive).map(|(id, _)| *id)
    }

    /// Processes of all kinds that still run.
    pub(crate) fn processes(&self) -> usize {
        self.groups.values().flat_map(|group| &group.lives).filter(|life| **life == Life::Alive).count()
    }

    /// Adopted by PID 1 before anything else.
    pub(crate) fn adopt_strangers(&mut self, count: usize, stubborn: bool) {
        let script = Script { stubborn_children: stubborn, ..Script::idle() };
        self.adopt(STRANGERS, SlotId(0), script, count);
        if let Some(group) = self.groups.get_mut(&STRANGERS) {
            group.lives[0] = Life::Gone;
        }
    }

    /// From now on every process does as it is told, gets ready, and stays.
    pub(crate) fn heal(&mut self) {
        self.fault = None;
        self.tick = self.tick.map(|(wish, _)| (wish, wish.max(self.now)));
        self.scripts.clear();
        self.calm_traffic();
        let ids: Vec<GenerationId> = self.groups.keys().copied().collect();
        self.agenda.retain(|_, happening| {
            !matches!(
                happening,
                Happening::Dies { .. }
                    | Happening::Pings { .. }
                    | Happening::User
                    | Happening::Answered { .. }
            )
        });
        for id in ids {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            let pings = group.script.pings.map(|(every, _)| (every, u32::MAX));
            group.script = Script { pings, ..Script::good() };
            let told = self.check.was_told_to_stop(id) || group.lives[0] != Life::Alive;
            let count = group.lives.len();
            if std::mem::take(&mut group.stopped) {
                group.held.clear();
            }
            for who in 0..count {
                if told || who > 0 {
                    let exit = Exit::Signal { signal: Signal::KILL, core: false };
                    self.plan(SECOND, Happening::Dies { generation: id, who, exit });
                }
            }
            if !told {
                let message = Notify { ready: true, ..Notify::default() };
                self.plan(SECOND, Happening::Says { generation: id, message });
                self.plan(SECOND, Happening::Accepts { generation: id });
                if let Some((_, left)) = pings {
                    self.plan(0, Happening::Pings { generation: id, left });
                }
            }
        }
    }

    pub(super) fn spawn(&mut self, generation: GenerationId, slot: SlotId) {
        if !self.orderly {
            // fork(2) and execve(2) take their time.
            self.now += self.rng.u64(20_000..2 * MS);
        }
        let planned = match &self.fault {
            Some((failure, until)) if self.now < *until => Err(failure.clone()),
            Some(_) | None => self.scripts.pop_front().unwrap_or_else(|| Ok(self.default_script())),
        };
        match planned {
            Ok(script) => {
                let pid = 100 + generation.0 as u32;
                let children = script.children;
                self.trace.aside(self.now, || format!("g{} will {script:?}", generation.0));
                self.adopt(generation, slot, script, children);
                self.answers.push_back(Event::Started { generation, pid });
            }
            Err(failure) => self.answers.push_back(Event::StartFailed { generation, failure }),
        }
    }

    fn default_script(&self) -> Script {
        let watchdog = self.policy.watchdog.as_nanos();
        Script { pings: (watchdog > 0).then_some((watchdog / 2, u32::MAX)), ..self.default.clone() }
    }

    pub(super) fn adopt(&mut self, generation: GenerationId, slot: SlotId, script: Script, children: usize) {
        if script.is_early {
            self.plan(0, Happening::Accepts { generation });
        }
        if let Some(after) = script.ready {
            let message = Notify { ready: true, ..Notify::default() };
            if !script.is_mute {
                self.plan(after, Happening::Says { generation, message });
            }
            if !script.is_deaf {
                self.plan(after, Happening::Accepts { generation });
            }
        }
        if let Some((after, exit)) = script.exits {
            self.plan(after, Happening::Dies { generation, who: 0, exit });
        }
        if let Some((every, left)) = script.pings {
            self.plan(every, Happening::Pings { generation, left });
        }
        let group = Group {
            script,
            lives: vec![Life::Alive; 1 + children],
            slot,
            accepts: false,
            is_lost: false,
            traffic: Traffic::default(),
            stopped: false,
            stopped_at: 0,
            held: Vec::new(),
            awaited: false,
        };
        self.groups.insert(generation, group);
    }

    pub(super) fn kill(&mut self, generation: GenerationId, signal: Signal, whole: bool) {
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
            for happening in std::mem::take(&mut group.held) {
                self.plan(0, happening);
            }
            self.serve(slot);
            return;
        }
        let script = group.script.clone();
        let deadly = [Signal::INT, Signal::QUIT, Signal::ABRT, Signal::TERM, self.policy.kill_signal];
        let count = if whole { group.lives.len() } else { 1 };
        for who in 0..count {
            let stubborn = if who == 0 { script.stubborn } else { script.stubborn_children };
            let exit = match script.farewell {
                Some(code) if signal != Signal::KILL => Exit::Code(code),
                Some(_) | None => Exit::Signal { signal, core: signal == Signal::ABRT },
            };
            if signal == Signal::KILL {
                self.plan(script.hang, Happening::Dies { generation, who, exit });
            } else if !stubborn && deadly.contains(&signal) {
                self.plan(script.lag, Happening::Dies { generation, who, exit });
            }
        }
    }

    /// Somebody stops a server, of which nobody is told.
    pub(crate) fn freeze(&mut self) {
        let living: Vec<GenerationId> = self.living().collect();
        if !living.is_empty() {
            let id = living[self.rng.usize(..living.len())];
            self.kill(id, Signal::STOP, true);
            let after = self.rng.u64(..60 * SECOND);
            self.plan(after, Happening::Thaws { generation: id });
        }
    }

    pub(super) fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Says { generation, .. }
            | Happening::Accepts { generation }
            | Happening::Pings { generation, .. }
            | Happening::Answered { generation }
            | Happening::Replies { generation, .. }
            | Happening::Dies { generation, .. } => self.happen_in(generation, happening),
            Happening::Quiet { generation } => self.quiet(generation),
            Happening::Thaws { generation } => self.kill(generation, Signal::CONT, true),
            Happening::Completes { slot } => self.completes(slot),
            Happening::Rescued { slot } => self.rescued(slot),
            Happening::Reaping => self.reap(),
            Happening::Continued => self.continued(),
            Happening::User => crate::history::user_acts(self),
        }
    }

    fn happen_in(&mut self, generation: GenerationId, happening: Happening) {
        let Some(group) = self.groups.get_mut(&generation) else { return };
        let killed =
            matches!(happening, Happening::Dies { exit: Exit::Signal { signal: Signal::KILL, .. }, .. });
        if group.stopped && !killed {
            return group.held.push(happening);
        }
        let alive = group.lives[0] == Life::Alive;
        match happening {
            Happening::Says { message, .. } if alive => self.say(generation, message),
            Happening::Accepts { .. } if alive => {
                group.accepts = true;
                let slot = group.slot;
                self.serve(slot);
            }
            Happening::Pings { left, .. } if alive && left > 0 => {
                let every = group.script.pings.map_or(SECOND, |(every, _)| every);
                self.say(generation, Notify { watchdog: true, ..Notify::default() });
                self.plan(every, Happening::Pings { generation, left: left - 1 });
            }
            Happening::Answered { .. } if alive => self.answered(generation),
            Happening::Replies { number, .. } if alive => self.replies(generation, number),
            Happening::Dies { who, exit, .. } => self.dies(generation, who, exit),
            Happening::Says { .. }
            | Happening::Accepts { .. }
            | Happening::Pings { .. }
            | Happening::Answered { .. }
            | Happening::Replies { .. }
            | Happening::Quiet { .. }
            | Happening::Thaws { .. }
            | Happening::Completes { .. }
            | Happening::Rescued { .. }
            | Happening::Reaping
            | Happening::Continued
            | Happening::User => {}
        }
    }

    pub(super) fn dies(&mut self, generation: GenerationId, who: usize, exit: Exit) {
        let Some(group) = self.groups.get_mut(&generation) else { return };
        if group.lives[who] != Life::Alive {
            return;
        }
        group.lives[who] = Life::Zombie(exit);
        if who == 0 {
            group.accepts = false;
            group.traffic = Traffic::default();
        }
        // SIGCHLD merges, and we may be busy: the dead are found some time later, several at once.
        let delay = if self.orderly || self.rng.bool() { 0 } else { self.rng.u64(..50 * MS) };
        self.plan(delay, Happening::Reaping);
    }

    pub(super) fn reap(&mut self) {
        let mut found = Vec::new();
        for (id, group) in &mut self.groups {
            if let Life::Zombie(exit) = group.lives[0] {
                found.push(Event::Exited { generation: *id, exit });
            }
            for life in &mut group.lives {
                if let Life::Zombie(_) = life {
                    *life = Life::Gone;
                }
            }
            if group.is_empty() && std::mem::take(&mut group.awaited) {
                found.push(Event::Cleared { generation: *id });
            }
        }
        if !self.orderly {
            self.rng.shuffle(&mut found);
        }
        self.queue.extend(found);
        self.look_for_children();
    }

    /// `Cleared` comes at once where nothing is left, or never was.
    pub(super) fn await_clear(&mut self, generation: GenerationId) {
        match self.groups.get_mut(&generation) {
            Some(group) if !group.is_empty() => group.awaited = true,
            Some(_) | None => self.answers.push_back(Event::Cleared { generation }),
        }
    }

    pub(super) fn look_for_children(&mut self) {
        if self.sweeping && self.groups.values().all(Group::is_empty) {
            self.sweeping = false;
            self.queue.push_back(Event::Childless);
        }
    }

    pub(super) fn continued(&mut self) {
        if let Some(since) = self.suspended.take() {
            self.check.slept(self.now - since);
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

/// A start that failed in this step with this errno.
pub(crate) fn failure(stage: Stage, errno: i32) -> StartFailure {
    StartFailure { stage, errno, what: format!("{stage:?} failed with errno {errno}") }
}
