//! The whole command line of ours under which a server works.

use crate::config::quoted;

/// The longest line that is said as a whole.
const LONGEST: usize = 1000;

/// Options that may hold a secret, which belongs into no log.
const SECRET: &[&str] = &["-E", "--setenv", "Environment"];

/// How a server was started.
#[derive(Clone, Copy)]
pub(super) struct Typed<'a> {
    /// Our own name and options.
    ours: &'a [String],
    /// Its command, with its `{fd:NAME}` and the like.
    pub(super) command: &'a [String],
}

impl<'a> Typed<'a> {
    /// `words` are those that we were started with. None: they are not what has started `server`.
    pub(super) fn find(words: &'a [String], server: &[String]) -> Option<Self> {
        let (ours, command) = words.split_at(words.iter().position(|word| word == "--")?);
        let command = &command[1..];
        let is_it = |(typed, word): (&String, &String)| typed == word || typed.contains('{');
        let is_all = command.len() == server.len() && command.iter().zip(server).all(is_it);
        is_all.then_some(Self { ours, command })
    }

    /// Whether this option of ours was typed.
    pub(super) fn has(&self, option: &str) -> bool {
        let is_it = |word: &String| {
            word.strip_prefix(option).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        };
        self.ours.iter().any(is_it)
    }

    /// The line with `more` options and with `command` in the place of its own. None: it may hold a secret, or is too long
    /// to be said as a whole.
    pub(super) fn with(&self, more: &[&str], command: &[String]) -> Option<String> {
        if self.ours.iter().any(|word| SECRET.iter().any(|secret| word.contains(secret))) {
            return None;
        }
        let more = more.iter().copied().chain(["--"]).map(str::to_owned);
        let line = quoted(&[self.ours, &more.collect::<Vec<_>>(), command].concat());
        (line.len() <= LONGEST && !line.contains(char::is_control)).then_some(line)
    }
}
