//! NOTIFY_SOCKET is a file: one for each generation, which everybody whom we start can reach and which goes with it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use nix::fcntl::AT_FDCWD;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Pid, geteuid};

use super::support::{Daemon, Launch, Place, SUPERVISE, environment, example, proc_status, wait_for};

const NOBODY: u32 = 65534;

#[test]
fn ready_is_said_by_a_path_that_goes_with_its_generation() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--ready notify --bake 0 --drain-quiet 50ms").start();
    daemon.wait_generation(1);
    let of_first = environment(daemon.server())["NOTIFY_SOCKET"].clone();
    let found = fs::symlink_metadata(&of_first).unwrap();
    assert!(found.file_type().is_socket(), "{of_first}");
    assert_eq!(found.permissions().mode() & 0o777, 0o666);
    daemon.verb("swap").expect(0);
    daemon.wait_generation(2);
    wait_for("the first file to go", || (!Path::new(&of_first).exists()).then_some(()));
    let of_second = environment(daemon.server())["NOTIFY_SOCKET"].clone();
    assert!(Path::new(&of_second).exists(), "{of_second}");
    daemon.verb("stop").expect(0);
    daemon.end().expect(0);
    assert!(!Path::new(&of_second).exists(), "{of_second}");
}

#[test]
fn another_user_reaches_the_path() {
    if !geteuid().is_root() {
        return; // Only root can become somebody else.
    }
    let place = Place::new();
    // Where anybody can go, and without a log of its own.
    let server = place.path("server");
    fs::copy(example("ready"), &server).unwrap();
    fs::set_permissions(place.path(""), Permissions::from_mode(0o755)).unwrap();
    let mut daemon = Launch::new(&place)
        .args("--listen 127.0.0.1:0=http --ready notify -u nobody --restart no")
        .command(&[&server])
        .start();
    daemon.wait_generation(1);
    assert!(environment(daemon.server())["NOTIFY_SOCKET"].starts_with('/'));
}

/// A copy where anybody can go, in a place of which `uid` is the owner.
fn copy_for(place: &Place, from: &str, name: &str, uid: u32) -> String {
    let to = place.path(name);
    fs::copy(from, &to).unwrap();
    fs::set_permissions(place.path(""), Permissions::from_mode(0o755)).unwrap();
    chown(place.path(""), Some(uid), None).unwrap();
    to
}

#[test]
fn a_user_without_a_runtime_directory_has_a_path() {
    if !geteuid().is_root() {
        return; // Only root can become somebody else.
    }
    let place = Place::new();
    let binary = copy_for(&place, SUPERVISE, "supervise", NOBODY);
    let server = copy_for(&place, &example("ready"), "server", NOBODY);
    let mut daemon = Launch::new(&place)
        .user(NOBODY, &binary)
        .directory("/")
        .env("XDG_RUNTIME_DIR", "")
        .args("--listen 127.0.0.1:0=http --ready notify --restart no")
        .command(&[&server])
        .start();
    daemon.wait_generation(1);
    assert!(environment(daemon.server())["NOTIFY_SOCKET"].starts_with("/tmp/"));
}

#[test]
fn a_user_namespace_reaches_the_path() {
    const NAMESPACE: [&str; 2] = ["unshare", "--map-root-user"];
    let may = Command::new(NAMESPACE[0]).args([NAMESPACE[1], "true"]).output();
    if !may.is_ok_and(|output| output.status.success()) {
        return; // This kernel, or a sandbox, gives us none.
    }
    // First the server has a namespace of its own, then supervise and its server have one together.
    for is_ours in [false, true] {
        let place = Place::new();
        let launch = Launch::new(&place)
            .env("XDG_RUNTIME_DIR", "")
            .args("--listen 127.0.0.1:0=http --ready notify --restart no");
        let server = example("ready");
        let launch = if is_ours {
            launch.wrapper(&NAMESPACE).command(&[&server])
        } else {
            launch.command(&[NAMESPACE[0], NAMESPACE[1], &server])
        };
        let mut daemon = launch.start();
        daemon.wait_generation(1);
        let found = environment(daemon.server())["NOTIFY_SOCKET"].clone();
        assert!(found.starts_with('/'), "{is_ours}: {found}");
    }
}

#[test]
fn what_a_killed_supervise_leaves_is_gone_after_the_next_start() {
    let place = Place::new();
    let mut first = Launch::ready(&place, "--ready notify").start();
    first.wait_generation(1);
    let left = environment(first.server())["NOTIFY_SOCKET"].clone();
    first.signal(Signal::SIGKILL);
    wait_for("its end", || first.try_end());
    // Younger ones may belong to a supervise that is about to start.
    let old = TimeSpec::new(1, 0);
    utimensat(AT_FDCWD, left.as_str(), &old, &old, UtimensatFlags::NoFollowSymlink).unwrap();
    let other = Place::new();
    let mut second = Launch::ready(&other, "--ready notify").start();
    second.wait_generation(1);
    assert!(!Path::new(&left).exists(), "{left}");
    assert!(Path::new(&environment(second.server())["NOTIFY_SOCKET"]).exists());
}

#[test]
fn a_restart_keeps_the_path_where_nobody_is_left_who_knows_it() {
    for (kill_mode, leaves, is_kept) in
        [("mixed", "", true), ("process", "", true), ("process", "setsid sleep 1000 & ", false)]
    {
        let place = Place::new();
        let options = format!("--restart-sec 0 -p StartLimitIntervalSec=0 -p KillMode={kill_mode}");
        let server = format!("{leaves}exec sleep 1000");
        let mut daemon = Launch::new(&place).args(&options).command(&["sh", "-c", &server]).start();
        daemon.wait_generation(1);
        let path = |daemon: &mut Daemon| {
            let pid = daemon.server();
            let is_sleep = || proc_status(pid, "Name").filter(|name| name.trim() == "sleep");
            wait_for("its program", is_sleep);
            environment(pid)["NOTIFY_SOCKET"].clone()
        };
        let (before, pid) = (path(&mut daemon), daemon.server());
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        daemon.wait_generation(2);
        assert_eq!(path(&mut daemon) == before, is_kept, "{kill_mode} {leaves}");
    }
}
