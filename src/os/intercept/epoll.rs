//! A server that registers its socket with epoll(7) before it binds it: the registration belongs to the socket, and goes
//! with it when another takes its place. It is made anew, with the number that the server knows.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::target::BindTarget;
use crate::os::proc::{self, Registered};
use crate::os::sys;
use crate::os::sys::seccomp;

/// More fds than this are not looked at: such a server has its epoll set among the first, made before it served anybody.
const FDS: usize = 4096;
/// A server has a few sets at most, one for each of its threads. Each is an fd of ours until the call is answered.
const SETS: usize = 64;

/// Where a server has its socket.
#[derive(Debug, Default)]
pub(super) struct Registrations {
    found: Vec<Registration>,
    /// Why some were not.
    missed: Option<String>,
}

/// In a set of the server's.
#[derive(Debug)]
struct Registration {
    set: OwnedFd,
    events: u32,
    data: u64,
}

impl Registrations {
    /// Those of the socket with this inode under the fd of `target`; none where we may not have the server's fds.
    pub(super) fn of(target: BindTarget, inode: u64) -> Self {
        let mut all = Self::default();
        let Some(process) = target.process().and_then(|pid| sys::pidfd_open(pid).ok()) else { return all };
        let Ok(numbers) = proc::numbers(target.proc("fd")) else { return all };
        let is_set = |number: &i32| proc::is_anonymous(target.proc(&format!("fd/{number}")), "eventpoll");
        for number in numbers.take(FDS).filter(is_set) {
            let info = match target.read(&format!("fdinfo/{number}")) {
                Ok(info) => info,
                Err(error) => {
                    all.missed = Some(error.to_string()).filter(|_| !proc::is_gone(&error)).or(all.missed);
                    continue;
                }
            };
            let registered = info.lines().filter_map(Registered::parse);
            for one in registered.filter(|one| one.fd == target.fd && one.inode.number == inode) {
                if all.found.len() == SETS {
                    all.missed = Some(format!("it is in over {SETS} epoll sets"));
                    return all;
                }
                match seccomp::take_fd(&process, number) {
                    Ok(set) => all.found.push(Registration { set, events: one.events, data: one.data }),
                    Err(error) => all.missed = Some(error.to_string()),
                }
            }
        }
        all
    }

    /// For `socket`, which the server has as `number` now.
    ///
    /// # Errors
    /// Why some of its sets do not have it.
    pub(super) fn renew(&self, socket: &OwnedFd, number: i32) -> Result<(), String> {
        let renew = |one: &Registration| {
            seccomp::register(one.set.as_fd(), socket.as_fd(), number, one.events, one.data)
        };
        let failed: Vec<io::Error> = self.found.iter().filter_map(|one| renew(one).err()).collect();
        failed.first().map(io::Error::to_string).or_else(|| self.missed.clone()).map_or(Ok(()), Err)
    }
}
