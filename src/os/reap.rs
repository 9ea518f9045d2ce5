//! Children: how they end, signals to them and their process groups, and the processes that they leave behind.
//!
//! A process that a server forks and abandons becomes our child (we are a subreaper or pid 1), so none escapes: it is
//! found in /proc, attributed to a generation (children/kin.rs), signalled, and reaped.

mod foreign;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::proc;
use super::sys::{self, Waited};
use super::unit_files::read_regular;
use super::warning::Warn;
use super::within::within_a_second;
use crate::config::Signal;
use crate::os::own;
pub use foreign::{adopted, adopter, exit_of, generation_and_notify_of, group_runs, is_child};

/// The most descendants in one walk, which is above the default pids.max and kernel.pid_max of 32768.
const DESCENDANTS: usize = 1 << 16;
/// The most ancestors that are followed.
const ANCESTORS: usize = 256;
/// How often a sweep looks again for children that were forked meanwhile.
const ROUNDS: usize = 8;

/// Makes orphans our children (PR_SET_CHILD_SUBREAPER, prctl(2)). To be called before the first child;
/// `Signals::open` keeps the kernel from reaping them by itself.
pub fn prepare() -> io::Result<()> {
    if own::pid() != 1 {
        nix::sys::prctl::set_child_subreaper(true)?;
    }
    Ok(())
}

/// The answer of [`next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaped {
    /// This child has ended and is reaped, so its pid must not be signalled any more.
    Ended(Waited),
    /// There are children, but none has ended.
    NoneYet,
    NoChildren,
}

/// Reaps one child of any kind without waiting, after the caller has looked at what is left of it. As SIGCHLD merges, it is
/// called until there is none.
pub fn next(look: impl FnOnce(i32)) -> io::Result<Reaped> {
    let ended = match sys::ended_child() {
        Ok(Some(pid)) => {
            look(pid);
            sys::wait_any()
        }
        nobody => nobody.map(|_| None),
    };
    match ended {
        Ok(Some(waited)) => Ok(Reaped::Ended(waited)),
        Ok(None) => Ok(Reaped::NoneYet),
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(Reaped::NoChildren),
        Err(error) => Err(error),
    }
}

/// Signals the process; `false` if it has ended. A pidfd never means another process of the same number.
pub fn signal_main(pidfd: &OwnedFd, signal: Signal) -> io::Result<bool> {
    delivered(sys::pidfd_send_signal(pidfd.as_fd(), Some(signal)))
}

/// Signals the process group that the child `pid` leads or led; `false` if it is empty. Zombies count until they are
/// reaped. It works after the leader was reaped: by the pidfd (Linux 6.9), or before that by number, which the kernel
/// gives to nobody else while the group has a member; a caller that knows it empty must not ask again.
pub fn signal_group(pidfd: &OwnedFd, pid: i32, signal: Signal) -> io::Result<bool> {
    to_group(pidfd, pid, Some(signal))
}

/// Whether the process group has a member: `signal_group` with signal 0.
pub fn group_lives(pidfd: &OwnedFd, pid: i32) -> io::Result<bool> {
    to_group(pidfd, pid, None)
}

fn to_group(pidfd: &OwnedFd, pid: i32, signal: Option<Signal>) -> io::Result<bool> {
    let result = sys::pidfd_send_signal_to_group(pidfd.as_fd(), signal);
    match result {
        // EINVAL can only concern the flag. Group 1 and 0 would be everyone, and our own group.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && pid > 1 => {
            delivered(sys::kill(-pid, signal))
        }
        result => delivered(result),
    }
}

