//! The verb `supervise check`: parses its arguments, and writes a verdict on each line of the unit files, then what
//! would be bound, passed and run. Nothing is started.

use std::ffi::OsString;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::arguments::{Others, split, switch};
use super::units::unit_args;
use super::{Parsed, UnitArgs, color, command_config, control, given_name, informed, run_options, settings};
use crate::config::unit::{CheckedLine, LineOutcome, Loaded, Override};
use crate::config::{
    Config, Error, Exec, Handover, KillMode, Kind, Problem, Ready, Restart, Warning, printable,
};

/// The arguments of `check`.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    pub subject: Subject,
    pub json: bool,
    /// The verdict on `--detach`, where that is given.
    pub detach: Option<CheckedLine>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Subject {
    Units(UnitArgs),
    /// A command line, its configuration and the verdicts about its options.
    Command {
        config: Box<Config>,
        warnings: Vec<Warning>,
        lines: Vec<CheckedLine>,
        strict: bool,
    },
}

/// The result of `check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The text for stdout.
    pub text: String,
    pub error: Option<Error>,
    pub status: u8,
}

/// `supervise check [OPTIONS] (UNIT... | -- COMMAND...)`
pub(super) fn read(words: &[String], command: Option<&Vec<OsString>>) -> Result<Parsed, Error> {
    let mut accepted = run_options();
    accepted.push(switch("json"));
    let matches = split(words, &accepted, Others::Any, "supervise check")?;
    if let Some(parsed) = informed(&matches) {
        return Ok(parsed);
    }
    let json = matches.has("json");
    // `check` has no use for these values, but a start would refuse them.
    let _ = (given_name(&matches)?, control(&matches)?, color(&matches)?);
    let has_units = !matches.others.is_empty();
    let subject = match command {
        Some(_) if has_units => {
            let problem = Problem::new(
                "check takes this word for a unit file, but a COMMAND follows --",
                "check one of the two; a value of a switch is written --switch=no",
            );
            return Err(problem.at(printable(&matches.others[0])));
        }
        Some(_) => {
            let settings = settings(&matches)?;
            let (config, warnings) = command_config(&matches, &settings, command)?;
            let lines = settings.iter().map(|setting| line(setting, &warnings)).collect();
            Subject::Command { config: Box::new(config), warnings, lines, strict: matches.has("strict") }
        }
        None => Subject::Units(unit_args(&matches, "check")?),
    };
    let detach = matches.has("detach").then(detach_line);
    Ok(Parsed::Check(Box::new(Check { subject, json, detach })))
}

fn detach_line() -> CheckedLine {
    let what = "into the background once the first server is ready; what it prints goes to /dev/null unless \
                StandardOutput= says otherwise";
    CheckedLine {
        place: "--detach".to_owned(),
        section: String::new(),
        key: String::new(),
        value: String::new(),
        outcome: LineOutcome::Beside(what.to_owned()),
    }
}

/// The verdict on an option of the command line that was accepted.
fn line(setting: &Override, warnings: &[Warning]) -> CheckedLine {
    let (place, key, value) = match setting {
        Override::Directive { key, value, place } => (place.clone(), key.clone(), value.clone()),
        // The place leaves the value out, which may be a secret.
        Override::Variable(name, _) => (format!("-E {name}"), "Environment".to_owned(), name.clone()),
    };
    let warning = warnings.iter().find(|Warning(error)| error.place == place);
    let outcome = warning
        .map_or(LineOutcome::Honoured, |Warning(error)| LineOutcome::NotHonoured(error.remedy.clone()));
    CheckedLine { place, section: String::new(), key, value, outcome }
}

impl Report {
    /// An error makes status 125, and with `strict` a warning does as well. What is missing on this machine (`missing`)
    /// is shown as warnings and leaves the status alone, because it is looked up anew at each start.
    pub fn new(loaded: &Loaded, missing: &[String], strict: bool, json: bool) -> Self {
        let error = match &loaded.config {
            Err(error) => Some(error.clone()),
            Ok(_) => loaded.warnings.first().filter(|_| strict).map(|Warning(error)| error.clone()),
        };
        let bad =
            |line: &CheckedLine| matches!(line.outcome, LineOutcome::NotHonoured(_) | LineOutcome::Wrong(_));
        let status = match &error {
            Some(_) => 125,
            None => u8::from(loaded.lines.iter().any(bad)),
        };
        let text = if json { as_json(loaded, missing, error.as_ref()) } else { as_text(loaded, missing) };
        Self { text, error, status }
    }
}

