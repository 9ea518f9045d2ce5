//! From a [`Plan`] to a running process: one clone(2), with everything prepared before it.
//!
//! Between clone and execve(2) the child does raw system calls only: nothing allocates, takes a lock or can panic.
//! It has no handlers, or all signals are blocked across it, so that none runs in it. The parent is suspended meanwhile
//! (CLONE_VFORK), thus when it goes on, the child runs its program or has failed, and has said which (`status`). The
//! price: a directory on a dead network mount holds everything up. posix_spawn(3) would be the same, but knows no pidfd, no
//! credentials, no limits, and loses the place of an error.

#![allow(unsafe_code)]

mod clone;
mod environment;
mod failure;
mod filter;
mod limits;
mod plan;
mod prepared;
mod report;
mod status;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use libc::{c_char, c_int, c_long, c_uint, c_void};

pub use environment::{Additions, Environment, Value, build_environment};
pub use failure::missing_program;
use limits::Rlimit;
pub use limits::{more_open_files, open_files, raise_open_files, remember_open_files};
pub use plan::{FIXED_PATH, Plan, Stream, joined};
use prepared::{PID_ROOM, Prepared};
use report::{ChildStep, Reported, StepReport};
use status::{ReportChannel, check, errno, wish};

use super::sys;
use super::users::Identity;
use crate::config::{Config, Exec, Resource, Signal};
use crate::core::StartFailure;

// The unsuffixed calls of the old 32-bit ABIs cut ids to 16 bits.
#[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
use libc::{SYS_setgroups as SETGROUPS, SYS_setresgid as SETRESGID, SYS_setresuid as SETRESUID};
#[cfg(any(target_arch = "x86", target_arch = "arm"))]
use libc::{SYS_setgroups32 as SETGROUPS, SYS_setresgid32 as SETRESGID, SYS_setresuid32 as SETRESUID};

/// The first fd of the protocol (SD_LISTEN_FDS_START of sd_listen_fds(3)).
const FIRST_FD: RawFd = 3;
/// The size of a signal set in the kernel, in bytes.
const KERNEL_SIGSET: usize = 8;

/// A process that runs its program and leads its own process group, whose number is its pid.
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    /// The pidfd of `pid`, close-on-exec.
    pub pidfd: OwnedFd,
    /// Wishes that could not be granted (limits, Nice=, OOMScoreAdjust=): sentences to warn with.
    pub shortfalls: Vec<String>,
    /// It is in the cgroup of the plan.
    pub in_cgroup: bool,
    /// The listener of the plan's filter, or why it could not be installed; the process then runs without it.
    pub listener: Option<io::Result<OwnedFd>>,
}

/// Starts the process. Returns as soon as its execve(2) has succeeded or something before it has failed; a child that
/// failed is reaped. A child killed from outside on its way counts as started: its exit tells the rest.
pub fn spawn(plan: &Plan) -> Result<Child, StartFailure> {
    let (status, pipe) = ReportChannel::new(plan.identity.changes_credentials())
        .map_err(|error| failure::resources("make a pipe", &error))?;
    let mut prepared = Prepared::new(plan)?;
    let channel = plan.filter.as_ref().map(|_| filter::channel()).transpose()?;
    let hand_over = channel.as_ref().map_or(-1, |(_, theirs)| theirs.as_raw_fd());
    let mut armed = prepared.arm(plan, status, hand_over);
    let result = armed.clone_child();
    let status = armed.status;
    let (pid, pidfd, in_cgroup) = result.map_err(|error| failure::resources("start a process", &error))?;
    let reports = status
        .read(pipe)
        .map_err(|error| failure::resources("read the status of the new process", &error))?;
    let mut shortfalls = Vec::new();
    let received = channel.map(|(ours, _)| filter::receive(&ours));
    let mut refused = None;
    for report in reports {
        if report.step == ChildStep::Filter {
            refused = Some(io::Error::from_raw_os_error(report.errno));
        } else if report.step.is_a_wish(report.errno) {
            shortfalls.push(failure::shortfall(plan, report));
        } else {
            sys::wait_for(&pidfd).map_err(|error| failure::resources("reap the new process", &error))?;
            return Err(failure::describe(plan, report));
        }
    }
    let listener = match (refused, received) {
        (Some(why), _) => Some(Err(why)),
        (None, Some(Ok(listener))) => Some(Ok(listener)),
        (None, None) => None,
        (None, Some(Err(error))) => {
            // Its calls of bind(2) would never be answered: we have no fd left for the listener, or it was killed
            // meanwhile.
            let killed = sys::pidfd_send_signal(pidfd.as_fd(), Some(Signal::KILL));
            killed
                .and_then(|()| sys::wait_for(&pidfd))
                .map_err(|error| failure::resources("end it", &error))?;
            return Err(failure::resources("receive the listener of its filter", &error));
        }
    };
    Ok(Child { pid, pidfd, shortfalls, in_cgroup, listener })
}

