//! When a relay leaves its slot, and that it does not wait there for what a living server has taken.

use std::fs;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use nix::sys::socket::{Shutdown as How, shutdown};

use super::super::steer::namespace;
use super::super::support::{fds, settled, wait_for};
use super::{Started, Target, accept, connect, exchange, listener, on_cpu, pair, rest, serve_echo};

/// The name of a socket in /proc/PID/fd.
fn name_of(socket: &impl AsRawFd) -> String {
    let link = format!("/proc/self/fd/{}", socket.as_raw_fd());
    fs::read_link(link).unwrap().to_string_lossy().into_owned()
}

fn wait_until_it_left(relay: &Started, slot: &TcpListener) {
    let slot = name_of(slot);
    wait_for("the relay to leave its slot", || {
        fds(relay.pid).iter().all(|(_, name)| *name != slot).then_some(())
    });
}

/// Asserts that the relay carries on what it has, takes no more, and sleeps meanwhile.
fn assert_it_left(client: &mut TcpStream, relay: &Started, served: &mut TcpStream, slot: &TcpListener) {
    wait_until_it_left(relay, slot);
    let mut late = connect(slot.local_addr().unwrap());
    exchange(client, served, "still there?");
    exchange(served, client, "yes");
    let before = settled("the relay", || on_cpu(relay.pid));
    thread::sleep(Duration::from_millis(200));
    let spent = on_cpu(relay.pid) - before;
    assert!(spent < Duration::from_millis(20), "{spent:?} on the CPU for nothing");
    let mut taken = accept(slot);
    exchange(&mut late, &mut taken, "for whoever has the slot now");
}

#[test]
fn told_to_stop_it_leaves_the_slot_and_finishes_what_it_carries() {
    let (mut client, relay, mut served, slot) = pair();
    exchange(&mut client, &mut served, "before");
    relay.terminate();
    assert_it_left(&mut client, &relay, &mut served, &slot);
    // A second SIGTERM changes nothing.
    relay.terminate();
    exchange(&mut client, &mut served, "after");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut served), "");
    drop(served);
    assert_eq!(rest(&mut client), "");
    relay.end(1, 0);
}

#[test]
fn the_end_of_its_supervisor_is_as_good_as_a_signal() {
    let (mut client, mut relay, mut served, slot) = pair();
    exchange(&mut client, &mut served, "before");
    relay.relay = None;
    assert_it_left(&mut client, &relay, &mut served, &slot);
    drop(client);
    assert_eq!(rest(&mut served), "");
    drop(served);
    relay.wait();
}

/// A server shuts its slot down, and supervise listens on it again.
#[test]
fn a_slot_that_is_shut_down_is_left() {
    let (mut client, relay, mut served, slot) = pair();
    exchange(&mut client, &mut served, "before");
    shutdown(slot.as_raw_fd(), How::Both).unwrap();
    wait_until_it_left(&relay, &slot);
    exchange(&mut client, &mut served, "after");
    drop((client, served));
    relay.end(1, 0);
}

/// A hung server wakes up and accepts as well, without O_NONBLOCK: the relay may find that what poll(2) saw is gone, and
/// must not wait for the next, or what it carries would wait with it.
#[test]
fn it_never_waits_in_accept() {
    let ((slot, waiting), (server, address)) = (listener(), listener());
    let mut carried = connect(waiting);
    let relay = Started::new(&slot, &Target::Tcp(address));
    let mut served = accept(&server);
    serve_echo(server);
    let woken = slot.try_clone().unwrap();
    let awake = thread::spawn(move || {
        let mut taken = 0;
        // accept(2) fails when the slot is shut down.
        while let Ok((mut stream, _)) = woken.accept() {
            taken += 1;
            std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap();
        }
        taken
    });
    for _ in 0..CONTESTED {
        let mut client = connect(waiting);
        exchange(&mut carried, &mut served, "is it waiting elsewhere?");
        let mut same = client.try_clone().unwrap();
        exchange(&mut client, &mut same, "whoever");
    }
    drop((carried, served));
    let carried = relay.carried();
    shutdown(slot.as_raw_fd(), How::Both).unwrap();
    assert_eq!(carried.passed_on + awake.join().unwrap(), 1 + CONTESTED);
}

/// With so many connections the server and the relay want some of them at the same time, on two CPUs.
const CONTESTED: u64 = 2000;

/// Supervise may have inherited fds without close-on-exec, such as a lock or the end of a pipe.
#[test]
fn it_keeps_nothing_that_supervise_inherited() {
    let (reader, writer) = nix::unistd::pipe().unwrap();
    let (mut client, relay, mut served, _slot) = pair();
    exchange(&mut client, &mut served, "works");
    let names: Vec<String> = fds(relay.pid).into_iter().map(|(_, name)| name).collect();
    for end in [&reader, &writer] {
        let name = name_of(end);
        assert!(!names.contains(&name), "{name} in {names:?}");
    }
    drop((client, served));
    relay.end(1, 0);
}

/// Here the address leads to the slot of the relay, which would pass each connection on to itself for ever.
#[test]
fn it_does_not_serve_itself() {
    let (slot, address) = listener();
    let mut client = connect(address);
    let mut relay = Started::new(&slot, &Target::Tcp(address));
    assert!(
        std::io::Read::read(&mut client, &mut [0; 8]).is_ok_and(|length| length == 0),
        "nobody serves it"
    );
    let pid = nix::unistd::Pid::from_raw(relay.pid);
    wait_for("the relay to give up", || {
        let status = nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG)).unwrap();
        (status != nix::sys::wait::WaitStatus::StillAlive).then(|| relay.status = Some(status))
    });
    assert_eq!(relay.status, Some(nix::sys::wait::WaitStatus::Exited(pid, 1)));
}

/// The kernel gives out a port again for another destination: where there are few, to a client and to the relay.
#[test]
fn a_client_with_the_port_of_one_of_its_own_connections_is_carried() {
    if !namespace::enter() {
        return;
    }
    namespace::set("ipv4/ip_local_port_range", "30000 30003");
    // Which are the same is chance, so more than once.
    for port in (20_000..20_016).step_by(2) {
        let [slot, server] = [port, port + 1].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
        let mut clients: Vec<_> = (0..4).map(|_| connect(slot.local_addr().unwrap())).collect();
        let target = Target::Tcp(server.local_addr().unwrap());
        serve_echo(server);
        let relay = Started::new(&slot, &target);
        for client in &mut clients {
            let mut other = client.try_clone().unwrap();
            exchange(client, &mut other, "is there anybody?");
        }
        drop(clients);
        relay.end(4, 0);
    }
}
