//! Plans as real processes: what they wrote is looked at.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::unistd::getuid;
use tempfile::TempDir;

use super::*;
use crate::config::{
    Config, Directory, EnvironmentFile, Input, Launch, OpenFile, OpenMode, Output, Search, Signal,
};
use crate::core::RunResult;
use crate::os::{spawn, sys};

/// A service whose commands are scripts of sh in a directory of their own.
struct Service {
    launch: Launch,
    place: TempDir,
    sockets: Vec<NamedSocket>,
    stored: Vec<(String, RawFd)>,
    outcome: Option<RunOutcome>,
}

impl Service {
    fn new(script: &str) -> Self {
        let place = tempfile::tempdir().expect("a directory");
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
        let mut launch = Config::for_units().launch;
        let directory = DirectoryPath::Path(place.path().to_owned());
        launch.directory = Some(Directory { path: directory, optional: false });
        launch.notify_access = NotifyAccess::All;
        launch.commands.start = vec![script_exec(script)];
        launch.commands.stop_post = vec![script_exec(script)];
        Self { launch, place, sockets: Vec::new(), stored: Vec::new(), outcome: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn plan(&self, list: CommandList) -> Result<Plan, StartFailure> {
        let launcher = Launcher::new(self.launch.clone(), Span::from_secs(9), &self.sockets);
        launcher.expect("placeholders").plan(&StartRequest {
            generation: Some((GenerationId(3), "@notify")),
            command: Command { list, index: 0 },
            main_pid: (list != CommandList::Start).then_some(4711),
            outcome: self.outcome,
            stored: &self.stored,
            slot: SlotId(0),
        })
    }

    #[track_caller]
    fn run(&self, list: CommandList) -> Exit {
        let plan = self.plan(list).unwrap_or_else(|failure| panic!("{}", failure.what));
        let child = spawn::spawn(&plan).unwrap_or_else(|failure| panic!("{}", failure.what));
        sys::wait_for(&child.pidfd).expect("ours").exit
    }

    #[track_caller]
    fn start(&self) {
        assert_eq!(self.run(CommandList::Start), Exit::Code(0));
    }

    #[track_caller]
    fn refused(&self) -> StartFailure {
        self.plan(CommandList::Start).expect_err("must not start")
    }

    /// A held socket, and a client of it.
    fn listen(&mut self, name: &str) -> PathBuf {
        let path = self.path(&format!("{name}.sock"));
        let listener = UnixListener::bind(&path).expect("binds");
        self.hold(name, listener.into());
        path
    }

    fn hold(&mut self, name: &str, fd: OwnedFd) {
        self.sockets.push(NamedSocket::of(name, fd));
    }
}

fn script_exec(script: &str) -> Exec {
    exec(&["/bin/sh", "-c", script, "sh"])
}

fn exec(words: &[&str]) -> Exec {
    let exec = Exec::plain(words.iter().map(OsString::from).collect());
    Exec { search: Search::Fixed, place: "web.service:7".to_owned(), ..exec }
}

#[test]
fn sockets_stored_fds_and_open_files_are_passed_in_this_order_to_exec_start_alone() {
    let mut service = Service::new(
        "env | grep -E '^(LISTEN_FD|FDSTORE|WATCHDOG_USEC|NOTIFY)' | sort >out; readlink /proc/$$/fd/5 >>out",
    );
    service.listen("web");
    let stored = fs::File::open("/").expect("opens");
    service.stored = vec![("kept".to_owned(), stored.as_raw_fd())];
    service.launch.fd_store_max = 7;
    fs::write(service.path("data"), "x").expect("writes");
    let open =
        |path: PathBuf, graceful| OpenFile { path, name: "data".into(), mode: OpenMode::ReadOnly, graceful };
    service.launch.open_files = vec![open(service.path("none"), true), open(service.path("data"), false)];
    service.start();
    let text = service.read("out");
    let data = service.path("data").display().to_string();
    let want = [
        "FDSTORE=7",
        "LISTEN_FDNAMES=web:kept:data",
        "LISTEN_FDS=3",
        "NOTIFY_SOCKET=@notify",
        "WATCHDOG_USEC=9000000",
        &data,
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), want);
    assert_eq!(service.run(CommandList::StopPost), Exit::Code(1), "no fd 5");
    assert_eq!(service.read("out"), "NOTIFY_SOCKET=@notify\n");
    service.launch.open_files[0].graceful = false;
    let failure = service.refused();
    assert_eq!((failure.stage, failure.errno), (Stage::OpenFile, libc::ENOENT), "{}", failure.what);
}

#[test]
fn the_only_socket_becomes_stdin_and_stdout() {
    let mut service =
        Service::new("read line; [ -e /proc/$$/fd/3 ] && open=3; echo \"got $line/$LISTEN_FDS/$open\"");
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    service.hold("web", theirs.into());
    service.launch.stdin = Input::Socket;
    service.launch.stdout = Output::Inherit;
    (&ours).write_all(b"hello\n").expect("writes");
    service.start();
    service.sockets.clear();
    let failure = service.refused();
    assert_eq!(failure.stage, Stage::Stdin);
    assert_eq!(failure.what, "StandardInput=socket: needs exactly one socket, and there are 0");
    let mut text = String::new();
    (&ours).read_to_string(&mut text).expect("reads");
    assert_eq!(text, "got hello//\n");
}

#[test]
fn sockets_by_name_become_outputs() {
    let mut service = Service::new("echo out; echo err >&2");
    let (out, their_out) = UnixStream::pair().expect("a pair");
    let (err, their_err) = UnixStream::pair().expect("a pair");
    service.hold("o", their_out.into());
    service.hold("e", their_err.into());
    (service.launch.stdout, service.launch.stderr) = (Output::Fd("o".into()), Output::Fd("e".into()));
    service.start();
    service.sockets.clear();
    for (mut socket, expected) in [(out, "out\n"), (err, "err\n")] {
        let mut text = String::new();
        socket.read_to_string(&mut text).expect("reads");
        assert_eq!(text, expected);
    }
    let failure = service.refused();
    assert_eq!(failure.stage, Stage::Stdout);
    assert!(failure.what.starts_with("StandardOutput=fd:o: no socket has this name"), "{}", failure.what);
}

#[test]
fn output_files_are_appended_to_cut_off_or_written_over() {
    let mut service = Service::new("echo new; echo bad >&2");
    let path = service.path("log");
    let old = "0123456789abcdef\n";
    let cases = [
        (Output::Append(path.clone()), format!("{old}new\nbad\n")),
        (Output::Truncate(path.clone()), "new\nbad\n".to_owned()),
        (Output::File(path.clone()), "new\nbad\n89abcdef\n".to_owned()),
    ];
    for (output, expected) in cases {
        fs::write(&path, old).expect("writes");
        (service.launch.stdout, service.launch.stderr) = (output.clone(), output.clone());
        service.start();
        assert_eq!(service.read("log"), expected, "{output:?}");
        fs::write(&path, old).expect("writes");
        service.launch.stderr = Output::Inherit;
        service.start();
        assert_eq!(service.read("log"), expected, "{output:?}, inherited");
    }
    (service.launch.stdout, service.launch.stderr) = (Output::Null, Output::Inherit);
    service.start();
    assert_eq!(fs::read_to_string(&path).expect("there").len(), old.len());
    service.launch.stdout = Output::Append(service.path("none/log"));
    let failure = service.refused();
    assert_eq!((failure.stage, failure.errno), (Stage::Stdout, libc::ENOENT));
    assert!(failure.what.contains("create it, or the directory"), "{}", failure.what);
    service.launch.stdout = Output::Ours;
    service.launch.stderr = Output::Append("/proc/self/nothing".into());
    assert_eq!(service.refused().stage, Stage::Stderr);
}

#[test]
fn a_new_output_file_has_the_umask_of_the_unit() {
    let mut service = Service::new("echo x");
    service.launch.umask = Some(0o027);
    service.launch.stdout = Output::File(service.path("log"));
    service.start();
    let meta = fs::metadata(service.path("log")).expect("made");
    assert_eq!(meta.mode() & 0o777, 0o640);
}

#[test]
fn an_output_that_nobody_reads_holds_nothing_up() {
    let mut service = Service::new("echo x");
    // One each: what another test forks at this moment may hold an fd a little longer, and would be its reader.
    for (name, output) in [
        ("file", Output::File as fn(PathBuf) -> Output),
        ("append", Output::Append),
        ("cut", Output::Truncate),
    ] {
        let fifo = service.path(name);
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        service.launch.stdout = output(fifo);
        service.start();
    }
    let socket = service.path("log.sock");
    let listener = UnixListener::bind(&socket).expect("binds");
    service.launch.stdout = Output::File(socket);
    service.start();
    let mut text = String::new();
    listener.accept().expect("was connected to").0.read_to_string(&mut text).expect("reads");
    assert_eq!(text, "x\n");
}

#[test]
fn stdin_is_a_file_or_data() {
    let mut service = Service::new("cat >out");
    service.launch.stdin = Input::Data(b"one\ntwo\n".to_vec());
    service.start();
    assert_eq!(service.read("out"), "one\ntwo\n");
    fs::write(service.path("in"), "three").expect("writes");
    service.launch.stdin = Input::File(service.path("in"));
    service.start();
    assert_eq!(service.read("out"), "three");
    service.launch.stdin = Input::File(service.path("none"));
    assert_eq!(service.refused().stage, Stage::Stdin);
    service.launch.commands.start = vec![script_exec("read x; echo \"$x four\" >&0; echo five")];
    (service.launch.stdin, service.launch.stdout) =
        (Input::File(service.path("in")), Output::File(service.path("in")));
    fs::write(service.path("in"), "three\n").expect("writes");
    service.start();
    assert_eq!(service.read("in"), "three\nthree four\nfive\n", "one open file for both");
}

#[test]
fn the_environment_is_built_in_systemd_s_order() {
    let mut service = Service::new("env | sort >out");
    for (name, text) in [("20.env", "A=file20\nB=file20\n"), ("10.env", "A=file10\nC=file10\nGONE=1\n")] {
        fs::write(service.path(name), text).expect("writes");
    }
    let launch = &mut service.launch;
    launch.inherit_environment = false;
    launch.pass_environment = vec!["CARGO_PKG_NAME".into(), "NOT_THERE".into()];
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    launch.environment = vec![set("A", "env"), set("D", "env"), set("KEPT", "1"), set("NOTIFY_SOCKET", "x")];
    launch.environment_files =
        vec![EnvironmentFile { path: service.place.path().join("*.env"), optional: false }];
    launch.unset_environment =
        ["GONE", "KEPT=2", "NOTIFY_SOCKET", "_", "SHLVL", "OLDPWD", "LANG"].map(str::to_owned).into();
    service.launch.commands.start = vec![script_exec("env -u _ -u SHLVL -u OLDPWD >out")];
    service.start();
    let text = service.read("out");
    let mut lines: Vec<_> = text.lines().filter(|line| !line.starts_with("WATCHDOG_PID=")).collect();
    lines.sort_unstable();
    let place = format!("PWD={}", service.place.path().display());
    let passed = env::var("CARGO_PKG_NAME").map(|value| format!("CARGO_PKG_NAME={value}"));
    let path = format!("PATH={FIXED_PATH}");
    let mut want = vec![
        "A=file20",
        "B=file20",
        "C=file10",
        "D=env",
        "KEPT=1",
        &path,
        &place,
        "SUPERVISE_GENERATION=3",
        "WATCHDOG_USEC=9000000",
    ];
    want.extend(passed.iter().map(String::as_str));
    want.sort_unstable();
    assert_eq!(lines, want);
    service.launch.environment_files[0].path = service.path("*.none");
    assert!(service.refused().what.contains("no environment file matches"), "{}", service.refused().what);
    service.launch.environment_files[0].optional = true;
    service.start();
}

#[test]
fn stop_commands_know_the_outcome() {
    let mut service =
        Service::new("echo $MAINPID $SERVICE_RESULT $EXIT_CODE $EXIT_STATUS $LISTEN_FDS $WATCHDOG_USEC >out");
    service.listen("web");
    let signal = |core| Some(Exit::Signal { signal: Signal::ABRT, core });
    let cases = [
        (RunResult::Success, Some(Exit::Code(0)), "4711 success exited 0\n"),
        (RunResult::Watchdog, signal(false), "4711 watchdog killed ABRT\n"),
        (RunResult::CoreDump, signal(true), "4711 core-dump dumped ABRT\n"),
        (RunResult::Resources, None, "4711 resources\n"),
    ];
    for (result, status, expected) in cases {
        service.outcome = Some(RunOutcome { result, status });
        assert_eq!(service.run(CommandList::StopPost), Exit::Code(0));
        assert_eq!(service.read("out"), expected);
    }
}

#[test]
fn words_are_expanded_from_the_environment_of_the_process() {
    let mut service = Service::new("");
    let words = [
        "/bin/sh",
        "-c",
        "printf '%s|' \"$$@\" >out",
        "sh",
        "$LIST",
        "${LIST}",
        "$NONE",
        "a$LIST",
        "{fd:web}",
        "$MAINPID",
    ];
    service.launch.commands.start = vec![Exec { expands: true, ..exec(&words) }];
    service.launch.commands.stop_post = service.launch.commands.start.clone();
    service.launch.environment = vec![("LIST".into(), "x  'y z'".into())];
    service.listen("web");
    service.start();
    assert_eq!(service.read("out"), "x|y z|x  'y z'|a$LIST|3|");
    service.launch.commands.start[0].expands = false;
    service.launch.commands.start[0].words[2] = "printf '%s|' \"$@\" >out".into();
    service.start();
    assert_eq!(service.read("out"), "$LIST|${LIST}|$NONE|a$LIST|3|$MAINPID|");
    assert_eq!(service.run(CommandList::StopPost), Exit::Code(0));
    assert!(service.read("out").ends_with("|4711|"), "{}", service.read("out"));
}

#[test]
fn programs_are_looked_for_where_it_was_said() {
    let mut service = Service::new("");
    let program = service.path("tool");
    fs::write(&program, "#!/bin/sh\necho \"$0 $1 $PATH\" >out\n").expect("writes");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
    let here = service.place.path().display().to_string();
    service.launch.commands.start = vec![exec(&["tool", "x"])];
    service.launch.environment = vec![("PATH".into(), here.clone())];
    let failure =
        spawn::spawn(&service.plan(CommandList::Start).expect("a plan")).expect_err("not in PATH's stead");
    assert!(failure.what.starts_with("web.service:7: cannot execute tool: "), "{}", failure.what);
    assert!(failure.what.contains(&format!("nowhere in {FIXED_PATH}")), "{}", failure.what);
    service.launch.environment.clear();
    service.launch.search_path = vec!["/nowhere".into(), here.clone().into()];
    service.start();
    assert_eq!(service.read("out"), format!("{here}/tool x /nowhere:{here}\n"));
    // With the prefix `@` the first argument is the name that the program sees.
    service.launch.commands.start =
        vec![Exec { path: "/bin/sh".into(), ..exec(&["name", "-c", "echo $0 >out"]) }];
    service.start();
    assert_eq!(service.read("out"), "name\n");
}

#[test]
fn the_directory_may_be_missing_or_home() {
    let mut service = Service::new("");
    service.launch.commands.start =
        vec![exec(&["sh", "-c", "test \"$(pwd -P)\" = \"$0\" && test \"$PWD\" = \"$0\"", "/"])];
    service.launch.directory =
        Some(Directory { path: DirectoryPath::Path("/no/such".into()), optional: true });
    service.start();
    let home = env::var("HOME").expect("a home");
    service.launch.commands.start[0].words[3] = home.into();
    service.launch.directory = Some(Directory { path: DirectoryPath::Home, optional: false });
    service.start();
}

#[test]
fn a_user_s_process_and_one_with_full_privileges() {
    if !getuid().is_root() {
        return;
    }
    let mut service = Service::new("echo $(id -un) $USER $LOGNAME >out; echo log");
    service.launch.user = Some("nobody".into());
    fs::create_dir(service.path("closed")).expect("mkdir");
    fs::set_permissions(service.path("closed"), fs::Permissions::from_mode(0o700)).expect("chmod");
    service.launch.stdout = Output::Append(service.path("closed/log"));
    service.start();
    assert_eq!(service.read("out"), "nobody nobody nobody\n");
    assert_eq!(service.read("closed/log"), "log\n", "opened with our rights");
    service.launch.commands.start[0].privileges = Privileges::Full;
    service.start();
    assert_eq!(service.read("out"), "root nobody nobody\n");
}

#[test]
fn a_command_is_run_to_its_end() {
    let launch = Config::for_units().launch;
    let run = |script: &str| run_to_end(&launch, &script_exec(script), Span::from_secs(5), None);
    assert_eq!(run("true"), Ok(()));
    let error = run("exit 3").expect_err("fails");
    assert!(error.starts_with("web.service:7: /bin/sh: ended with status 3 ("), "{error}");
    let error = run("kill -9 $$").expect_err("fails");
    assert_eq!(error, "web.service:7: /bin/sh: was ended by SIGKILL");
    let error = run_to_end(&launch, &exec(&["/no/such"]), Span::INFINITY, None).expect_err("fails");
    assert!(error.starts_with("web.service:7: cannot execute /no/such: "), "{error}");
    let start = std::time::Instant::now();
    let slow = script_exec("sleep 60 & sleep 60");
    let error = run_to_end(&launch, &slow, Span::from_millis(50), None).expect_err("too slow");
    assert!(error.contains("not done after") && start.elapsed().as_secs() < 30, "{error}");
}

#[test]
fn what_is_wrong_is_told_before_anything_is_bound() {
    let told = |change: fn(&mut Config)| {
        let mut config = Config::for_units();
        config.launch.commands.start = vec![exec(&["true"])];
        change(&mut config);
        check(&config.launch)
    };
    assert_eq!(told(|_| {}), Ok(()));
    type Change = fn(&mut Config);
    let cases: [(Change, &str); 6] = [
        (|config| config.launch.user = Some("no-such-user".into()), "no user \"no-such-user\""),
        (|config| config.launch.supplementary_groups = vec!["no-such".into()], "no group \"no-such\""),
        (
            |config| {
                config.launch.places.insert("WorkingDirectory".into(), "web.service:4".to_owned());
                config.launch.directory =
                    Some(Directory { path: DirectoryPath::Path("/no/such".into()), optional: false })
            },
            "web.service:4: WorkingDirectory=/no/such: there is no such directory",
        ),
        (
            |config| {
                config.launch.directory =
                    Some(Directory { path: DirectoryPath::Path("/dev/null".into()), optional: false })
            },
            "-C /dev/null: is no directory",
        ),
        (
            |config| {
                config.launch.environment_files =
                    vec![EnvironmentFile { path: "/no/such/*.env".into(), optional: false }]
            },
            "no environment file matches /no/such/*.env",
        ),
        (
            |config| {
                config.launch.places.insert("User".into(), "web.service:5".to_owned());
                config.launch.user = Some("no-such-user".to_owned());
            },
            "web.service:5: no user",
        ),
    ];
    for (change, sentence) in cases {
        let error = told(change).expect_err(sentence);
        assert!(error.starts_with(sentence), "{error}");
    }
    let made = |config: &mut Config| {
        config.launch.directories.state.names = vec!["no-such-app".into()];
        let path = directories::path_of_state("no-such-app");
        config.launch.directory = Some(Directory { path: DirectoryPath::Path(path), optional: false });
    };
    assert_eq!(told(made), Ok(()), "it is made before the start");
    assert_eq!(
        told(|config| config.launch.environment_files =
            vec![EnvironmentFile { path: "/no/such".into(), optional: true }]),
        Ok(())
    );
}
