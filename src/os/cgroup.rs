//! A cgroup for each generation, where we may make some below our own (cgroups(7), version 2). The kernel then says which
//! generation a process belongs to, whatever the process does to its environment, session or parents. Where we may not
//! make any, os/children/kin.rs decides without this proof.
//!
//! A directory is made at a start and serves the next generation once it is empty again, so that a restart makes none.
//! Its processes begin in it (`os/spawn/clone.rs`): moving one there would take the kernel milliseconds.

mod saved;

use std::cell::OnceCell;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::sys::stat::fstat;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::proc;
use super::sys::attribute;
use crate::core::GenerationId;
use crate::os::own;
pub(super) use saved::SavedCgroups;

/// Where version 2 is mounted, alone or beside version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// Says whether a cgroup is empty.
const EVENTS: &str = "cgroup.events";
/// What it says of one that is.
const EMPTY: &[u8] = b"populated 0";
/// What our directories are called, before our pid and a number.
const PREFIX: &str = "supervise-";
/// Numbers tried where a directory is there already: another supervise has our pid in a pid namespace of its own.
const TRIES: u32 = 16;
/// The cgroup namespace of the whole machine (PROC_CGROUP_INIT_INO of the kernel), and the inode of the root of all cgroups.
const INITIAL_NAMESPACE: &str = "cgroup:[4026531835]";
const ROOT_INODE: u64 = 1;
/// How far down that which a server has made in its own is removed.
const DEPTH: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Cgroups {
    place: OnceCell<Option<OwnCgroup>>,
    directories: Vec<CgroupDirectory>,
    /// How many cgroups were made, which numbers the next one.
    made: u32,
    /// No directory could be made, or no process be started in one: none is tried any more.
    is_off: bool,
    has_swept: bool,
    /// The last generation that was over, as long as nobody has tidied up after it.
    untidied: Option<GenerationId>,
}

/// The cgroup that we are in.
#[derive(Debug)]
struct OwnCgroup {
    directory: PathBuf,
    /// What the paths of cgroups below it begin with in /proc.
    prefix: String,
}

#[derive(Debug)]
struct CgroupDirectory {
    path: PathBuf,
    /// The directory, in which processes are started.
    entry: Rc<OwnedFd>,
    /// Its cgroup.events; `None` until a process was started in it.
    events: Option<File>,
    /// What its name has after [`PREFIX`]: the pid of the supervise that made it, and a number.
    name: (u32, u32),
    /// The one whose processes start in it, or did last.
    generation: GenerationId,
    is_over: bool,
    /// No process has started in it yet.
    is_fresh: bool,
    /// No process may start in it any more. Its cgroup.kill was written to, and the kernel kills what is started in it later
    /// as well (seen with Linux 6.18); or the kernel has refused to start one in it.
    is_spoiled: bool,
}

impl Cgroups {
    /// The directory for a process of this generation to start in, if there is one.
    pub(super) fn open(&mut self, generation: GenerationId) -> Option<Rc<OwnedFd>> {
        if self.is_off {
            return None;
        }
        let is_known = self.current(generation).is_some();
        if !is_known && !self.reuse(generation) {
            self.make(generation)?;
        }
        let directory = &self.directories[self.current(generation)?];
        // A process that is frozen before its execve(2) would hold up supervise, which waits for that.
        let is_frozen = is_known && !directory.is_fresh && directory.says(&[b"frozen 1"]);
        (!is_frozen).then(|| Rc::clone(&directory.entry))
    }

    fn current(&self, generation: GenerationId) -> Option<usize> {
        self.directories.iter().position(|directory| directory.is_of(generation) && !directory.is_spoiled)
    }

    fn reuse(&mut self, generation: GenerationId) -> bool {
        let found = self.directories.iter_mut().find(|directory| directory.is_as_new());
        let Some(directory) = found else { return false };
        (directory.generation, directory.is_over) = (generation, false);
        true
    }

