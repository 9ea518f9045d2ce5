//! The line server behind the control socket: one request per connection, progress lines, one reply.
//!
//! It never waits for a client: input and output are buffered within fixed limits, and a client that says nothing
//! costs a slot in a table until somebody needs that slot. mio is edge-triggered, so everything is read, written and
//! accepted until the kernel says EWOULDBLOCK, and a connection is deregistered before it is closed.

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::unistd::geteuid;

use super::ControlSocket;
use crate::config::Signal;
use crate::core::report::Line;
use crate::core::{ClientId, Event, Reply, Request, limits};
use crate::os::instances;

/// A request is shorter than this, its newline included.
const REQUEST_BYTES: usize = 4096;
/// Progress that a client has not read yet; more is dropped, the reply is not.
const PENDING_BYTES: usize = 64 * 1024;
/// How many tokens a [`ControlServer`] uses, beginning with its first: listener, watch, clients.
pub const TOKENS: usize = 2 + SLOTS;
/// A few more than may wait: `status` and `stop` get through whatever the others wait for.
const SLOTS: usize = limits::CLIENTS + 8;

/// The control socket and its clients.
#[derive(Debug)]
pub struct ControlServer {
    socket: ControlSocket,
    registry: Registry,
    first: usize,
    last_id: u64,
    /// A connection could not be accepted for want of an fd, and no event will tell of it again.
    is_behind: bool,
    /// Always `SLOTS` slots; the token of a connection is its slot.
    clients: Vec<Option<Connection>>,
}

#[derive(Debug)]
struct Connection {
    id: ClientId,
    stream: UnixStream,
    phase: ConnectionPhase,
    /// The end of this connection says more than its last line: it comes when we exit. For `stop`, whose caller may
    /// want our addresses at once.
    keep: bool,
    /// What we log appears on the terminal that its answer is printed on.
    reads_our_log: bool,
    input: Vec<u8>,
    output: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectionPhase {
    /// No whole line has come yet.
    Silent,
    /// Its request was handed on. `status` is one object and wants no progress.
    Waiting { notes: bool },
    /// The last line is on its way out.
    Answered,
}

/// What reading brought: a whole line (or why there will be none), and whether the other side is done.
struct ReceivedLine {
    line: Option<Result<Vec<u8>, String>>,
    closed: bool,
}

impl ControlServer {
    /// Registers the socket with the tokens `first` to `first + TOKENS - 1`.
    ///
    /// # Errors
    /// epoll_ctl(2) or dup(2) failed.
    pub fn new(socket: ControlSocket, registry: &Registry, first: Token) -> io::Result<Self> {
        let clients = (0..SLOTS).map(|_| None).collect();
        let registry = registry.try_clone()?;
        let server = Self { socket, registry, first: first.0, last_id: 0, is_behind: false, clients };
        server.register_listener(server.socket.listener())?;
        if let Some(watch) = server.socket.watch_fd() {
            let token = Token(server.first + 1);
            server.registry.register(&mut SourceFd(&watch.as_raw_fd()), token, Interest::READABLE)?;
        }
        Ok(server)
    }

    pub fn socket(&self) -> &ControlSocket {
        &self.socket
    }

    /// Does whatever there is to do for `token`; one that is none of ours is ignored. Returns `Requested` and
    /// `ClientGone` events, the latter only for clients that wait for an answer, and once.
    pub fn ready(&mut self, token: Token) -> Vec<Event> {
        match token.0.checked_sub(self.first) {
            Some(0) => {
                self.accept();
            }
            Some(1) => self.heal(),
            Some(slot) if slot < TOKENS => return self.client_ready(slot - 2),
            Some(_) | None => {}
        }
        Vec::new()
    }

    /// Binds the socket again if it was removed. Called by `ready`; harmless at any other time.
    pub fn heal(&mut self) {
        match self.socket.heal() {
            Ok(None) => {}
            Ok(Some(old)) => {
                // Who connected before the path went away is served like anybody else.
                self.accept_from(&old);
                let fd = old.as_raw_fd();
                let moved = self.registry.deregister(&mut SourceFd(&fd));
                let moved = moved.and_then(|()| self.register_listener(self.socket.listener()));
                let path = self.socket.path().display();
                match moved {
                    Ok(()) => log::warn!("the control socket was removed; it is back at {path}"),
                    Err(error) => log::warn!("{path}: nobody listens on the control socket: {error}"),
                }
            }
            Err(error) => log::warn!("the control socket was removed and cannot be bound again: {error}"),
        }
    }

    /// Progress for every client that waits for an answer. What was logged is not said again on our own terminal.
    pub fn note_all(&mut self, text: &str, is_logged: bool) {
        let line = encode(&Line::Note(text.to_owned()));
        for client in self.clients.iter_mut().flatten() {
            if !(is_logged && client.reads_our_log)
                && client.phase == (ConnectionPhase::Waiting { notes: true })
                && client.output.len() + line.len() <= PENDING_BYTES
            {
                client.output.extend_from_slice(&line);
                // A broken connection comes back as an event of its own, which reports the client as gone.
                drop(client.flush());
            }
        }
    }

