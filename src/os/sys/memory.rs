//! Memory that is given back to the kernel: what the allocator keeps of free memory (where malloc(3) is that of glibc), and
//! the pages of code that only a start or a swap needed.

#![allow(unsafe_code)]

use std::{ptr, slice};

/// The smallest page; a larger one makes madvise(2) refuse what does not begin with it.
const PAGE: usize = 4096;

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
/// space (MADV_DONTNEED of madvise(2)). What is needed again comes from the page cache, by a minor fault.
pub fn give_back() {
    // SAFETY: it touches free memory alone, under the allocator's own lock.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
    // SAFETY: the callback has the type that is asked for and keeps neither pointer.
    unsafe {
        libc::dl_iterate_phdr(Some(forget_code), ptr::null_mut());
    }
}

/// For dl_iterate_phdr(3): unmaps the pages of the segments that nobody writes to, until they are used.
unsafe extern "C" fn forget_code(
    object: *mut libc::dl_phdr_info,
    _size: usize,
    _data: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the C library hands over a whole description, with its headers, for as long as the call lasts.
    let object = unsafe { &*object };
    if object.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: as above.
    let headers = unsafe { slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()) };
    for header in
        headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0)
    {
        let start = (object.dlpi_addr + header.p_vaddr) as usize & !(PAGE - 1);
        let end = ((object.dlpi_addr + header.p_vaddr + header.p_memsz) as usize).next_multiple_of(PAGE);
        // SAFETY: a private mapping of a file in which nothing was written, so that each page is read again as it was
        // (but for the breakpoints of a debugger).
        // What is no such mapping (the vdso) is refused or left as it is.
        unsafe {
            libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED);
        }
    }
    0
}
