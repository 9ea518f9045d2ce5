//! Clients: one request on a fresh connection, and an open loop of them that counts what went wrong and writes down how
//! long it took.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::support::{DEADLINE, wait_for};

/// A request without an answer, by what the client saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Refused,
    Reset,
    /// The server closed the connection before the answer was whole.
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

/// `GET path` on a connection of its own; the body. An address that begins with a slash is that of a unix socket.
pub(crate) fn get(address: &str, path: &str) -> Result<String, Failure> {
    if address.starts_with('/') {
        return get_unix_path(address, path);
    }
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
    let headers = head.lines().filter_map(|line| line.split_once(": "));
    let mut lengths = headers.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = lengths.find_map(|(_, value)| value.parse().ok());
    if length == Some(body.len()) { Ok(body.to_owned()) } else { Err(Failure::Empty) }
}

/// [`get`] through a unix socket.
pub(crate) fn get_unix(address: &str) -> Result<String, Failure> {
    get_unix_path(address, "/")
}

fn get_unix_path(address: &str, path: &str) -> Result<String, Failure> {
    let mut stream = UnixStream::connect(address)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    ask(&mut stream, path)?;
    answer(&mut stream)
}

/// One request of a [`Load`].
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// When it was begun; it may have been due a little earlier.
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
    /// The time from the moment at which it was due.
    pub(crate) took: Duration,
    pub(crate) result: Result<String, Failure>,
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

    fn add(&mut self, result: &Result<String, Failure>) {
        let count = match result {
            Ok(_body) => &mut self.ok,
            Err(Failure::Refused) => &mut self.refused,
            Err(Failure::Reset) => &mut self.reset,
            Err(Failure::Empty) => &mut self.empty,
            Err(Failure::Other(_)) => &mut self.other,
        };
        *count += 1;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// All requests of a [`Load`], in the order in which they ended.
#[derive(Debug)]
pub(crate) struct Samples {
    pub(crate) all: Vec<Sample>,
    /// The longest time by which this machine woke us too late.
    pub(crate) hiccup: Duration,
}

impl Samples {
    pub(crate) fn counts(&self) -> Counts {
        // A machine that stalls for a while delays client and server alike.
        let limit = Duration::from_secs(1) + 4 * self.hiccup;
        let mut counts = Counts::default();
        for sample in &self.all {
            counts.add(&sample.result);
        }
        counts.late = self.all.iter().filter(|sample| sample.took > limit).count() as u64;
        counts
    }

    /// How many answers were this text.
    pub(crate) fn answered(&self, body: &str) -> usize {
        self.all.iter().filter(|sample| sample.result.as_deref() == Ok(body)).count()
    }

    /// The time within which this share of them was answered.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let mut times: Vec<Duration> = self.all.iter().map(|sample| sample.took).collect();
        times.sort();
        let rank = (times.len() as f64 * share).ceil() as usize;
        times.get(rank.saturating_sub(1)).copied().expect("a load of some requests")
    }

    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        let counts = self.counts();
        assert!(
            counts.failed() == 0 && counts.late == 0 && counts.ok > 0,
            "{counts}, hiccup {:?}",
            self.hiccup
        );
    }
}

/// An open loop: requests are due at fixed times, whether or not earlier ones were answered.
pub(crate) struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Vec<Sample>>>,
    meter: JoinHandle<Duration>,
}

/// A request on a connection of its own to this address, and its answer.
type Ask = dyn Fn(&str) -> Result<String, Failure> + Send + Sync;

struct Shared {
    address: String,
    ask: Box<Ask>,
    begin: Instant,
    period: Duration,
    next: AtomicU64,
    over: AtomicBool,
}

impl Load {
    /// `per_second` fresh connections a second; 64 may be waiting at a time.
    pub(crate) fn start(address: &str, per_second: u32) -> Self {
        Self::asking(address, per_second, Box::new(|address| get(address, "/")))
    }

    /// A load in another protocol than HTTP.
    pub(crate) fn asking(address: &str, per_second: u32, ask: Box<Ask>) -> Self {
        let shared = Arc::new(Shared {
            address: address.to_owned(),
            ask,
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

    /// Waits until at least this many more requests have been begun.
    pub(crate) fn let_pass(&self, requests: u64) {
        let until = self.begun() + requests;
        wait_for("the load", || (self.begun() >= until).then_some(()));
    }

    pub(crate) fn finish(self) -> Counts {
        self.samples().counts()
    }

    /// Ends the load and returns every single request.
    pub(crate) fn samples(self) -> Samples {
        self.shared.over.store(true, Ordering::Relaxed);
        let hiccup = self.meter.join().expect("the meter");
        let each = self.clients.into_iter().map(|client| client.join().expect("a client"));
        let mut all: Vec<Sample> = each.flatten().collect();
        all.sort_by_key(|sample| sample.ended);
        Samples { all, hiccup }
    }
}

impl Shared {
    fn client(&self) -> Vec<Sample> {
        let mut samples = Vec::new();
        while !self.over.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let due = self.begin + self.period * u32::try_from(number).expect("a test is short");
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let begun = Instant::now();
            let result = (self.ask)(&self.address);
            samples.push(Sample { begun, ended: Instant::now(), took: due.elapsed(), result });
        }
        samples
    }

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
