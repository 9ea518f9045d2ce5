//! The node of a unix socket in the file system: its directories, mode, owner, symlinks, and its removal.
//!
//! Everything is done to the inode we bound, never to whatever the path leads to by now: the path may lie in a directory
//! where others write.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use nix::unistd::{Gid, Uid, fchownat};
use serde::{Deserialize, Serialize};

use crate::os::saved;
use crate::os::warning::Warn;

/// sun_path without its NUL (unix(7)).
pub(super) const LONGEST_PATH: usize = 107;

/// A path we created, and the inode it had then.
#[derive(Debug, PartialEq, Eq)]
pub struct OwnPath {
    path: PathBuf,
    inode: Inode,
    /// The links of Symlinks= that we made.
    links: Vec<PathBuf>,
    /// RemoveOnStop=; until all sockets are bound it is on, so that a failed start leaves nothing behind.
    removes: bool,
}

/// A path of ours as it goes over to the program that takes our place. Unlike [`OwnPath`], dropping it removes nothing.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedPath {
    #[serde(with = "saved::path")]
    path: PathBuf,
    inode: Inode,
    links: Vec<PathBuf>,
    removes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Inode {
    pub(super) device: u64,
    pub(super) number: u64,
}

/// What chmod(2) and chown(2) change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attributes {
    mode: u32,
    user: u32,
    group: u32,
}

impl Inode {
    pub(super) fn of(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), number: metadata.ino() }
    }
}

impl Drop for OwnPath {
    fn drop(&mut self) {
        if self.removes
            && let Err(error) = self.unlink()
        {
            Warn::RemoveFile(&self.path).because(error);
        }
    }
}

impl OwnPath {
    /// Remembers the inode of a path that was just bound.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        if !metadata.file_type().is_socket() {
            return Err(io::Error::other("somebody else has taken the path"));
        }
        Ok(Self::future(path, Inode::of(&metadata)))
    }

    /// A path that is to lead to this inode.
    pub(super) fn future(path: &Path, inode: Inode) -> Self {
        Self { path: path.to_path_buf(), inode, links: Vec::new(), removes: true }
    }

    pub(super) fn save(&self) -> SavedPath {
        let (path, links) = (self.path.clone(), self.links.clone());
        SavedPath { path, inode: self.inode, links, removes: self.removes }
    }

    pub(super) fn from_saved(SavedPath { path, inode, links, removes }: SavedPath) -> Self {
        Self { path, inode, links, removes }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The path, unless another process has replaced it, and Symlinks= to it.
    pub(super) fn made_paths(&self) -> Vec<PathBuf> {
        let own = Some(&self.path).filter(|_| self.is_ours());
        own.into_iter().chain(&self.links).cloned().collect()
    }

    pub(super) fn inode(&self) -> Inode {
        self.inode
    }

    /// The path leads to another inode of ours from now on.
    pub(super) fn follow(&mut self, inode: Inode) {
        self.inode = inode;
    }

    /// RemoveOnStop=
    pub(super) fn set_removes(&mut self, removes: bool) {
        self.removes = removes;
    }

    /// Our inode, kept open; an error where the path leads to another one by now.
    fn open(&self) -> io::Result<File> {
        let there = open_inode(&self.path)?;
        if Inode::of(&there.metadata()?) == self.inode {
            Ok(there)
        } else {
            Err(io::Error::other("somebody else has taken the path"))
        }
    }

    /// Restores the mode bits that the umask cleared. No client can connect before listen(2).
    pub(super) fn set_mode(&self, mode: u32) -> io::Result<()> {
        let there = self.open()?;
        if there.metadata()?.mode() & 0o7777 != mode & 0o7777 {
            fs::set_permissions(magic_link(&there), Permissions::from_mode(mode & 0o7777))?;
        }
        Ok(())
    }

    /// SocketUser= and SocketGroup=; `None` leaves the owner or the group as it is.
    pub(super) fn set_owner(&self, user: Option<u32>, group: Option<u32>) -> io::Result<()> {
        let there = self.open()?;
        let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
        Ok(fchownat(&there, "", user, group, AtFlags::AT_EMPTY_PATH)?)
    }

    /// Mode and owner of our inode, as they are now.
    pub(super) fn attributes(&self) -> io::Result<Attributes> {
        let metadata = self.open()?.metadata()?;
        Ok(Attributes { mode: metadata.mode() & 0o7777, user: metadata.uid(), group: metadata.gid() })
    }

    /// The owner last: who has given a node away may not change its mode any more.
    pub(super) fn set_attributes(&self, wanted: Attributes) -> io::Result<()> {
        let now = self.attributes()?;
        self.set_mode(wanted.mode)?;
        if (now.user, now.group) != (wanted.user, wanted.group) {
            self.set_owner(Some(wanted.user), Some(wanted.group))?;
        }
        Ok(())
    }

    /// Symlinks=: makes `link` lead to the path. Only a symbolic link is replaced.
    pub(super) fn link(&mut self, link: &Path, directory_mode: u32) -> io::Result<()> {
        make_directories(link, directory_mode).map_err(|(_, error)| error)?;
        match symlink(&self.path, link) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !fs::symlink_metadata(link)?.is_symlink() {
                    return Err(error);
                }
                let aside = aside(link);
                symlink(&self.path, &aside)?;
                fs::rename(&aside, link).inspect_err(|_| drop(fs::remove_file(&aside)))?;
            }
            result => result?,
        }
        self.links.push(link.to_path_buf());
        Ok(())
    }

    /// Whether the path still leads to our socket.
    pub fn is_ours(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|metadata| Inode::of(&metadata) == self.inode)
    }

    /// Removes the path if it still is ours; one that is gone or was replaced by another process is left alone.
    fn unlink(&self) -> io::Result<()> {
        if !self.is_ours() {
            return Ok(());
        }
        for link in self.links.iter().filter(|link| fs::read_link(link).is_ok_and(|to| to == self.path)) {
            fs::remove_file(link)?;
        }
        match remove_inode(&self.path, self.inode, || true) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map(|_| ()),
        }
    }
}

