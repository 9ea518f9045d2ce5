//! What servers and others do more than once is told so that the log stays short and nothing is kept back.

use std::fs;
use std::os::unix::net::UnixListener;

use super::super::load::get;
use super::super::support::{Daemon, Launch, Place, example, wait_for};
use super::{assert_steered, swapped, vandal, wait_for_traffic};

fn count(daemon: &Daemon, words: &str) -> usize {
    daemon.stderr().matches(words).count()
}

#[test]
fn a_vandal_in_a_loop_is_told_of_once_and_counted() {
    let place = Place::new();
    let mut daemon = vandal(&place, "--bake 0 --drain-quiet 50ms").start();
    daemon.wait_generation(1);
    assert_steered(&daemon);
    let address = daemon.address("http");
    for _ in 0..5 {
        get(&address, "/shutdown").unwrap();
        wait_for_traffic(&address, "vandal generation 1\n");
    }
    let told = format!("generation 1 has shut {address} down");
    assert_eq!(count(&daemon, &told), 1, "{}", daemon.stderr());
    swapped(&daemon, 2);
    daemon.wait_generation(2);
    let again = format!("generation 1 has done the same to {address} 4 times more");
    assert_eq!(count(&daemon, &again), 1, "{}", daemon.stderr());
    assert_eq!(count(&daemon, &told), 1, "{}", daemon.stderr());
    // The next one is another.
    get(&address, "/shutdown").unwrap();
    wait_for_traffic(&address, "vandal generation 2\n");
    assert_eq!(count(&daemon, "generation 2 has shut"), 1, "{}", daemon.stderr());
}

/// The main process has been looked after by the time it does that.
#[test]
fn what_a_worker_does_that_outlives_the_main_process_is_mended() {
    let place = Place::new();
    // The worker is a server of its own, which no signal of ours ends.
    let worker = "trap '' TERM; export LISTEN_PID=$$; exec \"$0\"";
    let main = "/bin/sh -c \"$1\" \"$0\" & sleep 1000";
    let options = "--listen 127.0.0.1:0=http --ready exec --restart-sec 1h -p KillMode=control-group";
    let mut daemon = Launch::new(&place)
        .args(options)
        .command(&["/bin/sh", "-c", main, &example("vandal"), worker])
        .start();
    daemon.wait_generation(1);
    assert_steered(&daemon);
    let address = daemon.address("http");
    wait_for_traffic(&address, "vandal generation 1\n");
    kill_it(daemon.server());
    wait_for("its end", || daemon.stderr().contains("generation 1 was killed").then_some(()));
    get(&address, "/backlog/1").unwrap();
    assert_eq!(daemon.status()["sockets"][0]["backlog"], 1, "it is no test otherwise");
    for pid in daemon.processes_of(1) {
        kill_it(pid);
    }
    let status = daemon.wait_state("waiting");
    assert!(status["sockets"][0]["backlog"].as_u64().unwrap() > 1, "{status}");
}

fn kill_it(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn a_path_that_is_stolen_twice_is_told_of_twice() {
    let place = Place::new();
    let (path, loot) = (place.path("site.sock"), place.path("loot.sock"));
    let mut daemon = Launch::new(&place)
        .args(&format!("--listen {path}=http --ready notify --bake 0 --drain-quiet 50ms"))
        .command(&[&example("vandal")])
        .start();
    daemon.wait_generation(1);
    for theft in 1..=2 {
        let _thief = UnixListener::bind(&loot).unwrap();
        fs::rename(&loot, &path).unwrap();
        wait_for("its name", || (count(&daemon, "is somebody else's by now") == theft).then_some(()));
        // It gives it back, and a human does what the line says.
        fs::remove_file(&path).unwrap();
        let generation = theft as u64 + 1;
        swapped(&daemon, generation);
        assert_eq!(get(&path, "/").unwrap(), format!("vandal generation {generation}\n"));
    }
}
