//! A server that serves a unix socket by epoll, and works for long: it waits on all its connections meanwhile, and none of
//! them is idle for that.

use std::os::unix::net::UnixStream;

use super::load::{answer, ask};
use super::support::{Launch, Place};

const SERVER: &str = r#"
import asyncio, socket

async def answer(reader, writer):
    await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(2)
    writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\nserved\n")
    await writer.drain()
    writer.close()

async def main():
    server = await asyncio.start_unix_server(answer, sock=socket.socket(fileno=3))
    await server.serve_forever()

asyncio.run(main())
"#;

#[test]
fn a_long_request_of_an_epoll_server_is_finished() {
    let place = Place::new();
    let path = place.path("site.sock");
    let options =
        format!("--listen {path}=http --bake 0 --drain 1min --drain-quiet 100ms --kill-signal KILL");
    let mut daemon = Launch::new(&place).args(&options).command(&["python3", "-c", SERVER]).start();
    daemon.wait_generation(1);
    let mut client = UnixStream::connect(&path).unwrap();
    ask(&mut client, "/").unwrap();
    daemon.wait_until("it is accepted", |status| status["generations"][0]["connections"] == 1);
    daemon.verb("swap").expect(0);
    assert_eq!(answer(&mut client).unwrap(), "served\n", "{}", daemon.stderr());
    assert_eq!(daemon.wait_generation(2)["last_swap"]["cut"], 0);
}
