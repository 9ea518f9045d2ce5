//! The path of a NOTIFY_SOCKET: in a directory in which nobody else can replace it.
//!
//! The directory of the control sockets does not serve, because a server under `User=` cannot enter it. Senders are
//! judged by their credentials, so the socket itself may be writable to everybody, as an abstract one would be.

use std::env;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::socket::{UnixAddr, bind};

use crate::os::instances::SUN_PATH;
use crate::os::own;

/// What the names of the sockets begin with, before our pid and a number.
const PREFIX: &str = "supervise-notify-";
/// The mode of the socket: everybody may send to it, since the credentials tell who did.
const SOCKET_MODE: u32 = 0o666;
/// The most names that are tried. One that exists is that of a supervise in another pid namespace, or was left behind by a
/// supervise that was killed.
const NAMES: u32 = 1000;
/// The most sockets of one directory that are looked at.
const ENTRIES: usize = 4096;
/// bind(2) makes the file before its socket: a file this young may be one of a supervise that starts at this moment.
const YOUNG: Duration = Duration::from_secs(2);

/// The owner of /tmp as seen from a user namespace in which its uid is not mapped (kernel.overflowuid).
const UNMAPPED: u32 = 65534;

/// A number in each name, so that the sockets of one process differ.
static NUMBER: AtomicU32 = AtomicU32::new(1);
/// The directory of our first socket.
static FIRST: OnceLock<PathBuf> = OnceLock::new();

/// The path of a socket. Dropping it removes the file.
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
            match Self::bind_in(fd, directory) {
                Ok(place) => return Ok(place),
                Err(reason) => reasons.push(format!("{}: {reason}", directory.display())),
            }
        }
        Err(reasons.join("; "))
    }

    fn bind_in(fd: &OwnedFd, directory: &Path) -> Result<Self, String> {
        check(directory)?;
        for _ in 0..NAMES {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!("{PREFIX}{}.{number}", own::pid()));
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
        let place = Self { path, inode, owner: own::pid() };
        fs::set_permissions(&place.path, PermissionsExt::from_mode(SOCKET_MODE))?;
        Ok(place)
    }

    /// One that the program before us has made.
    pub(super) fn of(path: String, inode: (u64, u64)) -> Self {
        Self { path, inode, owner: own::pid() }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) const fn inode(&self) -> (u64, u64) {
        self.inode
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

fn inode(path: &str) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// The directories, best first.
pub(super) fn directories() -> Vec<PathBuf> {
    let own = if own::euid() == 0 {
        Some(PathBuf::from("/run"))
    } else {
        env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute())
    };
    own.into_iter().chain(["/tmp", "/dev/shm"].map(PathBuf::from)).collect()
}

/// Whether nobody else can replace a file of ours in `directory`.
fn check(directory: &Path) -> Result<(), String> {
    let found = fs::metadata(directory).map_err(|error| error.to_string())?;
    let is_shared = found.mode() & 0o022 != 0 && found.mode() & 0o1000 == 0;
    if ![0, own::euid(), UNMAPPED].contains(&found.uid()) || is_shared {
        return Err(format!(
            "others may replace the socket there (chmod +t {} repairs it)",
            directory.display()
        ));
    }
    Ok(())
}

/// Removes what a supervise that was killed has left where our first socket is. No start has to wait for that.
pub(in crate::os) fn sweep_left_over() {
    if let Some(directory) = FIRST.get() {
        sweep(directory, YOUNG);
    }
}

/// Removes the sockets of ours that are of some age and that no process has open.
fn sweep(directory: &Path, young: Duration) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    let is_one = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
    for entry in entries.flatten().filter(is_one).take(ENTRIES) {
        let path = entry.path();
        let is_ours = fs::symlink_metadata(&path).is_ok_and(|found| {
            let age = found.modified().ok().and_then(|made| made.elapsed().ok());
            found.file_type().is_socket() && found.uid() == own::euid() && age.is_some_and(|age| age >= young)
        });
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
    fn a_directory_is_one_in_which_nobody_else_replaces_files() {
        let home = tempfile::tempdir().unwrap();
        let mode = |mode| fs::set_permissions(home.path(), PermissionsExt::from_mode(mode)).unwrap();
        check(home.path()).unwrap();
        mode(0o777);
        assert!(check(home.path()).unwrap_err().contains("others may replace the socket"));
        mode(0o1777);
        check(home.path()).unwrap();
        if own::euid() == 0 {
            std::os::unix::fs::chown(home.path(), Some(12345), None).unwrap();
            assert!(check(home.path()).unwrap_err().contains("others may replace the socket"));
        }
    }

    #[test]
    fn only_what_nobody_has_open_is_swept() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(format!("{PREFIX}{name}"));
        drop(UnixDatagram::bind(at("left")).unwrap());
        drop(UnixDatagram::bind(home.path().join("another")).unwrap());
        let _living = UnixDatagram::bind(at("living")).unwrap();
        let _stream = std::os::unix::net::UnixListener::bind(at("stream")).unwrap();
        fs::write(at("file"), "").unwrap();
        sweep(home.path(), YOUNG);
        assert!(at("left").exists(), "it may be one that is being made");
        sweep(home.path(), Duration::ZERO);
        let is_there = ["left", "living", "stream", "file"].map(|name| at(name).exists());
        assert_eq!(is_there, [false, true, true, true]);
        assert!(home.path().join("another").exists());
    }
}
