//! What stopped a start, as a sentence: cause, place and remedy.

#![forbid(unsafe_code)]

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::limits::more_open_files;
use super::plan::{Plan, candidates};
use super::report::{ChildStep, StepReport};
use crate::core::{Stage, StartFailure};

/// The failure of a start for which supervise itself is short of something.
pub(super) fn resources(doing: &str, error: &std::io::Error) -> StartFailure {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    let remedy = match errno {
        libc::EAGAIN => " (the limit of processes is reached: ulimit -u, pids.max)".to_owned(),
        libc::EMFILE => format!(" ({})", more_open_files()),
        libc::ENFILE => " (the machine has no open files left: fs.file-max)".to_owned(),
        libc::ENOMEM => " (out of memory)".to_owned(),
        _ => String::new(),
    };
    StartFailure { stage: Stage::Resources, errno, what: format!("cannot {doing}: {}{remedy}", text(errno)) }
}

/// The sentence for a wish that was let go.
pub(super) fn shortfall(plan: &Plan, report: StepReport) -> String {
    let cause = text(report.errno);
    match report.step {
        ChildStep::Limit => format!(
            "cannot set {}: {cause}; our own hard limit applies (raise it before supervise starts)",
            limit_name(plan, report.detail)
        ),
        step => format!("cannot set {}: {cause}; the server runs without it", wish(plan, step)),
    }
}

/// The sentence for what stopped the start.
pub(super) fn describe(plan: &Plan, report: StepReport) -> StartFailure {
    let (errno, cause) = (report.errno, text(report.errno));
    let (stage, what) = match report.step {
        ChildStep::ProcessGroup => (Stage::Setup, format!("cannot make a process group: {cause}")),
        ChildStep::Descriptors => {
            let remedy = match report.errno {
                libc::EMFILE => format!(" ({})", more_open_files()),
                _ => String::new(),
            };
            (Stage::Setup, format!("cannot pass {} sockets: {cause}{remedy}", plan.fds.len()))
        }
        ChildStep::Stdin => (Stage::Stdin, format!("cannot set up stdin: {cause}")),
        ChildStep::Stdout => (Stage::Stdout, format!("cannot set up stdout: {cause}")),
        ChildStep::Stderr => (Stage::Stderr, format!("cannot set up stderr: {cause}")),
        ChildStep::Signals => (Stage::Setup, format!("cannot reset signals: {cause}")),
        ChildStep::Filter => (Stage::Setup, format!("cannot install a seccomp filter: {cause}")),
        ChildStep::Limit => {
            (Stage::Setup, format!("cannot set {}: {cause}", limit_name(plan, report.detail)))
        }
        step @ (ChildStep::OomScore | ChildStep::Nice) => {
            (Stage::Setup, format!("cannot set {}: {cause}", wish(plan, step)))
        }
        step @ (ChildStep::Groups | ChildStep::Gid | ChildStep::Uid) => credentials(plan, step, errno),
        ChildStep::Directory => (Stage::Directory, directory(plan, errno)),
        ChildStep::Exec => {
            let place = plan.place.iter().map(|place| format!("{place}: ")).collect::<String>();
            (Stage::Exec, place + &exec(plan, errno))
        }
    };
    StartFailure { stage, errno, what }
}

/// `No such file or directory [ENOENT]`: the words for a person, the name for a search.
fn text(errno: i32) -> String {
    let errno = Errno::from_raw(errno);
    format!("{} [{errno:?}]", errno.desc())
}

fn wish(plan: &Plan, step: ChildStep) -> String {
    match step {
        ChildStep::Nice => format!("Nice={}", plan.nice.unwrap_or_default()),
        _ => format!("OOMScoreAdjust={}", plan.oom_score_adjust.unwrap_or_default()),
    }
}

fn limit_name(plan: &Plan, index: u32) -> String {
    let limit = plan.limits.get(index as usize);
    limit.map_or_else(
        || "a limit".to_owned(),
        |limit| format!("Limit{}=", format!("{:?}", limit.resource).to_uppercase()),
    )
}

fn credentials(plan: &Plan, step: ChildStep, errno: i32) -> (Stage, String) {
    let (mut stage, mut whom) = match (step, plan.identity.gid) {
        (ChildStep::Gid, Some(gid)) => (Stage::Group, format!("group {gid}")),
        _ => (Stage::Group, "the supplementary groups".to_owned()),
    };
    let mut without = "-g";
    if let Some(user) = &plan.identity.user {
        (stage, whom, without) = (Stage::User, format!("user {}", user.name), "-u");
    }
    let remedy = match errno {
        libc::EPERM => format!(" (only root may; run as root or without {without})"),
        libc::EINVAL => " (this number does not exist in our user namespace)".to_owned(),
        _ => String::new(),
    };
    (stage, format!("cannot change to {whom}: {}{remedy}", text(errno)))
}

