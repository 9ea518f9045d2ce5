//! Swaps to a version that does not work: the old generation serves on and never hears of it, the swap says why it
//! failed, and one start was tried, not two.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;

use nix::errno::Errno;
use serde_json::Value;

use super::load::get;
use super::support::{Daemon, Launch, Place, example, wait_for};

/// A generation that serves, from a program of its own that a test may break.
struct Scene {
    place: Place,
    program: String,
    address: String,
    server: i32,
    daemon: Daemon,
}

impl Scene {
    fn new(options: &str) -> Self {
        let place = Place::new();
        let program = place.path("server");
        fs::copy(example("ready"), &program).unwrap();
        place.flags("");
        let (log, flags) = (place.path("log"), format!("@{}", place.path("flags")));
        let mut daemon = Launch::new(&place)
            .args("--listen 127.0.0.1:0=http --ready notify")
            .args(options)
            .command(&[&program, "--log", &log, &flags])
            .start();
        daemon.wait_generation(1);
        let (address, server) = (daemon.address("http"), daemon.server());
        Self { place, program, address, server, daemon }
    }

    /// A swap that must fail, for this reason.
    #[track_caller]
    fn rolled_back(&mut self, reason: &str) {
        let swap = self.daemon.verb("swap --json").expect(1).json();
        assert_eq!(swap["outcome"], "rolled-back", "{swap}");
        assert_eq!((&swap["from"], &swap["to"]), (&Value::from(1), &Value::from(2)), "{swap}");
        let said = swap["reason"].as_str().expect("a reason");
        assert!(said.contains(reason), "{reason:?} is not in {said:?}");
        self.old_is_untouched(reason);
    }

    #[track_caller]
    fn old_is_untouched(&mut self, reason: &str) {
        let status = self.daemon.wait_generation(1);
        assert_eq!(self.daemon.server(), self.server);
        assert!(status["last_swap"]["reason"].as_str().unwrap().contains(reason), "{status}");
        assert_eq!(get(&self.address, "/").unwrap(), "ready generation 1 on http\n");
        let facts = self.place.facts();
        let old: Vec<&str> =
            facts.iter().filter(|fact| fact.pid == self.server).map(|fact| fact.what.as_str()).collect();
        assert_eq!(old, ["start", "ready"], "the old one was left alone");
        assert!(self.place.who("start").len() <= 2, "one start was tried: {facts:?}");
        wait_for("nothing of the candidate", || self.daemon.processes_of(2).is_empty().then_some(()));
    }

    /// The next good version gets the next number: so nothing was started in between.
    #[track_caller]
    fn mended(mut self) {
        self.place.flags("");
        let swap = self.daemon.verb("swap --json").expect(0).json();
        assert_eq!((&swap["outcome"], &swap["to"]), (&Value::from("swapped"), &Value::from(3)), "{swap}");
        assert_eq!(get(&self.address, "/").unwrap(), "ready generation 3 on http\n");
        self.daemon.wait_generation(3);
    }
}

#[test]
fn one_that_exits_at_once() {
    let mut scene = Scene::new("--bake 0");
    scene.place.flags("--never-ready --die-after 0:3");
    scene.rolled_back("status 3");
    assert_eq!(scene.place.who("start"), [1, 2]);
    scene.mended();
}

#[test]
fn one_that_exits_after_half_a_second() {
    let mut scene = Scene::new("--bake 0");
    scene.place.flags("--never-ready --die-after 500:4");
    scene.rolled_back("status 4");
    assert_eq!(scene.place.who("start"), [1, 2]);
    scene.mended();
}

#[test]
fn one_that_exits_after_three_seconds_without_getting_ready() {
    let mut scene = Scene::new("--bake 0");
    scene.place.flags("--never-ready --die-after 3000:1");
    scene.rolled_back("status 1");
    assert_eq!(scene.place.who("start"), [1, 2]);
    scene.mended();
}

#[test]
fn one_that_dies_of_a_signal() {
    let mut scene = Scene::new("--bake 0");
    scene.place.flags("--never-ready --die-after 100:SIGKILL");
    scene.rolled_back("KILL");
    scene.mended();
}

#[test]
fn one_that_never_gets_ready() {
    let mut scene = Scene::new("--bake 0 --timeout-start-sec 1s");
    scene.place.flags("--never-ready");
    scene.rolled_back("1s");
    assert_eq!(scene.place.who("start"), [1, 2]);
    scene.mended();
}

