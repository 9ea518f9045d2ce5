//! Tests whether an extended attribute of a file has a given value (getxattr(2)), which nix lacks.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Whether the attribute has this value. It is said not to where it cannot be read.
pub fn has(file: &Path, name: &CStr, value: &[u8]) -> bool {
    let Ok(path) = CString::new(file.as_os_str().as_bytes()) else { return false };
    let mut found = [0u8; 16];
    // SAFETY: two C strings, and a buffer with its length.
    let length =
        unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), found.as_mut_ptr().cast(), found.len()) };
    usize::try_from(length).is_ok_and(|length| found.get(..length) == Some(value))
}
