//! The kernel under generations as unit files make them: commands round the main process, every Type=, reloads, files
//! read anew. The rules are those of systemd.service(5) for the order of commands.

mod rules;
mod scripts;

use std::mem::take;

use fastrand::Rng;
use socket_supervise::config::{
    Canary, CommandPolicy, Config, ExitType, FailureMode, Handover, KillMode, Policy, Ready, Restart, Signal,
    Span, Type,
};
use socket_supervise::core::{Request, Setting};

use crate::kernel::{Kernel, MS, SECOND};
use crate::{Lived, caught, histories, pick};
use rules::UnitRules;

type Units = Kernel<UnitRules>;

/// Mostly one command or none, each with or without `-`.
fn list(rng: &mut Rng, most: usize) -> Vec<bool> {
    let count = if rng.bool() { 0 } else { rng.usize(..=most) };
    (0..count).map(|_| rng.u8(..4) == 0).collect()
}

fn policy(rng: &mut Rng) -> Policy {
    let service_type = pick(
        rng,
        &[Type::Simple, Type::Exec, Type::Notify, Type::NotifyReload, Type::Forking, Type::Oneshot],
    );
    let start = match service_type {
        Type::Oneshot => (0..rng.usize(1..4)).map(|_| rng.u8(..4) == 0).collect(),
        Type::Simple | Type::Exec | Type::Notify | Type::NotifyReload | Type::Forking => {
            vec![rng.u8(..8) == 0]
        }
    };
    let ready = match service_type {
        Type::Notify | Type::NotifyReload => pick(rng, &[Ready::Notify, Ready::NotifyType]),
        Type::Forking | Type::Oneshot => Ready::Exec,
        Type::Simple | Type::Exec => pick(rng, &[Ready::Auto, Ready::Exec, Ready::Notify, Ready::Http]),
    };
    let secs = Span::from_secs;
    let mode = [FailureMode::Terminate, FailureMode::Abort, FailureMode::Kill];
    let restarts = [Restart::No, Restart::OnSuccess, Restart::OnFailure, Restart::Always];
    let restart = if service_type == Type::Oneshot { Restart::OnFailure } else { pick(rng, &restarts) };
    Policy {
        service_type,
        commands: CommandPolicy {
            condition: list(rng, 2),
            start_pre: list(rng, 2),
            start,
            start_post: list(rng, 2),
            reload: list(rng, 2),
            stop: list(rng, 2),
            stop_post: list(rng, 2),
        },
        ready,
        restart,
        timeout_start: pick(rng, &[secs(2), secs(60)]),
        timeout_stop: pick(rng, &[secs(1), secs(5)]),
        timeout_abort: pick(rng, &[None, Some(secs(2))]),
        start_failure_mode: pick(rng, &mode),
        stop_failure_mode: pick(rng, &mode),
        runtime_max: pick(rng, &[Span::INFINITY, Span::INFINITY, secs(7)]),
        remain_after_exit: rng.u8(..4) == 0,
        exit_type: pick(rng, &[ExitType::Main, ExitType::Main, ExitType::Main, ExitType::Cgroup]),
        has_pid_file: service_type == Type::Forking && rng.bool(),
        send_sighup: rng.u8(..4) == 0,
        send_sigkill: rng.u8(..8) > 0,
        kill_mode: pick(rng, &[KillMode::ControlGroup, KillMode::Mixed, KillMode::Process]),
        watchdog: pick(rng, &[Span::ZERO, Span::ZERO, secs(3)]),
        reload_signal: Signal::from_number(10).expect("SIGUSR1"),
        bake: pick(rng, &[Span::ZERO, secs(1), secs(5)]),
        drain: pick(rng, &[Span::ZERO, secs(1), secs(10)]),
        canary: pick(rng, &[None, Some(Canary { percent: 10, span: secs(1) })]),
        handover: pick(rng, &[Handover::Steered, Handover::StopFirst]),
        ..Config::for_units().policy
    }
}

/// One thing that a user does.
fn act(units: &mut Units) {
    let request = match units.rng.u8(..22) {
        0..=2 => Request::Swap { wait: units.rng.bool() },
        3..=6 => Request::Reload,
        7 => Request::Restart,
        8 => Request::Pause,
        9 | 10 => Request::Resume,
        11 => Request::Kill { signal: Signal::HUP },
        12 => Request::Status { wait_ns: Some(SECOND) },
        16 => Request::Abort,
        13 => return units.client_goes(),
        14 => return units.signal(Signal::HUP),
        15 => return units.stray(),
        17 => return units.freeze(),
        _ => return units.connect(),
    };
    units.request(request);
}

fn live(seed: u64, traced: bool) -> Lived {
    let mut rng = Rng::with_seed(seed);
    let holds_sockets = rng.u8(..4) > 0;
    let steers = holds_sockets && rng.bool();
    let setting = Setting { holds_sockets, steers, hup_ignored: false, init: rng.u8(..8) == 0 };
    let first = policy(&mut rng);
    let mut units = Units::new(rng.fork(), first, setting);
    units.trace.on = traced;
    let result = caught(&mut units, |units| {
        for _ in 0..rng.u32(5..40) {
            let span = pick(&mut rng, &[0, 100 * MS, 3 * SECOND, 3 * SECOND, 10 * SECOND]);
            units.run_for(rng.u64(..=span));
            if units.ended.is_some() {
                break;
            }
            act(units);
        }
        if units.ended.is_none() {
            stop(units, &mut rng);
        }
        units.check_end();
    });
    (result.map(|()| take(&mut units.rules.marks)), units.text())
}

fn stop(units: &mut Units, rng: &mut Rng) {
    units.killed.loses = false;
    if rng.bool() {
        units.signal(Signal::TERM);
    } else {
        units.request(Request::Stop);
    }
    if rng.u8(..4) == 0 {
        units.run_for(rng.u64(..2 * SECOND));
        units.signal(Signal::INT);
    }
    units.run_for(600 * SECOND);
    assert!(units.ended.is_some(), "stop_terminates: {:?}", units.status());
}

/// What the histories are for; a change of theirs that no longer gets there shall be seen.
const SITUATIONS: [&str; 28] = [
    "ExecCondition",
    "ExecReload",
    "ExecStartPost",
    "ExecStartPre",
    "ExecStop",
    "ExecStopPost",
    "adopted",
    "arrived",
    "asked",
    "baked",
    "broken file",
    "discarded",
    "drained",
    "killed itself",
    "main found",
    "main nobody",
    "main not yet",
    "main unknown",
    "next of oneshot",
    "not reloaded",
    "reloaded",
    "rescue failed",
    "rescued",
    "runtime over",
    "slow ExecStartPost=",
    "slow command",
    "steering failed",
    "swapped",
];

#[test]
fn histories_of_units() {
    histories("histories_of_units", live, &SITUATIONS, 300);
}
