//! The verbs: find the instance, send one request, print its answer, exit with its status.
//!
//! A verb that waits for an event waits as long as the connection lives. One that only asks gives up after
//! [`PATIENCE`], because a stopped supervisor (SIGSTOP) accepts connections and never answers. What servers wrote
//! about themselves (STATUS=) is printed with its control characters replaced, so that it cannot steer the terminal.

mod render;
mod wire;

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, TERM_SIGNALS};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::config::{Signal, Span};
use crate::core::report::{LastSwap, Line, State, rounded};
use crate::core::{Reply, Request};
use crate::os::instances::{self, Holder, LivingInstance, Places, others};
use crate::os::sys;
use render::printable;
use wire::{Trouble, Wire};

/// How long a verb waits for an answer that needs no event.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often `status --wait` looks for an instance that does not run yet.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Exit statuses of verbs ("Exit status" in docs/guide.md).
const REFUSED: u8 = 1;
const NOTHING_RUNS: u8 = 3;

/// One verb with its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verb {
    pub task: Task,
    /// NAME; `None` means the only instance that runs.
    pub name: Option<String>,
    /// `--control PATH`, in place of a name.
    pub control: Option<PathBuf>,
    /// `--json`: print the object alone, without progress.
    pub json: bool,
}

/// What the verb does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// List the instances of this user.
    List,
    /// Send a request to one instance.
    Ask(Request),
}

/// A failure of the verb itself: one line for stderr, and the exit status.
struct VerbFailure {
    exit: u8,
    text: String,
}

/// Runs a verb and returns the exit status. Answers go to stdout, our own errors to stderr.
pub fn run(verb: &Verb) -> u8 {
    run_in(&Places::find(verb.name.is_some()), verb, &mut io::stdout(), &mut io::stderr(), PATIENCE)
}

fn run_in(places: &Places, verb: &Verb, out: &mut dyn Write, err: &mut dyn Write, patience: Duration) -> u8 {
    let done = match &verb.task {
        Task::List => list(places, verb.json, out, patience),
        Task::Ask(Request::Status { wait_ns: Some(wait_ns) }) => {
            await_status(places, verb, Duration::from_nanos(*wait_ns), out, patience)
        }
        Task::Ask(request) => {
            find(places, verb).and_then(|found| ask(&found, request, verb.json, out, patience))
        }
    };
    match done {
        Ok(exit) => exit,
        Err(VerbFailure { exit, text }) => {
            // If stderr is gone, there is nowhere left to report that.
            drop(writeln!(err, "supervise: {}", printable(&text)));
            exit
        }
    }
}

/// Waits until an instance runs (`status --wait`). It is looked for again and again, because it may appear in any of
/// several directories, some of which do not exist yet.
fn await_status(
    places: &Places,
    verb: &Verb,
    wait: Duration,
    out: &mut dyn Write,
    patience: Duration,
) -> Result<u8, VerbFailure> {
    let begun = Instant::now();
    loop {
        let left = wait.saturating_sub(begun.elapsed());
        let request = Request::Status { wait_ns: u64::try_from(left.as_nanos()).ok() };
        match find(places, verb).and_then(|found| ask(&found, &request, verb.json, out, patience)) {
            Err(VerbFailure { exit: NOTHING_RUNS, .. }) if !left.is_zero() => {
                let pause = PollTimeout::try_from(left.min(LOOK_AGAIN)).unwrap_or(PollTimeout::ZERO);
                // A signal that ends the pause early does no harm.
                let _ = poll(&mut [], pause);
            }
            done => return done,
        }
    }
}

fn find(places: &Places, verb: &Verb) -> Result<LivingInstance, VerbFailure> {
    let nothing = |text: String| VerbFailure { exit: NOTHING_RUNS, text };
    if let Some(path) = &verb.control {
        let name = path.display().to_string();
        let pid = match instances::holder(path) {
            Holder::Lives(pid) => pid,
            Holder::Nobody | Holder::Stale | Holder::Foreign(_) => None,
        };
        return Ok(LivingInstance { name, path: path.clone(), pid, owner: None });
    }
    if let Some(name) = &verb.name {
        let found = match name.split_once('/') {
            Some((user, name)) => others::named(&places.others, user, name),
            None => instances::named(&places.own, name),
        };
        return found.ok_or_else(|| {
            let hint = names(&everybody(places));
            let hint = if hint.is_empty() {
                ", and no other instance runs".to_owned()
            } else {
                format!(" (there is: {hint})")
            };
            nothing(format!("nothing runs under the name {name}{hint}"))
        });
    }
    let mut living = instances::living(&places.own);
    match living.len() {
        1 => Ok(living.remove(0)),
        0 => {
            // An instance of another user is never chosen implicitly; it has to be named.
            let theirs = names(&others::living(&places.others));
            let hint = if theirs.is_empty() {
                theirs
            } else {
                format!("; to reach one of another user, name it: {theirs}")
            };
            Err(nothing(format!("no instance of this user runs{hint}")))
        }
        _ => {
            let text = format!("several instances run; name one of them: {}", names(&living));
            Err(VerbFailure { exit: REFUSED, text })
        }
    }
}

