//! A server that registers its socket with epoll(7) before it binds it: the registration belongs to the socket, and goes
//! with it when another takes its place. It is made anew, with the number that the server knows.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::target::Target;
use crate::os::proc::Registered;
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
        let registered = info.lines().filter_map(Registered::parse);
        for one in registered.filter(|one| one.fd == target.fd && one.inode.number == inode) {
            match seccomp::take_fd(&process, number) {
                Ok(_) if found.len() >= SETS => {
                    log::warn!(
                        "thread {} has its socket in over {SETS} epoll sets, and loses the others",
                        target.thread
                    );
                    return found;
                }
                Ok(set) => found.push(Registration { set, events: one.events, data: one.data }),
                Err(error) => log::debug!("the epoll set of thread {}: {error}", target.thread),
            }
        }
    }
    found
}

impl Registration {
    /// For `socket`, which the server has as `number` now.
    pub(super) fn renew(&self, socket: &OwnedFd, number: i32) -> io::Result<()> {
        seccomp::register(self.set.as_fd(), socket.as_fd(), number, self.events, self.data)
    }
}
