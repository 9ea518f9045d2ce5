//! The directory beside a public path in which each slot's socket has a name of its own.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::super::node::LONGEST_PATH;
use super::super::node::make_directory;
use super::super::saved::SavedHidden;
use crate::core::SlotId;
use crate::core::limits::GENERATIONS;
use crate::os::own;
use crate::os::saved::KeptFds;
use crate::os::sys::left::LeftFds;
use crate::os::warning::Warn;

/// The name of a link on its way to the public path.
const NEW: &str = "new";

/// `.NAME.supervise`, which only we may enter. The lock on it is ours as long as we live, so one that can be had marks
/// what a dead supervisor has left. Removed when dropped.
#[derive(Debug)]
pub(super) struct Hidden {
    path: PathBuf,
    directory: Flock<File>,
}

/// Why there is no such directory.
#[derive(Debug)]
pub(super) enum NoDirectory {
    /// Another supervisor uses the directory.
    InUse,
    Because(String),
}

impl Hidden {
    /// Makes it, or takes it over from a predecessor that is dead, whose nodes are gone then.
    pub(super) fn make(public: &Path) -> Result<Self, NoDirectory> {
        let mut name = OsString::from(".");
        name.push(public.file_name().unwrap_or_default());
        name.push(".supervise");
        let path = public.with_file_name(name);
        let because = |what: &str| NoDirectory::Because(format!("{} {what}", path.display()));
        let failed = |error: io::Error| because(&format!("cannot be made: {error}"));
        make_directory(&path, 0o700).map_err(failed)?;
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let directory = OpenOptions::new().read(true).custom_flags(flags).open(&path).map_err(failed)?;
        let metadata = directory.metadata().map_err(failed)?;
        if metadata.uid() != own::euid() || metadata.mode() & 0o077 != 0 {
            return Err(because("belongs to somebody else"));
        }
        let directory = match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(directory) => directory,
            Err((_, Errno::EWOULDBLOCK)) => return Err(NoDirectory::InUse),
            Err((_, errno)) => return Err(because(&format!("cannot be locked: {}", errno.desc()))),
        };
        let nodes = left_overs(&path).map_err(failed)?;
        let Some(nodes) = nodes else { return Err(because("has files that are not ours")) };
        let hidden = Self { path, directory };
        // A predecessor that ends just now has removed it.
        if !hidden.is_there() {
            return Err(NoDirectory::InUse);
        }
        for node in nodes {
            fs::remove_file(&node).map_err(|error| {
                NoDirectory::Because(format!("{} cannot be removed: {error}", node.display()))
            })?;
        }
        Ok(hidden)
    }

    pub(super) fn save(&self, fds: &mut KeptFds) -> SavedHidden {
        SavedHidden { path: self.path.clone(), directory: fds.keep(&*self.directory) }
    }

    /// # Errors
    /// A sentence: its fd is missing, or somebody else has the lock.
    pub(super) fn from_saved(
        SavedHidden { path, directory }: SavedHidden,
        fds: &mut LeftFds,
    ) -> Result<Self, String> {
        let directory = File::from(fds.take(directory)?);
        // The same open file has it already.
        let locked = Flock::lock(directory, FlockArg::LockExclusiveNonblock);
        let directory =
            locked.map_err(|(_, errno)| format!("cannot lock {}: {}", path.display(), errno.desc()))?;
        Ok(Self { path, directory })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a slot's node.
    pub(super) fn of(&self, slot: SlotId) -> PathBuf {
        self.path.join(slot.0.to_string())
    }

    /// The path, short enough for sun_path, for every process that may look at our fds.
    pub(super) fn address(&self, slot: SlotId) -> PathBuf {
        let path = self.of(slot);
        if path.as_os_str().len() <= LONGEST_PATH {
            return path;
        }
        let (pid, fd) = (own::pid(), self.directory.as_raw_fd());
        PathBuf::from(format!("/proc/{pid}/fd/{fd}/{}", slot.0))
    }

    /// The name for a link that is to replace the public one; free.
    pub(super) fn new_link(&self) -> io::Result<PathBuf> {
        let path = self.path.join(NEW);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(path),
        }
    }

    /// Whether the directory still is where we made it.
    pub(super) fn is_there(&self) -> bool {
        let ours = self.directory.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
        let there = fs::symlink_metadata(&self.path).map(|metadata| (metadata.dev(), metadata.ino()));
        matches!((ours, there), (Ok(ours), Ok(there)) if ours == there)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if !self.is_there() {
            return;
        }
        let result = self.new_link().and_then(|_| fs::remove_dir(&self.path));
        if let Err(error) = result {
            Warn::RemoveFile(&self.path).because(error);
        }
    }
}

/// The nodes in a directory; None if there is anything that we never make.
fn left_overs(directory: &Path) -> io::Result<Option<Vec<PathBuf>>> {
    let mut nodes = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_name = name == NEW || (0..GENERATIONS).any(|slot| name == *slot.to_string());
        if !is_name || !entry.file_type()?.is_socket() {
            return Ok(None);
        }
        nodes.push(entry.path());
    }
    Ok(Some(nodes))
}
