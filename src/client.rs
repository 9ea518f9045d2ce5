//! The verbs that talk to a running instance: find it, ask, print what it says, exit with its answer.
//!
//! A verb that waits for something waits as long as the connection lives; one that only asks gives up after
//! [`PATIENCE`], for a stopped supervisor accepts connections and never answers. What servers wrote about themselves
//! (STATUS=) is printed with its control characters replaced: it must not steer the terminal.

mod render;
mod wire;

use std::io::{self, Write};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use serde::Serialize;

use crate::config::Span;
use crate::core::report::{LastSwap, Line, State, rounded};
use crate::core::{Reply, Request};
use crate::os::instances::{self, Holder, Instance};
use render::printable;
use wire::{Trouble, Wire};

/// What a question that needs no waiting may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often a supervise that is not up yet is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Exit statuses of verbs (CLI.md, "Exit status").
const REFUSED: u8 = 1;
const NOTHING_RUNS: u8 = 3;

/// One verb with its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verb {
    pub task: Task,
    /// NAME; None: the only one that runs.
    pub name: Option<String>,
    /// `--control PATH`, instead of a name.
    pub control: Option<PathBuf>,
    /// `--json`: the object alone, no progress.
    pub json: bool,
}

/// What the verb does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Every instance of this user.
    List,
    /// Anything that one instance answers.
    Ask(Request),
}

/// An error of the verb itself: one line for stderr, and the exit status.
struct Failure {
    exit: u8,
    text: String,
}

/// Does what the verb says; the result is the exit status. Answers go to stdout, errors of our own to stderr.
pub fn run(verb: &Verb) -> u8 {
    let dirs = if verb.name.is_some() { instances::everywhere() } else { instances::directories() };
    run_in(&dirs, verb, &mut io::stdout(), &mut io::stderr(), PATIENCE)
}

fn run_in(dirs: &[PathBuf], verb: &Verb, out: &mut dyn Write, err: &mut dyn Write, patience: Duration) -> u8 {
    let done = match &verb.task {
        Task::List => list(dirs, verb.json, out, patience),
        Task::Ask(Request::Status { wait_ns: Some(wait_ns) }) => {
            await_status(dirs, verb, Duration::from_nanos(*wait_ns), out, patience)
        }
        Task::Ask(request) => {
            find(dirs, verb).and_then(|found| ask(&found, request, verb.json, out, patience))
        }
    };
    match done {
        Ok(exit) => exit,
        Err(Failure { exit, text }) => {
            // There is no one left to tell if stderr is gone.
            drop(writeln!(err, "supervise: {}", printable(&text)));
            exit
        }
    }
}

/// `status --wait`: also for a supervise that is not up yet. It may come up in any of the directories, some of which
/// do not exist yet, so it is looked for again and again.
fn await_status(
    dirs: &[PathBuf],
    verb: &Verb,
    wait: Duration,
    out: &mut dyn Write,
    patience: Duration,
) -> Result<u8, Failure> {
    let begun = Instant::now();
    loop {
        let left = wait.saturating_sub(begun.elapsed());
        let request = Request::Status { wait_ns: u64::try_from(left.as_nanos()).ok() };
        match find(dirs, verb).and_then(|found| ask(&found, &request, verb.json, out, patience)) {
            Err(Failure { exit: NOTHING_RUNS, .. }) if !left.is_zero() => {
                let pause = PollTimeout::try_from(left.min(LOOK_AGAIN)).unwrap_or(PollTimeout::ZERO);
                // A signal that ends it early does no harm.
                let _ = poll(&mut [], pause);
            }
            done => return done,
        }
    }
}

fn find(dirs: &[PathBuf], verb: &Verb) -> Result<Instance, Failure> {
    let nothing = |text: String| Failure { exit: NOTHING_RUNS, text };
    if let Some(path) = &verb.control {
        let name = path.display().to_string();
        let pid = match instances::holder(path) {
            Holder::Lives(pid) => pid,
            Holder::Nobody | Holder::Stale | Holder::Foreign(_) => None,
        };
        return Ok(Instance { name, path: path.clone(), pid });
    }
    if let Some(name) = &verb.name {
        return instances::named(dirs, name).ok_or_else(|| {
            let others = names(&instances::living(dirs));
            let hint = if others.is_empty() { String::new() } else { format!(" (there is: {others})") };
            nothing(format!("nothing runs under the name {name}{hint}"))
        });
    }
    let mut living = instances::living(dirs);
    match living.len() {
        1 => Ok(living.remove(0)),
        0 => Err(nothing("no instance of this user runs".to_owned())),
        _ => {
            let text = format!("several instances run, name one of them: {}", names(&living));
            Err(Failure { exit: REFUSED, text })
        }
    }
}

