//! Finds instances of supervise: the directories of control sockets, and which processes answer there.
//!
//! The supervisor and the verbs share this file, so that one creates what the other finds. Only a directory that no
//! other user may write to counts: otherwise another user could put a socket there under our name.

pub mod others;

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::time::TimeVal;

use super::reap;
use crate::os::own;

/// The longest path that fits into sockaddr_un beside its final NUL (unix(7)).
pub(super) const SUN_PATH: usize = 107;
/// The longest name; leaves room for `/proc/self/fd/N/` before and `.sock` after it, see [`with_address`].
const NAME_BYTES: usize = 64;
/// The mode of a control socket: nobody else may connect. The sticky bit, which has no meaning for a socket,
/// distinguishes it from the sockets of servers in the same directory.
pub const CONTROL_MODE: u32 = 0o1600;
/// The most entries of one directory that are read.
const ENTRIES: usize = 4096;

/// The state of a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Holder {
    /// There is no file.
    Nobody,
    /// A socket on which no process listens.
    Stale,
    /// An instance answers. Its pid is `None` if it is unknown (the backlog is full, or it runs in another pid namespace).
    Lives(Option<i32>),
    /// A file that we must not replace; the sentence says why.
    Foreign(String),
}

/// An instance that answers.
#[derive(Debug)]
pub struct LivingInstance {
    pub name: String,
    pub path: PathBuf,
    /// The process that called listen(2) on its socket.
    pub pid: Option<i32>,
    /// The uid of another user; `None` for our own user, and for a path of `--control`.
    pub owner: Option<u32>,
}

impl LivingInstance {
    /// Whether it is stopped by a signal (SIGSTOP, SIGTSTP) and so cannot answer.
    pub fn is_stopped(&self) -> bool {
        self.pid.is_some_and(reap::is_stopped)
    }

    pub fn uid(&self) -> u32 {
        self.owner.unwrap_or_else(own::euid)
    }
}

/// The directories in which a verb looks for control sockets.
#[derive(Debug)]
pub struct Places {
    pub own: Vec<PathBuf>,
    pub others: Vec<others::Home>,
}

impl Places {
    /// All directories for a verb with a NAME; without one, and with SUPERVISE_RUNTIME_DIR set, that directory alone.
    pub fn find(has_name: bool) -> Self {
        let own = if has_name { everywhere() } else { directories() };
        let others = if has_name || !is_named() { others::homes() } else { Vec::new() };
        Self { own, others }
    }
}

/// Why a directory is not usable.
#[derive(Debug)]
pub struct Unusable {
    /// A sentence that names the directory.
    pub cause: String,
    /// The command that makes it usable, if there is one.
    pub remedy: Option<String>,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)?;
        self.remedy.iter().try_for_each(|remedy| write!(f, "; {remedy} repairs it"))
    }
}

/// The directories of instances, best first; they need not exist. Where SUPERVISE_RUNTIME_DIR is set it is the only
/// one, so that a verb without a name does not reach the instance of somebody else.
pub fn directories() -> Vec<PathBuf> {
    let mut found = everywhere();
    if is_named() {
        found.truncate(1);
    }
    found
}

/// All directories in which a named instance may be, best first.
pub fn everywhere() -> Vec<PathBuf> {
    candidates(|name| std::env::var_os(name), own::euid())
}

/// Whether the user has named the directory (SUPERVISE_RUNTIME_DIR).
pub fn is_named() -> bool {
    std::env::var_os("SUPERVISE_RUNTIME_DIR").is_some_and(|value| !value.is_empty())
}

fn candidates(variable: impl Fn(&str) -> Option<OsString>, uid: u32) -> Vec<PathBuf> {
    let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let explicit = set("SUPERVISE_RUNTIME_DIR").and_then(|dir| std::path::absolute(dir).ok());
    // `su` and `sudo` may leave the variable of another user, in whose directory our sockets must not be.
    let runtime = set("XDG_RUNTIME_DIR")
        .filter(|dir| dir.is_absolute() && fs::metadata(dir).is_ok_and(|found| found.uid() == uid))
        .map(|dir| dir.join("supervise"));
    let mut found: Vec<PathBuf> = Vec::new();
    let fixed = [
        PathBuf::from(format!("/run/user/{uid}/supervise")),
        PathBuf::from("/run/supervise"),
        PathBuf::from(format!("/tmp/supervise-{uid}")),
    ];
    for dir in explicit.into_iter().chain(runtime).chain(fixed) {
        if !found.contains(&dir) {
            found.push(dir);
        }
    }
    found
}

