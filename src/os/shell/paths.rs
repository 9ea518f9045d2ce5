//! Unix paths that a server removes, or somebody takes: watched with inotify(7), and linked back.
//!
//! Whoever may connect to a path may also touch(1) it, which looks like an unlink(2) until it is looked into. So after
//! each look we do not listen for a while, and nobody can keep us busy. Only a server under InterceptBind= that binds a path
//! it has removed is answered at once: one look for each such bind(2).

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mio::Interest;
use mio::unix::SourceFd;
use nix::errno::Errno;
use nix::sys::inotify::{InitFlags, Inotify};

use super::Shell;
use super::slots::Damaged;
use crate::core::{Damage, Event, SocketNote};
use crate::os::socket::{PathState, WATCH};
use crate::os::tokens::PATHS;

/// How long we do not listen after a look: two of these, and the time that mending takes, are within a tenth of a second.
const REST: Duration = Duration::from_millis(25);
/// Buffers of events that one look reads. What they say does not matter, so what is left is for the next.
const READS: usize = 8;

#[derive(Debug)]
pub(super) struct Paths {
    inotify: Inotify,
    /// Until then it is not in the poll.
    rests: Option<Instant>,
}

impl Paths {
    /// Takes events away, so that the next one wakes us.
    fn drain(&self) {
        for _ in 0..READS {
            match self.inotify.read_events() {
                Ok(_) => {}
                Err(Errno::EAGAIN) => return,
                Err(errno) => return log::warn!("cannot watch unix sockets: {}", errno.desc()),
            }
        }
    }
}

impl Shell {
    /// Watches the nodes there are now; one that is watched already stays so.
    pub(super) fn watch_paths(&mut self) {
        let paths: Vec<_> = self.listeners.held().iter().flat_map(|socket| socket.watch_paths()).collect();
        if paths.is_empty() {
            return;
        }
        if self.paths.is_none() {
            match self.open_paths() {
                Ok(inotify) => self.paths = Some(Paths { inotify, rests: None }),
                Err(error) => return log::warn!("cannot watch unix sockets: {error} (see fs.inotify)"),
            }
        }
        let Some(Paths { inotify, .. }) = &self.paths else { return };
        for path in paths {
            if let Err(errno) = inotify.add_watch(&path, WATCH) {
                log::debug!("cannot watch {}: {}", path.display(), errno.desc());
            }
        }
    }

    fn open_paths(&self) -> io::Result<Inotify> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        self.listen_to(&inotify)?;
        Ok(inotify)
    }

    fn listen_to(&self, inotify: &Inotify) -> io::Result<()> {
        let fd = inotify.as_fd().as_raw_fd();
        self.poll.registry().register(&mut SourceFd(&fd), PATHS, Interest::READABLE)
    }

    pub(super) fn paths_patience(&self) -> Option<Duration> {
        let until = self.paths.as_ref()?.rests?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// Listens again. What came meanwhile is told at once.
    pub(super) fn wake_paths(&mut self) {
        let Some(paths) = &mut self.paths else { return };
        if paths.rests.take_if(|until| *until <= Instant::now()).is_some()
            && let Some(Paths { inotify, .. }) = &self.paths
            && let Err(error) = self.listen_to(inotify)
        {
            log::warn!("cannot watch unix sockets: {error}");
        }
    }

    /// Something has happened to a node: which, is soon seen.
    pub(super) fn on_paths(&mut self) {
        let Some(paths) = &mut self.paths else { return };
        paths.drain();
        let fd = paths.inotify.as_fd().as_raw_fd();
        match self.poll.registry().deregister(&mut SourceFd(&fd)) {
            Ok(()) => paths.rests = Some(Instant::now() + REST),
            Err(error) => log::warn!("cannot stop watching unix sockets: {error}"),
        }
        self.check_paths();
        self.dispatch();
    }

    /// Puts back what is gone, and says so.
    pub(super) fn check_paths(&mut self) {
        // Whoever took a path in the meantime is watched from now on, and may have gone before that.
        while self.look_at_paths() {}
    }

    /// Whether one was found to be taken that was not so before.
    fn look_at_paths(&mut self) -> bool {
        let mut is_taken_anew = false;
        for socket in self.listeners.held() {
            let checked = match socket.check_path() {
                Ok(Some(checked)) => checked,
                Ok(None) => continue,
                Err(error) => {
                    let (socket, why) = (socket.address.clone(), error.to_string());
                    if self.slots.lost_paths.insert(socket.clone()) {
                        self.outbox.tell(SocketNote::PathLost { socket, why });
                    }
                    continue;
                }
            };
            let address = socket.address.clone();
            self.slots.lost_paths.remove(&address);
            for slot in checked.anew {
                // Whoever runs there has a socket that nobody can find any more.
                if let Some(generation) = self.children.on_slot(slot) {
                    let (generation, damage) = (Some(generation), Damage::Ended);
                    self.tell_damage(Damaged { socket: address.clone(), generation, damage });
                    self.outbox.push(Event::SocketLost { slot, socket: address.clone() });
                }
            }
            let was_taken = checked.state != PathState::Taken && self.taken.remove(&address);
            if was_taken && let Err(error) = socket.steer(&self.slots.steering) {
                log::warn!("cannot steer {address}: {error}");
            }
            match checked.state {
                PathState::Ours | PathState::LinkedBack if was_taken => {
                    self.outbox.tell(SocketNote::PathBack { socket: address });
                }
                PathState::Ours => {}
                PathState::LinkedBack => {
                    let damage = Damage::Unlinked;
                    self.tell_damage(Damaged { socket: address, generation: None, damage });
                }
                // Its own events may come many times.
                PathState::Taken if !self.taken.contains(&address) => {
                    self.taken.insert(address.clone());
                    is_taken_anew = true;
                    self.outbox.tell(SocketNote::PathTaken { socket: address });
                }
                PathState::Taken => {}
            }
        }
        self.arm();
        is_taken_anew
    }
}
