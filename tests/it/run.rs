//! The main form: sockets held, the server on them, what it is told, and the status we end with.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;

use super::load::{get, get_unix};
use super::support::{DEADLINE, Launch, Place, environment, example, wait_for};

#[test]
fn the_kernel_picks_a_port_and_it_is_kept_for_every_generation() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--bake 0").start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    let port = address.rsplit_once(':').unwrap().1;
    assert_ne!(port, "0");
    assert!(daemon.stderr().contains(&address), "the real port is printed: {}", daemon.stderr());
    assert_eq!(get(&address, "/").unwrap(), "ready generation 1 on http\n");
    daemon.verb("swap").expect(0);
    assert_eq!(daemon.address("http"), address);
    assert_eq!(get(&address, "/").unwrap(), "ready generation 2 on http\n");
}

#[test]
fn a_server_that_knows_nothing_of_readiness_counts_as_ready_when_it_waits_for_clients() {
    let place = Place::new();
    let mut daemon =
        Launch::new(&place).args("--listen 127.0.0.1:0=http").command(&[&example("hello")]).start();
    let status = daemon.wait_generation(1);
    assert!(status["generations"][0]["ready_ms"].is_u64(), "{status}");
    assert!(daemon.stderr().contains("(waits on http)"), "{}", daemon.stderr());
    assert_eq!(get(&daemon.address("http"), "/").unwrap(), "hello from generation 1\n");
}

#[test]
fn several_sockets_keep_their_order_their_names_and_their_placeholders() {
    let place = Place::new();
    let mut daemon = Launch::new(&place)
        .args("--listen 127.0.0.1:0=http --listen 127.0.0.1:0=admin --listen 127.0.0.1:0=http")
        .args("-E ADMIN={fd:admin}/{port:admin}/{addr:admin}")
        .command(&[&example("named"), "{fd:http}", "{fd:admin}", "{port:admin}", "{addr:http}", "{other}"])
        .start();
    wait_for("its map", || (daemon.stdout().lines().count() == 3).then_some(()));
    let lines: Vec<String> = daemon.stdout().lines().map(String::from).collect();
    assert!(lines[0].starts_with("3 http "), "{lines:?}");
    assert!(lines[1].starts_with("4 admin "), "{lines:?}");
    assert!(lines[2].starts_with("5 http "), "{lines:?}");
    let (http, admin) = (daemon.address("http"), daemon.address("admin"));
    let admin_port = admin.rsplit_once(':').unwrap().1;
    let server = daemon.wait_generation(1)["generations"][0]["pid"].as_i64().unwrap();
    let words = fs::read_to_string(format!("/proc/{server}/cmdline")).unwrap();
    let words: Vec<&str> = words.trim_end_matches('\0').split('\0').skip(1).collect();
    assert_eq!(words, ["3", "4", admin_port, &http, "{other}"]);
    let environment = environment(i32::try_from(server).unwrap());
    assert_eq!(environment["ADMIN"], format!("4/{admin_port}/{admin}"));
    assert_eq!(environment["LISTEN_FDS"], "3");
    assert_eq!(environment["LISTEN_FDNAMES"], "http:admin:http");
    assert_eq!(get(&http, "/").unwrap(), "the site\n");
    assert_eq!(get(&admin, "/").unwrap(), "the back office of generation 1\n");
}

#[test]
fn a_unix_socket_is_served_and_a_dead_one_in_the_way_is_taken_over() {
    let place = Place::new();
    let path = place.path("web.sock");
    // The path of a closed socket stays, and nobody answers there.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let mut daemon = Launch::new(&place).args("--listen").arg(&path).command(&[&example("ready")]).start();
    let status = daemon.wait_generation(1);
    assert_eq!(status["sockets"][0]["name"], "web.sock");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    assert_eq!(get_unix(&path).unwrap(), "ready generation 1 on web.sock\n");
}