/// Why `words` could not be executed in our place: the sentence with the remedy.
pub fn not_executed(words: &[OsString], errno: i32) -> String {
    let launch = Config::for_command_line().launch;
    let environment = std::env::vars_os().map(|(name, value)| (name, Value::Text(value))).collect();
    let plan = Plan::new(&launch, &Exec::plain(words.to_vec()), environment, Identity::default());
    failure::describe(&plan, StepReport { step: ChildStep::Exec, errno, detail: 0 }).what
}

impl Prepared {
    fn arm<'a>(&'a mut self, plan: &'a Plan, status: ReportChannel, channel: RawFd) -> Armed<'a> {
        let mut pid_rooms = Vec::new();
        let mut envp = Vec::with_capacity(self.variables.len() + 1);
        for (bytes, own_pid) in &mut self.variables {
            let length = bytes.len();
            let start = bytes.as_mut_ptr();
            if *own_pid {
                // The pid is written into the last PID_ROOM bytes, which `variable` has added.
                pid_rooms.push(start.wrapping_add(length - PID_ROOM));
            }
            envp.push(start.cast::<c_char>().cast_const());
        }
        envp.push(ptr::null());
        let mut argv: Vec<_> = self.words.iter().map(|word| word.as_ptr()).collect();
        argv.push(ptr::null());
        Armed {
            plan,
            candidates: self.candidates.iter().map(|path| path.as_ptr()).collect(),
            argv,
            envp,
            pid_rooms,
            directory: self.directory.as_ref().map(|path| path.as_ptr()),
            oom_score: self.oom_score.as_deref(),
            fds: &mut self.fds,
            stdio: &mut self.stdio,
            ours: self.ours.as_deref(),
            limits: &self.limits,
            status,
            channel,
            may_act: clone::EVERY_SIGNAL,
            pid: 0,
        }
    }
}

/// What the child reads. Pointers into a [`Prepared`], which outlives it.
struct Armed<'a> {
    plan: &'a Plan,
    candidates: Vec<*const c_char>,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    pid_rooms: Vec<*mut u8>,
    directory: Option<*const c_char>,
    oom_score: Option<&'a str>,
    /// Numbers that the child changes as it moves them away from 3...
    fds: &'a mut [RawFd],
    stdio: &'a mut [Stream; 3],
    ours: Option<&'a [RawFd]>,
    limits: &'a [(Resource, Rlimit)],
    status: ReportChannel,
    /// Where the listener of the filter goes; -1 without one.
    channel: RawFd,
    /// The signals that may have another action than the default one, a bit for each.
    may_act: u64,
    /// The child's own pid, which clone3(2) writes here.
    pid: i32,
}

