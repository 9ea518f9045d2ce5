//! The file descriptor store (sd_notify(3), FDSTORE=1): fds that a server gives us to keep for the next generation.
//!
//! There is one for all generations; it survives restarts and swaps, and ends with supervise.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::stat::fstat;
use serde::{Deserialize, Serialize};

use super::saved::KeptFds;
use super::sys;
use super::sys::left::LeftFds;
use super::warning::Warn;
use crate::core::Notify;

/// The name of an fd that came without FDNAME=.
const DEFAULT_NAME: &str = "stored";

#[derive(Debug, Default)]
pub struct FdStore {
    /// FileDescriptorStoreMax=: the most fds that are kept.
    max: usize,
    /// The stored fds, newest first, which is the order in which they are passed.
    entries: VecDeque<Entry>,
    is_full_told: bool,
}

#[derive(Debug)]
struct Entry {
    name: String,
    fd: OwnedFd,
    number: usize,
    watch: PollState,
}

/// The store as it goes over to the program that takes our place.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedFdStore {
    max: usize,
    entries: Vec<SavedEntry>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedEntry {
    name: String,
    fd: RawFd,
    number: usize,
    hangs_up: bool,
}

/// Whether a hang-up (EPOLLHUP, EPOLLERR) removes an fd from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PollState {
    Wanted,
    Registered,
    /// It does not: FDPOLL=0, or the fd cannot be polled (a file).
    No,
}

impl FdStore {
    pub fn new(max: u32) -> Self {
        Self { max: max as usize, ..Self::default() }
    }

    /// Whether fds are accepted at all.
    pub const fn is_open(&self) -> bool {
        self.max > 0
    }

    /// Changes the maximum; if it shrinks, the oldest fds are closed.
    pub fn set_max(&mut self, registry: &Registry, max: u32) {
        self.max = max as usize;
        for entry in self.entries.drain(self.max.min(self.entries.len())..) {
            entry.unwatch(registry);
        }
    }

    /// Stores or removes fds as a message asks. Fds that are not stored are closed.
    pub fn take(&mut self, registry: &Registry, notify: &Notify, fds: Vec<OwnedFd>, tokens: usize) {
        if notify.fd_store_remove {
            if let Some(name) = &notify.fd_name {
                self.entries
                    .iter()
                    .filter(|entry| entry.name == *name)
                    .for_each(|entry| entry.unwatch(registry));
                self.entries.retain(|entry| entry.name != *name);
            }
        } else if notify.fd_store {
            for fd in fds {
                self.add(fd, notify);
            }
            self.watch(registry, tokens);
        }
    }

    fn add(&mut self, fd: OwnedFd, notify: &Notify) {
        if self.entries.iter().any(|entry| sys::is_same_file(entry.fd.as_fd(), fd.as_fd())) {
            return;
        }
        if self.entries.len() >= self.max {
            let level = if self.is_full_told { log::Level::Debug } else { log::Level::Warn };
            self.is_full_told = true;
            Warn::StoreFd.log(level, format_args!("there are {} already", self.max));
            return;
        }
        // The lowest free number. Numbers are poll tokens, of which there is a limited range.
        let number =
            (1..).find(|number| self.entries.iter().all(|entry| entry.number != *number)).unwrap_or(1);
        let watch = if notify.fd_no_poll { PollState::No } else { PollState::Wanted };
        let name = notify.fd_name.as_deref().unwrap_or(DEFAULT_NAME).to_owned();
        self.entries.push_front(Entry { name, fd, number, watch });
    }

    fn watch(&mut self, registry: &Registry, tokens: usize) {
        for entry in self.entries.iter_mut().filter(|entry| entry.watch == PollState::Wanted) {
            // epoll reports a hang-up in any case, so nothing else is asked for.
            let fd = entry.fd.as_raw_fd();
            let token = Token(tokens + entry.number);
            entry.watch = match registry.register(&mut SourceFd(&fd), token, Interest::PRIORITY) {
                Ok(()) => PollState::Registered,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => PollState::No,
                Err(error) => {
                    Warn::WatchStored(&entry.name).because(error);
                    PollState::No
                }
            };
        }
    }

    /// Removes a stored fd if its other end is gone.
    pub fn hung_up(&mut self, registry: &Registry, number: usize) {
        if let Some(index) = self.entries.iter().position(|entry| entry.number == number)
            && self.entries[index].is_over()
            && let Some(entry) = self.entries.remove(index)
        {
            log::debug!("closed the stored fd {}, because its other end is closed", entry.name);
            entry.unwatch(registry);
        }
    }

    pub fn save(&self, fds: &mut KeptFds) -> SavedFdStore {
        let entry = |entry: &Entry| SavedEntry {
            name: entry.name.clone(),
            fd: fds.keep(&entry.fd),
            number: entry.number,
            hangs_up: entry.watch != PollState::No,
        };
        SavedFdStore { max: self.max, entries: self.entries.iter().map(entry).collect() }
    }

