//! A cgroup for each generation, where one may be made; what must hold where none may, holds in the other branch of each
//! test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::support::{Launch, Place, proc_status, wait_for};

/// The cgroup that we are in, and with us every supervise of a test, if one may be made below it and processes can be
/// started there: a kernel that can (cgroup.kill tells of 5.14), and no sandbox that may forbid the call.
fn own_cgroup() -> Option<PathBuf> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own = |mount: &&str| fs::read_to_string(Path::new(mount).join(path).join("cgroup.procs"));
    let lists_us = |mount: &&str| {
        own(mount).is_ok_and(|all| all.lines().any(|pid| pid == std::process::id().to_string()))
    };
    let mount = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].into_iter().find(lists_us)?;
    let own = Path::new(mount).join(path);
    let trial = own.join(format!("trial-{}-{:?}", std::process::id(), std::thread::current().id()));
    fs::create_dir(&trial).ok()?;
    let can = fs::exists(trial.join("cgroup.kill")).unwrap();
    fs::remove_dir(trial).unwrap();
    let is_free = proc_status(std::process::id().cast_signed(), "Seccomp").is_none_or(|mode| mode == "0");
    (can && is_free && !fs::exists("/run/systemd/system").unwrap()).then_some(own)
}

/// The last part of the path of its cgroup.
fn cgroup_of(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    path.rsplit('/').next().unwrap().to_owned()
}

/// The directories of a supervise.
fn directories(own: &Path, supervise: i32) -> Vec<String> {
    let names = fs::read_dir(own).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> =
        names.filter(|name| name.starts_with(&format!("supervise-{supervise}-"))).collect();
    names.sort();
    names
}

fn runs(pid: i32) -> bool {
    proc_status(pid, "State").is_some_and(|state| !state.starts_with(['Z', 'X']))
}

/// Forks twice into a session of its own, without our environment and below a title that hides there was none, and says
/// who it is.
const HIDDEN: &str = "use POSIX; my $f = shift; POSIX::_exit(0) if fork; POSIX::setsid(); POSIX::_exit(0) if fork; \
    $0 = 'x' x 3000; open(my $o, '>', \"$f.new\"); print $o \"$$\\n\"; close $o; rename \"$f.new\", $f; sleep 1 while 1;";

/// A server whose worker has left its process group and session, so that only its cgroup tells whose it is.
fn hides_a_worker(place: &Place) -> [String; 3] {
    place.write("hidden.pl", HIDDEN);
    let worker =
        format!("env -i perl {} {}$SUPERVISE_GENERATION", place.path("hidden.pl"), place.path("worker-of-"));
    ["/bin/sh".to_owned(), "-c".to_owned(), format!("{worker}; exec sleep 1000")]
}

fn worker(place: &Place, generation: u64) -> i32 {
    wait_for("the worker", || place.read(&format!("worker-of-{generation}")).trim().parse().ok())
}

#[test]
fn whoever_hides_ends_with_its_own_generation_at_a_swap() {
    let place = Place::new();
    let words = hides_a_worker(&place);
    let mut daemon = Launch::new(&place)
        .args("--restart on-failure --bake 0")
        .command(&words.each_ref().map(String::as_str))
        .start();
    daemon.wait_generation(1);
    let first = worker(&place, 1);
    let [second, third] = [2, 3].map(|generation| {
        daemon.verb("swap").expect(0);
        daemon.wait_generation(generation);
        worker(&place, generation)
    });
    assert!(!runs(first) && runs(third), "each goes with its own: {}", daemon.stderr());
    // It began while two generations lived: where no cgroup tells them apart, it may stay until the end.
    if own_cgroup().is_some() {
        assert!(!runs(second), "it went with its generation: {}", daemon.stderr());
    }
    daemon.verb("stop").expect(0);
    assert_eq!(daemon.end().status, 0);
    assert!([first, second, third].into_iter().all(|pid| !runs(pid)), "nothing is left");
}

#[test]
fn a_generation_has_a_cgroup_until_it_is_over() {
    let place = Place::new();
    let mut daemon = Launch::new(&place).args("--bake 0").command(&["sleep", "1000"]).start();
    let pid = daemon.pid();
    daemon.wait_generation(1);
    let Some(own) = own_cgroup() else {
        assert_eq!(cgroup_of(daemon.server()), cgroup_of(pid), "it is where we are");
        daemon.verb("kill USR1").expect(0);
        daemon.wait_generation(2);
        daemon.verb("stop").expect(0);
        assert_eq!(daemon.end().status, 0);
        return;
    };
    let [one, two] = [1, 2].map(|number| format!("supervise-{pid}-{number}"));
    assert_eq!(cgroup_of(daemon.server()), one);
    for generation in 2..5 {
        daemon.verb("kill USR1").expect(0);
        daemon.wait_generation(generation);
        assert_eq!((cgroup_of(daemon.server()), directories(&own, pid)), (one.clone(), vec![one.clone()]));
    }
    daemon.verb("swap").expect(0);
    daemon.wait_generation(5);
    assert_eq!(cgroup_of(daemon.server()), two);
    assert_eq!(directories(&own, pid), [one, two], "one is there for the next");
    daemon.verb("stop").expect(0);
    assert_eq!(daemon.end().status, 0);
    assert!(directories(&own, pid).is_empty(), "they went with us");
}

