//! RuntimeDirectory=, StateDirectory=, CacheDirectory=, LogsDirectory= and ConfigurationDirectory= (systemd.exec(5)):
//! makes them before each process of a generation, and removes runtime directories at the end.
//!
//! The user may own what is above a directory (`RuntimeDirectory=a a/b`), while we may be root, so no symbolic link
//! below the base is ever followed.

use std::collections::HashSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{Mode, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};

use super::spawn::joined;
use super::users::{self, Identity};
use super::warning::Warn;
use crate::config::{Directories, Launch, ManagedDirectory};
use crate::core::{Stage, StartFailure};
use crate::os::own;

/// The deepest nesting that is removed; each level holds an fd and a stack frame.
const DEPTH: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DirectoryKind {
    Runtime,
    State,
    Cache,
    Logs,
    Configuration,
}

impl DirectoryKind {
    const ALL: [Self; 5] = [Self::Runtime, Self::State, Self::Cache, Self::Logs, Self::Configuration];

    const fn variable(self) -> &'static str {
        match self {
            Self::Runtime => "RUNTIME_DIRECTORY",
            Self::State => "STATE_DIRECTORY",
            Self::Cache => "CACHE_DIRECTORY",
            Self::Logs => "LOGS_DIRECTORY",
            Self::Configuration => "CONFIGURATION_DIRECTORY",
        }
    }

    const fn key(self) -> &'static str {
        match self {
            Self::Runtime => "RuntimeDirectory",
            Self::State => "StateDirectory",
            Self::Cache => "CacheDirectory",
            Self::Logs => "LogsDirectory",
            Self::Configuration => "ConfigurationDirectory",
        }
    }

    const fn stage(self) -> Stage {
        match self {
            Self::Runtime => Stage::RuntimeDirectory,
            Self::State => Stage::StateDirectory,
            Self::Cache => Stage::CacheDirectory,
            Self::Logs => Stage::LogsDirectory,
            Self::Configuration => Stage::ConfigurationDirectory,
        }
    }

    fn of(self, directories: &Directories) -> &ManagedDirectory {
        match self {
            Self::Runtime => &directories.runtime,
            Self::State => &directories.state,
            Self::Cache => &directories.cache,
            Self::Logs => &directories.logs,
            Self::Configuration => &directories.configuration,
        }
    }

    /// The parent directory: of the system for root, else of our user (file-hierarchy(7)).
    fn base(self, is_root: bool, variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, String> {
        let given = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = |name: &str, below: &str| {
            given(name)
                .or_else(|| given("HOME").map(|home| home.join(below)))
                .ok_or_else(|| format!("neither ${name} nor $HOME is set to an absolute path"))
        };
        Ok(match (self, is_root) {
            (Self::Runtime, true) => "/run".into(),
            (Self::State, true) => "/var/lib".into(),
            (Self::Cache, true) => "/var/cache".into(),
            (Self::Logs, true) => "/var/log".into(),
            (Self::Configuration, true) => "/etc".into(),
            (Self::Runtime, false) => given("XDG_RUNTIME_DIR")
                .ok_or_else(|| "$XDG_RUNTIME_DIR is not set to an absolute path".to_owned())?,
            (Self::State, false) => home("XDG_STATE_HOME", ".local/state")?,
            (Self::Cache, false) => home("XDG_CACHE_HOME", ".cache")?,
            (Self::Logs, false) => home("XDG_STATE_HOME", ".local/state")?.join("log"),
            (Self::Configuration, false) => home("XDG_CONFIG_HOME", ".config")?,
        })
    }
}

fn our_base(kind: DirectoryKind) -> Result<PathBuf, String> {
    kind.base(own::euid() == 0, |name| env::var_os(name))
}

/// The path of StateDirectory=`name`.
#[cfg(test)]
pub(super) fn path_of_state(name: &str) -> PathBuf {
    our_base(DirectoryKind::State).expect("HOME is set").join(name)
}

/// Whether `path` is one of the directories made before each start, or lies in one.
pub fn will_be_made(launch: &Launch, path: &Path) -> bool {
    DirectoryKind::ALL.into_iter().any(|kind| {
        let names = &kind.of(&launch.directories).names;
        our_base(kind).is_ok_and(|base| names.iter().any(|name| path.starts_with(base.join(name))))
    })
}

