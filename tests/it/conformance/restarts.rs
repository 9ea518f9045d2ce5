//! Restart=, its delays and the start limit, with real processes.

use std::os::unix::fs::symlink;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use socket_supervise::config::Span;

use super::super::support::{DEADLINE, Daemon, Launch, wait_for};
use super::{Desk, all_agree, cases, expect, list, said, text};

/// The word of a case whose ExecStartPre= fails on the first start alone.
const PRE_FAILS: &str = "ExecStartPre= fails on the first start";
const PRE_SLEEPS: &str = "ExecStartPre=SLEEPS-FIRST";
const CONDITION_FAILS: &str = "ExecCondition=FAILS-255-FIRST";
const NO_PROGRAM: &str = "ExecStart=MISSING";
/// An environment file that goes with the first start, and is there again once its absence was seen.
const LATE_FILE: &str = "EnvironmentFile=DIR/late";

/// What the first start ends with where the second is to fail: the very first one's failure to start is the end of us
/// (127 and 125), later it is one under Restart=.
const FORCED: u8 = 42;

/// A shell script that counts the start and does `first` on the first one.
fn script(desk: &Desk, name: &str, first: &str, later: &str) -> String {
    let (count, bin) = (desk.0.path("CNT"), desk.0.path("bin"));
    let body = format!(
        "PATH={bin}:$PATH\necho x >>{count}\nif [ $(wc -l <{count}) -gt 1 ]; then {later}; fi\n{first}\n"
    );
    desk.0.write(name, &body);
    format!("/bin/sh {}", desk.0.path(name))
}

/// The unit of a case: whatever it is that runs first counts the start.
fn unit(desk: &Desk, lines: &[&str], prefix: &str, first: &str) -> String {
    let counts_before = |line: &&str| [PRE_FAILS, PRE_SLEEPS, CONDITION_FAILS].contains(line);
    let stays = "exec sleep 60";
    let main = if lines.iter().any(counts_before) {
        format!("/bin/sh -c '{stays}'")
    } else if lines.contains(&LATE_FILE) {
        script(desk, "main.sh", &format!("rm {}; exit {FORCED}", desk.0.path("late")), stays)
    } else {
        script(desk, "main.sh", first, stays)
    };
    let mut service = vec![format!("ExecStart={prefix}{main}")];
    for line in lines {
        service.push(match *line {
            PRE_FAILS => format!("ExecStartPre={}", script(desk, "pre.sh", "exit 1", "exit 0")),
            PRE_SLEEPS => format!("ExecStartPre={}", script(desk, "pre.sh", stays, "exit 0")),
            CONDITION_FAILS => {
                format!("ExecCondition={}", script(desk, "condition.sh", "exit 255", "exit 0"))
            }
            NO_PROGRAM => goes_missing(desk),
            LATE_FILE => format!("RestartForceExitStatus={FORCED}\n{}", desk.fill(line)),
            line => desk.fill(line),
        });
    }
    format!(
        "[Unit]\nStartLimitIntervalSec=0\n[Service]\nWorkingDirectory={}\nRestartSec=50ms\n{}\n",
        desk.0.path(""),
        service.join("\n")
    )
}

/// A program that the first start removes. ExecStartPre= counts.
fn goes_missing(desk: &Desk) -> String {
    let program = desk.0.path("program");
    symlink("/bin/sh", &program).unwrap();
    desk.0.write("vanish.sh", &format!("rm {program}\nexit {FORCED}\n"));
    let (pre, vanish) = (script(desk, "pre.sh", "exit 0", "exit 0"), desk.0.path("vanish.sh"));
    format!("RestartForceExitStatus={FORCED}\nExecStartPre={pre}\nExecStart=\nExecStart={program} {vanish}")
}

/// Whether the start in question was followed by another. Without sockets the supervisor ends where it does not.
fn restarted(lines: &[&str], prefix: &str, first: &str) -> Result<(bool, String), String> {
    let desk = Desk::new();
    desk.0.write("case.service", &unit(&desk, lines, prefix, first));
    let is_late = lines.contains(&LATE_FILE);
    if is_late {
        desk.0.write("late", "T_LATE=1\n");
    }
    // Of the two starts, the one that fails for want of a file cannot count itself.
    let before = if lines.contains(&NO_PROGRAM) { 2 } else { 1 };
    let mut daemon = Launch::units(&desk.0, &["case.service"]).start_uncontrolled();
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        if desk.starts() > before {
            return Ok((true, said(&daemon)));
        }
        if daemon.try_end().is_some() {
            return if desk.starts() == before {
                Ok((false, said(&daemon)))
            } else {
                Err(format!("{} starts, not {before}{}", desk.starts(), said(&daemon)))
            };
        }
        if is_late && daemon.stderr().contains("environment file") {
            desk.0.write("late", "T_LATE=1\n");
        }
        thread::sleep(Duration::from_millis(5));
    }
    Err(format!("neither started again nor given up{}", said(&daemon)))
}