/// Opens `dir` if it is ours and nobody else may enter it; `create` makes it (but not its parent).
pub fn usable(dir: &Path, create: bool) -> Result<File, Unusable> {
    usable_by(dir, create, own::euid())
}

fn usable_by(dir: &Path, create: bool, uid: u32) -> Result<File, Unusable> {
    let place = dir.display();
    let unusable = |cause: String| Unusable { cause, remedy: None };
    let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
    let open = || OpenOptions::new().read(true).custom_flags(flags).open(dir);
    let opened = match open() {
        Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
            match DirBuilder::new().mode(0o700).create(dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(unusable(format!("{place}: cannot be created: {error}")));
                }
                Ok(()) | Err(_) => open(),
            }
        }
        opened => opened,
    };
    let handle = match opened {
        Ok(handle) => handle,
        // With these flags, the error of open(2) for a symbolic link would be misleading.
        Err(_) if dir.is_symlink() => return Err(unusable(format!("{place} is a symbolic link"))),
        Err(error) => return Err(unusable(format!("{place}: {error}"))),
    };
    let found = handle.metadata().map_err(|error| unusable(format!("{place}: {error}")))?;
    if found.uid() != uid {
        return Err(unusable(format!("{place} belongs to uid {}", found.uid())));
    }
    if found.mode() & 0o077 != 0 {
        let mode = found.mode() & 0o7777;
        let cause = format!("{place} is open to others by its mode {mode:04o}");
        return Err(Unusable { cause, remedy: Some(format!("chmod 0700 {place}")) });
    }
    Ok(handle)
}

/// Whether `text` can be both the stem of a file name and an argument of a verb.
pub fn is_name(name: &str) -> bool {
    let ends = !name.starts_with('.') && !name.starts_with('-');
    (1..=NAME_BYTES).contains(&name.len()) && ends && !name.contains(|c: char| c == '/' || c.is_control())
}

/// The valid name closest to `text` (the file name of a command), short enough for `-2` and the like.
pub fn name_from(text: &str) -> String {
    let mut name: String =
        text.chars().map(|c| if c == '/' || c.is_control() || c.is_whitespace() { '-' } else { c }).collect();
    name = name.trim_start_matches(['.', '-']).to_owned();
    while name.len() > NAME_BYTES - 8 {
        name.pop();
    }
    if name.is_empty() { "supervise".to_owned() } else { name }
}

pub fn socket_path(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.sock"))
}

/// The instances that answer in `dirs`, sorted by name within each; stale sockets are skipped.
pub fn living(dirs: &[PathBuf]) -> Vec<LivingInstance> {
    let mut found = Vec::new();
    for dir in dirs.iter().filter(|dir| usable(dir, false).is_ok()) {
        found.extend(names_in(dir).into_iter().filter_map(|name| answering(dir, name)));
    }
    found
}

/// The names of files that may be control sockets, sorted.
fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<String> = entries
        .take(ENTRIES)
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".sock").map(str::to_owned))
        .filter(|name| is_name(name))
        .collect();
    names.sort();
    names
}

/// The instance `name`, from the first of `dirs` in which it answers.
pub fn named<'a>(dirs: impl IntoIterator<Item = &'a PathBuf>, name: &str) -> Option<LivingInstance> {
    let mut ours = dirs.into_iter().filter(|dir| is_name(name) && usable(dir, false).is_ok());
    ours.find_map(|dir| answering(dir, name.to_owned()))
}

fn answering(dir: &Path, name: String) -> Option<LivingInstance> {
    let path = Some(socket_path(dir, &name)).filter(|path| is_name(&name) && is_control(path))?;
    match holder(&path) {
        Holder::Lives(pid) => Some(LivingInstance { name, path, pid, owner: None }),
        Holder::Nobody | Holder::Stale | Holder::Foreign(_) => None,
    }
}

