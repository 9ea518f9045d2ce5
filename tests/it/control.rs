//! The verbs: what each does, what it answers, when it returns.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;

use super::load::{answer, ask, connect, get};
use super::support::{Ended, Launch, Place, SUPERVISE, Verb, example, wait_for};

#[test]
fn pause_holds_new_connections_and_resume_answers_them() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "").start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    daemon.verb("pause").expect(0);
    daemon.wait_state("paused");
    assert!(place.who("exit") == [1], "{:?}", place.facts());
    let mut client = connect(&address).unwrap();
    ask(&mut client, "/").unwrap();
    daemon.wait_until("it waits", |status| status["sockets"][0]["queue"] == 1);
    assert_eq!(daemon.status()["state"], "paused", "a connection is no reason to resume");
    let refused = daemon.verb("swap").expect(1);
    assert!(refused.text().contains("resume"), "{refused:?}");
    daemon.verb("status").expect(1);
    daemon.verb("resume").expect(0);
    assert_eq!(answer(&mut client).unwrap(), "ready generation 2 on http\n");
}

#[test]
fn restart_returns_when_the_new_one_is_ready_and_clients_wait_meanwhile() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "").start();
    daemon.wait_generation(1);
    place.flags("--ready-after 500");
    let address = daemon.address("http");
    daemon.verb("restart").expect(0);
    assert_eq!(place.who("ready"), [1, 2]);
    let facts = place.facts();
    let at = |generation: u64, what: &str| {
        facts.iter().position(|fact| fact.generation == generation && fact.what == what).unwrap()
    };
    assert!(at(1, "exit") < at(2, "start"), "stop, then start: {facts:?}");
    assert_eq!(get(&address, "/").unwrap(), "ready generation 2 on http\n");
    place.flags("--never-ready --die-after 0:3");
    let failed = daemon.verb("restart").expect(1);
    assert!(failed.text().contains("status 3"), "{failed:?}");
}

#[test]
fn kill_reaches_the_current_generation_alone() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "").start();
    daemon.wait_generation(1);
    daemon.verb("kill USR1").expect(0);
    wait_for("the signal", || (place.who("SIGUSR1") == [1]).then_some(()));
    daemon.verb("kill SIGUSR2").expect(0);
    wait_for("the signal", || (place.who("SIGUSR2") == [1]).then_some(()));
    daemon.verb("kill NOSUCH").expect(2);
    daemon.verb("pause").expect(0);
    daemon.verb("kill USR1").expect(1);
}

#[test]
fn status_waits_for_a_ready_generation_and_no_longer_than_told() {
    let place = Place::new();
    place.flags("--ready-after 4000 --status warm");
    let daemon = Launch::ready(&place, "--ready notify").start();
    daemon.verb("status").expect(1);
    daemon.verb("status --wait 10ms").expect(1);
    daemon.verb("status --wait 1min").expect(0);
    let status = daemon.status();
    assert_eq!(status["generations"][0]["status"], "warm", "{status}");
    assert!(status["generations"][0]["ready_ms"].as_u64().unwrap() >= 1500);
}

#[test]
fn the_status_object_has_what_was_promised() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--name shop --bake 0").start();
    daemon.wait_generation(1);
    daemon.verb("swap").expect(0);
    let status = daemon.wait_generation(2);
    assert_eq!((&status["name"], &status["pid"]), (&"shop".into(), &daemon.pid().into()));
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&status["restarts"], &status["next"]), (&0.into(), &serde_json::Value::Null));
    let generation = &status["generations"][0];
    assert_eq!((&generation["generation"], &generation["role"]), (&2.into(), &"current".into()));
    assert!(generation["since"].as_str().unwrap().ends_with('Z'), "{generation}");
    assert!(generation["rss_kb"].as_u64().unwrap() > 0, "{generation}");
    let socket = &status["sockets"][0];
    assert_eq!((&socket["name"], &socket["kind"], &socket["fd"]), (&"http".into(), &"tcp".into(), &3.into()));
    assert_eq!((&socket["queue"], &socket["mode"]), (&0.into(), &"steered".into()));
    assert!(socket["backlog"].as_u64().unwrap() > 0, "{socket}");
    let swap = &status["last_swap"];
    assert_eq!((&swap["from"], &swap["to"], &swap["outcome"]), (&1.into(), &2.into(), &"swapped".into()));
    assert!(swap["reason"].is_null() && swap["ready_ms"].is_u64(), "{swap}");
    for text in ["shop", "running", "http", &daemon.address("http")] {
        let said = daemon.verb("status").expect(0).stdout;
        assert!(said.contains(text), "{text} is not in:\n{said}");
    }
}

