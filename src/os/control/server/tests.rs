use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mio::{Events, Poll};

use super::*;
use crate::config::Instance;

/// Longer than any step takes, on any machine; a test that comes to wait this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    server: ControlServer,
    poll: Poll,
    home: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let home = tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap();
        let dirs = vec![home.path().to_owned()];
        let socket = ControlSocket::open_in(dirs, &Instance::default(), "node", false).unwrap().unwrap();
        let poll = Poll::new().unwrap();
        let mut server = ControlServer::new(socket, poll.registry(), Token(7)).unwrap();
        server.begin();
        Self { server, poll, home }
    }

    fn path(&self) -> PathBuf {
        self.home.path().join("node.sock")
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn ask(&self, line: &str) -> UnixStream {
        let mut stream = self.connect();
        stream.write_all(line.as_bytes()).unwrap();
        stream
    }

    /// One round of the loop for whatever is ready already.
    fn turn(&mut self) -> Vec<Event> {
        let mut events = Events::with_capacity(256);
        let mut found = Vec::new();
        self.poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        for event in &events {
            found.extend(self.server.ready(event.token()));
        }
        found
    }

    /// Turns until nothing is ready. All that a test did to its sockets before has its effect here: unix sockets have no
    /// latency.
    fn settle(&mut self) -> Vec<Event> {
        let mut found = self.turn();
        loop {
            let mut events = Events::with_capacity(256);
            self.poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            if events.is_empty() {
                return found;
            }
            for event in &events {
                found.extend(self.server.ready(event.token()));
            }
        }
    }

    fn requested(&mut self) -> ClientId {
        match self.settle().as_slice() {
            [Event::Requested { client, .. }] => *client,
            other => panic!("{other:?}"),
        }
    }

    fn connected(&self) -> usize {
        self.server.clients.iter().flatten().count()
    }
}

/// What comes after the acceptance of the request.
fn lines(stream: &UnixStream) -> Vec<Line> {
    let lines = BufReader::new(stream).lines();
    let mut lines: Vec<Line> = lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    if lines.first() == Some(&Line::Accepted) {
        lines.remove(0);
    }
    assert!(!lines.contains(&Line::Accepted));
    lines
}

