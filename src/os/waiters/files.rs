//! The fds of another process: which socket one is, what an epoll has registered, whether one is an io_uring.

use std::collections::HashSet;
use std::io;

use nix::sys::stat::stat;
use nix::unistd::Pid;

use super::{SocketInode, too_much};
use crate::os::proc::{self, Registered};

/// The most links of fds and epolls that are read in one look.
const LINKS: usize = 1 << 16;
/// The most nested epolls. Servers nest two; the kernel allows five levels, but any number in each.
const EPOLLS: usize = 64;

/// Counts what is read in a look.
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
    /// The inode of a socket; `None` for another file.
    pub(super) fn socket(&mut self, pid: Pid, fd: u32) -> io::Result<Option<u64>> {
        self.count()?;
        proc::socket(format!("/proc/{pid}/fd/{fd}"))
    }

    pub(super) fn is_epoll(&mut self, pid: Pid, fd: u32) -> io::Result<bool> {
        self.count()?;
        Ok(proc::is_anonymous(format!("/proc/{pid}/fd/{fd}"), "eventpoll"))
    }

    /// Which of the sockets would wake a wait on this epoll, directly or through epolls registered in it.
    pub(super) fn registered(
        &mut self,
        pid: Pid,
        epoll: u32,
        sockets: &[SocketInode],
    ) -> io::Result<Vec<bool>> {
        let device = SocketInode::from(&stat(format!("/proc/{pid}/fd/{epoll}").as_str())?).device;
        let mut registered = HashSet::new();
        // Each epoll is read once, so that an apparent cycle (a reused number) ends.
        let (mut epolls, mut read) = (vec![epoll], 0);
        while let Some(epoll) = epolls.get(read).copied() {
            read += 1;
            for one in self.readable(pid, epoll)? {
                registered.insert(one.inode);
                let Ok(fd) = u32::try_from(one.fd) else { continue };
                if one.inode.device == device && !epolls.contains(&fd) && self.is_epoll(pid, fd)? {
                    if epolls.len() == EPOLLS {
                        return Err(too_much());
                    }
                    epolls.push(fd);
                }
            }
        }
        Ok(sockets.iter().map(|socket| registered.contains(socket)).collect())
    }

    /// The fds registered for input. Those for something else (or disabled by EPOLLONESHOT) are left out.
    fn readable(&mut self, pid: Pid, epoll: u32) -> io::Result<Vec<Registered>> {
        const READABLE: u32 = (libc::EPOLLIN | libc::EPOLLRDNORM) as u32;
        self.count()?;
        let text = proc::text(format!("/proc/{pid}/fdinfo/{epoll}"))?;
        let all = text.lines().filter_map(Registered::parse);
        Ok(all.filter(|one| one.events & READABLE != 0).collect())
    }

    /// Whether the process has an io_uring: `false` if we may not read it, `true` if it has too many fds.
    pub(super) fn has_io_uring(&mut self, pid: Pid) -> bool {
        let Ok(mut fds) = proc::numbers(format!("/proc/{pid}/fd")) else { return false };
        fds.any(|fd| self.count().is_err() || proc::is_anonymous(format!("/proc/{pid}/fd/{fd}"), "io_uring"))
    }

    fn count(&mut self) -> io::Result<()> {
        self.links = self.links.checked_sub(1).ok_or_else(too_much)?;
        Ok(())
    }
}