/// Warnings that do not belong to a line, then what is missing on this machine.
fn further(loaded: &Loaded, missing: &[String]) -> impl Iterator<Item = String> {
    let shown = |error: &&Error| {
        loaded.lines.iter().any(|line| {
            line.place == error.place
                && matches!(line.outcome, LineOutcome::NotHonoured(_) | LineOutcome::Wrong(_))
        })
    };
    let warnings = loaded.warnings.iter().map(|Warning(error)| error).filter(move |error| !shown(error));
    warnings.map(ToString::to_string).chain(missing.iter().cloned())
}

fn words(outcome: &LineOutcome) -> (&'static str, String) {
    match outcome {
        LineOutcome::Honoured => ("honoured", String::new()),
        LineOutcome::Beside(reason) => ("honoured", reason.clone()),
        LineOutcome::Inert(reason) => ("inert", reason.clone()),
        LineOutcome::NotHonoured(reason) => ("not honoured", reason.clone()),
        LineOutcome::Wrong(problem) if problem.remedy.is_empty() => ("WRONG", problem.cause.clone()),
        LineOutcome::Wrong(problem) => ("WRONG", format!("{} ({})", problem.cause, problem.remedy)),
    }
}

fn assignment(line: &CheckedLine) -> String {
    if line.key.is_empty() { String::new() } else { printable(&format!("{}={}", line.key, line.value)) }
}

fn as_text(loaded: &Loaded, missing: &[String]) -> String {
    let longest = |width: fn(&CheckedLine) -> usize, most: usize| {
        loaded.lines.iter().map(width).filter(|width| *width <= most).max().unwrap_or(0)
    };
    let place = longest(|line| line.place.chars().count(), 50);
    let key = longest(|line| assignment(line).chars().count(), 50);
    let mut out = String::new();
    for line in &loaded.lines {
        let (verdict, reason) = words(&line.outcome);
        let colon = if reason.is_empty() { "" } else { ": " };
        let text = assignment(line);
        let _ = writeln!(out, "{:<place$}  {text:<key$}  {verdict}{colon}{reason}", line.place);
    }
    for warning in further(loaded, missing) {
        let _ = writeln!(out, "warning: {warning}");
    }
    if let Ok(config) = &loaded.config {
        let _ = write!(out, "\n{}", summary(config, loaded.stop_first.as_deref()));
    }
    out
}

/// What a start would do: the sockets, the commands, and how a swap goes.
fn summary(config: &Config, stop_first: Option<&str>) -> String {
    let mut out = String::new();
    for (fd, listener) in (3..).zip(&config.listeners) {
        let name = printable(&listener.name);
        let _ = writeln!(out, "fd {fd}: {name}, {} {}", listener.kind, listener.address);
    }
    if config.listeners.is_empty() {
        out.push_str("no socket is held\n");
    }
    for (key, exec) in config.commands() {
        let _ = writeln!(out, "{key}: {}", command_words(exec));
    }
    for (key, value) in decisions(config, stop_first) {
        let _ = writeln!(out, "{key}: {value}");
    }
    out
}

fn command_words(exec: &Exec) -> String {
    let words: Vec<String> = exec.words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    printable(&words.join(" "))
}

