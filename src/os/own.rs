//! Who we are: our pid and our credentials, asked of the kernel once. supervise changes neither; what it starts does, in
//! its own process.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process;
use std::sync::OnceLock;

use nix::unistd::{getegid, geteuid, getgid, getuid};

use super::sys;

/// What the kernel appends to the path of a program whose file was removed or replaced (proc_pid_exe(5)).
const REPLACED: &[u8] = b" (deleted)";

/// The path of our program, where a newer one may be by now: as execve(2) got it, or, where that was no path of a file
/// (an fd, /proc/self/exe), as the kernel shows it.
///
/// # Errors
/// A sentence: nothing tells the path.
pub fn program() -> Result<PathBuf, String> {
    let given =
        sys::executed_path().filter(|path| !path.starts_with("/proc") && !path.starts_with("/dev/fd"));
    let path = match given {
        Some(path) => std::path::absolute(path),
        None => std::fs::read_link("/proc/self/exe").map(without_mark),
    };
    path.map_err(|error| format!("the path of our own program is unknown: {error}"))
}

fn without_mark(path: PathBuf) -> PathBuf {
    match path.as_os_str().as_bytes().strip_suffix(REPLACED) {
        Some(path) => OsString::from_vec(path.to_vec()).into(),
        None => path,
    }
}

/// The process that supervise was started as, where we have been forked from it (--detach).
static FORKED_FROM: OnceLock<u32> = OnceLock::new();

/// To be called once, in a process that --detach has made, with the pid of its parent.
pub fn forked_from(parent: u32) {
    FORKED_FROM.get_or_init(|| parent);
}

/// Whether --detach has made this process.
pub fn is_detached() -> bool {
    FORKED_FROM.get().is_some()
}

/// The pid that supervise was started as, which LISTEN_PID names.
pub fn started_as() -> u32 {
    FORKED_FROM.get().copied().unwrap_or_else(pid)
}

/// Our pid. A process that was forked has that of its parent here.
pub fn pid() -> u32 {
    static PID: OnceLock<u32> = OnceLock::new();
    *PID.get_or_init(process::id)
}

/// The real user id.
pub fn uid() -> u32 {
    static UID: OnceLock<u32> = OnceLock::new();
    *UID.get_or_init(|| getuid().as_raw())
}

/// The effective user id.
pub fn euid() -> u32 {
    static EUID: OnceLock<u32> = OnceLock::new();
    *EUID.get_or_init(|| geteuid().as_raw())
}

/// The real group id.
pub fn gid() -> u32 {
    static GID: OnceLock<u32> = OnceLock::new();
    *GID.get_or_init(|| getgid().as_raw())
}

/// The effective group id.
pub fn egid() -> u32 {
    static EGID: OnceLock<u32> = OnceLock::new();
    *EGID.get_or_init(|| getegid().as_raw())
}
