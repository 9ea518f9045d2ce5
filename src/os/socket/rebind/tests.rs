use std::net::{TcpListener, TcpStream};

use super::super::tests::{asked, options, tcp, unix};
use super::super::{Families, bind_all};
use super::*;
use crate::config::Kind;

fn again(held: &[NamedSocket], listeners: &[Listener]) -> Result<Vec<NamedSocket>, BindError> {
    rebind(held, listeners, &Inherited::default(), Handover::Shared)
}

fn is_same(a: &NamedSocket, b: &NamedSocket) -> bool {
    Rc::ptr_eq(&a.socket, &b.socket)
}

#[test]
fn what_stays_is_kept_what_is_new_is_bound_what_is_gone_is_left_over() {
    let directory = tempfile::tempdir().unwrap();
    let [stays, goes, comes] = ["stays", "goes", "comes"].map(|name| directory.path().join(name));
    let old = [unix(Kind::Unix, &goes), unix(Kind::Unix, &stays)];
    let held = bind_all(&old, &Inherited::default(), Handover::Shared).unwrap();
    let renamed = Listener { name: "renamed".to_owned(), ..unix(Kind::Unix, &stays) };
    let rebound = again(&held, &[unix(Kind::Unix, &comes), renamed]).unwrap();
    let names: Vec<&str> = rebound.iter().map(|socket| socket.name.as_str()).collect();
    assert_eq!(names, ["local", "renamed"]);
    assert!(is_same(&rebound[1], &held[1]));
    assert!(goes.exists() && comes.exists() && stays.exists());
    // The swap is done: the old list goes.
    drop(held);
    assert!(!goes.exists() && comes.exists() && stays.exists());
    drop(rebound);
    assert!(!comes.exists() && !stays.exists());
}

#[test]
fn a_list_given_up_leaves_the_old_one_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let [old, new] = ["old", "new"].map(|name| directory.path().join(name));
    let held = bind_all(&[unix(Kind::Unix, &old)], &Inherited::default(), Handover::Shared).unwrap();
    drop(again(&held, &[unix(Kind::Unix, &new)]).unwrap());
    assert!(old.exists() && !new.exists());
    let theirs = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = tcp(&theirs.local_addr().unwrap().to_string());
    again(&held, &[unix(Kind::Unix, &new), taken]).expect_err("taken");
    assert!(old.exists() && !new.exists());
}

#[test]
fn what_is_beside_a_port_stays_with_it_and_then_in_its_place() {
    let port = || asked(Kind::Tcp, Address::Port(0), "web");
    let held = bind_all(&[port()], &Inherited::default(), Handover::Steered).unwrap();
    if !held[0].takes_ipv4() {
        return;
    }
    let beside = held[0].beside(Families::V4).unwrap();
    assert_eq!(beside.address, format!("0.0.0.0:{}", held[0].port.unwrap()));
    assert!(beside.is_steered() && !held[0].takes_ipv4());
    let both = [held[0].clone(), beside.clone()];
    let rebound = again(&both, &[port(), tcp("127.0.0.1:0")]).unwrap();
    assert!(rebound.len() == 3 && is_same(&rebound[0], &both[0]) && is_same(&rebound[1], &both[1]));
    drop((held, both));
    let rebound = again(&rebound[1..2], &[port()]).unwrap();
    assert!(rebound.len() == 1 && is_same(&rebound[0], &beside));
    // What is asked for by its whole address has it.
    let whole = bind_all(&[tcp("[::]:0")], &Inherited::default(), Handover::Steered).unwrap();
    assert!(whole[0].beside(Families::V4).is_err());
}

#[test]
fn ports_picked_by_the_kernel_stay_in_their_order() {
    let held =
        bind_all(&[tcp("127.0.0.1:0"), tcp("127.0.0.1:0")], &Inherited::default(), Handover::Shared).unwrap();
    let rebound = again(&held, &[tcp("127.0.0.1:0"), tcp("127.0.0.1:0"), tcp("127.0.0.1:0")]).unwrap();
    assert!(is_same(&rebound[0], &held[0]) && is_same(&rebound[1], &held[1]));
    assert!(held.iter().all(|old| !is_same(&rebound[2], old)));
    let rebound = again(&held, &[tcp("127.0.0.1:0")]).unwrap();
    assert!(is_same(&rebound[0], &held[0]));
    // This is the same address, written with its port.
    let rebound = again(&held, &[tcp(&held[1].address)]).unwrap();
    assert!(is_same(&rebound[0], &held[1]));
}

#[test]
fn twins_of_reuse_port_are_both_kept() {
    let mut twin = tcp("127.0.0.1:0");
    Rc::make_mut(&mut twin.options).reuse_port = true;
    let mut held = bind_all(&[twin.clone()], &Inherited::default(), Handover::Shared).unwrap();
    twin.address = tcp(&held[0].address).address;
    let listeners = [twin.clone(), twin];
    held = again(&held, &listeners).unwrap();
    let rebound = again(&held, &listeners).unwrap();
    assert!(held.iter().zip(&rebound).all(|(old, new)| is_same(old, new)));
}

#[test]
fn another_kind_is_another_socket() {
    let held = bind_all(&[tcp("127.0.0.1:0")], &Inherited::default(), Handover::Shared).unwrap();
    let udp = asked(Kind::Udp, tcp(&held[0].address).address, "web");
    let rebound = again(&held, &[udp]).unwrap();
    assert!(!is_same(&rebound[0], &held[0]));
    TcpStream::connect(&held[0].address).unwrap();
}

#[test]
fn a_change_that_needs_a_new_start_says_so() {
    let held = bind_all(&[tcp("127.0.0.1:0")], &Inherited::default(), Handover::Shared).unwrap();
    let wide = tcp(&format!("0.0.0.0:{}", held[0].port.unwrap()));
    let error = again(&held, &[wide]).expect_err("the server has the old one");
    let text = error.to_string();
    assert!(text.contains(&held[0].address) && text.contains("stop supervise and start it"), "{text}");
    TcpStream::connect(&held[0].address).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sock");
    let held = bind_all(&[unix(Kind::Unix, &path)], &Inherited::default(), Handover::Shared).unwrap();
    let error = again(&held, &[unix(Kind::SeqPacket, &path)]).expect_err("of another kind");
    assert!(error.remedy.contains("stop supervise and start it"), "{error}");
    let twice = again(&held, &[unix(Kind::Unix, &path), unix(Kind::Unix, &path)]).expect_err("one path");
    assert!(twice.remedy.contains("list it once"), "{twice}");
}

#[test]
fn options_of_a_kept_socket_stay() {
    let held = bind_all(&[tcp("127.0.0.1:0")], &Inherited::default(), Handover::Shared).unwrap();
    let mut changed = tcp("127.0.0.1:0");
    changed.options = SocketOptions { backlog: 3, ..options() }.into();
    let rebound = again(&held, &[changed]).unwrap();
    assert!(is_same(&rebound[0], &held[0]));
    assert_eq!(rebound[0].backlog, Some(u32::MAX));
}
