//! A new program takes the place of supervise in its process: no request fails, and what cannot take over changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::load::{Load, answer, ask, connect, get};
use super::support::{Launch, Place, SUPERVISE, example, fds, settled, wait_for};

const REPLACED: &str = "replaced: supervise ";

#[test]
fn twenty_times_under_load_fails_nothing_and_changes_no_process() {
    let place = Place::new();
    place.flags("--work 5");
    let mut daemon = Launch::ready(&place, "").start();
    daemon.wait_generation(1);
    let (pid, server) = (daemon.pid(), daemon.server());
    // It answers only when it was asked, after all of them.
    let mut kept = connect(&daemon.address("http")).unwrap();
    let load = Load::start(&daemon.address("http"), 500);
    daemon.verb("reexec").expect(0);
    let open = settled("its fds", || fds(pid).len());
    for _ in 0..20 {
        load.let_pass(25);
        let text = daemon.verb("reexec").expect(0).text();
        assert!(text.starts_with(REPLACED), "{text}");
        assert_eq!((daemon.pid(), daemon.server()), (pid, server));
    }
    load.let_pass(50);
    let counts = load.finish();
    assert!(counts.failed() == 0 && counts.late == 0 && counts.ok > 0, "{counts}");
    ask(&mut kept, "/").unwrap();
    answer(&mut kept).unwrap();
    assert_eq!(settled("its fds", || fds(pid).len()), open);
    // It still is the parent: the exit status is known.
    daemon.verb("swap").expect(0);
    wait_for("the old one to be reaped", || daemon.stderr().contains("exited with status 0").then_some(()));
    assert_eq!(place.who("start"), [1, 2]);
}

#[test]
fn a_swap_under_way_goes_on_and_its_client_hears_the_end() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--bake 2s").start();
    daemon.wait_generation(1);
    let swap = daemon.spawn_verb("swap");
    wait_for("the bake", || daemon.stderr().contains("stays untouched").then_some(()));
    daemon.verb("reexec").expect(0);
    assert_eq!(daemon.status()["state"], "swapping");
    let swap = swap.end();
    assert!(swap.text().contains("swapped: generation 2 took over from 1"), "{}", swap.text());
    daemon.wait_generation(2);
    assert_eq!(get(&daemon.address("http"), "/generation").map(|_| ()), Ok(()));
}

#[test]
fn what_cannot_take_over_is_refused_and_nothing_changes() {
    let place = Place::new();
    let binary = place.path("supervise");
    let put = |bytes: &[u8]| {
        let new = place.path("new");
        fs::write(&new, bytes).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&new, &binary).unwrap();
    };
    let whole = fs::read(SUPERVISE).unwrap();
    put(&whole);
    let mut daemon = Launch::new(&place)
        .args("--listen 127.0.0.1:0=http")
        .binary(&binary)
        .command(&[&example("hello")])
        .start();
    daemon.wait_generation(1);
    let server = daemon.server();
    for (bytes, word) in [
        (&b"no program at all\n"[..], "cannot be executed"),
        (&whole[..4096], "take"),
        (b"#!/bin/sh\nexit 0\n", "no supervise that can take over"),
        (b"#!/bin/sh\necho supervise: what is _try >&2; exit 2\n", "cannot take over: what is _try"),
    ] {
        put(bytes);
        let refused = daemon.verb("reexec").expect(1);
        let text = refused.text();
        assert!(text.contains("not replaced: ") && text.contains(word), "{text}");
        assert_eq!(daemon.server(), server);
        get(&daemon.address("http"), "/").unwrap();
    }
    fs::remove_file(&binary).unwrap();
    assert!(daemon.verb("reexec").expect(1).text().contains("No such file"));
    put(&whole);
    daemon.verb("reexec").expect(0);
    assert_eq!(daemon.server(), server);
    daemon.verb("swap").expect(0);
}
