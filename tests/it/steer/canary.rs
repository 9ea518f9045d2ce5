//! A share of the new connections for a while: the share is met, and a candidate that fails it is rolled back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::load::{Load, get};
use super::super::support::{Daemon, Launch, Place, example, wait_for};
use super::assert_steered;

fn hello<'a>(place: &'a Place, options: &str) -> Launch<'a> {
    Launch::new(place)
        .args("--listen 127.0.0.1:0=http --ready http:/")
        .args(options)
        .command(&[&example("hello")])
}

/// How many of so many fresh connections reached this generation; all must be answered.
fn share(address: &str, connections: usize, generation: u64) -> usize {
    const THREADS: usize = 8;
    let hits = Arc::new(AtomicUsize::new(0));
    let wanted = format!("hello from generation {generation}\n");
    let clients: Vec<_> = (0..THREADS)
        .map(|_| {
            let (address, wanted, hits) = (address.to_owned(), wanted.clone(), Arc::clone(&hits));
            thread::spawn(move || {
                for _ in 0..connections / THREADS {
                    let body = get(&address, "/").unwrap();
                    hits.fetch_add(usize::from(body == wanted), Ordering::Relaxed);
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("no connection fails");
    }
    hits.load(Ordering::Relaxed)
}

/// Waits until the canary has begun.
#[track_caller]
fn wait_for_canary(daemon: &Daemon) {
    wait_for("the canary", || daemon.stderr().contains("10 %").then_some(()));
}

#[test]
fn a_tenth_of_five_thousand_connections_reach_it_and_if_it_dies_it_is_rolled_back() {
    let place = Place::new();
    let mut daemon = hello(&place, "--canary 10:1h").start();
    daemon.wait_generation(1);
    assert_steered(&daemon);
    let address = daemon.address("http");
    let verb = daemon.spawn_verb("swap --json");
    wait_for_canary(&daemon);
    let hits = share(&address, 5000, 2);
    println!("{hits} of 5000 reached the candidate");
    assert!((250..=750).contains(&hits), "{hits} of 5000");
    kill(Pid::from_raw(daemon.processes_of(2)[0]), Signal::SIGKILL).unwrap();
    let swap = verb.end().expect(1).json();
    assert_eq!(swap["outcome"], "rolled-back", "{swap}");
    daemon.wait_generation(1);
    assert_eq!(share(&address, 200, 1), 200);
}

#[test]
fn the_full_switch_follows_the_window() {
    let place = Place::new();
    let mut daemon = hello(&place, "--canary 10:500ms --bake 0 --drain-quiet 50ms").start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    let load = Load::start(&address, 500);
    super::swapped(&daemon, 2);
    load.let_pass(50);
    load.samples().assert_clean();
    assert_eq!(share(&address, 200, 2), 200);
}
