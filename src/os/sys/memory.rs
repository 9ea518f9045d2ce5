//! What the allocator keeps of memory that nobody uses. Where malloc(3) is not that of glibc, nothing is changed.

#![allow(unsafe_code)]

/// Lets all threads allocate from one arena: the main one does nearly all the work, and those of os/within.rs and
/// InterceptBind= allocate little.
pub fn use_one_arena() {
    // SAFETY: a plain setting of the allocator, made before there is a second thread.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives the kernel back the memory that nobody uses (malloc_trim(3) of glibc). Tables of the kernel's with thousands of
/// connections leave some megabytes.
pub fn give_back() {
    // SAFETY: it touches free memory alone, under the allocator's own lock.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
