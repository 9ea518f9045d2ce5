//! `supervise run`: the pair of files a user came with, files that change between swaps, and what the directives of a
//! service do to real processes.

mod daemons;
mod directives;
mod mutations;

use std::fs;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::load::{get, get_unix};
use super::support::{Daemon, Launch, Place, environment, example, wait_for};

/// The files of a user, with another command.
const SEED_SOCKET: &str = "\
[Socket]
ListenStream = 0.0.0.0:443
BindIPv6Only = both
FileDescriptorName=https

[Install]
WantedBy = sockets.target
";
const SEED_SERVICE: &str = "\
[Unit]
Description=Server Service
After=network.target
Requires=server-https.socket

[Service]
Type=simple
ExecStart=COMMAND
Restart=on-failure
RestartSec=5

[Install]
WantedBy=multi-user.target
";

/// The server `ready`, which writes down what its generations do.
fn ready(place: &Place) -> String {
    if !fs::exists(place.path("flags")).unwrap() {
        place.flags("");
    }
    format!("{} --log {} @{}", example("ready"), place.path("log"), place.path("flags"))
}

fn seed(place: &Place) -> Daemon {
    // Asked of the kernel, and let go again: a unit file has no port 0 in systemd.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    place.write("server-https.socket", SEED_SOCKET);
    place.write("server.service", &SEED_SERVICE.replace("COMMAND", &ready(place)));
    fs::create_dir(place.path("server-https.socket.d")).unwrap();
    place.write(
        "server-https.socket.d/port.conf",
        &format!("[Socket]\nListenStream=\nListenStream={address}\n"),
    );
    Launch::units(place, &["server-https.socket", "server.service"]).start()
}

#[test]
fn the_seed_pair_is_served_under_its_name_and_comes_back_five_seconds_after_a_kill() {
    let place = Place::new();
    let mut daemon = seed(&place);
    daemon.wait_generation(1);
    let address = daemon.address("https");
    assert_eq!(get(&address, "/").unwrap(), "ready generation 1 on https\n");
    let hints: Vec<String> = daemon
        .stderr()
        .lines()
        .filter(|line| line.contains("Service=server.service"))
        .map(String::from)
        .collect();
    assert_eq!(hints.len(), 1, "one line says what systemd would want: {}", daemon.stderr());

    let killed = Instant::now();
    daemon.verb("kill KILL").expect(0);
    daemon.wait_state("waiting");
    // A client that connects meanwhile waits.
    assert_eq!(get(&address, "/").unwrap(), "ready generation 2 on https\n");
    assert!(killed.elapsed() >= Duration::from_secs(5), "back after {:?}", killed.elapsed());
    assert_eq!(place.who("start"), [1, 2]);
}

#[test]
fn the_seed_pair_killed_by_term_is_started_by_the_next_connection_alone() {
    let place = Place::new();
    let mut daemon = seed(&place);
    daemon.wait_generation(1);
    let address = daemon.address("https");
    for generation in 2..=3 {
        daemon.verb("kill TERM").expect(0);
        let status = daemon.wait_state("listening");
        assert!(status["next"].is_null(), "nothing but a connection starts it: {status}");
        assert_eq!(place.who("start").len() as u64, generation - 1);
        assert_eq!(get(&address, "/").unwrap(), format!("ready generation {generation} on https\n"));
        daemon.wait_generation(generation);
    }
}

/// web.socket on these paths in the place, under the name http.
fn socket(place: &Place, paths: &[&str]) {
    let listen: String = paths.iter().map(|path| format!("ListenStream={}\n", place.path(path))).collect();
    place.write("web.socket", &format!("[Socket]\n{listen}FileDescriptorName=http\n"));
}

/// web.service: `ready`, which says when it is ready, with these lines besides.
fn service(place: &Place, lines: &str) {
    place.write("web.service", &format!("[Service]\nType=notify\nExecStart={}\n{lines}\n", ready(place)));
}

/// Writes both files, starts them, and waits until the server is ready.
fn web(place: &Place, lines: &str) -> Daemon {
    socket(place, &["web.sock"]);
    service(place, lines);
    let mut daemon =
        Launch::units(place, &["web.socket", "web.service"]).env("XDG_RUNTIME_DIR", &place.path("")).start();
    daemon.wait_generation(1);
    daemon
}