/// Whether a socket is the control socket of a supervise and not that of a server.
fn is_control(path: &Path) -> bool {
    fs::symlink_metadata(path)
        .is_ok_and(|found| found.file_type().is_socket() && found.mode() & 0o7777 == CONTROL_MODE)
}

/// Finds out, without waiting, which process listens at `path`, by a connection that is closed at once.
pub fn holder(path: &Path) -> Holder {
    // connect(2) also fails with ECONNREFUSED for a file that is no socket.
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Holder::Nobody,
        Err(error) => return Holder::Foreign(error.to_string()),
        Ok(found) if !found.file_type().is_socket() => return Holder::Foreign("it is no socket".to_owned()),
        Ok(_) => {}
    }
    match connect(path, Duration::ZERO) {
        // 0: the process is in a pid namespace that we cannot see.
        Ok(stream) => Holder::Lives(peer(&stream).ok().map(|peer| peer.pid()).filter(|pid| *pid > 0)),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock => Holder::Lives(None),
            io::ErrorKind::ConnectionRefused => Holder::Stale,
            io::ErrorKind::NotFound => Holder::Nobody,
            _ => Holder::Foreign(error.to_string()),
        },
    }
}

/// The process at the other end (SO_PEERCRED, unix(7)): the one that connected, or the one that called listen(2).
pub fn peer(stream: &impl AsFd) -> nix::Result<socket::UnixCredentials> {
    socket::getsockopt(stream, sockopt::PeerCredentials)
}

