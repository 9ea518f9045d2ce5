//! What is to be started: the program, its words, environment, fds and rights.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;

use super::{Environment, Value};
use crate::config::{Exec, Input, Launch, Limit, Search};
use crate::os::keeper::board::Cradle;
use crate::os::own;
use crate::os::users::Identity;

/// What execvp(3) of musl takes where PATH is not set.
const DEFAULT_PATH: &str = "/usr/local/bin:/bin:/usr/bin";

/// systemd's own search path, and the PATH of a process that inherits none.
pub const FIXED_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What becomes fd 0, 1 or 2 of the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The same stream of supervise itself.
    Ours,
    /// /dev/null
    Null,
    /// A duplicate of this fd of ours.
    Fd(RawFd),
}

impl Stream {
    pub(super) fn source(&mut self) -> Option<&mut RawFd> {
        if let Self::Fd(fd) = self { Some(fd) } else { None }
    }
}

/// Everything a process needs to be started.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program and its argv.
    pub path: OsString,
    pub words: Vec<OsString>,
    /// Where a program without a slash is looked for; `None` means PATH of the environment.
    pub search: Option<OsString>,
    /// The line of the command, `web.service:7`; `None` for COMMAND.
    pub place: Option<String>,
    pub environment: Environment,
    /// Become 3, 4, ... in the child. O_NONBLOCK is the caller's business: it belongs to the open file.
    pub fds: Vec<RawFd>,
    /// stdin, stdout, stderr
    pub stdio: [Stream; 3],
    /// Files that were opened for this start: open until it is done.
    pub files: Vec<Rc<OwnedFd>>,
    /// The directory of a cgroup2 that it is to start in; `None` is that of supervise.
    pub cgroup: Option<Rc<OwnedFd>>,
    /// The working directory; `None` is that of supervise.
    pub directory: Option<PathBuf>,
    pub identity: Identity,
    pub umask: Option<u32>,
    pub limits: Vec<Limit>,
    pub nice: Option<i32>,
    pub oom_score_adjust: Option<i32>,
    pub ignore_sigpipe: bool,
    /// Our pid, where it is to be killed with us.
    pub dies_with: Option<u32>,
    /// seccomp(2): what it is under, and its children; the listener comes back with the [`super::Child`].
    pub filter: Option<Vec<libc::sock_filter>>,
    /// Where the kernel is to write its pid and its pidfd for who goes on after us.
    pub cradle: Option<Cradle>,
}

impl Plan {
    /// What `launch` says, with the parts that were made for this start: the environment, and users looked up. The
    /// caller replaces words, adds fds, and whatever of stdin, stdout and stderr is not /dev/null or ours.
    pub fn new(launch: &Launch, exec: &Exec, environment: Environment, identity: Identity) -> Self {
        let search = match exec.search {
            _ if !launch.search_path.is_empty() => Some(joined(&launch.search_path)),
            Search::Fixed => Some(FIXED_PATH.into()),
            Search::Path => None,
        };
        let stdin = if launch.stdin == Input::Null { Stream::Null } else { Stream::Ours };
        Self {
            path: exec.path.clone(),
            words: exec.words.clone(),
            search,
            place: Some(exec.place.clone()).filter(|place| place != "COMMAND"),
            environment,
            fds: Vec::new(),
            stdio: [stdin, Stream::Ours, Stream::Ours],
            files: Vec::new(),
            cgroup: None,
            directory: None,
            identity,
            umask: launch.umask,
            limits: launch.limits.clone(),
            nice: launch.nice,
            oom_score_adjust: launch.oom_score_adjust,
            ignore_sigpipe: launch.ignore_sigpipe,
            dies_with: launch.die_with_us.then(own::pid),
            filter: None,
            cradle: None,
        }
    }

    /// Directories with colons between them.
    pub(super) fn search_path(&self) -> &OsStr {
        if let Some(search) = &self.search {
            return search;
        }
        match self.environment.get(OsStr::new("PATH")) {
            Some(Value::Text(path)) => path,
            Some(Value::OwnPid) | None => OsStr::new(DEFAULT_PATH),
        }
    }
}

/// The paths with colons between them, as the value of a variable.
pub fn joined(paths: &[PathBuf]) -> OsString {
    let texts: Vec<&OsStr> = paths.iter().map(|path| path.as_os_str()).collect();
    texts.join(OsStr::new(":"))
}

/// The paths for execve(2), in order (execvp(3)): a COMMAND with a slash as it is, others along the search
/// path, where an empty entry is the child's directory.
pub(super) fn candidates(plan: &Plan) -> Vec<PathBuf> {
    let command = &plan.path;
    if command.is_empty() {
        return Vec::new();
    }
    if command.as_bytes().contains(&b'/') {
        return vec![command.into()];
    }
    let directories = plan.search_path().as_bytes().split(|byte| *byte == b':');
    directories.map(|directory| PathBuf::from(OsStr::from_bytes(directory)).join(command)).collect()
}
