//! Resolves all that is looked up anew for each process of a generation: user, directories, environment files, argv.

mod check;
mod environment_file;
mod glob;
mod once;
mod saved;
mod stdio;
#[cfg(test)]
mod tests;

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;
use std::rc::Rc;

pub use check::{check, missing};
pub use once::run_to_end;
pub use saved::SavedLauncher;

use super::directories;
use super::intercept;
use super::socket::NamedSocket;
use super::spawn::{Additions, Environment, FIXED_PATH, Plan, Value, build_environment, joined};
use super::users::Identity;
use super::warning::Warn;
use crate::config::dialect::{self, Dialect, Passed};
use crate::config::placeholder::{self, NumberedSocket};
use crate::config::{
    self, CommandList, DirectoryPath, Exec, Input, NotifyAccess, Preserve, Privileges, Problem, Span,
    command_line, printable,
};
use crate::core::{Command, Exit, GenerationId, RunOutcome, SlotId, Stage, StartFailure};

/// Makes the [`Plan`] of each process of a generation.
#[derive(Debug)]
pub struct Launcher {
    launch: config::Launch,
    /// The directory to enter; `None` means our own as it is, or the home directory of the user.
    directory: Option<PathBuf>,
    watchdog: Span,
    /// Whether the server gets inherited sockets. Under InterceptBind= it binds for itself, and one that takes
    /// inherited sockets as well (uWSGI) would have them twice, so there only if the user asks for them.
    passes_sockets: bool,
    /// The held sockets. They stay open for the generations of this launcher, even if a swap closes them for the next.
    sockets: Vec<NamedSocket>,
}

/// The command to start, and what is known of its generation now.
#[derive(Clone, Copy, Debug)]
pub struct StartRequest<'a> {
    /// The generation and its NOTIFY_SOCKET, which NotifyAccess=none withholds; `None` for a command of [Socket].
    pub generation: Option<(GenerationId, &'a str)>,
    pub command: Command,
    /// MAINPID; `None` where there is no main process.
    pub main_pid: Option<i32>,
    /// SERVICE_RESULT, EXIT_CODE and EXIT_STATUS, once the main process has ended.
    pub outcome: Option<RunOutcome>,
    /// The stored fds by name; ExecStart= gets them after the sockets.
    pub stored: &'a [(String, RawFd)],
    /// The slot whose sockets it gets.
    pub slot: SlotId,
}

impl Launcher {
    /// Replaces the placeholders, since the sockets they stand for never change from here on.
    ///
    /// # Errors
    /// `{port:NAME}` of a socket that has no port.
    pub fn new(
        mut launch: config::Launch,
        watchdog: Span,
        sockets: &[NamedSocket],
    ) -> Result<Self, config::Error> {
        let held = sockets.iter().zip(3..).map(|(socket, fd)| NumberedSocket {
            name: socket.name.clone(),
            fd,
            port: socket.port,
            address: socket.address.clone(),
        });
        let held: Vec<NumberedSocket> = held.collect();
        let passes_sockets = !launch.intercept_bind || !launch.dialects.is_empty() || names_fd(&launch);
        for (name, value) in &mut launch.environment {
            // The place leaves the value out, which may be a secret.
            *value = placeholder::expand(value, &held).map_err(|problem| problem.at(format!("-E {name}")))?;
        }
        for word in launch.commands.start.iter_mut().flat_map(|exec| &mut exec.words) {
            if let Some(text) = word.to_str() {
                *word =
                    placeholder::expand(text, &held).map_err(|problem| problem.at(printable(text)))?.into();
            }
        }
        // For sockets of a known kind the configuration has warned already.
        for socket in sockets.iter().filter(|socket| socket.was_of_unknown_kind()) {
            for dialect in &launch.dialects {
                if let Some(why) = dialect.refuses(socket.kind, &socket.address) {
                    let Problem { cause, remedy } = dialect::problem(*dialect, &socket.name, why);
                    log::warn!("{cause} ({remedy})");
                }
            }
        }
        let here = || logical_directory().or_else(|| env::current_dir().ok());
        let directory = match launch.directory.as_ref().map(|directory| &directory.path) {
            Some(DirectoryPath::Path(path)) if path.is_relative() => {
                here().map(|here| here.join(path)).or_else(|| Some(path.clone()))
            }
            Some(DirectoryPath::Path(path)) => Some(path.clone()),
            Some(DirectoryPath::Home) => None,
            None => logical_directory(),
        };
        Ok(Self { launch, directory, watchdog, passes_sockets, sockets: sockets.to_vec() })
    }

