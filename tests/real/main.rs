//! Servers and clients that nobody here wrote: each of the cookbook, swapped under load; gunicorn under wrk and under ab;
//! unit files that Debian ships; systemd itself, where it can be asked.
//!
//! Started by tests/real/run, which installs them; VENV names the directory with gunicorn in it.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by panicking")]
#![allow(dead_code, unused_imports, reason = "shared with tests/it, which uses all of it")]

#[path = "../it/conformance/mod.rs"]
mod conformance;
mod container;
mod cookbook;
mod daemons;
mod families;
mod fastcgi;
mod lazy;
#[path = "../it/load.rs"]
mod load;
mod local;
mod oracle;
mod packages;
mod programs;
mod ring;
#[path = "../it/support/mod.rs"]
mod support;
mod wrappers;

use std::fs::File;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use support::{Daemon, Launch, Place, wait_for};

/// Always of one length: ab takes another one for a failure.
const APPLICATION: &str = r#"
import os, time

BODY = f"generation {int(os.environ['SUPERVISE_GENERATION']):03}\n".encode()

def app(environ, start_response):
    time.sleep(0.005)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(BODY)))])
    return [BODY]
"#;

fn gunicorn(place: &Place) -> Daemon {
    place.write("application.py", APPLICATION);
    let gunicorn =
        format!("{}/bin/gunicorn", std::env::var("VENV").expect("VENV, as tests/real/run sets it"));
    let directory = place.path("");
    let mut daemon = Launch::new(place)
        .args("--listen 127.0.0.1:0=http")
        .command(&[&gunicorn, "--workers", "2", "--chdir", &directory, "application:app"])
        .start();
    daemon.wait_generation(1);
    daemon
}

/// A load generator, from its first request to its last.
struct Client {
    child: Child,
    output: String,
}

impl Client {
    fn start(place: &Place, daemon: &Daemon, words: &[&str]) -> Self {
        let output = place.path("client");
        let file = File::create(&output).unwrap();
        let child = Command::new(words[0])
            .args(&words[1..])
            .arg(format!("http://{}/", daemon.address("http")))
            .stdin(Stdio::null())
            .stderr(file.try_clone().unwrap())
            .stdout(file)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{}: {error}: run tests/real/run, it installs what is missing", words[0])
            });
        Self { child, output }
    }

    /// Asked to end, both wrk and ab print what they have counted so far.
    fn finish(mut self) -> String {
        assert!(self.child.try_wait().unwrap().is_none(), "it ended early: {}", self.text());
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGINT).unwrap();
        wait_for("the end of the client", || self.child.try_wait().unwrap());
        self.text()
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The process has ended already, where all went well.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[track_caller]
fn ten_swaps(daemon: &mut Daemon) {
    for generation in 2..=11 {
        let swap = daemon.verb("swap --json").expect(0).json();
        assert_eq!((&swap["to"], &swap["outcome"]), (&generation.into(), &"swapped".into()), "{swap}");
    }
    daemon.wait_generation(11);
    assert_eq!(load::get(&daemon.address("http"), "/").unwrap(), "generation 011\n");
}

/// The numbers of the line that begins so.
fn numbers(text: &str, start: &str) -> Option<Vec<u64>> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(start))?;
    Some(line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect())
}

#[test]
fn ten_swaps_of_gunicorn_under_wrk() {
    let place = Place::new();
    let mut daemon = gunicorn(&place);
    let words = ["wrk", "-t2", "-c16", "-d10m", "--timeout", "10s", "-H", "Connection: close"];
    let client = Client::start(&place, &daemon, &words);
    ten_swaps(&mut daemon);
    let text = client.finish();
    let requests: u64 = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok())
        .unwrap_or_else(|| panic!("no count of requests:\n{text}"));
    // wrk prints these two lines only when there is something to say.
    let errors = numbers(&text, "Socket errors:").unwrap_or_default();
    let bad = numbers(&text, "Non-2xx or 3xx responses:").unwrap_or_default();
    println!("wrk: {requests} requests, socket errors {errors:?}, bad answers {bad:?}");
    assert!(requests > 1000 && errors.is_empty() && bad.is_empty(), "{text}");
}

#[test]
fn ten_swaps_of_gunicorn_under_ab() {
    let place = Place::new();
    let mut daemon = gunicorn(&place);
    // Without -r it ends with the first socket error; then there are no counts.
    let client = Client::start(&place, &daemon, &["ab", "-q", "-t", "600", "-n", "10000000", "-c", "16"]);
    ten_swaps(&mut daemon);
    let text = client.finish();
    let complete = numbers(&text, "Complete requests:").unwrap_or_else(|| panic!("no counts:\n{text}"));
    let failed = numbers(&text, "Failed requests:").unwrap_or_else(|| panic!("no counts:\n{text}"));
    println!("ab: {complete:?} requests, {failed:?} failed");
    assert!(complete[0] > 1000 && failed == [0], "{text}");
    assert_eq!(numbers(&text, "Non-2xx responses:"), None, "{text}");
}
