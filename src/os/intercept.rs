//! InterceptBind=: a server that binds for itself gets the held socket in the place of its own.
//!
//! Each process that we start has its `filter`, and each filter a thread of ours that answers it (seccomp_unotify(2)).
//! `address` reads what the server wants, `target` looks at its socket, `answer` decides. A thread and not the loop:
//! reading another's memory and putting an fd into it can take as long as that other likes (a page of a file system
//! that does not answer, an SO_LINGER of what was in the place), and nothing else must wait for that.
//!
//! It is a convenience and no sandbox: what is read here is read again by the kernel, and whoever lies about it gets
//! what he would have got without us, or a socket that was passed to him anyway.

mod address;
mod answer;
mod epoll;
mod filter;
mod held;
mod target;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::socket::{getsockopt, sockopt};

use super::socket::{Families, HeldSocket};
use super::sys::seccomp::{self, Call};
use crate::config::Kind;
use crate::core::BindNote;
use address::Wanted;
use answer::{Answer, HeldPlace};
use epoll::Registrations;
pub use filter::program;
pub use held::Held;
use held::stand_in;
use target::BindTarget;

/// What one filter has to tell in all its life.
const NEWS: usize = 16;

/// From the thread to the loop.
#[derive(Debug)]
pub enum News {
    /// Each once in the life of a filter.
    Told(BindNote),
    /// The server binds something beside what is held, and is let: whether that is worth a word is known later.
    Beside(Tried),
    /// It binds `wanted`, of families that the held socket with this inode has not, or not alone: wants an answer, the
    /// socket of those families, or None where there can be none.
    Family { inode: u64, wanted: SocketAddr, families: Families, answer: Sender<Option<Held>> },
    /// It binds the UDP socket with this inode once more: wants an answer when the slot has the socket that it is to get.
    /// `may_connect`: it does not say by SO_REUSEPORT that several share what comes, so we may connect the one it has.
    Again { inode: u64, may_connect: bool, answer: Sender<()> },
    /// The server has got the socket of a port alone, the families of which may not be known yet. It is not told again
    /// before this was set to false.
    GotPort(Arc<AtomicBool>),
    /// The server has removed the path that it binds: wants an answer when all paths are where they belong.
    PathGone(Sender<()>),
}

/// A bind(2) of the server's own that is let through, or answered with less than it wants.
#[derive(Clone, Debug)]
pub struct Tried {
    pub note: BindNote,
    /// Of the socket that the server has then.
    pub inode: u64,
    /// What is held is in the way of it.
    pub fails: bool,
}

/// Answers the calls of one filter for as long as somebody is under it. Dropped: lets all of them pass from then on,
/// and closes its sockets.
#[derive(Debug)]
pub struct Interceptor {
    common: Arc<Common>,
    listener: Sender<OwnedFd>,
}

/// What the thread and the loop both have.
#[derive(Debug)]
struct Common {
    held: Mutex<Vec<Arc<Held>>>,
    /// There is no other generation, so that what is not steered is this one's alone.
    is_alone: Arc<AtomicBool>,
    /// It was let bind something for itself, what is held may be in the way of that, and it was not told of.
    has_passed: AtomicBool,
    /// The loop has not heard yet that it has got the socket of a port alone.
    has_got_port: Arc<AtomicBool>,
}

