//! What a server finds when it starts: fds, signals, environment, nothing else of ours; and what is left of it when it
//! has to go.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::load::get;
use super::support::{Daemon, Launch, Place, environment, fd_flags, fds, proc_status, wait_for};

/// A server that changes nothing of what it was given. No Rust program: those ignore SIGPIPE.
const SLEEP: [&str; 2] = ["sleep", "1000"];

/// Runs the rest of its words with fds 3 to 9 open and four signals ignored.
const MESSY: [&str; 4] = [
    "/bin/sh",
    "-c",
    "trap '' INT QUIT PIPE USR1; exec \"$@\" 3</dev/null 4</dev/null 5</dev/null 6</dev/null 7</dev/null \
     8</dev/null 9</dev/null",
    "sh",
];

/// Runs the rest of its words with stdin and stdout closed.
const CLOSED: [&str; 4] = ["/bin/sh", "-c", "exec \"$@\" <&- >&-", "sh"];

/// The pid of the server, as soon as it is the program it is to be.
fn sleeper(daemon: &mut Daemon) -> i32 {
    daemon.wait_generation(1);
    let pid = daemon.server();
    assert!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().starts_with("sleep"));
    pid
}

fn assert_clean_child(daemon: &mut Daemon, sockets: usize) -> i32 {
    let pid = sleeper(daemon);
    let fds: BTreeMap<i32, String> = fds(pid).into_iter().collect();
    let numbers: Vec<i32> = fds.keys().copied().collect();
    let last = 2 + i32::try_from(sockets).unwrap();
    assert_eq!(numbers, (0..=last).collect::<Vec<i32>>(), "{fds:?}");
    assert_eq!(fds[&0], "/dev/null");
    assert!(fds[&1].ends_with(".stdout") && fds[&2].ends_with(".stderr"), "{fds:?}");
    for socket in 3..=last {
        assert!(fds[&socket].starts_with("socket:"), "{fds:?}");
        assert_eq!(fd_flags(pid, socket) & 0o2_004_000, 0, "neither close-on-exec nor non-blocking");
    }
    for key in ["SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd"] {
        assert_eq!(proc_status(pid, key).unwrap(), "0000000000000000", "{key}");
    }
    pid
}

#[test]
fn its_fds_and_signals_are_as_promised() {
    let place = Place::new();
    let mut daemon = Launch::new(&place)
        .args("--listen 127.0.0.1:0=http --listen udp:127.0.0.1:0=dns")
        .command(&SLEEP)
        .start();
    assert_clean_child(&mut daemon, 2);
}

#[test]
fn a_stream_that_was_closed_is_open_and_no_socket() {
    let place = Place::new();
    let args = "--listen 127.0.0.1:0=a --listen 127.0.0.1:0=b";
    let mut daemon = Launch::new(&place).wrapper(&CLOSED).args(args).command(&SLEEP).start();
    let fds: BTreeMap<i32, String> = fds(sleeper(&mut daemon)).into_iter().collect();
    assert_eq!(fds.keys().copied().collect::<Vec<i32>>(), [0, 1, 2, 3, 4], "{fds:?}");
    assert_eq!([&fds[&0], &fds[&1]], ["/dev/null"; 2]);
    assert!(fds[&2].ends_with(".stderr"), "{fds:?}");
}

#[test]
fn also_when_ours_are_a_mess() {
    let place = Place::new();
    let mut daemon = Launch::new(&place)
        .wrapper(&MESSY)
        .args("--listen 127.0.0.1:0=a --listen 127.0.0.1:0=b --listen 127.0.0.1:0=c")
        .command(&SLEEP)
        .start();
    assert_clean_child(&mut daemon, 3);
}

#[test]
fn also_without_any_socket() {
    let place = Place::new();
    let mut daemon = Launch::new(&place).wrapper(&MESSY).command(&SLEEP).start();
    assert_clean_child(&mut daemon, 0);
}

#[test]
fn also_when_signals_were_blocked_in_us() {
    let place = Place::new();
    let mut daemon = Launch::new(&place)
        .args("--listen 127.0.0.1:0=a")
        .blocked(&[Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD])
        .command(&SLEEP)
        .start();
    assert_clean_child(&mut daemon, 1);
    // Supervise itself still reads its signals.
    daemon.signal(Signal::SIGTERM);
    daemon.end().expect(0);
}

