//! What a later generation binds of the families of a port alone, where an earlier one bound others.

use super::super::load::{Failure, Load, get};
use super::super::support::{Daemon, Launch, Place, example, wait_for};
use super::families::{addresses, has_ipv6, held, port};
use super::{assert_answers, binds, is_bound_by_another, swapped};

/// Each generation binds what the file `words` says when it starts; there PORT is the port.
const BY_FILE: &str = "exec \"$0\" $(sed s/PORT/$1/g words)";

fn by_file<'a>(place: &'a Place, options: &str, words: &str) -> Launch<'a> {
    place.write("words", words);
    let command = ["sh", "-c", BY_FILE, &example("binds"), "{port:http}"];
    binds(place, "0", options, &[]).command(&command).directory(&place.path(""))
}

/// Its first generation binds IPv4 alone, and that is known.
fn of_ipv4(place: &Place, options: &str) -> (Daemon, u16) {
    let mut daemon = by_file(place, options, "0.0.0.0:PORT").start();
    daemon.wait_generation(1);
    let port = port(&daemon);
    let said = format!("listening on 0.0.0.0:{port} instead of [::]:{port}");
    wait_for("that to be told", || daemon.stderr().contains(&said).then_some(()));
    (daemon, port)
}

#[test]
fn a_later_generation_may_bind_ipv6_as_well() {
    if !has_ipv6() {
        return;
    }
    for words in ["0.0.0.0:PORT only6+[::]:PORT", "only6+[::]:PORT 0.0.0.0:PORT"] {
        let place = Place::new();
        let (daemon, port) = of_ipv4(&place, "");
        let load = Load::start(&format!("127.0.0.1:{port}"), 50);
        place.write("words", words);
        swapped(&daemon, 2);
        let said = format!("listening on [::]:{port} as well as 0.0.0.0:{port}");
        wait_for("that to be told", || daemon.stderr().contains(&said).then_some(()));
        let by_ipv6 = Load::start(&format!("[::1]:{port}"), 50);
        for generation in 2..=4 {
            assert_answers(&format!("127.0.0.1:{port}"), generation);
            assert_answers(&format!("[::1]:{port}"), generation);
            if generation < 4 {
                swapped(&daemon, generation + 1);
            }
        }
        for counts in [load.finish(), by_ipv6.finish()] {
            assert!(counts.failed() == 0 && counts.ok > 0, "{counts}: {}", daemon.stderr());
        }
        assert_eq!(addresses(&daemon), [format!("0.0.0.0:{port}"), format!("[::]:{port}")]);
        assert!(!is_bound_by_another(&daemon, port));
    }
}

#[test]
fn what_a_candidate_binds_of_ipv6_goes_with_it() {
    if !has_ipv6() {
        return;
    }
    let place = Place::new();
    let (daemon, port) = of_ipv4(&place, "--timeout-start-sec 2s");
    let load = Load::start(&format!("127.0.0.1:{port}"), 50);
    // The server does not answer by IPv4, so it is never ready.
    place.write("words", "only6+[::]:PORT");
    let swap = daemon.verb("swap --json").expect(1).json();
    assert_eq!(swap["outcome"], "rolled-back", "{}", daemon.stderr());
    let refused = wait_for("its end", || get(&format!("[::1]:{port}"), "/").err());
    assert_eq!(refused, Failure::Refused);
    let counts = load.finish();
    assert!(counts.failed() == 0 && counts.ok > 0, "{counts}: {}", daemon.stderr());
    place.write("words", "0.0.0.0:PORT only6+[::]:PORT");
    swapped(&daemon, 3);
    assert_answers(&format!("[::1]:{port}"), 3);
}

#[test]
fn a_later_generation_of_both_families_is_told_to_restart_and_then_has_them() {
    if !has_ipv6() {
        return;
    }
    let place = Place::new();
    let (mut daemon, port) = of_ipv4(&place, "");
    let load = Load::start(&format!("127.0.0.1:{port}"), 50);
    place.write("words", "[::]:PORT");
    swapped(&daemon, 2);
    assert_answers(&format!("127.0.0.1:{port}"), 2);
    let said = format!("the server binds [::]:{port}, for IPv6 as well, and got 0.0.0.0:{port}");
    wait_for("that to be told", || daemon.stderr().contains(&said).then_some(()));
    swapped(&daemon, 3);
    assert_eq!(daemon.stderr().matches(&said).count(), 1, "{}", daemon.stderr());
    let counts = load.finish();
    assert!(counts.failed() == 0 && counts.ok > 0, "{counts}: {}", daemon.stderr());
    // A restart cuts off what the server works on.
    daemon.verb("restart").expect(0);
    daemon.wait_generation(4);
    let said = format!("listening on [::]:{port} instead of 0.0.0.0:{port}");
    wait_for("that to be told", || daemon.stderr().contains(&said).then_some(()));
    for generation in 4..=5 {
        assert_answers(&format!("127.0.0.1:{port}"), generation);
        assert_answers(&format!("[::1]:{port}"), generation);
        if generation < 5 {
            swapped(&daemon, generation + 1);
        }
    }
    assert!(!is_bound_by_another(&daemon, port));
}

#[test]
fn a_family_that_nobody_uses_after_a_try_is_closed() {
    if !has_ipv6() {
        return;
    }
    let place = Place::new();
    let mut daemon = by_file(&place, "", "try+0.0.0.0:PORT 127.0.0.1:0").start();
    daemon.wait_generation(1);
    let port = port(&daemon);
    wait_for("its end", || (held(&daemon) == [format!("[::]:{port}")]).then_some(()));
}

/// Supervise learns which families the server has although it never stops binding.
#[test]
fn a_server_that_goes_on_binding_its_port_is_looked_at() {
    if !has_ipv6() {
        return;
    }
    let place = Place::new();
    let daemon = by_file(&place, "", "flood+0.0.0.0:PORT").start();
    let port = port(&daemon);
    let said = format!("listening on 0.0.0.0:{port} instead of [::]:{port}");
    wait_for("that to be told", || daemon.stderr().contains(&said).then_some(()));
}
