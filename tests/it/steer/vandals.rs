//! The listener doctor: what a server does to its socket is mended, at once where that makes an event.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::UtimensatFlags::FollowSymlink;
use nix::sys::stat::utimensat;
use nix::sys::time::TimeSpec;

use super::super::load::{Load, get};
use super::super::support::{Daemon, Place, fd_flags, proc_status, settled, wait_for};
use super::{assert_answered, assert_steered, queue_up, swapped, vandal, vandal_at};

/// How long clients could not get an answer after the deed; nobody waits for long.
fn outage(address: &str, deed: &str) -> Duration {
    let load = Load::start(address, 500);
    load.let_pass(50);
    let begin = Instant::now();
    get(address, deed).unwrap();
    load.let_pass(250);
    let samples = load.samples();
    assert_eq!(samples.counts().late, 0, "{}, hiccup {:?}", samples.counts(), samples.hiccup);
    let failed = samples.all.iter().filter(|one| one.result.is_err() && one.begun > begin);
    let last = failed.map(|one| one.begun).max();
    last.map_or(Duration::ZERO, |last| last - begin)
}

/// The shortest of a few: this machine has other work. None may be long.
#[track_caller]
fn assert_mended(outages: &[Duration]) {
    println!("outages: {outages:?}");
    assert!(outages.iter().min().unwrap() <= &Duration::from_millis(100), "{outages:?}");
    assert!(outages.iter().max().unwrap() <= &Duration::from_millis(500), "{outages:?}");
}

#[test]
fn a_listener_that_was_shut_down_is_back_within_a_tenth_of_a_second() {
    let place = Place::new();
    let mut daemon = vandal(&place, "--bake 0 --drain-quiet 50ms").start();
    daemon.wait_generation(1);
    assert_steered(&daemon);
    let address = daemon.address("http");
    let server = daemon.server();
    let outages: Vec<_> = (0..3).map(|_| outage(&address, "/shutdown")).collect();
    assert_mended(&outages);
    assert_eq!(daemon.server(), server, "under the living server");
    let said = daemon.stderr();
    assert!(said.contains("generation 1") && said.contains("shut"), "{said}");
    // Supervise can still steer to the other slot and back.
    for generation in 2..=3 {
        swapped(&daemon, generation);
        assert_eq!(get(&address, "/").unwrap(), format!("vandal generation {generation}\n"));
    }
}

#[test]
fn a_unix_path_that_was_removed_is_back_within_a_tenth_of_a_second() {
    let place = Place::new();
    let path = place.path("site.sock");
    let mut daemon = vandal_at(&place, &path, "--bake 0 --drain-quiet 50ms").start();
    daemon.wait_generation(1);
    let deed = format!("/unlink{path}");
    let outages: Vec<_> = (0..3).map(|_| outage(&path, &deed)).collect();
    assert_mended(&outages);
    let said = daemon.stderr();
    assert!(said.contains("site.sock") && said.contains("remove"), "{said}");
    for generation in 2..=3 {
        swapped(&daemon, generation);
        assert_eq!(get(&path, "/").unwrap(), format!("vandal generation {generation}\n"));
    }
}

#[test]
fn a_unix_listener_that_was_shut_down_is_back_within_a_tenth_of_a_second() {
    let place = Place::new();
    let path = place.path("site.sock");
    let mut daemon = vandal_at(&place, &path, "--restart-sec 0 --bake 0 --drain-quiet 50ms").start();
    daemon.wait_generation(1);
    get(&path, "/").unwrap();
    // Whoever has lost its socket is stopped at once, maybe before it has said that it did as it was asked.
    let _answer_or_end = get(&path, "/shutdown");
    let begin = Instant::now();
    wait_for("a client's connection", || UnixStream::connect(&path).ok());
    assert!(begin.elapsed() <= Duration::from_millis(500), "{:?}", begin.elapsed());
    // The server has an fd of what no longer is, so it has failed: the next one comes by itself.
    assert_eq!(get(&path, "/").unwrap(), "vandal generation 2\n");
    let said = daemon.stderr();
    assert!(said.contains("generation 1 can accept nothing on"), "{said}");
    swapped(&daemon, 3);
    assert_eq!(get(&path, "/").unwrap(), "vandal generation 3\n");
}

/// A process that may connect to the socket may change the times of its path.
#[test]
fn paths_that_are_touched_without_end_cost_little_and_are_looked_after_all_the_same() {
    let place = Place::new();
    let paths = ["a.sock", "b.sock"].map(|name| place.path(name));
    let [a, b] = &paths;
    let mut daemon = vandal_at(&place, a, &format!("--listen {b}=b")).start();
    daemon.wait_generation(1);
    let sleeps = || settled_switches(daemon.pid());
    let before = sleeps();
    let (begin, mut touches) = (Instant::now(), 0_u64);
    while begin.elapsed() < Duration::from_secs(1) {
        for path in &paths {
            utimensat(AT_FDCWD, path.as_str(), &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_NOW, FollowSymlink)
                .unwrap();
            touches += 1;
        }
    }
    let wakeups = sleeps() - before;
    println!("{wakeups} wake-ups for {touches} touches");
    assert!(touches > 1_000 && wakeups < 200, "{wakeups} wake-ups for {touches} touches");
    assert!(outage(a, &format!("/unlink{a}")) <= Duration::from_millis(500));
}

