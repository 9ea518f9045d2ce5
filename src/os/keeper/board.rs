//! The page that we share with the keeper, and with who goes on after us: which files count, and what cannot wait until the
//! next state is saved.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering::SeqCst};

use crate::config::CommandList;
use crate::core::{Command, GenerationId, Time};

const BYTES: usize = 4096;

/// The shared words. All zeros are those of a new one.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Page {
    /// When the keeper saw our end: nanoseconds of CLOCK_MONOTONIC.
    end: AtomicU64,
    /// Bit 0: which state counts; bit 1: which setting.
    which: AtomicU32,
    /// How many orders of that state were carried out.
    carried_out: AtomicU32,
    /// We end by our own will.
    is_ending: AtomicU32,
    /// The process that was started last, as long as no saved state has it: the number of its list of commands and its place
    /// there, and its generation.
    list: AtomicU32,
    index: AtomicU32,
    /// Written by the kernel in clone3(2), before the process exists for anybody; 0: there is none.
    pid: AtomicI32,
    pidfd: AtomicI32,
    generation: AtomicU64,
}

/// The page, which stays mapped as long as this process lives, and its file.
#[derive(Debug)]
pub struct Board {
    pub(super) page: &'static Page,
    file: File,
}

impl Deref for Board {
    type Target = Page;

    fn deref(&self) -> &Page {
        self.page
    }
}

/// A process of which the saved state may know nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Birth {
    pub generation: GenerationId,
    pub command: Command,
    pub pid: i32,
    pub pidfd: RawFd,
}

impl AsRawFd for Board {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Board {
    /// # Errors
    /// Those of ftruncate(2) and mmap(2).
    pub fn new(file: File) -> io::Result<Self> {
        file.set_len(BYTES as u64)?;
        let (rights, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing we have.
        let page = unsafe { libc::mmap(ptr::null_mut(), BYTES, rights, shared, file.as_raw_fd(), 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it begins at a page, is long enough, is never unmapped and never shorter; every word is atomic, and any
        // bits make a value.
        let page = unsafe { &*page.cast::<Page>() };
        Ok(Self { page, file })
    }

    /// A process is about to be started for this.
    pub fn expect(&self, generation: GenerationId, command: Command) -> Cradle {
        let page = self.page;
        page.generation.store(generation.0, SeqCst);
        page.list.store(command.list as u32, SeqCst);
        page.index.store(command.index as u32, SeqCst);
        Cradle { pid: &page.pid, pidfd: &page.pidfd }
    }
}

impl Page {
    /// The places of the state and of the setting that count.
    pub fn which(&self) -> (usize, usize) {
        let which = self.which.load(SeqCst) as usize;
        (which & 1, (which >> 1) & 1)
    }

    /// What is there now counts; it knows every process, and none of its orders was carried out.
    pub fn turn_to(&self, state: usize, setting: usize) {
        self.carried_out.store(0, SeqCst);
        self.which.store((state | (setting << 1)) as u32, SeqCst);
        self.pid.store(0, SeqCst);
    }

    pub fn one_more_carried_out(&self) {
        self.carried_out.fetch_add(1, SeqCst);
    }

    pub fn carried_out(&self) -> usize {
        self.carried_out.load(SeqCst) as usize
    }

    pub fn set_ending(&self) {
        self.is_ending.store(1, SeqCst);
    }

    pub fn is_ending(&self) -> bool {
        self.is_ending.load(SeqCst) != 0
    }

    pub fn note_end(&self, now: libc::timespec) {
        self.end.store(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64, SeqCst);
    }

    pub fn end(&self) -> Time {
        Time(self.end.load(SeqCst))
    }

    pub fn birth(&self) -> Option<Birth> {
        let pid = Some(self.pid.load(SeqCst)).filter(|pid| *pid > 0)?;
        let list = CommandList::ALL.get(self.list.load(SeqCst) as usize)?;
        let command = Command { list: *list, index: self.index.load(SeqCst) as usize };
        let generation = GenerationId(self.generation.load(SeqCst));
        Some(Birth { generation, command, pid, pidfd: self.pidfd.load(SeqCst) })
    }
}

/// Where the kernel writes the pid of a process that it makes, and its pidfd.
#[derive(Clone, Copy, Debug)]
pub struct Cradle {
    pub pid: &'static AtomicI32,
    pub pidfd: &'static AtomicI32,
}

impl Cradle {
    /// There is no such process.
    pub fn clear(self) {
        self.pid.store(0, SeqCst);
    }
}
