use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use super::*;
use crate::config::Signal;
use crate::core::report::{GenerationStatus, LastSwap, Outcome, Role, Status};

/// Long enough for every answer that comes at all.
const LONG: Duration = Duration::from_secs(20);

struct Home(tempfile::TempDir);

/// What a verb did.
#[derive(Debug, PartialEq)]
struct Ran {
    exit: u8,
    out: String,
    err: String,
}

impl Home {
    fn new() -> Self {
        Self(tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap())
    }

    /// An instance that answers every request with these lines and then closes.
    fn instance(&self, name: &str, lines: Vec<Line>) -> JoinHandle<()> {
        let listener = control_socket(&instances::socket_path(self.0.path(), name));
        let text: String = lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = String::new();
                BufReader::new(&stream).read_line(&mut request).unwrap();
                if request.is_empty() {
                    // Somebody looked whether we live.
                    continue;
                }
                stream.write_all(text.as_bytes()).unwrap();
            }
        })
    }

    fn run(&self, verb: &Verb) -> Ran {
        self.run_within(verb, LONG)
    }

    fn run_within(&self, verb: &Verb, patience: Duration) -> Ran {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let places = Places { own: vec![self.0.path().to_owned()], others: Vec::new() };
        let exit = run_in(&places, verb, &mut out, &mut err, patience);
        Ran { exit, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
    }
}

fn control_socket(path: &std::path::Path) -> UnixListener {
    let listener = UnixListener::bind(path).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(instances::CONTROL_MODE)).unwrap();
    listener
}

fn verb(request: Request) -> Verb {
    Verb { task: Task::Ask(request), name: None, control: None, json: false }
}

const STATUS: Request = Request::Status { wait_ns: None };
const SWAP: Request = Request::Swap { wait: true };

fn status(state: State, ready_ms: Option<u64>) -> Status {
    let one = GenerationStatus {
        generation: 1,
        pid: Some(7),
        role: Role::Current,
        since: "2026-01-02T03:04:05Z".to_owned(),
        ready_ms,
        connections: None,
        rss_kb: None,
        status: Some("\u{9b}1m".to_owned()),
        traffic: None,
    };
    Status {
        name: "web".to_owned(),
        pid: 5,
        version: "0".to_owned(),
        state,
        generation: Some(1),
        generations: vec![one],
        sockets: Vec::new(),
        restarts: 0,
        doubt: None,
        before: None,
        last_swap: None,
        next: None,
    }
}

fn status_reply(exit: u8, status: Status) -> Vec<Line> {
    vec![Line::Reply(Reply { exit, status: Some(Box::new(status)), ..Reply::done("") })]
}

#[test]
fn progress_and_the_answer_go_to_stdout() {
    let home = Home::new();
    let lines = vec![Line::Note("started\x1b[2J".to_owned()), Line::Reply(Reply::failed("rolled back"))];
    home.instance("web", lines);
    let ran = home.run(&verb(SWAP));
    assert_eq!(ran, Ran { exit: 1, out: "started\u{fffd}[2J\nrolled back\n".to_owned(), err: String::new() });
}

#[test]
fn json_is_the_object_alone() {
    let home = Home::new();
    let swap = LastSwap {
        from: Some(1),
        to: Some(2),
        outcome: Outcome::RolledBack,
        reason: Some("it died".to_owned()),
        ready_ms: None,
        drain_ms: None,
        cut: None,
        closed_idle: None,
    };
    let reply = Reply { swap: Some(swap.clone()), ..Reply::failed("rolled back") };
    home.instance("web", vec![Line::Note("started".to_owned()), Line::Reply(reply)]);
    let ran = home.run(&Verb { json: true, ..verb(SWAP) });
    assert_eq!(ran.exit, 1);
    assert_eq!(serde_json::from_str::<LastSwap>(&ran.out).unwrap(), swap);
    assert!(ran.out.contains("\"rolled-back\"") && ran.err.is_empty());
}

#[test]
fn a_swap_that_was_not_begun_is_an_object_too() {
    let home = Home::new();
    home.instance("web", vec![Line::Reply(Reply::failed("paused: use resume"))]);
    let ran = home.run(&Verb { json: true, ..verb(SWAP) });
    let object: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.exit, ran.err.as_str()), (1, ""));
    assert_eq!((&object["outcome"], &object["reason"]), (&"refused".into(), &"paused: use resume".into()));
}

