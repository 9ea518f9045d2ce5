//! --detach: the shell comes back when the first server is ready, or has failed; nothing of its session is kept.

use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getsid};

use super::support::{Daemon, Ended, Launch, Place, SUPERVISE, Verb, example, fds, wait_for};

/// Where the control socket is. What runs there is stopped at the end of the test.
struct Detached(String);

impl Detached {
    fn new(place: &Place) -> Self {
        Self(place.path("detached.ctl"))
    }

    fn options(&self) -> String {
        format!("--detach --control {}", self.0)
    }

    fn verb(&self, words: &[&str]) -> Ended {
        let mut command = Command::new(SUPERVISE);
        command.args(words).args(["--control", &self.0]);
        Verb::spawn(command).end()
    }

    /// The pids of supervise and of its server.
    fn pids(&self) -> [i32; 2] {
        let status = self.verb(&["status", "--json"]).expect(0).json();
        [&status["pid"], &status["generations"][0]["pid"]]
            .map(|pid| i32::try_from(pid.as_i64().expect("a pid")).unwrap())
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        self.verb(&["stop"]);
    }
}

/// Runs it with pipes as stdout and stderr, and returns once nobody has them open any more, as ssh does.
fn to_the_end(launch: &Launch<'_>) -> Ended {
    Verb::spawn(launch.build()).end()
}

#[track_caller]
fn assert_said_once(text: &str) {
    let lines: Vec<&str> = text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        assert!(!lines[at + 1..].contains(line), "twice: {line}\n{text}");
    }
}

#[test]
fn the_shell_comes_back_when_the_server_is_ready_and_nothing_of_it_is_kept() {
    let place = Place::new();
    let detached = Detached::new(&place);
    let ended = to_the_end(
        &Launch::new(&place)
            .wrapper(&["/bin/sh", "-c", "exec 7>&1; exec \"$@\"", "sh"])
            .args(&detached.options())
            .args("--stdin inherit --listen 127.0.0.1:0=http")
            .command(&[&example("hello")]),
    );
    let ended = ended.expect(0);
    let [pid, server] = detached.pids();
    assert_eq!(ended.stdout, format!("detached.ctl runs in the background, pid {pid}\n"));
    assert!(ended.stderr.contains("generation 1 is ready"), "{}", ended.stderr);
    assert_said_once(&ended.stderr);
    assert_eq!(getsid(Some(Pid::from_raw(pid))).unwrap().as_raw(), pid);
    for pid in [pid, server] {
        let streams: Vec<(i32, String)> = fds(pid).into_iter().filter(|(fd, _)| *fd < 3).collect();
        assert_eq!(streams, [0, 1, 2].map(|fd| (fd, "/dev/null".to_owned())));
    }
    assert!(fds(pid).iter().all(|(_, what)| !what.starts_with("pipe:")), "{:?}", fds(pid));
    // There is no terminal that could have closed, so this is a swap.
    kill(Pid::from_raw(pid), Signal::SIGHUP).unwrap();
    wait_for("a swap", || {
        let status = detached.verb(&["status", "--json"]).json();
        (status["generation"] == 2 && status["state"] == "running").then_some(())
    });
}

#[test]
fn a_server_that_fails_leaves_nothing() {
    let place = Place::new();
    let detached = Detached::new(&place);
    let marker = place.path("marker");
    let server = format!("echo seen; echo x >> {marker}; exit 3");
    for options in ["", "--listen 127.0.0.1:0=http", "--listen 127.0.0.1:0=http --restart always"] {
        let launch = Launch::new(&place).args(&detached.options()).args(options);
        let ended = to_the_end(&launch.command(&["/bin/sh", "-c", &server])).expect(1);
        assert_eq!(ended.stdout, "");
        let reason = "not in the background: generation 1 exited with status 3";
        assert!(ended.stderr.contains(reason), "{}", ended.stderr);
        assert_said_once(&ended.stderr);
        detached.verb(&["status"]).expect(3);
    }
    assert_eq!(place.read("marker").lines().count(), 3, "each was started once");
}

#[test]
fn what_is_too_slow_has_failed() {
    let place = Place::new();
    let detached = Detached::new(&place);
    let launch = Launch::new(&place)
        .args(&detached.options())
        .args("--listen 127.0.0.1:0=http --ready notify --timeout-start-sec 200ms")
        .command(&["sleep", "1000"]);
    let ended = to_the_end(&launch).expect(1);
    assert!(ended.stderr.contains("was not ready within 200ms"), "{}", ended.stderr);
    detached.verb(&["status"]).expect(3);
}

