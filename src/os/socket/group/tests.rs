//! On the real kernel: each fact that steering relies on.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};

use super::super::tests::{asked, has_ipv6, options, tcp};
use super::super::{HeldSocket, Inherited, NamedSocket, ProbePort, bind_all};
use crate::config::{Address, Handover, Kind, Listener, SocketOptions};
use crate::core::{SlotId, Steering};
use crate::os::sys;

const ZERO: SlotId = SlotId(0);
const ONE: SlotId = SlotId(1);
const TWO: SlotId = SlotId(2);

fn steered(listener: Listener) -> NamedSocket {
    let held = bind_all(&[listener], &Inherited::default(), Handover::Steered).unwrap().remove(0);
    assert_eq!(held.why_shared(), None);
    held
}

fn local() -> NamedSocket {
    steered(tcp("127.0.0.1:0"))
}

fn udp(address: &str) -> Listener {
    asked(Kind::Udp, tcp(address).address, "dns")
}

fn to(slot: SlotId) -> Steering {
    Steering::all_to(slot)
}

fn reach(held: &HeldSocket) -> SocketAddr {
    held.address_to_connect().unwrap()
}

fn connect(held: &HeldSocket) -> TcpStream {
    TcpStream::connect(reach(held)).unwrap()
}

fn queues(held: &HeldSocket) -> [u32; 3] {
    [ZERO, ONE, TWO].map(|slot| held.queued(slot).unwrap())
}

/// What a server does to its copy.
fn shut_down(fd: &OwnedFd) {
    shutdown(fd.as_raw_fd(), Shutdown::Both).unwrap();
}

/// Somebody of our user who binds the address, too.
fn stranger(held: &HeldSocket) -> OwnedFd {
    let address = held.address.parse::<SocketAddr>().unwrap();
    let family = if address.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    let fd = sys::socket(family, libc::SOCK_STREAM, 0).unwrap();
    setsockopt(&fd, sockopt::ReusePort, &true).unwrap();
    nix::sys::socket::bind(fd.as_raw_fd(), &nix::sys::socket::SockaddrStorage::from(address)).unwrap();
    sys::listen(&fd, 16).unwrap();
    fd
}

fn inode(fd: &OwnedFd) -> u64 {
    nix::sys::stat::fstat(fd).unwrap().st_ino
}

#[test]
fn connections_go_where_they_are_steered() {
    for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
        if address.contains("::") && !has_ipv6() {
            continue;
        }
        let held = steered(tcp(address));
        let mut clients = Vec::new();
        let mut wanted = [0; 3];
        for slot in [ZERO, ONE, ZERO, TWO, ONE] {
            held.ready_slot(slot).unwrap();
            held.steer(&to(slot)).unwrap();
            for _ in 0..5 {
                clients.push(connect(&held));
                wanted[usize::from(slot.0)] += 1;
            }
            assert_eq!(queues(&held), wanted, "{address}");
        }
        assert_eq!(held.queue().0, Some(25));
    }
}

#[test]
fn both_families_of_a_port_alone_are_steered() {
    if !has_ipv6() {
        return;
    }
    let held = steered(asked(Kind::Tcp, Address::Port(0), "web"));
    held.steer(&to(ONE)).unwrap();
    let port = held.port.unwrap();
    let _clients = ["127.0.0.1", "[::1]"].map(|host| TcpStream::connect(format!("{host}:{port}")).unwrap());
    assert_eq!(queues(&held), [0, 2, 0]);
    assert_eq!(reach(&held), format!("127.0.0.1:{port}").parse().unwrap());
    let only = SocketOptions { v6_only: Some(true), ..options() };
    let held = steered(Listener { options: only.into(), ..asked(Kind::Tcp, Address::Port(0), "web") });
    assert_eq!(reach(&held), format!("[::1]:{}", held.port.unwrap()).parse().unwrap());
    held.steer(&to(ONE)).unwrap();
    let _client = connect(&held);
    assert_eq!(queues(&held), [0, 1, 0]);
}

