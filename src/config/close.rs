//! Checks and completes a [`Draft`] of the command line or of unit files by the rules that need several directives.

use std::collections::HashMap;
use std::rc::Rc;

use super::directives::Draft;
use super::directives::row::Section;
use super::{
    Address, Config, Error, Exec, Handover, Input, Kind, Listener, Output, Problem, Span, Type, Warning,
    dialect, placeholder, printable,
};

const STEPS: &str = "RestartSteps";
const LONGEST: &str = "RestartMaxDelaySec";

/// Completes the draft of a command line. Unless an option sets the restart delay, it grows (docs/directives.md).
///
/// # Errors
/// No COMMAND, only one of the two options for a growing delay, and those of [`close`].
pub fn command_line(mut draft: Draft) -> Result<(Config, Vec<Warning>), Error> {
    let commands = &draft.config.launch.commands.start;
    if commands.first().is_none_or(|exec| exec.path.is_empty()) {
        let problem = Problem::new("no COMMAND", "write it after --: supervise -l 8080 -- ./server");
        return Err(problem.at("command line"));
    }
    let is_given = |key| draft.place_of(Section::Service, key).is_some();
    let given = ["RestartSec", STEPS, LONGEST].map(is_given);
    let delay = &mut draft.config.policy.delay;
    if given != [false; 3] {
        let [_, has_steps, has_longest] = given;
        delay.steps = if has_steps { delay.steps } else { 0 };
        delay.max = if has_longest { delay.max } else { Span::INFINITY };
    }
    if let Some(half) = half_a_delay(&draft) {
        return Err(half);
    }
    let options = Rc::new(draft.config.socket.clone());
    draft.config.listeners.iter_mut().for_each(|listener| listener.options = Rc::clone(&options));
    let warnings = close(&mut draft, "command line")?;
    Ok((draft.config, warnings))
}

/// Applies the rules that hold for every draft. `whole` is the place for messages about something that no line says.
///
/// # Errors
/// Two sockets have one address, a placeholder or a standard stream names no socket, or an option needs Handover=steered.
pub(super) fn close(draft: &mut Draft, whole: &str) -> Result<Vec<Warning>, Error> {
    let mut warnings: Vec<Warning> = lower_delay(draft).into_iter().collect();
    known_handover(draft);
    let config = &mut draft.config;
    config.launch.forks = config.policy.service_type == Type::Forking;
    config.policy.has_pid_file = config.launch.pid_file.is_some();
    config.policy.commands = config.launch.commands.policy();
    check_listeners(config)?;
    check_placeholders(config)?;
    let place = |section, key| draft.place_of(section, key).unwrap_or(whole).to_owned();
    check_streams(&draft.config, |key| place(Section::Service, key))?;
    check_steering(&draft.config, |key| place(Section::XSupervise, key))?;
    warnings.extend(dialect::untold(&draft.config.launch.dialects, &draft.config.listeners));
    Ok(warnings)
}

/// The error that RestartSteps= or RestartMaxDelaySec= is set without the other and so has no effect.
pub(super) fn half_a_delay(draft: &Draft) -> Option<Error> {
    let delay = &draft.config.policy.delay;
    let (half, missing, remedy) = match (delay.steps > 0, !delay.max.is_infinite()) {
        (true, false) => {
            (STEPS, LONGEST, "add --restart-max-delay-sec 30s, in a unit RestartMaxDelaySec=30s")
        }
        (false, true) => (LONGEST, STEPS, "add --restart-steps 8, in a unit RestartSteps=8"),
        _ => return None,
    };
    let cause = format!("{half}= has no effect without {missing}=");
    let place = draft.place_of(Section::Service, half).unwrap_or(half);
    Some(Problem::new(cause, remedy).at(place))
}

/// Lowers RestartSec= to RestartMaxDelaySec= where it is longer, with a warning, as systemd does.
fn lower_delay(draft: &mut Draft) -> Option<Warning> {
    let place = draft.place_of(Section::Service, LONGEST).unwrap_or(LONGEST).to_owned();
    let delay = &mut draft.config.policy.delay;
    if delay.max >= delay.base {
        return None;
    }
    let cause = format!("RestartSec= is lowered from {} to {}", delay.base, delay.max);
    delay.base = delay.max;
    let remedy = "RestartMaxDelaySec= is the maximum of the delay, so write the larger one there";
    Some(Warning(Problem::new(cause, remedy).at(place)))
}

/// Checks that each `{fd:NAME}`, `{port:NAME}` and `{addr:NAME}` names a socket.
fn check_placeholders(config: &Config) -> Result<(), Error> {
    // Placeholders are ASCII, but a word that is not UTF-8 is passed on unread.
    let words = |exec: &Exec| {
        exec.words.iter().filter_map(|word| word.to_str()).map(str::to_owned).collect::<Vec<_>>()
    };
    for exec in &config.launch.commands.start {
        for word in words(exec) {
            let place = || format!("{} {}", exec.place, printable(&word));
            placeholder::check([word.as_str()], &config.listeners).map_err(|problem| problem.at(place()))?;
        }
    }
    for (name, value) in &config.launch.environment {
        // The place leaves the value out, which may be a secret.
        let place = || format!("-E {name}");
        placeholder::check([value.as_str()], &config.listeners).map_err(|problem| problem.at(place()))?;
    }
    Ok(())
}