#[test]
fn one_that_never_gets_ready_and_ignores_every_request_to_go() {
    let mut scene = Scene::new("--bake 0 --timeout-start-sec 500ms --timeout-stop-sec 1s");
    scene.place.flags("--never-ready --ignore-term --grandchildren 2");
    scene.rolled_back("500ms");
    scene.mended();
}

#[test]
fn one_that_dies_during_bake_though_it_was_ready() {
    let mut scene = Scene::new("--bake 1h");
    scene.place.flags("--die-after 500:6");
    scene.rolled_back("status 6");
    assert_eq!(scene.place.who("ready"), [1, 2]);
}

#[test]
fn one_that_turns_itself_into_a_daemon() {
    let mut scene = Scene::new("--bake 0");
    scene.place.flags("--daemonize");
    scene.rolled_back("status 0");
}

#[test]
fn one_that_is_missing() {
    let mut scene = Scene::new("--bake 0");
    let away = scene.place.path("away");
    fs::rename(&scene.program, &away).unwrap();
    scene.rolled_back(Errno::ENOENT.desc());
    assert_eq!(scene.place.who("start"), [1]);
    fs::rename(&away, &scene.program).unwrap();
    scene.mended();
}

/// Puts another file in the place of the program; the running one keeps its own.
fn replace(scene: &Scene, bytes: &[u8], mode: u32) {
    let fresh = scene.place.path("fresh");
    fs::write(&fresh, bytes).unwrap();
    fs::set_permissions(&fresh, Permissions::from_mode(mode)).unwrap();
    fs::rename(&fresh, &scene.program).unwrap();
}

#[test]
fn one_that_is_not_executable() {
    let mut scene = Scene::new("--bake 0");
    let program = fs::read(&scene.program).unwrap();
    replace(&scene, &program, 0o644);
    scene.rolled_back(Errno::EACCES.desc());
    assert_eq!(scene.place.who("start"), [1]);
    replace(&scene, &program, 0o755);
    scene.mended();
}

#[test]
fn one_that_is_no_program() {
    let mut scene = Scene::new("--bake 0");
    replace(&scene, b"half a", 0o755);
    scene.rolled_back(Errno::ENOEXEC.desc());
    assert_eq!(scene.place.who("start"), [1]);
}

/// The head of the file is there, and names parts that are not: the kernel notices sooner or later.
#[test]
fn one_that_is_half_written() {
    let mut scene = Scene::new("--bake 0");
    let program = fs::read(&scene.program).unwrap();
    replace(&scene, &program[..64 * 1024], 0o755);
    let swap = scene.daemon.verb("swap --json").expect(1).json();
    assert_eq!(swap["outcome"], "rolled-back", "{swap}");
    let reason = swap["reason"].as_str().unwrap();
    assert!(
        ["SEGV", "BUS", Errno::ENOEXEC.desc(), Errno::EIO.desc(), "status 127"]
            .iter()
            .any(|one| reason.contains(one)),
        "{reason}"
    );
    scene.old_is_untouched("");
    replace(&scene, &program, 0o755);
    scene.mended();
}

#[test]
fn one_that_is_still_being_written_is_waited_for() {
    let mut scene = Scene::new("--bake 0");
    replace(&scene, &fs::read(&scene.program).unwrap(), 0o755);
    let writer = OpenOptions::new().append(true).open(&scene.program).unwrap();
    // Two seconds are its limit.
    scene.rolled_back(Errno::ETXTBSY.desc());
    assert_eq!(scene.place.who("start"), [1]);
    drop(writer);
    scene.mended();
}

#[test]
fn a_wait_for_a_failed_swap_is_over_when_status_says_so() {
    let mut scene = Scene::new("--bake 0");
    scene.place.flags("--never-ready --die-after 300:3");
    let accepted = scene.daemon.verb("swap --no-wait").expect(0);
    assert!(accepted.stderr.is_empty(), "{accepted:?}");
    scene.daemon.wait_until("it is rolled back", |status| status["last_swap"]["outcome"] == "rolled-back");
    scene.old_is_untouched("status 3");
    assert_eq!(scene.place.who("start"), [1, 2]);
    // The object of every swap, of which nothing is known yet.
    let begun = scene.daemon.verb("swap --no-wait --json").expect(0).json();
    let of_status = scene.daemon.status()["last_swap"].clone();
    assert_eq!(of_status["to"], 2, "nothing was swapped in between");
    let keys = |object: &Value| object.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&begun), keys(&of_status));
    assert!(
        begun["outcome"].is_null() && begun["reason"].as_str().unwrap().contains("requested a swap"),
        "{begun}"
    );
}