fn names(instances: &[Instance]) -> String {
    instances.iter().map(|found| found.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn ask(
    found: &Instance,
    request: &Request,
    json: bool,
    out: &mut dyn Write,
    patience: Duration,
) -> Result<u8, Failure> {
    let mut wire = connect(found, patience)?;
    wire.send(request);
    let within = |span| Instant::now().checked_add(span);
    // However long the answer takes, a supervisor that lives says at once that it has the request.
    let mut deadline = within(patience);
    loop {
        match wire.line(deadline) {
            Ok(Line::Accepted) => {
                deadline = allowance(request, patience).and_then(within);
                if *request == (Request::Swap { wait: true }) {
                    tell_at_interrupt(found);
                }
            }
            Ok(Line::Note(text)) if !json => say(out, &printable(&text))?,
            Ok(Line::Note(_)) => {}
            Ok(Line::Reply(reply)) => {
                if *request == Request::Stop && reply.exit == 0 {
                    wire.until_closed();
                }
                return answer(request, &reply, json, out);
            }
            Err(trouble) => {
                return Err(Failure { exit: REFUSED, text: no_answer(found, &trouble, patience) });
            }
        }
    }
}

/// Ctrl-C ends the verb and not the swap, and says so. SIGINT is blocked and a thread waits for it, so no handler runs;
/// the verb then ends by the signal, which is what a shell looks at.
fn tell_at_interrupt(found: &Instance) {
    let whom = if found.path.as_os_str() == found.name.as_str() { "--control " } else { "" };
    let text = format!("the swap goes on; to take it back: supervise abort {whom}{}", found.name);
    let interrupt = SigSet::from(Signal::SIGINT);
    if interrupt.thread_block().is_err() {
        return;
    }
    // Where there is no thread to be had, the default action comes back.
    let waiter = thread::Builder::new().spawn(move || {
        if interrupt.wait().is_ok() {
            drop(writeln!(io::stderr(), "supervise: {}", printable(&text)));
        }
        let _ends = interrupt.thread_unblock().and_then(|()| raise(Signal::SIGINT));
    });
    if waiter.is_err() {
        let _as_before = interrupt.thread_unblock();
    }
}

/// How long the answer may take; None: as long as it does.
fn allowance(request: &Request, patience: Duration) -> Option<Duration> {
    match request {
        Request::Status { wait_ns } => patience.checked_add(Duration::from_nanos(wait_ns.unwrap_or(0))),
        Request::Kill { .. } | Request::Swap { wait: false } | Request::Abort => Some(patience),
        Request::Swap { wait: true }
        | Request::Reload
        | Request::Restart
        | Request::Pause
        | Request::Resume
        | Request::Stop => None,
    }
}

fn connect(found: &Instance, patience: Duration) -> Result<Wire, Failure> {
    let stream = instances::connect(&found.path, patience).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Failure { exit: NOTHING_RUNS, text: format!("nothing runs at {}", found.path.display()) }
        }
        io::ErrorKind::WouldBlock => {
            Failure { exit: REFUSED, text: no_answer(found, &Trouble::Late, patience) }
        }
        _ => Failure { exit: REFUSED, text: format!("{}: {error}", found.path.display()) },
    })?;
    Ok(Wire::new(stream))
}

fn no_answer(found: &Instance, trouble: &Trouble, patience: Duration) -> String {
    let name = &found.name;
    match trouble {
        Trouble::Late => {
            let (pid, remedy) = found.pid.map_or_else(Default::default, |pid| {
                (format!(" (pid {pid})"), format!("; if it is stopped: kill -CONT {pid}"))
            });
            format!(
                "{name}{pid} did not answer within {}{remedy}",
                rounded(Span::from_millis(patience.as_millis() as u64))
            )
        }
        Trouble::Closed => {
            format!("{name}: the connection ended before the answer: it was killed, or has crashed")
        }
        Trouble::Broken(why) => format!("{name}: the connection broke before the answer: {why}"),
        Trouble::Garbled(why) => {
            format!("{name}: the answer was not understood: {why} (is it another version?)")
        }
    }
}

