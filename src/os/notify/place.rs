//! The path of a NOTIFY_SOCKET: in a directory of ours that every user may search.
//!
//! The directory of the control sockets does not serve, because a server under `User=` cannot enter it. This one can
//! be searched by all and listed by us alone. Senders are judged by their credentials, so the socket itself may be
//! writable to everybody, as an abstract one would be.

use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::socket::{UnixAddr, bind};
use nix::unistd::geteuid;

use crate::os::control;
use crate::os::instances::SUN_PATH;

/// The mode of the directory: everybody may search it, only we may list or write it.
const DIRECTORY_MODE: u32 = 0o711;
/// The mode of the socket: everybody may send to it, since the credentials tell who did.
const SOCKET_MODE: u32 = 0o666;
/// How long we wait for another start that holds the lock of the directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// The most names that are tried. One that exists belongs to a supervise in another pid namespace.
const NAMES: u32 = 1000;
/// The most entries of one directory that are read.
const ENTRIES: usize = 4096;

/// The owner of /tmp as seen from a user namespace in which its uid is not mapped (kernel.overflowuid).
const UNMAPPED: u32 = 65534;

/// A number in each name, so that the sockets of one process differ.
static NUMBER: AtomicU32 = AtomicU32::new(1);
/// The directory of our first socket.
static FIRST: OnceLock<PathBuf> = OnceLock::new();

/// The path of a socket. Dropping it removes the file; its directory stays until [`leave`].
#[derive(Debug)]
pub(super) struct SocketFile {
    path: String,
    inode: (u64, u64),
    /// The pid that made it: a forked process must not remove it.
    owner: u32,
}

impl SocketFile {
    /// Binds `fd` in the first usable of `directories`.
    ///
    /// # Errors
    /// No directory is usable; the text has the reason for each.
    pub(super) fn bind(fd: &OwnedFd, directories: &[PathBuf]) -> Result<Self, String> {
        let mut reasons = Vec::new();
        for directory in directories {
            // Another supervise that ends may remove the directory after we made it, hence a second try.
            match Self::bind_in(fd, directory).or_else(|_| Self::bind_in(fd, directory)) {
                Ok(place) => return Ok(place),
                Err(reason) => reasons.push(format!("{}: {reason}", directory.display())),
            }
        }
        Err(reasons.join("; "))
    }

    fn bind_in(fd: &OwnedFd, directory: &Path) -> Result<Self, String> {
        let handle = usable(directory)?;
        // bind(2) makes the file before its socket; without the lock another start would take it for a left-over.
        let _lock = control::lock(handle, LOCK_PATIENCE);
        for _ in 0..NAMES {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!("{}.{number}", process::id()));
            let path = path.into_os_string().into_string().map_err(|_| "its name is no UTF-8".to_owned())?;
            if path.len() > SUN_PATH {
                return Err(format!("its name is too long (more than {SUN_PATH} bytes for the socket's)"));
            }
            let address = UnixAddr::new(path.as_str()).map_err(|errno| errno.desc().to_owned())?;
            match bind(fd.as_raw_fd(), &address) {
                Ok(()) => {
                    FIRST.get_or_init(|| directory.to_owned());
                    return Self::opened(path).map_err(|error| error.to_string());
                }
                Err(nix::errno::Errno::EADDRINUSE) => {}
                Err(errno) => return Err(format!("cannot be bound in: {}", errno.desc())),
            }
        }
        Err("has no name left".to_owned())
    }

    /// chmod(2), as bind(2) has applied the umask.
    fn opened(path: String) -> io::Result<Self> {
        let inode = inode(&path)?;
        let place = Self { path, inode, owner: process::id() };
        fs::set_permissions(&place.path, PermissionsExt::from_mode(SOCKET_MODE))?;
        Ok(place)
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// It is there as it was made.
    pub(super) fn is_as_new(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|found| {
            (found.dev(), found.ino()) == self.inode && found.mode() & 0o7777 == SOCKET_MODE
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.owner != process::id() || inode(&self.path).ok() != Some(self.inode) {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            log::debug!("cannot remove {}: {error}", self.path);
        }
    }
}

/// Removes the directories when supervise ends, except those in which another supervise has a socket.
pub(in crate::os) fn leave() {
    for directory in directories() {
        // An error means that it is not empty, was never made, or is not ours.
        let _kept = fs::remove_dir(directory);
    }
}

fn inode(path: &str) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// The directories, best first. In those that are open to all, somebody else may have taken the first name.
pub(super) fn directories() -> Vec<PathBuf> {
    let uid = geteuid().as_raw();
    let first = if uid == 0 {
        Some(PathBuf::from("/run"))
    } else {
        let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
        runtime.filter(|path| fs::metadata(path).is_ok_and(|found| found.uid() == uid))
    };
    let mut found: Vec<PathBuf> =
        first.into_iter().map(|directory| directory.join("supervise-notify")).collect();
    for suffix in ["", "-2", "-3"] {
        found.push(format!("/tmp/supervise-notify-{uid}{suffix}").into());
    }
    found.push(format!("/dev/shm/supervise-notify-{uid}").into());
    found
}

/// Opens `directory`, making it where it is absent, if it is ours and nobody else can replace it.
fn usable(directory: &Path) -> Result<File, String> {
    let us = geteuid().as_raw();
    if let Some(above) = directory.parent() {
        let found = fs::metadata(above).map_err(|error| error.to_string())?;
        let is_shared = found.mode() & 0o022 != 0 && found.mode() & 0o1000 == 0;
        if ![0, us, UNMAPPED].contains(&found.uid()) || is_shared {
            return Err(format!("others may replace it (chmod +t {} repairs it)", above.display()));
        }
    }
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let open = || OpenOptions::new().read(true).custom_flags(flags).open(directory);
    let opened = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(format!("cannot be created: {error}"));
                }
                Ok(()) | Err(_) => open(),
            }
        }
        opened => opened,
    };
    let handle = opened.map_err(|error| error.to_string())?;
    let found = handle.metadata().map_err(|error| error.to_string())?;
    if found.uid() != us {
        return Err(format!("belongs to uid {}", found.uid()));
    }
    if found.mode() & 0o7777 != DIRECTORY_MODE {
        // mkdir(2) has applied the umask, or somebody changed the mode.
        handle
            .set_permissions(PermissionsExt::from_mode(DIRECTORY_MODE))
            .map_err(|error| error.to_string())?;
    }
    Ok(handle)
}

