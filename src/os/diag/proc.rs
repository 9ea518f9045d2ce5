//! Facts about sockets that only /proc has: the socket inodes that processes have open, listen overflows,
//! net.core.somaxconn.

use std::collections::HashSet;
use std::fs;
use std::io;

use nix::unistd::Pid;

use crate::os::proc::{is_gone, socket, text};

/// The most fds of all processes of a generation together.
const FDS: usize = 1 << 20;

/// The inodes of all sockets that these processes have open, which attributes connections where sockets carry no
/// label. Processes that have ended have none.
///
/// Errors: EACCES for a process that we may not read (its connections cannot be attributed), or more than a million
/// fds.
pub fn inodes_of(pids: &[Pid]) -> io::Result<HashSet<u32>> {
    let mut inodes = HashSet::new();
    let mut left = FDS;
    for pid in pids {
        let fds = match fs::read_dir(format!("/proc/{pid}/fd")) {
            Err(error) if is_gone(&error) => continue,
            fds => fds?,
        };
        for fd in fds {
            let inode = match fd.and_then(|fd| socket(fd.path())) {
                Err(error) if is_gone(&error) => continue,
                inode => inode?,
            };
            left = left.checked_sub(1).ok_or_else(|| io::Error::other("more than a million open files"))?;
            inodes.extend(inode.and_then(|inode| u32::try_from(inode).ok()));
        }
    }
    Ok(inodes)
}

/// How often a full accept queue of a TCP listener cost a connection attempt (a SYN, or the last ACK of a handshake),
/// in this network namespace since its start. The client retries by itself. (ListenDrops, beside it, counts these
/// again together with other drops, such as those for lack of memory.)
pub fn listen_overflows() -> io::Result<u64> {
    let text = text("/proc/net/netstat")?;
    overflows_in(&text).ok_or_else(|| io::Error::other("/proc/net/netstat has no TcpExt ListenOverflows"))
}

/// The counter in pairs of lines, names and numbers, that begin with the same word.
fn overflows_in(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, numbers) = (lines.next()?.split(' '), lines.next()?.split(' '));
    names.zip(numbers).find(|(name, _)| *name == "ListenOverflows")?.1.parse().ok()
}

/// net.core.somaxconn of this network namespace, to which listen(2) limits every backlog.
pub fn somaxconn() -> io::Result<u32> {
    let text = text("/proc/sys/net/core/somaxconn")?;
    text.trim_ascii_end().parse().map_err(|_| io::Error::other(format!("net.core.somaxconn is {text:?}")))
}
