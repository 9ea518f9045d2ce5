//! One command: a program, its words, and with which rights and where it is looked for.

use std::ffi::OsString;

/// One command (systemd.service(5), Command Lines).
#[derive(Clone, Debug, PartialEq)]
pub struct Exec {
    /// The program. With a slash: this file. Without: looked for in ExecSearchPath=, else along [`Exec::path`].
    pub path: OsString,
    /// argv; its first word is `path`, or another name with the prefix `@`.
    pub words: Vec<OsString>,
    /// Prefix `-`: a failure of this command counts for nothing (systemd.service(5), ExecStart=).
    pub ignore_failure: bool,
    /// `$VAR` and `${VAR}` are replaced when it is executed; not with the prefix `:`, nor on the command line.
    pub expands: bool,
    pub privileges: Privileges,
    /// Where a program without a slash is looked for.
    pub search: Search,
    /// Where it was asked for, for messages: `web.service:7`.
    pub place: String,
}

/// The prefixes `+`, `!` and `!!`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privileges {
    /// User=, Group= and the rest apply.
    User,
    /// Not those: `+`, `!` and `!!`, which mean the same without a sandbox.
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// PATH of the new process: COMMAND of the command line.
    Path,
    /// systemd's own: /usr/local/sbin, /usr/local/bin, /usr/sbin, /usr/bin (and /sbin, /bin where they are apart).
    Fixed,
}

impl Exec {
    /// COMMAND of the command line: its words as they are.
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
