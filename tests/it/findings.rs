//! What a hostile user once found: words that were not true, and verbs that did not get through.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;

use nix::sys::signal::Signal;

use super::load::{connect, get};
use super::support::{Launch, Place, SUPERVISE, Verb, example, limit_fds, wait_for};

#[test]
fn an_optional_environment_file_may_be_a_word_of_its_own() {
    let place = Place::new();
    let launch = Launch::new(&place).args("--restart no --environment-file -/no/such/file");
    launch.command(&["true"]).run().expect(0);
}

/// With a socket and a control socket, of which it shall say nothing; the one line.
#[track_caller]
fn one_line(options: &str, command: &[&str], status: i32) -> String {
    let place = Place::new();
    let control = place.path("control");
    let launch = Launch::new(&place).args("--listen 127.0.0.1:0 --control").arg(&control).args(options);
    let ended = launch.command(command).run().expect(status);
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
    assert!(ended.stderr.starts_with("supervise: ") && !ended.stderr.contains("warning"), "{ended:?}");
    assert!(!fs::exists(&control).unwrap() && ended.stdout.is_empty(), "{ended:?}");
    ended.stderr
}

#[test]
fn a_directory_that_is_not_there_is_one_line() {
    assert!(one_line("-C /no/such/place", &["true"], 125).contains("/no/such/place"));
}

#[test]
fn a_user_who_is_nobody_is_one_line() {
    assert!(one_line("-u no-such-user", &["true"], 125).contains("no-such-user"));
}

#[test]
fn an_environment_file_that_is_not_there_is_one_line_with_the_remedy() {
    let line = one_line("--environment-file /no/such/file", &["true"], 125);
    assert!(line.contains("/no/such/file") && line.contains("with - before the path"), "{line}");
}

#[test]
fn a_command_that_is_not_there_is_one_line() {
    assert!(one_line("", &["/no/such/server"], 127).contains("/no/such/server"));
}

#[test]
fn a_control_socket_is_never_abstract_and_makes_no_odd_file() {
    let place = Place::new();
    let launch = Launch::new(&place).args("--control @odd").directory(&place.path(""));
    let ended = launch.command(&["true"]).run().expect(2);
    assert!(ended.stderr.contains("@odd"), "{ended:?}");
    assert!(!fs::exists(place.path("@odd")).unwrap());
}

#[test]
fn the_command_may_have_words_that_are_not_utf_8() {
    let place = Place::new();
    // What is put at the end of our words is the last of the command.
    let ended = Launch::new(&place)
        .wrapper(&["/bin/sh", "-c", "exec \"$@\" \"$(printf 'a\\377b')\"", "sh"])
        .args("--restart no")
        .command(&["/bin/sh", "-c", "printf %s \"$1\" | od -An -tx1", "sh"])
        .run()
        .expect(0);
    assert_eq!(ended.stdout.trim(), "61 ff 62", "{ended:?}");
}

/// PWD as a server started with `-C directory` sees it; ours runs in `here` and was told so, or told something else.
#[track_caller]
fn pwd(place: &Place, here: &str, told: &str, directory: &str) -> String {
    let ended = Launch::new(place)
        .directory(here)
        .env("PWD", told)
        .args("--restart no -C")
        .arg(directory)
        .command(&["env"])
        .run()
        .expect(0);
    let line = ended.stdout.lines().find_map(|line| line.strip_prefix("PWD="));
    line.unwrap_or_else(|| panic!("no PWD in {ended:?}")).to_owned()
}

#[test]
fn pwd_is_the_directory_by_the_path_it_was_given() {
    let place = Place::new();
    let (here, link) = (place.path("here"), place.path("here/current"));
    fs::create_dir_all(place.path("here/release")).unwrap();
    std::os::unix::fs::symlink("release", &link).unwrap();
    assert_eq!(pwd(&place, "/", "/", &link), link);
    assert_eq!(pwd(&place, &here, &here, "current"), link);
}

