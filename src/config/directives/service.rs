//! Rows of [Unit], [Service], systemd.kill(5) and [X-Supervise].

use std::path::{Component, PathBuf};

use super::super::choice::choice;
use super::super::number::boolean;
use super::super::{
    CommandList, Config, ExitType, FailureMode, KillMode, NotifyAccess, OpenFile, OpenMode, Problem, Restart,
    Signal, Span, StartLimitAction, StatusSet, Type, address, command_line, dialect,
};
use super::row::Heading::{Process, Readiness, Restarting, Stopping, Swapping};
use super::row::Section::{Service, Unit, XSupervise};
use super::row::{
    COMMAND, Context, Directive, LIST, MODE, NUMBER, PATH, SPAN, SWITCH, SetResult, expanded, row, scoped,
};
use super::swap;
use super::values::{count, grow, optional, put, signal, span, timeout, units};

#[rustfmt::skip]
pub(super) const ROWS: &[Directive] = &[
    row("Restart", Service, Restarting, "WHEN", restart,
        "when to restart the server; no, on-success, on-failure, on-abnormal, on-abort, on-watchdog or always")
            .flag("restart").default("on-failure"),
    row("RestartSec", Service, Restarting, SPAN, |c, v| span(v, &mut c.policy.delay.base),
        "the delay before a restart; given alone it does not grow").flag("restart-sec").default("100ms"),
    row("RestartSteps", Service, Restarting, NUMBER, |c, v| count(v, &mut c.policy.delay.steps),
        "in how many steps the delay grows to its maximum").flag("restart-steps").default("8"),
    row("RestartMaxDelaySec", Service, Restarting, SPAN, |c, v| span(v, &mut c.policy.delay.max),
        "the maximum of the delay").flag("restart-max-delay-sec").default("30s"),
    row("StartLimitBurst", Unit, Restarting, NUMBER, |c, v| count(v, &mut c.policy.start_limit.burst),
        "give up after this many automatic starts; 0: never")
            .flag("start-limit-burst").default("0"),
    row("StartLimitIntervalSec", Unit, Restarting, SPAN, |c, v| span(v, &mut c.policy.start_limit.interval),
        "the time within which StartLimitBurst= counts").flag("start-limit-interval-sec").default("10s"),
    row("StartLimitAction", Unit, Restarting, "ACTION", start_limit_action,
        "what giving up means; none: hold the sockets, exit: end with the server's last status")
            .flag("start-limit-action").default("none"),
    row("StartLimitInterval", Unit, Restarting, SPAN, |c, v| span(v, &mut c.policy.start_limit.interval),
        "the old name of StartLimitIntervalSec="),
    row("StartLimitInterval", Service, Restarting, SPAN, |c, v| span(v, &mut c.policy.start_limit.interval),
        "the old place of StartLimitIntervalSec="),
    row("StartLimitBurst", Service, Restarting, NUMBER, |c, v| count(v, &mut c.policy.start_limit.burst),
        "the old place of StartLimitBurst="),
    row("StartLimitAction", Service, Restarting, "ACTION", start_limit_action,
        "the old place of StartLimitAction="),
    scoped("SuccessExitStatus", Service, Restarting, LIST, |c, v, s| statuses(v, s, &mut c.policy.success),
        "exit statuses and signals that count as success as well").flag("success-exit-status"),
    scoped("RestartPreventExitStatus", Service, Restarting, LIST, |c, v, s| statuses(v, s, &mut c.policy.prevent),
        "exit statuses and signals after which it is never restarted").flag("restart-prevent-exit-status"),
    scoped("RestartForceExitStatus", Service, Restarting, LIST, |c, v, s| statuses(v, s, &mut c.policy.force),
        "exit statuses and signals after which it is always restarted").flag("restart-force-exit-status"),
    row("RemainAfterExit", Service, Restarting, SWITCH, |c, v| put(boolean(v)?, &mut c.policy.remain_after_exit),
        "the service stays active after a clean exit").default("no"),
    row("RuntimeMaxSec", Service, Restarting, SPAN, |c, v| span(v, &mut c.policy.runtime_max),
        "stop the server this long after its start").default("infinity"),
    row("RuntimeRandomizedExtraSec", Service, Restarting, SPAN, |c, v| span(v, &mut c.policy.runtime_extra),
        "a random extra of up to this for RuntimeMaxSec=").default("0"),
    //
    row("Ready", XSupervise, Readiness, "GATE", swap::ready,
        "when the server counts as ready; auto, notify (READY=1 alone), exec, delay:SPAN or http:[NAME]/PATH")
            .flag("ready").default("auto"),
    scoped("Type", Service, Readiness, "TYPE", service_type,
        "how the server starts; simple, exec, notify, notify-reload, forking, oneshot or idle"),
    row("ExitType", Service, Readiness, "TYPE", exit_type,
        "the server has ended once its main process has (main), or every process (cgroup)").default("main"),
    row("TimeoutStartSec", Service, Readiness, SPAN, |c, v| timeout(v, &mut c.policy.timeout_start),
        "how long a start may take; 0 or infinity: for ever").flag("timeout-start-sec").default("60s"),
    row("TimeoutStartFailureMode", Service, Readiness, MODE,
        |c, v| failure_mode(v, &mut c.policy.start_failure_mode),
        "what follows a start timeout; terminate, abort or kill").default("terminate"),
    row("NotifyAccess", Service, Readiness, "WHO", notify_access,
        "whose notifications count; none, main, exec or all").default("all"),
    row("WatchdogSec", Service, Readiness, SPAN, watchdog,
        "kill the server after this long without WATCHDOG=1; 0 is off")
            .flag("watchdog-sec").default("0"),
    expanded("PIDFile", Service, Readiness, PATH, pid_file,
        "where the server writes its pid; read again when that process ends, so a successor is followed"),
    row("GuessMainPID", Service, Readiness, SWITCH, |c, v| put(boolean(v)?, &mut c.launch.guess_main_pid),
        "without a PIDFile= take the only process for the main one").default("yes"),
    //
    row("TimeoutStopSec", Service, Stopping, SPAN, |c, v| timeout(v, &mut c.policy.timeout_stop),
        "how long the server may take to stop before SIGKILL; 0 or infinity: for ever")
            .flag("timeout-stop-sec").default("8s"),
    row("TimeoutStopFailureMode", Service, Stopping, MODE,
        |c, v| failure_mode(v, &mut c.policy.stop_failure_mode),
        "what follows a stop timeout; terminate, abort or kill").default("terminate"),
    row("TimeoutAbortSec", Service, Stopping, SPAN, timeout_abort,
        "like TimeoutStopSec=, after the watchdog signal"),
    row("TimeoutSec", Service, Stopping, SPAN, both_timeouts,
        "TimeoutStartSec= and TimeoutStopSec= in one"),
    //
    row("Bake", XSupervise, Swapping, SPAN, swap::bake,
        "how long the old server stays once the new one is ready").flag("bake").default("1s"),
    row("Drain", XSupervise, Swapping, SPAN, |c, v| span(v, &mut c.policy.drain),
        "how long the old server may finish its connections; then it gets the kill signal").flag("drain").default("10s"),
    row("DrainQuiet", XSupervise, Swapping, SPAN, |c, v| span(v, &mut c.policy.drain_quiet),
        "how long after an answer a quiet connection is idle").flag("drain-quiet").default("1s"),
    row("Canary", XSupervise, Swapping, "PCT:SPAN", swap::canary,
        "the share of connections a new server gets at first; a percentage and for how long, or off")
            .flag("canary").default("off"),
    row("Handover", XSupervise, Swapping, "HOW", swap::handover,
        "how old and new overlap; steered: supervise gives each its connections, shared: both accept, stop-first: not at all")
            .flag("handover").default("steered"),
    row("InterceptBind", XSupervise, Swapping, SWITCH, |c, v| put(boolean(v)?, &mut c.launch.intercept_bind),
        "give the server the held socket for its own bind()")
            .flag("intercept-bind").default("no"),
    row("Keeper", XSupervise, Process, SWITCH, |c, v| put(boolean(v)?, &mut c.launch.keeper),
        "a second process goes on where supervise is killed: no socket is closed, no server ends").default("no"),
    row("DieWithUs", XSupervise, Process, SWITCH, |c, v| put(boolean(v)?, &mut c.launch.die_with_us),
        "kill the server when supervise is killed; no keeper then").flag("die-with-us").default("no"),
    row("ReloadSignal", Service, Swapping, "SIG", |c, v| put(Signal::parse(v)?, &mut c.policy.reload_signal),
        "the signal that reloads a server of Type=notify-reload").default("SIGHUP"),
    //
    expanded("Description", Unit, Process, "TEXT", |c, v| optional(v, &mut c.description),
        "a name for the log"),
    scoped("ExecCondition", Service, Process, COMMAND, |c, v, s| commands(c, CommandList::Condition, v, s),
        "run before all others; status 1 to 254 skips the start, 255 fails it"),
    scoped("ExecStartPre", Service, Process, COMMAND, |c, v, s| commands(c, CommandList::StartPre, v, s),
        "run before the server"),
    scoped("ExecStart", Service, Process, COMMAND, |c, v, s| commands(c, CommandList::Start, v, s),
        "the server"),
    scoped("ExecStartPost", Service, Process, COMMAND, |c, v, s| commands(c, CommandList::StartPost, v, s),
        "run once it is ready"),
    scoped("ExecReload", Service, Process, COMMAND, |c, v, s| commands(c, CommandList::Reload, v, s),
        "run by the verb reload"),
    scoped("ExecStop", Service, Process, COMMAND, |c, v, s| commands(c, CommandList::Stop, v, s),
        "run to stop the server, before the kill signal"),
    scoped("ExecStopPost", Service, Process, COMMAND, |c, v, s| commands(c, CommandList::StopPost, v, s),
        "run after its end"),
    expanded("Sockets", Service, Process, LIST, |_, v| units(v, "socket"),
        "the .socket files to read beside it"),
    expanded("OpenFile", Service, Process, "PATH[:NAME[:HOW]]", open_file,
        "open this file and pass it after the sockets; read-only, append, truncate, graceful"),
    row("FileDescriptorStoreMax", Service, Process, NUMBER, |c, v| count(v, &mut c.launch.fd_store_max),
        "how many fds the server may leave for the next generation").default("0"),
    row("FileDescriptorStorePreserve", Service, Process, "WHEN", store_preserve,
        "restart or yes: they are kept as long as supervise runs"),
    row("NonBlocking", Service, Process, SWITCH, |c, v| put(boolean(v)?, &mut c.launch.non_blocking),
        "pass the sockets with O_NONBLOCK").default("no"),
    row("Protocol", XSupervise, Process, LIST,
        |c, v| grow(&mut c.launch.dialects, dialect::parse(v)?, v),
        "tell the server of its sockets in its own way, too; systemd, server-starter, einhorn, nginx or fpm"),
    row("InheritEnvironment", XSupervise, Process, SWITCH,
        |c, v| put(boolean(v)?, &mut c.launch.inherit_environment),
        "pass our own environment on; no: PATH, LANG and TERM alone").default("yes"),
];