fn failure(stream: &UnixStream) -> String {
    match lines(stream).pop() {
        Some(Line::Reply(reply)) if reply.exit == 1 => reply.text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_gets_progress_and_one_reply() {
    let mut bench = Bench::new();
    let client = bench.ask("{\"verb\":\"swap\",\"wait\":true}\n");
    let id = match bench.settle().as_slice() {
        [Event::Requested { client, request: Request::Swap { wait: true } }] => *client,
        other => panic!("{other:?}"),
    };
    bench.server.note_all("candidate 2 started", false);
    bench.server.reply(id, Reply::done("swapped"));
    bench.server.reply(id, Reply::done("twice"));
    bench.server.note_all("too late", false);
    let expected = [Line::Note("candidate 2 started".to_owned()), Line::Reply(Reply::done("swapped"))];
    assert_eq!(lines(&client), expected);
    assert_eq!(bench.connected(), 0);
    assert_eq!(bench.settle(), []);
}

#[test]
fn a_request_may_come_in_pieces_and_a_status_wants_no_progress() {
    let mut bench = Bench::new();
    let mut client = bench.ask("{\"verb\":\"status\",");
    assert_eq!(bench.settle(), []);
    client.write_all(b"\"wait_ns\":null}").unwrap();
    assert_eq!(bench.settle(), []);
    client.write_all(b"\n").unwrap();
    let id = bench.requested();
    bench.server.note_all("a swap of somebody else", false);
    bench.server.reply(id, Reply::done("fine"));
    assert_eq!(lines(&client), [Line::Reply(Reply::done("fine"))]);
}

#[test]
fn a_client_that_leaves_is_reported_once() {
    let mut bench = Bench::new();
    let client = bench.ask("{\"verb\":\"stop\"}\n");
    let id = bench.requested();
    drop(client);
    bench.server.note_all("stopping", false);
    assert_eq!(bench.settle(), [Event::ClientGone { client: id }]);
    assert_eq!(bench.settle(), []);
    bench.server.reply(id, Reply::done("stopped"));

    let half = bench.ask("{\"verb\":\"restart\"}\n");
    half.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(bench.settle(), [], "who left before it was read does not want it any more");
    let other = bench.ask("{\"verb\":\"restart\"}\n");
    assert_ne!(bench.requested(), id, "ids are not used again");
    drop(other);
    assert!(matches!(bench.settle().as_slice(), [Event::ClientGone { .. }]));

    drop(bench.ask("{\"verb\""));
    assert_eq!(bench.settle(), [], "nobody knew of it");
    assert_eq!(bench.connected(), 0);
}

#[test]
fn rubbish_gets_a_sentence() {
    let mut bench = Bench::new();
    for (line, why) in [
        ("hello\n", "cannot understand the request"),
        ("\n", "cannot understand the request"),
        ("{\"verb\":\"fly\"}\n", "unknown variant"),
        ("{\"verb\":\"kill\",\"signal\":0}\n", "0 is no signal"),
        ("{\"verb\":\"kill\",\"signal\":2000000000}\n", "is no signal"),
    ] {
        let client = bench.ask(line);
        assert_eq!(bench.settle(), [], "{line}");
        let text = failure(&client);
        assert!(text.contains(why), "{line}: {text}");
    }
    let mut deep = bench.connect();
    deep.write_all("[".repeat(4000).as_bytes()).unwrap();
    deep.write_all(b"\n").unwrap();
    bench.settle();
    assert!(failure(&deep).contains("cannot understand the request"));
    let mut binary = bench.connect();
    binary.write_all(&[0, 0xff, b'\n']).unwrap();
    bench.settle();
    assert!(failure(&binary).contains("cannot understand the request"));
    assert_eq!(bench.connected(), 0);
}

#[test]
fn a_line_too_long_is_refused_and_a_longest_one_is_not() {
    let mut bench = Bench::new();
    let request = "{\"verb\":\"pause\"}";
    let padded = |bytes: usize| format!("{request}{}\n", " ".repeat(bytes - request.len() - 1));
    let client = bench.ask(&padded(REQUEST_BYTES));
    let id = bench.requested();
    bench.server.reply(id, Reply::done(""));
    assert_eq!(lines(&client).len(), 1);

    for line in [padded(REQUEST_BYTES + 1), "x".repeat(REQUEST_BYTES), "x".repeat(100_000)] {
        let client = bench.ask(&line);
        assert_eq!(bench.settle(), []);
        // The reply was sent before the connection was closed upon the unread rest.
        let mut line = String::new();
        BufReader::new(&client).read_line(&mut line).unwrap();
        assert!(line.contains("at most 4096 bytes"), "{line}");
    }
}

#[test]
fn a_client_that_keeps_talking_is_gone() {
    let mut bench = Bench::new();
    let mut client = bench.ask("{\"verb\":\"restart\"}\n{\"verb\":\"stop\"}\n");
    let id = bench.requested();
    client.write_all(&[b'x'; REQUEST_BYTES]).unwrap();
    assert_eq!(bench.settle(), [Event::ClientGone { client: id }]);
}

#[test]
fn silent_clients_make_room_for_one_that_speaks() {
    let mut bench = Bench::new();
    let silent: Vec<UnixStream> = (0..SLOTS)
        .map(|_| {
            let stream = bench.connect();
            bench.settle();
            stream
        })
        .collect();
    assert_eq!(bench.connected(), SLOTS);
    let client = bench.ask("{\"verb\":\"pause\"}\n");
    let id = bench.requested();
    bench.server.reply(id, Reply::done("paused"));
    assert_eq!(lines(&client), [Line::Reply(Reply::done("paused"))]);
    assert_eq!(lines(&silent[0]), [], "the oldest was closed");
    silent[1].set_nonblocking(true).unwrap();
    assert_eq!((&silent[1]).read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn the_sixty_fifth_that_waits_is_told_so() {
    let mut bench = Bench::new();
    let waiting: Vec<UnixStream> = (0..limits::CLIENTS)
        .map(|_| {
            let stream = bench.ask("{\"verb\":\"restart\"}\n");
            bench.requested();
            stream
        })
        .collect();
    let late = bench.ask("{\"verb\":\"restart\"}\n");
    assert_eq!(bench.settle(), []);
    assert!(failure(&late).contains("64 verbs wait"));
    let stop = bench.ask("{\"verb\":\"stop\"}\n");
    bench.requested();
    drop((waiting, stop));
    assert_eq!(bench.settle().len(), limits::CLIENTS + 1, "all of them are gone");
    assert_eq!(bench.connected(), 0);
}

#[test]
fn who_does_not_read_loses_progress_but_not_the_reply() {
    let mut bench = Bench::new();
    let client = bench.ask("{\"verb\":\"restart\"}\n");
    let id = bench.requested();
    let text = "x".repeat(1000);
    for _ in 0..2000 {
        bench.server.note_all(&text, false);
    }
    let slot = bench.server.clients[0].as_ref().unwrap();
    assert!(slot.output.len() <= PENDING_BYTES && slot.output.len() > PENDING_BYTES / 2);
    bench.server.reply(id, Reply::done("restarted"));
    assert_eq!(bench.connected(), 1, "the last byte is not out yet");

    // The server goes on as the client reads.
    let reader = std::thread::spawn(move || lines(&client));
    let end = Instant::now() + PATIENCE;
    while bench.connected() > 0 {
        assert!(Instant::now() < end, "the reply never went out");
        let mut events = Events::with_capacity(8);
        bench.poll.poll(&mut events, Some(Duration::from_millis(100))).unwrap();
        for event in &events {
            bench.server.ready(event.token());
        }
    }
    let lines = reader.join().unwrap();
    assert_eq!(lines.last(), Some(&Line::Reply(Reply::done("restarted"))));
    assert!(lines.len() < 2000);
}

#[test]
fn it_listens_again_after_its_socket_was_removed() {
    let mut bench = Bench::new();
    let early = bench.ask("{\"verb\":\"restart\"}\n");
    fs::remove_file(bench.path()).unwrap();
    let before = bench.settle();
    assert!(matches!(before.as_slice(), [Event::Requested { .. }]), "{before:?}");
    let late = bench.ask("{\"verb\":\"pause\"}\n");
    let id = bench.requested();
    bench.server.reply(id, Reply::done("paused"));
    assert_eq!(lines(&late).len(), 1);
    bench.server.note_all("still there", false);
    drop(bench);
    assert_eq!(lines(&early), [Line::Note("still there".to_owned())]);
}

#[test]
fn the_connection_of_a_stop_ends_with_us() {
    let mut bench = Bench::new();
    let client = bench.ask("{\"verb\":\"stop\"}\n");
    let id = bench.requested();
    bench.server.reply(id, Reply::done("stopped"));
    let mut reader = BufReader::new(&client);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.contains("accepted"));
    reader.read_line(&mut line).unwrap();
    assert!(line.contains("stopped"));
    client.set_nonblocking(true).unwrap();
    assert_eq!(reader.read_line(&mut line).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(bench.settle(), []);
    drop(bench);
    client.set_nonblocking(false).unwrap();
    assert_eq!(reader.read_line(&mut line).unwrap(), 0);

    let mut bench = Bench::new();
    let client = bench.ask("{\"verb\":\"stop\"}\n");
    let id = bench.requested();
    bench.server.reply(id, Reply::failed("not now"));
    assert_eq!(failure(&client), "not now");
}

#[test]
fn tokens_of_others_are_left_alone() {
    let mut bench = Bench::new();
    for token in [0, 6, 7 + TOKENS, usize::MAX] {
        assert_eq!(bench.server.ready(Token(token)), []);
    }
}