    fn make(&mut self, generation: GenerationId) -> Option<()> {
        let Some(place) = self.place.get_or_init(OwnCgroup::find) else {
            self.is_off = true;
            return None;
        };
        for _ in 0..TRIES {
            self.made = self.made.wrapping_add(1);
            let path = place.directory.join(format!("{PREFIX}{}-{}", own::pid(), self.made));
            match CgroupDirectory::make(path.clone(), (own::pid(), self.made), generation) {
                Ok(directory) => {
                    self.directories.push(directory);
                    return Some(());
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    log::debug!("cannot make the cgroup {}: {error}", path.display());
                    break;
                }
            }
        }
        self.is_off = true;
        None
    }

    /// A process of this generation was to start in its directory, and did or was refused. A server may have removed the
    /// directory, or given controllers to cgroups below it, where the kernel allows no process in it; where a fresh one is
    /// refused, each would be.
    pub(super) fn started(&mut self, generation: GenerationId, in_cgroup: bool) {
        let Some(index) = self.current(generation) else { return };
        let directory = &mut self.directories[index];
        self.is_off |= !in_cgroup && directory.is_fresh;
        directory.is_spoiled |= !in_cgroup;
        directory.is_fresh = false;
        if directory.events.is_none() {
            let events = File::open(directory.path.join(EVENTS));
            let path = directory.path.display();
            directory.events = events
                .inspect_err(|error| log::debug!("cannot see whether the cgroup {path} is empty: {error}"))
                .ok();
            // Nor could one see whether it is frozen.
            directory.is_spoiled |= directory.events.is_none();
        }
    }

    /// The generation of a process, also of one that has ended and is not reaped. `None` if it is
    /// in no cgroup of ours.
    pub(super) fn owner(&self, pid: i32) -> Option<GenerationId> {
        let place = self.place.get()?.as_ref().filter(|_| !self.directories.is_empty())?;
        let text = proc::text(format!("/proc/{pid}/cgroup")).ok()?;
        let name = name_in(path_in(&text)?.strip_prefix(&*place.prefix)?)?;
        let found = self.directories.iter().find(|directory| directory.name == name);
        found.map(|directory| directory.generation)
    }

    /// A process of it was killed by SIGKILL, maybe because somebody wrote to its cgroup.kill: none starts there any more.
    pub(super) fn may_be_killed(&mut self, generation: GenerationId) {
        for directory in self.directories.iter_mut().filter(|directory| directory.is_of(generation)) {
            directory.is_spoiled = true;
        }
    }

    /// Sends SIGKILL to all in it at once, also to those that are forked meanwhile (Linux 5.14; before that, each is
    /// signalled for itself).
    pub(super) fn kill(&mut self, generation: GenerationId) {
        for directory in self.directories.iter_mut().filter(|directory| directory.is_of(generation)) {
            if directory.says(&[EMPTY]) {
                continue;
            }
            let file = OpenOptions::new().write(true).open(directory.path.join("cgroup.kill"));
            match file.and_then(|mut file| file.write_all(b"1")) {
                Ok(()) => directory.is_spoiled = true,
                Err(error) => {
                    log::debug!("cannot write to cgroup.kill of {}: {error}", directory.path.display())
                }
            }
        }
    }

    /// Its directory may be another one's.
    pub(super) fn over(&mut self, generation: GenerationId) {
        for directory in self.directories.iter_mut().filter(|directory| directory.is_of(generation)) {
            directory.is_over = true;
        }
        self.untidied = Some(generation);
    }

    /// Of the directories whose generations are over only one is kept; where somebody is left in one, it stays.
    pub(super) fn tidy(&mut self) {
        let Some(generation) = self.untidied.take() else { return };
        self.directories.retain(|directory| {
            let is_kept = !directory.is_over || (directory.generation == generation && !directory.is_spoiled);
            is_kept || !removed(&directory.path, DEPTH)
        });
    }

