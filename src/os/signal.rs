//! Blocks the signals to the supervisor and reads them, each with its sender, from a signalfd(2). So no handler of
//! ours ever runs, above all not between fork and exec.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{self, getpid, getsid};

use super::sys::{self, Disposition};
use crate::config::Signal;
use crate::core::{Sender, Terminal};

/// The si_code of kill(2) and of the kernel (<asm-generic/siginfo.h>); other calls have negative ones.
const SI_USER: i32 = 0;
const SI_KERNEL: i32 = 0x80;

/// The size of a struct signalfd_siginfo (signalfd(2)), and how many are read by one call.
const SIGINFO_BYTES: usize = 128;
const MOST_AT_ONCE: usize = 8;

/// The signals that supervise acts on or passes on ("Signals" in docs/guide.md), besides the real-time ones.
/// Signals that report a fault of our own (SIGSEGV and so on) keep their action.
const READ: [i32; 19] = [
    libc::SIGCHLD,
    libc::SIGHUP,
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTSTP,
    libc::SIGCONT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGURG,
    libc::SIGPWR,
    libc::SIGSTKFLT,
    libc::SIGXCPU,
    libc::SIGXFSZ,
];

/// If a parent left SIGCHLD ignored, the kernel would reap our children. A shell ignores the others for what it starts in the
/// background: we read them whatever their action is, and each server would have to set it back. (SIGPIPE is ignored when
/// the program begins: a client that left before its answer is an error of write(2) and no reason to end.)
const ACTIONS: [(i32, Disposition); 3] = [
    (libc::SIGCHLD, Disposition::Default),
    (libc::SIGINT, Disposition::Default),
    (libc::SIGQUIT, Disposition::Default),
];

/// Blocked and never read: to write to the terminal from the background is no reason to stop, as if they were ignored.
const OF_THE_TERMINAL: [i32; 2] = [libc::SIGTTIN, libc::SIGTTOU];

/// Whether SIGHUP was ignored when supervise was started (nohup).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HupIgnored(pub bool);

/// One signal. Equal signals merge until the first is read, and its sender is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceivedSignal {
    pub signal: Signal,
    pub sender: Sender,
}

/// The signals of this process, which stay blocked.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
    had_tty: bool,
}

impl Signals {
    /// Blocks the signals in the calling thread, which must be the only one, and sets the actions of the others.
    pub fn open() -> io::Result<(Self, HupIgnored)> {
        let hup_ignored = HupIgnored(sys::is_ignored(Signal::HUP)?);
        Ok((Self::open_again(open_tty().is_ok())?, hup_ignored))
    }

