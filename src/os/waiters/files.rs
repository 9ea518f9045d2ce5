//! The fds of another process: which socket one is, what an epoll has registered, whether one is an io_uring.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use nix::unistd::Pid;

use super::{Inode, too_much};

/// Of one file of /proc: an epoll has a line of some 80 bytes for each fd.
const FILE_BYTES: u64 = 4 << 20;
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
        let link = fs::read_link(format!("/proc/{pid}/fd/{fd}"))?;
        Ok(link.to_str().and_then(socket_inode))
    }

    /// Which of the sockets this epoll would tell of a connection on.
    pub(super) fn registered(&self, pid: Pid, epoll: u32, sockets: &[Inode]) -> io::Result<Vec<bool>> {
        let text = text(Path::new(&format!("/proc/{pid}/fdinfo/{epoll}")))?;
        let registered: Vec<Inode> = text.lines().filter_map(target).collect();
        Ok(sockets.iter().map(|socket| registered.contains(socket)).collect())
    }

    /// A process that we may not look at has none that we know of.
    pub(super) fn has_io_uring(&mut self, pid: Pid) -> bool {
        let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        fds.flatten()
            .take_while(|_| self.count().is_ok())
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == "anon_inode:[io_uring]"))
    }

    fn count(&mut self) -> io::Result<()> {
        self.links = self.links.checked_sub(1).ok_or_else(too_much)?;
        Ok(())
    }
}

pub(super) fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// `tfd: 5 events: 19 data: 5 pos:0 ino:61ef sdev:8`, the numbers but for the first in hex (proc_pid_fdinfo(5)). None: not
/// such a line, or one that waits for something else than input (as one that EPOLLONESHOT has disarmed).
pub(super) fn target(line: &str) -> Option<Inode> {
    const READABLE: u32 = (libc::EPOLLIN | libc::EPOLLRDNORM) as u32;
    const MINOR: u64 = 0xf_ffff;
    let rest = line.strip_prefix("tfd:")?;
    let number = |key: &str| {
        let (_, after) = rest.split_once(key)?;
        u64::from_str_radix(after.split_ascii_whitespace().next()?, 16).ok()
    };
    let is_readable = number("events:")? as u32 & READABLE != 0;
    is_readable.then_some(Inode { number: number("ino:")?, device: number("sdev:")? & MINOR })
}
