//! Datagrams and unix sockets are steered as well, and inherited ones are not.

use super::super::load::{Load, answer, ask, connect};
use super::super::support::{Launch, Place, example};
use super::client::datagrams::Datagrams;
use super::{assert_steered, rude, swapped, wait_for_connections};

#[test]
fn a_datagram_echo_loses_nothing_in_twenty_swaps() {
    let place = Place::new();
    let options = "--listen udp:127.0.0.1:0=echo --ready delay:50ms --kill-signal KILL --bake 0";
    let mut daemon = Launch::new(&place).args(options).command(&[&example("rude")]).start();
    daemon.wait_generation(1);
    assert_steered(&daemon);
    let load = Datagrams::start(&daemon.address("echo"), 1000);
    for generation in 2..=21 {
        load.let_pass(100);
        swapped(&daemon, generation);
    }
    // In twenty swaps the log says it once.
    let told = daemon.stderr().matches("UDP flows in progress on 127.0.0.1:").count();
    assert_eq!(told, 1, "{}", daemon.stderr());
    load.let_pass(100);
    let echoes = load.finish();
    println!("{} sent", echoes.sent);
    assert_eq!(echoes.lost, [0; 0], "of {}, by generation: {:?}", echoes.sent, echoes.from);
    assert_eq!(echoes.from.len(), 21, "each had some: {:?}", echoes.from);
}

#[test]
fn a_unix_socket_loses_nothing_in_twenty_swaps() {
    let place = Place::new();
    let path = place.path("site.sock");
    let mut daemon = rude(&place, &path, "--kill-signal KILL --bake 0 --drain-quiet 50ms").start();
    daemon.wait_generation(1);
    assert_steered(&daemon);
    let load = Load::start(&path, 1000);
    for generation in 2..=21 {
        load.let_pass(50);
        swapped(&daemon, generation);
    }
    load.let_pass(100);
    let samples = load.samples();
    samples.assert_clean();
    for generation in [1, 11, 21] {
        assert!(samples.answered(&format!("rude generation {generation}\n")) > 0, "{generation}");
    }
    // Nothing but the path is left beside it once it is over.
    daemon.verb("stop").expect(0);
    daemon.end().expect(0);
    let left: Vec<_> = std::fs::read_dir(place.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("site.sock"))
        .collect();
    assert!(left.is_empty() || left == ["site.sock"], "{left:?}");
}

#[test]
fn an_abstract_socket_is_shared_and_that_is_said_once() {
    let place = Place::new();
    let name = format!("@steer-test-{}-{}", std::process::id(), place.path("").replace('/', "-"));
    let options = format!("--listen {name}=local --ready exec --bake 0");
    let mut daemon = Launch::new(&place).args(&options).command(&[&example("hello")]).start();
    daemon.wait_generation(1);
    swapped(&daemon, 2);
    daemon.wait_generation(2);
    let status = daemon.status();
    assert_eq!(status["sockets"][0]["mode"], "shared", "{status}");
    let said = daemon.stderr();
    assert_eq!(said.matches("shared").count(), 1, "{said}");
}

#[test]
fn several_sockets_switch_together() {
    let place = Place::new();
    let path = place.path("b.sock");
    let options = format!("--listen {path}=b --kill-signal KILL --bake 0 --drain-quiet 50ms");
    let mut daemon = rude(&place, "127.0.0.1:0", &options).start();
    daemon.wait_generation(1);
    let (tcp, unix) = (Load::start(&daemon.address("http"), 200), Load::start(&path, 200));
    for generation in 2..=5 {
        tcp.let_pass(20);
        swapped(&daemon, generation);
    }
    tcp.let_pass(20);
    tcp.samples().assert_clean();
    unix.samples().assert_clean();
}

/// Two sockets of one server, a request in flight on each: the swap waits for both.
#[test]
fn a_request_in_flight_through_a_unix_socket_is_finished() {
    let place = Place::new();
    let path = place.path("site.sock");
    let mut daemon = rude(&place, &path, "--listen 127.0.0.1:0=b --kill-signal KILL --bake 0").start();
    daemon.wait_generation(1);
    let mut local = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let mut remote = connect(&daemon.address("b")).unwrap();
    ask(&mut local, "/sleep/1500").unwrap();
    ask(&mut remote, "/sleep/2500").unwrap();
    wait_for_connections(&mut daemon, 2);
    swapped(&daemon, 2);
    assert_eq!(answer(&mut local).unwrap(), "rude generation 1\n");
    assert_eq!(answer(&mut remote).unwrap(), "rude generation 1\n");
    assert_eq!(daemon.wait_generation(2)["last_swap"]["cut"], 0);
}
