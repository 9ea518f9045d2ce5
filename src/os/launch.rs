//! Everything that is looked up anew for each generation: user, directory, environment files, placeholders.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::socket::HeldSocket;
use super::spawn::{Additions, Plan, build_environment};
use super::users::Identity;
use crate::config::placeholder::{self, Held};
use crate::config::{self, DirectoryPath, EnvironmentFile, Span, environment, printable};
use crate::core::{GenerationId, Stage, StartFailure};

/// An environment file is read up to here; a longer one is an error.
const ENVIRONMENT_BYTES: u64 = 1 << 20;

/// Makes the plan of each generation.
#[derive(Debug)]
pub struct Launcher {
    launch: config::Launch,
    directory: Option<PathBuf>,
    watchdog: Span,
    fds: Vec<RawFd>,
    names: Vec<String>,
}

impl Launcher {
    /// Replaces the placeholders: what they stand for is known now and never changes.
    ///
    /// # Errors
    /// A word asks for the port of a socket that has none.
    pub fn new(
        mut launch: config::Launch,
        watchdog: Span,
        sockets: &[HeldSocket],
    ) -> Result<Self, config::Error> {
        let held = sockets.iter().zip(3..).map(|(socket, fd)| Held {
            name: socket.name.clone(),
            fd,
            port: socket.port,
            address: socket.address.clone(),
        });
        let held: Vec<Held> = held.collect();
        for (name, value) in &mut launch.environment {
            // The value itself may be a secret.
            *value = placeholder::expand(value, &held).map_err(|problem| problem.at(format!("-E {name}")))?;
        }
        for word in launch.commands.start.iter_mut().flat_map(|exec| &mut exec.words) {
            if let Some(text) = word.to_str() {
                *word =
                    placeholder::expand(text, &held).map_err(|problem| problem.at(printable(text)))?.into();
            }
        }
        let here = || logical_directory().or_else(|| env::current_dir().ok());
        let directory = match launch.directory.as_ref().map(|directory| &directory.path) {
            Some(DirectoryPath::Path(path)) if path.is_relative() => {
                here().map(|here| here.join(path)).or_else(|| Some(path.clone()))
            }
            Some(DirectoryPath::Path(path)) => Some(path.clone()),
            Some(DirectoryPath::Home) | None => logical_directory(),
        };
        Ok(Self {
            launch,
            directory,
            watchdog,
            fds: sockets.iter().map(|socket| socket.fd.as_raw_fd()).collect(),
            names: sockets.iter().map(|socket| socket.name.clone()).collect(),
        })
    }

    /// NonBlocking=: to be set on the sockets before a spawn.
    pub fn non_blocking(&self) -> bool {
        self.launch.non_blocking
    }

    /// # Errors
    /// A user, group or environment file that is not there now; the stage says which.
    pub fn notify_access(&self) -> config::NotifyAccess {
        self.launch.notify_access
    }
    pub fn pid_file(&self) -> Option<&Path> {
        self.launch.pid_file.as_deref()
    }
    pub fn guesses_main_pid(&self) -> bool {
        self.launch.guess_main_pid
    }
    pub fn fd_store_max(&self) -> u32 {
        self.launch.fd_store_max
    }
    pub fn last_is_gone(&self) {}
    pub fn plan(&self, request: &Request<'_>) -> Result<Plan, StartFailure> {
        let (generation, notify_socket) = (request.generation, request.notify_socket);
        let identity = Identity::resolve(&self.launch)?;
        let mut files = Vec::new();
        for file in &self.launch.environment_files {
            files.extend(read_environment(file)?);
        }
        let additions = Additions {
            user: identity.user.as_ref(),
            environment: &self.launch.environment,
            files: &files,
            names: &self.names,
            notify_socket: Some(notify_socket.as_ref()),
            watchdog: self.watchdog,
            generation: generation.0,
        };
        // Later wins: PWD says where the server is, by the path it was entered.
        let directory = self.directory.iter().map(|path| ("PWD".into(), path.into()));
        let environment = build_environment(env::vars_os().chain(directory), additions);
        let exec = &self.launch.commands.list(request.command.list)[request.command.index];
        let mut plan = Plan::new(&self.launch, exec, environment, identity);
        plan.directory.clone_from(&self.directory);
        plan.fds.clone_from(&self.fds);
        Ok(plan)
    }
}

/// What can be found wrong before anything is bound: the user, the group, the directory, the environment files.
///
/// # Errors
/// A sentence with the remedy.
pub fn check(launch: &config::Launch) -> Result<(), String> {
    Identity::resolve(launch).map_err(|failure| failure.what)?;
    // A pipe (`<(...)` of the shell) can be read once, and that is for the first generation.
    let is_pipe = |file: &&EnvironmentFile| fs::metadata(&file.path).is_ok_and(|meta| !meta.is_file());
    for file in launch.environment_files.iter().filter(|file| !is_pipe(file)) {
        read_environment(file).map_err(|failure| failure.what)?;
    }
    let directory = launch.directory.as_ref().and_then(|directory| match &directory.path {
        DirectoryPath::Path(path) => Some(path),
        DirectoryPath::Home => None,
    });
    match directory.map(|path| (path, fs::metadata(path))) {
        Some((path, Ok(meta))) if !meta.is_dir() => {
            Err(format!("-C {}: is no directory (name one that is)", path.display()))
        }
        Some((path, Err(error))) if error.kind() == io::ErrorKind::NotFound => Err(format!(
            "-C {}: there is no such directory (mkdir -p it, or correct the path)",
            path.display()
        )),
        // Whether the server's user may enter it is known when it does.
        Some(_) | None => Ok(()),
    }
}

/// `$PWD` where it names our directory: entered by this path before each start, a link in it (`current ->
/// releases/42`) is followed anew. None: our directory as it is.
fn logical_directory() -> Option<PathBuf> {
    let logical = PathBuf::from(env::var_os("PWD")?);
    let identity = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    (logical.is_absolute() && identity(&logical)? == identity(Path::new("."))?).then_some(logical)
}

fn read_environment(file: &EnvironmentFile) -> Result<Vec<(String, String)>, StartFailure> {
    let failure = |errno, what| StartFailure { stage: Stage::Environment, errno, what };
    let text = match read_bounded(&file.path) {
        Ok(text) => text,
        Err(error) if file.optional && error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            let remedy = match error.kind() {
                io::ErrorKind::NotFound => "; with - before the path it may be missing",
                _ => "",
            };
            let what = format!("cannot read environment file {}: {error}{remedy}", file.path.display());
            return Err(failure(error.raw_os_error().unwrap_or(0), what));
        }
    };
    environment::parse_file(&text, &file.path.display().to_string())
        .map_err(|error| failure(0, error.to_string()))
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    // The open of a FIFO would wait for a writer, and everything with it.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    file.take(ENVIRONMENT_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > ENVIRONMENT_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB"));
    }
    Ok(text)
}

pub struct Request<'a> {
    pub generation: GenerationId,
    pub command: crate::core::Command,
    pub notify_socket: &'a str,
    pub main_pid: Option<i32>,
    pub outcome: Option<crate::core::Outcome>,
    pub stored: &'a super::fd_store::FdStore,
}
