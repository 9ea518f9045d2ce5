//! Swaps under load and in odd moments: no request on a fresh connection fails, and each request to swap has one end.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::load::{Counts, Load, answer, ask, connect, get};
use super::support::{Daemon, Launch, Place, SUPERVISE, Verb, example, proc_status, wait_for};

#[track_caller]
fn assert_clean(counts: &Counts) {
    assert!(counts.failed() == 0 && counts.late == 0 && counts.ok > 0, "{counts}");
}

/// The measure itself: a server that is killed with requests in flight must show, or the tests below prove nothing.
#[test]
fn the_load_sees_what_a_crash_cuts_off() {
    let place = Place::new();
    let mut daemon = Launch::new(&place)
        .args("--listen 127.0.0.1:0=http --ready exec --restart-sec 0")
        .command(&[&example("rude")])
        .start();
    daemon.wait_generation(1);
    let load = Load::start(&daemon.address("http"), 500);
    for generation in 2..=11 {
        load.let_pass(20);
        kill(Pid::from_raw(daemon.server()), Signal::SIGKILL).unwrap();
        daemon.wait_generation(generation);
    }
    let counts = load.finish();
    assert!(counts.failed() > 0 && counts.refused == 0 && counts.ok > 0, "{counts}");
}

#[test]
fn twenty_swaps_under_load_fail_nothing() {
    let place = Place::new();
    place.flags("--work 5");
    let mut daemon = Launch::ready(&place, "--bake 100ms").start();
    daemon.wait_generation(1);
    let load = Load::start(&daemon.address("http"), 500);
    for generation in 2..=21 {
        load.let_pass(50);
        let swap = daemon.verb("swap --json").expect(0).json();
        assert_eq!((&swap["to"], &swap["outcome"]), (&generation.into(), &"swapped".into()), "{swap}");
    }
    load.let_pass(100);
    assert_clean(&load.finish());
    daemon.wait_generation(21);
    assert_eq!(place.who("start"), (1..=21).collect::<Vec<u64>>());
    assert_eq!(daemon.status()["restarts"], 0);
}

#[test]
fn a_server_without_readiness_is_swapped_under_load_too() {
    let place = Place::new();
    let mut daemon = Launch::new(&place)
        .args("--listen 127.0.0.1:0=http --bake 0")
        .command(&[&example("hello"), "5"])
        .start();
    daemon.wait_generation(1);
    let load = Load::start(&daemon.address("http"), 500);
    for generation in 2..=4 {
        assert_eq!(daemon.verb("swap --json").expect(0).json()["to"], generation);
    }
    load.let_pass(100);
    assert_clean(&load.finish());
}

#[test]
fn a_bad_candidate_under_load_fails_nothing() {
    let place = Place::new();
    place.flags("--work 5");
    let mut daemon = Launch::ready(&place, "--bake 0").start();
    daemon.wait_generation(1);
    let load = Load::start(&daemon.address("http"), 500);
    place.flags("--die-after 0:3 --never-ready");
    for _ in 0..5 {
        load.let_pass(50);
        daemon.verb("swap").expect(1);
    }
    daemon.wait_generation(1);
    assert_clean(&load.finish());
}

#[test]
fn stop_first_never_lets_two_generations_overlap_and_clients_wait() {
    let place = Place::new();
    place.flags("--work 5");
    let mut daemon = Launch::ready(&place, "--handover stop-first --bake 0").start();
    daemon.wait_generation(1);
    assert_eq!(daemon.status()["sockets"][0]["mode"], "stop-first");
    let load = Load::start(&daemon.address("http"), 200);
    for generation in 2..=6 {
        load.let_pass(50);
        assert_eq!(daemon.verb("swap --json").expect(0).json()["to"], generation);
    }
    daemon.wait_generation(6);
    let counts = load.finish();
    // They wait while nobody serves: how long is up to the machine.
    assert!(counts.failed() == 0 && counts.ok > 0, "{counts}");
    let mut alive = 0;
    for fact in place.facts() {
        match fact.what.as_str() {
            "start" => alive += 1,
            "exit" => alive -= 1,
            _ => {}
        }
        assert!(alive <= 1, "{:?}", place.facts());
    }
}