fn settled_switches(pid: i32) -> u64 {
    settled("the wake-ups", || proc_status(pid, "voluntary_ctxt_switches").unwrap().parse().unwrap())
}

/// Nobody sees that the group has another order by then; or a server has a program of its own.
#[test]
fn connections_that_a_server_leads_astray_are_answered_by_it_again() {
    for deed in ["/flip", "/attach"] {
        let place = Place::new();
        let mut daemon = vandal(&place, "--bake 0 --drain-quiet 50ms").start();
        daemon.wait_generation(1);
        assert_steered(&daemon);
        let address = daemon.address("http");
        let outages: Vec<_> = (0..3).map(|_| outage(&address, deed)).collect();
        assert_mended(&outages);
        swapped(&daemon, 2);
        assert_eq!(get(&address, "/").unwrap(), "vandal generation 2\n");
    }
}

const CLIENTS: usize = 300;

/// Fills the queue with clients, and asserts that the next generation answers them all.
fn hold_a_queue(daemon: &mut Daemon, next: u64) {
    let address = daemon.address("http");
    daemon.verb("kill KILL").expect(0);
    daemon.wait_state("waiting");
    let mut clients = queue_up(&address, CLIENTS, "/");
    let socket = &daemon.status()["sockets"][0];
    assert_eq!(socket["queue"], CLIENTS, "all of them, and none later than the others");
    daemon.verb("swap").expect(0);
    assert_answered(&mut clients, &format!("vandal generation {next}\n"));
}

#[test]
fn the_next_generation_finds_a_clean_socket_whatever_was_done_to_it() {
    let place = Place::new();
    let mut daemon = vandal(&place, "--restart-sec 1h --bake 0 --drain-quiet 50ms").start();
    daemon.wait_generation(1);
    assert_steered(&daemon);
    let address = daemon.address("http");
    for generation in 1..=4 {
        for deed in ["/backlog/1", "/alone", "/nonblock"] {
            assert_eq!(get(&address, deed).unwrap(), format!("vandal generation {generation}\n"));
        }
        assert!(fd_flags(daemon.server(), 3) & 0o4000 != 0);
        swapped(&daemon, generation + 1);
        let status = daemon.wait_generation(generation + 1);
        assert_eq!(fd_flags(daemon.server(), 3) & 0o4000, 0, "it was promised a blocking socket");
        assert!(status["sockets"][0]["backlog"].as_u64().unwrap() >= CLIENTS as u64, "{status}");
    }
    get(&address, "/backlog/1").unwrap();
    get(&address, "/nonblock").unwrap();
    hold_a_queue(&mut daemon, 6);
    assert_eq!(fd_flags(daemon.server(), 3) & 0o4000, 0, "it was promised a blocking socket");
}

#[test]
fn o_nonblock_of_a_living_server_stays() {
    let place = Place::new();
    let mut daemon = vandal(&place, "--bake 1h").start();
    daemon.wait_generation(1);
    let server = daemon.server();
    get(&daemon.address("http"), "/nonblock").unwrap();
    let verb = daemon.spawn_verb("swap");
    super::wait_for_traffic(&daemon.address("http"), "vandal generation 2\n");
    assert!(fd_flags(server, 3) & 0o4000 != 0, "taken from under its hands");
    drop(verb);
}

#[test]
fn a_server_that_locks_its_filter_is_swapped_all_the_same() {
    let place = Place::new();
    let mut daemon = vandal(&place, "--bake 0 --drain-quiet 50ms --kill-signal KILL").start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    let load = Load::start(&address, 300);
    for generation in 1..=6 {
        assert_eq!(get(&address, "/lock").unwrap(), format!("vandal generation {generation}\n"));
        load.let_pass(20);
        swapped(&daemon, generation + 1);
    }
    load.let_pass(20);
    load.samples().assert_clean();
    assert_steered(&daemon);
}

#[test]
fn a_server_that_shuts_its_listener_down_without_end_is_told_of_once_and_then_counted() {
    let place = Place::new();
    let mut daemon = vandal(&place, "--bake 0 --drain-quiet 50ms").start();
    daemon.wait_generation(1);
    let address = daemon.address("http");
    for _ in 0..20 {
        wait_for("an answer", || get(&address, "/shutdown").ok());
    }
    swapped(&daemon, 2);
    daemon.wait_generation(2);
    let said = daemon.stderr();
    let of_it: Vec<_> = said.lines().filter(|line| line.contains("shut")).collect();
    assert_eq!(of_it.len(), 1, "{said}");
    assert!(said.contains("generation 1 has done the same"), "{said}");
}

