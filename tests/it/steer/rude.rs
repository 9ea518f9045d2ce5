//! A server without a signal handler, killed at every swap under a thousand connections a second: nobody notices.

use std::net::TcpStream;
use std::time::Duration;

use super::super::load::{Load, Samples};
use super::super::support::{Daemon, Place, wait_for};
use super::{assert_steered, rude, swapped};

const OPTIONS: &str = "--kill-signal KILL --bake 50ms --drain-quiet 50ms";

/// The load of so many swaps in a row; its end comes a little after the last.
fn under_load(daemon: &Daemon, swaps: std::ops::Range<u64>, least: u64) -> Samples {
    let load = Load::start(&daemon.address("http"), 1000);
    load.let_pass(50);
    for generation in swaps {
        swapped(daemon, generation);
    }
    let missing = least.saturating_sub(load.begun());
    load.let_pass(missing.max(100));
    load.samples()
}

#[test]
fn fifty_swaps_of_a_rude_server_fail_nothing_and_delay_nobody() {
    let place = Place::new();
    let mut daemon = rude(&place, "127.0.0.1:0", OPTIONS).start();
    daemon.wait_generation(1);
    assert_steered(&daemon);
    // The two are measured in pairs, because this machine has other work that comes and goes.
    let mut ratios = Vec::new();
    for round in 0..5 {
        let begin = 2 + round * 10;
        let with = under_load(&daemon, begin..begin + 10, 0);
        let without = under_load(&daemon, 0..0, with.all.len() as u64);
        with.assert_clean();
        without.assert_clean();
        let (slow, usual) = (with.quantile(0.999), without.quantile(0.999));
        ratios.push(slow.as_secs_f64() / usual.as_secs_f64());
        println!(
            "p99.9 {slow:?} with swaps, {usual:?} without; p50 {:?}, {:?}; {} and {} requests",
            with.quantile(0.5),
            without.quantile(0.5),
            with.all.len(),
            without.all.len()
        );
    }
    daemon.wait_generation(51);
    ratios.sort_by(f64::total_cmp);
    assert!(ratios[ratios.len() / 2] <= 3.0, "p99.9 with swaps to that without: {ratios:?}");
}

/// The old one has finished what it had before it is told; what comes meanwhile waits for the next.
#[test]
fn stop_first_cuts_nothing_off() {
    let place = Place::new();
    let options = "--handover stop-first --ready auto --kill-signal KILL --drain-quiet 50ms";
    let mut daemon = rude(&place, "127.0.0.1:0", options).start();
    daemon.wait_generation(1);
    let counts = under_load(&daemon, 2..12, 0).counts();
    // They wait for the old one to finish and the next to start: how long is up to the machine.
    assert!(counts.failed() == 0 && counts.ok > 0, "{counts}");
    assert!(
        daemon.stderr().contains("new ones wait in the queue for the next generation"),
        "{}",
        daemon.stderr()
    );
}

#[test]
fn stop_first_says_who_goes_first_and_how() {
    for (address, said, before) in [
        ("127.0.0.1:0", "finishes its connections", "generation 1 finishes its connections first"),
        ("@", "the sockets are shared, so generation 1 is told to stop at once", "generation 1 stops first"),
    ] {
        let place = Place::new();
        let name = place.path("").replace('/', "-");
        let address = if address == "@" { format!("@{name}") } else { address.to_owned() };
        // A server that hears nothing of the signal is there until SIGKILL.
        let mut daemon =
            rude(&place, &address, "--ready exec --handover stop-first --kill-signal WINCH").start();
        daemon.wait_generation(1);
        // The client has not sent its request yet, and the old generation waits for it.
        let client = (!address.starts_with('@')).then(|| TcpStream::connect(daemon.address("http")));
        wait_for("its connection", || {
            let accepted = daemon.status()["generations"][0]["connections"] == 1;
            (accepted || client.is_none()).then_some(())
        });
        let verb = daemon.spawn_verb("swap --no-wait");
        daemon.wait_until("the old one to go first", |status| status["before"] == before);
        let status = daemon.verb("status").expect(1).stdout;
        assert!(status.contains(&format!(": starting ({before}), generation 1")), "{status}");
        assert!(daemon.stderr().contains(said), "{}", daemon.stderr());
        verb.end().expect(0);
        drop(client);
    }
}

/// The measure itself: what is shared is cut when its server is killed, or the test above proves nothing.
#[test]
fn the_load_sees_what_a_shared_listener_loses() {
    let place = Place::new();
    let mut daemon =
        rude(&place, "127.0.0.1:0", "--handover shared --ready exec --kill-signal KILL --bake 0").start();
    daemon.wait_generation(1);
    let samples = under_load(&daemon, 2..12, 0);
    let counts = samples.counts();
    assert!(counts.failed() > 0 && counts.refused == 0, "{counts}");
}

#[test]
fn every_request_of_a_steered_swap_is_answered_by_one_of_the_two() {
    let place = Place::new();
    let mut daemon = rude(&place, "127.0.0.1:0", OPTIONS).start();
    daemon.wait_generation(1);
    let samples = under_load(&daemon, 2..3, 500);
    samples.assert_clean();
    let (old, new) = (samples.answered("rude generation 1\n"), samples.answered("rude generation 2\n"));
    assert_eq!(old + new, samples.all.len());
    assert!(old > 0 && new > 0, "{old} and {new}");
    // From one moment on it is the new one alone: whoever began a little after its first answer got it, too.
    let first = samples.all.iter().find(|one| one.result.as_deref() == Ok("rude generation 2\n")).unwrap();
    let switched = first.ended;
    let late = samples.all.iter().filter(|one| one.begun > switched + Duration::from_millis(200));
    assert!(late.clone().count() > 0);
    assert!(late.clone().all(|one| one.result.as_deref() == Ok("rude generation 2\n")));
}
