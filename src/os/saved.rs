//! What goes over to the program that takes our place: fds by their numbers, what several refer to by its place in a list, and
//! moments of this process as times since.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The fds that stay open over execve(2).
#[derive(Debug, Default)]
pub struct KeptFds(BTreeSet<RawFd>);

impl KeptFds {
    /// The number under which the next program finds it.
    pub fn keep(&mut self, fd: impl AsFd) -> RawFd {
        self.keep_number(fd.as_fd().as_raw_fd())
    }

    /// One that we know by its number alone.
    pub fn keep_number(&mut self, number: RawFd) -> RawFd {
        // 0 to 2 stay open in any case.
        if number > 2 {
            self.0.insert(number);
        }
        number
    }

    pub fn numbers(&self) -> impl Iterator<Item = RawFd> {
        self.0.iter().copied()
    }
}

/// A list of what several refer to, each once.
#[derive(Debug)]
pub struct Shared<T> {
    list: Vec<Rc<T>>,
    places: HashMap<*const T, usize>,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { list: Vec::new(), places: HashMap::new() }
    }
}

impl<T> Shared<T> {
    /// Its place in the list, where it is added if it is new.
    pub fn place(&mut self, item: &Rc<T>) -> usize {
        *self.places.entry(Rc::as_ptr(item)).or_insert_with(|| {
            self.list.push(Rc::clone(item));
            self.list.len() - 1
        })
    }

    pub fn list(&self) -> &[Rc<T>] {
        &self.list
    }
}

/// What stands at this place of a list.
///
/// # Errors
/// A sentence: there is none.
pub fn at<T>(list: &[Rc<T>], place: usize) -> Result<Rc<T>, String> {
    list.get(place).cloned().ok_or_else(|| format!("there is no entry {place} of {}", list.len()))
}

/// A moment: how long it is past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past(Duration);

impl From<Instant> for Past {
    fn from(moment: Instant) -> Self {
        Self(moment.elapsed())
    }
}

impl From<Past> for Instant {
    fn from(Past(ago): Past) -> Self {
        let now = Self::now();
        now.checked_sub(ago).unwrap_or(now)
    }
}

/// A path of whatever bytes; serde's own way refuses one that is not UTF-8.
pub mod path {
    use std::ffi::OsString;
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(path: impl AsRef<Path>, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_ref().as_os_str().serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        OsString::deserialize(deserializer).map(PathBuf::from)
    }
}
