//! The fds of another process: which socket one is, what an epoll has registered, whether one is an io_uring.

use std::collections::HashSet;
use std::io;

use nix::unistd::Pid;

use super::{Inode, too_much};
use crate::os::proc::{self, Registered};

/// Links of fds read in one look.
const LINKS: usize = 1 << 16;

/// Counts what a look reads.
#[derive(Debug)]
pub(super) struct Files {
    links: usize,
}

impl Default for Files {
    fn default() -> Self {
        Self { links: LINKS }
    }
}

impl Files {
    /// The inode of a socket; None for any other file.
    pub(super) fn socket(&mut self, pid: Pid, fd: u32) -> io::Result<Option<u64>> {
        self.count()?;
        proc::socket(format!("/proc/{pid}/fd/{fd}"))
    }

    /// Which of the sockets this epoll would tell of a connection on.
    pub(super) fn registered(&self, pid: Pid, epoll: u32, sockets: &[Inode]) -> io::Result<Vec<bool>> {
        const READABLE: u32 = (libc::EPOLLIN | libc::EPOLLRDNORM) as u32;
        let text = proc::text(format!("/proc/{pid}/fdinfo/{epoll}"))?;
        // One that waits for something else than input does not (as one that EPOLLONESHOT has disarmed).
        let readable = text.lines().filter_map(Registered::parse).filter(|one| one.events & READABLE != 0);
        let registered: HashSet<Inode> = readable.map(|one| one.inode).collect();
        Ok(sockets.iter().map(|socket| registered.contains(socket)).collect())
    }

    /// A process that we may not look at has none that we know of; one with too many fds may have one.
    pub(super) fn has_io_uring(&mut self, pid: Pid) -> bool {
        let Ok(mut fds) = proc::numbers(format!("/proc/{pid}/fd")) else { return false };
        fds.any(|fd| self.count().is_err() || proc::is_anonymous(format!("/proc/{pid}/fd/{fd}"), "io_uring"))
    }

    fn count(&mut self) -> io::Result<()> {
        self.links = self.links.checked_sub(1).ok_or_else(too_much)?;
        Ok(())
    }
}
