//! Safe functions for system calls that nix lacks or cannot express: pidfds, signals by number, signal actions
//! without a handler, some socket options. (nix's `Signal` knows no real-time ones, and its `waitid` loses a child
//! that one of them killed.)

#![allow(unsafe_code)]

pub mod attribute;
pub mod left;
pub mod memory;
mod options;
pub mod seccomp;

use std::ffi::{CStr, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr;
use std::sync::OnceLock;

use nix::sys::signal::SigSet;
use nix::sys::socket::SockaddrStorage;

use crate::config::Signal;
use crate::core::Exit;
pub use options::{
    OptionBytes, copy_option, drops, int_option, is_same_option, option, set_int_option, set_non_blocking,
    socket_buffers, tcp_listen_queue,
};

/// PIDFD_SIGNAL_PROCESS_GROUP of <linux/pidfd.h>, Linux 6.9.
const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;

/// From <asm-generic/socket.h>; the libc crate has it for Android alone.
const SO_ATTACH_REUSEPORT_CBPF: libc::c_int = 51;

/// A child that has ended, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waited {
    pub pid: i32,
    pub exit: Exit,
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The fds of an SCM_RIGHTS message (unix(7)), which the kernel has just put into our table. `data` must come from a
/// control buffer that recvmsg(2) filled, and be read only once.
pub fn received_fds(data: &[u8]) -> Vec<OwnedFd> {
    let numbers = data.as_chunks::<4>().0.iter().map(|bytes| RawFd::from_ne_bytes(*bytes));
    // SAFETY: new in our table, and nobody else knows these numbers yet.
    numbers.map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect()
}

/// Whether two fds share one open file description (kcmp(2)). Where a sandbox forbids kcmp(2), sockets are compared
/// by inode, which is unique; other files, which may be opened more than once, are taken to differ.
pub fn is_same_file(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    const KCMP_FILE: libc::c_int = 0;
    let pid = std::process::id();
    // SAFETY: plain integers.
    let order =
        unsafe { libc::syscall(libc::SYS_kcmp, pid, pid, KCMP_FILE, one.as_raw_fd(), other.as_raw_fd()) };
    if order >= 0 { order == 0 } else { is_same_socket(one, other) }
}

fn is_same_socket(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let (Ok(one), Ok(other)) = (nix::sys::stat::fstat(one), nix::sys::stat::fstat(other)) else {
        return false;
    };
    one.st_mode & libc::S_IFMT == libc::S_IFSOCK && (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// pidfd_open(2), Linux 5.3. The fd is close-on-exec. ESRCH: there is no such process.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: two plain integers; the call touches no memory of ours.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel just made this fd for us, nobody else owns it; fd numbers fit in an i32.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// pidfd_send_signal(2), Linux 5.1, to the process alone. `None` is signal 0, which only checks that it exists.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: Option<Signal>) -> io::Result<()> {
    send(pidfd, signal, 0)
}

/// The same to the process group the process leads or led. EINVAL before Linux 6.9.
pub fn pidfd_send_signal_to_group(pidfd: BorrowedFd<'_>, signal: Option<Signal>) -> io::Result<()> {
    send(pidfd, signal, PIDFD_SIGNAL_PROCESS_GROUP)
}

fn send(pidfd: BorrowedFd<'_>, signal: Option<Signal>, flags: libc::c_uint) -> io::Result<()> {
    let info = ptr::null::<libc::siginfo_t>();
    // SAFETY: the fd is borrowed, hence open; a null siginfo asks the kernel to fill it in as kill(2) does.
    check(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), number(signal), info, flags)
    })?;
    Ok(())
}

/// kill(2) with any signal number; `pid` means what it means there (-1: everyone, -n: group n).
pub fn kill(pid: i32, signal: Option<Signal>) -> io::Result<()> {
    // SAFETY: two plain integers; the call touches no memory of ours.
    check(unsafe { libc::kill(pid, number(signal)) }.into())?;
    Ok(())
}

fn number(signal: Option<Signal>) -> libc::c_int {
    signal.map_or(0, Signal::number)
}

/// waitid(P_ALL, WEXITED|WNOHANG): the next child that has ended, if any. ECHILD: we have no child at all.
pub fn wait_any() -> io::Result<Option<Waited>> {
    waitid(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG)
}

/// A child that has ended, without reaping it. ECHILD: we have no child at all.
pub fn ended_child() -> io::Result<Option<i32>> {
    let waited = waitid(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)?;
    Ok(waited.map(|waited| waited.pid))
}

