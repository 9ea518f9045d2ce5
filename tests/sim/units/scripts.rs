//! What the processes of units.rs do: when they end, what they say, which of them is the main one, and what the files
//! say when they are read anew. All of it is drawn when the core orders what leads to it.

use fastrand::Rng;
use socket_supervise::config::{Policy, Signal, Type};
use socket_supervise::core::{
    Action, Event, Exit, Found, GenerationId, Notify, Reread, Scope, Setting, SlotId, Stage, StartFailure,
    Supervisor, limits,
};

use super::Units;
use super::rules::{Seen, UnitRules};
use crate::kernel::{Deed, Group, Health, MS, Part, SECOND, SOCKETS, Script, failure};
use crate::pick;

/// What every EXTEND_TIMEOUT_USEC= asks for.
pub(super) const EXTENSION: u64 = 3 * SECOND;

impl Units {
    pub(super) fn new(rng: Rng, policy: Policy, setting: Setting) -> Self {
        let rules = UnitRules::new(Supervisor::new(policy.clone(), setting).status());
        let mut units = Self::under(rules, rng, policy, setting);
        (units.net.is_exact, units.twin_steps) = (false, 4);
        (units.killed.is_random, units.killed.tells_ends) = (true, units.rng.bool());
        units
    }

    pub(super) fn of(&mut self, id: GenerationId) -> &mut Group<Seen> {
        self.groups.get_mut(&id).expect("an order for a generation that was begun")
    }

    /// A client that was not answered yet goes away.
    pub(super) fn client_goes(&mut self) {
        if let Some(client) = self.rules.some_client() {
            self.push(Event::ClientGone { client });
        }
    }

    /// Something comes to a slot that nobody serves.
    pub(super) fn stray(&mut self) {
        let slot = SlotId(self.rng.u8(..limits::GENERATIONS as u8));
        if self.net.guarded.contains(&slot) && self.setting.steers {
            self.arrive(slot, 1);
        }
    }

    /// Draws what this order leads to.
    pub(super) fn draw(&mut self, action: &Action) {
        match action {
            Action::Spawn { generation, .. } => {
                let script = self.draw_main(*generation);
                self.scripts.push_back(script);
            }
            Action::Run { generation, .. } => {
                let script = self.draw_command(*generation);
                self.scripts.push_back(script);
            }
            Action::Kill { generation, signal, scope: Scope::Main } => {
                self.answers_reload(*generation, *signal)
            }
            Action::FindMain { generation } => {
                let found = self.find_main(*generation);
                self.answers.push_back(Event::MainSought { generation: *generation, found });
            }
            Action::Reread => self.files = Some(self.draw_files()),
            // A frail kernel refuses one of three.
            Action::Steer(_) => self.net.is_frail = self.rng.u8(..16) < 3,
            Action::Rescue { .. } => self.net.is_frail = self.rng.u8(..4) < 3,
            Action::Ask(_) => {
                (self.net.is_blind, self.net.is_dark) = (self.rng.u8(..8) == 0, self.rng.u8(..4) == 0);
            }
            _ => {}
        }
    }

    /// Unless it hangs, a process ends by itself some time.
    fn script(&mut self, longest: u64) -> Script {
        let rng = &mut self.rng;
        let exit = match rng.u8(..12) {
            0 => Exit::Code(rng.u8(1..)),
            1 => Exit::Code(255),
            2 => Exit::Signal { signal: Signal::ABRT, core: rng.bool() },
            _ => Exit::Code(0),
        };
        let exits = (rng.u8(..8) > 0).then(|| (rng.u64(..longest), exit));
        // Some die with others, in the same instant.
        let lag = if rng.bool() { 0 } else { rng.u64(..200 * MS) };
        let stubborn = rng.u8(..5) == 0;
        Script { exits, stubborn, lag, hang: lag, farewell: None, ..Script::idle() }
    }

    /// What is left in a queue is accepted, by most.
    fn server(&mut self, longest: u64) -> Script {
        let script = self.script(longest);
        let rng = &mut self.rng;
        Script {
            ready: Some(rng.u64(..SECOND)),
            is_mute: true,
            is_deaf: rng.u8(..8) == 0,
            waits_on: pick(rng, &[&SOCKETS[..], &SOCKETS[..], &SOCKETS[..1], &[]]),
            service: pick(rng, &[Some(0), Some(SECOND), Some(10 * SECOND), None]),
            health: pick(rng, &[Health::Good, Health::Good, Health::Bad, Health::Silent]),
            ..script
        }
    }