    /// The last line for `client`; the connection is closed after its last byte, that of a `stop` that was done when
    /// the server is dropped or the process ends. Unknown clients are ignored: they
    /// left while the answer was made.
    pub fn reply(&mut self, client: ClientId, reply: Reply) {
        let is_it = |slot: &Option<Connection>| slot.as_ref().is_some_and(|found| found.id == client);
        if let Some(slot) = self.clients.iter().position(is_it) {
            self.answer(slot, reply);
        }
    }

    fn register_listener(&self, listener: &UnixListener) -> io::Result<()> {
        let fd = listener.as_raw_fd();
        self.registry.register(&mut SourceFd(&fd), Token(self.first), Interest::READABLE)
    }

    /// Accepts who had to wait for an fd. To be called now and then: when fds are free again, nothing tells.
    pub fn catch_up(&mut self) {
        if self.is_behind {
            self.accept();
        }
    }

    fn accept(&mut self) {
        loop {
            let accepted = accept(self.socket.listener());
            if !self.admit(accepted) {
                return;
            }
        }
    }

    fn accept_from(&mut self, listener: &UnixListener) {
        while self.admit(accept(listener)) {}
    }

    /// Takes a connection in; false: there is none to take now.
    fn admit(&mut self, accepted: io::Result<UnixStream>) -> bool {
        match accepted {
            Ok(stream) => {
                self.is_behind = false;
                self.add(stream);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.is_behind = false;
                false
            }
            Err(error) => {
                // Out of fds, most likely: the client stays in the backlog.
                if !std::mem::replace(&mut self.is_behind, true) {
                    log::warn!("control connections have to wait: {error}");
                }
                false
            }
        }
    }

    fn add(&mut self, stream: UnixStream) {
        let ours = geteuid().as_raw();
        if !instances::peer(&stream).is_ok_and(|peer| peer.uid() == 0 || peer.uid() == ours) {
            return;
        }
        let Some(slot) = self.free_slot() else {
            return refuse(&stream, &too_many());
        };
        let fd = stream.as_raw_fd();
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = stream.set_nonblocking(true).and_then(|()| {
            self.registry.register(&mut SourceFd(&fd), Token(self.first + 2 + slot), interest)
        });
        if let Err(error) = registered {
            return log::warn!("a control connection was closed: {error}");
        }
        self.last_id += 1;
        let id = ClientId(self.last_id);
        let connection = Connection {
            id,
            stream,
            phase: ConnectionPhase::Silent,
            keep: false,
            reads_our_log: false,
            input: Vec::new(),
            output: Vec::new(),
        };
        self.clients[slot] = Some(connection);
    }

    /// A free slot, made free by the oldest client that said nothing, or that does not read its answer.
    fn free_slot(&mut self) -> Option<usize> {
        if let Some(free) = self.clients.iter().position(Option::is_none) {
            return Some(free);
        }
        let oldest = |phase: ConnectionPhase| {
            let clients = self.clients.iter().enumerate();
            let of_phase = clients.filter_map(|(slot, client)| Some((slot, client.as_ref()?)));
            of_phase
                .filter(|(_, client)| client.phase == phase)
                .min_by_key(|(_, client)| client.id)
                .map(|it| it.0)
        };
        let slot = oldest(ConnectionPhase::Silent).or_else(|| oldest(ConnectionPhase::Answered))?;
        self.close(slot);
        Some(slot)
    }

    fn client_ready(&mut self, slot: usize) -> Vec<Event> {
        let mut events = Vec::new();
        let waiting = self.clients.iter().flatten().filter(|client| client.is_waiting()).count();
        let Some(connection) = &mut self.clients[slot] else { return events };
        let client = connection.id;
        if connection.phase == ConnectionPhase::Answered {
            self.flush(slot);
            return events;
        }
        let ReceivedLine { line, closed } = connection.receive();
        match line.map(|line| line.and_then(|line| parse(&line))) {
            // Who left before we read the request (we were stopped, say) does not want it any more.
            Some(Ok(_)) if closed => {}
            Some(Ok(request))
                if waiting >= limits::CLIENTS
                    && !matches!(request, Request::Status { .. } | Request::Stop) =>
            {
                self.answer(slot, Reply::failed(too_many()));
                return events;
            }
            Some(Ok(request)) => {
                connection.output.extend(encode(&Line::Accepted));
                connection.phase =
                    ConnectionPhase::Waiting { notes: !matches!(request, Request::Status { .. }) };
                connection.keep = request == Request::Stop;
                connection.reads_our_log = reads_our_log(&connection.stream);
                events.push(Event::Requested { client, request });
            }
            Some(Err(why)) => {
                self.answer(slot, Reply::failed(why));
                return events;
            }
            None => {}
        }
        if closed {
            if connection.phase != ConnectionPhase::Silent {
                events.push(Event::ClientGone { client });
            }
            self.close(slot);
        } else {
            // An error here is a broken connection, whose event is still to come.
            drop(connection.flush());
        }
        events
    }

