//! The known races of hand-over and restart, one by one, each in the order of events that hurts.

use socket_supervise::config::{Config, Policy, Ready, Restart, Signal, Span, StartLimit, StartLimitAction};
use socket_supervise::core::report::{Outcome, State};
use socket_supervise::core::{ClientId, Exit, GenerationId, Request, Setting, Stage, limits};

use crate::kernel::{MS, SECOND, Script, failure};
use crate::world::World;

const FIRST: GenerationId = GenerationId(1);
const SECOND_ONE: GenerationId = GenerationId(2);

fn policy() -> Policy {
    Policy { ready: Ready::Notify, timeout_start: Span::from_secs(5), ..Config::for_command_line().policy }
}

/// Generation 1 serves.
fn serving(policy: Policy) -> World {
    served_by(Script::good(), policy)
}

fn served_by(script: Script, policy: Policy) -> World {
    let setting = Setting { holds_sockets: true, steers: false, hup_ignored: false, init: false };
    let mut world = World::new(0, policy, setting);
    world.scripts.push_back(Ok(script));
    world.run_for(SECOND);
    assert_serves(&world, 1);
    world
}

fn swap_to(world: &mut World, script: Script) -> ClientId {
    world.scripts.push_back(Ok(script));
    world.request(Request::Swap { wait: true })
}

#[track_caller]
fn assert_serves(world: &World, generation: u64) {
    let status = world.status();
    assert_eq!((status.state, status.generation), (State::Running, Some(generation)), "{status:?}");
}

#[track_caller]
fn assert_untouched(world: &World, id: GenerationId) {
    assert!(world.is_alive(id) && !world.rules.was_told_to_stop(id), "{id:?} was touched");
}

#[track_caller]
fn outcome(world: &World, client: ClientId) -> (u8, Outcome) {
    let reply = world.reply(client).expect("answered");
    (reply.exit, reply.swap.as_ref().expect("the answer to a swap").outcome)
}

#[test]
fn a_candidate_that_exits_in_the_gate_is_rolled_back_and_not_tried_again() {
    let mut world = serving(policy());
    let client = swap_to(&mut world, Script::dies(10 * MS, 1));
    world.run_for(60 * SECOND);
    assert_eq!(outcome(&world, client), (1, Outcome::RolledBack));
    assert_serves(&world, 1);
    assert_untouched(&world, FIRST);
    assert_eq!(world.newest(), SECOND_ONE, "a swap is not repeated by itself");
    let client = swap_to(&mut world, Script::good());
    world.run_for(10 * SECOND);
    assert_eq!(outcome(&world, client), (0, Outcome::Swapped));
    assert_serves(&world, 3);
}

#[test]
fn a_candidate_that_dies_in_the_bake_gives_the_traffic_back() {
    let mut world = serving(policy());
    let exits = Some((500 * MS, Exit::Code(1)));
    let client = swap_to(&mut world, Script { exits, ..Script::good() });
    world.run_for(10 * SECOND);
    assert_eq!(outcome(&world, client), (1, Outcome::RolledBack));
    assert_serves(&world, 1);
    assert_untouched(&world, FIRST);
    assert_eq!(world.status().restarts, 0);
}

#[test]
fn a_new_generation_that_dies_after_the_bake_is_restarted() {
    let mut world = serving(policy());
    let exits = Some((5 * SECOND, Exit::Code(1)));
    let client = swap_to(&mut world, Script { exits, ..Script::good() });
    world.run_for(10 * SECOND);
    assert_eq!(outcome(&world, client), (0, Outcome::Swapped));
    assert_serves(&world, 3);
    assert_eq!(world.status().restarts, 1);
}

#[test]
fn a_candidate_that_hangs_in_the_gate_is_killed_and_the_old_one_goes_on() {
    let mut world = serving(policy());
    let client = swap_to(&mut world, Script { stubborn: true, ..Script::idle() });
    world.run_for(5 * SECOND);
    assert_eq!(outcome(&world, client), (1, Outcome::RolledBack));
    assert!(world.is_alive(SECOND_ONE), "it ignores SIGTERM");
    world.run_for(limits::FAILED_CANDIDATE.as_nanos());
    assert!(!world.is_alive(SECOND_ONE));
    assert_serves(&world, 1);
    assert_untouched(&world, FIRST);
}

#[test]
fn a_server_that_daemonizes_has_failed_and_its_daemon_is_killed() {
    let mut world = serving(policy());
    let client =
        swap_to(&mut world, Script { children: 1, stubborn_children: true, ..Script::dies(5 * MS, 0) });
    world.run_for(SECOND);
    assert_eq!(outcome(&world, client), (1, Outcome::RolledBack));
    assert_eq!(world.processes(), 1, "the daemon is gone, generation 1 is there");
    assert_serves(&world, 1);
}

