//! The built `supervise` as a test sees it: started in a private directory, asked through its own verbs, and gone with
//! everything it started when the test ends. Tests wait for conditions; nothing here sleeps to let time pass.

mod daemon;
mod process;
pub(crate) mod wrapped;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) use daemon::{Daemon, Launch};
pub(crate) use process::{
    descendants, environment, fd_flags, fds, limit_fds, proc_status, set_limit, zombies,
};

/// Nothing that works takes this long, however busy the machine is.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The built binary.
pub(crate) const SUPERVISE: &str = env!("CARGO_BIN_EXE_supervise");

/// The built example of this name; cargo puts them beside the tests.
pub(crate) fn example(name: &str) -> String {
    let test = std::env::current_exe().expect("/proc/self/exe");
    let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    let path = profile.join("examples").join(name);
    assert!(path.exists(), "{} is not built: cargo build --examples", path.display());
    path.into_os_string().into_string().expect("a path in UTF-8")
}

/// Tries until there is an answer. Panics with `what` when that takes longer than [`DEADLINE`].
pub(crate) fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {DEADLINE:?} in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Looks until five looks in a row saw the same.
pub(crate) fn settled<T: PartialEq>(what: &str, mut look: impl FnMut() -> T) -> T {
    let (mut last, mut same) = (look(), 0);
    wait_for(&format!("{what} to hold still"), || {
        let now = look();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        (same == 5).then_some(())
    });
    last
}

/// A directory of its own for each test, removed at the end.
pub(crate) struct Place(TempDir);

/// A line of the log that the example `ready` writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    pub(crate) generation: u64,
    pub(crate) pid: i32,
    pub(crate) what: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self(TempDir::new().expect("a temporary directory"))
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.path().join(name).into_os_string().into_string().expect("a path in UTF-8")
    }

    /// Puts the file there whole: a server that starts in this moment sees the old text or the new one.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let fresh = self.path(&format!("{name}.new"));
        fs::write(&fresh, text).expect("a file in our own directory");
        fs::rename(fresh, self.path(name)).expect("a file in our own directory");
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// What the next generation of [`Launch::ready`] is to do.
    pub(crate) fn flags(&self, flags: &str) {
        self.write("flags", flags);
    }

    /// What the generations of `ready` did, in order.
    pub(crate) fn facts(&self) -> Vec<Fact> {
        let fact = |line: &str| {
            let mut words = line.splitn(3, ' ');
            Some(Fact {
                generation: words.next()?.parse().ok()?,
                pid: words.next()?.parse().ok()?,
                what: words.next()?.to_owned(),
            })
        };
        let log = self.read("log");
        log.lines().map(|line| fact(line).unwrap_or_else(|| panic!("no fact: {line}"))).collect()
    }

    /// The generations that did this, in order.
    pub(crate) fn who(&self, what: &str) -> Vec<u64> {
        self.facts().iter().filter(|fact| fact.what == what).map(|fact| fact.generation).collect()
    }
}

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit status, 128+n after signal n.
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// The object a verb printed for `--json`.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// What it wrote to stdout and to stderr.
    pub(crate) fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    #[track_caller]
    pub(crate) fn expect(self, status: i32) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

/// A verb that runs.
pub(crate) struct Verb(Option<Child>);

impl Verb {
    #[track_caller]
    pub(crate) fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(Some(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))))
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.0.as_ref().expect("not ended").id()).expect("a pid")
    }

    pub(crate) fn running(&mut self) -> bool {
        self.0.as_mut().is_some_and(|child| child.try_wait().expect("our child").is_none())
    }

    /// Waits for its end. What it prints is little: the pipes hold it.
    #[track_caller]
    pub(crate) fn end(mut self) -> Ended {
        let deadline = Instant::now() + DEADLINE;
        while self.running() {
            assert!(Instant::now() < deadline, "a verb hangs");
            thread::sleep(Duration::from_millis(2));
        }
        let output = self.0.take().expect("ended once").wait_with_output().expect("our child");
        Ended {
            status: code(output.status),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Drop for Verb {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // The verb may have ended already.
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }
}

fn code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).expect("it ended")
}
