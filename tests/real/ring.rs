//! Ready=auto and a server that has an io_uring: who waits in there cannot be seen, so it has to accept a connection of ours.

use super::support::{Launch, Place};

/// No thread of it ever waits on the socket.
const SERVER: &str = "
import ctypes, socket, sys, time
SYS_io_uring_setup = 425
ring = ctypes.CDLL(None).syscall(SYS_io_uring_setup, 8, ctypes.create_string_buffer(240))
if ring < 0: sys.exit('no io_uring here (sysctl kernel.io_uring_disabled)')
server = socket.socket(fileno=3)
server.setblocking(False)
while True:
    try:
        client, _ = server.accept()
    except BlockingIOError:
        time.sleep(0.01)
    else:
        client.close()
";

#[test]
fn whoever_has_an_io_uring_accepts_a_connection_of_ours() {
    let place = Place::new();
    let launch = Launch::new(&place).args("--listen 127.0.0.1:0=http");
    let mut daemon = launch.command(&["python3", "-c", SERVER]).start();
    daemon.wait_generation(1);
    let said = daemon.stderr();
    assert!(said.contains("(accepted a connection of ours)"), "{said}");
}