/// webrick, starman and slapd do this when they end.
#[test]
fn a_server_that_shuts_its_listener_down_in_each_generation_is_told_of_once() {
    let place = Place::new();
    let mut daemon = vandal(&place, "--bake 0 --drain-quiet 50ms").start();
    for generation in 1..=3 {
        daemon.wait_generation(generation);
        let shut = format!("vandal generation {generation}\n");
        assert_eq!(wait_for("an answer", || get(&daemon.address("http"), "/shutdown").ok()), shut);
        swapped(&daemon, generation + 1);
    }
    daemon.wait_generation(4);
    let said = daemon.stderr();
    assert_eq!(
        said.matches(" down; supervise listens again (the server must not do that)").count(),
        1,
        "{said}"
    );
    assert!(!said.contains("has done the same"), "{said}");
}

/// Nothing of somebody else's is replaced; once it was moved away the path leads to supervise again.
#[test]
fn whoever_takes_the_path_of_a_socket_is_told_of_each_time() {
    let place = Place::new();
    let path = place.path("site.sock");
    let mut daemon = vandal_at(&place, &path, "--bake 0 --drain-quiet 50ms").start();
    daemon.wait_generation(1);
    for times in 1..=2 {
        let (theirs, moved) = (place.path("theirs"), place.path("moved"));
        let stranger = UnixListener::bind(&theirs).unwrap();
        fs::rename(&theirs, &path).unwrap();
        wait_for("the news", || {
            (daemon.stderr().matches("a file of another process is at").count() == times).then_some(())
        });
        UnixStream::connect(&path).unwrap();
        stranger.accept().unwrap();
        fs::rename(&path, moved).unwrap();
        assert_eq!(get_once_there(&path), format!("vandal generation {times}\n"));
        swapped(&daemon, times as u64 + 1);
        assert_eq!(get(&path, "/").unwrap(), format!("vandal generation {}\n", times + 1));
    }
}

fn get_once_there(path: &str) -> String {
    wait_for("the path to lead to somebody", || UnixStream::connect(path).ok());
    get(path, "/").unwrap()
}

/// So do servers that know nothing of sockets that are passed: unlink, bind, and unlink at their end.
#[test]
fn a_path_that_somebody_takes_and_removes_again_is_ours_again() {
    let place = Place::new();
    let path = place.path("site.sock");
    let mut daemon = vandal_at(&place, &path, "--bake 0 --drain-quiet 50ms").start();
    daemon.wait_generation(1);
    let take = || {
        wait_for("the path to be free for a moment", || {
            let _gone_already = fs::remove_file(&path);
            UnixListener::bind(&path).ok()
        })
    };
    for times in 1..=2 {
        let theirs = take();
        wait_for("the news", || {
            (daemon.stderr().matches("a file of another process is at").count() == times).then_some(())
        });
        drop(theirs);
        fs::remove_file(&path).unwrap();
        assert_eq!(get_once_there(&path), format!("vandal generation {times}\n"));
        swapped(&daemon, times as u64 + 1);
    }
    // A file that comes and goes fast does not confuse supervise.
    for _ in 0..50 {
        drop(take());
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(get_once_there(&path), "vandal generation 3\n");
    let said = daemon.stderr();
    assert!(!said.contains("os error"), "{said}");
    assert!(said.contains("leads to supervise again"), "{said}");
}

/// Nothing in the kernel tells of a listen(2), so it is seen when somebody looks.
#[test]
fn a_queue_that_a_server_has_made_shorter_is_as_long_as_before_and_that_is_told_once() {
    for (address, options) in [
        ("127.0.0.1:0", ""),
        ("127.0.0.1:0", "--handover shared"),
        ("site.sock", ""),
        ("site.sock", "--handover shared"),
    ] {
        let place = Place::new();
        let address = if address == "site.sock" { place.path(address) } else { address.to_owned() };
        let mut daemon =
            vandal_at(&place, &address, &format!("--bake 0 --drain-quiet 50ms {options}")).start();
        daemon.wait_generation(1);
        let address = daemon.address("http");
        let backlog = |daemon: &Daemon| daemon.status()["sockets"][0]["backlog"].as_u64().unwrap();
        let before = backlog(&daemon);
        for _ in 0..3 {
            assert_eq!(get(&address, "/backlog/1").unwrap(), "vandal generation 1\n");
            assert_eq!(backlog(&daemon), before, "{address} {options}: {}", daemon.stderr());
        }
        // The kernel reports no listen(2); supervise looks when something else wakes it.
        let told = |daemon: &Daemon| daemon.stderr().matches("has made the queue of").count();
        assert_eq!(told(&daemon), 1, "{address} {options}: {}", daemon.stderr());
        swapped(&daemon, 2);
        daemon.wait_generation(2);
        assert_eq!(
            (told(&daemon), backlog(&daemon)),
            (1, before),
            "{address} {options}: {}",
            daemon.stderr()
        );
    }
}
