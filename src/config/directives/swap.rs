//! What decides a swap: Ready=, Canary=, Handover=, and what these and InterceptBind= need of the rest.

use super::service::put;
use super::table::Set;
use super::{Draft, Section, choice};
use crate::config::{Canary, Config, Error, Handover, Health, Kind, Problem, Ready, Span, printable};

pub(super) fn ready(config: &mut Config, text: &str) -> Set {
    config.health = None;
    let ready = if let Some(delay) = text.strip_prefix("delay:") {
        Ready::Delay(Span::parse(delay)?)
    } else if let Some(health) = text.strip_prefix("http:") {
        config.health = Some(parse_health(health)?);
        Ready::Http
    } else {
        choice(text, &[("auto", Ready::Auto), ("notify", Ready::Notify), ("exec", Ready::Exec)]).map_err(
            |problem| Problem {
                remedy: format!("{}, delay:SPAN or http:[NAME]/PATH", problem.remedy),
                ..problem
            },
        )?
    };
    if ready == Ready::Delay(Span::INFINITY) {
        return Err(Problem::new("an infinite delay is never over", "write a time: delay:5s"));
    }
    put(ready, &mut config.policy.ready)
}

/// `[NAME]/PATH`. What goes into a request line must not end it.
fn parse_health(text: &str) -> Result<Health, Problem> {
    let Some(slash) = text.find('/') else {
        return Err(Problem::new("http: needs a path", "write http:/health, or http:NAME/health"));
    };
    let (name, path) = text.split_at(slash);
    if let Some(c) = path.chars().find(|c| !c.is_ascii_graphic()) {
        let cause = format!("{:?} cannot stand in the path of a request", printable(&c.to_string()));
        return Err(Problem::new(cause, "write it as %XX"));
    }
    Ok(Health { socket: (!name.is_empty()).then(|| name.to_owned()), path: path.to_owned() })
}

/// As long as it lasts there is no other swap.
pub(super) fn bake(config: &mut Config, text: &str) -> Set {
    let span = Span::parse(text)?;
    if span.is_infinite() {
        return Err(Problem::new("a bake without an end never hands over for good", "write a time: 10s"));
    }
    put(span, &mut config.policy.bake)
}

/// `PCT:SPAN`, or off.
pub(super) fn canary(config: &mut Config, text: &str) -> Set {
    let remedy = "write a share and a time, 10:30s, or off";
    if matches!(text, "off" | "no" | "") {
        return put(None, &mut config.policy.canary);
    }
    let Some((share, span)) = text.split_once(':') else {
        return Err(Problem::new("Canary= is a share and a time", remedy));
    };
    let percent = share.trim().trim_end_matches('%').parse::<u8>().ok();
    let Some(percent) = percent.filter(|percent| (1..=99).contains(percent)) else {
        return Err(Problem::new(format!("{:?} is no share from 1 to 99", printable(share)), remedy));
    };
    let span = Span::parse(span)?;
    if span.is_infinite() || span == Span::ZERO {
        return Err(Problem::new("a canary without an end, or without time, is none", remedy));
    }
    put(Some(Canary { percent, span }), &mut config.policy.canary)
}

pub(super) fn handover(config: &mut Config, text: &str) -> Set {
    let ways =
        [("steered", Handover::Steered), ("shared", Handover::Shared), ("stop-first", Handover::StopFirst)];
    put(choice(text, &ways)?, &mut config.policy.handover)
}

/// The default for servers of which two cannot run at once, unless something else that was asked for needs both.
pub(in crate::config) fn known_handover(draft: &mut Draft) {
    let is_given = draft.place_of(Section::XSupervise, "Handover").is_some();
    let policy = &mut draft.config.policy;
    policy.handover_given = is_given;
    if !is_given && !policy.must_overlap() && draft.config.launch.runs_alone().is_some() {
        policy.handover = Handover::StopFirst;
    }
}

/// Ready=http: and Canary= reach one generation alone, which takes steering and a socket to do it with. `place` is where
/// a key was written.
pub(in crate::config) fn check_steering(
    config: &Config,
    place: impl Fn(&'static str) -> String,
) -> Result<(), Error> {
    let is_steered = config.policy.handover == Handover::Steered;
    let remedy = "write --handover steered (Handover=steered), or leave it out";
    if config.policy.canary.is_some() {
        if !is_steered {
            let cause = "only steered hand-over can give a share of the connections to the new server";
            return Err(Problem::new(cause, remedy).at(place("Canary")));
        }
        if !config.listeners.iter().any(|listener| matches!(listener.kind, Kind::Tcp | Kind::Udp)) {
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
    let streams = || config.listeners.iter().filter(|one| matches!(one.kind, Kind::Tcp | Kind::Unix));
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
