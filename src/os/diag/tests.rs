use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{UnixListener, UnixStream};

use nix::unistd::Pid;

use super::netlink::{Dump, DumpProgress};
use super::*;
use crate::config::Span;
use crate::core::Traffic;
use crate::os::sys;
use crate::os::sys::tests::eventually;

const FOREVER: Span = Span::from_secs(1_000);
const AT_ONCE: Span = Span::from_millis(50);

fn listener(address: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn pair(listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let server = listener.accept().unwrap().0;
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    (client, server)
}

fn set_label(socket: &TcpListener, label: u8) {
    let options = [libc::IP_MULTICAST_LOOP, libc::IP_BIND_ADDRESS_NO_PORT, libc::IP_FREEBIND];
    for (bit, option) in options.into_iter().enumerate() {
        let on = label >> bit & 1;
        sys::set_int_option(socket, libc::IPPROTO_IP, option, on.into()).unwrap();
    }
}

fn say(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"x").unwrap();
    to.read_exact(&mut [0]).unwrap();
}

/// Forty connections with ever more requests, each answered at once; and what follows the last answer.
fn answered(listener: &TcpListener, then: fn(&mut TcpStream, &mut TcpStream)) -> Vec<(TcpStream, TcpStream)> {
    let mut pairs: Vec<_> = (0..40).map(|_| pair(listener)).collect();
    for (requests, (client, server)) in pairs.iter_mut().enumerate() {
        for _ in 0..=requests {
            say(client, server);
            say(server, client);
        }
        then(client, server);
    }
    pairs
}

fn seen(at: SocketAddr, quiet: Span) -> Traffic {
    traffic(&*Diag::default().tcp(at).unwrap(), |_| true, quiet, &Handshakes::new())
}

/// Looks until it is so; what it is in the end is for the assertion.
fn until<T>(mut look: impl FnMut() -> T, is_so: impl Fn(&T) -> bool) -> T {
    eventually("what the kernel shows", || Some(look()).filter(|seen| is_so(seen)))
}

/// Waits until nothing was said on any connection for so long, by the kernel's own clock.
fn silent_for(at: SocketAddr, millis: u32) {
    let is_silent = |socket: &InetSocket| {
        let silence = socket.activity.map(|it| it.since_sent_ms.min(it.since_received_ms));
        socket.state == SocketState::Listen || silence.is_none_or(|silence| silence >= millis)
    };
    until(|| Diag::default().tcp(at).unwrap(), |sockets| sockets.iter().all(is_silent));
}

fn becomes(at: SocketAddr, expected: Traffic) {
    let found = until(|| seen(at, AT_ONCE), |found| *found == expected);
    assert_eq!(found, expected);
}

fn in_flight(in_flight: u32) -> Traffic {
    Traffic { in_flight, ..Traffic::default() }
}

fn idle(idle: u32) -> Traffic {
    Traffic { idle, ..Traffic::default() }
}

/// After a handshake alone the numbers of the kernel look like those of a request that was answered.
#[test]
fn a_connection_is_not_idle_after_a_handshake_alone() {
    let (listener, at) = listener("127.0.0.1:0");
    let after_handshake = || {
        let dump = Diag::default().tcp(at).unwrap();
        let dump: Vec<_> = dump.iter().map(InetSocket::after_handshake).collect();
        traffic(&dump, |_| true, AT_ONCE, &Handshakes::new())
    };
    let (mut client, mut server) = pair(&listener);
    let recent = Traffic { recent: 1, ..Traffic::default() };
    assert_eq!(until(after_handshake, |found| *found == recent), recent, "not begun");
    for _ in 0..2 {
        say(&mut client, &mut server);
        say(&mut server, &mut client);
        silent_for(at, 50);
        assert_eq!(after_handshake(), recent);
    }
    assert_eq!(seen(at, AT_ONCE), idle(1), "it is no test otherwise");
    say(&mut client, &mut server);
    assert_eq!(until(after_handshake, |found| *found == in_flight(1)), in_flight(1), "its request");
    say(&mut server, &mut client);
    assert_eq!(until(after_handshake, |found| *found == idle(1)), idle(1), "its answer");
}

