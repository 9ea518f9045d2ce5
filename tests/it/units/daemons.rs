//! Daemons that fork away from the processes that supervise started, and change their name and environment.

use std::fs;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::support::{Daemon, Launch, Place, example, proc_status, wait_for};

/// Starts a service of these lines.
fn start(place: &Place, lines: &str) -> Daemon {
    place.write("one.service", &format!("[Service]\nTimeoutStopSec=10s\n{lines}\n"));
    Launch::units(place, &["one.service"]).start()
}

/// Forks twice without waiting for anybody, and says who it is.
const TWICE: &str = "use POSIX; my $d = shift; POSIX::_exit(0) if fork; POSIX::setsid(); POSIX::_exit(0) if fork; \
    $0 = 'x' x 3000; open(my $f, '>', \"$d/new\"); print $f \"$$\\n\"; close $f; rename \"$d/new\", \"$d/who\"; \
    sleep 1 while 1;";

/// The pid that the script wrote into the file `who`.
fn who(place: &Place) -> Pid {
    Pid::from_raw(wait_for("the daemon", || place.read("who").trim().parse().ok()))
}

fn runs(pid: Pid) -> bool {
    proc_status(pid.as_raw(), "State").is_some_and(|state| !state.starts_with(['Z', 'X']))
}

/// It writes its pid, and ends before the process that started it does, as the file beside it says.
const DIES: &str = "my $d = shift; if (fork) { select(undef, undef, undef, 0.3); exit 0 } \
    open(my $o, '>', \"$d/pid\"); print $o \"$$\\n\"; close $o; exit 1 if -e \"$d/dies\"; sleep 1 while 1;";

#[test]
fn a_daemon_that_has_ended_before_its_start_is_over_is_no_main_process() {
    let place = Place::new();
    place.write("daemon.pl", DIES);
    let [script, here] = ["daemon.pl", ""].map(|name| place.path(name));
    let lines = format!(
        "Type=forking\nPIDFile={here}/pid\nExecStart=/usr/bin/perl {script} {here}\nTimeoutStartSec=1h"
    );
    let mut daemon = start(&place, &lines);
    daemon.wait_generation(1);
    place.write("dies", "");
    let swap = daemon.verb("swap").expect(1).text();
    assert!(!swap.contains("is the main process") && swap.contains("its daemon has ended as well"), "{swap}");
}

#[test]
fn with_exit_type_cgroup_whoever_forks_twice_is_kept_and_stopped() {
    let run = || {
        let place = Place::new();
        place.write("twice.pl", TWICE);
        let command = format!("/usr/bin/perl {} {}", place.path("twice.pl"), place.path(""));
        let mut daemon = start(&place, &format!("ExitType=cgroup\nExecStart={command}"));
        let pid = who(&place);
        daemon.wait_state("running");
        assert!(runs(pid), "it lives: {}", daemon.stderr());
        daemon.verb("stop").expect(0);
        assert_eq!(daemon.end().status, 0);
        assert!(!runs(pid), "it is stopped");
    };
    // A race with two ends: one run in three lost it once.
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..5).for_each(|_| run()));
        }
    });
}

#[test]
fn a_worker_that_hides_its_generation_ends_with_the_main_process() {
    let place = Place::new();
    place.write("twice.pl", TWICE);
    let worker = format!("env -i setsid perl {} {}", place.path("twice.pl"), place.path(""));
    place.write("main.sh", &format!("{worker} &\nexec sleep 60\n"));
    let mut daemon = start(&place, &format!("ExecStart=/bin/sh {}", place.path("main.sh")));
    let pid = who(&place);
    daemon.wait_state("running");
    kill(Pid::from_raw(daemon.server()), Signal::SIGKILL).unwrap();
    assert_eq!(daemon.end().status, 137);
    assert!(!runs(pid), "neither environment nor title say whose it is");
}

#[test]
fn that_a_child_stops_does_not_stop_the_server() {
    let place = Place::new();
    let notify = example("notify");
    let script = format!("{notify} --ready\n{notify} --stopping\n: >{}\nexec sleep 60\n", place.path("said"));
    place.write("main.sh", &script);
    let lines = "Type=notify\nNotifyAccess=all\nTimeoutStopSec=100ms\nExecStart=/bin/sh";
    let mut daemon = start(&place, &format!("{lines} {}", place.path("main.sh")));
    // The barrier after each word tells that it was read.
    wait_for("both words", || fs::exists(place.path("said")).unwrap().then_some(()));
    let status = daemon.wait_state("running");
    assert_eq!(status["next"], serde_json::Value::Null, "nothing is due: {}", daemon.stderr());
    assert!(daemon.stderr().contains("STOPPING=1 from pid"), "{}", daemon.stderr());
    daemon.verb("status").expect(0);
}

#[test]
fn a_pid_file_may_hold_more_below_its_first_line() {
    // PostgreSQL's postmaster.pid: 100 bytes, eight lines.
    let place = Place::new();
    let more =
        "/var/lib/postgresql/15/main\n1796000000\n5432\n/var/run/postgresql\nlocalhost\n 1048641 0\nready\n";
    place.write("more", more);
    let (more, file) = (place.path("more"), place.path("pid"));
    place.write(
        "main.sh",
        &format!("sleep 60 &\n{{ echo $!; cat {more}; }} >{file}.new\nmv {file}.new {file}\n"),
    );
    let command = format!("ExecStart=/bin/sh {}", place.path("main.sh"));
    let mut daemon = start(&place, &format!("Type=forking\nPIDFile={file}\n{command}"));
    daemon.wait_state("running");
    let first = fs::read_to_string(&file).unwrap().lines().next().unwrap().to_owned();
    assert_eq!(daemon.server().to_string(), first);
}
