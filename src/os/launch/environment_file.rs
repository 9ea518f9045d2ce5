//! EnvironmentFile=: finds its files and reads them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::glob;
use crate::config::{EnvironmentFile, environment};
use crate::core::{Stage, StartFailure};

/// The longest file; a longer one is an error.
const FILE_BYTES: u64 = 1 << 20;
/// How long a pipe may be without data.
const PATIENCE_MS: u16 = 5_000;

fn failure(errno: i32, what: String) -> StartFailure {
    StartFailure { stage: Stage::Environment, errno, what }
}

/// The variables of all files that it names, in the order of their names.
///
/// # Errors
/// A file that cannot be read; no file at all, unless it may be missing.
pub(super) fn read(file: &EnvironmentFile) -> Result<Vec<(String, String)>, StartFailure> {
    let mut variables = Vec::new();
    for path in paths(file)? {
        variables.extend(read_one(&path, file.optional)?);
    }
    Ok(variables)
}

/// The files that it names. A path that exists is taken literally; any other may be a pattern.
pub(super) fn paths(file: &EnvironmentFile) -> Result<Vec<PathBuf>, StartFailure> {
    if !glob::is_pattern(&file.path) || fs::symlink_metadata(&file.path).is_ok() {
        return Ok(vec![file.path.clone()]);
    }
    let shown = file.path.display();
    match glob::paths(&file.path) {
        Ok(paths) if paths.is_empty() && !file.optional => {
            let what =
                format!("no environment file matches {shown} (with - before the path there may be none)");
            Err(failure(libc::ENOENT, what))
        }
        Ok(paths) => Ok(paths),
        Err(error) => {
            let what = format!("cannot look for environment files {shown}: {error}");
            Err(failure(error.raw_os_error().unwrap_or(0), what))
        }
    }
}

fn read_one(path: &Path, optional: bool) -> Result<Vec<(String, String)>, StartFailure> {
    let text = match read_bounded(path) {
        Ok(text) => text,
        Err(error) if optional && error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            let remedy = match error.kind() {
                io::ErrorKind::NotFound => "; with - before the path it may be missing",
                _ => "",
            };
            let what = format!("cannot read environment file {}: {error}{remedy}", path.display());
            return Err(failure(error.raw_os_error().unwrap_or(0), what));
        }
    };
    environment::parse_file(&text, &path.display().to_string()).map_err(|error| failure(0, error.to_string()))
}

/// A reader that waits for a pipe (`<(...)` of the shell), within a time limit.
struct Patient(File);

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
                if poll(&mut fds, PollTimeout::from(PATIENCE_MS))? == 0 {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "its writer has written nothing for 5 s",
                    ));
                }
                self.0.read(buffer)
            }
            result => result,
        }
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    // Without O_NONBLOCK, open(2) of a FIFO would wait for a writer and block the only thread.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let mut reader = Patient(file).take(FILE_BYTES + 1);
    reader.read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB"));
    }
    Ok(text)
}
