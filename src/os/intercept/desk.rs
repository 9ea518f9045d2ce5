//! The thread that answers the calls of one filter: what it receives, what it decides, what it gives.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::{Arc, PoisonError};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::socket::{getsockopt, sockopt};

use super::address::{self, Wanted};
use super::answer::{self, Answer, HeldPlace};
use super::epoll::Registrations;
use super::held::{Held, stand_in};
use super::target::BindTarget;
use super::{Common, News, Tried};
use crate::config::Kind;
use crate::core::BindNote;
use crate::os::socket::Families;
use crate::os::sys::seccomp::{self, Call};
use crate::os::warning::Warn;

/// The most notes that one filter may cause.
const NEWS: usize = 16;

/// The state of the thread.
pub(super) struct Desk {
    listener: OwnedFd,
    common: Arc<Common>,
    tell: Box<dyn Fn(News) + Send>,
    told: Vec<BindNote>,
    /// The number of notes about sockets that the server binds beside the held ones.
    beside: usize,
}

/// The socket that a server gets in place of its own.
struct Gift {
    held: Arc<Held>,
    target: BindTarget,
    /// The inode of the server's own socket, and a duplicate of it where we may have one.
    inode: u64,
    duplicate: Option<OwnedFd>,
    /// Whether the server wants more than the held socket has.
    is_narrow: bool,
}

/// What is done about a call.
enum Verdict {
    /// The kernel carries it out.
    Pass,
    /// The kernel carries it out, and a held socket may be in the way.
    Bind,
    /// It succeeds without effect, as the server has what it asks for.
    Done,
    Give(Gift),
}

impl Desk {
    pub(super) fn new(listener: OwnedFd, common: Arc<Common>, tell: Box<dyn Fn(News) + Send>) -> Self {
        Self { listener, common, tell, told: Vec::new(), beside: 0 }
    }

    /// Answers what is called until no process is left under the filter.
    pub(super) fn serve(mut self) {
        // Signals are handled by the main thread.
        if let Err(errno) = SigSet::all().thread_block() {
            log::debug!("the thread of InterceptBind= cannot block signals: {}", errno.desc());
        }
        // The program before us has received it.
        let left = self.common.desk().call;
        if let Some(call) = left {
            self.settle(&call);
        }
        self.receive_all();
        // Before its number can be that of another file.
        self.common.desk().listener = None;
    }

