//! The keeper: a process of ours that does nothing as long as we live. When we end otherwise than by our own will (SIGKILL, the
//! OOM killer, a panic) it executes our program again, with all our fds and the state that was saved last: no socket is
//! closed, and what waits in its queue stays.
//!
//! It shares our table of fds (CLONE_FILES), so that whatever we open is kept open by it without a word, and has a copy
//! of our memory of the time when it was made, of which it lets go all but a few pages. It waits for our end on a pidfd, in a session of its
//! own, with all signals blocked, and makes system calls alone: it may have been made while other threads held locks.
//!
//! What is saved is in files in memory (memfd_create(2)): `setting` changes seldom, `state` at each step. Of each there are
//! two, and one word in a shared page says which are whole ([`Board`]): a state is written beside the last one, and counts
//! when it is complete.

#![allow(unsafe_code)]

pub mod board;
mod kit;

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::ptr;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::begin::take_variable;
use super::own;
use super::sys;
use super::sys::left::LeftFds;
use crate::config::Signal;
use board::Board;
use kit::{Kit, PID_DIGITS};

/// The variable by which our program finds what it is to go on from: our pid and the numbers of the files.
pub const VARIABLE: &str = "SUPERVISE_KEPT";

/// The name of its process, as ps(1) shows it.
const NAME: &std::ffi::CStr = c"supervise-keep";

/// How many fds it reads of a list at once.
const AT_ONCE: usize = 256;

/// The files, and the process if it lives.
#[derive(Debug)]
pub struct Keeper {
    pub board: Board,
    states: [File; 2],
    settings: [File; 2],
    /// Ourselves.
    us: OwnedFd,
    /// The process, if it lives: its pid and its pidfd.
    process: Option<(i32, OwnedFd)>,
}

impl Keeper {
    /// Without the process, which [`Self::start`] makes.
    ///
    /// # Errors
    /// Those of memfd_create(2), mmap(2) and pidfd_open(2).
    pub fn new() -> io::Result<Self> {
        let file = |name| Ok::<_, io::Error>(File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?));
        Ok(Self {
            board: Board::new(file(c"supervise-board")?)?,
            states: [file(c"supervise-state")?, file(c"supervise-state")?],
            settings: [file(c"supervise-setting")?, file(c"supervise-setting")?],
            us: sys::pidfd_open(own::pid().cast_signed())?,
            process: None,
        })
    }

    /// Saves the state, with the fds that have to stay open for it, and the setting where it is a new one.
    ///
    /// # Errors
    /// Those of write(2): no memory is left. What was saved before counts then.
    pub fn save(&self, fds: &[RawFd], state: &[u8], setting: Option<&[u8]>) -> io::Result<()> {
        let (state_at, setting_at) = self.board.which();
        let setting_at = match setting {
            None => setting_at,
            Some(text) => {
                replace(&self.settings[1 - setting_at], &[], text)?;
                1 - setting_at
            }
        };
        replace(&self.states[1 - state_at], fds, state)?;
        self.board.turn_to(1 - state_at, setting_at);
        Ok(())
    }

    /// Whether the process has ended; then it is reaped.
    pub fn reap(&mut self) -> bool {
        self.process.take_if(|(_, pidfd)| sys::reap_clone(pidfd.as_fd())).is_some()
    }

    pub fn pid(&self) -> Option<i32> {
        self.process.as_ref().map(|(pid, _)| *pid)
    }

    fn numbers(&self) -> [RawFd; 5] {
        let [one, other] = self.states.each_ref().map(AsRawFd::as_raw_fd);
        let [first, second] = self.settings.each_ref().map(AsRawFd::as_raw_fd);
        [self.board.as_raw_fd(), one, other, first, second]
    }

    /// Makes the process, and returns the pidfd that tells its end. To those who wait for our children it is none: its end
    /// sends no signal, and they go on to see when the last of the others is gone.
    ///
    /// # Errors
    /// Those of clone(2), and an environment that cannot be passed on.
    pub fn start(&mut self) -> io::Result<BorrowedFd<'_>> {
        let (memory, kit) = kit::make(self.us.as_raw_fd(), self.numbers(), self.board.page)?;
        let mut pidfd: RawFd = -1;
        let flags = libc::CLONE_FILES | libc::CLONE_PIDFD;
        // SAFETY: as fork(2), with one table of fds for both and a stack of its own for the child, which uses its copy of the
        // mapping alone, makes system calls alone, and never returns.
        let pid = unsafe { libc::clone(keep, memory.stack(), flags, kit.cast_mut().cast(), &raw mut pidfd) };
        drop(memory);
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: CLONE_PIDFD stored a new fd there that nobody else owns.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(self.process.insert((pid, pidfd)).1.as_fd())
    }

    /// Ends the process: we end by our own will, or another program has taken our place.
    pub fn end(&mut self) {
        self.board.set_ending();
        if let Some((pid, pidfd)) = self.process.take() {
            end(pid, &pidfd);
        }
    }
}

