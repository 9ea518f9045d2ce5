//! Servers that spoil what they were given, leave behind what should go, or let others speak for them: the next
//! generation finds everything as the first one did, and nothing of the old one.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;

use super::load::{answer, ask, connect, get};
use super::support::{Daemon, Launch, Place, environment, example, fd_flags, wait_for};

/// The words that run a program as the user nobody.
const NOBODY: &str = "setpriv --reuid 65534 --regid 65534 --clear-groups";

#[test]
fn a_listener_that_was_shut_down_queues_clients_again_once_its_server_is_gone() {
    let place = Place::new();
    place.flags("--shut-down --die-after 0:3");
    let mut daemon = Launch::ready(&place, "--restart-sec 1h --bake 0").start();
    daemon.wait_state("waiting");
    assert_eq!(place.who("shut down"), [1]);
    place.flags("");
    let mut client = connect(&daemon.address("http")).unwrap();
    ask(&mut client, "/").unwrap();
    daemon.verb("swap").expect(0);
    assert_eq!(answer(&mut client).unwrap(), "ready generation 2 on http\n");
}

#[test]
fn a_listener_that_was_shut_down_wakes_the_next_server() {
    let place = Place::new();
    place.flags("--shut-down --die-after 0:0");
    let mut daemon = Launch::ready(&place, "").start();
    daemon.wait_state("listening");
    assert_eq!(place.who("shut down"), [1]);
    place.flags("");
    assert_eq!(get(&daemon.address("http"), "/").unwrap(), "ready generation 2 on http\n");
}

/// As when the directory of a socket is replaced by a file: nothing that is tried helps, until somebody puts it right.
#[test]
fn a_path_that_cannot_be_put_back_is_told_once_each_time() {
    let place = Place::new();
    let (directory, moved) = (place.path("sockets"), place.path("moved"));
    fs::create_dir(&directory).unwrap();
    let path = format!("{directory}/s.sock");
    let mut daemon = Launch::ready(&place, &format!("--listen {path}=unix")).start();
    daemon.wait_generation(1);
    let times = |daemon: &Daemon| daemon.stderr().matches("and supervise cannot put it back").count();
    for time in 1..=2 {
        fs::rename(&directory, &moved).unwrap();
        fs::write(&directory, "").unwrap();
        // Each change of the node makes supervise look at it.
        for _ in 0..10 {
            fs::set_permissions(format!("{moved}/s.sock"), Permissions::from_mode(0o666)).unwrap();
            daemon.verb("status").expect(0);
        }
        wait_for("the message", || (times(&daemon) >= time).then_some(()));
        assert_eq!(times(&daemon), time);
        fs::remove_file(&directory).unwrap();
        fs::rename(&moved, &directory).unwrap();
        fs::remove_file(&path).unwrap();
        wait_for("the path", || fs::exists(&path).unwrap().then_some(()));
    }
}

/// The main process in this role, once it is `sleep`.
#[track_caller]
fn sleeper(daemon: &mut Daemon, role: &str) -> i32 {
    let find = |status: &Value| {
        let all = status["generations"].as_array()?;
        let pid = all.iter().find(|one| one["role"] == role)?["pid"].as_i64()?;
        let is_sleep = fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
        is_sleep.then_some(i32::try_from(pid).unwrap())
    };
    let status = daemon.wait_until(&format!("the {role} sleeps"), |status| find(status).is_some());
    find(&status).unwrap()
}

#[test]
fn o_nonblock_of_a_living_server_stays_and_that_of_a_dead_one_is_cleared() {
    let place = Place::new();
    let asleep = place.path("asleep");
    // The example sets O_NONBLOCK, `sleep` leaves everything as it is.
    let script = "if [ -e \"$0\" ]; then exec sleep 1000; fi; exec \"$@\"";
    let mut daemon = Launch::ready(&place, "--ready notify --restart-sec 0 --bake 0")
        .before_command(&["/bin/sh", "-c", script, &asleep])
        .start();
    daemon.wait_generation(1);
    let is_non_blocking = |pid| fd_flags(pid, 3) & 0o4000 != 0;
    let server = daemon.server();
    wait_for("O_NONBLOCK", || is_non_blocking(server).then_some(()));
    place.write("asleep", "");
    let swap = daemon.spawn_verb("swap");
    let candidate = sleeper(&mut daemon, "candidate");
    assert!(is_non_blocking(server), "taken from under its hands by the start of the candidate");
    kill(Pid::from_raw(candidate), Signal::SIGKILL).unwrap();
    swap.end().expect(1);
    assert!(is_non_blocking(server), "taken from under its hands by the end of the candidate");
    kill(Pid::from_raw(server), Signal::SIGKILL).unwrap();
    daemon.wait_until("the third", |status| status["generations"][0]["generation"] == 3);
    let third = sleeper(&mut daemon, "current");
    assert!(!is_non_blocking(third), "it was promised a blocking socket");
}

