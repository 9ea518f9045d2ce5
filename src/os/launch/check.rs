//! What can be found wrong before anything is bound or started.

use std::fs;
use std::io;

use super::environment_file;
use crate::config::{Config, DirectoryPath, EnvironmentFile, Input, Kind, Launch, Output};
use crate::core::Stage;
use crate::os::directories;
use crate::os::users::Identity;

/// The user, the groups, the directory, the environment files, and the sockets that stdin, stdout and stderr name.
///
/// # Errors
/// A sentence with the remedy.
pub fn check(config: &Config) -> Result<(), String> {
    let launch = &config.launch;
    Identity::resolve(launch).map_err(|failure| {
        let key = if failure.stage == Stage::Group { "Group" } else { "User" };
        placed(launch, key, &failure.what)
    })?;
    for file in &launch.environment_files {
        check_environment(file).map_err(|what| placed(launch, "EnvironmentFile", &what))?;
    }
    check_directory(launch)?;
    // How many sockets an outer manager passes under a name is known when they are taken over.
    if config.listeners.iter().any(|listener| listener.kind == Kind::Fd) {
        return Ok(());
    }
    let names: Vec<&str> = config.listeners.iter().map(|listener| listener.name.as_str()).collect();
    check_sockets(launch, &names)
}

fn check_environment(file: &EnvironmentFile) -> Result<(), String> {
    // A pipe (`<(...)` of the shell) can be read once, and that is for the first generation.
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
        // Whether the server's user may enter it is known when it does.
        Ok(_) | Err(_) => return Ok(()),
    };
    let key = "WorkingDirectory";
    let is_unit = launch.places.contains_key(key);
    let asked = if is_unit { format!("{key}={}", path.display()) } else { format!("-C {}", path.display()) };
    Err(placed(launch, key, &format!("{asked}: {cause}")))
}

/// With file and line, where it was written in one.
fn placed(launch: &Launch, key: &str, what: &str) -> String {
    launch.places.get(key).map_or_else(|| what.to_owned(), |place| format!("{place}: {what}"))
}

fn check_sockets(launch: &Launch, names: &[&str]) -> Result<(), String> {
    let (mut of_socket, mut named) = (Vec::new(), Vec::new());
    match &launch.stdin {
        Input::Socket => of_socket.push("StandardInput"),
        Input::Fd(name) => named.push(("StandardInput", name)),
        Input::Null | Input::Inherit | Input::File(_) | Input::Data(_) => {}
    }
    for (key, output) in [("StandardOutput", &launch.stdout), ("StandardError", &launch.stderr)] {
        match output {
            Output::Socket => of_socket.push(key),
            Output::Fd(name) => named.push((key, name)),
            _ => {}
        }
    }
    if let (Some(key), true) = (of_socket.first(), names.len() != 1) {
        let count = names.len();
        return Err(format!(
            "{key}=socket: needs exactly one socket, and there are {count} (name one, or use {key}=fd:NAME)"
        ));
    }
    match named.iter().find(|(_, name)| !names.contains(&name.as_str())) {
        Some((key, name)) => Err(format!(
            "{key}=fd:{name}: no socket has this name (there are: {}; set FileDescriptorName={name})",
            names.join(", ")
        )),
        None => Ok(()),
    }
}