impl Armed<'_> {
    /// Its pid and pidfd, and whether it is in the cgroup of the plan.
    fn clone_child(&mut self) -> io::Result<(i32, OwnedFd, bool)> {
        // Sharing our memory saves copying the page tables. Not when credentials change: the kernel then marks the
        // memory, hence also us, as not dumpable (/proc/self becomes root's), and a child that belongs to another user
        // must not have a stack in our memory that this user could write to by ptrace(2).
        let share = if self.status.has_a_copy() { 0 } else { libc::CLONE_VM };
        let flags = share | libc::CLONE_VFORK | libc::CLONE_PIDFD;
        let cgroup = self.plan.cgroup.as_ref().map(|directory| directory.as_raw_fd());
        let stack = clone::stack()?;
        self.may_act = clone::ignored();
        let child_tid = &raw mut self.pid;
        let argument = ptr::from_mut(self).cast::<c_void>();
        // SAFETY: `child_main` does not return into our frames; its stack is lent to it until it has exec'd or ended, which
        // CLONE_VFORK waits for; so long `self` lives and this thread does not touch it. Without CLONE_SIGHAND and
        // CLONE_FILES it changes no action or fd of ours.
        let cloned = unsafe {
            clone::clone3(flags, cgroup, child_tid, self.plan.cradle, &stack, child_main, argument)
        };
        let in_cgroup = cgroup.is_some() && cloned.is_some();
        let (pid, pidfd) = match cloned {
            Some(result) => result?,
            None => {
                let mut before = 0u64;
                // The child has our handlers, and none may run in it: all signals are blocked, also those the C library
                // keeps for itself and strips from its own calls.
                set_mask(&u64::MAX, Some(&mut before))?;
                self.may_act = clone::EVERY_SIGNAL;
                let argument = ptr::from_mut(self).cast::<c_void>();
                // SAFETY: as above.
                let result = unsafe { clone::clone(flags, &stack, child_main, argument) };
                set_mask(&before, None)?;
                result?
            }
        };
        clone::learn_ignored();
        // SAFETY: CLONE_PIDFD (Linux 5.2) stored a new fd there that nobody else owns.
        Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }, in_cgroup))
    }
}

/// rt_sigprocmask(2), raw: the C library's leaves out the signals it uses itself.
fn set_mask(mask: &u64, before: Option<&mut u64>) -> io::Result<()> {
    let before = before.map_or(ptr::null_mut(), ptr::from_mut);
    // SAFETY: both point to the eight bytes of a kernel signal set, or are null.
    let result = unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, ptr::from_ref(mask), before, KERNEL_SIGSET)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

// From here on: the child. No allocation, no lock, no panic, no call into anything that may do these.

extern "C" fn child_main(argument: *mut c_void) -> c_int {
    // SAFETY: `clone_child` passes its own `Armed`, which lives and is left alone while it is suspended.
    let armed = unsafe { &mut *argument.cast::<Armed<'_>>() };
    let Err(report) = prepare_and_exec(armed);
    armed.status.tell(report);
    // SAFETY: ends the child without running anything of ours.
    unsafe { libc::_exit(127) }
}

/// The order matters: fds first, while limits allow them; what needs our rights before they are given away; the
/// directory and the program with the rights of the user; the mask last, when no handler of ours is left.
fn prepare_and_exec(armed: &mut Armed<'_>) -> Reported<Infallible> {
    // SAFETY: plain integers. Here alone, since the parent goes on only after execve(2), when it may no longer do it.
    check(ChildStep::ProcessGroup, unsafe { libc::syscall(libc::SYS_setpgid, 0, 0) })?;
    pass_fds(armed)?;
    set_stdio(armed.stdio)?;
    let keep = FIRST_FD.wrapping_add(armed.fds.len() as RawFd);
    mark_the_rest(armed, keep)?;
    if let Some(filter) = &armed.plan.filter {
        wish(&mut armed.status, filter::install(filter, armed.channel))?;
    }
    oom_score(armed)?;
    if let Some(nice) = armed.plan.nice {
        // SAFETY: plain integers; 0 is the calling process.
        let result = unsafe { libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, nice) };
        wish(&mut armed.status, check(ChildStep::Nice, result))?;
    }
    if let Some(umask) = armed.plan.umask {
        // SAFETY: a plain integer; it cannot fail.
        unsafe { libc::syscall(libc::SYS_umask, umask) };
    }
    limits::set(&mut armed.status, armed.limits)?;
    change_identity(&armed.plan.identity)?;
    if let Some(directory) = armed.directory {
        // SAFETY: a C string of `Prepared`.
        check(ChildStep::Directory, unsafe { libc::syscall(libc::SYS_chdir, directory) })?;
    }
    reset_signals(armed.may_act, armed.plan.ignore_sigpipe)?;
    if let Some(parent) = armed.plan.dies_with {
        die_with(parent)?;
    }
    if armed.pid == 0 {
        // SAFETY: takes nothing, cannot fail; the kernel limits pids to 22 bits.
        armed.pid = unsafe { libc::syscall(libc::SYS_getpid) } as i32;
    }
    for room in &armed.pid_rooms {
        write_pid(*room, armed.pid);
    }
    if set_mask(&0, None).is_err() {
        return Err(StepReport { step: ChildStep::Signals, errno: errno(), detail: 0 });
    }
    execute(armed)
}

