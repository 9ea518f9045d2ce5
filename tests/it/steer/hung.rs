//! An old server that hangs: what waits in its queue is answered by the new one.

use std::fs;
use std::net::TcpStream;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::load::{answer, ask, connect};
use super::super::support::{Daemon, Place, example, wait_for};
use super::{assert_steered, namespace, rude, swapped};

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

fn hang_with_a_queue(daemon: &Daemon, path: &str) -> Vec<TcpStream> {
    let address = daemon.address("http");
    hang(daemon.server());
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| connect(&address).unwrap()).collect();
    for client in &mut clients {
        ask(client, path).unwrap();
    }
    assert_eq!(daemon.status()["sockets"][0]["queue"], CLIENTS);
    clients
}

/// It hangs with so many in its queue, and is swapped; what each of them was answered, and its own address.
fn swap_a_hung_server(daemon: &mut Daemon, path: &str) -> Vec<(String, String)> {
    daemon.wait_generation(1);
    assert_steered(daemon);
    let mut clients = hang_with_a_queue(daemon, path);
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

/// The kernel would move them to any other member of the group, by its hash.
#[test]
fn one_that_is_not_ready_gets_none_of_those_that_wait() {
    if !namespace::enter() {
        return;
    }
    namespace::set("ipv4/tcp_migrate_req", "1");
    let place = Place::new();
    place.write("sick3", "");
    let script = "exec \"$0\" --sick \"$1$SUPERVISE_GENERATION\"";
    let mut daemon = rude(&place, "127.0.0.1:0", OPTIONS)
        .command(&["/bin/sh", "-c", script, &example("rude"), &place.path("sick")])
        .start();
    daemon.wait_generation(1);
    assert_steered(&daemon);
    let mut clients = hang_with_a_queue(&daemon, "/");
    daemon.verb("swap --no-wait").expect(0);
    daemon.wait_until("the second has the traffic", |status| status["generation"] == 2);
    // Within the second that a queue may stand still.
    daemon.verb("swap --no-wait").expect(0);
    for client in &mut clients {
        assert_eq!(answer(client).unwrap(), "rude generation 2\n");
    }
    let said = daemon.stderr();
    let at = |words: &str| said.find(words).unwrap_or_else(|| panic!("no {words}: {said}"));
    assert!(
        at("generation 3 started") < at("waited where nobody accepts"),
        "it is no test otherwise: {said}"
    );
}

/// The same without a hang: in its queue when it was killed.
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
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| connect(&address).unwrap()).collect();
    for client in &mut clients {
        ask(client, "/").unwrap();
    }
    kill(Pid::from_raw(candidate), Signal::SIGKILL).unwrap();
    for client in &mut clients {
        assert_eq!(answer(client).unwrap(), "rude generation 1\n");
    }
    assert_eq!(verb.end().expect(1).json()["outcome"], "rolled-back");
    daemon.wait_generation(1);
}
