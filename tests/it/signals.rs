//! Signals to `supervise` itself.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::Command;

use nix::pty::openpty;
use nix::sys::signal::Signal;

use super::support::{Launch, Place, SUPERVISE, example, proc_status, settled, wait_for};

#[test]
fn a_second_request_to_stop_kills_at_once() {
    let place = Place::new();
    place.flags("--ignore-term --grandchildren 1");
    for second in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Launch::ready(&place, "--timeout-stop-sec 1h").start();
        daemon.wait_generation(1);
        daemon.signal(Signal::SIGTERM);
        daemon.wait_state("stopping");
        daemon.signal(second);
        daemon.end().expect(0);
    }
    assert_eq!(place.who("SIGTERM"), [1, 1]);
}

#[test]
fn quit_stops_with_quit() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "").start();
    daemon.wait_generation(1);
    daemon.signal(Signal::SIGQUIT);
    daemon.end().expect(0);
    assert_eq!((place.who("SIGQUIT"), place.who("SIGTERM")), (vec![1], vec![]));
}

#[test]
fn others_are_passed_on_to_the_current_generation() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "").start();
    daemon.wait_generation(1);
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGWINCH, Signal::SIGALRM] {
        daemon.signal(signal);
        wait_for(signal.as_str(), || (place.who(signal.as_str()) == [1]).then_some(()));
    }
    for ignored in [Signal::SIGPIPE, Signal::SIGTTIN, Signal::SIGTTOU] {
        daemon.signal(ignored);
    }
    daemon.wait_generation(1);
    daemon.verb("pause").expect(0);
    daemon.wait_state("paused");
    let before = daemon.stderr().lines().count();
    for _ in 0..3 {
        daemon.signal(Signal::SIGUSR1);
    }
    daemon.wait_state("paused");
    let said = daemon.stderr().lines().skip(before).filter(|line| line.contains("USR1")).count();
    assert_eq!(said, 1, "dropped, and said once: {}", daemon.stderr());
}

#[test]
fn hup_swaps_also_when_it_was_ignored_at_the_start() {
    let place = Place::new();
    let nohup = ["/bin/sh", "-c", "trap '' HUP; exec \"$@\"", "sh"];
    for (wrapper, first) in [(&[][..], 1), (&nohup[..], 1)] {
        let mut daemon = Launch::ready(&place, "--bake 0").wrapper(wrapper).start();
        daemon.wait_generation(first);
        daemon.signal(Signal::SIGHUP);
        daemon.wait_generation(first + 1);
        assert_eq!(place.who("SIGHUP"), [0; 0], "it is for us, not for the server");
    }
}

#[test]
fn tstp_stops_the_server_with_us_and_cont_continues_both() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "").own_group().start();
    daemon.wait_generation(1);
    let server = daemon.server();
    let state = |pid: i32, wanted: &str| {
        wait_for(wanted, || proc_status(pid, "State").filter(|state| state.starts_with(wanted)));
    };
    daemon.signal(Signal::SIGTSTP);
    state(daemon.pid(), "T");
    state(server, "T");
    daemon.signal(Signal::SIGCONT);
    state(daemon.pid(), "S");
    state(server, "S");
    daemon.wait_generation(1);
    assert_eq!(daemon.server(), server);
}

/// A terminal of its own, with `supervise` as leader of its session. util-linux and busybox have setsid(1).
fn in_terminal(place: &Place, shell: &str) -> (OwnedFd, std::process::Child) {
    let pty = openpty(None, None).unwrap();
    let control = place.path("supervise.ctl");
    let slave = || File::from(pty.slave.try_clone().unwrap());
    let child = Command::new("setsid")
        .args(["-c", "/bin/sh", "-c", shell, "sh", SUPERVISE, "--control", &control])
        .args(["--listen", "127.0.0.1:0=http", "--bake", "0", "--", &example("ready"), "--log"])
        .arg(place.path("log"))
        .stdin(slave())
        .stdout(slave())
        .stderr(File::create(place.path("stderr")).unwrap())
        .spawn()
        .expect("setsid(1) of util-linux or busybox");
    (pty.master, child)
}

#[test]
fn a_terminal_that_closes_stops_us() {
    for shell in ["exec \"$@\"", "\"$@\"; exit $?"] {
        let place = Place::new();
        let (terminal, mut child) = in_terminal(&place, shell);
        wait_for("the server", || (place.who("ready") == [1]).then_some(()));
        drop(terminal);
        let what = "the end by a hang-up";
        wait_for(what, || child.try_wait().unwrap());
        let log = settled("the log", || place.facts());
        wait_for("the server's end", || place.who("exit").contains(&1).then_some(()));
        assert_eq!(place.who("start"), [1], "no swap: {log:?}");
    }
}

#[test]
fn hup_by_somebody_else_swaps_also_with_a_terminal() {
    let place = Place::new();
    let (terminal, mut child) = in_terminal(&place, "exec \"$@\"");
    wait_for("the server", || (place.who("ready") == [1]).then_some(()));
    let pid = i32::try_from(child.id()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGHUP).unwrap();
    wait_for("a swap", || (place.who("ready") == [1, 2]).then_some(()));
    // The user's Ctrl-C: the line discipline sends SIGINT to the foreground group.
    let mut terminal = File::from(terminal);
    std::io::Write::write_all(&mut terminal, b"\x03").unwrap();
    wait_for("the end", || child.try_wait().unwrap());
    let mut rest = [0; 1024];
    // What was echoed is of no interest, only that the terminal lived until now.
    let _echo = terminal.read(&mut rest);
}
