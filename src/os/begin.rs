//! What the standard library does before `main` and supervise needs, for a program that begins at the main of the C library.

use std::os::fd::{AsFd, AsRawFd, IntoRawFd};
use std::process;

use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;

use super::sys::{self, Disposition};
use crate::config::Signal;

/// Opens fds 0 to 2 where they are closed, so that no socket gets one of these numbers, and ignores SIGPIPE: a reader that
/// has left is an error of write(2) and not our end. Where /dev/null cannot be opened, the process ends as if by abort(3).
pub fn begin() {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let fds = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let mut asked = fds.map(|fd| PollFd::new(fd, PollFlags::empty()));
    let open = PollFlags::POLLNVAL.complement();
    let is_open = |fd: &PollFd<'_>| fd.revents().is_some_and(|revents| open.contains(revents));
    if poll(&mut asked, PollTimeout::ZERO).is_err() || !asked.iter().all(is_open) {
        open_missing();
    }
    let _always_works = sys::set_disposition(Signal::PIPE, Disposition::Ignore);
}

/// Not close-on-exec: a server has these as well. open(2) takes the lowest free number.
fn open_missing() {
    loop {
        match open("/dev/null", OFlag::O_RDWR, Mode::empty()) {
            Ok(null) if null.as_raw_fd() > 2 => return,
            Ok(null) => drop(null.into_raw_fd()),
            Err(_) => process::abort(),
        }
    }
}
