//! A client of a datagram echo: numbered datagrams at a fixed rate, and which of them never came back.

use std::collections::BTreeMap;
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::super::super::support::wait_for;

/// One that has not come back so long after the last was sent is lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many datagrams were sent, and what was answered.
#[derive(Debug)]
pub(crate) struct Echoes {
    pub(crate) sent: u64,
    pub(crate) lost: Vec<u64>,
    /// How many came from each generation.
    pub(crate) from: BTreeMap<String, u64>,
}

/// A client that sends datagrams at a fixed rate, whether answers come or not.
pub(crate) struct Datagrams {
    over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<Echoes>,
}

impl Datagrams {
    pub(crate) fn start(address: &str, per_second: u32) -> Self {
        // Not connected: an answer may come from anywhere, and an ICMP error is no answer.
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("a port");
        receiver.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket");
        let sender = receiver.try_clone().expect("one more fd");
        let (over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (address, period) = (address.to_owned(), Duration::from_secs(1) / per_second);
        let (over_too, sent_too) = (Arc::clone(&over), Arc::clone(&sent));
        let sender = thread::spawn(move || {
            let begin = Instant::now();
            for number in 0.. {
                if over_too.load(Ordering::Relaxed) {
                    return;
                }
                let due = begin + period * number;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                sender.send_to(number.to_string().as_bytes(), &address).expect("loopback takes it");
                sent_too.store(u64::from(number) + 1, Ordering::Release);
            }
        });
        let (over_too, sent_too) = (Arc::clone(&over), Arc::clone(&sent));
        let receiver = thread::spawn(move || receive(&receiver, &over_too, &sent_too));
        Self { over, sent, sender, receiver }
    }

    /// Waits until at least this many more have been sent.
    pub(crate) fn let_pass(&self, datagrams: u64) {
        let sent = || self.sent.load(Ordering::Acquire);
        let until = sent() + datagrams;
        wait_for("the datagrams", || (sent() >= until).then_some(()));
    }

    pub(crate) fn finish(self) -> Echoes {
        self.over.store(true, Ordering::Relaxed);
        self.sender.join().expect("the sender");
        self.receiver.join().expect("the receiver")
    }
}

fn receive(socket: &UdpSocket, over: &AtomicBool, sent: &AtomicU64) -> Echoes {
    let mut buffer = [0; 64];
    let mut came = std::collections::BTreeSet::new();
    let mut from = BTreeMap::new();
    let mut last = Instant::now();
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let text = String::from_utf8_lossy(&buffer[..length]);
                let (generation, number) = text.split_once(' ').expect("an echo");
                came.insert(number.parse::<u64>().expect("a number of ours"));
                *from.entry(generation.to_owned()).or_default() += 1;
                last = Instant::now();
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => panic!("recv: {error}"),
        }
        let sent = sent.load(Ordering::Acquire);
        let all = came.len() as u64 == sent;
        if over.load(Ordering::Relaxed) && (all || last.elapsed() > PATIENCE) {
            let lost = (0..sent).filter(|number| !came.contains(number)).collect();
            return Echoes { sent, lost, from };
        }
    }
}
