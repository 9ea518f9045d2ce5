//! supervise is killed, and its keeper goes on: no request fails, the servers are the same, and what happened meanwhile is
//! found out.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::load::{Load, answer, ask, connect, get};
use super::support::{Daemon, Launch, Place, example, fds, proc_status, settled, wait_for};

/// Kills supervise, and waits until another process answers in its place; its pid, and how long that took.
fn kill_it(daemon: &Daemon, pid: i32) -> (i32, Duration) {
    let begun = Instant::now();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let next = wait_for("another process to answer", || {
        let next = daemon.try_status()?["pid"].as_i64()? as i32;
        (next != pid).then_some(next)
    });
    (next, begun.elapsed())
}

/// Waits until this generation runs alone; unlike [`Daemon::wait_generation`], also after the process that was started has
/// ended.
fn await_generation(daemon: &Daemon, generation: u64) {
    wait_for("a generation to run alone", || {
        let status = daemon.try_status()?;
        let is_alone = status["generations"].as_array().is_some_and(|all| all.len() == 1);
        (is_alone && status["generation"] == generation && status["state"] == "running").then_some(())
    });
}

/// The process that has taken over is nobody's child here.
fn end(daemon: &Daemon, pid: i32) {
    daemon.verb("stop").expect(0);
    wait_for("it to end", || {
        proc_status(pid, "State").is_none_or(|state| state.starts_with('Z')).then_some(())
    });
}

#[test]
fn twenty_times_under_load_fails_nothing_and_changes_no_server() {
    let place = Place::new();
    place.flags("--work 5");
    let mut daemon = Launch::ready(&place, "-p Keeper=yes").start();
    daemon.wait_generation(1);
    let server = daemon.server();
    let mut kept = connect(&daemon.address("http")).unwrap();
    let load = Load::start(&daemon.address("http"), 500);
    let mut pid = daemon.pid();
    let mut open = None;
    for _ in 0..20 {
        load.let_pass(25);
        (pid, _) = kill_it(&daemon, pid);
        assert_eq!(daemon.status()["generations"][0]["pid"], server);
        let now = settled("its fds", || fds(pid).len());
        assert_eq!(*open.get_or_insert(now), now, "{:?}", fds(pid));
    }
    load.let_pass(50);
    let counts = load.finish();
    assert!(counts.failed() == 0 && counts.late == 0 && counts.ok > 0, "{counts}");
    ask(&mut kept, "/").unwrap();
    answer(&mut kept).unwrap();
    daemon.verb("swap").expect(0);
    wait_for("the end of the old one", || daemon.stderr().contains("exited with status 0").then_some(()));
    assert_eq!(place.who("start"), [1, 2]);
    end(&daemon, pid);
}

#[test]
fn a_swap_goes_on_and_its_client_hears_the_end() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "-p Keeper=yes --bake 2s").start();
    daemon.wait_generation(1);
    let swap = daemon.spawn_verb("swap");
    wait_for("the bake", || daemon.stderr().contains("stays untouched").then_some(()));
    let (pid, _) = kill_it(&daemon, daemon.pid());
    assert_eq!(daemon.status()["state"], "swapping");
    let swap = swap.end();
    assert!(swap.text().contains("swapped: generation 2 took over from 1"), "{}", swap.text());
    end(&daemon, pid);
}

#[test]
fn a_server_that_dies_with_it_is_started_again() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "-p Keeper=yes --restart always --restart-sec 0").start();
    daemon.wait_generation(1);
    kill(Pid::from_raw(daemon.server()), Signal::SIGKILL).unwrap();
    let (pid, _) = kill_it(&daemon, daemon.pid());
    await_generation(&daemon, 2);
    get(&daemon.address("http"), "/").unwrap();
    end(&daemon, pid);
    assert!(
        daemon.stderr().contains("SIGKILL") || daemon.stderr().contains("unknown"),
        "{}",
        daemon.stderr()
    );
}

#[test]
fn the_keeper_is_replaced_and_goes_at_the_end() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "-p Keeper=yes").start();
    daemon.wait_generation(1);
    let keeper = |not: i32| {
        wait_for("a keeper", || {
            let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", daemon.pid())).ok()?;
            let named =
                |pid: &i32| proc_status(*pid, "Name").is_some_and(|name| name.starts_with("supervise-keep"));
            children
                .split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .find(|pid| named(pid) && *pid != not)
        })
    };
    let first = keeper(0);
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    let second = keeper(first);
    let (pid, _) = kill_it(&daemon, daemon.pid());
    assert_eq!(pid, second);
    end(&daemon, pid);
}

#[test]
fn without_a_keeper_the_server_lives_on_and_with_die_with_us_it_does_not() {
    for (options, lives) in [("--no-keeper", true), ("-p Keeper=yes --die-with-us", false)] {
        let place = Place::new();
        let mut daemon = Launch::ready(&place, options).start();
        daemon.wait_generation(1);
        let server = daemon.server();
        kill(Pid::from_raw(daemon.pid()), Signal::SIGKILL).unwrap();
        let runs = || proc_status(server, "State").is_some_and(|state| !state.starts_with('Z'));
        if lives {
            wait_for("the end", || daemon.try_end());
            assert!(runs());
        } else {
            wait_for("the end of the server", || (!runs()).then_some(()));
        }
        assert!(daemon.try_status().is_none());
    }
}

/// It is in a session of its own, and nobody's child that supervise could wait for.
#[test]
fn what_a_server_leaves_behind_ends_with_its_generation() {
    let place = Place::new();
    let ready = example("ready");
    let script = format!("setsid sleep 1000 & echo $! >{}; exec {ready}", place.path("left"));
    let mut daemon = Launch::new(&place)
        .args("-p Keeper=yes --listen 127.0.0.1:0=http --bake 0")
        .command(&["/bin/sh", "-c", &script])
        .start();
    daemon.wait_generation(1);
    let left: i32 = place.read("left").trim().parse().unwrap();
    let lives = || proc_status(left, "State").is_some_and(|state| !state.starts_with('Z'));
    let (pid, _) = kill_it(&daemon, daemon.pid());
    assert!(lives());
    daemon.verb("swap").expect(0);
    wait_for("its end", || (!lives()).then_some(()));
    await_generation(&daemon, 2);
    end(&daemon, pid);
}
