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
mod desk;
mod epoll;
mod filter;
mod held;
mod saved;
mod target;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::socket::{Families, HeldSocket};
use super::sys::seccomp::Call;
use crate::core::BindNote;
use desk::Desk;
pub use filter::program;
pub use held::Held;
pub use saved::SavedInterceptor;

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
    desk: Mutex<DeskState>,
    /// Tells a thread that rests that it may go on.
    goes_on: Condvar,
}

/// What the thread is at.
#[derive(Debug, Default)]
struct DeskState {
    /// The number of its listener, as long as it has one.
    listener: Option<RawFd>,
    /// The call that it has received and not answered. The kernel gives it to nobody else.
    call: Option<Call>,
    /// It receives no further call: the program that takes our place does.
    rests: bool,
}

impl Common {
    fn new(held: Vec<Held>, is_alone: Arc<AtomicBool>) -> Arc<Self> {
        Arc::new(Self {
            held: Mutex::new(held.into_iter().map(Arc::new).collect()),
            is_alone,
            has_passed: AtomicBool::new(false),
            has_got_port: Arc::default(),
            desk: Mutex::default(),
            goes_on: Condvar::new(),
        })
    }

    fn desk(&self) -> MutexGuard<'_, DeskState> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

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
        Self::start(Common::new(held, is_alone), tell)
    }

    fn start(common: Arc<Common>, tell: impl Fn(News) + Send + 'static) -> io::Result<Self> {
        let ours = Arc::clone(&common);
        let (listener, receiver) = mpsc::channel();
        thread::Builder::new().name("intercept".to_owned()).stack_size(256 << 10).spawn(move || {
            // The sender is dropped if the process or its filter could not be made.
            if let Ok(listener) = receiver.recv() {
                Desk::new(listener, ours, Box::new(tell)).serve();
            }
        })?;
        Ok(Self { common, listener })
    }

    pub fn answer(&self, listener: OwnedFd) {
        self.common.desk().listener = Some(listener.as_raw_fd());
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
