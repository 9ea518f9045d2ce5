//! Ready=auto, one history after the other: seen, seen late, never seen, not to be seen.

use socket_supervise::config::{Config, Policy, Ready, Span};
use socket_supervise::core::report::{Outcome, State};
use socket_supervise::core::{Exit, Request, Setting, Why};

use crate::kernel::{MS, SECOND, SOCKETS, Script};
use crate::world::World;

const STEERED: Setting = Setting { holds_sockets: true, steers: true, hup_ignored: false, init: false };

fn mute() -> Script {
    Script { is_mute: true, ..Script::good() }
}

fn begun(script: Script, setting: Setting) -> World {
    let policy = Policy { timeout_start: Span::from_secs(60), ..Config::for_command_line().policy };
    let mut world = World::new(0, policy, setting);
    world.scripts.push_back(Ok(script));
    world
}

fn ready_ms(world: &World, generation: u64) -> Option<u64> {
    world.status().generations.iter().find(|entry| entry.generation == generation)?.ready_ms
}

fn swap(world: &mut World, script: Script) -> Option<(Outcome, Option<String>)> {
    world.scripts.push_back(Ok(script));
    let client = world.request(Request::Swap { wait: true });
    world.run_for(90 * SECOND);
    world.reply(client)?.swap.as_ref().map(|swap| (swap.outcome, swap.reason.clone()))
}

#[test]
fn who_is_seen_is_ready_and_not_looked_at_any_more() {
    let mut world = begun(mute(), STEERED);
    world.run_for(SECOND);
    assert!(ready_ms(&world, 1).is_some_and(|ready| (20..40).contains(&ready)));
    assert!(!world.has_tick(), "{:?}", world.core.next_wake());
    assert_eq!(swap(&mut world, mute()), Some((Outcome::Swapped, None)));
}

#[test]
fn a_candidate_that_is_seen_late_is_ready_late_and_one_never_seen_is_rolled_back() {
    let mut world = begun(mute(), STEERED);
    world.run_for(SECOND);
    let late = Script { ready: Some(20 * SECOND), ..mute() };
    world.scripts.push_back(Ok(late));
    world.request(Request::Swap { wait: true });
    world.run_for(19 * SECOND);
    assert_eq!((world.state(), ready_ms(&world, 2)), (State::Swapping, None));
    world.run_for(2 * SECOND);
    assert!(ready_ms(&world, 2).is_some_and(|ready| (20_000..20_500).contains(&ready)));
    world.run_for(30 * SECOND);
    let never = swap(&mut world, Script { is_deaf: true, ..mute() });
    let reason = "generation 3 was not ready within 1min (nobody waits on http, https)".to_owned();
    assert_eq!(never, Some((Outcome::RolledBack, Some(reason))));
}

#[test]
fn a_candidate_is_wanted_where_the_current_one_was_seen() {
    let one = Script { waits_on: &SOCKETS[..1], ..mute() };
    let mut world = begun(one.clone(), STEERED);
    world.run_for(9 * SECOND);
    assert_eq!(ready_ms(&world, 1), None, "alone, and one of its sockets is left alone");
    world.run_for(2 * SECOND);
    assert_eq!(ready_ms(&world, 1), Some(10_000));
    assert_eq!(swap(&mut world, one.clone()), Some((Outcome::Swapped, None)));
    let other = Script { waits_on: &SOCKETS[1..], ..one };
    assert_eq!(swap(&mut world, other).map(|(outcome, _)| outcome), Some(Outcome::RolledBack));
    assert_eq!(swap(&mut world, mute()), Some((Outcome::Swapped, None)));
}

#[test]
fn where_nobody_ever_waited_a_second_of_life_has_to_do() {
    let mut world = begun(Script::idle(), STEERED);
    world.run_for(6 * SECOND);
    assert!(matches!(world.core.next_wake(), Some((_, Why::Look(_) | Why::Ready(_)))));
    world.run_for(10 * SECOND);
    assert_eq!(ready_ms(&world, 1), Some(10_000));
    assert!(!world.has_tick(), "{:?}", world.core.next_wake());
    let (outcome, reason) = swap(&mut world, Script::idle()).unwrap();
    assert_eq!(outcome, Outcome::TakenOverUnseen);
    assert!(
        reason
            .unwrap()
            .starts_with("generation 2 runs and gets the new connections, but no generation was ever seen")
    );
    assert_eq!(ready_ms(&world, 2), Some(1_000));
    assert!(!world.has_tick(), "{:?}", world.core.next_wake());
    assert_eq!(swap(&mut world, mute()), Some((Outcome::Swapped, None)));
}

