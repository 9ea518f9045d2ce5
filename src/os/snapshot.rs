//! The part of `status` that only the shell knows: names, queues, memory, and the time of day.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

use super::proc;
use super::socket::NamedSocket;
use crate::config::Handover;
use crate::core::Time;
use crate::core::report::{SocketStatus, Status};
use crate::os::own;

/// Completes the core's status, and turns its times (CLOCK_MONOTONIC) into wall-clock time.
pub fn complete(status: &mut Status, name: &str, sockets: &[NamedSocket], handover: Handover, now: Time) {
    name.clone_into(&mut status.name);
    status.pid = own::pid();
    env!("CARGO_PKG_VERSION").clone_into(&mut status.version);
    status.sockets = sockets.iter().zip(3..).map(|(socket, fd)| of_socket(socket, fd, handover)).collect();
    for generation in &mut status.generations {
        generation.since = rfc3339(&generation.since, now);
        generation.rss_kb = generation.pid.and_then(rss_kb);
    }
    if let Some(next) = &mut status.next {
        next.at_ms = wall_nanos(Time(next.at_ms), now) / 1_000_000;
    }
}

fn of_socket(socket: &NamedSocket, fd: i32, handover: Handover) -> SocketStatus {
    let mode = match handover {
        Handover::StopFirst => "stop-first",
        Handover::Steered | Handover::Shared if socket.is_steered() => "steered",
        Handover::Steered | Handover::Shared => "shared",
    };
    let (queue, backlog) = socket.queue();
    SocketStatus {
        name: socket.name.clone(),
        address: socket.address.clone(),
        kind: socket.kind.to_string(),
        fd,
        queue,
        backlog,
        mode: mode.to_owned(),
    }
}

/// A moment on CLOCK_MONOTONIC in nanoseconds since 1970.
fn wall_nanos(time: Time, now: Time) -> u64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    (wall + time.since(now).as_nanos()).saturating_sub(now.since(time).as_nanos())
}

/// The same in RFC 3339, to the millisecond. `monotonic` is the number that the core wrote.
fn rfc3339(monotonic: &str, now: Time) -> String {
    let nanos = wall_nanos(Time(monotonic.parse().unwrap_or(now.0)), now);
    let millis = i64::try_from(nanos / 1_000_000).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millis).map_or_else(|_| String::new(), |time| format!("{time:.3}"))
}

/// VmRSS in kB (proc_pid_status(5)); `None` for a process that has ended or has no memory of its own (a zombie).
fn rss_kb(pid: u32) -> Option<u64> {
    let status = proc::text(format!("/proc/{pid}/status")).ok()?;
    proc::field(&status, "VmRSS:")?.strip_suffix("kB")?.trim().parse().ok()
}
