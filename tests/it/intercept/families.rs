//! IPv4 and IPv6: which socket may stand for which.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use super::super::load::{Failure, Load, get};
use super::super::support::{Daemon, Launch, Place, example, wait_for};
use super::{assert_answers, binds, common_sockets, is_bound_by_another, swapped};

/// The server is started once somebody has made the file `go`.
const ON_GO: &str = "until test -e go; do sleep 0.01; done; exec \"$@\"";

pub(super) fn port(daemon: &Daemon) -> u16 {
    daemon.address("http").rsplit(':').next().unwrap().parse().unwrap()
}

/// What is held now, and that nobody was warned of anything.
pub(super) fn addresses(daemon: &Daemon) -> Vec<String> {
    assert!(!daemon.stderr().contains("warning"), "{}", daemon.stderr());
    held(daemon)
}

pub(super) fn held(daemon: &Daemon) -> Vec<String> {
    let sockets = daemon.status()["sockets"].clone();
    sockets.as_array().unwrap().iter().map(|one| one["address"].as_str().unwrap().to_owned()).collect()
}

pub(super) fn has_ipv6() -> bool {
    fs::metadata("/proc/net/if_inet6").is_ok() && TcpListener::bind("[::1]:0").is_ok()
}

#[test]
fn a_server_of_all_addresses_on_a_socket_of_all_addresses() {
    if !has_ipv6() {
        return;
    }
    let place = Place::new();
    let mut daemon = binds(&place, "0", "--ready http:/", &["[::]:{port:http}"]).start();
    daemon.wait_generation(1);
    let port = daemon.address("http").rsplit(':').next().unwrap().to_owned();
    assert_answers(&format!("127.0.0.1:{port}"), 1);
    assert_answers(&format!("[::1]:{port}"), 1);
    swapped(&daemon, 2);
    assert_answers(&format!("127.0.0.1:{port}"), 2);
    assert_eq!(common_sockets(&daemon, daemon.server()), 1);
}

#[test]
fn a_server_of_ipv6_gets_a_socket_of_ipv4_and_sees_its_clients() {
    if !has_ipv6() {
        return;
    }
    let place = Place::new();
    let mut daemon = binds(&place, "0.0.0.0:0", "--ready http:/", &["[::]:{port:http}"]).start();
    daemon.wait_generation(1);
    let port = daemon.address("http").rsplit(':').next().unwrap().to_owned();
    assert_answers(&format!("127.0.0.1:{port}"), 1);
    let peer = get(&format!("127.0.0.1:{port}"), "/peer").unwrap();
    assert!(peer.starts_with("127.0.0.1:"), "{peer}");
}

#[test]
fn a_server_of_ipv4_is_told_which_address_to_listen_on() {
    if !has_ipv6() {
        return;
    }
    for ip in ["0.0.0.0", "127.0.0.1"] {
        let place = Place::new();
        let mut daemon =
            binds(&place, "[::]:0", "--restart-sec 20ms", &[&format!("{ip}:{{port:http}}")]).start();
        let port = daemon.address("http").rsplit(':').next().unwrap().to_owned();
        let remedy = format!("(write --listen {ip}:{port}");
        wait_for("the remedy", || daemon.stderr().contains(&remedy).then_some(()));
        daemon.wait_until("it was tried again", |status| status["generation"].as_u64() > Some(2));
        // The log says it once, however often the server tries.
        let said = daemon.stderr();
        assert_eq!(said.matches(&remedy).count(), 1, "{said}");
        let both = format!("--listen 0.0.0.0:{port} --listen [::]:{port} -p BindIPv6Only=ipv6-only");
        assert_eq!(said.contains(&both), ip == "0.0.0.0", "{said}");
        assert!(!said.contains("before it waited on"), "that is all there is to say: {said}");
    }
}

