//! The command line itself: help, version, the hint for a forgotten `--`, verbs with nobody to talk to.

use std::fs::File;
use std::process::{Command, Output, Stdio};

use super::support::{Ended, Launch, Place, SUPERVISE, Verb};

fn supervise(words: &[&str]) -> Ended {
    let mut command = Command::new(SUPERVISE);
    command.args(words);
    Verb::spawn(command).end()
}

#[test]
fn short_help_is_one_screen_and_long_help_names_every_option() {
    let short = supervise(&["-h"]).expect(0);
    assert!(short.stderr.is_empty() && short.stdout.contains("--listen"), "{short:?}");
    assert!(short.stdout.lines().count() <= 66, "one screen, not {}", short.stdout.lines().count());
    let long = supervise(&["--help"]).expect(0).stdout;
    for option in [
        "--listen",
        "--restart",
        "--restart-sec",
        "--restart-steps",
        "--restart-max-delay-sec",
        "--start-limit-burst",
        "--start-limit-interval-sec",
        "--start-limit-action",
        "--success-exit-status",
        "--restart-prevent-exit-status",
        "--restart-force-exit-status",
        "--ready",
        "--timeout-start-sec",
        "--timeout-stop-sec",
        "--kill-signal",
        "--kill-mode",
        "--watchdog-sec",
        "--user",
        "--group",
        "--working-directory",
        "--setenv",
        "--environment-file",
        "--umask",
        "--bake",
        "--handover",
        "--stdin",
        "--name",
        "--control",
        "--color",
        "--detach",
    ] {
        assert!(long.contains(option), "--help does not know {option}");
    }
    for verb in ["swap", "restart", "pause", "resume", "stop", "kill", "status", "list", "exec"] {
        assert!(long.contains(verb), "--help does not know {verb}");
    }
}

#[test]
fn the_version_is_the_packages() {
    let version = supervise(&["--version"]).expect(0).stdout;
    assert_eq!(version.trim(), concat!("supervise ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_program_without_dashes_gets_the_right_command() {
    let ended = supervise(&["./run"]).expect(2);
    assert!(ended.stderr.contains("did you mean: supervise -- ./run"), "{ended:?}");
}

#[test]
fn a_verb_with_nobody_there_says_so_with_3() {
    let place = Place::new();
    let nowhere = place.path("nobody.sock");
    for verb in ["swap", "restart", "pause", "resume", "stop", "status"] {
        let ended = supervise(&[verb, "--control", &nowhere]).expect(3);
        assert_eq!(ended.text().lines().count(), 1, "{ended:?}");
        supervise(&[verb, "no-instance-has-this-name"]).expect(3);
    }
    supervise(&["kill", "USR1", "--control", &nowhere]).expect(3);
}

#[test]
fn rust_log_sets_the_level_of_our_lines() {
    let place = Place::new();
    let listens = |options: &str, rust_log: &str| {
        let launch = Launch::new(&place).args("--control none --restart no --listen 127.0.0.1:0");
        let launch = launch.args(options).env("RUST_LOG", rust_log);
        launch.command(&["true"]).run().expect(0).stderr.contains("listening on")
    };
    for rust_log in ["debug", "supervise=debug", "socket_supervise=debug", "error,supervise=info"] {
        assert!(listens("-q", rust_log), "RUST_LOG={rust_log}");
    }
    for rust_log in ["error", "supervise=error", "socket_supervise=warn", "off"] {
        assert!(!listens("-v", rust_log), "RUST_LOG={rust_log}");
    }
    assert!(listens("", "other=error") && !listens("-q", "other=debug"));
}

#[test]
fn a_line_has_at_most_4096_bytes_and_its_newline() {
    let place = Place::new();
    for color in ["never", "always"] {
        let launch = Launch::new(&place).args("--control none --restart no --color").arg(color);
        let ended = launch.command(&[&"/x\u{e9}".repeat(4000)]).run().expect(126);
        assert!((4094..=4096).contains(&ended.stderr.len()), "{} bytes", ended.stderr.len());
        assert!(ended.stderr.ends_with(if color == "always" { "...\x1b[0m\n" } else { "...\n" }));
    }
}

#[test]
fn what_cannot_be_written_is_a_failure_a_reader_that_left_is_none() {
    let run = |words: &[&str], stdout: Stdio| -> Output {
        Command::new(SUPERVISE).args(words).stdin(Stdio::null()).stdout(stdout).output().unwrap()
    };
    for words in [&["-h"][..], &["--help"], &["--version"], &["swap", "-h"], &["check", "--", "true"]] {
        let full = run(words, File::options().write(true).open("/dev/full").unwrap().into());
        let said = String::from_utf8(full.stderr).unwrap();
        assert_eq!(full.status.code(), Some(1), "{words:?}: {said}");
        assert!(
            said.starts_with("supervise: cannot write to stdout: No space left on device"),
            "{words:?}: {said}"
        );
        assert_eq!(said.lines().count(), 1, "{words:?}: {said}");

        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let closed = run(words, writer.into());
        assert_eq!((closed.status.code(), closed.stderr.as_slice()), (Some(0), &b""[..]), "{words:?}");
    }
}

#[test]
fn check_warns_of_a_command_that_is_not_found() {
    let said = supervise(&["check", "--", "no-such-program-here"]).expect(0).stdout;
    assert!(said.contains("warning: cannot execute no-such-program-here: No such file"), "{said}");
    for words in [&["true"][..], &["./true"]] {
        let mut all = vec!["check", "-C", "/bin", "--"];
        all.extend(words);
        let said = supervise(&all).expect(0).stdout;
        assert!(!said.contains("warning"), "{said}");
    }
}

#[test]
fn the_listening_line_says_what_kind_of_socket_it_is() {
    let place = Place::new();
    let gram = place.path("gram");
    for (options, address, expected) in [
        ("-d", "127.0.0.1:0", "listening on udp:127.0.0.1:"),
        ("", "udp:127.0.0.1:0", "listening on udp:127.0.0.1:"),
        ("-d", &gram, "listening on unixgram:/"),
        ("--seqpacket", &gram, "listening on seqpacket:/"),
        ("", &gram, "listening on /"),
        ("", "127.0.0.1:0", "listening on 127.0.0.1:"),
    ] {
        let launch = Launch::new(&place).args("--restart no --listen").arg(address).args(options);
        let said = launch.command(&["true"]).run().expect(0).stderr;
        assert!(said.contains(expected), "{options} {address}: {said}");
    }
    for address in ["vsock:2:80", "vsock::80", "vsock-dgram:2:80"] {
        let ended = supervise(&["-l", address, "--", "true"]).expect(2);
        assert!(ended.stderr.contains("vsock addresses are not supported"), "{ended:?}");
    }
}