#[test]
fn a_swap_reads_the_files_anew() {
    let place = Place::new();
    let mut daemon = web(&place, "Environment=T_COLOUR=green\n[X-Supervise]\nBake=0");
    assert_eq!(environment(daemon.server())["T_COLOUR"], "green");
    service(&place, "Environment=T_COLOUR=blue\n[X-Supervise]\nBake=0");
    daemon.verb("swap").expect(0);
    daemon.wait_generation(2);
    assert_eq!(environment(daemon.server())["T_COLOUR"], "blue");
}

#[test]
fn a_swap_binds_added_sockets_and_closes_removed_ones() {
    let place = Place::new();
    let mut daemon = web(&place, "[X-Supervise]\nBake=0");
    // Each generation has a node of its own; the first one's is one of them.
    let inode = |path: &str| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(place.path(path)).unwrap().ino()
    };
    let kept = inode("web.sock");
    socket(&place, &["web.sock", "more.sock"]);
    daemon.verb("swap").expect(0);
    daemon.wait_generation(2);
    assert_eq!(get_unix(&place.path("more.sock")).unwrap(), "ready generation 2 on http\n");
    assert_eq!(get_unix(&place.path("web.sock")).unwrap(), "ready generation 2 on http\n");
    assert_eq!(inode(".web.sock.supervise/0"), kept, "a kept socket is untouched");
    socket(&place, &["more.sock"]);
    daemon.verb("swap").expect(0);
    let status = daemon.wait_generation(3);
    assert_eq!(status["sockets"].as_array().unwrap().len(), 1, "{status}");
    assert_eq!(get_unix(&place.path("more.sock")).unwrap(), "ready generation 3 on http\n");
    wait_for("the removed socket to refuse", || UnixStream::connect(place.path("web.sock")).err());
}

#[test]
fn what_only_one_of_two_generations_has_stays_with_it_while_the_new_one_bakes() {
    let place = Place::new();
    socket(&place, &["both.sock", "old.sock"]);
    service(&place, "[X-Supervise]\nBake=1h");
    let mut daemon =
        Launch::units(&place, &["web.socket", "web.service"]).env("XDG_RUNTIME_DIR", &place.path("")).start();
    daemon.wait_generation(1);
    socket(&place, &["both.sock", "new.sock"]);
    daemon.verb("swap --no-wait").expect(0);
    daemon.wait_until("the new one has the traffic", |_| {
        get_unix(&place.path("both.sock")).is_ok_and(|body| body.contains("generation 2"))
    });
    for (path, generation) in [("old.sock", 1), ("new.sock", 2), ("both.sock", 2)] {
        let body = get_unix(&place.path(path)).unwrap();
        assert_eq!(body, format!("ready generation {generation} on http\n"), "{path}");
    }
}

#[test]
fn a_broken_file_changes_nothing_and_the_verb_says_where_it_is_broken() {
    let place = Place::new();
    let mut daemon = web(&place, "");
    let server = daemon.server();
    let good = place.read("web.service");
    for broken in
        ["[Service\n", "[Service]\nExecStart=/bin/echo 'a\n", "[Service]\nExecStart=./ready\n", "[Service]\n"]
    {
        place.write("web.service", broken);
        let said = daemon.verb("swap").expect(1).text();
        let line = if broken.contains("ExecStart") { 2 } else { 1 };
        assert!(said.contains(&format!("web.service:{line}: ")), "{broken}: {said}");
        let swap = daemon.status()["last_swap"].clone();
        assert_eq!((&swap["outcome"], &swap["to"]), (&"refused".into(), &serde_json::Value::Null), "{swap}");
        assert_eq!(daemon.server(), server);
    }
    // A port that would be lost is an error, too.
    place.write("web.service", &good);
    let sound = place.read("web.socket");
    place.write("web.socket", &format!("{sound}ListenStream=nowhere:80\n"));
    let said = daemon.verb("swap").expect(1).text();
    assert!(said.contains("web.socket:4"), "{said}");
    assert_eq!(daemon.server(), server);
    assert_eq!(get_unix(&place.path("web.sock")).unwrap(), "ready generation 1 on http\n");
    place.write("web.socket", &sound);
    daemon.verb("swap").expect(0);
    // No swap that was refused has had a number.
    daemon.wait_generation(2);
}

