//! Every way to bind, and what else the server does meanwhile.

use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::load::{Load, get};
use super::super::support::{Launch, Place, environment, example, wait_for};
use super::{assert_answers, binds, common_sockets, is_bound_by_another, swapped};

const TCP: &str = "127.0.0.1:0";
const GATE: &str = "--ready http:/";

fn port(address: &str) -> u16 {
    address.rsplit(':').next().unwrap().parse().unwrap()
}

#[test]
fn a_server_that_binds_for_itself_is_swapped_under_load_without_a_loss() {
    let place = Place::new();
    let mut daemon = binds(&place, TCP, GATE, &["{addr:http}"]).start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    assert_answers(&address, 1);
    // The server has the socket that it bound, and none was passed to it.
    assert_eq!(common_sockets(&daemon, daemon.server()), 1, "{}", daemon.stderr());
    assert!(!is_bound_by_another(&daemon, port(&address)));
    let load = Load::start(&address, 200);
    for generation in 2..=4 {
        swapped(&daemon, generation);
        assert_answers(&address, generation);
    }
    load.samples().assert_clean();
    // The small backlog of the server's listen(2) does not apply to the held socket.
    assert_ne!(daemon.status()["sockets"][0]["backlog"], 5);
}

#[test]
fn a_client_that_comes_while_no_server_lives_waits_and_is_answered() {
    let place = Place::new();
    let mut daemon = binds(&place, TCP, "--ready http:/ --restart-sec 1s", &["{addr:http}"]).start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    kill(Pid::from_raw(daemon.server()), Signal::SIGKILL).unwrap();
    daemon.wait_state("waiting");
    assert_eq!(get(&address, "/").unwrap(), "binds generation 2\n");
}

#[test]
fn threads_shells_and_workers_get_it_as_well() {
    for how in ["thread+", "workers+"] {
        let place = Place::new();
        let mut daemon = binds(&place, TCP, GATE, &[&format!("{how}{{addr:http}}")]).start();
        daemon.wait_generation(1);
        let address = daemon.address("http");
        assert_answers(&address, 1);
        let sockets: usize = get(&address, "/sockets").unwrap().trim().parse().unwrap();
        assert_eq!(common_sockets(&daemon, daemon.server()), sockets, "{how}");
        swapped(&daemon, 2);
        assert_answers(&address, 2);
    }
    let place = Place::new();
    let script = format!("true; {} {{addr:http}}; exit 3", example("binds"));
    let mut daemon = Launch::new(&place)
        .args("--listen 127.0.0.1:0=http --intercept-bind --bake 0 --ready http:/")
        .command(&["sh", "-c", &script])
        .start();
    daemon.wait_generation(1);
    swapped(&daemon, 2);
    assert_answers(&daemon.address("http"), 2);
}

#[test]
fn a_registration_made_before_the_bind_goes_on() {
    let place = Place::new();
    let mut daemon = binds(&place, TCP, GATE, &["epoll+{addr:http}"]).start();
    daemon.wait_generation(1);
    assert_answers(&daemon.address("http"), 1);
    assert!(daemon.stderr().contains("epoll works"), "{}", daemon.stderr());
}

/// The number of its socket is above our own first limit, which its own is, too, if nobody says otherwise.
#[test]
fn a_number_that_is_too_high_for_us_is_none() {
    let place = Place::new();
    let command =
        ["sh", "-c", "ulimit -Sn; ulimit -Sn 200; exec \"$@\"", "sh", &example("binds"), "epoll+{addr:http}"];
    let launch = binds(&place, TCP, "", &[]).command(&command);
    let daemon = launch.wrapper(&["sh", "-c", "ulimit -Sn 90; exec \"$@\"", "sh"]).start();
    assert_answers(&daemon.address("http"), 1);
    assert!(daemon.stderr().contains("epoll works"), "{}", daemon.stderr());
    assert_eq!(daemon.stdout(), "90\n");
}

#[test]
fn the_hint_says_what_was_seen() {
    let place = Place::new();
    let taken = TcpListener::bind(TCP).unwrap();
    let hints = |word: &str, hint: &str| {
        let daemon = binds(&place, TCP, "--restart no", &[word]).start_uncontrolled();
        wait_for("the hint", || daemon.stderr().contains(hint).then_some(()));
    };
    hints(
        &taken.local_addr().unwrap().to_string(),
        "--intercept-bind sees it bind none of them; if it binds another address",
    );
    let broken = binds(&place, TCP, "--restart no", &["to:127.0.0.1:1"]).run();
    assert!(
        broken.stderr.contains("exited with status 1") && !broken.stderr.contains("(said once)"),
        "{}",
        broken.stderr
    );
    // Again and again: what it does may go past the filter.
    let daemon = Launch::new(&place)
        .args("--listen 127.0.0.1:0 --intercept-bind --restart-sec 10ms")
        .command(&["sh", "-c", "exit 1"])
        .start_uncontrolled();
    wait_for("the hint", || daemon.stderr().contains("io_uring").then_some(()));
    assert!(daemon.stderr().contains("generation 3 ended before it waited"), "{}", daemon.stderr());
    // Nothing was said of that, so there is still something to say of the next.
    let once = "test -e been || { touch been; exit 1; }; exec \"$@\"";
    let command = ["sh", "-c", once, "sh", &example("binds"), "deaf+127.0.0.1:0"];
    let options = "--restart-sec 10ms --restart always";
    let daemon =
        binds(&place, TCP, options, &[]).command(&command).directory(&place.path("")).start_uncontrolled();
    wait_for("the hint", || {
        daemon.stderr().contains("--intercept-bind sees it bind none of them").then_some(())
    });
    assert!(daemon.stderr().contains("generation 2 runs for 5s"), "{}", daemon.stderr());
    hints("deaf+{addr:http}", ": it has bound that, but does not accept yet");
}