#[rustfmt::skip]
pub(super) const KILL: &[Directive] = &[
    row("KillSignal", Service, Stopping, "SIG", |c, v| put(Signal::parse(v)?, &mut c.policy.kill_signal),
        "the signal that asks the server to stop").flag("kill-signal").default("SIGTERM"),
    row("KillMode", Service, Stopping, MODE, kill_mode,
        "which processes get signals; mixed and control-group leave none behind, process: the main process alone")
            .flag("kill-mode").default("mixed"),
    row("RestartKillSignal", Service, Stopping, "SIG", |c, v| signal(v, &mut c.policy.restart_kill_signal),
        "the kill signal if a start follows at once"),
    row("FinalKillSignal", Service, Stopping, "SIG", |c, v| put(Signal::parse(v)?, &mut c.policy.final_kill_signal),
        "the signal for what has not stopped in time").default("SIGKILL"),
    row("WatchdogSignal", Service, Stopping, "SIG", |c, v| put(Signal::parse(v)?, &mut c.policy.watchdog_signal),
        "the signal for a server that missed its watchdog").default("SIGABRT"),
    row("SendSIGHUP", Service, Stopping, SWITCH, |c, v| put(boolean(v)?, &mut c.policy.send_sighup),
        "SIGHUP right after the kill signal").default("no"),
    row("SendSIGKILL", Service, Stopping, SWITCH, |c, v| put(boolean(v)?, &mut c.policy.send_sigkill),
        "the last signal for what has not stopped in time").default("yes"),
];

