//! Options of supervise itself rather than of its server.

use std::path::PathBuf;

/// The name of the instance, its control socket, and the colour of its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance {
    /// The name of the instance; `None` means the file name of the command.
    pub name: Option<String>,
    pub control: Control,
    /// `--detach`: into the background once the first server is ready.
    pub detach: bool,
}

/// Where the control socket goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Control {
    /// NAME.sock in the first usable directory of os/instances.rs.
    #[default]
    Search,
    Path(PathBuf),
    /// `--control none`
    None,
}

/// When our own lines are coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    Auto,
    Always,
    Never,
}