#[test]
fn accepted_and_queued_connections_carry_the_label_of_their_listener() {
    let mut diag = Diag::default();
    for (address, client) in
        [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1"), ("[::]:0", "::1")]
    {
        let Ok(listener) = TcpListener::bind(address) else { continue };
        let at = listener.local_addr().unwrap();
        let port = at.port();
        for label in 0..8 {
            set_label(&listener, label);
            let accepted = (TcpStream::connect((client, port)).unwrap(), listener.accept().unwrap());
            let queued = TcpStream::connect((client, port)).unwrap();
            diag.forget();
            let sockets = diag.tcp(at).unwrap();
            let ours: Vec<_> = sockets.iter().filter(|one| one.state == SocketState::Established).collect();
            assert_eq!(ours.len(), 2, "{sockets:?}");
            assert!(sockets.iter().all(|socket| socket.label == Some(label)), "{label}: {sockets:?}");
            let found = traffic(&*sockets, |socket| socket.label == Some(label), FOREVER, &Handshakes::new());
            assert_eq!(found, Traffic { recent: 1, queued: 1, ..Traffic::default() });
            let other =
                traffic(&*sockets, |socket| socket.label == Some(label ^ 1), FOREVER, &Handshakes::new());
            assert_eq!(other, Traffic::default());
            // A reset leaves nothing behind.
            for stream in [&accepted.1.0, &queued] {
                nix::sys::socket::setsockopt(
                    stream,
                    nix::sys::socket::sockopt::Linger,
                    &libc::linger { l_onoff: 1, l_linger: 0 },
                )
                .unwrap();
            }
            drop((accepted, queued, listener.accept().unwrap()));
            until(|| Diag::default().tcp(at).unwrap().len(), |left| *left == 1);
        }
    }
}

#[test]
fn a_request_without_an_answer_is_in_flight_however_old() {
    let (listener, address) = listener("127.0.0.1:0");
    let (mut client, mut server) = pair(&listener);
    client.write_all(b"not read").unwrap();
    assert_eq!(seen(address, AT_ONCE), in_flight(1));
    server.read_exact(&mut [0; 8]).unwrap();
    silent_for(address, 150);
    assert_eq!(seen(address, AT_ONCE), in_flight(1), "never answered");
    say(&mut server, &mut client);
    assert_eq!(seen(address, FOREVER), Traffic { recent: 1, ..Traffic::default() });
    becomes(address, idle(1));
    say(&mut client, &mut server);
    silent_for(address, 150);
    assert_eq!(seen(address, AT_ONCE), in_flight(1), "not answered again");
}

/// Two events within one tick of the kernel's clock have no order in its numbers.
#[test]
fn a_request_in_the_tick_of_the_last_answer_is_in_flight() {
    let (listener, address) = listener("127.0.0.1:0");
    let _pairs = answered(&listener, say);
    silent_for(address, 400);
    assert_eq!(seen(address, AT_ONCE), in_flight(40));
}

#[test]
fn answered_at_once_is_idle_after_a_while() {
    let (listener, address) = listener("127.0.0.1:0");
    let _pairs = answered(&listener, |_, _| {});
    becomes(address, idle(40));
}

#[test]
fn an_answer_that_the_client_does_not_read_is_in_flight() {
    let (listener, address) = listener("127.0.0.1:0");
    let (mut client, mut server) = pair(&listener);
    say(&mut client, &mut server);
    server.set_nonblocking(true).unwrap();
    while server.write(&[0; 65536]).is_ok() {}
    silent_for(address, 100);
    assert_eq!(seen(address, AT_ONCE), in_flight(1));
}

#[test]
fn a_connection_may_have_its_first_request_under_way_until_its_fin() {
    let (listener, address) = listener("127.0.0.1:0");
    let (client, mut server) = pair(&listener);
    let awaited = Traffic { recent: 1, ..Traffic::default() };
    assert_eq!(seen(address, FOREVER), awaited);
    // A greeting of the server answers nothing.
    server.write_all(b"220\r\n").unwrap();
    silent_for(address, 100);
    assert_eq!(seen(address, AT_ONCE), awaited);
    // A FIN is not a request.
    client.shutdown(Shutdown::Write).unwrap();
    until(|| Diag::default().tcp(address).unwrap()[1].state, |state| *state == SocketState::CloseWait);
    becomes(address, idle(1));
    drop(server);
}

#[test]
fn half_closed_by_the_client_a_request_still_wants_its_answer() {
    let (listener, address) = listener("127.0.0.1:0");
    let (mut client, mut server) = pair(&listener);
    say(&mut client, &mut server);
    client.shutdown(Shutdown::Write).unwrap();
    silent_for(address, 100);
    assert_eq!(seen(address, AT_ONCE), in_flight(1));
    say(&mut server, &mut client);
    becomes(address, idle(1));
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    becomes(address, idle(1));
}

#[test]
fn what_the_server_has_closed_is_nobodys() {
    let (listener, address) = listener("127.0.0.1:0");
    let (mut client, mut server) = pair(&listener);
    say(&mut client, &mut server);
    say(&mut server, &mut client);
    drop(server);
    let sockets = until(|| Diag::default().tcp(address).unwrap(), |sockets| sockets.len() == 2);
    assert_eq!((sockets.len(), sockets[1].inode), (2, 0), "FIN_WAIT2: {sockets:?}");
    assert_eq!(seen(address, FOREVER), Traffic::default());
    drop(client);
}

#[test]
fn handshakes_are_followed_to_their_end() {
    let (listener, address) = listener("127.0.0.1:0");
    // With it the kernel keeps a connection half-open until its first byte.
    sys::set_int_option(&listener, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 60).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    let mut diag = Diag::default();
    let sockets = diag.tcp(address).unwrap();
    let begun = handshakes(&*sockets);
    assert_eq!(begun, Handshakes::from([(address, client.local_addr().unwrap())]));
    let nothing_ours = |_: &InetSocket| false;
    assert_eq!(traffic(&*sockets, nothing_ours, AT_ONCE, &begun).handshakes, 1);
    assert_eq!(traffic(&*sockets, nothing_ours, AT_ONCE, &Handshakes::new()).handshakes, 0, "a later one");
    client.write_all(b"x").unwrap();
    let ours = || traffic(&*Diag::default().tcp(address).unwrap(), |_| true, AT_ONCE, &begun);
    assert_eq!(until(ours, |ours| ours.queued == 1), Traffic { queued: 1, ..Traffic::default() });
}

#[test]
fn without_labels_connections_are_told_by_inode() {
    let (listener, address) = listener("127.0.0.1:0");
    let _accepted = pair(&listener);
    let _queued = TcpStream::connect(address).unwrap();
    let sockets = Diag::default().tcp(address).unwrap();
    let inodes = inodes_of(&[Pid::this(), Pid::from_raw(i32::MAX)]).unwrap();
    let found = traffic(&*sockets, |socket| inodes.contains(&socket.inode), FOREVER, &Handshakes::new());
    assert_eq!(found, Traffic { recent: 1, ..Traffic::default() });
    let nobody = inodes_of(&[]).unwrap();
    assert_eq!(nobody, HashSet::new());
}

#[test]
fn listeners_of_a_port_their_queues_and_holders() {
    let (listener, address) = listener("127.0.0.1:0");
    sys::listen(&listener, 7).unwrap();
    let _queued = TcpStream::connect(address).unwrap();
    let found = Diag::default().listeners(&[address]).unwrap().at(address).to_vec();
    let [found] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((found.state, found.local, found.rqueue, found.wqueue), (SocketState::Listen, address, 1, 7));
    assert_eq!(found.uid, nix::unistd::geteuid().as_raw());
    assert!(inodes_of(&[Pid::this()]).unwrap().contains(&found.inode));
}

#[test]
fn udp_sockets_of_a_port() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    socket.send_to(b"to ourselves", address).unwrap();
    let found = Diag::default().udp(&[address]).unwrap().at(address).to_vec();
    let [found] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(found.local, address);
    assert!(found.rqueue > 0 && found.label == Some(1), "{found:?}");
    assert!(inodes_of(&[Pid::this()]).unwrap().contains(&found.inode));
}

