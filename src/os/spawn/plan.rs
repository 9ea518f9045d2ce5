//! What is to be started, and everything that can be made of it before the fork, where allocating is still allowed.

#![forbid(unsafe_code)]

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use libc::c_uint;

use super::failure;
use super::{Environment, Value};
use crate::config::{Exec, Input, Launch, Limit, Resource};
use crate::core::{Stage, StartFailure};
use crate::os::sys;
use crate::os::users::Identity;

/// What execvp(3) of musl takes where PATH is not set.
const DEFAULT_PATH: &str = "/usr/local/bin:/bin:/usr/bin";

/// Everything a process needs to be started.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program and its argv.
    pub path: OsString,
    pub words: Vec<OsString>,
    pub environment: Environment,
    /// Become 3, 4, ... in the child. O_NONBLOCK is the caller's business: it belongs to the open file.
    pub fds: Vec<RawFd>,
    /// None: ours.
    pub directory: Option<PathBuf>,
    pub identity: Identity,
    pub umask: Option<u32>,
    pub stdin: Input,
    pub limits: Vec<Limit>,
    pub nice: Option<i32>,
    pub oom_score_adjust: Option<i32>,
    pub ignore_sigpipe: bool,
}

impl Plan {
    /// What `launch` says, with the parts that were made for this start: words with their placeholders replaced,
    /// the environment, and users looked up.
    pub fn new(launch: &Launch, exec: &Exec, environment: Environment, identity: Identity) -> Self {
        Self {
            path: exec.path.clone(),
            words: exec.words.clone(),
            environment,
            fds: Vec::new(),
            directory: None,
            identity,
            umask: launch.umask,
            stdin: launch.stdin.clone(),
            limits: launch.limits.clone(),
            nice: launch.nice,
            oom_score_adjust: launch.oom_score_adjust,
            ignore_sigpipe: launch.ignore_sigpipe,
        }
    }

    /// PATH as the child has it.
    pub(super) fn search_path(&self) -> &OsStr {
        match self.environment.get(OsStr::new("PATH")) {
            Some(Value::Text(path)) => path,
            Some(Value::OwnPid) | None => OsStr::new(DEFAULT_PATH),
        }
    }
}

/// The paths for execve(2), in order (execvp(3)): a COMMAND with a slash as it is, others along the child's own PATH,
/// where an empty entry is the child's directory.
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

/// Owns what the child's pointers point to.
pub(super) struct Prepared {
    pub(super) candidates: Vec<CString>,
    pub(super) words: Vec<CString>,
    /// `NAME=VALUE` with its NUL; OwnPid values are room for the digits.
    pub(super) variables: Vec<(Vec<u8>, bool)>,
    pub(super) directory: Option<CString>,
    pub(super) oom_score: Option<String>,
    pub(super) fds: Vec<RawFd>,
    /// Fds to be marked close-on-exec one by one; None where close_range(2) does it.
    pub(super) ours: Option<Vec<RawFd>>,
    pub(super) limits: Vec<(Resource, Rlimit)>,
}

/// The digits of any pid, and the NUL.
pub(super) const PID_ROOM: usize = 11;

impl Prepared {
    pub(super) fn new(plan: &Plan) -> Result<Self, StartFailure> {
        let variables =
            plan.environment.iter().map(|(name, value)| variable(name, value)).collect::<Result<_, _>>();
        let limits = plan.limits.iter().map(|limit| (limit.resource, rlimit(limit))).collect();
        Ok(Self {
            candidates: strings(candidates(plan).iter().map(|path| path.as_os_str()))?,
            words: strings(plan.words.iter().map(OsString::as_os_str))?,
            variables: variables?,
            directory: strings(plan.directory.iter().map(|path| path.as_os_str()))?.pop(),
            oom_score: plan.oom_score_adjust.map(|score| score.to_string()),
            fds: plan.fds.clone(),
            ours: if sys::can_mark_ranges() { None } else { Some(our_fds()?) },
            limits,
        })
    }
}

fn strings<'a>(texts: impl Iterator<Item = &'a OsStr>) -> Result<Vec<CString>, StartFailure> {
    texts.map(|text| CString::new(text.as_bytes()).map_err(|_| nul(text))).collect()
}

fn variable(name: &OsStr, value: &Value) -> Result<(Vec<u8>, bool), StartFailure> {
    let mut bytes = [name.as_bytes(), b"="].concat();
    if let Value::Text(value) = value {
        bytes.extend(value.as_bytes());
    }
    if bytes.contains(&0) {
        return Err(nul(name));
    }
    let own_pid = *value == Value::OwnPid;
    bytes.resize(bytes.len() + if own_pid { PID_ROOM } else { 1 }, 0);
    Ok((bytes, own_pid))
}

fn nul(text: &OsStr) -> StartFailure {
    let what = format!("cannot pass on {text:?}: it contains a NUL character");
    StartFailure { stage: Stage::Setup, errno: libc::EINVAL, what }
}

pub(super) fn our_fds() -> Result<Vec<RawFd>, StartFailure> {
    let list =
        fs::read_dir("/proc/self/fd").map_err(|error| failure::resources("read /proc/self/fd", &error))?;
    Ok(list.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// The kernel's struct rlimit64, the same on every architecture; all ones is infinity.
#[repr(C)]
pub(super) struct Rlimit {
    pub(super) soft: u64,
    pub(super) hard: u64,
}

fn rlimit(limit: &Limit) -> Rlimit {
    Rlimit { soft: limit.soft.unwrap_or(u64::MAX), hard: limit.hard.unwrap_or(u64::MAX) }
}

pub(super) const fn resource_number(resource: Resource) -> c_uint {
    let number = match resource {
        Resource::Cpu => libc::RLIMIT_CPU,
        Resource::Fsize => libc::RLIMIT_FSIZE,
        Resource::Data => libc::RLIMIT_DATA,
        Resource::Stack => libc::RLIMIT_STACK,
        Resource::Core => libc::RLIMIT_CORE,
        Resource::Rss => libc::RLIMIT_RSS,
        Resource::Nofile => libc::RLIMIT_NOFILE,
        Resource::As => libc::RLIMIT_AS,
        Resource::Nproc => libc::RLIMIT_NPROC,
        Resource::Memlock => libc::RLIMIT_MEMLOCK,
        Resource::Locks => libc::RLIMIT_LOCKS,
        Resource::Sigpending => libc::RLIMIT_SIGPENDING,
        Resource::Msgqueue => libc::RLIMIT_MSGQUEUE,
        Resource::Nice => libc::RLIMIT_NICE,
        Resource::Rtprio => libc::RLIMIT_RTPRIO,
        Resource::Rttime => libc::RLIMIT_RTTIME,
    };
    number as c_uint
}