/// The kernel sends SIGKILL when our parent ends. A change of credentials takes that back, so it comes after that one.
fn die_with(parent: u32) -> Reported<()> {
    // SAFETY: plain integers.
    let asked = unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
    check(ChildStep::Signals, asked)?;
    // SAFETY: takes nothing, cannot fail.
    let now = unsafe { libc::syscall(libc::SYS_getppid) };
    // It may have ended before.
    if now == c_long::from(parent) {
        Ok(())
    } else {
        Err(StepReport { step: ChildStep::Signals, errno: libc::ESRCH, detail: 0 })
    }
}

/// Moves all above the target range first, since a source may sit on another one's target; then down. A source is then
/// never its own target, so dup3(2) always makes a new fd without close-on-exec.
fn pass_fds(armed: &mut Armed<'_>) -> Reported<()> {
    let above = FIRST_FD.wrapping_add(armed.fds.len() as RawFd);
    let stdio = armed.stdio.iter_mut().filter_map(Stream::source);
    for fd in armed
        .fds
        .iter_mut()
        .chain(stdio)
        .chain([&mut armed.status.pipe, &mut armed.channel])
        .filter(|fd| (0..above).contains(&**fd))
    {
        // SAFETY: plain integers; a bad fd is EBADF.
        *fd = check(ChildStep::Descriptors, unsafe { libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, above) }.into())?
            as RawFd;
    }
    let mut target = FIRST_FD;
    for fd in armed.fds.iter() {
        // SAFETY: plain integers; what `target` was is closed, which was a copy in the child's own table.
        check(ChildStep::Descriptors, unsafe { libc::syscall(libc::SYS_dup3, *fd, target, 0) })?;
        target = target.wrapping_add(1);
    }
    Ok(())
}

/// After `pass_fds`, which has moved the sources above all that is written to here.
fn set_stdio(stdio: &[Stream; 3]) -> Reported<()> {
    for (target, (stream, step)) in
        (0..).zip(stdio.iter().zip([ChildStep::Stdin, ChildStep::Stdout, ChildStep::Stderr]))
    {
        match *stream {
            Stream::Ours => {}
            Stream::Null => null(target, step)?,
            Stream::Fd(fd) => {
                // SAFETY: plain integers; the two differ.
                check(step, unsafe { libc::syscall(libc::SYS_dup3, fd, target, 0) })?;
            }
        }
    }
    Ok(())
}

/// Without O_CLOEXEC, so that it stays if it becomes the target at once; `mark_the_rest` takes care of the original.
fn null(target: RawFd, step: ChildStep) -> Reported<()> {
    let path = c"/dev/null".as_ptr();
    let flags = if target == 0 { libc::O_RDONLY } else { libc::O_WRONLY };
    // SAFETY: a constant C string.
    let fd = check(step, unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, 0) })?;
    if fd != c_long::from(target) {
        // SAFETY: plain integers; the two differ.
        check(step, unsafe { libc::syscall(libc::SYS_dup3, fd, target, 0) })?;
    }
    Ok(())
}

