//! IPv4 and IPv6: which socket may stand for which.

use std::fs;
use std::net::TcpListener;

use super::super::support::{Place, wait_for};
use super::{assert_answers, binds, common_sockets, is_bound_by_another, swapped};

fn has_ipv6() -> bool {
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
    let peer = super::get(&format!("127.0.0.1:{port}"), "/peer").unwrap();
    assert!(peer.starts_with("127.0.0.1:"), "{peer}");
}

#[test]
fn a_server_of_ipv4_is_told_which_address_to_listen_on() {
    if !has_ipv6() {
        return;
    }
    for ip in ["0.0.0.0", "127.0.0.1"] {
        let place = Place::new();
        let mut daemon = binds(&place, "0", "--restart-sec 20ms", &[&format!("{ip}:{{port:http}}")]).start();
        let port = daemon.address("http").rsplit(':').next().unwrap().to_owned();
        let remedy = format!("(write --listen {ip}:{port}");
        wait_for("the remedy", || daemon.stderr().contains(&remedy).then_some(()));
        daemon.wait_until("it was tried again", |status| status["generation"].as_u64() > Some(2));
        // Once, however often it is tried.
        let said = daemon.stderr();
        assert_eq!(said.matches(&remedy).count(), 1, "{said}");
        let both = format!("--listen 0.0.0.0:{port} --listen [::]:{port} -p BindIPv6Only=ipv6-only");
        assert_eq!(said.contains(&both), ip == "0.0.0.0", "{said}");
        assert!(!said.contains("before it waited on"), "that is all there is to say: {said}");
    }
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
    // The remedy, on a port without a past.
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
