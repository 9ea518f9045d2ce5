//! --intercept-bind: servers that never heard of LISTEN_FDS, the example `binds`.

mod families;
mod hostile;
mod kinds;
mod later;
mod unix;

use std::fs;

use super::load::get;
use super::support::{Daemon, Launch, Place, example, fds, wait_for};

/// The example on the sockets that `listen` says, the first of which is called `http`.
fn binds<'a>(place: &'a Place, listen: &str, options: &str, words: &[&str]) -> Launch<'a> {
    let command: Vec<String> =
        std::iter::once(example("binds")).chain(words.iter().map(|word| (*word).to_owned())).collect();
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    Launch::new(place)
        .args(&format!("--listen {listen}=http --intercept-bind --bake 0"))
        .args(options)
        .command(&command)
}

/// Asserts that this generation answers at the address.
#[track_caller]
fn assert_answers(address: &str, generation: u64) {
    let body = format!("binds generation {generation}\n");
    assert_eq!(wait_for("an answer", || get(address, "/").ok()), body);
}

#[track_caller]
fn swapped(daemon: &Daemon, to: u64) {
    let swap = daemon.verb("swap --json").expect(0).json();
    assert_eq!((&swap["to"], &swap["outcome"]), (&to.into(), &"swapped".into()), "{}", daemon.stderr());
}

/// What the supervisor and the server have in common: sockets of the server that are ours, and how many fds they are.
fn common_sockets(daemon: &Daemon, server: i32) -> usize {
    let ours = fds(daemon.pid());
    let theirs = fds(server);
    let is_ours = |what: &str| what.starts_with("socket:") && ours.iter().any(|(_, own)| own == what);
    // stdin, stdout and stderr do not count.
    theirs.iter().filter(|(number, what)| *number > 2 && is_ours(what)).count()
}

/// Whether the kernel has a socket that listens on this port and is not one of ours.
fn is_bound_by_another(daemon: &Daemon, port: u16) -> bool {
    let ours = fds(daemon.pid());
    let listening = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.get(1)?.rsplit(':').next()?;
        (words.get(3) == Some(&"0A") && u16::from_str_radix(at, 16) == Ok(port))
            .then(|| words.get(9).map(|inode| format!("socket:[{inode}]")))?
    };
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let mut found = tables.iter().flat_map(|table| table.lines()).filter_map(listening);
    found.any(|socket| ours.iter().all(|(_, own)| *own != socket))
}
