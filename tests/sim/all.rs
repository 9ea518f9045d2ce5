//! Every short history: all orders of a small set of events, for the policies that differ most.
//!
//! The processes do nothing by themselves here; what they do is one of the choices. Time stands still but for the
//! choice "next timer".

use std::collections::HashMap;

use socket_supervise::config::{
    Canary, Config, Handover, KillMode, Policy, Ready, Restart, Signal, Span, StartLimit,
};
use socket_supervise::core::report::State;
use socket_supervise::core::{Exit, GenerationId, Request, Setting, SlotId, Why};

use crate::kernel::{Moment, SECOND, Script};
use crate::world::World;

/// Events per history; before them, the first start. One less where slots are steered: there is more to choose from.
const DEPTH: u64 = 6;

/// An odometer: each run takes the recorded choices, then zeros; the next run differs in the last digit that can.
#[derive(Debug, Default)]
struct Odometer {
    digits: Vec<(usize, usize)>,
    at: usize,
    /// The digit that changed last: what comes before it has been run before.
    changed: usize,
}

impl Odometer {
    fn choose(&mut self, of: usize) -> usize {
        if self.at == self.digits.len() {
            self.digits.push((0, of));
        }
        let (digit, limit) = self.digits[self.at];
        assert_eq!(limit, of, "the same choices lead to the same state");
        self.at += 1;
        digit
    }

    fn is_new(&self) -> bool {
        self.at > self.changed
    }

