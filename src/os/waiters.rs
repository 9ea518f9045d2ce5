//! Finds the sockets on which the processes of a generation wait, as /proc shows it. So a server that sends no READY=1
//! is seen to be ready.
//!
//! Having a socket says nothing, since all processes inherit it. What counts is a thread that sleeps in a system call
//! which this socket would wake: accept(2) or recvmsg(2) on it, poll(2) or select(2) with it in the set, or
//! epoll_wait(2) on an epoll in which it is registered. That epoll may itself be in a set or in another epoll (as
//! with EventMachine). System calls of foreign architectures are not recognised.
//!
//! The processes run on while they are read. A thread, an fd or a process that has disappeared by then is no waiter,
//! and a process that cannot be read within a second is not seen.

mod call;
mod files;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, IoSliceMut};

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use call::{Set, WaitCall};
use files::Files;

pub use super::proc::SocketInode;
use super::proc::{self, is_gone};
use super::within::within_a_second;

/// The most processes in one look, and the most threads of all of them together.
const PROCESSES: usize = 1024;
const THREADS: usize = 8192;

/// The result of one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiters {
    /// For each socket, whether a thread waits on it.
    pub waited: Vec<bool>,
    /// Whether there may be waiters that cannot be seen: a process that we may not read, one with an io_uring, or
    /// more than one look covers.
    pub is_blind: bool,
}

impl Waiters {
    fn is_whole(&self) -> bool {
        self.waited.iter().all(|waited| *waited)
    }
}

/// Looks at the threads of these processes until a waiter is known for each socket.
pub fn look(pids: &[Pid], sockets: &[SocketInode]) -> Waiters {
    look_for(pids, sockets, false)
}

/// The same, but a thread counts only if it waits for this socket alone. Others may be working for another socket. It is
/// not looked for what cannot be seen, so this is never blind for an io_uring.
pub fn look_for_readers(pids: &[Pid], sockets: &[SocketInode]) -> Waiters {
    look_for(pids, sockets, true)
}

fn look_for(pids: &[Pid], sockets: &[SocketInode], one_alone: bool) -> Waiters {
    let unseen = Waiters { waited: vec![false; sockets.len()], is_blind: true };
    let (pids, sockets) = (pids.to_vec(), sockets.to_vec());
    within_a_second(move || look_now(&pids, &sockets, one_alone)).unwrap_or(unseen)
}

fn look_now(pids: &[Pid], sockets: &[SocketInode], one_alone: bool) -> Waiters {
    let mut waiters = Waiters { waited: vec![false; sockets.len()], is_blind: pids.len() > PROCESSES };
    let mut look = Look {
        sockets,
        one_alone,
        threads: THREADS,
        files: Files::default(),
        epolls: HashMap::new(),
        found: HashSet::new(),
    };
    for pid in pids.iter().take(PROCESSES) {
        if waiters.is_whole() {
            return waiters;
        }
        let looked = look.process(*pid, &mut waiters.waited);
        for (waited, socket) in waiters.waited.iter_mut().zip(sockets) {
            *waited |= look.found.contains(&socket.number);
        }
        match looked {
            Err(error) if is_gone(&error) => {}
            Err(error) => {
                log::trace!("cannot see what process {pid} waits for: {error}");
                waiters.is_blind = true;
            }
            Ok(()) => {}
        }
    }
    // A reader is a thread that was seen; where one is missing, it does not matter why. Each fd would be looked at for it.
    waiters.is_blind |=
        !one_alone && !waiters.is_whole() && pids.iter().any(|pid| look.files.has_io_uring(*pid));
    waiters
}

struct Look<'a> {
    sockets: &'a [SocketInode],
    one_alone: bool,
    /// The number of threads that may still be looked at.
    threads: usize,
    files: Files,
    /// For each epoll of this process that was read, by fd, which sockets are registered in it; threads may share it.
    epolls: HashMap<u32, Vec<bool>>,
    /// The inodes of what threads wait on directly: there may be as many threads as sockets.
    found: HashSet<u64>,
}

impl Look<'_> {
    /// Looks at one process.
    ///
    /// # Errors
    /// EACCES or EPERM where we may not read it; `Other` beyond a limit, and where the kernel lacks the files.
    fn process(&mut self, pid: Pid, waited: &mut [bool]) -> io::Result<()> {
        self.epolls.clear();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            self.threads = self.threads.checked_sub(1).ok_or_else(too_much)?;
            let call = match proc::text(task.join("syscall")) {
                Ok(text) => WaitCall::parse(&text),
                Err(error) if !is_gone(&error) => return Err(error),
                Err(_) if task.join("stat").exists() => {
                    return Err(io::Error::other("this kernel does not show system calls"));
                }
                Err(_) => continue,
            };
            let Some(call) = call else { continue };
            match self.thread(pid, call, waited) {
                Err(error) if is_gone(&error) => {}
                result => result?,
            }
        }
        Ok(())
    }

    fn thread(&mut self, pid: Pid, call: WaitCall, waited: &mut [bool]) -> io::Result<()> {
        match call {
            WaitCall::Epoll { .. } if self.one_alone => Ok(()),
            WaitCall::Epoll { fd } => self.wait_in(pid, fd, waited),
            WaitCall::One { fd } => self.wait_on(pid, &[fd], waited),
            WaitCall::Many(set) => {
                let fds = read_set(pid, set)?;
                if self.one_alone && fds.len() != 1 { Ok(()) } else { self.wait_on(pid, &fds, waited) }
            }
        }
    }

    fn wait_in(&mut self, pid: Pid, epoll: u32, waited: &mut [bool]) -> io::Result<()> {
        if !self.epolls.contains_key(&epoll) {
            let registered = self.files.registered(pid, epoll, self.sockets)?;
            self.epolls.insert(epoll, registered);
        }
        for (waited, registered) in waited.iter_mut().zip(&self.epolls[&epoll]) {
            *waited |= registered;
        }
        Ok(())
    }

    fn wait_on(&mut self, pid: Pid, fds: &[u32], waited: &mut [bool]) -> io::Result<()> {
        for fd in fds {
            match self.files.socket(pid, *fd) {
                Err(error) if is_gone(&error) => {}
                Ok(None) if self.files.is_epoll(pid, *fd)? => match self.wait_in(pid, *fd, waited) {
                    Err(error) if is_gone(&error) => {}
                    result => result?,
                },
                inode => self.found.extend(inode?),
            }
        }
        Ok(())
    }
}

/// Reads the fds of a set from the memory of the process. It may have changed since the system call began.
fn read_set(pid: Pid, set: Set) -> io::Result<Vec<u32>> {
    let mut bytes = vec![0; set.length()];
    let remote = RemoteIoVec { base: set.address() as usize, len: bytes.len() };
    let length = process_vm_readv(pid, &mut [IoSliceMut::new(&mut bytes)], &[remote])?;
    bytes.truncate(length);
    Ok(set.fds(&bytes))
}

fn too_much() -> io::Error {
    io::Error::other("more than one look goes through")
}

#[cfg(test)]
mod tests;