/// Ends a keeper, a child of ours.
fn end(pid: i32, pidfd: &OwnedFd) {
    match sys::pidfd_send_signal(pidfd.as_fd(), Some(Signal::KILL)) {
        Ok(()) => sys::reap_clone_soon(pidfd.as_fd()),
        Err(error) => log::debug!("cannot end the keeper, process {pid}: {error}"),
    }
}

/// Ends the keeper of the program that was in this process before: a child of ours, which nobody has reaped.
pub fn end_another(pid: i32) {
    match sys::pidfd_open(pid) {
        Ok(pidfd) => end(pid, &pidfd),
        Err(error) => log::debug!("the keeper, process {pid}, is gone already: {error}"),
    }
}

/// What a keeper has left for the program that it has executed.
#[derive(Debug)]
pub struct Left {
    pub board: Board,
    /// The fds that were kept open, and the state that counts.
    pub fds: Vec<RawFd>,
    pub state: String,
    pub setting: String,
}

/// What a keeper has left in this process, if it has. To be called before an fd is opened.
///
/// # Errors
/// A file cannot be read.
pub fn left() -> io::Result<Option<Left>> {
    let Some(value) = take_variable(VARIABLE) else { return Ok(None) };
    let mut numbers =
        value.to_str().unwrap_or_default().split(':').map_while(|word| word.parse::<i32>().ok());
    if numbers.next() != Some(own::pid().cast_signed()) {
        return Ok(None);
    }
    let numbers: Vec<RawFd> = numbers.collect();
    let mut files = LeftFds::new(&numbers);
    let mut file = |place: usize| {
        let number = numbers.get(place).ok_or(io::ErrorKind::UnexpectedEof)?;
        files.take(*number).map(File::from).map_err(io::Error::other)
    };
    let board = Board::new(file(0)?)?;
    let (state, setting) = board.which();
    let states = [file(1)?, file(2)?];
    let settings = [file(3)?, file(4)?];
    let (fds, state) = content(&states[state])?;
    let (_, setting) = content(&settings[setting])?;
    Ok(Some(Left { board, fds, state, setting }))
}

/// The file's whole content: how many fds there are, their numbers, the text.
fn replace(file: &File, fds: &[RawFd], text: &[u8]) -> io::Result<()> {
    let count = u32::try_from(fds.len()).map_err(io::Error::other)?;
    let mut whole = Vec::with_capacity(size_of::<u32>() * (1 + fds.len()) + text.len());
    whole.extend(count.to_ne_bytes());
    fds.iter().for_each(|fd| whole.extend(fd.to_ne_bytes()));
    whole.extend(text);
    let length = whole.len() as u64;
    file.write_all_at(&whole, 0)?;
    // Pages that are not needed any more go back.
    if file.metadata()?.len() > length {
        file.set_len(length)?;
    }
    Ok(())
}

/// What is in such a file.
///
/// # Errors
/// It is shorter than it says.
fn content(file: &File) -> io::Result<(Vec<RawFd>, String)> {
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let (count, rest) = bytes.split_first_chunk().ok_or_else(short)?;
    let length = u32::from_ne_bytes(*count) as usize * size_of::<RawFd>();
    let (numbers, text) = rest.split_at_checked(length).ok_or_else(short)?;
    let fds = numbers.as_chunks().0.iter().map(|number| RawFd::from_ne_bytes(*number)).collect();
    Ok((fds, String::from_utf8(text.to_vec()).map_err(io::Error::other)?))
}

