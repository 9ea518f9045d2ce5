//! cargo run -- --listen 127.0.0.1:8080=http -- cargo run -q --example waits
//!
//! Servers that never say READY=1 and wait for clients in every way there is. A file, named in the argument, says how
//! (`accept`, `threads`, `children`, `poll`, `epoll`, `nested`: in poll on an epoll, `seldom`: it sleeps and accepts in turn,
//! `receive`, `never`, `bind`, `exit`), and after it, in any order, `late` (two seconds pass first), `says` (READY=1 at once), `dies` (with 3, a second after its start), `hidden` (nobody may look at the process), `first` (the other sockets are left alone).

#[path = "../../examples/common/mod.rs"]
mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::Socket;
use mio::unix::SourceFd;
use mio::{Interest, Token};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

const LATE: Duration = Duration::from_secs(2);

fn main() {
    let file = std::env::args().nth(1);
    if file.as_deref() == Some("--child") {
        let socket = std::io::stdin().as_fd().try_clone_to_owned().expect("a socket");
        return serve(&Socket::Tcp(socket.into()));
    }
    let read = |file| std::fs::read_to_string(file).expect("the file is there");
    let text = file.map_or_else(|| "accept".to_owned(), read);
    let words: Vec<&str> = text.split_whitespace().collect();
    let has = |word| words.contains(&word);
    if has("hidden") {
        nix::sys::prctl::set_dumpable(false).expect("a process may hide");
    }
    let mut sockets: Vec<Socket> = common::sockets().into_iter().map(|(_, socket)| socket).collect();
    if has("first") {
        sockets.truncate(1);
    }
    let registered = has("epoll").then(|| register(&sockets));
    if has("says") {
        common::notify("READY=1");
    }
    if has("dies") {
        thread::sleep(Duration::from_secs(1));
        std::process::exit(3);
    }
    if has("late") {
        thread::sleep(LATE);
    }
    match *words.first().expect("how to wait") {
        "accept" | "receive" => serve_all(sockets, 1),
        "threads" => serve_all(sockets, 8),
        "children" => {
            let start = |socket: &Socket| {
                let stdin = socket.as_fd().try_clone_to_owned().expect("an fd");
                let mut child = Command::new(std::env::current_exe().expect("our path"));
                child.arg("--child").stdin(stdin).spawn().expect("it starts")
            };
            for mut child in sockets.iter().map(start).collect::<Vec<_>>() {
                child.wait().expect("our child");
            }
        }
        "poll" => loop {
            let mut fds: Vec<PollFd> =
                sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
            poll(&mut fds, PollTimeout::NONE).expect("poll");
            let came = fds.iter().map(|fd| fd.any() == Some(true)).collect::<Vec<_>>();
            for (socket, _) in sockets.iter().zip(came).filter(|(_, came)| *came) {
                answer(socket);
            }
        },
        "epoll" => {
            let mut poll = registered.expect("registered above");
            let mut events = mio::Events::with_capacity(8);
            loop {
                poll.poll(&mut events, None).expect("epoll");
                // An edge-triggered set reports a change once, so all clients that wait now are served.
                events.iter().for_each(|event| while answer(&sockets[event.token().0]) {});
            }
        }
        "nested" => poll_an_epoll(&sockets),
        "seldom" => look_now_and_then(&sockets),
        "bind" => drop(TcpListener::bind(own_address(&sockets[0])).expect("the address is free")),
        "exit" => std::process::exit(3),
        _ => thread::sleep(Duration::MAX),
    }
}

fn own_address(socket: &Socket) -> std::net::SocketAddr {
    let Socket::Tcp(socket) = socket else { panic!("not TCP") };
    socket.local_addr().expect("its address")
}

fn register(sockets: &[Socket]) -> mio::Poll {
    let poll = mio::Poll::new().expect("an epoll");
    for (index, socket) in sockets.iter().enumerate() {
        let fd = socket.as_fd().as_raw_fd();
        let source = &mut SourceFd(&fd);
        socket.set_nonblocking().expect("a mode that every socket has");
        poll.registry().register(source, Token(index), Interest::READABLE).expect("registers");
    }
    poll
}

/// EventMachine waits like this.
fn poll_an_epoll(sockets: &[Socket]) -> ! {
    let epoll = Epoll::new(EpollCreateFlags::empty()).expect("an epoll");
    for (index, socket) in sockets.iter().enumerate() {
        epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, index as u64)).expect("registers");
    }
    loop {
        poll(&mut [PollFd::new(epoll.0.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).expect("poll");
        let mut events = [EpollEvent::empty(); 8];
        let came = epoll.wait(&mut events, EpollTimeout::ZERO).expect("epoll");
        for event in &events[..came] {
            answer(&sockets[event.data() as usize]);
        }
    }
}

fn look_now_and_then(sockets: &[Socket]) -> ! {
    sockets.iter().for_each(|socket| socket.set_nonblocking().expect("a mode that every socket has"));
    loop {
        sockets.iter().for_each(|socket| while answer(socket) {});
        thread::sleep(Duration::from_millis(20));
    }
}

fn serve_all(sockets: Vec<Socket>, threads: usize) {
    let sockets: &'static [Socket] = sockets.leak();
    for socket in sockets {
        (0..threads).for_each(|_| drop(thread::spawn(|| serve(socket))));
    }
    thread::sleep(Duration::MAX);
}

fn serve(socket: &Socket) {
    loop {
        answer(socket);
    }
}

/// Serves one client; if none waits and the socket blocks, it waits for the next. Returns whether there was one.
fn answer(socket: &Socket) -> bool {
    let served = match socket {
        Socket::Tcp(listener) => listener.accept().map(|(client, _)| reply(client)),
        Socket::Unix(listener) => listener.accept().map(|(client, _)| reply(client)),
        Socket::Udp(socket) => socket.recv_from(&mut [0; 64]).map(|(_, from)| {
            let _gone = socket.send_to(common::generation().as_bytes(), from);
        }),
    };
    served.is_ok()
}

/// A client may be gone by now.
fn reply(mut client: impl Read + Write) {
    if client.read(&mut [0; 1024]).is_ok_and(|length| length > 0) {
        let body = format!("waits generation {}\n", common::generation());
        let _gone = write!(client, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    }
}
