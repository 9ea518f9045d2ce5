//! Unix paths that a server removes, or somebody takes: watched with inotify(7), and linked back.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use mio::Interest;
use mio::unix::SourceFd;
use nix::errno::Errno;
use nix::sys::inotify::{InitFlags, Inotify};

use super::slots::Damaged;
use super::{PATHS, Shell};
use crate::core::{Damage, Event, SocketNote};
use crate::os::socket::{PathState, WATCH};

impl Shell {
    /// Watches the nodes there are now; one that is watched already stays so.
    pub(super) fn watch_paths(&mut self) {
        let paths: Vec<_> = self.held().iter().flat_map(|socket| socket.watch_paths()).collect();
        if paths.is_empty() {
            return;
        }
        if self.paths.is_none() {
            match self.open_paths() {
                Ok(inotify) => self.paths = Some(inotify),
                Err(error) => return log::warn!("cannot watch unix sockets: {error} (see fs.inotify)"),
            }
        }
        let Some(inotify) = &self.paths else { return };
        for path in paths {
            if let Err(errno) = inotify.add_watch(&path, WATCH) {
                log::debug!("cannot watch {}: {}", path.display(), errno.desc());
            }
        }
    }

    fn open_paths(&self) -> io::Result<Inotify> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let fd = inotify.as_fd().as_raw_fd();
        self.poll.registry().register(&mut SourceFd(&fd), PATHS, Interest::READABLE)?;
        Ok(inotify)
    }

    /// Something has happened to a node: which, is soon seen.
    pub(super) fn on_paths(&mut self) {
        let Some(inotify) = &self.paths else { return };
        loop {
            match inotify.read_events() {
                Ok(_) => {}
                Err(Errno::EAGAIN) => break,
                Err(errno) => {
                    log::warn!("cannot watch unix sockets: {}", errno.desc());
                    break;
                }
            }
        }
        for socket in self.held() {
            let checked = match socket.check_path() {
                Ok(Some(checked)) => checked,
                Ok(None) => continue,
                Err(error) => {
                    log::warn!("{} cannot be looked after: {error}", socket.address);
                    continue;
                }
            };
            let address = socket.address.clone();
            for slot in checked.anew {
                // Whoever runs there has a socket that nobody can find any more.
                if let Some(generation) = self.children.on_slot(slot) {
                    let (generation, damage) = (Some(generation), Damage::Ended);
                    self.tell_damage(Damaged { socket: address.clone(), generation, damage });
                    self.queue.push_back(Event::SocketLost { slot, socket: address.clone() });
                }
            }
            if checked.state != PathState::Taken {
                self.taken.remove(&address);
            }
            match checked.state {
                PathState::Ours => {}
                PathState::LinkedBack => {
                    let damage = Damage::Unlinked;
                    self.tell_damage(Damaged { socket: address, generation: None, damage });
                }
                // Its own events may come many times.
                PathState::Taken if !self.taken.contains(&address) => {
                    self.taken.insert(address.clone());
                    self.tell(&SocketNote::PathTaken { socket: address }.into());
                }
                PathState::Taken => {}
            }
        }
        self.arm();
        self.dispatch();
    }
}
