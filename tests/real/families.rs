//! Servers that bind IPv4 and IPv6 for themselves, each family with a socket of its own, swapped under load of both.

use std::net::TcpListener;

use super::load::Load;
use super::support::{Launch, Place};

const NGINX: &str = r#"
daemon off;
pid nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    server {
        listen 0.0.0.0:PORT;
        listen [::]:PORT;
        return 200 "served\n";
    }
}
"#;

const HAPROXY: &str = r#"
defaults
    mode http
    timeout client 10s
frontend web
    bind *:PORT
    bind :::PORT v6only
    http-request return status 200 content-type text/plain string served
"#;

/// host=None is all addresses of both families.
const ASYNCIO: &str = r#"
import asyncio

async def answer(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\nserved\n")
    await writer.drain()
    writer.close()

async def main():
    server = await asyncio.start_server(answer, None, PORT)
    await server.serve_forever()

asyncio.run(main())
"#;

#[test]
fn nginx() {
    five_swaps(NGINX, &["nginx", "-p", "DIRECTORY", "-c", "FILE"]);
}

#[test]
fn haproxy() {
    five_swaps(HAPROXY, &["haproxy", "-db", "-f", "FILE"]);
}

#[test]
fn asyncio() {
    five_swaps(ASYNCIO, &["python3", "FILE"]);
}

fn five_swaps(text: &str, words: &[&str]) {
    let place = Place::new();
    let free = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    place.write("server", &text.replace("PORT", &port.to_string()));
    let word = |word: &str| match word {
        "FILE" => place.path("server"),
        "DIRECTORY" => place.path(""),
        word => word.to_owned(),
    };
    let words: Vec<String> = words.iter().map(|text| word(text)).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut daemon = Launch::new(&place)
        .args(&format!(
            "--intercept-bind --listen 0.0.0.0:{port} --listen [::]:{port} -p BindIPv6Only=ipv6-only"
        ))
        .command(&words)
        .start();
    let mut ready = vec![daemon.wait_generation(1)["generations"][0]["ready_ms"].clone()];
    let loads = ["127.0.0.1", "[::1]"].map(|host| Load::start(&format!("{host}:{port}"), 150));
    for generation in 2..=6 {
        loads.iter().for_each(|load| load.let_pass(100));
        let swap = daemon.verb("swap --json").expect(0).json();
        assert_eq!((&swap["to"], &swap["outcome"]), (&generation.into(), &"swapped".into()), "{swap}");
        ready.push(swap["ready_ms"].clone());
        daemon.wait_generation(generation);
    }
    println!("{}: ready after {ready:?} ms", words[0]);
    for load in loads {
        load.let_pass(100);
        let counts = load.samples().counts();
        println!("{}: {counts}", words[0]);
        assert_eq!(counts.failed(), 0, "{counts}: {}", daemon.stderr());
    }
    let said = daemon.stderr();
    assert!(!said.contains("warning"), "{said}");
}
