//! Decides which .socket files belong to a .service; what the user names together takes precedence.

use std::path::PathBuf;

use super::super::specifier::{Specifiers, UnitName};
use super::super::unit_file::{Source, Unit, parse};
use super::super::{Error, Problem, Warning, printable};
use super::Read;

/// The last value of a key with its specifiers replaced, and its place; `None` where it is not given or is emptied.
fn value(
    read: &Read<'_>,
    section: &str,
    key: &str,
    host: &dyn Fn(char) -> Option<String>,
) -> Option<(String, String)> {
    let line = read.assignments.iter().rfind(|line| line.section == section && line.key == key)?;
    let specifiers = Specifiers { unit: &read.unit.name, path: &read.unit.path, host };
    let text = specifiers.expand(&line.value).ok().filter(|text| !text.is_empty())?;
    Some((text, line.place.clone()))
}

/// Checks that there is one .service and that no .socket asks for another.
pub(super) fn check(
    units: &[Read<'_>],
    host: &dyn Fn(char) -> Option<String>,
) -> Result<Vec<Warning>, Error> {
    let mut services = units.iter().filter(|unit| !unit.is_socket());
    let Some(service) = services.next() else {
        let problem = Problem::new("no .service file", "name one: supervise run web.socket web.service");
        return Err(problem.at(units.first().map_or("command line", Read::name)));
    };
    if let Some(second) = services.next() {
        let cause = format!("a second service beside {}", service.name());
        let problem = Problem::new(cause, "run one supervise for each service");
        return Err(problem.at(second.name()));
    }
    for (index, unit) in units.iter().enumerate() {
        if units[..index].iter().any(|other| other.name() == unit.name()) {
            return Err(Problem::new("it is named twice", "name each file once").at(unit.name()));
        }
    }
    let mut warnings = Vec::new();
    for socket in units.iter().filter(|unit| unit.is_socket()) {
        match value(socket, "Socket", "Service", host) {
            Some((wanted, place)) if wanted != service.name() => {
                let cause = format!("the socket is for {}, not for {}", printable(&wanted), service.name());
                let remedy = format!("write Service={}, or name the other file", service.name());
                return Err(Problem::new(cause, remedy).at(place));
            }
            None if socket.unit.name.stem() != service.unit.name.stem() => {
                let cause = format!("systemd would start {}.service for it", socket.unit.name.stem());
                let remedy = format!("add Service={} to its [Socket] section", service.name());
                warnings.push(Warning(Problem::new(cause, remedy).at(socket.name())));
            }
            Some(_) | None => {}
        }
    }
    Ok(warnings)
}

/// The files to read in addition to `units`: the service of a socket that is given alone, and the sockets of Sockets=.
pub fn companions(units: &[Unit], host: &dyn Fn(char) -> Option<String>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let has_service = units.iter().any(|unit| unit.name.suffix() == "service");
    for unit in units {
        let assignments = unit.sources.iter().filter_map(|source| parse(source).ok());
        let assignments = assignments.flat_map(|parsed| parsed.assignments).collect();
        let read = Read { unit, assignments, headers: Vec::new() };
        let wanted: Vec<String> = if !read.is_socket() {
            sockets(&read, host)
        } else if has_service {
            Vec::new()
        } else {
            let own = || format!("{}.service", unit.name.stem());
            vec![value(&read, "Socket", "Service", host).map_or_else(own, |(name, _)| name)]
        };
        // An invalid name is reported when the line is read.
        for name in wanted.iter().filter_map(|name| UnitName::parse(name).ok()) {
            let path = unit.path.with_file_name(name.full());
            if units.iter().all(|unit| unit.name != name) && !found.contains(&path) {
                found.push(path);
            }
        }
    }
    found
}

/// The key by which a service (its file without drop-ins) names this socket; `None` where it does not.
pub fn asks_for(service: &Source, socket: &str) -> Option<&'static str> {
    const KEYS: [(&str, &str); 4] =
        [("Service", "Sockets"), ("Unit", "Requires"), ("Unit", "BindsTo"), ("Unit", "Wants")];
    let lines = parse(service).ok()?.assignments;
    let names = |section: &str, key: &str| {
        lines.iter().any(|line| {
            line.section == section
                && line.key == key
                && line.value.split_ascii_whitespace().any(|name| name == socket)
        })
    };
    KEYS.into_iter().find(|(section, key)| names(section, key)).map(|(_, key)| key)
}

/// The value of Sockets= of a service, a list that an empty line empties.
fn sockets(read: &Read<'_>, host: &dyn Fn(char) -> Option<String>) -> Vec<String> {
    let specifiers = Specifiers { unit: &read.unit.name, path: &read.unit.path, host };
    let mut names = Vec::new();
    for line in read.assignments.iter().filter(|line| line.section == "Service" && line.key == "Sockets") {
        if line.value.is_empty() {
            names.clear();
        }
        let text = specifiers.expand(&line.value).unwrap_or_default();
        names.extend(text.split_ascii_whitespace().map(str::to_owned));
    }
    names
}
