//! The system calls of seccomp_unotify(2): on the listener of a filter, and on the processes under it.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread;

use serde::{Deserialize, Serialize};

/// One system call that waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    pub id: u64,
    /// The calling thread by its number in our pid namespace; 0 if it has none.
    pub thread: u32,
    pub number: libc::c_long,
    pub args: [u64; 6],
}

/// Receives the next call. It blocks if there is none, so poll(2) first. ENOENT: the call was interrupted just now.
pub fn receive(listener: BorrowedFd<'_>) -> io::Result<Call> {
    let data = libc::seccomp_data { nr: 0, arch: 0, instruction_pointer: 0, args: [0; 6] };
    let mut notification = libc::seccomp_notif { id: 0, pid: 0, flags: 0, data };
    // SAFETY: the kernel wants this struct, zeroed, and fills it in; the borrow keeps the fd open.
    check(unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut notification)
    })?;
    let libc::seccomp_notif { id, pid, data, .. } = notification;
    Ok(Call { id, thread: pid, number: data.nr.into(), args: data.args })
}

/// Whether the call still waits, so that what was read by the thread's number belongs to that thread.
pub fn is_waiting(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: eight bytes to read; the borrow keeps the fd open.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) == 0 }
}

/// Lets the kernel carry the call out.
pub fn pass(listener: BorrowedFd<'_>, id: u64) -> io::Result<()> {
    send(listener, id, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32)
}

/// Makes the call return 0 without effect.
pub fn succeed(listener: BorrowedFd<'_>, id: u64) -> io::Result<()> {
    send(listener, id, 0)
}

fn send(listener: BorrowedFd<'_>, id: u64, flags: u32) -> io::Result<()> {
    let response = libc::seccomp_notif_resp { id, val: 0, error: 0, flags };
    // SAFETY: a whole struct to read (the kernel's ioctl is declared to write, but does not); the borrow keeps the fd open.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const response) })?;
    Ok(())
}

/// Replaces the caller's fd `target` by a copy of `source` (Linux 5.9). The calling thread does that itself, so this
/// takes as long as closing the old file takes.
pub fn replace(
    listener: BorrowedFd<'_>,
    id: u64,
    source: BorrowedFd<'_>,
    target: RawFd,
    close_on_exec: bool,
) -> io::Result<()> {
    let order = libc::seccomp_notif_addfd {
        id,
        flags: libc::SECCOMP_ADDFD_FLAG_SETFD as u32,
        srcfd: source.as_raw_fd() as u32,
        newfd: target as u32,
        newfd_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
    };
    // SAFETY: a whole struct to read; the borrows keep both fds open.
    check(unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw const order) })?;
    Ok(())
}

/// pidfd_getfd(2), Linux 5.6: a close-on-exec duplicate of an fd of another process. EPERM: we may not ptrace(2) it,
/// or a sandbox forbids the call (in containers without CAP_SYS_PTRACE).
pub fn take_fd(process: impl AsFd, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: plain integers; the borrow keeps the pidfd open.
    let fd = check(unsafe {
        libc::syscall(libc::SYS_pidfd_getfd, process.as_fd().as_raw_fd(), number, 0) as i32
    })?;
    // SAFETY: the kernel just made this fd for us, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The name of the protocol of the socket at this path of /proc/PID/fd, as in /proc/net/protocols: `TCP`, `UDPv6`,
/// `UNIX-STREAM`. Every socket has it as an extended attribute.
pub fn protocol(path: &Path) -> io::Result<String> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut value = [0u8; 32];
    // SAFETY: two C strings, and a buffer with its length.
    let length = unsafe {
        libc::getxattr(
            path.as_ptr(),
            c"system.sockprotoname".as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    let text = value[..length.min(value.len())].split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Adds `socket` to an epoll set of another process under the number that it has there, because the kernel identifies
/// it by both. It needs that number here for a moment, so a thread with its own fd table does this.
pub fn register(
    set: BorrowedFd<'_>,
    socket: BorrowedFd<'_>,
    number: RawFd,
    events: u32,
    data: u64,
) -> io::Result<()> {
    let (set, socket) = (set.as_raw_fd(), socket.as_raw_fd());
    let add = move || {
        // SAFETY: plain integers. From here on this thread has copies of all fds, which nobody else sees.
        check(unsafe { libc::unshare(libc::CLONE_FILES) })?;
        // SAFETY: plain integers, in this thread's own table, where nobody owns anything; it goes with the thread.
        let set = check(unsafe { libc::fcntl(set, libc::F_DUPFD_CLOEXEC, number.saturating_add(1)) })?;
        if socket != number {
            // SAFETY: as before; what had that number is still open in the other table.
            check(unsafe { libc::dup3(socket, number, libc::O_CLOEXEC) })?;
        }
        // Another thread of the server may keep its set locked for long, so no other fd of ours stays open here
        // meanwhile. If a sandbox forbids that, the fds stay open, and peers that wait for their end wait longer.
        for others in
            [0..number, number + 1..set, set + 1..RawFd::MAX].iter().filter(|range| !range.is_empty())
        {
            // SAFETY: plain integers, in this thread's own table.
            unsafe { libc::syscall(libc::SYS_close_range, others.start, others.end - 1, 0) };
        }
        let mut event = libc::epoll_event { events, u64: data };
        // SAFETY: a whole struct to read; both fds are open in this table, and closed with it.
        check(unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, number, &raw mut event) })
    };
    // The limits of the server may leave no thread.
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("register".to_owned()).spawn_scoped(scope, add)?;
        thread.join().map_err(|_| io::ErrorKind::Other)?
    })?;
    Ok(())
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
