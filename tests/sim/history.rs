//! One seeded history: a policy, servers and users made up from the seed, faults for a while, then calm, then the end.

use fastrand::Rng;
use socket_supervise::config::{
    Canary, Config, Handover, KillMode, Policy, Ready, Restart, RestartDelay, Signal, Span, StartLimit,
    StartLimitAction, StatusSet,
};
use socket_supervise::core::report::{Outcome, State};
use socket_supervise::core::{
    ClientId, Event, Exit, GenerationId, Notify, Request, Sender, Setting, Stage, Terminal,
};

use crate::check::{Check, calm_within};
use crate::kernel::{Happening, Health, MS, SECOND, SOCKETS, Script, failure};
use crate::pick;
use crate::world::World;

/// What a seed decides besides the policy: which trouble this history has at all, so that rare trouble is not
/// drowned in common trouble.
#[derive(Clone, Debug)]
pub(crate) struct Mood {
    server: [bool; TROUBLES],
    user: [bool; ACTS],
    /// The longest pause between two acts of the user.
    pace: u64,
    acts: u32,
}

/// Kinds of what a user does.
const ACTS: usize = 18;

/// Kinds of trouble that a server may have.
const TROUBLES: usize = 14;

/// Makes the world of this seed.
pub(crate) fn world(seed: u64) -> World {
    let mut rng = Rng::with_seed(seed);
    let setting = Setting {
        holds_sockets: rng.u8(..8) > 0,
        steers: rng.u8(..3) > 0,
        hup_ignored: rng.u8(..8) == 0,
        init: rng.u8(..4) == 0,
    };
    let policy = policy(&mut rng, setting.steers);
    let mood = Mood {
        server: std::array::from_fn(|_| rng.u8(..3) == 0),
        user: std::array::from_fn(|_| rng.bool()),
        pace: pick(&mut rng, &[5 * MS, 200 * MS, 2 * SECOND, 2 * SECOND, 20 * SECOND]),
        acts: rng.u32(200..500),
    };
    let setting = Setting { steers: setting.steers && setting.holds_sockets, ..setting };
    let is_blind = rng.u8(..12) == 0;
    let is_dark = rng.u8(..4) == 0;
    let mut world = World::new(rng.u64(..), policy, setting);
    world.net.is_blind = is_blind;
    world.net.is_frail = world.rng.u8(..6) == 0;
    world.net.is_dark = is_dark;
    (world.orderly, world.net.is_exact) = (false, false);
    (world.lateness, world.twin_steps) = (Check::LATE, 15);
    if setting.init {
        let (count, stubborn) = (rng.usize(..3), rng.bool());
        world.adopt_strangers(count, stubborn);
    }
    world.killed.is_random = true;
    world.killed.tells_ends = world.rng.bool();
    world.rules.mood = Some(mood);
    world.plan(0, Happening::User);
    world
}

/// Lives through the history; panics where a rule is broken.
pub(crate) fn live(world: &mut World) {
    while world.rules.mood.is_some() && world.ended.is_none() {
        assert!(world.advance(u64::MAX), "the user acts again, so something always comes");
    }
    if world.ended.is_none() {
        becomes_calm(world);
    }
    if world.ended.is_none() {
        swaps_when_asked(world);
    }
    if world.ended.is_none() {
        world.signal(Signal::TERM);
        world.run_for(60 * SECOND);
    }
    assert!(world.ended.is_some(), "stop_terminates: still {:?}", world.state());
}

/// Once every process behaves, every request is answered and the service rests.
fn becomes_calm(world: &mut World) {
    while !world.is_quiet() && world.advance(u64::MAX) {}
    world.heal();
    let by = world.now + calm_within(&world.policy);
    while world.ended.is_none() && !is_calm(world) {
        assert!(world.advance(by), "does not come to rest: {:?}", world.status());
    }
}

fn is_calm(world: &World) -> bool {
    let status = world.status();
    let rests = match status.state {
        State::Running => status.generations.len() == 1 && world.living().count() == 1,
        // A draining one would take the connection that is to start the next.
        State::Listening => world.setting.holds_sockets && world.living().count() == 0,
        State::Paused | State::Failed => true,
        State::Starting | State::Swapping | State::Waiting | State::Stopping => false,
    };
    let is_served =
        matches!(status.state, State::Paused | State::Failed) || world.net.waiting().next().is_none();
    rests && is_served && world.is_quiet() && world.rules.is_answered()
}