    /// Once, and when a server has been started, so that it need not wait for this: removes what a supervise that was killed
    /// has left here.
    pub(super) fn sweep(&mut self) {
        let Some(place) = self.place.get().and_then(Option::as_ref).filter(|_| !self.has_swept) else {
            return;
        };
        self.has_swept = true;
        let Ok(entries) = fs::read_dir(&place.directory) else { return };
        for entry in entries.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(pid_in) else { continue };
            let is_ours = || self.directories.iter().any(|directory| directory.path == entry.path());
            let is_dead = pid == own::pid() || !Path::new(&format!("/proc/{pid}")).exists();
            if is_dead && !is_ours() && removed(&entry.path(), DEPTH) {
                log::debug!(
                    "removed the cgroup {}, which an earlier supervise left behind",
                    entry.path().display()
                );
            }
        }
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for directory in &self.directories {
            removed(&directory.path, DEPTH);
        }
    }
}

impl CgroupDirectory {
    fn make(path: PathBuf, name: (u32, u32), generation: GenerationId) -> io::Result<Self> {
        // Not by our umask: with 000 everybody could make cgroups in it.
        DirBuilder::new().mode(0o755).create(&path)?;
        let entry = entry(&path).inspect_err(|_| {
            removed(&path, 0);
        })?;
        let (is_over, is_fresh, is_spoiled) = (false, true, false);
        Ok(Self { path, entry, events: None, name, generation, is_over, is_fresh, is_spoiled })
    }

    /// Whether its cgroup.events has all these lines. Where it cannot be read it has none.
    fn says(&self, lines: &[&[u8]]) -> bool {
        self.events.as_ref().is_some_and(|events| says(events, lines))
    }

    fn is_of(&self, generation: GenerationId) -> bool {
        self.generation == generation && !self.is_over
    }

    /// No generation needs it, no process is in it, and no other cgroup was made in it.
    fn is_as_new(&self) -> bool {
        self.is_over
            && !self.is_spoiled
            && self.says(&[EMPTY, b"frozen 0"])
            && fstat(&*self.entry).is_ok_and(|directory| directory.st_nlink == 2)
    }
}

/// The directory, opened so that processes can be started in it.
fn entry(path: &Path) -> io::Result<Rc<OwnedFd>> {
    let entry = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(path)?;
    Ok(Rc::new(entry.into()))
}

impl OwnCgroup {
    fn find() -> Option<Self> {
        let text = proc::text("/proc/self/cgroup").ok()?;
        let path = path_in(&text)?;
        let is_version_2 =
            |mount: &&&str| statfs(**mount).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC);
        let mount = MOUNTS.iter().find(is_version_2)?;
        let directory = Path::new(mount).join(path.trim_start_matches('/'));
        if !is_ours_to_write(&directory) {
            log::debug!(
                "generations get no cgroups, because systemd has not delegated {} (Delegate=yes)",
                directory.display()
            );
            return None;
        }
        is_the_one_we_are_in(mount, &directory).then_some(())?;
        let prefix = format!("{}/{PREFIX}", path.trim_end_matches('/'));
        Some(Self { directory, prefix })
    }
}

/// In a cgroup namespace the mount may be that of another one, and its directory of this path not ours. Only there the
/// processes are looked through: of the root there may be hundreds, some 0.1 ms.
fn is_the_one_we_are_in(mount: &str, directory: &Path) -> bool {
    let is_initial =
        fs::read_link("/proc/self/ns/cgroup").is_ok_and(|name| name == Path::new(INITIAL_NAMESPACE));
    let is_whole = fs::metadata(mount).is_ok_and(|root| root.ino() == ROOT_INODE);
    if is_initial || is_whole {
        return is_initial && is_whole;
    }
    let own = own::pid().to_string();
    proc::text(directory.join("cgroup.procs")).is_ok_and(|members| members.lines().any(|pid| pid == own))
}

/// Where systemd is the manager, a cgroup has one writer: systemd, or whom it has delegated it to ("Control Group APIs and
/// Delegation" among its documents; sd_booted(3)).
fn is_ours_to_write(directory: &Path) -> bool {
    let is_delegated = |name| attribute::has(directory, name, b"1");
    !Path::new("/run/systemd/system").exists()
        || is_delegated(c"user.delegate")
        || is_delegated(c"trusted.delegate")
}

