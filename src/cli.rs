//! The command line: argv goes in, a [`Parsed`] comes out. The options are the rows of
//! [`DIRECTIVES`](crate::config::directives::DIRECTIVES) that have a flag, so nothing is declared twice.
//!
//! arguments.rs splits the words into options and values. Their meaning and every message are ours: one line with the
//! place, the cause and what to type instead.

mod arguments;
mod check;
mod help;
#[cfg(test)]
mod tests;
mod units;
mod unknown;
mod verbs;

use std::env::VarError;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::client::Verb;
use crate::config::address::check_name as check_socket_name;
use crate::config::choice::choice;
use crate::config::close;
use crate::config::directives::Draft;
use crate::config::directives::table::DIRECTIVES;
use crate::config::unit::Override;
use crate::config::{
    Color, Config, Control, Error, Exec, Instance, Kind, Listener, Problem, Warning, environment, printable,
};
use arguments::{Accepted, Matches, Others, option, split, switch};
pub use check::{Check, Report, Subject};

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed {
    Run(Box<RunArgs>),
    Check(Box<Check>),
    Verb(Verb),
    /// `supervise exec`: this process becomes COMMAND.
    Exec(Vec<OsString>),
    /// Print this and exit: help, version or an error.
    Exit {
        status: u8,
        /// The text, in whole lines.
        text: String,
        /// Whether the text goes to stderr rather than stdout.
        stderr: bool,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct RunArgs {
    /// The configuration by COMMAND and its options; for `run` the defaults of units, until `units` are loaded.
    pub config: Config,
    /// The units of `supervise run UNIT...`; `None` for a COMMAND.
    pub units: Option<UnitArgs>,
    pub instance: Instance,
    /// 0, minus 1 for each `-q`, plus 1 for each `-v`.
    pub verbosity: i8,
    pub color: Color,
    pub warnings: Vec<Warning>,
}

/// Unit files and the settings that the command line adds. They are read again for each swap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitArgs {
    /// The paths as typed.
    pub paths: Vec<PathBuf>,
    /// Settings applied after the files.
    pub settings: Vec<Override>,
    /// `--strict`: a warning is an error.
    pub strict: bool,
}

/// The verbs that talk to an instance: name, form and purpose.
const VERBS: [(&str, &str, &str); 10] = [
    (
        "swap",
        "swap [NAME] [--no-wait] [--json]",
        "start a new server, and stop the old one once the new one is ready",
    ),
    (
        "abort",
        "abort [NAME]",
        "take back the swap under way: the old server has the traffic, the new one is stopped",
    ),
    (
        "reload",
        "reload [NAME]",
        "have the server load its configuration anew (ExecReload=, Type=notify-reload)",
    ),
    ("restart", "restart [NAME]", "stop the server, then start it; connections wait"),
    ("pause", "pause [NAME]", "stop the server and let connections wait"),
    ("resume", "resume [NAME]", "start it again after pause"),
    ("stop", "stop [NAME]", "end the server and the supervisor"),
    ("kill", "kill SIG [NAME]", "send a signal to the server"),
    (
        "reexec",
        "reexec [NAME]",
        "a new version of supervise takes the place of the old one: same pid, same servers, no socket is closed",
    ),
    (
        "status",
        "status [NAME] [--json] [--wait SPAN]",
        "what runs, and what happens next; exit 0 if it serves",
    ),
];

/// Reads argv, the program's name first. `-E NAME` is looked up in our own environment.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Parsed {
    read(args).unwrap_or_else(|error| Parsed::Exit {
        status: 2,
        text: format!("supervise: {error}\n"),
        stderr: true,
    })
}