fn timeout_abort(config: &mut Config, text: &str) -> SetResult {
    let field = &mut config.policy.timeout_abort;
    if text.is_empty() {
        return put(None, field);
    }
    let mut value = Span::ZERO;
    timeout(text, &mut value)?;
    put(Some(value), field)
}

/// Reads a list word by word, so that a wrong word does not take the others with it (as in systemd).
fn statuses(text: &str, scope: &Context<'_>, field: &mut StatusSet) -> SetResult {
    if text.trim().is_empty() {
        return field.add("");
    }
    for word in text.split_ascii_whitespace() {
        if let Err(problem) = field.add(word) {
            (scope.warn)(problem);
        }
    }
    Ok(())
}

fn restart(config: &mut Config, text: &str) -> SetResult {
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

fn start_limit_action(config: &mut Config, text: &str) -> SetResult {
    let actions = [
        ("none", StartLimitAction::None),
        ("exit", StartLimitAction::Exit),
        ("exit-force", StartLimitAction::Exit),
    ];
    put(choice(text, &actions)?, &mut config.policy.start_limit.action)
}

fn service_type(config: &mut Config, text: &str, scope: &Context<'_>) -> SetResult {
    if text == "dbus" {
        (scope.warn)(Problem::new("there is no bus to wait for", "it is started as Type=exec is"));
    }
    let types = [
        ("simple", Type::Simple),
        ("exec", Type::Exec),
        ("notify", Type::Notify),
        ("notify-reload", Type::NotifyReload),
        ("forking", Type::Forking),
        ("oneshot", Type::Oneshot),
        ("idle", Type::Simple),
        ("dbus", Type::Exec),
    ];
    put(choice(text, &types)?, &mut config.policy.service_type)
}

fn exit_type(config: &mut Config, text: &str) -> SetResult {
    put(
        choice(text, &[("main", ExitType::Main), ("cgroup", ExitType::Cgroup)])?,
        &mut config.policy.exit_type,
    )
}

fn failure_mode(text: &str, field: &mut FailureMode) -> SetResult {
    let modes =
        [("terminate", FailureMode::Terminate), ("abort", FailureMode::Abort), ("kill", FailureMode::Kill)];
    put(choice(text, &modes)?, field)
}

fn notify_access(config: &mut Config, text: &str) -> SetResult {
    let whose = [
        ("none", NotifyAccess::None),
        ("main", NotifyAccess::Main),
        ("exec", NotifyAccess::Exec),
        ("all", NotifyAccess::All),
    ];
    put(choice(text, &whose)?, &mut config.launch.notify_access)
}

fn watchdog(config: &mut Config, text: &str) -> SetResult {
    let value = Span::parse(text)?;
    put(if value.is_infinite() { Span::ZERO } else { value }, &mut config.policy.watchdog)
}

fn pid_file(config: &mut Config, text: &str) -> SetResult {
    put((!text.is_empty()).then(|| PathBuf::from(text)), &mut config.launch.pid_file)
}

fn kill_mode(config: &mut Config, text: &str) -> SetResult {
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

fn both_timeouts(config: &mut Config, text: &str) -> SetResult {
    timeout(text, &mut config.policy.timeout_start)?;
    timeout(text, &mut config.policy.timeout_stop)
}

fn commands(config: &mut Config, list: CommandList, text: &str, scope: &Context<'_>) -> SetResult {
    let new = command_line::parse(text, scope)?;
    let commands = &mut config.launch.commands;
    let list = match list {
        CommandList::Condition => &mut commands.condition,
        CommandList::StartPre => &mut commands.start_pre,
        CommandList::Start => &mut commands.start,
        CommandList::StartPost => &mut commands.start_post,
        CommandList::Reload => &mut commands.reload,
        CommandList::Stop => &mut commands.stop,
        CommandList::StopPost => &mut commands.stop_post,
    };
    grow(list, new, text)
}

fn store_preserve(_: &mut Config, text: &str) -> SetResult {
    if text == "no" {
        let cause = "stored fds are dropped only when supervise ends";
        return Err(Problem::new(cause, "leave the line out, or FileDescriptorStoreMax="));
    }
    choice(text, &[("restart", ()), ("yes", ())])
}

fn open_file(config: &mut Config, text: &str) -> SetResult {
    if text.is_empty() {
        config.launch.open_files.clear();
        return Ok(());
    }
    let mut parts = text.splitn(3, ':');
    let path = PathBuf::from(parts.next().unwrap_or_default());
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(Problem::new("the path is not absolute", "write OpenFile=/path[:name[:options]]"));
    }
    let file_name = || path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = parts.next().filter(|name| !name.is_empty()).map_or_else(file_name, str::to_owned);
    address::check_name(&name)?;
    let (mut mode, mut graceful) = (OpenMode::ReadWrite, false);
    for option in parts.next().unwrap_or_default().split(',').filter(|option| !option.is_empty()) {
        let new = choice(
            option,
            &[
                ("read-only", Some(OpenMode::ReadOnly)),
                ("append", Some(OpenMode::Append)),
                ("truncate", Some(OpenMode::Truncate)),
                ("graceful", None),
            ],
        )?;
        match new {
            None => graceful = true,
            Some(_) if mode != OpenMode::ReadWrite => {
                let cause = "read-only, append and truncate exclude each other";
                return Err(Problem::new(cause, "keep one of them"));
            }
            Some(new) => mode = new,
        }
    }
    config.launch.open_files.push(OpenFile { path, name, mode, graceful });
    Ok(())
}
