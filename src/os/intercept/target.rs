//! A process that waits in bind(2) or listen(2), as /proc shows it. The caller waits for its answer, but its other
//! threads and its parents run on, so what is read here may be untrue a moment later, or never have been true.

use std::fs::{self, File};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use super::answer::{WantedFamily, WantedSocket, WantedType};
use crate::os::proc;
use crate::os::sys;
use crate::os::sys::seccomp;

/// An fd of a thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct BindTarget {
    pub(super) thread: u32,
    pub(super) fd: RawFd,
}

/// The flags of an fd (fcntl(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flags {
    pub(super) close_on_exec: bool,
    pub(super) non_blocking: bool,
}

impl BindTarget {
    /// Reads its memory. EPERM, EACCES: we may not ptrace(2) it.
    pub(super) fn memory(self, address: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        File::open(self.proc("mem"))?.read_exact_at(&mut bytes, address)?;
        Ok(bytes)
    }

    /// Makes this thread open files as the user of the process (setfsuid(2)), on which access to its memory depends
    /// (ptrace(2), PTRACE_MODE_FSCREDS). Unlike other ids this does not let others signal us. `false` where that
    /// changes nothing.
    pub(super) fn act_as_its_user(self) -> bool {
        let Ok(ids) = self.read("status") else { return false };
        // The last of the four ids is the one for file access.
        let last = |name: &str| proc::field(&ids, name)?.split_whitespace().last()?.parse().ok();
        let (Some(user), Some(group)) = (last("Uid:"), last("Gid:")) else { return false };
        setfsgid(Gid::from_raw(group));
        setfsuid(Uid::from_raw(user)) != Uid::from_raw(user)
    }

    /// The inode of the socket behind the fd; `None` for another file.
    pub(super) fn inode(self) -> Option<u64> {
        proc::socket(self.link()).ok()?
    }

    pub(super) fn flags(self) -> io::Result<Flags> {
        let info = self.read(&format!("fdinfo/{}", self.fd))?;
        let flags = proc::field(&info, "flags:").and_then(|octal| i32::from_str_radix(octal, 8).ok());
        let flags = flags.ok_or(io::ErrorKind::InvalidData)?;
        let has = |flag| flags & flag != 0;
        Ok(Flags { close_on_exec: has(libc::O_CLOEXEC), non_blocking: has(libc::O_NONBLOCK) })
    }

    /// The kind of the socket: from a duplicate, which shows everything, or from the name of its protocol.
    pub(super) fn socket(self, duplicate: Option<&OwnedFd>) -> Option<WantedSocket> {
        let protocol = seccomp::protocol(&self.link()).ok()?;
        let (family, kind) = match protocol.as_str() {
            "TCP" | "MPTCP" => (WantedFamily::V4, WantedType::Stream),
            "TCPv6" | "MPTCPv6" => (WantedFamily::V6, WantedType::Stream),
            "UDP" => (WantedFamily::V4, WantedType::Datagram),
            "UDPv6" => (WantedFamily::V6, WantedType::Datagram),
            "UNIX-STREAM" => (WantedFamily::Unix, WantedType::Stream),
            "UNIX" => (WantedFamily::Unix, WantedType::NoStream),
            _ => return None,
        };
        let v6_only = duplicate.filter(|_| family == WantedFamily::V6);
        let v6_only = v6_only.and_then(|socket| getsockopt(socket, sockopt::Ipv6V6Only).ok());
        Some(WantedSocket { family, kind, v6_only })
    }

    /// A duplicate of the socket; `None` where we may not have one.
    pub(super) fn duplicate(self) -> Option<OwnedFd> {
        // A thread has no pidfd before Linux 6.9, and nearly always shares its fds with the process.
        let process = self.process()?;
        let duplicate = seccomp::take_fd(sys::pidfd_open(process).ok()?, self.fd).ok()?;
        let inode = nix::sys::stat::fstat(&duplicate).ok()?.st_ino;
        (self.inode() == Some(inode)).then_some(duplicate)
    }

    /// The process of the thread.
    pub(super) fn process(self) -> Option<i32> {
        proc::field(&self.read("status").ok()?, "Tgid:")?.parse().ok()
    }

    /// Whether the path that it calls `wanted` is `held`, an absolute path of ours.
    pub(super) fn is_same_path(self, wanted: &Path, held: &Path) -> bool {
        let Ok(directory) = fs::read_link(self.proc("cwd")) else { return false };
        // join() keeps an absolute path as it is.
        let wanted: PathBuf = directory.join(wanted);
        let inode = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
        let parent = |path: &Path| path.parent().and_then(inode);
        wanted.file_name().is_some()
            && wanted.file_name() == held.file_name()
            && parent(&wanted).is_some()
            && parent(&wanted) == parent(held)
            // Under another root directory the same path means another file.
            && inode(&self.proc("root")) == inode(Path::new("/"))
    }

    pub(super) fn link(self) -> PathBuf {
        self.proc(&format!("fd/{}", self.fd))
    }

    pub(super) fn read(self, name: &str) -> io::Result<String> {
        proc::text(self.proc(name))
    }

    pub(super) fn proc(self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.thread).into()
    }
}
