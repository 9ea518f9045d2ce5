//! Draining: a request that takes long is finished, and a stream that pauses is no idle connection.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use super::super::load::{answer, ask, connect, get};
use super::super::ready::{as_somebody, waits};
use super::super::support::{Daemon, Place, wait_for};
use super::client::kept::{ask_kept, read_kept};
use super::{assert_answered, queue_up, rude, swapped, wait_for_connections, wait_for_traffic};

/// Only connections that have carried a request count as closed and not as cut.
#[track_caller]
fn assert_idle_does_not_hold_up(daemon: &mut Daemon, mut client: impl Read + Write) {
    ask_kept(&mut client, "/").unwrap();
    read_kept(&mut client, &mut Vec::new()).unwrap();
    swapped(daemon, 2);
    assert_closed_idle(daemon);
}

#[track_caller]
fn assert_closed_idle(daemon: &mut Daemon) {
    let status = daemon.wait_generation(2);
    let counted = (&status["last_swap"]["cut"], &status["last_swap"]["closed_idle"]);
    assert_eq!(counted, (&0.into(), &1.into()), "{status}");
}

#[test]
fn a_stream_that_pauses_for_half_a_second_is_not_cut() {
    let place = Place::new();
    let mut daemon = rude(&place, "127.0.0.1:0", "--kill-signal KILL --bake 0").start();
    daemon.wait_generation(1);
    let mut clients = queue_up(&daemon.address("http"), 3, "/stream/7/500");
    wait_for_connections(&mut daemon, 3);
    let swap = swapped(&daemon, 2);
    assert_answered(&mut clients, &"rude generation 1\n".repeat(7));
    let status = daemon.wait_generation(2);
    assert_eq!(status["last_swap"]["cut"], 0, "{swap}");
}

#[test]
fn a_stream_without_an_end_is_cut_when_drain_is_over_and_not_before() {
    let place = Place::new();
    let mut daemon = rude(&place, "127.0.0.1:0", "--kill-signal KILL --bake 0 --drain 2s").start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    let mut client = connect(&address).unwrap();
    ask(&mut client, "/stream/1000/500").unwrap();
    wait_for_connections(&mut daemon, 1);
    let begin = Instant::now();
    swapped(&daemon, 2);
    assert!(answer(&mut client).is_err());
    assert!(begin.elapsed() >= Duration::from_secs(2), "{:?}", begin.elapsed());
    let status = daemon.wait_generation(2);
    assert_eq!(status["last_swap"]["cut"], 1, "{status}");
}

#[test]
fn an_idle_connection_does_not_hold_up_a_swap() {
    let place = Place::new();
    let mut daemon = rude(&place, "127.0.0.1:0", "--kill-signal KILL --bake 0 --drain 1h").start();
    daemon.wait_generation(1);
    let client = connect(&daemon.address("http")).unwrap();
    assert_idle_does_not_hold_up(&mut daemon, client);
}

#[test]
fn a_connection_without_its_first_request_may_stay_until_drain_is_over() {
    let place = Place::new();
    let options = "--kill-signal KILL --bake 0 --drain 3s --drain-quiet 50ms";
    let mut daemon = rude(&place, "127.0.0.1:0", options).start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    // A browser's, which is used while the old one drains, and one of a pool, which is not.
    let (mut early, pooled) = (connect(&address).unwrap(), connect(&address).unwrap());
    wait_for_connections(&mut daemon, 2);
    let begin = Instant::now();
    let verb = daemon.spawn_verb("swap");
    wait_for("the old one drains and has been looked at", || {
        daemon.stderr().contains("without a request yet").then_some(())
    });
    ask(&mut early, "/").unwrap();
    assert_eq!(answer(&mut early).unwrap(), "rude generation 1\n");
    verb.end().expect(0);
    assert!(begin.elapsed() >= Duration::from_secs(3), "{:?}", begin.elapsed());
    let status = daemon.wait_generation(2);
    assert_eq!(status["last_swap"]["cut"], 1, "{status}");
    drop(pooled);
}

