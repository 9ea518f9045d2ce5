//! The control socket of one instance: its name, its path, and binding it again when it was removed.
//!
//! Looking for a living instance and binding are two system calls, and so are bind(2) and listen(2). A lock on the
//! directory around all of them keeps two supervisors that start at the same instant from getting the same name.
//! [`server`] speaks with the clients.

pub mod server;

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType};
use nix::sys::stat::{Mode, fchmod};

use super::instances::{self, Holder, Unusable};
use super::warning::{NOWHERE, Warn};
use crate::config::{Control, Instance};

/// How long a start waits for the lock, which another start holds for less than a millisecond.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_RETRY: Duration = Duration::from_millis(5);
/// The backlog of the control socket.
const BACKLOG: u32 = 128;
/// The highest number of NAME-2, NAME-3, ...
const NAMES: u32 = 9999;

/// Why a control socket that was asked for explicitly cannot be had; supervise then exits with 125.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlError(String);

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ControlError {}

/// A listening socket, with what is needed to notice its removal.
#[derive(Debug)]
pub struct ControlSocket {
    choice: Instance,
    dirs: Vec<PathBuf>,
    bound: BoundControl,
    /// `None` before [`ControlSocket::watch`], and where inotify cannot be had (fs.inotify.max_user_instances); then a
    /// removed socket is not bound again.
    watch: Option<Inotify>,
}

#[derive(Debug)]
struct BoundControl {
    name: String,
    path: PathBuf,
    listener: UnixListener,
    inode: DeviceAndInode,
}

type DeviceAndInode = (u64, u64);

impl ControlSocket {
    /// Binds the socket. `default_name` is the file name of the command. Returns `None` if none was wanted,
    /// or if no directory is usable, which is one warning in the log.
    ///
    /// # Errors
    /// An explicit name that another instance has or that is no name; an explicit path that is in use or cannot be
    /// bound; an unusable directory that the user named.
    pub fn open(choice: &Instance, default_name: &str) -> Result<Option<Self>, ControlError> {
        let dirs = instances::directories();
        Self::open_in(dirs, choice, default_name, instances::is_named())
    }

    /// [`ControlSocket::open`] with these directories, of which the user has named the only one or none.
    pub fn open_in(
        dirs: Vec<PathBuf>,
        choice: &Instance,
        default_name: &str,
        is_named: bool,
    ) -> Result<Option<Self>, ControlError> {
        let bound = match &choice.control {
            Control::None => return Ok(None),
            Control::Path(path) => bind_path(path, choice.name.as_deref(), LOCK_PATIENCE)?,
            Control::Search => {
                let default_name = instances::name_from(default_name);
                match search(&dirs, choice.name.as_deref(), &default_name, is_named, LOCK_PATIENCE)? {
                    FoundPath::Bound(bound) => bound,
                    FoundPath::Nowhere(reasons) => {
                        Warn::NoControl.because(reasons);
                        return Ok(None);
                    }
                }
            }
        };
        Ok(Some(Self { choice: choice.clone(), dirs, bound, watch: None }))
    }

    /// Begins to notice that the path is removed.
    pub fn watch(&mut self) {
        let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        self.watch = watch.inspect_err(|errno| Warn::WatchControl.because(errno.desc())).ok();
        self.watch_path();
    }

    /// The name of the instance: `node-2` where another one is called `node`.
    pub fn name(&self) -> &str {
        &self.bound.name
    }

    pub fn path(&self) -> &Path {
        &self.bound.path
    }

    /// The listener, which is non-blocking.
    pub fn listener(&self) -> &UnixListener {
        &self.bound.listener
    }

    /// The fd that becomes readable when [`ControlSocket::heal`] may have something to do.
    pub fn watch_fd(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(|watch| watch.as_fd())
    }

    /// Binds the socket again if its path is gone, and returns the listener it replaced, which the caller deregisters
    /// and closes. If the path is there, it costs two system calls.
    ///
    /// # Errors
    /// The path is gone and cannot be bound again. The old listener stays, and no event prompts another try.
    pub fn heal(&mut self) -> Result<Option<UnixListener>, ControlError> {
        while self.watch.as_ref().is_some_and(|watch| watch.read_events().is_ok()) {}
        if self.is_in_place() {
            return Ok(None);
        }
        let fresh = match &self.choice.control {
            Control::None => return Ok(None),
            Control::Path(path) => bind_path(path, self.choice.name.as_deref(), Duration::ZERO)?,
            Control::Search => {
                let name = self.choice.name.as_deref();
                match search(&self.dirs, name, &self.bound.name, false, Duration::ZERO)? {
                    FoundPath::Bound(bound) => bound,
                    FoundPath::Nowhere(reasons) => {
                        return Err(ControlError(format!("{reasons} ({NOWHERE})")));
                    }
                }
            }
        };
        let old = std::mem::replace(&mut self.bound, fresh);
        self.watch_path();
        Ok(Some(old.listener))
    }