impl Common {
    fn held(&self) -> Vec<Arc<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Interceptor {
    fn drop(&mut self) {
        self.common.held.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Interceptor {
    /// Waits for the listener of a filter that is yet to be installed: a process under one that nobody answers can bind
    /// nothing. `tell` is called by the thread that does.
    ///
    /// # Errors
    /// There can be no further thread.
    pub fn new(
        held: Vec<Held>,
        is_alone: Arc<AtomicBool>,
        tell: impl Fn(News) + Send + 'static,
    ) -> io::Result<Self> {
        let held = Mutex::new(held.into_iter().map(Arc::new).collect());
        let common = Arc::new(Common {
            held,
            is_alone,
            has_passed: AtomicBool::new(false),
            has_got_port: Arc::default(),
        });
        let ours = Arc::clone(&common);
        let (listener, receiver) = mpsc::channel();
        thread::Builder::new().name("intercept".to_owned()).stack_size(256 << 10).spawn(move || {
            // None comes where the process or its filter could not be had.
            if let Ok(listener) = receiver.recv() {
                Desk { listener, common: ours, tell: Box::new(tell), told: Vec::new(), beside: 0 }.serve();
            }
        })?;
        Ok(Self { common, listener })
    }

    pub fn answer(&self, listener: OwnedFd) {
        self.listener.send(listener).expect("the thread waits for it");
    }

    /// The server has this socket in the place of one of its own.
    pub fn has_given(&self, socket: &HeldSocket) -> bool {
        let is_it = |held: &Held| held.place.kind == socket.kind && held.address == socket.address;
        self.common.held().iter().any(|held| is_it(held) && held.is_given.load(Ordering::Relaxed))
    }

    /// The server has it, and wanted more when it bound it last.
    pub fn is_narrow(&self, inode: u64) -> bool {
        self.common.held().iter().any(|held| held.inode == inode && held.is_narrow.load(Ordering::Relaxed))
    }

    /// The generation has another socket for the address of the one with this inode.
    pub fn exchange(&self, inode: u64, new: Held) {
        let mut held = self.common.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = held.iter_mut().find(|held| held.inode == inode) {
            *old = Arc::new(new);
        }
    }

    /// It is not held any more.
    pub fn forget(&self, inode: u64) {
        let mut held = self.common.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|one| one.inode != inode);
    }

    /// The server may have met an address in use, and was not told of.
    pub fn may_have_failed(&self) -> bool {
        self.common.has_passed.load(Ordering::Relaxed)
    }
}

/// What the thread has.
struct Desk {
    listener: OwnedFd,
    common: Arc<Common>,
    tell: Box<dyn Fn(News) + Send>,
    told: Vec<BindNote>,
    /// How much was told of what the server binds beside.
    beside: usize,
}

/// What a server gets in the place of its own socket.
struct Gift {
    held: Arc<Held>,
    target: BindTarget,
    /// The inode of its own socket, and that itself where we may have it.
    inode: u64,
    duplicate: Option<OwnedFd>,
    /// It wants more than that.
    is_narrow: bool,
}

/// What is done about a call.
enum Verdict {
    /// The kernel goes on as if we were not there.
    Pass,
    /// So it does, and the server may meet what is held.
    Bind,
    /// Nothing is to be done: it has what it asks for.
    Done,
    Give(Gift),
}

impl Desk {
    fn serve(mut self) {
        // Signals are for the main thread.
        if let Err(errno) = SigSet::all().thread_block() {
            log::debug!("cannot block signals: {}", errno.desc());
        }
        loop {
            let mut fds = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return log::warn!("cannot wait for what a server binds: {}", errno.desc()),
            }
            let events = fds[0].revents().unwrap_or(PollFlags::empty());
            if events.contains(PollFlags::POLLIN) {
                self.next();
            } else if events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL) {
                // Nobody is left under the filter.
                return;
            }
        }
    }

    fn next(&mut self) {
        let call = match seccomp::receive(self.listener.as_fd()) {
            Ok(call) => call,
            // It went away meanwhile.
            Err(error) => return log::trace!("seccomp: {error}"),
        };
        let held = self.common.held();
        let verdict = self.judge(&call, &held);
        let listener = self.listener.as_fd();
        let answered = match verdict {
            Verdict::Give(gift) => self.give(&call, &gift),
            // Read by its number: was it still that thread?
            Verdict::Done if seccomp::is_waiting(listener, call.id) => seccomp::succeed(listener, call.id),
            Verdict::Bind => self.let_bind(&call),
            Verdict::Done | Verdict::Pass => seccomp::pass(listener, call.id),
        };
        if let Err(error) = answered {
            // ENOENT: a signal took it out of the call, or it is gone.
            log::debug!("a system call of thread {} went unanswered: {error}", call.thread);
        }
    }