#[test]
fn a_request_in_flight_is_finished_by_the_old_generation() {
    let place = Place::new();
    place.flags("--work 1500");
    let mut daemon = Launch::ready(&place, "--bake 0").start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    let mut client = connect(&address).unwrap();
    ask(&mut client, "/").unwrap();
    // When the queue is empty, the old generation has accepted the connection.
    daemon.wait_until("it is accepted", |status| status["sockets"][0]["queue"] == 0);
    place.flags("");
    daemon.verb("swap").expect(0);
    assert_eq!(get(&address, "/").unwrap(), "ready generation 2 on http\n");
    assert_eq!(answer(&mut client).unwrap(), "ready generation 1 on http\n");
    daemon.wait_generation(2);
}

#[test]
fn a_hundred_hups_are_at_most_two_swaps() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--bake 0").start();
    daemon.wait_generation(1);
    // So long that all of them come during the first swap, on a slow machine too.
    place.flags("--ready-after 3000");
    let begin = Instant::now();
    for number in 1..=100 {
        daemon.signal(Signal::SIGHUP);
        let due = begin + Duration::from_millis(2) * number;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    place.flags("");
    daemon.wait_until("a new one serves", |status| {
        status["state"] == "running"
            && status["generation"].as_u64().unwrap_or(0) >= 2
            && status["generations"].as_array().unwrap().len() == 1
    });
    at_most_two_were_asked_for(&place, &mut daemon);
}

/// Whatever was asked for before comes before one more swap, so a third would be between.
fn at_most_two_were_asked_for(place: &Place, daemon: &mut Daemon) {
    let last = daemon.status()["generation"].as_u64().unwrap();
    assert!(last == 2 || last == 3, "generation {last}");
    let swap = daemon.verb("swap --json").expect(0).json();
    assert_eq!((&swap["from"], &swap["to"]), (&last.into(), &(last + 1).into()), "{swap}");
    daemon.wait_generation(last + 1);
    assert_eq!(place.who("start"), (1..=last + 1).collect::<Vec<u64>>());
}

#[test]
fn several_who_ask_for_a_swap_at_once_share_one_or_two() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--bake 0").start();
    daemon.wait_generation(1);
    // Long enough for all of them to come during the first swap.
    place.flags("--ready-after 3000");
    let verbs: Vec<_> = (0..8).map(|_| daemon.spawn_verb("swap")).collect();
    wait_for("the candidate", || place.who("start").contains(&2).then_some(()));
    place.flags("");
    for verb in verbs {
        verb.end().expect(0);
    }
    at_most_two_were_asked_for(&place, &mut daemon);
}

/// A swap to a candidate that takes its time; returns with it running and not ready.
fn slow_swap(place: &Place, daemon: &mut Daemon) -> Verb {
    daemon.wait_generation(1);
    place.flags("--ready-after 4000");
    let verb = daemon.spawn_verb("swap --json");
    daemon.wait_state("swapping");
    wait_for("the candidate", || place.who("start").contains(&2).then_some(()));
    place.flags("");
    verb
}

#[test]
fn the_old_one_dying_during_a_swap_leaves_the_candidate() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--bake 0 --restart-sec 0").start();
    let verb = slow_swap(&place, &mut daemon);
    let address = daemon.address("http");
    kill(Pid::from_raw(daemon.server()), Signal::SIGKILL).unwrap();
    // The candidate accepts already; whoever answers, nobody is refused.
    assert_eq!(get(&address, "/").unwrap(), "ready generation 2 on http\n");
    verb.end().expect(0);
    daemon.wait_generation(2);
    assert_eq!(place.who("start"), [1, 2]);
}

#[test]
fn a_swap_that_is_not_begun_is_answered_in_json_too() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--bake 0").start();
    let first = slow_swap(&place, &mut daemon);
    let next = daemon.spawn_verb("swap --json");
    wait_for("the next swap", || daemon.stderr().contains("another swap follows").then_some(()));
    daemon.verb("abort").expect(0);
    assert_eq!(first.end().expect(1).json()["outcome"], "rolled-back");
    let dropped = next.end().expect(1).json();
    assert_eq!((&dropped["outcome"], &dropped["to"]), (&"refused".into(), &serde_json::Value::Null));
    assert!(dropped["reason"].as_str().unwrap().contains("abort"), "{dropped}");
    daemon.verb("pause").expect(0);
    let paused = daemon.verb("swap --json").expect(1).json();
    assert!(paused["reason"].as_str().unwrap().contains("supervise resume"), "{paused}");
}

