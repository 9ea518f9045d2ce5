//! AF_UNIX: paths and abstract names.
//!
//! The socket is bound at its public path directly, not at a temporary name that is renamed into place: getsockname(2)
//! and a client's getpeername(2) would show the temporary name for ever, and servers print it, compare it with their
//! configuration, or hand it to clients. bind(2) never replaces anything, so the only delicate moment is the removal
//! of a dead socket that a crashed server left behind:
//!
//! * Whether anybody answers is asked with a *datagram* connect(2), whatever the type of the socket: the kernel looks
//!   the owner up first and compares types after. ECONNREFUSED then means that no process has this inode bound.
//!   EPROTOTYPE or success means that one has, even if it does not listen yet, and a live server is not bothered
//!   with a connection.
//! * The question goes to the inode, through an O_PATH fd, which also keeps the inode number from being used again.
//! * Nothing can remove a name on the condition that it still is a certain inode. So it is renamed aside, looked at
//!   once more, and only then unlinked; what turns out to be something else is linked back.

use std::fs::{self, File, OpenOptions, Permissions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, socket};
use nix::sys::stat::{Mode, fchmod};

use super::inet::{errno_of, set_buffers};
use super::{BindError, holder};
use crate::config::{Kind, Listener, SocketOptions};
use crate::os::sys;

/// sun_path without its NUL (unix(7)).
pub(super) const LONGEST_PATH: usize = 107;

/// A path we created, and the inode it had then.
#[derive(Debug, PartialEq, Eq)]
pub struct OwnPath {
    path: PathBuf,
    inode: Inode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Inode {
    device: u64,
    number: u64,
}

impl Inode {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), number: metadata.ino() }
    }
}

impl Drop for OwnPath {
    fn drop(&mut self) {
        if let Err(error) = self.unlink() {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

impl OwnPath {
    /// Remembers the inode just bound.
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_path_buf(), inode: Inode::of(&fs::symlink_metadata(path)?) })
    }

    /// Gives back the bits that the umask took away. Nobody can connect before listen(2).
    fn set_mode(&self, mode: u32) -> io::Result<()> {
        let there = open_inode(&self.path)?;
        let metadata = there.metadata()?;
        if Inode::of(&metadata) != self.inode {
            return Err(io::Error::other("somebody else has taken the path"));
        }
        if metadata.mode() & 0o7777 != mode & 0o7777 {
            fs::set_permissions(magic_link(&there), Permissions::from_mode(mode & 0o7777))?;
        }
        Ok(())
    }

    /// Whether the path still leads to our socket.
    pub fn is_ours(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|metadata| Inode::of(&metadata) == self.inode)
    }

    /// Removes the path if it still is ours; one that is gone or belongs to somebody else by now is left alone.
    fn unlink(&self) -> io::Result<()> {
        if !self.is_ours() {
            return Ok(());
        }
        match remove_inode(&self.path, self.inode, || true) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map(|_| ()),
        }
    }
}

pub(super) fn hold_path(
    listener: &Listener,
    path: &Path,
    options: &SocketOptions,
) -> Result<(OwnedFd, OwnPath), BindError> {
    if path.as_os_str().len() > LONGEST_PATH {
        return Err(BindError::path_too_long(listener, path));
    }
    if !path.is_absolute() || path.file_name().is_none() {
        return Err(BindError::not_a_file_name(listener, path));
    }
    let fd = prepared(listener, options)?;
    // The kernel gives the path the mode of the socket's own inode less the umask, so it is at no time more open than
    // asked for, and no process-wide umask has to be changed for it.
    fchmod(&fd, Mode::from_bits_truncate(options.mode))
        .map_err(|errno| BindError::plain(listener, "SocketMode=", errno))?;
    let address = UnixAddr::new(path).map_err(|errno| BindError::path(listener, path, errno))?;
    let mut result = bind(fd.as_raw_fd(), &address);
    if result == Err(Errno::EADDRINUSE) {
        make_way(listener, path)?;
        result = bind(fd.as_raw_fd(), &address);
    }
    result.map_err(|errno| BindError::path(listener, path, errno))?;
    let own = OwnPath::of(path).map_err(|error| BindError::io(listener, path, &error))?;
    own.set_mode(options.mode).map_err(|error| BindError::io(listener, path, &error))?;
    listen(listener, &fd, options)?;
    Ok((fd, own))
}

pub(super) fn hold_abstract(
    listener: &Listener,
    name: &str,
    options: &SocketOptions,
) -> Result<OwnedFd, BindError> {
    let fd = prepared(listener, options)?;
    let address = UnixAddr::new_abstract(name.as_bytes())
        .map_err(|errno| BindError::plain(listener, "the abstract name", errno))?;
    bind(fd.as_raw_fd(), &address).map_err(|errno| {
        if errno == Errno::EADDRINUSE {
            BindError::in_use(
                listener,
                &format!("@{name}"),
                &holder::of_unix_name(format!("@{name}").as_bytes()),
            )
        } else {
            BindError::plain(listener, "bind", errno)
        }
    })?;
    listen(listener, &fd, options)?;
    Ok(fd)
}

