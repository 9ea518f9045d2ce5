//! The connections of readiness checks, as state machines for the event loop: one GET over HTTP/1.1 (Ready=http:), or
//! a silent connection that only has to be accepted (Ready=auto).
//!
//! Over TCP the source port is bound before connect(2), because the steering program lets that port alone reach the
//! candidate. The server closes first (Connection: close), or else we close with a RST, so neither side keeps a
//! TIME_WAIT and a probe never meets an earlier one on its port. Some servers end when they accept a silent connection
//! that was reset, so that one is closed in the ordinary way.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    Shutdown, SockaddrStorage, bind, getsockname, getsockopt, setsockopt, shutdown, sockopt,
};
use nix::unistd::{read, write};

use super::socket::Target;
use super::sys;

/// How long a server may take to finish an answer whose status is known. Cutting it off earlier would show in its log.
const FAREWELL: Duration = Duration::from_millis(100);

/// The most bytes that are searched for a status line.
const LONGEST_HEAD: usize = 8 * 1024;

/// The longest answer that is read to its end.
const LONGEST: usize = 64 * 1024;

/// The longest reason phrase that is reported.
const LONGEST_REASON: usize = 40;

/// Success (one 2xx or 3xx), or a few words that say why not.
pub type ProbeResult = Result<(), String>;

/// The state of a silent connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    Nothing,
    Something,
}

/// One connection of a readiness check.
#[derive(Debug)]
pub struct Probe {
    socket: OwnedFd,
    to: Target,
    is_begun: bool,
    /// The bytes still to be sent.
    request: Vec<u8>,
    /// The bytes received until the status is known.
    head: Vec<u8>,
    /// Whether an empty line was sent on a silent connection.
    has_spoken: bool,
    /// The number of bytes of the answer that were read.
    read: usize,
    verdict: Option<ProbeResult>,
    /// When the server has taken too long to finish its answer.
    farewell: Option<Instant>,
}