fn read(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, Error> {
    let mut args = args.into_iter().skip(1);
    let mut words = Vec::new();
    let mut command = None;
    while let Some(word) = args.next() {
        if word == "--" {
            // The words after `--` are COMMAND's and need not be UTF-8.
            command = Some(args.collect::<Vec<_>>());
            break;
        }
        words.push(word.into_string().map_err(|word| {
            let problem = Problem::new(
                "this argument is not UTF-8",
                "rename the file, or pass its name on by a script",
            );
            problem.at(printable(&word.to_string_lossy()))
        })?);
    }
    let is_run = words.first().is_none_or(|word| word.starts_with('-'));
    if let (Some(command), true) = (&command, is_run) {
        return read_run(&words, Some(command));
    }
    match words.first().map(String::as_str) {
        Some("run") => return units::read(&words[1..], command.as_ref()),
        Some("check") => return check::read(&words[1..], command.as_ref()),
        Some("exec") => return verbs::read_exec(&words[1..], command),
        _ => {}
    }
    // Only a command line without a verb treats the words after `--` apart; verbs read them as their own.
    if let Some(command) = command {
        words.push("--".to_owned());
        words.extend(command.iter().map(|word| word.to_string_lossy().into_owned()));
    }
    match words.first().map(String::as_str) {
        None => Err(Problem::new("nothing to do", "type supervise -l 8080 -- ./server, or supervise -h")
            .at("command line")),
        Some("list") => verbs::read_list(&words[1..]),
        Some(verb) if VERBS.iter().any(|(name, ..)| *name == verb) => verbs::read_verb(verb, &words[1..]),
        Some(word) if !word.starts_with('-') => Err(unknown::unknown_word(&words)),
        Some(_) => read_run(&words, None),
    }
}

fn answer(text: String) -> Parsed {
    Parsed::Exit { status: 0, text, stderr: false }
}

/// What every command line takes.
const HELP: [Accepted; 2] = [switch("help").short_alone('h'), switch("long-help").long("help")];

/// Every option of `run`, of `check`, and of a command line without a verb.
fn run_options() -> Vec<Accepted> {
    let directives = DIRECTIVES.iter().filter_map(|directive| {
        let mut accepted = option(directive.key).long(directive.flag?);
        if let Some(short) = directive.short {
            accepted = accepted.short(short);
        }
        if directive.is_switch() {
            accepted = accepted.yes_or_value();
        }
        // The value may begin with `-` (a missing file is no error).
        Some(if directive.key == "EnvironmentFile" { accepted.any_word() } else { accepted })
    });
    let others = [
        option("listen").short('l'),
        option("p").short_alone('p'),
        option("name"),
        option("control"),
        option("color"),
        option("fdname"),
        switch("quiet").short_alone('q'),
        switch("verbose").short_alone('v'),
        switch("strict"),
        switch("detach"),
        switch("datagram").short('d'),
        switch("seqpacket"),
        switch("now"),
        switch("no-keeper"),
        switch("version").short('V'),
    ];
    directives.chain(others).chain(HELP).collect()
}

/// The help or version that was asked for; it takes precedence over all that is checked after the words are split.
fn informed(matches: &Matches) -> Option<Parsed> {
    if matches.has("long-help") {
        return Some(answer(help::long()));
    }
    if matches.has("help") {
        return Some(answer(help::short()));
    }
    let version = || answer(format!("supervise {}\n", env!("CARGO_PKG_VERSION")));
    matches.has("version").then(version)
}

/// Reads a command line without a verb. `command` holds the words after `--`; `None` where there is no `--`.
fn read_run(options: &[String], command: Option<&Vec<OsString>>) -> Result<Parsed, Error> {
    let matches = split(options, &run_options(), Others::Rest, "supervise")?;
    if let Some(parsed) = informed(&matches) {
        return Ok(parsed);
    }
    if !matches.others.is_empty() {
        return Err(unknown::stray(options, matches.others.len(), command.is_some()));
    }
    let (config, warnings) = command_config(&matches, &settings(&matches)?, command)?;
    if let Some(Warning(error)) = warnings.first().filter(|_| matches.has("strict")) {
        return Err(error.clone());
    }
    let instance =
        Instance { name: given_name(&matches)?, control: control(&matches)?, detach: matches.has("detach") };
    let (verbosity, color) = (verbosity(&matches), color(&matches)?);
    Ok(Parsed::Run(Box::new(RunArgs { config, units: None, instance, verbosity, color, warnings })))
}

/// Makes a configuration of COMMAND and its options, which act like the lines of a unit file.
fn command_config(
    matches: &Matches,
    settings: &[Override],
    command: Option<&Vec<OsString>>,
) -> Result<(Config, Vec<Warning>), Error> {
    let mut draft = Draft::new(Config::for_command_line());
    draft.config.launch.commands.start = command.cloned().map(Exec::plain).into_iter().collect();
    draft.config.listeners = listeners(matches)?;
    let mut warnings = apply(settings, &mut draft)?;
    let (config, more) = close::command_line(draft)?;
    warnings.extend(more);
    Ok((config, warnings))
}

fn given_name(matches: &Matches) -> Result<Option<String>, Error> {
    matches
        .last("name")
        .map(|name| check_name(name).map_err(|error| error.at(place("--name", name))))
        .transpose()
}

fn listeners(matches: &Matches) -> Result<Vec<Listener>, Error> {
    let kind = match (matches.has("datagram"), matches.has("seqpacket")) {
        (true, true) => {
            return Err(Problem::new("this excludes --datagram", "write one of the two").at("--seqpacket"));
        }
        (true, false) => Some(Kind::Udp),
        (false, true) => Some(Kind::SeqPacket),
        (false, false) => None,
    };
    let mut listeners =
        matches.all("listen").map(|text| Listener::parse(text, kind)).collect::<Result<Vec<_>, _>>()?;
    if let Some(text) = matches.last("fdname") {
        let names: Vec<&str> = text.split(':').collect();
        let place = || place("--fdname", text);
        if names.len() != 1 && names.len() != listeners.len() {
            let cause = format!("{} names, but {} --listen", names.len(), listeners.len());
            return Err(Problem::new(cause, "write one for all, or one for each --listen").at(place()));
        }
        for (listener, name) in listeners.iter_mut().zip(names.iter().cycle()) {
            check_socket_name(name).map_err(|problem| problem.at(place()))?;
            listener.name = (*name).to_owned();
        }
    }
    Ok(listeners)
}

/// Options and `-p` in the order in which they were typed, so that the later one wins.
fn settings(matches: &Matches) -> Result<Vec<Override>, Error> {
    let is_setting = |id: &str| {
        ["p", "no-keeper"].contains(&id) || DIRECTIVES.iter().any(|row| row.key == id && row.flag.is_some())
    };
    let found = matches.options.iter().filter(|(id, _)| is_setting(id));
    found.map(|(id, value)| setting(id, value)).collect()
}

fn setting(id: &str, value: &str) -> Result<Override, Error> {
    let directive = |key: &str, value: &str, place: String| {
        Ok(Override::Directive { key: key.to_owned(), value: value.to_owned(), place })
    };
    match id {
        "p" => match value.split_once('=') {
            // The place leaves the value out, which may be a secret.
            Some(("Environment", value)) => directive("Environment", value, "-p Environment".to_owned()),
            Some((key, text)) => directive(key, text, place("-p", value)),
            None => Err(Problem::new("no `=`", "write -p KEY=VALUE, as in -p LimitNOFILE=65536")
                .at(place("-p", value))),
        },
        "no-keeper" => directive("Keeper", "no", "--no-keeper".to_owned()),
        "Environment" => {
            let name = value.split('=').next().unwrap_or_default();
            let (name, value) = variable(name, value).map_err(|problem| problem.at(place("-E", name)))?;
            Ok(Override::Variable(name, value))
        }
        key => {
            let flag = DIRECTIVES.iter().find(|row| row.key == key && row.flag.is_some());
            let flag = flag.and_then(|row| row.flag).unwrap_or(key);
            directive(key, value, place(&format!("--{flag}"), value))
        }
    }
}

fn apply(settings: &[Override], draft: &mut Draft) -> Result<Vec<Warning>, Error> {
    let mut warnings = Vec::new();
    for setting in settings {
        match setting {
            Override::Variable(name, value) => {
                draft.config.launch.environment.push((name.clone(), value.clone()));
            }
            Override::Directive { key, value, place } => warnings.extend(draft.set(key, value, place)?),
        }
    }
    Ok(warnings)
}

/// Reads `-E NAME=VALUE`, or `-E NAME` with its value in our environment.
fn variable(name: &str, text: &str) -> Result<(String, String), Problem> {
    match std::env::var(name) {
        Err(VarError::NotUnicode(_)) if name == text => Err(Problem::new(
            "its value is not UTF-8",
            "leave this -E out: the variable is inherited as it is",
        )),
        ours => environment::assignment(text, |_| ours.ok()),
    }
}

fn control(matches: &Matches) -> Result<Control, Error> {
    match matches.last("control") {
        None => Ok(Control::Search),
        Some("none") => Ok(Control::None),
        Some(path) => control_path(path).map(Control::Path),
    }
}

fn control_path(path: &str) -> Result<PathBuf, Error> {
    if path.is_empty() || path.ends_with('/') || path.starts_with('@') {
        return Err(Problem::new("this is not the path of a socket", "write one: --control /run/web.sock")
            .at(place("--control", path)));
    }
    Ok(PathBuf::from(path))
}

fn verbosity(matches: &Matches) -> i8 {
    let count = |id| i8::try_from(matches.count(id)).unwrap_or(i8::MAX);
    count("verbose") - count("quiet")
}

fn color(matches: &Matches) -> Result<Color, Error> {
    let text = matches.last("color").unwrap_or("auto");
    let colors = [("auto", Color::Auto), ("always", Color::Always), ("never", Color::Never)];
    choice(text, &colors).map_err(|problem| problem.at(place("--color", text)))
}

fn place(option: &str, value: &str) -> String {
    if value.is_empty() { format!("{option} ''") } else { format!("{option} {}", printable(value)) }
}

/// Checks the name of an instance, which is also a file name and an argument of the verbs.
fn check_name(name: &str) -> Result<String, Problem> {
    let cause = if name.is_empty() {
        "the name is empty".to_owned()
    } else if name.len() > 64 {
        format!("the name has {} bytes, more than 64", name.len())
    } else if name.starts_with(['.', '-']) || name.contains(|c: char| c == '/' || c.is_control()) {
        "a name does not begin with . or - and contains no / and no control character".to_owned()
    } else {
        return Ok(name.to_owned());
    };
    Err(Problem::new(cause, "write a short word: web"))
}

/// Checks the NAME of a verb: the name of an instance, or USER/NAME for one of another user.
fn check_instance(name: &str) -> Result<String, Problem> {
    match name.split_once('/') {
        Some((user, of_user)) if !user.is_empty() => check_name(of_user).map(|_| name.to_owned()),
        _ => check_name(name),
    }
}