#[test]
fn what_is_left_alive_keeps_its_cgroup_and_what_a_server_made_goes() {
    let place = Place::new();
    // The server makes a cgroup below its own, where it may.
    let make = "d=$(sed -n 's/^0:://p' /proc/self/cgroup); for m in /sys/fs/cgroup/unified /sys/fs/cgroup; do \
        mkdir \"$m$d/below\" 2>/dev/null && break; done; sleep 1000 & echo $! >DIR/left; wait";
    let make = make.replace("DIR", &place.path(""));
    let mut daemon =
        Launch::new(&place).args("--kill-mode process --bake 0").command(&["/bin/sh", "-c", &make]).start();
    let pid = daemon.pid();
    daemon.wait_generation(1);
    let left: i32 = wait_for("who stays", || place.read("left").trim().parse().ok());
    let before = cgroup_of(left);
    daemon.verb("restart").expect(0);
    daemon.wait_generation(2);
    assert!(runs(left), "KillMode=process");
    assert_eq!(cgroup_of(left), before, "it is where it was");
    if let Some(own) = own_cgroup() {
        assert_eq!(directories(&own, pid).len(), 2, "in one alone");
    }
    daemon.verb("stop").expect(0);
    // The end of supervise ends all that the test has started and that still lives.
    assert_eq!(daemon.end().status, 0);
    Launch::new(&place).args("--restart no").command(&["true"]).run().expect(0);
    if let Some(own) = own_cgroup() {
        assert!(directories(&own, pid).is_empty(), "with those that the server has made");
    }
}

#[test]
fn a_command_after_a_kill_is_not_killed_as_well() {
    let place = Place::new();
    let after = place.path("after");
    let text = format!(
        "[Service]\nExecStart=/bin/sh -c 'trap \"\" TERM; sleep 1000; sleep 1000'\nTimeoutStopSec=100ms\n\
         ExecStopPost=/bin/sh -c 'echo done >{after}'\nExecStopPost=/bin/sh -c 'echo both >>{after}'\n"
    );
    place.write("one.service", &text);
    let mut daemon = Launch::units(&place, &["one.service"]).start();
    daemon.wait_generation(1);
    // A restart sends SIGKILL to the worker as well.
    daemon.verb("restart").expect(0);
    daemon.wait_generation(2);
    assert_eq!(place.read("after"), "done\nboth\n", "{}", daemon.stderr());
}

/// The kernel would kill each process that starts in that directory later.
#[test]
fn who_kills_a_cgroup_kills_no_later_start() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--restart-sec 0").start();
    daemon.wait_generation(1);
    let server = daemon.server();
    let killed = own_cgroup().is_some_and(|own| {
        fs::write(own.join(cgroup_of(server)).join("cgroup.kill"), "1").unwrap();
        true
    });
    if !killed {
        kill(Pid::from_raw(server), Signal::SIGKILL).unwrap();
    }
    daemon.wait_generation(2);
    for generation in 3..=4 {
        daemon.verb("swap").expect(0);
        daemon.wait_generation(generation);
    }
}

#[test]
fn what_a_killed_supervise_has_left_goes_at_the_next_start() {
    let place = Place::new();
    let mut daemon = Launch::new(&place).command(&["sleep", "1000"]).start();
    daemon.wait_generation(1);
    let (old, server) = (daemon.pid(), daemon.server());
    daemon.signal(Signal::SIGKILL);
    assert_eq!(daemon.end().status, 137);
    kill(Pid::from_raw(server), Signal::SIGKILL).unwrap();
    wait_for("the server to be gone", || (!runs(server)).then_some(()));
    let mut daemon = Launch::new(&place).command(&["sleep", "1000"]).start();
    daemon.wait_generation(1);
    if let Some(own) = own_cgroup() {
        assert!(directories(&own, old).is_empty());
    }
    daemon.verb("stop").expect(0);
    assert_eq!(daemon.end().status, 0);
}

/// A supervise runs as the server of another one, so its directories lie below those of that one.
#[test]
fn a_supervise_below_another_has_its_own() {
    let place = Place::new();
    let inner = place.path("inner");
    let supervise = super::support::SUPERVISE;
    let mut daemon =
        Launch::new(&place).command(&[supervise, "--control", &inner, "--", "sleep", "1000"]).start();
    daemon.wait_generation(1);
    let ask = || Command::new(supervise).args(["status", "--json", "--control", &inner]).output().unwrap();
    let server = wait_for("the inner server", || {
        let status: serde_json::Value = serde_json::from_slice(&ask().stdout).ok()?;
        status["generations"][0]["pid"].as_i64()
    });
    let server = i32::try_from(server).unwrap();
    if own_cgroup().is_some() {
        assert_eq!(cgroup_of(server), format!("supervise-{}-1", daemon.server()));
    }
    let (pid, outer) = (daemon.pid(), daemon.server());
    kill(Pid::from_raw(outer), Signal::SIGKILL).unwrap();
    daemon.wait_generation(2);
    assert!(!runs(server), "it is of the first generation");
    daemon.verb("stop").expect(0);
    assert_eq!(daemon.end().status, 0);
    if let Some(own) = own_cgroup() {
        assert!(directories(&own, pid).is_empty());
    }
}
