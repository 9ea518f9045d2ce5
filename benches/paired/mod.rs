//! Servers that run all the time and get a batch of connections in turn, because machines drift: compare ratios, of
//! batches that followed each other.

use std::env;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Fresh connections of a batch, one request each, from so many clients that wait for each answer.
const CONNECTIONS: usize = 2000;
const CLIENTS: usize = 4;

/// A server that has not answered by then never will: the supervisor keeps its port open, so nobody refuses us.
const PATIENCE: Duration = Duration::from_secs(10);

/// Prints what became of so many rounds; the first one is what the others are compared to.
pub(crate) fn compare(contestants: &[Contestant], rounds: usize) {
    for contestant in contestants {
        contestant.batch();
    }
    let mut batches: Vec<Vec<Batch>> = contestants.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        // Another one begins each round, so that none always runs after the same neighbour.
        for turn in 0..contestants.len() {
            let index = (turn + round) % contestants.len();
            batches[index].push(contestants[index].batch());
        }
    }
    println!(
        "{rounds} batches of {CONNECTIONS} connections, {CLIENTS} at a time; ratios: quartile, median, quartile"
    );
    report("connections a second", contestants, &batches, |batch| batch.per_second);
    report("p99 in µs", contestants, &batches, |batch| batch.p99);
}

fn report(what: &str, names: &[Contestant], batches: &[Vec<Batch>], figure: impl Fn(&Batch) -> f64) {
    println!("{what}");
    let base: Vec<f64> = batches[0].iter().map(&figure).collect();
    for (contestant, batches) in names.iter().zip(batches) {
        let figures: Vec<f64> = batches.iter().map(&figure).collect();
        let ratios: Vec<f64> = figures.iter().zip(&base).map(|(one, base)| one / base).collect();
        println!(
            "  {:20} median {:9.1}   ratio {:5.3} {:5.3} {:5.3}",
            contestant.name,
            quantile(&figures, 0.5),
            quantile(&ratios, 0.25),
            quantile(&ratios, 0.5),
            quantile(&ratios, 0.75),
        );
    }
}

pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

/// The example `rude`, built as we were: `cargo bench` builds no examples, and holds no lock while it runs us.
pub(crate) fn server() -> PathBuf {
    let bench = env::current_exe().expect("/proc/self/exe");
    let directory = bench.ancestors().nth(2).expect("target/PROFILE/deps/BENCH");
    let profile = if directory.ends_with("debug") { "dev" } else { "release" };
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--example", "rude", "--profile", profile])
        .status();
    assert!(built.is_ok_and(|status| status.success()), "cannot build the example rude");
    directory.join("examples/rude")
}

struct Batch {
    per_second: f64,
    p99: f64,
}

pub(crate) struct Contestant {
    pub(crate) name: &'static str,
    pub(crate) address: String,
    pub(crate) process: Child,
}

impl Contestant {
    /// Waits until it answers.
    pub(crate) fn ready(self) -> Self {
        let deadline = Instant::now() + PATIENCE;
        while get(&self.address).is_err() {
            assert!(Instant::now() < deadline, "{} does not answer", self.name);
            thread::sleep(Duration::from_millis(10));
        }
        self
    }

    fn batch(&self) -> Batch {
        let begin = Instant::now();
        let client = || {
            let times = (0..CONNECTIONS / CLIENTS).map(|_| get(&self.address).expect("an answer"));
            times.collect::<Vec<f64>>()
        };
        let times: Vec<f64> = thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
            clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
        });
        let per_second = CONNECTIONS as f64 / begin.elapsed().as_secs_f64();
        Batch { per_second, p99: quantile(&times, 0.99) }
    }
}

impl Drop for Contestant {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).expect("a pid"));
        kill(pid, Signal::SIGTERM).expect("our child");
        self.process.wait().expect("our child");
    }
}

/// Makes one request on a connection of its own, and returns how many microseconds it took.
fn get(address: &str) -> std::io::Result<f64> {
    let begin = Instant::now();
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    Ok(begin.elapsed().as_secs_f64() * 1e6)
}
