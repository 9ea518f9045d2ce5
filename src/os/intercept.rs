//! InterceptBind=: the bind(2) of a server that does not know LISTEN_FDS is answered with the held socket.
//!
//! Each process that we start gets a seccomp `filter`, and for each filter one thread of ours answers
//! (seccomp_unotify(2)). `address` reads what the server wants, `target` looks at its socket, `answer` decides. It is a
//! thread because reading the memory of another process or replacing an fd in it can take as long as that process likes
//! (a page of a file system that does not answer, an SO_LINGER of the replaced fd).
//!
//! It is a convenience and no sandbox: the kernel reads again what was read here, and a process that changes it in
//! between gets what it would have got without us, or a socket that was passed to it anyway.

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
use super::warning::Warn;
use crate::config::Kind;
use crate::core::BindNote;
use address::Wanted;
use answer::{Answer, HeldPlace};
use epoll::Registrations;
pub use filter::program;
pub use held::Held;
use held::stand_in;
use target::BindTarget;

/// The most notes that one filter may cause.
const NEWS: usize = 16;

/// What the thread tells the event loop.
#[derive(Debug)]
pub enum News {
    /// A note for the log; each comes once for a filter.
    Told(BindNote),
    /// The server binds something beside the held sockets and may do so; whether that needs a word shows later.
    Beside(Tried),
    /// The server binds `wanted`, of families that the held socket with this inode does not have. The answer is the
    /// socket for those families, or `None` where there can be none.
    Family { inode: u64, wanted: SocketAddr, families: Families, answer: Sender<Option<Held>> },
    /// The server binds the UDP socket with this inode once more. The answer comes when the slot has another socket for
    /// it. `may_connect`: it does not share its datagrams by SO_REUSEPORT, so we may connect the socket that it has.
    Again { inode: u64, may_connect: bool, answer: Sender<()> },
    /// The server has got the socket of a bare port, whose families may not be known yet. Not sent again while the flag
    /// is `true`.
    GotPort(Arc<AtomicBool>),
    /// The server has removed the path that it binds. The answer comes when all paths are back.
    PathGone(Sender<()>),
}

/// A bind(2) that was let through, or that was answered with less than it wants.
#[derive(Clone, Debug)]
pub struct Tried {
    pub note: BindNote,
    /// The inode of the socket that the server then has.
    pub inode: u64,
    /// Whether it fails because a held socket is in the way.
    pub fails: bool,
}

/// Answers the calls of one filter for as long as a process is under it. Dropping it lets all later calls pass.
#[derive(Debug)]
pub struct Interceptor {
    common: Arc<Common>,
    listener: Sender<OwnedFd>,
}

/// The state that the thread and the event loop share.
#[derive(Debug)]
struct Common {
    held: Mutex<Vec<Arc<Held>>>,
    /// Whether no other generation exists, so that sockets that are not steered belong to this one alone.
    is_alone: Arc<AtomicBool>,
    /// Whether a bind(2) was let through that may fail because of a held socket, without a note about it.
    has_passed: AtomicBool,
    /// Whether the event loop has not yet been told that the server got the socket of a bare port.
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
    /// Starts the thread that waits for the listener of a filter to be installed; under a filter that nobody answers
    /// a process could bind nothing. The thread calls `tell`.
    ///
    /// # Errors
    /// No further thread can be created.
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
            // The sender is dropped if the process or its filter could not be made.
            if let Ok(listener) = receiver.recv() {
                Desk { listener, common: ours, tell: Box::new(tell), told: Vec::new(), beside: 0 }.serve();
            }
        })?;
        Ok(Self { common, listener })
    }

    pub fn answer(&self, listener: OwnedFd) {
        self.listener.send(listener).expect("the thread waits for it");
    }

    /// Whether the server was given this socket in place of its own.
    pub fn has_given(&self, socket: &HeldSocket) -> bool {
        let is_it = |held: &Held| held.place.kind == socket.kind && held.address == socket.address;
        self.common.held().iter().any(|held| is_it(held) && held.is_given.load(Ordering::Relaxed))
    }

    /// Whether the server has the socket with this inode and wanted more when it last bound it.
    pub fn is_narrow(&self, inode: u64) -> bool {
        self.common.held().iter().any(|held| held.inode == inode && held.is_narrow.load(Ordering::Relaxed))
    }

    /// Replaces the socket with this inode by another for the same address.
    pub fn exchange(&self, inode: u64, new: Held) {
        let mut held = self.common.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = held.iter_mut().find(|held| held.inode == inode) {
            *old = Arc::new(new);
        }
    }

    /// Removes a socket that is not held any more.
    pub fn forget(&self, inode: u64) {
        let mut held = self.common.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|one| one.inode != inode);
    }

    /// Whether the server may have met EADDRINUSE without a note about it.
    pub fn may_have_failed(&self) -> bool {
        self.common.has_passed.load(Ordering::Relaxed)
    }
}

/// The state of the thread.
struct Desk {
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
    fn serve(mut self) {
        // Signals are handled by the main thread.
        if let Err(errno) = SigSet::all().thread_block() {
            log::debug!("the thread of InterceptBind= cannot block signals: {}", errno.desc());
        }
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
        let call = match seccomp::receive(self.listener.as_fd()) {
            Ok(call) => call,
            // The call was interrupted meanwhile.
            Err(error) => return log::trace!("cannot receive a system call of a server: {error}"),
        };
        let held = self.common.held();
        let verdict = self.judge(&call, &held);
        let listener = self.listener.as_fd();
        let answered = match verdict {
            Verdict::Give(gift) => self.give(&call, &gift),
            // The listener was identified by the thread's number, so that thread must still be waiting.
            Verdict::Done if seccomp::is_waiting(listener, call.id) => seccomp::succeed(listener, call.id),
            Verdict::Bind => self.let_bind(&call),
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

/// Why a child could not have a filter, with the remedy.
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
