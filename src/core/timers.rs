//! Computes every deadline of the core, and so its next wake-up, from the state of the service.
//!
//! Nothing is armed or cancelled: the deadlines are read off the state each time, so a stale timer cannot exist.

use super::Time;
use super::generation::Generation;
use super::service::{Phase, Service, Stop, Trial};
use super::why::Why;
use crate::config::{CommandList, Ready, Span, Type};

/// The earliest deadline.
pub(super) fn next(service: &Service) -> Option<(Time, Why)> {
    deadlines(service).into_iter().min()
}

/// All deadlines of the present state.
fn deadlines(service: &Service) -> Vec<(Time, Why)> {
    let mut due = Vec::new();
    for generation in &service.generations {
        of_generation(service, generation, &mut due);
    }
    service.watched().deadlines(&mut due);
    match &service.phase {
        Phase::Swapping { new, .. } if !service.watched().is_tried(*new) => {}
        Phase::Swapping { new, trial: Trial::Canary { over }, .. } => {
            due.push((*over, Why::CanaryOver(*new)))
        }
        Phase::Swapping { new, trial: Trial::Bake { over, .. }, .. } => {
            due.push((*over, Why::BakeOver(*new)))
        }
        Phase::Waiting { until } => due.push((*until, Why::Restart)),
        Phase::Listening { hold_until: Some(until) } => due.push((*until, Why::Listen)),
        Phase::Stopping { stop: Stop { is_over: true, .. } } => return Vec::new(),
        Phase::Stopping { stop } => match stop.sweep {
            Some(sweep) if sweep.killed => due.push((sweep.due, Why::SweepAbandon)),
            Some(sweep) => due.push((sweep.due, Why::SweepKill)),
            None => {}
        },
        Phase::Listening { hold_until: None }
        | Phase::Swapping { trial: Trial::Gate, .. }
        | Phase::Up { .. }
        | Phase::Replacing { .. }
        | Phase::Paused
        | Phase::Failed => {}
    }
    due.extend(service.rescue_due.map(|time| (time, Why::Rescue)));
    due.extend(service.clients.status.iter().map(|(client, until)| (*until, Why::StatusWait(*client))));
    due.retain(|(time, _)| *time != Time::NEVER);
    due
}

fn of_generation(service: &Service, generation: &Generation, due: &mut Vec<(Time, Why)>) {
    let id = generation.id;
    // EXTEND_TIMEOUT_USEC= keeps these timeouts from coming earlier than it says.
    let extended = |time: Time| generation.said.extended.max(time);
    if let Some(running) = generation.command {
        due.push((extended(running.due), Why::Command(id)));
        if running.command.list == CommandList::StopPost {
            return;
        }
    }
    due.extend(generation.reload.as_ref().map(|reload| (reload.due, Why::Reload(id))));
    due.extend(generation.main.retry().map(|retry| (retry, Why::Retry(id))));
    if let Some(ending) = generation.ending() {
        due.push(if ending.killed {
            (ending.due, Why::Abandon(id))
        } else {
            (extended(ending.due), Why::Kill(id))
        });
        return;
    }
    let (Some(started), None) = (generation.started(), generation.end()) else { return };
    if let Some(active) = generation.active() {
        // The nanoseconds of the start are random enough.
        let extra = active.0 % generation.policy.runtime_extra.as_nanos().saturating_add(1).max(1);
        let over = active.after(generation.policy.runtime_max).after(Span::from_nanos(extra));
        due.push((extended(over), Why::RuntimeMax(id)));
    }
    if generation.ready().is_some() {
        due.extend(generation.watchdog().map(|time| (extended(time), Why::Watchdog(id))));
    } else {
        due_to_be_ready(service, generation, started, due, extended);
    }
}

fn due_to_be_ready(
    service: &Service,
    generation: &Generation,
    started: Time,
    due: &mut Vec<(Time, Why)>,
    extended: impl Fn(Time) -> Time,
) {
    let (id, policy) = (generation.id, &generation.policy);
    let is_gate_closed = service.watched().is_gate_closed(id);
    if is_gate_closed {
        due.push((started.after(service.watched().lives_for(id)), Why::Ready(id)));
    }
    // What only has to live for a while cannot be late, and `auto` kills a candidate alone: whoever serves, also beside one,
    // is the best there is. But Type= may still wait for something.
    let gate_cannot_be_late = !is_gate_closed
        || matches!(policy.ready, Ready::Delay(_))
        || (policy.ready == Ready::Auto && !service.is_candidate(id));
    let waits_for_file = policy.has_pid_file && generation.has_no_daemon();
    let type_waits =
        (!generation.is_up() || waits_for_file) && !matches!(policy.service_type, Type::Simple | Type::Exec);
    if !gate_cannot_be_late || type_waits {
        let late = started.after(policy.timeout_start).max(generation.start_spared);
        due.push((extended(late), Why::StartTimeout(id)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Action, ClientId, Event, GenerationId, Request, Reread, Setting, Supervisor};
    use super::*;
    use crate::config::Config;

    #[test]
    fn whoever_serves_cannot_be_late_for_auto_beside_a_candidate_either() {
        let setting = Setting { holds_sockets: true, steers: true, hup_ignored: false, init: false };
        let mut policy = Config::for_command_line().policy;
        policy.timeout_start = Span::from_secs(3);
        let mut core = Supervisor::new(policy.clone(), setting);
        let mut step = |millis: u64, event: Event| {
            let mut actions = Vec::new();
            core.step(Time(millis * 1_000_000), event, &mut actions);
            actions
        };
        let started = |id, pid| Event::Started { generation: GenerationId(id), pid };
        let is_stopped = |actions: &[Action], id| {
            let is_it =
                |action: &Action| matches!(action, Action::Kill { generation, .. } if generation.0 == id);
            actions.iter().any(is_it)
        };
        step(0, Event::Begun);
        step(0, started(1, 7));
        step(4_000, Event::Requested { client: ClientId(1), request: Request::Swap { wait: true } });
        let reread = Reread { policy, holds_sockets: true, steers: true, stored_fds: 0 };
        step(4_000, Event::Reread { result: Ok(Box::new(reread)) });
        step(4_001, started(2, 8));
        assert!(!is_stopped(&step(4_100, Event::Tick), 1));
    }
}
