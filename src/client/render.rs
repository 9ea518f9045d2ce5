//! The text of `status` and `list`: aligned, short, safe for a terminal.

use std::fmt::{Display, Write as _};

use jiff::Timestamp;

use crate::config::Span;
use crate::core::report::{GenerationStatus, LastSwap, Outcome, Role, SocketStatus, State, Status, rounded};

/// The text of `status`; `now` turns points in time into ages.
pub(super) fn status(status: &Status, now: Timestamp) -> String {
    let mut parts = vec![head(status, now)];
    if !status.generations.is_empty() {
        let headings = ["GENERATION", "PID", "ROLE", "AGE", "READY", "CONNECTIONS", "RSS", "STATUS"];
        parts.push(table(&headings, status.generations.iter().map(|one| generation(one, now))));
    }
    if !status.sockets.is_empty() {
        let headings = ["SOCKET", "ADDRESS", "KIND", "FD", "QUEUE", "MODE"];
        parts.push(table(&headings, status.sockets.iter().map(socket)));
    }
    parts.extend(status.last_swap.as_ref().map(last_swap));
    parts.join("\n")
}

fn head(status: &Status, now: Timestamp) -> String {
    let mut text = format!("{} (pid {}): {}", printable(&status.name), status.pid, state(status.state));
    for words in [&status.doubt, &status.before].into_iter().flatten() {
        let _ = write!(text, " ({})", printable(words));
    }
    if let Some(generation) = status.generation {
        let _ = write!(text, ", generation {generation}");
    }
    let is_candidate =
        |one: &&GenerationStatus| one.role == Role::Candidate && status.state == State::Swapping;
    for one in status.generations.iter().filter(is_candidate) {
        let share = match one.traffic {
            Some(100) => " has all new connections".to_owned(),
            Some(share) => format!(" has {share}% of new connections"),
            None => String::new(),
        };
        let _ = write!(text, " is current, candidate {}{share}", one.generation);
    }
    match status.restarts {
        0 => {}
        1 => text.push_str(", restarted once"),
        restarts => {
            let _ = write!(text, ", restarted {restarts} times");
        }
    }
    text.push('\n');
    if let Some(next) = &status.next {
        let now = u64::try_from(now.as_millisecond()).unwrap_or(0);
        let left = rounded(Span::from_millis(next.at_ms.saturating_sub(now)));
        let _ = writeln!(text, "next in {left}: {}", printable(&next.why));
    }
    text
}

fn generation(one: &GenerationStatus, now: Timestamp) -> Vec<String> {
    vec![
        one.generation.to_string(),
        figure(one.pid),
        role(one.role).to_owned(),
        age(&one.since, now),
        one.ready_ms.map_or_else(|| "not yet".to_owned(), |ms| rounded(Span::from_millis(ms))),
        figure(one.connections),
        one.rss_kb.map_or_else(|| "-".to_owned(), memory),
        one.status.clone().unwrap_or_default(),
    ]
}

fn socket(one: &SocketStatus) -> Vec<String> {
    let queue = match (one.queue, one.backlog) {
        (None, None) => "-".to_owned(),
        (queue, backlog) => format!("{}/{}", figure(queue), figure(backlog)),
    };
    vec![one.name.clone(), one.address.clone(), one.kind.clone(), one.fd.to_string(), queue, one.mode.clone()]
}

fn last_swap(swap: &LastSwap) -> String {
    let from = swap.from.map_or_else(|| "nothing".to_owned(), |from| from.to_string());
    let outcome = match swap.outcome {
        Outcome::Swapped => "swapped",
        Outcome::TakenOverUnseen => "taken over unseen",
        Outcome::RolledBack => "rolled back",
        Outcome::Refused => "refused",
    };
    let mut text = match swap.to {
        Some(to) => format!("last swap: {from} -> {to}, {outcome}"),
        None => format!("last swap: {from} -> none, {outcome}"),
    };
    let millis = |ms| rounded(Span::from_millis(ms));
    let facts = [
        swap.ready_ms.map(|ms| format!("ready in {}", millis(ms))),
        swap.drain_ms.map(|ms| format!("drained in {}", millis(ms))),
        swap.cut.map(|cut| format!("{cut} connections cut")),
        swap.closed_idle.map(|idle| format!("{idle} idle ones closed")),
    ];
    for fact in facts.into_iter().flatten() {
        text.push_str(", ");
        text.push_str(&fact);
    }
    if let Some(reason) = &swap.reason {
        let _ = write!(text, ": {}", printable(reason));
    }
    text.push('\n');
    text
}

pub(super) fn state(state: State) -> &'static str {
    match state {
        State::Listening => "listening",
        State::Starting => "starting",
        State::Running => "running",
        State::Swapping => "swapping",
        State::Waiting => "waiting",
        State::Paused => "paused",
        State::Stopping => "stopping",
        State::Failed => "failed",
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Current => "current",
        Role::Candidate => "candidate",
        Role::Draining => "draining",
    }
}

