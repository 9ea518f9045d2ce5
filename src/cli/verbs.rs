//! The command lines of the verbs, and of exec.

use std::ffi::OsString;

use super::arguments::{Accepted, Matches, Others, option, split, switch};
use super::{HELP, Parsed, answer, check_instance, control_path, help, place};
use crate::client::{Task, Verb};
use crate::config::{Error, Problem, Signal, Span, printable, typed};
use crate::core::Request;

pub(super) fn read_list(words: &[String]) -> Result<Parsed, Error> {
    let accepted: Vec<_> = HELP.into_iter().chain([switch("json")]).collect();
    let matches = split(words, &accepted, Others::UpTo(0), "supervise list")?;
    if is_help(&matches) {
        return Ok(answer(help::LIST.to_owned()));
    }
    let json = matches.has("json");
    Ok(Parsed::Verb(Verb { task: Task::List, name: None, control: None, json }))
}

/// `supervise exec -- COMMAND [ARG]...`
pub(super) fn read_exec(options: &[String], words: Option<Vec<OsString>>) -> Result<Parsed, Error> {
    let matches = split(options, &HELP, Others::Rest, "supervise exec")?;
    if is_help(&matches) {
        return Ok(answer(help::EXEC.to_owned()));
    }
    if let [stray, ..] = &matches.others[..] {
        let remedy = match &words {
            Some(_) => "leave this word out".to_owned(),
            None => format!("did you mean: supervise exec -- {}", typed(&matches.others)),
        };
        return Err(Problem::new("COMMAND comes after --", remedy).at(printable(stray)));
    }
    let words = words.filter(|words| words.first().is_some_and(|word| !word.is_empty()));
    let missing =
        || Problem::new("no COMMAND", "write it after --: supervise exec -- ./server").at("supervise exec");
    words.map(Parsed::Exec).ok_or_else(missing)
}

fn is_help(matches: &Matches) -> bool {
    matches.has("help") || matches.has("long-help")
}

fn verb_options(verb: &str) -> Vec<Accepted> {
    let own: &[Accepted] = match verb {
        "swap" => &[switch("no-wait"), switch("json")],
        "status" => &[option("wait"), switch("json")],
        _ => &[],
    };
    HELP.into_iter().chain([option("control")]).chain(own.iter().copied()).collect()
}

pub(super) fn read_verb(verb: &str, words: &[String]) -> Result<Parsed, Error> {
    let here = format!("supervise {verb}");
    // The signal comes before the instance.
    let others = if verb == "kill" { Others::NumbersUpTo(2) } else { Others::UpTo(1) };
    let matches = split(words, &verb_options(verb), others, &here)?;
    if is_help(&matches) {
        return Ok(answer(help::verb(verb)));
    }
    let mut others = matches.others.iter().map(String::as_str);
    let request = match verb {
        "swap" => Request::Swap { wait: !matches.has("no-wait") },
        "abort" => Request::Abort,
        "reload" => Request::Reload,
        "restart" => Request::Restart,
        "pause" => Request::Pause,
        "resume" => Request::Resume,
        "stop" => Request::Stop,
        "reexec" => Request::Reexec,
        "kill" => Request::Kill { signal: signal(others.next()).map_err(|problem| problem.at(verb))? },
        _ => Request::Status { wait_ns: wait(&matches)? },
    };
    let name = match others.next() {
        Some(name) => Some(check_instance(name).map_err(|problem| problem.at(place(verb, name)))?),
        None => None,
    };
    let control = match matches.last("control") {
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
    let json = matches.has("json");
    Ok(Parsed::Verb(Verb { task: Task::Ask(request), name, control, json }))
}

fn signal(text: Option<&str>) -> Result<Signal, Problem> {
    let text = text.ok_or_else(|| Problem::new("no signal", "write it first: supervise kill TERM [NAME]"))?;
    match text.strip_prefix('-') {
        Some(number) => {
            Err(Problem::new(format!("{text} is no signal"), format!("write {number} without the dash")))
        }
        None => Signal::parse(text),
    }
}

fn wait(matches: &Matches) -> Result<Option<u64>, Error> {
    let Some(text) = matches.last("wait") else { return Ok(None) };
    let span = Span::parse(text).map_err(|problem| problem.at(place("--wait", text)))?;
    Ok(Some(span.as_nanos()))
}
