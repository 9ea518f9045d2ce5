//! cargo run -- -- cargo run -q --example notify -- --ready
//!
//! systemd-notify(1) for machines without it: `--ready`, `--stopping`, `--status=TEXT`, `--pid=PID` and `NAME=VALUE`
//! words become one datagram to NOTIFY_SOCKET, which carries an open file with `--fd=PATH`. Then it waits until the
//! receiver has read it, as the real one does: BARRIER=1 carries the end of a pipe that the receiver closes.

use std::env;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socket,
};
use nix::unistd::pipe;

/// As long as systemd-notify(1) waits: milliseconds.
const PATIENCE: u16 = 5_000;

fn main() {
    let Ok(path) = env::var("NOTIFY_SOCKET") else {
        eprintln!("nobody is to be notified: NOTIFY_SOCKET is not set");
        std::process::exit(1);
    };
    let (files, words): (Vec<String>, Vec<String>) =
        env::args().skip(1).partition(|word| word.starts_with("--fd="));
    let files: Vec<File> =
        files.iter().map(|word| File::open(&word["--fd=".len()..]).expect("--fd names a file")).collect();
    let lines: Vec<String> = words.iter().map(|word| line(word)).collect();
    let fds: Vec<RawFd> = files.iter().map(File::as_raw_fd).collect();
    let told = send(&path, &lines.join("\n"), &fds).and_then(|()| barrier(&path));
    told.unwrap_or_else(|error| panic!("cannot notify {path}: {error}"));
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

fn send(path: &str, message: &str, fds: &[RawFd]) -> io::Result<()> {
    let address = match path.strip_prefix('@') {
        Some(name) => UnixAddr::new_abstract(name.as_bytes())?,
        None => UnixAddr::new(path)?,
    };
    let sender = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let rights = [ControlMessage::ScmRights(fds)];
    let rights = if fds.is_empty() { &rights[..0] } else { &rights[..] };
    let text = [IoSlice::new(message.as_bytes())];
    sendmsg(sender.as_raw_fd(), &text, rights, MsgFlags::empty(), Some(&address))?;
    Ok(())
}

fn barrier(path: &str) -> io::Result<()> {
    let (ours, theirs) = pipe()?;
    send(path, "BARRIER=1", &[theirs.as_raw_fd()])?;
    drop(theirs);
    let mut ends = [PollFd::new(ours.as_fd(), PollFlags::empty())];
    match poll(&mut ends, PollTimeout::from(PATIENCE))? {
        0 => Err(io::Error::from(io::ErrorKind::TimedOut)),
        _closed => Ok(()),
    }
}