/// Makes all directories of `launch`, owned by the user where we may change the owner, and returns the variables that
/// name them (RUNTIME_DIRECTORY and so on).
///
/// # Errors
/// The first directory that cannot be made or given to the user.
pub fn make(launch: &Launch, owner: &Identity) -> Result<Vec<(&'static str, OsString)>, StartFailure> {
    make_below(&launch.directories, owner, our_base)
}

fn make_below(
    directories: &Directories,
    owner: &Identity,
    base: impl Fn(DirectoryKind) -> Result<PathBuf, String>,
) -> Result<Vec<(&'static str, OsString)>, StartFailure> {
    let mut variables = Vec::new();
    for kind in DirectoryKind::ALL {
        let wanted = kind.of(directories);
        if wanted.names.is_empty() {
            continue;
        }
        let failure = |errno, what| StartFailure { stage: kind.stage(), errno, what };
        let base = base(kind).map_err(|cause| failure(0, format!("{}=: {cause}", kind.key())))?;
        for name in &wanted.names {
            // A configuration directory keeps its owner: its files belong to the administrator.
            let owner = Some(owner).filter(|_| kind != DirectoryKind::Configuration);
            make_one(&base, name, wanted.mode, owner).map_err(|errno| {
                let what = format!(
                    "{}={}: cannot make {}: {}{}",
                    kind.key(),
                    name.display(),
                    base.join(name).display(),
                    errno.desc(),
                    remedy(errno)
                );
                failure(errno as i32, what)
            })?;
        }
        let paths: Vec<PathBuf> = wanted.names.iter().map(|name| base.join(name)).collect();
        variables.push((kind.variable(), joined(&paths)));
    }
    Ok(variables)
}

const fn remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOTDIR | Errno::ELOOP => " (something else or a symbolic link is in its place: remove that)",
        Errno::EACCES | Errno::EPERM => " (it or a directory above it is somebody else's)",
        Errno::EROFS => " (mount it for writing)",
        _ => "",
    }
}

const DIRECTORY: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The components of a name. The parser refuses `..` and the like, and so does this.
fn components(name: &Path) -> Result<Vec<&OsStr>, Errno> {
    let plain = |component| match component {
        Component::Normal(part) => Ok(part),
        _ => Err(Errno::EINVAL),
    };
    let parts = name.components().filter(|part| *part != Component::CurDir).map(plain);
    let parts: Vec<_> = parts.collect::<Result<_, _>>()?;
    if parts.is_empty() { Err(Errno::EINVAL) } else { Ok(parts) }
}

fn open_base(base: &Path) -> Result<OwnedFd, Errno> {
    // Symbolic links in the base (/var/run) are followed: it belongs to the system or to our user.
    open(base, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
}

/// Makes the directory and its parents. As in systemd, mode and owner apply to the last component, each time; without
/// an owner they are left as they are.
fn make_one(base: &Path, name: &Path, mode: u32, owner: Option<&Identity>) -> Result<(), Errno> {
    let parts = components(name)?;
    fs::create_dir_all(base).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
    let mode = Mode::from_bits_truncate(mode);
    let mut at = open_base(base)?;
    for (left, part) in (0..parts.len()).rev().zip(parts) {
        let mode = if left == 0 { mode } else { Mode::from_bits_truncate(0o755) };
        let made = mkdirat(&at, part, mode);
        at = match made {
            Ok(()) | Err(Errno::EEXIST) => openat(&at, part, DIRECTORY, Mode::empty())?,
            Err(errno) => return Err(errno),
        };
        if made.is_ok() {
            // fchmod(2) ignores the umask.
            fchmod(&at, mode)?;
        }
    }
    let Some(owner) = owner else { return Ok(()) };
    let found = fstat(&at)?;
    let is = |wanted: Option<u32>, found: u32| wanted.is_none_or(|wanted| wanted == found);
    let is_theirs = is(owner.uid, found.st_uid) && is(owner.gid, found.st_gid);
    if !is_theirs {
        fchown(&at, owner.uid.map(Uid::from_raw), owner.gid.map(Gid::from_raw))?;
    }
    // fchown(2) clears the set-ID bits, so the mode comes after it.
    if !is_theirs || Mode::from_bits_truncate(found.st_mode) != mode {
        fchmod(&at, mode)?;
    }
    Ok(())
}

/// Removes the runtime directories and their content, except the files that `kept` leads to and the directories above
/// them. The caller applies RuntimeDirectoryPreserve=. What cannot be removed is logged and left.
pub fn remove_runtime(names: &[PathBuf], kept: &[PathBuf]) {
    if names.is_empty() {
        return;
    }
    match our_base(DirectoryKind::Runtime) {
        Ok(base) => remove_below(&base, names, kept),
        Err(cause) => Warn::RemoveRuntime.because(cause),
    }
}

/// Device and inode of what is kept; different paths may lead to the same file.
type Kept = HashSet<(u64, u64)>;

fn remove_below(base: &Path, names: &[PathBuf], kept: &[PathBuf]) {
    let inode = |path: &PathBuf| fs::symlink_metadata(path).ok().map(|there| (there.dev(), there.ino()));
    let kept: Kept = kept.iter().filter_map(inode).collect();
    for name in names {
        match remove_one(base, name, &kept) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => Warn::RemoveFile(&base.join(name)).because(errno.desc()),
        }
    }
}