/// It works on what it has accepted, so that nobody ever waits.
#[test]
fn who_has_accepted_counts_as_seen() {
    let busy = Script { waits_on: &[], service: None, ..mute() };
    let mut world = begun(busy.clone(), STEERED);
    world.connect();
    world.run_for(SECOND);
    assert!(ready_ms(&world, 1).is_none(), "one of its sockets is left alone");
    world.run_for(10 * SECOND);
    let never = Script { is_deaf: true, ..busy.clone() };
    let (outcome, reason) = swap(&mut world, never).unwrap();
    assert_eq!(outcome, Outcome::RolledBack);
    assert!(reason.unwrap().contains("(it has not accepted a connection from supervise)"));
    assert_eq!(swap(&mut world, busy), Some((Outcome::Swapped, None)));
}

/// It looks for clients from time to time, and there are none.
#[test]
fn who_is_never_seen_but_accepts_ours_is_ready_after_a_second() {
    let polls = Script { waits_on: &[], ..mute() };
    for setting in [STEERED, Setting { steers: false, ..STEERED }] {
        let mut world = begun(polls.clone(), setting);
        world.run_for(2 * SECOND);
        let ready = ready_ms(&world, 1).expect("ready");
        assert!((1_000..1_300).contains(&ready), "{ready} ms");
        assert!(!world.has_tick(), "{:?}", world.core.next_wake());
        assert_eq!(swap(&mut world, polls.clone()), Some((Outcome::Swapped, None)));
    }
}

#[test]
fn what_cannot_be_seen_has_to_accept_or_to_live_for_a_second() {
    for steers in [true, false] {
        let mut world = begun(mute(), Setting { steers, ..STEERED });
        world.net.is_dark = true;
        world.run_for(2 * SECOND);
        let ready = ready_ms(&world, 1).expect("ready");
        assert_eq!(ready < 100, steers, "{ready} ms");
        let never = Script { is_deaf: true, ..mute() };
        let wanted = if steers { Outcome::RolledBack } else { Outcome::TakenOverUnseen };
        assert_eq!(swap(&mut world, never).map(|(outcome, _)| outcome), Some(wanted));
    }
}

#[test]
fn who_once_said_ready_has_to_say_it_again() {
    let mut world = begun(Script::good(), STEERED);
    world.run_for(SECOND);
    assert!(!world.has_tick(), "{:?}", world.core.next_wake());
    assert_eq!(swap(&mut world, mute()).map(|(outcome, _)| outcome), Some(Outcome::RolledBack));
    assert_eq!(
        swap(&mut world, Script { ready: Some(5 * MS), ..Script::good() }),
        Some((Outcome::Swapped, None))
    );
}

#[test]
fn where_the_current_one_waits_ready_alone_is_not_enough() {
    for ready in [Ready::Auto, Ready::NotifyType, Ready::Notify] {
        let policy =
            Policy { ready, timeout_start: Span::from_secs(60), ..Config::for_command_line().policy };
        let mut world = World::new(0, policy, STEERED);
        world.scripts.push_back(Ok(Script::good()));
        world.run_for(SECOND);
        assert!(ready_ms(&world, 1).is_some());
        let deaf = Script { is_deaf: true, ..Script::good() };
        let (outcome, reason) = swap(&mut world, deaf).unwrap();
        if ready == Ready::Notify {
            assert_eq!(outcome, Outcome::Swapped, "it is what the user asked for");
        } else {
            assert_eq!(outcome, Outcome::RolledBack, "{ready:?}");
            let reason = reason.unwrap();
            assert!(reason.contains("(it said READY=1, but nobody waits on http, https)"), "{reason}");
            assert_eq!(swap(&mut world, Script::good()), Some((Outcome::Swapped, None)));
        }
    }
}

#[test]
fn only_the_one_that_serves_says_what_the_next_has_to_say() {
    let mut world = begun(mute(), STEERED);
    world.run_for(SECOND);
    let dies = Script { exits: Some((300 * MS, Exit::Code(1))), ..Script::good() };
    assert_eq!(swap(&mut world, dies).map(|(outcome, _)| outcome), Some(Outcome::RolledBack));
    assert_eq!(swap(&mut world, mute()), Some((Outcome::Swapped, None)));
    // One that says it is followed by one that does not only when that is all there is.
    assert_eq!(swap(&mut world, Script::good()), Some((Outcome::Swapped, None)));
    let (outcome, reason) = swap(&mut world, mute()).unwrap();
    assert_eq!(outcome, Outcome::RolledBack);
    assert!(reason.unwrap().contains("sent no READY=1, as the one that serves did"));
    world.scripts.push_back(Ok(mute()));
    world.request(Request::Restart);
    world.run_for(20 * SECOND);
    assert_eq!(swap(&mut world, mute()), Some((Outcome::Swapped, None)));
}
