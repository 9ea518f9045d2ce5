//! Servers that mean harm, and places where it cannot work.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::load::Load;
use super::super::support::{Place, SUPERVISE, example, wait_for};
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
    // In the midst of its calls.
    kill(Pid::from_raw(daemon.server()), Signal::SIGKILL).unwrap();
    daemon.wait_until("the next one serves", |status| {
        status["generation"] == 3 && status["state"] == "running"
    });
    assert_answers(&address, 3);
}

/// What is read of an address is not what the kernel reads then.
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
    let tasks = format!("/proc/{}/task", daemon.pid());
    let count = || std::fs::read_dir(&tasks).unwrap().count();
    wait_for("one thread for the one generation", || (count() == 2).then_some(()));
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