/// From any rest, a good server comes to serve, and is swapped for the next one.
fn swaps_when_asked(world: &mut World) {
    let span = calm_within(&world.policy);
    match world.state() {
        State::Listening => world.connect(),
        State::Paused => drop(world.request(Request::Resume)),
        State::Failed => drop(world.request(Request::Restart)),
        State::Running | State::Starting | State::Swapping | State::Waiting | State::Stopping => {}
    }
    let by = world.now + span;
    while world.ended.is_none() && world.state() != State::Running && world.advance(by) {}
    if world.ended.is_some() {
        return;
    }
    let before = world.status();
    if before.state == State::Failed {
        // The connection that came was one start too many.
        return;
    }
    assert_eq!(before.state, State::Running, "a good server does not come to serve");
    let client = world.request(Request::Swap { wait: true });
    let by = world.now + span;
    while world.ended.is_none() && world.reply(client).is_none() && world.advance(by) {}
    let swap = world.reply(client).and_then(|reply| reply.swap.clone()).expect("a swap is answered");
    assert_eq!(swap.outcome, Outcome::Swapped, "a good server is swapped in");
    assert_eq!(swap.from, before.generation);
    assert_eq!(world.status().generation, swap.to);
    world.begin_handshake();
    world.connect();
    world.run_for(span);
    assert!(world.ended.is_some() || world.net.waiting().next().is_none(), "liveness: {:?}", world.net);
}

fn policy(rng: &mut Rng, steers: bool) -> Policy {
    let base = Config::for_command_line().policy;
    if rng.u8(..4) == 0 {
        return base;
    }
    let secs = Span::from_secs;
    let millis = Span::from_millis;
    let canary = |percent, span| Some(Canary { percent, span: secs(span) });
    let handover = if steers { Handover::Steered } else { Handover::Shared };
    // Only a slot of its own can be asked.
    let asks = if steers { Ready::Http } else { Ready::Auto };
    let restarts = [
        Restart::No,
        Restart::OnSuccess,
        Restart::OnFailure,
        Restart::OnFailure,
        Restart::OnAbnormal,
        Restart::OnAbort,
        Restart::OnWatchdog,
        Restart::Always,
        Restart::Always,
        Restart::Always,
    ];
    let statuses = |rng: &mut Rng| {
        let mut set = StatusSet::default();
        if rng.u8(..4) == 0 {
            set.codes.insert(rng.u8(..4));
            set.signals.insert(Signal::ABRT);
        }
        set
    };
    Policy {
        restart: pick(rng, &restarts),
        delay: RestartDelay {
            base: pick(rng, &[Span::ZERO, millis(100), millis(100), secs(1), secs(5)]),
            steps: pick(rng, &[0, 8, 3]),
            max: pick(rng, &[secs(30), millis(500), Span::INFINITY]),
        },
        start_limit: StartLimit {
            burst: pick(rng, &[0, 0, 1, 5, 5]),
            interval: pick(rng, &[secs(10), Span::ZERO, Span::INFINITY, secs(60)]),
            action: pick(rng, &[StartLimitAction::None, StartLimitAction::None, StartLimitAction::Exit]),
        },
        success: statuses(rng),
        prevent: statuses(rng),
        force: statuses(rng),
        ready: pick(
            rng,
            &[Ready::Auto, asks, Ready::Notify, Ready::NotifyType, asks, Ready::Exec, Ready::Delay(secs(1))],
        ),
        timeout_start: pick(rng, &[secs(60), secs(2), millis(300), Span::INFINITY]),
        timeout_stop: pick(rng, &[secs(8), secs(1), Span::ZERO, Span::INFINITY]),
        kill_signal: pick(rng, &[Signal::TERM, Signal::TERM, Signal::INT, Signal::QUIT]),
        kill_mode: pick(rng, &[KillMode::Mixed, KillMode::Mixed, KillMode::ControlGroup, KillMode::Process]),
        watchdog: pick(rng, &[Span::ZERO, Span::ZERO, Span::ZERO, secs(3)]),
        bake: pick(rng, &[secs(1), Span::ZERO, secs(5), secs(20)]),
        drain: pick(rng, &[secs(10), secs(10), secs(1), Span::ZERO, Span::INFINITY]),
        drain_quiet: pick(rng, &[secs(1), millis(100), Span::ZERO]),
        canary: pick(rng, &[None, None, canary(10, 2), canary(50, 10), canary(99, 0)]),
        handover: pick(rng, &[handover, handover, handover, Handover::StopFirst]),
        ..Config::for_command_line().policy
    }
}

