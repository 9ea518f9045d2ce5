//! The processes that a process has started.

use std::fs;

use crate::support::proc_status;

/// A process and when it was started: a pid alone may be given again.
pub(super) type Process = (i32, String);

/// What this process has started and what that has started, whatever it calls itself.
pub(super) fn descendants(root: i32) -> Vec<Process> {
    let parent = |pid: i32| Some((pid, proc_status(pid, "PPid")?.parse().expect("a pid")));
    let names = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let pids = names.filter_map(|name| name.parse().ok());
    let all: Vec<(i32, i32)> = pids.filter_map(parent).collect();
    let mut found = vec![root];
    let mut looked_at = 0;
    while let Some(of) = found.get(looked_at).copied() {
        found.extend(all.iter().filter(|(_, parent)| *parent == of).map(|(pid, _)| *pid));
        looked_at += 1;
    }
    found[1..].iter().filter_map(|pid| Some((*pid, started(*pid)?))).collect()
}

/// Field 22 of /proc/PID/stat; None for who is gone.
fn started(pid: i32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may have blanks and parentheses of its own.
    text.rsplit_once(") ")?.1.split(' ').nth(19).map(str::to_owned)
}
