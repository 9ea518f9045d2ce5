//! The NOTIFY_SOCKET of one generation (sd_notify(3)).
//!
//! Each generation has its own, so that a late message of an old one cannot be taken for the new one's. Where no process
//! is left that could send one, a restart goes on with the socket of the generation before. Like
//! systemd's it is a path, because some clients take any name for one; where no directory is usable, it is an
//! abstract name picked by the kernel. Every process can send to it, so the sender's pid and uid, which the kernel
//! attests, are checked.

mod place;
mod saved;

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Once;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials, bind, getsockname, recvmsg,
    setsockopt, socket, sockopt,
};

use self::place::SocketFile;
pub(super) use self::place::sweep_left_over;
pub use self::saved::SavedNotify;
use super::sys;
use super::warning::Warn;
use crate::config::NotifyAccess;
use crate::core::Notify;

/// The longest message (systemd's NOTIFY_BUFFER_MAX).
const LONGEST: usize = 4096;
/// The most messages of a generation that is gone that are read to use its socket again.
const LEFT_OVER: usize = 32;
/// Makes the warning about an abstract name come once.
static NO_PLACE: Once = Once::new();
/// The most fds that one message can carry (SCM_MAX_FD of unix(7)).
pub(super) const MOST_FDS: usize = 253;

/// The result of one call of [`NotifySocket::receive`].
#[derive(Debug)]
pub enum Received {
    /// There is no datagram to read.
    Nothing,
    Message {
        notify: Notify,
        pid: i32,
        uid: u32,
        fds: Vec<OwnedFd>,
    },
    /// A datagram that is ignored, and why, for the log.
    Dropped(String),
}

#[derive(Debug)]
pub struct NotifySocket {
    fd: OwnedFd,
    address: NotifyAddress,
}

#[derive(Debug)]
enum NotifyAddress {
    File(SocketFile),
    /// The abstract name with its leading `@`.
    Abstract(String),
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl NotifySocket {
    /// Opens a notify socket.
    ///
    /// # Errors
    /// socket(2) or bind(2) fails.
    pub fn open() -> io::Result<Self> {
        Self::open_in(&place::directories())
    }

    fn open_in(directories: &[PathBuf]) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
        setsockopt(&fd, sockopt::PassCred, &true)?;
        let address = match SocketFile::bind(&fd, directories) {
            Ok(place) => NotifyAddress::File(place),
            Err(reasons) => {
                NO_PLACE.call_once(|| {
                    Warn::AbstractNotifySocket.because(reasons);
                });
                NotifyAddress::Abstract(bind_abstract(&fd)?)
            }
        };
        Ok(Self { fd, address })
    }

    /// Whether another generation may have it, once no process is left that could send to it in the name of the one before.
    /// What that one has sent is dropped.
    pub fn is_as_new(&self) -> bool {
        let is_read = (0..LEFT_OVER).any(|_| matches!(self.receive(false), Received::Nothing));
        is_read
            && match &self.address {
                NotifyAddress::File(place) => place.is_as_new(),
                NotifyAddress::Abstract(_) => true,
            }
    }

    /// The value of NOTIFY_SOCKET.
    pub fn address(&self) -> String {
        match &self.address {
            NotifyAddress::File(place) => place.path().to_owned(),
            NotifyAddress::Abstract(name) => name.clone(),
        }
    }

    /// Reads one datagram without waiting. The caller limits how many it reads in a row.
    ///
    /// Without `takes_fds` the control buffer has room for the credentials, which the kernel writes first, and for
    /// the one fd of a request for sockets. Further fds (FDSTORE=1) do not fit, so the kernel closes them within this
    /// call. Fds that fit are closed when the message is dropped; `systemd-notify` waits for that (BARRIER=1).
    pub fn receive(&self, takes_fds: bool) -> Received {
        let mut payload = [0; LONGEST];
        let mut control = if takes_fds {
            cmsg_space!(UnixCredentials, [RawFd; MOST_FDS])
        } else {
            cmsg_space!(UnixCredentials, RawFd)
        };
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let mut parts = [IoSliceMut::new(&mut payload)];
        let message = recvmsg::<()>(self.fd.as_raw_fd(), &mut parts, Some(&mut control), flags);
        let (length, flags) = match message {
            Ok(message) => (message.bytes, message.flags),
            Err(Errno::EAGAIN) => return Received::Nothing,
            Err(errno) => return Received::Dropped(format!("recvmsg: {}", errno.desc())),
        };
        let mut credentials = None;
        let mut fds = Vec::new();
        for (kind, data) in control_messages(&control) {
            match kind {
                libc::SCM_CREDENTIALS => credentials = pid_and_uid(data),
                libc::SCM_RIGHTS => fds.extend(sys::received_fds(data)),
                _ => {}
            }
        }
        if flags.contains(MsgFlags::MSG_TRUNC) {
            return Received::Dropped(format!("longer than {LONGEST} bytes"));
        }
        if takes_fds && flags.contains(MsgFlags::MSG_CTRUNC) {
            // The buffer has room for all fds of one message, so the truncation means that our fd table is full.
            let why = "with more fds than we may have open; raise our own limit (ulimit -n)";
            return Received::Dropped(why.to_owned());
        }
        let Some((pid, uid)) = credentials else {
            return Received::Dropped("without credentials".to_owned());
        };
        Received::Message { notify: Notify::parse(&payload[..length]), pid, uid, fds }
    }
}