#[test]
fn a_restart_without_sockets_promises_no_queue() {
    let place = Place::new();
    let mut daemon = Launch::new(&place)
        .args("--restart on-failure --restart-sec 1h")
        .command(&["/bin/sh", "-c", "exit 7"])
        .start();
    daemon.wait_state("waiting");
    let said = daemon.stderr();
    assert!(said.contains("restart in 1h") && !said.contains("queue"), "{said}");
}

#[test]
fn a_swap_prints_its_outcome_once() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--bake 0").start();
    daemon.wait_generation(1);
    let swapped = daemon.verb("swap").expect(0).stdout;
    assert_eq!(swapped.matches("swapped").count(), 1, "{swapped}");
    daemon.wait_generation(2);
    place.flags("--never-ready --die-after 0:3");
    let failed = daemon.verb("swap").expect(1).stdout;
    assert_eq!(failed.matches("rolled back").count(), 1, "{failed}");
}

#[test]
fn a_pause_is_answered_once() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "").start();
    daemon.wait_generation(1);
    let paused = daemon.verb("pause").expect(0).stdout;
    assert_eq!(paused.matches("paused").count(), 1, "{paused}");
}

#[test]
fn a_candidate_that_died_by_itself_was_not_told_to() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--bake 0").start();
    daemon.wait_generation(1);
    place.flags("--never-ready --die-after 0:3");
    daemon.verb("swap").expect(1);
    daemon.wait_generation(1);
    assert!(!daemon.stderr().contains("after it was told"), "{}", daemon.stderr());
    place.flags("");
    daemon.verb("swap").expect(0);
    daemon.wait_generation(3);
    assert!(daemon.stderr().contains("generation 1 has ended"), "one that was told: {}", daemon.stderr());
}

#[test]
fn a_stop_during_a_swap_does_not_promise_that_the_old_one_serves_on() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--ready notify").start();
    daemon.wait_generation(1);
    place.flags("--never-ready");
    let swap = daemon.spawn_verb("swap");
    daemon.wait_state("swapping");
    daemon.signal(Signal::SIGTERM);
    let said = swap.end().expect(1).text();
    let log = daemon.end().expect(0).stderr;
    for text in [said, log] {
        assert!(!text.contains("serves on") && !text.contains("rolled back"), "{text}");
    }
}

#[test]
fn a_restart_counts_when_it_has_happened() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--restart-sec 1h").start();
    daemon.wait_generation(1);
    get(&daemon.address("http"), "/exit/7").unwrap();
    assert_eq!(daemon.wait_state("waiting")["restarts"], 0);
    let shown = daemon.verb("status").stdout;
    assert!(shown.contains("waiting") && !shown.contains("restarted"), "{shown}");
}

#[test]
fn one_that_gave_up_after_three_starts_was_restarted_twice() {
    let place = Place::new();
    place.flags("--die-after 0:5");
    let limit = "--restart always --restart-sec 0 --start-limit-burst 3 --start-limit-interval-sec 1h";
    let mut daemon = Launch::ready(&place, limit).start();
    assert_eq!(daemon.wait_state("failed")["restarts"], 2);
    assert_eq!(place.who("start"), [1, 2, 3]);
    assert!(daemon.stderr().contains("starts it again"), "{}", daemon.stderr());
}

#[test]
fn who_ends_with_the_start_limit_offers_no_verb() {
    let place = Place::new();
    place.flags("--die-after 0:5");
    let limit = "--restart always --restart-sec 0 --start-limit-burst 2 --start-limit-interval-sec 1h";
    let ended = Launch::ready(&place, limit).args("--start-limit-action exit").run().expect(5);
    assert!(ended.stderr.contains("gave up") && !ended.stderr.contains("starts it again"), "{ended:?}");
}

