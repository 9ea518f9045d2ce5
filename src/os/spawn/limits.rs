//! Resource limits (setrlimit(2)): those of a child, and our own of open files.

use std::io;
use std::ptr;
use std::sync::OnceLock;

use libc::{c_long, c_uint};
use nix::errno::Errno;

use super::report::{ChildStep, Reported, StepReport};
use super::status::{ReportChannel, check, wish};
use crate::config::{Limit, Resource};

/// The soft limit of open files that we were started with, if we have raised it.
static OPEN_FILES: OnceLock<u64> = OnceLock::new();

/// The kernel's struct rlimit64, the same on every architecture; all ones is infinity.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Rlimit {
    pub(super) soft: u64,
    pub(super) hard: u64,
}

/// Every address takes several fds of ours, and those of a server have numbers that we must be able to use, too. Whatever
/// we start has the soft limit that we were started with, unless LimitNOFILE= says otherwise; only relays, which run on as
/// a part of us, keep ours.
///
/// # Errors
/// The errors of prlimit(2).
pub fn raise_open_files() -> io::Result<()> {
    let (result, before) = get(Resource::Nofile);
    Errno::result(result)?;
    if before.soft < before.hard {
        Errno::result(put(Resource::Nofile, Rlimit { soft: before.hard, ..before }))?;
        OPEN_FILES.get_or_init(|| before.soft);
    }
    Ok(())
}

/// The soft limit that we were started with, if we have raised it.
pub fn open_files() -> Option<u64> {
    OPEN_FILES.get().copied()
}

/// What the program before us has said of it.
pub fn remember_open_files(before: Option<u64>) {
    if let Some(before) = before {
        OPEN_FILES.get_or_init(|| before);
    }
}

/// What to do where we have no room for another open file. [`raise_open_files`] has done all that we can do ourselves.
pub fn more_open_files() -> String {
    let (_, limit) = get(Resource::Nofile);
    format!(
        "our hard limit of open files is {}; start us with a higher one: ulimit -Hn, or LimitNOFILE= of a unit",
        limit.hard
    )
}

/// The limits that a child is to have.
pub(super) fn all(limits: &[Limit]) -> Vec<(Resource, Rlimit)> {
    let or_infinity = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    let both = |limit: &Limit| Rlimit { soft: or_infinity(limit.soft), hard: or_infinity(limit.hard) };
    limits.iter().map(|limit| (limit.resource, both(limit))).collect()
}

const fn resource_number(resource: Resource) -> c_uint {
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

// The child runs the functions from here on as well.

/// Reads a limit of the calling process.
fn get(resource: Resource) -> (c_long, Rlimit) {
    let (mut limit, none) = (Rlimit { soft: 0, hard: 0 }, ptr::null::<Rlimit>());
    // SAFETY: a null new value; `limit` is a whole struct to write to.
    let result =
        unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource_number(resource), none, &raw mut limit) };
    (result, limit)
}

fn put(resource: Resource, limit: Rlimit) -> c_long {
    let none = ptr::null_mut::<Rlimit>();
    // SAFETY: `limit` is a whole struct to read; the old value is not asked for.
    unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource_number(resource), &raw const limit, none) }
}

/// Sets limits like systemd's setrlimit_closest(): where the hard limit may not be raised, the values are lowered to
/// it.
pub(super) fn set(status: &mut ReportChannel, limits: &[(Resource, Rlimit)]) -> Reported<()> {
    // This takes no lock. Somebody may have changed ours since (prlimit(1)), and to have less is always allowed.
    if let Some(soft) = OPEN_FILES.get()
        && let (0, ours) = get(Resource::Nofile)
    {
        check(ChildStep::Limit, put(Resource::Nofile, Rlimit { soft: ours.soft.min(*soft), ..ours }))?;
    }
    let mut detail = 0u32;
    for (resource, wanted) in limits {
        if let Err(report) = check(ChildStep::Limit, put(*resource, *wanted)) {
            wish(status, Err(StepReport { detail, ..report }))?;
            let (result, mut limit) = get(*resource);
            check(ChildStep::Limit, result)?;
            limit.hard = limit.hard.min(wanted.hard);
            limit.soft = limit.hard.min(wanted.soft);
            check(ChildStep::Limit, put(*resource, limit))?;
        }
        detail = detail.wrapping_add(1);
    }
    Ok(())
}
