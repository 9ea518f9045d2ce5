//! A server that closes first leaves TIME_WAIT behind at its port, which bears no label: connections are told by theirs
//! all the same, also where /proc shows nothing of the server.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use nix::unistd::geteuid;

use super::super::load::{answer, ask, connect, get};
use super::super::support::{Launch, Place, SUPERVISE, example, wait_for};
use super::{assert_steered, swapped};

/// A program that may be run but not read is not dumpable (prctl(2)): to its own user it is a closed book. Root reads it
/// nevertheless, so it is somebody else who looks.
fn closed_book(place: &Place) -> Launch<'_> {
    let copy = |from: &str, name: &str, mode| {
        let to = place.path(name);
        fs::copy(from, &to).unwrap();
        fs::set_permissions(&to, Permissions::from_mode(mode)).unwrap();
        to
    };
    fs::set_permissions(place.path(""), Permissions::from_mode(0o777)).unwrap();
    let binary = copy(SUPERVISE, "supervise", 0o755);
    let server = copy(&example("rude"), "rude", 0o111);
    let launch = Launch::new(place)
        .args("--listen 127.0.0.1:0=http --ready http:/health --kill-signal KILL --bake 0 --drain 1h")
        .command(&[&server]);
    if geteuid().is_root() { launch.user(65534, &binary) } else { launch }
}

/// The number of sockets in TIME_WAIT (06 in /proc/net/tcp) at this port.
fn time_waits(port: u16) -> usize {
    let local = format!(":{port:04X}");
    let is_one = |line: &&str| {
        let words: Vec<_> = line.split_whitespace().take(4).collect();
        words.len() == 4 && words[1].ends_with(&local) && words[3] == "06"
    };
    fs::read_to_string("/proc/net/tcp").unwrap().lines().filter(is_one).count()
}

#[test]
fn what_is_left_of_connections_does_not_hide_those_that_are_there() {
    let place = Place::new();
    let mut daemon = closed_book(&place).start();
    daemon.wait_generation(1);
    assert_steered(&daemon);
    let address = daemon.address("http");
    let port = address.rsplit_once(':').unwrap().1.parse().unwrap();
    for _ in 0..5 {
        get(&address, "/").unwrap();
    }
    wait_for("what is left of them", || (time_waits(port) >= 5).then_some(()));
    let mut client = connect(&address).unwrap();
    ask(&mut client, "/sleep/1500").unwrap();
    daemon.wait_until("it is accepted", |status| status["generations"][0]["connections"] == 1);
    swapped(&daemon, 2);
    assert_eq!(answer(&mut client).unwrap(), "rude generation 1\n");
    // Drain= is an hour: the end of the request was seen.
    let status = daemon.wait_generation(2);
    assert_eq!(status["last_swap"]["cut"], 0, "{status}");
    let said = daemon.stderr();
    assert!(!said.contains("cannot see connections"), "{said}");
    daemon.verb("stop").expect(0);
    daemon.end().expect(0);
}
