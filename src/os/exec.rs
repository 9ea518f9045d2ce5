//! `supervise exec -- COMMAND`: becomes COMMAND, with our own pid where the protocols require that of the server.
//!
//! A wrapper that forks (npm, make, `sh -c`) leaves LISTEN_PID at its own pid, so a server that checks it takes no
//! socket; many wrappers also close inherited fds (node, Python's subprocess, sudo). This program runs between the two
//! and fetches the sockets anew. COMMAND gets the signals as std leaves them: none blocked, SIGPIPE at its default.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::unix::process::{CommandExt, parent_id};
use std::path::PathBuf;
use std::process::{self, Command};

use super::{fetch, spawn, sys};

/// Executes COMMAND. It returns only if that fails: the exit status, and the sentence for it.
pub fn exec(words: &[OsString]) -> (u8, String) {
    let Some((program, arguments)) = words.split_first() else {
        return (CANNOT, "no COMMAND (write it after --: supervise exec -- ./server)".to_owned());
    };
    let mut command = Command::new(program);
    command.args(arguments);
    let variables = fetch::variables();
    command.envs(variables.iter().cloned());
    let has_watchdog =
        |name: &OsStr| env::var_os(name).is_some() || variables.iter().any(|(is, _)| is == name);
    let address = variables.iter().find(|(name, _)| name == fetch::VARIABLE).map(|(_, address)| address);
    match sockets(&mut command, address.map(OsString::as_os_str)) {
        Ok(true) => {
            // LISTEN_PIDFDID is systemd's identifier of the process that it started, which COMMAND is not.
            command.env("LISTEN_PID", process::id().to_string()).env_remove("LISTEN_PIDFDID");
        }
        // A developer may run the same script without supervise.
        Ok(false) => {
            // If stderr is closed, there is nowhere to report that.
            let _ = writeln!(io::stderr(), "supervise: exec: {NOT_PASSED}");
        }
        Err(cause) => return (CANNOT, cause),
    }
    if has_watchdog(OsStr::new("WATCHDOG_USEC")) {
        command.env("WATCHDOG_PID", process::id().to_string());
    }
    // EINHORN_MASTER_PID must be the parent's pid.
    if env::var_os("EINHORN_FD_COUNT").is_some() {
        command.env("EINHORN_MASTER_PID", parent_id().to_string());
    }
    let errno = command.exec().raw_os_error().unwrap_or(libc::EINVAL);
    (if errno == libc::ENOENT { 127 } else { 126 }, spawn::not_executed(words, errno))
}

/// How a shell finds this program: by its name if that is found along PATH, else by its path.
pub(super) fn how_a_shell_finds_us() -> String {
    let found = |directory: PathBuf| fs::canonicalize(directory.join(NAME)).ok();
    let path = env::var_os("PATH").unwrap_or_default();
    let first = env::split_paths(&path).find_map(found);
    match env::current_exe() {
        // Another program has that name as well: daemontools' supervise.
        Ok(ours) if first.as_ref() != Some(&ours) && ours.is_file() => ours.to_string_lossy().into_owned(),
        Ok(_) | Err(_) => NAME.to_owned(),
    }
}

const NAME: &str = "supervise";

/// The exit status for a failure ("Exit status" in docs/guide.md).
const CANNOT: u8 = 125;

const NOT_PASSED: &str = "no LISTEN_FDS here, so COMMAND starts without sockets (run it below supervise --listen, and let no \
     wrapper clear the environment and become another user, as su - and sudo -u do: -u USER of supervise does that)";

/// Fetches the sockets; if none are given, the inherited ones may still be there. Returns whether there are any.
fn sockets(command: &mut Command, address: Option<&OsStr>) -> Result<bool, String> {
    let inherited = || passed(env::var_os("LISTEN_FDS").as_deref());
    let Some(address) = address else { return inherited() };
    let (names, sockets) = match fetch::fetch(address) {
        Ok(fetched) => fetched,
        Err(error) => {
            return inherited().map_err(|cause| format!("{cause}; they cannot be fetched anew: {error}"));
        }
    };
    command.env("LISTEN_FDS", sockets.len().to_string()).env("LISTEN_FDNAMES", names);
    sys::pass_on(sockets).map_err(|error| format!("the sockets cannot become fd 3 and on: {error}"))?;
    Ok(true)
}

/// Whether LISTEN_FDS is true. A variable that outlived its fds would make the server use unrelated files.
fn passed(count: Option<&OsStr>) -> Result<bool, String> {
    let Some(count) = count.filter(|count| !count.is_empty()) else { return Ok(false) };
    let number = count.to_str().and_then(|count| count.parse::<u32>().ok());
    let number = number.ok_or_else(|| format!("LISTEN_FDS={count:?} is no number (unset it)"))?;
    // Without /proc the fds cannot be checked.
    if !fs::exists("/proc/self/fd").unwrap_or(false) {
        return Ok(true);
    }
    let is_open = |fd: &u32| fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok();
    match (3..3u32.saturating_add(number)).find(|fd| !is_open(fd)) {
        None => Ok(true),
        Some(fd) => Err(format!(
            "LISTEN_FDS={number}, but fd {fd} is closed (a wrapper in between closed it and became another user: leave that \
             to -u USER of supervise, or add --intercept-bind to its options)"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_promise_of_sockets() {
        assert_eq!(passed(None), Ok(false));
        assert_eq!(passed(Some(OsStr::new(""))), Ok(false));
        assert_eq!(passed(Some(OsStr::new("0"))), Ok(true));
        for wrong in ["x", "-1", " 1", "1.5", "99999999999999999999"] {
            assert!(passed(Some(OsStr::new(wrong))).expect_err(wrong).contains("is no number"), "{wrong}");
        }
    }

    #[test]
    fn a_promise_that_cannot_be_kept_ends_at_the_first_closed_fd() {
        let told = passed(Some(OsStr::new("4294967295"))).expect_err("nobody has so many");
        assert!(told.contains("is closed"), "{told}");
    }
}
