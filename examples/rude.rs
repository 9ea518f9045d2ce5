//! cargo run -- --listen 127.0.0.1:8080=http -- cargo run -q --example rude
//!
//! A server as most are: it knows nothing of signals, so SIGTERM cuts off whatever it is doing (5 ms a request).

mod common;

use std::thread;
use std::time::Duration;

fn main() {
    common::serve(
        common::sockets(),
        &common::signals(&[]),
        |_none| false,
        |_request| {
            thread::sleep(Duration::from_millis(5));
            format!("rude generation {}\n", common::generation())
        },
    );
}
