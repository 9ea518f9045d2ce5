//! As PID 1 of a namespace, where this machine lets us make one; else as a subreaper, which has the same duties.

use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::support::{Launch, Place, proc_status, wait_for};

/// What starts us as PID 1: with root's rights, with those of a user namespace, or not at all.
fn namespaces() -> Option<&'static [&'static str]> {
    const AS_ROOT: &[&str] = &["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"];
    const AS_USER: &[&str] =
        &["unshare", "--map-root-user", "--fork", "--pid", "--mount-proc", "--kill-child"];
    [AS_ROOT, AS_USER].into_iter().find(|words| {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg("true").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    })
}

#[test]
fn every_process_left_is_asked_waited_for_and_reaped() {
    let place = Place::new();
    place.flags("--orphans 3");
    // It outlives its generation, for that loses its main process alone: so it is nobody's but ours.
    let stranger = "trap 'echo asked; exit 0' TERM; echo up; while :; do sleep 0.05; done";
    let script = "setsid /bin/sh -c \"$0\" & exec \"$@\"";
    let launch = Launch::ready(&place, "--kill-mode process --timeout-stop-sec 1h")
        .before_command(&["/bin/sh", "-c", script, stranger]);
    let launch = match namespaces() {
        Some(wrapper) => launch.wrapper(wrapper),
        None => launch,
    };
    let mut daemon = launch.start();
    daemon.wait_generation(1);
    wait_for("the stranger", || daemon.stdout().contains("up").then_some(()));
    let supervise = supervisor(&daemon.processes());
    wait_for("no zombie", || (super::support::zombies(supervise) == 0).then_some(()));
    let as_init = proc_status(supervise, "NSpid").is_some_and(|pids| pids.ends_with("\t1"));
    assert_eq!(as_init, namespaces().is_some(), "PID 1 where the machine allows it");
    kill(Pid::from_raw(supervise), Signal::SIGTERM).unwrap();
    let ended = daemon.end().expect(0);
    // A mere subreaper leaves alone what its servers were told to leave behind.
    assert_eq!(ended.stdout.contains("asked"), as_init, "{ended:?}");
    // PID 1 cannot know how many those were.
    let words = "sent SIGTERM to the processes left behind";
    assert_eq!(ended.stderr.contains(words), as_init, "{ended:?}");
    assert_eq!(place.who("exit"), [1]);
}

/// Our process among those of the test: `unshare` stands before it.
fn supervisor(processes: &[i32]) -> i32 {
    let is_ours = |pid: &&i32| {
        std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("supervise"))
    };
    *processes.iter().find(is_ours).expect("supervise runs")
}
