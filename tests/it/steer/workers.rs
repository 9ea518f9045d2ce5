//! What a server does to its sockets where neither its main process nor its looks tell of it.

use std::fs;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::load::get;
use super::super::support::{Daemon, Launch, Place, example, wait_for};
use super::{assert_steered, queue_up, swapped, wait_for_traffic};

/// The main process has been looked after by the time it does that.
#[test]
fn what_a_worker_does_that_outlives_the_main_process_is_mended() {
    let place = Place::new();
    // The worker is a server of its own, which no signal of ours ends.
    let worker = "trap '' TERM; export LISTEN_PID=$$; exec \"$0\"";
    let main = "/bin/sh -c \"$1\" \"$0\" & sleep 1000";
    let options = "--listen 127.0.0.1:0=http --ready exec --restart-sec 1h -p KillMode=control-group";
    let mut daemon = Launch::new(&place)
        .args(options)
        .command(&["/bin/sh", "-c", main, &example("vandal"), worker])
        .start();
    daemon.wait_generation(1);
    assert_steered(&daemon);
    let address = daemon.address("http");
    wait_for_traffic(&address, "vandal generation 1\n");
    signal(daemon.server(), Signal::SIGKILL).unwrap();
    wait_for("its end", || daemon.stderr().contains("generation 1 was killed").then_some(()));
    get(&address, "/backlog/1").unwrap();
    let left = daemon.processes_of(1);
    for pid in &left {
        // Supervise may have been faster.
        let _gone_already = signal(*pid, Signal::SIGKILL);
    }
    // Until it is reaped, a thread of one that is killed may still accept a client.
    let is_reaped = |pid: &i32| signal(*pid, None) == Err(Errno::ESRCH);
    wait_for("their end", || left.iter().all(is_reaped).then_some(()));
    // With a queue for one they cannot all wait, so it was mended once they do (a status would mend it as well). Who came
    // too early knocks again by itself.
    let _clients = queue_up(&address, 5, "/");
    wait_for("all of them wait", || (queue_of(&address) == Some(5)).then_some(()));
    let nobody = serde_json::json!([]);
    let status = daemon.wait_until("all of it is gone", |status| status["generations"] == nobody);
    assert_eq!(status["sockets"][0]["queue"], 5, "{status}");
}

/// How many wait for an accept(2), as proc_pid_net(5) shows it of the one that listens (0A): its receive queue.
fn queue_of(address: &str) -> Option<u32> {
    let port: u16 = address.rsplit_once(':')?.1.parse().ok()?;
    let local = format!(":{port:04X}");
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let queues = table.lines().filter_map(|line| {
        let words: Vec<_> = line.split_whitespace().take(5).collect();
        let is_one = words.len() == 5 && words[1].ends_with(&local) && words[3] == "0A";
        u32::from_str_radix(words[4].split_once(':')?.1, 16).ok().filter(|_| is_one)
    });
    queues.max()
}

fn signal(pid: i32, signal: impl Into<Option<Signal>>) -> nix::Result<()> {
    kill(Pid::from_raw(pid), signal)
}

/// A datagram server that does this in its first generation alone, and its address.
fn vandal_once(place: &Place, deed: &str) -> (Daemon, String) {
    let words = place.path("words");
    place.write("words", deed);
    let mut daemon = Launch::new(place)
        .args("--listen udp:127.0.0.1:0=dns --ready notify --restart-sec 0 --bake 0 --drain-quiet 50ms")
        .command(&["/bin/sh", "-c", "exec \"$0\" $(cat \"$1\")", &example("vandal"), &words])
        .start();
    daemon.wait_generation(1);
    place.write("words", "");
    let address = daemon.address("dns");
    (daemon, address)
}

/// It is out of the group from then on, although it looks as before.
#[test]
fn datagrams_go_on_where_a_server_has_connected_its_socket_and_disconnected_it() {
    let place = Place::new();
    let (daemon, address) = vandal_once(&place, "--wander");
    wait_for("an answer", || echoed(&address));
    for generation in 2..=4 {
        daemon.verb("swap").expect(0);
        wait_for("an answer of the next", || (echoed(&address)? >= generation).then_some(()));
    }
}

#[test]
fn a_datagram_server_that_connects_its_socket_is_followed_by_one_that_serves() {
    let place = Place::new();
    let (daemon, address) = vandal_once(&place, "--connect");
    wait_for("an answer of the next", || (echoed(&address)? == 2).then_some(()));
    let said = daemon.stderr();
    assert!(said.contains("generation 1 can accept nothing on"), "{said}");
    assert_eq!(said.matches("generation 1 has connected").count(), 1, "{said}");
    assert!(
        !said.contains("supervise cannot take them elsewhere") && !said.contains("without READY"),
        "{said}"
    );
    swapped(&daemon, 3);
    wait_for("an answer of the next", || (echoed(&address)? == 3).then_some(()));
}

fn echoed(address: &str) -> Option<u64> {
    let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    client.send_to(b"/", address).unwrap();
    let mut buffer = [0; 64];
    let length = client.recv(&mut buffer).ok()?;
    std::str::from_utf8(&buffer[..length]).unwrap().strip_suffix(" /")?.parse().ok()
}