/// The example with a chain of sessions below it, none of which listens to SIGTERM.
fn with_deep_descendants(place: &Place) -> Daemon {
    let script = "trap '' TERM\n\
                  if [ \"$1\" -gt 1 ]; then setsid /bin/sh \"$0\" $(($1 - 1)) & fi\n\
                  sleep 1000 &\n\
                  wait\n";
    place.write("deep.sh", script);
    let mut daemon = Launch::ready(place, "--bake 0")
        .before_command(&["/bin/sh", "-c", "setsid /bin/sh \"$0\" 4 & exec \"$@\"", &place.path("deep.sh")])
        .start();
    daemon.wait_generation(1);
    daemon
}

/// Waits until the server and its four sessions run, each a shell and a `sleep`.
fn wait_for_descendants(daemon: &Daemon, generation: u64) {
    wait_for("its descendants", || (daemon.processes_of(generation).len() == 9).then_some(()));
}

fn assert_nothing_left(daemon: &Daemon, generation: u64) {
    assert_eq!(daemon.processes_of(generation), [0; 0]);
    assert!(!daemon.stderr().contains("SIGKILL does not end"), "{}", daemon.stderr());
}

#[test]
fn descendants_in_sessions_of_their_own_are_gone_after_a_restart() {
    let place = Place::new();
    let mut daemon = with_deep_descendants(&place);
    wait_for_descendants(&daemon, 1);
    daemon.verb("restart").expect(0);
    daemon.wait_generation(2);
    assert_nothing_left(&daemon, 1);
}

#[test]
fn descendants_in_sessions_of_their_own_are_gone_after_a_swap() {
    let place = Place::new();
    let mut daemon = with_deep_descendants(&place);
    wait_for_descendants(&daemon, 1);
    daemon.verb("swap").expect(0);
    daemon.wait_generation(2);
    assert_nothing_left(&daemon, 1);
    wait_for_descendants(&daemon, 2);
}

#[test]
fn descendants_in_sessions_of_their_own_are_gone_after_a_crash_and_a_stop() {
    let place = Place::new();
    let mut daemon = with_deep_descendants(&place);
    wait_for_descendants(&daemon, 1);
    daemon.verb("kill KILL").expect(0);
    daemon.wait_generation(2);
    assert_nothing_left(&daemon, 1);
    wait_for_descendants(&daemon, 2);
    daemon.verb("stop").expect(0);
    assert_nothing_left(&daemon, 2);
    daemon.end().expect(0);
}

/// A generation gets ready by what this script starts, in which `$0` is the example; the server itself says nothing.
#[track_caller]
fn assert_believed(script: &str) {
    let place = Place::new();
    // Where anybody can go, and without a log: the server may be another user by then.
    let server = place.path("server");
    fs::copy(example("ready"), &server).unwrap();
    fs::set_permissions(place.path(""), Permissions::from_mode(0o755)).unwrap();
    let mut daemon = Launch::new(&place)
        .args("--listen 127.0.0.1:0=http --ready notify --timeout-start-sec 30s --restart no")
        .command(&["/bin/sh", "-c", script, &server])
        .start();
    daemon.wait_generation(1);
}

#[test]
fn ready_from_a_grandchild_counts() {
    assert_believed("(\"$0\" --herald & wait) & exec \"$0\" --never-ready");
}

#[test]
fn ready_from_an_orphan_in_a_session_of_its_own_counts() {
    assert_believed("(setsid \"$0\" --herald &); exec \"$0\" --never-ready");
}

#[test]
fn ready_counts_from_another_user() {
    if !geteuid().is_root() {
        return; // Only root can become somebody else.
    }
    assert_believed(&format!("exec {NOBODY} \"$0\""));
    assert_believed(&format!("({NOBODY} \"$0\" --herald & wait) & exec \"$0\" --never-ready"));
    assert_believed(&format!("({NOBODY} \"$0\" --herald &); exec \"$0\" --never-ready"));
}

#[test]
fn ready_from_a_process_outside_is_not_believed_and_told_once() {
    let place = Place::new();
    place.flags("--never-ready");
    let script = "(until [ -e \"$0\" ]; do sleep 0.05; done; exec \"$1\" --herald) & exec \"$@\"";
    let mut daemon = Launch::ready(&place, "--ready notify --restart no")
        .before_command(&["/bin/sh", "-c", script, &place.path("go")])
        .start();
    wait_for("the server", || (place.who("start") == [1]).then_some(()));
    let name = environment(daemon.server()).remove("NOTIFY_SOCKET").unwrap();
    let stranger = UnixDatagram::unbound().unwrap();
    for text in ["READY=1", "READY=1\nSTATUS=taken over", "WATCHDOG=trigger", "READY=1"] {
        stranger.send_to(text.as_bytes(), &name).unwrap();
    }
    // Datagrams are read in order, so ours have been read when the true one has been.
    place.write("go", "");
    let status = daemon.wait_generation(1);
    assert_eq!(status["generations"][0]["status"], Value::Null, "{status}");
    let told = daemon.stderr();
    let of_us = format!("from pid {} ", std::process::id());
    assert_eq!(told.matches("supervise dropped a notification").count(), 1, "{told}");
    let (before, _) = told.split_once("generation 1 is ready").unwrap();
    assert!(before.contains(&of_us), "ready before the true one said so: {told}");
}
