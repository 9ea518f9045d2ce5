//! What `supervise` adds to starting a server: to its first instruction, against tini, and from one start to the next,
//! against a bare loop of posix_spawn and waitpid. Paired and interleaved, because machines drift: compare ratios.
//!
//! `cargo bench --bench overhead [-- ROUNDS]`. It asserts nothing. `SUPERVISE=PATH` measures another build, such as
//! that of `cargo static`, which spares the dynamic loader.

use std::env;
use std::ffi::CString;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, pipe2};

/// Starts of one process in a row, for the second figure.
const STARTS: usize = 500;

fn main() {
    let rounds = env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(200);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let programs = Programs::find(directory.path());
    let first = programs.first_instruction(rounds);
    report(&format!("to the child's first instruction, {rounds} rounds"), &first);
    let next = programs.start_to_start(rounds.div_ceil(20));
    report(&format!("start to start of a child that ends at once, {STARTS} starts a round"), &next);
}

/// A contestant and its time in each round, in microseconds; the first one is what the others are compared with.
type Figures = Vec<(&'static str, Vec<f64>)>;

fn report(title: &str, figures: &Figures) {
    println!("{title}");
    let (_, base) = &figures[0];
    for (name, times) in figures {
        let ratios: Vec<f64> = times.iter().zip(base).map(|(time, base)| time / base).collect();
        let least = times.iter().copied().fold(f64::INFINITY, f64::min);
        println!(
            "  {name:32} min {least:8.1} µs   median {:8.1} µs   ratio {:5.2}",
            median(times),
            median(&ratios)
        );
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Nanoseconds of the clock that `stamp` reads.
fn now() -> u128 {
    Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).expect("the clock of every Linux")).as_nanos()
}

struct Programs {
    tini: Option<CString>,
    supervise: CString,
    stamp: CString,
    light: CString,
    environment: Vec<CString>,
}

impl Programs {
    fn find(directory: &Path) -> Self {
        let text = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes()).expect("no NUL in a path");
        let bench = env::current_exe().expect("/proc/self/exe");
        let stamp = bench.ancestors().nth(2).expect("target/PROFILE/deps/BENCH").join("examples/stamp");
        // `cargo bench` builds no examples, and holds no lock while it runs us.
        let built = Command::new(env!("CARGO"))
            .args(["build", "--release", "--quiet", "--example", "stamp"])
            .status();
        assert!(
            built.is_ok_and(|status| status.success()) && stamp.exists(),
            "cannot build the example stamp"
        );
        let in_path = |name: &str| {
            env::split_paths(&env::var_os("PATH").unwrap_or_default())
                .map(|directory| directory.join(name))
                .find(|path| path.exists())
        };
        let tini = in_path("tini");
        if tini.is_none() {
            println!(
                "no tini in PATH (Debian: apt-get install tini); compared with a bare posix_spawn alone"
            );
        }
        // Little else: cargo's LD_LIBRARY_PATH would send every dynamic loader on a long search. The control socket is
        // part of the figure; it goes where it disturbs nobody.
        let environment = [
            format!("PATH={}", env::var("PATH").unwrap_or_default()),
            // Not there yet: it is made as private as it has to be.
            format!("SUPERVISE_RUNTIME_DIR={}", directory.join("run").display()),
        ];
        let environment =
            environment.map(|pair| CString::new(pair).expect("no NUL in the environment")).to_vec();
        Self {
            tini: tini.as_deref().map(text),
            supervise: text(Path::new(
                &env::var_os("SUPERVISE").unwrap_or_else(|| env!("CARGO_BIN_EXE_supervise").into()),
            )),
            stamp: text(&stamp),
            light: text(&in_path("true").expect("coreutils")),
            environment,
        }
    }

    /// Starts a program with its words, stdout into the pipe, and the rest to /dev/null.
    fn spawn(&self, program: &CString, words: &[&str], stdout: &impl AsRawFd) -> Pid {
        let mut args = vec![program.clone()];
        args.extend(words.iter().map(|word| CString::new(*word).expect("no NUL")));
        let mut actions = PosixSpawnFileActions::init().expect("memory");
        actions.add_dup2(stdout.as_raw_fd(), 1).expect("memory");
        for number in [0, 2] {
            actions.add_open(number, "/dev/null", OFlag::O_RDWR, Mode::empty()).expect("memory");
        }
        let attributes = PosixSpawnAttr::init().expect("memory");
        posix_spawn(program.as_c_str(), &actions, &attributes, &args, &self.environment).expect("it starts")
    }

    /// One start; microseconds from just before it until the child's own first look at the clock.
    fn once(&self, program: &CString, words: &[&str]) -> f64 {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        let begin = now();
        let pid = self.spawn(program, words, &writer);
        drop(writer);
        let stamp = stamps(&File::from(reader), 1)[0];
        waitpid(pid, None).expect("our child");
        (stamp - begin) as f64 / 1000.0
    }

    fn first_instruction(&self, rounds: usize) -> Figures {
        let stamp = self.stamp.to_str().expect("a path in UTF-8");
        let mut contestants: Vec<(&'static str, &CString, Vec<&str>)> = Vec::new();
        if let Some(tini) = &self.tini {
            contestants.push(("tini -s", tini, vec!["-s", "--", stamp]));
        }
        contestants.extend([
            ("posix_spawn alone", &self.stamp, vec![]),
            ("supervise", &self.supervise, vec!["--", stamp]),
            ("supervise --control none", &self.supervise, vec!["--control", "none", "--", stamp]),
            (
                "supervise --listen, one socket",
                &self.supervise,
                vec!["--restart", "no", "--listen", "127.0.0.1:0", "--", stamp],
            ),
        ]);
        let mut figures: Figures = contestants.iter().map(|(name, ..)| (*name, Vec::new())).collect();
        for round in 0..rounds {
            // Another one begins each round, so that none always runs after the same neighbour.
            for turn in 0..contestants.len() {
                let index = (turn + round) % contestants.len();
                let (_, program, words) = &contestants[index];
                figures[index].1.push(self.once(program, words));
            }
        }
        figures
    }

    /// `true` is as light as a program gets: what we add shows most.
    fn start_to_start(&self, rounds: usize) -> Figures {
        let (starts, light) = (STARTS.to_string(), self.light.to_str().expect("a path in UTF-8"));
        // It ends by itself after so many starts; its own start is a hundredth of the whole.
        let common = [
            "-q",
            "--restart",
            "always",
            "--restart-sec",
            "0",
            "--start-limit-interval-sec",
            "infinity",
            "--start-limit-burst",
            &starts,
            "--start-limit-action",
            "exit",
        ];
        let held: [(&'static str, usize, &[&str]); 4] = [
            ("supervise --restart-sec 0", 0, &[]),
            ("the same, one held TCP socket", 1, &[]),
            ("the same, 10 held TCP sockets", 10, &[]),
            ("the same, one, --intercept-bind", 1, &["--intercept-bind"]),
        ];
        let words = |sockets: usize, more: &[&'static str]| {
            let sockets = ["--listen", "127.0.0.1:0"].repeat(sockets);
            [&common, &*sockets, more, &["--", light]].concat()
        };
        let mut figures: Figures = vec![("posix_spawn and waitpid", Vec::new())];
        figures.extend(held.map(|(name, ..)| (name, Vec::new())));
        let null = File::create("/dev/null").expect("/dev/null");
        for _ in 0..rounds {
            figures[0].1.push(per_start(|| {
                for _ in 0..STARTS {
                    waitpid(self.spawn(&self.light, &[], &null), None).expect("our child");
                }
            }));
            for ((_, sockets, more), (_, times)) in held.iter().zip(&mut figures[1..]) {
                let words = words(*sockets, more);
                times.push(per_start(|| {
                    waitpid(self.spawn(&self.supervise, &words, &null), None).expect("our child");
                }));
            }
        }
        figures
    }
}

/// The microseconds of one start, as the mean of many in a row.
fn per_start(run: impl FnOnce()) -> f64 {
    let begin = now();
    run();
    (now() - begin) as f64 / 1000.0 / STARTS as f64
}

/// Reads this many lines of `stamp`.
fn stamps(file: &File, count: usize) -> Vec<u128> {
    let lines = BufReader::new(file).lines().take(count);
    let times: Vec<u128> =
        lines.map(|line| line.expect("a pipe").parse().expect("a line of stamp")).collect();
    assert_eq!(times.len(), count, "the program ended early");
    times
}
