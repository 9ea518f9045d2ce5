//! What is needed to start the processes of a generation. Paths, users and files are resolved at each start.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{CommandPolicy, Dialect, Exec, Lists, known};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    pub commands: Commands,
    pub user: Option<String>,
    pub group: Option<String>,
    pub supplementary_groups: Vec<String>,
    /// WorkingDirectory=; `None` means the directory that supervise was started in, by its logical path (`$PWD`).
    pub directory: Option<Directory>,
    /// Whether the child inherits our environment. With InheritEnvironment=no it gets PATH and LANG alone.
    pub inherit_environment: bool,
    /// PassEnvironment=: variables that the child inherits even without `inherit_environment`.
    pub pass_environment: Vec<String>,
    /// Environment=, in order; a later one of the same name wins.
    pub environment: Vec<(String, String)>,
    /// EnvironmentFile=, in order, applied after `environment`.
    pub environment_files: Vec<EnvironmentFile>,
    /// UnsetEnvironment=, applied last: `NAME`, or `NAME=VALUE` to unset it only where it has this value.
    pub unset_environment: Vec<String>,
    /// ExecSearchPath=: where programs without a slash are looked for; where it is empty, [`Exec::search`] says that.
    pub search_path: Vec<PathBuf>,
    pub umask: Option<u32>,
    pub stdin: Input,
    pub stdout: Output,
    pub stderr: Output,
    /// NonBlocking=: sets O_NONBLOCK on the passed sockets.
    pub non_blocking: bool,
    /// InterceptBind=: a bind(2) of ExecStart= to a held address gets the held socket.
    pub intercept_bind: bool,
    /// Keeper=: another process of ours goes on where supervise is killed.
    pub keeper: bool,
    /// DieWithUs=: what supervise starts is killed with it.
    pub die_with_us: bool,
    /// IgnoreSIGPIPE=
    pub ignore_sigpipe: bool,
    /// LimitNOFILE= and its kin.
    pub limits: Vec<Limit>,
    /// Nice=
    pub nice: Option<i32>,
    /// OOMScoreAdjust=
    pub oom_score_adjust: Option<i32>,
    pub directories: Directories,
    /// OpenFile=, in order; passed after the sockets and the stored fds.
    pub open_files: Vec<OpenFile>,
    /// PIDFile= as an absolute path.
    pub pid_file: Option<PathBuf>,
    /// GuessMainPID=: without a PIDFile=, Type=forking takes the only process that is left as the main process.
    pub guess_main_pid: bool,
    /// Type=forking
    pub forks: bool,
    /// Protocol=, in addition to LISTEN_FDS.
    pub dialects: Vec<Dialect>,
    pub notify_access: NotifyAccess,
    /// FileDescriptorStoreMax=; 0 stores nothing.
    pub fd_store_max: u32,
    /// The line of each directive that can fail only at a start, by its key: `User`, `web.service:7`.
    pub places: BTreeMap<Cow<'static, str>, String>,
}

impl Launch {
    /// Why two instances of its server cannot run at once; `None` where that is not known.
    pub fn runs_alone(&self) -> Option<String> {
        let words = self.commands.start.iter().flat_map(|exec| &exec.words);
        known::alone(&words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>())
    }

    /// The defaults of systemd.exec(5).
    pub(super) fn for_units() -> Self {
        Self {
            commands: Commands::default(),
            user: None,
            group: None,
            supplementary_groups: Vec::new(),
            directory: Some(Directory { path: DirectoryPath::Path("/".into()), optional: false }),
            inherit_environment: true,
            pass_environment: Vec::new(),
            environment: Vec::new(),
            environment_files: Vec::new(),
            unset_environment: Vec::new(),
            search_path: Vec::new(),
            umask: Some(0o022),
            stdin: Input::Null,
            stdout: Output::Ours,
            stderr: Output::Inherit,
            non_blocking: false,
            intercept_bind: false,
            keeper: false,
            die_with_us: false,
            ignore_sigpipe: true,
            limits: Vec::new(),
            nice: None,
            oom_score_adjust: None,
            directories: Directories::default(),
            open_files: Vec::new(),
            pid_file: None,
            guess_main_pid: true,
            forks: false,
            dialects: Vec::new(),
            notify_access: NotifyAccess::None,
            fd_store_max: 0,
            places: BTreeMap::new(),
        }
    }
}