    /// A copy with other sockets; placeholders keep their values.
    pub fn on(&self, sockets: &[NamedSocket]) -> Self {
        Self {
            launch: self.launch.clone(),
            directory: self.directory.clone(),
            watchdog: self.watchdog,
            passes_sockets: self.passes_sockets,
            sockets: sockets.to_vec(),
        }
    }

    /// Whether its processes get the sockets as fds.
    pub fn passes_sockets(&self) -> bool {
        self.passes_sockets
    }

    /// NonBlocking=, which the caller applies to the sockets before a spawn.
    pub fn non_blocking(&self) -> bool {
        self.launch.non_blocking
    }

    /// Keeper=, unless what it starts ends with us.
    pub fn has_keeper(&self) -> bool {
        self.launch.keeper && !self.launch.die_with_us
    }

    /// InterceptBind=.
    pub fn intercepts(&self) -> bool {
        self.launch.intercept_bind
    }

    /// The sockets that its processes get.
    pub fn sockets(&self) -> &[NamedSocket] {
        &self.sockets
    }

    pub fn notify_access(&self) -> NotifyAccess {
        self.launch.notify_access
    }

    pub fn pid_file(&self) -> Option<&Path> {
        self.launch.pid_file.as_deref()
    }

    /// GuessMainPID=.
    pub fn guesses_main_pid(&self) -> bool {
        self.launch.guess_main_pid
    }

    /// Whether Type=forking.
    pub fn forks(&self) -> bool {
        self.launch.forks
    }

    /// The words of COMMAND, for messages.
    pub fn words(&self) -> Vec<String> {
        let words = self.launch.commands.start.first().map(|exec| &exec.words);
        words.into_iter().flatten().map(|word| word.to_string_lossy().into_owned()).collect()
    }

    /// What its processes are told of the sockets, for messages: `Protocol=nginx`, and variables.
    pub fn given(&self) -> Vec<String> {
        let dialects = self.launch.dialects.iter().map(|dialect| format!("Protocol={}", dialect.as_str()));
        let variables = self.launch.environment.iter().map(|(name, value)| format!("{name}={value}"));
        let stdin =
            matches!(self.launch.stdin, Input::Fd(_) | Input::Socket).then(|| "StandardInput=fd".to_owned());
        dialects.chain(variables).chain(stdin).collect()
    }

    pub fn fd_store_max(&self) -> u32 {
        self.launch.fd_store_max
    }