fn remove_one(base: &Path, name: &Path, kept: &Kept) -> Result<(), Errno> {
    let parts = components(name)?;
    let mut at = open_base(base)?;
    let Some((last, above)) = parts.split_last() else { return Err(Errno::EINVAL) };
    for part in above {
        at = openat(&at, *part, DIRECTORY, Mode::empty())?;
    }
    remove(&at, last, kept, DEPTH).map(drop)
}

/// Removes an entry with all below it. Returns `false` if it, or something in it, is kept.
fn remove(parent: &OwnedFd, name: &OsStr, kept: &Kept, depth: usize) -> Result<bool, Errno> {
    if !kept.is_empty() {
        let there = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if kept.contains(&(there.st_dev, there.st_ino)) {
            return Ok(false);
        }
    }
    let opened = if depth == DEPTH {
        openat(parent, name, DIRECTORY, Mode::empty())
    } else {
        open_below(parent, name)
    };
    let directory = match opened {
        Ok(directory) => directory,
        // The entry is a file or a symbolic link, which is not followed.
        Err(Errno::ENOTDIR | Errno::ELOOP) => {
            return unlinkat(parent, name, UnlinkatFlags::NoRemoveDir).map(|()| true);
        }
        Err(errno) => return Err(errno),
    };
    if depth == 0 {
        return Err(Errno::ENAMETOOLONG);
    }
    let mut is_empty = true;
    for entry in entries(&directory).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))? {
        match remove(&directory, &entry, kept, depth - 1) {
            Ok(is_gone) => is_empty &= is_gone,
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    if is_empty {
        unlinkat(parent, name, UnlinkatFlags::RemoveDir)?;
    }
    Ok(is_empty)
}

/// Opens a subdirectory. EXDEV for a mount point, whose content belongs to another file system. Comparing devices
/// would miss a bind mount.
fn open_below(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new().flags(DIRECTORY).resolve(ResolveFlag::RESOLVE_NO_XDEV);
    match openat2(parent, name, how) {
        // openat2(2) fails with ENOSYS before Linux 5.6, and with EPERM in a sandbox.
        Err(Errno::ENOSYS | Errno::EPERM) => {
            let there = openat(parent, name, DIRECTORY, Mode::empty())?;
            if fstat(&there)?.st_dev == fstat(parent)?.st_dev { Ok(there) } else { Err(Errno::EXDEV) }
        }
        result => result,
    }
}

/// The entries by way of the fd, since a path may lead elsewhere meanwhile.
fn entries(directory: &OwnedFd) -> io::Result<Vec<OsString>> {
    let list = fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
    list.map(|entry| Ok(entry?.file_name())).collect()
}

/// The home directory for WorkingDirectory=~: of the user, else our own.
pub fn home(owner: &Identity) -> Option<PathBuf> {
    let home = match &owner.user {
        Some(user) => user.home.clone(),
        None => env::var_os("HOME")
            .or_else(|| users::find_user(&own::euid().to_string()).ok().and_then(|user| user.home)),
    };
    home.map(PathBuf::from)
}

#[cfg(test)]
mod tests;
