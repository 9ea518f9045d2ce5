//! What single directives of [Service] do.

use std::fs;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::super::support::{Daemon, Launch, Place, environment, example, fds, wait_for};
use super::{socket, web};

/// Starts a service of these lines.
fn start(place: &Place, lines: &str) -> Daemon {
    place.write("one.service", &format!("[Service]\n{lines}\n"));
    Launch::units(place, &["one.service"]).start()
}

/// A script in the place, which knows the place as DIR and our own systemd-notify as NOTIFY.
fn script(place: &Place, text: &str) -> String {
    let directory = place.path("");
    place.write("main.sh", &text.replace("DIR/", &directory).replace("NOTIFY", &example("notify")));
    format!("/bin/sh {}", place.path("main.sh"))
}

#[test]
fn reload_runs_exec_reload_and_is_refused_where_there_is_none() {
    let place = Place::new();
    let mut daemon =
        web(&place, &format!("ExecReload=/bin/sh -c 'echo $MAINPID >>{}'", place.path("reloads")));
    let server = daemon.server();
    daemon.verb("reload").expect(0);
    assert_eq!(place.read("reloads"), format!("{server}\n"));
    assert_eq!(daemon.wait_generation(1)["generations"][0]["pid"], server);

    let failing = Place::new();
    let daemon = web(&failing, "ExecReload=/bin/false");
    daemon.verb("reload").expect(1);
    assert_eq!(daemon.status()["state"], "running", "it goes on as it was");

    let without = Place::new();
    let said = web(&without, "").verb("reload").expect(1).text();
    assert!(said.contains("ExecReload"), "the remedy is named: {said}");
}

#[test]
fn a_daemon_is_followed_by_its_pid_file() {
    let place = Place::new();
    let command = script(&place, "setsid sleep 60 &\necho $! >DIR/daemon.pid\n");
    let lines = format!("Type=forking\nPIDFile={}\nExecStart={command}", place.path("daemon.pid"));
    let mut daemon = start(&place, &lines);
    daemon.wait_state("running");
    let server = daemon.server();
    assert_eq!(place.read("daemon.pid"), format!("{server}\n"));
    kill(Pid::from_raw(server), Signal::SIGKILL).unwrap();
    assert_eq!(daemon.end().status, 137, "without sockets its end is ours");
    assert!(!fs::exists(place.path("daemon.pid")).unwrap(), "it goes with its daemon");
}

#[test]
fn a_oneshot_that_remains_is_up_without_a_process_until_it_is_stopped() {
    let place = Place::new();
    let log = place.path("log");
    let line = |key: &str, word: &str| format!("{key}=/bin/sh -c 'echo {word} >>{log}'\n");
    let lines = [
        "Type=oneshot\nRemainAfterExit=yes\n".to_owned(),
        line("ExecStart", "one"),
        line("ExecStart", "two"),
    ];
    let mut daemon = start(&place, &format!("{}{}", lines.concat(), line("ExecStop", "stop")));
    daemon.wait_state("running");
    assert_eq!(place.read("log"), "one\ntwo\n");
    daemon.verb("status").expect(0);
    daemon.verb("stop").expect(0);
    assert_eq!(place.read("log"), "one\ntwo\nstop\n");
    assert_eq!(daemon.end().status, 0);
}

#[test]
fn a_swap_of_a_oneshot_with_sockets_is_not_called_one() {
    let place = Place::new();
    place.write("web.socket", "[Socket]\nListenStream=127.0.0.1:0\n");
    place.write("web.service", "[Service]\nType=oneshot\nRemainAfterExit=yes\nBake=0\nExecStart=/bin/true\n");
    let mut daemon = Launch::units(&place, &["web.socket", "web.service"]).start();
    daemon.wait_state("running");
    let swap = daemon.verb("swap --json").expect(1).json();
    assert_eq!(swap["outcome"], "taken-over-unseen", "{swap}");
    assert!(swap["reason"].as_str().unwrap().contains("does not look whether a process"), "{swap}");
}

