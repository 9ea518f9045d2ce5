//! THE table, put together from the sections: rows with a setter, and keys that do nothing here.

use super::super::{Config, Problem};
use super::without::WITHOUT;
use super::{Directive, Group, Scope, Section, Setter, Verdict, exec, service, socket};

pub(super) type Set = Result<(), Problem>;

pub(super) const SPAN: &str = "SPAN";
pub(super) const NUMBER: &str = "N";
pub(super) const LIST: &str = "LIST";
pub(super) const SIZE: &str = "SIZE";
pub(super) const SWITCH: &str = "BOOL";
pub(super) const MODE: &str = "MODE";
pub(super) const PATH: &str = "PATH";
pub(super) const COMMAND: &str = "COMMAND";

/// Why keys of systemd.exec(5) do nothing in [Socket].
const COMMANDS_OF_SOCKETS: Verdict =
    Verdict::NotHonoured("the commands of a socket run as supervise itself does; write it in [Service]");

/// Every directive there is, in the order of the help.
pub const DIRECTIVES: &[Directive] = &gather::<COUNT>();

/// The rows with a setter; those of the latter list are known to [Socket] as well.
const ROWS: [&[Directive]; 2] = [service::ROWS, socket::ROWS];
const SHARED: [&[Directive]; 3] = [service::KILL, exec::ROWS, exec::LIMITS];

const COUNT: usize = count();

const fn count() -> usize {
    let mut count = ROWS[0].len() + ROWS[1].len();
    count += 2 * (SHARED[0].len() + SHARED[1].len() + SHARED[2].len());
    let mut group = 0;
    while group < WITHOUT.len() {
        count += WITHOUT[group].keys.len() * if WITHOUT[group].shared { 2 } else { 1 };
        group += 1;
    }
    count
}

const fn gather<const N: usize>() -> [Directive; N] {
    let mut all = [bare("", Section::Unit, COMMANDS_OF_SOCKETS); N];
    let mut at = 0;
    let mut list = 0;
    while list < ROWS.len() + SHARED.len() {
        let rows = if list < ROWS.len() { ROWS[list] } else { SHARED[list - ROWS.len()] };
        let mut index = 0;
        while index < rows.len() {
            all[at] = rows[index];
            at += 1;
            if list >= ROWS.len() {
                all[at] = bare(rows[index].key, Section::Socket, COMMANDS_OF_SOCKETS);
                at += 1;
            }
            index += 1;
        }
        list += 1;
    }
    let mut group = 0;
    while group < WITHOUT.len() {
        let keys = WITHOUT[group].keys;
        let mut index = 0;
        while index < keys.len() {
            all[at] = bare(keys[index], WITHOUT[group].section, WITHOUT[group].verdict);
            at += 1;
            if WITHOUT[group].shared {
                all[at] = bare(keys[index], Section::Socket, WITHOUT[group].verdict);
                at += 1;
            }
            index += 1;
        }
        group += 1;
    }
    assert!(at == N, "every row has its place");
    all
}

impl Directive {
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
}

const fn bare(key: &'static str, section: Section, verdict: Verdict) -> Directive {
    let (value, doc) = ("", "");
    Directive {
        key,
        section,
        group: Group::Limits,
        value,
        flag: None,
        short: None,
        default: "",
        verdict,
        doc,
    }
}

const fn honoured(
    key: &'static str,
    section: Section,
    group: Group,
    value: &'static str,
    setter: Setter,
    doc: &'static str,
) -> Directive {
    let verdict = Verdict::Honoured(setter);
    Directive { key, section, group, value, flag: None, short: None, default: "", verdict, doc }
}

/// A row whose value is read as it stands.
pub(super) const fn row(
    key: &'static str,
    section: Section,
    group: Group,
    value: &'static str,
    set: fn(&mut Config, &str) -> Set,
    doc: &'static str,
) -> Directive {
    honoured(key, section, group, value, Setter::Plain(set), doc)
}

/// A row whose `%` specifiers are replaced first.
pub(super) const fn expanded(
    key: &'static str,
    section: Section,
    group: Group,
    value: &'static str,
    set: fn(&mut Config, &str) -> Set,
    doc: &'static str,
) -> Directive {
    honoured(key, section, group, value, Setter::Expanded(set), doc)
}

/// A row that takes its value apart itself.
pub(super) const fn scoped(
    key: &'static str,
    section: Section,
    group: Group,
    value: &'static str,
    set: fn(&mut Config, &str, &Scope<'_>) -> Set,
    doc: &'static str,
) -> Directive {
    honoured(key, section, group, value, Setter::Scoped(set), doc)
}
