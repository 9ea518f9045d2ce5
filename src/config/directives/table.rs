//! The table itself: one row for each directive, its flag, its setter and its line of documentation beside each other.

use std::path::PathBuf;

use super::super::number::{boolean, integer, limit, octal, size, unsigned};
use super::super::{
    Config, Directory, DirectoryPath, EnvironmentFile, Handover, Input, KillMode, Problem, Ready, Resource,
    Restart, Signal, Span, StartLimitAction, environment, printable,
};
use super::Group::{Limits, Process, Readiness, Restarting, Sockets, Stopping, Swapping};
use super::Section::{Service, Socket, Unit, XSupervise};
use super::{Directive, choice};

const SPAN: &str = "SPAN";
const NUMBER: &str = "N";
const LIST: &str = "LIST";
const SIZE: &str = "SIZE";
const SWITCH: &str = "BOOL";
const NO_SANDBOX: &str =
    "supervise does not sandbox the server; run it in a container or under systemd for that";
const NO_CGROUP: &str = "supervise sets no cgroup limits; run it in a container or under systemd for that";

type Set = Result<(), Problem>;

const fn row(
    key: &'static str,
    section: super::Section,
    group: super::Group,
    value: &'static str,
    set: fn(&mut Config, &str) -> Set,
    doc: &'static str,
) -> Directive {
    Directive {
        key,
        section,
        group,
        value,
        flag: None,
        short: None,
        default: "",
        verdict: super::Verdict::Honoured(super::Setter::Plain(set)),
        doc,
    }
}

const fn refused(key: &'static str, reason: &'static str) -> Directive {
    let verdict = super::Verdict::NotHonoured(reason);
    Directive {
        key,
        section: Service,
        group: Limits,
        value: "",
        flag: None,
        short: None,
        default: "",
        verdict,
        doc: "",
    }
}