#[test]
fn stop_returns_when_no_process_is_left() {
    let place = Place::new();
    place.flags("--grandchildren 2");
    let mut daemon = Launch::ready(&place, "").start();
    daemon.wait_generation(1);
    wait_for("the grandchildren", || (daemon.processes().len() == 4).then_some(()));
    daemon.verb("stop").expect(0);
    let pid = daemon.pid();
    assert!(daemon.processes().iter().all(|left| *left == pid), "the server and its children are gone");
    daemon.end().expect(0);
    assert!(!fs::exists(place.path("supervise.ctl")).unwrap(), "the control socket goes with us");
}

#[test]
fn swap_says_what_it_does_and_answers_on_stdout() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--bake 0").start();
    daemon.wait_generation(1);
    let ended = daemon.verb("swap").expect(0);
    assert!(ended.stdout.contains('2') && ended.stderr.is_empty(), "{ended:?}");
    let swap = daemon.verb("swap --json").expect(0).json();
    let keys = ["from", "to", "outcome", "reason", "ready_ms", "drain_ms", "cut", "closed_idle"];
    for key in keys {
        assert!(swap.get(key).is_some(), "{key} is missing in {swap}");
    }
}

/// A verb that finds its instance by the runtime directory.
fn verb_in(place: &Place, words: &[&str]) -> Ended {
    let mut command = Command::new(SUPERVISE);
    command.args(words).env("SUPERVISE_RUNTIME_DIR", place.path("run"));
    Verb::spawn(command).end()
}

fn status_in(place: &Place, name: &str) -> Option<serde_json::Value> {
    serde_json::from_str(&verb_in(place, &["status", name, "--json"]).stdout).ok()
}

#[test]
fn instances_are_found_by_name_and_the_second_of_a_name_gets_a_number() {
    let place = Place::new();
    let directory = place.path("run");
    let launch = |options: &str| {
        Launch::new(&place)
            .args("--listen 127.0.0.1:0=http")
            .args(options)
            .env("SUPERVISE_RUNTIME_DIR", &directory)
            .command(&[&example("ready")])
    };
    let first = launch("").spawn("first", None);
    wait_for("the first", || status_in(&place, "ready").filter(|status| status["state"] == "running"));
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    let second = launch("").spawn("second", None);
    let status = wait_for("the second", || status_in(&place, "ready-2"));
    assert_eq!(status["pid"], second.pid());
    assert!(second.stderr().contains("ready-2"), "the name is printed: {}", second.stderr());
    let list = verb_in(&place, &["list"]).expect(0).stdout;
    for pid in [first.pid(), second.pid()] {
        assert!(list.contains(&pid.to_string()), "{list}");
    }
    // Asked by name for a name that lives, we do not take another.
    let refused = launch("--name ready").run().expect(125);
    assert!(refused.stderr.contains(&first.pid().to_string()), "{refused:?}");
    let unclear = verb_in(&place, &["status"]);
    assert!(unclear.status != 0 && unclear.text().contains("ready-2"), "{unclear:?}");
    verb_in(&place, &["stop", "ready-2"]).expect(0);
    second.end().expect(0);
    assert_eq!(status_in(&place, "ready").unwrap()["pid"], first.pid());
    // The dead one's name is free again.
    let third = launch("--name ready-2").spawn("third", None);
    wait_for("the third", || status_in(&place, "ready-2").filter(|status| status["pid"] == third.pid()));
}