    fn leaves(&mut self, id: GenerationId) {
        if self.rng.u8(..6) == 0 {
            let script = self.script(10 * SECOND);
            self.add(id, Part::Other, script);
        }
    }

    fn draw_main(&mut self, id: GenerationId) -> Result<Script, StartFailure> {
        match self.rng.u8(..20) {
            0 => return Err(failure(Stage::Exec, 13)),
            1 => return Err(failure(Stage::Exec, 26)),
            _ => {}
        }
        let never_found = self.rng.u8(..6) == 0;
        let group = self.of(id);
        group.seen.never_found = never_found;
        let is_short = matches!(group.policy.service_type, Type::Forking | Type::Oneshot);
        let script = self.server(if is_short { SECOND } else { 30 * SECOND });
        self.leaves(id);
        self.will_say(id);
        Ok(script)
    }

    fn draw_command(&mut self, id: GenerationId) -> Result<Script, StartFailure> {
        if self.rng.u8(..15) == 0 {
            return Err(failure(Stage::Exec, 2));
        }
        let script = self.script(2 * SECOND);
        self.leaves(id);
        Ok(script)
    }

    fn will_say(&mut self, generation: GenerationId) {
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
            let mut message = Notify::default();
            let after = self.rng.u64(..3 * SECOND);
            message.monotonic_usec = Some((self.now + after) / 1_000);
            // READY=1 is what most servers say most of the time.
            let which = if self.rng.bool() { 0 } else { self.rng.usize(..words.len()) };
            words[which](&mut message);
            self.will(generation, after, Deed::Says(message));
        }
        if self.rng.u8(..8) == 0 {
            let after = self.rng.u64(..3 * SECOND);
            self.will(generation, after, Deed::MovesMain);
        }
    }

    /// A server that knows Type=notify-reload does as it says.
    fn answers_reload(&mut self, generation: GenerationId, signal: Signal) {
        if signal == self.of(generation).policy.reload_signal && self.rng.u8(..4) > 0 {
            let now = self.now / 1_000 + 1;
            let reloading = Notify { reloading: true, monotonic_usec: Some(now), ..Notify::default() };
            let ready = Notify { ready: true, ..Notify::default() };
            self.will(generation, MS, Deed::Says(reloading));
            self.will(generation, 20 * MS, Deed::Says(ready));
        }
    }

    /// Only a process of the server can say so, and only while there is one.
    pub(super) fn moves_main(&mut self, id: GenerationId) {
        if self.killed.is_recovering() {
            // The shell reads of it when it is itself again.
            return self.will(id, 100 * MS, Deed::MovesMain);
        }
        let group = self.of(id);
        let can = group.main().is_some() || group.has_others();
        if can && !group.seen.has_ended() {
            for process in group.processes.iter_mut().filter(|process| process.part == Part::Main) {
                process.part = Part::Other;
            }
            let script = self.server(20 * SECOND);
            let pid = self.add(id, Part::Main, script);
            self.push(Event::MainChanged { generation: id, pid });
        }
    }

    fn find_main(&mut self, id: GenerationId) -> Found {
        let choice = if self.of(id).seen.never_found { 0 } else { self.rng.u8(..6) };
        match choice {
            0 => Found::NotYet,
            1 if self.of(id).is_empty() => Found::Nobody,
            2 => {
                let script = self.script(10 * SECOND);
                self.add(id, Part::Other, script);
                Found::Unknown
            }
            _ => {
                let script = self.server(30 * SECOND);
                Found::Main(self.add(id, Part::Main, script))
            }
        }
    }

    fn draw_files(&mut self) -> Result<Reread, String> {
        let rng = &mut self.rng;
        if rng.u8(..4) == 0 {
            return Err("web.service:7: broken".to_owned());
        }
        let policy = if rng.bool() { super::policy(rng) } else { self.policy.clone() };
        let holds_sockets = self.setting.holds_sockets ^ (rng.u8(..8) == 0);
        let steers = holds_sockets && (self.setting.steers ^ (rng.u8(..8) == 0));
        Ok(Reread { policy, holds_sockets, steers, stored_fds: rng.usize(..8).saturating_sub(6) })
    }
}