#[test]
fn other_ports_and_outgoing_connections_are_the_servers_own() {
    let place = Place::new();
    let outside = TcpListener::bind(TCP).unwrap();
    let spare = TcpListener::bind(TCP).unwrap();
    let other = spare.local_addr().unwrap();
    drop(spare);
    let to = format!("to:{}", outside.local_addr().unwrap());
    let mut daemon = binds(&place, TCP, GATE, &["{addr:http}", &other.to_string(), &to]).start();
    daemon.wait_generation(1);
    outside.accept().unwrap();
    assert_answers(&other.to_string(), 1);
    assert!(is_bound_by_another(&daemon, other.port()));
    let peer = get(&daemon.address("http"), "/peer").unwrap();
    assert!(peer.starts_with("127.0.0.1:"), "{peer}");
}

#[test]
fn options_that_a_server_sets_before_it_binds_are_on_the_socket_that_it_gets_and_gone_with_it() {
    let place = Place::new();
    let mut daemon = binds(&place, "127.0.0.1:0", "", &["options+{addr:http}"]).start();
    // Generations 3 and 4 set no options, on the slots that generations 1 and 2 had.
    for generation in 1..=4 {
        daemon.wait_generation(generation);
        assert_answers(&daemon.address("http"), generation);
        assert_eq!(common_sockets(&daemon, daemon.server()), 1, "{}", daemon.stderr());
        if generation < 4 {
            swapped(&daemon, generation + 1);
        }
    }
}

#[test]
fn datagrams() {
    let place = Place::new();
    let mut daemon = binds(&place, "udp:127.0.0.1:0", "--ready delay:100ms", &["udp:{addr:http}"]).start();
    daemon.wait_generation(1);
    let client = UdpSocket::bind(TCP).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let address = daemon.address("http");
    let ask = || {
        wait_for("an echo", || {
            client.send_to(b"hello", &address).unwrap();
            let mut buffer = [0; 64];
            let length = client.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        })
    };
    assert_eq!(ask(), "1 hello");
    assert_eq!(common_sockets(&daemon, daemon.server()), 1);
    swapped(&daemon, 2);
    wait_for("generation 2", || (ask() == "2 hello").then_some(()));
}

/// What `socat UDP-LISTEN:PORT,fork` does. Each bind gets a socket, and what comes meanwhile waits in the next one.
#[test]
fn a_server_that_connects_a_udp_socket_to_each_client_gets_one_for_each() {
    let place = Place::new();
    let words = ["clients:{addr:http}"];
    let mut daemon = binds(&place, "udp:127.0.0.1:0", "--ready delay:100ms", &words).start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    let ask = |generation: u64| {
        let client = UdpSocket::bind(TCP).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.connect(&address).unwrap();
        for word in ["hello", "again"] {
            client.send(word.as_bytes()).unwrap();
            let mut buffer = [0; 64];
            let length = client.recv(&mut buffer).expect("an answer");
            assert_eq!(String::from_utf8_lossy(&buffer[..length]), format!("{generation} {word}"));
        }
    };
    for generation in 1..=3 {
        for _ in 0..40 {
            ask(generation);
        }
        for word in ["to one client and does not hear", "can accept nothing", "by SO_REUSEPORT"] {
            assert!(!daemon.stderr().contains(word), "{}", daemon.stderr());
        }
        if generation < 3 {
            swapped(&daemon, generation + 1);
        }
    }
}

#[test]
fn one_socket_for_all_is_none_for_each_client() {
    let place = Place::new();
    let options = "--ready delay:100ms --handover shared";
    let mut daemon = binds(&place, "udp:127.0.0.1:0", options, &["clients:{addr:http}"]).start();
    daemon.wait_generation(1);
    UdpSocket::bind(TCP).unwrap().send_to(b"hello", daemon.address("http")).unwrap();
    wait_for("the word", || daemon.stderr().contains("leave --handover shared out").then_some(()));
}

#[test]
fn without_a_socket_there_is_nothing_to_intercept() {
    let place = Place::new();
    let ended = Launch::new(&place).args("--intercept-bind").command(&["true"]).run().expect(2);
    assert!(ended.stderr.contains("--listen"), "{ended:?}");
}

#[test]
fn a_server_that_binds_for_itself_gets_no_listen_fds_unless_it_asks() {
    for (options, word, passed) in [
        ("", "", false),
        ("-p Protocol=systemd", "", true),
        ("", "{fd:http}", true),
        ("", "{port:http}", false),
    ] {
        let place = Place::new();
        let script = format!("exec {} {{addr:http}}", example("binds"));
        let mut daemon = Launch::new(&place)
            .args("--listen 127.0.0.1:0=http --intercept-bind --bake 0 --ready http:/")
            .args(options)
            .command(&["sh", "-c", &script, "sh", word])
            .start();
        daemon.wait_generation(1);
        let has_variable = environment(daemon.server()).contains_key("LISTEN_FDS");
        let sockets = common_sockets(&daemon, daemon.server());
        assert_eq!((has_variable, sockets), (passed, 1 + usize::from(passed)), "{options} {word}");
    }
}
