//! Nobody is seen to wait, and yet it accepts: connections of clients, or one of ours.

use std::io::Read;
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::unistd::geteuid;

use super::super::support::{Launch, Place, example, wait_for};
use super::{as_somebody, copies, get, ready_by, ready_ms, waits};

fn abstract_name(place: &Place) -> String {
    place.path("").trim_matches('/').replace('/', "-")
}

/// The server has one thread, which clients that send nothing keep busy.
#[test]
fn a_saturated_server_on_an_abstract_name_is_seen_to_accept() {
    const CLIENTS: usize = 8;
    let place = Place::new();
    place.write("how", "accept");
    let name = abstract_name(&place);
    let mut daemon = Launch::new(&place)
        .args(&format!("--listen @{name}=http --bake 0 --timeout-start-sec 5s"))
        .command(&[&example("waits"), &place.path("how")])
        .start();
    daemon.wait_generation(1);
    let at = SocketAddr::from_abstract_name(&name).unwrap();
    let is_over = AtomicBool::new(false);
    let keep_at_work = || {
        while !is_over.load(Ordering::Relaxed) {
            let mut client = UnixStream::connect_addr(&at).unwrap();
            client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let _nothing = client.read(&mut [0]);
        }
    };
    let swap = thread::scope(|scope| {
        (0..CLIENTS).for_each(|_| drop(scope.spawn(keep_at_work)));
        let swap = daemon.verb("swap");
        is_over.store(true, Ordering::Relaxed);
        swap
    });
    swap.expect(0);
    assert_eq!(ready_by(&daemon, 2), "(has accepted connections on http)");
}

/// The server sleeps and accepts in turn, and its connections are closed before supervise looks.
#[test]
fn one_that_shares_a_socket_is_told_by_its_fds_to_accept_ours() {
    let place = Place::new();
    place.write("how", "seldom");
    let addresses = ["127.0.0.1:0".to_owned(), place.path("s.sock"), format!("@{}", abstract_name(&place))];
    let start = |(index, address): (usize, &String)| {
        let options = format!("--listen {address}=http --bake 0 --handover shared --timeout-start-sec 10s");
        let command = [&*example("waits"), &place.path("how")];
        Launch::new(&place).args(&options).command(&command).start_as(&format!("daemon{index}"))
    };
    let mut daemons: Vec<_> = addresses.iter().enumerate().map(start).collect();
    for daemon in &mut daemons {
        // Without a client, a connection of ours says what it is.
        let status = daemon.wait_generation(1);
        assert!(ready_ms(&status) >= 1_000, "{status}");
        assert_eq!(ready_by(daemon, 1), "(accepted a connection from supervise)");
        let status = daemon.verb("status").expect(0).stdout;
        assert!(status.contains(": running, generation 1\n"), "{status}");
    }
    // Which of two accepts a connection is a matter of chance, and must not decide whether a swap succeeds.
    for daemon in &mut daemons {
        for generation in 2..6 {
            daemon.verb("swap").expect(0);
            daemon.wait_generation(generation);
            // A look may find what it has accepted before we hear of it.
            let by = ready_by(daemon, generation);
            let seen = ["(accepted a connection from supervise)", "(has accepted connections on http)"];
            assert!(seen.contains(&&*by), "{by}");
            let status = daemon.verb("status").expect(0).stdout;
            assert!(status.contains(&format!(": running, generation {generation}\n")), "{status}");
        }
    }
    place.write("how", "never");
    let swap = daemons[0].verb("swap --json").expect(1).json();
    assert_eq!(swap["outcome"], "rolled-back", "{swap}");
}