/// In the order of the help. Two lines a row: what it is and does, then its documentation, flag and default.
#[rustfmt::skip]
pub const DIRECTIVES: &[Directive] = &[
    row("Restart", Service, Restarting, "WHEN", restart,
        "when to start it again; no, on-success, on-failure, on-abnormal, on-abort, on-watchdog or always")
            .flag("restart").default("on-failure"),
    row("RestartSec", Service, Restarting, SPAN, |c, v| span(v, &mut c.policy.delay.base),
        "the wait before that; given alone it does not grow").flag("restart-sec").default("100ms"),
    row("RestartSteps", Service, Restarting, NUMBER, |c, v| count(v, &mut c.policy.delay.steps),
        "in how many steps the wait grows to the longest one").flag("restart-steps").default("8"),
    row("RestartMaxDelaySec", Service, Restarting, SPAN, |c, v| span(v, &mut c.policy.delay.max),
        "the longest wait").flag("restart-max-delay-sec").default("30s"),
    row("StartLimitBurst", Unit, Restarting, NUMBER, |c, v| count(v, &mut c.policy.start_limit.burst),
        "give up after so many automatic starts; 0 never")
            .flag("start-limit-burst").default("0"),
    row("StartLimitIntervalSec", Unit, Restarting, SPAN, |c, v| span(v, &mut c.policy.start_limit.interval),
        "within this time").flag("start-limit-interval-sec").default("10s"),
    row("StartLimitAction", Unit, Restarting, "ACTION", start_limit_action,
        "what to do then; none holds the sockets, exit ends with the server's last status")
            .flag("start-limit-action").default("none"),
    row("SuccessExitStatus", Service, Restarting, LIST, |c, v| c.policy.success.add(v),
        "exit statuses and signals that are a success as well").flag("success-exit-status"),
    row("RestartPreventExitStatus", Service, Restarting, LIST, |c, v| c.policy.prevent.add(v),
        "those after which it is never started again").flag("restart-prevent-exit-status"),
    row("RestartForceExitStatus", Service, Restarting, LIST, |c, v| c.policy.force.add(v),
        "those after which it always is").flag("restart-force-exit-status"),
    //
    row("Ready", XSupervise, Readiness, "GATE", ready,
        "when the server counts as ready; auto, notify (READY=1), exec or delay:SPAN")
            .flag("ready").default("auto"),
    row("TimeoutStartSec", Service, Readiness, SPAN, |c, v| timeout(v, &mut c.policy.timeout_start),
        "how long that may take; 0 or infinity: for ever").flag("timeout-start-sec").default("60s"),
    row("WatchdogSec", Service, Readiness, SPAN, watchdog,
        "kill the server after so long without WATCHDOG=1; 0 is off")
            .flag("watchdog-sec").default("0"),
    //
    row("KillSignal", Service, Stopping, "SIG", |c, v| put(Signal::parse(v)?, &mut c.policy.kill_signal),
        "the signal that asks the server to stop").flag("kill-signal").default("SIGTERM"),
    row("KillMode", Service, Stopping, "MODE", kill_mode,
        "whom it is for; mixed and control-group leave nothing behind, process is the main process alone")
            .flag("kill-mode").default("mixed"),
    row("TimeoutStopSec", Service, Stopping, SPAN, |c, v| timeout(v, &mut c.policy.timeout_stop),
        "how long the server may take to stop before SIGKILL; 0 or infinity: for ever")
            .flag("timeout-stop-sec").default("8s"),
    row("TimeoutSec", Service, Stopping, SPAN, both_timeouts,
        "TimeoutStartSec= and TimeoutStopSec= in one"),
    //
    row("Bake", XSupervise, Swapping, SPAN, |c, v| span(v, &mut c.policy.bake),
        "how long the old server stays once the new one is ready").flag("bake").default("1s"),
    row("Handover", XSupervise, Swapping, "HOW", handover,
        "whether old and new overlap; shared: both accept, stop-first: the old one is gone first")
            .flag("handover").default("shared"),
    //
    row("User", Service, Process, "USER", |c, v| optional(v, &mut c.launch.user),
        "run the server as this user, by name or number").flag("user").short('u'),
    row("Group", Service, Process, "GROUP", |c, v| optional(v, &mut c.launch.group),
        "and as this group").flag("group").short('g'),
    row("SupplementaryGroups", Service, Process, LIST, supplementary_groups,
        "further groups, with blanks between"),
    row("WorkingDirectory", Service, Process, "DIR", directory,
        "the server's directory; without it ours, looked up by its path at each start")
            .flag("working-directory").short('C'),
    row("Environment", Service, Process, "N[=V]", environment_line,
        "set a variable; without a value pass on ours").flag("setenv").short('E'),
    row("EnvironmentFile", Service, Process, "FILE", environment_file,
        "read variables from a file at each start; `-` before it: if it exists").flag("environment-file"),
    row("UMask", Service, Process, "MODE", umask,
        "the file mode mask, octal").flag("umask"),
    row("StandardInput", Service, Process, "WHAT", standard_input,
        "the server's stdin; null or inherit").flag("stdin").default("null"),
    row("NonBlocking", Service, Process, SWITCH, |c, v| put(boolean(v)?, &mut c.launch.non_blocking),
        "pass the sockets with O_NONBLOCK").default("no"),
    row("IgnoreSIGPIPE", Service, Process, SWITCH, |c, v| put(boolean(v)?, &mut c.launch.ignore_sigpipe),
        "start the server with SIGPIPE ignored").default("no"),
    row("Nice", Service, Process, NUMBER, |c, v| number(v, -20, 19, &mut c.launch.nice),
        "the scheduling priority, -20 to 19"),
    row("OOMScoreAdjust", Service, Process, NUMBER, oom_score_adjust,
        "-1000 (spare it) to 1000 (kill it first) when memory runs out"),
    //
    row("Backlog", Socket, Sockets, NUMBER, |c, v| count(v, &mut c.socket.backlog),
        "connections that may wait; the kernel caps it at net.core.somaxconn").default("4294967295"),
    row("BindIPv6Only", Socket, Sockets, "MODE", bind_ipv6_only,
        "default, both or ipv6-only: whether [::] takes IPv4, too").default("default"),
    row("SocketMode", Socket, Sockets, "MODE", |c, v| put(octal(v, 0o777)?, &mut c.socket.mode),
        "the mode of unix paths, octal").default("0666"),
    row("FreeBind", Socket, Sockets, SWITCH, |c, v| put(boolean(v)?, &mut c.socket.free_bind),
        "bind addresses that this host does not have yet").default("no"),
    row("NoDelay", Socket, Sockets, SWITCH, |c, v| put(boolean(v)?, &mut c.socket.no_delay),
        "TCP_NODELAY").default("no"),
    row("KeepAlive", Socket, Sockets, SWITCH, |c, v| put(boolean(v)?, &mut c.socket.keep_alive),
        "SO_KEEPALIVE").default("no"),
    row("DeferAcceptSec", Socket, Sockets, SPAN, defer_accept,
        "TCP_DEFER_ACCEPT, whole seconds; 0 is off").default("0"),
    row("ReceiveBuffer", Socket, Sockets, SIZE, |c, v| buffer(v, &mut c.socket.receive_buffer),
        "SO_RCVBUF, bytes or 64K"),
    row("SendBuffer", Socket, Sockets, SIZE, |c, v| buffer(v, &mut c.socket.send_buffer),
        "SO_SNDBUF, bytes or 64K"),
    //
    row("LimitCPU", Service, Limits, SPAN, |c, v| set_limit(c, Resource::Cpu, v),
        "RLIMIT_CPU, soft[:hard] like all of these"),
    row("LimitFSIZE", Service, Limits, SIZE, |c, v| set_limit(c, Resource::Fsize, v),
        "RLIMIT_FSIZE"),
    row("LimitDATA", Service, Limits, SIZE, |c, v| set_limit(c, Resource::Data, v),
        "RLIMIT_DATA"),
    row("LimitSTACK", Service, Limits, SIZE, |c, v| set_limit(c, Resource::Stack, v),
        "RLIMIT_STACK"),
    row("LimitCORE", Service, Limits, SIZE, |c, v| set_limit(c, Resource::Core, v),
        "RLIMIT_CORE"),
    row("LimitRSS", Service, Limits, SIZE, |c, v| set_limit(c, Resource::Rss, v),
        "RLIMIT_RSS"),
    row("LimitNOFILE", Service, Limits, NUMBER, |c, v| set_limit(c, Resource::Nofile, v),
        "RLIMIT_NOFILE"),
    row("LimitAS", Service, Limits, SIZE, |c, v| set_limit(c, Resource::As, v),
        "RLIMIT_AS"),
    row("LimitNPROC", Service, Limits, NUMBER, |c, v| set_limit(c, Resource::Nproc, v),
        "RLIMIT_NPROC"),
    row("LimitMEMLOCK", Service, Limits, SIZE, |c, v| set_limit(c, Resource::Memlock, v),
        "RLIMIT_MEMLOCK"),
    row("LimitLOCKS", Service, Limits, NUMBER, |c, v| set_limit(c, Resource::Locks, v),
        "RLIMIT_LOCKS"),
    row("LimitSIGPENDING", Service, Limits, NUMBER, |c, v| set_limit(c, Resource::Sigpending, v),
        "RLIMIT_SIGPENDING"),
    row("LimitMSGQUEUE", Service, Limits, SIZE, |c, v| set_limit(c, Resource::Msgqueue, v),
        "RLIMIT_MSGQUEUE"),
    row("LimitNICE", Service, Limits, NUMBER, |c, v| set_limit(c, Resource::Nice, v),
        "RLIMIT_NICE; with a sign it is the nice level"),
    row("LimitRTPRIO", Service, Limits, NUMBER, |c, v| set_limit(c, Resource::Rtprio, v),
        "RLIMIT_RTPRIO"),
    row("LimitRTTIME", Service, Limits, SPAN, |c, v| set_limit(c, Resource::Rttime, v),
        "RLIMIT_RTTIME, microseconds without a unit"),
    //
    refused("ProtectSystem", NO_SANDBOX),
    refused("ProtectHome", NO_SANDBOX),
    refused("ProtectKernelTunables", NO_SANDBOX),
    refused("ProtectKernelModules", NO_SANDBOX),
    refused("ProtectControlGroups", NO_SANDBOX),
    refused("PrivateTmp", NO_SANDBOX),
    refused("PrivateDevices", NO_SANDBOX),
    refused("PrivateNetwork", NO_SANDBOX),
    refused("NoNewPrivileges", NO_SANDBOX),
    refused("ReadWritePaths", NO_SANDBOX),
    refused("ReadOnlyPaths", NO_SANDBOX),
    refused("DynamicUser", NO_SANDBOX),
    refused("CapabilityBoundingSet", NO_SANDBOX),
    refused("AmbientCapabilities", NO_SANDBOX),
    refused("SystemCallFilter", NO_SANDBOX),
    refused("RestrictAddressFamilies", NO_SANDBOX),
    refused("RestrictNamespaces", NO_SANDBOX),
    refused("MemoryDenyWriteExecute", NO_SANDBOX),
    refused("MemoryMax", NO_CGROUP),
    refused("CPUQuota", NO_CGROUP),
    refused("TasksMax", NO_CGROUP),
];