fn agrees(case: &Value, lines: &[&str], prefix: &str) -> Result<(), String> {
    let (got, said) = restarted(lines, prefix, text(case, "first_start"))?;
    expect(&Some(got), &case["restarted"].as_bool()).map_err(|fault| format!("restarted: {fault}{said}"))
}

#[test]
fn what_systemd_restarted_is_restarted_and_nothing_else() {
    all_agree(&cases("systemd-252/restarts.json"), |case| {
        let lines: Vec<&str> = text(case, "service").lines().filter(|line| !line.is_empty()).collect();
        agrees(case, &lines, text(case, "exec_start_prefix"))
    });
}

#[test]
fn every_cell_of_the_table_of_restart() {
    all_agree(&cases("restart_matrix.json"), |case| {
        let restart = format!("Restart={}", text(case, "restart"));
        let mut lines = list(&case["service"]);
        lines.push(&restart);
        agrees(case, &lines, "")
    });
}

/// A service that exits with 1, its starts counted.
fn failing(desk: &Desk, unit: &str, service: &str) -> Daemon {
    let count = desk.0.path("CNT");
    desk.0.write("failing.sh", &format!("echo x >>{count}\nexit 1\n"));
    let main = format!("ExecStart=/bin/sh {}", desk.0.path("failing.sh"));
    desk.0.write("failing.service", &format!("[Unit]\n{unit}\n[Service]\n{service}\n{main}\n"));
    Launch::units(&desk.0, &["failing.service"]).start_uncontrolled()
}

#[test]
fn as_many_starts_in_three_seconds_as_systemd_made() {
    all_agree(&cases("systemd-252/start_limits.json"), |case| {
        let desk = Desk::new();
        let deadline = Instant::now() + Duration::from_secs(3);
        let mut daemon = failing(&desk, text(case, "unit"), text(case, "service"));
        while Instant::now() < deadline && daemon.try_end().is_none() {
            thread::sleep(Duration::from_millis(5));
        }
        let starts = desk.starts();
        let wanted = case["starts_in_3s"].as_u64().unwrap() as usize;
        // Where the limit decided, it ended, and there is nothing to tolerate.
        let tolerated = if daemon.try_end().is_some() { 0 } else { 2 };
        if starts.abs_diff(wanted) <= tolerated {
            return Ok(());
        }
        Err(format!("{starts} starts, {tolerated} more or less would do{}", said(&daemon)))
    });
}

#[test]
fn the_start_limit_lets_exactly_its_burst_pass() {
    all_agree(&cases("start_limits.json"), |case| {
        let desk = Desk::new();
        let mut daemon =
            failing(&desk, &list(&case["unit"]).join("\n"), "Restart=on-failure\nRestartSec=5ms");
        let Some(wanted) = case["starts"].as_u64() else {
            // A dozen starts are more than any limit of the table.
            wait_for("a dozen starts", || {
                assert_eq!(daemon.try_end(), None, "{case}{}", said(&daemon));
                (desk.starts() > 12).then_some(())
            });
            return Ok(());
        };
        wait_for("the end", || daemon.try_end());
        expect(&desk.starts(), &(wanted as usize)).map_err(|fault| format!("{fault}{}", said(&daemon)))
    });
}

#[test]
fn the_delay_grows_as_the_formula_says() {
    all_agree(&cases("restart_delays.json"), |case| {
        let desk = Desk::new();
        let service = format!(
            "Restart=on-failure\nRestartSec={}\nRestartMaxDelaySec={}\nRestartSteps={}",
            text(case, "restart_sec"),
            text(case, "max"),
            case["steps"],
        );
        let wanted: Vec<u64> =
            case["milliseconds"].as_array().unwrap().iter().map(|delay| delay.as_u64().unwrap()).collect();
        let mut daemon = failing(&desk, "StartLimitIntervalSec=0", &service);
        let began = Instant::now();
        let mut delays = Vec::new();
        while delays.len() < wanted.len() {
            if began.elapsed() > DEADLINE || daemon.try_end().is_some() {
                return Err(format!("only {delays:?}{}", said(&daemon)));
            }
            thread::sleep(Duration::from_millis(5));
            delays = announced(&daemon.stderr());
        }
        // The log rounds delays down to a millisecond.
        let close = delays.iter().zip(&wanted).all(|(got, wanted)| got.abs_diff(*wanted) <= 1);
        // Supervise has really waited: all but the last of these delays are over.
        let waited: u64 = wanted[..wanted.len() - 1].iter().sum();
        if close && began.elapsed() + Duration::from_millis(10) >= Duration::from_millis(waited) {
            return Ok(());
        }
        Err(format!("expected {wanted:?}, got {delays:?} in {:?}", began.elapsed()))
    });
}

/// The milliseconds of every `restart in SPAN`.
fn announced(stderr: &str) -> Vec<u64> {
    let spans = stderr.lines().filter_map(|line| line.split_once("restart in ")?.1.split(';').next());
    spans.map(|span| Span::parse(span).expect("a span").as_millis()).collect()
}

#[test]
fn announced_delays_are_read() {
    let text = "supervise: restart in 251ms\nsupervise: restart in 1.5s; connections wait in the queue\n";
    assert_eq!(announced(text), [251, 1_500]);
}
