//! cargo run -- --listen 127.0.0.1:8080=http --ready notify -- cargo run -q --example ready -- --ready-after 500
//!
//! A server that says when it is ready (sd_notify(3)), and can be told to misbehave in every way a supervisor meets:
//!
//!     --ready-after MS       say READY=1 this long after the start (at once)
//!     --never-ready          do not say it
//!     --status TEXT          STATUS= along with it
//!     --die-after MS:HOW     end this long after the start; HOW is an exit status, or SIGKILL
//!     --work MS              each request takes this long
//!     --ignore-term          SIGTERM, SIGINT and SIGQUIT are written down, nothing more
//!     --grandchildren N      start N processes that ignore SIGTERM, and leave them behind
//!     --orphans N            start N processes whose parent ends at once, and which end too
//!     --daemonize            leave a child in a session of its own, end with 0
//!     --ping MS              say WATCHDOG=1 this often, ...
//!     --pings N              ... this many times only
//!     --shut-down            shutdown(2) its first socket, before it serves
//!     --backlog N            listen(2) on its first socket with this queue limit
//!     --herald               no server: say READY=1 for another process of the generation, and stay
//!     --log FILE             a line per fact: generation, pid, what happened
//!     @FILE                  the words of FILE, read at each start: the next generation may be told to be another
//!
//! `GET /exit/HOW` ends it after the answer. A datagram is answered with the body alone.

#[path = "../../examples/common/mod.rs"]
mod common;

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{self, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{self, SigSet, Signal};
use nix::sys::socket::{Backlog, Shutdown, listen, shutdown};
use nix::unistd::{getpid, setsid};

const FLAGS: [&str; 17] = [
    "--ready-after",
    "--never-ready",
    "--status",
    "--die-after",
    "--work",
    "--ignore-term",
    "--grandchildren",
    "--orphans",
    "--daemonize",
    "--ping",
    "--pings",
    "--shut-down",
    "--backlog",
    "--herald",
    "--log",
    "--as-daemon",
    "--as-grandchild",
];

/// Everything that can be told a server and has no meaning of its own to us, besides the signals to stop.
const SIGNALS: [Signal; 10] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGALRM,
    Signal::SIGCONT,
    Signal::SIGABRT,
];

fn main() {
    let script = Script(common::flags(&FLAGS));
    if script.has("--as-grandchild") {
        SigSet::all().thread_block().expect("a mask");
        loop {
            thread::park();
        }
    }
    if script.has("--herald") {
        common::notify("READY=1");
        loop {
            thread::park();
        }
    }
    let signals = common::signals(&SIGNALS);
    script.log(if script.has("--as-daemon") { "daemon" } else { "start" });
    if script.has("--as-daemon") {
        setsid().expect("a child is no leader of its group");
    } else if script.has("--daemonize") {
        return script.daemonize();
    }
    script.leave_children();
    let sockets = if script.has("--as-daemon") { Vec::new() } else { common::sockets() };
    if let Some((_, socket)) = sockets.first() {
        script.spoil(&socket.as_fd());
    }
    script.clone().begin_timers();
    let (ending, answering) = (script.clone(), script.clone());
    common::serve(
        sockets,
        &signals,
        |signal| ending.stops_at(signal),
        move |request| answering.answer(request),
    );
    script.log("exit");
}

#[derive(Clone)]
struct Script(HashMap<String, String>);

impl Script {
    fn has(&self, flag: &str) -> bool {
        self.0.contains_key(flag)
    }

    fn number(&self, flag: &str) -> Option<u64> {
        self.0.get(flag).map(|text| text.parse().unwrap_or_else(|_| panic!("{flag} {text}: no number")))
    }

    fn pause(&self, flag: &str) -> Duration {
        Duration::from_millis(self.number(flag).unwrap_or(0))
    }

    /// One write per line: several generations share the file.
    fn log(&self, fact: &str) {
        let Some(path) = self.0.get("--log") else { return };
        let line = format!("{} {} {fact}\n", common::generation(), process::id());
        let mut file = OpenOptions::new().append(true).create(true).open(path).expect("the log opens");
        file.write_all(line.as_bytes()).expect("the log takes a line");
    }

    fn stops_at(&self, signal: Signal) -> bool {
        self.log(signal.as_str());
        matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT | Signal::SIGABRT)
            && !self.has("--ignore-term")
    }

    fn answer(&self, request: &common::Request) -> String {
        thread::sleep(self.pause("--work"));
        if let Some(how) = request.path.strip_prefix("/exit/").map(String::from) {
            let script = self.clone();
            // The pause lets the answer go out first.
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(50));
                script.die(&how);
            });
        }
        format!("ready generation {} on {}\n", common::generation(), request.name)
    }

    fn die(&self, how: &str) {
        self.log(&format!("die {how}"));
        if let Ok(code) = how.parse() {
            process::exit(code);
        }
        let signal: Signal = how.parse().expect("an exit status or a signal");
        signal::kill(getpid(), signal).expect("a signal to oneself");
    }

    /// What a server may do to a socket that outlives it.
    fn spoil(&self, socket: &impl AsFd) {
        if self.has("--shut-down") {
            shutdown(socket.as_fd().as_raw_fd(), Shutdown::Both).expect("a listener");
            self.log("shut down");
        }
        if let Some(limit) = self.number("--backlog") {
            let limit = Backlog::new(limit as i32).expect("a small number");
            listen(&socket.as_fd(), limit).expect("a listener");
        }
    }

    /// Ready, death and watchdog, each in a thread of its own.
    fn begin_timers(self) {
        if let Some((after, how)) = self.0.get("--die-after").and_then(|text| text.split_once(':')) {
            let (after, how, script) = (after.parse().expect("milliseconds"), how.to_owned(), self.clone());
            if after == 0 {
                // Before it serves: whom it accepts, it would take along.
                self.die(&how);
            }
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(after));
                script.die(&how);
            });
        }
        thread::spawn(move || {
            thread::sleep(self.pause("--ready-after"));
            if !self.has("--never-ready") {
                let status =
                    self.0.get("--status").map_or_else(String::new, |text| format!("\nSTATUS={text}"));
                self.log("ready");
                common::notify(&format!("READY=1{status}"));
            }
            if self.has("--ping") {
                self.ping();
            }
        });
    }

    fn ping(&self) {
        for _ in 0..self.number("--pings").unwrap_or(u64::MAX) {
            common::notify("WATCHDOG=1");
            thread::sleep(self.pause("--ping"));
        }
        self.log("no more pings");
    }

    /// This program again, with other flags; sockets and all are inherited.
    fn again(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("/proc/self/exe"));
        command.args(flags).stdin(Stdio::null());
        if let Some(log) = self.0.get("--log") {
            command.args(["--log", log]);
        }
        command
    }

    #[allow(clippy::zombie_processes, reason = "to be left behind is what they are for")]
    fn leave_children(&self) {
        for _ in 0..self.number("--grandchildren").unwrap_or(0) {
            self.again(&["--as-grandchild"]).spawn().expect("a grandchild");
        }
        for _ in 0..self.number("--orphans").unwrap_or(0) {
            let mut shell =
                Command::new("/bin/sh").args(["-c", "(exec sleep 0.1) &"]).spawn().expect("a shell");
            shell.wait().expect("it ends");
        }
    }

    #[allow(clippy::zombie_processes, reason = "to be left behind is what it is for")]
    fn daemonize(&self) {
        self.again(&["--as-daemon", "--never-ready"]).spawn().expect("a child");
        self.log("exit");
    }
}