#[test]
fn a_stopped_instance_does_not_make_others_unanswering() {
    let place = Place::new();
    let directory = place.path("run");
    let start = |name: &str| {
        Launch::new(&place)
            .args("--listen 127.0.0.1:0=http --name")
            .arg(name)
            .env("SUPERVISE_RUNTIME_DIR", &directory)
            .command(&[&example("ready")])
            .spawn(name, None)
    };
    let all = ["a", "b", "c"].map(start);
    let list = || {
        let mut command = Command::new(SUPERVISE);
        command.args(["list", "--json"]).env("SUPERVISE_RUNTIME_DIR", &directory);
        let list = Verb::spawn(command).end().expect(0).json();
        let listed = list.as_array().unwrap().iter();
        listed.map(|one| (one["name"].to_string(), one["state"].to_string())).collect::<Vec<_>>()
    };
    let expected = |b: &str| {
        let running = "\"running\"";
        [("a", running), ("b", b), ("c", running)]
            .map(|(name, state)| (format!("\"{name}\""), state.to_owned()))
    };
    wait_for("all of them", || (list() == expected("\"running\"")).then_some(()));
    all[1].signal(Signal::SIGSTOP);
    assert_eq!(list(), expected("null"));
    all[1].signal(Signal::SIGCONT);
    assert_eq!(list(), expected("\"running\""));
}

#[test]
fn a_swap_that_gave_up_on_a_stopped_supervisor_does_not_happen_later() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--bake 0").start();
    daemon.wait_generation(1);
    daemon.signal(Signal::SIGSTOP);
    let swap = daemon.verb("swap").expect(1);
    let remedy = format!("kill -CONT {}", daemon.pid());
    assert_eq!(swap.text().lines().count(), 1, "{swap:?}");
    assert!(swap.stderr.contains("within 5s") && swap.stderr.contains(&remedy), "{swap:?}");
    daemon.signal(Signal::SIGCONT);
    // It is asked for one more, which would be the third if the first had been done.
    daemon.verb("swap").expect(0);
    daemon.wait_generation(2);
    assert_eq!(place.who("start"), [1, 2]);
}

/// The supervisor may have read the request before it was stopped; then it carries it out when it goes on.
#[test]
fn a_verb_that_waits_gives_up_on_a_supervisor_that_is_stopped_meanwhile() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--ready notify --bake 0").start();
    daemon.wait_generation(1);
    place.flags("--ready-after 9000");
    let swap = daemon.spawn_verb("swap");
    daemon.wait_state("swapping");
    daemon.signal(Signal::SIGSTOP);
    let swap = swap.end().expect(1);
    assert!(swap.stderr.contains(&format!("kill -CONT {}", daemon.pid())), "{swap:?}");
    daemon.signal(Signal::SIGCONT);
    daemon.wait_generation(2);
}

/// A client that has connected to the control socket and sent `text`.
fn client(place: &Place, text: &str) -> UnixStream {
    let mut stream = UnixStream::connect(place.path("supervise.ctl")).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    stream
}

#[test]
fn verbs_that_found_no_fd_are_answered_when_there_are_some_again() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "").start();
    daemon.wait_generation(1);
    limit_fds(daemon.pid(), 4);
    let silent: Vec<_> = (0..12).map(|_| client(&place, "")).collect();
    let status = daemon.spawn_verb("status");
    wait_for("its complaint", || daemon.stderr().contains("have to wait").then_some(()));
    assert_eq!(daemon.stderr().matches("have to wait").count(), 1, "{}", daemon.stderr());
    drop(silent);
    status.end().expect(0);
    for _ in 0..3 {
        let several: Vec<_> = (0..8).map(|_| daemon.spawn_verb("status")).collect();
        for status in several {
            status.end().expect(0);
        }
    }
    daemon.verb("stop").expect(0);
    daemon.end().expect(0);
}

#[test]
fn status_and_stop_get_through_while_64_clients_wait() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--ready notify").start();
    daemon.wait_generation(1);
    place.flags("--never-ready");
    let waiting: Vec<_> = (0..64)
        .map(|_| {
            let mut reader = BufReader::new(client(&place, "{\"verb\":\"swap\",\"wait\":true}\n"));
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            assert!(line.contains("accepted"), "{line}");
            reader
        })
        .collect();
    let refused = daemon.verb("swap").expect(1);
    assert!(refused.text().contains("64 verbs wait"), "{refused:?}");
    daemon.verb("status").expect(0);
    assert_eq!(daemon.status()["state"], "swapping");
    // Their connections, too, are no reason to refuse new clients of the server.
    connect(&daemon.address("http")).unwrap();
    daemon.verb("stop").expect(0);
    daemon.end().expect(0);
    drop(waiting);
}
