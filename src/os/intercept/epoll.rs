//! Renews the epoll(7) registrations of a server's socket after InterceptBind= has replaced it with the held one. If
//! a server registers its socket with epoll(7) before it binds it, the registration belongs to that socket and
//! disappears when the held one replaces it; it is made again under the same number.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::target::BindTarget;
use crate::os::proc::{self, Registered};
use crate::os::sys;
use crate::os::sys::seccomp;

/// The most fds that are looked at. A server makes its epoll set before it serves, so its number is among the first.
const FDS: usize = 4096;
/// The most epoll sets of a server, which has one for each thread. Each is an fd of ours until the answer.
const SETS: usize = 64;

/// The epoll registrations of a server's socket.
#[derive(Debug, Default)]
pub(super) struct Registrations {
    found: Vec<Registration>,
    /// Why some could not be read.
    missed: Option<String>,
}

/// One registration in one epoll set of the server.
#[derive(Debug)]
struct Registration {
    set: OwnedFd,
    events: u32,
    data: u64,
}

impl Registrations {
    /// Reads the registrations of the socket with this inode under the fd of `target`, if we may read the fds.
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

    /// Registers `socket`, which has the number `number` in the server, in the same sets.
    ///
    /// # Errors
    /// Why some of the sets do not have it.
    pub(super) fn renew(&self, socket: &OwnedFd, number: i32) -> Result<(), String> {
        let renew = |one: &Registration| {
            seccomp::register(one.set.as_fd(), socket.as_fd(), number, one.events, one.data)
        };
        let failed: Vec<io::Error> = self.found.iter().filter_map(|one| renew(one).err()).collect();
        failed.first().map(io::Error::to_string).or_else(|| self.missed.clone()).map_or(Ok(()), Err)
    }
}
