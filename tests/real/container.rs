//! A container made from nothing but a static `supervise`, as PID 1, and a static server that binds for itself: podman with
//! runc, its default seccomp profile and no capability added.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use super::cookbook::recipe::Recipe;
use super::load::Load;
use super::support::{Place, wait_for};

const CONTAINERFILE: &str = "FROM scratch\nCOPY supervise server /\nENTRYPOINT [\"/supervise\"]\n";
const SWAPS: u64 = 2;

#[test]
fn as_root() {
    swaps_in_a_container("root", &[], "waits on");
}

/// Without CAP_SYS_PTRACE nobody may look into a process of another user.
#[test]
fn with_a_server_of_another_user() {
    swaps_in_a_container("app", &["-u", "65534", "-g", "65534"], "accepted a connection of ours");
}

fn swaps_in_a_container(name: &str, options: &[&str], is_ready: &str) {
    let recipe = Recipe::copy("go");
    recipe.build();
    let mut container = Container::start(name, &recipe, options);
    let load = Load::start(&recipe.address(), 300);
    load.let_pass(100);
    for to in 2..=1 + SWAPS {
        let swap = container.podman(&["exec", "NAME", "/supervise", "swap", "--json"]);
        let swap: serde_json::Value = serde_json::from_slice(&swap.stdout).unwrap();
        assert_eq!((&swap["to"], &swap["outcome"]), (&to.into(), &"swapped".into()), "{swap}");
        load.let_pass(100);
    }
    let counts = load.finish();
    println!("container, server of {name}: {counts}");
    // The default of `podman stop`, said to be sure: our own time for this must fit in.
    container.podman(&["stop", "--time", "10", "NAME"]);
    let log = container.log();
    assert!(counts.failed() == 0 && counts.ok > 100, "{counts}: {log}");
    assert_eq!(log.matches(is_ready).count() as u64, 1 + SWAPS, "{log}");
    assert!(!log.contains("warning"), "{log}");
    let status = container.podman(&["inspect", "--format", "{{.State.ExitCode}}", "NAME"]);
    assert_eq!(String::from_utf8_lossy(&status.stdout).trim(), "0", "{log}");
}

/// With an image of its own. Dropped, both are removed.
struct Container {
    name: String,
    _place: Place,
}

impl Container {
    fn start(name: &str, recipe: &Recipe, options: &[&str]) -> Self {
        let place = Place::new();
        place.write("Containerfile", CONTAINERFILE);
        fs::copy(static_supervise(), place.path("supervise")).unwrap();
        fs::copy(recipe.path("server"), place.path("server")).unwrap();
        let name = format!("supervise-test-{name}-{}", std::process::id());
        let directory = place.path("");
        let mut container = Self { name, _place: place };
        container.podman(&["build", "--quiet", "--tag", "localhost/NAME", &directory]);
        let mut words = vec!["--runtime", "runc", "run", "--detach", "--name", "NAME", "--network", "host"];
        words.extend(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", "localhost/NAME"]);
        words.extend(options);
        let address = recipe.address();
        words.extend(["--listen", &address, "--intercept-bind", "--", "/server"]);
        container.podman(&words);
        wait_for("the first generation", || container.log().contains("is ready").then_some(()));
        container
    }

    /// Runs `podman WORDS`, with our name for NAME.
    #[track_caller]
    fn podman(&mut self, words: &[&str]) -> Output {
        let words: Vec<String> = words.iter().map(|word| word.replace("NAME", &self.name)).collect();
        let output = Command::new("podman").args(&words).output();
        let output = output.unwrap_or_else(|error| panic!("podman: {error}: run tests/real/run"));
        assert!(output.status.success(), "podman {words:?}: {output:?}");
        output
    }

    fn log(&mut self) -> String {
        let output = self.podman(&["logs", "NAME"]);
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let image = format!("localhost/{}", self.name);
        for words in [["rm", "--force", "--volumes", &self.name], ["rmi", "--force", "--ignore", &image]] {
            // Some of it may not have been made.
            let _output = Command::new("podman").args(words).output();
        }
    }
}

/// What `cargo static` has built.
fn static_supervise() -> PathBuf {
    std::env::var_os("STATIC").expect("STATIC, as tests/real/run sets it").into()
}
