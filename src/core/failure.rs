//! Why a process could not be started, and our exit status then.

use serde::{Deserialize, Serialize};

/// A failed start; `what` is a sentence that names the file and the errno.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartFailure {
    pub stage: Stage,
    pub errno: i32,
    pub what: String,
}

/// The steps between fork and the server's first instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// fork(2), a pipe, the notify socket: the machine is short of something.
    Resources,
    /// An environment file could not be read or parsed.
    Environment,
    /// OpenFile=
    OpenFile,
    Stdin,
    Stdout,
    Stderr,
    RuntimeDirectory,
    StateDirectory,
    CacheDirectory,
    LogsDirectory,
    ConfigurationDirectory,
    User,
    Group,
    Directory,
    /// Limits, nice, OOM score, stdin.
    Setup,
    Exec,
}

impl StartFailure {
    const ENOENT: i32 = 2;
    const ETXTBSY: i32 = 26;

    /// 127: COMMAND does not exist; 126: it cannot be executed; 125: an earlier step failed.
    pub(super) fn exit_status(&self) -> u8 {
        match (self.stage, self.errno) {
            (Stage::Exec, Self::ENOENT) => 127,
            (Stage::Exec, _) => 126,
            (_, _) => 125,
        }
    }

    /// Whether the file is being written (ETXTBSY).
    pub(super) fn is_text_busy(&self) -> bool {
        self.stage == Stage::Exec && self.errno == Self::ETXTBSY
    }
}
