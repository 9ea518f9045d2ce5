//! Opens files for StandardInput=, StandardOutput=, StandardError= and OpenFile= before a process is started.
//!
//! We open them with our own rights, as systemd does. A child that waits in open(2) would block us.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::stat::{Mode, umask};

use crate::config::{Input, Launch, OpenFile, OpenMode, Output};
use crate::core::{Stage, StartFailure};
use crate::os::own;
use crate::os::spawn::Stream;

fn only(sockets: &[(String, Rc<OwnedFd>)]) -> Result<Stream, String> {
    match sockets {
        [(_, fd)] => Ok(Stream::Fd(fd.as_raw_fd())),
        sockets => Err(format!("needs exactly one socket, and there are {}", sockets.len())),
    }
}

fn named(sockets: &[(String, Rc<OwnedFd>)], wanted: &str) -> Result<Stream, String> {
    let found = sockets.iter().find(|(name, _)| name == wanted);
    found.map(|(_, fd)| Stream::Fd(fd.as_raw_fd())).ok_or_else(|| {
        let names: Vec<&str> = sockets.iter().map(|(name, _)| name.as_str()).collect();
        format!("no socket has this name (there are: {})", names.join(", "))
    })
}

/// Whether the only socket becomes stdin, stdout or stderr, in which case it is not passed as fd 3.
pub(super) fn uses_socket(launch: &Launch) -> bool {
    launch.stdin == Input::Socket || launch.stdout == Output::Socket || launch.stderr == Output::Socket
}

/// What becomes fd 0, 1 and 2. Files that were opened for them are added to `files`.
pub(super) fn streams(
    launch: &Launch,
    sockets: &[(String, Rc<OwnedFd>)],
    files: &mut Vec<Rc<OwnedFd>>,
) -> Result<[Stream; 3], StartFailure> {
    let mut keep = |opened: OwnedFd| {
        let stream = Stream::Fd(opened.as_raw_fd());
        files.push(Rc::new(opened));
        stream
    };
    let stdin = match &launch.stdin {
        Input::Null => Stream::Null,
        Input::Inherit => ours(),
        Input::File(path) => {
            let is_output = [&launch.stdout, &launch.stderr].contains(&&Output::File(path.clone()));
            let mut options = OpenOptions::new();
            options.read(true).write(is_output).create(is_output);
            let opened = open(path, &mut options, launch.umask);
            let what = format!("StandardInput=file:{}", path.display());
            keep(opened.map_err(|error| not_opened(Stage::Stdin, &what, &error))?)
        }
        Input::Socket => {
            only(sockets).map_err(|what| refused(Stage::Stdin, "StandardInput=socket", &what))?
        }
        Input::Fd(name) => named(sockets, name)
            .map_err(|what| refused(Stage::Stdin, &format!("StandardInput=fd:{name}"), &what))?,
        Input::Data(data) => {
            let stored = memory(data).map_err(|error| {
                refused(Stage::Stdin, "StandardInput=data", &format!("cannot store it: {error}"))
            })?;
            keep(stored)
        }
    };
    let stdout = match &launch.stdout {
        // `inherit` copies stdin, except where that is input data or /dev/null.
        Output::Inherit if matches!(launch.stdin, Input::Data(_)) || stdin == Stream::Null => ours(),
        Output::Inherit => stdin,
        output => one(output, &STDOUT, launch, sockets, stdin, &mut keep)?,
    };
    let stderr = match &launch.stderr {
        Output::Inherit => stdout,
        // One open file description for both, so that they do not overwrite each other.
        output if path_of(output).is_some() && *output == launch.stdout => stdout,
        output => one(output, &STDERR, launch, sockets, stdin, &mut keep)?,
    };
    Ok([stdin, stdout, stderr])
}

/// What is inherited from us. With --detach that is /dev/null from the beginning: a server keeps what it was started with,
/// and whoever waits for the end of an output (ssh) would wait for the server's.
fn ours() -> Stream {
    if own::is_detached() { Stream::Null } else { Stream::Ours }
}

/// The names of one of the two outputs.
struct Which {
    key: &'static str,
    stage: Stage,
}

const STDOUT: Which = Which { key: "StandardOutput", stage: Stage::Stdout };
const STDERR: Which = Which { key: "StandardError", stage: Stage::Stderr };

