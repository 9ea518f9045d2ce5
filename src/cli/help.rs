//! The texts of `-h` and `--help`, made from the table of directives.

use std::fmt::Write as _;

use super::VERBS;
use crate::config::directives::row::{Directive, Heading, Support};
use crate::config::directives::table::DIRECTIVES;

/// An option that sets no directive.
struct Other {
    group: Option<Heading>,
    flag: &'static str,
    value: &'static str,
    doc: &'static str,
    /// Whether `-h` leaves it out.
    rare: bool,
}

const fn other(group: Option<Heading>, flag: &'static str, value: &'static str, doc: &'static str) -> Other {
    Other { group, flag, value, doc, rare: false }
}

const fn rare(group: Option<Heading>, flag: &'static str, value: &'static str, doc: &'static str) -> Other {
    Other { group, flag, value, doc, rare: true }
}

const OTHERS: [Other; 16] = [
    other(
        Some(Heading::Sockets),
        "-l, --listen",
        "[KIND:]ADDRESS[=NAME]",
        "hold this socket: the first is fd 3, the next fd 4, ...",
    ),
    rare(Some(Heading::Sockets), "-d, --datagram", "", "a --listen without KIND is udp or unixgram"),
    rare(Some(Heading::Sockets), "    --seqpacket", "", "a --listen without KIND is seqpacket"),
    rare(
        Some(Heading::Sockets),
        "    --fdname",
        "A[:B...]",
        "the names of the sockets, one for all or one for each",
    ),
    rare(
        Some(Heading::Sockets),
        "    --now",
        "",
        "nothing, the server is started at once anyway; for systemd-socket-activate's sake",
    ),
    other(Some(Heading::Process), "-p", "KEY=VALUE", "set any other directive; `--help` lists them"),
    rare(Some(Heading::Process), "    --no-keeper", "", "Keeper=no"),
    other(None, "    --name", "NAME", "what verbs call this instance [default: after COMMAND]"),
    other(
        None,
        "    --control",
        "PATH|none",
        "its control socket [default: NAME.sock where verbs look for it]",
    ),
    other(None, "    --detach", "", "into the background once the first server is ready; 1 if it fails"),
    other(None, "-q", "", "say less"),
    other(None, "-v", "", "say more; twice: still more"),
    rare(None, "    --color", "WHEN", "auto, always or never [default: auto]"),
    rare(None, "    --strict", "", "a directive without effect is an error"),
    other(None, "-h, --help", "", "this help; the long form has everything"),
    other(None, "-V, --version", "", "print the version"),
];

const GROUPS: [(Heading, &str); 7] = [
    (Heading::Sockets, "Sockets"),
    (Heading::Process, "Process"),
    (Heading::Readiness, "Readiness"),
    (Heading::Restarting, "Restarting"),
    (Heading::Swapping, "Swapping"),
    (Heading::Stopping, "Stopping"),
    (Heading::Limits, "Limits"),
];

const USAGE: &str = "\
Holds a server's sockets, runs it on them, restarts it, and swaps in a new version without closing them.

Usage: supervise [OPTIONS] -- COMMAND [ARG]...
       supervise run [OPTIONS] UNIT...
       supervise check [OPTIONS] [--json] (UNIT... | -- COMMAND...)
       supervise VERB [NAME]
";

const ADDRESSES: &str = "
ADDRESS is 443 (every address, IPv4 and IPv6), 0.0.0.0:443, [::1]:443, [fe80::1]:80%eth0, localhost:8080, /run/x.sock,
@abstract, or fd:NAME and fd:3 for an inherited socket; port 0 lets the kernel pick. KIND is tcp, udp, unix, unixgram,
seqpacket or fd. NAME follows the last `=`; without it the name is the port or the path's file name.
{fd:NAME}, {port:NAME} and {addr:NAME} in COMMAND and in -E values are replaced, by the first socket of that name.
SPAN is 5 (seconds), 100ms, 1min 30s or infinity. SIG is a name with or without SIG, or a number.
";

const ENDING: &str = "
Signals: HUP swaps, TERM and INT stop (the second one kills), QUIT stops with SIGQUIT.
Exit status: the server's (128+n for signal n), 0 when asked to stop, 2 for a wrong command line, 125 when it cannot be
done, 126 and 127 when COMMAND cannot be executed or is not found. Verbs: 0 done, 1 refused or failed, 3 nothing runs.
";