    /// Cleans up after a generation that has ended. `living` are the launchers of the generations that are left.
    pub fn is_gone<'a>(&self, mut living: impl Iterator<Item = &'a Self>) {
        if self.launch.directories.preserve != Preserve::No {
            return;
        }
        let mut names = self.launch.directories.runtime.names.clone();
        let mut pid_file = self.launch.pid_file.as_ref();
        // Unix paths that supervise holds do not belong to the generation.
        let mut kept: Vec<PathBuf> = self.sockets.iter().flat_map(|one| one.made_paths()).collect();
        for other in living.by_ref() {
            kept.extend(other.sockets.iter().flat_map(|one| one.made_paths()));
            names.retain(|name| !other.launch.directories.runtime.names.contains(name));
            pid_file = pid_file.filter(|path| other.launch.pid_file.as_ref() != Some(path));
        }
        directories::remove_runtime(&names, &kept);
        // As systemd does: a daemon may refuse to start while the PID file of its predecessor exists.
        if let Some(path) = pid_file
            && let Err(error) = fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            Warn::RemovePidFile(path).because(error);
        }
    }

    /// Cleans up when supervise ends: no generation will follow, so the paths of the sockets may be removed as well.
    pub fn we_end(&self) {
        if self.launch.directories.preserve != Preserve::Yes {
            directories::remove_runtime(&self.launch.directories.runtime.names, &[]);
        }
    }

    /// Resolves everything for one process; also makes its directories and opens its files.
    ///
    /// # Errors
    /// Something that is missing at this moment; the stage says what.
    pub fn plan(&self, request: &StartRequest<'_>) -> Result<Plan, StartFailure> {
        let Command { list, index } = request.command;
        let exec = self.launch.commands.list(list).get(index).ok_or_else(|| StartFailure {
            stage: Stage::Setup,
            errno: libc::EINVAL,
            what: format!("there is no command {index} of {}=", list.key()),
        })?;
        self.plan_of(exec, request)
    }

    fn plan_of(&self, exec: &Exec, request: &StartRequest<'_>) -> Result<Plan, StartFailure> {
        let identity = Identity::resolve(&self.launch)?;
        let directories = directories::make(&self.launch, &identity)?;
        let directory = self.directory(&identity)?;
        let mut files = Vec::new();
        let sockets: Vec<(String, Rc<OwnedFd>)> =
            self.sockets.iter().map(|socket| (socket.name.clone(), socket.of(request.slot))).collect();
        let stdio = stdio::streams(&self.launch, &sockets, &mut files)?;
        let is_main = request.command.list == CommandList::Start;
        let filter = if is_main && self.launch.intercept_bind { intercept::program().ok() } else { None };
        let (names, fds) = match is_main && !stdio::uses_socket(&self.launch) {
            true => {
                let is_passed = self.passes_sockets || filter.is_none();
                self.passed(if is_passed { &sockets } else { &[] }, request, &mut files)?
            }
            false => Default::default(),
        };
        let environment = self.environment(request, &identity, &directories, directory.as_deref(), &names)?;
        let lookup = |name: &str| match environment.get(OsStr::new(name)) {
            Some(Value::Text(value)) => Some(value.clone()),
            Some(Value::OwnPid) | None => None,
        };
        let words = command_line::expand(exec, &lookup);
        let identity = match exec.privileges {
            Privileges::User => identity,
            Privileges::Full => Identity::default(),
        };
        files.extend(sockets.into_iter().map(|(_, fd)| fd));
        let plan = Plan::new(&self.launch, exec, environment, identity);
        Ok(Plan { words, directory, stdio, files, fds, filter, ..plan })
    }

    /// The fds to pass in systemd's order: the sockets, the stored fds, OpenFile=.
    fn passed(
        &self,
        sockets: &[(String, Rc<OwnedFd>)],
        request: &StartRequest<'_>,
        files: &mut Vec<Rc<OwnedFd>>,
    ) -> Result<(Vec<String>, Vec<RawFd>), StartFailure> {
        let held = sockets.iter().map(|(name, fd)| (name.clone(), fd.as_raw_fd()));
        let mut passed: Vec<(String, RawFd)> = held.chain(request.stored.iter().cloned()).collect();
        for file in &self.launch.open_files {
            if let Some(opened) = stdio::open_file(file)? {
                passed.push((file.name.clone(), opened.as_raw_fd()));
                files.push(Rc::new(opened));
            }
        }
        Ok(passed.into_iter().unzip())
    }

    /// The variables of Protocol= for the sockets that are passed.
    fn told(&self, request: &StartRequest<'_>) -> Vec<(String, String)> {
        let sockets: Vec<Passed<'_>> = (3..)
            .zip(&self.sockets)
            .map(|(fd, socket)| Passed { fd, kind: socket.kind, address: &socket.address })
            .collect();
        let generation = request.generation.map_or(0, |(generation, _)| generation.0);
        let of = |dialect: &Dialect| dialect.variables(&sockets, generation, process::id());
        self.launch.dialects.iter().flat_map(of).collect()
    }

    fn environment(
        &self,
        request: &StartRequest<'_>,
        identity: &Identity,
        directories: &[(&'static str, OsString)],
        directory: Option<&Path>,
        names: &[String],
    ) -> Result<Environment, StartFailure> {
        let launch = &self.launch;
        let mut files = Vec::new();
        for file in &launch.environment_files {
            files.extend(environment_file::read(file)?);
        }
        let inherited: Vec<(OsString, OsString)> = match launch.inherit_environment {
            true => env::vars_os().collect(),
            false => {
                let language = env::var_os("LANG").map(|value| ("LANG".into(), value));
                [("PATH".into(), FIXED_PATH.into())].into_iter().chain(language).collect()
            }
        };
        let pass = |name| env::var_os(name).map(|value| (name, value));
        let passed: Vec<_> = launch.pass_environment.iter().filter_map(|name| pass(name.as_str())).collect();
        let told = if names.is_empty() { Vec::new() } else { self.told(request) };
        let search_path = Some(joined(&launch.search_path)).filter(|_| !launch.search_path.is_empty());
        let is_main = request.command.list == CommandList::Start;
        let additions = Additions {
            user: identity.user.as_ref(),
            directories,
            search_path: search_path.as_deref(),
            passed: &passed,
            environment: &launch.environment,
            files: &files,
            unset: &launch.unset_environment,
            names,
            dialects: &launch.dialects,
            told: &told,
            notify_socket: request
                .generation
                .filter(|_| launch.notify_access != NotifyAccess::None)
                .map(|(_, socket)| socket.as_ref()),
            fetch_socket: request.generation.map(|(_, socket)| socket.as_ref()),
            watchdog: if is_main { self.watchdog } else { Span::ZERO },
            facts: &facts(request, if is_main { launch.fd_store_max } else { 0 }),
            generation: request.generation.map(|(generation, _)| generation.0),
        };
        // The later one wins: PWD is the path by which the directory was entered.
        let directory = directory.into_iter().map(|path| ("PWD".into(), path.into()));
        Ok(build_environment(inherited.into_iter().chain(directory), additions))
    }

    fn directory(&self, identity: &Identity) -> Result<Option<PathBuf>, StartFailure> {
        let Some(wanted) = &self.launch.directory else { return Ok(self.directory.clone()) };
        let path = match wanted.path {
            DirectoryPath::Path(_) => self.directory.clone(),
            DirectoryPath::Home => Some(directories::home(identity).ok_or_else(|| StartFailure {
                stage: Stage::Directory,
                errno: libc::ENOENT,
                what: "WorkingDirectory=~: the user has no home directory (name a directory)".to_owned(),
            })?),
        };
        let is_missing = |path: &PathBuf| wanted.optional && !path.is_dir();
        Ok(path.map(|path| if is_missing(&path) { "/".into() } else { path }))
    }
}

/// Whether COMMAND or a variable has an `{fd:NAME}`.
fn names_fd(launch: &config::Launch) -> bool {
    let words = launch.commands.start.iter().flat_map(|exec| &exec.words).filter_map(|word| word.to_str());
    let values = launch.environment.iter().map(|(_, value)| value.as_str());
    words.chain(values).any(placeholder::names_fd)
}

/// The variables about this moment (MAINPID, SERVICE_RESULT and so on).
fn facts(request: &StartRequest<'_>, fd_store_max: u32) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if fd_store_max > 0 {
        facts.push(("FDSTORE", fd_store_max.to_string()));
    }
    if let Some(pid) = request.main_pid {
        facts.push(("MAINPID", pid.to_string()));
    }
    let Some(outcome) = request.outcome else { return facts };
    facts.push(("SERVICE_RESULT", outcome.result.to_string()));
    let (code, status) = match outcome.status {
        None | Some(Exit::Unknown) => return facts,
        Some(Exit::Code(code)) => ("exited", code.to_string()),
        Some(Exit::Signal { signal, core }) => {
            let name = signal.to_string();
            let name = name.strip_prefix("SIG").map_or_else(|| name.clone(), str::to_owned);
            (if core { "dumped" } else { "killed" }, name)
        }
    };
    facts.extend([("EXIT_CODE", code.to_owned()), ("EXIT_STATUS", status)]);
    facts
}

/// `$PWD` if it names our directory; entering it by this path before each start follows a link in it (`current ->
/// releases/42`) anew. `None` means to use our directory as it is.
fn logical_directory() -> Option<PathBuf> {
    let logical = PathBuf::from(env::var_os("PWD")?);
    let identity = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    (logical.is_absolute() && identity(&logical)? == identity(Path::new("."))?).then_some(logical)
}
