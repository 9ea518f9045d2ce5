//! `supervise exec` below wrappers that are installed: package managers of node, sudo, tini, gosu.

use std::env;

use nix::unistd::geteuid;

use super::support::Place;
use super::support::wrapped::{after, assert_serves_below};

/// A program that tests/real/run has installed by npm.
fn by_npm(name: &str) -> String {
    format!("{}/node_modules/.bin/{name}", env::var("JS").expect("JS, as tests/real/run sets it"))
}

/// A package whose script `start` is the server.
fn package(place: &Place, server: &[&str]) {
    let script = server.join(" ");
    place.write(
        "package.json",
        &format!(r#"{{"name":"app","private":true,"scripts":{{"start":"{script}"}}}}"#),
    );
}

/// node closes fds 3 to 15, and on to the first gap, to what it starts.
#[test]
fn below_the_package_managers_of_node() {
    for words in [
        &["npm", "start"][..],
        &["npm", "run", "start", "--silent"],
        &[&by_npm("yarn"), "start"],
        &[&by_npm("pnpm"), "start"],
    ] {
        let place = Place::new();
        assert_serves_below(&place, |server| {
            package(&place, server);
            after(words, &[])
        });
    }
}

#[test]
fn below_npx() {
    let place = Place::new();
    assert_serves_below(&place, |server| {
        package(&place, server);
        after(&["npx", "--offline", "-c"], &[&server.join(" ")])
    });
}

/// sudo closes all fds above 2, and clears the environment.
#[test]
fn below_sudo() {
    let user = format!("#{}", geteuid());
    assert_serves_below(&Place::new(), |server| after(&["sudo", "-n", "-u", &user], server));
}

#[test]
fn below_tini_and_gosu() {
    assert_serves_below(&Place::new(), |server| after(&["tini", "-s", "--"], server));
    if geteuid().is_root() {
        assert_serves_below(&Place::new(), |server| after(&["gosu", "nobody"], server));
        assert_serves_below(&Place::new(), |server| after(&["tini", "-s", "--", "gosu", "nobody"], server));
    }
}
