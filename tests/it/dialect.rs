//! How else than by LISTEN_FDS a server is told of its sockets: Protocol=, placeholders, and `supervise exec` below
//! wrappers.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::support::{Daemon, Ended, Launch, Place, SUPERVISE, Verb, environment, proc_status, wait_for};

const SLEEP: [&str; 2] = ["sleep", "1000"];

/// The environment of the current generation, a `sleep`.
fn server_environment(daemon: &mut Daemon, generation: u64) -> HashMap<String, String> {
    daemon.wait_generation(generation);
    environment(daemon.server())
}

#[track_caller]
fn assert_has(environment: &HashMap<String, String>, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        assert_eq!(environment.get(*name).map(String::as_str), Some(*value), "{name} in {environment:?}");
    }
}

/// What an outer supervisor told of fds that are not ours.
const STALE: [(&str, &str); 5] = [
    ("NGINX", "9;"),
    ("FPM_SOCKETS_1", "/run/old=9"),
    ("EINHORN_FD_8", "9"),
    ("EINHORN_SOCK_PATH", "/nowhere"),
    ("SERVER_STARTER_PORT", "1=9"),
];

fn with_stale(launch: Launch<'_>) -> Launch<'_> {
    STALE.iter().fold(launch, |launch, (name, value)| launch.env(name, value))
}

#[test]
fn each_protocol_tells_every_generation_of_its_sockets() {
    let place = Place::new();
    let path = place.path("x.sock");
    let launch = Launch::new(&place)
        .args("--listen 127.0.0.1:0=http --listen udp:127.0.0.1:0=dns")
        .args(&format!(
            "--listen {path}=local --listen 127.0.0.1:0=more --bake 0 --ready exec -p Protocol=nginx"
        ))
        .arg("-p")
        .arg("Protocol=server-starter fpm einhorn")
        .command(&SLEEP);
    let mut daemon = with_stale(launch).start();
    let first = server_environment(&mut daemon, 1);
    let (http, more) = (daemon.address("http"), daemon.address("more"));
    assert_has(
        &first,
        &[
            ("LISTEN_FDS", "4"),
            ("NGINX", "3;4;5;6;"),
            ("SERVER_STARTER_PORT", &format!("{http}=3;{path}=5;{more}=6")),
            ("SERVER_STARTER_GENERATION", "1"),
            ("FPM_SOCKETS", &format!("{http}=3,{path}=5,{more}=6")),
            ("EINHORN_MASTER_PID", &daemon.pid().to_string()),
            ("EINHORN_FD_COUNT", "3"),
            ("EINHORN_FD_0", "3"),
            ("EINHORN_FD_FAMILY_0", "AF_INET"),
            ("EINHORN_FD_1", "5"),
            ("EINHORN_FD_FAMILY_1", "AF_UNIX"),
            ("EINHORN_FD_2", "6"),
            ("EINHORN_FD_FAMILY_2", "AF_INET"),
        ],
    );
    for stale in ["FPM_SOCKETS_1", "EINHORN_FD_8", "EINHORN_SOCK_PATH"] {
        assert!(!first.contains_key(stale), "{stale} is somebody else's");
    }
    let said = daemon.stderr();
    let of_dns = said.lines().filter(|line| line.contains("does not tell of the socket \"dns\"")).count();
    assert_eq!(of_dns, 3, "nginx takes it: {said}");
    daemon.verb("swap").expect(0);
    let second = server_environment(&mut daemon, 2);
    assert_has(&second, &[("SERVER_STARTER_GENERATION", "2"), ("NGINX", "3;4;5;6;")]);
}

#[test]
fn without_protocol_their_variables_are_the_users_own() {
    let place = Place::new();
    let launch = Launch::new(&place).args("--listen 127.0.0.1:0=http").command(&SLEEP);
    let mut daemon = with_stale(launch).start();
    assert_has(&server_environment(&mut daemon, 1), &STALE);
    drop(daemon);
    // With Protocol= but without sockets, the server gets no such variable of another manager.
    let mut daemon = with_stale(Launch::new(&place).args("-p Protocol=nginx").command(&SLEEP)).start();
    let is = server_environment(&mut daemon, 1);
    assert!(!is.contains_key("NGINX"), "{is:?}");
    assert_has(&is, &STALE[1..]);
}

#[test]
fn an_unknown_protocol_is_refused_and_a_lost_socket_by_strict() {
    let refused = |options: &str| {
        let place = Place::new();
        Launch::new(&place).args(options).command(&["true"]).run().expect(2).stderr
    };
    let said = refused("--listen 127.0.0.1:0 -p Protocol=ngnix");
    assert!(said.contains("did you mean nginx?"), "{said}");
    assert!(refused("--listen 127.0.0.1:0=a -p Protocol=stdin").contains("--stdin fd:NAME"));
    let said = refused("--listen udp:127.0.0.1:0=dns -p Protocol=fpm --strict");
    assert!(
        said.starts_with("supervise: --listen udp:127.0.0.1:0=dns: Protocol=fpm does not tell"),
        "{said}"
    );
}

/// Before supervise takes the socket over, nobody knows of what kind it is.
#[test]
fn an_inherited_socket_is_told_of_by_what_it_turns_out_to_be() {
    let place = Place::new();
    let inner = "--control none -l fd:web -l fd:dns -p Protocol=fpm -- sleep 1000";
    let command: Vec<&str> = [SUPERVISE].into_iter().chain(inner.split(' ')).collect();
    let mut outer = Launch::new(&place)
        .args("--listen 127.0.0.1:0=web --listen udp:127.0.0.1:0=dns")
        .command(&command)
        .start();
    outer.wait_generation(1);
    let is = environment(below(&outer));
    assert_has(&is, &[("FPM_SOCKETS", &format!("{}=3", outer.address("web"))), ("LISTEN_FDS", "2")]);
    let said = outer.stderr();
    assert!(said.contains("Protocol=fpm does not tell of the socket \"dns\""), "{said}");
}

#[test]
fn units_have_protocol_and_placeholders_for_each_generation() {
    let place = Place::new();
    place.write(
        "t.socket",
        "[Socket]\nListenStream=127.0.0.1:0\nListenStream=127.0.0.1:0\nFileDescriptorName=web\n",
    );
    place.write(
        "t.service",
        "[Service]\nEnvironment=P={fd:web}/{port:web}/{addr:web}\nExecStart=/bin/sh -c 'sleep 1000; :' {fd:web} {x}\n\
         [X-Supervise]\nProtocol=einhorn\nBake=0\nReady=exec\n",
    );
    let mut daemon = Launch::units(&place, &["t.socket"]).start();
    for generation in [1, 2] {
        let is = server_environment(&mut daemon, generation);
        // The first of several sockets of a name.
        let address = daemon.address("web");
        let port = address.rsplit(':').next().unwrap();
        assert!(address.starts_with("127.0.0.1:"), "{address}");
        assert_has(&is, &[("P", &format!("3/{port}/{address}")), ("EINHORN_FD_COUNT", "2")]);
        let words = fs::read_to_string(format!("/proc/{}/cmdline", daemon.server())).unwrap();
        assert!(words.ends_with("\u{0}3\u{0}{x}\u{0}"), "{words:?}");
        if generation == 1 {
            daemon.verb("swap").expect(0);
        }
    }
}

/// The pid of the server, which sleeps as a child of a wrapper.
fn below(daemon: &Daemon) -> i32 {
    wait_for("the server below the wrapper", || {
        let all = daemon.processes_of(1);
        all.into_iter().find(|pid| proc_status(*pid, "Name").as_deref() == Some("sleep"))
    })
}

#[test]
fn exec_gives_a_server_below_a_wrapper_its_own_pid() {
    let place = Place::new();
    let script = format!("{SUPERVISE} exec -- sleep 1000; exit 7");
    let mut daemon = Launch::new(&place)
        .args("--listen 127.0.0.1:0=http --watchdog-sec 1h -p Protocol=einhorn")
        .command(&["/bin/sh", "-c", &script])
        .start();
    daemon.wait_generation(1);
    let (shell, server) = (daemon.server().to_string(), below(&daemon));
    let pid = server.to_string();
    assert_ne!(shell, pid);
    assert_has(
        &environment(server),
        &[
            ("LISTEN_FDS", "1"),
            ("LISTEN_PID", &pid),
            ("LISTEN_FDNAMES", "http"),
            ("WATCHDOG_USEC", "3600000000"),
            ("WATCHDOG_PID", &pid),
            ("EINHORN_MASTER_PID", &shell),
            ("SUPERVISE_GENERATION", "1"),
        ],
    );
    for key in ["SigBlk", "SigIgn"] {
        assert_eq!(proc_status(server, key).unwrap(), "0000000000000000", "{key}");
    }
}

/// sudo clears more, among it what the tests find their processes by.
const CLEARED: &str = "env -u SUPERVISE_SOCKETS -u SUPERVISE_GENERATION -u NOTIFY_SOCKET -u WATCHDOG_USEC -u LISTEN_FDS \
     -u LISTEN_FDNAMES";

/// node, Python's subprocess and sudo close fd 3 or use it for another file, and may clear the environment.
#[test]
fn exec_fetches_what_a_wrapper_has_closed() {
    for (wrapper, closing) in [
        ("", "3<&-"),
        ("", "3</dev/null"),
        ("env -u LISTEN_FDS -u LISTEN_FDNAMES", "3<&- 4<&-"),
        (CLEARED, "3<&- 4<&-"),
        (&format!("setsid {CLEARED}"), "3<&- 4<&-"),
    ] {
        let place = Place::new();
        let script = format!("{wrapper} {SUPERVISE} exec -- sleep 1000 {closing}; exit 7");
        let mut daemon = Launch::new(&place)
            .args(
                "--listen 127.0.0.1:0=http --listen 127.0.0.1:0=admin --watchdog-sec 1h -p NotifyAccess=all",
            )
            .command(&["/bin/sh", "-c", &script])
            .start();
        daemon.wait_generation(1);
        let server = below(&daemon);
        let (pid, variables) = (server.to_string(), environment(server));
        let expected = [
            ("LISTEN_FDS", "2"),
            ("LISTEN_PID", &pid),
            ("LISTEN_FDNAMES", "http:admin"),
            ("WATCHDOG_PID", &pid),
        ];
        assert_has(&variables, &expected);
        assert!(variables.contains_key("NOTIFY_SOCKET"), "{variables:?}");
        let link = |of: i32, fd: &str| fs::read_link(format!("/proc/{of}/fd/{fd}")).ok();
        let held: Vec<_> = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().collect();
        let held: Vec<_> = held
            .into_iter()
            .filter_map(|fd| link(daemon.pid(), fd.unwrap().file_name().to_str().unwrap()))
            .collect();
        let (first, second) = (link(server, "3").unwrap(), link(server, "4").unwrap());
        assert!(first != second && held.contains(&first) && held.contains(&second), "{wrapper} {closing}");
        assert_eq!(link(server, "5"), None, "nothing beside the sockets");
    }
}

/// Supervise hands the sockets to descendants of the server alone.
#[test]
fn exec_elsewhere_gets_no_sockets() {
    let place = Place::new();
    let mut daemon = Launch::new(&place).args("--listen 127.0.0.1:0").command(&SLEEP).start();
    daemon.wait_generation(1);
    let address = environment(daemon.server())["SUPERVISE_SOCKETS"].clone();
    let ended =
        exec(&["--", "true"], &[("SUPERVISE_SOCKETS", &address), ("LISTEN_FDS", "60000")]).expect(125);
    assert!(ended.stderr.contains("is closed") && ended.stderr.contains("below its server"), "{ended:?}");
    assert!(daemon.stderr().contains("asks for the sockets"), "{}", daemon.stderr());
}

fn exec(words: &[&str], variables: &[(&str, &str)]) -> Ended {
    let mut command = Command::new(SUPERVISE);
    command.arg("exec").args(words);
    for name in ["LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC", "WATCHDOG_PID", "SUPERVISE_SOCKETS"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied());
    Verb::spawn(command).end()
}

#[test]
fn exec_without_sockets_says_so_and_goes_on() {
    let ended = exec(&["--", "sh", "-c", "echo $LISTEN_PID/$WATCHDOG_PID; exit 5"], &[]).expect(5);
    assert_eq!(ended.stdout, "/\n", "sets nothing that nobody promised");
    assert!(ended.stderr.contains("no LISTEN_FDS here") && ended.stderr.lines().count() == 1, "{ended:?}");
    // With a watchdog and no sockets, exec sets WATCHDOG_PID alone.
    let ended = exec(&["--", "sh", "-c", "echo $WATCHDOG_PID $$"], &[("WATCHDOG_USEC", "1")]).expect(0);
    let pids: Vec<&str> = ended.stdout.split_whitespace().collect();
    assert!(pids.len() == 2 && pids[0] == pids[1], "{ended:?}");
}

#[test]
fn exec_that_fails_says_why_in_one_line() {
    let place = Place::new();
    place.write("plain", "text");
    fs::set_permissions(place.path("plain"), fs::Permissions::from_mode(0o644)).unwrap();
    let (plain, nowhere) = (place.path("plain"), place.path("nowhere"));
    let none = [("LISTEN_FDS", "0")];
    for (words, variables, status, cause) in [
        (&["--", &nowhere][..], &none, 127, nowhere.as_str()),
        (&["--", "no-such-program-anywhere", "x"], &none, 127, "nowhere in PATH"),
        (&["--", &plain], &none, 126, "chmod +x"),
        (&["--", "true"], &[("LISTEN_FDS", "60000")], 125, "is closed"),
        (&["--", "true"], &[("LISTEN_FDS", "many")], 125, "is no number"),
        (&["true"], &none, 2, "supervise exec -- true"),
        (&["x", "--", "true"], &none, 2, "leave this word out"),
        (&["--"], &none, 2, "no COMMAND"),
        (&[], &none, 2, "no COMMAND"),
        (&["--listen", "1", "--", "true"], &none, 2, "--listen"),
    ] {
        let ended = exec(words, variables).expect(status);
        assert!(ended.stderr.contains(cause) && ended.stderr.lines().count() == 1, "{words:?}: {ended:?}");
        assert!(ended.stderr.starts_with("supervise: ") && ended.stdout.is_empty(), "{ended:?}");
    }
    assert!(exec(&["--help"], &[]).expect(0).stdout.contains("LISTEN_PID"));
}