fn put<T>(value: T, field: &mut T) -> Set {
    *field = value;
    Ok(())
}

fn span(text: &str, field: &mut Span) -> Set {
    put(Span::parse(text)?, field)
}

fn count(text: &str, field: &mut u32) -> Set {
    put(unsigned(text)?, field)
}

/// systemd reads a timeout of 0 as none.
fn timeout(text: &str, field: &mut Span) -> Set {
    let value = Span::parse(text)?;
    put(if value == Span::ZERO { Span::INFINITY } else { value }, field)
}

/// An empty text resets these to None.
fn optional(text: &str, field: &mut Option<String>) -> Set {
    put((!text.is_empty()).then(|| text.to_owned()), field)
}

fn number(text: &str, min: i32, max: i32, field: &mut Option<i32>) -> Set {
    let number = integer(text, min.into(), max.into())?;
    put(Some(i32::try_from(number).expect("between two i32")), field)
}

fn oom_score_adjust(config: &mut Config, text: &str) -> Set {
    number(text, -1000, 1000, &mut config.launch.oom_score_adjust)
}

fn buffer(text: &str, field: &mut Option<u64>) -> Set {
    let bytes = size(text)?;
    if i32::try_from(bytes).is_err() {
        return Err(Problem::new(
            "the buffer is larger than 2G",
            "the kernel caps it at net.core.rmem_max or wmem_max",
        ));
    }
    put(Some(bytes), field)
}