#[test]
fn output_that_goes_to_a_file_goes_there() {
    let place = Place::new();
    let detached = Detached::new(&place);
    let file = place.path("output");
    let launch = Launch::new(&place)
        .args(&detached.options())
        .args(&format!("-p StandardError=append:{file}"))
        .command(&["/bin/sh", "-c", "echo words >&2; exit 3"]);
    to_the_end(&launch).expect(1);
    assert_eq!(place.read("output"), "words\n");
}

#[test]
fn refusals_keep_their_status_and_are_said_once() {
    let place = Place::new();
    let detached = Detached::new(&place);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("--listen {}", taken.local_addr().unwrap());
    for (options, command, status) in [
        ("--listen nonsense", "sleep", 2),
        (taken.as_str(), "sleep", 125),
        ("--user nobody-of-this-name", "sleep", 125),
        ("", "/nowhere/server", 127),
        ("", "/etc/passwd", 126),
    ] {
        let launch = Launch::new(&place).args(&detached.options()).args(options).command(&[command, "9"]);
        let ended = to_the_end(&launch).expect(status);
        assert_eq!((ended.stdout.as_str(), ended.stderr.lines().count()), ("", 1), "{}", ended.stderr);
    }
    let launch = Launch::units(&place, &["missing.service"]).args("--detach");
    assert_eq!(to_the_end(&launch).expect(125).stderr.lines().count(), 1);
}

/// A server that is never ready; its supervise logs until then.
fn that_waits(place: &Place) -> Daemon {
    let launch =
        Launch::new(place).args("--detach --control none --ready notify").command(&["sleep", "1000"]);
    let daemon = launch.spawn("supervise", None);
    wait_for("its server", || daemon.stderr().contains("started").then_some(()));
    daemon
}

#[test]
fn who_waits_may_give_up() {
    for signal in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGKILL] {
        let place = Place::new();
        let mut daemon = that_waits(&place);
        daemon.signal(signal);
        wait_for("the end of all", || {
            (daemon.try_end().is_some() && daemon.processes().is_empty()).then_some(())
        });
        assert!(daemon.stderr().contains("stopping with SIGTERM"), "{}", daemon.stderr());
    }
}

#[test]
fn a_background_that_is_stopped_or_killed_is_no_success() {
    for (script, words) in [
        ("kill -9 $PPID; exec sleep 1000", "has not said why: SIGKILL"),
        ("kill $PPID; exec sleep 1000", "stopping with SIGTERM"),
    ] {
        let place = Place::new();
        let launch = Launch::new(&place).args("--detach --control none").command(&["/bin/sh", "-c", script]);
        let mut daemon = launch.spawn("supervise", None);
        assert_eq!(wait_for("its end", || daemon.try_end()), 1);
        assert!(daemon.stderr().contains(words), "{}", daemon.stderr());
    }
}

#[test]
fn what_is_waited_for_is_told() {
    let place = Place::new();
    let daemon = that_waits(&place);
    wait_for("a word", || daemon.stderr().contains("--detach waits until").then_some(()));
}

/// The outer one hands its socket to the process that then forks.
#[test]
fn sockets_that_were_handed_down_are_taken() {
    let place = Place::new();
    let detached = Detached::new(&place);
    let options = detached.options();
    let mut inner = vec![SUPERVISE];
    inner.extend(options.split(' '));
    let hello = example("hello");
    inner.extend(["--listen", "fd:web", "--", &hello]);
    let launch = Launch::new(&place)
        .args("--listen 127.0.0.1:0=web --kill-mode process --control none --restart no")
        .command(&inner);
    let mut daemon = launch.spawn("outer", None);
    assert_eq!(wait_for("its end", || daemon.try_end()), 0, "{}", daemon.stderr());
    detached.pids();
}

#[test]
fn check_accepts_it_and_tells_what_it_does() {
    let place = Place::new();
    let launch = Launch::new(&place).arg("check").arg("--detach").command(&["sleep", "9"]);
    let ended = to_the_end(&launch).expect(0);
    assert!(ended.stdout.contains("--detach    honoured: into the background once"), "{}", ended.stdout);
}