#[test]
fn its_environment_is_ours_with_what_was_promised() {
    let place = Place::new();
    let mut daemon = Launch::new(&place)
        .args("--listen 127.0.0.1:0=http -E ADDED=1 --watchdog-sec 1h")
        .env("KEPT", "as it is")
        .env("LISTEN_FDS", "7")
        .env("LISTEN_PID", "1")
        .env("LISTEN_FDNAMES", "a:b")
        .env("LISTEN_PIDFDID", "3")
        .env("NOTIFY_SOCKET", "/nowhere/at/all")
        .env("WATCHDOG_PID", "1")
        .env("WATCHDOG_USEC", "1")
        .env("SUPERVISE_GENERATION", "77")
        .command(&SLEEP)
        .start();
    let pid = sleeper(&mut daemon);
    let mut is = environment(pid);
    let notify = is.remove("NOTIFY_SOCKET").unwrap();
    assert!(notify.starts_with('/'), "{notify}");
    assert_ne!(notify, "/nowhere/at/all");
    assert_eq!(is.remove("SUPERVISE_SOCKETS").as_ref(), Some(&notify), "one place for both");
    let of_ours = |name: &str| {
        name.starts_with("LISTEN_") || name.starts_with("NOTIFY_") || name.starts_with("WATCHDOG_")
    };
    let mut expected: HashMap<String, String> = environment(daemon.pid());
    expected.retain(|name, _| !of_ours(name));
    for (name, value) in [
        ("ADDED", "1"),
        ("LISTEN_FDS", "1"),
        ("LISTEN_PID", &pid.to_string()),
        ("LISTEN_FDNAMES", "http"),
        ("WATCHDOG_USEC", "3600000000"),
        ("WATCHDOG_PID", &pid.to_string()),
        ("SUPERVISE_GENERATION", "1"),
    ] {
        expected.insert(name.into(), value.into());
    }
    // The shells set these variables themselves.
    for names in [&mut is, &mut expected] {
        names.remove("_");
    }
    assert_eq!(is, expected);
}

#[test]
fn without_sockets_it_is_promised_none() {
    let place = Place::new();
    let mut daemon =
        Launch::new(&place).env("LISTEN_FDS", "1").env("LISTEN_PID", "1").command(&SLEEP).start();
    let pid = sleeper(&mut daemon);
    let environment = environment(pid);
    assert!(environment.get("LISTEN_FDS").is_none_or(|count| count == "0"), "{environment:?}");
    assert!(!environment.contains_key("WATCHDOG_USEC"), "{environment:?}");
}

#[test]
fn one_that_ignores_the_kill_signal_dies_after_the_timeout_with_all_it_started() {
    let place = Place::new();
    place.flags("--ignore-term --grandchildren 3");
    let mut daemon = Launch::ready(&place, "--timeout-stop-sec 1s").start();
    daemon.wait_generation(1);
    wait_for("its grandchildren", || (daemon.processes_of(1).len() == 4).then_some(()));
    let begin = Instant::now();
    daemon.verb("stop").expect(0);
    assert!(begin.elapsed() >= Duration::from_secs(1), "it was given its time");
    assert_eq!(daemon.processes_of(1), [0; 0]);
    assert_eq!(place.who("SIGTERM"), [1]);
    assert_eq!(place.who("exit"), [0; 0]);
    daemon.end().expect(0);
}

#[test]
fn what_a_polite_one_leaves_behind_is_ended_with_it() {
    let place = Place::new();
    place.flags("--grandchildren 3");
    let mut daemon = Launch::ready(&place, "--timeout-stop-sec 1h --bake 0").start();
    daemon.wait_generation(1);
    wait_for("its grandchildren", || (daemon.processes_of(1).len() == 4).then_some(()));
    place.flags("");
    daemon.verb("swap").expect(0);
    daemon.wait_generation(2);
    assert_eq!(daemon.processes_of(1), [0; 0]);
    assert_eq!(place.who("exit"), [1]);
}

#[test]
fn what_a_crashed_one_leaves_behind_is_ended_before_the_next_starts() {
    let place = Place::new();
    place.flags("--grandchildren 3");
    let mut daemon = Launch::ready(&place, "--restart-sec 0").start();
    daemon.wait_generation(1);
    wait_for("its grandchildren", || (daemon.processes_of(1).len() == 4).then_some(()));
    place.flags("");
    get(&daemon.address("http"), "/exit/9").unwrap();
    daemon.wait_generation(2);
    assert_eq!(daemon.processes_of(1), [0; 0]);
}

#[test]
fn orphans_that_end_are_reaped() {
    let place = Place::new();
    place.flags("--orphans 5");
    let mut daemon = Launch::ready(&place, "").start();
    daemon.wait_generation(1);
    wait_for("only the server is left", || (daemon.processes_of(1).len() == 1).then_some(()));
    wait_for("no zombie", || (super::support::zombies(daemon.pid()) == 0).then_some(()));
}

#[test]
fn another_kill_signal_and_the_whole_group() {
    let place = Place::new();
    let script = "trap 'echo leader; exit' USR2; (trap 'echo member; exit' USR2; echo up; while :; do sleep 0.05; done) & \
                  while :; do sleep 0.05; done";
    let mut daemon = Launch::new(&place)
        .args("--kill-signal SIGUSR2 --kill-mode control-group --timeout-stop-sec 1h")
        .command(&["/bin/sh", "-c", script])
        .start();
    wait_for("both shells", || daemon.stdout().contains("up").then_some(()));
    daemon.wait_state("running");
    daemon.verb("stop").expect(0);
    let ended = daemon.end().expect(0);
    assert!(ended.stdout.contains("leader") && ended.stdout.contains("member"), "{ended:?}");
}