#[test]
fn a_canary_gets_its_share() {
    let held = local();
    held.steer(&Steering { slot: ONE, canary: Some((ZERO, 30)) }).unwrap();
    let _clients: Vec<_> = (0..300).map(|_| connect(&held)).collect();
    let [canary, rest, _] = queues(&held);
    assert_eq!(canary + rest, 300);
    // 90 are to be expected; seven standard deviations.
    assert!((35..=145).contains(&canary), "{canary}");
}

#[test]
fn datagrams_go_where_they_are_steered() {
    for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
        if address.contains("::") && !has_ipv6() {
            continue;
        }
        let held = steered(udp(address));
        let to_us = reach(&held);
        let client = UdpSocket::bind((if to_us.is_ipv6() { "::1" } else { "127.0.0.1" }, 0)).unwrap();
        for slot in [ZERO, ONE, TWO, ZERO] {
            let fd = held.ready_slot(slot).unwrap();
            held.steer(&to(slot)).unwrap();
            client.send_to(b"x", to_us).unwrap();
            let mut wanted = [0; 3];
            wanted[usize::from(slot.0)] = 1;
            assert_eq!(queues(&held), wanted, "{address}");
            let flags = nix::sys::socket::MsgFlags::empty();
            assert_eq!(nix::sys::socket::recv(fd.as_raw_fd(), &mut [0; 8], flags), Ok(1));
        }
        assert_eq!(held.queue(), (None, None));
        held.shut(ONE).expect_err("a datagram socket that is shut down is so for ever");
        assert!(!held.is_labelled(), "IP_MULTICAST_LOOP has a meaning there");
    }
}

#[test]
fn others_are_kept_out() {
    for listener in [tcp("127.0.0.1:0"), udp("127.0.0.1:0")] {
        let kind = listener.kind;
        let held = steered(listener);
        let again = Listener { kind, ..tcp(&held.address) };
        for handover in [Handover::Steered, Handover::Shared] {
            let error = bind_all(std::slice::from_ref(&again), &Inherited::default(), handover);
            assert_eq!(error.expect_err("we have it").errno, Some(libc::EADDRINUSE));
        }
        match kind {
            Kind::Tcp => TcpListener::bind(&held.address).map(drop),
            _ => UdpSocket::bind(&held.address).map(drop),
        }
        .expect_err("we have it");
    }
    let theirs = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = tcp(&theirs.local_addr().unwrap().to_string());
    let error = bind_all(&[ours], &Inherited::default(), Handover::Steered).expect_err("they have it");
    assert_eq!(error.errno, Some(libc::EADDRINUSE));
    assert!(error.to_string().contains("(list it once, or with ReusePort=yes)"), "{error}");
}

#[test]
fn a_slot_shut_down_by_a_server_is_mended() {
    let held = local();
    for (shut, traffic) in [(ZERO, ZERO), (ZERO, ONE), (ONE, ONE), (ONE, ZERO)] {
        held.steer(&to(traffic)).unwrap();
        shut_down(&held.slot(shut).unwrap());
        let before = queues(&held);
        let meanwhile = connect(&held);
        assert!(held.mend(shut).unwrap());
        assert!(!held.mend(shut).unwrap());
        let other = SlotId(1 - shut.0);
        assert_eq!(held.queued(other).unwrap(), before[usize::from(other.0)] + 1, "nobody was turned away");
        let before = queues(&held);
        let _client = connect(&held);
        let index = usize::from(traffic.0);
        assert_eq!(queues(&held)[index], before[index] + 1, "{shut:?} {traffic:?}");
        drop(meanwhile);
    }
}

#[test]
fn both_slots_shut_down_come_back() {
    let held = local();
    for slot in [ZERO, ONE] {
        shut_down(&held.slot(slot).unwrap());
    }
    held.refresh().unwrap();
    assert!(held.mend(ONE).unwrap() && held.mend(ZERO).unwrap());
    for (slot, wanted) in [(ZERO, [1, 0, 0]), (ONE, [1, 1, 0])] {
        held.steer(&to(slot)).unwrap();
        std::mem::forget(connect(&held));
        assert_eq!(queues(&held), wanted);
    }
}

