//! Clients that keep their connections: who pauses never fails, who never does is reported.

use std::time::Duration;

use super::super::support::Place;
use super::client::kept::KeptLoad;
use super::{assert_steered, rude, swapped, wait_for_connections};

#[test]
fn clients_that_pause_fail_nothing_in_fifty_swaps() {
    let place = Place::new();
    let options = "--kill-signal KILL --bake 50ms --drain-quiet 30ms";
    let mut daemon = rude(&place, "127.0.0.1:0", options).start();
    daemon.wait_generation(1);
    assert_steered(&daemon);
    let load = KeptLoad::start(&daemon.address("http"), 4, Duration::from_millis(200));
    let (mut cut, mut closed_idle) = (0, 0);
    for generation in 2..=51 {
        // Most of the connections have carried a request before.
        load.let_pass(6);
        swapped(&daemon, generation);
        let last = &daemon.wait_generation(generation)["last_swap"];
        cut += last["cut"].as_u64().unwrap();
        closed_idle += last["closed_idle"].as_u64().unwrap();
    }
    let kept = load.finish();
    println!("{kept:?}; reported: {cut} cut, {closed_idle} closed idle");
    assert!(kept.failed.is_empty() && kept.ok >= 300, "{kept:?}");
    assert!(kept.retried <= 50, "at most one a swap on average: {kept:?}");
    assert!(kept.closed_idle > 0 && closed_idle > 0, "they are no test otherwise: {kept:?}, {closed_idle}");
}

#[test]
fn clients_that_never_pause_are_reported_as_cut() {
    let place = Place::new();
    let options = "--kill-signal KILL --bake 0 --drain 500ms";
    let mut daemon = rude(&place, "127.0.0.1:0", options).start();
    daemon.wait_generation(1);
    let load = KeptLoad::start(&daemon.address("http"), 2, Duration::ZERO);
    wait_for_connections(&mut daemon, 2);
    swapped(&daemon, 2);
    let status = daemon.wait_generation(2);
    assert_eq!(status["last_swap"]["cut"], 2, "{status}");
    let said = daemon.stderr();
    assert!(said.contains("cut"), "{said}");
    // The clients go on with the new generation.
    wait_for_connections(&mut daemon, 2);
    let kept = load.finish();
    assert!(kept.failed.len() as u64 + kept.retried <= 2, "{kept:?}");
}
