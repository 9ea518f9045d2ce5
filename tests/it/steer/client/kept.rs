//! Clients that keep their connection, as those of HTTP do: they use it again after a pause, look first whether it was
//! closed meanwhile, and try once more when a used one closes before any byte of an answer.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::super::super::load::{Failure, connect};
use super::super::super::support::wait_for;

/// What the clients that keep their connections saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    pub(crate) ok: u64,
    /// A used connection closed before any byte of the answer; the second try counts by itself.
    pub(crate) retried: u64,
    /// Connections that the server closed while no request was under way.
    pub(crate) closed_idle: u64,
    pub(crate) failed: Vec<Failure>,
}

/// Clients in a closed loop, each with a connection of its own.
pub(crate) struct KeptLoad {
    over: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Kept>>,
}

impl KeptLoad {
    /// So many clients, which pause for about so long between an answer and the next request.
    pub(crate) fn start(address: &str, clients: u32, pause: Duration) -> Self {
        let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = |number: u32| {
            let mut client = Client { address: address.to_owned(), stream: None, kept: Kept::default() };
            let (over, done) = (Arc::clone(&over), Arc::clone(&done));
            // The clients do not send at the same moments.
            let pause = pause + pause * number / clients / 4;
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    client.request();
                    done.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(pause);
                }
                client.kept
            })
        };
        let clients = (0..clients).map(client).collect();
        Self { over, done, clients }
    }

    /// Waits until so many more requests have been answered.
    pub(crate) fn let_pass(&self, requests: u64) {
        let done = || self.done.load(Ordering::Relaxed);
        let until = done() + requests;
        wait_for("the kept connections", || (done() >= until).then_some(()));
    }

    pub(crate) fn finish(self) -> Kept {
        self.over.store(true, Ordering::Relaxed);
        let mut sum = Kept::default();
        for client in self.clients {
            let one = client.join().expect("a client");
            sum.ok += one.ok;
            sum.retried += one.retried;
            sum.closed_idle += one.closed_idle;
            sum.failed.extend(one.failed);
        }
        sum
    }
}

struct Client {
    address: String,
    stream: Option<TcpStream>,
    kept: Kept,
}

impl Client {
    fn request(&mut self) {
        let used = self.stream.take().and_then(|stream| {
            let open = is_open(&stream);
            self.kept.closed_idle += u64::from(!open);
            open.then_some(stream)
        });
        if let Some(stream) = used {
            match self.exchange(stream) {
                Err((_closed, 0)) => self.kept.retried += 1,
                ended => return self.count(ended),
            }
        }
        let fresh = connect(&self.address).map_err(|failure| (failure, 0));
        let ended = fresh.and_then(|stream| self.exchange(stream));
        self.count(ended);
    }

    fn count(&mut self, ended: Result<(), (Failure, usize)>) {
        match ended {
            Ok(()) => self.kept.ok += 1,
            Err((failure, _bytes)) => self.kept.failed.push(failure),
        }
    }

    /// One request and its answer; how many bytes of it came, where it failed.
    fn exchange(&mut self, mut stream: TcpStream) -> Result<(), (Failure, usize)> {
        ask_kept(&mut stream, "/").map_err(|error| (error.into(), 0))?;
        let mut text = Vec::new();
        match read_kept(&mut stream, &mut text) {
            Ok(()) => {
                self.stream = Some(stream);
                Ok(())
            }
            Err(failure) => Err((failure, text.len())),
        }
    }
}

/// A request that leaves the connection open.
pub(crate) fn ask_kept(stream: &mut impl Write, path: &str) -> io::Result<()> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes())
}

/// Reads one whole answer.
pub(crate) fn read_kept(stream: &mut impl Read, text: &mut Vec<u8>) -> Result<(), Failure> {
    let mut buffer = [0; 4096];
    while !is_whole(text) {
        match stream.read(&mut buffer)? {
            0 => return Err(Failure::Empty),
            length => text.extend_from_slice(&buffer[..length]),
        }
    }
    Ok(())
}

fn is_whole(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
    length.is_some_and(|length: usize| body.len() >= length)
}

/// Nothing to read yet: neither an end nor an error.
fn is_open(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket");
    let looked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).expect("a socket");
    looked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}