    fn answer(&mut self, slot: usize, reply: Reply) {
        if let Some(connection) = &mut self.clients[slot] {
            connection.phase = ConnectionPhase::Answered;
            connection.keep &= reply.exit == 0;
            connection.output.extend(encode(&Line::Reply(reply)));
            self.flush(slot);
        }
    }

    /// Writes what is left to an answered client, and closes when that is nothing or nobody reads it.
    fn flush(&mut self, slot: usize) {
        let Some(connection) = &mut self.clients[slot] else { return };
        match connection.flush() {
            Ok(false) => {}
            Ok(true) if connection.keep => {}
            Ok(true) | Err(_) => self.close(slot),
        }
    }

    fn close(&mut self, slot: usize) {
        if let Some(connection) = self.clients[slot].take() {
            let fd = connection.stream.as_raw_fd();
            if let Err(error) = self.registry.deregister(&mut SourceFd(&fd)) {
                log::debug!("epoll_ctl(DEL) of a control connection: {error}");
            }
        }
    }
}

impl Connection {
    fn is_waiting(&self) -> bool {
        matches!(self.phase, ConnectionPhase::Waiting { .. })
    }

    /// Reads until there is no more. After the request nothing is expected but the end, and whoever sends as much again
    /// is treated as gone.
    fn receive(&mut self) -> ReceivedLine {
        let mut received = ReceivedLine { line: None, closed: false };
        let mut chunk = [0; REQUEST_BYTES];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => received.closed = true,
                Ok(count) => self.input.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    received.closed = error.kind() != io::ErrorKind::WouldBlock;
                    return received;
                }
            }
            if self.phase == ConnectionPhase::Silent && received.line.is_none() {
                received.line = self.take_line();
            } else if self.input.len() > REQUEST_BYTES {
                received.closed = true;
            }
            if received.closed || matches!(received.line, Some(Err(_))) {
                return received;
            }
        }
    }

    fn take_line(&mut self) -> Option<Result<Vec<u8>, String>> {
        match self.input.iter().position(|byte| *byte == b'\n') {
            Some(end) if end < REQUEST_BYTES => {
                let rest = self.input.split_off(end + 1);
                Some(Ok(std::mem::replace(&mut self.input, rest)))
            }
            Some(_) => Some(Err(too_long())),
            None if self.input.len() >= REQUEST_BYTES => Some(Err(too_long())),
            None => None,
        }
    }

    /// True: everything is out.
    fn flush(&mut self) -> io::Result<bool> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(false),
                    io::ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(true)
    }
}

/// The next connection; WouldBlock until there is another one.
fn accept(listener: &UnixListener) -> io::Result<UnixStream> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(stream),
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                _ => return Err(error),
            },
        }
    }
}

/// Whether the client prints to the terminal that our stderr is. The names are compared first: what has no name below
/// /dev is not looked at.
fn reads_our_log(client: &UnixStream) -> bool {
    let Ok(peer) = instances::peer(client) else { return false };
    if !io::stderr().is_terminal() {
        return false;
    }
    let (ours, theirs) = ("/proc/self/fd/2".to_owned(), format!("/proc/{}/fd/1", peer.pid()));
    let (Ok(name), Ok(other)) = (fs::read_link(&ours), fs::read_link(&theirs)) else { return false };
    let inode = |path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    name == other
        && name.starts_with("/dev")
        && matches!((inode(&ours), inode(&theirs)), (Ok(ours), Ok(theirs)) if ours == theirs)
}

fn too_long() -> String {
    format!("a request is one line of JSON of at most {REQUEST_BYTES} bytes")
}

fn too_many() -> String {
    format!("{} clients wait for an answer already (try again later)", limits::CLIENTS)
}

/// Says why and lets the connection be closed; what does not fit at once is lost, for nobody waits here.
fn refuse(stream: &UnixStream, why: &str) {
    let line = encode(&Line::Reply(Reply::failed(why)));
    let sent = stream.set_nonblocking(true).and_then(|()| (&*stream).write(&line));
    log::debug!("a control connection was refused: {why} ({sent:?})");
}

fn parse(line: &[u8]) -> Result<Request, String> {
    let request: Request =
        serde_json::from_slice(line).map_err(|error| format!("the request was not understood: {error}"))?;
    // The derived reader takes any number.
    if let Request::Kill { signal } = request
        && Signal::from_number(signal.number()).is_none()
    {
        return Err(format!("{} is no signal (1 to 64)", signal.number()));
    }
    Ok(request)
}

fn encode(line: &Line) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(line).expect("plain data with text keys is always JSON");
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests;
