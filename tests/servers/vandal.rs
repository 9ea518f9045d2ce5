//! cargo run -- --listen 127.0.0.1:8080=http -- cargo run -q --example vandal
//!
//! A server that spoils its first socket when asked to, and knows nothing of signals:
//!
//!     /shutdown          shutdown(2)
//!     /flip              shutdown(2) and listen(2) in one go
//!     /attach            a program of its own, which gives every connection to the second socket of the address
//!     /backlog/N         listen(2) with this queue limit
//!     /nonblock          O_NONBLOCK
//!     /alone             takes SO_REUSEPORT off
//!     /lock              SO_LOCK_FILTER: no program on it can be changed any more
//!     /unlink/PATH       removes /PATH
//!     /stranger          binds the same address once more, with SO_REUSEPORT, and serves there too; `--stranger`
//!                        does so before anything else
//!     /leave             closes that again
//!
//! `--connect` connects it, a datagram socket, to somebody else before anything else; `--wander`
//! disconnects it again.
//! Anything else is answered with the number of the generation.

#[path = "../../examples/common/mod.rs"]
mod common;

use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Mutex;
use std::thread;

use common::{Request, Socket};
use libc::{sock_filter, sock_fprog};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, SockaddrStorage, bind, connect, getsockname,
    listen, setsockopt, shutdown, socket, sockopt,
};

/// BPF_RET | BPF_K (bpf(4) of the BSDs, <linux/bpf_common.h>).
const RETURN: u16 = 6;

/// A second listener on the same address, while there is one.
static STRANGER: Mutex<Option<TcpListener>> = Mutex::new(None);

fn main() {
    let sockets: &'static [(String, Socket)] = common::sockets().leak();
    let (_, first) = sockets.first().expect("a socket to spoil");
    let flags = common::flags(&["--stranger", "--connect", "--wander"]);
    if flags.contains_key("--stranger") {
        join(first).expect("the address, once more");
    }
    if flags.contains_key("--connect") || flags.contains_key("--wander") {
        let discard = SockaddrStorage::from(std::net::SocketAddr::from(([127, 0, 0, 1], 9)));
        connect(first.as_fd().as_raw_fd(), &discard).expect("a datagram socket");
    }
    if flags.contains_key("--wander") {
        common::disconnect(first);
    }
    common::notify("READY=1");
    common::serve_for_ever(sockets, move |request| {
        let done = match spoil(first, request) {
            Ok(()) => String::new(),
            Err(error) => format!(": {error}"),
        };
        format!("vandal generation {}{done}\n", common::generation()).into()
    });
}

fn spoil(first: &'static Socket, request: &Request) -> nix::Result<()> {
    let fd = first.as_fd();
    if let Some(path) = request.path.strip_prefix("/unlink") {
        return nix::unistd::unlink(path);
    }
    match request.path.split('/').skip(1).collect::<Vec<_>>()[..] {
        ["shutdown"] => shutdown(fd.as_raw_fd(), nix::sys::socket::Shutdown::Both),
        ["flip"] => {
            shutdown(fd.as_raw_fd(), nix::sys::socket::Shutdown::Both)?;
            listen(&fd, Backlog::new(128)?)
        }
        ["attach"] => {
            let mut second = [sock_filter { code: RETURN, jt: 0, jf: 0, k: 1 }];
            let program = sock_fprog { len: 1, filter: second.as_mut_ptr() };
            setsockopt(&fd, sockopt::AttachReusePortCbpf, &program)
        }
        ["backlog", limit] => listen(&fd, Backlog::new(limit.parse::<i32>().expect("a small number"))?),
        ["nonblock"] => fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map(drop),
        ["alone"] => setsockopt(&fd, sockopt::ReusePort, &false),
        ["lock"] => common::set_flag(fd, libc::SO_LOCK_FILTER),
        ["stranger"] => join(first),
        ["leave"] => {
            leave();
            Ok(())
        }
        _ => Ok(()),
    }
}

/// One more listener on the address of this one.
fn join(first: &Socket) -> nix::Result<()> {
    let address: SockaddrStorage = getsockname(first.as_fd().as_raw_fd())?;
    let family = address.family().unwrap_or(AddressFamily::Inet);
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReusePort, &true)?;
    bind(fd.as_raw_fd(), &address)?;
    listen(&fd, Backlog::new(128)?)?;
    let listener = TcpListener::from(fd);
    let ours = listener.try_clone().expect("one more fd");
    *STRANGER.lock().expect("nobody panics with it") = Some(listener);
    thread::spawn(move || {
        while let Ok((mut stream, _)) = ours.accept() {
            let text = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nstranger\n";
            let _client_gone = std::io::Write::write_all(&mut stream, text.as_bytes());
            let _client_gone = stream.shutdown(Shutdown::Write);
        }
    });
    Ok(())
}

/// The thread that accepts there wakes up, and drops the last fd of it.
fn leave() {
    if let Some(listener) = STRANGER.lock().expect("nobody panics with it").take() {
        let _not_connected = shutdown(listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }
}
