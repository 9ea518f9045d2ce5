//! What steering adds to a connection: the same server on a plain listener of its own, below `supervise` with a shared
//! listener, and steered.
//!
//! `cargo bench --bench steering [-- ROUNDS]`. It asserts nothing.

mod paired;

use std::env;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use paired::Contestant;

fn main() {
    let rounds = env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(30);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let server = paired::server();
    let contestants = [
        Contestant::alone(&server),
        Contestant::supervised(&server, directory.path(), "shared"),
        Contestant::supervised(&server, directory.path(), "steered"),
    ];
    paired::compare(&contestants, rounds);
}

impl Contestant {
    /// On a listener of ours, as a server that binds for itself has it.
    fn alone(server: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("a listener").to_string();
        // The shell makes it fd 3, and knows the pid that LISTEN_PID must be.
        let script =
            format!("exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec '{}' --work 0", server.display());
        let stdin = Stdio::from(std::os::fd::OwnedFd::from(listener));
        let process = Command::new("/bin/sh").args(["-c", &script]).stdin(stdin).spawn().expect("a shell");
        Self { name: "a listener of its own", address, process }.ready()
    }

    fn supervised(server: &Path, directory: &Path, handover: &'static str) -> Self {
        // A number that is free now: what it is, nobody needs to be asked then.
        let scratch = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = scratch.local_addr().expect("a listener").to_string();
        drop(scratch);
        let process = Command::new(env!("CARGO_BIN_EXE_supervise"))
            .args(["-q", "--ready", "exec", "--handover", handover, "--listen", &address, "--control"])
            .arg(directory.join(handover))
            .arg("--")
            .arg(server)
            .args(["--work", "0"])
            .spawn()
            .expect("it is built");
        Self { name: handover, address, process }.ready()
    }
}
