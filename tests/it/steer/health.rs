//! `--ready http:`: the probe reaches the candidate alone, through the real address, and nobody else does.

use super::super::load::{Load, get};
use super::super::support::Place;
use super::{assert_steered, rude, swapped};

#[test]
fn a_release_that_answers_500_never_gets_a_client() {
    let place = Place::new();
    let options = "--timeout-start-sec 1500ms --bake 0 --drain-quiet 50ms";
    let mut daemon = rude(&place, "127.0.0.1:0", options).start();
    daemon.wait_generation(1);
    let load = Load::start(&daemon.address("http"), 500);
    place.write("sick", "");
    let swap = daemon.verb("swap --json").expect(1).json();
    assert_eq!(swap["outcome"], "rolled-back", "{swap}");
    daemon.wait_generation(1);
    load.let_pass(50);
    let samples = load.samples();
    samples.assert_clean();
    assert_eq!(samples.answered("rude generation 1\n"), samples.all.len());
}

#[test]
fn a_release_that_gets_well_in_time_is_let_in_then() {
    let place = Place::new();
    let mut daemon = rude(&place, "127.0.0.1:0", "--bake 0 --drain-quiet 50ms").start();
    daemon.wait_generation(1);
    let load = Load::start(&daemon.address("http"), 200);
    place.write("sick", "");
    let verb = daemon.spawn_verb("swap --json");
    daemon.wait_state("swapping");
    load.let_pass(100);
    assert_eq!(get(&daemon.address("http"), "/").unwrap(), "rude generation 1\n");
    std::fs::remove_file(place.path("sick")).unwrap();
    assert_eq!(verb.end().expect(0).json()["outcome"], "swapped");
    let samples = load.samples();
    samples.assert_clean();
}

/// Two swaps for each kind of address, so that the candidate has had either slot.
#[test]
fn the_probe_finds_the_candidate_on_every_kind_of_address() {
    for (listen, host) in
        [("127.0.0.1:0", "127.0.0.1"), ("0.0.0.0:0", "127.0.0.1"), ("[::1]:0", "[::1]"), ("[::]:0", "[::1]")]
    {
        if listen.starts_with('[') && std::net::TcpListener::bind("[::1]:0").is_err() {
            continue; // A host without IPv6.
        }
        let place = Place::new();
        let mut daemon = rude(&place, listen, "--bake 0 --drain-quiet 50ms").start();
        daemon.wait_generation(1);
        assert_steered(&daemon);
        let address = daemon.address("http");
        let port = address.rsplit_once(':').unwrap().1;
        for generation in 2..=3 {
            swapped(&daemon, generation);
            let body = get(&format!("{host}:{port}"), "/").unwrap();
            assert_eq!(body, format!("rude generation {generation}\n"), "{listen}");
            if listen == "[::]:0" {
                assert_eq!(get(&format!("127.0.0.1:{port}"), "/").unwrap(), body, "the same in IPv4");
            }
        }
    }
}

#[test]
fn a_probe_is_refused_where_nothing_is_steered() {
    let place = Place::new();
    let said = rude(&place, "127.0.0.1:0", "--handover shared").run().expect(2).text();
    assert!(said.contains("http:"), "{said}");
}