fn one(
    output: &Output,
    which: &Which,
    launch: &Launch,
    sockets: &[(String, Rc<OwnedFd>)],
    stdin: Stream,
    keep: &mut impl FnMut(OwnedFd) -> Stream,
) -> Result<Stream, StartFailure> {
    let key = which.key;
    let refuse = |value: &str, what: String| refused(which.stage, &format!("{key}={value}"), &what);
    let mut options = OpenOptions::new();
    options.write(true).create(true);
    let (word, path) = match output {
        Output::Ours | Output::Inherit => return Ok(ours()),
        Output::Null => return Ok(Stream::Null),
        Output::Socket => return only(sockets).map_err(|what| refuse("socket", what)),
        Output::Fd(name) => return named(sockets, name).map_err(|what| refuse(&format!("fd:{name}"), what)),
        Output::File(path) if launch.stdin == Input::File(path.clone()) => return Ok(stdin),
        Output::File(path) => ("file", path),
        Output::Append(path) => {
            options.append(true);
            ("append", path)
        }
        Output::Truncate(path) => {
            options.truncate(true);
            ("truncate", path)
        }
    };
    let what = format!("{key}={word}:{}", path.display());
    let opened = open(path, &mut options, launch.umask);
    Ok(keep(opened.map_err(|error| not_opened(which.stage, &what, &error))?))
}

fn path_of(output: &Output) -> Option<&Path> {
    match output {
        Output::File(path) | Output::Append(path) | Output::Truncate(path) => Some(path),
        Output::Ours | Output::Inherit | Output::Null | Output::Socket | Output::Fd(_) => None,
    }
}

/// Opens a file of OpenFile=. `None` where it cannot be opened and is `graceful`.
pub(super) fn open_file(file: &OpenFile) -> Result<Option<OwnedFd>, StartFailure> {
    let mut options = OpenOptions::new();
    options.read(true);
    match file.mode {
        OpenMode::ReadOnly => {}
        OpenMode::ReadWrite => drop(options.write(true)),
        OpenMode::Append => drop(options.append(true)),
        OpenMode::Truncate => drop(options.write(true).truncate(true)),
    }
    let mut opened = open(&file.path, &mut options, None);
    let is_read_only = |error: &io::Error| {
        matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS | libc::ETXTBSY))
    };
    if file.mode == OpenMode::ReadWrite && opened.as_ref().is_err_and(is_read_only) {
        opened = open(&file.path, options.write(false), None);
    }
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(_) if file.graceful => Ok(None),
        Err(error) => {
            let what = format!("OpenFile={}", file.path.display());
            Err(not_opened(Stage::OpenFile, &what, &error))
        }
    }
}

/// Opens a path without waiting: a FIFO without a reader is opened for both directions, and a socket is connected to.
fn open(path: &Path, options: &mut OpenOptions, mask: Option<u32>) -> io::Result<OwnedFd> {
    options.mode(0o666).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let ours = mask.map(|mask| umask(Mode::from_bits_truncate(mask)));
    let opened = options.open(path);
    ours.map(umask);
    let opened: OwnedFd = match opened {
        Ok(opened) => opened.into(),
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
            let kind = fs::metadata(path)?.file_type();
            match () {
                () if kind.is_fifo() => options.read(true).append(false).write(true).open(path)?.into(),
                () if kind.is_socket() => connect_to(path)?,
                () => return Err(error),
            }
        }
        Err(error) => return Err(error),
    };
    let flags = OFlag::from_bits_retain(fcntl(&opened, FcntlArg::F_GETFL)?);
    fcntl(&opened, FcntlArg::F_SETFL(flags.difference(OFlag::O_NONBLOCK)))?;
    Ok(opened)
}

/// Connects to a unix socket of any type.
fn connect_to(path: &Path) -> io::Result<OwnedFd> {
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let mut last = Errno::EPROTOTYPE;
    for kind in [SockType::Stream, SockType::Datagram, SockType::SeqPacket] {
        let fd = socket(AddressFamily::Unix, kind, flags, None)?;
        match connect(fd.as_raw_fd(), &address) {
            Ok(()) => return Ok(fd),
            Err(errno) => last = errno,
        }
        if last != Errno::EPROTOTYPE {
            break;
        }
    }
    Err(last.into())
}

/// A memfd with the bytes of StandardInputText= and StandardInputData=.
fn memory(data: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(c"stdin", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(data)?;
    file.rewind()?;
    Ok(file.into())
}

fn not_opened(stage: Stage, what: &str, error: &io::Error) -> StartFailure {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => " (create it, or the directory it is to be in)",
        io::ErrorKind::PermissionDenied => " (we may not: another owner or mode, or run as root)",
        _ => "",
    };
    let what = format!("{what}: cannot open it: {error}{remedy}");
    StartFailure { stage, errno: error.raw_os_error().unwrap_or(0), what }
}

fn refused(stage: Stage, what: &str, cause: &str) -> StartFailure {
    StartFailure { stage, errno: libc::EINVAL, what: format!("{what}: {cause}") }
}