#[test]
fn an_old_generation_that_does_not_stop_is_killed_and_the_swap_succeeds() {
    let mut world = served_by(Script { stubborn: true, children: 2, ..Script::good() }, policy());
    let client = swap_to(&mut world, Script::good());
    world.run_for(2 * SECOND);
    assert_eq!(outcome(&world, client), (0, Outcome::Swapped));
    assert!(world.is_alive(FIRST));
    world.run_for(policy().timeout_stop.as_nanos());
    assert_eq!(world.processes(), 1);
    assert_serves(&world, 2);
}

#[test]
fn requests_during_a_swap_are_one_more_swap_that_begins_after_them() {
    let mut world = serving(policy());
    let first = swap_to(&mut world, Script { ready: Some(2 * SECOND), ..Script::good() });
    world.run_for(SECOND);
    let later = [world.request(Request::Swap { wait: true }), world.request(Request::Swap { wait: true })];
    for _ in 0..100 {
        world.signal(Signal::HUP);
    }
    world.run_for(60 * SECOND);
    let to = |client| world.reply(client).and_then(|reply| reply.swap.as_ref()).and_then(|swap| swap.to);
    assert_eq!(to(first), Some(2));
    assert_eq!(later.map(to), [Some(3); 2]);
    assert_serves(&world, 3);
    assert_eq!(world.newest(), GenerationId(3), "100 hang-ups are one swap");
}

#[test]
fn a_hang_up_while_waiting_to_restart_starts_at_once() {
    let mut slow = policy();
    slow.delay.base = Span::from_secs(25);
    let mut world = serving(slow);
    world.ends(FIRST, Exit::Code(1));
    world.run_for(SECOND);
    assert_eq!(world.state(), State::Waiting);
    world.signal(Signal::HUP);
    world.run_for(SECOND);
    assert_serves(&world, 2);
    world.run_for(60 * SECOND);
    assert_eq!(world.newest(), SECOND_ONE, "the timer is gone");
}

#[test]
fn a_stop_during_a_swap_ends_both_and_drops_the_next_swap() {
    let mut world = serving(policy());
    let client = swap_to(&mut world, Script::idle());
    world.run_for(SECOND);
    world.signal(Signal::HUP);
    world.signal(Signal::TERM);
    world.run_for(SECOND);
    assert_eq!(world.ended, Some(0));
    assert_eq!(world.reply(client).map(|reply| reply.exit), Some(1));
    assert_eq!((world.newest(), world.processes()), (SECOND_ONE, 0));
}

#[test]
fn a_second_stop_signal_kills_at_once() {
    let mut world = served_by(Script { stubborn: true, ..Script::good() }, policy());
    world.signal(Signal::TERM);
    world.run_for(SECOND);
    assert_eq!(world.ended, None);
    world.signal(Signal::INT);
    world.settle();
    assert_eq!((world.ended, world.processes()), (Some(0), 0));
}

#[test]
fn a_stop_in_the_same_breath_as_a_start_leaves_nobody() {
    let mut world = serving(policy());
    world.signal(Signal::HUP);
    world.signal(Signal::TERM);
    world.run_for(SECOND);
    assert_eq!((world.ended, world.processes()), (Some(0), 0));
}

/// Both are tried again while we sleep, the candidate first, and it is ready as soon as it runs.
#[test]
fn a_start_that_a_swap_overtakes_is_stopped_when_it_has_started() {
    let mut world = serving(Policy { ready: Ready::Exec, bake: Span::ZERO, ..policy() });
    world.ends(FIRST, Exit::Code(1));
    world.fault = Some((failure(Stage::Exec, 26), world.now + SECOND / 2));
    world.run_for(110 * MS);
    let client = world.request(Request::Swap { wait: true });
    world.run_for(11 * MS);
    world.signal(Signal::TSTP);
    world.fault = None;
    world.run_for(10 * SECOND);
    assert_eq!(outcome(&world, client), (0, Outcome::Swapped));
    assert_serves(&world, 3);
    assert_eq!(world.processes(), 1);
}

#[test]
fn an_old_generation_that_dies_first_leaves_the_candidate_as_all_there_is() {
    let mut world = serving(policy());
    let client = swap_to(&mut world, Script { ready: Some(2 * SECOND), ..Script::good() });
    world.run_for(SECOND);
    world.ends(FIRST, Exit::Code(1));
    world.connect();
    world.run_for(SECOND / 2);
    let status = world.status();
    assert_eq!((status.state, status.generation), (State::Starting, Some(2)));
    world.run_for(SECOND);
    assert_serves(&world, 2);
    assert!(!world.is_connected(), "the connection that waited was accepted");
    assert_eq!(world.reply(client).map(|reply| reply.exit), Some(0));
    assert_eq!((world.newest(), world.status().restarts), (SECOND_ONE, 0));
}

#[test]
fn when_both_die_the_sockets_stay_and_the_server_is_restarted() {
    let mut world = serving(policy());
    let client = swap_to(&mut world, Script::dies(2 * SECOND, 1));
    world.run_for(SECOND);
    world.ends(FIRST, Exit::Code(1));
    world.connect();
    world.run_for(SECOND + MS);
    assert_eq!(world.state(), State::Waiting);
    assert_eq!(world.reply(client).map(|reply| reply.exit), Some(1));
    world.run_for(SECOND);
    assert_serves(&world, 3);
    assert!(!world.is_connected());
}