/// ESRCH: there is none; EPERM: there is one that we may not signal (set-user-ID).
fn delivered(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Our children that are no known main process: adopted orphans, and zombies until they are reaped.
pub fn strays(known_mains: &[i32]) -> io::Result<Vec<i32>> {
    if !sys::has_children()? {
        return Ok(Vec::new());
    }
    let mut children = children_of(our_pid())?;
    children.retain(|pid| !known_mains.contains(pid));
    Ok(children)
}

/// The generation in whose environment a process was executed. `None` where that cannot be read (another user's; an
/// instant during execve(2); not within a second), was overwritten (setproctitle(3) in many servers), or names none.
pub fn generation_of(pid: i32) -> Option<u64> {
    generation_in(&environment_of(pid)?)
}

fn environment_of(pid: i32) -> Option<Vec<u8>> {
    within_a_second(move || proc::bytes(format!("/proc/{pid}/environ")))?.ok()
}

/// What the kernel says about a process, readable until it is reaped.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Whether it has ended, reaped or not; then its memory is gone.
    pub has_ended: bool,
    pub group: i32,
    pub session: i32,
    /// Its start in clock ticks since boot; together with the pid it identifies the process.
    pub start: u64,
}

pub fn identity(pid: i32) -> Option<ProcessIdentity> {
    let stat = proc::bytes(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = fields_after_comm(&stat)?.map(|field| std::str::from_utf8(field).ok());
    let has_ended = matches!(fields.next()??, "Z" | "X");
    let mut number = |skipped| fields.nth(skipped)??.parse::<u64>().ok();
    let (group, session, start) = (number(1)?, number(0)?, number(15)?);
    Some(ProcessIdentity {
        has_ended,
        group: group.try_into().ok()?,
        session: session.try_into().ok()?,
        start,
    })
}

/// Whether we have a child of any kind.
pub fn has_children() -> bool {
    sys::has_children().unwrap_or(true)
}

/// Whether the process group has a member.
pub fn has_group(id: i32) -> bool {
    id > 1 && delivered(sys::kill(-id, None)).unwrap_or(true)
}

/// Our child that is this process or an ancestor of it, or the child of `adopter`, if that is said; 0 if it descends from
/// neither, `None` if it does not exist.
pub fn child_above(pid: i32, adopter: Option<i32>) -> Option<i32> {
    let mut at = pid;
    for _ in 0..ANCESTORS {
        match parent_of(at) {
            None if at == pid => return None,
            Some(parent) if parent == our_pid() || Some(parent) == adopter => return Some(at),
            Some(parent) if parent > 1 => at = parent,
            None | Some(_) => return Some(0),
        }
    }
    Some(0)
}

/// Whether a process is `head`, in its group, or a descendant of either.
pub fn is_below(pid: i32, head: i32) -> bool {
    let mut at = pid;
    for _ in 0..ANCESTORS {
        let Some((parent, group)) = parent_and_group_of(at) else { return at == head };
        if at == head || group == head {
            return true;
        }
        if parent <= 1 {
            return false;
        }
        at = parent;
    }
    false
}

/// Whether the process of a pidfd has ended, reaped or not.
pub fn has_ended(pidfd: &OwnedFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut fds, PollTimeout::ZERO)? > 0)
}

/// The pid in a PIDFile= (systemd.service(5)): its first line, with leading blanks; PostgreSQL writes more lines.
/// `None` for anything else. A file that is being written may show a shorter number, that of another process.
pub fn pid_in_file(path: &Path) -> Option<i32> {
    let text = read_regular(path, 4096).ok()?;
    let line = text.split(|byte| *byte == b'\n').next()?;
    std::str::from_utf8(line).ok()?.trim_start().parse().ok().filter(|pid| *pid > 1)
}

