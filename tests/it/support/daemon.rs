//! [`Launch`] puts a command line of `supervise` together; [`Daemon`] is one that runs.

use std::collections::HashMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

use super::process::processes;
use super::{DEADLINE, Ended, Place, SUPERVISE, Verb, descendants, example, wait_for};

/// Set in everything a [`Daemon`] starts, so that its processes are found wherever they went.
const MARK: &str = "SUPERVISE_TEST_MARK";

/// A command line of `supervise` that a test puts together.
pub(crate) struct Launch<'a> {
    place: &'a Place,
    /// The words before `supervise`, if another program starts it.
    wrapper: Vec<String>,
    args: Vec<String>,
    command: Vec<String>,
    environment: Vec<(String, String)>,
    directory: Option<PathBuf>,
    own_group: bool,
    user: Option<u32>,
    binary: String,
    blocked: SigSet,
}

impl<'a> Launch<'a> {
    pub(crate) fn new(place: &'a Place) -> Self {
        Self {
            place,
            wrapper: Vec::new(),
            args: Vec::new(),
            command: Vec::new(),
            environment: Vec::new(),
            directory: None,
            own_group: false,
            user: None,
            binary: SUPERVISE.to_owned(),
            blocked: SigSet::empty(),
        }
    }

    /// `supervise run` with units that lie in the place.
    pub(crate) fn units(place: &'a Place, names: &[&str]) -> Self {
        names.iter().fold(Self::new(place).arg("run"), |launch, name| launch.arg(&place.path(name)))
    }

    /// The example `ready` on one socket called `http`, with these options of ours.
    pub(crate) fn ready(place: &'a Place, options: &str) -> Self {
        if !fs::exists(place.path("flags")).expect("our own directory") {
            place.flags("");
        }
        let (log, flags) = (place.path("log"), format!("@{}", place.path("flags")));
        Self::new(place).args("--listen 127.0.0.1:0=http").args(options).command(&[
            &example("ready"),
            "--log",
            &log,
            &flags,
        ])
    }

    /// Adds these words to the options.
    pub(crate) fn args(mut self, words: &str) -> Self {
        self.args.extend(words.split_whitespace().map(String::from));
        self
    }

    /// Adds one word, whatever is in it.
    pub(crate) fn arg(mut self, word: &str) -> Self {
        self.args.push(word.to_owned());
        self
    }

