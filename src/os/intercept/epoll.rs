//! A server that registers its socket with epoll(7) before it binds it: the registration belongs to the socket, and goes
//! with it when another takes its place. It is made anew, with the number that the server knows.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::target::Target;
use crate::os::sys;
use crate::os::sys::seccomp;

/// More fds than this are not looked at: such a server has its epoll set among the first, made before it served anybody.
const FDS: usize = 4096;
/// A server has a few sets at most, one for each of its threads. Each is an fd of ours until the call is answered.
const SETS: usize = 64;

/// In a set of the server's.
#[derive(Debug)]
pub(super) struct Registration {
    set: OwnedFd,
    events: u32,
    data: u64,
}

/// Those of the socket with this inode under the fd of `target`; none where we may not have the server's fds.
pub(super) fn registrations(target: Target, inode: u64) -> Vec<Registration> {
    let Some(process) = target.process().and_then(|pid| sys::pidfd_open(pid).ok()) else { return Vec::new() };
    let Ok(entries) = fs::read_dir(target.proc("fd")) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten().take(FDS) {
        let is_set =
            fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == "anon_inode:[eventpoll]");
        let Some(number) = entry.file_name().to_str().filter(|_| is_set).and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let Ok(info) = target.read(&format!("fdinfo/{number}")) else { continue };
        for (events, data) in info.lines().filter_map(|line| read(line, target.fd, inode)) {
            match seccomp::take_fd(&process, number) {
                Ok(_) if found.len() >= SETS => {
                    log::warn!(
                        "thread {} has its socket in over {SETS} epoll sets, and loses the others",
                        target.thread
                    );
                    return found;
                }
                Ok(set) => found.push(Registration { set, events, data }),
                Err(error) => log::debug!("the epoll set of thread {}: {error}", target.thread),
            }
        }
    }
    found
}

/// A line of fdinfo: `tfd: 5 events: 19 data: 5 pos:0 ino:2b6d sdev:8` (proc_pid_fdinfo(5)), all but the first in hex.
fn read(line: &str, fd: i32, inode: u64) -> Option<(u32, u64)> {
    let field = |name: &str| {
        let rest = line.split_once(name)?.1;
        rest.split_whitespace().next()
    };
    let is_ours = field("tfd:")?.parse() == Ok(fd) && u64::from_str_radix(field("ino:")?, 16) == Ok(inode);
    let events = u32::from_str_radix(field("events:")?, 16).ok()?;
    let data = u64::from_str_radix(field("data:")?, 16).ok()?;
    is_ours.then_some((events, data))
}

impl Registration {
    /// For `socket`, which the server has as `number` now.
    pub(super) fn renew(&self, socket: &OwnedFd, number: i32) -> io::Result<()> {
        seccomp::register(self.set.as_fd(), socket.as_fd(), number, self.events, self.data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_is_read_as_the_kernel_writes_it() {
        let line = "tfd:        5 events:       19 data:                5f  pos:0 ino:2b6d sdev:8";
        assert_eq!(read(line, 5, 0x2b6d), Some((0x19, 0x5f)));
        assert_eq!((read(line, 6, 0x2b6d), read(line, 5, 1)), (None, None));
        assert!(
            ["", "tfd:", "tfd: x ino: y", "pos:\t0", "tfd: 5 ino:2b6d"]
                .iter()
                .all(|line| read(line, 5, 0x2b6d).is_none())
        );
    }
}