#[test]
fn udp_is_answered_by_each_generation() {
    let place = Place::new();
    let mut daemon = Launch::new(&place)
        .args("--bake 0 --listen udp:127.0.0.1:0=dns")
        .command(&[&example("ready")])
        .start();
    daemon.wait_generation(1);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let ask = |address: String| {
        client.send_to(b"who", address).unwrap();
        let mut buffer = [0; 100];
        let (length, _) = client.recv_from(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert_eq!(ask(daemon.address("dns")), "ready generation 1 on dns\n");
    daemon.verb("swap").expect(0);
    daemon.wait_generation(2);
    assert_eq!(ask(daemon.address("dns")), "ready generation 2 on dns\n");
}

#[test]
fn environment_files_setenv_and_directory_are_looked_up_anew_for_each_generation() {
    let place = Place::new();
    for release in ["one", "two"] {
        fs::create_dir(place.path(release)).unwrap();
    }
    std::os::unix::fs::symlink("one", place.path("current")).unwrap();
    place.write("env", "# a comment\nCOLOR=red\nSPACED=\"a b\"\n");
    let (directory, file) = (place.path("current"), place.path("env"));
    let mut daemon = Launch::ready(&place, "--bake 0 -E SHAPE=round -E PASSED --umask 0027")
        .args("-C")
        .arg(&directory)
        .args("--environment-file")
        .arg(&file)
        .env("PASSED", "through")
        .start();
    daemon.wait_generation(1);
    let look = |pid: i32| {
        let environment = environment(pid);
        let get = |name: &str| environment.get(name).cloned().unwrap_or_default();
        let directory = fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
        let directory = directory.file_name().unwrap().to_string_lossy().into_owned();
        (get("COLOR"), get("SPACED"), get("SHAPE"), get("PASSED"), directory)
    };
    let expected = |color: &str, directory: &str| {
        let own = String::from;
        (own(color), own("a b"), own("round"), own("through"), own(directory))
    };
    assert_eq!(look(daemon.server()), expected("red", "one"));
    assert_eq!(super::support::proc_status(daemon.server(), "Umask").unwrap(), "0027");
    place.write("env", "COLOR=green\nSPACED='a b'\n");
    std::os::unix::fs::symlink("two", place.path("next")).unwrap();
    fs::rename(place.path("next"), place.path("current")).unwrap();
    daemon.verb("swap").expect(0);
    assert_eq!(look(daemon.server()), expected("green", "two"));
}

#[test]
fn our_own_directory_is_entered_by_its_path_for_each_generation() {
    let place = Place::new();
    for release in ["one", "two"] {
        fs::create_dir(place.path(release)).unwrap();
    }
    std::os::unix::fs::symlink("one", place.path("current")).unwrap();
    let directory = place.path("current");
    let mut daemon = Launch::ready(&place, "--bake 0").directory(&directory).env("PWD", &directory).start();
    daemon.wait_generation(1);
    std::os::unix::fs::symlink("two", place.path("next")).unwrap();
    fs::rename(place.path("next"), place.path("current")).unwrap();
    daemon.verb("swap").expect(0);
    let is = fs::read_link(format!("/proc/{}/cwd", daemon.server())).unwrap();
    assert_eq!(is, fs::canonicalize(place.path("two")).unwrap());
}

#[test]
fn sockets_of_an_outer_manager_are_passed_on_by_name() {
    let place = Place::new();
    let control = place.path("inner.ctl");
    let server = example("ready");
    let mut outer = Launch::new(&place)
        .args("--listen 127.0.0.1:0=first --listen 127.0.0.1:0=web")
        .command(&[super::support::SUPERVISE, "--control", &control, "--listen", "fd:web", "--", &server])
        .start();
    // The inner one tells the outer one that it is ready when its server is.
    outer.wait_generation(1);
    assert_eq!(get(&outer.address("web"), "/").unwrap(), "ready generation 1 on web\n");
}

fn sh(place: &Place, options: &str, script: &str) -> i32 {
    Launch::new(place).args(options).command(&["/bin/sh", "-c", script]).run().status
}

#[test]
fn without_sockets_we_end_as_the_server_ended() {
    let place = Place::new();
    assert_eq!(sh(&place, "", "exit 0"), 0);
    assert_eq!(sh(&place, "--restart no", "exit 7"), 7);
    assert_eq!(sh(&place, "--restart no", "kill -KILL $$"), 128 + 9);
    assert_eq!(sh(&place, "--restart no", "kill -TERM $$"), 128 + 15);
    assert_eq!(sh(&place, "--restart-prevent-exit-status 7", "exit 7"), 7);
    assert_eq!(sh(&place, "--restart on-abort", "exit 3"), 3);
}

#[test]
fn with_restart_no_a_held_socket_does_not_keep_us() {
    let place = Place::new();
    assert_eq!(sh(&place, "--restart no --listen 127.0.0.1:0", "exit 7"), 7);
    assert_eq!(sh(&place, "--restart no --listen 127.0.0.1:0", "exit 0"), 0);
}

#[test]
fn a_first_start_that_cannot_be_is_126_or_127() {
    let place = Place::new();
    place.write("plain", "no program\n");
    let plain = place.path("plain");
    // A directory that we may not search would make it 126: execvp(3) cannot know what is in there.
    let run = |options: &str, command: &str| {
        Launch::new(&place).args(options).env("PATH", "/usr/bin:/bin").command(&[command]).run()
    };
    for options in ["", "--listen 127.0.0.1:0"] {
        let ended = run(options, "/no/such/program").expect(127);
        assert!(ended.stderr.contains("/no/such/program"), "{ended:?}");
        run(options, "no-such-program-in-the-path").expect(127);
        let ended = run(options, &plain).expect(126);
        assert!(ended.stderr.contains(&plain), "{ended:?}");
        run(options, "/").expect(126);
    }
}

#[test]
fn stopped_by_request_is_0_however_the_server_ended() {
    let place = Place::new();
    for (signal, script) in [
        (Signal::SIGTERM, "trap 'exit 9' TERM; touch up; while :; do sleep 0.05; done"),
        (Signal::SIGINT, "touch up; exec sleep 1000"),
    ] {
        let directory = place.path("");
        let daemon = Launch::new(&place).directory(&directory).command(&["/bin/sh", "-c", script]).start();
        wait_for("the server", || fs::exists(place.path("up")).unwrap().then_some(()));
        fs::remove_file(place.path("up")).unwrap();
        daemon.signal(signal);
        daemon.end().expect(0);
    }
}

#[test]
fn stdin_is_empty_unless_inherited() {
    let place = Place::new();
    place.write("in", "a line\n");
    let input = place.path("in");
    for (options, expected) in [("", ""), ("--stdin inherit", "a line\n"), ("--stdin null", "")] {
        let ended = Launch::new(&place)
            .wrapper(&["/bin/sh", "-c", "exec \"$@\" < \"$0\"", &input])
            .args("--control none")
            .args(options)
            .command(&["cat"])
            .run()
            .expect(0);
        assert_eq!(ended.stdout, expected, "{options}");
    }
}
