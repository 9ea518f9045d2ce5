//! cargo run -- -- cargo run -q --example stamp
//!
//! Says when it began, in nanoseconds of CLOCK_MONOTONIC, and ends: the benches time the way to a server's first
//! instruction with it. No `main`: the start-up of the standard library would be part of the figure.
#![no_main]
#![allow(unsafe_code)]

use std::io::Write;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

// SAFETY: the only `main` of this program, with the signature the C start-up code calls.
#[unsafe(no_mangle)]
extern "C" fn main(_argc: i32, _argv: *const *const u8) -> i32 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else { return 1 };
    let line = format!("{}\n", Duration::from(now).as_nanos());
    // One write: lines of several stamps on one pipe stay whole.
    i32::from(std::io::stdout().write_all(line.as_bytes()).is_err())
}
