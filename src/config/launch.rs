//! What is needed to start the processes of a generation. Paths, users and files are looked up anew for each.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{CommandPolicy, Dialect, Exec, Lists, known};

#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    pub commands: Commands,
    pub user: Option<String>,
    pub group: Option<String>,
    pub supplementary_groups: Vec<String>,
    /// None: the directory we were started in, by its logical path.
    pub directory: Option<Directory>,
    /// The child gets our own environment first. InheritEnvironment=no: PATH and LANG alone.
    pub inherit_environment: bool,
    /// PassEnvironment=: names that are passed on also without `inherit_environment`.
    pub pass_environment: Vec<String>,
    /// Environment=, in order; later wins.
    pub environment: Vec<(String, String)>,
    /// EnvironmentFile=, in order, after `environment`.
    pub environment_files: Vec<EnvironmentFile>,
    /// UnsetEnvironment=, last: `NAME`, or `NAME=VALUE` to unset it only where it has this value.
    pub unset_environment: Vec<String>,
    /// ExecSearchPath=: where programs without a slash are looked for; empty: see [`Exec::path`].
    pub search_path: Vec<PathBuf>,
    pub umask: Option<u32>,
    pub stdin: Input,
    pub stdout: Output,
    pub stderr: Output,
    /// NonBlocking=: O_NONBLOCK on the sockets passed.
    pub non_blocking: bool,
    /// InterceptBind=: what ExecStart= binds for itself at a held address is answered with the held socket.
    pub intercept_bind: bool,
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
    /// GuessMainPID=: Type=forking without a PIDFile= takes the one process that is left as the main one.
    pub guess_main_pid: bool,
    /// Type=forking
    pub forks: bool,
    /// Protocol=: beside LISTEN_FDS, which is always there.
    pub dialects: Vec<Dialect>,
    pub notify_access: NotifyAccess,
    /// FileDescriptorStoreMax=; 0: nothing is stored.
    pub fd_store_max: u32,
    /// Where directives that can fail only later were written, by their key: `User`, `web.service:7`.
    pub places: BTreeMap<&'static str, String>,
}

impl Launch {
    /// Why two of its servers cannot run at once, where it is known that they cannot.
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

/// The commands of a service. Those of the command line: one in `start`.
pub type Commands = Lists<Exec>;

impl Commands {
    /// What the core needs to know of them.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    pub path: DirectoryPath,
    /// `-` before it: a missing one is no error; the root directory then.
    pub optional: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectoryPath {
    Path(PathBuf),
    /// `~`: the home directory of the user.
    Home,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentFile {
    /// In unit files it may be a glob(7) pattern.
    pub path: PathBuf,
    /// `-` before the path: a missing file is no error.
    pub optional: bool,
}

/// One resource limit; None is `infinity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub resource: Resource,
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

/// The RLIMIT_ names of getrlimit(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    Null,
    /// The standard input of supervise itself.
    Inherit,
    File(PathBuf),
    /// The only socket there is.
    Socket,
    /// `fd:NAME`: the socket of this name.
    Fd(String),
    /// The bytes of StandardInputText= and StandardInputData=.
    Data(Vec<u8>),
}

/// StandardOutput= and StandardError=
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Our own stdout or stderr: the default, `journal`, `kmsg` and `tty`.
    Ours,
    /// `inherit`: a copy of the fd before it; of our own, or of a stdin that is /dev/null, it is our own.
    Inherit,
    Null,
    /// Opened from its start, nothing cut off.
    File(PathBuf),
    Append(PathBuf),
    Truncate(PathBuf),
    Socket,
    Fd(String),
}

/// RuntimeDirectory= and its kin (systemd.exec(5)): made before the start, owned by the user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directories {
    pub runtime: ManagedDirectory,
    pub state: ManagedDirectory,
    pub cache: ManagedDirectory,
    pub logs: ManagedDirectory,
    pub configuration: ManagedDirectory,
    /// RuntimeDirectoryPreserve=
    pub preserve: Preserve,
}

#[derive(Clone, Debug, PartialEq, Eq)]
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

/// When runtime directories go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preserve {
    /// With the last generation.
    #[default]
    No,
    /// They are removed when supervise ends, and stay at a restart of the server.
    Restart,
    Yes,
}

/// OpenFile=path[:name[:options]]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenFile {
    pub path: PathBuf,
    /// LISTEN_FDNAMES
    pub name: String,
    pub mode: OpenMode,
    /// A file that cannot be opened is left out.
    pub graceful: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// For both where that is allowed, else for reading.
    ReadWrite,
    ReadOnly,
    Append,
    Truncate,
}

/// NotifyAccess=: whose datagrams count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotifyAccess {
    None,
    /// The main process may speak.
    Main,
    /// The main process and the commands round it.
    Exec,
    /// Every process of the generation.
    All,
}
