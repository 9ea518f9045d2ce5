//! What many connections and many sockets cost: a swap under load, until the first connection on the new generation and
//! while an old one has thousands of idle connections, and a start with a thousand sockets.
//!
//! `cargo bench --bench scale [-- ROUNDS]`. It asserts nothing. `SUPERVISE=PATH:PATH` measures other builds, such as that
//! of `cargo static`, in turns.

#[path = "scale/server.rs"]
mod server;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// Swaps of one instance in each round, for the first figure.
const SWAPS: usize = 10;
/// After a count of connections all looks rest: none is to be in the way of the next swap.
const REST: Duration = Duration::from_millis(250);
/// Idle connections, for the second one.
const IDLE_TCP: usize = 10_000;
const IDLE_UNIX: usize = 8_000;
/// Held sockets, for the third one: the rest of two numbers is what each costs.
const SOCKETS: [usize; 2] = [100, 1_000];

fn main() {
    let words: Vec<String> = env::args().skip(1).collect();
    if let [word, ready] = words.as_slice()
        && word == "serve"
    {
        return server::serve(ready);
    }
    let rounds = words.iter().find_map(|word| word.parse().ok()).unwrap_or(1);
    let chosen = |name: &str| {
        let names: Vec<&String> = words.iter().filter(|word| word.starts_with("only-")).collect();
        names.is_empty() || names.iter().any(|word| word[5..] == *name)
    };
    let builds = builds();
    if chosen("first") {
        for (handover, ready) in
            [("steered", "notify"), ("steered", "auto"), ("shared", "notify"), ("shared", "auto")]
        {
            first_connection(&builds, rounds, handover, ready);
        }
    }
    if chosen("tcp") {
        idle_connections(&builds, rounds, &Place::Tcp, IDLE_TCP);
    }
    if chosen("unix") {
        idle_connections(&builds, rounds, &Place::Unix, IDLE_UNIX);
    }
    if chosen("sockets") {
        many_sockets(&builds, rounds, "tcp");
        many_sockets(&builds, rounds, "unix");
    }
}

/// The builds to be measured, each with its name.
fn builds() -> Vec<(String, PathBuf)> {
    let paths = env::var_os("SUPERVISE").unwrap_or_else(|| env!("CARGO_BIN_EXE_supervise").into());
    let paths: Vec<PathBuf> = env::split_paths(&paths).collect();
    paths.iter().map(|path| (path.display().to_string(), path.clone())).collect()
}

fn report(what: &str, unit: &str, builds: &[(String, PathBuf)], figures: &[Vec<f64>]) {
    println!("{what}, {unit}");
    for ((name, _), figures) in builds.iter().zip(figures) {
        let mut sorted = figures.clone();
        sorted.sort_by(f64::total_cmp);
        if let (Some(least), Some(most)) = (sorted.first(), sorted.last()) {
            let median = sorted[sorted.len() / 2];
            println!("  {name:40} least {least:10.3}   median {median:10.3}   most {most:10.3}");
        }
    }
}

/// Nanoseconds of the clock that the server reads as well.
fn now() -> u128 {
    Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the clock of every Linux")).as_nanos()
}

#[derive(Clone, Debug)]
enum Place {
    Tcp,
    Unix,
}

/// An instance of supervise with our own server, whose lines are read by a thread.
struct Instance {
    process: Child,
    lines: Receiver<String>,
    program: PathBuf,
    control: PathBuf,
    address: String,
}

