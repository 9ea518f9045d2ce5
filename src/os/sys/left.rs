//! The fds that the program before ours has left open in this process.

#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use super::close_on_exec;

/// Those that nobody has taken yet; they are closed when this is dropped.
#[derive(Debug)]
pub struct LeftFds(BTreeSet<RawFd>);

impl LeftFds {
    /// Each of these numbers that is open; it is close-on-exec from now on. To be made once, before this process opens an fd
    /// of its own: later such a number could be that of another's.
    pub fn new(numbers: &[RawFd]) -> Self {
        let is_left = |number: &RawFd| *number > 2 && close_on_exec(*number).is_ok();
        Self(numbers.iter().copied().filter(is_left).collect())
    }

    /// # Errors
    /// A sentence: it was not left for us, or somebody has it already.
    pub fn take(&mut self, number: RawFd) -> Result<OwnedFd, String> {
        if !self.0.remove(&number) {
            return Err(format!("fd {number} is not open any more"));
        }
        // SAFETY: it was open when this process began, nothing of ours was made of it since, and it is given away once.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }

    /// Takes one that goes on to be known by its number alone; false: it is not there.
    pub fn take_number(&mut self, number: RawFd) -> bool {
        self.0.remove(&number)
    }
}

impl Drop for LeftFds {
    fn drop(&mut self) {
        for number in std::mem::take(&mut self.0) {
            log::debug!("closed fd {number}, which the program before has left open");
            // SAFETY: as in `take`.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
        }
    }
}
