//! Lists of exit statuses and signals, as SuccessExitStatus= takes them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Problem, Signal, printable};

/// A set of exit codes and signals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusSet {
    pub codes: BTreeSet<u8>,
    pub signals: BTreeSet<Signal>,
}

/// The names of systemd.exec(5), "Process Exit Codes", each row counting up from its first code: libc and LSB, BSD
/// sysexits, systemd's own. `-` is a code without a name.
const STATUSES: [(u8, &str); 4] = [
    (0, "SUCCESS FAILURE INVALIDARGUMENT NOTIMPLEMENTED NOPERMISSION NOTINSTALLED NOTCONFIGURED NOTRUNNING"),
    (
        64,
        "USAGE DATAERR NOINPUT NOUSER NOHOST UNAVAILABLE SOFTWARE OSERR OSFILE CANTCREAT IOERR TEMPFAIL PROTOCOL \
         NOPERM CONFIG",
    ),
    (
        200,
        "CHDIR NICE FDS EXEC MEMORY LIMITS OOM_ADJUST SIGNAL_MASK STDIN STDOUT CHROOT IOPRIO TIMERSLACK SECUREBITS \
         SETSCHEDULER CPUAFFINITY GROUP USER CAPABILITIES CGROUP SETSID CONFIRM STDERR - PAM NETWORK NAMESPACE \
         NO_NEW_PRIVILEGES SECCOMP SELINUX_CONTEXT PERSONALITY APPARMOR ADDRESS_FAMILIES RUNTIME_DIRECTORY - CHOWN \
         SMACK_PROCESS_LABEL KEYRING STATE_DIRECTORY CACHE_DIRECTORY LOGS_DIRECTORY CONFIGURATION_DIRECTORY \
         NUMA_POLICY CREDENTIALS BPF",
    ),
    (255, "EXCEPTION"),
];

fn status_by_name(word: &str) -> Option<u8> {
    let in_row = |(first, names): &(u8, &str)| {
        (*first..=u8::MAX).zip(names.split(' ')).find(|(_, name)| *name == word).map(|(code, _)| code)
    };
    if word == "-" { None } else { STATUSES.iter().find_map(in_row) }
}

impl StatusSet {
    pub fn contains_code(&self, code: u8) -> bool {
        self.codes.contains(&code)
    }

    pub fn contains_signal(&self, signal: Signal) -> bool {
        self.signals.contains(&signal)
    }

    /// Adds the words of `text`: a number is an exit code, a name an exit status or a signal. An empty text empties
    /// the set. If one word is wrong, nothing is added.
    ///
    /// # Errors
    /// A word that is neither.
    pub fn add(&mut self, text: &str) -> Result<(), Problem> {
        let mut new = Self::default();
        for word in text.split_ascii_whitespace() {
            if word.bytes().all(|byte| byte.is_ascii_digit()) {
                new.codes.insert(word.parse().map_err(|_| no_status(word))?);
            } else if let Some(code) = status_by_name(word) {
                new.codes.insert(code);
            } else {
                new.signals.insert(Signal::find(word).ok_or_else(|| no_status(word))?);
            }
        }
        if new == Self::default() {
            *self = new;
        } else {
            self.codes.append(&mut new.codes);
            self.signals.append(&mut new.signals);
        }
        Ok(())
    }
}

fn no_status(word: &str) -> Problem {
    Problem::new(
        format!("{:?} is no exit status and no signal", printable(word)),
        "list numbers from 0 to 255, names such as TEMPFAIL, and signals, with blanks between: \"3 75 SIGUSR1\"",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lists_accumulate_and_empty_ones_reset() {
        let mut set = StatusSet::default();
        set.add("TEMPFAIL 250 SIGKILL").expect("good");
        set.add("usr1 EXCEPTION 1").expect("good");
        assert_eq!(set.codes, BTreeSet::from([1, 75, 250, 255]));
        let systemd =
            [("CONFIG", 78), ("STDERR", 222), ("PAM", 224), ("RUNTIME_DIRECTORY", 233), ("BPF", 244)];
        for (name, code) in systemd {
            assert_eq!(status_by_name(name), Some(code), "{name}");
        }
        assert!(set.contains_signal(Signal::KILL) && set.contains_code(75) && !set.contains_code(9));
        for bad in ["256", "-1", "3,4", "tempfail", "5 NOSUCH", "0x1"] {
            let before = set.clone();
            assert!(set.add(bad).is_err(), "{bad}");
            assert_eq!(set, before, "{bad}");
        }
        set.add("").expect("a reset");
        assert_eq!(set, StatusSet::default());
    }
}
