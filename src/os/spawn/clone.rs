//! clone3(2), which puts the child into a cgroup and clears its handlers; or clone(2), where it is not to be had: before
//! Linux 5.7, in a sandbox that forbids it, on other machines than x86_64 and aarch64.
//!
//! The C library offers no clone3(2) for a child that shares our memory, which needs a stack of its own from its first
//! instruction on; hence the few lines of assembly.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libc::{c_int, c_void};

use crate::os::keeper::board::Cradle;

/// clone3(2) with what we want of it was refused once: it will be again.
static IS_REFUSED: AtomicBool = AtomicBool::new(false);

/// clone3(2) has started a child before, so it works here.
static HAS_CLONED: AtomicBool = AtomicBool::new(false);

/// The signals that we ignore, a bit for each: all of them as long as nobody has looked.
static IGNORED: AtomicU64 = AtomicU64::new(EVERY_SIGNAL);
pub(super) const EVERY_SIGNAL: u64 = u64::MAX;

/// Memory for the child's stack, kept for the next start. The lock also keeps two threads off it (only tests have
/// two); the parent is suspended while the child is on it.
static STACK: Mutex<Option<Stack>> = Mutex::new(None);

struct Stack {
    /// The lowest address of the usable part, above the guard.
    base: *mut c_void,
}

// SAFETY: it is the address of a private mapping that belongs to nobody else and is never unmapped.
unsafe impl Send for Stack {}

impl Stack {
    const BYTES: usize = 64 << 10;
    /// At least one page on every machine (arm64 may have 64 KiB): an overrun faults and writes nowhere.
    const GUARD: usize = 64 << 10;

    fn map() -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        let size = Self::BYTES + Self::GUARD;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing we have.
        let mapped = unsafe { libc::mmap(ptr::null_mut(), size, libc::PROT_NONE, flags, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the offset lies in the mapping just made.
        let base = unsafe { mapped.byte_add(Self::GUARD) };
        // SAFETY: the rest of that mapping, which nobody uses yet.
        if unsafe { libc::mprotect(base, Self::BYTES, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { base })
    }
}

/// The stack of the child, as long as it is needed.
pub(super) struct Lent {
    base: *mut c_void,
    _lock: MutexGuard<'static, Option<Stack>>,
}

pub(super) fn stack() -> io::Result<Lent> {
    let mut stack = STACK.lock().unwrap_or_else(PoisonError::into_inner);
    let base = match &*stack {
        Some(stack) => stack.base,
        None => stack.insert(Stack::map()?).base,
    };
    Ok(Lent { base, _lock: stack })
}

/// What the child runs. It must not return.
pub(super) type ChildMain = extern "C" fn(*mut c_void) -> c_int;

/// A process that runs: its number, and the fd that stands for it.
pub(super) type Cloned = (i32, RawFd);

/// clone3(2) with a child that has no handlers, begins in the cgroup of this fd and finds its pid in `child_tid`. `flags`
/// are those of clone(2), without the signal. It returns `None` where it cannot be used, now or at all; the caller then uses
/// clone(2).
///
/// # Safety
/// As clone(2): `argument` is for `main`, which must not return, and shares our memory under CLONE_VM, so that
/// CLONE_VFORK has to be among the flags as well. `child_tid` must be valid as long.
pub(super) unsafe fn clone3(
    flags: c_int,
    cgroup: Option<RawFd>,
    child_tid: *mut i32,
    cradle: Option<Cradle>,
    stack: &Lent,
    main: ChildMain,
    argument: *mut c_void,
) -> Option<io::Result<Cloned>> {
    if IS_REFUSED.load(Relaxed) {
        return None;
    }
    let mut pidfd: RawFd = -1;
    let into = if cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 };
    let told = if cradle.is_some() { libc::CLONE_PARENT_SETTID } else { 0 };
    let room = cradle.map_or(&raw mut pidfd, |cradle| cradle.pidfd.as_ptr());
    let arguments = CloneArguments {
        flags: (flags | libc::CLONE_CHILD_SETTID | told) as u64 | CLONE_CLEAR_SIGHAND | into,
        child_tid: child_tid.expose_provenance() as u64,
        parent_tid: cradle.map_or(0, |cradle| cradle.pid.as_ptr().expose_provenance() as u64),
        pidfd: room.expose_provenance() as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.base.expose_provenance() as u64,
        stack_size: Stack::BYTES as u64,
        cgroup: cgroup.map_or(0, |fd| fd as u64),
        ..CloneArguments::default()
    };
    // SAFETY: the caller's promises; the stack is the child's alone under the lock that `stack` holds.
    let result = unsafe { call(&arguments, main, argument) };
    if result >= 0 {
        HAS_CLONED.store(true, Relaxed);
        if let Some(cradle) = cradle {
            pidfd = cradle.pidfd.load(Relaxed);
        }
        // The kernel limits pids to 22 bits.
        return Some(Ok((result as i32, pidfd)));
    }
    let errno = result.unsigned_abs() as i32;
    if matches!(errno, libc::EAGAIN | libc::ENOMEM) {
        return Some(Err(io::Error::from_raw_os_error(errno)));
    }
    IS_REFUSED.store(is_for_good(errno), Relaxed);
    log::debug!("cannot use clone3(2), so supervise uses clone(2): {}", io::Error::from_raw_os_error(errno));
    None
}

/// The kernel does not know the call (before 5.3), its flags (5.5, 5.7) or the length of its arguments; or a sandbox
/// forbids it, in older ones with EPERM. Any other errno is of the cgroup.
fn is_for_good(errno: i32) -> bool {
    matches!(errno, libc::ENOSYS | libc::EINVAL | libc::E2BIG | libc::EPERM)
}

/// The signals that may be ignored in a child of [`clone3`]. The first one resets them all, which is as fast as looking.
pub(super) fn ignored() -> u64 {
    IGNORED.load(Relaxed)
}

/// To be called when a process was started and nobody waits: looks which signals the next one has to reset. We change none
/// after that.
pub(super) fn learn_ignored() {
    if HAS_CLONED.load(Relaxed) && IGNORED.load(Relaxed) == EVERY_SIGNAL {
        IGNORED.store(ignored_now(), Relaxed);
    }
}

/// The signals that are ignored now, a bit for each. Raw, since the C library refuses those it uses itself.
fn ignored_now() -> u64 {
    let is_ignored = |signal: &c_int| {
        // The handler comes first here; more room than any kernel_sigaction takes.
        let mut action = [0usize; 8];
        let (none, set) = (ptr::null::<c_void>(), size_of::<u64>());
        // SAFETY: `action` is at least as large as what the kernel writes; nothing is changed.
        let result =
            unsafe { libc::syscall(libc::SYS_rt_sigaction, *signal, none, action.as_mut_ptr(), set) };
        result == 0 && action[0] == libc::SIG_IGN
    };
    (1..=64).filter(is_ignored).fold(0, |set, signal| set | 1 << (signal - 1))
}

/// clone(2): the child has our handlers and our cgroup.
///
/// # Safety
/// As [`clone3`].
pub(super) unsafe fn clone(
    flags: c_int,
    stack: &Lent,
    main: ChildMain,
    argument: *mut c_void,
) -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    // SAFETY: one past the end of the mapping; a page boundary, so it is aligned for any stack.
    let top = unsafe { stack.base.byte_add(Stack::BYTES) };
    // SAFETY: the caller's promises; the stack is the child's alone under the lock that `stack` holds.
    let pid = unsafe { libc::clone(main, top, flags | libc::SIGCHLD, argument, &raw mut pidfd) };
    if pid < 0 { Err(io::Error::last_os_error()) } else { Ok((pid, pidfd)) }
}

