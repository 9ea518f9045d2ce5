//! Every deadline of the core.
//!
//! Nothing is armed or cancelled: the deadlines are read off the state each time, so a stale timer cannot exist.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::generation::{Gate, Generation};
use super::service::{LastLook, Phase, Service, Stop, Trial, Window};
use super::{ClientId, GenerationId, Time};
use crate::config::{CommandList, Ready, Span, Type};

/// What a wake-up is for. At one instant the earlier variant goes first: a server that is ready in the moment its
/// time runs out is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Why {
    /// When a generation has lived long enough to count as ready.
    Ready(GenerationId),
    /// When the file that was busy is executed again.
    Retry(GenerationId),
    /// When Ready=http: asks again, or has waited for long enough.
    Probe(GenerationId),
    /// When the processes of a generation are looked at: which of its sockets they wait on.
    Look(GenerationId),
    /// When it is looked at whether a candidate is stopped.
    Trial(GenerationId),
    /// When a candidate has proved itself on its share, and gets the whole.
    CanaryOver(GenerationId),
    /// When the old generation has been kept long enough beside the new one.
    BakeOver(GenerationId),
    /// When what waits where nobody serves is taken elsewhere, which failed before.
    Rescue,
    /// When the connections of a generation that finishes are counted again.
    Count(GenerationId),
    /// When an old generation is told to stop, finished or not.
    DrainOver(GenerationId),
    /// When a generation that is not ready has used up TimeoutStartSec=.
    StartTimeout(GenerationId),
    /// When the next WATCHDOG=1 is overdue.
    Watchdog(GenerationId),
    /// When a command beside the main process has taken too long.
    Command(GenerationId),
    /// When READY=1 after RELOADING=1 is overdue.
    Reload(GenerationId),
    /// When RuntimeMaxSec= is over.
    RuntimeMax(GenerationId),
    /// When a generation told to stop gets SIGKILL.
    Kill(GenerationId),
    /// When we stop waiting for what SIGKILL did not end.
    Abandon(GenerationId),
    /// When RestartSec= is over.
    Restart,
    /// When connections may start the server again.
    Listen,
    /// When what is left at the end gets SIGKILL.
    SweepKill,
    /// When we end without what is left.
    SweepAbandon,
    /// When `status --wait` is answered as things are.
    StatusWait(ClientId),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready(g) => write!(f, "generation {} counts as ready", g.0),
            Self::Retry(g) => {
                write!(f, "generation {} is tried again (its file is being written, or its PIDFile= is)", g.0)
            }
            Self::Probe(g) => write!(f, "generation {} is asked whether it is ready", g.0),
            Self::Look(g) => write!(f, "who of generation {} waits on its sockets is looked at", g.0),
            Self::Trial(g) => {
                write!(f, "generation {} has proved itself, unless a signal has stopped it", g.0)
            }
            Self::CanaryOver(g) => write!(f, "generation {} gets all new connections", g.0),
            Self::Rescue => write!(f, "connections that wait where nobody serves are taken elsewhere"),
            Self::Count(g) => write!(f, "the connections of generation {} are counted", g.0),
            Self::DrainOver(g) => write!(f, "generation {} is told to stop, finished or not", g.0),
            Self::BakeOver(g) => write!(f, "generation {} has the traffic for good", g.0),
            Self::StartTimeout(g) => write!(f, "generation {} must be ready", g.0),
            Self::Watchdog(g) => write!(f, "generation {} must have sent WATCHDOG=1", g.0),
            Self::Command(g) => write!(f, "a command of generation {} must be done", g.0),
            Self::Reload(g) => write!(f, "generation {} must have reloaded", g.0),
            Self::RuntimeMax(g) => write!(f, "generation {} has run for RuntimeMaxSec=", g.0),
            Self::Kill(g) => write!(f, "generation {} gets SIGKILL", g.0),
            Self::Abandon(g) => write!(f, "what is left of generation {} is given up", g.0),
            Self::Restart => write!(f, "restart"),
            Self::Listen => write!(f, "connections may start the server again"),
            Self::SweepKill => write!(f, "processes left get SIGKILL"),
            Self::SweepAbandon => write!(f, "end without the processes left"),
            Self::StatusWait(_) => write!(f, "a waiting status is answered"),
        }
    }
}

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
    match &service.phase {
        Phase::Swapping { new, trial: Trial::Canary(window), .. } => {
            due.extend(of_window(*window, Why::Trial(*new), Why::CanaryOver(*new)));
        }
        Phase::Swapping { new, trial: Trial::Bake { window, .. }, .. } => {
            due.extend(of_window(*window, Why::Trial(*new), Why::BakeOver(*new)));
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

/// Its last look, and after the answer its end.
fn of_window(window: Window, look: Why, over: Why) -> Option<(Time, Why)> {
    match window.look {
        LastLook::Due(time) => Some((time, look)),
        LastLook::Ordered => None,
        LastLook::Done => Some((window.over, over)),
    }
}

fn of_generation(service: &Service, generation: &Generation, due: &mut Vec<(Time, Why)>) {
    let id = generation.id;
    // EXTEND_TIMEOUT_USEC=: not before then.
    let extended = |time: Time| generation.said.extended.max(time);
    if let Some(running) = generation.command {
        due.push((extended(running.due), Why::Command(id)));
        if running.command.list == CommandList::StopPost {
            return;
        }
    }
    due.extend(generation.reload.as_ref().map(|reload| (reload.due, Why::Reload(id))));
    due.extend(generation.main.retry().map(|retry| (retry, Why::Retry(id))));
    if let Gate::Closed { probe: Some(probe) } = &generation.gate {
        due.push((probe.due, Why::Probe(id)));
    }
    due.extend(service.next_look(generation).map(|look| (look, Why::Look(id))));
    due.extend(service.next_count(generation).map(|count| (count, Why::Count(id))));
    due.extend(generation.drain().map(|drain| (drain.end(), Why::DrainOver(id))));
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
    let alive_for = match policy.ready {
        Ready::Delay(span) => span,
        Ready::Auto => service.auto_alive(generation),
        Ready::Notify | Ready::NotifyType | Ready::Exec | Ready::Http => Span::INFINITY,
    };
    if generation.is_gate_closed() {
        due.push((started.after(alive_for), Why::Ready(id)));
    }
    // What only has to live for a while cannot be late, and `auto` kills a candidate alone: whoever serves, also beside one,
    // is the best there is. But Type= may still wait for something.
    let gate_cannot_be_late = !generation.is_gate_closed()
        || matches!(policy.ready, Ready::Delay(_))
        || (policy.ready == Ready::Auto && !service.is_candidate(id));
    let waits_for_file = policy.has_pid_file && generation.has_no_daemon();
    let type_waits =
        (!generation.is_up() || waits_for_file) && !matches!(policy.service_type, Type::Simple | Type::Exec);
    if !gate_cannot_be_late || type_waits {
        due.push((extended(started.after(policy.timeout_start)), Why::StartTimeout(id)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Action, Event, Request, Reread, Setting, Supervisor};
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