/// A child of the main process says READY=1. It waits for the barrier, so all of it is read when `said` is there.
fn says_ready_through_a_child(place: &Place, access: &str) -> Daemon {
    let command = script(place, "NOTIFY --ready --status=child\necho x >DIR/said\nexec sleep 60\n");
    let daemon = start(place, &format!("Type=notify\nNotifyAccess={access}\nExecStart={command}"));
    wait_for("the child to have said it", || fs::exists(place.path("said")).unwrap().then_some(()));
    daemon
}

#[test]
fn notify_access_decides_whose_word_counts() {
    for access in ["main", "exec", "none"] {
        let place = Place::new();
        let daemon = says_ready_through_a_child(&place, access);
        assert_eq!(daemon.status()["state"], "starting", "NotifyAccess={access}");
    }
    let place = Place::new();
    says_ready_through_a_child(&place, "all").wait_state("running");
}

#[test]
fn a_main_process_may_name_its_successor_and_end() {
    let place = Place::new();
    let command = script(&place, "sleep 60 &\necho $! >DIR/successor\nNOTIFY --ready --pid=$!\nexit 0\n");
    let mut daemon = start(&place, &format!("Type=notify\nNotifyAccess=all\nExecStart={command}"));
    daemon.wait_state("running");
    let successor = place.read("successor").trim().parse::<i32>().unwrap();
    daemon.wait_until("the successor is the main process", |status| {
        status["generations"][0]["pid"] == successor
    });
    kill(Pid::from_raw(successor), Signal::SIGKILL).unwrap();
    assert_eq!(daemon.end().status, 137, "it is the one whose end counts");
}

#[test]
fn a_stored_file_is_handed_to_the_next_generation() {
    let place = Place::new();
    place.write("treasure", "kept\n");
    let text = "[ -e DIR/said ] || NOTIFY --fd=DIR/treasure FDSTORE=1 FDNAME=treasure\n\
                NOTIFY --ready\necho x >>DIR/said\nexec sleep 60\n";
    let command = script(&place, text);
    let lines = format!("Type=notify\nNotifyAccess=all\nFileDescriptorStoreMax=1\nExecStart={command}");
    let mut daemon = start(&place, &format!("{lines}\n[X-Supervise]\nBake=0"));
    daemon.wait_generation(1);
    assert_eq!(environment(daemon.server()).get("LISTEN_FDS"), None);
    daemon.verb("swap").expect(0);
    daemon.wait_generation(2);
    let server = daemon.server();
    let given = environment(server);
    assert_eq!((given["LISTEN_FDS"].as_str(), given["LISTEN_FDNAMES"].as_str()), ("1", "treasure"));
    assert!(fds(server).contains(&(3, place.path("treasure"))), "{:?}", fds(server));
}

/// Two servers that read one connection would each get a part of it.
#[test]
fn while_fds_are_stored_a_swap_stops_the_old_one_first_unless_it_is_told_otherwise() {
    let text = "[ -e DIR/said ] && kill -0 \"$(cat DIR/said)\" && echo both >>DIR/overlaps\n\
                [ -e DIR/said ] || NOTIFY --fd=DIR/main.sh FDSTORE=1\n\
                echo $$ >DIR/said\nNOTIFY --ready\nexec sleep 60\n";
    for (lines, words, overlaps) in [
        ("FileDescriptorStoreMax=1", "supervise stops generation 1 first: it has a stored fd", ""),
        ("FileDescriptorStoreMax=0", "starts beside generation 1", "both\n"),
        ("FileDescriptorStoreMax=1\n[X-Supervise]\nHandover=steered", "still has them", "both\n"),
        ("FileDescriptorStoreMax=1\n[X-Supervise]\nHandover=shared", "still has them", "both\n"),
    ] {
        let place = Place::new();
        let command = script(&place, text);
        place.write("web.socket", "[Socket]\nListenStream=127.0.0.1:0\nFileDescriptorName=web\n");
        let unit = format!("[Service]\nType=notify\nNotifyAccess=all\nExecStart={command}\n{lines}\n");
        place.write("web.service", &unit);
        let mut daemon = Launch::units(&place, &["web.socket"]).args("--bake 0 --ready notify").start();
        daemon.wait_generation(1);
        daemon.verb("swap").expect(0);
        daemon.wait_generation(2);
        assert_eq!(place.read("overlaps"), overlaps, "{lines}");
        assert!(daemon.stderr().contains(words), "{lines}: {}", daemon.stderr());
    }
}

