//! Queues that are too small: said at the start, and told after each swap in which one overflowed.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket,
};

use super::super::support::Place;
use super::{hung, rude, swapped};

#[test]
fn a_backlog_beyond_what_the_kernel_allows_is_said() {
    let limit: u32 = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
    let place = Place::new();
    let mut daemon = rude(&place, "127.0.0.1:0", &format!("-p Backlog={}", limit + 1)).start();
    let status = daemon.wait_generation(1);
    assert_eq!(status["sockets"][0]["backlog"], limit, "{status}");
    let said = daemon.stderr();
    let about_it = said.lines().filter(|line| line.contains("somaxconn"));
    assert_eq!(about_it.count(), 1, "{said}");
}

#[test]
fn what_a_queue_could_not_hold_is_told_after_the_swap() {
    let place = Place::new();
    let options = "-p Backlog=4 --kill-signal KILL --bake 0 --drain-quiet 50ms";
    let mut daemon = rude(&place, "127.0.0.1:0", options).start();
    daemon.wait_generation(1);
    let address = daemon.address("http").parse().unwrap();
    swapped(&daemon, 2);
    daemon.wait_generation(2);
    hung::hang(daemon.server());
    place.write("sick", "");
    let verb = daemon.spawn_verb("swap");
    daemon.wait_until("the candidate is there", |status| {
        status["generations"].as_array().unwrap().iter().any(|one| one["generation"] == 3)
    });
    let tries: Vec<_> =
        (0..10).map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(50))).collect();
    assert!(tries.iter().any(Result::is_err), "the queue of 4 holds no 10");
    fs::remove_file(place.path("sick")).unwrap();
    drop(tries);
    let said = verb.end().expect(0).text();
    daemon.wait_generation(3);
    let all = format!("{said}{}", daemon.stderr());
    assert!(all.contains("found a full queue"), "{all}");
}

#[test]
fn what_the_queue_of_another_program_could_not_hold_is_not_ours_to_tell() {
    let place = Place::new();
    let mut daemon = rude(&place, "127.0.0.1:0", "--kill-signal KILL --bake 0 --drain-quiet 50ms").start();
    daemon.wait_generation(1);
    let other = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(other.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    listen(&other, Backlog::new(1).unwrap()).unwrap();
    let at: SockaddrIn = getsockname(other.as_raw_fd()).unwrap();
    let address = SocketAddr::from((at.ip(), at.port()));
    place.write("sick", "");
    let verb = daemon.spawn_verb("swap");
    daemon.wait_until("the candidate is there", |status| {
        status["generations"].as_array().unwrap().iter().any(|one| one["generation"] == 2)
    });
    let tries: Vec<_> =
        (0..5).map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(50))).collect();
    assert!(tries.iter().any(Result::is_err), "the queue of 1 holds no 5");
    fs::remove_file(place.path("sick")).unwrap();
    let said = verb.end().expect(0).text();
    daemon.wait_generation(2);
    let all = format!("{said}{}", daemon.stderr());
    assert!(!all.contains("full queue"), "{all}");
}
