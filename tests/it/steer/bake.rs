//! A release that works at first and dies: the old one never went away, and has the traffic back at once.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::super::load::{Failure, Load, Samples};
use super::super::support::{Daemon, Launch, Place, proc_status, wait_for};
use super::hung::hang;
use super::{rude, wait_for_traffic};

/// Lets the candidate die 600 ms after the switch, for good; returns what the clients saw, and when it died.
fn die_during_bake(daemon: &mut Daemon, candidate: u64) -> (Samples, Instant) {
    let address = daemon.address("http");
    let load = Load::start(&address, 500);
    load.let_pass(50);
    let verb = daemon.spawn_verb("swap --json");
    wait_for_traffic(&address, &format!("rude generation {candidate}\n"));
    load.let_pass(300);
    let pid = daemon.processes_of(candidate)[0];
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    wait_for("its death", || {
        let state = proc_status(pid, "State");
        state.is_none_or(|state| state.starts_with(['Z', 'X'])).then_some(())
    });
    let died = Instant::now();
    let swap = verb.end().expect(1).json();
    assert_eq!((&swap["outcome"], &swap["to"]), (&"rolled-back".into(), &candidate.into()), "{swap}");
    load.let_pass(100);
    (load.samples(), died)
}

#[test]
fn a_release_that_dies_while_it_bakes_gives_the_traffic_back_at_once() {
    let place = Place::new();
    let mut daemon = rude(&place, "127.0.0.1:0", "--bake 1s").start();
    daemon.wait_generation(1);
    let server = daemon.server();
    let old = Ok("rude generation 1\n");
    let mut gaps = Vec::new();
    for candidate in 2..=4 {
        let (samples, died) = die_during_bake(&mut daemon, candidate);
        daemon.wait_generation(1);
        assert_eq!(daemon.server(), server, "the old pid serves on");
        let counts = samples.counts();
        assert!(counts.refused == 0 && counts.other == 0 && counts.late == 0, "{counts}");
        // What it had accepted died with it: at 5 ms each that is a handful, all begun while it lived.
        let failed = samples.all.iter().filter(|one| one.result.is_err());
        assert!(failed.clone().count() <= 20, "{counts}");
        assert!(failed.clone().all(|one| one.begun < died), "{failed:?}");
        assert!(failed.clone().all(|one| one.result != Err(Failure::Refused)));
        let after = samples.all.iter().filter(|one| one.begun >= died);
        assert!(after.clone().count() > 50 && after.clone().all(|one| one.result.as_deref() == old));
        let first = samples.all.iter().find(|one| one.ended > died && one.result.as_deref() == old).unwrap();
        gaps.push(first.ended - died);
    }
    println!("first answers of the old one after a death: {gaps:?}");
    assert!(gaps.iter().min().unwrap() <= &Duration::from_millis(20), "{gaps:?}");
}

#[test]
fn a_release_that_hangs_up_on_its_own_is_rolled_back_too() {
    let place = Place::new();
    place.flags("--work 5");
    let mut daemon = Launch::ready(&place, "--ready notify --bake 1s").start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    let load = Load::start(&address, 200);
    place.flags("--work 5 --die-after 600:3");
    let swap = daemon.verb("swap --json").expect(1).json();
    assert_eq!(swap["outcome"], "rolled-back", "{swap}");
    assert!(swap["reason"].as_str().unwrap().contains("status 3"), "{swap}");
    load.let_pass(50);
    daemon.wait_generation(1);
    let samples = load.samples();
    let counts = samples.counts();
    assert!(counts.refused == 0 && counts.late == 0 && counts.failed() <= 20, "{counts}");
    assert!(samples.answered("ready generation 2 on http\n") > 0, "it had the traffic");
}

/// It serves at first, and is stopped by a signal while it bakes; who waits for it is answered by the old one.
fn stop_in_its_trial(listen: &str, options: &str) {
    let place = Place::new();
    let mut daemon = rude(&place, listen, options).start();
    daemon.wait_generation(1);
    let address = if listen.starts_with('/') { listen.to_owned() } else { daemon.address("http") };
    let load = Load::start(&address, 100);
    let verb = daemon.spawn_verb("swap --json");
    // With a canary, the new one has some of the traffic.
    wait_for_traffic(&address, "rude generation 2\n");
    hang(daemon.processes_of(2)[0]);
    let swap = verb.end().json();
    assert_eq!(swap["outcome"], "rolled-back", "{listen} {options}: {swap} {}", daemon.stderr());
    let reason = swap["reason"].as_str().unwrap();
    assert!(reason.contains("generation 2 is stopped by a signal"), "{reason}");
    daemon.wait_generation(1);
    wait_for_traffic(&address, "rude generation 1\n");
    let counts = load.finish();
    assert!(counts.refused == 0 && counts.other == 0 && counts.failed() <= 5, "{counts}");
}

