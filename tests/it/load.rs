//! Clients: one request on a fresh connection, and an open loop of them that counts what went wrong.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::support::DEADLINE;

/// A request without an answer, by what the client saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Refused,
    Reset,
    /// Closed without a byte, or in the middle.
    Empty,
    Other(io::ErrorKind),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Self::Reset,
            other => Self::Other(other),
        }
    }
}

const REQUEST_END: &str = " HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";

/// `GET path` on a connection of its own; the body.
pub(crate) fn get(address: &str, path: &str) -> Result<String, Failure> {
    let mut stream = connect(address)?;
    ask(&mut stream, path)?;
    answer(&mut stream)
}

/// A connection; it waits in the queue when nobody accepts.
pub(crate) fn connect(address: &str) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(stream)
}

pub(crate) fn ask(stream: &mut impl Write, path: &str) -> Result<(), Failure> {
    Ok(stream.write_all(format!("GET {path}{REQUEST_END}").as_bytes())?)
}

/// Reads to the end of the stream; the body, which must be whole.
pub(crate) fn answer(stream: &mut impl Read) -> Result<String, Failure> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(Failure::Empty)?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
    if length == Some(body.len()) { Ok(body.to_owned()) } else { Err(Failure::Empty) }
}

/// The same through a unix socket.
pub(crate) fn get_unix(path: &str) -> Result<String, Failure> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    ask(&mut stream, "/")?;
    answer(&mut stream)
}

/// What a [`Load`] saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) ok: u64,
    pub(crate) refused: u64,
    pub(crate) reset: u64,
    pub(crate) empty: u64,
    pub(crate) other: u64,
    /// Answered, but later than a second after it was due, hiccups of this machine taken off.
    pub(crate) late: u64,
}

impl Counts {
    pub(crate) fn failed(&self) -> u64 {
        self.refused + self.reset + self.empty + self.other
    }

    fn add(&mut self, more: &Self) {
        self.ok += more.ok;
        self.refused += more.refused;
        self.reset += more.reset;
        self.empty += more.empty;
        self.other += more.other;
        self.late += more.late;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// An open loop: requests are due at fixed times, whether or not earlier ones were answered.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<(Counts, Vec<Duration>)>>,
    meter: JoinHandle<Duration>,
}

struct Shared {
    address: String,
    begin: Instant,
    period: Duration,
    next: AtomicU64,
    over: AtomicBool,
}

impl Load {
    /// `per_second` fresh connections a second; 64 may be waiting at a time.
    pub(crate) fn start(address: &str, per_second: u32) -> Self {
        let shared = Arc::new(Shared {
            address: address.to_owned(),
            begin: Instant::now(),
            period: Duration::from_secs(1) / per_second,
            next: AtomicU64::new(0),
            over: AtomicBool::new(false),
        });
        let client = || {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.client())
        };
        let clients = (0..64).map(|_| client()).collect();
        let metered = Arc::clone(&shared);
        Self { clients, meter: thread::spawn(move || metered.hiccup()), shared }
    }

    /// How many requests have been begun.
    pub(crate) fn begun(&self) -> u64 {
        self.shared.next.load(Ordering::Relaxed)
    }

    pub(crate) fn finish(self) -> Counts {
        self.shared.over.store(true, Ordering::Relaxed);
        let hiccup = self.meter.join().expect("the meter");
        // A machine that stalls for a while delays client and server alike.
        let limit = Duration::from_secs(1) + 4 * hiccup;
        let mut sum = Counts::default();
        for client in self.clients {
            let (mut counts, times) = client.join().expect("a client");
            counts.late = times.iter().filter(|time| **time > limit).count() as u64;
            sum.add(&counts);
        }
        sum
    }
}

impl Shared {
    fn client(&self) -> (Counts, Vec<Duration>) {
        let (mut counts, mut times) = (Counts::default(), Vec::new());
        while !self.over.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let due = self.begin + self.period * u32::try_from(number).expect("a test is short");
            thread::sleep(due.saturating_duration_since(Instant::now()));
            match get(&self.address, "/") {
                Ok(_body) => counts.ok += 1,
                Err(Failure::Refused) => counts.refused += 1,
                Err(Failure::Reset) => counts.reset += 1,
                Err(Failure::Empty) => counts.empty += 1,
                Err(Failure::Other(_)) => counts.other += 1,
            }
            times.push(due.elapsed());
        }
        (counts, times)
    }

    /// The longest time by which this machine woke us too late.
    fn hiccup(&self) -> Duration {
        let (pause, mut worst) = (Duration::from_millis(10), Duration::ZERO);
        while !self.over.load(Ordering::Relaxed) {
            let begin = Instant::now();
            thread::sleep(pause);
            worst = worst.max(begin.elapsed().saturating_sub(pause));
        }
        worst
    }
}
