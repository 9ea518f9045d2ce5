//! Our own lines on stderr: `supervise: ...`, through env_logger so that RUST_LOG works.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use log::{Level, LevelFilter};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::config::Color;

/// Sets the process's logger up; to be called once. RUST_LOG beats `level`, NO_COLOR beats `Color::Auto`.
pub fn init(level: LevelFilter, color: Color) {
    let color = match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && io::stderr().is_terminal()
        }
    };
    let mut builder = env_logger::Builder::new();
    // Ours alone: what the libraries have to say is for RUST_LOG.
    builder.filter_module("socket_supervise", level).filter_module("supervise", level);
    if let Ok(filters) = std::env::var("RUST_LOG") {
        builder.parse_filters(&filters);
    }
    builder.format(move |out, record| {
        let (begin, end) = match record.level() {
            Level::Error if color => ("\x1b[31m", "\x1b[0m"),
            Level::Warn if color => ("\x1b[33m", "\x1b[0m"),
            Level::Error | Level::Warn | Level::Info | Level::Debug | Level::Trace => ("", ""),
        };
        let word = if record.level() == Level::Warn { "warning: " } else { "" };
        writeln!(out, "{begin}supervise: {word}{}{end}", record.args())
    });
    builder.target(env_logger::Target::Pipe(Box::new(Stderr::default())));
    builder.init();
}

/// Stderr that drops a line rather than wait for its reader: a stopped terminal or a full pipe must not make the
/// supervisor deaf. O_NONBLOCK cannot be used, the server shares the open file.
#[derive(Default)]
struct Stderr {
    dropped: u64,
}

impl Stderr {
    fn is_writable() -> bool {
        let stderr = io::stderr();
        let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }
}

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if !Self::is_writable() {
            self.dropped += 1;
            return Ok(line.len());
        }
        if self.dropped > 0 {
            let dropped = std::mem::take(&mut self.dropped);
            writeln!(io::stderr(), "supervise: {dropped} lines dropped, nobody read them")?;
            if !Self::is_writable() {
                self.dropped = 1;
                return Ok(line.len());
            }
        }
        // A pipe that is writable takes PIPE_BUF bytes at once; a longer line is cut there.
        let line = &line[..line.len().min(4096)];
        io::stderr().write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