#[test]
fn which_addresses_a_held_one_serves() {
    let (_kept, address) = listener("127.0.0.1:0");
    let mut socket = Diag::default().tcp(address).unwrap()[0].clone();
    for (held, own, serves) in [
        ("127.0.0.1:1", "127.0.0.1:1", true),
        ("127.0.0.1:1", "127.0.0.1:2", false),
        ("127.0.0.1:1", "127.0.0.2:1", false),
        ("0.0.0.0:1", "127.0.0.2:1", true),
        ("0.0.0.0:1", "[::1]:1", false),
        ("[::]:1", "127.0.0.1:1", true),
        ("[::]:1", "[::1]:1", true),
        ("[::1]:1", "127.0.0.1:1", false),
        ("[::ffff:127.0.0.1]:1", "127.0.0.1:1", true),
    ] {
        socket.local = own.parse().unwrap();
        assert_eq!(socket.is_at(held.parse().unwrap()), serves, "{held} {own}");
    }
}

#[test]
fn unix_connections_are_found_by_their_listeners_node() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let stat = nix::sys::stat::stat(&path).unwrap();
    let place = Place::Node(Node { device: stat.st_dev, inode: stat.st_ino as u32 });
    let mut client = UnixStream::connect(&path).unwrap();
    let mut server = listener.accept().unwrap().0;
    let _queued = UnixStream::connect(&path).unwrap();
    let mut diag = Diag::default();
    let mut look = || {
        diag.forget();
        let sockets = diag.unix().unwrap();
        (unix_traffic(sockets.at(&place), |_| false), sockets)
    };
    let recent = Traffic { recent: 1, queued: 1, ..Traffic::default() };
    let busy = Traffic { in_flight: 1, queued: 1, ..Traffic::default() };
    let (found, sockets) = look();
    assert_eq!(found, recent);
    let listens = sockets.at(&place).find(|one| one.state == SocketState::Listen).unwrap();
    assert!(listens.rqueue == 1 && listens.wqueue >= 128, "{listens:?}");
    client.write_all(b"x").unwrap();
    assert_eq!(look().0, busy, "a request");
    server.read_exact(&mut [0]).unwrap();
    assert_eq!(look().0, recent);
    server.write_all(b"y").unwrap();
    assert_eq!(look().0, busy, "an answer that is not read");
    drop((server, client));
    assert_eq!(look().0, Traffic { queued: 1, ..Traffic::default() });
}

