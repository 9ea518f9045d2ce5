//! Binds the AF_UNIX sockets to be held, at paths and abstract names, and removes a dead socket that is in the way.
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

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, connect, socket};
use nix::sys::stat::{Mode, fchmod};

use super::node::{Inode, LONGEST_PATH, OwnPath, magic_link, make_directories, open_inode, remove_inode};
use super::options::{self, Family, errno_of};
use super::{BindError, holder};
use crate::config::{Listener, Semantics, SocketOptions};
use crate::os::warning::Warn;
use crate::os::{sys, users};

pub(super) fn hold_path(
    listener: &Listener,
    path: &Path,
    options: &SocketOptions,
) -> Result<(OwnedFd, OwnPath), BindError> {
    let owner = prepare_path(listener, path)?;
    let fd = bind_path(listener, path, true)?;
    let mut own = OwnPath::of(path).map_err(|error| BindError::io(listener, path, &error))?;
    dress(listener, &own, owner)?;
    listen(listener, &fd, options)?;
    make_symlinks(listener, &mut own);
    Ok((fd, own))
}

/// Who is to own the node, as numbers; None leaves that one as it is.
pub(super) type Owner = (Option<u32>, Option<u32>);

/// All that can be known and made before anything is bound at `path`.
pub(super) fn prepare_path(listener: &Listener, path: &Path) -> Result<Owner, BindError> {
    if path.as_os_str().len() > LONGEST_PATH {
        return Err(BindError::path_too_long(listener, path));
    }
    if !path.is_absolute() || path.file_name().is_none() {
        return Err(BindError::not_a_file_name(listener, path));
    }
    let owner = owner(listener, &listener.options)?;
    make_directories(path, listener.options.directory_mode)
        .map_err(|(directory, error)| BindError::directory(listener, &directory, &error))?;
    Ok(owner)
}

/// A new socket bound at `path`, from where a dead one makes way. `says` tells of options that could not be set.
pub(super) fn bind_path(listener: &Listener, path: &Path, says: bool) -> Result<OwnedFd, BindError> {
    let fd = prepared(listener, &listener.options, says)?;
    // The kernel gives the path the mode of the socket's own inode less the umask, so it is at no time more open than
    // asked for, and no process-wide umask has to be changed for it.
    fchmod(&fd, Mode::from_bits_truncate(listener.options.mode))
        .map_err(|errno| BindError::plain(listener, "SocketMode=", errno))?;
    let address = UnixAddr::new(path).map_err(|errno| BindError::path(listener, path, errno))?;
    let mut result = bind(fd.as_raw_fd(), &address);
    if result == Err(Errno::EADDRINUSE) {
        make_way(listener, path)?;
        result = bind(fd.as_raw_fd(), &address);
    }
    result.map_err(|errno| BindError::path(listener, path, errno))?;
    Ok(fd)
}

/// Mode first: who has given a node away may not change it any more.
pub(super) fn dress(listener: &Listener, own: &OwnPath, (user, group): Owner) -> Result<(), BindError> {
    let path = own.path();
    own.set_mode(listener.options.mode).map_err(|error| BindError::io(listener, path, &error))?;
    if user.is_some() || group.is_some() {
        own.set_owner(user, group).map_err(|error| BindError::cannot_give(listener, path, &error))?;
    }
    Ok(())
}

pub(super) fn make_symlinks(listener: &Listener, own: &mut OwnPath) {
    for link in &listener.options.symlinks {
        // The start goes on without the link, as it does in systemd.
        if let Err(error) = own.link(link, listener.options.directory_mode) {
            Warn::Link(&listener.place, link).because(error);
        }
    }
}

/// SocketUser=, with its own group where SocketGroup= names no other, as numbers.
fn owner(listener: &Listener, options: &SocketOptions) -> Result<Owner, BindError> {
    let user = options.user.as_deref().map(users::find_user).transpose();
    let user = user.map_err(|cause| BindError::no_owner(listener, "SocketUser=", &cause))?;
    let group = options.group.as_deref().map(users::find_group).transpose();
    let group = group.map_err(|cause| BindError::no_owner(listener, "SocketGroup=", &cause))?;
    let own_group = user.as_ref().and_then(|user| user.gid);
    Ok((user.map(|user| user.uid), group.or(own_group)))
}

pub(super) fn hold_abstract(
    listener: &Listener,
    name: &str,
    options: &SocketOptions,
) -> Result<OwnedFd, BindError> {
    let fd = prepared(listener, options, true)?;
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

fn prepared(listener: &Listener, options: &SocketOptions, says: bool) -> Result<OwnedFd, BindError> {
    let kind = match listener.kind.semantics() {
        Some(Semantics::Datagram) => SockType::Datagram,
        Some(Semantics::SeqPacket) => SockType::SeqPacket,
        Some(Semantics::Stream) | None => SockType::Stream,
    };
    let fd = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|errno| BindError::plain(listener, "socket", errno))?;
    let refused = options::set(&fd, Family::Unix, listener.kind, options);
    if says {
        options::warn(listener, &refused);
    }
    Ok(fd)
}

pub(super) fn listen(listener: &Listener, fd: &OwnedFd, options: &SocketOptions) -> Result<(), BindError> {
    if !listener.kind.listens() {
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
        PeerAnswer::Nobody => {}
        PeerAnswer::Somebody => return Err(in_use(listener, path)),
        PeerAnswer::Unknown(errno) => return Err(BindError::cannot_ask(listener, path, errno)),
    }
    let still_dead = || matches!(probe(&there), Ok(PeerAnswer::Nobody));
    match remove_inode(path, Inode::of(&metadata), still_dead) {
        Ok(true) => Ok(()),
        Ok(false) => Err(in_use(listener, path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(BindError::cannot_remove(listener, path, &error)),
    }
}

pub(super) fn in_use(listener: &Listener, path: &Path) -> BindError {
    let holder = holder::of_unix_name(path.as_os_str().as_encoded_bytes());
    BindError::in_use(listener, &path.display().to_string(), &holder)
}

enum PeerAnswer {
    Nobody,
    Somebody,
    Unknown(Errno),
}

fn probe(inode: &File) -> nix::Result<PeerAnswer> {
    let asker = socket(
        AddressFamily::Unix,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        None,
    )?;
    let address = UnixAddr::new(&magic_link(inode))?;
    Ok(match connect(asker.as_raw_fd(), &address) {
        Err(Errno::ECONNREFUSED) => PeerAnswer::Nobody,
        // EPERM: a datagram socket that is connected to another one.
        Ok(()) | Err(Errno::EPROTOTYPE | Errno::EPERM | Errno::EAGAIN) => PeerAnswer::Somebody,
        Err(errno) => PeerAnswer::Unknown(errno),
    })
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
