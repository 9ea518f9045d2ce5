//! The system call in which a thread sleeps, if a socket could wake it (/proc/PID/task/TID/syscall, proc(5)).

/// The size of struct pollfd: an int and two shorts.
const POLLFD: usize = 8;
/// The most entries of a set that are looked at, which is more than most processes have fds.
const ENTRIES: u64 = 1 << 16;

/// The call, by what it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitCall {
    /// The fds registered with this epoll.
    Epoll {
        fd: u32,
    },
    One {
        fd: u32,
    },
    Many(Set),
}

/// The address of a set in the memory of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Set {
    /// An array of struct pollfd.
    Poll { address: u64, count: u64 },
    /// An fd_set: one bit for each fd, in machine words.
    Select { address: u64, count: u64 },
}

impl WaitCall {
    /// Reads `NUMBER ARG0 ... ARG5 SP PC`, with the arguments in hex; `running` and `-1 SP PC` are no system call.
    /// `None` for a call that does not wait for a socket.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let number: i64 = words.next()?.parse().ok()?;
        let mut argument = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
        let (first, second) = (argument()?, argument()?);
        // The registers have 64 bits, of which an int is the lower half.
        let fd = first as u32;
        match number {
            libc::SYS_epoll_pwait | libc::SYS_epoll_pwait2 => Some(Self::Epoll { fd }),
            libc::SYS_accept
            | libc::SYS_accept4
            | libc::SYS_recvfrom
            | libc::SYS_recvmsg
            | libc::SYS_recvmmsg
            | libc::SYS_read
            | libc::SYS_readv => Some(Self::One { fd }),
            libc::SYS_ppoll => Some(Self::Many(Set::Poll { address: first, count: second })),
            libc::SYS_pselect6 => Some(Self::Many(Set::Select { address: second, count: first })),
            number => Self::parse_old(number, first, second),
        }
    }

    /// Reads calls that only older architectures have.
    #[cfg(target_arch = "x86_64")]
    const fn parse_old(number: i64, first: u64, second: u64) -> Option<Self> {
        match number {
            libc::SYS_epoll_wait => Some(Self::Epoll { fd: first as u32 }),
            libc::SYS_poll => Some(Self::Many(Set::Poll { address: first, count: second })),
            libc::SYS_select => Some(Self::Many(Set::Select { address: second, count: first })),
            _ => None,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    const fn parse_old(_: i64, _: u64, _: u64) -> Option<Self> {
        None
    }
}

impl Set {
    pub(super) const fn address(self) -> u64 {
        match self {
            Self::Poll { address, .. } | Self::Select { address, .. } => address,
        }
    }

    /// The length in bytes that is looked at. A null pointer is an empty set.
    pub(super) fn length(self) -> usize {
        let (Self::Poll { count, .. } | Self::Select { count, .. }) = self;
        // The kernel takes an unsigned int and an int.
        let count = u64::from(count as u32).min(ENTRIES) as usize;
        match self {
            _ if self.address() == 0 => 0,
            Self::Poll { .. } => count * POLLFD,
            Self::Select { .. } => count.div_ceil(u64::BITS as usize) * size_of::<u64>(),
        }
    }

    /// The fds of the set that wait for input. `bytes` may have fewer than the set.
    pub(super) fn fds(self, bytes: &[u8]) -> Vec<u32> {
        match self {
            Self::Poll { .. } => bytes.as_chunks::<POLLFD>().0.iter().filter_map(pollfd).collect(),
            Self::Select { count, .. } => {
                let words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_ne_bytes(*word));
                let bits = words.zip(0..).flat_map(|(word, at)| {
                    (0..u64::BITS)
                        .filter(move |bit| word >> bit & 1 == 1)
                        .map(move |bit| at * u64::BITS + bit)
                });
                bits.filter(|fd| *fd < count as u32).collect()
            }
        }
    }
}

/// poll(2) ignores a negative fd.
fn pollfd(bytes: &[u8; POLLFD]) -> Option<u32> {
    const READABLE: i16 = libc::POLLIN | libc::POLLRDNORM;
    let [a, b, c, d, e, f, ..] = *bytes;
    let events = i16::from_ne_bytes([e, f]);
    u32::try_from(i32::from_ne_bytes([a, b, c, d])).ok().filter(|_| events & READABLE != 0)
}