/// The process.
extern "C" fn keep(kit: *mut c_void) -> c_int {
    // SAFETY: `start` passes it, and this process has a copy.
    let kit = unsafe { &*kit.cast::<Kit>() };
    let (all, mut before) = (u64::MAX, 0u64);
    let size = size_of::<u64>();
    // SAFETY: plain integers, two signal sets of the kernel's size, a C string.
    unsafe {
        libc::syscall(libc::SYS_setsid);
        libc::syscall(libc::SYS_prctl, libc::PR_SET_NAME, NAME.as_ptr());
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const all, &raw mut before, size);
    }
    for number in 0..kit.range_count {
        // SAFETY: the list is so long.
        let range = unsafe { &*kit.ranges.add(number) };
        // SAFETY: private memory that nothing uses from here on: this function and what it calls use the kit, its stack, code
        // and constants.
        unsafe { libc::syscall(libc::SYS_madvise, range.start, range.len(), libc::MADV_DONTNEED) };
    }
    let mut end = libc::pollfd { fd: kit.us, events: libc::POLLIN, revents: 0 };
    while end.revents == 0 {
        // SAFETY: one whole struct; without a limit of time and with all signals blocked it returns at our end.
        unsafe {
            libc::syscall(
                libc::SYS_ppoll,
                &raw mut end,
                1,
                ptr::null::<libc::timespec>(),
                ptr::null::<u64>(),
                size,
            )
        };
    }
    if kit.page.is_ending() {
        exit(0);
    }
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: one whole struct.
    unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut now) };
    kit.page.note_end(now);
    let (state, _) = kit.page.which();
    let [_, one, other, ..] = kit.numbers;
    keep_open(if state == 0 { one } else { other });
    kit.numbers.iter().copied().chain(kit.page.birth().map(|birth| birth.pidfd)).for_each(let_through);
    // SAFETY: no pointer.
    let mut pid = unsafe { libc::syscall(libc::SYS_getpid) };
    for digit in (0..PID_DIGITS).rev() {
        // SAFETY: the digits were made room for.
        unsafe { *kit.pid.add(digit) = b'0' + (pid % 10) as u8 };
        pid /= 10;
    }
    // SAFETY: a signal set of the kernel's size; strings and lists of them that end with a null pointer.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const before,
            ptr::null::<u64>(),
            size,
        );
        libc::syscall(libc::SYS_execve, kit.program, kit.argv, kit.envp);
    }
    exit(127)
}

/// Clears close-on-exec for the fds that a state lists.
fn keep_open(state: RawFd) {
    let mut numbers = [0 as RawFd; AT_ONCE];
    let mut read = |at: usize, most: usize| {
        let (bytes, offset) = (most.min(AT_ONCE) * size_of::<RawFd>(), at as libc::off64_t);
        // SAFETY: the buffer has room for so many bytes.
        let length = unsafe { libc::syscall(libc::SYS_pread64, state, numbers.as_mut_ptr(), bytes, offset) };
        let count = usize::try_from(length).unwrap_or(0) / size_of::<RawFd>();
        (numbers, count)
    };
    let (first, count) = read(0, 1);
    let mut left = if count == 1 { first[0].cast_unsigned() as usize } else { 0 };
    let mut at = size_of::<u32>();
    while left > 0 {
        let (numbers, count) = read(at, left);
        if count == 0 {
            return;
        }
        numbers.iter().take(count).copied().for_each(let_through);
        left = left.saturating_sub(count);
        at += count * size_of::<RawFd>();
    }
}

fn let_through(number: RawFd) {
    // SAFETY: plain integers; a number that is not open is EBADF.
    unsafe { libc::syscall(libc::SYS_fcntl, number, libc::F_SETFD, 0) };
}

fn exit(status: c_int) -> ! {
    loop {
        // SAFETY: it does not return.
        unsafe { libc::syscall(libc::SYS_exit_group, status) };
    }
}
