//! The dump protocol of netlink(7): one request, then datagrams with several messages each, until the end. A message
//! that is too short, too long or too much is an error; one that is not for us is skipped.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recvmsg, sendto, setsockopt,
    socket, sockopt::ReceiveTimeout,
};
use nix::sys::time::TimeVal;

/// The size of nlmsghdr: length, type, flags, sequence number, port id.
const HEADER: usize = 16;
/// The size of the buffer; the kernel sends at most 32 KiB at once (netlink_dump()).
const BUFFER: usize = 64 << 10;
/// The most sockets of one answer, and the most datagrams; beyond them it is an error.
const MOST_SOCKETS: usize = 1 << 20;
const MOST_DATAGRAMS: usize = 1 << 17;
/// The time limit for reading; the kernel answers within the call.
const SILENCE: TimeVal = TimeVal::new(2, 0);

#[derive(Debug)]
pub(super) struct Channel {
    socket: OwnedFd,
    sequence: u32,
}

/// What a datagram means for the dump.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DumpProgress {
    More,
    Done,
}

impl Channel {
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        setsockopt(&socket, ReceiveTimeout, &SILENCE)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks, and asks once more if the kernel's tables changed during the answer (NLM_F_DUMP_INTR); the second answer
    /// counts.
    pub(super) fn dump<T>(&mut self, request: &[u8], parse: fn(&[u8]) -> Option<T>) -> io::Result<Vec<T>> {
        let first = self.dump_once(request, parse)?;
        if !first.interrupted {
            return Ok(first.found);
        }
        Ok(self.dump_once(request, parse)?.found)
    }

    fn dump_once<T>(&mut self, request: &[u8], parse: fn(&[u8]) -> Option<T>) -> io::Result<Dump<T>> {
        self.sequence = self.sequence.wrapping_add(1);
        let message = message(request, self.sequence)?;
        sendto(self.socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut dump = Dump::new(self.sequence, parse);
        // Freed after each answer: kept, it would be most of what an idle supervise has in memory.
        let mut buffer = vec![0; BUFFER];
        for _ in 0..MOST_DATAGRAMS {
            let mut into = [IoSliceMut::new(&mut buffer)];
            let received =
                match recvmsg::<NetlinkAddr>(self.socket.as_raw_fd(), &mut into, None, MsgFlags::empty()) {
                    Err(Errno::EINTR) => continue,
                    received => received?,
                };
            // Port id 0 is the kernel's.
            if received.address.is_none_or(|sender| sender.pid() != 0) {
                continue;
            }
            if received.flags.contains(MsgFlags::MSG_TRUNC) {
                return Err(broken("is longer than our buffer"));
            }
            let length = received.bytes;
            let datagram = buffer.get(..length).unwrap_or_default();
            if dump.take(datagram)? == DumpProgress::Done {
                return Ok(dump);
            }
        }
        Err(broken("does not end"))
    }
}

/// The state of an answer that is being received.
pub(super) struct Dump<T> {
    sequence: u32,
    parse: fn(&[u8]) -> Option<T>,
    pub(super) found: Vec<T>,
    pub(super) interrupted: bool,
}

impl<T> Dump<T> {
    pub(super) fn new(sequence: u32, parse: fn(&[u8]) -> Option<T>) -> Self {
        Self { sequence, parse, found: Vec::new(), interrupted: false }
    }

    /// Takes one datagram. Messages with another sequence number belong to another request.
    pub(super) fn take(&mut self, mut datagram: &[u8]) -> io::Result<DumpProgress> {
        while !datagram.is_empty() {
            let length = u32_at(datagram, 0).ok_or_else(|| broken("is cut short"))? as usize;
            if length < HEADER || length > datagram.len() {
                return Err(broken("has a message of impossible length"));
            }
            let (message, rest) = datagram.split_at(length);
            datagram = rest.get(padding(length)..).unwrap_or_default();
            if u32_at(message, 8) == Some(self.sequence) && self.message(message)? == DumpProgress::Done {
                return Ok(DumpProgress::Done);
            }
        }
        Ok(DumpProgress::More)
    }

    fn message(&mut self, message: &[u8]) -> io::Result<DumpProgress> {
        let kind = u16_at(message, 4).map_or(0, i32::from);
        let flags = u16_at(message, 6).map_or(0, i32::from);
        let payload = &message[HEADER..];
        self.interrupted |= flags & libc::NLM_F_DUMP_INTR != 0;
        match kind {
            libc::NLMSG_DONE => match error_code(payload) {
                Some(error) => Err(error),
                None => Ok(DumpProgress::Done),
            },
            libc::NLMSG_ERROR => {
                Err(error_code(payload).unwrap_or_else(|| broken("is an error without a code")))
            }
            SOCK_DIAG_BY_FAMILY => {
                if self.found.len() == MOST_SOCKETS {
                    return Err(broken("has more than a million sockets"));
                }
                self.found
                    .push((self.parse)(payload).ok_or_else(|| broken("has a socket that is cut short"))?);
                Ok(DumpProgress::More)
            }
            _ => Ok(DumpProgress::More),
        }
    }
}

const SOCK_DIAG_BY_FAMILY: i32 = 20;

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("sock_diag: the kernel's answer {what}"))
}

/// The error in a payload, which is a negative errno; `None` for 0 and above.
fn error_code(payload: &[u8]) -> Option<io::Error> {
    let code = u32_at(payload, 0)?.cast_signed();
    (code < 0).then(|| io::Error::from_raw_os_error(code.saturating_neg()))
}

/// Puts a header before the request.
fn message(request: &[u8], sequence: u32) -> io::Result<Vec<u8>> {
    let length = u32::try_from(HEADER + request.len()).map_err(io::Error::other)?;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mut message = Vec::with_capacity(HEADER + request.len());
    message.extend(length.to_ne_bytes());
    message.extend((SOCK_DIAG_BY_FAMILY as u16).to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend(request);
    Ok(message)
}

/// The attributes behind a message, as type and value. It ends at the first that does not fit.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        // The two upper bits are flags (NLA_F_NESTED, NLA_F_NET_BYTEORDER).
        let kind = u16_at(bytes, 2)? & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length + padding(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The bytes to the next multiple of four, where messages and attributes begin.
const fn padding(length: usize) -> usize {
    length.wrapping_neg() & 3
}

pub(super) fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_ne_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_ne_bytes)
}