#[test]
fn the_directory_that_the_user_names_is_the_only_one() {
    let place = Place::new();
    let other = place.path("other");
    for (path, mode) in [("run", 0o755), ("home", 0o700), ("other", 0o700)] {
        fs::create_dir(place.path(path)).unwrap();
        fs::set_permissions(place.path(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    let launch = |directory: &str| {
        Launch::new(&place)
            .args("--listen 127.0.0.1:0=http --name mine")
            .env("SUPERVISE_RUNTIME_DIR", directory)
            .env("XDG_RUNTIME_DIR", &place.path("home"))
            .command(&[&example("ready")])
    };
    let refused = launch(&place.path("run")).run().expect(125);
    assert!(
        refused.stderr.contains("SUPERVISE_RUNTIME_DIR") && refused.stderr.contains("0755"),
        "{refused:?}"
    );
    let remedy =
        format!("0755 (chmod 0700 {}, name another directory, or pass --control PATH)", place.path("run"));
    assert!(refused.stderr.trim_end().ends_with(&remedy), "one remedy, at the end: {refused:?}");

    // It lives where a verb looks by itself, but not where this user said.
    let xdg = format!("{}/supervise", place.path("home"));
    let daemon = launch(&xdg).spawn("mine", None);
    let verb = |words: &[&str]| {
        let mut command = Command::new(SUPERVISE);
        command.args(words).env("SUPERVISE_RUNTIME_DIR", &other).env("XDG_RUNTIME_DIR", place.path("home"));
        Verb::spawn(command).end()
    };
    wait_for("its name", || (verb(&["status", "mine"]).status == 0).then_some(()));
    assert!(verb(&["stop"]).expect(3).stderr.contains("no instance"));
    assert!(!verb(&["list"]).expect(0).stdout.contains("mine"));
    verb(&["stop", "mine"]).expect(0);
    daemon.end().expect(0);
}

/// The directories of other users in /tmp, whose names are numbers that no user of this machine has.
#[test]
fn root_reaches_the_instances_of_other_users() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let place = Place::new();
    let uid = 1_500_000_000 + std::process::id();
    let theirs = format!("/tmp/supervise-{uid}");
    fs::create_dir(&theirs).unwrap();
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&theirs, Some(uid), Some(uid)).unwrap();
    fs::set_permissions(place.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let binary = place.path("supervise");
    fs::copy(SUPERVISE, &binary).unwrap();
    let name = format!("of-{uid}");
    // The instance runs as another user, and no variable says where instances live.
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &uid.to_string(), "--regid", &uid.to_string(), "--clear-groups", &binary]);
    command.args(["--name", &name, "-l", "127.0.0.1:0=http", "--", "sleep", "60"]);
    command.env_remove("SUPERVISE_RUNTIME_DIR").env_remove("XDG_RUNTIME_DIR").current_dir("/");
    let mut daemon = Verb::spawn(command);
    let verb = |words: &[&str]| {
        let mut command = Command::new(SUPERVISE);
        command.args(words).env_remove("SUPERVISE_RUNTIME_DIR").env("XDG_RUNTIME_DIR", place.path("none"));
        Verb::spawn(command).end()
    };
    let list = wait_for("it to be listed", || {
        assert!(daemon.running(), "it lives");
        Some(verb(&["list"]).stdout).filter(|list| list.contains(&name))
    });
    assert!(list.contains("OWNER") && list.contains(&uid.to_string()), "{list}");
    // Where a directory was named, a verb without a NAME has nothing to do with others.
    assert!(!verb_in(&place, &["list"]).text().contains(&name));
    // Another user is never meant where none is named: he may have taken a name that root uses as well.
    assert!(!verb(&["status"]).stdout.contains(&name));
    let full = format!("{uid}/{name}");
    let unnamed = verb(&["stop", &name]);
    assert!(unnamed.status != 0 && unnamed.stderr.contains(&full), "{unnamed:?}");
    let status = verb(&["status", &full, "--json"]).json();
    assert_eq!(status["name"], *name);
    verb(&["stop", &full]).expect(0);
    assert_eq!(daemon.end().status, 0);
    fs::remove_dir_all(&theirs).unwrap();
}

