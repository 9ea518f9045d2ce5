//! Generations as unit files make them: commands round the main process, every Type=, reloads, files read anew. A world
//! of its own, smaller than world.rs: its processes only start, end, speak and take signals, and its rules are those
//! of systemd.service(5) for the order of commands.

mod kernel;

use fastrand::Rng;
use socket_supervise::config::{
    CommandPolicy, Config, ExitType, FailureMode, Handover, KillMode, Policy, Ready, Restart, Signal, Span,
    Type,
};
use socket_supervise::core::{Request, Setting};

use kernel::{Kernel, SECOND};

const HISTORIES: u64 = 10_000;

fn pick<T: Clone>(rng: &mut Rng, choices: &[T]) -> T {
    choices[rng.usize(..choices.len())].clone()
}

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
        Type::Notify | Type::NotifyReload => Ready::Notify,
        Type::Forking | Type::Oneshot => Ready::Exec,
        Type::Simple | Type::Exec => pick(rng, &[Ready::Auto, Ready::Exec, Ready::Notify]),
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
        handover: pick(rng, &[Handover::Shared, Handover::StopFirst]),
        ..Config::for_units().policy
    }
}

/// One thing that a user does.
fn act(kernel: &mut Kernel) {
    let request = match kernel.rng.u8(..12) {
        0..=2 => Request::Swap { wait: kernel.rng.bool() },
        3..=5 => Request::Reload,
        6 => Request::Restart,
        7 => Request::Pause,
        8 => Request::Resume,
        9 => Request::Kill { signal: Signal::HUP },
        _ => return kernel.connect(),
    };
    kernel.request(request);
}

fn live(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let setting = Setting { holds_sockets: rng.u8(..4) > 0, hup_ignored: false, init: rng.u8(..8) == 0 };
    let first = policy(&mut rng);
    let mut kernel = Kernel::new(rng.fork(), first, setting, policy);
    for _ in 0..rng.u32(5..40) {
        kernel.run_for(rng.u64(..3 * SECOND));
        if kernel.has_ended() {
            return kernel.check_end();
        }
        act(&mut kernel);
    }
    kernel.signal(Signal::TERM);
    kernel.run_for(600 * SECOND);
    assert!(kernel.has_ended(), "stop_terminates: {:?}", kernel.status());
    kernel.check_end();
}

#[test]
fn histories_of_units() {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => seed.parse().map(|seed: u64| seed..seed + 1).expect("SEED is a number"),
        Err(_) => 0..HISTORIES,
    };
    for seed in seeds {
        if std::env::var_os("SHOW").is_some() {
            eprintln!("{seed}");
        }
        let history = std::panic::catch_unwind(|| live(seed));
        assert!(history.is_ok(), "replay: SEED={seed} cargo test --test sim histories_of_units");
    }
}
