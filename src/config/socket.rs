//! Options of the held sockets: [Socket] of systemd.socket(5).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Exec, Span};

/// The options of a held socket; equal for all of the command line, and for all of one .socket file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SocketOptions {
    /// FileDescriptorName=; `None` means the name of the .socket file.
    pub name: Option<String>,
    /// Backlog=; the kernel caps it at net.core.somaxconn.
    pub backlog: u32,
    /// BindIPv6Only=; with `None` net.ipv6.bindv6only decides.
    pub v6_only: Option<bool>,
    /// SocketMode= of a unix path, and DirectoryMode= of directories that are made for it.
    pub mode: u32,
    pub directory_mode: u32,
    /// SocketUser= and SocketGroup= of a unix path.
    pub user: Option<String>,
    pub group: Option<String>,
    /// Symlinks=: symbolic links to the path.
    pub symlinks: Vec<PathBuf>,
    /// RemoveOnStop=: the path and its symlinks are removed when supervise ends.
    pub remove_on_stop: bool,
    pub free_bind: bool,
    pub transparent: bool,
    pub reuse_port: bool,
    /// BindToDevice=
    pub device: Option<String>,
    pub protocol: Option<Protocol>,
    pub no_delay: bool,
    pub keep_alive: bool,
    /// KeepAliveTimeSec=, KeepAliveIntervalSec= (whole seconds) and KeepAliveProbes=; `None` leaves it to the kernel.
    pub keep_alive_time: Option<Span>,
    pub keep_alive_interval: Option<Span>,
    pub keep_alive_probes: Option<u32>,
    /// DeferAcceptSec= in whole seconds; zero is off.
    pub defer_accept: Span,
    /// ReceiveBuffer= and SendBuffer= in bytes.
    pub receive_buffer: Option<u64>,
    pub send_buffer: Option<u64>,
    pub priority: Option<i32>,
    pub ip_tos: Option<i32>,
    pub ip_ttl: Option<i32>,
    pub mark: Option<u32>,
    pub tcp_congestion: Option<String>,
    pub broadcast: bool,
    pub pass_credentials: bool,
    pub pass_security: bool,
    pub pass_packet_info: bool,
    pub timestamping: Timestamping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    UdpLite,
    Sctp,
    Mptcp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Timestamping {
    Off,
    Microseconds,
    Nanoseconds,
}

/// The ExecStartPre= ... ExecStopPost= of [Socket], which are not those of [Service]. supervise waits for each to end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SocketCommands {
    /// Run before and after the sockets of this unit are bound.
    pub start_pre: Vec<Exec>,
    pub start_post: Vec<Exec>,
    /// Run before and after they are closed, when supervise ends.
    pub stop_pre: Vec<Exec>,
    pub stop_post: Vec<Exec>,
    /// TimeoutSec= of [Socket]; infinity is none.
    pub timeout: Span,
}

impl SocketOptions {
    /// The defaults of systemd.socket(5).
    pub const fn new() -> Self {
        Self {
            name: None,
            backlog: u32::MAX,
            v6_only: None,
            mode: 0o666,
            directory_mode: 0o755,
            user: None,
            group: None,
            symlinks: Vec::new(),
            remove_on_stop: false,
            free_bind: false,
            transparent: false,
            reuse_port: false,
            device: None,
            protocol: None,
            no_delay: false,
            keep_alive: false,
            keep_alive_time: None,
            keep_alive_interval: None,
            keep_alive_probes: None,
            defer_accept: Span::ZERO,
            receive_buffer: None,
            send_buffer: None,
            priority: None,
            ip_tos: None,
            ip_ttl: None,
            mark: None,
            tcp_congestion: None,
            broadcast: false,
            pass_credentials: false,
            pass_security: false,
            pass_packet_info: false,
            timestamping: Timestamping::Off,
        }
    }
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for SocketCommands {
    fn default() -> Self {
        Self {
            start_pre: Vec::new(),
            start_post: Vec::new(),
            stop_pre: Vec::new(),
            stop_post: Vec::new(),
            timeout: Span::from_secs(90),
        }
    }
}
