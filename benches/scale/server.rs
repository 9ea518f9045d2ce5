//! The server of this bench: one thread, one epoll, a byte back for each byte. It says when it was ready and when its
//! first connection came, and ends by a signal.

#[path = "../../examples/common/mod.rs"]
mod common;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::now;
use common::Socket;

/// The number of the first connection; those of sockets are lower.
const CLIENTS: u64 = 1 << 32;

trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

pub(super) fn serve(ready: &str) {
    let sockets = common::sockets();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll");
    for (number, (_, socket)) in (0..).zip(&sockets) {
        socket.set_nonblocking().expect("a held socket");
        epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, number)).expect("a held socket");
    }
    let ready_at = now();
    if ready == "notify" {
        common::notify("READY=1");
    }
    let mut clients: HashMap<u64, Box<dyn Stream>> = HashMap::new();
    let mut events = vec![EpollEvent::empty(); 64];
    let mut is_told = false;
    loop {
        let Ok(count) = epoll.wait(&mut events, EpollTimeout::NONE) else { continue };
        for number in events[..count].iter().map(EpollEvent::data) {
            if let Some(client) = clients.get_mut(&number) {
                let mut bytes = [0; 64];
                match client.read(&mut bytes) {
                    Ok(length) if length > 0 && client.write_all(&bytes[..length]).is_ok() => {}
                    _ => drop(clients.remove(&number)),
                }
            } else if let Some((_, socket)) = sockets.get(number as usize)
                && let Ok((number, client)) = accept(&epoll, socket)
            {
                if !std::mem::replace(&mut is_told, true) {
                    println!("{ready_at} {} {}", now(), std::process::id());
                }
                clients.insert(number, client);
            }
        }
    }
}

/// The next connection and its number. The old generation may have been faster.
fn accept(epoll: &Epoll, socket: &Socket) -> io::Result<(u64, Box<dyn Stream>)> {
    fn register(epoll: &Epoll, stream: impl AsFd) -> io::Result<u64> {
        let number = CLIENTS + stream.as_fd().as_raw_fd() as u64;
        epoll.add(stream, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
        Ok(number)
    }
    match socket {
        Socket::Tcp(listener) => {
            let stream = listener.accept()?.0;
            Ok((register(epoll, &stream)?, Box::new(stream)))
        }
        Socket::Unix(listener) => {
            let stream = listener.accept()?.0;
            Ok((register(epoll, &stream)?, Box::new(stream)))
        }
        Socket::Udp(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}
