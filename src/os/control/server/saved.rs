//! The control socket as it goes over to the program that takes our place, with its clients: who waits is answered there.

use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use serde::{Deserialize, Serialize};

use super::{Connection, ConnectionPhase, ControlServer, SLOTS};
use crate::config::Instance;
use crate::core::ClientId;
use crate::os::control::{BACKLOG, BoundControl, ControlSocket, DeviceAndInode};
use crate::os::instances;
use crate::os::saved::{self, KeptFds};
use crate::os::sys;
use crate::os::sys::left::LeftFds;
use crate::os::warning::Warn;

#[derive(Debug, Serialize, Deserialize)]
pub struct SavedControl {
    name: String,
    #[serde(with = "saved::path")]
    path: PathBuf,
    listener: RawFd,
    inode: DeviceAndInode,
    last_id: u64,
    clients: Vec<SavedClient>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedClient {
    id: ClientId,
    stream: RawFd,
    phase: ConnectionPhase,
    keep: bool,
    reads_our_log: bool,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl ControlServer {
    /// The kernel tells clients the process that called listen(2) last.
    pub fn listen_anew(&mut self) {
        if let Err(error) = sys::listen(self.socket.listener(), BACKLOG) {
            Warn::ListenOnControl.because(error);
        }
    }

    /// The clients whose request was handed to the core and not answered.
    pub fn waiting(&self) -> Vec<ClientId> {
        let waiting = self.clients.iter().flatten().filter(|client| client.is_waiting());
        waiting.map(|client| client.id).collect()
    }

    pub fn save(&self, fds: &mut KeptFds) -> SavedControl {
        let BoundControl { name, path, listener, inode } = &self.socket.bound;
        let client = |client: &Connection| SavedClient {
            id: client.id,
            stream: fds.keep(&client.stream),
            phase: client.phase,
            keep: client.keep,
            reads_our_log: client.reads_our_log,
            input: client.input.clone(),
            output: client.output.clone(),
        };
        let clients = self.clients.iter().flatten().map(client).collect();
        SavedControl {
            name: name.clone(),
            path: path.clone(),
            listener: fds.keep(listener),
            inode: *inode,
            last_id: self.last_id,
            clients,
        }
    }

    /// `choice` is what the command line says of the name and the socket.
    ///
    /// # Errors
    /// A sentence: an fd is missing, or cannot be watched.
    pub fn from_saved(
        saved: SavedControl,
        choice: &Instance,
        fds: &mut LeftFds,
        registry: &Registry,
        first: Token,
    ) -> Result<Self, String> {
        let SavedControl { name, path, listener, inode, last_id, clients } = saved;
        let listener = UnixListener::from(fds.take(listener)?);
        let bound = BoundControl { name, path, listener, inode };
        let socket =
            ControlSocket { choice: choice.clone(), dirs: instances::directories(), bound, watch: None };
        let cannot = |error| format!("cannot watch the control socket: {error}");
        let mut server = Self::new(socket, registry, first).map_err(cannot)?;
        server.last_id = last_id;
        server.begin();
        for (slot, client) in clients.into_iter().take(SLOTS).enumerate() {
            let SavedClient { id, stream, phase, keep, reads_our_log, input, output } = client;
            // One that is closed was answered, or went away, after this was saved.
            let Ok(stream) = fds.take(stream).map(UnixStream::from) else { continue };
            let (fd, token) = (stream.as_raw_fd(), Token(first.0 + 2 + slot));
            let interest = Interest::READABLE | Interest::WRITABLE;
            server.registry.register(&mut SourceFd(&fd), token, interest).map_err(cannot)?;
            server.clients[slot] = Some(Connection { id, stream, phase, keep, reads_our_log, input, output });
        }
        Ok(server)
    }
}
