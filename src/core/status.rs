//! Makes the object of `status` from the state.

use super::generation::Generation;
use super::report::{GenerationStatus, Next, Role, State, Status};
use super::service::{Phase, Service, Then};
use super::why::Why;
use super::{GenerationId, Time};

pub(super) fn status(service: &Service, next: Option<(Time, Why)>) -> Status {
    let is_up = |generation: &Generation| generation.ready().is_some() && generation.lives();
    let is_up = service.current().and_then(|id| service.get(id)).is_some_and(is_up);
    Status {
        name: String::new(),
        pid: 0,
        version: String::new(),
        state: state(service),
        doubt: service.current().and_then(|id| service.watch.doubt(id)).filter(|_| is_up),
        before: before(service),
        generation: service.current().filter(|id| service.get(*id).is_some()).map(|id| id.0),
        generations: service
            .generations
            .iter()
            .map(|generation| GenerationStatus {
                generation: generation.id.0,
                pid: generation.main.pid(),
                role: role(service, generation.id),
                since: generation.ordered.0.to_string(),
                ready_ms: generation.ready().map(|ready| ready.since(generation.ordered).as_millis()),
                connections: None,
                rss_kb: None,
                status: generation.said.status.clone(),
                traffic: service.traffic(generation),
            })
            .collect(),
        sockets: Vec::new(),
        restarts: service.ledger.restarts,
        last_swap: service.last_swap.clone(),
        next: next.map(|(time, why)| Next { at_ms: time.0, why: why.to_string() }),
    }
}

/// What has to end before the next generation starts, as `status` shows it beside the state.
fn before(service: &Service) -> Option<String> {
    let Phase::Replacing { current, then: Then::Start } = service.phase else { return None };
    let how = if service.get(current)?.is_draining() { "finishes its connections" } else { "stops" };
    Some(format!("{current} {how} first"))
}

fn role(service: &Service, id: GenerationId) -> Role {
    if service.is_candidate(id) {
        Role::Candidate
    } else if service.current() == Some(id) {
        Role::Current
    } else {
        Role::Draining
    }
}

fn state(service: &Service) -> State {
    match service.phase {
        Phase::Listening { .. } if service.ends_too_early() => State::Failed,
        Phase::Listening { .. } => State::Listening,
        Phase::Up { current } => match service.get(current) {
            Some(generation) if !generation.has_ended() && generation.ending().is_some() => State::Stopping,
            Some(generation) if !generation.lives() => State::Waiting,
            Some(generation) if generation.ready().is_some() => State::Running,
            Some(_) | None => State::Starting,
        },
        Phase::Swapping { .. } => State::Swapping,
        Phase::Replacing { then: Then::Start, .. } => State::Starting,
        Phase::Replacing { then: Then::Pause, .. } | Phase::Stopping { .. } => State::Stopping,
        Phase::Waiting { .. } => State::Waiting,
        Phase::Paused => State::Paused,
        Phase::Failed => State::Failed,
    }
}
