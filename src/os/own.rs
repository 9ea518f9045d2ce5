//! Who we are: our pid and our credentials, asked of the kernel once. supervise changes neither; what it starts does, in
//! its own process.

#![allow(unsafe_code)]

use std::process;
use std::sync::OnceLock;

/// Our pid. A process that was forked has that of its parent here.
pub fn pid() -> u32 {
    static PID: OnceLock<u32> = OnceLock::new();
    *PID.get_or_init(process::id)
}

/// An id of the auxiliary vector, which the kernel has handed over at execve(2) (getauxval(3)).
fn at_execve(key: libc::c_ulong) -> u32 {
    // SAFETY: it reads what the C library has kept; ids are of 32 bits.
    (unsafe { libc::getauxval(key) }) as u32
}

/// The real user id.
pub fn uid() -> u32 {
    at_execve(libc::AT_UID)
}

/// The effective user id.
pub fn euid() -> u32 {
    at_execve(libc::AT_EUID)
}

/// The real group id.
pub fn gid() -> u32 {
    at_execve(libc::AT_GID)
}

/// The effective group id.
pub fn egid() -> u32 {
    at_execve(libc::AT_EGID)
}

#[cfg(test)]
mod tests {
    use nix::unistd;

    use super::*;

    #[test]
    fn the_kernel_says_the_same_at_execve_and_now() {
        assert_eq!(pid(), process::id());
        let ids = [unistd::getuid().as_raw(), unistd::geteuid().as_raw()];
        assert_eq!([uid(), euid()], ids);
        assert_eq!([gid(), egid()], [unistd::getgid().as_raw(), unistd::getegid().as_raw()]);
    }
}
