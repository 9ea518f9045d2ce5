//! Servers that bind for themselves: the listener is ours as well, so that whoever comes while none of them lives waits.

use std::process::Command;

use super::recipe::Recipe;
use crate::load::{answer, ask, connect, get};
use crate::support::{Daemon, Launch, Place};

#[test]
fn go() {
    clients_wait(Recipe::copy("go").start_with("--restart-sec 1"), "hello from go\n");
}

#[test]
fn node() {
    clients_wait(Recipe::copy("node").start_with("--restart-sec 1"), "hello from node\n");
}

#[test]
fn jvm() {
    clients_wait(Recipe::copy("jvm").start_with("--restart-sec 1"), "hello from jvm\n");
}

/// A server in Python that answers with the address of its client.
const PYTHON: &str = "
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.client_address[0].encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
";

#[test]
fn python_sees_who_its_clients_are() {
    let place = Place::new();
    let launch = Launch::new(&place).args("--listen 127.0.0.1:0=web --intercept-bind --restart-sec 1");
    clients_wait(launch.command(&["python3", "-c", PYTHON, "{port:web}"]).start(), "127.0.0.1");
}

fn clients_wait(mut daemon: Daemon, body: &str) {
    daemon.wait_generation(1);
    let socket = daemon.status()["sockets"][0]["address"].clone();
    let address = socket.as_str().unwrap();
    assert_eq!(get(address, "/").unwrap(), body);
    let holders = holders(address);
    let has = |pid: i32| holders.contains(&format!("pid={pid},"));
    assert!(has(daemon.pid()) && has(daemon.server()), "both have it: {holders}");
    daemon.verb("kill KILL").expect(0);
    daemon.wait_state("waiting");
    let mut client = connect(address).unwrap();
    ask(&mut client, "/").unwrap();
    assert_eq!(answer(&mut client).unwrap(), body);
    daemon.wait_generation(2);
}

/// What ss(8) says of the listener that the server has: of steered sockets there are several.
fn holders(address: &str) -> String {
    let port = address.rsplit_once(':').unwrap().1;
    let output = Command::new("ss").args(["-Hltnp", &format!("sport = :{port}")]).output().unwrap();
    let all = String::from_utf8(output.stdout).unwrap();
    all.lines().max_by_key(|line| line.matches("pid=").count()).unwrap().to_owned()
}
