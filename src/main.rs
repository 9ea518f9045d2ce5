//! `supervise`: parse, dispatch, exit status. Nothing else.

use std::io::Write;
use std::process::ExitCode;

use socket_supervise::cli::{self, Parsed};
use socket_supervise::{client, os};

fn main() -> ExitCode {
    match cli::parse(std::env::args_os().skip(1)) {
        Parsed::Run(arguments) => ExitCode::from(os::run(*arguments)),
        Parsed::Verb(verb) => ExitCode::from(client::run(&verb)),
        Parsed::Exit { status, text, stderr } => {
            // Whoever closed the pipe does not want to know.
            let _ = if stderr {
                writeln!(std::io::stderr(), "{text}")
            } else {
                writeln!(std::io::stdout(), "{text}")
            };
            ExitCode::from(status)
        }
    }
}