/// Whether we have a child of any kind, zombies included, by one call instead of eight reads of /proc.
pub fn has_children() -> io::Result<bool> {
    match ended_child() {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether one of our children has not ended. Asked for stopped children, waitid(2) ignores zombies.
pub fn has_living_children() -> bool {
    let asked = waitid(libc::P_ALL, 0, libc::WSTOPPED | libc::WNOHANG | libc::WNOWAIT);
    !asked.is_err_and(|error| error.raw_os_error() == Some(libc::ECHILD))
}

/// Waits until this child, not yet reaped, has ended. P_PIDFD needs Linux 5.4.
pub fn wait_for(pidfd: impl AsFd) -> io::Result<Waited> {
    let fd = pidfd.as_fd().as_raw_fd();
    waitid(libc::P_PIDFD, fd as libc::id_t, libc::WEXITED)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Waits for such a child, which was sent SIGKILL.
pub fn reap_clone_soon(pidfd: BorrowedFd<'_>) {
    let _reaped = waitid(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t, libc::WEXITED | libc::__WCLONE);
}

/// Reaps a child whose end sends no signal (`__WCLONE` of wait4(2)); `false` if it has not ended.
pub fn reap_clone(pidfd: BorrowedFd<'_>) -> bool {
    const WCLONE: libc::c_int = libc::__WCLONE;
    let flags = libc::WEXITED | libc::WNOHANG | WCLONE;
    let waited = waitid(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t, flags);
    // ECHILD: it was reaped.
    waited.map_or(true, |waited| waited.is_some())
}

fn waitid(kind: libc::idtype_t, id: libc::id_t, flags: libc::c_int) -> io::Result<Option<Waited>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    loop {
        // SAFETY: `info` is a whole siginfo_t to write to.
        let result = unsafe { libc::waitid(kind, id, info.as_mut_ptr(), flags) };
        if result == 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    // SAFETY: all bytes were zeroed, and every field of siginfo_t is an integer for which zero is a value.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid(2) fills in the SIGCHLD members, or leaves si_pid zero when no child has ended.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let exit = match (info.si_code, Signal::from_number(status)) {
        (libc::CLD_KILLED, Some(signal)) => Exit::Signal { signal, core: false },
        (libc::CLD_DUMPED, Some(signal)) => Exit::Signal { signal, core: true },
        // This is CLD_EXITED; exit(2) hands over the low eight bits only.
        _ => Exit::Code((status & 0xff) as u8),
    };
    Ok(Some(Waited { pid, exit }))
}

/// Signal actions without a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    Default,
    Ignore,
}

/// Sets the action of a signal for the whole process.
pub fn set_disposition(signal: Signal, disposition: Disposition) -> io::Result<()> {
    // SAFETY: a zeroed sigaction is a valid one: SIG_DFL, no flags, an empty mask.
    let mut action = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
    action.sa_sigaction = match disposition {
        Disposition::Default => libc::SIG_DFL,
        Disposition::Ignore => libc::SIG_IGN,
    };
    // SAFETY: `action` lives through the call and names no handler; the old action is not asked for.
    check(unsafe { libc::sigaction(signal.number(), &action, ptr::null_mut()) }.into())?;
    Ok(())
}

/// Gives SIGALRM a handler that only makes a blocking call fail with EINTR (no SA_RESTART), and unblocks it. Only a
/// relay calls this; in the supervisor no handler of ours ever runs.
pub fn let_alarms_interrupt() -> io::Result<()> {
    extern "C" fn nothing(_signal: libc::c_int) {}
    // SAFETY: a zeroed sigaction is a valid one: no flags, an empty mask.
    let mut action = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: `action` lives through the call; its handler has the type that sa_flags without SA_SIGINFO asks for,
    // and touches nothing.
    check(unsafe { libc::sigaction(libc::SIGALRM, &action, ptr::null_mut()) }.into())?;
    Ok(signal_set(Signal::from_number(libc::SIGALRM)).thread_unblock()?)
}

/// Whether the signal is ignored; at start this is what the parent (nohup, a shell) has set.
pub fn is_ignored(signal: Signal) -> io::Result<bool> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: a null new action changes nothing; `action` is a whole sigaction to write to.
    check(unsafe { libc::sigaction(signal.number(), ptr::null(), action.as_mut_ptr()) }.into())?;
    // SAFETY: zeroed, then filled in by the call that succeeded.
    Ok(unsafe { action.assume_init() }.sa_sigaction == libc::SIG_IGN)
}

