//! The command lines of the verbs, and of exec.

use std::ffi::OsString;

use clap::{Arg, ArgMatches, Command};

use super::{
    Parsed, answer, check_instance, command, control_path, help, last, one_line, option, place, switch,
};
use crate::client::{Task, Verb};
use crate::config::{Error, Problem, Signal, Span, printable, typed};
use crate::core::Request;

pub(super) fn read_list(words: &[String]) -> Result<Parsed, Error> {
    let matches = command().arg(switch("json").long("json")).try_get_matches_from(words);
    let matches = matches.map_err(|error| one_line(&error, "supervise list"))?;
    if matches.get_flag("help") || matches.get_flag("long-help") {
        return Ok(answer(help::LIST.to_owned()));
    }
    let json = matches.get_flag("json");
    Ok(Parsed::Verb(Verb { task: Task::List, name: None, control: None, json }))
}

/// `supervise exec -- COMMAND [ARG]...`
pub(super) fn read_exec(options: &[String], words: Option<Vec<OsString>>) -> Result<Parsed, Error> {
    let matches = command().arg(Arg::new("stray").num_args(0..).trailing_var_arg(true));
    let matches =
        matches.try_get_matches_from(options).map_err(|error| one_line(&error, "supervise exec"))?;
    if matches.get_flag("help") || matches.get_flag("long-help") {
        return Ok(answer(help::EXEC.to_owned()));
    }
    if let Some(strays) = matches.get_many::<String>("stray") {
        let strays: Vec<String> = strays.cloned().collect();
        let remedy = match &words {
            Some(_) => "leave this word out".to_owned(),
            None => format!("did you mean: supervise exec -- {}", typed(&strays)),
        };
        return Err(Problem::new("COMMAND comes after --", remedy).at(printable(&strays[0])));
    }
    let words = words.filter(|words| words.first().is_some_and(|word| !word.is_empty()));
    let missing =
        || Problem::new("no COMMAND", "write it after --: supervise exec -- ./server").at("supervise exec");
    words.map(Parsed::Exec).ok_or_else(missing)
}

fn verb_command(verb: &str) -> Command {
    let mut command = command().arg(option("control").long("control"));
    if verb == "kill" {
        command = command.arg(Arg::new("signal").allow_negative_numbers(true));
    }
    if verb == "swap" {
        command = command.arg(switch("no-wait").long("no-wait"));
    }
    if verb == "status" {
        command = command.arg(option("wait").long("wait"));
    }
    if matches!(verb, "swap" | "status") {
        command = command.arg(switch("json").long("json"));
    }
    command.arg(Arg::new("instance"))
}

pub(super) fn read_verb(verb: &str, words: &[String]) -> Result<Parsed, Error> {
    let here = format!("supervise {verb}");
    let matches = verb_command(verb).try_get_matches_from(words).map_err(|error| one_line(&error, &here))?;
    if matches.get_flag("help") || matches.get_flag("long-help") {
        return Ok(answer(help::verb(verb)));
    }
    let request = match verb {
        "swap" => Request::Swap { wait: !matches.get_flag("no-wait") },
        "abort" => Request::Abort,
        "reload" => Request::Reload,
        "restart" => Request::Restart,
        "pause" => Request::Pause,
        "resume" => Request::Resume,
        "stop" => Request::Stop,
        "kill" => Request::Kill { signal: signal(&matches).map_err(|problem| problem.at(verb))? },
        _ => Request::Status { wait_ns: wait(&matches)? },
    };
    let name = match last(&matches, "instance") {
        Some(name) => Some(check_instance(name).map_err(|problem| problem.at(place(verb, name)))?),
        None => None,
    };
    let control = match last(&matches, "control") {
        Some("none") => {
            return Err(Problem::new(
                "there is no such control socket",
                "write its path: --control /run/web.sock",
            )
            .at("--control none"));
        }
        Some(path) => Some(control_path(path)?),
        None => None,
    };
    let json = matches!(verb, "swap" | "status") && matches.get_flag("json");
    Ok(Parsed::Verb(Verb { task: Task::Ask(request), name, control, json }))
}

fn signal(matches: &ArgMatches) -> Result<Signal, Problem> {
    let text = last(matches, "signal");
    let text = text.ok_or_else(|| Problem::new("no signal", "write it first: supervise kill TERM [NAME]"))?;
    match text.strip_prefix('-') {
        Some(number) => {
            Err(Problem::new(format!("{text} is no signal"), format!("write {number} without the dash")))
        }
        None => Signal::parse(text),
    }
}

fn wait(matches: &ArgMatches) -> Result<Option<u64>, Error> {
    let Some(text) = last(matches, "wait") else { return Ok(None) };
    let span = Span::parse(text).map_err(|problem| problem.at(place("--wait", text)))?;
    Ok(Some(span.as_nanos()))
}