/// Nothing of ours leaks, also what our own parent forgot to close: every fd from `first` on goes at execve(2). Marked
/// and not closed, because the status pipe is one of them.
fn mark_the_rest(armed: &Armed<'_>, first: RawFd) -> Reported<()> {
    let Some(ours) = armed.ours else {
        let (first, last, flags) = (first as c_uint, c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
        // SAFETY: plain integers.
        check(ChildStep::Descriptors, unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) })?;
        return Ok(());
    };
    for fd in ours.iter().filter(|fd| **fd >= first) {
        // SAFETY: plain integers. EBADF is the fd of the directory listing itself, closed since.
        unsafe { libc::fcntl(*fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

fn oom_score(armed: &mut Armed<'_>) -> Reported<()> {
    let Some(text) = armed.oom_score else { return Ok(()) };
    let (path, flags) = (c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
    // SAFETY: a constant C string.
    let opened = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, 0) };
    let result = check(ChildStep::OomScore, opened).and_then(|fd| {
        // SAFETY: the bytes of a live string with their length.
        check(ChildStep::OomScore, unsafe { libc::syscall(libc::SYS_write, fd, text.as_ptr(), text.len()) })
    });
    wish(&mut armed.status, result)
}

/// Raw calls: the C library's change every thread of the process, by signals, and with CLONE_VM it would take ours
/// for them. Groups first, the user last: each needs the rights that the next one gives away.
fn change_identity(identity: &Identity) -> Reported<()> {
    if let Some(groups) = &identity.groups {
        // SAFETY: the numbers of a live vector with their count.
        check(ChildStep::Groups, unsafe { libc::syscall(SETGROUPS, groups.len(), groups.as_ptr()) })?;
    }
    if let Some(gid) = identity.gid {
        // SAFETY: plain integers.
        check(ChildStep::Gid, unsafe { libc::syscall(SETRESGID, gid, gid, gid) })?;
    }
    if let Some(uid) = identity.uid {
        // SAFETY: plain integers.
        check(ChildStep::Uid, unsafe { libc::syscall(SETRESUID, uid, uid, uid) })?;
    }
    Ok(())
}

/// execve(2) resets handlers but keeps SIG_IGN: of ours (SIGPIPE), and of nohup. Handlers go as well, before
/// the mask does. Raw, since the C library refuses the signals it uses itself.
fn reset_signals(may_act: u64, ignore_sigpipe: bool) -> Reported<()> {
    // All zero is SIG_DFL without flags or mask on every architecture; more room than any kernel_sigaction takes.
    let default = [0u64; 8];
    let none = ptr::null_mut::<c_void>();
    for signal in (1..=64).filter(|signal| may_act >> (signal - 1) & 1 == 1) {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP || (signal == libc::SIGPIPE && ignore_sigpipe) {
            continue;
        }
        // SAFETY: `default` is at least as large as what the kernel reads; the old action is not asked for.
        let result =
            unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, KERNEL_SIGSET) };
        check(ChildStep::Signals, result)?;
    }
    if ignore_sigpipe {
        // SAFETY: SIG_IGN is no handler. signal(3) is async-signal-safe, and SIGPIPE is nobody's own signal.
        if unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) } == libc::SIG_ERR {
            return Err(StepReport { step: ChildStep::Signals, errno: errno(), detail: 0 });
        }
    }
    Ok(())
}

fn write_pid(room: *mut u8, pid: i32) {
    let mut rest = pid;
    let mut digits = 1usize;
    let mut power = rest / 10;
    while power > 0 {
        power /= 10;
        digits = digits.wrapping_add(1);
    }
    while digits > 0 {
        digits = digits.wrapping_sub(1);
        // SAFETY: a pid_t has ten digits at most, and the room is PID_ROOM = 11 bytes, the rest zero.
        unsafe { room.add(digits).write(b'0'.wrapping_add((rest % 10) as u8)) };
        rest /= 10;
    }
}

/// The rules of execvp(3), but a file that is no program is an error and never handed to sh.
fn execute(armed: &Armed<'_>) -> Reported<Infallible> {
    let mut found = libc::ENOENT;
    for path in &armed.candidates {
        // SAFETY: C strings and null-terminated arrays of them, all of `Prepared`.
        unsafe { libc::execve(*path, armed.argv.as_ptr(), armed.envp.as_ptr()) };
        match errno() {
            // One path only, no search: the reason is its own.
            errno if armed.candidates.len() == 1 => found = errno,
            libc::EACCES => found = libc::EACCES,
            libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
            errno => return Err(StepReport { step: ChildStep::Exec, errno, detail: 0 }),
        }
    }
    Err(StepReport { step: ChildStep::Exec, errno: found, detail: 0 })
}
