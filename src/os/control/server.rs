//! The server behind the control socket: one request per connection, lines of progress, one reply.
//!
//! It never waits for a client: input and output are buffered within limits, and a silent client takes a slot in a
//! table until that slot is needed. mio is edge-triggered, so everything is read, written and accepted until the
//! kernel says EWOULDBLOCK, and a connection is deregistered before it is closed.

mod saved;

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use serde::{Deserialize, Serialize};

use super::ControlSocket;
use crate::config::Signal;
use crate::core::report::Line;
use crate::core::{ClientId, Event, Reply, Request, limits};
use crate::os::instances;
use crate::os::own;
use crate::os::warning::Warn;
pub use saved::SavedControl;

/// The longest request with its newline.
const REQUEST_BYTES: usize = 4096;
/// The most progress that is kept for a client that does not read; more is dropped, but never the reply.
const PENDING_BYTES: usize = 64 * 1024;
/// The number of poll tokens that a [`ControlServer`] uses, from its first on: listener, watch, clients.
pub const TOKENS: usize = 2 + SLOTS;
/// The number of connections. There are more than clients that may wait, so `status` and `stop` always get through.
const SLOTS: usize = limits::CLIENTS + 8;

/// The control socket and its clients.
#[derive(Debug)]
pub struct ControlServer {
    socket: ControlSocket,
    registry: Registry,
    first: usize,
    last_id: u64,
    /// Whether a connection could not be accepted for lack of an fd; no event will announce it again.
    is_behind: bool,
    /// The connections; their index gives the poll token. There are `SLOTS` entries, none before [`Self::begin`].
    clients: Vec<Option<Connection>>,
}

#[derive(Debug)]
struct Connection {
    id: ClientId,
    stream: UnixStream,
    phase: ConnectionPhase,
    /// Whether the connection stays open until supervise exits, which tells `stop` that all addresses are free.
    keep: bool,
    /// Whether our log goes to the terminal on which the client prints.
    reads_our_log: bool,
    input: Vec<u8>,
    output: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum ConnectionPhase {
    /// No whole line has arrived.
    Silent,
    /// The request was handed to the core. `notes`: whether the client gets progress; `status` does not.
    Waiting { notes: bool },
    /// The reply is being written.
    Answered,
}

/// The result of reading: a whole line, or why there is none, and whether the other side is closed.
struct ReceivedLine {
    line: Option<Result<Vec<u8>, String>>,
    closed: bool,
}

impl ControlServer {
    /// Registers the socket. Clients are served after [`ControlServer::begin`]. Its tokens are `first` to
    /// `first + TOKENS - 1`.
    ///
    /// # Errors
    /// epoll_ctl(2) or dup(2) failed.
    pub fn new(socket: ControlSocket, registry: &Registry, first: Token) -> io::Result<Self> {
        let registry = registry.try_clone()?;
        let clients = Vec::new();
        let server = Self { socket, registry, first: first.0, last_id: 0, is_behind: false, clients };
        server.register_listener(server.socket.listener())?;
        Ok(server)
    }

    /// Makes room for clients, and registers what tells of the removal of the socket.
    pub fn begin(&mut self) {
        self.clients = (0..SLOTS).map(|_| None).collect();
        self.socket.watch();
        if let Some(watch) = self.socket.watch_fd() {
            let token = Token(self.first + 1);
            let watched =
                self.registry.register(&mut SourceFd(&watch.as_raw_fd()), token, Interest::READABLE);
            if let Err(error) = watched {
                Warn::WatchControl.because(error);
            }
        }
        // What was removed before the watch told of nothing.
        self.heal();
    }

    pub fn socket(&self) -> &ControlSocket {
        &self.socket
    }

    /// Handles the readiness of `token`; a token of something else is ignored. Returns `Requested` and `ClientGone`
    /// events, the latter once and only for clients that wait for an answer.
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

    /// Binds the socket again if it was removed. [`Self::ready`] calls this; it is harmless at any time.
    pub fn heal(&mut self) {
        match self.socket.heal() {
            Ok(None) => {}
            Ok(Some(old)) => {
                // Clients that connected before the path was removed are served all the same.
                self.accept_from(&old);
                let fd = old.as_raw_fd();
                let moved = self.registry.deregister(&mut SourceFd(&fd));
                let moved = moved.and_then(|()| self.register_listener(self.socket.listener()));
                match moved {
                    Ok(()) => Warn::ControlIsBack.because(self.socket.path().display()),
                    Err(error) => Warn::ListenOnControl.because(error),
                }
            }
            Err(error) => Warn::BindControlAgain.because(error),
        }
    }

    /// Sends progress to every client that waits, except (`is_logged`) those that see our log.
    pub fn note_all(&mut self, text: &str, is_logged: bool) {
        let line = encode(&Line::Note(text.to_owned()));
        for client in self.clients.iter_mut().flatten() {
            if !(is_logged && client.reads_our_log)
                && client.phase == (ConnectionPhase::Waiting { notes: true })
                && client.output.len() + line.len() <= PENDING_BYTES
            {
                client.output.extend_from_slice(&line);
                // A broken connection shows as an event of its own, which reports the client as gone.
                drop(client.flush());
            }
        }
    }

    /// Sends the reply; the connection is closed after its last byte, or for a successful `stop` when the process
    /// ends. An unknown client is ignored: it left while the answer was made.
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

    /// Accepts connections that had to wait for an fd. To be called now and then, as no event announces a free fd.
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

    /// Admits a connection. Returns `false` if there is none to accept now.
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
                // Most likely we have no fd left, so the client stays in the backlog.
                if !std::mem::replace(&mut self.is_behind, true) {
                    Warn::AcceptControl.because(error);
                }
                false
            }
        }
    }

    fn add(&mut self, stream: UnixStream) {
        let ours = own::euid();
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
            return Warn::ServeControl.because(error);
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

    /// A free slot; if there is none, the oldest client that is silent or does not read its answer loses its own.
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
            // A client that left before its request was read (we were stopped, say) does not want it any more.
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

    /// Writes what is left for an answered client, and closes the connection once all is written or it is broken.
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
                log::debug!("cannot stop watching a control connection: {error}");
            }
        }
    }
}

impl Connection {
    fn is_waiting(&self) -> bool {
        matches!(self.phase, ConnectionPhase::Waiting { .. })
    }

    /// Reads until the kernel has no more. A client that sends as much again after its request is treated as gone.
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

    /// Writes what is buffered. Returns whether all is written.
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

/// Accepts the next connection; WouldBlock if there is none.
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

/// Whether the client prints to the terminal that is our stderr. Only names below /dev are looked at.
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
    format!("{} verbs wait for their answer already (try again later)", limits::CLIENTS)
}

/// Sends the reason and closes the connection; what does not fit into its buffer is lost, because nobody waits here.
fn refuse(stream: &UnixStream, why: &str) {
    let line = encode(&Line::Reply(Reply::failed(why)));
    let sent = stream.set_nonblocking(true).and_then(|()| (&*stream).write(&line));
    log::debug!("refused a control connection: {why} ({sent:?})");
}

fn parse(line: &[u8]) -> Result<Request, String> {
    let request: Request =
        serde_json::from_slice(line).map_err(|error| format!("cannot understand the request: {error} (if supervise runs in another version, use the program of that one)"))?;
    // The derived deserialiser accepts any number.
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