impl Instance {
    fn start(program: &Path, directory: &Path, place: &Place, words: &[&str], ready: &str) -> Self {
        let control = directory.join("control");
        let address = match place {
            Place::Tcp => {
                let scratch = TcpListener::bind("127.0.0.1:0").expect("a port");
                scratch.local_addr().expect("a listener").to_string()
            }
            Place::Unix => directory.join("socket").display().to_string(),
        };
        let own = env::current_exe().expect("/proc/self/exe");
        let mut process = Command::new(program)
            .args(["-q", "--start-limit-burst", "0", "--ready", ready, "--listen", &address, "--control"])
            .arg(&control)
            .args(words)
            .arg("--")
            .arg(own)
            .args(["serve", ready])
            .env("SUPERVISE_RUNTIME_DIR", directory)
            .stdout(Stdio::piped())
            .spawn()
            .expect("supervise is built");
        let (sender, lines) = channel();
        let stdout = process.stdout.take().expect("a pipe");
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _bench_is_over = sender.send(line);
            }
        });
        let this = Self { process, lines, program: program.to_owned(), control, address };
        let deadline = Instant::now() + Duration::from_secs(10);
        while Connection::open(&this.address).is_err() {
            assert!(Instant::now() < deadline, "no answer");
            thread::sleep(Duration::from_millis(10));
        }
        this
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.process.id()).expect("a pid"))
    }

    /// The CPU time of supervise so far, with all threads, in seconds.
    fn cpu(&self) -> f64 {
        let clock = clock_getcpuclockid(self.pid()).expect("our child");
        Duration::from(clock.now().expect("our child")).as_secs_f64()
    }

    fn anonymous(&self) -> f64 {
        memory(self.pid(), "Anonymous:")
    }

    fn swap(&self) {
        let done = Command::new(&self.program)
            .args(["swap", "--control"])
            .arg(&self.control)
            .stdout(Stdio::null())
            .status()
            .expect("it is built");
        assert!(done.success(), "the swap failed");
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        kill(self.pid(), Signal::SIGTERM).expect("our child");
        self.process.wait().expect("our child");
    }
}

/// A client's end.
enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Connection {
    /// A new one, with one request and its answer.
    fn open(address: &str) -> std::io::Result<Self> {
        let mut this = if address.starts_with('/') {
            Self::Unix(UnixStream::connect(address)?)
        } else {
            Self::Tcp(TcpStream::connect(address)?)
        };
        this.ask()?;
        Ok(this)
    }

    fn ask(&mut self) -> std::io::Result<()> {
        let mut answer = [0; 1];
        match self {
            Self::Tcp(stream) => stream.write_all(b"x").and_then(|()| stream.read_exact(&mut answer)),
            Self::Unix(stream) => stream.write_all(b"x").and_then(|()| stream.read_exact(&mut answer)),
        }
    }
}

/// A number of /proc/PID/smaps_rollup, in kB.
fn memory(pid: Pid, field: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("our child");
    let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("every Linux has it");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}

/// A line of the server: when it was ready, when its first connection came, and its process.
fn numbers(line: &str) -> Vec<u128> {
    line.split_whitespace().map(|number| number.parse().expect("a number")).collect()
}

/// Ends the load, also where an assertion fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs it beside a client that makes one connection after another.
fn under_load<T>(instance: &Instance, run: impl FnOnce() -> T) -> T {
    let (stop, address) = (AtomicBool::new(false), &instance.address);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // The rude server of an old generation may cut one off.
                let _cut = Connection::open(address);
            }
        });
        let _stop = Stop(&stop);
        run()
    })
}

/// From the moment at which the new generation is ready until it has its first connection.
fn first_connection(builds: &[(String, PathBuf)], rounds: usize, handover: &str, ready: &str) {
    let mut figures = vec![Vec::new(); builds.len()];
    for _ in 0..rounds {
        for ((_, program), figures) in builds.iter().zip(&mut figures) {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let words = ["--handover", handover, "--drain", "0", "--kill-signal", "SIGKILL"];
            let instance = Instance::start(program, directory.path(), &Place::Tcp, &words, ready);
            let of_first = instance.lines.recv().expect("a line of the server");
            assert!(of_first.contains(' '), "{of_first}");
            under_load(&instance, || {
                for _ in 0..SWAPS {
                    instance.swap();
                    let line = instance.lines.recv_timeout(Duration::from_secs(10)).expect("a line");
                    let times = numbers(&line);
                    figures.push((times[1] - times[0]) as f64 / 1e6);
                    thread::sleep(REST);
                }
            });
        }
    }
    let what = format!("ready ({ready}) to the first connection on the new generation, {handover}");
    report(&what, "ms", builds, &figures);
}