#[test]
fn exec_stop_makes_a_swap_stop_first() {
    let place = Place::new();
    let mut daemon = web(&place, &format!("ExecStop=/bin/sh -c 'echo 0 0 stopped >>{}'", place.path("log")));
    daemon.verb("swap").expect(0);
    daemon.wait_generation(2);
    let at = |what: &str, generation: u64| {
        let is = |fact: &super::support::Fact| fact.what == what && fact.generation == generation;
        place.facts().iter().position(is).unwrap_or_else(|| panic!("{what}: {:?}", place.facts()))
    };
    assert!(at("stopped", 0) < at("start", 2) && at("exit", 1) < at("start", 2), "{:?}", place.facts());
}

#[test]
fn check_names_the_line_that_makes_a_swap_stop_first() {
    let place = Place::new();
    socket(&place, &["web.sock"]);
    service(&place, "ExecStop=/bin/true");
    let checked = Launch::new(&place)
        .args("check")
        .arg(&place.path("web.socket"))
        .arg(&place.path("web.service"))
        .run()
        .expect(0);
    let named = |line: &str| line.contains("web.service:4") && line.contains("stop-first");
    assert!(checked.text().lines().any(named), "{}", checked.text());
    assert!(!fs::exists(place.path("web.sock")).unwrap(), "check binds nothing");
}

#[test]
fn check_warns_of_what_is_missing_on_this_machine() {
    let place = Place::new();
    place.write("list", "");
    let lines = format!(
        "User=no-such-user-here\nWorkingDirectory={0}/no-directory\nExecStartPre={0}/no-program\nExecStartPre={0}/list\n\
         ExecStartPre=-{0}/may-be-missing\nExecReload=/bin/true",
        place.path("")
    );
    socket(&place, &["web.sock"]);
    service(&place, &lines);
    let check =
        |options: &str| Launch::new(&place).args("check").args(options).arg(&place.path("web.socket")).run();
    let said = check("").expect(0).stdout;
    let warnings: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("warning: ")).collect();
    let expected = [
        ("web.service:4: ", "no-such-user-here"),
        ("web.service:5: ", "no-directory"),
        ("web.service:6: ", "no-program"),
        ("web.service:7: ", "chmod +x"),
    ];
    assert_eq!(warnings.len(), expected.len(), "{said}");
    for ((line, word), warning) in expected.iter().zip(&warnings) {
        assert!(warning.contains(line) && warning.contains(word), "{warning}");
    }
    // Such a line has its effect, because a start looks for the thing anew.
    check("--strict").expect(0);
    assert!(check("--json").expect(0).stdout.contains("no-program"));
}

#[test]
fn who_types_swap_sees_the_warning_of_a_line_that_has_no_effect() {
    let place = Place::new();
    let daemon = web(&place, "");
    service(&place, "Colour=blue");
    let said = daemon.verb("swap").expect(0).stdout;
    assert!(said.contains("web.service:4") && said.contains("Colour"), "{said}");
    assert!(
        daemon.stderr().contains("warning: ") && daemon.stderr().contains("Colour"),
        "{}",
        daemon.stderr()
    );
    let said = daemon.verb("swap").expect(0).stdout;
    assert!(!said.contains("Colour"), "it is said once: {said}");
}

#[test]
fn a_runtime_directory_is_there_until_the_last_generation_is_gone() {
    let place = Place::new();
    // The directory is below /run where we are root, so its name is one that no other run has.
    let name = format!("supervise-test-{}", std::process::id());
    let mut daemon = web(&place, &format!("RuntimeDirectory={name}\n[X-Supervise]\nBake=0"));
    let directory = environment(daemon.server())["RUNTIME_DIRECTORY"].clone();
    assert!(directory.ends_with(&name), "{directory}");
    fs::write(format!("{directory}/pid"), "1").unwrap();
    daemon.verb("swap").expect(0);
    daemon.wait_generation(2);
    assert_eq!(fs::read_to_string(format!("{directory}/pid")).unwrap(), "1", "a swap leaves it");
    daemon.verb("stop").expect(0);
    assert!(!fs::exists(&directory).unwrap(), "{directory} is left behind");
}

