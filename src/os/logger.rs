//! Our lines on stderr, `supervise: ...`, written by env_logger so that RUST_LOG works.
//!
//! They come from two crates, the library and the program. A user of RUST_LOG need not know that: both `supervise`
//! and `socket_supervise` select all of them, and so does a level alone.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use log::{Level, LevelFilter};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::config::Color;

/// The longest line with its newline: PIPE_BUF, which a writable pipe takes at once (pipe(7)). Longer ones are cut.
const LONGEST: usize = 4096;
/// The crates of our lines.
const CRATES: [&str; 2] = ["supervise", "socket_supervise"];

/// Sets up the logger; to be called once. RUST_LOG takes precedence over `level`, NO_COLOR over `Color::Auto`.
pub fn init(level: LevelFilter, color: Color) {
    let color = match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && io::stderr().is_terminal()
        }
    };
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(&filters(level, &std::env::var("RUST_LOG").unwrap_or_default()));
    builder.format(move |out, record| {
        let (begin, end) = match record.level() {
            Level::Error if color => ("\x1b[31m", "\x1b[0m"),
            Level::Warn if color => ("\x1b[33m", "\x1b[0m"),
            Level::Error | Level::Warn | Level::Info | Level::Debug | Level::Trace => ("", ""),
        };
        let word = if record.level() == Level::Warn { "warning: " } else { "" };
        let text = record.args().to_string();
        let room = LONGEST - begin.len() - "supervise: ".len() - word.len() - end.len() - 1;
        writeln!(out, "{begin}supervise: {word}{}{end}", cut(&text, room))
    });
    builder.target(env_logger::Target::Pipe(Box::new(Stderr::default())));
    builder.init();
}

/// The filters for env_logger: `level` for our crates; RUST_LOG alone decides about libraries.
///
/// env_logger takes the longest name that matches, so a level without a name would not reach our crates.
fn filters(level: LevelFilter, rust_log: &str) -> String {
    let directives = || rust_log.split('/').next().unwrap_or_default().split(',').map(str::trim);
    let bare = directives().filter_map(|directive| directive.parse::<LevelFilter>().ok()).next_back();
    let level = bare.unwrap_or(level);
    let mut all = format!("{}={level},{}={level}", CRATES[0], CRATES[1]);
    for directive in directives() {
        let name = directive.split(['=', ':']).next().unwrap_or_default();
        if CRATES.contains(&name) {
            let rest = &directive[name.len()..];
            all += &format!(",{}{rest},{}{rest}", CRATES[0], CRATES[1]);
        }
    }
    if rust_log.is_empty() { all } else { format!("{all},{rust_log}") }
}

/// Cuts `text` to at most `room` bytes, ending in dots.
fn cut(text: &str, room: usize) -> Cow<'_, str> {
    const DOTS: &str = "...";
    if text.len() <= room {
        return text.into();
    }
    let mut end = room.saturating_sub(DOTS.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{DOTS}", &text[..end]).into()
}

/// A stderr that drops a line rather than wait for its reader: a stopped terminal or a full pipe must not block us.
/// O_NONBLOCK would affect the server, which shares the open file description.
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
        io::stderr().write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What RUST_LOG lets through, by who says it; the level without it is info.
    fn passes(rust_log: &str, target: &str, level: Level) -> bool {
        let mut builder = env_logger::Builder::new();
        let logger = builder.parse_filters(&filters(LevelFilter::Info, rust_log)).build();
        let metadata = log::Metadata::builder().target(target).level(level).build();
        log::Log::enabled(&logger, &metadata)
    }

    #[test]
    fn rust_log_reaches_our_lines_by_any_of_our_names() {
        let ours = ["supervise", "socket_supervise", "socket_supervise::os::shell"];
        for (rust_log, most) in [
            ("", Level::Info),
            ("debug", Level::Debug),
            ("error", Level::Error),
            ("warn", Level::Warn),
            ("supervise=debug", Level::Debug),
            ("socket_supervise=debug", Level::Debug),
            ("supervise=error", Level::Error),
            ("supervise", Level::Trace),
            ("error, supervise=debug", Level::Debug),
            ("supervise=debug,error", Level::Debug),
            ("other=trace", Level::Info),
            ("supervisor=trace", Level::Info),
            ("debug/", Level::Debug),
        ] {
            for target in ours {
                let passed: Vec<_> = Level::iter().filter(|level| passes(rust_log, target, *level)).collect();
                assert_eq!(passed.last(), Some(&most), "RUST_LOG={rust_log:?}, {target}");
            }
        }
        assert!(passes("supervise::os=debug", "socket_supervise::os::shell", Level::Debug));
        assert!(!passes("supervise::os=debug", "socket_supervise::core", Level::Debug));
        assert!(!passes("", "netlink", Level::Error) && passes("debug", "netlink", Level::Debug));
        assert!(!passes("supervise=debug", "netlink", Level::Error));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("shorter", 5), "sh...");
        assert_eq!(cut("\u{e9}\u{e9}\u{e9}\u{e9}", 6), "\u{e9}...");
    }
}
