//! A server that locks the filter of its listener (SO_LOCK_FILTER): through that socket nobody steers any more.

use super::super::load::{Load, get};
use super::super::support::Place;
use super::{assert_steered, swapped, vandal};

#[test]
fn servers_that_lock_their_filters_are_swapped_again_and_again() {
    let place = Place::new();
    let mut daemon = vandal(&place, "--bake 0 --drain-quiet 50ms").start();
    daemon.wait_generation(1);
    assert_steered(&daemon);
    let address = daemon.address("http");
    let load = Load::start(&address, 500);
    for generation in 1..=4 {
        assert_eq!(get(&address, "/lock").unwrap(), format!("vandal generation {generation}\n"));
        load.let_pass(20);
        swapped(&daemon, generation + 1);
        daemon.wait_generation(generation + 1);
        assert_eq!(get(&address, "/").unwrap(), format!("vandal generation {}\n", generation + 1));
        load.let_pass(20);
    }
    load.samples().assert_clean();
    assert!(!daemon.stderr().contains("cannot be steered"), "{}", daemon.stderr());
}
