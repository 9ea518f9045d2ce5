//! Finds and reads the files of a UNIT: its main file or template, and its drop-ins.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::config::specifier::UnitName;
use crate::config::unit;
use crate::config::unit_file::{FILE_BYTES, Source, Unit};
use crate::config::{Error, Problem, Warning, printable};

/// The most drop-ins of one unit.
const DROP_INS: usize = 256;

/// The limits of a search for the service of a socket: entries of the directory, bytes of a file, services named.
const ENTRIES: usize = 4096;
const SERVICE_BYTES: usize = 64 << 10;
const FOUND: usize = 3;

/// Reads the unit file at `unit` and the drop-ins `*.conf` of `FILE.d` beside it, in the order of their names. For
/// `x@NAME.service` that is `x@.service` where it has no file of its own, and the drop-ins of both, of which one in
/// `x@NAME.service.d` hides its namesake in `x@.service.d` (systemd.unit(5)). No other directory is searched.
///
/// # Errors
/// `unit` is no name of a unit, does not exist, is no regular file, or has more than 256 drop-ins. A file over 1 MiB
/// is read only as far as parsing needs to refuse it.
pub fn read(unit: &Path) -> Result<Unit, Error> {
    let place = printable(&unit.to_string_lossy());
    let file_name = unit.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = UnitName::parse(&file_name).map_err(|problem| problem.at(place.as_str()))?;
    if name.instance() == Some("") {
        let remedy = format!("name an instance of it: {}@NAME.{}", name.prefix(), name.suffix());
        return Err(Problem::new("this is a template", remedy).at(place));
    }
    let template = name.template().map(|template| unit.with_file_name(template.full()));
    let (found, text) = match (read_regular(unit, FILE_BYTES), &template) {
        (Err(error), Some(template)) if error.kind() == io::ErrorKind::NotFound => {
            (template.as_path(), read_regular(template, FILE_BYTES))
        }
        (result, _) => (unit, result),
    };
    let text = text.map_err(|error| unreadable(unit, &error))?;
    let path = std::path::absolute(found).map_err(|error| unreadable(found, &error))?;
    let mut sources = vec![Source { name: found.display().to_string(), text }];
    let mut skipped = Vec::new();
    for path in drop_ins(template.as_deref(), unit)? {
        match read_regular(&path, FILE_BYTES) {
            Ok(text) => sources.push(Source { name: path.display().to_string(), text }),
            Err(_) if is_masked(&path) => {}
            // systemd skips a dangling link, a directory or a FIFO as well.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => {
                let problem =
                    Problem::new("this drop-in is no file and is skipped", "remove it, or correct the link");
                skipped.push(Warning(problem.at(printable(&path.to_string_lossy()))));
            }
            Err(error) => return Err(unreadable(&path, &error)),
        }
    }
    Ok(Unit { name, path, sources, skipped })
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    let place = printable(&path.to_string_lossy());
    let bare = path.parent().is_none_or(|parent| parent.as_os_str().is_empty());
    let problem = match error.kind() {
        io::ErrorKind::NotFound if bare => {
            Problem::new("no such file in this directory", "write its path: /etc/systemd/system/web.service")
        }
        io::ErrorKind::NotFound => Problem::new("no such file", "write the path of a unit file"),
        _ if is_masked(path) => {
            Problem::new("the unit is masked, a link to /dev/null", "name the file that is meant instead")
        }
        io::ErrorKind::PermissionDenied => {
            Problem::new("may not be read", "give its reader the right to, or run supervise as who has it")
        }
        io::ErrorKind::InvalidInput => Problem::new("is no regular file", "write the path of a unit file"),
        _ => Problem::new(format!("cannot be read: {error}"), "write the path of a unit file"),
    };
    problem.at(place)
}

/// Whether the unit is masked: a link to /dev/null.
fn is_masked(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|data| data.file_type().is_char_device())
        && fs::canonicalize(path).is_ok_and(|path| path == Path::new("/dev/null"))
}

/// The drop-ins of a unit and of its template, sorted by file name; of two with the same name, the unit's.
fn drop_ins(template: Option<&Path>, unit: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for file in template.into_iter().chain([unit]) {
        let mut directory = file.as_os_str().to_owned();
        directory.push(".d");
        let directory = PathBuf::from(directory);
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                continue;
            }
            Err(error) => return Err(unreadable(&directory, &error)),
        };
        for entry in entries {
            let name = entry.map_err(|error| unreadable(&directory, &error))?.file_name();
            let bytes = name.as_encoded_bytes();
            if bytes.ends_with(b".conf") && !bytes.starts_with(b".") {
                found.insert(name.clone(), directory.join(name));
            }
            if found.len() > DROP_INS {
                let problem = Problem::new("more than 256 drop-ins", "merge them into fewer files");
                return Err(problem.at(printable(&directory.to_string_lossy())));
            }
        }
    }
    Ok(found.into_values().collect())
}

/// The first .service files in `directory`, by name, that refer to this socket, and the key by which they do.
pub fn who_asks_for(socket: &str, directory: &Path) -> Vec<(String, &'static str)> {
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .take(ENTRIES)
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".service"))
        .collect();
    names.sort();
    let asks = |name: &String| {
        let text = read_regular(&directory.join(name), SERVICE_BYTES).ok()?;
        unit::asks_for(&Source { name: name.clone(), text }, socket)
    };
    names.into_iter().filter_map(|name| asks(&name).map(|key| (name, key))).take(FOUND).collect()
}

/// The start of a regular file, at most `limit` + 1 bytes, so that the caller can tell if it is longer. Anything
/// else, such as a FIFO or a terminal, is [`io::ErrorKind::InvalidInput`] without waiting.
pub(super) fn read_regular(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut text = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests;