fn directory(plan: &Plan, errno: i32) -> String {
    let path = plan.directory.as_deref().unwrap_or_else(|| Path::new("."));
    let user = plan.identity.user.as_ref().map(|user| format!(" as user {}", user.name)).unwrap_or_default();
    format!("cannot enter {}{user}: {}", path.display(), text(errno))
}

fn exec(plan: &Plan, errno: i32) -> String {
    let command = plan.path.to_string_lossy();
    let refused = format!("cannot execute {command}: {}", text(errno));
    let path = plan.search_path();
    match errno {
        libc::ENOENT => match existing(plan) {
            Some((path, _)) => missing_loader(&path),
            None if command.contains(' ') => {
                format!("{refused} (the quotes make one word of it; without them: -- {command})")
            }
            None if command.contains('/') => {
                let place = plan.directory.as_ref().filter(|_| !command.starts_with('/'));
                refused + &place.map(|place| format!(" (in {})", place.display())).unwrap_or_default()
            }
            None => {
                let whose = if plan.search.is_none() { "PATH, " } else { "" };
                format!("{refused} (it is nowhere in {whose}{})", path.to_string_lossy())
            }
        },
        libc::EACCES => match existing(plan) {
            Some((_, file)) if file.is_dir() => format!("{refused} (it is a directory)"),
            Some((path, file)) if file.mode() & 0o111 == 0 => {
                format!("{refused} (chmod +x {})", path.display())
            }
            _ => format!("{refused} (the file, a directory above it or its mount does not let us)"),
        },
        libc::ENOEXEC => {
            format!("{refused} (incomplete, or made for another machine, or a script without a #! line)")
        }
        libc::ETXTBSY => format!("{refused} (somebody is still writing it)"),
        libc::EAGAIN => format!("{refused} (the user's limit of processes is reached: LimitNPROC=)"),
        libc::E2BIG => format!("{refused} (its words and environment are too large together)"),
        _ => refused,
    }
}

/// The sentence for a program that no start could execute now, because it is not there or is not executable. `None` also
/// where that cannot be seen, for instance in a directory that we may not search.
pub fn missing_program(plan: &Plan) -> Option<String> {
    let base = plan.directory.as_deref().unwrap_or_else(|| Path::new("."));
    let mut errno = libc::ENOENT;
    for path in candidates(plan) {
        match fs::metadata(base.join(path)) {
            Ok(file) if file.is_dir() || file.mode() & 0o111 == 0 => errno = libc::EACCES,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {}
            Ok(_) | Err(_) => return None,
        }
    }
    Some(describe(plan, StepReport { step: ChildStep::Exec, errno, detail: 0 }).what)
}

/// The first candidate that is there. Looked up after the fact, so it may have changed: good enough for a hint.
fn existing(plan: &Plan) -> Option<(PathBuf, Metadata)> {
    let base = plan.directory.as_deref().unwrap_or_else(|| Path::new("."));
    candidates(plan).into_iter().map(|path| base.join(path)).find_map(|path| {
        let metadata = fs::metadata(&path).ok()?;
        Some((path, metadata))
    })
}

/// ENOENT although the file is there: what it needs to be run is not.
fn missing_loader(path: &Path) -> String {
    let shown = path.display();
    let head = first_bytes(path).unwrap_or_default();
    let Some(line) = head.strip_prefix(b"#!") else {
        return format!(
            "cannot execute {shown}: it is there, but the program loader it names is not (built for another C library?)"
        );
    };
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let interpreter = line.split_whitespace().next().unwrap_or_default();
    let remedy =
        if line.ends_with('\r') { "its lines end in CR LF: save it with LF" } else { "correct its #! line" };
    format!("cannot execute {shown}: its interpreter {interpreter} does not exist ({remedy})")
}

/// Enough for a #! line (the kernel reads 256 bytes, too); never blocks on a FIFO.
fn first_bytes(path: &Path) -> Option<Vec<u8>> {
    let file: File = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
    let mut head = Vec::new();
    file.take(256).read_to_end(&mut head).ok()?;
    Some(head)
}