#[test]
fn the_start_limit_ends_in_failed_with_the_sockets_held() {
    let limit = StartLimit { burst: 3, interval: Span::from_secs(100), action: StartLimitAction::None };
    let mut world = serving(Policy { start_limit: limit, ..policy() });
    for _ in 0..9 {
        world.scripts.push_back(Err(failure(Stage::Exec, 8)));
    }
    world.ends(FIRST, Exit::Code(1));
    world.run_for(100 * SECOND);
    world.connect();
    world.run_for(100 * SECOND);
    assert_eq!((world.state(), world.ended, world.has_tick()), (State::Failed, None, false));
    world.scripts.clear();
    let client = world.request(Request::Restart);
    world.run_for(SECOND);
    assert_eq!(world.reply(client).map(|reply| reply.exit), Some(0));
    assert_eq!(world.state(), State::Running);
}

#[test]
fn an_old_generation_that_exits_in_the_bake_is_not_signalled() {
    let mut world = serving(policy());
    let client = swap_to(&mut world, Script::good());
    world.run_for(SECOND / 2);
    world.ends(FIRST, Exit::Code(0));
    world.run_for(SECOND);
    assert_eq!(outcome(&world, client), (0, Outcome::Swapped));
    assert_serves(&world, 2);
    assert_eq!(world.processes(), 1);
}

#[test]
fn a_connection_that_came_while_the_server_was_ending_starts_it_again() {
    let mut world = serving(Policy { ready: Ready::Auto, ..policy() });
    world.ends(FIRST, Exit::Code(0));
    world.run_for(SECOND);
    assert_eq!(world.state(), State::Listening);
    world.scripts.push_back(Ok(Script::dies(10 * MS, 0)));
    world.connect();
    world.run_for(SECOND);
    assert_serves(&world, 3);
    assert_eq!((world.is_connected(), world.status().restarts), (false, 0));
}

#[test]
fn a_server_that_accepts_nothing_is_not_started_without_end() {
    let mut world = serving(Policy { ready: Ready::Auto, ..policy() });
    world.ends(FIRST, Exit::Code(0));
    world.run_for(SECOND);
    world.default = Script::dies(MS, 0);
    world.connect();
    world.run_for(SECOND);
    assert_eq!(world.state(), State::Listening);
    assert_eq!(world.newest().0, 1 + u64::from(policy().trigger_limit.burst));
    world.default = Script::good();
    world.run_for(policy().trigger_limit.interval.as_nanos());
    assert_eq!(world.state(), State::Running);
    assert!(!world.is_connected(), "the connection has waited in the queue");
}

/// Both requests are there before the files are read.
#[test]
fn a_swap_is_aborted_while_the_files_are_read() {
    let mut world = serving(policy());
    world.rereads_late = true;
    let swap = world.request(Request::Swap { wait: true });
    let abort = world.request(Request::Abort);
    world.run_for(SECOND);
    let replies = [swap, abort].map(|client| world.reply(client).expect("answered"));
    assert_eq!(replies.map(|reply| reply.exit), [1, 0], "{replies:?}");
    assert!(replies[0].text.contains("supervise abort"), "{replies:?}");
    assert_serves(&world, 1);
    assert_eq!(world.newest(), FIRST, "no candidate was started");
    // What was read then does not count, and what is read for the next swap does.
    let client = swap_to(&mut world, Script::good());
    world.run_for(5 * SECOND);
    assert_eq!(outcome(&world, client), (0, Outcome::Swapped));
}

/// Supervise is killed when it has read WATCHDOG=1, and the next one comes later than WatchdogSec= after the one before.
#[test]
fn a_ping_that_a_killed_supervise_has_read_is_no_silence() {
    let script = Script { pings: Some((2 * SECOND, u32::MAX)), ..Script::good() };
    let mut world = served_by(script, Policy { watchdog: Span::from_secs(3), ..policy() });
    world.killed.reading = true;
    world.run_for(10 * SECOND);
    assert!(!world.killed.reading);
    assert_serves(&world, 1);
}

/// A process that ended while nobody watched, and of which nobody knows how, has failed.
#[test]
fn an_exit_that_nobody_saw_is_a_failure() {
    for (restart, serves) in
        [(Restart::OnFailure, true), (Restart::OnAbnormal, true), (Restart::OnAbort, false)]
    {
        let mut world = serving(Policy { restart, ..policy() });
        world.killed.tells_ends = false;
        world.killed.reading = true;
        world.ends(FIRST, Exit::Code(0));
        world.run_for(SECOND);
        let state = if serves { State::Running } else { State::Listening };
        assert_eq!((world.state(), world.killed.reading), (state, false), "{restart:?}");
    }
}