#[test]
fn unix_connections_are_found_by_their_listeners_abstract_name_and_name_who_has_accepted_them() {
    let name = format!("supervise-test-{}", std::process::id());
    let at = |name: &str| std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
    let listener = UnixListener::bind_addr(&at(&name)).unwrap();
    let _other = UnixListener::bind_addr(&at(&format!("{name}-other"))).unwrap();
    let client = UnixStream::connect_addr(&at(&name)).unwrap();
    let inode = |socket: &dyn std::os::fd::AsFd| nix::sys::stat::fstat(socket.as_fd()).unwrap().st_ino;
    let mut diag = Diag::default();
    let mut look = || {
        diag.forget();
        let sockets = diag.unix().unwrap();
        let found = unix_traffic(sockets.at(&Place::Abstract(name.clone().into())), |_| false);
        (found, diag.unix_peer(inode(&client)).unwrap())
    };
    assert_eq!(look(), (Traffic { queued: 1, ..Traffic::default() }, Some(0)));
    let server = listener.accept().unwrap().0;
    assert_eq!(look(), (Traffic { recent: 1, ..Traffic::default() }, Some(inode(&server) as u32)));
}

#[test]
fn a_channel_is_kept_and_a_question_refused_is_an_error() {
    let mut diag = Diag::default();
    diag.unix().unwrap();
    assert!(diag.channel.is_some());
    let refused = diag.ask(&[255, 0, 0, 0], local::parse).unwrap_err();
    assert!(refused.raw_os_error().is_some(), "{refused}");
    assert!(diag.channel.is_none(), "the rest of a broken answer is not read");
    diag.forget();
    diag.unix().unwrap();
}

#[test]
fn whoever_asks_again_gets_the_same_answer_until_it_is_forgotten() {
    let (kept, address) = listener("127.0.0.1:0");
    let mut diag = Diag::default();
    let (tcp, unix) = (diag.tcp(address).unwrap(), diag.unix().unwrap());
    let _pair = pair(&kept);
    assert!(Rc::ptr_eq(&tcp, &diag.tcp(address).unwrap()) && Rc::ptr_eq(&unix, &diag.unix().unwrap()));
    // Other questions are others.
    assert_eq!(diag.listeners(&[address]).unwrap().all().count(), 1);
    assert_eq!(diag.tcp("[::1]:1".parse().unwrap()).unwrap().len(), 0);
    diag.forget();
    assert_eq!((tcp.len(), diag.tcp(address).unwrap().len()), (1, 2));
}

