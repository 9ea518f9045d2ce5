//! The NOTIFY_SOCKET of one generation (sd_notify(3)).
//!
//! Each generation has its own, so that a late message of an old one cannot be taken for the new one's. The name is
//! abstract and picked by the kernel: it never collides, leaves nothing behind, and is reachable whatever the user,
//! the directory or the root of the server is. Anybody in the network namespace can send to it, hence the look at the
//! sender, for whose pid and uid the kernel vouches.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials, bind, getsockname, recvmsg,
    setsockopt, socket, sockopt,
};

use crate::core::Notify;

/// Longest message; systemd has the same limit (NOTIFY_BUFFER_MAX).
const LONGEST: usize = 4096;

/// What one call of [`NotifySocket::receive`] found.
#[derive(Debug)]
pub enum Received {
    /// Nothing waits.
    Nothing,
    Message {
        notify: Notify,
        pid: i32,
        uid: u32,
        fds: Vec<OwnedFd>,
    },
    /// A datagram that does not count, and why, for the debug log.
    Dropped(String),
}

#[derive(Debug)]
pub struct NotifySocket {
    fd: OwnedFd,
    address: String,
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl NotifySocket {
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
        setsockopt(&fd, sockopt::PassCred, &true)?;
        // A bind with nothing but the family is autobind (unix(7)).
        bind(fd.as_raw_fd(), &UnixAddr::new_unnamed())?;
        let bound: UnixAddr = getsockname(fd.as_raw_fd())?;
        let name = bound.as_abstract().and_then(|name| std::str::from_utf8(name).ok());
        let name = name.ok_or_else(|| io::Error::other("the kernel picked no abstract name"))?;
        let address = format!("@{name}");
        Ok(Self { fd, address })
    }

    /// The value of NOTIFY_SOCKET.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Reads one datagram, without waiting. Counts only what comes from a sender that `believes` (pid, uid) accepts. The
    /// caller limits how many it reads in a row: senders may be faster than we are.
    ///
    /// The control buffer has room for the credentials alone, which the kernel writes first. Fds that come along
    /// (BARRIER=1, FDSTORE=1) find none: they never become ours, and the kernel closes them within this call, which
    /// is what `systemd-notify` waits for.
    pub fn receive(&self, _fds: bool) -> Received {
        let mut payload = [0; LONGEST];
        let mut control = cmsg_space!(UnixCredentials);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let mut parts = [IoSliceMut::new(&mut payload)];
        let message = recvmsg::<()>(self.fd.as_raw_fd(), &mut parts, Some(&mut control), flags);
        let (length, flags) = match message {
            Ok(message) => (message.bytes, message.flags),
            Err(Errno::EAGAIN) => return Received::Nothing,
            Err(errno) => return Received::Dropped(format!("recvmsg: {}", errno.desc())),
        };
        if flags.contains(MsgFlags::MSG_TRUNC) {
            return Received::Dropped(format!("longer than {LONGEST} bytes"));
        }
        let Some((pid, uid)) = sender(&control) else {
            return Received::Dropped("without credentials".to_owned());
        };
        Received::Message { notify: Notify::parse(&payload[..length]), pid, uid, fds: Vec::new() }
    }
}

/// Pid and uid in a control buffer that begins with SCM_CREDENTIALS: `struct cmsghdr` (length, level, type), then
/// `struct ucred` (pid, uid, gid). Read here because nix refuses to look into a buffer that had no room for everything.
fn sender(control: &[u8]) -> Option<(i32, u32)> {
    let word = |at: usize| Some(u32::from_ne_bytes(control.get(at..at + 4)?.try_into().ok()?));
    let header = size_of::<libc::cmsghdr>();
    if word(header - 8)? as i32 != libc::SOL_SOCKET || word(header - 4)? as i32 != libc::SCM_CREDENTIALS {
        return None;
    }
    Some((word(header)? as i32, word(header + 4)?))
}

pub enum Sender {
    Main,
    Command,
    Other,
    Stranger,
}
pub fn judge(_a: crate::config::NotifyAccess, s: Sender, _pid: i32, _uid: u32) -> Result<(), String> {
    match s {
        Sender::Stranger => Err("stranger".into()),
        _ => Ok(()),
    }
}
#[cfg(any())]
mod tests {
    use std::fs;
    use std::io::IoSlice;
    use std::os::fd::RawFd;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use nix::sys::socket::{ControlMessage, sendmsg};

    use super::*;

    fn anybody(_pid: i32, _uid: u32) -> bool {
        true
    }

    fn client(to: &NotifySocket) -> UnixDatagram {
        let name = to.address();
        let address = SocketAddr::from_abstract_name(name.strip_prefix('@').unwrap()).unwrap();
        let client = UnixDatagram::unbound().unwrap();
        client.connect_addr(&address).unwrap();
        client
    }

