//! `--ready auto`: a server that says nothing is ready once somebody of it waits on its sockets, and not before.

mod accepts;
mod hints;

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use serde_json::Value;

use super::load::{Load, get};
use super::support::{Daemon, Launch, Place, SUPERVISE, example, wait_for};

/// The example `waits`, which does what the file `how` says.
pub(super) fn waits<'a>(place: &'a Place, how: &str, options: &str) -> Launch<'a> {
    place.write("how", how);
    Launch::new(place)
        .args("--listen 127.0.0.1:0=http --bake 0 --drain-quiet 50ms")
        .args(options)
        .command(&[&example("waits"), &place.path("how")])
}

fn ready_ms(status: &Value) -> u64 {
    status["generations"][0]["ready_ms"].as_u64().unwrap()
}

/// What the line says by which a generation became ready.
fn ready_by(daemon: &Daemon, generation: u64) -> String {
    let said = daemon.stderr();
    let key = format!("generation {generation} is ready after ");
    let (_, line) = said.split_once(&key).unwrap_or_else(|| panic!("not ready: {said}"));
    line.lines().next().unwrap().split_once(' ').unwrap().1.to_owned()
}

#[test]
fn every_way_to_wait_is_seen() {
    for how in ["accept", "threads", "children", "poll", "epoll", "nested"] {
        let place = Place::new();
        let mut daemon = waits(&place, how, "").start();
        daemon.wait_generation(1);
        assert_eq!(ready_by(&daemon, 1), "(waits on http)", "{how}");
        assert_eq!(get(&daemon.address("http"), "/").unwrap(), "waits generation 1\n");
        daemon.verb("swap").expect(0);
        daemon.wait_generation(2);
        assert_eq!(ready_by(&daemon, 2), "(waits on http)", "{how}");
        assert_eq!(get(&daemon.address("http"), "/").unwrap(), "waits generation 2\n");
    }
}

#[test]
fn other_kinds_of_sockets_are_seen_too() {
    let place = Place::new();
    place.write("how", "receive");
    let mut daemon = Launch::new(&place)
        .args("--listen udp:127.0.0.1:0=dns")
        .arg(&format!("--listen={}=unix", place.path("s.sock")))
        .command(&[&example("waits"), &place.path("how")])
        .start();
    daemon.wait_generation(1);
    assert_eq!(ready_by(&daemon, 1), "(waits on dns, unix)");
}

#[test]
fn registered_is_not_yet_waiting_and_who_starts_slowly_gets_no_traffic_until_it_waits() {
    for how in ["epoll late", "accept late"] {
        let place = Place::new();
        let mut daemon = waits(&place, "accept", "").start();
        daemon.wait_generation(1);
        let load = Load::start(&daemon.address("http"), 200);
        place.write("how", how);
        let begun = Instant::now();
        daemon.verb("swap").expect(0);
        assert!(begun.elapsed() >= Duration::from_secs(2), "{how}: swapped after {:?}", begun.elapsed());
        let status = daemon.wait_generation(2);
        assert!((2000..10_000).contains(&ready_ms(&status)), "{how}: {status}");
        load.samples().assert_clean();
    }
}

#[test]
fn who_says_ready_before_it_waits_gets_no_traffic_until_it_does() {
    let place = Place::new();
    let mut daemon = waits(&place, "accept says", "").start();
    daemon.wait_generation(1);
    let load = Load::start(&daemon.address("http"), 200);
    place.write("how", "accept says late");
    daemon.verb("swap").expect(0);
    let status = daemon.wait_generation(2);
    assert!((2000..10_000).contains(&ready_ms(&status)), "{status}");
    place.write("how", "accept says dies");
    let swap = daemon.verb("swap --json").expect(1).json();
    assert_eq!(swap["outcome"], "rolled-back", "{swap}");
    daemon.wait_generation(2);
    let samples = load.samples();
    samples.assert_clean();
}

#[test]
fn a_candidate_has_to_wait_where_the_current_one_does_and_nowhere_else() {
    let place = Place::new();
    let options = "--listen 127.0.0.1:0=other --timeout-start-sec 1500ms";
    let mut daemon = waits(&place, "accept first", options).start();
    // A generation that is alone has to wait on both sockets, and nobody ever waits on the other one.
    let status = daemon.wait_generation(1);
    assert!(ready_ms(&status) >= 10_000, "{status}");
    assert_eq!(ready_by(&daemon, 1), "nobody waits on other; kept, because no other generation exists");
    daemon.verb("swap").expect(0);
    daemon.wait_generation(2);
    assert_eq!(ready_by(&daemon, 2), "(waits on http)");
    place.write("how", "never");
    let swap = daemon.verb("swap --json").expect(1).json();
    let reason = swap["reason"].as_str().unwrap();
    assert!(reason.contains("(nobody waits on http, other)"), "{reason}");
    daemon.wait_generation(2);
}

