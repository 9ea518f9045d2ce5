//! cargo run -- -- cargo run -q --example notify -- --ready
//!
//! systemd-notify(1) for machines without it: `--ready`, `--stopping`, `--status=TEXT`, `--pid=PID` and `NAME=VALUE`
//! words become one datagram to NOTIFY_SOCKET. Then it waits until the receiver has read it, as the real one does:
//! BARRIER=1 carries the end of a pipe that the receiver closes.

mod common;

use std::env;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socket,
};
use nix::unistd::pipe;

/// As long as systemd-notify(1) waits: milliseconds.
const PATIENCE: u16 = 5_000;

fn main() {
    let lines: Vec<String> = env::args().skip(1).map(|word| line(&word)).collect();
    common::notify(&lines.join("\n"));
    if let Ok(path) = env::var("NOTIFY_SOCKET") {
        barrier(&path).unwrap_or_else(|error| panic!("no barrier at {path}: {error}"));
    }
}

fn line(word: &str) -> String {
    match word.split_once('=') {
        _ if word == "--ready" => "READY=1".to_owned(),
        _ if word == "--stopping" => "STOPPING=1".to_owned(),
        Some(("--status", text)) => format!("STATUS={text}"),
        Some(("--pid", pid)) => format!("MAINPID={pid}"),
        _ => word.to_owned(),
    }
}

fn barrier(path: &str) -> io::Result<()> {
    let (ours, theirs) = pipe()?;
    let address = match path.strip_prefix('@') {
        Some(name) => UnixAddr::new_abstract(name.as_bytes())?,
        None => UnixAddr::new(path)?,
    };
    let sender = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let fds = [theirs.as_raw_fd()];
    let message = [IoSlice::new(b"BARRIER=1")];
    sendmsg(
        sender.as_raw_fd(),
        &message,
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::empty(),
        Some(&address),
    )?;
    drop(theirs);
    let mut ends = [PollFd::new(ours.as_fd(), PollFlags::empty())];
    match poll(&mut ends, PollTimeout::from(PATIENCE))? {
        0 => Err(io::Error::from(io::ErrorKind::TimedOut)),
        _closed => Ok(()),
    }
}
