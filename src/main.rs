//! The binary: parses the command line, calls what it asks for, exits with the status.
//!
//! With glibc it begins at the C library's main instead of that of the standard library, which makes some twenty system calls
//! (it reads /proc/self/maps to find the guard of the stack) before the first line of ours. With other C libraries the
//! arguments are known to the standard library alone.

#![cfg_attr(all(target_env = "gnu", not(test)), no_main)]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};

use log::LevelFilter;
use socket_supervise::cli::{self, Check, Parsed, RunArgs};
use socket_supervise::client;
use socket_supervise::os::background::{Forked, detach};
use socket_supervise::os::{self, Reader, logger, relay};
use socket_supervise::units;

// SAFETY: no other symbol of the program is called main; the C library calls it once.
#[cfg(all(target_env = "gnu", not(test)))]
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn main() -> i32 {
    os::begin();
    std::process::exit(status().into())
}

#[cfg(any(not(target_env = "gnu"), test))]
fn main() -> std::process::ExitCode {
    status().into()
}

fn status() -> u8 {
    if let Some(status) = relay::run(std::env::args_os()) {
        return status;
    }
    if std::env::args_os().nth(1).is_some_and(|word| word == os::TRY) {
        return try_out();
    }
    match cli::parse(std::env::args_os()) {
        Parsed::Run(arguments) => run(*arguments),
        Parsed::Check(arguments) => check(&arguments),
        Parsed::Verb(verb) => client::run(&verb),
        Parsed::Exec(words) => exec(&words),
        Parsed::Exit { status, text, stderr: false } => print(&text, status),
        Parsed::Exit { status, text, stderr: true } => {
            let _ = write!(std::io::stderr(), "{text}");
            status
        }
    }
}

/// Whether this program could take the place of another one: its command line follows the first word, its state is on stdin.
fn try_out() -> u8 {
    let mut text = String::new();
    let read =
        std::io::stdin().read_to_string(&mut text).map_err(|error| format!("cannot read stdin: {error}"));
    let tried = read.and_then(|_| match cli::parse(std::env::args_os().skip(1)) {
        Parsed::Run(_) => os::try_saved(&text),
        Parsed::Exit { text, .. } => Err(text.trim_end().trim_start_matches("supervise: ").to_owned()),
        _ => Err("its command line is that of a verb here".to_owned()),
    });
    match tried {
        Ok(()) => print(&format!("supervise {}\n", env!("CARGO_PKG_VERSION")), 0),
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "supervise: {why}");
            1
        }
    }
}

/// Writes to stdout and returns `status`; if that fails, a status other than 0.
fn print(text: &str, status: u8) -> u8 {
    let mut stdout = std::io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // A reader that has left (`| head`) makes this no failure.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let _ = writeln!(std::io::stderr(), "supervise: cannot write to stdout: {error}");
            status.max(1)
        }
        Ok(()) | Err(_) => status,
    }
}

/// The status when something parses but cannot be done ("Exit status" in docs/guide.md).
const CANNOT: u8 = 125;

fn run(mut arguments: RunArgs) -> u8 {
    let level = match arguments.verbosity {
        ..-1 => LevelFilter::Error,
        -1 => LevelFilter::Warn,
        0 => LevelFilter::Info,
        1 => LevelFilter::Debug,
        2.. => LevelFilter::Trace,
    };
    logger::init(level, arguments.color);
    let state = os::left_state();
    let mut background = None;
    if arguments.instance.detach && state.is_none() {
        match detach(&arguments.config) {
            Ok(Forked::Child(child)) => background = Some(child),
            Ok(Forked::Parent(status)) => return status,
            Err(error) => {
                log::error!("{error}");
                return CANNOT;
            }
        }
    }
    let mut reader: Option<Reader> = None;
    if let Some(files) = arguments.units.take() {
        match if state.is_none() { units::load(&files) } else { Ok((arguments.config, Vec::new())) } {
            Ok((config, warnings)) => (arguments.config, arguments.warnings) = (config, warnings),
            Err(error) => {
                log::error!("{error}");
                return CANNOT;
            }
        }
        // A warning of the last reading is not repeated; `supervise check` shows all.
        let mut told: BTreeSet<String> = arguments.warnings.iter().map(ToString::to_string).collect();
        reader = Some(Box::new(move || {
            let (config, warnings) = units::load(&files).map_err(|error| error.to_string())?;
            let found: Vec<String> = warnings.iter().map(ToString::to_string).collect();
            let new = found.iter().filter(|warning| !told.contains(*warning)).cloned().collect();
            told = found.into_iter().collect();
            Ok((config, new))
        }));
    }
    if let Some(state) = state {
        return os::resume(state, &arguments.instance, reader);
    }
    for warning in &arguments.warnings {
        log::warn!("{warning}");
    }
    os::run(arguments.config, &arguments.instance, reader, background)
}

fn exec(words: &[OsString]) -> u8 {
    let (status, cause) = os::exec::exec(words);
    let _ = writeln!(std::io::stderr(), "supervise: exec: {cause}");
    status
}

fn check(arguments: &Check) -> u8 {
    let (text, error, status) = match units::check(arguments) {
        Ok(report) => (report.text, report.error, report.status),
        Err(error) => (String::new(), Some(error), CANNOT),
    };
    let status = print(&text, status);
    if let Some(error) = error {
        let _ = writeln!(std::io::stderr(), "supervise: {error}");
    }
    status
}