    fn receive_all(&mut self) {
        loop {
            let mut fds = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Warn::WaitForBind.because(errno.desc()),
            }
            let events = fds[0].revents().unwrap_or(PollFlags::empty());
            if events.contains(PollFlags::POLLIN) {
                self.next();
            } else if events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL) {
                // No process is left under the filter.
                return;
            }
        }
    }

    fn next(&mut self) {
        let received = {
            let desk = self.common.goes_on.wait_while(self.common.desk(), |desk| desk.rests);
            let mut desk = desk.unwrap_or_else(PoisonError::into_inner);
            seccomp::receive(self.listener.as_fd()).inspect(|call| desk.call = Some(*call))
        };
        match received {
            Ok(call) => self.settle(&call),
            // The call was interrupted meanwhile.
            Err(error) => log::trace!("cannot receive a system call of a server: {error}"),
        }
    }

    fn settle(&mut self, call: &Call) {
        self.reply(call);
        self.common.desk().call = None;
    }

    fn reply(&mut self, call: &Call) {
        let held = self.common.held();
        let verdict = self.judge(call, &held);
        let listener = self.listener.as_fd();
        let answered = match verdict {
            Verdict::Give(gift) => self.give(call, &gift),
            // The listener was identified by the thread's number, so that thread must still be waiting.
            Verdict::Done if seccomp::is_waiting(listener, call.id) => seccomp::succeed(listener, call.id),
            Verdict::Bind => self.let_bind(call),
            Verdict::Done | Verdict::Pass => seccomp::pass(listener, call.id),
        };
        if let Err(error) = answered {
            // ENOENT: a signal interrupted the call, or the process has ended.
            log::debug!("cannot answer a system call of thread {}: {error}", call.thread);
        }
    }

    fn judge(&mut self, call: &Call, held: &[Arc<Held>]) -> Verdict {
        // An fd is an int; the register may have more bits.
        let target = BindTarget { thread: call.thread, fd: call.args[0] as RawFd };
        if call.thread == 0 || target.fd < 0 || held.is_empty() {
            return Verdict::Pass;
        }
        if call.number == libc::SYS_listen {
            let inode = target.inode();
            // The held socket listens already, with its own backlog.
            return if held.iter().any(|held| Some(held.inode) == inode) {
                Verdict::Done
            } else {
                Verdict::Pass
            };
        }
        let length = call.args[2] as i32;
        let shortest = held.iter().map(|held| held.place.at.shortest()).min().unwrap_or(usize::MAX);
        match usize::try_from(length) {
            Ok(length) if (shortest..=address::LONGEST).contains(&length) => {
                match self.read_wanted(target, call.args[1], length) {
                    Some(Some(wanted)) => self.judge_bind(target, &wanted, held),
                    Some(None) => Verdict::Pass,
                    None => Verdict::Bind,
                }
            }
            Ok(_) | Err(_) => Verdict::Pass,
        }
    }

    /// `None` if the address cannot be read, `Some(None)` if no held socket could have it.
    fn read_wanted(&mut self, target: BindTarget, address: u64, length: usize) -> Option<Option<Wanted>> {
        let bytes = target.memory(address, length).or_else(|error| {
            // As root without CAP_SYS_PTRACE (in containers) we may act as the user of the process.
            if target.act_as_its_user() { target.memory(address, length) } else { Err(error) }
        });
        match bytes {
            Ok(bytes) => return Some(address::parse(&bytes)),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) => {
                let name = target.read("comm").unwrap_or_default();
                self.tell(BindNote::Unseen { process: name.trim_end().to_owned(), why: error.to_string() });
            }
            // The address is invalid, which the kernel will report, or the process has ended.
            Err(error) => log::debug!("cannot read the memory of thread {}: {error}", target.thread),
        }
        None
    }

    fn judge_bind(&mut self, target: BindTarget, wanted: &Wanted, held: &[Arc<Held>]) -> Verdict {
        let places: Vec<HeldPlace> = held.iter().map(|held| held.place.clone()).collect();
        if !answer::is_near(wanted, &places) {
            return Verdict::Bind;
        }
        let Some(inode) = target.inode() else { return Verdict::Bind };
        let duplicate = target.duplicate();
        let Some(socket) = target.socket(duplicate.as_ref()) else { return Verdict::Bind };
        let is_same_path = |place: &HeldPlace| match (wanted, &place.at) {
            (Wanted::Path(wanted), Wanted::Path(held)) => target.is_same_path(wanted, held),
            _ => false,
        };
        if let Some(number) = held.iter().position(|held| held.inode == inode) {
            // A signal interrupted the call after its socket was replaced, and the server repeats it. A bound socket
            // cannot be bound to another address, which the kernel reports.
            return match answer::answer(socket, wanted, &places[number..=number], is_same_path) {
                Answer::Held(_) => Verdict::Done,
                Answer::Wider(_) => Verdict::Done,
                Answer::Pass | Answer::WrongFamily(_) | Answer::Beside(_) => Verdict::Bind,
            };
        }
        let answer = answer::answer(socket, wanted, &places, is_same_path);
        match answer {
            Answer::Pass => Verdict::Bind,
            // If the server keeps its own socket, clients can at least reach it.
            Answer::Held(number) if !held[number].is_steered && held[number].is_gone() => Verdict::Bind,
            Answer::Held(number) => {
                let held = self.for_one_more_bind(&held[number], duplicate.as_ref());
                Verdict::Give(Gift { held, target, inode, duplicate, is_narrow: false })
            }
            Answer::WrongFamily(number) | Answer::Beside(number) | Answer::Wider(number) => {
                let Wanted::Inet(wanted) = wanted else { return Verdict::Pass };
                let (held, is_narrow) = match self.other_family(answer, &held[number], *wanted, inode) {
                    Some(held) => (held, false),
                    None if answer == Answer::Wider(number) => (Arc::clone(&held[number]), true),
                    None => return Verdict::Pass,
                };
                Verdict::Give(Gift { held, target, inode, duplicate, is_narrow })
            }
        }
    }

    /// The socket for another bind(2) of `held`. A UDP server may have connected its first one, so it gets a new one.
    fn for_one_more_bind(&self, held: &Arc<Held>, theirs: Option<&OwnedFd>) -> Arc<Held> {
        if held.place.kind != Kind::Udp || !held.is_given.load(Ordering::Relaxed) {
            return Arc::clone(held);
        }
        let may_connect = theirs.is_some_and(|theirs| getsockopt(theirs, sockopt::ReusePort) == Ok(false));
        let (answer, answered) = mpsc::channel();
        (self.tell)(News::Again { inode: held.inode, may_connect, answer });
        if answered.recv().is_err() {
            log::debug!("supervise is ending and makes no further socket for its server");
        }
        let now = self.common.held().into_iter().find(|one| one.place == held.place);
        now.unwrap_or_else(|| Arc::clone(held))
    }

    /// The socket for a server that binds `wanted` by the socket `inode`, whose family `held` does not fit.
    fn other_family(
        &mut self,
        answer: Answer,
        held: &Held,
        wanted: SocketAddr,
        inode: u64,
    ) -> Option<Arc<Held>> {
        let is_alone = self.common.is_alone.load(Ordering::Relaxed);
        let (families, may_be_opened) = match answer {
            Answer::WrongFamily(_) => (Families::V4, is_alone),
            // A socket of IPv6 alone is in nobody's way.
            Answer::Beside(_) => (Families::V6, true),
            Answer::Wider(_) => (Families::Both, is_alone),
            Answer::Pass | Answer::Held(_) => return None,
        };
        if may_be_opened && let Some(opened) = self.open(held, wanted, families) {
            return Some(opened);
        }
        if families == Families::V4
            && !is_alone
            && held.place.is_port
            && let Ok(stand_in) = stand_in(&held.place)
        {
            self.tell_beside(families, held, wanted, stand_in.inode, true);
            return Some(Arc::new(stand_in));
        }
        let has_then = if families == Families::Both { held.inode } else { inode };
        self.tell_beside(families, held, wanted, has_then, false);
        None
    }

    /// Has the event loop bind the socket that the server wants, since a bare port leaves the choice of families to it.
    fn open(&self, held: &Held, wanted: SocketAddr, families: Families) -> Option<Arc<Held>> {
        if !held.place.is_port {
            return None;
        }
        let (answer, answered) = mpsc::channel();
        (self.tell)(News::Family { inode: held.inode, wanted, families, answer });
        // There is no answer when supervise is ending.
        let held = Arc::new(answered.recv().ok()??);
        self.common.held.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&held));
        Some(held)
    }

    fn tell_beside(
        &mut self,
        families: Families,
        held: &Held,
        wanted: SocketAddr,
        inode: u64,
        is_bound: bool,
    ) {
        let socket = held.address.clone();
        // The address is written as --listen takes it.
        let udp = if held.place.kind == Kind::Udp { "udp:" } else { "" };
        let wanted = format!("{udp}{wanted}");
        let fails = families == Families::V4 && !is_bound && held.place.takes_ipv4;
        let note = match families {
            Families::V4 => BindNote::WrongFamily { socket, wanted },
            Families::V6 => BindNote::Beside { socket, wanted },
            Families::Both => BindNote::Narrow { socket, wanted },
        };
        if self.beside < NEWS {
            self.beside += 1;
            (self.tell)(News::Beside(Tried { note, inode, fails }));
        }
    }

    fn give(&mut self, call: &Call, gift: &Gift) -> io::Result<()> {
        let listener = self.listener.as_fd();
        let Gift { held, target, inode, duplicate, is_narrow } = gift;
        let Ok(flags) = target.flags() else { return self.let_bind(call) };
        let registrations = match duplicate {
            Some(_) => Registrations::of(*target, *inode),
            None => Registrations::default(),
        };
        // All of this was read by the thread's number.
        if !seccomp::is_waiting(listener, call.id) {
            return Err(Errno::ENOENT.into());
        }
        if held.is_steered || self.common.is_alone.load(Ordering::Relaxed) {
            held.become_like(duplicate.as_ref(), flags.non_blocking);
        }
        if held.is_gone() {
            self.have_paths_put_back();
        }
        let replaced =
            seccomp::replace(listener, call.id, held.socket.as_fd(), target.fd, flags.close_on_exec);
        if let Err(error) = replaced {
            log::debug!("cannot give {} to thread {}: {error}", held.address, call.thread);
            return self.let_bind(call);
        }
        held.is_given.store(true, Ordering::Relaxed);
        held.is_narrow.store(*is_narrow, Ordering::Relaxed);
        let renewed = registrations.renew(&held.socket, target.fd);
        log::debug!("thread {} gets {} in the place of its own socket", call.thread, held.address);
        let answered = seccomp::succeed(listener, call.id);
        let got_port = &self.common.has_got_port;
        if held.place.is_port && !got_port.swap(true, Ordering::Relaxed) {
            (self.tell)(News::GotPort(Arc::clone(got_port)));
        }
        if let Err(why) = renewed {
            self.tell(BindNote::Unregistered { socket: held.address.clone(), why });
        }
        answered
    }

    fn let_bind(&self, call: &Call) -> io::Result<()> {
        self.common.has_passed.store(true, Ordering::Relaxed);
        seccomp::pass(self.listener.as_fd(), call.id)
    }

    /// Has removed paths put back before bind(2) returns, because the server may chmod(2) its path at once. The event
    /// loop never waits for this thread, so this does not take long.
    fn have_paths_put_back(&self) {
        let (done, is_done) = mpsc::channel();
        (self.tell)(News::PathGone(done));
        if is_done.recv().is_err() {
            log::debug!("supervise is ending and puts no removed path back");
        }
    }

    /// Sends a note, up to a limit for servers that bind whatever there is.
    fn tell(&mut self, told: BindNote) {
        if self.told.len() < NEWS && !self.told.contains(&told) {
            self.told.push(told.clone());
            (self.tell)(News::Told(told));
        }
    }
}
