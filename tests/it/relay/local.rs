//! Relays of unix stream sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};

use nix::sys::socket::{Backlog, listen};

use super::super::support::{DEADLINE, Place, fds, settled, wait_for};
use super::{Started, Target, exchange, on_cpu, rest};

fn connect(path: &str) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// A slot with one client, and the server that it is passed on to.
fn meet(place: &Place) -> (UnixStream, UnixListener, UnixListener, Target) {
    let (slot, server) = (place.path("slot"), place.path("server"));
    let (waiting, listening) = (UnixListener::bind(&slot).unwrap(), UnixListener::bind(&server).unwrap());
    (connect(&slot), waiting, listening, Target::Unix(server.into()))
}

fn accept(server: &UnixListener) -> UnixStream {
    let (stream, _) = server.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

#[test]
fn each_half_ends_by_itself() {
    let place = Place::new();
    let (mut client, slot, server, target) = meet(&place);
    let relay = Started::new(&slot, &target);
    let mut served = accept(&server);
    exchange(&mut client, &mut served, "a question");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut served), "");
    exchange(&mut served, &mut client, "an answer");
    drop(served);
    assert_eq!(rest(&mut client), "");
    relay.end(1, 0);
}

/// The client fills the buffers and closes, with the greeting of the slow server unread.
#[test]
fn all_that_a_client_wrote_before_it_closed_arrives() {
    let place = Place::new();
    let (mut client, slot, server, target) = meet(&place);
    let relay = Started::new(&slot, &target);
    let mut served = accept(&server);
    served.write_all(b"hello, who is it?").unwrap();
    client.set_nonblocking(true).unwrap();
    let mut written = 0;
    settled("the client", || {
        while let Ok(length) = client.write(&[b'x'; 4096]) {
            written += length;
        }
        written
    });
    drop(client);
    settled("the relay, which sees it go", || on_cpu(relay.pid));
    // The write may fail by now, because nobody reads.
    let _told = served.write_all(b"is anybody there?");
    assert_eq!(read_to_reset(&mut served), written);
    drop(served);
    relay.end(1, 0);
}

/// How much comes before the end, or before one is told that something was left unread.
fn read_to_reset(of: &mut UnixStream) -> usize {
    let mut text = Vec::new();
    if let Err(error) = of.read_to_end(&mut text) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    text.len()
}

/// connect(2) fails with EAGAIN, and no event says when to try again.
#[test]
fn a_queue_that_is_full_is_waited_for() {
    let place = Place::new();
    let (mut client, slot, server, target) = meet(&place);
    listen(&server, Backlog::new(0).unwrap()).unwrap();
    let before = connect(&place.path("server"));
    let relay = Started::new(&slot, &target);
    wait_for("the relay to take the client", || {
        let sockets = fds(relay.pid).iter().filter(|(_, name)| name.starts_with("socket:")).count();
        // Three sockets are its slot and the two of a connection.
        (sockets == 3).then_some(())
    });
    let _first = accept(&server);
    let mut served = accept(&server);
    exchange(&mut client, &mut served, "at last");
    drop((before, client, served));
    relay.end(1, 0);
}

#[test]
fn a_path_that_leads_nowhere_ends_the_connection() {
    let place = Place::new();
    let (mut client, slot, _server, _) = meet(&place);
    let relay = Started::new(&slot, &Target::Unix(place.path("nowhere").into()));
    assert_eq!(rest(&mut client), "");
    relay.end(0, 1);
}