/// These two flags of <linux/sched.h> do not fit into those of clone(2).
const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// struct clone_args of <linux/sched.h>, as of Linux 5.7.
#[derive(Default)]
#[repr(C, align(8))]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// The pid, or an errno with a minus. The child goes from the call to `main` and never comes back: its stack is empty, and
/// of the registers only those matter that the kernel leaves alone.
#[cfg(target_arch = "x86_64")]
unsafe fn call(arguments: &CloneArguments, main: ChildMain, argument: *mut c_void) -> i64 {
    let result: i64;
    // SAFETY: syscall(2) changes rax, rcx and r11 and, for us, nothing else; the child is on its own stack, whose top is
    // aligned as a call wants it.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r8",
            "call rdx",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") ptr::from_ref(arguments),
            in("rsi") size_of::<CloneArguments>(),
            in("rdx") main,
            in("r8") argument,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

#[cfg(target_arch = "aarch64")]
unsafe fn call(arguments: &CloneArguments, main: ChildMain, argument: *mut c_void) -> i64 {
    let result: i64;
    // SAFETY: the kernel changes x0 and, for us, nothing else; the child is on its own stack, whose top is aligned as a
    // call wants it.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x3",
            "blr x2",
            "brk #1",
            "2:",
            in("x8") libc::SYS_clone3,
            inlateout("x0") ptr::from_ref(arguments) => result,
            in("x1") size_of::<CloneArguments>(),
            in("x2") main,
            in("x3") argument,
        );
    }
    result
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe fn call(_arguments: &CloneArguments, _main: ChildMain, _argument: *mut c_void) -> i64 {
    -i64::from(libc::ENOSYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_once_is_told_from_what_ails_a_cgroup() {
        assert!([libc::ENOSYS, libc::EPERM, libc::E2BIG, libc::EINVAL].into_iter().all(is_for_good));
        assert!(![libc::EACCES, libc::ENODEV, libc::EBUSY, libc::EOPNOTSUPP].into_iter().any(is_for_good));
    }
}
