//! Who holds an address that we cannot have, or a socket that is not ours. Only asked when a bind has failed or a stranger
//! was seen, and only for the message.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::unistd::Pid;

use crate::os::own;
use crate::os::proc;

/// At most so many sockets of one port are looked for.
const HOLDERS: usize = 8;
/// Bytes read of one table of /proc/net: some 400,000 sockets.
const TABLE_BYTES: u64 = 64 << 20;
/// Fds looked at in the search for a process.
const FDS: usize = 500_000;
/// The limit while connections may wait for us: some 50 ms.
const OUR_FDS: usize = 20_000;
/// TCP_LISTEN, as /proc/net/tcp writes it.
const LISTEN: &str = "0A";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pid: u32,
    command: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Occupant {
    /// For each socket there the first process found that has it; a server's children often have it too.
    Processes(Vec<Process>),
    /// The socket is there, its process is not for us to see.
    Unseen { uid: Option<u32> },
    /// The socket was not found.
    Unknown,
}

impl Occupant {
    pub(super) fn is_us(&self) -> bool {
        matches!(self, Self::Processes(all) if all.iter().all(|one| one.pid == own::pid()))
    }
}

impl fmt::Display for Occupant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Processes(processes) => {
                let one = |process: &Process| format!("pid {} ({})", process.pid, process.command);
                let all = processes.iter().map(one).collect::<Vec<_>>().join(", ");
                let who = if self.is_us() { ", which is this supervise" } else { "" };
                write!(f, "in use by {all}{who}")
            }
            Self::Unseen { uid: Some(uid) } => write!(f, "in use by another user's process (uid {uid})"),
            Self::Unseen { uid: None } => write!(f, "in use by another user's process"),
            Self::Unknown => write!(f, "in use"),
        }
    }
}

struct Row {
    inode: u64,
    uid: Option<u32>,
}

/// The processes that keep us from binding this address: with SO_REUSEPORT there may be several.
pub(super) fn of_port(udp: bool, address: SocketAddr) -> Occupant {
    let tables = if udp { ["udp", "udp6"] } else { ["tcp", "tcp6"] };
    // A connection of a server that has closed its listener is in the way too, but the listeners are the answer.
    let (mut listeners, mut other) = (Vec::new(), None);
    for table in tables {
        for_each_line(table, |line| {
            let Some((local, state, row)) = inet_row(line) else { return };
            if local.port() != address.port() || !overlap(local.ip(), address.ip()) {
                return;
            }
            if !udp && state != LISTEN {
                other.get_or_insert(row);
            } else if listeners.len() < HOLDERS {
                listeners.push(row);
            }
        });
    }
    if listeners.is_empty() {
        listeners.extend(other);
    }
    name(&listeners)
}

/// The process that has a unix socket bound, by path or by `@` and abstract name.
pub(super) fn of_unix_name(name_wanted: &[u8]) -> Occupant {
    let mut found = None;
    for_each_line("unix", |line| {
        if found.is_none() {
            found = unix_row(line, name_wanted);
        }
    });
    name(found.as_slice())
}