/// A set of any signal numbers; those that the C library reserves (32, 33, musl also 34) are left out.
pub fn signal_set(signals: impl IntoIterator<Item = Signal>) -> SigSet {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: sigemptyset(3) initialises the set it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in signals {
        // SAFETY: the set was initialised above; a number it refuses (EINVAL) leaves it as it was.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal.number()) };
    }
    // SAFETY: initialised by sigemptyset(3) above.
    unsafe { SigSet::from_sigset_t_unchecked(set.assume_init()) }
}

/// Whether close_range(2) with CLOSE_RANGE_CLOEXEC works: Linux 5.11, and no sandbox that forbids it. Asked once.
pub fn can_mark_ranges() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    let (last, flags) = (libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: plain integers; no process can have a fd of this number, so nothing is marked.
    *CAN.get_or_init(|| unsafe { libc::syscall(libc::SYS_close_range, last, last, flags) == 0 })
}

/// Closes all fds but 0, 1 and 2 by close_range(2) (Linux 5.9). To be called at the very beginning of a program, when
/// all other fds are inherited and have no owner.
pub fn close_inherited() -> io::Result<()> {
    // SAFETY: plain integers; by contract nobody in this process owns a fd of this range.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// setsockopt(2) with SO_ATTACH_REUSEPORT_CBPF (socket(7), Linux 4.5), on any member for its whole group. EINVAL: not bound
/// with SO_REUSEPORT. EPERM: SO_LOCK_FILTER is set on this member.
pub fn attach_reuseport_program(socket: impl AsFd, program: &[libc::sock_filter]) -> io::Result<()> {
    attach(socket, SO_ATTACH_REUSEPORT_CBPF, program)
}

/// SO_ATTACH_FILTER: packets for which the program returns 0 are dropped. EPERM: SO_LOCK_FILTER is set.
pub fn attach_filter(socket: impl AsFd, program: &[libc::sock_filter]) -> io::Result<()> {
    attach(socket, libc::SO_ATTACH_FILTER, program)
}

fn attach(socket: impl AsFd, name: libc::c_int, program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_ptr().cast_mut(),
    };
    let length = size_of_val(&program) as libc::socklen_t;
    // SAFETY: `program` is readable for `length` bytes and points to `len` instructions, which the kernel only copies;
    // both outlive the call, and the borrow keeps the fd open.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            (&raw const program).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// socket(2) with SOCK_CLOEXEC and any protocol number; nix has neither UDP-Lite nor MPTCP.
pub fn socket(family: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: plain integers; the call touches no memory of ours.
    let fd = check(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) }.into())?;
    // SAFETY: the kernel just made this fd for us, nobody else owns it; fd numbers fit in an i32.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// accept4(2) of a non-blocking, close-on-exec connection. EINTR is an error.
pub fn accept(socket: impl AsFd) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: null pointers ask for no address; the borrow keeps the fd open.
    let fd = check(
        unsafe { libc::accept4(socket.as_fd().as_raw_fd(), ptr::null_mut(), ptr::null_mut(), flags) }.into(),
    )?;
    // SAFETY: the kernel just made this fd for us, nobody else owns it; fd numbers fit in an i32.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// listen(2) with any backlog: nix refuses those above the C library's SOMAXCONN (128 with musl), while the kernel's
