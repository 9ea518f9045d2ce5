//! Type=forking, PIDFile= and MAINPID= as a running systemd took them: units and daemons of the record, replayed.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::super::support::{Daemon, Launch, Place, proc_status};
use super::{all_agree, cases, list, text};

/// The Python module that the daemons import.
const HELPERS: &str = include_str!("../../conformance/systemd-252/t.py");
/// A line of the log is waited for no longer (the record: 4 s on a machine of its own).
const PATIENCE: Duration = Duration::from_secs(8);
/// How much later than in the record a line may come: the machine has other work.
const LATENESS: f64 = 0.6;
/// What the record calls a span, and where it ends.
const SPANS: [(&str, f64); 6] =
    [("at once", 0.35), ("< ~1s", 0.8), ("~1s", 1.35), ("< ~2s", 1.8), ("~2s", 2.5), ("~3s", 3.6)];

/// A case that runs: its folder, and what was seen so far.
struct Replay {
    place: Place,
    daemon: Option<Daemon>,
    notes: Vec<String>,
    /// The times at which the lines of the log were first seen.
    times: Vec<Instant>,
}

impl Replay {
    fn new(case: &Value) -> Self {
        let replay = Self { place: Place::new(), daemon: None, notes: Vec::new(), times: Vec::new() };
        replay.place.write("t.py", HELPERS);
        for (name, content) in case["files"].as_object().expect("files") {
            replay.place.write(name, &replay.fill(content.as_str().expect("a text")));
        }
        replay.place.write("unit.service", &replay.fill(text(&case["units"], "service")));
        replay
    }

    fn fill(&self, text: &str) -> String {
        let directory = self.place.path("");
        text.replace("@PY@", "python3 -S").replace("@D@", directory.trim_end_matches('/'))
    }

    /// The lines of the log; those that are new have come now.
    fn log(&mut self) -> Vec<String> {
        let lines: Vec<String> = self.place.read("log").lines().map(String::from).collect();
        self.times.resize(lines.len().max(self.times.len()), Instant::now());
        lines
    }

    fn wait(&mut self, span: Duration) {
        let end = Instant::now() + span;
        while Instant::now() < end {
            self.log();
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn seen(&mut self, begin: &str, count: usize) {
        let end = Instant::now() + PATIENCE;
        while self.log().iter().filter(|line| line.starts_with(begin)).count() < count {
            if Instant::now() > end {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn start(&mut self) {
        let control = self.place.path("ctl");
        let launch = Launch::new(&self.place).arg("run").arg("--control").arg(&control);
        let launch = launch.arg(&self.place.path("unit.service"));
        self.daemon = Some(launch.spawn("supervise", Some(control)));
    }

    fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("it was started")
    }

    /// Without sockets our own end is that of the service.
    fn state(&mut self) -> &'static str {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            match self.daemon().try_end() {
                Some(0) => return "dead",
                Some(_) => return "failed",
                None => {}
            }
            let Some(status) = self.daemon().try_status() else { continue };
            match status["state"].as_str() {
                Some("running") => return "running",
                Some("starting") => return "starting",
                Some("waiting") => return "restarting",
                Some("failed") => return "failed",
                Some("stopping") | None => thread::sleep(Duration::from_millis(20)),
                Some(other) => panic!("a service without sockets is not {other}"),
            }
        }
        "stopping"
    }

    /// The processes of the case by the names they gave themselves.
    fn names(&self) -> BTreeMap<String, i32> {
        let named = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let name = name.strip_suffix(".pid").filter(|name| *name != "d" && !name.starts_with('.'))?;
            Some((name.to_owned(), self.place.read(&format!("{name}.pid")).trim().parse().ok()?))
        };
        let entries = fs::read_dir(self.place.path("")).expect("our own directory");
        entries.filter_map(|entry| named(entry.expect("an entry"))).collect()
    }

    fn main(&mut self) -> String {
        let pid = self.daemon().try_status().and_then(|status| status["generations"][0]["pid"].as_i64());
        let Some(pid) = pid else { return "none".to_owned() };
        let names = self.names();
        names
            .into_iter()
            .find(|(_, of)| i64::from(*of) == pid)
            .map_or_else(|| "other".to_owned(), |(name, _)| name)
    }

    fn alive(&self, asked: &[&str]) -> String {
        let names = self.names();
        let lives = |name: &&&str| names.get(**name).is_some_and(|pid| runs(*pid));
        let living: Vec<&str> = asked.iter().filter(lives).copied().collect();
        if living.is_empty() { "nobody".to_owned() } else { living.join(" ") }
    }

