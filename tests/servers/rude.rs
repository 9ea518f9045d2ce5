//! cargo run -- --listen 127.0.0.1:8080=http -- cargo run -q --example rude
//!
//! A server as most are: it knows nothing of signals, so SIGTERM cuts off whatever it is doing. It keeps connections for
//! more requests, and comes with a few pages:
//!
//!     /                  takes 5 ms, or what `--work MS` says
//!     /sleep/MS          takes so long
//!     /stream/N/MS       N lines with such a pause between them
//!     /health            500 while the file exists that `--sick FILE` names
//!     /peer              the client's address
//!
//! A datagram comes back behind the number of the generation.

#[path = "../../examples/common/mod.rs"]
mod common;

use std::path::Path;
use std::thread;
use std::time::Duration;

use common::{Reply, Request};

fn main() {
    let flags = common::flags(&["--work", "--sick"]);
    let work = flags.get("--work").map_or(Duration::from_millis(5), |text| millis(text));
    let sick = flags.get("--sick").cloned();
    let is_sick = move || sick.as_ref().is_some_and(|file| Path::new(file).exists());
    common::serve_for_ever(common::sockets().leak(), move |request| page(request, work, &is_sick));
}

fn page(request: &Request, work: Duration, is_sick: &dyn Fn() -> bool) -> Reply {
    let who = format!("rude generation {}\n", common::generation());
    let words: Vec<&str> = request.path.split('/').skip(1).collect();
    match words[..] {
        ["sleep", time] => thread::sleep(millis(time)),
        ["stream", lines, pause] => {
            let lines = lines.parse().expect("a number of lines");
            return Reply { status: 200, parts: vec![who; lines], pause: millis(pause) };
        }
        ["health"] if is_sick() => {
            return Reply { status: 500, parts: vec![who], pause: Duration::ZERO };
        }
        ["health"] => {}
        ["peer"] => return format!("{}\n", request.peer).into(),
        _ => thread::sleep(work),
    }
    who.into()
}

fn millis(text: &str) -> Duration {
    Duration::from_millis(text.parse().expect("milliseconds"))
}
