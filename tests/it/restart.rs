//! A server that ends: when it comes back, when it does not, and that its clients wait meanwhile.

use std::fs;

use nix::sys::signal::Signal;

use super::load::{answer, ask, connect, get};
use super::support::{Daemon, Launch, Place, example, fds, settled, wait_for, zombies};

/// Asks the server to end, and waits until we noticed.
fn end_server(daemon: &mut Daemon, how: &str, state: &str) -> String {
    let address = daemon.address("http");
    get(&address, &format!("/exit/{how}")).unwrap();
    daemon.wait_state(state);
    address
}

#[test]
fn five_hundred_clients_wait_out_the_restart_delay_and_none_is_refused() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--restart-sec 3s").start();
    daemon.wait_generation(1);
    let address = end_server(&mut daemon, "7", "waiting");
    let mut clients: Vec<_> = (0..500).map(|_| connect(&address).unwrap()).collect();
    for client in &mut clients {
        ask(client, "/").unwrap();
    }
    for client in &mut clients {
        assert_eq!(answer(client).unwrap(), "ready generation 2 on http\n");
    }
    assert_eq!(daemon.wait_generation(2)["restarts"], 1);
}

#[test]
fn a_wait_is_visible_and_hup_or_swap_end_it() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "--restart-sec 1h --bake 0").start();
    daemon.wait_generation(1);
    let address = end_server(&mut daemon, "7", "waiting");
    let mut client = connect(&address).unwrap();
    ask(&mut client, "/").unwrap();
    let status = daemon.wait_until("the queue shows", |status| status["sockets"][0]["queue"] == 1);
    assert!(status["next"]["at_ms"].as_u64().unwrap() > 0 && status["next"]["why"].is_string(), "{status}");
    daemon.verb("status").expect(1);
    daemon.signal(Signal::SIGHUP);
    assert_eq!(answer(&mut client).unwrap(), "ready generation 2 on http\n");
    daemon.wait_generation(2);
    end_server(&mut daemon, "7", "waiting");
    assert_eq!(daemon.verb("swap --json").expect(0).json()["to"], 3);
    assert_eq!(get(&address, "/").unwrap(), "ready generation 3 on http\n");
}

#[test]
fn a_clean_exit_goes_back_to_listening_and_the_next_connection_starts_it() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "").start();
    daemon.wait_generation(1);
    let address = end_server(&mut daemon, "0", "listening");
    daemon.verb("status").expect(0);
    assert_eq!(place.who("start"), [1]);
    assert_eq!(get(&address, "/").unwrap(), "ready generation 2 on http\n");
    daemon.wait_generation(2);
    assert_eq!(place.who("start"), [1, 2]);
}

#[test]
fn the_lists_of_exit_statuses_decide_over_restart() {
    let place = Place::new();
    let options = "--restart on-failure --restart-sec 0 --success-exit-status 8 \
                   --restart-prevent-exit-status 7 --restart-force-exit-status 0";
    let mut daemon = Launch::ready(&place, options).start();
    daemon.wait_generation(1);
    end_server(&mut daemon, "7", "listening");
    let address = daemon.address("http");
    get(&address, "/exit/8").unwrap();
    daemon.wait_state("listening");
    assert_eq!(place.who("start"), [1, 2]);
    get(&address, "/exit/0").unwrap();
    daemon.wait_generation(4);
    get(&address, "/exit/9").unwrap();
    daemon.wait_generation(5);
    assert_eq!(place.who("start"), [1, 2, 3, 4, 5]);
}

#[test]
fn the_start_limit_holds_the_port_and_a_swap_recovers() {
    let place = Place::new();
    place.flags("--die-after 0:5");
    let options =
        "--restart always --restart-sec 0 --start-limit-burst 3 --start-limit-interval-sec 1h --bake 0";
    let mut daemon = Launch::ready(&place, options).start();
    daemon.wait_state("failed");
    assert_eq!(place.who("start"), [1, 2, 3]);
    daemon.verb("status").expect(1);
    let mut client = connect(&daemon.address("http")).unwrap();
    ask(&mut client, "/").unwrap();
    place.flags("");
    let swap = daemon.verb("swap --json").expect(0).json();
    assert_eq!(swap["outcome"], "swapped");
    assert_eq!(answer(&mut client).unwrap(), "ready generation 4 on http\n");
    assert_eq!(place.who("start"), [1, 2, 3, 4]);
}