#[test]
fn a_slot_that_we_shut_stays_so_until_it_is_needed() {
    let held = local();
    held.shut(ZERO).expect_err("it has the traffic");
    held.steer(&to(ONE)).unwrap();
    held.shut(ZERO).unwrap();
    held.refresh().unwrap();
    assert!(!held.mend(ZERO).unwrap());
    let _client = connect(&held);
    assert_eq!(queues(&held), [0, 1, 0], "the last took the place of the first");
    held.shut(ONE).expect_err("the group would be gone");
    let again = held.ready_slot(ZERO).unwrap();
    assert!(Rc::ptr_eq(&again, &held.first()));
    let _client = connect(&held);
    assert_eq!(queues(&held), [0, 2, 0]);
    held.steer(&to(ZERO)).unwrap();
    let _client = connect(&held);
    assert_eq!(queues(&held), [1, 2, 0]);
    held.ready_slot(TWO).unwrap();
    held.shut(ONE).expect_err("the kernel could move its queue to a third");
}

#[test]
fn our_indices_stay_right_among_strangers() {
    let held = local();
    let first = stranger(&held);
    held.set_strangers(&[inode(&first)]).unwrap();
    held.ready_slot(TWO).unwrap();
    let check = |what: &str| {
        for slot in [ZERO, ONE, TWO] {
            held.steer(&to(slot)).unwrap();
            let before = queues(&held);
            std::mem::forget(connect(&held));
            let index = usize::from(slot.0);
            assert_eq!(queues(&held)[index], before[index] + 1, "{what}: {slot:?}");
        }
    };
    check("one stranger");
    shut_down(&held.first());
    assert!(held.mend(ZERO).unwrap());
    check("slot 0 came last");
    let second = stranger(&held);
    held.set_strangers(&[inode(&first), inode(&second)]).unwrap();
    check("two strangers");
    drop(first);
    held.set_strangers(&[inode(&second)]).unwrap();
    check("one left");
    drop(second);
    held.set_strangers(&[]).unwrap();
    check("alone");
}

#[test]
fn a_probe_reaches_its_slot_alone() {
    for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
        if address.contains("::") && !has_ipv6() {
            continue;
        }
        let held = steered(tcp(address));
        let to_us = reach(&held);
        let family = if to_us.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
        for (steering, others) in [(to(ZERO), 5), (Steering { slot: ZERO, canary: Some((ZERO, 50)) }, 10)] {
            held.steer(&steering).unwrap();
            let fd = sys::socket(family, libc::SOCK_STREAM, 0).unwrap();
            let own = SocketAddr::new(to_us.ip(), 0);
            nix::sys::socket::bind(fd.as_raw_fd(), &nix::sys::socket::SockaddrStorage::from(own)).unwrap();
            let port = TcpListener::from(fd.try_clone().unwrap()).local_addr().unwrap().port();
            held.probe(Some(ProbePort { source_port: port, slot: ONE })).unwrap();
            let before = held.queued(ONE).unwrap();
            for _ in 0..5 {
                std::mem::forget(connect(&held));
            }
            nix::sys::socket::connect(fd.as_raw_fd(), &nix::sys::socket::SockaddrStorage::from(to_us))
                .unwrap();
            assert_eq!(queues(&held), [others, before + 1, 0], "{address}");
            std::mem::forget(fd);
            held.probe(None).unwrap();
        }
        held.probe(Some(ProbePort { source_port: 1, slot: TWO })).expect_err("there is no such slot");
    }
}

#[test]
fn connections_carry_the_number_of_their_slot() {
    let held = local();
    assert!(held.is_labelled());
    for slot in (0..8).map(SlotId) {
        for _ in 0..2 {
            let fd = held.ready_slot(slot).unwrap();
            held.steer(&to(slot)).unwrap();
            let client = connect(&held);
            let accepted = TcpListener::from(fd.try_clone().unwrap()).accept().unwrap().0;
            let read = |name| sys::int_option(&accepted, libc::IPPROTO_IP, name).unwrap() as u8;
            let label = read(libc::IP_MULTICAST_LOOP)
                | read(libc::IP_BIND_ADDRESS_NO_PORT) << 1
                | read(libc::IP_FREEBIND) << 2;
            assert_eq!(label, slot.0);
            drop(client);
            // For the second round.
            sys::set_int_option(&fd, libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP, 1 - i32::from(slot.0 & 1))
                .unwrap();
        }
    }
    held.ready_slot(SlotId(8)).expect_err("there are eight");
    let free = SocketOptions { free_bind: true, ..options() };
    assert!(!steered(Listener { options: free.into(), ..tcp("127.0.0.1:0") }).is_labelled());
}

