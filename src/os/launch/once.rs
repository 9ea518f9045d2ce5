//! Runs a command of [Socket] (ExecStartPre= to ExecStopPost=) to its end, with a timeout, before or after the event
//! loop.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Launcher, StartRequest};
use crate::config::{CommandList, Exec, Launch, Signal, Span};
use crate::core::{Command, Exit, SlotId, Stage};
use crate::os::signal::Signals;
use crate::os::{reap, spawn, sys};

/// Starts a command and waits for its end. After `timeout` its process group gets SIGKILL.
///
/// # Errors
/// It cannot be started, fails, or takes too long: a sentence with its place. The caller applies the prefix `-`.
pub fn run_to_end(
    launch: &Launch,
    exec: &Exec,
    timeout: Span,
    signals: Option<&Signals>,
) -> Result<(), String> {
    let failed = |cause: String| format!("{}: {}: {cause}", exec.place, exec.path.to_string_lossy());
    let launcher = Launcher::new(launch.clone(), Span::ZERO, &[]).map_err(|error| error.to_string())?;
    let request = StartRequest {
        command: Command { list: CommandList::StartPre, index: 0 },
        generation: None,
        main_pid: None,
        outcome: None,
        stored: &[],
        slot: SlotId(0),
    };
    let plan = launcher.plan_of(exec, &request).map_err(|failure| failed(failure.what))?;
    let child = spawn::spawn(&plan).map_err(|failure| match failure.stage {
        // This message has its place already.
        Stage::Exec => failure.what,
        _ => failed(failure.what),
    })?;
    for shortfall in &child.shortfalls {
        log::warn!("{}: {shortfall}", exec.place);
    }
    let has_ended = wait(&child.pidfd, timeout, signals)
        .map_err(|errno| failed(format!("cannot wait: {}", errno.desc())));
    if !matches!(has_ended, Ok(WaitEnd::Ended)) {
        // Before it is reaped, its pid cannot belong to another process.
        reap::signal_group(&child.pidfd, child.pid, Signal::KILL)
            .map_err(|error| failed(format!("cannot end it: {error}")))?;
    }
    let exit = sys::wait_for(&child.pidfd).map_err(|error| failed(format!("cannot reap it: {error}")))?.exit;
    match (has_ended?, exit) {
        (WaitEnd::Asked(signal), _) => Err(failed(format!("interrupted by {signal}"))),
        (WaitEnd::TooLong, _) => Err(failed(format!(
            "not done after {timeout}, killed (raise TimeoutSec=, or correct the command)"
        ))),
        (WaitEnd::Ended, Exit::Code(0)) => Ok(()),
        (WaitEnd::Ended, Exit::Code(code)) => {
            Err(failed(format!("ended with status {code} (correct it, or begin it with - to ignore that)")))
        }
        (WaitEnd::Ended, Exit::Signal { signal, .. }) => Err(failed(format!("was ended by {signal}"))),
        (WaitEnd::Ended, Exit::Unknown) => Err(failed("has ended, nobody knows how".to_owned())),
    }
}

enum WaitEnd {
    Ended,
    TooLong,
    /// A signal asks supervise to end.
    Asked(Signal),
}

fn wait(pidfd: &OwnedFd, timeout: Span, signals: Option<&Signals>) -> Result<WaitEnd, Errno> {
    let end = Instant::now().checked_add(Duration::from_nanos(timeout.as_nanos()));
    let end = end.filter(|_| !timeout.is_infinite());
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        // Rounded up to milliseconds; otherwise the last one would be spent in a busy loop.
        let left = left.map(|left| (left + Duration::from_nanos(999_999)).as_millis());
        let patience = left.map_or(PollTimeout::NONE, |left| {
            i32::try_from(left)
                .map_or(PollTimeout::MAX, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))
        });
        let mut fds = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        fds.extend(signals.map(|signals| PollFd::new(signals.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, patience) {
            Ok(0) if left == Some(0) => return Ok(WaitEnd::TooLong),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) if fds[0].any().unwrap_or(true) => return Ok(WaitEnd::Ended),
            Ok(_) => {
                if let Some(signal) = signals.and_then(asked_to_end) {
                    return Ok(WaitEnd::Asked(signal));
                }
            }
            Err(errno) => return Err(errno),
        }
    }
}

/// The first pending signal that ends supervise; others are dropped, as no server runs that could get them.
fn asked_to_end(signals: &Signals) -> Option<Signal> {
    signals
        .read()
        .unwrap_or_default()
        .into_iter()
        .map(|received| received.signal)
        .find(|signal| matches!(*signal, Signal::TERM | Signal::INT | Signal::QUIT))
}
