//! The setters of what decides a swap: Ready=, Bake=, Canary= and Handover=.

use super::super::choice::choice;
use super::super::{Canary, Config, Handover, Health, Problem, Ready, Span, printable};
use super::row::SetResult;
use super::values::put;

pub(super) fn ready(config: &mut Config, text: &str) -> SetResult {
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

/// Reads `[NAME]/PATH`. The path becomes part of a request line, so it must have no blanks and control characters.
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

/// Bake=: finite, because no other swap begins before it is over.
pub(super) fn bake(config: &mut Config, text: &str) -> SetResult {
    let span = Span::parse(text)?;
    if span.is_infinite() {
        return Err(Problem::new("a swap whose Bake= never ends would never be over", "write a time: 10s"));
    }
    put(span, &mut config.policy.bake)
}

/// Canary=: `PCT:SPAN` (a share of the new connections, for how long), or `off`.
pub(super) fn canary(config: &mut Config, text: &str) -> SetResult {
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
        return Err(Problem::new("a canary needs a time above 0 and below infinity", remedy));
    }
    put(Some(Canary { percent, span }), &mut config.policy.canary)
}

pub(super) fn handover(config: &mut Config, text: &str) -> SetResult {
    let ways =
        [("steered", Handover::Steered), ("shared", Handover::Shared), ("stop-first", Handover::StopFirst)];
    put(choice(text, &ways)?, &mut config.policy.handover)
}
