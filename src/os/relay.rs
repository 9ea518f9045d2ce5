//! The rescue relay: a short-lived process of our own binary that accepts the connections in a slot whose server has
//! ended or hangs, and passes them on to the address, where the steering program gives them to a living server. Only
//! the client's address is lost. It is a process because a connection may last for hours, while the supervisor goes on.
//!
//! It ends when its queue is empty and nothing has been carried for [`QUIET`]. SIGTERM, or the end of the supervisor
//! that started it, makes it close its slot at once and finish what it carries. It reports each connection to the
//! supervisor by one byte in a pipe, which even a SIGKILL does not lose.

mod datagrams;
mod link;
mod streams;

use std::ffi::{OsStr, OsString};
use std::io::{self, PipeReader, Read};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use log::LevelFilter;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{dup2_stdin, write};
use serde::{Deserialize, Serialize};

use super::saved::KeptFds;
use super::socket::Target;
use super::sys::left::LeftFds;
use super::warning::Warn;
use super::{logger, sys};
use crate::config::{Color, Signal};

/// Our own binary, even if the file has been replaced since (proc_pid_exe(5)).
pub const OURSELVES: &str = "/proc/self/exe";

/// The first argument of a relay. `--help` does not show it.
const WORD: &str = "_relay";

/// A relay ends after this long with an empty queue and nothing carried.
const QUIET: Duration = Duration::from_millis(200);

/// How long, in milliseconds, a relay that failed stays; then the supervisor starts the next one.
const FAILED: u16 = 1_000;

impl Target {
    fn to_words(&self) -> [OsString; 2] {
        match self {
            Self::Tcp(address) => ["tcp".into(), address.to_string().into()],
            Self::Unix(path) => ["unix".into(), path.clone().into()],
            Self::Abstract(name) => ["abstract".into(), OsString::from_vec(name.clone())],
            Self::Udp(address) => ["udp".into(), address.to_string().into()],
        }
    }

    fn from_words(kind: &OsStr, text: OsString) -> Option<Self> {
        let address = || text.to_str()?.parse().ok();
        match kind.as_bytes() {
            b"tcp" => Some(Self::Tcp(address()?)),
            b"unix" => Some(Self::Unix(OsString::from_vec(text.into_vec()).into())),
            b"abstract" => Some(Self::Abstract(text.into_vec())),
            b"udp" => Some(Self::Udp(address()?)),
            _ => None,
        }
    }
}

/// What a relay has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// The number of connections (UDP: clients) that reached the target.
    pub passed_on: u64,
    /// The number of connections that the target refused; their clients got a RST.
    pub refused: u64,
}

/// A running relay. It is our child, so the loop that reaps all children reaps it.
#[derive(Debug)]
pub struct Relay {
    /// The pid, which is also that of its process group.
    pub pid: i32,
    report: PipeReader,
    carried: Carried,
    /// It is a child of ours, and not of a supervise that was killed.
    is_ours: bool,
}

/// Starts a relay for `slot`, a listening stream or bound UDP socket. `program` is [`OURSELVES`] except in tests.
///
/// # Errors
/// clone or pipe2(2) failed.
pub fn start(program: &Path, slot: BorrowedFd<'_>, target: &Target) -> io::Result<Relay> {
    let (report, writer) = io::pipe()?;
    fcntl(&report, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let child = Command::new(program)
        .arg0("supervise")
        .arg(WORD)
        .args(target.to_words())
        .env_clear()
        .process_group(0)
        .stdin(slot.try_clone_to_owned()?)
        .stdout(Stdio::from(OwnedFd::from(writer)))
        .stderr(Stdio::inherit())
        .spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    Ok(Relay { pid, report, carried: Carried::default(), is_ours: true })
}

/// A relay as it goes over to the program that takes our place, whose child it stays.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedRelay {
    pid: i32,
    report: RawFd,
    carried: Carried,
}

impl Relay {
    pub fn save(&self, fds: &mut KeptFds) -> SavedRelay {
        SavedRelay { pid: self.pid, report: fds.keep(&self.report), carried: self.carried }
    }

