//! cargo run -- --listen 127.0.0.1:8080=http --intercept-bind -- cargo run -q --example binds -- {addr:http}
//!
//! A server that never heard of LISTEN_FDS: it binds the addresses that it is told, and serves as `rude` does.
//!
//!     127.0.0.1:8080 [::]:8080    TCP; before it, with a plus:
//!         thread+     by another thread
//!         epoll+      registered with epoll before it is bound, and under a high number
//!         epolls+     likewise, with a hundred of them
//!         deaf+       accepts nothing
//!         try+        is closed again at once
//!         again+      and 2,000 times more; ends when one fails
//!         workers+    three sockets with SO_REUSEPORT
//!         only6+      IPV6_V6ONLY
//!         options+    with options of its own, which must still be there when it listens; from generation 3 on with
//!                     none, and then it must find none
//!         flood+      and once more, again and again, by four threads
//!         liar+       likewise, while another thread changes the port that it asks for
//!     udp:ADDRESS  unix:PATH      what is at the path is removed first
//!     clients:ADDRESS             UDP, and a socket for each client: connects what it has to the client, and binds anew
//!     twice:PATH                  likewise, and once more when it is there again; its mode is changed at the end
//!     to:ADDRESS                  connects to it before it serves
//!
//!     /peer                       the client's address
//!     /sockets                    how many sockets it has made
//!     /exit                       ends it, whatever its threads are at

#[path = "../../examples/common/mod.rs"]
mod common;

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::thread;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, SockaddrStorage, bind, getsockopt, listen,
    setsockopt, socket, sockopt,
};

use common::{Reply, Request, Socket};

fn main() {
    let mut sockets = Vec::new();
    for word in std::env::args().skip(1) {
        let opened = match word.strip_prefix("clients:") {
            Some(address) => Err(serve_clients(&address.parse().expect("an address"))),
            None => open(&word),
        };
        match opened {
            Ok(opened) => sockets.extend(opened.into_iter().map(|socket| (word.clone(), socket))),
            Err(error) => {
                eprintln!("cannot bind {word}: {error}");
                std::process::exit(1);
            }
        }
    }
    let count = sockets.len();
    common::serve_for_ever(sockets.leak(), move |request| page(request, count));
}

/// As servers do that have a process for each client: what the client has sent is still there when its socket is connected.
fn serve_clients(address: &SocketAddr) -> io::Error {
    let generation = std::env::var("SUPERVISE_GENERATION").unwrap_or_default();
    let serve = || -> io::Result<()> {
        let unbound = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&unbound, sockopt::ReuseAddr, &true)?;
        bind(unbound.as_raw_fd(), &SockaddrStorage::from(*address))?;
        let for_one = UdpSocket::from(unbound);
        let (_, client) = for_one.peek_from(&mut [0; 64])?;
        let generation = generation.clone();
        thread::spawn(move || -> io::Result<()> {
            for_one.connect(client)?;
            let mut buffer = [0; 64];
            loop {
                let length = for_one.recv(&mut buffer)?;
                let answer = format!("{generation} {}", String::from_utf8_lossy(&buffer[..length]));
                for_one.send(answer.as_bytes())?;
            }
        });
        Ok(())
    };
    loop {
        if let Err(error) = serve() {
            return error;
        }
    }
}

fn page(request: &Request, count: usize) -> Reply {
    match request.path.as_str() {
        "/peer" => format!("{}\n", request.peer).into(),
        "/sockets" => format!("{count}\n").into(),
        "/exit" => std::process::exit(1),
        _ => format!("binds generation {}\n", common::generation()).into(),
    }
}