#[test]
fn the_start_limit_may_end_us_with_the_servers_last_status() {
    let place = Place::new();
    place.flags("--die-after 0:5");
    let options = "--restart always --restart-sec 0 --start-limit-burst 3 --start-limit-interval-sec 1h";
    Launch::ready(&place, options).args("--start-limit-action exit").run().expect(5);
    assert_eq!(place.who("start"), [1, 2, 3]);
}

#[test]
fn a_program_that_went_missing_is_a_failed_start_and_found_again_later() {
    let place = Place::new();
    let program = place.path("server");
    fs::copy(example("ready"), &program).unwrap();
    let mut daemon =
        Launch::new(&place).args("--listen 127.0.0.1:0=http --restart-sec 50ms").command(&[&program]).start();
    daemon.wait_generation(1);
    fs::rename(&program, place.path("away")).unwrap();
    let address = daemon.address("http");
    get(&address, "/exit/1").unwrap();
    wait_for("it is told", || daemon.stderr().contains(&program).then_some(()));
    let mut client = connect(&address).unwrap();
    ask(&mut client, "/").unwrap();
    fs::rename(place.path("away"), &program).unwrap();
    assert!(answer(&mut client).unwrap().starts_with("ready generation "));
}

#[test]
fn a_first_generation_that_never_gets_ready_is_ended_and_tried_again() {
    let place = Place::new();
    place.flags("--never-ready");
    let mut daemon =
        Launch::ready(&place, "--ready notify --timeout-start-sec 500ms --restart-sec 0").start();
    wait_for("a second try", || place.who("start").contains(&2).then_some(()));
    assert_eq!(place.facts()[1].what, "SIGTERM", "{:?}", place.facts());
    place.flags("");
    daemon.wait_state("running");
}

#[test]
fn a_server_that_stops_pinging_the_watchdog_is_aborted_and_restarted() {
    let place = Place::new();
    place.flags("--ping 100 --pings 10");
    let mut daemon = Launch::ready(&place, "--watchdog-sec 5s --restart-sec 0").start();
    daemon.wait_generation(1);
    place.flags("--ping 100");
    daemon.wait_generation(2);
    let first: Vec<String> =
        place.facts().into_iter().filter(|fact| fact.generation == 1).map(|fact| fact.what).collect();
    assert_eq!(first[..4], ["start", "ready", "no more pings", "SIGABRT"]);
    assert!(daemon.stderr().contains("watchdog"), "{}", daemon.stderr());
}

#[test]
fn a_thousand_restarts_leave_no_fd_and_no_zombie() {
    let place = Place::new();
    let mut daemon = Launch::new(&place)
        .args("-q --listen 127.0.0.1:0=http --restart always --restart-sec 0")
        .command(&["true"])
        .start();
    // Paused it holds still, and what it has open can be compared.
    let count = |daemon: &mut Daemon, restarts: u64| {
        let wanted = format!("{restarts} restarts");
        daemon.wait_until(&wanted, |status| status["restarts"].as_u64().unwrap() >= restarts);
        daemon.verb("pause").expect(0);
        let status = daemon.wait_state("paused");
        // The connection of the last verb may take a moment to go.
        let targets =
            settled("its fds", || fds(daemon.pid()).iter().map(|(_, it)| kind(it)).collect::<Vec<_>>());
        let zombies = zombies(daemon.pid());
        daemon.verb("resume");
        (targets, zombies, status["restarts"].as_u64().unwrap())
    };
    let (few, few_zombies, restarts) = count(&mut daemon, 1);
    let (many, many_zombies, _) = count(&mut daemon, restarts + 1000);
    assert_eq!(few, many);
    assert_eq!((few_zombies, many_zombies), (0, 0));
}

/// `socket` of `socket:[123]`: the inode of a new socket in an old place does not matter.
fn kind(target: &str) -> String {
    target.split(':').next().unwrap_or_default().to_owned()
}