/// A swap while there are so many connections that have had an answer and want no other.
fn idle_connections(builds: &[(String, PathBuf)], rounds: usize, place: &Place, count: usize) {
    let [mut cpu, mut drains, mut before, mut after]: [Vec<Vec<f64>>; 4] =
        std::array::from_fn(|_| vec![Vec::new(); builds.len()]);
    for _ in 0..rounds {
        for (index, (_, program)) in builds.iter().enumerate() {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let instance =
                Instance::start(program, directory.path(), place, &["--kill-signal", "SIGKILL"], "notify");
            let old = instance.lines.recv().expect("a line of the server");
            let old = Pid::from_raw(numbers(&old)[2] as i32);
            let idle: Vec<Connection> =
                (0..count).map(|_| Connection::open(&instance.address).expect("an answer")).collect();
            thread::sleep(Duration::from_secs(2));
            before[index].push(instance.anonymous());
            let begun = now();
            let used = under_load(&instance, || {
                let used = instance.cpu();
                instance.swap();
                while kill(old, None).is_ok() {
                    thread::sleep(Duration::from_millis(10));
                }
                instance.cpu() - used
            });
            drains[index].push((now() - begun) as f64 / 1e9);
            cpu[index].push(used);
            drop(idle);
            thread::sleep(Duration::from_secs(3));
            after[index].push(instance.anonymous());
        }
    }
    println!("a swap with load and {count} idle connections, {place:?}");
    report("  CPU time of supervise", "s", builds, &cpu);
    report("  until the old generation is gone", "s", builds, &drains);
    report("  anonymous memory before", "kB", builds, &before);
    report("  three seconds later", "kB", builds, &after);
}

/// A start with so many sockets, of a server that has all of them.
fn many_sockets(builds: &[(String, PathBuf)], rounds: usize, kind: &str) {
    for count in SOCKETS {
        let [mut times, mut private]: [Vec<Vec<f64>>; 2] =
            std::array::from_fn(|_| vec![Vec::new(); builds.len()]);
        for _ in 0..rounds {
            for (index, (_, program)) in builds.iter().enumerate() {
                let directory = tempfile::tempdir().expect("a temporary directory");
                let own = env::current_exe().expect("/proc/self/exe");
                let listen = |number: usize| match kind {
                    "unix" => format!("--listen={}", directory.path().join(number.to_string()).display()),
                    _ => format!("--listen=127.0.0.1:{}=s{number}", 20_000 + number),
                };
                let begun = now();
                let mut process = Command::new(program)
                    .args(["-q", "--ready", "notify", "--control", "none"])
                    .args((0..count).map(listen))
                    .arg("--")
                    .arg(own)
                    .args(["serve", "notify"])
                    .stdout(Stdio::piped())
                    .spawn()
                    .expect("supervise is built");
                let mut line = String::new();
                let mut lines = BufReader::new(process.stdout.take().expect("a pipe"));
                if kind == "tcp" {
                    let mut stream = loop {
                        if let Ok(stream) = TcpStream::connect("127.0.0.1:20000") {
                            break stream;
                        }
                        thread::sleep(Duration::from_millis(1));
                    };
                    stream.write_all(b"x").expect("it serves");
                } else {
                    let path = directory.path().join("0");
                    let mut stream = loop {
                        if let Ok(stream) = UnixStream::connect(&path) {
                            break stream;
                        }
                        thread::sleep(Duration::from_millis(1));
                    };
                    stream.write_all(b"x").expect("it serves");
                }
                lines.read_line(&mut line).expect("a line of the server");
                let ready: u128 = line.split(' ').next().and_then(|word| word.parse().ok()).expect("a time");
                times[index].push((ready - begun) as f64 / 1e6);
                thread::sleep(Duration::from_secs(2));
                let pid = Pid::from_raw(i32::try_from(process.id()).expect("a pid"));
                private[index].push(memory(pid, "Anonymous:"));
                kill(pid, Signal::SIGTERM).expect("our child");
                process.wait().expect("our child");
            }
        }
        println!("{count} sockets, {kind}");
        report("  exec to ready", "ms", builds, &times);
        report("  private memory", "kB", builds, &private);
    }
}