fn open(word: &str) -> io::Result<Vec<Socket>> {
    if let Some(address) = word.strip_prefix("to:") {
        TcpStream::connect(address)?;
        return Ok(Vec::new());
    }
    if let Some(address) = word.strip_prefix("udp:") {
        return Ok(vec![Socket::Udp(UdpSocket::bind(address)?)]);
    }
    if let Some(path) = word.strip_prefix("unix:") {
        // As most servers do, lest a socket of their own from before be in the way.
        let _none_there = fs::remove_file(path);
        return Ok(vec![Socket::Unix(UnixListener::bind(path)?)]);
    }
    if let Some(path) = word.strip_prefix("twice:") {
        fs::remove_file(path)?;
        while !fs::exists(path)? {
            thread::yield_now();
        }
        fs::remove_file(path)?;
        let socket = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o606))?;
        return Ok(vec![Socket::Unix(socket)]);
    }
    let Some((how, address)) = word.split_once('+') else {
        return Ok(vec![Socket::Tcp(TcpListener::bind(word)?)]);
    };
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    match how {
        "thread" => {
            let bound = thread::spawn(move || TcpListener::bind(address)).join().expect("no panic")?;
            Ok(vec![Socket::Tcp(bound)])
        }
        "epoll" => Ok(vec![by_epoll(address, 1)?]),
        "epolls" => Ok(vec![by_epoll(address, 100)?]),
        "deaf" => {
            std::mem::forget(TcpListener::bind(address)?);
            Ok(Vec::new())
        }
        "try" => {
            drop(TcpListener::bind(address)?);
            Ok(Vec::new())
        }
        "again" => {
            let serving = TcpListener::bind(address)?;
            let again = (0..2000).map(|_| TcpListener::bind(address)).find_map(Result::err);
            eprintln!("bound again: {again:?}");
            again.map_or_else(|| Ok(vec![Socket::Tcp(serving)]), Err)
        }
        "workers" => (0..3).map(|_| worker(address)).collect(),
        "only6" => Ok(vec![only_6(address)?]),
        "options" => Ok(vec![with_options(address)?]),
        "flood" => {
            let serving = TcpListener::bind(address)?;
            for _ in 0..4 {
                thread::spawn(move || flood(&SockaddrStorage::from(address)));
            }
            Ok(vec![Socket::Tcp(serving)])
        }
        "liar" => {
            let serving = TcpListener::bind(address)?;
            let told: &'static _ = Box::leak(Box::new(SockaddrStorage::from(address)));
            thread::spawn(move || change_port(told));
            let own = serving.try_clone()?;
            thread::spawn(move || lie(told, &own));
            Ok(vec![Socket::Tcp(serving)])
        }
        _ => Err(io::Error::other("no such way")),
    }
}

fn new(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // Every server does this, so that connections of its predecessor are not in the way.
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    Ok(fd)
}

fn listening(fd: OwnedFd, address: SocketAddr) -> io::Result<Socket> {
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&fd, Backlog::new(5)?)?;
    Ok(Socket::Tcp(fd.into()))
}

fn worker(address: SocketAddr) -> io::Result<Socket> {
    let fd = new(address)?;
    setsockopt(&fd, sockopt::ReusePort, &true)?;
    listening(fd, address)
}

fn only_6(address: SocketAddr) -> io::Result<Socket> {
    let fd = new(address)?;
    setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    listening(fd, address)
}

/// Serves what epoll says is there; the registration is made before bind(2), and taken back once at the end.
fn by_epoll(address: SocketAddr, sets: usize) -> io::Result<Socket> {
    let fd = {
        let _in_front = (0..100).map(|_| fs::File::open("/dev/null")).collect::<io::Result<Vec<_>>>()?;
        new(address)?
    };
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&fd, EpollEvent::new(EpollFlags::EPOLLIN, 42))?;
    for _ in 1..sets {
        let further = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        further.add(&fd, EpollEvent::new(EpollFlags::EPOLLIN, 42))?;
        // The epoll set stays open.
        std::mem::forget(further);
    }
    let Socket::Tcp(listener) = listening(fd, address)? else { unreachable!("it is TCP") };
    let mut events = [EpollEvent::empty()];
    // The first connection is waited for; whoever it is tries again.
    thread::spawn(move || {
        epoll.wait(&mut events, EpollTimeout::NONE).expect("a set");
        assert_eq!(events[0].data(), 42);
        let mut event = EpollEvent::new(EpollFlags::EPOLLIN, 43);
        epoll.modify(&listener, &mut event).expect("it is in the set under this number");
        epoll.delete(&listener).expect("likewise");
        eprintln!("epoll works");
        common::serve_for_ever(vec![("epoll".to_owned(), Socket::Tcp(listener))].leak(), |request| {
            page(request, 1)
        });
    });
    // The caller serves this socket, which plays no part in the test.
    Ok(Socket::Tcp(TcpListener::bind("127.0.0.1:0")?))
}

