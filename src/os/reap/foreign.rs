//! Processes that are no children of ours, because the supervise that started them was killed.

use std::os::fd::{AsFd, OwnedFd};

use nix::unistd::getppid;

use super::{children_of, environment_of, fields_after_comm, generation_in, identity, our_pid, parent_of};
use crate::core::Exit;
use crate::os::proc;
use crate::os::sys;

/// The process that has adopted us and all that was started by the supervise before us, when that was killed. `None` where it
/// is in another pid namespace.
pub fn adopter() -> Option<i32> {
    Some(getppid().as_raw()).filter(|pid| *pid > 0)
}

/// Its children, but for ourselves: some may have been ours.
pub fn adopted() -> Vec<i32> {
    let mut children = adopter().and_then(|pid| children_of(pid).ok()).unwrap_or_default();
    children.retain(|pid| *pid != our_pid());
    children
}

/// Whether it is a child of ours.
pub fn is_child(pid: i32) -> bool {
    parent_of(pid) == Some(our_pid())
}

/// The generation in whose environment a process was executed, and its notify socket, which tells the supervise.
pub fn generation_and_notify_of(pid: i32) -> Option<(u64, Vec<u8>)> {
    let environment = environment_of(pid)?;
    let notify =
        environment.split(|byte| *byte == 0).find_map(|line| line.strip_prefix(b"NOTIFY_SOCKET="))?;
    Some((generation_in(&environment)?, notify.to_vec()))
}

/// Whether somebody in this group has not ended. Of a group whose zombies we do not reap.
pub fn group_runs(group: i32) -> bool {
    let is_of_it = |pid: &i32| identity(*pid).is_some_and(|found| found.group == group && !found.has_ended);
    // Where /proc cannot be read, the group may live.
    proc::numbers("/proc").map_or(true, |mut pids| pids.any(|pid| is_of_it(&pid)))
}

/// How a process ended that is no child of ours: from its entry in /proc, as long as it is not reaped, which shows that to
/// its own user and to root (proc_pid_stat(5), exit_code); else from its pidfd (Linux 6.15).
pub fn exit_of(pid: i32, pidfd: &OwnedFd) -> Option<Exit> {
    let status = |stat: Vec<u8>| {
        let mut fields = fields_after_comm(&stat)?;
        let is_zombie = fields.next() == Some(b"Z");
        std::str::from_utf8(fields.nth(48)?).ok()?.trim_end().parse().ok().filter(|_| is_zombie)
    };
    let seen = proc::bytes(format!("/proc/{pid}/stat")).ok().and_then(status);
    // Nobody has reaped it meanwhile, so the number was its own.
    let seen = seen.filter(|_| sys::pidfd_send_signal(pidfd.as_fd(), None).is_ok());
    Some(sys::exit_of(seen.or_else(|| sys::pidfd_exit(pidfd))?))
}