/// own limit is net.core.somaxconn.
pub fn listen(socket: impl AsFd, backlog: u32) -> io::Result<()> {
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    // SAFETY: listen(2) takes no pointers, and the borrow keeps the fd open.
    let result = unsafe { libc::listen(socket.as_fd().as_raw_fd(), backlog) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The IP address and port; `None` for another family.
pub fn inet_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
}

/// A close-on-exec duplicate of an inherited fd, known by its number. Fails with EBADF where nothing is open.
pub fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl(2) with F_DUPFD_CLOEXEC takes no pointers; a number that is not open is EBADF.
    let new = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if new < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this fd for us; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// Makes these files fd 3, 4, ... for the program that we are about to execute; other fds of these numbers are closed.
pub fn pass_on(files: Vec<OwnedFd>) -> io::Result<()> {
    const FIRST: RawFd = 3;
    let above = FIRST.saturating_add(files.len().try_into().unwrap_or(RawFd::MAX));
    let mut copies = Vec::new();
    for file in files {
        // SAFETY: fcntl(2) with F_DUPFD_CLOEXEC takes no pointers.
        let new = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_DUPFD_CLOEXEC, above) };
        if new < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made this fd for us; nothing else owns it.
        copies.push(unsafe { OwnedFd::from_raw_fd(new) });
    }
    for (number, copy) in (FIRST..).zip(&copies) {
        // SAFETY: plain integers. No fd of ours is below `above`: `files` is closed, and the copies are above.
        if unsafe { libc::dup2(copy.as_raw_fd(), number) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The path that execve(2) got for this program (AT_EXECFN of getauxval(3)).
pub fn executed_path() -> Option<PathBuf> {
    // SAFETY: plain integers.
    let address = unsafe { libc::getauxval(libc::AT_EXECFN) };
    if address == 0 {
        return None;
    }
    // SAFETY: the kernel has put a C string there, above our stack, where it stays.
    let path = unsafe { CStr::from_ptr(ptr::with_exposed_provenance(address as usize)) };
    Some(OsStr::from_bytes(path.to_bytes()).into())
}

/// What a status of wait(2) says.
pub fn exit_of(status: i32) -> Exit {
    match Signal::from_number(status & 0x7f) {
        Some(signal) => Exit::Signal { signal, core: status & 0x80 != 0 },
        None => Exit::Code(((status >> 8) & 0xff) as u8),
    }
}

/// The status of a process that was reaped (PIDFD_GET_INFO of ioctl_pidfd(2), Linux 6.15).
pub fn pidfd_exit(pidfd: &OwnedFd) -> Option<i32> {
    /// struct pidfd_info of <linux/pidfd.h>, as of Linux 6.13; `ids` are pids and credentials.
    #[repr(C)]
    #[derive(Default)]
    struct PidfdInfo {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit: i32,
    }
    const WITH_EXIT: u64 = 1 << 3;
    // _IOWR(0xff, 11, struct pidfd_info)
    const GET_INFO: libc::c_ulong =
        (3 << 30) | ((size_of::<PidfdInfo>() as libc::c_ulong) << 16) | (0xff << 8) | 11;
    let mut info = PidfdInfo { mask: WITH_EXIT, ..PidfdInfo::default() };
    // SAFETY: the request says how long the struct is, which lives through the call; the borrow keeps the fd open.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO as _, &raw mut info) };
    (result == 0 && info.mask & WITH_EXIT != 0).then_some(info.exit)
}

/// Sets close-on-exec on an fd known by its number. Fails with EBADF where nothing is open.
pub fn close_on_exec(number: RawFd) -> io::Result<()> {
    set_close_on_exec(number, true)
}

/// The same, or clears it.
pub fn set_close_on_exec(number: RawFd, on: bool) -> io::Result<()> {
    let flag = if on { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: fcntl(2) with F_SETFD takes no pointers; a number that is not open is EBADF.
    let result = unsafe { libc::fcntl(number, libc::F_SETFD, flag) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;

    /// Runs a test body in a process of its own, where nobody else's children, signals or actions are: the first call
    /// runs this test binary again for the one test of that name. All signals are blocked in all its threads from the
    /// start: one to the process must not find a thread of the harness that would be ended by it.
    pub(crate) fn alone(name: &str, body: impl FnOnce()) {
        const MARK: &str = "TEST_ALONE";
        if std::env::var_os(MARK).is_some() {
            return body();
        }
        let mut command = Command::new(std::env::current_exe().expect("our own path"));
        command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(MARK, "1");
        // SAFETY: sigprocmask(2) may be called between fork and exec.
        unsafe { command.pre_exec(|| Ok(SigSet::all().thread_block()?)) };
        let output = command.output().expect("the test binary runs");
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{}: {text}", output.status);
    }

    /// dup2(2) onto a number that nothing in this process needs; the copy stays open and is not close-on-exec.
    pub(crate) fn place(source: RawFd, number: RawFd) {
        // SAFETY: plain integers; the caller promises that nobody owns the number.
        assert_eq!(unsafe { libc::dup2(source, number) }, number);
    }

    /// Asks until there is an answer, for ten seconds.
    pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "waited in vain: {what}");
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    #[test]
    fn a_socket_is_known_by_its_inode_and_a_file_is_not() {
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(is_same_socket(one.as_fd(), one.try_clone().unwrap().as_fd()));
        assert!(!is_same_socket(one.as_fd(), other.as_fd()));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(!is_same_socket(file.as_fd(), file.try_clone().unwrap().as_fd()));
    }

    #[test]
    fn a_set_holds_real_time_signals() {
        let numbers = [1, 15, libc::SIGRTMIN(), 64];
        let set = signal_set(numbers.into_iter().filter_map(Signal::from_number));
        // SAFETY: only reads the set it is given.
        let members = (1..=64).filter(|number| unsafe { libc::sigismember(set.as_ref(), *number) } == 1);
        assert_eq!(members.collect::<Vec<_>>(), numbers);
    }
}