fn bind_abstract(fd: &OwnedFd) -> io::Result<String> {
    // bind(2) with an address of the family alone is autobind (unix(7)).
    bind(fd.as_raw_fd(), &UnixAddr::new_unnamed())?;
    let bound: UnixAddr = getsockname(fd.as_raw_fd())?;
    let name = bound.as_abstract().and_then(|name| std::str::from_utf8(name).ok());
    let name = name.ok_or_else(|| io::Error::other("the kernel picked no abstract name"))?;
    Ok(format!("@{name}"))
}

/// The sender of a datagram, from the view of the generation that owns the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notifier {
    Main,
    /// A command before, beside or after the main process: ExecStartPre=, ExecReload=, ...
    Command,
    /// Another process of the generation.
    Other,
    Stranger,
}

/// Applies NotifyAccess= (systemd.service(5)).
///
/// # Errors
/// Why the message is ignored: a sentence with the remedy.
pub fn judge(access: NotifyAccess, sender: Notifier, pid: i32, uid: u32) -> Result<(), String> {
    let from = format!("from pid {pid} (uid {uid}), which is");
    match (access, sender) {
        (_, Notifier::Stranger) => Err(format!("{from} none of its processes")),
        (NotifyAccess::None, _) => {
            Err("NotifyAccess=none: nobody may speak (main is the usual choice)".to_owned())
        }
        (NotifyAccess::All, _) | (_, Notifier::Main) | (NotifyAccess::Exec, Notifier::Command) => Ok(()),
        (NotifyAccess::Main | NotifyAccess::Exec, Notifier::Command | Notifier::Other) => {
            Err(format!("{from} not its main process (NotifyAccess=all lets all its processes speak)"))
        }
    }
}

/// Removes STOPPING=1 unless the main process sent it, and returns whether it did.
///
/// A worker that ends may send STOPPING=1 while the server goes on. systemd accepts it from every process that
/// NotifyAccess= admits; here it would end a generation that serves.
pub fn drop_what_main_alone_may_say(notify: &mut Notify, sender: Notifier) -> bool {
    sender != Notifier::Main && std::mem::take(&mut notify.stopping)
}

/// The messages of a SOL_SOCKET control buffer (cmsg(3)): `struct cmsghdr` (length, level, type), then the data, each
/// aligned to a word. nix refuses to read a truncated buffer, but the fds in it are in our table already.
pub(super) fn control_messages(control: &[u8]) -> impl Iterator<Item = (i32, &[u8])> {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    let mut rest = control;
    std::iter::from_fn(move || {
        loop {
            let (length, after) = rest.split_first_chunk::<{ size_of::<usize>() }>()?;
            let length = usize::from_ne_bytes(*length);
            let level = i32::from_ne_bytes(*after.first_chunk()?);
            let kind = i32::from_ne_bytes(*after.get(4..)?.first_chunk()?);
            let data = rest.get(HEADER..length)?;
            rest = rest.get(length.next_multiple_of(size_of::<usize>())..).unwrap_or_default();
            if level == libc::SOL_SOCKET {
                return Some((kind, data));
            }
        }
    })
}

