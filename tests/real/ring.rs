//! Ready=auto and a server that has an io_uring: who waits in there cannot be seen, so it has to accept a connection of ours.

use super::support::{Launch, Place, wait_for};

/// A server on io_uring, none of whose threads ever waits on the socket.
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

/// A server that knows nothing of the held socket.
const ELSEWHERE: &str = "
import ctypes, sys, time
if ctypes.CDLL(None).syscall(425, 8, ctypes.create_string_buffer(240)) < 0: sys.exit('no io_uring here')
time.sleep(1000)
";

#[test]
fn whoever_has_an_io_uring_and_accepts_none_is_told_how_to_take_the_socket() {
    let place = Place::new();
    let launch = Launch::new(&place).args("--listen 127.0.0.1:0=http");
    let daemon = launch.command(&["python3", "-c", ELSEWHERE]).start();
    let hint = "generation 1 has not accepted a connection from supervise on http (";
    wait_for("the hint", || daemon.stderr().contains(hint).then_some(()));
    assert!(daemon.stderr().contains("--intercept-bind"), "{}", daemon.stderr());
}

#[test]
fn whoever_has_an_io_uring_accepts_a_connection_of_ours() {
    let place = Place::new();
    let launch = Launch::new(&place).args("--listen 127.0.0.1:0=http");
    let mut daemon = launch.command(&["python3", "-c", SERVER]).start();
    daemon.wait_generation(1);
    let said = daemon.stderr();
    assert!(said.contains("(accepted a connection from supervise)"), "{said}");
}