    fn send_with_fds(client: &UnixDatagram, text: &[u8], fds: &[RawFd]) {
        let rights = [ControlMessage::ScmRights(fds)];
        sendmsg::<()>(client.as_raw_fd(), &[IoSlice::new(text)], &rights, MsgFlags::empty(), None).unwrap();
    }

    #[test]
    fn a_message_arrives_once() {
        let socket = NotifySocket::open().unwrap();
        assert_eq!(socket.receive(anybody), Received::Nothing);
        client(&socket).send(b"READY=1\nSTATUS=up").unwrap();
        let expected = Notify { ready: true, status: Some("up".to_owned()), ..Notify::default() };
        assert_eq!(socket.receive(anybody), Received::Message(expected));
        assert_eq!(socket.receive(anybody), Received::Nothing);
    }

    #[test]
    fn generations_have_names_of_their_own() {
        let (old, new) = (NotifySocket::open().unwrap(), NotifySocket::open().unwrap());
        assert_ne!(old.address(), new.address());
        client(&old).send(b"READY=1").unwrap();
        assert_eq!(new.receive(anybody), Received::Nothing);
    }

    #[test]
    fn the_longest_message_counts_and_a_longer_one_does_not() {
        let socket = NotifySocket::open().unwrap();
        let client = client(&socket);
        let mut text = b"READY=1\nX=".to_vec();
        text.resize(LONGEST, b'x');
        client.send(&text).unwrap();
        text.push(b'x');
        client.send(&text).unwrap();
        client.send(b"").unwrap();
        assert!(matches!(socket.receive(anybody), Received::Message(Notify { ready: true, .. })));
        assert!(matches!(socket.receive(anybody), Received::Dropped(_)));
        assert_eq!(socket.receive(anybody), Received::Message(Notify::default()));
    }

    #[test]
    fn a_barrier_is_closed_by_the_read() {
        let socket = NotifySocket::open().unwrap();
        let client = client(&socket);
        let (reader, writer) = nix::unistd::pipe().unwrap();
        send_with_fds(&client, b"BARRIER=1", &[writer.as_raw_fd()]);
        drop(writer);
        nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
        assert_eq!(nix::unistd::read(&reader, &mut [0]), Err(Errno::EAGAIN), "still open in the queue");
        assert_eq!(socket.receive(anybody), Received::Message(Notify::default()));
        assert_eq!(nix::unistd::read(&reader, &mut [0]), Ok(0), "end of file: the last copy is closed");
    }

    #[test]
    fn datagrams_with_fds_count_and_leave_none_behind() {
        let socket = NotifySocket::open().unwrap();
        let client = client(&socket);
        let file = tempfile::NamedTempFile::new().unwrap();
        // SCM_MAX_FD, the most that one message can carry.
        let fds = [file.as_file().as_raw_fd(); 253];
        for _ in 0..300 {
            send_with_fds(&client, b"FDSTORE=1\nREADY=1", &fds);
            assert!(matches!(socket.receive(anybody), Received::Message(Notify { ready: true, .. })));
        }
        let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let copies = open.filter(|fd| fs::read_link(fd.path()).is_ok_and(|link| link == file.path())).count();
        assert_eq!(copies, 1);
    }

    #[test]
    fn the_sender_is_the_one_the_kernel_names() {
        const STRANGER: u32 = 54321;
        if !nix::unistd::geteuid().is_root() {
            return; // Only root can claim to be somebody else.
        }
        let socket = NotifySocket::open().unwrap();
        let client = client(&socket);
        let pid = std::process::id() as i32;
        let credentials = UnixCredentials::from(libc::ucred { pid, uid: STRANGER, gid: STRANGER });
        let claim = [ControlMessage::ScmCredentials(&credentials)];
        let text = [IoSlice::new(b"READY=1")];
        for _ in 0..2 {
            sendmsg::<()>(client.as_raw_fd(), &text, &claim, MsgFlags::empty(), None).unwrap();
        }
        assert!(matches!(socket.receive(|_, uid| uid != STRANGER), Received::Dropped(_)));
        assert!(matches!(
            socket.receive(|from, uid| (from, uid) == (pid, STRANGER)),
            Received::Message(Notify { ready: true, .. })
        ));
    }

    #[test]
    fn credentials_are_read_from_their_place_only() {
        let mut control = vec![0; size_of::<libc::cmsghdr>() + 12];
        assert_eq!(sender(&control), None);
        let header = size_of::<libc::cmsghdr>();
        control[header - 8..header - 4].copy_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
        control[header - 4..header].copy_from_slice(&libc::SCM_CREDENTIALS.to_ne_bytes());
        control[header..header + 4].copy_from_slice(&77i32.to_ne_bytes());
        control[header + 4..header + 8].copy_from_slice(&1000u32.to_ne_bytes());
        assert_eq!(sender(&control), Some((77, 1000)));
        assert_eq!(sender(&control[..header + 4]), None);
        assert_eq!(sender(&[]), None);
    }
}