/// A handshake of TLS, after which the client has sent two segments and the server has answered, is no request. That a
/// socket is one for TLS is known by its name.
#[test]
fn a_connection_with_its_handshake_alone_may_stay_until_drain_is_over() {
    let place = Place::new();
    let options = "--kill-signal KILL --bake 0 --drain 3s --drain-quiet 50ms";
    let mut daemon = rude(&place, "127.0.0.1:0=https --listen 127.0.0.1:0", options).start();
    daemon.wait_generation(1);
    let mut clients: Vec<_> =
        ["https", "http"].iter().map(|name| connect(&daemon.address(name)).unwrap()).collect();
    for client in &mut clients {
        for _ in 0..2 {
            ask_kept(client, "/").unwrap();
            read_kept(client, &mut Vec::new()).unwrap();
        }
    }
    let begin = Instant::now();
    swapped(&daemon, 2);
    assert!(begin.elapsed() >= Duration::from_secs(3), "{:?}", begin.elapsed());
    let swap = &daemon.wait_generation(2)["last_swap"];
    assert_eq!((&swap["cut"], &swap["closed_idle"]), (&1.into(), &1.into()), "{swap}");
}

/// The kernel does not know when a unix connection last said something.
#[test]
fn an_idle_connection_through_a_unix_socket_does_not_hold_up_a_swap() {
    let place = Place::new();
    let path = place.path("site.sock");
    let mut daemon =
        rude(&place, &path, "--kill-signal KILL --bake 0 --drain 1h --drain-quiet 200ms").start();
    daemon.wait_generation(1);
    let client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    assert_idle_does_not_hold_up(&mut daemon, client);
}

/// Both queues are empty as long as it works, and it does not wait for the client.
#[test]
fn a_long_request_through_a_unix_socket_is_not_idle() {
    let place = Place::new();
    let path = place.path("site.sock");
    let mut daemon = rude(&place, &path, "--kill-signal KILL --bake 0 --drain-quiet 200ms").start();
    daemon.wait_generation(1);
    let mut client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    ask(&mut client, "/sleep/1500").unwrap();
    wait_for_connections(&mut daemon, 1);
    swapped(&daemon, 2);
    assert_eq!(answer(&mut client).unwrap(), "rude generation 1\n");
    assert_eq!(daemon.wait_generation(2)["last_swap"]["cut"], 0);
}

#[test]
fn half_a_request_is_not_cut() {
    let place = Place::new();
    let mut daemon = rude(&place, "127.0.0.1:0", "--kill-signal KILL --bake 0 --drain-quiet 100ms").start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    let mut client = connect(&address).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    wait_for_connections(&mut daemon, 1);
    let swap = daemon.spawn_verb("swap --json");
    wait_for_traffic(&address, "rude generation 2\n");
    // Within the three seconds in which the rest may come, and later than a quiet connection would last.
    std::thread::sleep(Duration::from_millis(500));
    client.write_all(b"Connection: close\r\n\r\n").unwrap();
    assert_eq!(answer(&mut client).unwrap(), "rude generation 1\n");
    assert_eq!(swap.end().expect(0).json()["outcome"], "swapped");
    assert_eq!(daemon.wait_generation(2)["last_swap"]["cut"], 0);
}

#[test]
fn what_a_draining_generation_still_has_is_shown() {
    let place = Place::new();
    let mut daemon = rude(&place, "127.0.0.1:0", "--kill-signal KILL --bake 0 --drain 1h").start();
    daemon.wait_generation(1);
    let mut client = connect(&daemon.address("http")).unwrap();
    ask(&mut client, "/sleep/1500").unwrap();
    wait_for_connections(&mut daemon, 1);
    let verb = daemon.spawn_verb("swap");
    daemon.wait_until("it drains", |status| {
        let all = status["generations"].as_array().unwrap();
        all.iter().any(|one| one["role"] == "draining" && one["connections"] == 1)
    });
    assert_eq!(answer(&mut client).unwrap(), "rude generation 1\n");
    let said = verb.end().expect(0).text();
    assert!(said.contains("in flight"), "{said}");
    wait_for("its end", || daemon.processes_of(1).is_empty().then_some(()));
}

/// What a server closed first leaves something behind in the kernel that shows no label; whose fds are nobody's to see.
#[test]
fn connections_are_counted_by_their_labels_also_beside_those_that_are_over() {
    let place = Place::new();
    let mut daemon = as_somebody(&place, waits(&place, "accept hidden", "--drain 1s")).start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    for _ in 0..5 {
        assert_eq!(get(&address, "/").unwrap(), "waits generation 1\n");
    }
    let mut client = connect(&address).unwrap();
    wait_for_connections(&mut daemon, 1);
    swapped(&daemon, 2);
    let status = daemon.wait_generation(2);
    assert_eq!(status["last_swap"]["cut"], 1, "{status}");
    assert!(answer(&mut client).is_err(), "it never asked for anything");
}
