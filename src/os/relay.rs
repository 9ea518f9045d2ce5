//! The rescue relay: a short-lived process of our own binary that accepts what waits in a slot whose server is gone or
//! hangs, and passes it on to the address, where the steering program gives it to a living one. Nothing is lost but
//! the client's address. A process of its own: what is carried may take hours, and the supervisor goes on.
//!
//! It ends when its queue is empty and nothing has been carried for [`QUIET`]. SIGTERM, or the end of the supervisor
//! that started it, closes its slot at once; what is carried is finished. Every connection is told to the supervisor
//! by one byte in a pipe, which a SIGKILL cannot take back.

mod datagrams;
mod link;
mod streams;

use std::ffi::{OsStr, OsString};
use std::io::{self, PipeReader, Read};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use log::LevelFilter;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{dup2_stdin, write};

use super::socket::Target;
use super::{logger, sys};
use crate::config::{Color, Signal};

/// The binary of this very process, even when the file has been replaced since (proc_pid_exe(5)).
pub const OURSELVES: &str = "/proc/self/exe";

/// The first argument of a relay. No verb of a person begins so, and help does not name it.
const WORD: &str = "_relay";

/// An empty queue and nothing carried for so long is the end.
const QUIET: Duration = Duration::from_millis(200);

/// One that failed stays for so many milliseconds. Its end has the next one started for what is still in the queue.
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

/// What a relay has done until now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Connections (UDP: clients) that reached the target.
    pub passed_on: u64,
    /// Connections that the target refused: the client got a RST.
    pub refused: u64,
}

/// A relay that was started. It is a child of ours like any other: whoever reaps all children reaps it.
#[derive(Debug)]
pub struct Relay {
    /// Its process, which leads a group of its own.
    pub pid: i32,
    report: PipeReader,
    carried: Carried,
}

/// Starts a relay for what waits in `slot`, a listening stream socket or a bound UDP socket. `program` is
/// [`OURSELVES`] for all but tests.
///
/// # Errors
/// No process could be started, or no pipe be made.
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
    Ok(Relay { pid, report, carried: Carried::default() })
}

impl Relay {
    /// What it has carried until now; after its end, all of it. A pipe that nobody reads holds 65,536: what comes
    /// beyond that is carried, but not counted.
    ///
    /// # Errors
    /// Those of read(2), which no pipe of ours has.
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

/// Runs as a relay if that is what the command line, the program's name first, asks for: the exit status then.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Option<u8> {
    let mut arguments = arguments.into_iter().skip(1);
    if arguments.next()? != WORD {
        return None;
    }
    // What supervise was started with and does not know (a lock, the other end of a pipe) must not live on in here.
    let closed = sys::close_inherited();
    logger::init(LevelFilter::Warn, Color::Never);
    if let Err(error) = closed {
        log::warn!("relay: cannot close what was inherited: {error}");
    }
    let kind = arguments.next().unwrap_or_default();
    let result = match Target::from_words(&kind, arguments.next().unwrap_or_default()) {
        Some(target) => carry(&target),
        None => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    };
    let Err(error) = result else { return Some(0) };
    log::error!("relay: {error} (supervise starts this itself; connections that wait stay in their queue)");
    // With nothing to wait for, poll(2) only takes its time.
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

/// What a relay has from its supervisor: a slot, until it is told to leave it, and the pipe that counts.
struct Post {
    slot: Option<OwnedFd>,
    /// None once it was told: what said so would be ready for ever.
    signals: Option<SignalFd>,
}

impl Post {
    /// Takes the slot out of fd 0, so that closing it is enough to leave it.
    fn open() -> io::Result<Self> {
        let signals = sys::signal_set([Signal::TERM]);
        signals.thread_block()?;
        let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        fcntl(io::stdout(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let slot = sys::duplicate(0)?;
        dup2_stdin(std::fs::File::open("/dev/null")?)?;
        Ok(Self { slot: Some(slot), signals: Some(signals) })
    }

    /// One connection more. A pipe without a reader or without room is no reason to stop carrying.
    fn count(byte: u8) {
        let _uncounted = write(io::stdout(), &[byte]);
    }

    /// What to poll for: a signal, and the end of the pipe's reader, which is the supervisor's.
    fn to_poll<'a>(&'a self, stdout: &'a io::Stdout) -> Vec<PollFd<'a>> {
        let Some(signals) = &self.signals else { return Vec::new() };
        vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(stdout.as_fd(), PollFlags::empty())]
    }

    /// Accepts no more. The slot of datagrams is kept by who sends answers through it.
    fn leave(&mut self) {
        self.slot = None;
        self.signals = None;
    }

    fn has_left(&self) -> bool {
        self.signals.is_none()
    }
}

/// The steering program gives us what we pass on ourselves: it would go round for ever.
fn comes_back() -> io::Error {
    io::Error::other("what is passed on comes back")
}

/// The name that a listener sees, be it of both families or of one.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether poll(2) had anything to say about it.
fn is_ready(polled: &PollFd<'_>) -> bool {
    polled.revents().is_some_and(|events| !events.is_empty())
}
