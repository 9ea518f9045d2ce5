//! One row of the table of directives: its key, section, flag and help, and how its value is read.

use super::super::{Config, Problem};

/// The result of a setter: nothing, or why the value is refused.
pub(super) type SetResult = Result<(), Problem>;

pub(super) const SPAN: &str = "SPAN";
pub(super) const NUMBER: &str = "N";
pub(super) const LIST: &str = "LIST";
pub(super) const SIZE: &str = "SIZE";
pub(super) const SWITCH: &str = "BOOL";
pub(super) const MODE: &str = "MODE";
pub(super) const PATH: &str = "PATH";
pub(super) const COMMAND: &str = "COMMAND";

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Directive {
    /// The key of a unit file: `RestartSec`.
    pub key: &'static str,
    pub section: Section,
    /// The heading of `--help` that it stands under.
    pub group: Heading,
    /// The placeholder for its value in `--help`: `SPAN`.
    pub value: &'static str,
    /// The long flag without its dashes; without one, only `-p KEY=VALUE` sets it.
    pub flag: Option<&'static str>,
    pub short: Option<char>,
    /// The default of the command line as a user would write it; empty where there is none.
    pub default: &'static str,
    pub support: Support,
    pub doc: &'static str,
}

/// The section of a unit file that the directive belongs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    Unit,
    Service,
    Socket,
    Install,
    /// `[X-Supervise]`, which systemd skips.
    XSupervise,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heading {
    Sockets,
    Process,
    Readiness,
    Restarting,
    Swapping,
    Stopping,
    Limits,
}

#[derive(Clone, Copy, Debug)]
pub enum Support {
    Honoured(Setter),
    /// Accepted without a warning, as it has no meaning here; the text says why.
    Inert(&'static str),
    /// Known from systemd but without effect here, which is reported; the text says why and what to use instead.
    NotHonoured(&'static str),
}

/// How a value is put into the [`Config`].
#[derive(Clone, Copy, Debug)]
pub enum Setter {
    /// Gets the text as it stands.
    Plain(fn(&mut Config, &str) -> Result<(), Problem>),
    /// Gets the text with its `%` specifiers replaced.
    Expanded(fn(&mut Config, &str) -> Result<(), Problem>),
    /// Gets the text as it stands, splits it into words, and replaces the specifiers of each.
    Scoped(fn(&mut Config, &str, &Context<'_>) -> Result<(), Problem>),
}

/// What the meaning of a value depends on besides its text.
#[expect(missing_debug_implementations, reason = "a closure has nothing to show")]
pub struct Context<'a> {
    /// Replaces the `%` specifiers. On the command line there are none, and it returns the text unchanged.
    pub expand: &'a dyn Fn(&str) -> Result<String, Problem>,
    /// The place for messages: `web.service:7`, or `-p ExecReload=...`.
    pub place: &'a str,
    /// Takes warnings about parts of the value that systemd skips.
    pub warn: &'a dyn Fn(Problem),
}

impl Directive {
    /// Whether the flag alone, without a value, means yes.
    pub fn is_switch(&self) -> bool {
        self.value == SWITCH
    }

    /// Whether values accumulate and an empty one empties the list.
    pub fn is_list(&self) -> bool {
        matches!(self.value, LIST | COMMAND)
            || self.key.starts_with("Listen")
            || matches!(
                self.key,
                "Environment"
                    | "EnvironmentFile"
                    | "ExecSearchPath"
                    | "OpenFile"
                    | "StandardInputText"
                    | "StandardInputData"
            )
    }

    pub(super) const fn flag(mut self, flag: &'static str) -> Self {
        self.flag = Some(flag);
        self
    }

    pub(super) const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }

    pub(super) const fn default(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }
}

impl Section {
    /// The name as it stands between brackets in a unit file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unit => "Unit",
            Self::Service => "Service",
            Self::Socket => "Socket",
            Self::Install => "Install",
            Self::XSupervise => "X-Supervise",
        }
    }
}

pub(super) const fn bare(key: &'static str, section: Section, support: Support) -> Directive {
    let (value, doc) = ("", "");
    Directive {
        key,
        section,
        group: Heading::Limits,
        value,
        flag: None,
        short: None,
        default: "",
        support,
        doc,
    }
}

const fn honoured(
    key: &'static str,
    section: Section,
    group: Heading,
    value: &'static str,
    setter: Setter,
    doc: &'static str,
) -> Directive {
    let support = Support::Honoured(setter);
    Directive { key, section, group, value, flag: None, short: None, default: "", support, doc }
}

/// A row whose setter gets the value as it stands.
pub(super) const fn row(
    key: &'static str,
    section: Section,
    group: Heading,
    value: &'static str,
    set: fn(&mut Config, &str) -> SetResult,
    doc: &'static str,
) -> Directive {
    honoured(key, section, group, value, Setter::Plain(set), doc)
}

/// A row whose setter gets the value with its `%` specifiers replaced.
pub(super) const fn expanded(
    key: &'static str,
    section: Section,
    group: Heading,
    value: &'static str,
    set: fn(&mut Config, &str) -> SetResult,
    doc: &'static str,
) -> Directive {
    honoured(key, section, group, value, Setter::Expanded(set), doc)
}

/// A row whose setter splits the value into words itself.
pub(super) const fn scoped(
    key: &'static str,
    section: Section,
    group: Heading,
    value: &'static str,
    set: fn(&mut Config, &str, &Context<'_>) -> SetResult,
    doc: &'static str,
) -> Directive {
    honoured(key, section, group, value, Setter::Scoped(set), doc)
}