/// The instances of this user, then those of others that we may reach.
fn everybody(places: &Places) -> Vec<LivingInstance> {
    let mut found = instances::living(&places.own);
    found.extend(others::living(&places.others));
    found
}

fn names(instances: &[LivingInstance]) -> String {
    let name = |found: &LivingInstance| match found.owner {
        Some(uid) => format!("{}/{}", others::owner_name(uid), found.name),
        None => found.name.clone(),
    };
    instances.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn ask(
    found: &LivingInstance,
    request: &Request,
    json: bool,
    out: &mut dyn Write,
    patience: Duration,
) -> Result<u8, VerbFailure> {
    let mut wire = connect(found, patience)?;
    wire.send(request);
    let within = |span| Instant::now().checked_add(span);
    // Even if the answer takes long, a living supervisor acknowledges the request at once.
    let mut deadline = within(patience);
    let mut waits = false;
    loop {
        // While it waits, it checks now and then whether the supervisor has been stopped (SIGSTOP).
        match wire.line(if waits { within(patience) } else { deadline }) {
            Err(Trouble::Late) if waits && !found.is_stopped() => {}
            Ok(Line::Accepted) => {
                let allowed = allowance(request, patience);
                waits = allowed.is_none();
                deadline = allowed.and_then(within);
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
                return Err(VerbFailure { exit: REFUSED, text: no_answer(found, &trouble, patience) });
            }
        }
    }
}

/// Makes SIGINT and the other termination signals end the verb with a line that the swap goes on. The verb then dies
/// by that signal, which is what its shell expects.
fn tell_at_interrupt(found: &LivingInstance) {
    let whom = if found.path.as_os_str() == found.name.as_str() { "--control " } else { "" };
    let text = format!("the swap goes on; to take it back: supervise abort {whom}{}", found.name);
    // Without a thread the default action remains, and the verb ends without that line.
    let _waiter = thread::Builder::new().spawn(move || {
        // One that is ignored (by a shell, of a job in the background) stays so.
        let is_heard = |number: &&i32| {
            Signal::from_number(**number)
                .is_some_and(|signal| sys::is_ignored(signal).is_ok_and(|ignored| !ignored))
        };
        let asked_to_end = TERM_SIGNALS.iter().chain(&[SIGHUP]).filter(is_heard);
        let Ok(mut signals) = Signals::new(asked_to_end) else { return };
        if let Some(signal) = signals.forever().next() {
            drop(writeln!(io::stderr(), "supervise: {}", printable(&text)));
            let _ends = emulate_default_handler(signal);
        }
    });
}

/// How long the answer may take; `None` if it may take any time.
fn allowance(request: &Request, patience: Duration) -> Option<Duration> {
    match request {
        Request::Status { wait_ns } => patience.checked_add(Duration::from_nanos(wait_ns.unwrap_or(0))),
        Request::Kill { .. } | Request::Swap { wait: false } | Request::Abort => Some(patience),
        Request::Swap { wait: true }
        | Request::Reload
        | Request::Restart
        | Request::Pause
        | Request::Resume
        | Request::Stop
        | Request::Reexec => None,
    }
}

fn connect(found: &LivingInstance, patience: Duration) -> Result<Wire, VerbFailure> {
    let stream = open(found, patience).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            VerbFailure { exit: NOTHING_RUNS, text: format!("nothing runs at {}", found.path.display()) }
        }
        io::ErrorKind::WouldBlock => {
            VerbFailure { exit: REFUSED, text: no_answer(found, &Trouble::Late, patience) }
        }
        _ => VerbFailure {
            exit: REFUSED,
            text: format!("cannot connect to {}: {error}", found.path.display()),
        },
    })?;
    Ok(Wire::new(stream))
}

