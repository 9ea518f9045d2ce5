//! Makes a [`Config`] of unit files: which lines count, and what they mean together.
//!
//! Where systemd warns and skips a line, so do we; where it refuses a unit, that is an error. Beyond systemd, a
//! Listen...= line that cannot be honoured is an error as well, since otherwise a typing error would cost a port.

mod counts;
mod finish;
mod pair;

use std::cell::RefCell;
use std::rc::Rc;

use super::choice::nearest;
use super::directives::row::{Context, Directive, Section, Support};
use super::directives::table::DIRECTIVES;
use super::directives::{Draft, Effect, find, no_effect};
use super::specifier::Specifiers;
use super::unit_file::{Assignment, Unit, parse};
use super::{Config, Error, Problem, SocketCommands, SocketOptions, Warning, printable};
pub use pair::{asks_for, companions};

/// One setting of the command line, applied after the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Override {
    Directive {
        key: String,
        value: String,
        place: String,
    },
    /// `-E NAME=VALUE`
    Variable(String, String),
}

/// The result of reading unit files.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Result<Config, Error>,
    pub warnings: Vec<Warning>,
    /// A verdict on every line, for `check`.
    pub lines: Vec<CheckedLine>,
    /// The line that makes stop-first the default of Handover=, if there is one.
    pub stop_first: Option<String>,
}

/// One line of a file, or one setting of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedLine {
    pub place: String,
    /// The section; empty for the command line.
    pub section: String,
    pub key: String,
    pub value: String,
    pub outcome: LineOutcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineOutcome {
    Honoured,
    /// Honoured, though probably not what was meant; the text says why.
    Beside(String),
    Inert(String),
    NotHonoured(String),
    /// Without effect, or an error of the whole unit.
    Wrong(Problem),
}

/// One unit and its parsed lines.
struct Read<'a> {
    unit: &'a Unit,
    assignments: Vec<Assignment>,
    /// The lines that begin a section, with the section's name.
    headers: Vec<(String, String)>,
}

impl Read<'_> {
    /// The full name of the unit: `web.service`.
    fn name(&self) -> &str {
        self.unit.name.full()
    }

    /// The line to name where `section` lacks `key`: the last that empties it, else the section's header.
    fn place_without(&self, section: &str, key: &str) -> &str {
        let emptied =
            self.assignments.iter().rfind(|line| line.section == section && line.key.starts_with(key));
        let begins = || self.headers.iter().find(|(name, _)| name == section).map(|(_, place)| place);
        emptied.map(|line| &line.place).or_else(begins).map_or_else(|| self.name(), String::as_str)
    }

    fn is_socket(&self) -> bool {
        self.unit.name.suffix() == "socket"
    }
}

struct Loader<'a> {
    draft: Draft,
    host: &'a dyn Fn(char) -> Option<String>,
    /// The names of the units that the user gave.
    given: Vec<&'a str>,
    warnings: Vec<Warning>,
    lines: Vec<CheckedLine>,
    /// The first error. The rest is read all the same, for `check`.
    error: Option<Error>,
}

/// Reads the units, sockets in the order given, then the settings of the command line. `host` answers the specifiers
/// that ask about this machine and user.
pub fn load(units: &[Unit], flags: &[Override], host: &dyn Fn(char) -> Option<String>) -> Loaded {
    let draft = Draft::new(Config::for_units());
    let given = units.iter().map(|unit| unit.name.full()).collect();
    let mut loader = Loader { draft, host, given, warnings: Vec::new(), lines: Vec::new(), error: None };
    let read = loader.read(units);
    match pair::check(&read, host) {
        Ok(warnings) => loader.warnings.extend(warnings),
        Err(error) => loader.fail(error),
    }
    for unit in &read {
        if unit.is_socket() { loader.socket(unit, flags) } else { loader.unit(unit) }
    }
    for flag in flags {
        loader.flag(flag);
    }
    let service = read.iter().find(|unit| !unit.is_socket());
    loader.draft.config.name = service.map(|service| service.unit.name.stem().to_owned());
    let no_command =
        service.map_or("command line", |service| service.place_without("Service", "ExecStart")).to_owned();
    let service = service.map_or("command line", Read::name).to_owned();
    let Loader { mut draft, mut warnings, lines, error, .. } = loader;
    let finished = match error {
        Some(error) => Err(error),
        None => finish::finish(&mut draft, (&service, &no_command), host, &mut warnings),
    };
    let (config, stop_first) = match finished {
        Ok(stop_first) => (Ok(draft.config), stop_first),
        Err(error) => (Err(error), None),
    };
    Loaded { config, warnings, lines, stop_first }
}