    fn judge(&mut self, call: &Call, held: &[Arc<Held>]) -> Verdict {
        // An fd is an int, whatever else the register has.
        let target = BindTarget { thread: call.thread, fd: call.args[0] as RawFd };
        if call.thread == 0 || target.fd < 0 || held.is_empty() {
            return Verdict::Pass;
        }
        if call.number == libc::SYS_listen {
            let inode = target.inode();
            // Ours listens already, and as long as it was asked for.
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

    /// None: it cannot be read. Some(None): it is none that could be held.
    fn read_wanted(&mut self, target: BindTarget, address: u64, length: usize) -> Option<Option<Wanted>> {
        let bytes = target.memory(address, length).or_else(|error| {
            // Another user's, and we are root without CAP_SYS_PTRACE, as in containers: root may act as that user.
            if target.act_as_its_user() { target.memory(address, length) } else { Err(error) }
        });
        match bytes {
            Ok(bytes) => return Some(address::parse(&bytes)),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) => {
                let name = target.read("comm").unwrap_or_default();
                self.tell(BindNote::Unseen { process: name.trim_end().to_owned(), why: error.to_string() });
            }
            // Not its own memory, which the kernel will tell it, or it is gone.
            Err(error) => log::debug!("the memory of thread {}: {error}", target.thread),
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
            // A signal took the thread out of the call after we had put it there, and the call begins anew. What is bound
            // cannot be bound to another address, and the kernel says so.
            return match answer::answer(socket, wanted, &places[number..=number], is_same_path) {
                Answer::Held(_) => Verdict::Done,
                Answer::Wider(_) => Verdict::Done,
                Answer::Pass | Answer::WrongFamily(_) | Answer::Beside(_) => Verdict::Bind,
            };
        }
        let answer = answer::answer(socket, wanted, &places, is_same_path);
        match answer {
            Answer::Pass => Verdict::Bind,
            // With a socket of its own it can at least be reached.
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

    /// A UDP server that has `held` already may have connected it to a client, and shall get another.
    fn for_one_more_bind(&self, held: &Arc<Held>, theirs: Option<&OwnedFd>) -> Arc<Held> {
        if held.place.kind != Kind::Udp || !held.is_given.load(Ordering::Relaxed) {
            return Arc::clone(held);
        }
        let may_connect = theirs.is_some_and(|theirs| getsockopt(theirs, sockopt::ReusePort) == Ok(false));
        let (answer, answered) = mpsc::channel();
        (self.tell)(News::Again { inode: held.inode, may_connect, answer });
        if answered.recv().is_err() {
            log::debug!("supervise ends, and makes no further socket");
        }
        let now = self.common.held().into_iter().find(|one| one.place == held.place);
        now.unwrap_or_else(|| Arc::clone(held))
    }

    /// For a server that binds `wanted` with the socket `inode`, which `held` is not made for. None: it gets none.
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
            // It is in nobody's way.
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

    /// What the server wants, bound by the loop: for a port alone was asked, so that it may say which families that has.
    fn open(&self, held: &Held, wanted: SocketAddr, families: Families) -> Option<Arc<Held>> {
        if !held.place.is_port {
            return None;
        }
        let (answer, answered) = mpsc::channel();
        (self.tell)(News::Family { inode: held.inode, wanted, families, answer });
        // Nobody answers once supervise ends.
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
        // As --listen has it.
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
        // All of this was read by a number.
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
            log::debug!("thread {} cannot get {}: {error}", call.thread, held.address);
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

    /// Who binds a path may chmod(2) it at once. The loop never waits for us, so this is over soon.
    fn have_paths_put_back(&self) {
        let (done, is_done) = mpsc::channel();
        (self.tell)(News::PathGone(done));
        if is_done.recv().is_err() {
            log::debug!("supervise ends, and puts no path back any more");
        }
    }

    /// A server that binds whatever there is has not more to tell than one that is honest.
    fn tell(&mut self, told: BindNote) {
        if self.told.len() < NEWS && !self.told.contains(&told) {
            self.told.push(told.clone());
            (self.tell)(News::Told(told));
        }
    }
}

/// Why a child could not have a filter, and what to do about it.
pub fn why_not(error: &io::Error) -> String {
    let cause = match error.raw_os_error() {
        Some(libc::EBUSY) => {
            "something above us intercepts system calls already, and the kernel allows one of these in a line of \
             processes (leave it to the outer one, or out)"
        }
        Some(libc::EINVAL) => filter::OLD_KERNEL,
        Some(libc::ENOSYS) => "this kernel has no seccomp(2) (pass the sockets as LISTEN_FDS instead)",
        Some(libc::EPERM | libc::EACCES) => {
            "a sandbox round us forbids seccomp(2) (allow it there, or pass the sockets as LISTEN_FDS instead)"
        }
        _ => return format!("cannot install a seccomp filter: {error}; the server runs without it"),
    };
    cause.to_owned()
}