    pub fn from_saved(saved: SavedFdStore, fds: &mut LeftFds, registry: &Registry, tokens: usize) -> Self {
        let mut store = Self { max: saved.max, ..Self::default() };
        for SavedEntry { name, fd, number, hangs_up } in saved.entries {
            let watch = if hangs_up { PollState::Wanted } else { PollState::No };
            // One that is closed was taken out after this was saved.
            if let Ok(fd) = fds.take(fd) {
                store.entries.push_back(Entry { name, fd, number, watch });
            }
        }
        store.watch(registry, tokens);
        store
    }

    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// The inodes of the stored sockets.
    pub fn sockets(&self) -> Vec<u32> {
        let found = self.entries.iter().filter_map(|entry| fstat(&entry.fd).ok());
        let sockets = found.filter(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFSOCK);
        sockets.filter_map(|stat| u32::try_from(stat.st_ino).ok()).collect()
    }

    /// Names and fds in the order in which they are passed.
    pub fn list(&self) -> Vec<(String, RawFd)> {
        self.entries.iter().map(|entry| (entry.name.clone(), entry.fd.as_raw_fd())).collect()
    }
}

impl Entry {
    /// Whether the fd has hung up. The event alone may have been urgent data (EPOLLPRI), which is no reason to drop it.
    fn is_over(&self) -> bool {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::empty())];
        // An error means a shortage of memory, in which case the fd is kept.
        nix::poll::poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }

    /// Comes before close(2): while another process shares the open file description, epoll would go on reporting it.
    fn unwatch(&self, registry: &Registry) {
        if self.watch == PollState::Registered
            && let Err(error) = registry.deregister(&mut SourceFd(&self.fd.as_raw_fd()))
        {
            log::debug!("cannot stop watching the stored fd {}: {error}", self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use mio::{Events, Poll};

    use super::*;

    fn named(name: &str) -> Notify {
        Notify { fd_store: true, fd_name: Some(name.to_owned()), ..Notify::default() }
    }

    fn names(store: &FdStore) -> Vec<String> {
        store.list().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn the_newest_comes_first_and_the_store_has_a_limit() {
        let poll = Poll::new().unwrap();
        let mut store = FdStore::new(2);
        for name in ["a", "b", "c"] {
            store.take(poll.registry(), &named(name), vec![File::open("/dev/null").unwrap().into()], 0);
        }
        assert_eq!(names(&store), ["b", "a"]);
        let remove = Notify { fd_store_remove: true, ..named("a") };
        store.take(poll.registry(), &remove, Vec::new(), 0);
        assert_eq!(names(&store), ["b"]);
        store.set_max(poll.registry(), 0);
        assert!(names(&store).is_empty() && !store.is_open());
    }

    #[test]
    fn one_open_file_is_kept_once() {
        let poll = Poll::new().unwrap();
        let (one, other) = (File::open("/dev/null").unwrap(), File::open("/dev/null").unwrap());
        if !sys::is_same_file(one.as_fd(), one.try_clone().unwrap().as_fd()) {
            return; // kcmp(2) is refused here: both are kept then.
        }
        let mut store = FdStore::new(9);
        let fds = vec![one.try_clone().unwrap().into(), one.into(), other.into()];
        store.take(poll.registry(), &Notify { fd_store: true, ..Notify::default() }, fds, 0);
        assert_eq!(names(&store), ["stored", "stored"]);
    }

    #[test]
    fn what_hangs_up_goes_unless_it_is_not_polled() {
        let mut poll = Poll::new().unwrap();
        let mut store = FdStore::new(9);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (quiet, gone) = UnixStream::pair().unwrap();
        store.take(poll.registry(), &named("polled"), vec![ours.into()], 100);
        let unpolled = Notify { fd_no_poll: true, ..named("quiet") };
        store.take(poll.registry(), &unpolled, vec![quiet.into()], 100);
        drop((theirs, gone));
        let mut events = Events::with_capacity(4);
        poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
        let tokens: Vec<usize> = events.iter().map(|event| event.token().0).collect();
        assert_eq!(tokens, [101]);
        store.hung_up(poll.registry(), 1);
        assert_eq!(names(&store), ["quiet"]);
    }

    #[test]
    fn urgent_data_is_no_end() {
        let mut poll = Poll::new().unwrap();
        let mut store = FdStore::new(9);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = listener.accept().unwrap().0;
        store.take(poll.registry(), &named("connection"), vec![accepted.into()], 100);
        nix::sys::socket::send(peer.as_raw_fd(), b"!", nix::sys::socket::MsgFlags::MSG_OOB).unwrap();
        let mut events = Events::with_capacity(4);
        poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
        assert_eq!(events.iter().count(), 1);
        store.hung_up(poll.registry(), 1);
        assert_eq!(names(&store), ["connection"]);
    }
}