#[test]
fn a_release_that_is_stopped_while_it_bakes_is_rolled_back() {
    stop_in_its_trial("127.0.0.1:0", "--bake 1500ms");
    stop_in_its_trial("127.0.0.1:0", "--bake 500ms");
    stop_in_its_trial("127.0.0.1:0", "--canary 50:1500ms");
    let place = Place::new();
    stop_in_its_trial(&place.path("site.sock"), "--bake 500ms");
}

#[test]
fn a_release_that_is_stopped_is_not_taken_where_nobody_waits() {
    for handover in ["steered", "shared"] {
        let place = Place::new();
        place.flags("");
        let options = format!("--ready notify --bake 2s --handover {handover}");
        let mut daemon = Launch::ready(&place, &options).start();
        daemon.wait_generation(1);
        let verb = daemon.spawn_verb("swap --json");
        wait_for("its bake", || daemon.stderr().contains("stays untouched for another").then_some(()));
        hang(daemon.processes_of(2)[0]);
        let swap = verb.end().expect(1).json();
        assert_eq!(swap["reason"], "generation 2 is stopped by a signal", "{handover}: {swap}");
        daemon.wait_generation(1);
    }
}

/// Nothing is steered by then: the candidate has the traffic for good, and waits in the queue where it dies later.
#[test]
fn a_release_that_dies_after_the_bake_is_restarted_and_no_one_is_refused() {
    let place = Place::new();
    let mut daemon = rude(&place, "127.0.0.1:0", "--bake 0 --restart-sec 0 --drain-quiet 50ms").start();
    daemon.wait_generation(1);
    daemon.verb("swap").expect(0);
    daemon.wait_generation(2);
    let load = Load::start(&daemon.address("http"), 200);
    load.let_pass(20);
    kill(Pid::from_raw(daemon.server()), Signal::SIGKILL).unwrap();
    daemon.wait_generation(3);
    load.let_pass(50);
    let counts = load.finish();
    assert!(
        counts.refused == 0 && counts.other == 0 && counts.late == 0 && counts.failed() <= 20,
        "{counts}"
    );
}

#[test]
fn status_says_who_has_the_traffic_while_a_swap_is_under_way() {
    for (options, share, text) in [
        ("--bake 1h", 100.into(), "generation 1 is current, candidate 2 has all new connections"),
        ("--canary 10:1h", 10.into(), "generation 1 is current, candidate 2 has 10% of new connections"),
        ("--bake 1h --handover shared", Value::Null, "generation 1 is current, candidate 2\n"),
    ] {
        let place = Place::new();
        let mut daemon = Launch::ready(&place, options).start();
        daemon.wait_generation(1);
        daemon.verb("swap --no-wait").expect(0);
        daemon.wait_until("the candidate has its share", |status| {
            let new = &status["generations"][1];
            status["generation"] == 1 && !new["ready_ms"].is_null() && new["traffic"] == share
        });
        let said = daemon.verb("status").expect(0).stdout;
        assert!(said.contains(text), "{options}: {said}");
        daemon.verb("abort").expect(0);
        let status = daemon.wait_generation(1);
        let whole = if share.is_null() { Value::Null } else { 100.into() };
        assert_eq!(status["generations"][0]["traffic"], whole, "{options}: {status}");
    }
}

/// After a SIGKILL of supervise, nobody tells either generation to stop.
#[test]
fn both_generations_that_outlive_a_killed_supervise_are_named() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--bake 1h").start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    let _swap = daemon.spawn_verb("swap");
    wait_for("its bake", || daemon.stderr().contains("stays untouched for another").then_some(()));
    let servers: Vec<i32> = [1, 2].iter().flat_map(|id| daemon.processes_of(*id)).collect();
    daemon.signal(Signal::SIGKILL);
    wait_for("its end", || daemon.try_end());
    let next = Launch::new(&place).args(&format!("--listen {address}")).command(&["true"]).run().expect(125);
    assert_eq!(servers.len(), 2);
    for pid in servers {
        assert!(next.stderr.contains(&format!("pid {pid} (ready)")), "{}", next.stderr);
    }
}
