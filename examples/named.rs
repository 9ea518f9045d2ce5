//! cargo run -- --listen 127.0.0.1:8080=http --listen 127.0.0.1:9090=admin -- cargo run -q --example named
//!
//! Two sockets told apart by their names, as LISTEN_FDNAMES gives them: the order of `--listen` no longer matters.

mod common;

use nix::sys::signal::Signal;

fn main() {
    let signals = common::signals(&[Signal::SIGTERM, Signal::SIGINT]);
    let sockets = common::sockets();
    for (number, (name, socket)) in (3..).zip(&sockets) {
        println!("{number} {name} {socket:?}");
    }
    common::serve(
        sockets,
        &signals,
        |_any| true,
        |request| match request.name.as_str() {
            "http" => "the site\n".into(),
            "admin" => format!("the back office of generation {}\n", common::generation()),
            other => format!("nobody expected {other}\n"),
        },
    );
}