/// The commands of a service. A command line has one, in `start`.
pub type Commands = Lists<Exec>;

impl Commands {
    /// The part of the commands that the core needs.
    pub fn policy(&self) -> CommandPolicy {
        let of = |list: &[Exec]| list.iter().map(|exec| exec.ignore_failure).collect();
        CommandPolicy {
            condition: of(&self.condition),
            start_pre: of(&self.start_pre),
            start: of(&self.start),
            start_post: of(&self.start_post),
            reload: of(&self.reload),
            stop: of(&self.stop),
            stop_post: of(&self.stop_post),
        }
    }
}

/// WorkingDirectory=
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    pub path: DirectoryPath,
    /// The prefix `-`: if the directory is missing, the root directory is used.
    pub optional: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirectoryPath {
    Path(PathBuf),
    /// `~`: the home directory of the user.
    Home,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentFile {
    /// The path; in unit files it may be a glob(7) pattern.
    pub path: PathBuf,
    /// The prefix `-`: a missing file is no error.
    pub optional: bool,
}

/// One resource limit (setrlimit(2)), soft and hard; `None` is `infinity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    pub resource: Resource,
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

/// The RLIMIT_ names of getrlimit(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resource {
    Cpu,
    Fsize,
    Data,
    Stack,
    Core,
    Rss,
    Nofile,
    As,
    Nproc,
    Memlock,
    Locks,
    Sigpending,
    Msgqueue,
    Nice,
    Rtprio,
    Rttime,
}

/// StandardInput=
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    Null,
    /// The standard input of supervise itself.
    Inherit,
    File(PathBuf),
    /// `socket`: the only held socket.
    Socket,
    /// `fd:NAME`: the held socket of this name.
    Fd(String),
    /// The bytes of StandardInputText= and StandardInputData=.
    Data(Vec<u8>),
}

/// StandardOutput= and StandardError=
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// The stdout or stderr of supervise: the default, and `journal`, `kmsg` and `tty`.
    Ours,
    /// `inherit`: a copy of the standard fd before it. Where that is ours or a /dev/null, it is ours.
    Inherit,
    Null,
    /// `file:`: opened at its start without truncation, as in systemd.
    File(PathBuf),
    Append(PathBuf),
    Truncate(PathBuf),
    Socket,
    Fd(String),
}

/// RuntimeDirectory= and similar directives (systemd.exec(5)): made before the start, owned by the user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directories {
    pub runtime: ManagedDirectory,
    pub state: ManagedDirectory,
    pub cache: ManagedDirectory,
    pub logs: ManagedDirectory,
    pub configuration: ManagedDirectory,
    /// RuntimeDirectoryPreserve=
    pub preserve: Preserve,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedDirectory {
    /// Relative paths without `..`.
    pub names: Vec<PathBuf>,
    pub mode: u32,
}

impl Default for ManagedDirectory {
    fn default() -> Self {
        Self { names: Vec::new(), mode: 0o755 }
    }
}

/// RuntimeDirectoryPreserve=: when runtime directories are removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Preserve {
    /// When the last generation ends.
    #[default]
    No,
    /// When supervise ends; they survive a restart of the server.
    Restart,
    Yes,
}

/// OpenFile=path[:name[:options]]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFile {
    pub path: PathBuf,
    /// Its name in LISTEN_FDNAMES.
    pub name: String,
    pub mode: OpenMode,
    /// `graceful`: a file that cannot be opened is left out.
    pub graceful: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpenMode {
    /// Read and write where both are permitted, else read-only.
    ReadWrite,
    ReadOnly,
    Append,
    Truncate,
}

/// NotifyAccess=: whose notifications are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NotifyAccess {
    None,
    /// The main process only.
    Main,
    /// The main process and the commands before and after it (ExecStartPre= ... ExecStopPost=).
    Exec,
    /// Every process of the generation.
    All,
}