fn with_options(address: SocketAddr) -> io::Result<Socket> {
    let fd = new(address)?;
    if ["1", "2"].contains(&common::generation().as_str()) {
        setsockopt(&fd, sockopt::KeepAlive, &true)?;
        setsockopt(&fd, sockopt::TcpKeepIdle, &77)?;
        setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
        setsockopt(&fd, sockopt::TcpUserTimeout, &5000)?;
        setsockopt(&fd, sockopt::RcvBuf, &50_000)?;
        setsockopt(&fd, sockopt::Priority, &3)?;
    }
    let before = options(&fd)?;
    let socket = listening(fd, address)?;
    let after = options(&socket)?;
    if before == after {
        return Ok(socket);
    }
    Err(io::Error::other(format!("its options were {before:?} and are {after:?}")))
}

fn options(socket: &impl AsFd) -> io::Result<[i64; 6]> {
    Ok([
        getsockopt(socket, sockopt::KeepAlive)?.into(),
        getsockopt(socket, sockopt::TcpKeepIdle)?.into(),
        getsockopt(socket, sockopt::TcpNoDelay)?.into(),
        getsockopt(socket, sockopt::TcpUserTimeout)?.into(),
        i64::try_from(getsockopt(socket, sockopt::RcvBuf)?).map_err(io::Error::other)?,
        getsockopt(socket, sockopt::Priority)?.into(),
    ])
}

fn flood(address: &SockaddrStorage) {
    loop {
        let fd =
            socket(address.family().expect("an address"), SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
        // The test does not care whether bind(2) succeeds.
        let _bound_or_not = fd.and_then(|fd| bind(fd.as_raw_fd(), address));
    }
}

/// Whatever was read of the address, and when: at the port of the one that serves there is no other socket. Says so when the
/// kernel has read another one than the supervisor, which knows that the first is held.
fn lie(told: &SockaddrStorage, own: &TcpListener) {
    let port = own.local_addr().expect("it is bound").port();
    let inode = |socket: &dyn AsRawFd| fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).ok();
    let mut has_said_so = false;
    loop {
        let family = told.family().expect("an address");
        let Ok(fd) = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None) else { continue };
        let bound = bind(fd.as_raw_fd(), told);
        let fd = TcpListener::from(fd);
        if bound == Err(Errno::EADDRINUSE) && !has_said_so {
            eprintln!("two addresses were read");
            has_said_so = true;
        }
        let at = bound.is_ok().then(|| fd.local_addr().expect("it is bound").port());
        if at == Some(port) && inode(&fd) != inode(own) {
            eprintln!("there are two of port {port}");
            std::process::exit(1);
        }
    }
}

/// To one of the kernel's choice and back, under the eyes of whoever reads it.
fn change_port(told: &'static SockaddrStorage) {
    let memory = fs::OpenOptions::new().write(true).open("/proc/self/mem").expect("our own memory");
    // The port follows the family in each struct sockaddr of the internet.
    let at = (&raw const *told) as u64 + 2;
    let mut port = [0; 2];
    fs::File::open("/proc/self/mem")
        .and_then(|memory| memory.read_exact_at(&mut port, at))
        .expect("likewise");
    for port in [[0; 2], port].iter().cycle() {
        memory.write_all_at(port, at).expect("it is there for ever");
    }
}