    pub(crate) fn command(mut self, words: &[&str]) -> Self {
        self.command = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Puts these words before the command.
    pub(crate) fn before_command(mut self, words: &[&str]) -> Self {
        self.command.splice(0..0, words.iter().map(|word| (*word).to_owned()));
        self
    }

    pub(crate) fn wrapper(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn directory(mut self, path: &str) -> Self {
        self.directory = Some(path.into());
        self
    }

    /// In a process group of its own, as an interactive shell would start it.
    pub(crate) fn own_group(mut self) -> Self {
        self.own_group = true;
        self
    }

    /// As this user, with another copy of the binary (ours may lie where that user cannot go).
    pub(crate) fn user(mut self, uid: u32, binary: &str) -> Self {
        self.user = Some(uid);
        self.binary = binary.to_owned();
        self
    }

    /// Another file than that of this build.
    pub(crate) fn binary(mut self, path: &str) -> Self {
        path.clone_into(&mut self.binary);
        self
    }

    /// Starts it with these signals blocked, as a careless parent may leave them.
    pub(crate) fn blocked(mut self, signals: &[Signal]) -> Self {
        self.blocked = signals.iter().copied().collect();
        self
    }

    /// Everything as it will be run, without a control socket.
    pub(crate) fn build(&self) -> Command {
        use std::os::unix::process::CommandExt;
        let mut words = self.wrapper.clone();
        words.push(self.binary.clone());
        words.extend(self.args.iter().cloned());
        if !self.command.is_empty() {
            words.push("--".into());
            words.extend(self.command.iter().cloned());
        }
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        for name in ["RUST_LOG", "NO_COLOR", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET"] {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        if self.own_group {
            command.process_group(0);
        }
        if let Some(uid) = self.user {
            command.uid(uid).gid(uid);
        }
        command
    }

    /// Runs it to its end, without a control socket unless the options ask for one.
    #[track_caller]
    pub(crate) fn run(mut self) -> Ended {
        let named = self.args.iter().any(|word| word == "--control" || word == "--name");
        if !named && (!self.command.is_empty() || self.options_begin() == 1) {
            self.insert_control("none");
        }
        self.spawn("run", None).end()
    }

    /// The index at which options begin: behind the verb, if there is one.
    fn options_begin(&self) -> usize {
        usize::from(self.args.first().is_some_and(|word| word == "run"))
    }

    fn insert_control(&mut self, control: &str) {
        let at = self.options_begin();
        self.args.splice(at..at, ["--control".to_owned(), control.to_owned()]);
    }

    /// Starts it without a control socket; it may have ended by now.
    #[track_caller]
    pub(crate) fn start_uncontrolled(mut self) -> Daemon {
        self.insert_control("none");
        self.spawn("supervise", None)
    }

    /// Starts it and waits until it answers.
    #[track_caller]
    pub(crate) fn start(self) -> Daemon {
        self.start_as("supervise")
    }

    /// [`Launch::start`] with a name, for several in one place.
    #[track_caller]
    pub(crate) fn start_as(mut self, name: &str) -> Daemon {
        let control = self.place.path(&format!("{name}.ctl"));
        self.insert_control(&control);
        let mut daemon = self.spawn(name, Some(control));
        daemon.wait_until("it answers", |_any| true);
        daemon
    }

    /// Starts it and does not wait until it answers.
    #[allow(clippy::zombie_processes, reason = "waited for by its pid")]
    #[track_caller]
    pub(crate) fn spawn(self, name: &str, control: Option<String>) -> Daemon {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let (stdout, stderr) =
            (self.place.path(&format!("{name}.stdout")), self.place.path(&format!("{name}.stderr")));
        let create = |path: &String| File::create(path).expect("our own directory");
        let mut command = self.build();
        command.env(MARK, &mark).stdout(create(&stdout)).stderr(create(&stderr));
        let pid = if self.blocked == SigSet::empty() {
            let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
            Pid::from_raw(i32::try_from(child.id()).expect("a pid"))
        } else {
            spawn_blocked(&command, &stdout, &stderr, &self.blocked)
        };
        Daemon { pid, mark, control, stdout, stderr, ended: None }
    }
}

/// Does what [`Command::spawn`] does, which would empty the signal mask.
fn spawn_blocked(command: &Command, stdout: &str, stderr: &str, blocked: &SigSet) -> Pid {
    let text = |word: &OsStr| CString::new(word.as_encoded_bytes()).expect("no NUL in a test");
    let args: Vec<CString> =
        std::iter::once(command.get_program()).chain(command.get_args()).map(text).collect();
    let mut environment: HashMap<_, _> = std::env::vars_os().collect();
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => environment.insert(name.to_owned(), value.to_owned()),
            None => environment.remove(name),
        };
    }
    let pair = |(name, value): (&OsString, &OsString)| {
        text(&[name.as_os_str(), value.as_os_str()].join(OsStr::new("=")))
    };
    let environment: Vec<CString> = environment.iter().map(pair).collect();
    let mut actions = PosixSpawnFileActions::init().expect("memory");
    for (number, path) in [(0, "/dev/null"), (1, stdout), (2, stderr)] {
        actions.add_open(number, path, OFlag::O_RDWR, Mode::empty()).expect("memory");
    }
    let mut attributes = PosixSpawnAttr::init().expect("memory");
    attributes.set_sigmask(blocked).expect("a mask");
    attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK).expect("a flag");
    posix_spawnp(&args[0], &actions, &attributes, &args, &environment).expect("it starts")
}

/// A running `supervise`. When it is dropped, all its processes are killed.
pub(crate) struct Daemon {
    pid: Pid,
    mark: String,
    control: Option<String>,
    stdout: String,
    stderr: String,
    ended: Option<i32>,
}

