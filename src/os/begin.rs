//! What the standard library does before `main` and supervise needs, for a program that begins at the main of the C library.

#![allow(unsafe_code)]

use std::ffi::OsString;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::process;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::sys::{self, Disposition};
use crate::config::Signal;

/// Opens fds 0 to 2 where they are closed, so that no socket gets one of these numbers, and ignores SIGPIPE: a reader that
/// has left is an error of write(2) and not our end. Where /dev/null cannot be opened, the process ends as if by abort(3).
/// Left out are a name for the main thread and the words for a stack that has overflowed: that is a plain SIGSEGV.
pub fn begin() {
    let mut streams = [0, 1, 2].map(|fd| libc::pollfd { fd, events: 0, revents: 0 });
    // SAFETY: the length is that of the array, which lives through the call.
    let polled = unsafe { libc::poll(streams.as_mut_ptr(), streams.len() as libc::nfds_t, 0) };
    if polled < 0 || streams.iter().any(|stream| stream.revents & libc::POLLNVAL != 0) {
        open_missing();
    }
    let _always_works = sys::set_disposition(Signal::PIPE, Disposition::Ignore);
}

/// The value of a variable of ours, which nothing that we start has from now on.
pub(super) fn take_variable(name: &str) -> Option<OsString> {
    let value = std::env::var_os(name)?;
    // SAFETY: supervise has one thread as long as it has not begun its work.
    unsafe { std::env::remove_var(name) };
    Some(value)
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