fn restart(config: &mut Config, text: &str) -> Set {
    let restart = choice(
        text,
        &[
            ("no", Restart::No),
            ("on-success", Restart::OnSuccess),
            ("on-failure", Restart::OnFailure),
            ("on-abnormal", Restart::OnAbnormal),
            ("on-abort", Restart::OnAbort),
            ("on-watchdog", Restart::OnWatchdog),
            ("always", Restart::Always),
        ],
    )?;
    put(restart, &mut config.policy.restart)
}

fn start_limit_action(config: &mut Config, text: &str) -> Set {
    let action = choice(text, &[("none", StartLimitAction::None), ("exit", StartLimitAction::Exit)])?;
    put(action, &mut config.policy.start_limit.action)
}

fn ready(config: &mut Config, text: &str) -> Set {
    let ready = if let Some(delay) = text.strip_prefix("delay:") {
        Ready::Delay(Span::parse(delay)?)
    } else if text.starts_with("http:") {
        let cause = "asking the new server alone by HTTP needs steering, which this version does not have";
        return Err(Problem::new(
            cause,
            "use notify with a server that sends READY=1, else auto or delay:5s",
        ));
    } else {
        choice(text, &[("auto", Ready::Auto), ("notify", Ready::Notify), ("exec", Ready::Exec)])
            .map_err(|problem| Problem { remedy: format!("{} or delay:SPAN", problem.remedy), ..problem })?
    };
    if ready == Ready::Delay(Span::INFINITY) {
        return Err(Problem::new("an infinite delay is never over", "write a time: delay:5s"));
    }
    put(ready, &mut config.policy.ready)
}

fn watchdog(config: &mut Config, text: &str) -> Set {
    let value = Span::parse(text)?;
    put(if value.is_infinite() { Span::ZERO } else { value }, &mut config.policy.watchdog)
}