/// The inode itself, whatever it is and without opening it; a symbolic link is not followed.
pub(super) fn open_inode(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)
}

/// A path that leads to an open inode whatever its name is now.
pub(super) fn magic_link(inode: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", inode.as_raw_fd()))
}

/// Removes `path` if it is `wanted`, which the caller keeps open, and `sure` agrees; false: it was something else, and
/// is back where it was.
pub(super) fn remove_inode(path: &Path, wanted: Inode, sure: impl FnOnce() -> bool) -> io::Result<bool> {
    let aside = aside(path);
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

/// A name beside `path` that nobody has.
fn aside(path: &Path) -> PathBuf {
    let random = RandomState::new().build_hasher().finish();
    path.with_file_name(format!(".supervise-{random:016x}"))
}

/// Makes the directories that lead to `path`, each with `mode` whatever our umask is; those that are there stay as they
/// are. The error comes with the directory that could not be made.
pub(super) fn make_directories(path: &Path, mode: u32) -> Result<(), (PathBuf, io::Error)> {
    let Some(parent) = path.parent() else { return Ok(()) };
    let missing: Vec<&Path> = parent.ancestors().take_while(|directory| !directory.is_dir()).collect();
    for directory in missing.into_iter().rev() {
        make_directory(directory, mode).map_err(|error| (directory.to_path_buf(), error))?;
    }
    Ok(())
}

pub(super) fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        // Another process has made it in the meantime, which is as good.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        result => result?,
    }
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(directory) => {
            // A set-group-ID bit that came from the directory above stays.
            let now = directory.metadata()?.mode() & 0o7777;
            let wanted = now & 0o7000 | mode & 0o777;
            if now == wanted { Ok(()) } else { directory.set_permissions(Permissions::from_mode(wanted)) }
        }
        // A mode without the right to read; it has no bits that a umask would be expected to take.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
