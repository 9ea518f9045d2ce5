//! PID 1 of a container made from scratch, under the seccomp profile and the capabilities that podman gives by default: one
//! static binary, and a server that binds for itself.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command};

use super::load::get;
use super::support::{Ended, Place, Verb, wait_for};

/// Where `cargo static` puts them.
const BUILT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target");

/// A running container, which does not outlive the test.
struct Container {
    name: String,
    podman: Child,
}

impl Container {
    fn start(name: &str, command: &str) -> Self {
        let name = format!("{name}-{}", std::process::id());
        let limits = "--ulimit nofile=1024:1024 --ulimit nproc=1000:1000";
        let run = format!("run --rm --name {name} --network host {limits} {} {command}", image());
        Self { name, podman: podman(&run).spawn().unwrap() }
    }

    fn swap(&self) -> Ended {
        ended(&format!("exec {} /supervise swap --control /control", self.name))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        ended(&format!("stop --time 5 {}", self.name)).expect(0);
        self.podman.wait().unwrap();
    }
}

fn podman(words: &str) -> Command {
    let mut command = Command::new("podman");
    command.args(["--runtime", "runc"]).args(words.split_whitespace());
    command
}

fn ended(words: &str) -> Ended {
    Verb::spawn(podman(words)).end()
}

/// Builds it; the same files are the same image.
fn image() -> String {
    let place = Place::new();
    let release = Path::new(BUILT).join(host()).join("release");
    for (file, name) in [("supervise", "supervise"), ("examples/binds", "server")] {
        fs::copy(release.join(file), Path::new(&place.path(name))).unwrap();
    }
    place.write("passwd", "app:x:1234:1234::/:/server\n");
    place.write("group", "app:x:1234:\n");
    place.write("Dockerfile", "FROM scratch\nCOPY supervise server /\nCOPY passwd group /etc/\n");
    let built = ended(&format!("build -q {}", place.path(""))).expect(0);
    built.stdout.trim().to_owned()
}

/// `x86_64-unknown-linux-gnu`
fn host() -> String {
    let version = Command::new("rustc").arg("-vV").output().unwrap().stdout;
    let text = String::from_utf8(version).unwrap();
    text.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned()
}

fn serves_over_a_swap(name: &str, options: &str) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let options = format!("--control /control -l {address} --intercept-bind --drain-quiet 50ms {options}");
    let container = Container::start(name, &format!("/supervise {options} -- /server {address}"));
    wait_for("the server", || get(&address, "/").ok().filter(|body| body == "binds generation 1\n"));
    container.swap().expect(0);
    assert_eq!(get(&address, "/").unwrap(), "binds generation 2\n");
}

#[test]
fn a_server_that_binds_for_itself() {
    serves_over_a_swap("binds", "");
}

/// Without CAP_SYS_PTRACE root may not look into the processes of another.
#[test]
fn as_another_user() {
    serves_over_a_swap("binds-app", "-u app");
}
