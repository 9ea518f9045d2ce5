//! Files of /proc/PID as the kernel writes them, read and taken apart in one place. Processes choose part of what they say:
//! nothing is read without end, and what makes no sense is None.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use nix::sys::stat::{FileStat, minor};

/// Of one file. The longest is the fdinfo of an epoll, a line of some 80 bytes for each fd.
const FILE_BYTES: u64 = 4 << 20;

/// A socket as /proc names it: fdinfo by device and inode, the links of fds by inode alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inode {
    pub number: u64,
    /// The minor number of the kernel's file system of all sockets.
    pub device: u64,
}

impl From<&FileStat> for Inode {
    fn from(stat: &FileStat) -> Self {
        Self { number: stat.st_ino, device: minor(stat.st_dev) }
    }
}

/// What an epoll has registered (epoll_ctl(2)): `fd` is its number then, `inode` whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Registered {
    pub(super) fd: i32,
    pub(super) events: u32,
    pub(super) data: u64,
    pub(super) inode: Inode,
}

impl Registered {
    /// `tfd: 5 events: 19 data: 5 pos:0 ino:61ef sdev:8` in fdinfo, the numbers but for the first in hex
    /// (proc_pid_fdinfo(5)). None: not such a line.
    pub(super) fn parse(line: &str) -> Option<Self> {
        const MINOR: u64 = 0xf_ffff;
        let rest = line.strip_prefix("tfd:")?;
        let word = |key: &str| rest.split_once(key)?.1.split_ascii_whitespace().next();
        let number = |key: &str| u64::from_str_radix(word(key)?, 16).ok();
        Some(Self {
            fd: word("")?.parse().ok()?,
            events: number("events:")?.try_into().ok()?,
            data: number("data:")?,
            inode: Inode { number: number("ino:")?, device: number("sdev:")? & MINOR },
        })
    }
}

/// The file up to 4 MiB.
pub(super) fn bytes(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Likewise; the name that a process gave itself need not be UTF-8.
pub(super) fn text(path: impl AsRef<Path>) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&bytes(path)?).into_owned())
}

/// What stands behind `name`, as `Tgid:`, in a file of such lines: status, fdinfo.
pub(super) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// The inode of the socket that a link in fd leads to; None for any other file.
pub(super) fn socket(link: impl AsRef<Path>) -> io::Result<Option<u64>> {
    Ok(fs::read_link(link)?.to_str().and_then(socket_inode))
}

fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The entries that are numbers: the processes in /proc, the fds in fd.
pub(super) fn numbers(directory: impl AsRef<Path>) -> io::Result<impl Iterator<Item = i32>> {
    Ok(fs::read_dir(directory)?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// The process, the thread or the fd went away between two looks.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_is_read_as_the_kernel_writes_it() {
        let line = "tfd:        5 events: 80002019 data:               5f  pos:0 ino:61ef sdev:8";
        let inode = Inode { number: 0x61ef, device: 8 };
        assert_eq!(
            Registered::parse(line),
            Some(Registered { fd: 5, events: 0x8000_2019, data: 0x5f, inode })
        );
        for line in
            ["", "tfd:", "tfd: 5", "tfd: x events: 1 data: 5 ino:1 sdev:8", "pos:\t0", "tfd: 5 ino:1 sdev:8"]
        {
            assert_eq!(Registered::parse(line), None, "{line}");
        }
        assert_eq!(Registered::parse("tfd: 5 events: 1 data: 5 pos:0 ino: sdev:8"), None);
    }

    #[test]
    fn only_a_socket_has_the_inode_of_one() {
        assert_eq!(socket_inode("socket:[61]"), Some(61));
        for link in ["", "socket:[", "socket:[]", "socket:[-1]", "pipe:[61]", "/socket:[61]", "socket:[61] "]
        {
            assert_eq!(socket_inode(link), None, "{link}");
        }
        let status = "Name:\tTgid: 7\nTgid:\t12\nUid:\t1\t2\t3\t4\n";
        assert_eq!((field(status, "Tgid:"), field(status, "Gid:")), (Some("12"), None));
    }
}
