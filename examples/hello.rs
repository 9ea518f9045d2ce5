//! cargo run -- --listen 127.0.0.1:8080=http -- cargo run -q --example hello
//!
//! The smallest polite server: it answers on the socket it was given and, told to stop, finishes what it accepted.
//! An argument is the milliseconds of work that each request takes.

mod common;

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;

fn main() {
    let work = std::env::args().nth(1).map_or(0, |text| text.parse().expect("milliseconds"));
    let signals = common::signals(&[Signal::SIGTERM, Signal::SIGINT]);
    common::serve(
        common::sockets(),
        &signals,
        |_any| true,
        move |_request| {
            thread::sleep(Duration::from_millis(work));
            format!("hello from generation {}\n", common::generation())
        },
    );
}