#[test]
fn the_status_of_a_health_check() {
    let cases = [
        (State::Listening, None, 0),
        (State::Running, Some(3), 0),
        (State::Swapping, Some(3), 0),
        (State::Starting, None, 1),
        (State::Starting, Some(3), 1),
        (State::Paused, None, 1),
    ];
    for (state, ready_ms, exit) in cases {
        let home = Home::new();
        home.instance("web", status_reply(exit, status(state, ready_ms)));
        let ran = home.run(&verb(STATUS));
        assert_eq!(ran.exit, exit, "{state:?}");
        assert!(ran.out.starts_with("web (pid 5): "), "{}", ran.out);
        let json = home.run(&Verb { json: true, ..verb(STATUS) });
        assert_eq!(json.exit, exit);
        assert_eq!(json.out.lines().count(), 1);
        assert!(json.out.contains("\\u009b1m") && !json.out.contains('\u{9b}'));
        assert_eq!(serde_json::from_str::<Status>(&json.out).unwrap(), status(state, ready_ms));
    }
}

#[test]
fn status_waits_for_an_instance_that_is_not_up_yet() {
    let home = Home::new();
    let wait = |span: Duration| verb(Request::Status { wait_ns: u64::try_from(span.as_nanos()).ok() });
    let (begun, span) = (Instant::now(), Duration::from_millis(120));
    let ran = home.run(&wait(span));
    assert!(begun.elapsed() >= span, "it gave up after {:?}", begun.elapsed());
    assert_eq!((ran.exit, ran.err.contains("no instance of this user runs")), (3, true), "{ran:?}");

    let control = home.0.path().join("web.sock");
    drop(UnixListener::bind(&control).unwrap());
    for late in [
        wait(LONG),
        Verb { name: Some("web".to_owned()), ..wait(LONG) },
        Verb { control: Some(control.clone()), ..wait(LONG) },
    ] {
        let home = &home;
        thread::scope(|scope| {
            let waiting = scope.spawn(move || home.run(&late));
            // What a supervisor left behind that was killed is replaced.
            std::fs::remove_file(&control).unwrap();
            let listener = control_socket(&control);
            let text = serde_json::to_string(&status_reply(0, status(State::Running, Some(3)))[0]).unwrap();
            while !waiting.is_finished() {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = String::new();
                BufReader::new(&stream).read_line(&mut request).unwrap();
                if !request.is_empty() {
                    writeln!(stream, "{text}").unwrap();
                    break;
                }
            }
            let ran = waiting.join().unwrap();
            assert_eq!((ran.exit, ran.out.starts_with("web (pid 5): ")), (0, true), "{ran:?}");
        });
    }
}

#[test]
fn the_instance_is_found_or_its_absence_explained() {
    let home = Home::new();
    let ran = home.run(&verb(STATUS));
    assert_eq!((ran.exit, ran.out.as_str()), (3, ""));
    assert!(ran.err.contains("no instance of this user runs"));
    let control = home.0.path().join("b.sock");
    assert_eq!(home.run(&Verb { control: Some(control.clone()), ..verb(STATUS) }).exit, 3);

    home.instance("b", vec![Line::Reply(Reply::done("I am b"))]);
    home.instance("a", vec![Line::Reply(Reply::done("I am a"))]);
    let ran = home.run(&verb(Request::Pause));
    assert_eq!(ran.exit, 1);
    assert!(ran.err.contains("name one of them: a, b"), "{}", ran.err);
    assert_eq!(home.run(&Verb { name: Some("a".to_owned()), ..verb(Request::Pause) }).out, "I am a\n");
    assert_eq!(home.run(&Verb { control: Some(control), ..verb(Request::Pause) }).out, "I am b\n");
    let ran = home.run(&Verb { name: Some("c".to_owned()), ..verb(Request::Pause) });
    assert_eq!(ran.exit, 3);
    assert!(ran.err.contains("under the name c (there is: a, b)"), "{}", ran.err);
}

#[test]
fn a_connection_that_ends_early_is_a_failure() {
    let home = Home::new();
    home.instance("web", vec![Line::Note("stopping".to_owned())]);
    let ran = home.run(&verb(Request::Stop));
    assert_eq!((ran.exit, ran.out.as_str()), (1, "stopping\n"));
    assert!(ran.err.contains("ended before the answer"), "{}", ran.err);
}

#[test]
fn an_answer_of_another_version_is_a_failure() {
    let home = Home::new();
    let listener = UnixListener::bind(home.0.path().join("x")).unwrap();
    let answering = thread::spawn(move || {
        // The first connection only asks who lives.
        let (_, (mut stream, _)) = (listener.accept().unwrap(), listener.accept().unwrap());
        stream.write_all(b"{\"odd\":1}\n").unwrap();
    });
    let ran = home.run(&Verb { control: Some(home.0.path().join("x")), ..verb(Request::Stop) });
    answering.join().unwrap();
    assert_eq!(ran.exit, 1);
    assert!(ran.err.contains("cannot understand the answer"), "{}", ran.err);
}

