//! What cannot be is refused before anything starts: one line with the place and the cause, and the promised status.

use std::fs::{self, Permissions};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use nix::unistd::geteuid;

use super::support::{Ended, Launch, Place, SUPERVISE};

/// Runs it with a command that would leave a trace, and checks that it left none.
#[track_caller]
fn refused(launch: Launch<'_>, place: &Place, status: i32, words: &[&str]) -> Ended {
    let trace = place.path("trace");
    let ended = launch.command(&["touch", &trace]).run().expect(status);
    assert!(!fs::exists(&trace).unwrap(), "nothing is started");
    assert_eq!(ended.stderr.trim_end().lines().count(), 1, "one line: {ended:?}");
    assert!(ended.stderr.starts_with("supervise: ") && ended.stdout.is_empty(), "{ended:?}");
    for word in words {
        assert!(ended.stderr.contains(word), "{word:?} is not in {ended:?}");
    }
    ended
}

#[track_caller]
fn refused_options(options: &str, status: i32, words: &[&str]) {
    let place = Place::new();
    refused(Launch::new(&place).args(options), &place, status, words);
}

#[test]
fn addresses_and_names_that_do_not_parse() {
    for address in [
        "99999",
        "-1",
        "127.0.0.1",
        "127.0.0.1:99999",
        "127.0.0.256:80",
        "example.org:80",
        "[::1]",
        "[::1:80",
        "tcp:/run/x.sock",
        "unix:relative.sock",
        "carrier-pigeon:80",
        "127.0.0.1:0=a:b",
        "127.0.0.1:0=caf\u{e9}",
        "@",
        "fd:",
    ] {
        refused_options(&format!("--listen {address}"), 2, &[address]);
    }
    let long = format!("127.0.0.1:0={}", "n".repeat(256));
    refused_options(&format!("--listen {long}"), 2, &["255"]);
    let path = format!("/tmp/{}", "p".repeat(200));
    refused_options(&format!("--listen {path}"), 2, &["107"]);
}

#[test]
fn values_that_do_not_parse() {
    for (option, value) in [
        ("--restart", "sometimes"),
        ("--restart-sec", "5parsecs"),
        ("--restart-steps", "many"),
        ("--restart-max-delay-sec", "later"),
        ("--start-limit-burst", "1.5"),
        ("--start-limit-interval-sec", "soon"),
        ("--start-limit-action", "reboot"),
        ("--success-exit-status", "300"),
        ("--restart-prevent-exit-status", "SIGNONE"),
        ("--ready", "perhaps"),
        ("--ready", "delay:x"),
        ("--timeout-start-sec", "1min30x"),
        ("--timeout-stop-sec", ""),
        ("--kill-signal", "SIGNONE"),
        ("--kill-signal", "99"),
        ("--kill-mode", "gently"),
        ("--watchdog-sec", "x"),
        ("--umask", "9"),
        ("--bake", "long"),
        ("--handover", "thrown"),
        ("--stdin", "file"),
        ("--color", "green"),
        ("-p", "NoSuchDirective=1"),
        ("-p", "LimitNOFILE=some"),
        ("-p", "LimitNOFILE"),
        ("-E", "=value"),
    ] {
        let place = Place::new();
        refused(Launch::new(&place).args(option).arg(value), &place, 2, &[option]);
    }
}

#[test]
fn options_that_are_unknown_or_incomplete() {
    refused_options("--no-such-option", 2, &["--no-such-option"]);
    let place = Place::new();
    for words in [&["--listen"][..], &["--"], &["--listen", "0"]] {
        let mut launch = Launch::new(&place);
        for word in words {
            launch = launch.arg(word);
        }
        let ended = launch.run().expect(2);
        assert!(!ended.stderr.is_empty() && ended.stdout.is_empty(), "{ended:?}");
    }
}

