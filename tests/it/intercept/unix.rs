//! Paths: most servers remove what is there before they bind it.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::super::load::get;
use super::super::support::{Place, wait_for};
use super::{binds, common_sockets, swapped};

#[test]
fn a_path_that_the_server_removes_first_is_put_back() {
    let place = Place::new();
    let path = place.path("x.sock");
    let mut daemon = binds(&place, &path, "--ready delay:100ms", &[&format!("unix:{path}")]).start();
    daemon.wait_generation(1);
    let answers = |body: &str| wait_for(body, || (get(&path, "/").as_deref() == Ok(body)).then_some(()));
    answers("binds generation 1\n");
    assert_eq!(common_sockets(&daemon, daemon.server()), 1, "{}", daemon.stderr());
    swapped(&daemon, 2);
    answers("binds generation 2\n");
}

/// It was linked back once already, and we do not look again at once.
#[test]
fn a_path_that_is_removed_twice_is_there_when_bind_returns() {
    let place = Place::new();
    let path = place.path("x.sock");
    let mut daemon = binds(&place, &path, "", &[&format!("twice:{path}")]).start();
    daemon.wait_generation(1);
    for generation in 2..=4 {
        swapped(&daemon, generation);
        daemon.wait_generation(generation);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o606, "{}", daemon.stderr());
    }
}

#[test]
fn a_relative_path_is_one_of_the_servers_directory() {
    let place = Place::new();
    let path = place.path("x.sock");
    fs::create_dir(place.path("inner")).unwrap();
    let inner = place.path("inner");
    let mut daemon = binds(&place, &path, "--ready delay:100ms", &["unix:../x.sock"])
        .args(&format!("--working-directory {inner}"))
        .start();
    daemon.wait_generation(1);
    wait_for("an answer", || get(&path, "/").ok());
    assert_eq!(common_sockets(&daemon, daemon.server()), 1, "{}", daemon.stderr());
}

#[test]
fn a_path_that_nobody_puts_back_is_the_servers_own() {
    let place = Place::new();
    let path = place.path("x.sock");
    let options = "--ready delay:100ms --handover shared";
    let mut daemon = binds(&place, &path, options, &[&format!("unix:{path}")]).start();
    daemon.wait_generation(1);
    wait_for("an answer", || get(&path, "/").ok());
}
