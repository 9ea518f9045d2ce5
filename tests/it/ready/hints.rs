//! A server that does not take its sockets is told how it could, once.

use std::net::TcpStream;
use std::os::unix::fs::symlink;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::load::get;
use super::super::support::{Launch, Place, SUPERVISE, example, wait_for};
use super::waits;

#[test]
fn a_server_that_never_waits_is_told_once_after_five_seconds() {
    for options in ["", "--ready exec"] {
        let place = Place::new();
        let mut daemon = waits(&place, "never", options).start();
        let hint = "generation 1 runs for 5s, and nobody waits on http (127.0.0.1:";
        wait_for("the hint", || daemon.stderr().contains(hint).then_some(()));
        daemon.wait_generation(1);
        daemon.verb("restart").expect(0);
        daemon.wait_generation(2);
        let said = daemon.stderr();
        assert_eq!(said.matches("nobody waits on http (").count(), 1, "{said}");
        assert!(said.contains("{fd:http}"), "{said}");
    }
}

#[test]
fn a_server_that_meets_its_address_in_use_is_told_once() {
    let place = Place::new();
    let daemon = waits(&place, "bind", "--restart-sec 10ms").start();
    wait_for("the third start", || daemon.stderr().contains("generation 3 started").then_some(()));
    let said = daemon.stderr();
    assert_eq!(said.matches("ended before it waited on http (").count(), 1, "{said}");
    assert!(said.contains("if it says that the address is in use"), "{said}");
}

/// Supervise guesses after three failures in a row that the binds went past the filter.
#[test]
fn failures_before_a_success_are_not_counted_with_those_after_it() {
    let place = Place::new();
    let options = "--listen 127.0.0.1:0=other --intercept-bind -p Protocol=systemd --restart-sec 1h";
    let mut daemon = waits(&place, "exit", options).start();
    daemon.wait_state("waiting");
    daemon.verb("swap").expect(1);
    place.write("how", "accept first says");
    daemon.verb("swap").expect(0);
    let pid = daemon.wait_generation(3)["generations"][0]["pid"].as_i64().unwrap();
    // The server sends READY=1 at once; supervise has looked at it by then as well.
    wait_for("a look", || daemon.stderr().contains("nobody waits on other (").then_some(()));
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
    daemon.wait_state("waiting");
    place.write("how", "exit late");
    daemon.verb("swap").expect(1);
    let said = daemon.stderr();
    assert!(!said.contains("ended before it waited on"), "{said}");
}

#[test]
fn the_first_hint_ends_with_a_command_line_that_works() {
    let place = Place::new();
    // A server of that name binds its port itself.
    let php = place.path("php");
    symlink(example("binds"), &php).unwrap();
    let start = |options: &str, command: &[&str]| Launch::new(&place).args(options).command(command).start();
    let daemon = start("--listen 127.0.0.1:0=http -v", &[&php, "{addr:http}"]);
    let hint = || {
        let said = daemon.stderr();
        let line = said.lines().find(|line| line.contains("ended before it waited on http ("))?;
        Some(line.split_once("; start it as: ").expect(line).1.to_owned())
    };
    let hint = wait_for("the hint", hint);
    daemon.verb("stop").expect(0);
    daemon.end();
    let (ours, command) = hint.split_once(" -- ").expect(&hint);
    let options = ours.strip_prefix(SUPERVISE).expect(&hint);
    assert!(options.ends_with(" --intercept-bind"), "{hint}");
    // The options of the tests come first, here as well.
    let options = options.split_once("--listen").expect(&hint).1;
    let mut daemon = start(&format!("--listen{options}"), &command.split(' ').collect::<Vec<_>>());
    daemon.wait_generation(1);
    assert_eq!(get(&daemon.address("http"), "/").unwrap(), "binds generation 1\n");
}