fn generation_in(environment: &[u8]) -> Option<u64> {
    let value =
        environment.split(|byte| *byte == 0).find_map(|line| line.strip_prefix(b"SUPERVISE_GENERATION="))?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Signals every descendant once, also those forked meanwhile; as pid 1 every process. Returns how many got it; as
/// pid 1, which cannot count them, at most one.
pub fn sweep(signal: Signal) -> io::Result<usize> {
    if our_pid() == 1 {
        return delivered(sys::kill(-1, Some(signal))).map(usize::from);
    }
    let mut signalled = HashSet::new();
    let mut delivered = 0;
    for _ in 0..ROUNDS {
        let mut fresh = descendants()?;
        fresh.retain(|(pid, _)| signalled.insert(*pid));
        if fresh.is_empty() {
            break;
        }
        for (pid, parent) in fresh {
            delivered += usize::from(signal_if_still(pid, parent, signal));
        }
    }
    Ok(delivered)
}

/// Signals a process if it is still a child of `parent`. A grandchild may be reaped and its number reused at any
/// time, so a pidfd is opened first and its parent compared then. Errors do not keep the others from their signal.
fn signal_if_still(pid: i32, parent: i32, signal: Signal) -> bool {
    let sent = sys::pidfd_open(pid).and_then(|pidfd| {
        // If its parent has ended in between, it is our child now.
        if !parent_of(pid).is_some_and(|now| now == parent || now == our_pid()) {
            return Ok(false);
        }
        signal_main(&pidfd, signal)
    });
    match sent {
        Ok(sent) => sent,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => false,
        Err(error) => {
            Warn::SendToProcess(signal, pid).because(error);
            false
        }
    }
}

pub fn our_pid() -> i32 {
    own::pid().cast_signed()
}

/// All our descendants with their parents, parents first.
fn descendants() -> io::Result<Vec<(i32, i32)>> {
    below(children_of(our_pid())?)
}

/// These children of ours and their descendants, with their parents, parents first.
fn below(children: Vec<i32>) -> io::Result<Vec<(i32, i32)>> {
    let mut found: Vec<(i32, i32)> = children.into_iter().map(|child| (child, our_pid())).collect();
    let mut seen: HashSet<i32> = found.iter().map(|(pid, _)| *pid).collect();
    let mut next = 0;
    while let Some((parent, _)) = found.get(next).copied() {
        for child in children_of(parent)? {
            if found.len() < DESCENDANTS && seen.insert(child) {
                found.push((child, parent));
            }
        }
        next += 1;
    }
    Ok(found)
}

/// The pids of these children of ours and their descendants.
pub fn trees(children: Vec<i32>) -> io::Result<Vec<Pid>> {
    Ok(below(children)?.into_iter().map(|(pid, _)| Pid::from_raw(pid)).collect())
}

/// Signals these children of ours and their descendants, and the process `groups` as groups.
pub fn signal_trees(children: Vec<i32>, groups: &[i32], signal: Signal) -> io::Result<()> {
    for (pid, parent) in below(children)? {
        if parent_and_group_of(pid).is_some_and(|(_, of)| !groups.contains(&of)) {
            signal_if_still(pid, parent, signal);
        }
    }
    Ok(())
}

/// The children of a process; none if it has ended. /proc/PID/task/TID/children needs CONFIG_PROC_CHILDREN; without
/// it every process is asked for its parent.
fn children_of(pid: i32) -> io::Result<Vec<i32>> {
    let mut children = Vec::new();
    let tasks = match fs::read_dir(format!("/proc/{pid}/task")) {
        Ok(tasks) => tasks,
        Err(error) if pid == our_pid() && error.kind() == io::ErrorKind::NotFound => {
            return Err(io::Error::other("/proc is not mounted"));
        }
        Err(error) if pid == our_pid() => return Err(error),
        Err(_) => return Ok(children),
    };
    for task in tasks.flatten() {
        match proc::bytes(task.path().join("children")) {
            Ok(list) => children.extend(numbers(&list)),
            // The thread has ended, or this kernel does not have the file.
            Err(_) if task.path().exists() => return children_by_parent(pid),
            Err(_) => {}
        }
    }
    Ok(children)
}

fn numbers(list: &[u8]) -> impl Iterator<Item = i32> {
    list.split(u8::is_ascii_whitespace).filter_map(|word| std::str::from_utf8(word).ok()?.parse().ok())
}

fn children_by_parent(pid: i32) -> io::Result<Vec<i32>> {
    Ok(proc::numbers("/proc")?.filter(|child| parent_of(*child) == Some(pid)).take(DESCENDANTS).collect())
}

fn parent_of(pid: i32) -> Option<i32> {
    parent_and_group_of(pid).map(|(parent, _)| parent)
}

/// Whether the process is stopped by a signal (SIGSTOP and so on), by the state of its first thread.
pub fn is_stopped(pid: i32) -> bool {
    state_of(pid) == Some(b'T')
}

/// Whether a process has not ended; a signal may have stopped it.
pub fn lives(pid: i32) -> bool {
    state_of(pid).is_some_and(|state| !b"ZX".contains(&state))
}

/// Whether it is neither stopped by a signal nor ended.
pub fn runs(pid: i32) -> bool {
    state_of(pid).is_some_and(|state| !b"TZX".contains(&state))
}

fn state_of(pid: i32) -> Option<u8> {
    state_in(&proc::bytes(format!("/proc/{pid}/stat")).ok()?)
}

pub fn parent_and_group_of(pid: i32) -> Option<(i32, i32)> {
    parent_and_group_in(&proc::bytes(format!("/proc/{pid}/stat")).ok()?)
}

/// Reads proc_pid_stat(5): `pid (comm) state ppid pgrp`, where comm may contain anything, even `) R 1`.
fn parent_and_group_in(stat: &[u8]) -> Option<(i32, i32)> {
    let mut numbers =
        fields_after_comm(stat)?.skip(1).map(|field| std::str::from_utf8(field).ok()?.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn state_in(stat: &[u8]) -> Option<u8> {
    fields_after_comm(stat)?.next()?.first().copied()
}

fn fields_after_comm(stat: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    Some(stat.get(end + 1..)?.split(|byte| *byte == b' ').filter(|field| !field.is_empty()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::OsStr;
    use std::time::Duration;

    use super::*;
    use crate::config::{Config, Exec};
    use crate::core::Exit;
    use crate::os::spawn::{Child, Plan, Value, spawn};
    use crate::os::sys::tests::{alone, eventually};
    use crate::os::users::Identity;

    fn start(words: &[&str]) -> Child {
        let launch = Config::for_command_line().launch;
        let mut environment: BTreeMap<_, _> =
            std::env::vars_os().map(|(name, value)| (name, Value::Text(value))).collect();
        environment.insert("SUPERVISE_GENERATION".into(), Value::Text("41".into()));
        let command = words.iter().map(|word| OsStr::new(word).to_owned()).collect();
        let exec = Exec::plain(command);
        spawn(&Plan::new(&launch, &exec, environment, Identity::default())).expect("starts")
    }

    fn next_end() -> Waited {
        eventually("a child ends", || match next(|_| {}).expect("waitid") {
            Reaped::Ended(waited) => Some(waited),
            Reaped::NoneYet => None,
            Reaped::NoChildren => panic!("there is a child"),
        })
    }

    #[test]
    fn exits_are_told_apart() {
        alone("os::reap::tests::exits_are_told_apart", || {
            assert_eq!(next(|_| {}).expect("waitid"), Reaped::NoChildren);
            for (script, exit) in [
                ("exit 7", Exit::Code(7)),
                ("kill -TERM $$", Exit::Signal { signal: Signal::TERM, core: false }),
                // A real-time one, which nix's waitid cannot say.
                (
                    "kill -40 $$",
                    Exit::Signal { signal: Signal::from_number(40).expect("a signal"), core: false },
                ),
            ] {
                let child = start(&["/bin/sh", "-c", script]);
                assert_eq!(next_end(), Waited { pid: child.pid, exit }, "{script}");
                assert!(!signal_main(&child.pidfd, Signal::TERM).expect("ESRCH is no error"));
            }
            let child = start(&["sleep", "60"]);
            assert_eq!(next(|_| {}).expect("waitid"), Reaped::NoneYet);
            assert!(signal_main(&child.pidfd, Signal::KILL).expect("may signal"));
            assert_eq!(next_end().exit, Exit::Signal { signal: Signal::KILL, core: false });
        });
    }

    #[test]
    fn a_group_is_reached_after_its_leader_was_reaped() {
        alone("os::reap::tests::a_group_is_reached_after_its_leader_was_reaped", || {
            prepare().expect("subreaper");
            let child = start(&["/bin/sh", "-c", "sleep 60 & exit 3"]);
            assert_eq!(next_end(), Waited { pid: child.pid, exit: Exit::Code(3) });
            assert!(group_lives(&child.pidfd, child.pid).expect("may look"));
            let orphans = strays(&[]).expect("/proc");
            let [orphan] = orphans[..] else { panic!("one orphan: {orphans:?}") };
            assert_eq!(strays(&[orphan]).expect("/proc"), Vec::<i32>::new());
            // The environment cannot be read in the instant of execve(2).
            assert_eq!(eventually("an environment", || generation_of(orphan)), 41);
            assert!(signal_group(&child.pidfd, child.pid, Signal::TERM).expect("may signal"));
            assert_eq!(next_end().pid, orphan);
            assert!(!group_lives(&child.pidfd, child.pid).expect("may look"));
            assert!(!signal_group(&child.pidfd, child.pid, Signal::TERM).expect("may look"));
            assert_eq!(next(|_| {}).expect("waitid"), Reaped::NoChildren);
        });
    }

    #[test]
    fn a_sweep_reaches_other_sessions_and_grandchildren() {
        alone("os::reap::tests::a_sweep_reaches_other_sessions_and_grandchildren", || {
            prepare().expect("subreaper");
            // Daemons: a session and group of their own, one still below its parent, one adopted by us.
            start(&["/bin/sh", "-c", "setsid sleep 61 & sleep 62 & wait"]);
            start(&["/bin/sh", "-c", "setsid sleep 63 & exit 0"]);
            eventually("all sleep", || (descendants().expect("/proc").len() >= 4).then_some(()));
            std::thread::park_timeout(Duration::from_millis(20));
            assert!(sweep(Signal::KILL).expect("/proc") >= 4);
            eventually("all are gone", || {
                (next(|_| {}).expect("waitid") == Reaped::NoChildren).then_some(())
            });
        });
    }

    #[test]
    fn both_ways_to_find_children_agree() {
        alone("os::reap::tests::both_ways_to_find_children_agree", || {
            let children = [start(&["sleep", "60"]), start(&["sleep", "60"])];
            let mut expected = children.each_ref().map(|child| child.pid);
            expected.sort_unstable();
            let mut found =
                (children_of(our_pid()).expect("/proc"), children_by_parent(our_pid()).expect("/proc"));
            found.0.sort_unstable();
            found.1.sort_unstable();
            assert_eq!((found.0.as_slice(), found.1.as_slice()), (&expected[..], &expected[..]));
            for child in children {
                assert!(signal_main(&child.pidfd, Signal::KILL).expect("may signal"));
                sys::wait_for(&child.pidfd).expect("ours");
            }
        });
    }

    #[test]
    fn what_proc_says_is_not_trusted() {
        assert_eq!(parent_and_group_in(b"12 (a) R 1) S 34 5 6"), Some((34, 5)));
        for stat in [&b""[..], b"12 (a", b"12 (a)", b"12 (a) S", b"12 (a) S x", b"12 (a) S 34"] {
            assert_eq!(parent_and_group_in(stat), None);
        }
        assert_eq!(generation_in(b"A=1\0SUPERVISE_GENERATION=12\0SUPERVISE_GENERATION=13"), Some(12));
        for environment in [&b""[..], b"SUPERVISE_GENERATION=", b"SUPERVISE_GENERATION=99999999999999999999"]
        {
            assert_eq!(generation_in(environment), None);
        }
        assert_eq!(numbers(b"1 22  x 333 ").collect::<Vec<_>>(), [1, 22, 333]);
    }
}
