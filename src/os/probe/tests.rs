//! Real servers on loopback, each of which does one thing.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by panicking")]

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket,
};

use super::*;

/// Long enough for a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

fn begin(to: Target) -> Probe {
    let mut probe = Probe::begin(to, "/health?deep=1").unwrap();
    assert_eq!(probe.ready(), None, "events before connect(2) mean nothing");
    probe.connect().unwrap();
    probe
}

/// A probe on its way to a server that does this with it.
fn probe_of(serve: impl FnOnce(TcpStream) + Send + 'static) -> (Probe, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || serve(listener.accept().unwrap().0));
    (begin(Target::Tcp(address)), server)
}

/// Until it has a verdict of its own: nothing expires.
fn verdict(probe: &mut Probe) -> ProbeResult {
    let begin = Instant::now();
    loop {
        if let Some(verdict) = probe.ready() {
            return verdict;
        }
        assert!(begin.elapsed() < DEADLINE, "no verdict");
        // Edge-triggered, as the shell has it: what is writable all the time does not wake us.
        let flags = if probe.request.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLOUT };
        poll(&mut [PollFd::new(probe.as_fd(), flags)], PollTimeout::from(100u8)).unwrap();
    }
}

/// The head of a request; panics on anything but one.
fn request(stream: &mut impl Read) -> String {
    let mut text = String::new();
    while !text.ends_with("\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        text.push(char::from(byte[0]));
    }
    text
}

/// What a probe thinks of an answer, whole or byte by byte.
#[track_caller]
fn assert_answer(answer: &'static [u8], expected: Result<(), &str>) {
    for piece in [answer.len().max(1), 1] {
        let (mut probe, server) = probe_of(move |mut stream| {
            stream.set_nodelay(true).unwrap();
            request(&mut stream);
            for bytes in answer.chunks(piece) {
                // A probe that has seen enough hangs up.
                if stream.write_all(bytes).is_err() {
                    break;
                }
            }
        });
        let answer = answer.escape_ascii();
        assert_eq!(verdict(&mut probe), expected.map_err(str::to_owned), "{answer} by {piece}");
        drop(probe);
        server.join().unwrap();
    }
}

#[test]
fn two_and_three_hundred_are_well() {
    assert_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Ok(()));
    assert_answer(b"HTTP/1.0 204\r\n\r\n", Ok(()));
    assert_answer(b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n", Ok(()));
    assert_answer(b"HTTP/1.1 200 OK\n\n", Ok(()));
}

#[test]
fn all_others_are_named() {
    assert_answer(b"HTTP/1.1 404 Not Found\r\n\r\n", Err("404 Not Found"));
    assert_answer(b"HTTP/1.1 500\r\n\r\n", Err("500"));
    assert_answer(b"HTTP/1.1 503 \r\n\r\n", Err("503"));
    assert_answer(b"HTTP/1.1 503 \x1b[31mOh\xff no\r\n\r\n", Err("503 [31mOh no"));
    let long = b"HTTP/1.1 503 a reason that goes on and on and on, for whatever reason\r\n\r\n";
    assert_answer(long, Err("503 a reason that goes on and on and on, for"));
}

#[test]
fn informational_answers_come_before_the_one() {
    assert_answer(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Ok(()));
    let hints =
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 C\r\n\r\nHTTP/1.1 500 No\r\n\r\n";
    assert_answer(hints, Err("500 No"));
    assert_answer(b"HTTP/1.1 100 Continue\r\n\r\n", Err("closed without an answer"));
    assert_answer(b"HTTP/1.1 100 Continue\r\n", Err("not HTTP"));
}

#[test]
fn what_is_no_http_is_said_to_be_none() {
    assert_answer(b"", Err("closed without an answer"));
    assert_answer(b"\x15\x03\x01\x00\x02\x02\x46", Err("TLS, not HTTP"));
    assert_answer(b"220 mail.example.org ESMTP\r\n", Err("not HTTP"));
    assert_answer(b"SSH-2.0-OpenSSH_9.9", Err("not HTTP"));
    assert_answer(b"HTTP/1.1 20", Err("not HTTP"));
    assert_answer(b"HTTP/1.1 2000 OK\r\n\r\n", Err("not HTTP"));
    assert_answer(b"HTTP/1.1 099 OK\r\n\r\n", Err("not HTTP"));
    assert_answer(b"HTTP/2 200\r\n\r\n", Err("not HTTP"));
    assert_answer(b"HTTP/1.1 +20 OK\r\n\r\n", Err("not HTTP"));
    assert_answer(b"\r\n", Err("not HTTP"));
}

