//! The memory of the keeper: one mapping with its stack and all that it needs to execute our program, so that it can let go of
//! the copy of everything else.

#![allow(unsafe_code)]

use std::ffi::{CString, OsString, c_char};
use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStringExt;
use std::ptr;

use super::VARIABLE;
use super::board::Page;
use crate::os::relay::OURSELVES;

/// Room for a pid in decimal digits.
pub(super) const PID_DIGITS: usize = 10;

/// The keeper calls nothing that takes more than a few hundred bytes.
const STACK: usize = 16 << 10;

/// What each thing in the mapping is aligned to.
const ALIGNMENT: usize = 16;

/// What the keeper reads. Pointers lead into the same mapping.
#[derive(Debug)]
pub(super) struct Kit {
    /// The pidfd of supervise, and the files.
    pub(super) us: RawFd,
    pub(super) numbers: [RawFd; 5],
    pub(super) page: &'static Page,
    pub(super) program: *const c_char,
    pub(super) argv: *const *const c_char,
    pub(super) envp: *const *const c_char,
    /// Where its pid goes, in digits.
    pub(super) pid: *mut u8,
    /// What it lets go.
    pub(super) ranges: *const Range<usize>,
    pub(super) range_count: usize,
}

/// The mapping; unmapped when this is dropped, in this process.
#[derive(Debug)]
pub(super) struct Memory {
    base: *mut u8,
    length: usize,
    used: usize,
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which nothing leads any more.
        unsafe { libc::munmap(self.base.cast(), self.length) };
    }
}

impl Memory {
    fn new(length: usize) -> io::Result<Self> {
        let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing we have.
        let base = unsafe { libc::mmap(ptr::null_mut(), length, rights, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { base: base.cast(), length, used: STACK })
    }

    /// The first address above the stack.
    pub(super) fn stack(&self) -> *mut libc::c_void {
        self.base.wrapping_add(STACK).cast()
    }

    /// Copies these into the mapping.
    fn put<T>(&mut self, items: &[T]) -> *mut T {
        let at = self.used.next_multiple_of(ALIGNMENT);
        let bytes = size_of_val(items);
        assert!(at + bytes <= self.length && align_of::<T>() <= ALIGNMENT, "it was made long enough");
        let place = self.base.wrapping_add(at).cast::<T>();
        // SAFETY: so many bytes are left there, aligned, and nobody else has them.
        unsafe { ptr::copy_nonoverlapping(items.as_ptr(), place, items.len()) };
        self.used = at + bytes;
        place
    }
}

/// The mapping, and the kit in it.
///
/// # Errors
/// Those of mmap(2), and an argument or a variable that cannot be passed on.
pub(super) fn make(us: RawFd, numbers: [RawFd; 5], page: &'static Page) -> io::Result<(Memory, *const Kit)> {
    let text = |text: OsString| CString::new(text.into_vec()).map_err(io::Error::from);
    let program = text(OURSELVES.into())?;
    let words = std::env::args_os().map(text).collect::<io::Result<Vec<_>>>()?;
    let mut variables = Vec::new();
    for (mut pair, value) in std::env::vars_os() {
        pair.push("=");
        pair.push(value);
        variables.push(text(pair)?);
    }
    // The keeper writes its pid there by itself.
    let mut variable = format!("{VARIABLE}={}", "0".repeat(PID_DIGITS));
    let pid_at = variable.len() - PID_DIGITS;
    numbers.iter().for_each(|number| variable.push_str(&format!(":{number}")));
    // SAFETY: it always is a valid address.
    let own = unsafe { libc::__errno_location() }.addr();
    // SAFETY: a plain integer.
    let bytes = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).map_err(io::Error::other)?;
    let ranges = writable(&fs::read_to_string("/proc/self/maps").unwrap_or_default(), own, bytes);
    let texts = words.iter().chain(&variables).chain([&program]);
    let bytes: usize = texts.map(|text| text.count_bytes() + 1 + ALIGNMENT).sum();
    let pointers = size_of::<*const c_char>() * (words.len() + variables.len() + 3);
    let others = size_of::<Kit>() + size_of_val(ranges.as_slice()) + variable.len() + 1 + 8 * ALIGNMENT;
    let mut memory = Memory::new(STACK + bytes + pointers + others)?;
    let program = memory.put(program.as_bytes_with_nul()).cast::<c_char>().cast_const();
    let mut put_all = |texts: &[CString]| -> Vec<*const c_char> {
        texts.iter().map(|text| memory.put(text.as_bytes_with_nul()).cast::<c_char>().cast_const()).collect()
    };
    let (mut argv, mut envp) = (put_all(&words), put_all(&variables));
    variable.push('\0');
    let variable = memory.put(variable.as_bytes());
    envp.push(variable.cast::<c_char>().cast_const());
    argv.push(ptr::null());
    envp.push(ptr::null());
    let kit = Kit {
        us,
        numbers,
        page,
        program,
        argv: memory.put(&argv),
        envp: memory.put(&envp),
        pid: variable.wrapping_add(pid_at),
        ranges: memory.put(&ranges),
        range_count: ranges.len(),
    };
    let place = memory.put(&[kit]);
    Ok((memory, place.cast_const()))
}

/// The private mappings in the text of /proc/PID/maps that can be written to, of which the keeper would have a copy each time
/// that we write there. Left out are those of files and what follows one without a gap: variables of programs and libraries
/// (memcpy(3) has such). So are the pages of this thread's own variables (errno).
fn writable(maps: &str, own: usize, page: usize) -> Vec<Range<usize>> {
    let own_page = own / page * page;
    let own = own_page.saturating_sub(page)..own_page + 2 * page;
    let mut end_of_file = 0;
    let mut found = Vec::new();
    for line in maps.lines() {
        let Some((range, is_written, is_of_file)) = mapping(line) else { continue };
        if is_of_file {
            end_of_file = range.end;
        } else if is_written && range.start != end_of_file {
            let (before, after) =
                (range.start..range.end.min(own.start), range.start.max(own.end)..range.end);
            found.extend([before, after].into_iter().filter(|part| part.start < part.end));
        }
    }
    found
}

/// A line: its addresses, whether it is private and can be written to, whether it is of a file.
fn mapping(line: &str) -> Option<(Range<usize>, bool, bool)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let is_written = words.next()?.as_bytes().get(1..4) == Some(b"w-p");
    let is_of_file = words.nth(2)? != "0";
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some((number(start)?..number(end)?, is_written, is_of_file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_private_and_of_no_program_is_let_go() {
        let maps = "00400000-00500000 r-xp 0 fe:00 7 /x\n00500000-00510000 rw-p 0 fe:00 7 /x\n\
            00510000-00520000 rw-p 0 00:00 0 \n00600000-00610000 rw-s 0 0:1 9 /memfd:x\n\
            00700000-00900000 rw-p 0 00:00 0 [heap]\nodd\n";
        assert_eq!(writable(maps, 0, 0x1_0000), vec![0x70_0000..0x90_0000; 1]);
        assert_eq!(writable(maps, 0x80_0010, 0x1_0000), [0x70_0000..0x7f_0000, 0x82_0000..0x90_0000]);
        assert_eq!(writable(maps, 0x90_0000, 0x1_0000), vec![0x70_0000..0x8f_0000; 1]);
    }
}