#[test]
fn a_stop_during_a_swap_ends_both() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--bake 0").start();
    let verb = slow_swap(&place, &mut daemon);
    daemon.verb("stop").expect(0);
    verb.end().expect(1);
    daemon.end().expect(0);
    assert!(place.facts().iter().any(|fact| fact.generation == 1 && fact.what == "SIGTERM"));
    assert_eq!(place.who("start"), [1, 2]);
}

#[test]
fn a_client_that_goes_away_does_not_stop_the_swap() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--bake 0").start();
    drop(slow_swap(&place, &mut daemon));
    daemon.wait_generation(2);
    assert_eq!(daemon.status()["last_swap"]["outcome"], "swapped");
}

#[test]
fn the_old_one_is_told_to_stop_only_after_the_new_one_was_ready() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "").start();
    slow_swap(&place, &mut daemon).end().expect(0);
    daemon.wait_generation(2);
    let facts = place.facts();
    let at = |generation: u64, what: &str| {
        facts.iter().position(|fact| fact.generation == generation && fact.what == what).unwrap()
    };
    assert!(at(2, "ready") < at(1, "SIGTERM"), "{facts:?}");
}

/// Before it is ready and in its bake: whoever waits for the swap hears why, and nobody else notices.
#[test]
fn a_swap_is_taken_back() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--ready notify --bake 1h").start();
    daemon.wait_generation(1);
    let nothing = daemon.verb("abort").expect(1).text();
    assert!(nothing.contains("no swap is under way"), "{nothing}");
    let load = Load::start(&daemon.address("http"), 200);
    for (candidate, flags) in [(2, "--never-ready"), (3, "")] {
        place.flags(flags);
        let waiting = daemon.spawn_verb("swap");
        daemon.wait_until("the candidate is tried", |status| {
            let is_ready = |one: &serde_json::Value| !one["ready_ms"].is_null() || !flags.is_empty();
            let generations = status["generations"].as_array().unwrap();
            generations.iter().any(|one| one["generation"] == candidate && is_ready(one))
        });
        let aborted = daemon.verb("abort").expect(0).text();
        assert!(aborted.contains("aborted: generation 1 serves on"), "{aborted}");
        let swap = waiting.end().expect(1).text();
        assert!(swap.contains("rolled back: somebody ran \"supervise abort\""), "{swap}");
        daemon.wait_generation(1);
        assert_eq!(daemon.status()["last_swap"]["outcome"], "rolled-back");
        load.let_pass(50);
    }
    assert_clean(&load.finish());
}

/// A script ignores TERM by `trap '' TERM`, and a shell ignores INT for a job in the background.
#[test]
fn a_signal_that_is_ignored_does_not_end_a_verb() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--ready notify").start();
    daemon.wait_generation(1);
    place.flags("--never-ready");
    let mut command = Command::new("env");
    command.args(["--ignore-signal=TERM", "--default-signal=INT", SUPERVISE, "swap"]);
    command.args(["--control", &place.path("supervise.ctl")]);
    let waiting = Verb::spawn(command);
    daemon.wait_state("swapping");
    // When it catches SIGINT, it has read which signals are ignored.
    let is_caught = || {
        let caught = u64::from_str_radix(&proc_status(waiting.pid(), "SigCgt")?, 16).ok()?;
        (caught & 2 != 0).then_some(())
    };
    wait_for("it catches Ctrl-C", is_caught);
    kill(Pid::from_raw(waiting.pid()), Signal::SIGTERM).unwrap();
    daemon.verb("abort").expect(0);
    let answer = waiting.end().expect(1).text();
    assert!(answer.contains("rolled back"), "{answer}");
}

#[test]
fn who_interrupts_a_swap_hears_that_it_goes_on() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--ready notify").start();
    daemon.wait_generation(1);
    place.flags("--never-ready");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let waiting = daemon.spawn_verb("swap");
        daemon.wait_state("swapping");
        // The verb catches the signal from the moment at which supervise has its request.
        let bit = 1 << (signal as i32 - 1);
        let is_caught = || {
            let caught = u64::from_str_radix(&proc_status(waiting.pid(), "SigCgt")?, 16).ok()?;
            (caught & bit != 0).then_some(())
        };
        wait_for("it catches the signal", is_caught);
        kill(Pid::from_raw(waiting.pid()), signal).unwrap();
        let ended = waiting.end().expect(128 + signal as i32);
        let told = "the swap goes on; to take it back: supervise abort --control /";
        assert!(ended.stderr.contains(told), "{ended:?}");
        daemon.wait_state("swapping");
        daemon.verb("abort").expect(0);
        daemon.wait_generation(1);
    }
}