/// Reads `struct ucred`: pid, uid, gid.
fn pid_and_uid(data: &[u8]) -> Option<(i32, u32)> {
    let pid = i32::from_ne_bytes(*data.first_chunk()?);
    Some((pid, u32::from_ne_bytes(*data.get(4..)?.first_chunk()?)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::IoSlice;
    use std::os::fd::RawFd;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use nix::sys::socket::{ControlMessage, sendmsg};

    use super::*;
    use crate::os::sys::tests::alone;

    /// The message that waits; `None` if there is none, or if it was dropped.
    fn message(socket: &NotifySocket) -> Option<Notify> {
        match socket.receive(false) {
            Received::Message { notify, .. } => Some(notify),
            Received::Nothing | Received::Dropped(_) => None,
        }
    }

    fn client(to: &NotifySocket) -> UnixDatagram {
        let client = UnixDatagram::unbound().unwrap();
        let name = to.address();
        match name.strip_prefix('@') {
            Some(name) => client.connect_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap(),
            None => client.connect(name).unwrap(),
        }
        client
    }

    fn send_with_fds(client: &UnixDatagram, text: &[u8], fds: &[RawFd]) {
        let rights = [ControlMessage::ScmRights(fds)];
        sendmsg::<()>(client.as_raw_fd(), &[IoSlice::new(text)], &rights, MsgFlags::empty(), None).unwrap();
    }

    #[test]
    fn stopping_counts_from_the_main_process_alone() {
        let of = |sender| {
            let mut notify = Notify::parse(b"STOPPING=1\nSTATUS=x");
            let is_dropped = drop_what_main_alone_may_say(&mut notify, sender);
            assert_eq!(notify.status.as_deref(), Some("x"), "the rest counts");
            (notify.stopping, is_dropped)
        };
        assert_eq!(of(Notifier::Main), (true, false));
        assert_eq!([Notifier::Command, Notifier::Other].map(of), [(false, true); 2]);
    }

    #[test]
    fn a_message_arrives_once() {
        let socket = NotifySocket::open().unwrap();
        assert!(matches!(socket.receive(false), Received::Nothing));
        client(&socket).send(b"READY=1\nSTATUS=up").unwrap();
        let expected = Notify { ready: true, status: Some("up".to_owned()), ..Notify::default() };
        assert_eq!(message(&socket), Some(expected));
        assert!(matches!(socket.receive(false), Received::Nothing));
    }

    #[test]
    fn its_file_is_open_to_all_and_goes_with_it() {
        let home = tempfile::tempdir().unwrap();
        let open =
            || NotifySocket::open_in(&[home.path().join("no directory"), home.path().to_owned()]).unwrap();
        let (one, other) = (open(), open());
        let (path, of_other) = (PathBuf::from(one.address()), PathBuf::from(other.address()));
        assert_ne!(path, of_other);
        assert_eq!(path.parent(), Some(home.path()));
        assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        client(&one).send(b"READY=1").unwrap();
        assert!(message(&one).is_some_and(|notify| notify.ready));
        drop(one);
        assert!(!path.exists() && of_other.exists());
        // What has taken its place meanwhile is not ours.
        fs::remove_file(&of_other).unwrap();
        fs::write(&of_other, "").unwrap();
        drop(other);
        assert!(of_other.exists());
    }

    #[test]
    fn one_that_serves_again_has_no_old_message_and_the_file_that_it_made() {
        let home = tempfile::tempdir().unwrap();
        let open = || NotifySocket::open_in(&[home.path().to_owned()]).unwrap();
        let socket = open();
        client(&socket).send(b"READY=1").unwrap();
        assert!(socket.is_as_new());
        assert!(message(&socket).is_none(), "READY=1 was that of another generation");
        fs::set_permissions(socket.address(), PermissionsExt::from_mode(0o600)).unwrap();
        assert!(!socket.is_as_new(), "another user could not send");
        let socket = open();
        fs::remove_file(socket.address()).unwrap();
        assert!(!socket.is_as_new());
    }

    #[test]
    fn where_no_directory_will_do_its_name_is_abstract() {
        let home = tempfile::tempdir().unwrap();
        let long = home.path().join("x".repeat(100));
        let socket = NotifySocket::open_in(&[home.path().join("no/parent"), long]).unwrap();
        assert!(socket.address().starts_with('@'), "{}", socket.address());
        client(&socket).send(b"READY=1").unwrap();
        assert!(message(&socket).is_some_and(|notify| notify.ready));
    }

    #[test]
    fn generations_have_names_of_their_own() {
        let (old, new) = (NotifySocket::open().unwrap(), NotifySocket::open().unwrap());
        assert_ne!(old.address(), new.address());
        client(&old).send(b"READY=1").unwrap();
        assert!(matches!(new.receive(false), Received::Nothing));
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
        assert!(message(&socket).is_some_and(|notify| notify.ready));
        assert!(matches!(socket.receive(false), Received::Dropped(_)));
        assert_eq!(message(&socket), Some(Notify::default()));
    }

    /// `systemd-notify` waits five seconds for that.
    #[test]
    fn a_barrier_is_closed_by_the_read() {
        let socket = NotifySocket::open().unwrap();
        let client = client(&socket);
        for takes_fds in [false, true] {
            let (reader, writer) = nix::unistd::pipe().unwrap();
            send_with_fds(&client, b"BARRIER=1", &[writer.as_raw_fd()]);
            drop(writer);
            nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
            assert_eq!(nix::unistd::read(&reader, &mut [0]), Err(Errno::EAGAIN), "still open in the queue");
            let received = socket.receive(takes_fds);
            assert!(matches!(&received, Received::Message { notify, .. } if notify.barrier), "{received:?}");
            drop(received);
            assert_eq!(nix::unistd::read(&reader, &mut [0]), Ok(0), "end of file: the last copy is closed");
        }
    }

    #[test]
    fn fds_that_our_table_has_no_room_for_are_told_and_the_others_closed() {
        alone("os::notify::tests::fds_that_our_table_has_no_room_for_are_told_and_the_others_closed", || {
            let socket = NotifySocket::open().unwrap();
            let client = client(&socket);
            let (reader, writer) = nix::unistd::pipe().unwrap();
            send_with_fds(&client, b"FDSTORE=1\nREADY=1", &[writer.as_raw_fd(); 20]);
            drop(writer);
            // A pipe takes the lowest numbers, so there are at most a few more than these below the limit.
            let limit = nix::sys::resource::Resource::RLIMIT_NOFILE;
            let most = reader.as_raw_fd() as u64 + 8;
            nix::sys::resource::setrlimit(limit, most, most).unwrap();
            let Received::Dropped(why) = socket.receive(true) else { panic!("dropped") };
            assert!(why.contains("ulimit -n"), "{why}");
            assert_eq!(nix::unistd::read(&reader, &mut [0]), Ok(0), "end of file: the last copy is closed");
        });
    }

    #[test]
    fn datagrams_with_fds_count_and_leave_none_behind() {
        let socket = NotifySocket::open().unwrap();
        let client = client(&socket);
        let file = tempfile::NamedTempFile::new().unwrap();
        // SCM_MAX_FD, the most that one message can carry.
        let fds = [file.as_file().as_raw_fd(); MOST_FDS];
        for round in 0..300 {
            send_with_fds(&client, b"FDSTORE=1\nREADY=1", &fds);
            let takes_fds = round % 2 == 0;
            let Received::Message { notify, fds, .. } = socket.receive(takes_fds) else {
                panic!("a message")
            };
            assert!(notify.ready && notify.fd_store);
            // Without the store there is room for one, and a word of the buffer holds two.
            assert_eq!(fds.len(), if takes_fds { MOST_FDS } else { 2 });
        }
        let mut long = b"FDSTORE=1\nX=".to_vec();
        long.resize(LONGEST + 1, b'x');
        send_with_fds(&client, &long, &fds);
        assert!(matches!(socket.receive(true), Received::Dropped(_)), "and its fds with it");
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
        sendmsg::<()>(client.as_raw_fd(), &text, &claim, MsgFlags::empty(), None).unwrap();
        let Received::Message { pid: from, uid, .. } = socket.receive(false) else { panic!("a message") };
        assert_eq!((from, uid), (pid, STRANGER));
    }

    #[test]
    fn who_may_speak() {
        use Notifier::{Command, Other, Stranger};
        use NotifyAccess::{All, Exec, Main, None};
        let table = [
            (All, [true, true, true, false]),
            (Exec, [true, true, false, false]),
            (Main, [true, false, false, false]),
            (None, [false, false, false, false]),
        ];
        for (access, expected) in table {
            let counts = |sender| judge(access, sender, 12, 0).is_ok();
            assert_eq!([Notifier::Main, Command, Other, Stranger].map(counts), expected, "{access:?}");
        }
        let why = judge(Main, Other, 12, 0).unwrap_err();
        assert!(why.contains("NotifyAccess=all"), "{why}");
    }

    #[test]
    fn a_control_buffer_is_read_from_its_place_only() {
        let header = size_of::<libc::cmsghdr>();
        let mut control = vec![0; header + 12];
        assert_eq!(control_messages(&control).next(), None::<(i32, &[u8])>);
        control[..size_of::<usize>()].copy_from_slice(&(header + 12).to_ne_bytes());
        control[header - 8..header - 4].copy_from_slice(&libc::SOL_SOCKET.to_ne_bytes());
        control[header - 4..header].copy_from_slice(&libc::SCM_CREDENTIALS.to_ne_bytes());
        control[header..header + 4].copy_from_slice(&77i32.to_ne_bytes());
        control[header + 4..header + 8].copy_from_slice(&1000u32.to_ne_bytes());
        let (kind, data) = control_messages(&control).next().expect("one");
        assert_eq!((kind, pid_and_uid(data)), (libc::SCM_CREDENTIALS, Some((77, 1000))));
        assert_eq!(control_messages(&control[..header + 4]).next(), None::<(i32, &[u8])>);
        control[..size_of::<usize>()].copy_from_slice(&usize::MAX.to_ne_bytes());
        assert_eq!(control_messages(&control).next(), None::<(i32, &[u8])>);
        assert!(pid_and_uid(&[1, 2]).is_none());
    }
}