/// Connects to the instance. Another user may have replaced the socket since, so its owner is checked again.
fn open(found: &LivingInstance, patience: Duration) -> io::Result<UnixStream> {
    let stream = instances::connect(&found.path, patience)?;
    match (found.owner, instances::peer(&stream)?.uid()) {
        (Some(owner), uid) if uid != owner => Err(io::Error::other(format!(
            "a process of uid {uid} listens there and not one of uid {owner}, so the verb sent no request"
        ))),
        _ => Ok(stream),
    }
}

fn no_answer(found: &LivingInstance, trouble: &Trouble, patience: Duration) -> String {
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
            format!(
                "{name}: the connection ended before the answer: supervise was killed or crashed; its log may say why"
            )
        }
        Trouble::Broken(why) => format!("{name}: cannot read the answer: {why}"),
        Trouble::Garbled(why) => {
            format!(
                "{name}: cannot understand the answer: {why} (if it runs another version, use the program of that one)"
            )
        }
    }
}

fn answer(request: &Request, reply: &Reply, json: bool, out: &mut dyn Write) -> Result<u8, VerbFailure> {
    let silent = |text: &str| VerbFailure { exit: reply.exit.max(REFUSED), text: text.to_owned() };
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
        (Request::Swap { .. }, None) if json => say_json(out, &LastSwap::refused(&reply.text))?,
        (_, _) => say(out, &printable(&reply.text))?,
    }
    Ok(reply.exit)
}

/// One element of `list --json`.
#[derive(Serialize)]
struct Listed {
    name: String,
    /// The uid of its user.
    owner: u32,
    pid: Option<i32>,
    /// Null if it did not answer in time.
    state: Option<State>,
    /// The address of its first socket.
    address: Option<String>,
    control: PathBuf,
}

fn list(places: &Places, json: bool, out: &mut dyn Write, patience: Duration) -> Result<u8, VerbFailure> {
    let request = Request::Status { wait_ns: None };
    let deadline = Instant::now().checked_add(patience);
    // All requests are sent before the first answer is awaited, so that several stopped instances cost one time limit.
    let asked: Vec<(LivingInstance, Option<Wire>)> = everybody(places)
        .into_iter()
        .map(|found| {
            let mut wire = open(&found, Duration::ZERO).map(Wire::new).ok();
            if let Some(wire) = &mut wire {
                wire.send(&request);
            }
            (found, wire)
        })
        .collect();
    let has_others = asked.iter().any(|(found, _)| found.owner.is_some());
    let listed: Vec<Listed> =
        asked.into_iter().map(|(found, wire)| describe(found, wire, deadline)).collect();
    if json {
        say_json(out, &listed)?;
    } else if listed.is_empty() {
        say(out, "no instance of this user runs")?;
    } else {
        let headings = ["NAME", "PID", "STATE", "SOCKET", "OWNER"];
        let columns = if has_others { headings.len() } else { headings.len() - 1 };
        let rows = listed.iter().map(|listed| row(listed, columns));
        say(out, render::table(&headings[..columns], rows).trim_end())?;
    }
    Ok(0)
}

fn describe(found: LivingInstance, wire: Option<Wire>, deadline: Option<Instant>) -> Listed {
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
    let owner = found.uid();
    Listed { name: found.name, owner, pid: found.pid, state, address, control: found.path }
}

fn row(listed: &Listed, columns: usize) -> Vec<String> {
    let state = listed.state.map_or("does not answer", render::state);
    let mut cells = vec![
        listed.name.clone(),
        render::figure(listed.pid),
        state.to_owned(),
        listed.address.clone().unwrap_or_else(|| "-".to_owned()),
        others::owner_name(listed.owner),
    ];
    cells.truncate(columns);
    cells
}

/// Prints one line of JSON, with DEL and C1 controls escaped as well, which JSON would permit.
fn say_json(out: &mut dyn Write, value: &impl Serialize) -> Result<(), VerbFailure> {
    let text = serde_json::to_string(value).expect("plain data with text keys is always JSON");
    let escape = |c: char| if c.is_control() { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    say(out, &text.chars().map(escape).collect::<String>())
}

/// Prints a line. A closed pipe (`| head`) is ignored, so that the verb goes on waiting.
///
/// # Errors
/// stdout cannot be written to for another reason, for instance a full disk.
fn say(out: &mut dyn Write, text: &str) -> Result<(), VerbFailure> {
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(VerbFailure { exit: REFUSED, text: format!("cannot write to stdout: {error}") })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
