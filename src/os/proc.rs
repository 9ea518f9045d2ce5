//! Reads and parses files of /proc/PID. A process decides part of what they contain, so every read has a limit, and
//! what cannot be parsed is `None`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use nix::sys::stat::{FileStat, minor};

/// The most that is read of one file. The longest is the fdinfo of an epoll, with some 80 bytes for each fd.
const FILE_BYTES: u64 = 4 << 20;

/// How /proc identifies a socket: fdinfo by device and inode, the links of fds by inode alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketInode {
    pub number: u64,
    /// The minor device number of the kernel's socket file system.
    pub device: u64,
}

impl From<&FileStat> for SocketInode {
    fn from(stat: &FileStat) -> Self {
        Self { number: stat.st_ino, device: minor(stat.st_dev) }
    }
}

/// An fd registered in an epoll (epoll_ctl(2)). `fd` is the number that it had at that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Registered {
    pub(super) fd: i32,
    pub(super) events: u32,
    pub(super) data: u64,
    pub(super) inode: SocketInode,
}

impl Registered {
    /// Reads a line `tfd: 5 events: 19 data: 5 pos:0 ino:61ef sdev:8` of fdinfo (proc_pid_fdinfo(5)), all numbers but
    /// the first in hex. `None` for another line.
    pub(super) fn parse(line: &str) -> Option<Self> {
        const MINOR: u64 = 0xf_ffff;
        let rest = line.strip_prefix("tfd:")?;
        let word = |key: &str| rest.split_once(key)?.1.split_ascii_whitespace().next();
        let number = |key: &str| u64::from_str_radix(word(key)?, 16).ok();
        Some(Self {
            fd: word("")?.parse().ok()?,
            events: number("events:")?.try_into().ok()?,
            data: number("data:")?,
            inode: SocketInode { number: number("ino:")?, device: number("sdev:")? & MINOR },
        })
    }
}

/// The first 4 MiB of a file.
pub(super) fn bytes(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    // Room for what most of them have, which takes two calls then; an empty vector is filled by 32 bytes at first.
    let mut bytes = Vec::with_capacity(1 << 10);
    File::open(path)?.take(FILE_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The first 4 MiB of a file as text; the name that a process gave itself need not be UTF-8.
pub(super) fn text(path: impl AsRef<Path>) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&bytes(path)?).into_owned())
}

/// The value after `name` (`Tgid:`) in a file of such lines, as status and fdinfo are.
pub(super) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// The inode of the socket that a link in /proc/PID/fd leads to; `None` for any other file.
pub(super) fn socket(link: impl AsRef<Path>) -> io::Result<Option<u64>> {
    Ok(named(link, "socket:[")?.and_then(|inode| inode.parse().ok()))
}

/// Whether such a link leads to an anonymous inode of this name, such as `eventpoll`.
pub(super) fn is_anonymous(link: impl AsRef<Path>, name: &str) -> bool {
    named(link, "anon_inode:[").is_ok_and(|found| found.as_deref() == Some(name))
}

fn named(link: impl AsRef<Path>, kind: &str) -> io::Result<Option<String>> {
    let file = fs::read_link(link)?;
    let name = file.to_str().and_then(|file| file.strip_prefix(kind)?.strip_suffix(']'));
    Ok(name.map(str::to_owned))
}

/// The entries of a directory that are numbers: the processes in /proc, the fds in /proc/PID/fd.
pub(super) fn numbers(directory: impl AsRef<Path>) -> io::Result<impl Iterator<Item = i32>> {
    Ok(fs::read_dir(directory)?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// Whether a process, thread or fd has disappeared between two reads.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_the_kernel_writes_them_and_not_trusted() {
        let line = "tfd:        5 events: 80002019 data:               5f  pos:0 ino:61ef sdev:8";
        let inode = SocketInode { number: 0x61ef, device: 8 };
        let registered = Registered { fd: 5, events: 0x8000_2019, data: 0x5f, inode };
        assert_eq!(Registered::parse(line), Some(registered));
        for (there, instead) in [("tfd: ", "pos: "), ("5 ", "x "), ("80002019", "180002019"), ("61ef", "")] {
            assert_eq!(Registered::parse(&line.replacen(there, instead, 1)), None, "{instead}");
        }
        assert!(["", "tfd:", "tfd: 5", "pos:\t0"].iter().all(|line| Registered::parse(line).is_none()));
        let status = "Name:\tTgid: 7\nTgid:\t12\n";
        assert_eq!((field(status, "Tgid:"), field(status, "Gid:")), (Some("12"), None));
    }
}