/// Lines that are not UTF-8 are passed on as well as they can be: a path may hold any byte.
fn for_each_line(table: &str, mut each: impl FnMut(&str)) {
    let Ok(file) = File::open(format!("/proc/net/{table}")) else { return };
    let mut lines = BufReader::new(file.take(TABLE_BYTES));
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
        each(&String::from_utf8_lossy(&line));
        line.clear();
    }
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode ...` (proc_net_tcp.rst).
fn inet_row(line: &str) -> Option<(SocketAddr, &str, Row)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = fields.next()?;
    let state = fields.nth(1)?;
    let uid = fields.nth(3)?.parse().ok();
    let inode = fields.nth(1)?.parse().ok()?;
    let (ip, port) = local.split_once(':')?;
    Some((SocketAddr::new(hex_ip(ip)?, u16::from_str_radix(port, 16).ok()?), state, Row { inode, uid }))
}

/// The kernel prints the address as 32-bit words of its own byte order.
fn hex_ip(text: &str) -> Option<IpAddr> {
    let word = |index: usize| {
        let digits = text.get(index * 8..index * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// Whether two sockets on one port can be in each other's way. `[::]` counts as both families.
fn overlap(a: IpAddr, b: IpAddr) -> bool {
    let (a, b) = (a.to_canonical(), b.to_canonical());
    let both = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    a == b
        || a == both
        || b == both
        || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
}

/// `Num: RefCount Protocol Flags Type St Inode Path`.
fn unix_row(line: &str, wanted: &[u8]) -> Option<Row> {
    let line = line.trim_end_matches('\n');
    let path = String::from_utf8_lossy(wanted);
    let before = line.strip_suffix(path.as_ref())?.strip_suffix(' ')?;
    let mut fields = before.split_ascii_whitespace();
    let inode = fields.nth(6)?.parse().ok()?;
    // More fields: the path only ends like the one wanted.
    fields.next().is_none().then_some(Row { inode, uid: None })
}

fn name(rows: &[Row]) -> Occupant {
    let Some(first) = rows.first() else { return Occupant::Unknown };
    let pids: Vec<u32> = proc::numbers("/proc").into_iter().flatten().map(i32::unsigned_abs).collect();
    let found: BTreeSet<u32> =
        rows.iter().filter_map(|row| process_of(row.inode, pids.iter().copied(), FDS)).collect();
    if found.is_empty() {
        return Occupant::Unseen { uid: first.uid };
    }
    Occupant::Processes(found.into_iter().map(|pid| Process { pid, command: command(pid) }).collect())
}

/// Which of these processes has the socket of this inode: `pid 77 (nginx)`. No more than [`OUR_FDS`] fds are looked at.
pub fn of_inode(inode: u32, pids: &[Pid]) -> Option<String> {
    let pids = pids.iter().map(|pid| pid.as_raw().unsigned_abs());
    let pid = process_of(inode.into(), pids, OUR_FDS)?;
    Some(format!("pid {pid} ({})", command(pid)))
}

fn process_of(inode: u64, pids: impl IntoIterator<Item = u32>, mut fds_left: usize) -> Option<u32> {
    for pid in pids {
        // Another user's: not ours to read, and another process may have it too.
        let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for fd in fds.flatten() {
            fds_left = fds_left.checked_sub(1)?;
            if proc::socket(fd.path()).is_ok_and(|found| found == Some(inode)) {
                return Some(pid);
            }
        }
    }
    None
}

/// The name the process gave itself: up to 15 bytes of anything.
fn command(pid: u32) -> String {
    let comm = proc::bytes(format!("/proc/{pid}/comm")).unwrap_or_default();
    comm.strip_suffix(b"\n").unwrap_or(&comm).escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn a_row_is_read_in_both_families() {
        let v4 = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 77 1 x";
        if cfg!(target_endian = "little") {
            let (address, state, row) = inet_row(v4).unwrap();
            assert_eq!((address.to_string().as_str(), state), ("127.0.0.1:8080", LISTEN));
            assert_eq!((row.inode, row.uid), (77, Some(1000)));
        }
        let v6 = format!("  1: {}:01BB {} 0A 0:0 00:0 0 0 0 78", "0".repeat(32), "0");
        assert_eq!(inet_row(&v6).unwrap().0.to_string(), "[::]:443");
        for broken in
            ["", "0:", "0: 0100007F", "0: é100007F:1F90 0 0A 0 0 0 0 0 7", "0: 1:1 0 0A 0 0 0 0 0 7"]
        {
            assert!(inet_row(broken).is_none(), "{broken}");
        }
    }

    #[test]
    fn a_unix_path_may_hold_blanks_and_is_compared_whole() {
        let line = "0000: 00000002 00000000 00010000 0001 01 55 /run/a b\n";
        assert_eq!(unix_row(line, b"/run/a b").map(|row| row.inode), Some(55));
        assert!(unix_row(line, b"b").is_none());
        assert!(unix_row("0000: 00000002 00000000 00010000 0001 01 55\n", b"/run/a b").is_none());
    }

    #[test]
    fn wildcards_overlap() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (a, b) in
            [("::", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "::"), ("::ffff:127.0.0.1", "127.0.0.1")]
        {
            assert!(overlap(ip(a), ip(b)) && overlap(ip(b), ip(a)), "{a} {b}");
        }
        for (a, b) in [("::1", "127.0.0.1"), ("0.0.0.0", "::1"), ("127.0.0.2", "127.0.0.1")] {
            assert!(!overlap(ip(a), ip(b)), "{a} {b}");
        }
    }

    #[test]
    fn our_own_sockets_are_found() {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let asked = SocketAddr::from((Ipv4Addr::LOCALHOST, udp.local_addr().unwrap().port()));
        for holder in [of_port(false, tcp.local_addr().unwrap()), of_port(true, asked)] {
            assert!(holder.is_us(), "{holder:?}");
        }
    }

    #[test]
    fn only_the_processes_that_are_named_are_looked_at() {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let inode = nix::sys::stat::fstat(&tcp).unwrap().st_ino as u32;
        let us = Pid::this();
        assert!(of_inode(inode, &[us]).unwrap().starts_with(&format!("pid {us} (")));
        assert_eq!(of_inode(inode, &[Pid::from_raw(1)]), None);
        assert_eq!(of_inode(inode, &[]), None);
        assert_eq!(
            process_of(inode.into(), [us.as_raw().unsigned_abs()], 1),
            None,
            "so many fds and no more"
        );
    }

    #[test]
    fn a_name_nobody_has_is_unknown() {
        assert_eq!(of_unix_name(b"@supervise-nobody-has-this"), Occupant::Unknown);
    }
}