/// Makes the script of the next start.
fn script(rng: &mut Rng, policy: &Policy, troubles: &[bool; TROUBLES]) -> Script {
    let mut trouble = |kind: usize| troubles[kind] && rng.u8(..3) == 0;
    let hits: [bool; TROUBLES] = std::array::from_fn(&mut trouble);
    let watchdog = policy.watchdog.as_nanos();
    let mut script = Script::good();
    script.ready = Some(pick(rng, &[0, MS, 50 * MS, 500 * MS, 3 * SECOND]));
    script.lag = pick(rng, &[0, MS, 100 * MS, 3 * SECOND]);
    script.farewell = pick(rng, &[Some(0), None, Some(1), Some(143)]);
    script.children = rng.usize(..3);
    let soon = rng.u64(..4 * SECOND);
    let code = rng.u8(..4);
    let [
        never_ready,
        crashes,
        late,
        daemonizes,
        stubborn,
        hangs,
        bad_children,
        silent,
        said_and_died,
        signalled,
        deaf,
        early,
        ill,
        slow,
    ] = hits;
    if never_ready {
        script.ready = None;
    }
    if crashes {
        script.exits = Some((rng.u64(..200 * MS), Exit::Code(code)));
    }
    if late {
        script.exits = Some((soon * 5, Exit::Code(code)));
    }
    if signalled {
        let signal = pick(rng, &[Signal::KILL, Signal::ABRT, Signal::TERM, Signal::PIPE]);
        script.exits = Some((soon, Exit::Signal { signal, core: rng.bool() }));
    }
    if said_and_died {
        script.exits = Some((script.ready.unwrap_or(MS) + rng.u64(..2) * MS, Exit::Code(code)));
    }
    if daemonizes {
        script.exits = Some((rng.u64(..20 * MS), Exit::Code(0)));
        script.children += 1;
    }
    (script.is_deaf, script.is_early) = (deaf, early && !deaf);
    // Which of them is no matter where Ready= asks for something else.
    script.is_mute = policy.ready == Ready::Auto && rng.u8(..4) > 0;
    script.waits_on = pick(rng, &[&SOCKETS[..], &SOCKETS[..], &SOCKETS[..1], &[]]);
    script.health = if ill { pick(rng, &[Health::Bad, Health::Silent]) } else { Health::Good };
    script.service = pick(rng, &[Some(0), Some(5 * MS), Some(500 * MS)]);
    if slow {
        script.service = pick(rng, &[Some(5 * SECOND), Some(30 * SECOND), None]);
    }
    script.stubborn = stubborn;
    script.stubborn_children = bad_children;
    script.hang = if hangs { rng.u64(..6 * SECOND) } else { 0 };
    let left = if silent { rng.u32(..4) } else { u32::MAX };
    script.pings = (watchdog > 0).then_some((watchdog / 2, left));
    script
}

/// The next act of the user, or of the world outside; plans the one after it.
pub(crate) fn user_acts(world: &mut World) {
    let Some(mut mood) = world.rules.mood.take() else { return };
    if mood.acts == 0 {
        world.lateness = 0;
        return;
    }
    mood.acts -= 1;
    if world.scripts.is_empty() {
        let script = script(&mut world.rng, &world.policy, &mood.server);
        world.scripts.push_back(Ok(script));
    }
    let act = world.rng.usize(..mood.user.len());
    if mood.user[act] {
        acts(world, act);
    }
    let gap = match world.rng.u8(..4) {
        0 => 0,
        1 => world.rng.u64(..20 * MS),
        _ => world.rng.u64(..mood.pace),
    };
    world.plan(gap, Happening::User);
    world.rules.mood = Some(mood);
}