#[test]
fn a_placeholder_for_a_socket_that_is_not_held() {
    let place = Place::new();
    let ended = Launch::new(&place)
        .args("--control none --listen 127.0.0.1:0=web")
        .command(&["true", "{fd:wbe}"])
        .run()
        .expect(2);
    assert!(ended.stderr.contains("wbe"), "{ended:?}");
    refused_options("--listen 127.0.0.1:0=web -E PORT={port:wbe}", 2, &["wbe"]);
}

#[test]
fn a_port_in_use_names_its_holder() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap().to_string();
    let pid = std::process::id().to_string();
    // A good one before it is closed again, a good one after it never bound.
    refused_options(
        &format!("--listen 127.0.0.1:0=a --listen {address}=b --listen 127.0.0.1:0=c"),
        125,
        &[&address, &pid],
    );
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = format!("udp:{}", udp.local_addr().unwrap());
    refused_options(&format!("--listen {address}"), 125, &[&address, &pid]);
    refused_options("--listen @supervise-test --listen @supervise-test", 2, &["@supervise-test"]);
}

#[test]
fn an_address_that_is_not_ours() {
    // Documentation addresses (RFC 5737) are nobody's.
    refused_options("--listen 192.0.2.1:80", 125, &["192.0.2.1:80", "this host has no address"]);
}

#[test]
fn sockets_that_were_not_passed() {
    refused_options("--listen fd:web", 125, &["fd:web"]);
    refused_options("--listen fd:77", 125, &["fd:77"]);
}

#[test]
fn a_live_unix_socket_or_another_file_in_the_way_is_left_untouched() {
    let place = Place::new();
    let (live, file) = (place.path("live.sock"), place.path("file"));
    let listener = UnixListener::bind(&live).unwrap();
    listener.set_nonblocking(true).unwrap();
    place.write("file", "precious");
    refused(Launch::new(&place).args("--listen").arg(&live), &place, 125, &[&live]);
    refused(Launch::new(&place).args("--listen").arg(&file), &place, 125, &[&file]);
    std::os::unix::fs::symlink("live.sock", place.path("link")).unwrap();
    refused(Launch::new(&place).args("--listen").arg(&place.path("link")), &place, 125, &["link"]);
    assert_eq!(place.read("file"), "precious");
    std::os::unix::net::UnixStream::connect(&live).unwrap();
    refused(
        Launch::new(&place).args("--listen").arg(&place.path("file/x.sock")),
        &place,
        125,
        &["file is not a directory"],
    );
}

#[test]
fn users_and_directories_that_do_not_exist() {
    refused_options("-u no-such-user-anywhere", 125, &["no-such-user-anywhere"]);
    refused_options("-g no-such-group-anywhere", 125, &["no-such-group-anywhere"]);
    refused_options("-C /no/such/directory", 125, &["/no/such/directory"]);
}

#[test]
fn a_control_socket_that_cannot_be() {
    refused_options("--control /no/such/directory/x.sock", 125, &["/no/such/directory"]);
}

#[test]
fn without_permission() {
    let place = Place::new();
    // Root may do everything: then it is somebody else who tries, with a binary where that one can go.
    let binary = place.path("supervise");
    fs::copy(SUPERVISE, &binary).unwrap();
    let directory = place.path("");
    let closed = place.path("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(&directory, Permissions::from_mode(0o755)).unwrap();
    let launch = |address: &str| {
        let launch = Launch::new(&place).directory("/").args("--control none --listen").arg(address);
        if geteuid().is_root() { launch.user(65534, &binary) } else { launch }
    };
    refused(launch(&format!("{closed}/x.sock")), &place, 125, &[&closed, "permission"]);
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if first.trim().parse::<u16>().unwrap() > 1 {
        let remedies = ["127.0.0.1:1", "CAP_NET_BIND_SERVICE", "net.ipv4.ip_unprivileged_port_start"];
        refused(launch("127.0.0.1:1"), &place, 125, &remedies);
    } else {
        // Every port is free for all here: port 1 is an ordinary one.
        assert_eq!(launch("127.0.0.1:1").command(&["true"]).args("--restart no").run().status, 0);
    }
}