#[test]
fn what_a_server_does_to_its_slot_is_undone() {
    let held = local();
    let fd = held.first();
    held.ready_slot(ZERO).unwrap();
    setsockopt(&fd, sockopt::ReusePort, &false).unwrap();
    setsockopt(&fd, sockopt::TcpNoDelay, &true).unwrap();
    setsockopt(&fd, sockopt::RcvBuf, &4096).unwrap();
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&fd, sockopt::Linger, &linger).unwrap();
    sys::listen(&fd, 1).unwrap();
    sys::attach_reuseport_program(&fd, &super::program(1, None, None)).unwrap();
    held.refresh().unwrap();
    let _clients = [(); 5].map(|()| connect(&held));
    assert_eq!(queues(&held), [5, 0, 0]);
    assert!(held.queue().1.unwrap() > 1);
    let get = |level, name| sys::int_option(&*fd, level, name).unwrap();
    let buffer = |fd: &OwnedFd| sys::int_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF).unwrap();
    assert_eq!(get(libc::IPPROTO_TCP, libc::TCP_NODELAY), 1, "not under a living server");
    held.ready_slot(ZERO).unwrap();
    assert_eq!(get(libc::IPPROTO_TCP, libc::TCP_NODELAY), 0);
    assert_eq!(get(libc::SOL_SOCKET, libc::SO_LINGER), 0);
    assert_eq!(buffer(&fd), buffer(&held.slot(ONE).unwrap()));
    assert_eq!(get(libc::SOL_SOCKET, 72), 0, "SO_BUF_LOCK");
    sys::set_int_option(&*fd, libc::IPPROTO_IP, libc::IP_MINTTL, 255).unwrap();
    held.ready_slot(ZERO).unwrap();
    assert_eq!(get(libc::IPPROTO_IP, libc::IP_MINTTL), 0, "clients far away are dropped");
}

#[test]
fn slots_whose_filters_are_locked_do_not_stop_us() {
    let held = local();
    for slot in [ZERO, ONE] {
        lock_filters(&held.ready_slot(slot).unwrap());
        held.steer(&to(SlotId(1 - slot.0))).unwrap();
    }
    let _client = connect(&held);
    assert_eq!(queues(&held), [1, 0, 0], "through a third");
    let (waits, locked) = (held.first(), held.slot(ONE).unwrap());
    assert!(Rc::ptr_eq(&waits, &held.ready_slot(ZERO).unwrap()), "a client waits there");
    assert!(!Rc::ptr_eq(&locked, &held.ready_slot(ONE).unwrap()));
    held.steer(&to(ONE)).unwrap();
    let _other = connect(&held);
    assert_eq!(queues(&held), [1, 1, 0], "although its old socket is still open");
}

fn lock_filters(fd: &OwnedFd) {
    sys::set_int_option(fd, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 1).unwrap();
}

/// Nobody sees it in between, and the kernel's order is another.
#[test]
fn a_slot_that_was_shut_down_and_listens_again_is_found_out() {
    for traffic in [ZERO, ONE] {
        let held = local();
        held.ready_slot(TWO).unwrap();
        held.steer(&to(traffic)).unwrap();
        let fd = held.slot(traffic).unwrap();
        shut_down(&fd);
        sys::listen(&fd, 100).unwrap();
        held.steer(&to(traffic)).unwrap();
        std::mem::forget(connect(&held));
        let stray = [ZERO, ONE, TWO].into_iter().find(|slot| held.queued(*slot).unwrap() > 0).unwrap();
        assert_ne!(stray, traffic, "steering alone does not see it");
        held.verify(stray).unwrap();
        for slot in [traffic, ONE, TWO, ZERO] {
            held.steer(&to(slot)).unwrap();
            let before = queues(&held);
            std::mem::forget(connect(&held));
            let index = usize::from(slot.0);
            assert_eq!(queues(&held)[index], before[index] + 1, "{slot:?}");
        }
    }
}