/// The next generation gets it: nobody has to wait for its end.
#[test]
fn a_stored_connection_is_not_drained() {
    let place = Place::new();
    place.write(
        "server.py",
        "import array, os, socket, time\n\
         told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
         told.connect(os.environ['NOTIFY_SOCKET'])\n\
         told.send(b'READY=1')\n\
         if os.environ['LISTEN_FDS'] == '1':\n    \
             client, _ = socket.socket(fileno=3).accept()\n    \
             rights = array.array('i', [client.fileno()])\n    \
             told.sendmsg([b'FDSTORE=1'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])\n    \
             open('stored', 'w').close()\n\
         time.sleep(600)\n",
    );
    place.write("web.socket", "[Socket]\nListenStream=127.0.0.1:0\nFileDescriptorName=http\n");
    let lines = format!("WorkingDirectory={}\nFileDescriptorStoreMax=1", place.path(""));
    let unit = format!("[Service]\nType=notify\nExecStart=/usr/bin/env python3 server.py\n{lines}\n");
    place.write("web.service", &unit);
    let mut daemon = Launch::units(&place, &["web.socket", "web.service"])
        .args("--bake 0 --drain infinity --ready notify")
        .start();
    daemon.wait_generation(1);
    let _client = TcpStream::connect(daemon.address("http")).unwrap();
    wait_for("the connection in the store", || fs::exists(place.path("stored")).unwrap().then_some(()));
    daemon.verb("swap").expect(0);
    daemon.wait_generation(2);
}

/// The log has each warning once, at the swap that first reads the line.
#[test]
fn a_swap_warns_of_what_it_skips() {
    let place = Place::new();
    place.write("web.socket", "[Socket]\nListenStream=127.0.0.1:0\nFileDescriptorName=http\n");
    let unit = "[Service]\nExecStart=/bin/sleep 600\nOld=1\n[X-Supervise]\nReady=exec\n";
    place.write("web.service", unit);
    let mut daemon = Launch::units(&place, &["web.socket", "web.service"]).args("--bake 0").start();
    daemon.wait_generation(1);
    place.write("web.service", &unit.replace("Old=1\n", "Old=1\nNewer=1\n"));
    daemon.verb("swap").expect(0);
    daemon.wait_generation(2);
    daemon.verb("swap").expect(0);
    daemon.wait_generation(3);
    let told = |word: &str| daemon.stderr().lines().filter(|line| line.contains(word)).count();
    assert_eq!((told("Old"), told("Newer")), (1, 1), "{}", daemon.stderr());
}

#[test]
fn output_goes_where_the_unit_says() {
    for (how, before) in [("append", "old text\n"), ("truncate", ""), ("file", "")] {
        let place = Place::new();
        // file: writes over what is there, from its start, and cuts nothing off.
        let old = if how == "file" { "12345" } else { "old text\n" };
        place.write("out", old);
        let out = place.path("out");
        let lines = format!(
            "Type=oneshot\nStandardOutput={how}:{out}\nExecStart=/bin/sh -c 'echo new; echo err >&2'"
        );
        place.write("one.service", &format!("[Service]\n{lines}\n"));
        Launch::units(&place, &["one.service"]).run().expect(0);
        let cut_off = if how == "file" { "" } else { before };
        // StandardError= follows StandardOutput=.
        assert_eq!(place.read("out"), format!("{cut_off}new\nerr\n"), "{how}");
    }
}

#[test]
fn limits_and_open_files_reach_the_server() {
    let place = Place::new();
    place.write("motd", "hello\n");
    socket(&place, &["web.sock"]);
    let open = format!("OpenFile={}:greeting:read-only", place.path("motd"));
    let lines = format!("Type=exec\nExecStart=/bin/sleep 60\nLimitNOFILE=100:200\n{open}");
    place.write("web.service", &format!("[Service]\n{lines}\n[X-Supervise]\nReady=exec\n"));
    let mut daemon = Launch::units(&place, &["web.socket", "web.service"]).start();
    daemon.wait_state("running");
    let server = daemon.server();
    let limits = fs::read_to_string(format!("/proc/{server}/limits")).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["100", "200"]);
    let given = environment(server);
    assert_eq!((given["LISTEN_FDS"].as_str(), given["LISTEN_FDNAMES"].as_str()), ("2", "http:greeting"));
    assert!(fds(server).contains(&(4, place.path("motd"))), "{:?}", fds(server));
}