    /// # Errors
    /// A sentence: its pipe is missing.
    pub fn from_saved(
        SavedRelay { pid, report, carried }: SavedRelay,
        fds: &mut LeftFds,
    ) -> Result<Self, String> {
        Ok(Self { pid, report: PipeReader::from(fds.take(report)?), carried, is_ours: true })
    }

    pub const fn is_ours(&self) -> bool {
        self.is_ours
    }

    pub const fn become_foreign(&mut self) {
        self.is_ours = false;
    }

    /// Its end of the pipe is closed.
    pub fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(self.report.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }

    /// What it has carried so far; after its end, all of it. The pipe holds 65,536 bytes, and connections beyond that
    /// are carried but not counted.
    ///
    /// # Errors
    /// Those of read(2), which do not occur on our own pipe.
    pub fn carried(&mut self) -> io::Result<Carried> {
        let mut bytes = [0; 4096];
        loop {
            match self.report.read(&mut bytes) {
                Ok(0) => return Ok(self.carried),
                Ok(length) => {
                    let passed_on = bytes[..length].iter().filter(|byte| **byte == PASSED_ON).count();
                    self.carried.passed_on += passed_on as u64;
                    self.carried.refused += (length - passed_on) as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(self.carried),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

const PASSED_ON: u8 = b'+';
const REFUSED: u8 = b'-';

/// Runs as a relay if argv asks for that, and returns the exit status.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Option<u8> {
    let mut arguments = arguments.into_iter().skip(1);
    if arguments.next()? != WORD {
        return None;
    }
    // Fds that supervise inherited and does not know (a lock, the end of a pipe) must not stay open here.
    let closed = sys::close_inherited();
    logger::init(LevelFilter::Warn, Color::Never);
    if let Err(error) = closed {
        Warn::CloseInherited.because(error);
    }
    let kind = arguments.next().unwrap_or_default();
    let result = match Target::from_words(&kind, arguments.next().unwrap_or_default()) {
        Some(target) => carry(&target),
        None => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    };
    let Err(error) = result else { return Some(0) };
    Warn::Relay.log(log::Level::Error, error);
    // poll(2) without fds waits for the timeout.
    let _ = poll(&mut [], FAILED);
    Some(1)
}

fn carry(target: &Target) -> io::Result<()> {
    let mut post = Post::open()?;
    match target {
        Target::Udp(address) => datagrams::carry(&mut post, *address),
        Target::Tcp(_) | Target::Unix(_) | Target::Abstract(_) => streams::carry(&mut post, target),
    }
}

/// A relay's side towards its supervisor: the slot, until it is told to leave it, and the pipe for counting.
struct Post {
    slot: Option<OwnedFd>,
    /// `None` after SIGTERM, which would otherwise keep the fd readable.
    signals: Option<SignalFd>,
}

impl Post {
    /// Takes the slot from fd 0, so that closing the slot leaves no copy.
    fn open() -> io::Result<Self> {
        let signals = sys::signal_set([Signal::TERM]);
        signals.thread_block()?;
        let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        fcntl(io::stdout(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let slot = sys::duplicate(0)?;
        dup2_stdin(std::fs::File::open("/dev/null")?)?;
        Ok(Self { slot: Some(slot), signals: Some(signals) })
    }

    /// Reports one connection. A pipe without a reader or without room is ignored.
    fn count(byte: u8) {
        let _uncounted = write(io::stdout(), &[byte]);
    }

    /// The fds to poll: for a signal, and for the end of the supervisor, which reads the pipe.
    fn to_poll<'a>(&'a self, stdout: &'a io::Stdout) -> Vec<PollFd<'a>> {
        let Some(signals) = &self.signals else { return Vec::new() };
        vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(stdout.as_fd(), PollFlags::empty())]
    }

    /// Stops accepting. For datagrams the slot stays open, since answers are sent through it.
    fn leave(&mut self) {
        self.slot = None;
        self.signals = None;
    }

    fn has_left(&self) -> bool {
        self.signals.is_none()
    }
}

/// The error when the steering program gives us our own connections, which would go round for ever.
fn comes_back() -> io::Error {
    io::Error::other("what is passed on comes back")
}

/// The address as a listener sees it, whether it is of one family or of both.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether poll(2) reported an event.
fn is_ready(polled: &PollFd<'_>) -> bool {
    polled.revents().is_some_and(|events| !events.is_empty())
}
