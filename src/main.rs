//! `supervise`: parse, dispatch, exit status. Nothing else.

use std::io::Write;
use std::process::ExitCode;

use log::LevelFilter;
use socket_supervise::cli::{self, Parsed, RunArgs};
use socket_supervise::client;
use socket_supervise::os::{self, logger};

fn main() -> ExitCode {
    ExitCode::from(match cli::parse(std::env::args_os()) {
        Parsed::Run(arguments) => run(*arguments),
        Parsed::Verb(verb) => client::run(&verb),
        Parsed::Exit { status, text, stderr } => {
            // Whoever closed the pipe does not want to know.
            let _ = if stderr {
                write!(std::io::stderr(), "{text}")
            } else {
                write!(std::io::stdout(), "{text}")
            };
            status
        }
    })
}

fn run(arguments: RunArgs) -> u8 {
    let level = match arguments.verbosity {
        ..-1 => LevelFilter::Error,
        -1 => LevelFilter::Warn,
        0 => LevelFilter::Info,
        1 => LevelFilter::Debug,
        2.. => LevelFilter::Trace,
    };
    logger::init(level, arguments.color);
    for warning in &arguments.warnings {
        log::warn!("{warning}");
    }
    os::run(arguments.config, &arguments.instance, None)
}
