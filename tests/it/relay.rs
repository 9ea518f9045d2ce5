//! The rescue relay by itself: our binary, a slot with a queue, a server elsewhere, and clients that notice nothing.

mod datagrams;
mod ends;
mod local;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{Backlog, listen, setsockopt, sockopt};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use socket_supervise::os::relay::{self, Carried, Relay};
use socket_supervise::os::socket::Target;

use super::support::{DEADLINE, Place, SUPERVISE, proc_status, settled, wait_for};

/// A running relay, with what its supervisor has of it.
struct Started {
    pid: i32,
    /// `None` once the supervisor is gone.
    relay: Option<Relay>,
    status: Option<WaitStatus>,
}

impl Started {
    fn new(slot: &impl AsFd, target: &Target) -> Self {
        Self::of(Path::new(SUPERVISE), slot, target)
    }

    fn of(program: &Path, slot: &impl AsFd, target: &Target) -> Self {
        let relay = relay::start(program, slot.as_fd(), target).unwrap();
        Self { pid: relay.pid, relay: Some(relay), status: None }
    }

    fn terminate(&self) {
        kill(Pid::from_raw(self.pid), Signal::SIGTERM).unwrap();
    }

    fn wait(&mut self) {
        let pid = Pid::from_raw(self.pid);
        wait_for("the relay to end", || {
            let status = waitpid(pid, Some(WaitPidFlag::WNOHANG)).unwrap();
            (status != WaitStatus::StillAlive).then(|| self.status = Some(status))
        });
        assert_eq!(self.status, Some(WaitStatus::Exited(pid, 0)));
    }

    /// What it has carried, once it has ended by itself with 0.
    fn carried(mut self) -> Carried {
        self.wait();
        self.relay.as_mut().unwrap().carried().unwrap()
    }

    fn end(self, passed_on: u64, refused: u64) {
        assert_eq!(self.carried(), Carried { passed_on, refused });
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if self.status.is_none() {
            // A test that failed; it is our child and not reaped yet.
            let _gone = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
            let _reaped = waitpid(Pid::from_raw(self.pid), None);
        }
    }
}

/// How long it has been on a CPU (proc_pid_schedstat(5)).
fn on_cpu(pid: i32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listen(&listener, Backlog::new(1024).unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// A client, a relay in the middle, and the connection that the server has got.
fn pair() -> (TcpStream, Started, TcpStream, TcpListener) {
    let ((slot, waiting), (server, address)) = (listener(), listener());
    let client = connect(waiting);
    let relay = Started::new(&slot, &Target::Tcp(address));
    let served = accept(&server);
    (client, relay, served, slot)
}

fn exchange(from: &mut impl Write, to: &mut impl Read, text: &str) {
    from.write_all(text.as_bytes()).unwrap();
    let mut got = vec![0; text.len()];
    to.read_exact(&mut got).unwrap();
    assert_eq!(String::from_utf8(got).unwrap(), text);
}

fn rest(of: &mut impl Read) -> String {
    let mut text = String::new();
    of.read_to_string(&mut text).unwrap();
    text
}

/// The error of a read that must fail.
fn failure(of: &mut impl Read) -> ErrorKind {
    of.read(&mut [0]).expect_err("a connection that broke").kind()
}

/// close(2) with a RST (socket(7), SO_LINGER).
fn abort(stream: TcpStream) {
    setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
}

/// Answers each connection in turn with what it says until it is silent.
fn serve_echo(server: TcpListener) {
    thread::spawn(move || {
        for stream in server.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || std::io::copy(&mut stream.try_clone().unwrap(), &mut stream));
        }
    });
}

#[test]
fn each_half_of_a_connection_ends_by_itself() {
    let (mut client, relay, mut served, _slot) = pair();
    exchange(&mut client, &mut served, "a question");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut served), "");
    exchange(&mut served, &mut client, "an answer after the end of all questions");
    served.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut client), "");
    relay.end(1, 0);
}

#[test]
fn the_end_of_a_server_comes_first() {
    let (mut client, relay, mut served, _slot) = pair();
    exchange(&mut served, &mut client, "a greeting");
    served.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut client), "");
    exchange(&mut client, &mut served, "a late word");
    drop(client);
    assert_eq!(rest(&mut served), "");
    relay.end(1, 0);
}

#[test]
fn a_client_that_breaks_off_breaks_off_at_the_server() {
    let (mut client, relay, mut served, _slot) = pair();
    exchange(&mut client, &mut served, "a question");
    abort(client);
    assert_eq!(failure(&mut served), ErrorKind::ConnectionReset);
    relay.end(1, 0);
}

#[test]
fn a_server_that_breaks_off_breaks_off_at_the_client() {
    let (mut client, relay, mut served, _slot) = pair();
    exchange(&mut served, &mut client, "half an ans");
    abort(served);
    assert_eq!(failure(&mut client), ErrorKind::ConnectionReset);
    relay.end(1, 0);
}