/// What we tell whoever started us: `supervise` may itself be a unit of Type=notify-reload.
#[test]
fn our_own_manager_hears_of_readiness_reloads_status_and_the_end() {
    let place = Place::new();
    let manager = UnixDatagram::bind(place.path("manager")).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let next = || {
        let mut buffer = [0; 4096];
        let length = manager.recv(&mut buffer).expect("a message to the manager");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let command = script(&place, "NOTIFY --status=hello --ready\nexec sleep 60\n");
    let lines = format!("Type=notify\nNotifyAccess=all\nExecStart={command}\nExecReload=/bin/true");
    place.write("one.service", &format!("[Service]\n{lines}\n"));
    let daemon = Launch::units(&place, &["one.service"]).env("NOTIFY_SOCKET", &place.path("manager")).start();
    assert_eq!((next().as_str(), next().as_str()), ("STATUS=hello", "READY=1"));
    for verb in ["reload", "swap"] {
        daemon.verb(verb).expect(0);
        let reloading = next();
        let at = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&reloading);
        assert!(at.parse::<u64>().is_ok(), "{reloading}");
        assert_eq!(next(), "READY=1", "{verb}");
    }
    daemon.verb("stop").expect(0);
    assert_eq!(next(), "STOPPING=1");
    daemon.end();
}

#[test]
fn ready_notify_lets_a_simple_service_speak() {
    let place = Place::new();
    let mut daemon = start(&place, "ExecStart=/bin/sleep 60\n[X-Supervise]\nReady=notify");
    daemon.wait_until("it runs", |status| status["generations"][0]["pid"].is_number());
    assert!(environment(daemon.server()).contains_key("NOTIFY_SOCKET"), "NotifyAccess= is main, not none");
}

#[test]
fn who_may_not_speak_is_told_no_address() {
    for (options, has_address) in [("-p NotifyAccess=none", false), ("", true)] {
        let place = Place::new();
        let launch = Launch::new(&place).args("--ready exec").args(options).command(&["/bin/sleep", "60"]);
        let mut daemon = launch.start();
        daemon.wait_generation(1);
        assert_eq!(environment(daemon.server()).contains_key("NOTIFY_SOCKET"), has_address, "{options}");
    }
}

/// A worker that ends uses up nothing: who may not speak at all is still told of.
#[test]
fn a_worker_that_says_stopping_is_told_apart() {
    let place = Place::new();
    let text = "NOTIFY --ready\nNOTIFY STOPPING=1\nNOTIFY STOPPING=1\nNOTIFY N''OTIFYACCESS=none\n\
                NOTIFY STATUS=x\nNOTIFY STATUS=y\necho x >DIR/said\nexec sleep 60\n";
    let command = script(&place, text);
    let daemon = start(&place, &format!("Type=notify\nNotifyAccess=all\nExecStart={command}"));
    wait_for("all to be said", || fs::exists(place.path("said")).unwrap().then_some(()));
    let said = daemon.stderr();
    let warnings: Vec<&str> =
        said.lines().filter(|line| line.contains("supervise dropped a notification")).collect();
    assert_eq!(warnings.len(), 2, "{said}");
    assert!(warnings[0].contains("STOPPING=1") && warnings[1].contains("NotifyAccess=none"), "{said}");
}

/// The number of a socket that a swap has closed may be another fd of ours by then.
#[test]
fn an_old_generation_keeps_the_sockets_it_was_started_with() {
    let place = Place::new();
    let stop = format!("ExecStop=/bin/sh -c 'readlink /proc/self/fd/0 >>{}'", place.path("stdin"));
    let lines = |stdin: &str| {
        format!(
            "[Service]\nExecStart=/bin/sleep 60\n{stop}\nStandardInput={stdin}\n[X-Supervise]\nReady=exec\n"
        )
    };
    socket(&place, &["web.sock"]);
    let extra = format!("[Socket]\nListenStream={}\nFileDescriptorName=extra\n", place.path("extra.sock"));
    place.write("extra.socket", &extra.replace("[Socket]", "[Socket]\nService=web.service"));
    place.write("web.service", &lines("fd:extra"));
    let mut daemon = Launch::units(&place, &["web.socket", "extra.socket", "web.service"]).start();
    daemon.wait_state("running");
    let kept = extra.replace(&place.path("extra.sock"), &place.path("other.sock"));
    place.write("extra.socket", &kept.replace("[Socket]", "[Socket]\nService=web.service"));
    place.write("web.service", &lines("null"));
    daemon.verb("swap").expect(0);
    let stdin = place.read("stdin");
    assert!(stdin.starts_with("socket:["), "{stdin}");
}