    fn verb(&mut self, verb: &str) {
        let said = self.daemon().verb(verb);
        self.notes.push(format!("{verb}: {}", if said.status == 0 { "ok" } else { "failed" }));
    }

    fn shell(&mut self, command: &str) {
        let command = self.fill(command);
        let directory = self.place.path("");
        let output = Command::new("sh").arg("-c").arg(&command).current_dir(directory).output();
        let output = String::from_utf8(output.expect("a shell").stdout).expect("UTF-8");
        if !output.trim().is_empty() {
            self.notes.push(format!("sh: {}", output.trim()));
        }
    }

    fn step(&mut self, step: &Value) {
        let number = |index: usize| step[index].as_f64();
        let words: Vec<&str> = step.as_array().expect("a step").iter().filter_map(Value::as_str).collect();
        match words[..] {
            ["start"] => self.start(),
            ["wait"] => self.wait(Duration::from_secs_f64(number(1).expect("seconds"))),
            ["seen", begin] => self.seen(begin, number(2).map_or(1, |count| count as usize)),
            ["state"] => {
                let state = self.state();
                self.notes.push(format!("state: {state}"));
            }
            ["main"] => {
                let main = self.main();
                self.notes.push(format!("main: {main}"));
            }
            ["alive", ..] => self.notes.push(format!("alive: {}", self.alive(&words[1..]))),
            ["signal", name, signal] => {
                let signal: Signal = format!("SIG{signal}").parse().expect("a signal");
                kill(Pid::from_raw(self.names()[name]), signal).expect("it lives");
            }
            ["sh", command] => self.shell(command),
            [verb @ ("stop" | "reload" | "restart")] => self.verb(verb),
            _ => panic!("no such step: {step}"),
        }
    }

    /// Every span of the record that took longer or shorter here.
    fn odd_spans(&self, log: &[String], spans: &Value) -> Vec<String> {
        let time = |begin: &str| log.iter().position(|line| line.starts_with(begin)).map(|at| self.times[at]);
        let odd = |(name, class): (&String, &Value)| {
            let (from, to) = name.split_once(" -> ").expect("FROM -> TO");
            let (Some(from), Some(to)) = (time(from), time(to)) else {
                return Some(format!("{name}: never"));
            };
            let took = to.duration_since(from).as_secs_f64();
            let end = SPANS.iter().position(|(class_, _)| class == class_).expect("a class of the record");
            let begin = if end == 0 { 0.0 } else { SPANS[end - 1].1 };
            let is_right = (begin..SPANS[end].1 + LATENESS).contains(&took);
            (!is_right).then(|| format!("{name}: {took:.2} s, not {class}"))
        };
        spans.as_object().into_iter().flatten().filter_map(odd).collect()
    }
}

impl Drop for Replay {
    /// What `supervise` did not start is not its to end.
    fn drop(&mut self) {
        let names = self.names();
        self.daemon = None;
        for pid in names.into_values().filter(|pid| runs(*pid)) {
            // The process may have ended by itself just now.
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn runs(pid: i32) -> bool {
    proc_status(pid, "State").is_some_and(|state| !state.starts_with(['Z', 'X']))
}

/// Without the blank at the end of a line whose last word is empty.
fn trimmed(lines: &[String]) -> Vec<&str> {
    lines.iter().map(|line| line.trim_end()).collect()
}

fn replay(case: &Value) -> Result<(), String> {
    let mut replay = Replay::new(case);
    for step in case["steps"].as_array().expect("steps") {
        replay.step(step);
    }
    let mut log = replay.log();
    // Where we differ on purpose, the case says what is here.
    let wanted = if case["here"].is_null() { &case["outcome"] } else { &case["here"] };
    let mut faults = replay.odd_spans(&log, &wanted["spans"]);
    if case["any_order"] == json!(true) {
        log.sort();
    }
    if trimmed(&log) != list(&wanted["log"]) {
        faults.push(format!("log {log:?}"));
    }
    if trimmed(&replay.notes) != list(&wanted["notes"]) {
        faults.push(format!("notes {:?}", replay.notes));
    }
    let said = replay.daemon.as_ref().map_or(String::new(), Daemon::stderr);
    if faults.is_empty() { Ok(()) } else { Err(format!("{}; it says:\n{said}", faults.join("\n    "))) }
}

/// The daemons time themselves by sleeps of a second and less. Where the machine was too busy for that, the next round
/// says something else; what is wrong stays wrong.
fn replay_up_to_three_times(case: &Value) -> Result<(), String> {
    replay(case).or_else(|_first| replay(case)).or_else(|_second| replay(case))
}

#[test]
fn daemons_are_found_followed_and_stopped_as_by_systemd() {
    all_agree(&cases("systemd-252/forking.json"), replay_up_to_three_times);
}