impl Probe {
    /// Makes a socket of the target's family, not yet connected; over TCP bound to a port that the kernel picks.
    /// `path` begins with `/` and is printable ASCII without spaces, which the configuration checks.
    ///
    /// # Errors
    /// No fd or no port is free; the target takes datagrams.
    pub fn begin(to: Target, path: &str) -> io::Result<Self> {
        let (socket, host) = socket_for(&to)?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: supervise/{}\r\nAccept: */*\r\nConnection: close\r\n\r\n",
            env!("CARGO_PKG_VERSION")
        );
        Ok(Self::new(socket, to, request.into_bytes()))
    }

    fn new(socket: OwnedFd, to: Target, request: Vec<u8>) -> Self {
        Self {
            socket,
            to,
            is_begun: false,
            request,
            head: Vec::new(),
            has_spoken: false,
            read: 0,
            verdict: None,
            farewell: None,
        }
    }

    /// Makes the socket of a silent connection.
    ///
    /// # Errors
    /// No fd or no port is free; the target takes datagrams.
    pub fn silent(to: Target) -> io::Result<Self> {
        let (socket, _) = socket_for(&to)?;
        Ok(Self::new(socket, to, Vec::new()))
    }

    /// The client address that a server on TCP sees.
    ///
    /// # Errors
    /// Those of getsockname(2), which do not occur; Unsupported for unix sockets.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        let name: SockaddrStorage = getsockname(self.socket.as_raw_fd())?;
        let address = sys::inet_address(&name).ok_or(io::ErrorKind::Unsupported)?;
        Ok(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    /// Whether the server has sent anything on a silent connection, or closed it.
    ///
    /// # Errors
    /// The connection could not be made or is broken.
    pub fn heard(&mut self) -> io::Result<Heard> {
        match read(&self.socket, &mut [0; 64]) {
            Err(Errno::EAGAIN | Errno::ENOTCONN | Errno::EINTR) => Ok(Heard::Nothing),
            Ok(_) | Err(Errno::ECONNRESET | Errno::EPIPE) => Ok(Heard::Something),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Sends an empty line once, since TCP_DEFER_ACCEPT needs a byte. Returns whether this call has sent it.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn say_something(&mut self) -> io::Result<bool> {
        if self.has_spoken {
            return Ok(false);
        }
        match write(&self.socket, b"\r\n") {
            Ok(_) => self.has_spoken = true,
            Err(Errno::EAGAIN | Errno::ENOTCONN | Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(true)
    }

    /// Shuts a silent connection down as if it were closed, but keeps the fd so that sock_diag still identifies it.
    pub fn withdraw(&self) {
        if let Err(errno) = shutdown(self.socket.as_raw_fd(), Shutdown::Both) {
            log::debug!("a connection from supervise had ended already: {}", errno.desc());
        }
    }

    /// Calls connect(2), once the steering program knows the port.
    ///
    /// # Errors
    /// Why it failed at once.
    pub fn connect(&mut self) -> ProbeResult {
        let result = self.to.connect(&self.socket);
        self.is_begun = true;
        match result {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(()),
            // Only unix sockets fail so (connect(2)).
            Err(Errno::EAGAIN) => Err("its queue is full".to_owned()),
            Err(errno) => Err(why(errno)),
        }
    }

    /// Goes on until it would block, as events may be edge-triggered. Returns `None` until it is finished.
    pub fn ready(&mut self) -> Option<ProbeResult> {
        // A socket that is not yet connected already reports EPOLLHUP.
        if !self.is_begun {
            return None;
        }
        match self.send().and_then(|()| self.receive()) {
            Ok(()) => self.verdict.take(),
            Err(Errno::EAGAIN) => None,
            // Once the status is known, any end will do.
            Err(errno) => self.verdict.take().or_else(|| Some(Err(why(errno)))),
        }
    }

    /// The time to call [`expired`](Self::expired), once the status is known.
    pub fn deadline(&self) -> Option<Instant> {
        self.farewell
    }

    /// The result of a probe whose connection the server has not closed in time.
    pub fn expired(&mut self, now: Instant) -> Option<ProbeResult> {
        let is_over = self.farewell.is_some_and(|farewell| now >= farewell);
        self.verdict.take_if(|_| is_over)
    }

    fn send(&mut self) -> Result<(), Errno> {
        if self.request.is_empty() {
            return Ok(());
        }
        let error = getsockopt(&self.socket, sockopt::SocketError)?;
        if error != 0 {
            return Err(Errno::from_raw(error));
        }
        while !self.request.is_empty() {
            match write(&self.socket, &self.request) {
                Ok(length) => drop(self.request.drain(..length)),
                // The event came before connect(2) was finished.
                Err(Errno::ENOTCONN) => return Err(Errno::EAGAIN),
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Reads to the end of the answer or the limit. `Ok`: there is a verdict.
    fn receive(&mut self) -> Result<(), Errno> {
        let mut buffer = [0; 4096];
        loop {
            let length = read(&self.socket, &mut buffer)?;
            if self.read == 0 {
                setsockopt(&self.socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
            }
            self.read += length;
            if self.verdict.is_none() {
                self.head.extend_from_slice(&buffer[..length]);
                self.verdict = judge(&mut self.head, length == 0);
                self.farewell = self.verdict.is_some().then(|| Instant::now() + FAREWELL);
            }
            if length == 0 || self.read >= LONGEST {
                return Ok(());
            }
        }
    }
}

impl AsFd for Probe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A socket for one connection to the target, over TCP bound to the same IP address and a port of the kernel's
/// choice; and the value of the Host header.
fn socket_for(to: &Target) -> io::Result<(OwnedFd, String)> {
    match to {
        Target::Udp(_) => Err(io::ErrorKind::Unsupported.into()),
        Target::Unix(_) | Target::Abstract(_) => Ok((to.stream()?, "localhost".to_owned())),
        Target::Tcp(address) => {
            let socket = to.stream()?;
            // A copy keeps the scope id.
            let mut beside = *address;
            beside.set_port(0);
            bind(socket.as_raw_fd(), &SockaddrStorage::from(beside))?;
            Ok((socket, address.to_string()))
        }
    }
}

/// The result that the start of an answer allows. Informational ones (RFC 9110, 15.2) are removed from `head`.
fn judge(head: &mut Vec<u8>, is_all: bool) -> Option<ProbeResult> {
    let is_too_long = head.len() >= LONGEST_HEAD;
    loop {
        let not_http = || Some(Err("not HTTP".to_owned()));
        let Some(end) = head.iter().position(|byte| *byte == b'\n') else {
            let is_possible = head.iter().zip(b"HTTP/1.").all(|(is, wanted)| is == wanted);
            return match head.first() {
                // A TLS alert, which a TLS server sends when it gets something other than a ClientHello.
                Some(0x15) => Some(Err("TLS, not HTTP".to_owned())),
                None if is_all => Some(Err("closed without an answer".to_owned())),
                _ if is_all || is_too_long || !is_possible => not_http(),
                _ => None,
            };
        };
        let Some((status, reason)) = status_line(head[..end].trim_ascii_end()) else { return not_http() };
        if status >= 200 {
            let verdict = if status < 400 { Ok(()) } else { Err(format!("{status} {reason}")) };
            return Some(verdict.map_err(|text| text.trim_end().to_owned()));
        }
        let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
            return if is_all || is_too_long { not_http() } else { None };
        };
        head.drain(..end + 4);
    }
}

/// Reads `HTTP/1.1 404 Not Found`; the reason phrase may be any bytes.
fn status_line(line: &[u8]) -> Option<(u16, String)> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let (version, rest) = rest.split_first()?;
    let (status, reason) = rest.strip_prefix(b" ")?.split_at_checked(3)?;
    if !version.is_ascii_digit()
        || !status.iter().all(u8::is_ascii_digit)
        || reason.first().is_some_and(|byte| *byte != b' ')
    {
        return None;
    }
    let status = std::str::from_utf8(status).ok()?.parse().ok()?;
    let printable = reason.iter().skip(1).filter(|byte| byte.is_ascii_graphic() || **byte == b' ');
    (status >= 100).then(|| (status, printable.take(LONGEST_REASON).map(|byte| char::from(*byte)).collect()))
}

/// The error of a connection in a few words.
fn why(errno: Errno) -> String {
    match errno {
        Errno::ECONNREFUSED => "refused".to_owned(),
        Errno::ECONNRESET | Errno::EPIPE => "closed without an answer".to_owned(),
        errno => errno.desc().to_owned(),
    }
}

#[cfg(test)]
mod tests;
