//! A child that binds the port itself with SO_REUSEPORT joins our group: it never gets a connection, and is named.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket, sockopt,
};

use super::super::load::{Load, get};
use super::super::support::{Place, wait_for};
use super::{assert_steered, swapped, vandal};

/// Asserts that the log names this process once, with its pid and the remedy.
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
        .command(&["/bin/sh", "-c", script, &super::example("vandal"), &place.path("words")])
        .start();
    daemon.wait_generation(1);
    let load = Load::start(&daemon.address("http"), 500);
    load.let_pass(50);
    place.write("words", "--stranger");
    swapped(&daemon, 2);
    let stranger = daemon.wait_generation(2)["generations"][0]["pid"].as_i64().unwrap();
    load.let_pass(50);
    // The stranger goes as well, which changes the order of the group again.
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

/// unbound binds its address in each of its threads.
#[test]
fn what_a_server_binds_beside_us_is_told_once_with_the_option_that_mends_it() {
    let place = Place::new();
    let mut daemon = vandal(&place, "--bake 0 --drain-quiet 50ms").start();
    for generation in 1..=3 {
        daemon.wait_generation(generation);
        get(&daemon.address("http"), "/stranger").unwrap();
        swapped(&daemon, generation + 1);
    }
    daemon.wait_generation(4);
    let said = daemon.stderr();
    let of_it: Vec<_> = said.lines().filter(|line| line.contains("by SO_REUSEPORT")).collect();
    assert!(matches!(of_it[..], [line] if line.contains("(add --intercept-bind, or")), "{said}");
    assert!(!said.contains("supervise alone listens on"), "{said}");
}

/// Clients of IPv4 are its own: a socket of their family goes before one of both.
#[test]
fn a_stranger_for_ipv4_beside_a_socket_of_both_families_is_named_with_what_it_gets() {
    let place = Place::new();
    let mut daemon = super::vandal_at(&place, "[::]:0", "--bake 0 --drain-quiet 50ms").start();
    daemon.wait_generation(1);
    assert_steered(&daemon);
    let at: SocketAddr = daemon.address("http").parse().unwrap();
    let stranger = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&stranger, sockopt::ReusePort, &true).unwrap();
    bind(stranger.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, at.port())).unwrap();
    listen(&stranger, Backlog::MAXCONN).unwrap();
    swapped(&daemon, 2);
    let own = format!("[::1]:{}", at.port());
    assert_eq!(get(&own, "/").unwrap(), "vandal generation 2\n");
    let takes = format!("has bound 0.0.0.0:{}, and takes the connections to it", at.port());
    let named = |daemon: &super::Daemon| daemon.stderr().matches(&takes).count();
    wait_for("its name", || (named(&daemon) == 1).then_some(()));
    swapped(&daemon, 3);
    drop(stranger);
    swapped(&daemon, 4);
    assert_eq!(named(&daemon), 1, "once: {}", daemon.stderr());
    wait_for("the news that it left", || {
        daemon.stderr().contains("supervise alone listens on").then_some(())
    });
    assert_eq!(get(&format!("127.0.0.1:{}", at.port()), "/").unwrap(), "vandal generation 4\n");
}