fn acts(world: &mut World, act: usize) {
    let rng = &mut world.rng;
    match act {
        0 => {
            let request = request(rng);
            let client = world.request(request);
            // Some do not wait for the answer.
            if world.rng.u8(..4) == 0 {
                world.push(Event::ClientGone { client });
            }
        }
        1 => drop(world.request(Request::Swap { wait: true })),
        2 => hang_up(world, 1),
        3 if rng.u8(..4) == 0 => hang_up(world, 20),
        4 | 5 => world.connect(),
        14 => world.begin_handshake(),
        15 if rng.u8(..4) == 0 => world.vandalize(),
        16 if rng.u8(..4) == 0 => world.lose_socket(),
        17 if rng.u8(..2) == 0 => world.freeze(),
        6 => start_fault(world),
        7 => chatter(world),
        8 => chatter(world),
        9 if rng.u8(..4) == 0 && !world.setting.init => world.signal(Signal::TSTP),
        10 => {
            let numbers = [10, 12, 28, 18, 34];
            let signal = Signal::from_number(pick(rng, &numbers)).expect("a signal number");
            world.signal(signal);
        }
        11 => main_process_ends(world),
        12 if rng.u8(..16) == 0 => stop(world),
        13 if rng.u8(..4) == 0 => {
            let signal = pick(rng, &[Signal::STOP, Signal::KILL, Signal::TERM, Signal::INT, Signal::CONT]);
            world.request(Request::Kill { signal });
        }
        _ => {}
    }
}

fn request(rng: &mut Rng) -> Request {
    match rng.u8(..10) {
        0 | 1 => Request::Swap { wait: rng.bool() },
        9 => Request::Abort,
        2 | 3 => Request::Restart,
        4 => Request::Pause,
        5 | 6 => Request::Resume,
        7 if rng.bool() => Request::Status { wait_ns: None },
        7 => Request::Reexec,
        _ => Request::Status { wait_ns: Some(pick(rng, &[0, MS, 2 * SECOND, u64::MAX])) },
    }
}

fn hang_up(world: &mut World, times: u32) {
    let storm = if times == 1 { 1 } else { world.rng.u32(1..times) };
    let sender =
        pick(&mut world.rng, &[Sender::Process, Sender::Process, Sender::SessionLeader, Sender::Kernel]);
    let terminal = if world.rng.u8(..16) == 0 { Terminal::Gone } else { Terminal::Unchanged };
    for _ in 0..storm {
        world.push(Event::Signalled { signal: Signal::HUP, sender, terminal });
    }
}

fn stop(world: &mut World) {
    match world.rng.u8(..5) {
        0 => world.signal(Signal::QUIT),
        1 => drop(world.request(Request::Stop)),
        _ => world.signal(Signal::TERM),
    }
    if world.rng.bool() {
        world.signal(Signal::INT);
    }
}

fn start_fault(world: &mut World) {
    let faults = [
        (Stage::Resources, 11),
        (Stage::Exec, 2),
        (Stage::Exec, 13),
        (Stage::Exec, 8),
        (Stage::Exec, 26),
        (Stage::Exec, 26),
        (Stage::Directory, 2),
        (Stage::Environment, 2),
    ];
    let (stage, errno) = pick(&mut world.rng, &faults);
    let span = pick(&mut world.rng, &[0, 100 * MS, SECOND, 5 * SECOND]);
    world.fault = Some((failure(stage, errno), world.now + span));
}

/// A datagram that nobody expects: from the dead, from those told to stop, twice.
fn chatter(world: &mut World) {
    let newest = world.newest().0 + 1;
    let generation = GenerationId(if world.rng.bool() { newest - 1 } else { world.rng.u64(..=newest) });
    let mut roll = || world.rng.u8(..4) == 0;
    let message = Notify {
        ready: roll(),
        watchdog: roll(),
        watchdog_trigger: roll() && roll(),
        status: roll().then(|| "serving".to_owned()),
        ..Notify::default()
    };
    world.say(generation, message);
    if world.rng.u8(..4) == 0 {
        let client = ClientId(world.rng.u64(1..=world.clients() + 1));
        if world.reply(client).is_some() {
            world.push(Event::ClientGone { client });
        }
    }
}

fn main_process_ends(world: &mut World) {
    let living: Vec<GenerationId> = world.living().collect();
    if !living.is_empty() {
        let generation = pick(&mut world.rng, &living);
        let exit = pick(
            &mut world.rng,
            &[Exit::Code(0), Exit::Code(1), Exit::Signal { signal: Signal::KILL, core: false }],
        );
        world.ends(generation, exit);
    }
}