#[test]
fn what_we_bound_in_a_runtime_directory_outlives_the_servers() {
    let place = Place::new();
    let name = format!("supervise-bound-{}", std::process::id());
    let base = if nix::unistd::geteuid().is_root() { "/run".to_owned() } else { place.path("") };
    let at = |file: &str| format!("{base}/{name}/{file}");
    place.write(
        "web.socket",
        &format!(
            "[Socket]\nListenStream={}\nSymlinks={}\nFileDescriptorName=http\n",
            at("deep/web.sock"),
            at("link")
        ),
    );
    place.write(
        "more.socket",
        &format!("[Socket]\nListenSequentialPacket={}\nService=web.service\n", at("more.sock")),
    );
    service(&place, &format!("RuntimeDirectory={name}\n[X-Supervise]\nBake=0"));
    let mut daemon = Launch::units(&place, &["web.socket", "more.socket", "web.service"])
        .env("XDG_RUNTIME_DIR", &place.path(""))
        .start();
    daemon.wait_generation(1);
    for generation in 2..4 {
        fs::write(at("deep/theirs"), "").unwrap();
        daemon.verb("restart").expect(0);
        daemon.wait_generation(generation);
        assert!(!fs::exists(at("deep/theirs")).unwrap(), "what is the server's goes");
        assert!(fs::exists(at("link")).unwrap() && fs::exists(at("more.sock")).unwrap());
        let answer = get_unix(&at("deep/web.sock")).unwrap();
        assert!(answer.contains(&format!("generation {generation}")), "{answer}");
    }
    assert!(!daemon.stderr().contains("removed"), "{}", daemon.stderr());
    daemon.verb("stop").expect(0);
    assert!(!fs::exists(format!("{base}/{name}")).unwrap(), "it goes with us");
}

#[test]
fn at_the_start_limit_the_socket_stays_open_and_status_says_failed() {
    let place = Place::new();
    place.flags("--die-after 0:1");
    socket(&place, &["web.sock"]);
    service(
        &place,
        "Restart=on-failure\nRestartSec=1ms\n[Unit]\nStartLimitBurst=2\nStartLimitIntervalSec=1min",
    );
    let mut daemon = Launch::units(&place, &["web.socket", "web.service"]).start();
    daemon.wait_state("failed");
    assert_eq!(place.who("start"), [1, 2]);
    daemon.verb("status").expect(1);
    let mut client = UnixStream::connect(place.path("web.sock")).expect("it queues, as systemd's would not");
    super::load::ask(&mut client, "/").unwrap();
    place.flags("");
    daemon.verb("swap").expect(0);
    assert_eq!(super::load::answer(&mut client).unwrap(), "ready generation 3 on http\n");
}

#[test]
fn a_clean_exit_goes_back_to_listening_whatever_restart_says_about_failures() {
    let place = Place::new();
    let mut daemon = web(&place, "Restart=on-failure");
    daemon.verb("kill INT").expect(0);
    daemon.wait_state("listening");
    assert_eq!(get_unix(&place.path("web.sock")).unwrap(), "ready generation 2 on http\n");
    daemon.wait_generation(2);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.end().status, 0);
}

#[test]
fn a_socket_whose_service_has_another_name_leads_to_it() {
    let place = Place::new();
    place.write("web-https.socket", "[Socket]\nListenStream=127.0.0.1:0\n");
    place.write("other.service", "[Unit]\nRequires=other.socket\n[Service]\nExecStart=/bin/true\n");
    let alone = Launch::units(&place, &["web-https.socket"]).run().expect(125);
    assert!(alone.stderr.contains("no web-https.service beside it"), "{alone:?}");
    assert!(alone.stderr.contains("name its service as well: supervise run web-https.socket"), "{alone:?}");
    place.write("web.service", "[Unit]\nRequires=web-https.socket\n[Service]\nExecStart=/bin/true\n");
    let named = Launch::units(&place, &["web-https.socket"]).run().expect(125);
    assert!(named.stderr.contains("name web.service as well, which has it in Requires="), "{named:?}");
}