/// One answer as the kernel writes it, without the datagrams' bounds.
fn recorded(port: u16) -> Vec<u8> {
    fn whole(payload: &[u8]) -> Option<Vec<u8>> {
        Some(payload.to_vec())
    }
    let mut diag = Diag::default();
    let request =
        inet::request(libc::AF_INET as u8, libc::IPPROTO_TCP as u8, &[(port, port)], inet::ALL_STATES);
    let mut bytes = Vec::new();
    for payload in diag.ask(&request, whole).unwrap() {
        bytes.extend(message(20, 7, &payload));
    }
    bytes
}

fn message(kind: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let length = (16 + payload.len()) as u32;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(2_u16.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[test]
fn answers_to_others_are_passed_over_and_errors_are_errors() {
    let take = |datagram: &[u8]| {
        let mut dump = Dump::new(7, inet::parse);
        dump.take(datagram).map(|progress| (progress, dump.found.len(), dump.interrupted))
    };
    let (_kept, address) = listener("127.0.0.1:0");
    let good = recorded(address.port());
    assert_eq!(take(&good).unwrap(), (DumpProgress::More, 1, false));
    assert_eq!(take(&message(20, 6, &[])).unwrap(), (DumpProgress::More, 0, false), "another's");
    assert_eq!(take(&message(3, 7, &[0; 4])).unwrap(), (DumpProgress::Done, 0, false));
    let mut interrupted = message(3, 7, &[0; 4]);
    interrupted[6] = 0x10 | 2;
    assert_eq!(take(&interrupted).unwrap(), (DumpProgress::Done, 0, true));
    for kind in [2, 3] {
        let refused = take(&message(kind, 7, &(-libc::ENOENT).to_ne_bytes())).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOENT));
    }
    for broken in [&good[..good.len() - 4], &good[..3], &[0; 16], &[255; 16], &message(20, 7, &[2; 71])] {
        take(broken).unwrap_err();
    }
}

#[test]
fn mutated_answers_neither_panic_nor_hang() {
    let (listener, address) = listener("127.0.0.1:0");
    let _pair = pair(&listener);
    let good = recorded(address.port());
    let mut random = fastrand::Rng::with_seed(4);
    let mut taken = 0;
    for _ in 0..100_000 {
        let mut bytes = good.clone();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..bytes.len());
            match random.u8(..4) {
                0 => bytes[at] = random.u8(..),
                1 => bytes[at] ^= 1 << random.u8(..8),
                2 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, random.u8(..)),
            }
        }
        let mut dump = Dump::new(7, inet::parse);
        taken += usize::from(dump.take(&bytes).is_ok());
        traffic(&dump.found, |_| true, AT_ONCE, &handshakes(&dump.found));
        let mut dump = Dump::new(7, local::parse);
        taken += usize::from(dump.take(&bytes).is_ok());
        unix_traffic(&dump.found, |_| true);
    }
    assert!(taken > 1_000, "{taken}: the mutations get past the first check");
}

#[test]
fn proc_is_read() {
    listen_overflows().unwrap();
    assert!(somaxconn().unwrap() > 0);
}

#[test]
fn one_question_answers_for_many_ports_and_for_no_other() {
    let held: Vec<_> = (0..40).map(|_| listener("127.0.0.1:0")).collect();
    // Every second one is asked for, in more ranges than one question has.
    let (asked, others): (Vec<_>, Vec<_>) = held.iter().enumerate().partition(|(index, _)| index % 2 == 0);
    let asked: Vec<SocketAddr> = asked.into_iter().map(|(_, (_, at))| *at).collect();
    let mut diag = Diag::default();
    let found = diag.listeners(&asked).unwrap();
    assert!(asked.iter().all(|at| found.at(*at).len() == 1 && found.at(*at)[0].local == *at));
    assert!(others.iter().all(|(_, (_, at))| found.at(*at).is_empty()));
    assert_eq!(found.all().count(), asked.len());
    diag.learn_tcp(&asked).unwrap();
    assert!(asked.iter().all(|at| diag.tcp(*at).unwrap().len() == 1));
}

#[test]
fn ports_share_a_range_where_they_are_near() {
    let ports = [5, 80, 81, 443, 9000].into();
    assert_eq!(inet::ranges(&ports, 16), [(5, 5), (80, 80), (81, 81), (443, 443), (9000, 9000)]);
    assert_eq!(inet::ranges(&ports, 3), [(5, 81), (443, 443), (9000, 9000)]);
    assert_eq!(inet::ranges(&ports, 1), [(5, 9000)]);
    assert_eq!(inet::ranges(&[].into(), 3), []);
}
