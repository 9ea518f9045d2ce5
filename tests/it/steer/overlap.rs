//! Several swaps while older generations still drain, and a second supervisor that wants the same port.

use std::time::{Duration, Instant};

use super::super::load::{answer, ask, connect};
use super::super::support::{Daemon, Launch, Place, example, wait_for};
use super::{assert_steered, rude, swapped, wait_for_traffic};

#[track_caller]
fn wait_until_accepted(daemon: &mut Daemon, generation: u64) {
    daemon.wait_until("it is accepted", |status| {
        let all = status["generations"].as_array().unwrap();
        all.iter().any(|one| one["generation"] == generation && one["connections"] == 1)
    });
}

#[test]
fn five_swaps_in_a_row_while_each_old_generation_finishes_a_request_of_five_seconds() {
    let place = Place::new();
    let mut daemon = rude(&place, "127.0.0.1:0", "--kill-signal KILL --bake 0 --drain-quiet 50ms").start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    let mut clients = Vec::new();
    let begin = Instant::now();
    for generation in 1..=6 {
        wait_for_traffic(&address, &format!("rude generation {generation}\n"));
        let mut client = connect(&address).unwrap();
        ask(&mut client, "/sleep/5000").unwrap();
        clients.push(client);
        if generation < 6 {
            wait_until_accepted(&mut daemon, generation);
            daemon.verb("swap --no-wait").expect(0);
        }
    }
    println!("five swaps in {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(5), "they are no test otherwise: {:?}", begin.elapsed());
    let status = daemon.status();
    assert_eq!(status["generations"].as_array().unwrap().len(), 6, "{status}\n{}", daemon.stderr());
    for (generation, client) in (1..).zip(&mut clients) {
        assert_eq!(answer(client).unwrap(), format!("rude generation {generation}\n"));
    }
    daemon.wait_generation(6);
    for generation in 1..=5 {
        wait_for("its end", || daemon.processes_of(generation).is_empty().then_some(()));
    }
    // The slots of the ended generations are used again.
    swapped(&daemon, 7);
    daemon.wait_generation(7);
}

/// A swap beyond eight generations waits, and the log says for whom.
#[test]
fn a_ninth_generation_waits_for_a_slot() {
    let place = Place::new();
    let mut daemon = rude(&place, "127.0.0.1:0", "--kill-signal KILL --bake 0 --drain 20s").start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    let mut clients = Vec::new();
    for generation in 1..=8 {
        wait_for_traffic(&address, &format!("rude generation {generation}\n"));
        let mut client = connect(&address).unwrap();
        ask(&mut client, "/sleep/8000").unwrap();
        wait_until_accepted(&mut daemon, generation);
        clients.push(client);
        daemon.verb("swap --no-wait").expect(0);
    }
    for (generation, client) in (1..).zip(&mut clients) {
        assert_eq!(answer(client).unwrap(), format!("rude generation {generation}\n"));
    }
    wait_for_traffic(&address, "rude generation 9\n");
    let said = daemon.stderr();
    assert!(said.contains("waits for a free slot: one of 8"), "{said}");
    daemon.wait_generation(9);
}

/// A second one, and a plain bind with SO_REUSEPORT of another make.
#[track_caller]
fn assert_taken(place: &Place, listen: &str) {
    let said = Launch::new(place)
        .args(&format!("--listen {listen}"))
        .command(&[&example("hello")])
        .run()
        .expect(125)
        .text();
    assert!(said.contains("in use"), "{said}");
}

#[test]
fn a_second_supervisor_never_gets_the_port() {
    let place = Place::new();
    let options = "--listen udp:127.0.0.1:0=echo --kill-signal KILL --bake 0 --drain-quiet 50ms";
    let mut daemon = rude(&place, "127.0.0.1:0", options).start();
    daemon.wait_generation(1);
    assert_steered(&daemon);
    let (tcp, udp) = (daemon.address("http"), format!("udp:{}", daemon.address("echo")));
    assert_taken(&place, &tcp);
    assert_taken(&place, &udp);
    for generation in 2..=5 {
        let swap = daemon.spawn_verb("swap --json");
        for _ in 0..5 {
            assert_taken(&place, &tcp);
            assert_taken(&place, &udp);
        }
        assert_eq!(swap.end().expect(0).json()["to"], generation);
    }
    assert!(std::net::TcpListener::bind(&tcp).is_err());
}

#[test]
fn a_second_supervisor_never_gets_the_port_of_one_that_was_shut_down() {
    let place = Place::new();
    let mut daemon = super::vandal(&place, "--bake 0").start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    for _ in 0..5 {
        super::super::load::get(&address, "/shutdown").unwrap();
        assert_taken(&place, &address);
        wait_for_traffic(&address, "vandal generation 1\n");
    }
}