const UNITS: &str = "
UNIT is a .service file or a .socket file of systemd, read with its drop-ins (FILE.d/*.conf); x@NAME.service is an
instance of x@.service. A socket file alone takes the service of its name beside it; files that are named together
belong together. Options are applied after the files. check says for each line whether it is honoured, inert or not
honoured, and what would be bound and run; it exits with 1 where something is not honoured.
";

const WITHOUT: &str = "
Sandboxing (Protect*, Private*, System*, Restrict*, ...), limits of cgroups (Memory*, CPU*, IO*, Tasks*, ...) and
conditions (Condition*, Assert*) have no effect: a warning or, by --strict, an error. docs/directives.md lists
every directive.
";

pub(super) const LIST: &str = "Usage: supervise list [--json]\n\nEvery instance of this user.\n";

pub(super) const EXEC: &str = "\
Usage: supervise exec -- COMMAND [ARG]...

Becomes COMMAND, after setting LISTEN_PID to its own pid (and WATCHDOG_PID, where there is a watchdog): for servers that
take sockets only where LISTEN_PID is theirs, behind wrappers that start them as a child:
    supervise -l 8080 -- sh -c 'make assets && exec supervise exec -- ./server'
Sockets that a wrapper closes (npm and its kin, Python's subprocess, sudo) are fetched from supervise; where that cannot
be, because the wrapper becomes another user as well, it is an error (125). Without LISTEN_FDS it says so and starts
COMMAND all the same, so that a script works without supervise, too. 126: COMMAND cannot be executed; 127: it is not found.
";

pub(super) fn verb(verb: &str) -> String {
    let (_, usage, doc) = VERBS.iter().find(|(name, ..)| *name == verb).copied().unwrap_or_default();
    let start = doc.chars().next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    let rest = doc.get(1..).unwrap_or_default();
    format!(
        "Usage: supervise {usage} [--control PATH]\n\n{start}{rest}.\n\
         NAME may be left out when exactly one instance runs (root: USER/NAME for those of others); --control names its\n\
         control socket instead.\n"
    )
}

/// The placeholder of a flag's value, for the message that the value is missing.
pub(super) fn value_of(flag: &str) -> &'static str {
    let directive = DIRECTIVES.iter().find(|row| {
        let long = row.flag.is_some_and(|long| flag.strip_prefix("--") == Some(long));
        long || row
            .short
            .is_some_and(|short| flag.strip_prefix('-').is_some_and(|flag| flag.chars().eq([short])))
    });
    let other = || OTHERS.iter().find(|other| other.flag.split([',', ' ']).any(|name| name == flag));
    directive.map(|row| row.value).or_else(|| other().map(|other| other.value)).unwrap_or("VALUE")
}

/// The verbs as `-h` lists them.
const BRIEF: &str = "\
Verbs:
  swap     start a new server, then stop the old one     status    what runs, and what happens next
  abort    take back the swap under way                  list      every instance of this user
  restart  stop the server, then start it                stop      end the server and the supervisor
  reload   have it load its configuration anew           kill SIG  send a signal to the server
  pause    stop it, connections wait; resume starts it   exec      -- COMMAND: become it, below a wrapper
  reexec   a new version of supervise takes over, all goes on
";

/// Directives that `-h` leaves out, in addition to lists of exit statuses.
const RARE: [&str; 6] =
    ["RestartSteps", "StartLimitIntervalSec", "StartLimitAction", "UMask", "DrainQuiet", "DieWithUs"];

/// The text of `-h`: one screen, one line for each flag.
pub(super) fn short() -> String {
    let mut out = format!("{USAGE}{BRIEF}");
    for (group, title) in
        GROUPS.map(|(group, title)| (Some(group), title)).into_iter().chain([(None, "Others")])
    {
        let mut lines = String::new();
        for other in OTHERS.iter().filter(|other| other.group == group && !other.rare) {
            line(&mut lines, &format!("{} {}", other.flag, other.value), other.doc);
        }
        let is_rare = |row: &Directive| row.key.ends_with("ExitStatus") || RARE.contains(&row.key);
        let is_short = |row: &&Directive| row.flag.is_some() && !is_rare(row);
        for row in DIRECTIVES.iter().filter(is_short).filter(|row| Some(row.group) == group) {
            let doc = row.doc.split("; ").next().unwrap_or_default();
            line(&mut lines, &label(row), &format!("{doc}{}", default(row)));
        }
        if !lines.is_empty() {
            let _ = write!(out, "{title}:\n{lines}");
        }
    }
    out
}

/// The text of `--help`: verbs, flags, and the directives that only `-p` sets.
pub(super) fn long() -> String {
    let mut out = format!("{USAGE}\nVerbs:\n");
    let others = [
        ("list", "list [--json]", "every instance of this user"),
        (
            "exec",
            "exec -- COMMAND [ARG]...",
            "become COMMAND, with LISTEN_PID as its own pid (below wrappers)",
        ),
    ];
    for (_, usage, doc) in VERBS.into_iter().chain(others) {
        line(&mut out, usage, doc);
    }
    for (group, title) in
        GROUPS.map(|(group, title)| (Some(group), title)).into_iter().chain([(None, "Others")])
    {
        let _ = write!(out, "\n{title}:\n");
        for other in OTHERS.iter().filter(|other| other.group == group) {
            line(&mut out, &format!("{} {}", other.flag, other.value), other.doc);
        }
        for row in DIRECTIVES.iter().filter(|row| Some(row.group) == group) {
            if matches!(row.support, Support::Honoured(_)) && !is_of_files(row) {
                line(&mut out, &label(row), &format!("{}{}", row.doc, default(row)));
            }
        }
    }
    out.push_str(ADDRESSES);
    out.push_str(UNITS);
    out.push_str(ENDING);
    out.push_str(WITHOUT);
    out
}

/// Whether a directive is for unit files alone: the command line has COMMAND and --listen in its place, or an earlier row
/// of the table has the same key.
pub(super) fn is_of_files(row: &Directive) -> bool {
    let first = DIRECTIVES.iter().find(|other| other.key == row.key);
    row.key.starts_with("Listen")
        || matches!(row.key, "ExecStart" | "Type" | "Accept" | "Service" | "Sockets" | "StartLimitInterval")
        || first.is_some_and(|first| first.section != row.section)
}

fn label(row: &Directive) -> String {
    let short = row.short.map_or_else(|| "    ".to_owned(), |short| format!("-{short}, "));
    match row.flag {
        Some(flag) if row.is_switch() => format!("{short}--{flag} "),
        Some(flag) => format!("{short}--{flag} {}", row.value),
        None => format!("-p {}={}", row.key, row.value),
    }
}

fn default(row: &Directive) -> String {
    if row.default.is_empty() { String::new() } else { format!(" [default: {}]", row.default) }
}

fn line(out: &mut String, label: &str, doc: &str) {
    let _ = writeln!(out, "  {:<38} {doc}", label.trim_end());
}
