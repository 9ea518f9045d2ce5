//! tests/conformance, run: what systemd does, as data, against our parsers and against the built `supervise`.
//! tests/conformance/README.md says where each expected value comes from.

mod forking;
mod parsers;
mod restarts;
mod units;

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;

use super::support::{Daemon, Place, example};

/// Tests run beside each other, and a case mostly waits.
const AT_ONCE: usize = 4;

/// The cases of a file in tests/conformance.
pub(crate) fn cases(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
    assert!(!cases.is_empty(), "{file} is empty");
    cases
}

/// Runs every case, and says of all that disagree what they gave.
#[track_caller]
pub(crate) fn all_agree(cases: &[Value], run: impl Fn(&Value) -> Result<(), String> + Sync) {
    let (next, faults) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(fault) = run(case) {
                        faults.lock().unwrap().push(format!("{case}\n    {fault}"));
                    }
                }
            });
        }
    });
    let faults = faults.into_inner().unwrap();
    assert!(faults.is_empty(), "{} of {} disagree:\n{}", faults.len(), cases.len(), faults.join("\n"));
}

pub(crate) fn text<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap_or_else(|| panic!("no {key} in {case}"))
}

/// The words of a list.
fn list(value: &Value) -> Vec<&str> {
    value.as_array().expect("a list").iter().map(|word| word.as_str().expect("a word")).collect()
}

pub(crate) fn expect<T: PartialEq + std::fmt::Debug>(got: &T, wanted: &T) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("expected {wanted:?}, got {got:?}")) }
}

/// A directory for one case, in which DIR, LOG and CNT of the data are.
struct Desk(Place);

impl Desk {
    fn new() -> Self {
        let place = Place::new();
        fs::create_dir(place.path("bin")).unwrap();
        // tests/real runs the same cases with the real one.
        if !cfg!(feature = "real-servers") {
            std::os::unix::fs::symlink(example("notify"), place.path("bin/systemd-notify")).unwrap();
        }
        Self(place)
    }

    /// A line of the data with its places filled in.
    fn fill(&self, line: &str) -> String {
        ["LOG", "CNT", "DIR/"].iter().fold(line.to_owned(), |line, word| {
            let name = if *word == "DIR/" { "" } else { word };
            line.replace(word, &self.0.path(name))
        })
    }

    fn lines(&self, name: &str) -> Vec<String> {
        self.0.read(name).lines().map(String::from).collect()
    }

    /// How often the service was started so far: a line in CNT each time.
    fn starts(&self) -> usize {
        self.lines("CNT").len()
    }
}

/// The log of the supervise, which ends the text of each failure.
fn said(daemon: &Daemon) -> String {
    format!("; it says:\n{}", daemon.stderr().trim_end())
}