#[test]
fn a_stopped_supervisor_holds_up_no_question() {
    let home = Home::new();
    let path = home.0.path().join("web.sock");
    let _stopped = control_socket(&path);
    let short = Duration::from_millis(50);
    for request in [
        STATUS,
        Request::Status { wait_ns: Some(1000) },
        Request::Kill { signal: Signal::TERM },
        Request::Swap { wait: false },
    ] {
        let ran = home.run_within(&verb(request), short);
        assert_eq!(ran.exit, 1);
        assert!(ran.err.contains(&format!("kill -CONT {}", std::process::id())), "{}", ran.err);
    }
    let list = Verb { task: Task::List, ..verb(STATUS) };
    let ran = home.run_within(&list, short);
    assert_eq!(ran.exit, 0);
    assert!(ran.out.contains("does not answer"), "{}", ran.out);

    // Its backlog is full: not even the connection comes about, whatever the verb.
    let mut held = Vec::new();
    while let Ok(stream) = instances::connect(&path, Duration::ZERO) {
        held.push(stream);
    }
    let ran = home.run_within(&verb(Request::Stop), short);
    assert_eq!(ran.exit, 1);
    assert!(ran.err.contains("did not answer within"), "{}", ran.err);
}

#[test]
fn stop_returns_when_the_connection_ends() {
    let home = Home::new();
    let path = home.0.path().join("x");
    let listener = UnixListener::bind(&path).unwrap();
    let stopping = thread::spawn(move || {
        // The first connection only asks who lives.
        let (_, (mut stream, _)) = (listener.accept().unwrap(), listener.accept().unwrap());
        BufReader::new(&stream).read_line(&mut String::new()).unwrap();
        let mut line = serde_json::to_vec(&Line::Reply(Reply::done("stopped"))).unwrap();
        line.push(b'\n');
        stream.write_all(&line).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let left = stream.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(left, Err(io::ErrorKind::WouldBlock), "the verb did not wait for the end");
    });
    let ran = home.run(&Verb { control: Some(path), ..verb(Request::Stop) });
    assert_eq!(ran, Ran { exit: 0, out: "stopped\n".to_owned(), err: String::new() });
    stopping.join().unwrap();
}

#[test]
fn verbs_that_wait_do_so() {
    for request in [SWAP, Request::Restart, Request::Pause, Request::Resume, Request::Stop] {
        assert_eq!(allowance(&request, LONG), None);
    }
    assert_eq!(allowance(&Request::Status { wait_ns: Some(u64::MAX) }, Duration::MAX), None);
}

#[test]
fn list_shows_the_living() {
    let home = Home::new();
    let list = Verb { task: Task::List, ..verb(STATUS) };
    assert_eq!(home.run(&list).out, "no instance of this user runs\n");
    assert_eq!(home.run(&Verb { json: true, ..list.clone() }).out, "[]\n");

    drop(control_socket(&home.0.path().join("stale.sock")));
    // A server's own is no instance, however it is asked for.
    let _server = UnixListener::bind(home.0.path().join("server.sock")).unwrap();
    let ran = home.run(&Verb { name: Some("server".to_owned()), ..verb(STATUS) });
    assert_eq!((ran.exit, ran.err.contains("nothing runs under the name server")), (3, true), "{ran:?}");
    home.instance("web", status_reply(0, status(State::Running, Some(1))));
    let ran = home.run(&list);
    assert_eq!(ran.exit, 0);
    let pid = std::process::id();
    let expected = ["NAME PID STATE SOCKET".to_owned(), format!("web {pid} running -")];
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(ran.out.lines().map(words).collect::<Vec<_>>(), expected);
    let ran = home.run(&Verb { json: true, ..list });
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(json[0]["name"], "web");
    assert_eq!(json[0]["state"], "running");
    assert_eq!(json[0]["pid"], pid);
    assert_eq!(json[0]["owner"], std::os::unix::fs::MetadataExt::uid(&home.0.path().metadata().unwrap()));
    assert_eq!(json[0]["control"], home.0.path().join("web.sock").to_str().unwrap());
}

#[test]
fn a_reader_that_went_away_changes_nothing_a_full_disk_does() {
    struct Broken(io::ErrorKind);
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    assert!(say(&mut Broken(io::ErrorKind::BrokenPipe), "x").is_ok());
    assert!(say(&mut Broken(io::ErrorKind::StorageFull), "x").is_err());
}