#[test]
fn a_stop_interrupts_the_commands_of_a_socket() {
    let place = Place::new();
    socket(&place, &["web.sock"]);
    let begun = place.path("begun");
    let wait = format!("ExecStartPre=/bin/sh -c 'echo >{begun}; sleep 60'\nTimeoutSec=infinity\n");
    place.write("web.socket", &format!("{}{wait}", place.read("web.socket")));
    place.write("web.service", "[Service]\nExecStart=/bin/sleep 60\n");
    let daemon = Launch::units(&place, &["web.socket", "web.service"]).start_uncontrolled();
    wait_for("the command", || fs::exists(&begun).unwrap().then_some(()));
    daemon.signal(Signal::SIGTERM);
    let ended = daemon.end();
    assert_eq!(ended.status, 125, "{ended:?}");
    assert!(ended.stderr.contains("interrupted by SIGTERM"), "{ended:?}");
}

/// Forks twice and overwrites its title, and with it the environment that /proc shows.
const DAEMON: &str = "use POSIX; my $p = shift; POSIX::_exit(0) if fork; POSIX::setsid(); POSIX::_exit(0) if fork; \
    $0 = 'x' x 3000; if ($p) { open(my $f, '>', $p); print $f \"$$\\n\"; close $f } sleep 1 while 1;";

#[test]
fn a_daemon_that_forks_twice_under_a_new_title_is_neither_lost_nor_left() {
    for pid_file in [false, true] {
        let place = Place::new();
        place.write("daemon.pl", DAEMON);
        let file = place.path("daemon.pid");
        let command = format!("ExecStart=/usr/bin/perl {}", place.path("daemon.pl"));
        let lines = if pid_file {
            format!("Type=forking\nPIDFile={file}\n{command} {file}")
        } else {
            format!("Type=forking\n{command}")
        };
        let mut daemon = start(&place, &lines);
        daemon.wait_state("running");
        let server = Pid::from_raw(daemon.server());
        daemon.verb("stop").expect(0);
        assert_eq!(daemon.end().status, 0);
        assert!(kill(server, None).is_err(), "PIDFile= {pid_file}: it is stopped");
    }
}

#[test]
fn a_pid_file_that_moves_names_the_successor() {
    let place = Place::new();
    let daemon = "read x <DIR/hand-over; sleep 60 & echo $! >DIR/daemon.pid; echo x >DIR/moved; read x <DIR/end; exit 0";
    let command = script(
        &place,
        &format!("mkfifo DIR/hand-over DIR/end\n{{ {daemon}; }} &\necho $! >DIR/daemon.pid\n"),
    );
    let file = place.path("daemon.pid");
    let mut daemon = start(&place, &format!("Type=forking\nPIDFile={file}\nExecStart={command}"));
    let named = || place.read("daemon.pid").trim().parse::<i32>().unwrap();
    let main = |status: &Value| status["generations"][0]["pid"].clone();
    let status = daemon.wait_state("running");
    let first = named();
    assert_eq!(main(&status), first, "{}", daemon.stderr());
    fs::write(place.path("hand-over"), "x\n").unwrap();
    wait_for("the file to have moved", || fs::exists(place.path("moved")).unwrap().then_some(()));
    assert_eq!(main(&daemon.status()), first, "the first one lives");
    fs::write(place.path("end"), "x\n").unwrap();
    let successor = named();
    let status = daemon.wait_until("the successor is the main process", |status| main(status) == successor);
    assert_eq!(
        (&status["state"], &status["generation"]),
        (&"running".into(), &1.into()),
        "{}",
        daemon.stderr()
    );
}
