//! The type [`Exec`], one command to run: its program, argv, prefixes, and where its program is looked for.

use std::ffi::OsString;

use serde::{Deserialize, Serialize};

/// One command (systemd.service(5), Command Lines).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exec {
    /// The program: a path if it has a slash, else a name that is looked for as `search` says.
    pub path: OsString,
    /// argv. Its first word is `path`, or with the prefix `@` another name.
    pub words: Vec<OsString>,
    /// The prefix `-`: a failure of this command is ignored (systemd.service(5), ExecStart=).
    pub ignore_failure: bool,
    /// Whether `$VAR` and `${VAR}` are replaced at execution: not on the command line, nor with the prefix `:`.
    pub expands: bool,
    pub privileges: Privileges,
    /// Where a program without a slash is looked for, unless ExecSearchPath= says it.
    pub search: Search,
    /// The line that asked for it, for messages: `web.service:7`.
    pub place: String,
}

/// The user that a command runs as (the prefixes `+`, `!` and `!!`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Privileges {
    /// User=, Group= and all that depends on them apply.
    User,
    /// The user of supervise. `+`, `!` and `!!` all mean this, as there is no sandbox to tell them apart.
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Search {
    /// PATH of the new process, for COMMAND of the command line.
    Path,
    /// The fixed path of systemd: /usr/local/sbin, /usr/local/bin, /usr/sbin, /usr/bin (and /sbin, /bin if separate).
    Fixed,
}

impl Exec {
    /// COMMAND of the command line, its words unchanged.
    pub fn plain(words: Vec<OsString>) -> Self {
        Self {
            path: words.first().cloned().unwrap_or_default(),
            words,
            ignore_failure: false,
            expands: false,
            privileges: Privileges::User,
            search: Search::Path,
            place: "COMMAND".to_owned(),
        }
    }
}
