//! Finds errors before anything is bound or started: in users, directories, environment files.

use std::fs;
use std::io;

use super::environment_file;
use crate::config::{DirectoryPath, EnvironmentFile, Launch};
use crate::core::Stage;
use crate::os::directories;
use crate::os::users::Identity;

/// Checks the user, the groups, the directory and the environment files.
///
/// # Errors
/// A sentence with the remedy.
pub fn check(launch: &Launch) -> Result<(), String> {
    Identity::resolve(launch).map_err(|failure| {
        let key = if failure.stage == Stage::Group { "Group" } else { "User" };
        placed(launch, key, &failure.what)
    })?;
    for file in &launch.environment_files {
        check_environment(file).map_err(|what| placed(launch, "EnvironmentFile", &what))?;
    }
    check_directory(launch)
}

fn check_environment(file: &EnvironmentFile) -> Result<(), String> {
    // A pipe (`<(...)` of the shell) can be read only once, so it is left to the first generation.
    let is_pipe = fs::metadata(&file.path).is_ok_and(|meta| !meta.is_file());
    if !is_pipe {
        environment_file::read(file).map_err(|failure| failure.what)?;
    }
    Ok(())
}

fn check_directory(launch: &Launch) -> Result<(), String> {
    let Some(directory) = launch.directory.as_ref().filter(|directory| !directory.optional) else {
        return Ok(());
    };
    let DirectoryPath::Path(path) = &directory.path else { return Ok(()) };
    if directories::will_be_made(launch, path) {
        return Ok(());
    }
    let cause = match fs::metadata(path) {
        Ok(meta) if !meta.is_dir() => "is no directory (name one that is)",
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            "there is no such directory (mkdir -p it, or correct the path)"
        }
        // Whether the user of the server may enter it shows at the start.
        Ok(_) | Err(_) => return Ok(()),
    };
    let key = "WorkingDirectory";
    let is_unit = launch.places.contains_key(key);
    let asked = if is_unit { format!("{key}={}", path.display()) } else { format!("-C {}", path.display()) };
    Err(placed(launch, key, &format!("{asked}: {cause}")))
}

/// Puts the file and line of a directive, if it has one, before a message.
fn placed(launch: &Launch, key: &str, what: &str) -> String {
    launch.places.get(key).map_or_else(|| what.to_owned(), |place| format!("{place}: {what}"))
}