/// Removes what a supervise that was killed has left where our first socket is. No start has to wait for that.
pub(in crate::os) fn sweep_left_over() {
    let Some(directory) = FIRST.get() else { return };
    let lock = File::open(directory).ok().and_then(|handle| control::lock(handle, Duration::ZERO));
    if lock.is_some() {
        sweep(directory);
    }
}

/// Removes the sockets of ours that no process has open.
fn sweep(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for path in entries.take(ENTRIES).filter_map(|entry| Some(entry.ok()?.path())) {
        let is_ours = fs::symlink_metadata(&path)
            .is_ok_and(|found| found.file_type().is_socket() && found.uid() == geteuid().as_raw());
        let refuses = || {
            let connected = UnixDatagram::unbound().and_then(|socket| socket.connect(&path));
            connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        };
        if is_ours
            && refuses()
            && let Err(error) = fs::remove_file(&path)
        {
            log::debug!("cannot remove {}: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_ours_and_open_for_passing() {
        let home = tempfile::tempdir().unwrap();
        let inside = home.path().join("inside");
        usable(&inside).unwrap();
        assert_eq!(fs::metadata(&inside).unwrap().mode() & 0o7777, 0o711);
        fs::set_permissions(&inside, PermissionsExt::from_mode(0o700)).unwrap();
        usable(&inside).unwrap();
        assert_eq!(fs::metadata(&inside).unwrap().mode() & 0o7777, 0o711);

        let link = home.path().join("link");
        std::os::unix::fs::symlink(&inside, &link).unwrap();
        usable(&link).unwrap_err();
        fs::set_permissions(home.path(), PermissionsExt::from_mode(0o777)).unwrap();
        assert!(usable(&inside).unwrap_err().contains("others may replace it"));
        fs::set_permissions(home.path(), PermissionsExt::from_mode(0o1777)).unwrap();
        usable(&inside).unwrap();
        if geteuid().is_root() {
            std::os::unix::fs::chown(&inside, Some(12345), None).unwrap();
            assert_eq!(usable(&inside).unwrap_err(), "belongs to uid 12345");
        }
    }

    #[test]
    fn only_what_nobody_has_open_is_swept() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        drop(UnixDatagram::bind(at("left")).unwrap());
        let _living = UnixDatagram::bind(at("living")).unwrap();
        let _stream = std::os::unix::net::UnixListener::bind(at("stream")).unwrap();
        fs::write(at("file"), "").unwrap();
        sweep(home.path());
        let is_there = ["left", "living", "stream", "file"].map(|name| at(name).exists());
        assert_eq!(is_there, [false, true, true, true]);
    }
}