#[test]
fn it_asks_as_rfc_9112_wants_it_from_the_port_it_told() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut probe = Probe::begin(Target::Tcp(address), "/health?deep=1").unwrap();
    let port = probe.local_address().unwrap().port();
    probe.connect().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, from) = listener.accept().unwrap();
        let text = request(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        (text, from.port())
    });
    assert_eq!(verdict(&mut probe), Ok(()));
    let (text, from) = server.join().unwrap();
    assert_eq!(from, port);
    assert!(text.starts_with("GET /health?deep=1 HTTP/1.1\r\n"), "{text}");
    assert!(text.contains(&format!("\r\nHost: {address}\r\n")), "{text}");
    assert!(text.contains("\r\nConnection: close\r\n"), "{text}");
}

#[test]
fn a_server_that_has_said_nothing_finds_a_client_that_is_gone_and_no_reset() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut probe = begin(Target::Tcp(listener.local_addr().unwrap()));
    while !probe.request.is_empty() {
        assert_eq!(probe.ready(), None);
    }
    // How long it is waited for is not for the probe to say.
    assert_eq!((probe.deadline(), probe.expired(Instant::now() + DEADLINE)), (None, None));
    drop(probe);
    // The server had not even called accept(2).
    let (mut stream, _) = listener.accept().unwrap();
    stream.peer_addr().unwrap();
    request(&mut stream);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
}

/// Its verdict stands when it does not end its answer; the probe then ends it, and leaves no TIME_WAIT.
#[test]
fn a_server_that_does_not_close_is_left_soon() {
    let (mut probe, server) = probe_of(|mut stream| {
        request(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
    let port = probe.local_address().unwrap().port();
    let begin = Instant::now();
    while probe.verdict.is_none() {
        assert_eq!(probe.ready(), None);
        assert!(begin.elapsed() < DEADLINE, "no answer");
    }
    let deadline = probe.deadline().unwrap();
    assert_eq!(probe.expired(deadline - Duration::from_millis(1)), None);
    assert!(deadline <= Instant::now() + FAREWELL);
    assert_eq!(probe.expired(deadline), Some(Ok(())));
    drop(probe);
    server.join().unwrap();
    // proc_net_tcp(5): the port in hex; 06 is TIME_WAIT.
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let left = table.lines().find(|line| line.contains(&format!(":{port:04X} ")) && line.contains(" 06 "));
    assert_eq!(left, None);
}

#[test]
fn an_endless_answer_is_not_read_to_its_end() {
    let (mut probe, server) = probe_of(|mut stream| {
        request(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
    });
    assert_eq!(verdict(&mut probe), Ok(()));
    drop(probe);
    server.join().unwrap();
}

#[test]
fn an_endless_head_is_none() {
    let (mut probe, server) = probe_of(|mut stream| {
        request(&mut stream);
        stream.write_all(b"HTTP/1.1 100 Continue\r\n").unwrap();
        while stream.write_all(b"X-More: and more of it\r\n").is_ok() {}
    });
    assert_eq!(verdict(&mut probe), Err("not HTTP".to_owned()));
    assert!(probe.head.len() < LONGEST_HEAD + 4096, "{} bytes kept", probe.head.len());
    drop(probe);
    server.join().unwrap();
}

#[test]
fn a_server_that_breaks_off_has_not_answered() {
    let (mut probe, server) = probe_of(|stream| {
        setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
    });
    assert_eq!(verdict(&mut probe), Err("closed without an answer".to_owned()));
    server.join().unwrap();
}

#[test]
fn nobody_listens() {
    // Bound, so that nobody else gets the port meanwhile, and not listening.
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    let address = SocketAddr::V4(getsockname::<SockaddrIn>(socket.as_raw_fd()).unwrap().into());
    let mut probe = Probe::begin(Target::Tcp(address), "/").unwrap();
    let result = probe.connect().and_then(|()| verdict(&mut probe));
    assert_eq!(result, Err("refused".to_owned()));
}

#[test]
fn unix_sockets_are_asked_by_path() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("socket");
    let mut nowhere = Probe::begin(Target::Unix(path.clone()), "/").unwrap();
    assert_eq!(nowhere.connect(), Err(Errno::ENOENT.desc().to_owned()));
    let listener = UnixListener::bind(&path).unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let mut probe = begin(Target::Unix(path.clone()));
    assert!(probe.local_address().is_err());
    let mut too_many = Probe::begin(Target::Unix(path.clone()), "/").unwrap();
    assert_eq!(too_many.connect(), Err("its queue is full".to_owned()));
    let server = thread::spawn(move || {
        let mut stream: UnixStream = listener.accept().unwrap().0;
        let text = request(&mut stream);
        stream.write_all(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap();
        text
    });
    assert_eq!(verdict(&mut probe), Err("404 Not Found".to_owned()));
    assert!(server.join().unwrap().contains("\r\nHost: localhost\r\n"));
    // The socket file stays when its listener is gone.
    let mut refused = Probe::begin(Target::Unix(path), "/").unwrap();
    assert_eq!(refused.connect(), Err("refused".to_owned()));
}
