//! What a row of the table is, and how one is written down: its key, section and flag, and what its value does.

use super::super::{Config, Problem};

/// What a setter says of a value.
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
    /// As in a unit file: `RestartSec`.
    pub key: &'static str,
    pub section: Section,
    /// The heading it stands under in the help.
    pub group: Heading,
    /// What its value is, for the help.
    pub value: &'static str,
    /// The long flag, without the dashes. Without one it is set by `-p KEY=VALUE`.
    pub flag: Option<&'static str>,
    pub short: Option<char>,
    /// Of the command line, as one would write it; empty where there is none.
    pub default: &'static str,
    pub support: Support,
    pub doc: &'static str,
}

/// The section of a unit file it belongs in.
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
    /// Accepted, because it has no meaning here; why.
    Inert(&'static str),
    /// Known from systemd, without effect here, which is a loss; why, and what does it instead.
    NotHonoured(&'static str),
}

/// How a value gets into the [`Config`].
#[derive(Clone, Copy, Debug)]
pub enum Setter {
    /// The text as it stands.
    Plain(fn(&mut Config, &str) -> Result<(), Problem>),
    /// The text with its `%` specifiers replaced.
    Expanded(fn(&mut Config, &str) -> Result<(), Problem>),
    /// The text as it stands, which has words of its own whose specifiers are replaced one by one.
    Scoped(fn(&mut Config, &str, &Context<'_>) -> Result<(), Problem>),
}

/// Where a value was written, as far as its meaning depends on it.
#[expect(missing_debug_implementations, reason = "a closure has nothing to show")]
pub struct Context<'a> {
    /// Replaces the `%` specifiers; on the command line there are none, and the text stays as it is.
    pub expand: &'a dyn Fn(&str) -> Result<String, Problem>,
    /// `web.service:7`, or `-p ExecReload=...`.
    pub place: &'a str,
    /// Takes what systemd warns about and goes on with.
    pub warn: &'a dyn Fn(Problem),
}

impl Directive {
    /// Its flag alone means yes.
    pub fn is_switch(&self) -> bool {
        self.value == SWITCH
    }

    /// A further value is added to those before it, and an empty one takes all of them back.
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
    /// As between its brackets.
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

/// A row whose value is read as it stands.
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

/// A row whose `%` specifiers are replaced first.
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

/// A row that takes its value apart itself.
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