    fn advance(&mut self) -> bool {
        self.at = 0;
        while let Some((digit, of)) = self.digits.pop() {
            if digit + 1 < of {
                self.changed = self.digits.len();
                self.digits.push((digit + 1, of));
                return true;
            }
        }
        false
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Choice {
    Ready(GenerationId),
    Exits(GenerationId, u8),
    /// Does what it was told.
    Obeys(GenerationId),
    /// What it has in flight is done.
    Answers(GenerationId),
    /// Something comes to a slot that has lost the traffic, or does not have it yet.
    Stray(SlotId),
    Timer,
    HangUp,
    Swap,
    Abort,
    Restart,
    Pause,
    Resume,
    Connection,
    Terminate,
}

/// What can happen next; nothing twice that has the same effect.
fn choices(world: &World, of: &mut Vec<Choice>) {
    of.clear();
    let status = world.status();
    let (oldest, newest) = (world.living().next(), world.living().next_back());
    for entry in status.generations.iter().filter(|entry| entry.ready_ms.is_none()) {
        of.push(Choice::Ready(GenerationId(entry.generation)));
    }
    if let Some(newest) = newest {
        of.extend([Choice::Exits(newest, 1), Choice::Exits(newest, 0)]);
    }
    of.extend(oldest.filter(|_| oldest != newest).map(|oldest| Choice::Exits(oldest, 1)));
    of.extend(world.living().find(|id| world.rules.was_told_to_stop(*id)).map(Choice::Obeys));
    if world.has_tick() {
        of.push(Choice::Timer);
    }
    if !world.is_connected() {
        of.push(Choice::Connection);
    }
    if world.setting.steers {
        of.extend(world.busy().map(Choice::Answers));
        of.extend(world.idle_slot().map(Choice::Stray));
    }
    if !world.setting.steers {
        of.push(Choice::HangUp);
    }
    // Elsewhere it only says that there is nothing to abort.
    if status.state == State::Swapping {
        of.push(Choice::Abort);
    }
    of.extend([Choice::Swap, Choice::Restart, Choice::Pause, Choice::Resume, Choice::Terminate]);
}

fn make(world: &mut World, choice: Choice) {
    match choice {
        Choice::Ready(id) => {
            world.accepts(id);
            world.says_ready(id);
        }
        Choice::Answers(id) => world.answers(id),
        Choice::Stray(slot) => world.arrive(slot, 1),
        Choice::Exits(id, code) => world.ends(id, Exit::Code(code)),
        Choice::Obeys(id) => world.ends(id, Exit::Signal { signal: Signal::TERM, core: false }),
        Choice::Timer => {
            // A look is no choice: whoever waits is seen in the next.
            while matches!(world.core.next_wake(), Some((_, Why::Look(_)))) {
                world.skip_to_tick();
            }
            world.skip_to_tick();
        }
        Choice::HangUp => world.signal(Signal::HUP),
        Choice::Swap => drop(world.request(Request::Swap { wait: true })),
        Choice::Abort => drop(world.request(Request::Abort)),
        Choice::Restart => drop(world.request(Request::Restart)),
        Choice::Pause => drop(world.request(Request::Pause)),
        Choice::Resume => drop(world.request(Request::Resume)),
        Choice::Connection => world.connect(),
        Choice::Terminate => world.signal(Signal::TERM),
    }
    world.settle();
}

/// States that were reached, and after how few choices: what follows from them is known.
type Reached = HashMap<u64, usize>;

fn play(world: &mut World, odometer: &mut Odometer, reached: &mut Reached) {
    world.default = Script { stubborn: true, stubborn_children: true, service: None, ..Script::idle() };
    // Elsewhere looks are for the hint alone, and here they would be most of the time.
    world.net.is_dark = world.policy.ready != Ready::Auto;
    world.settle();
    let mut depth = crate::number("DEPTH").unwrap_or(DEPTH);
    if world.killed.after_each_step.is_some() {
        depth -= 3;
    }
    if world.setting.steers {
        // What slots are for begins here: one serves, has a request in flight, and a candidate runs beside it.
        for choice in [Choice::Ready(GenerationId(1)), Choice::Connection, Choice::Swap] {
            make(world, choice);
        }
        depth -= 1;
    }
    let mut possible = Vec::new();
    for _ in 0..depth {
        if world.ended.is_some() {
            return;
        }
        choices(world, &mut possible);
        make(world, possible[odometer.choose(possible.len())]);
        if odometer.is_new() && world.ended.is_none() {
            let earliest = reached.entry(world.fingerprint()).or_insert(usize::MAX);
            if *earliest <= odometer.at {
                return;
            }
            *earliest = odometer.at;
        }
    }
    // From anywhere, two SIGTERM are the end.
    if world.ended.is_none() {
        world.signal(Signal::TERM);
        world.signal(Signal::TERM);
        world.run_for(10 * SECOND);
    }
    assert!(world.ended.is_some(), "stop_terminates: still {:?}", world.state());
}

/// One history; Err is the rule that was broken, with the trace if that was asked for.
fn run(
    policy: &Policy,
    setting: Setting,
    killed: Option<Moment>,
    traced: bool,
    odometer: &mut Odometer,
    reached: &mut Reached,
) -> Result<(), String> {
    odometer.at = 0;
    let mut world = World::new(0, policy.clone(), setting);
    world.trace.on = traced;
    (world.killed.after_each_step, world.killed.loses) = (killed, false);
    crate::caught(&mut world, |world| play(world, odometer, reached))
        .map_err(|broken| if traced { world.text() } else { broken })
}

/// All histories under one policy; how many there were.
fn every_history(name: &str, policy: &Policy, setting: Setting, killed: Option<Moment>) -> u32 {
    let (mut odometer, mut reached) = (Odometer::default(), Reached::new());
    let mut count = 0;
    loop {
        if let Err(broken) = run(policy, setting, killed, false, &mut odometer, &mut reached) {
            let again = run(policy, setting, killed, true, &mut odometer, &mut Reached::new());
            panic!(
                "{}{name}, killed {killed:?}, choices {:?}: {broken}",
                again.expect_err("the same history"),
                odometer.digits
            );
        }
        count += 1;
        if !odometer.advance() {
            return count;
        }
    }
}

const HOLDING: Setting = Setting { holds_sockets: true, steers: false, hup_ignored: false, init: false };

fn notifying() -> Policy {
    Policy { ready: Ready::Notify, bake: Span::ZERO, ..Config::for_command_line().policy }
}

/// Supervise is killed at this moment of each step, or never.
fn histories(killed: Option<Moment>) {
    let baked = Policy { bake: Span::from_secs(1), restart: Restart::Always, ..notifying() };
    let serial = Policy { handover: Handover::StopFirst, kill_mode: KillMode::ControlGroup, ..baked.clone() };
    let limit = StartLimit { burst: 2, ..notifying().start_limit };
    let bare =
        Policy { restart: Restart::No, start_limit: limit, kill_mode: KillMode::Process, ..notifying() };
    let auto = Policy { ready: Ready::Auto, start_limit: limit, ..baked.clone() };
    let init = Setting { init: true, ..HOLDING };
    let steered = Setting { steers: true, ..HOLDING };
    let canary = Canary { percent: 10, span: Span::from_secs(1) };
    let drain = Policy { bake: Span::from_secs(1), drain_quiet: Span::ZERO, ..notifying() };
    let canary = Policy { canary: Some(canary), drain: Span::ZERO, restart: Restart::Always, ..notifying() };
    let none = Setting { holds_sockets: false, ..HOLDING };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            every_history("bake", &baked, HOLDING, killed);
            every_history("serial", &serial, HOLDING, killed);
            every_history("canary", &canary, steered, killed);
        });
        every_history("drain", &drain, steered, killed);
        every_history("auto, limited", &auto, init, killed);
        every_history("no sockets", &bare, none, killed);
    });
}

#[test]
fn every_short_history() {
    histories(None);
}

#[test]
fn every_short_history_of_a_supervise_that_is_killed_in_each_step() {
    histories(Some(Moment::First));
    histories(Some(Moment::Last));
}
