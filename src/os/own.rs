//! Who we are: our pid and our credentials, asked of the kernel once. supervise changes neither; what it starts does, in
//! its own process.

use std::process;
use std::sync::OnceLock;

use nix::unistd::{getegid, geteuid, getgid, getuid};

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