    fn is_in_place(&self) -> bool {
        inode(&self.bound.path).is_ok_and(|found| found == self.bound.inode)
    }

    /// Watches the inode of the socket itself (unlink(2) changes its link count), so that a busy directory does not
    /// wake us, and the directory only for being moved.
    fn watch_path(&self) {
        let Some(watch) = &self.watch else { return };
        let path = &self.bound.path;
        let link = AddWatchFlags::IN_ATTRIB | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_DELETE_SELF;
        let mut watched = watch.add_watch(path, link | AddWatchFlags::IN_DONT_FOLLOW);
        if let (Ok(_), Some(dir)) = (watched, path.parent()) {
            watched = watch.add_watch(dir, AddWatchFlags::IN_MOVE_SELF);
        }
        match watched {
            // It is gone already, which `heal` notices.
            Ok(_) | Err(Errno::ENOENT) => {}
            Err(error) => Warn::WatchControl.because(error.desc()),
        }
    }
}

/// Removes the path, unless another process has replaced the file.
impl Drop for ControlSocket {
    fn drop(&mut self) {
        if self.is_in_place()
            && let Err(error) = fs::remove_file(&self.bound.path)
        {
            Warn::RemoveFile(&self.bound.path).because(error);
        }
    }
}

enum FoundPath {
    Bound(BoundControl),
    /// No directory is usable, with one reason for each.
    Nowhere(String),
}

/// The directory that SUPERVISE_RUNTIME_DIR names is not usable.
fn of_named(why: &Unusable) -> ControlError {
    let chmod = why.remedy.iter().map(|remedy| format!("{remedy}, ")).collect::<String>();
    ControlError(format!(
        "SUPERVISE_RUNTIME_DIR: {} ({chmod}name another directory, or pass --control PATH)",
        why.cause
    ))
}

/// Binds `explicit`, or the first free of `default`, `default-2`, ..., in the first usable directory.
fn search(
    dirs: &[PathBuf],
    explicit: Option<&str>,
    default: &str,
    is_named: bool,
    patience: Duration,
) -> Result<FoundPath, ControlError> {
    if let Some(name) = explicit.filter(|name| !instances::is_name(name)) {
        let rule = "1 to 64 characters, no `/`, no leading `.` or `-`";
        return Err(ControlError(format!("--name {name:?}: not a name ({rule})")));
    }
    let mut reasons = Vec::new();
    for dir in dirs {
        let bound = match instances::usable(dir, true) {
            Ok(handle) => {
                let _lock = lock(handle, patience);
                bind_in(dir, dirs, explicit, default)
            }
            Err(why) if is_named => return Err(of_named(&why)),
            Err(why) => Err(why.to_string()),
        };
        match bound {
            Ok(bound) => return bound.map(FoundPath::Bound),
            Err(reason) => {
                log::debug!("cannot put the control socket into a directory: {reason}");
                reasons.push(reason);
            }
        }
    }
    Ok(FoundPath::Nowhere(reasons.join("; ")))
}

/// The outer error is a reason to try the next directory; the inner one ends the search.
fn bind_in(
    dir: &Path,
    dirs: &[PathBuf],
    explicit: Option<&str>,
    default: &str,
) -> Result<Result<BoundControl, ControlError>, String> {
    if let Some(name) = explicit {
        let path = instances::socket_path(dir, name);
        return match taken(dir, &path, name, dirs) {
            Some(by) => Ok(Err(ControlError(format!("--name {name}: {by}")))),
            None => bind(path, name).map(Ok),
        };
    }
    for number in 1..=NAMES {
        let name = if number == 1 { default.to_owned() } else { format!("{default}-{number}") };
        let path = instances::socket_path(dir, &name);
        if taken(dir, &path, &name, dirs).is_none() {
            return bind(path, &name).map(Ok);
        }
    }
    Ok(Err(ControlError(format!("{default} to {default}-{NAMES} are all in use (choose another --name)"))))
}