/// A number, or a dash where it is unknown.
pub(super) fn figure(number: Option<impl Display>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

fn memory(kb: u64) -> String {
    let tenths = |unit: u64| format!("{}.{}", kb / unit, kb % unit * 10 / unit);
    match kb {
        0..1024 => format!("{kb} kB"),
        1024..1_048_576 => format!("{} MB", tenths(1024)),
        _ => format!("{} GB", tenths(1_048_576)),
    }
}

/// How long ago an RFC 3339 time was; another text is returned unchanged.
fn age(since: &str, now: Timestamp) -> String {
    let Ok(since) = since.parse::<Timestamp>() else { return since.to_owned() };
    let millis = now.as_millisecond().saturating_sub(since.as_millisecond());
    rounded(Span::from_millis(u64::try_from(millis).unwrap_or(0)))
}

/// Columns as wide as their widest cell, two blanks apart, without trailing blanks.
pub(super) fn table(headings: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let headings = headings.iter().map(|heading| (*heading).to_owned()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(headings)
        .chain(rows)
        .map(|row: Vec<String>| row.iter().map(|cell| printable(cell)).collect())
        .collect();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..rows[0].len()).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// `text` without means to steer a terminal: control characters and those that change the direction are replaced.
pub(super) fn printable(text: &str) -> String {
    let steers = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::report::Next;

    fn example() -> Status {
        let one = |generation, role, status: Option<&str>| GenerationStatus {
            generation,
            pid: Some(4200),
            role,
            since: "2026-01-02T03:04:05Z".to_owned(),
            ready_ms: (generation == 2).then_some(120),
            connections: None,
            rss_kb: Some(49_357),
            status: status.map(str::to_owned),
            traffic: Some(if generation == 2 { 0 } else { 100 }),
        };
        let web = SocketStatus {
            name: "web".to_owned(),
            address: "127.0.0.1:8080".to_owned(),
            kind: "tcp".to_owned(),
            fd: 3,
            queue: Some(0),
            backlog: Some(4096),
            mode: "shared".to_owned(),
        };
        let swap = LastSwap {
            from: Some(1),
            to: Some(2),
            outcome: Outcome::Swapped,
            reason: None,
            ready_ms: Some(120),
            drain_ms: Some(1500),
            cut: Some(0),
            closed_idle: None,
        };
        Status {
            name: "node".to_owned(),
            pid: 42,
            version: "0.1.0".to_owned(),
            state: State::Swapping,
            doubt: None,
            before: None,
            generation: Some(2),
            generations: vec![
                one(2, Role::Current, Some("\x1b[31mred\u{9b}")),
                one(3, Role::Candidate, None),
            ],
            sockets: vec![web],
            restarts: 2,
            last_swap: Some(swap),
            next: Some(Next { at_ms: 1_767_323_105_500, why: "generation 3 must be ready".to_owned() }),
        }
    }

    #[test]
    fn a_status_reads_at_a_glance() {
        let now = "2026-01-02T03:05:00Z".parse().unwrap();
        let expected = "\
node (pid 42): swapping, generation 2 is current, candidate 3 has all new connections, restarted 2 times
next in 5.5s: generation 3 must be ready

GENERATION  PID   ROLE       AGE  READY    CONNECTIONS  RSS      STATUS
2           4200  current    55s  120ms    -            48.2 MB  \u{fffd}[31mred\u{fffd}
3           4200  candidate  55s  not yet  -            48.2 MB

SOCKET  ADDRESS         KIND  FD  QUEUE   MODE
web     127.0.0.1:8080  tcp   3   0/4096  shared

last swap: 1 -> 2, swapped, ready in 120ms, drained in 1.5s, 0 connections cut
";
        assert_eq!(status(&example(), now), expected);
    }

    #[test]
    fn a_doubt_stands_beside_the_state() {
        let doubt = Some("nobody waits on web; kept, because no other generation exists".to_owned());
        let text = head(&Status { state: State::Running, doubt, ..example() }, Timestamp::UNIX_EPOCH);
        let first = "node (pid 42): running (nobody waits on web; kept, because no other generation exists), generation 2,";
        assert!(text.starts_with(first), "{text}");
    }

    #[test]
    fn times_that_make_no_sense_do_no_harm() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(age("2026-01-02T03:05:00Z", now), "0ms");
        assert_eq!(age("yesterday", now), "yesterday");
        let mut early = example();
        early.next = Some(Next { at_ms: u64::MAX, why: "\n".to_owned() });
        assert!(head(&early, now).ends_with(": \u{fffd}\n"));
    }
}
