//! What the example servers share: the sockets they were given, a signal to stop, and HTTP enough for `curl`.
#![allow(dead_code, reason = "each example uses its part")]

use std::collections::HashMap;
use std::env;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::process;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
};

/// A client that sends nothing for this long is let go.
const PATIENCE: Duration = Duration::from_secs(10);

/// One held socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
    Udp(UdpSocket),
}

impl Socket {
    fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let kind = getsockopt(&fd, sockopt::SockType)?;
        let address: SockaddrStorage = getsockname(fd.as_raw_fd())?;
        Ok(match (kind, address.family()) {
            (SockType::Datagram, _) => Self::Udp(fd.into()),
            (_, Some(AddressFamily::Unix)) => Self::Unix(fd.into()),
            _ => Self::Tcp(fd.into()),
        })
    }

    pub(crate) fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_nonblocking(true),
            Self::Unix(socket) => socket.set_nonblocking(true),
            Self::Udp(socket) => socket.set_nonblocking(true),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

/// The sockets from fd 3 on, each with its name (sd_listen_fds_with_names(3)). Ends the program where there are none.
pub(crate) fn sockets() -> Vec<(String, Socket)> {
    let number = |name| env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(process::id()) {
        eprintln!(
            "no sockets for this process (LISTEN_PID); the first line of this example says how to start it"
        );
        process::exit(2);
    }
    let count = number("LISTEN_FDS").expect("LISTEN_FDS comes with LISTEN_PID");
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(String::from);
    (3..)
        .take(count as usize)
        .map(|number| {
            (names.next().unwrap_or_default(), Socket::from_fd(own(number)).expect("a held socket"))
        })
        .collect()
}

/// Takes over an inherited fd.
#[allow(unsafe_code)]
fn own(number: i32) -> OwnedFd {
    // SAFETY: LISTEN_PID says that the fds from 3 on were passed to this very process, and each is taken once.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Switches on an option of SOL_SOCKET that nix does not know.
#[allow(unsafe_code)]
pub(crate) fn set_flag(socket: BorrowedFd<'_>, name: libc::c_int) -> nix::Result<()> {
    let (one, length) = (1 as libc::c_int, size_of::<libc::c_int>() as libc::socklen_t);
    let (fd, value) = (socket.as_raw_fd(), (&raw const one).cast());
    // SAFETY: the value is an int that lives until the call returns, and the length is its own.
    let result = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, name, value, length) };
    nix::errno::Errno::result(result).map(drop)
}

/// Disconnects a UDP socket, by a connect(2) to AF_UNSPEC.
#[allow(unsafe_code)]
pub(crate) fn disconnect(socket: &Socket) {
    let nobody = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: `nobody` lives as long as the call, and the length is its own.
    let done = unsafe { libc::connect(socket.as_fd().as_raw_fd(), &raw const nobody, length) };
    assert_eq!(done, 0, "a datagram socket");
}

/// SUPERVISE_GENERATION: which start of the server this is.
pub(crate) fn generation() -> String {
    env::var("SUPERVISE_GENERATION").unwrap_or_else(|_| "?".into())
}

/// sd_notify(3), without the library.
pub(crate) fn notify(message: &str) {
    let Ok(path) = env::var("NOTIFY_SOCKET") else { return };
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let sent = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address))
        .map(|_bytes| ());
    if let Err(error) = sent {
        eprintln!("cannot notify {path}: {error}");
    }
}

/// `GET PATH` on the socket called `name`.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) name: String,
    pub(crate) path: String,
    /// The client's address, as the kernel names it.
    pub(crate) peer: String,
}

/// What goes back: the parts are one body, with a pause between each two.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) parts: Vec<String>,
    pub(crate) pause: Duration,
}

impl From<String> for Reply {
    fn from(body: String) -> Self {
        Self { status: 200, parts: vec![body], pause: Duration::ZERO }
    }
}

/// Turns signals into something to poll. Before any thread starts: threads inherit the mask.
pub(crate) fn signals(list: &[Signal]) -> SignalFd {
    let set: SigSet = list.iter().copied().collect();
    set.thread_block().expect("a mask of known signals");
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).expect("an fd for signals")
}

