//! The filter of a server that binds for itself: bind(2) and listen(2) ask us, all else goes by.
//!
//! The kernel runs it once for each number of a system call and remembers those that always go by (Linux 5.11), which
//! takes a filter that looks at nothing but the number and the architecture.

use libc::sock_filter;

/// AUDIT_ARCH_* of <linux/audit.h>: numbers of system calls mean something else under another architecture that the
/// kernel can run as well.
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

/// Of struct seccomp_data.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;

/// None: this architecture is not known.
pub fn program() -> Option<Vec<sock_filter>> {
    let load = |at| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at);
    let answer = |action| statement(libc::BPF_RET | libc::BPF_K, action);
    Some(vec![
        load(NUMBER),
        equal(libc::SYS_bind as u32, 1, 0),
        equal(libc::SYS_listen as u32, 0, 3),
        load(ARCH),
        equal(ARCHITECTURE?, 0, 1),
        answer(libc::SECCOMP_RET_USER_NOTIF),
        answer(libc::SECCOMP_RET_ALLOW),
    ])
}

const fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Jumps over so many of the next instructions.
const fn equal(k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt, jf, k }
}