    /// Those that came since the program before us was executed wait, for they were blocked.
    pub fn open_again(had_tty: bool) -> io::Result<Self> {
        for (number, disposition) in ACTIONS {
            if let Some(signal) = Signal::from_number(number) {
                sys::set_disposition(signal, disposition)?;
            }
        }
        let read = || READ.into_iter().chain(libc::SIGRTMIN()..=libc::SIGRTMAX());
        let set = sys::signal_set(read().filter_map(Signal::from_number));
        sys::signal_set(OF_THE_TERMINAL.into_iter().chain(read()).filter_map(Signal::from_number))
            .thread_block()?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { fd, had_tty })
    }

    /// The signals that are pending now. The kernel fills the buffer as far as it can, so after a read that does not fill it
    /// no signal is pending.
    pub fn read(&self) -> io::Result<Vec<ReceivedSignal>> {
        let mut received = Vec::new();
        loop {
            let mut bytes = [0u8; MOST_AT_ONCE * SIGINFO_BYTES];
            let length = match unistd::read(&self.fd, &mut bytes) {
                Ok(length) => length,
                Err(Errno::EAGAIN) => return Ok(received),
                Err(errno) if received.is_empty() => return Err(errno.into()),
                // The next read says so again.
                Err(_) => return Ok(received),
            };
            let infos = bytes[..length].as_chunks::<SIGINFO_BYTES>().0;
            received.extend(infos.iter().filter_map(received_signal));
            if infos.len() < MOST_AT_ONCE {
                return Ok(received);
            }
        }
    }

    /// We have none any more, and no hang-up comes from one.
    pub const fn leave_terminal(&mut self) {
        self.had_tty = false;
    }

    pub const fn had_tty(&self) -> bool {
        self.had_tty
    }

    /// The state of the terminal that supervise was started from. Only open(2) of /dev/tty shows it: a session keeps
    /// its terminal's name after a hang-up.
    pub fn terminal_now(&self) -> Terminal {
        match open_tty() {
            Err(error) if self.had_tty && is_gone(&error) => Terminal::Gone,
            Ok(()) | Err(_) => Terminal::Unchanged,
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Stops this process as SIGTSTP would have; returns after SIGCONT.
pub fn suspend() -> io::Result<()> {
    sys::kill(getpid().as_raw(), Some(Signal::STOP))
}

/// ssi_signo, ssi_code and ssi_pid of struct signalfd_siginfo.
fn received_signal(info: &[u8; SIGINFO_BYTES]) -> Option<ReceivedSignal> {
    let [number, _errno, code, pid, ..] = info.as_chunks::<4>().0 else { return None };
    let signal = Signal::from_number(i32::from_ne_bytes(*number))?;
    let code = i32::from_ne_bytes(*code);
    // Only a signal by kill(2) is judged by its session; SIGCHLD, the most frequent one, is none.
    let session = if code == SI_USER { getsid(None).map_or(0, unistd::Pid::as_raw) } else { 0 };
    Some(ReceivedSignal { signal, sender: sender(code, u32::from_ne_bytes(*pid), session) })
}

fn sender(code: i32, pid: u32, session: i32) -> Sender {
    match code {
        SI_KERNEL => Sender::Kernel,
        SI_USER if i32::try_from(pid) == Ok(session) => Sender::SessionLeader,
        _ => Sender::Process,
    }
}

/// Opens /dev/tty without waiting for a carrier and without making it our controlling terminal.
fn open_tty() -> io::Result<()> {
    let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
    OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/tty").map(|_| ())
}

/// A lack of memory or fds says nothing about the terminal.
fn is_gone(error: &io::Error) -> bool {
    !matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EINTR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::sys::tests::{alone, eventually};

    #[test]
    fn signals_are_read_with_their_sender() {
        alone("os::signal::tests::signals_are_read_with_their_sender", || {
            let child = Signal::from_number(libc::SIGCHLD).expect("a signal");
            sys::set_disposition(child, Disposition::Ignore).expect("as a careless parent");
            let (signals, hup_ignored) = Signals::open().expect("a signalfd");
            assert_eq!(hup_ignored, HupIgnored(false));
            assert_eq!(signals.read().expect("not an error"), []);
            let own = getpid().as_raw();
            for number in READ.into_iter().chain([libc::SIGRTMIN(), libc::SIGRTMAX()]) {
                // SIGCONT discards pending stop signals and the other way round, hence one at a time.
                let signal = Signal::from_number(number).expect("a signal");
                sys::kill(own, Some(signal)).expect("may signal itself");
                let received = eventually("it arrives", || signals.read().expect("not an error").pop());
                assert_eq!((received.signal, received.sender), (signal, Sender::Process));
            }
            for (number, disposition) in ACTIONS {
                let signal = Signal::from_number(number).expect("a signal");
                assert_eq!(sys::is_ignored(signal).expect("a signal"), disposition == Disposition::Ignore);
            }
        });
    }

    #[test]
    fn nohup_is_seen_and_the_signal_still_read() {
        alone("os::signal::tests::nohup_is_seen_and_the_signal_still_read", || {
            sys::set_disposition(Signal::HUP, Disposition::Ignore).expect("may be ignored");
            let (signals, hup_ignored) = Signals::open().expect("a signalfd");
            assert_eq!(hup_ignored, HupIgnored(true));
            sys::kill(getpid().as_raw(), Some(Signal::HUP)).expect("may signal itself");
            let received = eventually("it arrives", || signals.read().expect("not an error").pop());
            assert_eq!(received.signal, Signal::HUP);
        });
    }

    #[test]
    fn suspended_until_continued() {
        alone("os::signal::tests::suspended_until_continued", || {
            let (signals, _) = Signals::open().expect("a signalfd");
            let script =
                format!("until grep -q 'State:.T' /proc/{0}/status; do :; done; kill -CONT {0}", getpid());
            let mut shell =
                std::process::Command::new("/bin/sh").args(["-c", &script]).spawn().expect("a shell");
            suspend().expect("may stop itself");
            assert!(shell.wait().expect("ours").success(), "it saw us stopped");
            let cont = eventually("SIGCONT", || {
                signals.read().expect("not an error").pop_if(|r| r.signal == Signal::CONT)
            });
            assert_eq!(cont.sender, Sender::Process);
        });
    }

    #[test]
    fn senders() {
        assert_eq!(sender(SI_KERNEL, 0, 0), Sender::Kernel);
        assert_eq!(sender(SI_USER, 12, 12), Sender::SessionLeader);
        assert_eq!(sender(SI_USER, 13, 12), Sender::Process);
        // sigqueue(3) and tgkill(2): no shell that hangs up does it so.
        assert_eq!(sender(-1, 12, 12), Sender::Process);
        assert_eq!(sender(-6, 12, 12), Sender::Process);
    }

    #[test]
    fn without_a_terminal_none_is_lost() {
        let error = |errno| io::Error::from_raw_os_error(errno);
        assert!(is_gone(&error(libc::ENXIO)) && is_gone(&error(libc::EIO)));
        assert!(!is_gone(&error(libc::EMFILE)));
    }
}
