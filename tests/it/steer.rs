//! Steered hand-over: readiness decides who gets traffic, and a server that knows nothing of all this loses nothing.

mod bake;
mod busy;
mod canary;
mod client;
mod health;
mod hung;
mod kept;
mod kinds;
mod leftovers;
pub(super) mod namespace;
mod overlap;
mod queue;
mod rude;
mod strangers;
mod vandals;
mod workers;

use std::net::TcpStream;

use serde_json::Value;

use super::load::{answer, ask, connect, get};
use super::support::{Daemon, Launch, Place, example, wait_for};

/// The example `rude` on a socket of its own, ready when it answers.
fn rude<'a>(place: &'a Place, listen: &str, options: &str) -> Launch<'a> {
    Launch::new(place).args(&format!("--listen {listen}=http --ready http:/health")).args(options).command(&[
        &example("rude"),
        "--sick",
        &place.path("sick"),
    ])
}

/// The example `vandal`, ready when it says so.
fn vandal_at<'a>(place: &'a Place, listen: &str, options: &str) -> Launch<'a> {
    Launch::new(place)
        .args(&format!("--listen {listen}=http --ready notify"))
        .args(options)
        .command(&[&example("vandal")])
}

fn vandal<'a>(place: &'a Place, options: &str) -> Launch<'a> {
    vandal_at(place, "127.0.0.1:0", options)
}

/// Swaps, which must succeed, and returns what the verb reports.
#[track_caller]
fn swapped(daemon: &Daemon, to: u64) -> Value {
    let swap = daemon.verb("swap --json").expect(0).json();
    assert_eq!(
        (&swap["to"], &swap["outcome"]),
        (&to.into(), &"swapped".into()),
        "{swap}\n{}",
        daemon.stderr()
    );
    swap
}

/// Asserts that new connections reach this generation.
#[track_caller]
fn wait_for_traffic(address: &str, body: &str) {
    wait_for(body, || (get(address, "/").as_deref() == Ok(body)).then_some(()));
}

/// Waits until the only generation has accepted this many connections.
#[track_caller]
fn wait_for_connections(daemon: &mut Daemon, count: u64) {
    daemon.wait_until("they are accepted", |status| status["generations"][0]["connections"] == count);
}

/// So many clients that have sent a request and wait for the answer.
#[track_caller]
fn queue_up(address: &str, count: usize, path: &str) -> Vec<TcpStream> {
    let mut clients: Vec<_> = (0..count).map(|_| connect(address).unwrap()).collect();
    for client in &mut clients {
        ask(client, path).unwrap();
    }
    clients
}

#[track_caller]
fn assert_answered(clients: &mut [TcpStream], body: &str) {
    for client in clients {
        assert_eq!(answer(client).unwrap(), body);
    }
}

/// Asserts how the held socket is handed over.
#[track_caller]
fn assert_steered(daemon: &Daemon) {
    let status = daemon.status();
    assert_eq!(status["sockets"][0]["mode"], "steered", "{status}\n{}", daemon.stderr());
}
