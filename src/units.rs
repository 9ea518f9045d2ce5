//! Reads unit files and the files that belong to them, for `run`, `check` and each swap.

use std::path::{Path, PathBuf};

use crate::cli::{Check, Report, Subject, UnitArgs};
use crate::config::unit::{self, Loaded, companions};
use crate::config::unit_file::Unit;
use crate::config::{Config, Error, Problem, Warning, printable};
use crate::os::{host, launch, unit_files};

/// The configuration that the files describe now.
///
/// # Errors
/// A file cannot be read, or the files make no valid service; with `strict` also the first warning.
pub fn load(arguments: &UnitArgs) -> Result<(Config, Vec<Warning>), Error> {
    let Loaded { config, warnings, .. } = loaded(arguments)?;
    let config = config?;
    match warnings.first() {
        Some(Warning(error)) if arguments.strict => Err(error.clone()),
        _ => Ok((config, warnings)),
    }
}

/// The verdicts of `supervise check`.
///
/// # Errors
/// A file cannot be read.
pub fn check(check: &Check) -> Result<Report, Error> {
    match &check.subject {
        Subject::Units(arguments) => {
            let mut loaded = loaded(arguments)?;
            loaded.lines.extend(check.detach.clone());
            Ok(report(&loaded, arguments.strict, check.json))
        }
        Subject::Command { config, warnings, lines, strict } => {
            let loaded = Loaded {
                config: Ok(Config::clone(config)),
                warnings: warnings.clone(),
                lines: lines.iter().cloned().chain(check.detach.clone()).collect(),
                stop_first: None,
            };
            Ok(report(&loaded, *strict, check.json))
        }
    }
}

fn report(loaded: &Loaded, strict: bool, json: bool) -> Report {
    let missing = loaded.config.as_ref().map(launch::missing).unwrap_or_default();
    Report::new(loaded, &missing, strict, json)
}

fn loaded(arguments: &UnitArgs) -> Result<Loaded, Error> {
    Ok(unit::load(&read(&arguments.paths)?, &arguments.settings, &host::specifier))
}

/// Reads the units of these paths, then the files that they require, until none is missing.
fn read(paths: &[PathBuf]) -> Result<Vec<Unit>, Error> {
    let mut units = paths.iter().map(|path| unit_files::read(path)).collect::<Result<Vec<_>, _>>()?;
    loop {
        let wanted = companions(&units, &host::specifier);
        if wanted.is_empty() {
            return Ok(units);
        }
        for path in &wanted {
            let unit = unit_files::read(path).map_err(|error| missing(&units, path).unwrap_or(error))?;
            units.push(unit);
        }
    }
}

/// The error for a socket that was named without its service, with the files that name it.
fn missing(units: &[Unit], service: &Path) -> Option<Error> {
    let is_for = |unit: &&Unit| {
        companions(std::slice::from_ref(*unit), &host::specifier).iter().any(|path| path == service)
    };
    let socket = units.iter().find(is_for).filter(|unit| unit.name.suffix() == "socket")?;
    if service.exists() {
        return None;
    }
    let wanted = service.file_name()?.to_string_lossy();
    let cause = format!("there is no {} beside it", printable(&wanted));
    let found = unit_files::who_asks_for(socket.name.full(), service.parent()?);
    let names: Vec<String> = found
        .iter()
        .map(|(name, key)| format!("{} as well, which has it in {key}=", printable(name)))
        .collect();
    let remedy = if names.is_empty() {
        format!("name its service as well: supervise run {} NAME.service", socket.name.full())
    } else {
        format!("name {}", names.join(", or "))
    };
    Some(Problem::new(cause, remedy).at(socket.name.full()))
}
