//! Unix paths that a server removes, or somebody takes: watched with inotify(7), and linked back.
//!
//! Whoever may connect to a path may also touch(1) it, which looks like an unlink(2) until it is looked into. So after
//! each look we do not listen for a while, and nobody can keep us busy. Only a server under InterceptBind= that binds a path
//! it has removed is answered at once: one look for each such bind(2).

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mio::Interest;
use mio::unix::SourceFd;
use nix::errno::Errno;
use nix::sys::inotify::{InitFlags, Inotify};

use super::{ListenerContext, Listeners};
use crate::core::{Damage, SocketNote};
use crate::os::socket::{PathState, WATCH};
use crate::os::tokens::PATHS;
use crate::os::warning::Warn;

/// How long we do not listen after a look: two of these, and the time that mending takes, are within a tenth of a second.
const REST: Duration = Duration::from_millis(25);
/// Buffers of events that one look reads. What they say does not matter, so what is left is for the next.
const READS: usize = 8;
/// The most looks in a row at paths that others take and leave meanwhile.
const LOOKS: usize = 8;

/// The watched paths, and what was logged of them.
#[derive(Debug, Default)]
pub(super) struct Paths {
    watch: Option<PathWatch>,
    /// Addresses whose path leads to another process's file or cannot be put back, as far as that was logged.
    taken: BTreeSet<String>,
    lost: BTreeSet<String>,
    /// A file was gone before it could be watched, so nothing will tell of that.
    is_missed: bool,
}

#[derive(Debug)]
struct PathWatch {
    inotify: Inotify,
    /// Until then it is not in the poll.
    rests: Option<Instant>,
}

impl Paths {
    pub(super) fn patience(&self) -> Option<Duration> {
        let until = self.watch.as_ref()?.rests?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// The path of this address was just switched, so it is ours.
    pub(super) fn lead_to_us(&mut self, address: &str) {
        self.taken.remove(address);
    }

    pub(super) fn is_any_taken(&self) -> bool {
        !self.taken.is_empty()
    }
}

impl PathWatch {
    /// Takes events away, so that the next one wakes us.
    fn drain(&self) {
        for _ in 0..READS {
            match self.inotify.read_events() {
                Ok(_) => {}
                Err(Errno::EAGAIN) => return,
                Err(errno) => return Warn::WatchPaths.because(errno.desc()),
            }
        }
    }
}

impl Listeners {
    /// Watches the nodes there are now; one that is watched already stays so.
    pub(super) fn watch_paths(&mut self) {
        let paths: Vec<_> = self.held().iter().flat_map(|socket| socket.watch_paths()).collect();
        if paths.is_empty() {
            return;
        }
        if self.paths.watch.is_none() {
            match self.open_paths() {
                Ok(inotify) => self.paths.watch = Some(PathWatch { inotify, rests: None }),
                Err(error) => return Warn::WatchPaths.because(error),
            }
        }
        let Some(PathWatch { inotify, .. }) = &self.paths.watch else { return };
        for path in paths {
            if let Err(errno) = inotify.add_watch(&path, WATCH) {
                self.paths.is_missed |= errno == Errno::ENOENT;
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
        self.registry.register(&mut SourceFd(&fd), PATHS, Interest::READABLE)
    }

    /// Listens again. What came meanwhile is told at once.
    pub fn wake_paths(&mut self) {
        let Some(paths) = &mut self.paths.watch else { return };
        if paths.rests.take_if(|until| *until <= Instant::now()).is_some()
            && let Some(PathWatch { inotify, .. }) = &self.paths.watch
            && let Err(error) = self.listen_to(inotify)
        {
            Warn::WatchPaths.because(error);
        }
    }

    /// Something has happened to a node: which, is soon seen.
    pub fn on_paths(&mut self, cx: &mut ListenerContext<'_>) {
        let Some(paths) = &mut self.paths.watch else { return };
        paths.drain();
        let fd = paths.inotify.as_fd().as_raw_fd();
        match self.registry.deregister(&mut SourceFd(&fd)) {
            Ok(()) => paths.rests = Some(Instant::now() + REST),
            Err(error) => Warn::RestPaths.because(error),
        }
        self.check_paths(cx);
    }

    /// Puts back what is gone, and says so.
    pub(super) fn check_paths(&mut self, cx: &mut ListenerContext<'_>) {
        // A file that replaced a path meanwhile is watched from now on, and may have gone before that.
        for _ in 0..LOOKS {
            self.paths.is_missed = false;
            let is_taken_anew = self.look_at_paths(cx);
            if !is_taken_anew && !self.paths.is_missed {
                return;
            }
        }
    }

    /// Whether one was found to be taken that was not so before.
    fn look_at_paths(&mut self, cx: &mut ListenerContext<'_>) -> bool {
        let mut is_taken_anew = false;
        for socket in self.held() {
            let checked = match socket.check_path() {
                Ok(Some(checked)) => checked,
                Ok(None) => continue,
                Err(error) => {
                    let (socket, why) = (socket.address.clone(), error.to_string());
                    if self.paths.lost.insert(socket.clone()) {
                        cx.outbox.tell(SocketNote::PathLost { socket, why });
                    }
                    continue;
                }
            };
            let address = socket.address.clone();
            self.paths.lost.remove(&address);
            for slot in checked.anew.into_iter().filter(|slot| cx.children.on_slot(*slot).is_some()) {
                self.lose(&address, slot, Damage::Ended, cx);
            }
            let was_taken = checked.state != PathState::Taken && self.paths.taken.remove(&address);
            if was_taken && let Err(error) = socket.steer(&self.slots.steering) {
                Warn::Steer(&address).because(error);
            }
            match checked.state {
                PathState::Ours | PathState::LinkedBack if was_taken => {
                    cx.outbox.tell(SocketNote::PathBack { socket: address });
                }
                PathState::Ours => {}
                PathState::LinkedBack => self.tell_damage(&address, None, Damage::Unlinked, cx),
                // Its own events may come many times.
                PathState::Taken if !self.paths.taken.contains(&address) => {
                    self.paths.taken.insert(address.clone());
                    is_taken_anew = true;
                    cx.outbox.tell(SocketNote::PathTaken { socket: address });
                }
                PathState::Taken => {}
            }
        }
        self.arm();
        is_taken_anew
    }
}