/// Serves until `stop` says so of a signal, then drains: what was accepted is answered, what was not stays in the
/// queue for whoever holds the socket too. Nothing is lost, that is the whole trick.
pub(crate) fn serve(
    sockets: Vec<(String, Socket)>,
    signals: &SignalFd,
    mut stop: impl FnMut(Signal) -> bool,
    answer: impl Fn(&Request) -> String + Send + Sync + 'static,
) {
    for (_, socket) in &sockets {
        socket.set_nonblocking().expect("a held socket");
    }
    let answer: Arc<Answer> = Arc::new(answer);
    // Each connection holds a sender; receiving fails when the last one is gone.
    let (in_flight, all_done) = channel::<()>();
    loop {
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(sockets.iter().map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        while let Ok(Some(info)) = signals.read_signal() {
            let signal = Signal::try_from(info.ssi_signo as i32).expect("one of those asked for");
            if stop(signal) {
                drop(in_flight);
                let _none_left = all_done.recv();
                return;
            }
        }
        for ((name, socket), _) in sockets.iter().zip(&ready[1..]).filter(|(_, ready)| **ready) {
            accept(name, socket, &answer, &in_flight);
        }
    }
}

type Answer = dyn Fn(&Request) -> String + Send + Sync;

/// Takes one connection, or one datagram. Another generation may have been quicker: then there is nothing to do.
fn accept(name: &str, socket: &Socket, answer: &Arc<Answer>, in_flight: &Sender<()>) {
    let stream = match socket {
        Socket::Tcp(listener) => listener.accept().and_then(|(stream, _)| Stream::tcp(stream)),
        Socket::Unix(listener) => listener.accept().and_then(|(stream, _)| Stream::unix(stream)),
        Socket::Udp(socket) => return echo(socket, name, answer),
    };
    match stream {
        Ok(stream) => {
            let (answer, done, name) = (Arc::clone(answer), in_flight.clone(), name.to_owned());
            thread::spawn(move || {
                // A client that hangs up in the middle is no business of ours.
                let _client_gone = converse(stream, &name, false, &|request| answer(request).into());
                drop(done);
            });
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => eprintln!("accept: {error}"),
    }
}

/// A datagram is answered with the body alone.
fn echo(socket: &UdpSocket, name: &str, answer: &Arc<Answer>) {
    let mut buffer = [0; 2048];
    while let Ok((length, client)) = socket.recv_from(&mut buffer) {
        let path = String::from_utf8_lossy(&buffer[..length]).trim().to_owned();
        let body = answer(&Request { name: name.to_owned(), path, peer: client.to_string() });
        let _client_gone = socket.send_to(body.as_bytes(), client);
    }
}

/// Serves as most programs do: no signal is heard, a connection is kept for more requests, and whatever was accepted
/// dies with the process. A datagram comes back behind the number of the generation.
pub(crate) fn serve_for_ever(
    sockets: &'static [(String, Socket)],
    answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
) -> ! {
    let answer: Arc<Replier> = Arc::new(answer);
    for (name, socket) in sockets {
        let answer = Arc::clone(&answer);
        thread::spawn(move || {
            loop {
                match next_stream(socket) {
                    Ok(Some(stream)) => {
                        let answer = Arc::clone(&answer);
                        // A client that hangs up in the middle is no business of ours.
                        thread::spawn(move || converse(stream, name, true, &*answer));
                    }
                    Ok(None) => {}
                    // Shut down, or O_NONBLOCK: whoever did that may undo it.
                    Err(_spoilt) => thread::sleep(Duration::from_millis(1)),
                }
            }
        });
    }
    loop {
        thread::park();
    }
}

type Replier = dyn Fn(&Request) -> Reply + Send + Sync;

/// The next connection; None when a datagram came, which has been answered.
fn next_stream(socket: &Socket) -> io::Result<Option<Stream>> {
    match socket {
        Socket::Tcp(listener) => listener.accept().and_then(|(stream, _)| Stream::tcp(stream)).map(Some),
        Socket::Unix(listener) => listener.accept().and_then(|(stream, _)| Stream::unix(stream)).map(Some),
        Socket::Udp(socket) => {
            let mut buffer = [0; 2048];
            let (length, client) = socket.recv_from(&mut buffer)?;
            let payload = [generation().as_bytes(), b" ", &buffer[..length]].concat();
            let _client_gone = socket.send_to(&payload, client);
            Ok(None)
        }
    }
}

/// Requests and answers, one only unless `keep`. The end of our half goes out before the close, and each request was
/// read whole: so the kernel has no reason to reset the connection.
fn converse(
    mut stream: Stream,
    name: &str,
    keep: bool,
    answer: &dyn Fn(&Request) -> Reply,
) -> io::Result<()> {
    let peer = stream.peer();
    let mut waiting = Vec::new();
    while let Some(head) = next_head(&mut stream, &mut waiting)? {
        let path = head.split(' ').nth(1).unwrap_or("/").to_owned();
        let more = keep && !head.contains("Connection: close");
        let reply = answer(&Request { name: name.to_owned(), path, peer: peer.clone() });
        send(&mut stream, &reply, more)?;
        if !more {
            return stream.finish();
        }
    }
    Ok(())
}

/// The head of the next request; None at the end of the connection, or of our patience with it.
fn next_head(stream: &mut Stream, waiting: &mut Vec<u8>) -> io::Result<Option<String>> {
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = waiting.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = waiting.drain(..end + 4).collect();
            return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
        }
        if waiting.len() > 64 * 1024 {
            return Ok(None);
        }
        match stream.read(&mut buffer)? {
            0 => return Ok(None),
            length => waiting.extend_from_slice(&buffer[..length]),
        }
    }
}

fn send(stream: &mut Stream, reply: &Reply, more: bool) -> io::Result<()> {
    let Reply { status, parts, pause } = reply;
    let reason = if *status < 400 { "OK" } else { "Sick" };
    let length: usize = parts.iter().map(String::len).sum();
    let connection = if more { "keep-alive" } else { "close" };
    let mut text =
        format!("HTTP/1.1 {status} {reason}\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n");
    for (number, part) in parts.iter().enumerate() {
        if number > 0 {
            thread::sleep(*pause);
        }
        text.push_str(part);
        stream.write_all(text.as_bytes())?;
        text.clear();
    }
    Ok(())
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self::Tcp(stream))
    }

    fn unix(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self::Unix(stream))
    }

    fn peer(&self) -> String {
        match self {
            Self::Tcp(stream) => {
                stream.peer_addr().map_or_else(|error| error.to_string(), |peer| peer.to_string())
            }
            Self::Unix(_) => "a local client".to_owned(),
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buffer),
            Self::Unix(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `--name value` pairs and bare `--switches`; a word `@FILE` stands for the words of that file.
pub(crate) fn flags(known: &[&str]) -> HashMap<String, String> {
    let mut words = Vec::new();
    for word in env::args().skip(1) {
        match word.strip_prefix('@') {
            Some(file) => {
                let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
                words.extend(text.split_whitespace().map(String::from));
            }
            None => words.push(word),
        }
    }
    let mut flags = HashMap::new();
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        assert!(known.contains(&word.as_str()), "unknown flag {word}; there are {known:?}");
        let value = words.next_if(|next| !next.starts_with("--")).unwrap_or_default();
        flags.insert(word, value);
    }
    flags
}
