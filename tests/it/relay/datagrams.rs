//! Relays of UDP sockets.

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::thread;

use nix::sys::socket::{ControlMessage, MsgFlags, Shutdown, sendmsg, setsockopt, shutdown, sockopt};

use super::super::support::{DEADLINE, fds, wait_for};
use super::{Started, Target};

fn socket() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Answers whoever writes; the thread ends with the test's process.
fn serve_echo() -> Target {
    let (server, address) = socket();
    server.set_read_timeout(None).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 1 << 16];
        loop {
            let (length, from) = server.recv_from(&mut buffer).unwrap();
            // Sending to a client that is gone fails.
            let _gone = server.send_to(&buffer[..length], from);
        }
    });
    Target::Udp(address)
}

fn client(of: SocketAddr) -> UdpSocket {
    let (client, _) = socket();
    // Connected: an answer from anywhere but the slot's own address would be dropped.
    client.connect(of).unwrap();
    client
}

#[track_caller]
fn assert_hears(client: &UdpSocket, text: &str) {
    let mut buffer = [0; 1 << 16];
    let length = client.recv(&mut buffer).unwrap();
    assert_eq!(std::str::from_utf8(&buffer[..length]).unwrap(), text);
}

#[test]
fn each_client_hears_its_own_answers_from_where_it_wrote_to() {
    let (slot, address) = socket();
    let clients: Vec<_> = (0..3).map(|_| client(address)).collect();
    let text = |index: usize, number: usize| format!("client {index}, word {number}");
    for (index, client) in clients.iter().enumerate() {
        client.send(text(index, 1).as_bytes()).unwrap();
        client.send(b"").unwrap();
    }
    let relay = Started::new(&slot, &serve_echo());
    for (index, client) in clients.iter().enumerate() {
        assert_hears(client, &text(index, 1));
        assert_hears(client, "");
        client.send(text(index, 2).as_bytes()).unwrap();
        assert_hears(client, &text(index, 2));
    }
    relay.end(3, 0);
}

#[test]
fn nobody_at_the_target_is_counted() {
    let (slot, address) = socket();
    let (gone, target) = socket();
    drop(gone);
    let client = client(address);
    client.send(b"hello?").unwrap();
    let relay = Started::new(&slot, &Target::Udp(target));
    relay.end(0, 1);
}

#[test]
fn told_to_stop_it_reads_no_more_but_answers() {
    let (slot, address) = socket();
    let (server, target) = socket();
    let client = client(address);
    client.send(b"a question").unwrap();
    let relay = Started::new(&slot, &Target::Udp(target));
    let (_, from) = server.recv_from(&mut [0; 100]).unwrap();
    relay.terminate();
    relay_has_left(&relay);
    client.send(b"for whoever has the slot now").unwrap();
    server.send_to(b"an answer", from).unwrap();
    assert_hears(&client, "an answer");
    relay.end(1, 0);
    assert_hears(&slot, "for whoever has the slot now");
}

/// Waits until the relay has left its slot, which shows by its closed signalfd.
fn relay_has_left(relay: &Started) {
    wait_for("the relay to leave its slot", || {
        let fds = fds(relay.pid);
        fds.iter().all(|(_, name)| !name.contains("signalfd")).then_some(())
    });
}

/// What a server asked of its socket stays when it is gone (QUIC servers ask for all of this).
#[test]
fn what_a_server_set_on_its_socket_neither_wakes_it_for_ever_nor_joins_datagrams() {
    let (slot, address) = socket();
    setsockopt(&slot, sockopt::Ipv4RecvErr, &true).unwrap();
    setsockopt(&slot, sockopt::UdpGroSegment, &true).unwrap();
    setsockopt(&slot, sockopt::Ipv4PacketInfo, &true).unwrap();
    setsockopt(&slot, sockopt::ReceiveTimestampns, &true).unwrap();
    let client = client(address);
    let three = [IoSlice::new(b"one  two  three")];
    let segments = [ControlMessage::UdpGsoSegments(&5)];
    sendmsg::<()>(client.as_raw_fd(), &three, &segments, MsgFlags::empty(), None).unwrap();
    // The client never reads its answer, so the kernel refuses it and reports that to the slot.
    let gone = self::client(address);
    gone.send(b"and gone").unwrap();
    drop(gone);
    let relay = Started::new(&slot, &serve_echo());
    for text in ["one  ", "two  ", "three"] {
        assert_hears(&client, text);
    }
    relay.end(2, 0);
}

/// poll(2) reports such a slot as readable for ever.
#[test]
fn a_slot_that_is_shut_down_is_left() {
    let (slot, address) = socket();
    let client = client(address);
    client.send(b"hello?").unwrap();
    // shutdown(2) fails with ENOTCONN here, but has its effect.
    let _unconnected = shutdown(slot.as_raw_fd(), Shutdown::Read);
    let relay = Started::new(&slot, &serve_echo());
    assert_hears(&client, "hello?");
    relay.end(1, 0);
}
