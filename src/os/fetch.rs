//! Both sides of the request by which `supervise exec`, below a wrapper that has closed the held sockets, gets them
//! from the supervisor once more.
//!
//! The request is a datagram to the notify socket of the generation, which knows its processes. It passes one end of a
//! socketpair(2), on which the answer arrives (SCM_RIGHTS, unix(7)); if that end is closed without one, it was refused.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::time::Duration;

use nix::cmsg_space;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};

use super::notify::{MOST_FDS, control_messages};
use super::{proc, reap, sys};

/// The environment variable with the address to ask.
pub const VARIABLE: &str = "SUPERVISE_SOCKETS";

/// The request, a line as in sd_notify(3).
const QUESTION: &[u8] = b"X_SUPERVISE_FETCH=1";

/// The longest answer without its fds: names of at most 255 bytes, each followed by `:`.
const LONGEST: usize = MOST_FDS * 256 + 16;

/// How long the answer may take; a supervisor may be stopped or busy.
const PATIENCE: Duration = Duration::from_secs(5);

/// The most ancestors that are looked at between us and the process that supervise started.
const ANCESTORS: usize = 64;

/// Sends the sockets. Each message has the total number, a line feed, and the names of the fds that it passes.
///
/// # Errors
/// The process that asked does not wait for the answer, or passed something other than such a socket.
pub fn answer(to: &OwnedFd, passed: &[(String, RawFd)]) -> io::Result<()> {
    for part in passed.chunks(MOST_FDS) {
        let names: Vec<&str> = part.iter().map(|(name, _)| name.as_str()).collect();
        let fds: Vec<RawFd> = part.iter().map(|(_, fd)| *fd).collect();
        let text = format!("{}\n{}", passed.len(), names.join(":"));
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(to.as_raw_fd(), &[IoSlice::new(text.as_bytes())], &rights, flags, None)?;
    }
    Ok(())
}

/// Asks at `address`, the value of [`VARIABLE`]; returns the names, joined as in LISTEN_FDNAMES, and the sockets.
///
/// # Errors
/// No process answers, or the request is refused.
pub fn fetch(address: &OsStr) -> io::Result<(String, Vec<OwnedFd>)> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let question = UnixDatagram::unbound()?;
    question.set_write_timeout(Some(PATIENCE))?;
    match address.as_bytes().strip_prefix(b"@") {
        Some(name) => question.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => question.connect(address)?,
    }
    let fds = [theirs.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(question.as_raw_fd(), &[IoSlice::new(QUESTION)], &rights, MsgFlags::empty(), None)?;
    drop(theirs);
    let (mut names, mut sockets) = (Vec::new(), Vec::new());
    loop {
        let count = next_part(&ours, &mut names, &mut sockets)?;
        if sockets.len() >= count {
            return Ok((names.join(":"), sockets));
        }
    }
}

/// Receives one message of the answer and returns the total number of sockets.
fn next_part(from: &OwnedFd, names: &mut Vec<String>, sockets: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let patience = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
    if poll(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], patience)? == 0 {
        return Err(io::Error::other("supervise does not answer"));
    }
    let mut text = vec![0; LONGEST];
    let mut control = cmsg_space!([RawFd; MOST_FDS]);
    let mut parts = [IoSliceMut::new(&mut text)];
    let message =
        recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let (length, flags) = (message.bytes, message.flags);
    let before = sockets.len();
    for (kind, data) in control_messages(&control) {
        if kind == libc::SCM_RIGHTS {
            sockets.extend(sys::received_fds(data));
        }
    }
    if flags.contains(MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::other("not all of them could be opened here (raise ulimit -n)"));
    }
    let text = String::from_utf8_lossy(&text[..length]);
    let answer = text.split_once('\n').filter(|_| sockets.len() > before);
    let answer = answer.and_then(|(count, names)| Some((count.parse().ok()?, names)));
    let Some((count, of_these)) = answer else {
        return Err(io::Error::other(
            "supervise gives them to processes below its server alone, as its user, the server's or root",
        ));
    };
    names.push(of_these.to_owned());
    Ok(count)
}

/// The variables `names` of the nearest ancestor that has [`VARIABLE`], as sudo, su and `env -i` clear the
/// environment. An ancestor whose environment we may not read is skipped.
pub fn of_ancestors(names: &[&str]) -> Vec<(OsString, OsString)> {
    let mut pid = i32::try_from(process::id()).unwrap_or(0);
    for _ in 0..ANCESTORS {
        pid = match reap::parent_and_group_of(pid) {
            Some((parent, _)) if parent > 0 => parent,
            _ => break,
        };
        let environment = proc::bytes(format!("/proc/{pid}/environ")).unwrap_or_default();
        let value = |name: &str| {
            let mut lines = environment.split(|byte| *byte == 0);
            lines.find_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
        };
        if value(VARIABLE).is_some() {
            let found = names.iter().filter_map(|name| Some((*name, value(name)?)));
            return found.map(|(name, value)| (name.into(), OsString::from_vec(value.to_vec()))).collect();
        }
    }
    Vec::new()
}

/// [`VARIABLE`] and its companions from our environment, else [`of_ancestors`]; empty where no supervise can be asked.
pub fn variables() -> Vec<(OsString, OsString)> {
    match env::var_os(VARIABLE) {
        Some(address) => vec![(VARIABLE.into(), address)],
        None => of_ancestors(&[VARIABLE, "NOTIFY_SOCKET", "WATCHDOG_USEC", "SUPERVISE_GENERATION"]),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn an_answer_of_several_parts_is_read_whole_and_a_closed_end_is_a_refusal() {
        let pair = || socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
        let (ours, theirs) = pair().unwrap();
        let file = File::open("/dev/null").unwrap();
        let passed: Vec<_> = (0..300).map(|number| (number.to_string(), file.as_raw_fd())).collect();
        answer(&theirs, &passed).unwrap();
        let (mut names, mut sockets) = (Vec::new(), Vec::new());
        assert_eq!(next_part(&ours, &mut names, &mut sockets).unwrap(), 300);
        assert_eq!((sockets.len(), names.len()), (MOST_FDS, 1));
        next_part(&ours, &mut names, &mut sockets).unwrap();
        assert_eq!((sockets.len(), names.join(":").split(':').count()), (300, 300));
        drop(theirs);
        assert!(
            next_part(&ours, &mut names, &mut sockets).unwrap_err().to_string().contains("below its server")
        );
    }
}
