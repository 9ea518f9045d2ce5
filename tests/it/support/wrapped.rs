//! A server below a wrapper that starts it as a child, by another user or with an environment of its own: `supervise exec`
//! fetches the sockets for it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use super::{Launch, Place, SUPERVISE, example};
use crate::load::get;

/// The example `hello`, which takes the sockets only where LISTEN_PID is its own: `wrap` makes the command line of what
/// starts it. Both programs lie in the place, which everybody may enter and where the wrapper is started.
#[track_caller]
pub(crate) fn assert_serves_below(place: &Place, wrap: impl FnOnce(&[&str]) -> Vec<String>) {
    let [ours, hello] = ["supervise", "hello"].map(|name| place.path(name));
    fs::copy(SUPERVISE, &ours).expect("the program");
    fs::copy(example("hello"), &hello).expect("an example");
    fs::set_permissions(place.path(""), Permissions::from_mode(0o755)).expect("our own directory");
    let wrapped = wrap(&[&ours, "exec", "--", &hello]);
    let words: Vec<&str> = wrapped.iter().map(String::as_str).collect();
    let launch = Launch::new(place).args("--listen 127.0.0.1:0=http --listen 127.0.0.1:0=admin --bake 0");
    let mut daemon = launch.command(&words).directory(&place.path("")).start();
    for generation in 1..=2 {
        daemon.wait_generation(generation);
        for name in ["http", "admin"] {
            let answer = get(&daemon.address(name), "/").unwrap_or_else(|failure| format!("{failure:?}"));
            assert!(answer.starts_with("hello from"), "{words:?}: {answer}: {}", daemon.stderr());
        }
        if generation == 1 {
            daemon.verb("swap").expect(0);
        }
    }
    // The log shows that each swap saw the new server wait, and that none was refused.
    let said = daemon.stderr();
    assert!(said.contains("(waits on ") && !said.contains("dropped"), "{said}");
}

/// These words with others before them.
pub(crate) fn after(wrapper: &[&str], words: &[&str]) -> Vec<String> {
    wrapper.iter().chain(words).map(|word| (*word).to_owned()).collect()
}