#[test]
fn a_server_that_lives_on_without_its_address_is_led_to_the_warning_about_it() {
    if !has_ipv6() {
        return;
    }
    let place = Place::new();
    let script = "\"$0\" \"0.0.0.0:$1\"; exec sleep 60";
    let daemon = Launch::new(&place)
        .args("--listen [::]:0=http --intercept-bind")
        .command(&["sh", "-c", script, &example("binds"), "{port:http}"])
        .start_uncontrolled();
    wait_for("the hint", || daemon.stderr().contains("runs for 5s").then_some(()));
    let said = daemon.stderr();
    assert!(said.contains("(write --listen 0.0.0.0:"), "{said}");
    assert!(said.contains("the warning about that names the --listen that fits"), "{said}");
    assert!(!said.contains("bind none of them"), "{said}");
}

#[test]
fn a_server_with_a_socket_for_each_family() {
    if !has_ipv6() {
        return;
    }
    let place = Place::new();
    let words = ["0.0.0.0:{port:http}", "only6+[::]:{port:http}"];
    let mut daemon = binds(&place, "0.0.0.0:0", "--ready http:/", &words).start();
    daemon.wait_generation(1);
    let port: u16 = daemon.address("http").rsplit(':').next().unwrap().parse().unwrap();
    assert_answers(&format!("127.0.0.1:{port}"), 1);
    // That of IPv6 is its own: nobody holds it, and a swap would need both.
    wait_for("the remedy", || daemon.stderr().contains("-p BindIPv6Only=ipv6-only").then_some(()));
    assert_answers(&format!("[::1]:{port}"), 1);
    assert!(is_bound_by_another(&daemon, port));
    assert_eq!(common_sockets(&daemon, daemon.server()), 1);
    // The remedy works on a port that no server has bound before.
    let place = Place::new();
    let port = TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let listen = format!("--listen [::]:{port} -p BindIPv6Only=ipv6-only --ready http:/");
    let mut daemon = binds(&place, &format!("0.0.0.0:{port}"), &listen, &words).start();
    daemon.wait_generation(1);
    swapped(&daemon, 2);
    assert_answers(&format!("127.0.0.1:{port}"), 2);
    assert_answers(&format!("[::1]:{port}"), 2);
    assert!(!is_bound_by_another(&daemon, port));
    assert_eq!(common_sockets(&daemon, daemon.server()), 2);
}

#[test]
fn a_port_alone_has_the_family_that_its_server_binds() {
    if !has_ipv6() {
        return;
    }
    for (ip, ready) in [("0.0.0.0", "--ready auto"), ("127.0.0.1", "--ready http:/")] {
        let place = Place::new();
        let word = format!("{ip}:{{port:http}}");
        let command = ["sh", "-c", ON_GO, "sh", &example("binds"), &word];
        let launch = binds(&place, "0", ready, &[]).command(&command).directory(&place.path(""));
        let mut daemon = launch.start();
        let port = port(&daemon);
        // They come before the server, while it binds and while what it has not bound is let go.
        let load = Load::start(&format!("127.0.0.1:{port}"), 50);
        // These go on coming by the family that it does not bind.
        let stubborn = Load::start(&format!("[::1]:{port}"), 50);
        daemon.wait_until("some wait", |status| status["sockets"][0]["queue"].as_u64() > Some(5));
        place.write("go", "");
        daemon.wait_generation(1);
        let said =
            format!("listening on 0.0.0.0:{port} instead of [::]:{port}: the server binds {ip}:{port}");
        wait_for("that to be told", || daemon.stderr().contains(&said).then_some(()));
        load.let_pass(10);
        // A client that tries it first goes on to IPv4.
        let refused = wait_for("its end", || get(&format!("[::1]:{port}"), "/").err());
        assert_eq!(refused, Failure::Refused);
        assert!(stubborn.finish().ok > 0, "those that came early were answered");
        for generation in 2..=3 {
            swapped(&daemon, generation);
            assert_answers(&format!("127.0.0.1:{port}"), generation);
        }
        let counts = load.finish();
        assert!(counts.failed() == 0 && counts.ok > 0, "{counts}: {}", daemon.stderr());
        assert_eq!(addresses(&daemon), [format!("0.0.0.0:{port}")]);
        assert!(!is_bound_by_another(&daemon, port));
        assert_eq!(common_sockets(&daemon, daemon.server()), 1);
    }
}

