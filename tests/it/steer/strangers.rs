//! A child that binds the port itself with SO_REUSEPORT joins our group: it never gets a connection, and is named.

use super::super::load::{Load, get};
use super::super::support::{Launch, Place, example, wait_for};
use super::{assert_steered, swapped, vandal, wait_for_traffic};

/// Named with its pid and what to do, once.
#[track_caller]
fn assert_named(said: &str, pid: i32) {
    let of_it: Vec<&str> = said.lines().filter(|line| line.contains(&format!("pid {pid}"))).collect();
    assert!(of_it.iter().any(|line| line.contains("SO_REUSEPORT")), "nothing on pid {pid}: {said}");
}

#[test]
fn a_stranger_before_a_swap_gets_nothing_and_is_named() {
    let place = Place::new();
    let mut daemon = vandal(&place, "--bake 50ms --drain-quiet 50ms").start();
    daemon.wait_generation(1);
    assert_steered(&daemon);
    let address = daemon.address("http");
    let load = Load::start(&address, 500);
    assert_eq!(get(&address, "/stranger").unwrap(), "vandal generation 1\n");
    let stranger = daemon.server();
    load.let_pass(100);
    swapped(&daemon, 2);
    swapped(&daemon, 3);
    load.let_pass(100);
    let samples = load.samples();
    samples.assert_clean();
    assert_eq!(samples.answered("stranger\n"), 0);
    assert_named(&daemon.stderr(), stranger);
}

#[test]
fn a_candidate_that_is_a_stranger_gets_nothing_for_it_and_is_named() {
    let place = Place::new();
    let script = "exec \"$0\" $(cat \"$1\")";
    place.write("words", "");
    let mut daemon = vandal(&place, "--bake 50ms --drain-quiet 50ms")
        .command(&["/bin/sh", "-c", script, &example("vandal"), &place.path("words")])
        .start();
    daemon.wait_generation(1);
    let load = Load::start(&daemon.address("http"), 500);
    load.let_pass(50);
    place.write("words", "--stranger");
    swapped(&daemon, 2);
    let stranger = daemon.wait_generation(2)["generations"][0]["pid"].as_i64().unwrap();
    load.let_pass(50);
    // It leaves as it came: the group changes under everybody's feet.
    place.write("words", "");
    assert_eq!(get(&daemon.address("http"), "/leave").unwrap(), "vandal generation 2\n");
    load.let_pass(50);
    swapped(&daemon, 3);
    daemon.wait_generation(3);
    load.let_pass(50);
    let samples = load.samples();
    samples.assert_clean();
    assert_eq!(samples.answered("stranger\n"), 0);
    wait_for("its name", || {
        daemon.stderr().contains("SO_REUSEPORT").then(|| assert_named(&daemon.stderr(), stranger as i32))
    });
}

#[test]
fn a_stranger_that_comes_and_goes_takes_nothing_along() {
    let place = Place::new();
    let mut daemon = vandal(&place, "--bake 50ms --drain-quiet 50ms").start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    let load = Load::start(&address, 500);
    for generation in 2..=7 {
        get(&address, "/stranger").unwrap();
        load.let_pass(20);
        let swap = daemon.spawn_verb("swap --json");
        load.let_pass(5);
        get(&address, "/leave").unwrap();
        assert_eq!(swap.end().expect(0).json()["to"], generation);
        load.let_pass(20);
    }
    let samples = load.samples();
    samples.assert_clean();
    assert_eq!(samples.answered("stranger\n"), 0);
}

/// A socket for IPv4 alone goes before one for both families, and no program of ours is asked.
#[test]
fn a_stranger_that_takes_ipv4_from_a_port_of_both_families_is_named() {
    let place = Place::new();
    let options = "--listen 0=http --ready notify --bake 0 --drain-quiet 50ms";
    let mut daemon = Launch::new(&place).args(options).command(&[&example("vandal")]).start();
    daemon.wait_generation(1);
    let both = daemon.address("http");
    // A host without IPv6 has nothing to take.
    let Some(port) = both.strip_prefix("[::]:") else { return };
    let (ipv4, ipv6) = (format!("127.0.0.1:{port}"), format!("[::1]:{port}"));
    assert_eq!(get(&ipv4, "/stranger/ipv4").unwrap(), "vandal generation 1\n");
    assert_eq!(get(&ipv4, "/").unwrap(), "stranger\n", "it is no test otherwise");
    let stranger = daemon.server();
    swapped(&daemon, 2);
    assert_eq!(get(&ipv6, "/").unwrap(), "vandal generation 2\n");
    let said = daemon.stderr();
    let who = format!("pid {stranger}");
    let of_it: Vec<_> =
        said.lines().filter(|line| line.contains(&who) && line.contains("has bound")).collect();
    let what = format!("has bound 0.0.0.0:{port}, and gets the connections to it");
    assert!(of_it.len() == 1 && of_it[0].contains(&what), "{said}");
    // It goes with the old server.
    wait_for_traffic(&ipv4, "vandal generation 2\n");
    wait_for("the all-clear", || daemon.stderr().contains("is ours alone again").then_some(()));
}
