//! What --intercept-bind costs a server: every system call of it, and a request on a fresh connection. The same server, on
//! the sockets it is passed, with the filter and without.
//!
//! `cargo bench --bench intercept [-- ROUNDS]`. It asserts nothing.

mod paired;

use std::env;
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use paired::{Contestant, quantile};

/// The argument that makes this program the one that is measured.
const CALLS: &str = "--measure-system-calls";
const FILTER: &str = "--intercept-bind";

fn main() {
    if env::args().any(|word| word == CALLS) {
        return println!("{}", nanoseconds_of_a_call());
    }
    let rounds = env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(30);
    let (mut without, mut with, mut added) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (plain, filtered) = (calls(&[]), calls(&[FILTER]));
        without.push(plain);
        with.push(filtered);
        added.push(filtered - plain);
    }
    println!(
        "a system call (getppid) in ns: without {:.0}, with the filter {:.0}; added: quartile {:.0}, median {:.0}, \
         quartile {:.0}",
        quantile(&without, 0.5),
        quantile(&with, 0.5),
        quantile(&added, 0.25),
        quantile(&added, 0.5),
        quantile(&added, 0.75),
    );
    let directory = tempfile::tempdir().expect("a temporary directory");
    let server = paired::server();
    let contestants = [
        supervised(&server, &directory.path().join("without"), "without", &[]),
        // A server whose bind(2) is intercepted is told of its sockets only where that is asked for.
        supervised(
            &server,
            &directory.path().join("with"),
            "with the filter",
            &[FILTER, "-p", "Protocol=systemd"],
        ),
    ];
    paired::compare(&contestants, rounds);
    for contestant in &contestants {
        println!("  {:20} resident memory of supervise: {} kB", contestant.name, resident(contestant));
    }
}

fn nanoseconds_of_a_call() -> f64 {
    const TIMES: u32 = 500_000;
    let begin = Instant::now();
    for _ in 0..TIMES {
        nix::unistd::getppid();
    }
    begin.elapsed().as_nanos() as f64 / f64::from(TIMES)
}

/// The nanoseconds that such a call costs a child of `supervise`.
fn calls(options: &[&str]) -> f64 {
    let output = Command::new(env!("CARGO_BIN_EXE_supervise"))
        .args(["-q", "--control", "none", "--restart", "no", "--listen", "127.0.0.1:0"])
        .args(options)
        .arg("--")
        .arg(env::current_exe().expect("/proc/self/exe"))
        .arg(CALLS)
        .stderr(Stdio::inherit())
        .output()
        .expect("it is built");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
}

fn supervised(server: &Path, control: &Path, name: &'static str, options: &[&str]) -> Contestant {
    // A number that is free now: what it is, nobody needs to be asked then.
    let address = free().expect("a port");
    let process = Command::new(env!("CARGO_BIN_EXE_supervise"))
        .args(["-q", "--ready", "exec", "--listen", &address, "--control"])
        .arg(control)
        .args(options)
        .arg("--")
        .arg(server)
        .args(["--work", "0"])
        .spawn()
        .expect("it is built");
    Contestant { name, address, process }.ready()
}

fn free() -> io::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

fn resident(contestant: &Contestant) -> String {
    let path = format!("/proc/{}/status", contestant.process.id());
    let status = std::fs::read_to_string(path).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("proc_pid_status(5)");
    line.trim_end_matches("kB").trim().to_owned()
}
