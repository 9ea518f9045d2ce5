//! --detach: supervise forks before it opens anything, and its child goes on in a session of its own. The parent waits until
//! the child says that the first server is ready, or has ended. What the child logs until then goes to the stderr that both
//! have, so the parent repeats nothing of it.

#![allow(unsafe_code)]

use std::fs::{self, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, RawFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal as NixSignal;
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, getpid, getppid, setsid};

use super::own;
use super::socket::announced;
use super::sys;
use super::sys::left::LeftFds;
use super::warning::{Told, Warn};
use crate::config::{Address, Config, Signal};
use crate::core::Exit;

/// The status of a parent whose child has ended before the first server was ready.
const NOT_READY: u8 = 1;

/// When the parent says that it waits, and after that again and again.
const FIRST_WORD: Duration = Duration::from_secs(5);
const NEXT_WORD: Duration = Duration::from_secs(60);

/// Which of the two processes goes on.
#[derive(Debug)]
pub enum Forked {
    /// The parent, which is to end with this status.
    Parent(u8),
    Child(Background),
}

/// What ties the child to the parent until the first server is ready.
#[derive(Debug)]
pub struct Background {
    report: PipeWriter,
    /// What our parent had open and nobody has asked for, such as fds of its session.
    left: LeftFds,
}

/// Forks. To be called before this process has opened an fd, and before [`own::pid`] is asked for. What LISTEN_FDS or the
/// command line names by number stays open in the child.
///
/// # Errors
/// A sentence: nothing was forked.
pub fn detach(config: &Config) -> Result<Forked, String> {
    if getpid().as_raw() == 1 {
        return Err("--detach: supervise is process 1, whose end is the end of the container (leave it out)"
            .to_owned());
    }
    if std::env::var_os("NOTIFY_SOCKET").is_some_and(|value| !value.is_empty()) {
        Warn::DetachFromManager.because("it waits for the process that it started, which ends now");
    }
    let is_wanted =
        |number: i32| config.listeners.iter().any(|one| one.address == Address::InheritedNumber(number));
    let numbers = open_numbers();
    let announced = announced(getpid().as_raw().unsigned_abs());
    let is_foreign = |number: &RawFd| !announced.contains(number) && !is_wanted(*number);
    let foreign: Vec<RawFd> = numbers.into_iter().filter(is_foreign).collect();
    let cannot = |error: io::Error| format!("--detach: cannot go into the background: {error}");
    let parent = getpid();
    // Made before the pipe, whose numbers are free until then.
    let left = LeftFds::new(&foreign);
    let (reader, report) = io::pipe().map_err(cannot)?;
    // SAFETY: this process has a single thread, so its child may do everything that it could.
    match unsafe { fork() }.map_err(|errno| cannot(errno.into()))? {
        ForkResult::Parent { child } => {
            drop(report);
            Ok(Forked::Parent(wait_for_child(child, reader)))
        }
        ForkResult::Child => {
            drop(reader);
            own::forked_from(parent.as_raw().unsigned_abs());
            follow(parent).map_err(cannot)?;
            Ok(Forked::Child(Background { report, left }))
        }
    }
}

/// Leaves the session, and is told to stop should the parent end before the first server is ready.
fn follow(parent: Pid) -> io::Result<()> {
    setsid()?;
    set_pdeathsig(NixSignal::SIGTERM)?;
    if getppid() == parent { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
}

/// The fds above 2 that this process has, and the one by which they are read. None where /proc is not mounted.
fn open_numbers() -> Vec<RawFd> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(|fd| *fd > 2).collect()
}

/// Returns once the child has said that the first server is ready, or has ended.
fn wait_for_child(child: Pid, mut report: PipeReader) -> u8 {
    let waited = sys::pidfd_open(child.as_raw()).and_then(|pidfd| {
        let mut due = Instant::now() + FIRST_WORD;
        loop {
            let patience = due.saturating_duration_since(Instant::now());
            let mut fds = [
                PollFd::new(report.as_fd(), PollFlags::POLLIN),
                PollFd::new(pidfd.as_fd(), PollFlags::POLLIN),
            ];
            let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
            match poll(&mut fds, timeout) {
                Err(nix::errno::Errno::EINTR) => continue,
                result => result?,
            };
            let [report_ready, ended] = fds.map(|fd| fd.any().unwrap_or(false));
            if report_ready || ended {
                return said(&mut report)
                    .map_or_else(|| Ok(Err(sys::wait_for(&pidfd)?.exit)), |text| Ok(Ok(text)));
            }
            if Instant::now() >= due {
                due = Instant::now() + NEXT_WORD;
                Told::AwaitsReady(child.as_raw()).log();
            }
        }
    });
    match waited {
        Ok(Ok(text)) => print_line(&text),
        Ok(Err(Exit::Code(0) | Exit::Unknown)) => NOT_READY,
        // It has said why.
        Ok(Err(Exit::Code(status))) => status,
        Ok(Err(Exit::Signal { signal, .. })) => {
            Warn::BackgroundEnded(child.as_raw()).because(format!("{signal}"));
            NOT_READY
        }
        Err(error) => {
            Warn::AwaitBackground(child.as_raw()).because(error);
            NOT_READY
        }
    }
}

/// The line that the child has sent, whole: it is shorter than PIPE_BUF. `None` if it has sent none and will not.
fn said(report: &mut PipeReader) -> Option<String> {
    sys::set_non_blocking(&*report, true).ok()?;
    let mut text = String::new();
    let mut buffer = [0; 4096];
    if let Ok(length @ 1..) = report.read(&mut buffer) {
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    (!text.is_empty()).then_some(text)
}

fn print_line(text: &str) -> u8 {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => NOT_READY,
        Ok(()) | Err(_) => 0,
    }
}

impl Background {
    /// The first server is ready: nothing ties us to the parent and its session any longer. `name` is that of our instance.
    pub fn let_go(self, name: Option<&str>) {
        let Self { mut report, left } = self;
        let done = leave_streams().and_then(|()| Ok(set_pdeathsig(None)?)).and_then(|()| {
            let name = name.unwrap_or("supervise");
            report.write_all(format!("{name} runs in the background, pid {}\n", own::pid()).as_bytes())
        });
        drop(left);
        // Nobody waits any more, so the start was given up.
        if done.is_err()
            && let Err(error) = sys::kill(getpid().as_raw(), Some(Signal::TERM))
        {
            log::debug!("cannot stop: {error}");
        }
    }
}

fn leave_streams() -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}