/// A server set SO_LINGER on its listener, which what it accepts inherits.
#[test]
fn what_a_server_set_on_its_listener_cuts_nothing_off() {
    let ((slot, waiting), (server, address)) = (listener(), listener());
    setsockopt(&slot, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
    let mut client = connect(waiting);
    let relay = Started::new(&slot, &Target::Tcp(address));
    let mut served = accept(&server);
    client.shutdown(Shutdown::Write).unwrap();
    let text = "x".repeat(1_000_000);
    served.write_all(text.as_bytes()).unwrap();
    drop(served);
    relay.end(1, 0);
    assert_eq!(rest(&mut client), text);
}

#[test]
fn nobody_at_the_target_is_a_reset() {
    let ((slot, waiting), (server, address)) = (listener(), listener());
    drop(server);
    let mut clients = [connect(waiting), connect(waiting)];
    let relay = Started::new(&slot, &Target::Tcp(address));
    for client in &mut clients {
        assert_eq!(failure(client), ErrorKind::ConnectionReset);
    }
    relay.end(0, 2);
}

#[test]
fn an_empty_queue_is_the_end() {
    let ((slot, _), (_server, address)) = (listener(), listener());
    Started::new(&slot, &Target::Tcp(address)).end(0, 0);
}

#[test]
fn two_hundred_in_the_queue_are_carried() {
    let ((slot, waiting), (server, address)) = (listener(), listener());
    let mut clients: Vec<_> = (0..200).map(|_| connect(waiting)).collect();
    for (index, client) in clients.iter_mut().enumerate() {
        write!(client, "question {index}").unwrap();
    }
    serve_echo(server);
    let relay = Started::new(&slot, &Target::Tcp(address));
    for (index, client) in clients.iter_mut().enumerate() {
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(client), format!("question {index}"));
    }
    relay.end(200, 0);
}

#[test]
fn more_than_it_can_hold_wait_their_turn() {
    let ((slot, waiting), (server, address)) = (listener(), listener());
    let place = Place::new();
    let program = place.path("relay");
    fs::write(&program, format!("#!/bin/sh\nulimit -n 40\nexec {SUPERVISE} \"$@\"\n")).unwrap();
    make_executable(&program);
    let mut clients: Vec<_> = (0..100).map(|_| connect(waiting)).collect();
    serve_echo(server);
    let relay = Started::of(Path::new(&program), &slot, &Target::Tcp(address));
    for client in &mut clients {
        let mut other = client.try_clone().unwrap();
        exchange(client, &mut other, "is there anybody?");
        client.shutdown(Shutdown::Both).unwrap();
    }
    relay.end(100, 0);
}

fn make_executable(path: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A stream of pseudo-random bytes, so that lost or exchanged ones are noticed.
struct Stream(u64);

impl Stream {
    fn next(&mut self) -> [u8; 4096] {
        std::array::from_fn(|_| {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 56) as u8
        })
    }
}

/// So many blocks are more than the buffers of four sockets hold.
const BLOCKS: usize = 8 * 1024;

fn pour(mut into: TcpStream, seed: u64, poured: &AtomicUsize) {
    let mut stream = Stream(seed);
    for _ in 0..BLOCKS {
        into.write_all(&stream.next()).unwrap();
        poured.fetch_add(1, Ordering::Relaxed);
    }
    into.shutdown(Shutdown::Write).unwrap();
}

fn drain(mut from: TcpStream, seed: u64) {
    let mut stream = Stream(seed);
    let mut block = [0; 4096];
    for number in 0..BLOCKS {
        from.read_exact(&mut block).unwrap();
        assert_eq!(block, stream.next(), "block {number}");
    }
    assert_eq!(rest(&mut from), "");
}

/// The relay buffers little, also where one side does not read.
#[test]
fn more_than_all_buffers_hold_goes_both_ways_at_once() {
    let (client, relay, served, _slot) = pair();
    let poured: Arc<[AtomicUsize; 2]> = Arc::default();
    let senders = [&client, &served].map(|into| into.try_clone().unwrap());
    let senders = [0, 1].map(|side| {
        let (into, poured) = (senders[side].try_clone().unwrap(), Arc::clone(&poured));
        thread::spawn(move || pour(into, side as u64, &poured[side]))
    });
    // Nobody reads until both are held up: a relay that keeps what it is given would hold it all.
    let held_up = settled("the senders", || [0, 1].map(|side| poured[side].load(Ordering::Relaxed)));
    assert!(held_up.iter().all(|blocks| (1..BLOCKS).contains(blocks)), "{held_up:?}");
    let readers = [thread::spawn(move || drain(served, 0)), thread::spawn(move || drain(client, 1))];
    for sender in senders {
        sender.join().unwrap();
    }
    for reader in readers {
        reader.join().unwrap();
    }
    let most = proc_status(relay.pid, "VmHWM").expect("it lives as long as it is not reaped");
    let most: u64 = most.trim_end_matches(" kB").parse().unwrap();
    assert!(most < 16 * 1024, "{most} kB for one connection");
    relay.end(1, 0);
}
