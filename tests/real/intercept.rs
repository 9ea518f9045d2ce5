//! --intercept-bind and servers in four languages that never heard of LISTEN_FDS: whose listener it is, whom they see as
//! their client, and who waits when they are killed. Then servers that bind both families.

mod servers;

use std::collections::BTreeSet;
use std::io::Read;
use std::net::TcpListener;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::load::{Load, ask, connect};
use super::support::{Daemon, Launch, Place};
use servers::{ASYNCIO, CPYTHON, GO, HAPROXY, JVM, NGINX, NODE, Server};

#[test]
fn static_go() {
    is_ours_and_waited_for(&GO);
}

#[test]
fn node() {
    is_ours_and_waited_for(&NODE);
}

#[test]
fn jvm_from_a_thread() {
    is_ours_and_waited_for(&JVM);
}

#[test]
fn cpython() {
    is_ours_and_waited_for(&CPYTHON);
}

#[test]
fn nginx_of_both_families() {
    serves_both_families(&NGINX);
}

#[test]
fn haproxy_of_both_families() {
    serves_both_families(&HAPROXY);
}

#[test]
fn asyncio_of_both_families() {
    serves_both_families(&ASYNCIO);
}

/// The server says who its client is.
#[track_caller]
fn is_ours_and_waited_for(server: &Server) {
    let place = Place::new();
    let words = server.words(&place, "{port:web}");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let options = "-l 127.0.0.1:0=web --intercept-bind --restart-sec 1";
    let mut daemon = Launch::new(&place).args(options).command(&words).start();
    daemon.wait_generation(1);
    let address = daemon.address("web");
    assert_true_peer(&address);
    assert_ours(&daemon, &address);
    kill(Pid::from_raw(daemon.server()), Signal::SIGKILL).unwrap();
    daemon.wait_state("waiting");
    assert_true_peer(&address);
    let status = daemon.wait_generation(2);
    assert_eq!(status["restarts"], 1, "{}", daemon.stderr());
    assert_ours(&daemon, &address);
    daemon.verb("stop").expect(0);
}

/// Each address is held, and the server binds both.
#[track_caller]
fn serves_both_families(server: &Server) {
    let place = Place::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let words = server.words(&place, &port.to_string());
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let addresses = [format!("127.0.0.1:{port}"), format!("[::1]:{port}")];
    let options = format!("-l {} -l {} --intercept-bind", addresses[0], addresses[1]);
    let mut daemon = Launch::new(&place).args(&options).command(&words).start();
    daemon.wait_generation(1);
    let loads = addresses.each_ref().map(|address| {
        let get = |address: &str| get(address).map_err(Into::into);
        Load::asking(address, 100, Box::new(get))
    });
    loads.iter().for_each(|load| load.let_pass(50));
    addresses.iter().for_each(|address| assert_ours(&daemon, address));
    daemon.verb("swap").expect(0);
    daemon.wait_generation(2);
    loads.iter().for_each(|load| load.let_pass(50));
    addresses.iter().for_each(|address| assert_ours(&daemon, address));
    for load in loads {
        let counts = load.finish();
        assert_eq!(counts.failed(), 0, "{counts}: {}", daemon.stderr());
    }
    daemon.verb("stop").expect(0);
}

/// The body, up to where the server ends it.
fn get(address: &str) -> std::io::Result<String> {
    let mut stream = connect(address).map_err(|failure| std::io::Error::other(format!("{failure:?}")))?;
    body(&mut stream)
}

fn body(stream: &mut std::net::TcpStream) -> std::io::Result<String> {
    ask(stream, "/").map_err(|failure| std::io::Error::other(format!("{failure:?}")))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (_, body) = text.split_once("\r\n\r\n").ok_or_else(|| std::io::Error::other(text.clone()))?;
    Ok(body.trim().to_owned())
}

#[track_caller]
fn assert_true_peer(address: &str) {
    let mut stream = connect(address).unwrap();
    let own = stream.local_addr().unwrap().to_string();
    assert_eq!(body(&mut stream).unwrap(), own);
}

/// Whoever listens on it does so on a socket that is ours as well, and the server is among them.
#[track_caller]
fn assert_ours(daemon: &Daemon, address: &str) {
    let output = Command::new("ss").args(["-Hltnp", "src", address]).output();
    let output = output.unwrap_or_else(|error| panic!("ss: {error}: run tests/real/run"));
    let text = String::from_utf8(output.stdout).unwrap();
    let holders: Vec<BTreeSet<i32>> = text.lines().map(holders).collect();
    assert!(!holders.is_empty() && holders.iter().all(|pids| pids.contains(&daemon.pid())), "{text}");
    let server = daemon.server();
    assert!(holders.iter().any(|pids| pids.contains(&server)), "{server}: {text}");
}

/// The pids of a line of ss(8): `users:(("name",pid=1,fd=3),...)`.
fn holders(line: &str) -> BTreeSet<i32> {
    let number = |text: &str| text.split(',').next().and_then(|digits| digits.parse().ok());
    line.split("pid=").skip(1).filter_map(number).collect()
}
