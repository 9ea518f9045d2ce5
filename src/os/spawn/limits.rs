//! Resource limits (setrlimit(2)): those of a child, and our own of open files.

use std::io;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::OnceLock;

use libc::c_uint;
use nix::errno::Errno;

use super::failure::{Report, Step};
use super::{Outcome, check, wish};
use crate::config::{Limit, Resource};

/// The limit of open files that we were started with, if we have raised it.
static ORIGINAL: OnceLock<(Resource, Rlimit)> = OnceLock::new();

/// The kernel's struct rlimit64, the same on every architecture; all ones is infinity.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Rlimit {
    pub(super) soft: u64,
    pub(super) hard: u64,
}

fn rlimit(limit: &Limit) -> Rlimit {
    Rlimit { soft: limit.soft.unwrap_or(u64::MAX), hard: limit.hard.unwrap_or(u64::MAX) }
}

/// Every address takes several fds of ours, and those of a server have numbers that we must be able to use, too. Our
/// children get what we were started with, unless LimitNOFILE= says otherwise.
///
/// # Errors
/// Those of prlimit(2).
pub fn raise_open_files() -> io::Result<()> {
    let number = resource_number(Resource::Nofile);
    let (mut before, none) = (Rlimit { soft: 0, hard: 0 }, ptr::null_mut::<Rlimit>());
    // SAFETY: a null new value; `before` is a whole struct to write to.
    let result = unsafe { libc::syscall(libc::SYS_prlimit64, 0, number, none, &raw mut before) };
    Errno::result(result)?;
    if before.soft < before.hard {
        let raised = Rlimit { soft: before.hard, ..before };
        // SAFETY: `raised` is a whole struct; the old value is not asked for.
        Errno::result(unsafe { libc::syscall(libc::SYS_prlimit64, 0, number, &raw const raised, none) })?;
        ORIGINAL.get_or_init(|| (Resource::Nofile, before));
    }
    Ok(())
}

/// What a child is to have.
pub(super) fn all(limits: &[Limit]) -> Vec<(Resource, Rlimit)> {
    let mut all: Vec<_> = limits.iter().map(|limit| (limit.resource, rlimit(limit))).collect();
    let is_asked = |resource| limits.iter().any(|limit| limit.resource == resource);
    all.extend(ORIGINAL.get().filter(|(resource, _)| !is_asked(*resource)));
    all
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

// From here on: the child.

/// As systemd's setrlimit_closest(): where the hard limit may not be raised, what is below it is taken.
pub(super) fn set(status: RawFd, limits: &[(Resource, Rlimit)]) -> Outcome<()> {
    let none = ptr::null_mut::<Rlimit>();
    let mut detail = 0u32;
    for (resource, wanted) in limits {
        let number = resource_number(*resource);
        // SAFETY: `wanted` is a whole struct; the old value is not asked for.
        let result = unsafe { libc::syscall(libc::SYS_prlimit64, 0, number, ptr::from_ref(wanted), none) };
        if let Err(report) = check(Step::Limit, result) {
            wish(status, Err(Report { detail, ..report }))?;
            let mut limit = Rlimit { soft: 0, hard: 0 };
            // SAFETY: a null new value; `limit` is a whole struct to write to.
            check(Step::Limit, unsafe {
                libc::syscall(libc::SYS_prlimit64, 0, number, none, &raw mut limit)
            })?;
            limit.hard = limit.hard.min(wanted.hard);
            limit.soft = limit.hard.min(wanted.soft);
            // SAFETY: as the first call.
            check(Step::Limit, unsafe {
                libc::syscall(libc::SYS_prlimit64, 0, number, &raw const limit, none)
            })?;
        }
        detail = detail.wrapping_add(1);
    }
    Ok(())
}