/// Checks that no address is held twice. That is a typing error, and bind(2) would only report the address as in use.
fn check_listeners(config: &Config) -> Result<(), Error> {
    // A map, because there may be thousands of listeners.
    let mut places: HashMap<(Kind, &Address), &str> = HashMap::new();
    for listener in &config.listeners {
        let picked = listener.address.port() == Some(0) || listener.options.reuse_port;
        let before = places.get(&(listener.kind, &listener.address));
        if let Some(first) = before.filter(|_| !picked) {
            let cause = format!("this address is held already by {first}");
            let is_drop_in = listener.place.contains(".socket.d/");
            let remedy =
                if is_drop_in { replacing("ListenStream") } else { "leave one of them out".to_owned() };
            return Err(Problem::new(cause, remedy).at(listener.place.as_str()));
        }
        places.entry((listener.kind, &listener.address)).or_insert(&listener.place);
    }
    check_links(&config.listeners)
}

/// Checks that each set of Symlinks= has one path to point to. Listeners with equal lists come from one .socket file.
fn check_links(listeners: &[Listener]) -> Result<(), Error> {
    for listener in listeners.iter().filter(|listener| !listener.options.symlinks.is_empty()) {
        let same = listeners.iter().filter(|other| other.options.symlinks == listener.options.symlinks);
        let paths = same.filter(|other| matches!(other.address, Address::Path(_))).count();
        if paths != 1 {
            let cause = format!("Symlinks= needs exactly one unix path to lead to, and there are {paths}");
            let remedy = "leave it out, or use one .socket file for each path";
            return Err(Problem::new(cause, remedy).at(listener.place.as_str()));
        }
    }
    Ok(())
}

/// Checks that a stream connected to a socket (StandardInput=socket, fd:NAME) has exactly one to take: the only one
/// held, or the one named. `place` gives the line that set a key.
fn check_streams(config: &Config, place: impl Fn(&'static str) -> String) -> Result<(), Error> {
    let (launch, listeners) = (&config.launch, &config.listeners);
    // How many sockets an outer manager passes under a name is known only when they are taken over.
    if listeners.iter().any(|listener| listener.kind == Kind::Fd) {
        return Ok(());
    }
    let stdin = match &launch.stdin {
        Input::Socket => Some(None),
        Input::Fd(name) => Some(Some(name)),
        Input::Null | Input::Inherit | Input::File(_) | Input::Data(_) => None,
    };
    let of = |output| match output {
        &Output::Socket => Some(None),
        Output::Fd(name) => Some(Some(name)),
        _ => None,
    };
    let streams = [
        ("StandardInput", stdin),
        ("StandardOutput", of(&launch.stdout)),
        ("StandardError", of(&launch.stderr)),
    ];
    for (key, wanted) in streams {
        let problem = match wanted {
            Some(None) if listeners.len() != 1 => Problem::new(
                format!("{key}=socket needs exactly one socket, and there are {}", listeners.len()),
                format!("use {key}=fd:NAME"),
            ),
            Some(Some(name)) if listeners.iter().all(|listener| listener.name != *name) => {
                let names: Vec<&str> = listeners.iter().map(|listener| listener.name.as_str()).collect();
                Problem::new(
                    format!("{key}=fd:{}: no socket has this name", printable(name)),
                    format!(
                        "there are: {}; FileDescriptorName= names those of a .socket file",
                        names.join(", ")
                    ),
                )
            }
            Some(_) | None => continue,
        };
        return Err(problem.at(place(key)));
    }
    Ok(())
}

/// Makes stop-first the default if two of the server cannot run at once, unless an option needs both.
fn known_handover(draft: &mut Draft) {
    let is_given = draft.place_of(Section::XSupervise, "Handover").is_some();
    let policy = &mut draft.config.policy;
    policy.handover_given = is_given;
    if !is_given && !policy.must_overlap() && draft.config.launch.runs_alone().is_some() {
        policy.handover = Handover::StopFirst;
    }
}

/// Checks that Ready=http: and Canary=, which reach one generation alone, have steering and a stream socket.
fn check_steering(config: &Config, place: impl Fn(&'static str) -> String) -> Result<(), Error> {
    let is_steered = config.policy.handover == Handover::Steered;
    let remedy = "write --handover steered (Handover=steered), or leave it out";
    if config.policy.canary.is_some() {
        if !is_steered {
            let cause = "only steered hand-over can give a share of the connections to the new server";
            return Err(Problem::new(cause, remedy).at(place("Canary")));
        }
        if !config.listeners.iter().any(|listener| listener.kind.is_inet()) {
            let cause = "only the connections of TCP and UDP sockets can be shared out";
            return Err(Problem::new(cause, "leave it out").at(place("Canary")));
        }
    }
    if config.launch.intercept_bind && config.listeners.is_empty() {
        let cause = "there is no socket that a server could get in the place of its own";
        return Err(Problem::new(cause, "add one with --listen, or leave it out").at(place("InterceptBind")));
    }
    let Some(health) = &config.health else { return Ok(()) };
    if !is_steered {
        let cause = "asking the new server alone needs steered hand-over";
        return Err(Problem::new(cause, remedy).at(place("Ready")));
    }
    let streams = || config.listeners.iter().filter(|one| one.kind.is_stream());
    match &health.socket {
        None if streams().next().is_none() => {
            let cause = "http: needs a TCP or unix stream socket";
            Err(Problem::new(cause, "add one with --listen, or use notify, auto or delay:5s")
                .at(place("Ready")))
        }
        Some(name) if !streams().any(|one| one.name == *name) => {
            let cause = format!("no TCP or unix stream socket is called {:?}", printable(name));
            let names: Vec<&str> = streams().map(|one| one.name.as_str()).collect();
            let remedy = if names.is_empty() {
                "add one with --listen".to_owned()
            } else {
                format!("there is {}", names.join(", "))
            };
            Err(Problem::new(cause, remedy).at(place("Ready")))
        }
        None | Some(_) => Ok(()),
    }
}

/// The remedy for an address that was meant to replace an earlier one.
pub(super) fn replacing(key: &str) -> String {
    format!("an empty {key}= before this line replaces that")
}