fn decisions(config: &Config, stop_first: Option<&str>) -> Vec<(&'static str, String)> {
    let (policy, launch) = (&config.policy, &config.launch);
    let user = launch.user.as_deref().map_or_else(|| "the one that runs supervise".to_owned(), printable);
    let group = launch.group.as_deref().map(|group| format!(", group {}", printable(group)));
    let delay = policy.delay;
    let growth = if delay.steps > 0 && !delay.max.is_infinite() {
        format!(", growing in {} steps to {}", delay.steps, delay.max)
    } else {
        String::new()
    };
    let ready = match policy.ready {
        Ready::Auto if config.listeners.is_empty() => "it sends READY=1, or is alive for 1s".to_owned(),
        Ready::Auto => {
            "it sends READY=1, or waits on its sockets; in a swap both, if the old one did both".to_owned()
        }
        Ready::NotifyType if !config.listeners.is_empty() => {
            "it sends READY=1; in a swap it waits on its sockets as well, if the old one did".to_owned()
        }
        Ready::Notify | Ready::NotifyType => "it sends READY=1".to_owned(),
        Ready::Exec => "execve(2) of its program succeeds".to_owned(),
        Ready::Http => "it answers the GET of Ready=http: with 2xx or 3xx".to_owned(),
        Ready::Delay(span) => format!("it is alive for {span}"),
    };
    let handover = match (policy.handover, stop_first) {
        (Handover::Steered, _) => {
            let has_udp = config.listeners.iter().any(|listener| listener.kind == Kind::Udp);
            let flows = "; a UDP flow in progress moves to the new one with its next datagram";
            let stored = "; while it stores fds, the old one ends before the new one starts";
            let stores = launch.fd_store_max > 0 && !policy.must_overlap();
            format!(
                "steered: each generation has its own sockets, and supervise decides which one gets a new connection{}{}",
                if has_udp { flows } else { "" },
                if stores { stored } else { "" }
            )
        }
        (Handover::Shared, _) => {
            "shared: both accept from the same sockets while old and new overlap".to_owned()
        }
        (Handover::StopFirst, Some(place)) => {
            format!("stop-first: the old one ends before the new one starts, because of {}", printable(place))
        }
        (Handover::StopFirst, None) => {
            let why = launch.runs_alone().map(|why| format!(": {why}")).unwrap_or_default();
            format!("stop-first: the old one ends before the new one starts{why}")
        }
    };
    let kill = match policy.kill_mode {
        KillMode::Mixed => "the main process, then SIGKILL to the others",
        KillMode::ControlGroup => "every process",
        KillMode::Process => "the main process alone",
    };
    vec![
        ("user", format!("{user}{}", group.unwrap_or_default())),
        ("restart", format!("{}, after {}{growth}", restart(policy.restart), delay.base)),
        ("ready", format!("when {ready}, within {}", policy.timeout_start)),
        ("stop", format!("{} to {kill}, within {}", policy.kill_signal, policy.timeout_stop)),
        ("handover", handover),
    ]
}

const fn restart(restart: Restart) -> &'static str {
    match restart {
        Restart::No => "no",
        Restart::OnSuccess => "on-success",
        Restart::OnFailure => "on-failure",
        Restart::OnAbnormal => "on-abnormal",
        Restart::OnAbort => "on-abort",
        Restart::OnWatchdog => "on-watchdog",
        Restart::Always => "always",
    }
}

fn as_json(loaded: &Loaded, missing: &[String], error: Option<&Error>) -> String {
    let lines = loaded.lines.iter().map(|line| {
        let (verdict, reason) = words(&line.outcome);
        json!({
            "place": line.place, "section": line.section, "key": line.key, "value": line.value,
            "verdict": verdict.to_lowercase(), "reason": if reason.is_empty() { Value::Null } else { json!(reason) },
        })
    });
    let mut object = json!({
        "lines": lines.collect::<Vec<_>>(),
        "warnings": further(loaded, missing).collect::<Vec<_>>(),
        "error": error.map(ToString::to_string),
    });
    if let Ok(config) = &loaded.config {
        let sockets = (3..).zip(&config.listeners).map(|(fd, listener): (i32, _)| {
            json!({
                "fd": fd, "name": listener.name, "kind": listener.kind.to_string(),
                "address": listener.address.to_string(),
            })
        });
        object["sockets"] = sockets.collect();
        let list = config.commands().into_iter().map(|(key, exec)| {
            let words: Vec<_> = exec.words.iter().map(|word| word.to_string_lossy()).collect();
            json!({ "key": key, "words": words, "place": exec.place })
        });
        object["commands"] = list.collect();
        for (key, value) in decisions(config, loaded.stop_first.as_deref()) {
            object[key] = json!(value);
        }
    }
    format!("{object}\n")
}
