//! A relay that cannot be started: those that wait are taken elsewhere as soon as it can.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use super::super::load::{answer, ask, connect};
use super::super::support::{Place, SUPERVISE, wait_for};
use super::hung::hang;
use super::{assert_steered, rude, swapped};

#[test]
fn a_relay_that_cannot_be_started_is_tried_again_until_it_can() {
    // Where the kernel of this machine takes them elsewhere, there is no relay.
    if fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req").is_ok_and(|text| text.trim() == "1") {
        return;
    }
    let place = Place::new();
    let binary = place.path("supervise");
    fs::copy(SUPERVISE, &binary).unwrap();
    let allow = |mode| fs::set_permissions(&binary, Permissions::from_mode(mode)).unwrap();
    let options = "--kill-signal KILL --bake 0 --drain-quiet 50ms";
    let mut daemon = rude(&place, "127.0.0.1:0", options).binary(&binary).start();
    daemon.wait_generation(1);
    assert_steered(&daemon);
    let address = daemon.address("http");
    hang(daemon.server());
    let mut clients: Vec<_> = (0..3).map(|_| connect(&address).unwrap()).collect();
    for client in &mut clients {
        ask(client, "/").unwrap();
    }
    // A relay is supervise itself. Not even root runs what nobody may run.
    allow(0o644);
    swapped(&daemon, 2);
    let mut attempts = BTreeSet::new();
    wait_for("several attempts", || {
        let next = &daemon.status()["next"];
        if next["why"].as_str().is_some_and(|why| why.contains("taken elsewhere")) {
            attempts.insert(next["at_ms"].as_u64().unwrap());
        }
        (attempts.len() >= 3).then_some(())
    });
    allow(0o755);
    for client in &mut clients {
        assert_eq!(answer(client).unwrap(), "rude generation 2\n");
    }
    let said = daemon.stderr();
    assert_eq!(said.matches("cannot start a process that passes it on").count(), 1, "{said}");
}