#[test]
fn a_port_alone_has_both_families_where_its_server_binds_each() {
    if !has_ipv6() {
        return;
    }
    for is_reversed in [false, true] {
        let mut words = ["0.0.0.0:{port:http}", "only6+[::]:{port:http}"];
        if is_reversed {
            words.reverse();
        }
        let place = Place::new();
        let mut daemon = binds(&place, "0", "", &words).start();
        daemon.wait_generation(1);
        let port = port(&daemon);
        let said = format!("listening on 0.0.0.0:{port} as well as [::]:{port}");
        wait_for("that to be told", || daemon.stderr().contains(&said).then_some(()));
        for generation in 1..=3 {
            assert_answers(&format!("127.0.0.1:{port}"), generation);
            assert_answers(&format!("[::1]:{port}"), generation);
            assert_eq!(common_sockets(&daemon, daemon.server()), 2);
            if generation < 3 {
                swapped(&daemon, generation + 1);
            }
        }
        assert!(!is_bound_by_another(&daemon, port));
        assert_eq!(addresses(&daemon), [format!("[::]:{port}"), format!("0.0.0.0:{port}")]);
    }
}

/// vite binds a port for a moment to see whether it is free.
#[test]
fn what_a_server_only_tries_to_bind_is_neither_kept_nor_told() {
    if !has_ipv6() {
        return;
    }
    let tries = ["try+0.0.0.0:{port:http}", "try+[::]:{port:http}"];
    for (listen, serves, held) in [
        ("0", "[::1]", "[::]"),
        ("0", "127.0.0.1", "0.0.0.0"),
        ("[::1]:0", "[::1]", "[::1]"),
        ("127.0.0.1:0", "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0:0", "127.0.0.1", "0.0.0.0"),
    ] {
        let place = Place::new();
        let word = format!("{serves}:{{port:http}}");
        let mut daemon = binds(&place, listen, "", &[tries[0], tries[1], &word]).start();
        daemon.wait_generation(1);
        let port = port(&daemon);
        let held = [format!("{held}:{port}")];
        wait_for("what is left", || (addresses(&daemon) == held).then_some(()));
        swapped(&daemon, 2);
        assert_answers(&format!("{serves}:{port}"), 2);
        assert_eq!(addresses(&daemon), held);
        assert!(!is_bound_by_another(&daemon, port), "{listen} {serves}");
    }
    // The server's own socket stays, and gets connections before the held one.
    let place = Place::new();
    let words = ["[::1]:{port:http}", "0.0.0.0:{port:http}"];
    let daemon = binds(&place, "[::1]:0", "", &words).start();
    let said = format!("the server binds 0.0.0.0:{} for itself", port(&daemon));
    wait_for("that to be told", || daemon.stderr().contains(&said).then_some(()));
}

#[test]
fn a_port_of_datagrams_has_the_family_that_its_server_binds() {
    if !has_ipv6() {
        return;
    }
    let place = Place::new();
    let mut daemon = binds(&place, "udp:0", "", &["udp:127.0.0.1:{port:http}"]).start();
    daemon.wait_generation(1);
    let port = port(&daemon);
    wait_for("what is left", || (addresses(&daemon) == [format!("0.0.0.0:{port}")]).then_some(()));
    swapped(&daemon, 2);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    wait_for("an answer of generation 2", || {
        client.send_to(b"hello", ("127.0.0.1", port)).unwrap();
        let mut buffer = [0; 64];
        let length = client.recv(&mut buffer).ok()?;
        (&buffer[..length] == b"2 hello").then_some(())
    });
}
