//! The configuration as plain data: text goes in, a [`Config`] or an [`Error`] comes out, without I/O.
//!
//! A command line is a unit file written inline, so both fill this one structure through one table, [`directives`].
//! Values keep their systemd meaning; [`Config::for_units`] has systemd's defaults, [`Config::for_command_line`] the
//! others.

pub mod address;
pub mod choice;
pub mod close;
pub mod command_line;
pub mod dialect;
pub mod directives;
pub mod environment;
mod exec;
pub mod instance;
mod kind;
pub mod known;
mod launch;
pub mod number;
pub mod placeholder;
mod policy;
mod socket;
pub mod specifier;
pub mod status;
pub mod unit;
pub mod unit_file;
pub mod value;

#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use address::{Address, Listener};
pub use dialect::Dialect;
pub use exec::{Exec, Privileges, Search};
pub use instance::{Color, Control, Instance};
pub use kind::{Domain, Kind, Semantics};
pub use launch::{
    Commands, Directories, Directory, DirectoryPath, EnvironmentFile, Input, Launch, Limit, ManagedDirectory,
    NotifyAccess, OpenFile, OpenMode, Output, Preserve, Resource,
};
pub use policy::{
    Canary, CommandList, CommandPolicy, ExitType, FailureMode, Handover, KillMode, Lists, Policy, Rate,
    Ready, Restart, RestartDelay, StartLimit, StartLimitAction, Type,
};
pub use socket::{Protocol, SocketCommands, SocketOptions, Timestamping};
pub use status::StatusSet;
pub use value::{Signal, Span};

/// The configuration of one instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The name of the service without `.service`: the default name of the instance.
    pub name: Option<String>,
    /// Description= of [Unit], shown in the log.
    pub description: Option<String>,
    /// The sockets in the order of their fds; the first is fd 3.
    pub listeners: Vec<Listener>,
    /// The options of the listeners that are being read; each [`Listener`] gets a copy.
    pub socket: SocketOptions,
    pub socket_commands: SocketCommands,
    pub launch: Launch,
    /// The request of Ready=http:, which `policy.ready` then is.
    pub health: Option<Health>,
    pub policy: Policy,
}

/// The request of Ready=http:.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The name of the socket; `None` means the first stream socket.
    pub socket: Option<String>,
    /// The path of the request; it begins with `/`.
    pub path: String,
}

impl Config {
    /// The defaults of the command line (docs/directives.md).
    pub fn for_command_line() -> Self {
        let units = Self::for_units();
        Self {
            // The command line has no RemoveOnStop=: paths that we made are removed.
            socket: SocketOptions { remove_on_stop: true, ..SocketOptions::new() },
            launch: Launch {
                directory: None,
                umask: None,
                stdin: Input::Null,
                stderr: Output::Ours,
                ignore_sigpipe: false,
                notify_access: NotifyAccess::All,
                ..units.launch
            },
            policy: Policy {
                restart: Restart::OnFailure,
                delay: RestartDelay { base: Span::from_millis(100), steps: 8, max: Span::from_secs(30) },
                start_limit: StartLimit { burst: 0, ..units.policy.start_limit },
                timeout_start: Span::from_secs(60),
                timeout_stop: Span::from_secs(8),
                kill_mode: KillMode::Mixed,
                no_restart_ends: true,
                // The command line has TriggerLimitBurst= as its only limit on starts by connections.
                poll_limit: Rate { burst: 0, ..units.policy.poll_limit },
                ..units.policy
            },
            ..units
        }
    }

    /// The defaults of unit files: systemd's own (systemd.service(5), systemd.exec(5), systemd.kill(5)).
    pub fn for_units() -> Self {
        Self {
            name: None,
            description: None,
            listeners: Vec::new(),
            socket: SocketOptions::new(),
            socket_commands: SocketCommands::default(),
            launch: Launch::for_units(),
            health: None,
            policy: Policy::for_units(),
        }
    }

    /// All commands with their keys, in the order in which they run.
    pub fn commands(&self) -> Vec<(String, &Exec)> {
        let service = [
            CommandList::Condition,
            CommandList::StartPre,
            CommandList::Start,
            CommandList::StartPost,
            CommandList::Reload,
            CommandList::Stop,
            CommandList::StopPost,
        ];
        let own = &self.socket_commands;
        let before = [("ExecStartPre", &own.start_pre), ("ExecStartPost", &own.start_post)];
        let after = [("ExecStopPre", &own.stop_pre), ("ExecStopPost", &own.stop_post)];
        let of_socket = |(key, execs): (&str, _)| {
            let execs: &Vec<Exec> = execs;
            execs.iter().map(|exec| (format!("[Socket] {key}"), exec)).collect::<Vec<_>>()
        };
        let of_service = service.into_iter().flat_map(|list| {
            self.launch.commands.list(list).iter().map(move |exec| (list.key().to_owned(), exec))
        });
        let before = before.into_iter().flat_map(of_socket);
        before.chain(of_service).chain(after.into_iter().flat_map(of_socket)).collect()
    }
}

/// Why a text was refused: where it stands, what is wrong with it, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The option or line: `--listen 8080=a:b`, `web.service:7`.
    pub place: String,
    pub cause: String,
    /// What to write instead; empty only where the cause says it already.
    pub remedy: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.cause)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, " ({})", self.remedy) }
    }
}

impl std::error::Error for Error {}

/// An [`Error`] whose place is not yet known: the parser of a value does not know who called it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub cause: String,
    pub remedy: String,
}

impl Problem {
    pub fn new(cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        // Both texts may quote what was typed, and a message must stay one line.
        let line = |text: String| if text.contains(char::is_control) { escape(text.chars()) } else { text };
        Self { cause: line(cause.into()), remedy: line(remedy.into()) }
    }

    pub fn at(self, place: impl Into<String>) -> Error {
        Error { place: place.into(), cause: self.cause, remedy: self.remedy }
    }
}

/// A message about a line that has no effect or not the one it seems to have; prints as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(pub Error);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// `text` for a one-line message: control characters escaped, cut after 200 characters.
pub fn printable(text: &str) -> String {
    let mut chars = text.chars();
    let mut out = escape(chars.by_ref().take(200));
    if chars.next().is_some() {
        out.push('…');
    }
    out
}

/// Words as a shell reads them back, cut after 200 characters.
pub fn typed(words: &[String]) -> String {
    printable(&quoted(words))
}

/// Words as a shell reads them back.
pub fn quoted(words: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:@%+,[]{}".contains(c);
    let quote = |word: &String| {
        let bare = !word.is_empty() && word.chars().all(plain);
        if bare { word.clone() } else { format!("'{}'", word.replace('\'', "'\\''")) }
    };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

fn escape(chars: impl Iterator<Item = char>) -> String {
    chars.fold(String::new(), |mut out, c| {
        if c.is_control() {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
        out
    })
}