#[test]
fn where_no_directory_will_do_the_warning_ends_with_the_remedy() {
    let place = Place::new();
    fs::create_dir(place.path("run")).unwrap();
    fs::set_permissions(place.path("run"), fs::Permissions::from_mode(0o700)).unwrap();
    let wrapper = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        "mount -t tmpfs -o size=4k,nr_inodes=2,mode=700 none \"$SUPERVISE_RUNTIME_DIR\" && \
         : >\"$SUPERVISE_RUNTIME_DIR/full\"; exec \"$@\"",
        "sh",
    ];
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let daemon = Launch::new(&place)
        .args("--listen 127.0.0.1:0=http")
        .env("SUPERVISE_RUNTIME_DIR", &place.path("run"))
        .wrapper(&wrapper)
        .command(&["sleep", "60"])
        .spawn("full", None);
    let warning = wait_for("the warning", || {
        daemon.stderr().lines().find(|line| line.contains("no control socket")).map(str::to_owned)
    });
    assert!(warning.contains("No space left") && warning.contains("pass --control PATH"), "{warning}");
    assert!(warning.ends_with("a tmpfs is enough)"), "the remedy is last: {warning}");
}

/// All in one terminal; how often it shows that the second generation was started.
fn told_on_one_terminal(options: &str, swap: &str) -> usize {
    let place = Place::new();
    place.write("how", "epoll");
    let (control, waits, how) = (place.path("ctl"), example("waits"), place.path("how"));
    let verb = |verb: &str| format!("{SUPERVISE} {verb} --control {control}");
    place.write(
        "all",
        &format!(
            "{SUPERVISE} {options} --control {control} --bake 0 -l 127.0.0.1:0=http -- {waits} {how} &\n\
             until {} >/dev/null 2>&1; do :; done\n{} {swap}\n{}\nwait\n",
            verb("status"),
            verb("swap"),
            verb("stop"),
        ),
    );
    let mut command = Command::new("script");
    command.args(["-qec", &format!("sh {}", place.path("all")), "/dev/null"]).env_remove("RUST_LOG");
    let ended = Verb::spawn(command).end();
    assert!(ended.stdout.contains("swapped: generation 2"), "{ended:?}");
    ended.stdout.matches("generation 2 started").count()
}

#[test]
fn on_one_terminal_a_line_is_not_said_twice() {
    assert_eq!(told_on_one_terminal("", ""), 1);
    // The supervisor is silent, and so the verb says it.
    assert_eq!(told_on_one_terminal("-q", ""), 1);
    // A verb whose stdout is no terminal prints all lines.
    assert_eq!(told_on_one_terminal("", "| cat"), 2);
}

#[test]
fn a_control_socket_that_was_removed_is_bound_again() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "").start();
    daemon.wait_generation(1);
    fs::remove_file(place.path("supervise.ctl")).unwrap();
    daemon.wait_generation(1);
}

#[test]
fn nonsense_on_the_control_socket_harms_nobody() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--bake 0").start();
    daemon.wait_generation(1);
    let control = place.path("supervise.ctl");
    let mut kept = Vec::new();
    for bytes in
        [&b"\0\xff\n\n"[..], b"{\"verb\":\"swap\"", b"{}\n", b"GET / HTTP/1.1\r\n\r\n", &[b'['; 200_000]]
    {
        let mut stream = UnixStream::connect(&control).unwrap();
        stream.set_nonblocking(true).unwrap();
        // The supervisor may have closed the connection by now.
        let _refused = stream.write(bytes);
        kept.push(stream);
    }
    // A hundred clients connect and send nothing.
    for _ in 0..100 {
        kept.extend(UnixStream::connect(&control));
    }
    drop(kept);
    daemon.wait_generation(1);
    daemon.verb("swap").expect(0);
    assert_eq!(get(&daemon.address("http"), "/").unwrap(), "ready generation 2 on http\n");
}

#[test]
fn a_umask_takes_nothing_from_the_control_socket() {
    let place = Place::new();
    let wrapper = ["/bin/sh", "-c", "umask 0777; exec \"$@\"", "sh"];
    let control = place.path("ctl");
    let options = format!("--control {control}");
    let launch = Launch::new(&place).wrapper(&wrapper).args(&options).command(&["sleep", "1000"]);
    let mut daemon = launch.spawn("umask", Some(control.clone()));
    daemon.wait_generation(1);
    assert_eq!(fs::symlink_metadata(&control).unwrap().permissions().mode() & 0o777, 0o600);
}
