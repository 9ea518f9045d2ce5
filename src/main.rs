//! `supervise`: parse, dispatch, exit status. Nothing else.

use std::io::Write;
use std::process::ExitCode;

use log::LevelFilter;
use socket_supervise::cli::{self, Color, Control, Parsed, RunArgs, VerbArgs};
use socket_supervise::client::{self, Task, Verb};
use socket_supervise::os::control::{Choice, Place};
use socket_supervise::os::{self, logger};

fn main() -> ExitCode {
    ExitCode::from(match cli::parse(std::env::args_os()) {
        Parsed::Run(arguments) => run(*arguments),
        Parsed::Verb(VerbArgs { request, name, control, json }) => {
            client::run(&Verb { task: Task::Ask(request), name, control, json })
        }
        Parsed::List { json } => client::run(&Verb { task: Task::List, name: None, control: None, json }),
        Parsed::Exit { status, text, stderr } => {
            // Whoever closed the pipe does not want to know.
            let _ = if stderr { write!(std::io::stderr(), "{text}") } else { write!(std::io::stdout(), "{text}") };
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
    let color = match arguments.color {
        Color::Auto => logger::Color::Auto,
        Color::Always => logger::Color::Always,
        Color::Never => logger::Color::Never,
    };
    logger::init(level, color);
    for warning in &arguments.warnings {
        log::warn!("{warning}");
    }
    let control = match arguments.control {
        Control::Default => Place::Search,
        Control::None => Place::None,
        Control::Path(path) => Place::Path(path),
    };
    os::run(arguments.config, &Choice { name: arguments.name, control })
}
