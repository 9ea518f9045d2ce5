//! The seccomp filter of a server that binds for itself: bind(2) and listen(2) ask us, all other calls pass.
//!
//! The kernel evaluates it once for each system call number and caches those that always pass (Linux 5.11), which
//! requires a filter that looks only at the number and the architecture.

use libc::sock_filter;

use crate::os::host;

pub(super) const OLD_KERNEL: &str =
    "this kernel is older than Linux 5.9 (pass the sockets as LISTEN_FDS instead)";

/// AUDIT_ARCH_* of <linux/audit.h>: other architectures that the kernel can run have other call numbers.
const ARCHITECTURE: Option<u32> = if cfg!(target_arch = "x86_64") {
    Some(0xC000_003E)
} else if cfg!(target_arch = "aarch64") {
    Some(0xC000_00B7)
} else if cfg!(target_arch = "riscv64") {
    Some(0xC000_00F3)
} else if cfg!(target_arch = "loongarch64") {
    Some(0xC000_0102)
} else if cfg!(target_arch = "s390x") {
    Some(0x8000_0016)
} else if cfg!(target_arch = "arm") {
    Some(0x4000_0028)
} else {
    None
};

/// Offsets in struct seccomp_data (seccomp(2)).
const NUMBER: u32 = 0;
const ARCH: u32 = 4;

/// The program of the filter.
///
/// # Errors
/// Why this machine cannot have one.
pub fn program() -> Result<Vec<sock_filter>, &'static str> {
    let architecture = ARCHITECTURE.ok_or("this kind of machine is not known to it")?;
    if is_half_built(&host::specifier('v').unwrap_or_default()) {
        return Err(OLD_KERNEL);
    }
    let load = |at| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at);
    let answer = |action| statement(libc::BPF_RET | libc::BPF_K, action);
    Ok(vec![
        load(NUMBER),
        equal(libc::SYS_bind as u32, 1, 0),
        equal(libc::SYS_listen as u32, 0, 3),
        load(ARCH),
        equal(architecture, 0, 1),
        answer(libc::SECCOMP_RET_USER_NOTIF),
        answer(libc::SECCOMP_RET_ALLOW),
    ])
}

/// These kernels have listeners, but cannot let a call pass (Linux 5.5) or replace an fd (5.9).
fn is_half_built(release: &str) -> bool {
    (0..=8).any(|minor| release.starts_with(&format!("5.{minor}.")))
}

const fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// An instruction that skips `jt` instructions if the value is `k`, and `jf` if not.
const fn equal(k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_linux_5_what_comes_before_9_is_refused() {
        for release in ["5.0.0", "5.4.0-216-generic", "5.8.18"] {
            assert!(is_half_built(release), "{release}");
        }
        for release in ["5.9.0", "5.10.0-8-amd64", "5.15.0", "6.1.0", "4.18.0-553.el8.x86_64", "15.4.0", ""] {
            assert!(!is_half_built(release), "{release}");
        }
    }
}
