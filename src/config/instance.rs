//! What is asked of `supervise` itself rather than of its server.

use std::path::PathBuf;

/// Under which name it can be reached, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance {
    /// None: the command's file name.
    pub name: Option<String>,
    pub control: Control,
}

/// Where the control socket goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Control {
    /// NAME.sock in the first usable of the usual directories.
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
