//! Servers that mean harm, and places where it cannot work.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::load::{Load, get};
use super::super::support::{Place, SUPERVISE, example, fds, proc_status, set_limit, settled, wait_for};
use super::{assert_answers, binds, swapped};

#[test]
fn a_flood_of_binds_holds_up_nobody() {
    let place = Place::new();
    let mut daemon =
        binds(&place, "127.0.0.1:0", "--ready http:/ --restart-sec 10ms", &["flood+{addr:http}"]).start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    assert_answers(&address, 1);
    let begin = Instant::now();
    for _ in 0..10 {
        daemon.status();
    }
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    swapped(&daemon, 2);
    assert_answers(&address, 2);
    // The server is killed while its threads call bind(2).
    kill(Pid::from_raw(daemon.server()), Signal::SIGKILL).unwrap();
    daemon.wait_until("the next one serves", |status| {
        status["generation"] == 3 && status["state"] == "running"
    });
    assert_answers(&address, 3);
}

/// The server changes the address between the moments at which supervise and the kernel read it.
#[test]
fn an_address_that_changes_while_it_is_read_harms_nobody() {
    let place = Place::new();
    let mut daemon = binds(&place, "127.0.0.1:0", "--ready http:/", &["liar+{addr:http}"]).start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    let load = Load::start(&address, 100);
    for generation in 2..=4 {
        load.let_pass(30);
        swapped(&daemon, generation);
    }
    load.let_pass(30);
    load.samples().assert_clean();
    assert_answers(&address, 4);
    wait_for("a lie", || daemon.stderr().contains("two addresses were read").then_some(()));
    assert!(!daemon.stderr().contains("there are two of port"), "{}", daemon.stderr());
}

/// Nobody answers while the supervisor is stopped, so that all four threads are inside of their calls for certain.
#[test]
fn who_ends_inside_of_a_call_leaves_nothing_behind() {
    let place = Place::new();
    let options = "--ready http:/ --restart-sec 10ms";
    let mut daemon = binds(&place, "127.0.0.1:0", options, &["flood+{addr:http}"]).start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    let open = |pid| settled("its fds", || fds(pid).len());
    // A swap leaves a cgroup for the next one.
    swapped(&daemon, 2);
    daemon.wait_generation(2);
    // The thread of the first one has fds as long as it is there.
    let one_thread = |pid| {
        wait_for("one thread for the one generation", || (threads(pid).len() == 2).then_some(()));
    };
    one_thread(daemon.pid());
    let before = open(daemon.pid());
    for (generation, exits) in [(3, false), (4, true), (5, false), (6, true)] {
        let server = daemon.server();
        daemon.signal(Signal::SIGSTOP);
        settled("its threads", || switches(server));
        if exits {
            assert!(get(&address, "/exit").is_err(), "it exits and does not answer");
        } else {
            kill(Pid::from_raw(server), Signal::SIGKILL).unwrap();
        }
        wait_for("its end", || proc_status(server, "State").filter(|state| state.starts_with('Z')));
        daemon.signal(Signal::SIGCONT);
        daemon.wait_generation(generation);
        assert_answers(&address, generation);
    }
    swapped(&daemon, 7);
    daemon.wait_generation(7);
    assert_answers(&address, 7);
    one_thread(daemon.pid());
    wait_for("as many fds as before", || (open(daemon.pid()) == before).then_some(()));
}

fn threads(pid: i32) -> Vec<String> {
    let all = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    all.map(|thread| thread.unwrap().path().into_os_string().into_string().unwrap()).collect()
}

/// How often each thread has gone to sleep: as long as that stays as it is, all of them sleep.
fn switches(pid: i32) -> Vec<String> {
    let of = |thread: String| fs::read_to_string(format!("{thread}/status")).unwrap();
    let lines = threads(pid).into_iter().map(of);
    lines.map(|text| text.lines().filter(|line| line.contains("ctxt_switches")).collect()).collect()
}

#[test]
fn a_signal_in_the_midst_of_a_call_does_not_make_it_fail() {
    let place = Place::new();
    let mut daemon = binds(&place, "127.0.0.1:0", "--restart no", &["again+{addr:http}"]).start();
    let pid =
        wait_for("its start", || daemon.stderr().contains("generation 1 started").then(|| daemon.server()));
    wait_for("its binds", || {
        for signal in [Signal::SIGSTOP, Signal::SIGCONT] {
            kill(Pid::from_raw(pid), signal).unwrap();
        }
        daemon.stderr().contains("bound again").then_some(())
    });
    daemon.wait_generation(1);
    assert!(daemon.stderr().contains("bound again: None"), "{}", daemon.stderr());
    assert_answers(&daemon.address("http"), 1);
}

/// There is no memory for a thread of ours when the one that answers the server is there already.
#[test]
fn a_thread_that_is_not_to_be_had_is_told_and_ends_nobody() {
    let place = Place::new();
    let command = ["sh", "-c", "kill -STOP $$; exec \"$@\"", "sh", &example("binds"), "epoll+{addr:http}"];
    let daemon = binds(&place, "127.0.0.1:0", "", &[]).command(&command).start();
    let server = daemon.server();
    wait_for("its stop", || proc_status(server, "State").filter(|state| state.starts_with('T')));
    let size = proc_status(daemon.pid(), "VmSize").unwrap();
    let size: u64 = size.trim_end_matches(" kB").trim().parse().unwrap();
    // What is left is less than the stack of a thread.
    set_limit(daemon.pid(), "as", &((size + 1536) << 10).to_string());
    kill(Pid::from_raw(server), Signal::SIGCONT).unwrap();
    let told = "could not be registered everywhere in its place";
    wait_for("the reason", || daemon.stderr().contains(told).then_some(()));
    assert_eq!(daemon.status()["generations"][0]["generation"], 1, "{}", daemon.stderr());
    daemon.verb("stop").expect(0);
}

#[test]
fn of_too_many_epoll_sets_some_go_on() {
    let place = Place::new();
    let daemon = binds(&place, "127.0.0.1:0", "", &["epolls+{addr:http}"]).start();
    wait_for("the rest", || daemon.stderr().contains("in over 64 epoll sets").then_some(()));
    assert_answers(&daemon.address("http"), 1);
}

#[test]
fn its_threads_end_with_the_server() {
    let place = Place::new();
    let mut daemon = binds(&place, "127.0.0.1:0", "--ready http:/", &["{addr:http}"]).start();
    daemon.wait_generation(1);
    for generation in 2..=4 {
        swapped(&daemon, generation);
    }
    daemon.wait_generation(4);
    wait_for("one thread for the one generation", || (threads(daemon.pid()).len() == 2).then_some(()));
}

#[test]
fn inside_of_another_one_it_says_so_once_and_goes_on() {
    let place = Place::new();
    let inner = [
        SUPERVISE,
        "--listen",
        "127.0.0.1:0=inner",
        "--intercept-bind",
        "--control",
        "none",
        "--restart-sec",
        "10ms",
        "--",
        &example("binds"),
        "127.0.0.1:0",
    ];
    let daemon = binds(&place, "127.0.0.1:0", "", &[]).command(&inner).start();
    let refused = "--intercept-bind (InterceptBind=) has no effect: something above us";
    wait_for("the reason", || daemon.stderr().contains(refused).then_some(()));
    wait_for("its server", || daemon.stderr().contains("generation 1 is ready").then_some(()));
    assert_eq!(daemon.stderr().matches(refused).count(), 1, "{}", daemon.stderr());
}
