//! Everything that can be made of a plan before the fork, where allocating is still allowed.

#![forbid(unsafe_code)]

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;

use super::Value;
use super::failure;
use super::limits::{self, Rlimit};
use super::plan::{Plan, Stream, candidates};
use crate::config::Resource;
use crate::core::{Stage, StartFailure};
use crate::os::proc;
use crate::os::sys;

/// Owns what the child's pointers point to.
pub(super) struct Prepared {
    pub(super) candidates: Vec<CString>,
    pub(super) words: Vec<CString>,
    /// `NAME=VALUE` with its NUL; OwnPid values are room for the digits.
    pub(super) variables: Vec<(Vec<u8>, bool)>,
    pub(super) directory: Option<CString>,
    pub(super) oom_score: Option<String>,
    pub(super) fds: Vec<RawFd>,
    pub(super) stdio: [Stream; 3],
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
        Ok(Self {
            candidates: strings(candidates(plan).iter().map(|path| path.as_os_str()))?,
            words: strings(plan.words.iter().map(OsString::as_os_str))?,
            variables: variables?,
            directory: strings(plan.directory.iter().map(|path| path.as_os_str()))?.pop(),
            oom_score: plan.oom_score_adjust.map(|score| score.to_string()),
            fds: plan.fds.clone(),
            stdio: plan.stdio,
            ours: if sys::can_mark_ranges() { None } else { Some(our_fds()?) },
            limits: limits::all(&plan.limits),
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
    let list = proc::numbers("/proc/self/fd");
    Ok(list.map_err(|error| failure::resources("read /proc/self/fd", &error))?.collect())
}
