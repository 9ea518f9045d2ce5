//! How the child says what became of its steps: in the memory that it shares with us while we are suspended, or over a pipe
//! where it has a copy of it.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use libc::c_long;
use nix::fcntl::OFlag;

use super::report::{ChildStep, REPORT_BYTES, Reported, StepReport};

/// Room for a report of each wish that there can be (the filter, Nice=, OOMScoreAdjust=, a limit for each resource), and
/// for the one that ends the child.
const MOST: usize = 24;

/// What the child has reported.
pub(super) struct ReportChannel {
    /// The write end of the pipe; -1 where the memory is shared.
    pub(super) pipe: RawFd,
    reports: [Option<StepReport>; MOST],
    count: usize,
}

/// Both ends, for a child with a copy of our memory.
pub(super) type Pipe = (OwnedFd, OwnedFd);

impl ReportChannel {
    /// # Errors
    /// Those of pipe2(2).
    pub(super) fn new(has_a_copy: bool) -> io::Result<(Self, Option<Pipe>)> {
        let pipe = if has_a_copy { Some(nix::unistd::pipe2(OFlag::O_CLOEXEC)?) } else { None };
        let end = pipe.as_ref().map_or(-1, |(_, writer)| writer.as_raw_fd());
        Ok((Self { pipe: end, reports: [None; MOST], count: 0 }, pipe))
    }

    /// After the child has executed its program, or ended.
    ///
    /// # Errors
    /// Those of read(2).
    pub(super) fn read(self, pipe: Option<Pipe>) -> io::Result<Vec<StepReport>> {
        let Some((reader, writer)) = pipe else { return Ok(self.reports.into_iter().flatten().collect()) };
        drop(writer);
        // Ends when the last copy of the write end is closed: by execve(2), or by the end of the child.
        let mut bytes = Vec::new();
        File::from(reader).take(4096).read_to_end(&mut bytes)?;
        let chunks = bytes.as_chunks::<REPORT_BYTES>().0.iter();
        Ok(chunks.filter_map(|chunk| StepReport::from_bytes(*chunk)).collect())
    }

    /// Whether the child is to have a copy of our memory.
    pub(super) fn has_a_copy(&self) -> bool {
        self.pipe >= 0
    }

    // From here on: the child.

    pub(super) fn tell(&mut self, report: StepReport) {
        if self.pipe < 0 {
            // The last one is why it ended; it takes the last place where all are taken.
            self.reports[self.count.min(MOST - 1)] = Some(report);
            self.count = self.count.wrapping_add(1);
            return;
        }
        let words = report.to_words();
        // SAFETY: twelve bytes of this frame. A pipe takes them at once; if nobody reads, nobody can be told.
        unsafe { libc::syscall(libc::SYS_write, self.pipe, words.as_ptr(), REPORT_BYTES) };
    }
}

pub(super) fn errno() -> i32 {
    // SAFETY: the address of this thread's errno, always valid. With CLONE_VM it is the suspended parent's.
    unsafe { *libc::__errno_location() }
}

pub(super) fn check(step: ChildStep, result: c_long) -> Reported<c_long> {
    if result < 0 { Err(StepReport { step, errno: errno(), detail: 0 }) } else { Ok(result) }
}

/// Lets go a wish that we have not the right to grant, and says so.
pub(super) fn wish(status: &mut ReportChannel, result: Reported<c_long>) -> Reported<()> {
    match result {
        Err(report) if report.step.is_a_wish(report.errno) => status.tell(report),
        Err(report) => return Err(report),
        Ok(_) => {}
    }
    Ok(())
}
