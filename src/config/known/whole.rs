//! The complete command line of supervise under which a server works.

use crate::config::quoted;

/// The longest command line that a message shows.
const LONGEST: usize = 1000;

/// Options that may hold a secret; a command line with one of them is not logged.
const SECRET: &[&str] = &["-E", "--setenv", "Environment"];

/// A command line of supervise, in two parts.
#[derive(Clone, Copy)]
pub(super) struct Typed<'a> {
    /// The name of our program and its options.
    ours: &'a [String],
    /// The server's command, with its `{fd:NAME}` and the like unreplaced.
    pub(super) command: &'a [String],
}

impl<'a> Typed<'a> {
    /// Splits our own argv. `None` where it has not started `server`.
    pub(super) fn find(words: &'a [String], server: &[String]) -> Option<Self> {
        let (ours, command) = words.split_at(words.iter().position(|word| word == "--")?);
        let command = &command[1..];
        let is_it = |(typed, word): (&String, &String)| typed == word || typed.contains('{');
        let is_all = command.len() == server.len() && command.iter().zip(server).all(is_it);
        is_all.then_some(Self { ours, command })
    }

    /// Whether this option of supervise was typed.
    pub(super) fn has(&self, option: &str) -> bool {
        let is_it = |word: &String| {
            word.strip_prefix(option).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        };
        self.ours.iter().any(is_it)
    }

    /// The line with `more` options and another `command`; `None` if it may hold a secret or is too long.
    pub(super) fn with(&self, more: &[&str], command: &[String]) -> Option<String> {
        if self.ours.iter().any(|word| SECRET.iter().any(|secret| word.contains(secret))) {
            return None;
        }
        let more = more.iter().copied().chain(["--"]).map(str::to_owned);
        let line = quoted(&[self.ours, &more.collect::<Vec<_>>(), command].concat());
        (line.len() <= LONGEST && !line.contains(char::is_control)).then_some(line)
    }
}
