//! Checks and completes the configuration of a service once all lines of its unit files are read: what systemd
//! refuses, and the defaults that depend on other lines.

use std::path::{Path, PathBuf};

use super::super::close::{close, half_a_delay};
use super::super::directives::Draft;
use super::super::directives::row::Section;
use super::super::{
    Directory, DirectoryPath, Error, Handover, NotifyAccess, Problem, Ready, Restart, RestartDelay, Span,
    Type, Warning,
};

type Host<'a> = &'a dyn Fn(char) -> Option<String>;

/// Directives that are resolved when a process is started, so their errors need their place then.
const LATE: [&str; 8] = [
    "User",
    "Group",
    "SupplementaryGroups",
    "WorkingDirectory",
    "EnvironmentFile",
    "StandardInput",
    "StandardOutput",
    "StandardError",
];

/// Completes the configuration. `no_command` is the place for the error that nothing is to be started. Returns the
/// line that makes stop-first the default of Handover=.
pub(super) fn finish(
    draft: &mut Draft,
    (service, no_command): (&str, &str),
    host: Host<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Option<String>, Error> {
    check_commands(draft, service, no_command)?;
    // systemd ignores it as well.
    if let Some(half) = half_a_delay(draft) {
        warnings.push(Warning(half));
        let delay = &mut draft.config.policy.delay;
        *delay = RestartDelay { steps: 0, max: Span::INFINITY, ..*delay };
    }
    directories(draft, host);
    readiness(draft);
    let stop_first = handover(draft);
    let place = |key: &'static str| Some((key.into(), draft.place_of(Section::Service, key)?.to_owned()));
    draft.config.launch.places = LATE.into_iter().filter_map(place).collect();
    warnings.extend(close(draft, service)?);
    Ok(stop_first)
}

/// The load errors of systemd's service_verify().
fn check_commands(draft: &Draft, service: &str, no_command: &str) -> Result<(), Error> {
    let commands = &draft.config.launch.commands.start;
    let policy = &draft.config.policy;
    let Some(first) = commands.first() else {
        let problem = Problem::new("it has no ExecStart= line", "write one into its [Service] section");
        return Err(problem.at(no_command));
    };
    if policy.service_type != Type::Oneshot {
        if let Some(second) = commands.get(1) {
            let cause = format!("a second ExecStart= beside {}", first.place);
            let remedy = "write an empty ExecStart= before it to replace the first, or Type=oneshot";
            return Err(Problem::new(cause, remedy).at(second.place.as_str()));
        }
    } else if matches!(policy.restart, Restart::Always | Restart::OnSuccess) {
        let place = draft.place_of(Section::Service, "Restart").unwrap_or(service);
        let problem = Problem::new(
            "a service of Type=oneshot is not restarted after a success",
            "write Restart=on-failure, or another Type=",
        );
        return Err(problem.at(place));
    }
    Ok(())
}

/// The directories of systemd's system manager for root, else of its user manager.
fn directories(draft: &mut Draft, host: Host<'_>) {
    let is_given = draft.place_of(Section::Service, "WorkingDirectory").is_some();
    let launch = &mut draft.config.launch;
    if !is_given || launch.directory.is_none() {
        let is_root = host('U').is_none_or(|uid| uid == "0");
        let path = if is_root { DirectoryPath::Path(PathBuf::from("/")) } else { DirectoryPath::Home };
        launch.directory = Some(Directory { path, optional: false });
    }
    if let Some(path) = launch.pid_file.as_ref().filter(|path| path.is_relative()) {
        launch.pid_file = Some(Path::new(&host('t').unwrap_or_else(|| "/run".to_owned())).join(path));
    }
}

fn readiness(draft: &mut Draft) {
    let given = |section, key| draft.place_of(section, key).is_some();
    let has_ready = given(Section::XSupervise, "Ready");
    let has_timeout = given(Section::Service, "TimeoutStartSec") || given(Section::Service, "TimeoutSec");
    let policy = &mut draft.config.policy;
    let ready = match policy.service_type {
        Type::Notify | Type::NotifyReload => Ready::NotifyType,
        Type::Oneshot | Type::Forking => Ready::Exec,
        Type::Simple | Type::Exec => Ready::Auto,
    };
    if !has_ready {
        policy.ready = ready;
    }
    if policy.service_type == Type::Oneshot && !has_timeout {
        policy.timeout_start = Span::INFINITY;
    }
    let launch = &mut draft.config.launch;
    let speaks = matches!(policy.service_type, Type::Notify | Type::NotifyReload)
        || policy.ready == Ready::Notify
        || policy.watchdog != Span::ZERO
        || launch.fd_store_max > 0;
    if launch.notify_access == NotifyAccess::None && speaks {
        launch.notify_access = NotifyAccess::Main;
    }
}

/// Makes stop-first the default for units that assume the old process is gone; returns the line.
fn handover(draft: &mut Draft) -> Option<String> {
    if draft.place_of(Section::XSupervise, "Handover").is_some() {
        return None;
    }
    let launch = &draft.config.launch;
    let stop = launch.commands.stop.iter().chain(&launch.commands.stop_post).map(|exec| exec.place.clone());
    let pid_file = launch.pid_file.as_ref().and_then(|_| draft.place_of(Section::Service, "PIDFile"));
    let forking = (draft.config.policy.service_type == Type::Forking)
        .then(|| draft.place_of(Section::Service, "Type"))
        .flatten();
    let place = stop.chain(pid_file.map(str::to_owned)).chain(forking.map(str::to_owned)).next();
    if place.is_some() {
        draft.config.policy.handover = Handover::StopFirst;
    }
    place
}