fn kill_mode(config: &mut Config, text: &str) -> Set {
    if text == "none" {
        let cause = "none would leave processes of old generations behind";
        return Err(Problem::new(cause, "use process to signal the main process alone"));
    }
    let modes = [
        ("mixed", KillMode::Mixed),
        ("control-group", KillMode::ControlGroup),
        ("process", KillMode::Process),
    ];
    put(choice(text, &modes)?, &mut config.policy.kill_mode)
}

fn both_timeouts(config: &mut Config, text: &str) -> Set {
    timeout(text, &mut config.policy.timeout_start)?;
    timeout(text, &mut config.policy.timeout_stop)
}

fn handover(config: &mut Config, text: &str) -> Set {
    if text == "steered" {
        return Err(Problem::new("this version does not steer connections", "use shared or stop-first"));
    }
    put(
        choice(text, &[("shared", Handover::Shared), ("stop-first", Handover::StopFirst)])?,
        &mut config.policy.handover,
    )
}

fn supplementary_groups(config: &mut Config, text: &str) -> Set {
    let groups = &mut config.launch.supplementary_groups;
    if text.trim().is_empty() {
        groups.clear();
    }
    groups.extend(text.split_whitespace().map(str::to_owned));
    Ok(())
}

fn directory(config: &mut Config, text: &str) -> Set {
    if text == "~" || text.starts_with("~/") {
        return Err(Problem::new("`~` is not looked up", "write the home directory out, or \"$HOME\""));
    }
    if text.starts_with("-/") {
        return Err(Problem::new("a missing directory cannot be ignored", "leave the `-` out"));
    }
    let path = |text| Directory { path: DirectoryPath::Path(PathBuf::from(text)), optional: false };
    put((!text.is_empty()).then(|| path(text)), &mut config.launch.directory)
}

/// Environment= of a unit file; the command line has `-E`, which is one assignment.
fn environment_line(config: &mut Config, text: &str) -> Set {
    let mut new = Vec::new();
    for word in environment::words(text)? {
        if !word.contains('=') {
            let cause = format!("{:?} is no assignment", printable(&word));
            return Err(Problem::new(cause, "write NAME=VALUE, or -E NAME to pass ours on"));
        }
        new.push(environment::assignment(&word, |_| None)?);
    }
    if new.is_empty() {
        config.launch.environment.clear();
    }
    config.launch.environment.append(&mut new);
    Ok(())
}

fn environment_file(config: &mut Config, text: &str) -> Set {
    let files = &mut config.launch.environment_files;
    let (path, optional) = match text.strip_prefix('-') {
        Some(path) => (path, true),
        None => (text, false),
    };
    match (path, optional) {
        ("", false) => files.clear(),
        ("", true) => {
            return Err(Problem::new("no file after `-`", "write -FILE for one that may be missing"));
        }
        _ => files.push(EnvironmentFile { path: path.into(), optional }),
    }
    Ok(())
}

fn umask(config: &mut Config, text: &str) -> Set {
    put(Some(octal(text, 0o777)?), &mut config.launch.umask)
}

fn standard_input(config: &mut Config, text: &str) -> Set {
    if text == "tty" {
        return Err(Problem::new(
            "this version hands no terminal over",
            "use null, or inherit with a pipe or a file",
        ));
    }
    let inherits = choice(text, &[("null", false), ("inherit", true)])?;
    put(if inherits { Input::Inherit } else { Input::Null }, &mut config.launch.stdin)
}

fn bind_ipv6_only(config: &mut Config, text: &str) -> Set {
    let modes = [("default", None), ("both", Some(false)), ("ipv6-only", Some(true))];
    put(choice(text, &modes)?, &mut config.socket.v6_only)
}

fn defer_accept(config: &mut Config, text: &str) -> Set {
    let value = Span::parse(text)?;
    // The option is an int of seconds; a day is beyond anything the kernel retries for.
    if value > Span::from_secs(86_400) {
        return Err(Problem::new("longer than a day", "write seconds: 5"));
    }
    put(value, &mut config.socket.defer_accept)
}

/// The last one of a resource counts; an empty text takes it away.
fn set_limit(config: &mut Config, resource: Resource, text: &str) -> Set {
    let new = if text.is_empty() { None } else { Some(limit(resource, text)?) };
    config.launch.limits.retain(|limit| limit.resource != resource);
    config.launch.limits.extend(new);
    Ok(())
}
