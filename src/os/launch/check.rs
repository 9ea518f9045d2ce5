//! Finds errors before anything is bound or started: in users, directories, environment files, and programs.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;

use super::environment_file;
use crate::config::{Config, DirectoryPath, EnvironmentFile, Exec, Launch};
use crate::core::Stage;
use crate::os::directories;
use crate::os::spawn::{Environment, FIXED_PATH, Plan, Value, missing_program};
use crate::os::users::Identity;

/// Checks the user, the groups, the directory and the environment files.
///
/// # Errors
/// A sentence with the remedy.
pub fn check(launch: &Launch) -> Result<(), String> {
    check_identity(launch)?;
    launch.environment_files.iter().try_for_each(|file| check_environment(launch, file).map(drop))?;
    check_directory(launch)
}

/// What a start would not find now, a sentence each: what [`check`] refuses, and programs. `supervise check` shows it.
pub fn missing(config: &Config) -> Vec<String> {
    let launch = &config.launch;
    let (identity, directory) = (check_identity(launch), check_directory(launch));
    let files: Vec<_> = launch.environment_files.iter().map(|file| check_environment(launch, file)).collect();
    let mut set = launch.environment.iter().chain(files.iter().flatten().flatten());
    let path = set.rfind(|(name, _)| name == "PATH").map(|(_, path)| path.into());
    let inherited = || if launch.inherit_environment { env::var_os("PATH") } else { Some(FIXED_PATH.into()) };
    let path = path.or_else(inherited).map(Value::Text);
    let environment: Environment = path.into_iter().map(|path| ("PATH".into(), path)).collect();
    let enters = match launch.directory.as_ref().map(|directory| &directory.path) {
        Some(DirectoryPath::Path(path)) => Some(path.clone()),
        Some(DirectoryPath::Home) => identity.as_ref().ok().and_then(directories::home),
        None => None,
    };
    let is_there = enters.as_ref().is_none_or(|path| path.is_dir());
    let has_place = |exec: &Exec| {
        let text = exec.path.as_bytes();
        is_there || text.starts_with(b"/") || !text.contains(&b'/')
    };
    let programs = config.commands().into_iter().map(|(_, exec)| exec);
    let programs = programs.filter(|exec| !exec.ignore_failure && has_place(exec)).filter_map(|exec| {
        let plan = Plan::new(launch, exec, environment.clone(), Identity::default());
        missing_program(&Plan { directory: enters.clone(), ..plan })
    });
    let others = [identity.err(), directory.err()].into_iter().chain(files.into_iter().map(Result::err));
    let mut found: Vec<String> = others.flatten().chain(programs).collect();
    let mut told = BTreeSet::new();
    found.retain(|sentence| told.insert(sentence.clone()));
    found
}

fn check_identity(launch: &Launch) -> Result<Identity, String> {
    Identity::resolve(launch).map_err(|failure| {
        let key = if failure.stage == Stage::Group { "Group" } else { "User" };
        placed(launch, key, &failure.what)
    })
}

/// The variables of the file.
fn check_environment(launch: &Launch, file: &EnvironmentFile) -> Result<Vec<(String, String)>, String> {
    // A pipe (`<(...)` of the shell) can be read only once, so it is left to the first generation.
    if fs::metadata(&file.path).is_ok_and(|meta| !meta.is_file()) {
        return Ok(Vec::new());
    }
    // Of several, only the last has its place there.
    let place = |what: &str| match &launch.environment_files[..] {
        [_] => placed(launch, "EnvironmentFile", what),
        _ => what.to_owned(),
    };
    environment_file::read(file).map_err(|failure| place(&failure.what))
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