impl Loader<'_> {
    fn fail(&mut self, error: Error) {
        self.error.get_or_insert(error);
    }

    fn read<'u>(&mut self, units: &'u [Unit]) -> Vec<Read<'u>> {
        let mut all = Vec::new();
        for unit in units {
            self.warnings.extend(unit.skipped.iter().cloned());
            let mut read = Read { unit, assignments: Vec::new(), headers: Vec::new() };
            for source in &unit.sources {
                match parse(source) {
                    Ok(parsed) => {
                        read.assignments.extend(parsed.assignments);
                        read.headers.extend(parsed.headers);
                        self.warnings.extend(parsed.warnings);
                    }
                    Err(error) => self.fail(error),
                }
            }
            all.push(read);
        }
        all
    }

    /// Reads one .socket file. Its options, commands and Listen...= lines affect no other file.
    fn socket(&mut self, read: &Read<'_>, flags: &[Override]) {
        let listeners = std::mem::take(&mut self.draft.config.listeners);
        let commands = std::mem::take(&mut self.draft.config.socket_commands);
        self.draft.config.socket = SocketOptions::new();
        self.unit(read);
        for flag in flags {
            let Override::Directive { key, value, place } = flag else { continue };
            // An error is ignored here: it is reported where the flags are applied to the whole.
            let _ = self.draft.set_socket(key, value, place);
        }
        let accepts = read.assignments.iter().rfind(|line| line.section == "Socket" && line.key == "Accept");
        if let Some(line) = accepts.filter(|line| super::number::boolean(&line.value) == Ok(true)) {
            let problem = Problem::new(
                "this version does not accept connections itself",
                "write Accept=no and a server that accepts, or use a super-server such as inetd",
            );
            self.fail(problem.at(line.place.as_str()));
        }
        let config = &mut self.draft.config;
        if config.listeners.is_empty() {
            let problem =
                Problem::new("it has no Listen line", "write ListenStream=8080 into its [Socket] section");
            self.error.get_or_insert_with(|| problem.at(read.place_without("Socket", "Listen")));
        }
        let options = Rc::new(config.socket.clone());
        for listener in &mut config.listeners {
            listener.options = Rc::clone(&options);
            listener.name = config.socket.name.clone().unwrap_or_else(|| read.name().to_owned());
        }
        let own = std::mem::replace(&mut config.listeners, listeners);
        config.listeners.extend(own);
        merge(&mut config.socket_commands, commands);
    }

    fn unit(&mut self, read: &Read<'_>) {
        let specifiers = Specifiers { unit: &read.unit.name, path: &read.unit.path, host: self.host };
        let mut unknown: Vec<&str> = Vec::new();
        let before = self.lines.len();
        for line in &read.assignments {
            let outcome = match self.section(read, &line.section) {
                Ok(section) => self.line(read, section, line, &specifiers),
                Err(problem) => {
                    if !unknown.contains(&line.section.as_str()) {
                        unknown.push(&line.section);
                        self.warnings.push(Warning(problem.clone().at(line.place.as_str())));
                    }
                    LineOutcome::Wrong(problem)
                }
            };
            self.lines.push(CheckedLine {
                place: line.place.clone(),
                section: line.section.clone(),
                key: line.key.clone(),
                value: line.value.clone(),
                outcome,
            });
        }
        let main = read.unit.sources.first().map_or("", |source| source.name.as_str());
        counts::judge(&mut self.lines[before..], main);
    }

    fn section(&self, read: &Read<'_>, name: &str) -> Result<Section, Problem> {
        let own = if read.is_socket() { Section::Socket } else { Section::Service };
        let known = [Section::Unit, own, Section::Install, Section::XSupervise];
        if let Some(section) = known.into_iter().find(|section| section.name() == name) {
            return Ok(section);
        }
        let remedy = match nearest(name, known.into_iter().map(Section::name)) {
            Some(near) => format!("did you mean [{near}]?"),
            None => format!(
                "a .{} file has {}",
                own.name().to_lowercase(),
                "[Unit], [Install] and its own section"
            ),
        };
        Err(Problem::new(format!("unknown section [{}] has no effect", printable(name)), remedy))
    }

    fn line(
        &mut self,
        read: &Read<'_>,
        section: Section,
        line: &Assignment,
        specifiers: &Specifiers<'_>,
    ) -> LineOutcome {
        let place = line.place.as_str();
        let Some(directive) = find(section, &line.key) else {
            let problem = unknown(section, &line.key);
            self.warnings.push(Warning(problem.clone().at(place)));
            return LineOutcome::Wrong(problem);
        };
        if read.is_socket() && section == Section::Unit && matches!(directive.support, Support::Honoured(_)) {
            return LineOutcome::Inert("in a .socket file it is about the socket alone".to_owned());
        }
        let warned = RefCell::new(Vec::new());
        let scope = Context {
            expand: &|text| specifiers.expand(text),
            place,
            warn: &|problem| warned.borrow_mut().push(problem),
        };
        let result =
            absolute(directive, &line.value).and_then(|()| self.draft.apply(directive, &line.value, &scope));
        let mut warned = warned.into_inner();
        for problem in &warned {
            self.warnings.push(Warning(problem.clone().at(place)));
        }
        let result = result.map(|effect| match effect {
            Effect::Inert(_) if self.wants_another(&line.key, &line.value, specifiers) => {
                Effect::NotHonoured("supervise starts no other unit: see to it that what it needs runs")
            }
            Effect::Honoured | Effect::Inert(_) | Effect::NotHonoured(_) => effect,
        });
        match result {
            Ok(Effect::NotHonoured(reason)) if line.key.starts_with("Listen") => {
                let problem = Problem::new("this socket would not be held", reason);
                self.fail(problem.clone().at(place));
                LineOutcome::Wrong(problem)
            }
            Ok(Effect::NotHonoured(reason)) => {
                self.warnings.push(no_effect(&line.key, reason, place));
                LineOutcome::NotHonoured(reason.to_owned())
            }
            Ok(Effect::Inert(reason)) => LineOutcome::Inert(reason.to_owned()),
            Ok(Effect::Honoured) if warned.is_empty() => LineOutcome::Honoured,
            Ok(Effect::Honoured) => LineOutcome::Wrong(warned.remove(0)),
            Err(problem) => {
                let error = problem.clone().at(place);
                if is_fatal(directive, &line.value) {
                    self.fail(error);
                } else {
                    self.warnings.push(Warning(error));
                }
                LineOutcome::Wrong(problem)
            }
        }
    }

    /// Whether the line requires a service or socket that was not given.
    fn wants_another(&self, key: &str, value: &str, specifiers: &Specifiers<'_>) -> bool {
        let runs = |name: &&str| name.ends_with(".service") || name.ends_with(".socket");
        let names = specifiers.expand(value).unwrap_or_default();
        matches!(key, "Requires" | "Requisite" | "BindsTo" | "BindTo")
            && names.split_ascii_whitespace().filter(runs).any(|name| !self.given.contains(&name))
    }

    fn flag(&mut self, flag: &Override) {
        match flag {
            Override::Variable(name, value) => {
                self.draft.config.launch.environment.push((name.clone(), value.clone()));
            }
            Override::Directive { key, value, place } => {
                match self.draft.set(key, value, place) {
                    Ok(warning) => self.warnings.extend(warning),
                    Err(error) => self.fail(error),
                }
                // In a file, Restart=no is systemd's default, after which the next connection starts the server.
                self.draft.config.policy.no_restart_ends |= key == "Restart";
            }
        }
    }
}