/// Why `name` is taken in `dir`: an instance in one of the directories has it, or another file is at its path.
fn taken(dir: &Path, path: &Path, name: &str, dirs: &[PathBuf]) -> Option<String> {
    match instances::holder(path) {
        Holder::Nobody | Holder::Stale => {
            let found = instances::named(dirs.iter().filter(|other| *other != dir), name)?;
            Some(in_use(found.pid, &found.path))
        }
        Holder::Lives(pid) => Some(in_use(pid, path)),
        Holder::Foreign(why) => {
            Some(format!("{}: {why} (remove it, or choose another name)", path.display()))
        }
    }
}

fn in_use(pid: Option<i32>, path: &Path) -> String {
    let holder = pid.map_or_else(|| "another process".to_owned(), |pid| format!("pid {pid}"));
    format!("{} is in use by {holder} (stop it, or choose another name)", path.display())
}

/// Binds `--control PATH`. Nothing is required of its directory except that we may bind there.
fn bind_path(path: &Path, name: Option<&str>, patience: Duration) -> Result<BoundControl, ControlError> {
    let fail = |cause: String| ControlError(format!("--control {}: {cause}", path.display()));
    let path = std::path::absolute(path).map_err(|error| fail(error.to_string()))?;
    let Some(file) = path.file_name().map(|file| file.to_string_lossy().into_owned()) else {
        return Err(fail("is no file name".to_owned()));
    };
    let name = name.map_or_else(|| instances::name_from(file.trim_end_matches(".sock")), str::to_owned);
    let _lock = path.parent().and_then(|dir| File::open(dir).ok()).map(|dir| lock(dir, patience));
    match instances::holder(&path) {
        Holder::Nobody | Holder::Stale => {}
        Holder::Lives(pid) => return Err(ControlError(format!("--control {}", in_use(pid, &path)))),
        Holder::Foreign(why) => return Err(fail(format!("{why} (remove it, or choose another path)"))),
    }
    let remedy = match path.parent() {
        Some(directory) if !directory.exists() => format!("mkdir -p {}", directory.display()),
        _ => "choose another path".to_owned(),
    };
    bind(path, &name).map_err(|cause| ControlError(format!("--control {cause} ({remedy})")))
}

/// Locks a directory until the result is dropped. `None` after `patience`: the start goes on without, because in a
/// directory of others anybody may hold the lock for ever, and only two starts at the same instant need it.
pub(super) fn lock(dir: File, patience: Duration) -> Option<Flock<File>> {
    let end = Instant::now() + patience;
    let mut dir = dir;
    loop {
        match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Some(lock),
            Err((again, Errno::EWOULDBLOCK | Errno::EINTR)) if Instant::now() < end => dir = again,
            Err((_, error)) => {
                log::debug!("cannot lock the directory of a socket: {error}");
                return None;
            }
        }
        std::thread::park_timeout(LOCK_RETRY);
    }
}

/// Binds and listens, replacing a stale socket. The error is a sentence that names the path.
fn bind(path: PathBuf, name: &str) -> Result<BoundControl, String> {
    match listen(&path) {
        Ok((listener, inode)) => Ok(BoundControl { name: name.to_owned(), path, listener, inode }),
        Err(error) => Err(format!("{}: cannot be bound: {error}", path.display())),
    }
}

fn listen(path: &Path) -> io::Result<(UnixListener, DeviceAndInode)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // bind(2) gives the file the mode of the socket without the bits of the umask, so it is never open to others.
    fchmod(&fd, Mode::from_bits_truncate(instances::CONTROL_MODE))?;
    let bind = || instances::with_address(path, |address| socket::bind(fd.as_raw_fd(), address));
    match bind() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            fs::remove_file(path)?;
            bind()?;
        }
        bound => bound?,
    }
    let listening = fs::symlink_metadata(path).and_then(|made| {
        if made.mode() & 0o7777 != instances::CONTROL_MODE {
            fs::set_permissions(path, Permissions::from_mode(instances::CONTROL_MODE))?;
        }
        socket::listen(&fd, Backlog::new(BACKLOG.cast_signed())?)?;
        Ok((made.dev(), made.ino()))
    });
    match listening {
        Ok(inode) => Ok((UnixListener::from(fd), inode)),
        Err(error) => {
            fs::remove_file(path)?;
            Err(error)
        }
    }
}

fn inode(path: &Path) -> io::Result<DeviceAndInode> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests;