#[test]
fn where_nobody_was_ever_seen_a_second_of_life_has_to_do_but_it_is_not_called_a_swap() {
    let place = Place::new();
    let mut daemon = waits(&place, "never", "").start();
    let status = daemon.wait_generation(1);
    assert!(ready_ms(&status) >= 10_000, "{status}");
    let swap = daemon.verb("swap").expect(1);
    let said = swap.stdout.lines().last().unwrap_or_default().to_owned();
    assert!(said.starts_with("taken over unseen: generation 2 runs and gets the new connections"), "{said}");
    assert!(said.ends_with("or use --ready http:/PATH or --ready delay:SPAN"), "{said}");
    let status = daemon.wait_generation(2);
    assert!((1000..5000).contains(&ready_ms(&status)), "{status}");
    assert_eq!(status["last_swap"]["outcome"], "taken-over-unseen", "{status}");
    assert!(!daemon.stderr().contains("swapped"), "{}", daemon.stderr());
    // One that says so itself, or is seen, is what a swap is for.
    for how in ["never says", "accept says"] {
        place.write("how", how);
        daemon.verb("swap").expect(0);
    }
}

/// The server looks for clients from time to time, so nobody sees it wait; its accepted connection is seen.
#[test]
fn who_was_seen_to_accept_counts_as_seen() {
    let place = Place::new();
    let mut daemon = waits(&place, "seldom", "--timeout-start-sec 1500ms").start();
    // The client sends nothing yet, so the connection stays open.
    let client = TcpStream::connect(daemon.address("http")).unwrap();
    daemon.wait_generation(1);
    assert_eq!(ready_by(&daemon, 1), "(has accepted connections on http)");
    drop(client);
    for how in ["never", "never says"] {
        place.write("how", how);
        let swap = daemon.verb("swap --json").expect(1).json();
        assert_eq!(swap["outcome"], "rolled-back", "{swap}");
        assert!(
            swap["reason"].as_str().unwrap().contains("has not accepted a connection from supervise"),
            "{swap}"
        );
    }
    place.write("how", "seldom");
    daemon.verb("swap").expect(0);
    daemon.wait_generation(4);
    assert_eq!(ready_by(&daemon, 4), "(accepted a connection from supervise)");
}

/// With copies of the programs where anybody may go: root sees everything, so somebody else has to look.
pub(super) fn as_somebody<'a>(place: &'a Place, launch: Launch<'a>) -> Launch<'a> {
    if !geteuid().is_root() {
        return launch;
    }
    let (binary, server) = copies(place);
    launch.command(&[&server, &place.path("how")]).user(65534, &binary)
}

/// The programs `supervise` and `waits`, where anybody may go.
pub(super) fn copies(place: &Place) -> (String, String) {
    let copy = |from: &str, name: &str| {
        let to = place.path(name);
        std::fs::copy(from, &to).unwrap();
        to
    };
    std::fs::set_permissions(place.path(""), PermissionsExt::from_mode(0o777)).unwrap();
    (copy(SUPERVISE, "supervise"), copy(&example("waits"), "waits"))
}

#[test]
fn who_cannot_be_looked_at_accepts_a_connection_of_ours() {
    let place = Place::new();
    let mut daemon = as_somebody(&place, waits(&place, "accept hidden", "")).start();
    daemon.wait_generation(1);
    assert_eq!(ready_by(&daemon, 1), "(accepted a connection from supervise)");
    let load = Load::start(&daemon.address("http"), 200);
    place.write("how", "accept hidden late");
    let begun = Instant::now();
    daemon.verb("swap").expect(0);
    assert!(begun.elapsed() >= Duration::from_secs(2), "swapped after {:?}", begun.elapsed());
    daemon.wait_generation(2);
    assert_eq!(ready_by(&daemon, 2), "(accepted a connection from supervise)");
    place.write("how", "never hidden");
    let verb = daemon.spawn_verb("swap --json");
    wait_for("the candidate", || daemon.stderr().contains("generation 3 started").then_some(()));
    load.let_pass(200);
    load.samples().assert_clean();
    daemon.verb("stop").expect(0);
    assert_eq!(verb.end().status, 1);
}

#[test]
fn one_on_a_unix_path_accepts_one_likewise() {
    let place = Place::new();
    let path = place.path("s.sock");
    place.write("how", "accept hidden");
    let launch = Launch::new(&place)
        .args(&format!("--listen {path}=http --bake 0 --drain-quiet 50ms"))
        .command(&[&example("waits"), &place.path("how")]);
    let mut daemon = as_somebody(&place, launch).start();
    for generation in 1..=2 {
        daemon.wait_generation(generation);
        assert_eq!(ready_by(&daemon, generation), "(accepted a connection from supervise)");
        assert_eq!(get(&path, "/").unwrap(), format!("waits generation {generation}\n"));
        daemon.verb("swap").expect(0);
    }
}

#[test]
fn where_nothing_can_be_known_a_second_of_life_has_to_do() {
    let place = Place::new();
    // What is alone on a socket can be asked also where others may share it.
    let launch = waits(&place, "accept hidden", "--handover shared");
    let mut daemon = as_somebody(&place, launch).start();
    daemon.wait_generation(1);
    assert_eq!(ready_by(&daemon, 1), "(accepted a connection from supervise)");
    daemon.verb("stop").expect(0);
    place.write("how", "receive hidden");
    let launch = Launch::new(&place)
        .args("--listen udp:127.0.0.1:0=dns")
        .command(&[&example("waits"), &place.path("how")]);
    let mut daemon = as_somebody(&place, launch).start_as("datagrams");
    let status = daemon.wait_generation(1);
    assert!(ready_ms(&status) >= 1000, "{status}");
    assert_eq!(ready_by(&daemon, 1), "(it is alive; who waits on its sockets cannot be seen)");
}