#[test]
fn a_server_that_is_never_seen_to_wait_but_accepts_is_told_nothing() {
    let [serves, alone, silent, idles] = [(); 4].map(|()| Place::new());
    let daemon = waits(&serves, "seldom", "--ready exec").start();
    let without_client = waits(&alone, "seldom", "--ready exec").start();
    // That it accepts a connection from supervise does not stand for READY=1.
    let without_ready = waits(&silent, "seldom", "--ready notify --timeout-start-sec 7s").start();
    let _silent = TcpStream::connect(daemon.address("http")).expect("a server");
    // This one was started later, so its hint comes later as well.
    let other = waits(&idles, "never", "--ready exec").start();
    wait_for("the hint", || other.stderr().contains("and nobody waits on http (").then_some(()));
    let why = "(it sent no READY=1, but it accepts connections; with --ready auto that is enough)";
    wait_for("the end of the time to start", || without_ready.stderr().contains(why).then_some(()));
    for daemon in [daemon, without_client, without_ready] {
        assert!(!daemon.stderr().contains("nobody waits"), "{}", daemon.stderr());
    }
}

#[test]
fn a_server_that_waits_is_told_nothing_when_it_fails() {
    let place = Place::new();
    let mut daemon = waits(&place, "accept", "--restart-sec 10ms").start();
    daemon.wait_generation(1);
    place.write("how", "exit");
    daemon.verb("swap").expect(1);
    daemon.wait_generation(1);
    let said = daemon.stderr();
    assert!(!said.contains("(said once)"), "{said}");
    // The hint also says what to do about a server of which two cannot run at once.
    assert!(said.contains("already running or that its files are locked: --handover stop-first"), "{said}");
}

#[test]
fn a_server_that_goes_into_the_background_is_told_once_and_is_not_healthy() {
    let place = Place::new();
    let mut daemon = Launch::new(&place).args("--listen 127.0.0.1:0=http").command(&["true"]).start();
    daemon.wait_state("listening");
    // The client waits in the queue for as long as nobody accepts it.
    let client = TcpStream::connect(daemon.address("http")).expect("a queue");
    wait_for("the sixth start", || daemon.stderr().contains("generation 6 started").then_some(()));
    daemon.wait_state("failed");
    daemon.verb("status").expect(1);
    let said = daemon.stderr();
    assert_eq!(said.matches("a server must stay in the foreground").count(), 1, "{said}");
    assert!(said.contains("generation 3 ended without an error before it waited on http ("), "{said}");
    // The delay is that after a failure: 100 ms, and more each time.
    assert!(said.contains("a connection starts the server, in 100ms at the earliest"), "{said}");
    drop(client);
}

/// Those of a unit file have their own delay, and no less of a warning; with sockets or not restarted at all.
#[test]
fn three_clean_ends_of_a_service_of_a_unit_file_are_told_once() {
    for restart in ["Restart=always\nRestartSec=50ms", "Restart=on-success\nRestartSec=50ms", "Restart=no"] {
        let place = Place::new();
        place.write("web.socket", "[Socket]\nListenStream=127.0.0.1:0\nFileDescriptorName=http\n");
        place
            .write("web.service", &format!("[Service]\nExecStart=/bin/true\nStartLimitBurst=0\n{restart}\n"));
        let daemon = Launch::units(&place, &["web.socket"]).start();
        let _client = TcpStream::connect(daemon.address("http")).expect("a queue");
        wait_for("the fifth start", || daemon.stderr().contains("generation 5 started").then_some(()));
        daemon.verb("status").expect(1);
        let said = daemon.stderr();
        assert_eq!(said.matches("a server must stay in the foreground").count(), 1, "{restart}: {said}");
        assert!(said.contains("generation 3 ended without an error before it waited on http ("), "{said}");
    }
}

#[test]
fn what_is_passed_already_is_no_remedy() {
    let place = Place::new();
    let options =
        "--listen 127.0.0.1:0=http --intercept-bind -p Protocol=systemd --timeout-start-sec infinity";
    let daemon = Launch::new(&place).args(options).command(&["sleep", "60"]).start_uncontrolled();
    wait_for("the hint", || daemon.stderr().contains("sees it bind none of them").then_some(()));
    assert!(!daemon.stderr().contains("Protocol=systemd"), "{}", daemon.stderr());
}
