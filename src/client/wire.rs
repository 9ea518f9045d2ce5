//! The client's end of a control connection: sends one request, reads lines until a deadline.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::core::Request;
use crate::core::report::Line;

/// The longest line: a status with all the generations and sockets that there can be.
const LINE_BYTES: usize = 4 * 1024 * 1024;

/// Why no line was read.
#[derive(Debug)]
pub(super) enum Trouble {
    Late,
    Closed,
    Broken(io::Error),
    Garbled(String),
}

#[derive(Debug)]
pub(super) struct Wire {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Wire {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    /// Sends the request. An error is ignored: it shows on reading, and a full server answers without reading.
    pub(super) fn send(&mut self, request: &Request) {
        let mut line = serde_json::to_vec(request).expect("plain data with text keys is always JSON");
        line.push(b'\n');
        if let Err(error) = self.stream.write_all(&line) {
            log::debug!("cannot send the request to the instance: {error}");
        }
    }

    /// Reads the next line, until `deadline` if there is one.
    pub(super) fn line(&mut self, deadline: Option<Instant>) -> Result<Line, Trouble> {
        let mut chunk = [0; 8192];
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(searched + end + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                return serde_json::from_slice(&line).map_err(|error| Trouble::Garbled(error.to_string()));
            }
            searched = self.buffer.len();
            if searched > LINE_BYTES {
                return Err(Trouble::Garbled(format!("a line of more than {LINE_BYTES} bytes")));
            }
            self.allow_until(deadline)?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Trouble::Closed),
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Err(Trouble::Late),
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::ConnectionReset => return Err(Trouble::Closed),
                    _ => return Err(Trouble::Broken(error)),
                },
            }
        }
    }

    /// Waits until the other side closes the connection; an error ends it as well.
    pub(super) fn until_closed(&mut self) {
        while self.line(None).is_ok() {}
    }

    fn allow_until(&self, deadline: Option<Instant>) -> Result<(), Trouble> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // Data that has arrived is read even after the deadline, so the timeout is never zero.
        let left = left.map(|left| left.max(Duration::from_millis(1)));
        self.stream.set_read_timeout(left).map_err(Trouble::Broken)
    }
}