/// What it accepts on one socket says nothing of the others, also where it takes longer to start than it is looked at.
#[test]
fn each_socket_on_which_nobody_is_seen_is_asked_by_itself() {
    let [polls, leaves_one] = [Place::new(), Place::new()];
    let options = "--listen 127.0.0.1:0=other --listen 127.0.0.1:0=third";
    let mut polling = waits(&polls, "seldom", options).start();
    let mut leaving = waits(&leaves_one, "accept late first", options).start();
    polling.wait_generation(1);
    assert_eq!(ready_by(&polling, 1), "(accepted a connection from supervise)");
    let hint = "generation 1 runs for 5s, and nobody waits on other (127.0.0.1:";
    wait_for("the hint", || leaving.stderr().contains(hint).then_some(()));
    leaving.wait_generation(1);
    let doubt = ": nobody waits on other, third; kept, because no other generation exists";
    assert!(leaving.stderr().contains(doubt), "{}", leaving.stderr());
    assert!(!polling.stderr().contains("nobody waits"), "{}", polling.stderr());
}

#[test]
fn a_connection_of_ours_that_nobody_has_accepted_starts_no_server() {
    for handover in ["steered", "shared"] {
        let place = Place::new();
        let options = format!("--listen 127.0.0.1:0=http --handover {handover}");
        // Supervise connects to it after a second.
        let mut daemon = Launch::new(&place).args(&options).command(&["sleep", "2"]).start();
        wait_for("its end", || daemon.stderr().contains("the next connection starts").then_some(()));
        let status = daemon.wait_state("listening");
        assert_eq!(status["sockets"][0]["queue"], 0, "{status}");
        assert!(!daemon.stderr().contains("generation 2 started"), "{}", daemon.stderr());
        let client = TcpStream::connect(daemon.address("http")).expect("a queue");
        wait_for("a start by a client", || daemon.stderr().contains("generation 2 started").then_some(()));
        drop(client);
    }
}

#[test]
fn a_connection_of_ours_in_the_queue_of_one_that_died_is_passed_on_to_nobody() {
    let place = Place::new();
    for address in ["127.0.0.1:0".to_owned(), place.path("s.sock")] {
        let launch = waits(&place, "accept hidden", &format!("--listen {address}=asked"));
        let mut daemon = as_somebody(&place, launch).start();
        daemon.wait_generation(1);
        place.write("how", "accept hidden dies");
        let swap = daemon.verb("swap --json").expect(1).json();
        assert_eq!(swap["outcome"], "rolled-back", "{swap}");
        let status = daemon.verb("status --json").expect(0).json();
        let queues = |one: &serde_json::Value| one["queue"].clone();
        let queues: Vec<_> = status["sockets"].as_array().unwrap().iter().map(queues).collect();
        assert_eq!(queues, [0, 0], "{status}");
        place.write("how", "accept hidden");
        daemon.verb("swap").expect(0);
        let said = daemon.stderr();
        assert!(!said.contains("waited where nobody accepts"), "{said}");
    }
}

/// Who waits cannot be seen there, so a connection from supervise is in the queue when the release dies.
#[test]
fn what_a_release_that_is_rolled_back_had_bound_is_free_for_the_next() {
    let place = Place::new();
    let listen = |name: &str| {
        let text = format!("[Socket]\nListenStream={}\nFileDescriptorName=http\n", place.path(name));
        place.write("web.socket", &text);
    };
    let (binary, server) = copies(&place);
    listen("a.sock");
    place.write("how", "accept hidden");
    place.write(
        "web.service",
        &format!("[Service]\nWorkingDirectory=/\nExecStart={server} {}\n", place.path("how")),
    );
    let mut launch = Launch::units(&place, &["web.socket", "web.service"]);
    if geteuid().is_root() {
        launch = launch.user(65534, &binary);
    }
    let mut daemon = launch.start();
    daemon.wait_generation(1);
    listen("b.sock");
    place.write("how", "accept hidden dies");
    let swap = daemon.verb("swap --json").expect(1).json();
    assert_eq!(swap["outcome"], "rolled-back", "{swap}");
    place.write("how", "accept hidden");
    daemon.verb("swap").expect(0);
    assert!(get(&place.path("b.sock"), "/").unwrap().contains("generation 3"));
}