fn answer(request: &Request, reply: &Reply, json: bool, out: &mut dyn Write) -> Result<u8, Failure> {
    let silent = |text: &str| Failure { exit: reply.exit.max(REFUSED), text: text.to_owned() };
    match (request, &reply.status) {
        (Request::Status { .. }, Some(status)) => {
            if json {
                say_json(out, status)?;
            } else {
                say(out, render::status(status, jiff::Timestamp::now()).trim_end())?;
            }
            return Ok(reply.exit);
        }
        (Request::Status { .. }, None) if json => return Err(silent(&reply.text)),
        (_, _) => {}
    }
    match (request, &reply.swap) {
        (Request::Swap { .. }, Some(swap)) if json => say_json(out, swap)?,
        (Request::Swap { wait: false }, None) if json && reply.exit == 0 => {
            say_json(out, &LastSwap::begun(&reply.text))?;
        }
        (Request::Swap { .. }, None) if json => return Err(silent(&reply.text)),
        (_, _) => say(out, &printable(&reply.text))?,
    }
    Ok(reply.exit)
}

/// One element of `list --json`.
#[derive(Serialize)]
struct Listed {
    name: String,
    pid: Option<i32>,
    /// Null: it did not answer in time.
    state: Option<State>,
    /// The address of its first socket.
    address: Option<String>,
    control: PathBuf,
}

fn list(dirs: &[PathBuf], json: bool, out: &mut dyn Write, patience: Duration) -> Result<u8, Failure> {
    let request = Request::Status { wait_ns: None };
    let deadline = Instant::now().checked_add(patience);
    // All are asked before the first answer is awaited, so that several stopped ones take no longer than one.
    let asked: Vec<(Instance, Option<Wire>)> = instances::living(dirs)
        .into_iter()
        .map(|found| {
            let mut wire = instances::connect(&found.path, Duration::ZERO).map(Wire::new).ok();
            if let Some(wire) = &mut wire {
                wire.send(&request);
            }
            (found, wire)
        })
        .collect();
    let listed: Vec<Listed> =
        asked.into_iter().map(|(found, wire)| describe(found, wire, deadline)).collect();
    if json {
        say_json(out, &listed)?;
    } else if listed.is_empty() {
        say(out, "no instance of this user runs")?;
    } else {
        say(out, render::table(&["NAME", "PID", "STATE", "SOCKET"], listed.iter().map(row)).trim_end())?;
    }
    Ok(0)
}

fn describe(found: Instance, wire: Option<Wire>, deadline: Option<Instant>) -> Listed {
    let status = wire.and_then(|mut wire| {
        loop {
            match wire.line(deadline) {
                Ok(Line::Accepted | Line::Note(_)) => {}
                Ok(Line::Reply(reply)) => break reply.status,
                Err(_) => break None,
            }
        }
    });
    let state = status.as_ref().map(|status| status.state);
    let address = status.and_then(|status| status.sockets.into_iter().next()).map(|socket| socket.address);
    Listed { name: found.name, pid: found.pid, state, address, control: found.path }
}

fn row(listed: &Listed) -> Vec<String> {
    let state = listed.state.map_or("does not answer", render::state);
    vec![
        listed.name.clone(),
        render::figure(listed.pid),
        state.to_owned(),
        listed.address.clone().unwrap_or_else(|| "-".to_owned()),
    ]
}

/// One line of JSON, with the control characters escaped that JSON itself allows (DEL and C1).
fn say_json(out: &mut dyn Write, value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).expect("plain data with text keys is always JSON");
    let escape = |c: char| if c.is_control() { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    say(out, &text.chars().map(escape).collect::<String>())
}

/// A reader that went away (`| head`) is no reason to stop waiting; a full disk is one to say so.
fn say(out: &mut dyn Write, text: &str) -> Result<(), Failure> {
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure { exit: REFUSED, text: format!("stdout: {error}") })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