fn prepared(listener: &Listener, options: &SocketOptions) -> Result<OwnedFd, BindError> {
    let kind = match listener.kind {
        Kind::UnixGram => SockType::Datagram,
        Kind::SeqPacket => SockType::SeqPacket,
        _ => SockType::Stream,
    };
    let fd = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|errno| BindError::plain(listener, "socket", errno))?;
    set_buffers(&fd, options).map_err(|(step, errno)| BindError::plain(listener, step, errno))?;
    Ok(fd)
}

fn listen(listener: &Listener, fd: &OwnedFd, options: &SocketOptions) -> Result<(), BindError> {
    if listener.kind == Kind::UnixGram {
        return Ok(());
    }
    sys::listen(fd, options.backlog).map_err(|error| BindError::plain(listener, "listen", errno_of(&error)))
}

/// Removes what is in the way if it is a dead socket; says what it is otherwise.
fn make_way(listener: &Listener, path: &Path) -> Result<(), BindError> {
    let explain = |error: &io::Error| BindError::io(listener, path, error);
    let there = match open_inode(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result.map_err(|error| explain(&error))?,
    };
    let metadata = there.metadata().map_err(|error| explain(&error))?;
    if !metadata.file_type().is_socket() {
        return Err(BindError::not_a_socket(listener, path, metadata.file_type()));
    }
    match probe(&there).map_err(|errno| BindError::plain(listener, "connect", errno))? {
        Answer::Nobody => {}
        Answer::Somebody => return Err(in_use(listener, path)),
        Answer::Unknown(errno) => return Err(BindError::cannot_ask(listener, path, errno)),
    }
    let still_dead = || matches!(probe(&there), Ok(Answer::Nobody));
    match remove_inode(path, Inode::of(&metadata), still_dead) {
        Ok(true) => Ok(()),
        Ok(false) => Err(in_use(listener, path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(BindError::cannot_remove(listener, path, &error)),
    }
}

fn in_use(listener: &Listener, path: &Path) -> BindError {
    let holder = holder::of_unix_name(path.as_os_str().as_encoded_bytes());
    BindError::in_use(listener, &path.display().to_string(), &holder)
}

enum Answer {
    Nobody,
    Somebody,
    Unknown(Errno),
}

fn probe(inode: &File) -> nix::Result<Answer> {
    let asker = socket(
        AddressFamily::Unix,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    let address = UnixAddr::new(&magic_link(inode))?;
    Ok(match connect(asker.as_raw_fd(), &address) {
        Err(Errno::ECONNREFUSED) => Answer::Nobody,
        // EPERM: a datagram socket that is connected to somebody else.
        Ok(()) | Err(Errno::EPROTOTYPE | Errno::EPERM | Errno::EAGAIN) => Answer::Somebody,
        Err(errno) => Answer::Unknown(errno),
    })
}

/// The inode itself, whatever it is and without opening it; a symbolic link is not followed.
fn open_inode(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)
}

/// A path that leads to an open inode whatever its name is now.
fn magic_link(inode: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", inode.as_raw_fd()))
}

/// Removes `path` if it is `wanted`, which the caller keeps open, and `sure` agrees; false: it was something else, and
/// is back where it was.
fn remove_inode(path: &Path, wanted: Inode, sure: impl FnOnce() -> bool) -> io::Result<bool> {
    let random = RandomState::new().build_hasher().finish();
    let aside = path.with_file_name(format!(".supervise-{random:016x}"));
    fs::rename(path, &aside)?;
    if Inode::of(&fs::symlink_metadata(&aside)?) == wanted && sure() {
        fs::remove_file(&aside)?;
        return Ok(true);
    }
    // A link, not a rename: it fails where a newcomer has taken the name.
    fs::hard_link(&aside, path).and_then(|()| fs::remove_file(&aside)).map_err(|error| {
        io::Error::new(error.kind(), format!("what was there is now {}: {error}", aside.display()))
    })?;
    Ok(false)
}

/// A unix address as text, abstract names with `@` as systemd writes them.
pub(super) fn name_of(address: &UnixAddr) -> String {
    if let Some(path) = address.path() {
        return path.display().to_string();
    }
    match address.as_abstract() {
        Some(name) => format!("@{}", name.escape_ascii()),
        None => "unnamed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn what_is_not_the_inode_meant_is_put_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sock");
        let _live = UnixListener::bind(&path).unwrap();
        let inode = Inode::of(&fs::symlink_metadata(&path).unwrap());
        let other = Inode { number: inode.number + 1, ..inode };
        assert!(!remove_inode(&path, other, || true).unwrap());
        assert!(!remove_inode(&path, inode, || false).unwrap());
        assert_eq!(Inode::of(&fs::symlink_metadata(&path).unwrap()), inode);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        UnixStream::connect(&path).unwrap();
        assert!(remove_inode(&path, inode, || true).unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