/// Puts the socket commands of earlier files before these; the timeout of the last file holds for all.
fn merge(own: &mut SocketCommands, mut earlier: SocketCommands) {
    let lists = [
        (&mut own.start_pre, &mut earlier.start_pre),
        (&mut own.start_post, &mut earlier.start_post),
        (&mut own.stop_pre, &mut earlier.stop_pre),
        (&mut own.stop_post, &mut earlier.stop_post),
    ];
    for (own, earlier) in lists {
        earlier.append(own);
        std::mem::swap(own, earlier);
    }
}

/// Checks that a path of a unit file is absolute.
fn absolute(directive: &Directive, value: &str) -> Result<(), Problem> {
    let path = value.strip_prefix('-').unwrap_or(value);
    let is_path = match directive.key {
        "EnvironmentFile" => true,
        "WorkingDirectory" => path != "~",
        _ => false,
    };
    if !is_path || directive.section != Section::Service || path.is_empty() || path.starts_with(['/', '%']) {
        return Ok(());
    }
    Err(Problem::new(format!("{:?} is no absolute path", printable(path)), "write it from the root on"))
}

/// Whether a wrong value is an error and no warning: systemd refuses the unit, or a port would be lost.
fn is_fatal(directive: &Directive, value: &str) -> bool {
    match directive.key {
        "ExecSearchPath" => false,
        "User" | "Group" | "SupplementaryGroups" | "SocketUser" | "SocketGroup" | "Service" => true,
        "WorkingDirectory" => !value.starts_with('-'),
        key => key.starts_with("Listen") || key.starts_with("Exec"),
    }
}

fn unknown(section: Section, key: &str) -> Problem {
    let elsewhere = DIRECTIVES.iter().find(|row| row.key == key).map(|row| row.section.name());
    let own = || DIRECTIVES.iter().filter(|row| row.section == section).map(|row| row.key);
    let remedy = match (nearest(key, own()), elsewhere) {
        (_, Some(other)) => format!("it belongs in [{other}]"),
        (Some(near), None) => format!("did you mean {near}?"),
        (None, None) => "no systemd up to 259 knows it; a key that begins with X- is skipped".to_owned(),
    };
    Problem::new(format!("unknown key {:?} in [{}] has no effect", printable(key), section.name()), remedy)
}

#[cfg(test)]
mod tests;