/// The path of version 2 in /proc/PID/cgroup (cgroups(7)). None where it is outside our cgroup namespace.
fn path_in(text: &str) -> Option<&str> {
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    (path.starts_with('/') && path != "/.." && !path.starts_with("/../")).then_some(path)
}

/// The pid and the number of the directory, of what follows [`PREFIX`] in a path: of it, or of one below it.
fn name_in(rest: &str) -> Option<(u32, u32)> {
    let (of, number) = rest.split(['/', ' ']).next()?.split_once('-')?;
    Some((of.parse().ok()?, number.parse().ok()?))
}

/// The pid of the supervise that made a directory of this name.
fn pid_in(name: &str) -> Option<u32> {
    let (pid, number) = name.strip_prefix(PREFIX)?.split_once('-')?;
    number.parse::<u32>().ok()?;
    pid.parse().ok()
}

/// Whether cgroup.events has all these lines; it has "populated 0" and "frozen 0", or 1.
fn says(events: &File, lines: &[&[u8]]) -> bool {
    let mut text = [0u8; 128];
    let length = events.read_at(&mut text, 0).unwrap_or(0);
    let text = &text[..length];
    lines.iter().all(|line| text.split(|byte| *byte == b'\n').any(|one| one == *line))
}

/// Removes the directory with all cgroups that a server has made in it and left. Returns `false` if a process is still in
/// one of them, because the kernel keeps the directory then.
fn removed(directory: &Path, depth: usize) -> bool {
    match fs::remove_dir(directory) {
        Ok(()) => return true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return true,
        Err(_)
            if depth == 0
                || !File::open(directory.join(EVENTS)).is_ok_and(|events| says(&events, &[EMPTY])) =>
        {
            return false;
        }
        Err(_) => {}
    }
    let Ok(entries) = fs::read_dir(directory) else { return false };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        removed(&entry.path(), depth - 1);
    }
    fs::remove_dir(directory).is_ok()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::fd::AsFd;

    use super::*;
    use crate::config::{Config, Exec, Signal};
    use crate::core::Exit;
    use crate::os::spawn::{Child, Plan, Value, spawn};
    use crate::os::sys::tests::{alone, eventually};
    use crate::os::users::Identity;
    use crate::os::{reap, sys};

    #[test]
    fn the_path_of_version_2_is_found_and_one_outside_is_not_ours() {
        let hybrid = "8:pids:/\n4:memory:/a\n0::/\n";
        assert_eq!(path_in(hybrid), Some("/"));
        assert_eq!(path_in("0::/a b/c\n"), Some("/a b/c"));
        for none in ["", "8:pids:/\n", "0::/..\n", "0::/../x\n", "0::\n", "0::x\n", "10::/\n"] {
            assert_eq!(path_in(none), None, "{none:?}");
        }
        assert_eq!(path_in("0::/..x\n"), Some("/..x"));
    }

    fn start(directory: Option<Rc<OwnedFd>>) -> Child {
        let launch = Config::for_command_line().launch;
        let exec = Exec::plain(vec!["sleep".into(), "60".into()]);
        let path = (OsString::from("PATH"), Value::Text(std::env::var_os("PATH").unwrap_or_default()));
        let mut plan = Plan::new(&launch, &exec, [path].into(), Identity::default());
        plan.cgroup = directory;
        spawn(&plan).expect("starts")
    }

    fn end(child: &Child) {
        // The child may have been killed already.
        let _gone = sys::pidfd_send_signal(child.pidfd.as_fd(), Some(Signal::KILL));
        let exit = sys::wait_for(&child.pidfd).expect("ours").exit;
        assert_eq!(exit, Exit::Signal { signal: Signal::KILL, core: false });
    }

    #[test]
    fn whoever_starts_in_a_directory_is_known_and_killed_by_it() {
        alone("os::cgroup::tests::whoever_starts_in_a_directory_is_known_and_killed_by_it", || {
            let mut cgroups = Cgroups::default();
            let mut paths = Vec::new();
            for generation in [1, 2, 3].map(GenerationId) {
                let first = start(cgroups.open(generation));
                assert_eq!(cgroups.owner(first.pid), first.in_cgroup.then_some(generation));
                let used = cgroups.current(generation).map(|index| cgroups.directories[index].path.clone());
                cgroups.kill(generation);
                if first.in_cgroup {
                    eventually("it is killed", || (!reap::runs(first.pid)).then_some(()));
                    assert_eq!(cgroups.owner(first.pid), Some(generation), "also before it is reaped");
                }
                end(&first);
                let second = start(cgroups.open(generation));
                assert_eq!(
                    second.in_cgroup, first.in_cgroup,
                    "where none may be made, it starts all the same"
                );
                assert!(
                    reap::runs(second.pid),
                    "the kernel kills what is started in a directory that was killed"
                );
                end(&second);
                cgroups.over(generation);
                cgroups.tidy();
                paths.extend(used);
            }
            assert_eq!(cgroups.owner(reap::our_pid()), None, "we are in none of them");
            assert_eq!(cgroups.is_off, paths.is_empty());
            what_a_server_may_do_to_its_directory(&mut cgroups);
            assert!(cgroups.directories.len() <= 1, "one is kept");
            drop(cgroups);
            assert!(paths.iter().all(|path| !path.exists()), "{paths:?}");
        });
    }

    /// One start, of which the cgroups are told. Whether it was in one.
    fn start_and_end(cgroups: &mut Cgroups, generation: GenerationId) -> bool {
        let directory = cgroups.open(generation);
        let is_some = directory.is_some();
        let child = start(directory);
        if is_some {
            cgroups.started(generation, child.in_cgroup);
        }
        end(&child);
        child.in_cgroup
    }

    fn what_a_server_may_do_to_its_directory(cgroups: &mut Cgroups) {
        let generation = GenerationId(9);
        if !start_and_end(cgroups, generation) {
            return;
        }
        let path = |cgroups: &Cgroups| {
            cgroups.directories[cgroups.current(generation).expect("in use")].path.clone()
        };
        let (freeze, directory) = (path(cgroups).join("cgroup.freeze"), path(cgroups));
        fs::write(&freeze, "1").expect("ours");
        eventually("it is frozen", || cgroups.open(generation).is_none().then_some(()));
        assert!(!start_and_end(cgroups, generation), "it would wait there for ever");
        fs::write(&freeze, "0").expect("ours");
        eventually("it is thawed", || cgroups.open(generation).is_some().then_some(()));
        assert!(start_and_end(cgroups, generation));
        eventually("nobody is in it", || fs::remove_dir(&directory).ok());
        assert!(!start_and_end(cgroups, generation), "it is gone");
        assert!(start_and_end(cgroups, generation), "another is made");
        assert_ne!(path(cgroups), directory);
        cgroups.over(generation);
        cgroups.tidy();
    }

    #[test]
    fn a_directory_is_known_by_its_whole_name() {
        for (rest, name) in [
            ("7-1", Some((7, 1))),
            ("7-12", Some((7, 12))),
            ("7-1/supervise-7-2/x", Some((7, 1))),
            ("7-1 (deleted)", Some((7, 1))),
            ("7-1/x (deleted)", Some((7, 1))),
            ("17-1", Some((17, 1))),
            ("7", None),
            ("7-", None),
            ("7-1x", None),
            ("", None),
        ] {
            assert_eq!(name_in(rest), name, "{rest:?}");
        }
        assert_eq!(pid_in("supervise-12-3"), Some(12));
        for none in ["supervise-12", "supervise-x-1", "supervise-1-x", "x", "cgroup.procs", "supervise-1-1-1"]
        {
            assert_eq!(pid_in(none), None, "{none}");
        }
    }
}
