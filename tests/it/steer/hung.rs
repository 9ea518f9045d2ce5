//! An old server that hangs: what waits in its queue is answered by the new one.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::load::answer;
use super::super::support::{Daemon, Place, set_limit, wait_for};
use super::{assert_answered, assert_steered, namespace, queue_up, rude, swapped};

const CLIENTS: usize = 200;

/// Not a line of it runs any more; its sockets stay.
pub(super) fn hang(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    let is_stopped = |task: std::io::Result<fs::DirEntry>| {
        let text = fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
        let (_, state) = text.rsplit_once(") ")?;
        Some(state.starts_with('T'))
    };
    // Each thread by itself: one that is still in accept(2) takes one more.
    wait_for("all its threads to stop", || {
        let mut tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        tasks.all(|task| is_stopped(task).unwrap_or(false)).then_some(())
    });
}

/// It hangs with so many in its queue, and is swapped; what each of them was answered, and its own address.
fn swap_a_hung_server(daemon: &mut Daemon, path: &str) -> Vec<(String, String)> {
    daemon.wait_generation(1);
    assert_steered(daemon);
    let address = daemon.address("http");
    hang(daemon.server());
    let mut clients = queue_up(&address, CLIENTS, path);
    assert_eq!(daemon.status()["sockets"][0]["queue"], CLIENTS);
    swapped(daemon, 2);
    let answers = clients
        .iter_mut()
        .map(|client| {
            let body = answer(client).unwrap_or_else(|failure| panic!("{failure:?}: {}", daemon.stderr()));
            (body, format!("{}\n", client.local_addr().unwrap()))
        })
        .collect();
    daemon.wait_generation(2);
    answers
}

const OPTIONS: &str = "--kill-signal KILL --bake 0 --drain-quiet 50ms";

#[test]
fn two_hundred_in_the_queue_of_a_hung_server_are_answered_through_a_relay() {
    let place = Place::new();
    let mut daemon = rude(&place, "127.0.0.1:0", OPTIONS).start();
    // Where the kernel of this machine migrates them, a namespace of one's own is one that does not.
    if fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req").is_ok_and(|text| text.trim() == "1") {
        return;
    }
    for (body, _) in swap_a_hung_server(&mut daemon, "/") {
        assert_eq!(body, "rude generation 2\n");
    }
    let said = daemon.stderr();
    assert!(said.contains("address"), "that the clients' addresses are lost is said: {said}");
}

/// The relay is no process of the old server: it goes on when that is ended, and waits with its clients for the next one.
#[test]
fn what_a_relay_carries_outlives_an_old_server_that_is_stopped_first() {
    let place = Place::new();
    let options = "--handover stop-first --ready auto --kill-signal KILL --drain-quiet 50ms";
    let mut daemon = rude(&place, "127.0.0.1:0", options).start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    hang(daemon.server());
    let mut clients = queue_up(&address, CLIENTS, "/");
    swapped(&daemon, 2);
    assert_answered(&mut clients, "rude generation 2\n");
    daemon.wait_generation(2);
}

#[test]
fn two_hundred_in_the_queue_of_a_hung_server_migrate_with_their_addresses() {
    if !namespace::enter() {
        return;
    }
    namespace::set("ipv4/tcp_migrate_req", "1");
    let place = Place::new();
    let mut daemon = rude(&place, "127.0.0.1:0", OPTIONS).start();
    for (body, own) in swap_a_hung_server(&mut daemon, "/peer") {
        assert_eq!(body, own);
    }
}

#[test]
fn what_waits_in_the_queue_of_a_candidate_that_dies_goes_back_to_the_old_one() {
    let place = Place::new();
    let mut daemon = rude(&place, "127.0.0.1:0", "--bake 1h").start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    let verb = daemon.spawn_verb("swap --json");
    super::wait_for_traffic(&address, "rude generation 2\n");
    let candidate = daemon.processes_of(2)[0];
    hang(candidate);
    let mut clients = queue_up(&address, CLIENTS, "/");
    kill(Pid::from_raw(candidate), Signal::SIGKILL).unwrap();
    assert_answered(&mut clients, "rude generation 1\n");
    assert_eq!(verb.end().expect(1).json()["outcome"], "rolled-back");
    daemon.wait_generation(1);
}

/// The kernel would give every listener of the address its share of them.
#[test]
fn of_three_generations_only_the_one_with_the_traffic_gets_the_queue_of_one_that_hangs() {
    if !namespace::enter() {
        return;
    }
    namespace::set("ipv4/tcp_migrate_req", "1");
    // The queue is moved a second after the swap: on a busy machine the third may come later than that.
    assert!((0..10).any(|_| three_were_there()), "the third came too late each time");
}

/// Returns whether the third was there, but not ready, when the queue of the first was taken away.
fn three_were_there() -> bool {
    let place = Place::new();
    let mut daemon = rude(&place, "127.0.0.1:0", OPTIONS).start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    hang(daemon.server());
    let mut clients = queue_up(&address, CLIENTS, "/");
    let _first = daemon.spawn_verb("swap");
    wait_for("the switch", || daemon.stderr().contains("generation 2 has taken over").then_some(()));
    place.write("sick", "");
    let _second = daemon.spawn_verb("swap");
    assert_answered(&mut clients, "rude generation 2\n");
    let said = daemon.stderr();
    let of_queue = said.find("generation 1 accepts nothing from its queue").unwrap();
    said.find("generation 3 started").is_some_and(|at| at < of_queue)
}

#[test]
fn a_rescue_that_finds_no_fd_is_tried_again() {
    let place = Place::new();
    let mut daemon = rude(&place, "127.0.0.1:0", "--bake 1h").start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    let _verb = daemon.spawn_verb("swap");
    super::wait_for_traffic(&address, "rude generation 2\n");
    let candidate = daemon.processes_of(2)[0];
    hang(candidate);
    let mut clients = queue_up(&address, 5, "/");
    // The limit also takes the fds that are free once the candidate has ended.
    set_limit(daemon.pid(), "nofile", "4");
    kill(Pid::from_raw(candidate), Signal::SIGKILL).unwrap();
    let complaint = "supervise cannot take them elsewhere";
    wait_for("its complaint", || daemon.stderr().contains(complaint).then_some(()));
    set_limit(daemon.pid(), "nofile", "1024");
    assert_answered(&mut clients, "rude generation 1\n");
    assert_eq!(daemon.stderr().matches(complaint).count(), 1, "{}", daemon.stderr());
}
