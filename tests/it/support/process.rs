//! Processes as /proc shows them.

use std::collections::HashMap;
use std::fs;
use std::process::Command;

/// Every pid of this machine.
pub(crate) fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// The environment of a process as it was at its execve(2); empty for a zombie.
pub(crate) fn environment(pid: i32) -> HashMap<String, String> {
    let text = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    text.split(|byte| *byte == 0)
        .filter_map(|pair| {
            let (name, value) = std::str::from_utf8(pair).ok()?.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// The processes with all of these in their environment.
pub(crate) fn processes(wanted: &[(&str, &str)]) -> Vec<i32> {
    let has_all = |pid: &i32| {
        let environment = environment(*pid);
        wanted.iter().all(|(name, value)| environment.get(*name).is_some_and(|is| is == value))
    };
    pids().into_iter().filter(has_all).collect()
}

/// A process and when it was started: a pid alone may be given again.
pub(crate) type Process = (i32, String);

/// What this process has started and what that has started, whatever it calls itself.
pub(crate) fn descendants(root: i32) -> Vec<Process> {
    let parent = |pid: i32| Some((pid, proc_status(pid, "PPid")?.parse().expect("a pid")));
    let all: Vec<(i32, i32)> = pids().into_iter().filter_map(parent).collect();
    let mut found = vec![root];
    let mut looked_at = 0;
    while let Some(of) = found.get(looked_at).copied() {
        found.extend(all.iter().filter(|(_, parent)| *parent == of).map(|(pid, _)| *pid));
        looked_at += 1;
    }
    found[1..].iter().filter_map(|pid| Some((*pid, started(*pid)?))).collect()
}

/// Field 22 of /proc/PID/stat; `None` if the process is gone.
fn started(pid: i32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may have blanks and parentheses of its own.
    text.rsplit_once(") ")?.1.split(' ').nth(19).map(str::to_owned)
}

/// A line of /proc/PID/status; None when the process is gone.
pub(crate) fn proc_status(pid: i32, key: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// The children of a process that nobody has waited for yet.
pub(crate) fn zombies(parent: i32) -> usize {
    let is_zombie = |pid: &i32| {
        proc_status(*pid, "PPid").is_some_and(|is| is == parent.to_string())
            && proc_status(*pid, "State").is_some_and(|state| state.starts_with('Z'))
    };
    pids().iter().filter(|pid| is_zombie(pid)).count()
}

/// The open fds of a process and what they are.
pub(crate) fn fds(pid: i32) -> Vec<(i32, String)> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let mut all: Vec<(i32, String)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let target = fs::read_link(entry.path()).ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, target.to_string_lossy().into_owned()))
        })
        .collect();
    all.sort();
    all
}

/// The flags of an open file of another process (O_CLOEXEC among them).
pub(crate) fn fd_flags(pid: i32, fd: i32) -> u32 {
    let text = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).expect("an open fd");
    let line = text.lines().find_map(|line| line.strip_prefix("flags:")).expect("proc_pid_fdinfo(5)");
    u32::from_str_radix(line.trim(), 8).expect("octal")
}

/// Lets a process have no more than `more` fds besides those it has. The limit is one of numbers, and there may be gaps.
pub(crate) fn limit_fds(pid: i32, more: usize) {
    let taken: Vec<i32> = fds(pid).iter().map(|(number, _)| *number).collect();
    let limit = (0..).filter(|number| !taken.contains(number)).nth(more).unwrap();
    set_limit(pid, "nofile", &limit.to_string());
}

/// A soft limit of a process, as prlimit(1) names it.
pub(crate) fn set_limit(pid: i32, name: &str, limit: &str) {
    let (pid, limit) = (pid.to_string(), format!("--{name}={limit}:"));
    assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
}