impl Daemon {
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    pub(crate) fn stdout(&self) -> String {
        fs::read_to_string(&self.stdout).expect("made by us")
    }

    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).expect("made by us")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid, signal).expect("it lives or is not yet reaped");
    }

    /// Runs `supervise WORDS --control ...` to its end.
    #[track_caller]
    pub(crate) fn verb(&self, words: &str) -> Ended {
        self.spawn_verb(words).end()
    }

    /// Starts `supervise WORDS --control ...` and returns at once.
    #[track_caller]
    pub(crate) fn spawn_verb(&self, words: &str) -> Verb {
        let control = self.control.as_deref().expect("started with a control socket");
        // Whoever started us in the background of a shell script made us ignore Ctrl-C, and it would inherit that.
        let mut command = Command::new("env");
        command.args(["--default-signal=INT", SUPERVISE]);
        command.args(words.split_whitespace()).args(["--control", control]);
        Verb::spawn(command)
    }

    /// The object of `status --json`; `None` while nobody answers.
    pub(crate) fn try_status(&self) -> Option<Value> {
        serde_json::from_str(&self.verb("status --json").stdout).ok()
    }

    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        self.try_status().unwrap_or_else(|| panic!("no status; it says:\n{}", self.stderr()))
    }

    /// Asks for the status until it is as wanted.
    #[track_caller]
    pub(crate) fn wait_until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let status = self.try_status();
            if let Some(status) = status.as_ref().filter(|status| wanted(status)) {
                return status.clone();
            }
            let context = || format!("status {status:?}\nIt says:\n{}", self.stderr());
            assert!(Instant::now() < deadline, "waited {DEADLINE:?} in vain until {what}: {}", context());
            if let Some(code) = self.try_end() {
                panic!("it ended with {code}, and never: {what}. It says:\n{}", self.stderr());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[track_caller]
    pub(crate) fn wait_state(&mut self, state: &str) -> Value {
        self.wait_until(&format!("state {state}"), |status| status["state"] == state)
    }

    /// Waits until the generation of this number is ready and alone.
    #[track_caller]
    pub(crate) fn wait_generation(&mut self, generation: u64) -> Value {
        self.wait_until(&format!("generation {generation} runs alone"), |status| {
            status["state"] == "running"
                && status["generation"] == generation
                && status["generations"].as_array().is_some_and(|all| all.len() == 1)
        })
    }

    /// The address of a held socket, `127.0.0.1:PORT`.
    #[track_caller]
    pub(crate) fn address(&self, name: &str) -> String {
        let status = self.status();
        let sockets = status["sockets"].as_array().expect("a list of sockets");
        let socket = sockets.iter().find(|socket| socket["name"] == name);
        socket.and_then(|socket| socket["address"].as_str()).expect("a socket of that name").to_owned()
    }

    /// The main process of the current generation.
    #[track_caller]
    pub(crate) fn server(&self) -> i32 {
        let status = self.status();
        let all = status["generations"].as_array().expect("a list of generations");
        let current = all.iter().find(|one| one["role"] == "current").expect("a current generation");
        i32::try_from(current["pid"].as_i64().expect("a pid")).expect("a pid")
    }

    /// What it and its children still run: pids with their environments.
    pub(crate) fn processes(&self) -> Vec<i32> {
        processes(&[(MARK, &self.mark)])
    }

    /// The processes of one generation, wherever they are.
    pub(crate) fn processes_of(&self, generation: u64) -> Vec<i32> {
        processes(&[(MARK, &self.mark), ("SUPERVISE_GENERATION", &generation.to_string())])
    }

    /// Its exit status, once it has ended.
    pub(crate) fn try_end(&mut self) -> Option<i32> {
        if self.ended.is_none() {
            self.ended = match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)).expect("our child") {
                WaitStatus::Exited(_, code) => Some(code),
                WaitStatus::Signaled(_, signal, _) => Some(128 + signal as i32),
                _ => None,
            };
        }
        self.ended
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(mut self) -> Ended {
        let status = wait_for("the end of supervise", || self.try_end());
        Ended { status, stdout: self.stdout(), stderr: self.stderr() }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.try_end().is_none() {
            // Some servers write over their environment, and with it over the mark.
            let started = descendants(self.pid());
            kill(self.pid, Signal::SIGKILL).expect("our child");
            waitpid(self.pid, None).expect("our child");
            for (pid, _) in started {
                // One that has ended meanwhile cannot be killed any more.
                let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        // One that forks while we look is found in the next round.
        loop {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            for pid in left {
                // The process may have ended by itself.
                let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}
