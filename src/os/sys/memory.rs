//! Memory that is given back to the kernel: what the allocator keeps of free memory (where malloc(3) is that of glibc), and
//! the pages of code that only a start or a swap needed.

#![allow(unsafe_code)]

use std::fs;
use std::ops::Range;
use std::ptr;
use std::sync::OnceLock;

/// Lets all threads allocate from one arena: the main one does nearly all the work, and those of os/within.rs and
/// InterceptBind= allocate little.
pub fn use_one_arena() {
    // SAFETY: a plain setting of the allocator, made before there is a second thread.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives the kernel back the memory that nobody uses (malloc_trim(3) of glibc; tables of the kernel's with thousands of
/// connections leave some megabytes), and takes the pages of programs and libraries that are only read out of our address
/// space (MADV_DONTNEED of madvise(2)), and the part of the stack that deeper calls have used. What is needed again comes from
/// the page cache, or is a new page, by a minor fault. To be called by the main thread.
pub fn give_back() {
    static ONLY_READ: OnceLock<Vec<Range<usize>>> = OnceLock::new();
    let look = || only_read(&fs::read_to_string("/proc/self/smaps").unwrap_or_default());
    let only_read = ONLY_READ.get_or_init(look);
    // SAFETY: it touches free memory alone, under the allocator's own lock.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
    give_back_stack();
    for range in only_read {
        // SAFETY: our own mapping of a file, not writable and without a page that differs from the file: each is read again
        // as it was. What somebody writes there later by ptrace(2), such as a breakpoint, is lost.
        unsafe {
            libc::madvise(range.start as *mut libc::c_void, range.len(), libc::MADV_DONTNEED);
        }
    }
}

/// How much of the stack below us is given back, in bytes; calls of ours need less. It is less than the gap of a megabyte that
/// the kernel keeps free below a stack (stack_guard_gap), so nothing else is there.
const STACK: usize = 512 << 10;

/// Gives back what lies deeper in the stack than this call. Not inlined: the frame of a caller would lie below `here`.
#[inline(never)]
fn give_back_stack() {
    // SAFETY: a plain integer.
    let Ok(page) = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) else { return };
    let here = 0u8;
    // A whole page stays below us, for the call itself.
    let end = ((&raw const here).addr() / page - 1) * page;
    // SAFETY: this thread's own stack below its frames, where nothing lives, or the gap below it. Where the mapping ends in
    // between, what there is of it is given back (ENOMEM).
    unsafe {
        libc::madvise(ptr::without_provenance_mut(end - STACK), STACK, libc::MADV_DONTNEED);
    }
}

/// The mappings of files in the text of /proc/PID/smaps (proc_pid_smaps(5)) that nobody can write to and in which nothing
/// differs from the file. Those that were written to before (a packed program, relocations in the code) are left out.
fn only_read(smaps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        match first.strip_suffix(':') {
            None => candidate = range_of_file(first, words),
            Some("Anonymous") if words.next() == Some("0") => found.extend(candidate.take()),
            Some("Anonymous") => candidate = None,
            Some(_) => {}
        }
    }
    found
}

/// `words`: what follows the addresses in the first line of a mapping: rights, offset, device, inode, path.
fn range_of_file<'a>(addresses: &str, mut words: impl Iterator<Item = &'a str>) -> Option<Range<usize>> {
    let is_only_read = words.next()?.as_bytes().get(1) == Some(&b'-');
    let is_file = words.nth(2).is_some_and(|inode| inode != "0");
    let (start, end) = addresses.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    (is_only_read && is_file).then_some(number(start)?..number(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mappings_of_files_as_they_are_on_disk_are_let_go() {
        let smaps = "00400000-00600000 r-xp 00001000 fe:00 77 /usr/bin/x\nSize: 8 kB\nAnonymous: 0 kB\n\
            00600000-00610000 r-xp 00001000 fe:00 77 /usr/bin/x (written to)\nAnonymous: 4 kB\n\
            00610000-00620000 rw-p 00001000 fe:00 77 /usr/bin/x\nAnonymous: 0 kB\n\
            7f0000000000-7f0000001000 r-xp 00000000 00:00 0 \nAnonymous: 0 kB\n\
            7f0000002000-7f0000003000 r--p 00000000 00:00 0 [vvar]\nAnonymous: 0 kB\n";
        assert_eq!(only_read(smaps), vec![0x40_0000..0x60_0000; 1]);
        for odd in ["", "x", "1-2", "zz-1 r-xp 0 0 5\nAnonymous: 0 kB\n", "Anonymous: 0 kB"] {
            assert!(only_read(odd).is_empty(), "{odd}");
        }
        let of_ours = only_read(&fs::read_to_string("/proc/self/smaps").unwrap());
        assert!(of_ours.iter().any(|range| range.contains(&(give_back as *const () as usize))));
        give_back();
        assert_eq!(only_read(smaps).len(), 1, "the code is still there");
    }
}