#[test]
fn verifying_leaves_what_is_right() {
    let held = local();
    for steering in [to(ZERO), Steering { slot: ZERO, canary: Some((ONE, 99)) }] {
        held.steer(&steering).unwrap();
        held.verify(ONE).unwrap();
        held.steer(&to(ZERO)).unwrap();
        let before = queues(&held)[0];
        std::mem::forget(connect(&held));
        assert_eq!(queues(&held)[0], before + 1, "{steering:?}");
    }
}

#[test]
fn a_slot_that_was_spoiled_for_good_is_replaced() {
    let held = local();
    held.ready_slot(ONE).unwrap();
    let old = held.slot(ONE).unwrap();
    shut_down(&old);
    sys::attach_reuseport_program(&old, &super::program(0, None, None)).unwrap();
    assert_eq!(held.mend(ONE).expect_err("it has a group of its own").raw_os_error(), Some(libc::EADDRINUSE));
    let new = held.ready_slot(ONE).unwrap();
    assert!(!Rc::ptr_eq(&old, &new));
    held.steer(&to(ONE)).unwrap();
    let _client = connect(&held);
    assert_eq!(queues(&held), [0, 1, 0]);
}

#[test]
fn a_datagram_slot_shut_down_by_a_server_is_replaced() {
    let held = steered(udp("127.0.0.1:0"));
    held.ready_slot(ZERO).unwrap();
    let before = held.inodes().unwrap();
    assert_eq!(shutdown(held.first().as_raw_fd(), Shutdown::Both), Err(nix::errno::Errno::ENOTCONN));
    held.ready_slot(ZERO).unwrap();
    let after = held.inodes().unwrap();
    assert!(before[0] != after[0] && before[1] == after[1]);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    for (slot, wanted) in [(ZERO, [1, 0, 0]), (ONE, [1, 1, 0])] {
        held.steer(&to(slot)).unwrap();
        client.send_to(b"x", reach(&held)).unwrap();
        assert_eq!(queues(&held), wanted);
    }
}

/// connect(2) takes a datagram socket out of its group for ever.
#[test]
fn a_datagram_slot_connected_by_a_server_is_lost_and_replaced() {
    for is_shut_down in [false, true] {
        let held = steered(udp("127.0.0.1:0"));
        let fd = held.ready_slot(ZERO).unwrap();
        UdpSocket::from(fd.try_clone().unwrap()).connect("127.0.0.1:9").unwrap();
        if is_shut_down {
            shut_down(&fd);
        }
        held.steer(&to(ZERO)).unwrap();
        assert!(held.is_lost(ZERO) && !held.is_lost(ONE), "{is_shut_down}");
        held.ready_slot(ZERO).unwrap();
        assert!(!held.is_lost(ZERO));
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        for (slot, wanted) in [(ZERO, [1, 0, 0]), (ONE, [1, 1, 0])] {
            held.steer(&to(slot)).unwrap();
            client.send_to(b"x", reach(&held)).unwrap();
            assert_eq!(queues(&held), wanted, "{is_shut_down}");
        }
    }
}

#[test]
fn what_cannot_be_steered_says_why() {
    let reuse = SocketOptions { reuse_port: true, ..options() };
    let cases = [
        (Listener { options: reuse.into(), ..tcp("127.0.0.1:0") }, Handover::Steered, "ReusePort=yes"),
        (tcp("127.0.0.1:0"), Handover::Shared, "without Handover=steered"),
        (udp("239.1.2.3:0"), Handover::Steered, "multicasts"),
    ];
    for (listener, handover, word) in cases {
        let held = bind_all(&[listener], &Inherited::default(), handover).unwrap().remove(0);
        assert!(held.why_shared().unwrap().contains(word), "{word}");
        assert!(!held.is_steered());
        held.steer(&to(ONE)).unwrap();
        assert!(Rc::ptr_eq(&held.slot(ONE).unwrap(), &held.ready_slot(TWO).unwrap()));
        assert_eq!(held.inodes().unwrap().len(), 1);
    }
}