/// Connects a blocking stream. While the backlog is full it waits for `patience` (zero: not at all) and then fails
/// with `WouldBlock`; a stopped supervisor accepts nothing.
pub fn connect(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let flags = if patience.is_zero() { SockFlag::SOCK_NONBLOCK } else { SockFlag::empty() };
    let fd = socket::socket(AddressFamily::Unix, SockType::Stream, flags | SockFlag::SOCK_CLOEXEC, None)?;
    if !patience.is_zero() {
        let limit = TimeVal::new(patience.as_secs().cast_signed(), patience.subsec_micros().into());
        socket::setsockopt(&fd, sockopt::SendTimeout, &limit)?;
    }
    with_address(path, |address| socket::connect(fd.as_raw_fd(), address))?;
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Calls `act` with an address for `path`. A path longer than sun_path is addressed by an fd of its directory.
pub fn with_address<T>(path: &Path, act: impl FnOnce(&UnixAddr) -> nix::Result<T>) -> io::Result<T> {
    if path.as_os_str().len() <= SUN_PATH {
        return Ok(act(&UnixAddr::new(path)?)?);
    }
    let (Some(dir), Some(file)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let dir = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_PATH).open(dir)?;
    let mut short = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    short.extend_from_slice(file.as_bytes());
    Ok(act(&UnixAddr::new(short.as_slice())?)?)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    fn private() -> tempfile::TempDir {
        tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap()
    }

    #[test]
    fn directories_come_in_the_documented_order() {
        let home = private();
        let xdg = home.path().to_owned();
        let env = |name: &str| match name {
            "SUPERVISE_RUNTIME_DIR" => Some(OsString::from("/a/b")),
            "XDG_RUNTIME_DIR" => Some(xdg.clone().into_os_string()),
            _ => None,
        };
        let uid = own::euid();
        let run_user = format!("/run/user/{uid}/supervise");
        let tmp = format!("/tmp/supervise-{uid}");
        let all =
            ["/a/b".into(), xdg.join("supervise"), run_user.into(), "/run/supervise".into(), tmp.into()];
        assert_eq!(candidates(env, uid), all);
        // The directory of another user, an empty and a relative value: as if they were not set.
        assert_eq!(candidates(env, uid + 1).len(), 4);
        assert_eq!(candidates(|_| Some(OsString::new()), uid), all[2..]);
        assert!(candidates(|_| Some("here".into()), uid)[0].is_absolute());
    }

    #[test]
    fn a_directory_must_be_ours_alone_and_no_link() {
        let home = private();
        let dir = home.path().join("dir");
        let cause = |dir: &Path, create| usable(dir, create).unwrap_err().cause;
        assert!(cause(&dir, false).contains("No such file"));
        usable(&dir, true).unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);

        for mode in [0o755, 0o710, 0o770, 0o702, 0o1777] {
            fs::set_permissions(&dir, Permissions::from_mode(mode)).unwrap();
            assert!(cause(&dir, true).contains("open to others"), "{mode:o}");
        }
        fs::set_permissions(&dir, Permissions::from_mode(0o700)).unwrap();

        let link = home.path().join("link");
        std::os::unix::fs::symlink(&dir, &link).unwrap();
        assert!(cause(&link, true).contains("symbolic link"));
        let file = home.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(cause(&file, true).contains("Not a directory"));
        assert!(cause(&home.path().join("no/parent"), true).contains("cannot be created"));
        // A system directory: as root it is open to others, else it is root's.
        assert!(usable(Path::new("/usr"), true).is_err());
    }

    #[test]
    fn names_are_file_stems_and_words() {
        for bad in ["", ".", "..", ".x", "-x", "a/b", "a\nb", &"x".repeat(65)] {
            assert!(!is_name(bad), "{bad:?}");
        }
        for (text, name) in
            [("node", "node"), ("..", "supervise"), ("a b\n", "a-b-"), ("-l", "l"), ("é", "é")]
        {
            assert_eq!(name_from(text), name);
        }
        assert!(is_name(&format!("{}-9999", name_from(&"é".repeat(200)))));
    }

    #[test]
    fn only_a_refusing_socket_is_stale() {
        let home = private();
        let at = |name: &str| home.path().join(name);
        assert_eq!(holder(&at("none")), Holder::Nobody);

        let listener = UnixListener::bind(at("live")).unwrap();
        assert_eq!(holder(&at("live")), Holder::Lives(Some(std::process::id().cast_signed())));
        drop(listener);
        assert_eq!(holder(&at("live")), Holder::Stale);

        fs::write(at("file"), "").unwrap();
        let _datagram = UnixDatagram::bind(at("datagram")).unwrap();
        std::os::unix::fs::symlink(at("live"), at("link")).unwrap();
        for other in ["file", "datagram", "link"] {
            assert!(matches!(holder(&at(other)), Holder::Foreign(_)), "{other}");
        }
    }

    #[test]
    fn a_full_backlog_is_alive_and_connect_gives_up() {
        let home = private();
        let path = home.path().join("x.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let mut held = Vec::new();
        while let Ok(stream) = connect(&path, Duration::ZERO) {
            held.push(stream);
            assert!(held.len() < 100_000, "the backlog never fills");
        }
        assert_eq!(holder(&path), Holder::Lives(None));
        let error = connect(&path, Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn the_living_are_found_and_the_rest_skipped() {
        let home = private();
        let dirs = [home.path().join("absent"), home.path().to_owned()];
        let _b = UnixListener::bind(home.path().join("b.sock")).unwrap();
        let _a = UnixListener::bind(home.path().join("a.sock")).unwrap();
        for name in ["a.sock", "b.sock"] {
            fs::set_permissions(home.path().join(name), Permissions::from_mode(CONTROL_MODE)).unwrap();
        }
        // Two sockets of servers: as bind(2) makes them, and as SocketMode=0600 does.
        let _server = UnixListener::bind(home.path().join("server.sock")).unwrap();
        let _private = UnixListener::bind(home.path().join("private.sock")).unwrap();
        fs::set_permissions(home.path().join("private.sock"), Permissions::from_mode(0o600)).unwrap();
        drop(UnixListener::bind(home.path().join("stale.sock")).unwrap());
        fs::write(home.path().join("file.sock"), "").unwrap();
        let names: Vec<String> = living(&dirs).into_iter().map(|found| found.name).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(named(&dirs, "b").unwrap().path, home.path().join("b.sock"));
        assert!(named(&dirs, "server").is_none() && named(&dirs, "private").is_none());
        assert!(named(&dirs, "stale").is_none() && named(&dirs, "../x").is_none());
    }
}
