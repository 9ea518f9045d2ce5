//! While nothing happens, `supervise` does not wake up.

// The C library of musl has not what it traces by.
#[cfg(target_env = "gnu")]
mod cost;

use std::fs;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

use super::load::get;
use super::support::{Daemon, Launch, Place, example, proc_status, settled, wait_for};

/// How often its threads went to sleep by themselves, which is as often as they woke up.
fn wakeups(pid: i32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .map(|task| {
            let text = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
            line.trim().parse::<u64>().unwrap()
        })
        .sum()
}

#[test]
fn ten_idle_seconds_without_a_wakeup_in_any_state_that_waits_for_others() {
    let place = Place::new();
    let mut running = Launch::ready(&place, "").start_as("running");
    let address = running.address("http");
    let mut listening = Launch::ready(&place, "").start_as("listening");
    let mut paused = Launch::ready(&place, "").start_as("paused");
    let mut unaware = Launch::ready(&place, "--ready auto --watchdog-sec 1h").start_as("unaware");
    running.wait_generation(1);
    unaware.wait_generation(1);
    listening.wait_generation(1);
    get(&listening.address("http"), "/exit/0").unwrap();
    listening.wait_state("listening");
    paused.verb("pause").expect(0);
    paused.wait_state("paused");
    let all = [&running, &listening, &paused, &unaware];
    let look = || all.map(|daemon| wakeups(daemon.pid()));
    let before = settled("the wake-ups", look);
    // The one thing here that takes its time: ten seconds are what is promised. Requests are the server's business.
    for _ in 0..10 {
        std::thread::sleep(Duration::from_secs(1));
        get(&address, "/").unwrap();
    }
    assert_eq!(before, look());
}

#[test]
fn a_release_build_is_small() {
    // How much of the program the kernel maps around a page that is used varies by 200 kB: the least of three counts.
    let rss = (0..3).map(|_| resident_after_a_swap()).min().unwrap();
    // An unoptimised binary is bigger; it may not be out of all proportion either.
    let limit = if cfg!(debug_assertions) { 32 * 1024 } else { 4 * 1024 };
    assert!(rss < limit, "{rss} kB resident");
}

/// Private memory and mapped pages of files (RssAnon and RssFile of proc_pid_status(5)) after a start and a swap.
#[test]
fn one_at_rest_gives_back_what_it_does_not_need() {
    let place = Place::new();
    let mut daemon: Daemon =
        Launch::new(&place).args("--listen 127.0.0.1:0=http --bake 0").command(&[&example("hello")]).start();
    daemon.wait_generation(1);
    daemon.verb("swap").expect(0);
    daemon.wait_generation(2);
    // The most of it is the stack and what the dynamic linker has written, more in an unoptimised binary.
    let limit = if cfg!(debug_assertions) { 2048 } else { 90 * page_size() / 1024 };
    wait_for("a rest", || (kilobytes(&daemon, "RssAnon") <= limit).then_some(()));
    // The loop that sleeps needs little of the program and its libraries; the kernel maps what is around each used page.
    let limit = if cfg!(debug_assertions) { 8 * 1024 } else { 2 * 1024 };
    wait_for("few pages of files", || (kilobytes(&daemon, "RssFile") <= limit).then_some(()));
}

fn page_size() -> u64 {
    let size = sysconf(SysconfVar::PAGE_SIZE).expect("every Linux says it");
    size.and_then(|size| u64::try_from(size).ok()).expect("a size")
}

fn kilobytes(daemon: &Daemon, field: &str) -> u64 {
    proc_status(daemon.pid(), field).unwrap().trim_end_matches(" kB").trim().parse().unwrap()
}

fn resident_after_a_swap() -> u64 {
    let place = Place::new();
    let mut daemon: Daemon = Launch::ready(&place, "--bake 0").start();
    daemon.wait_generation(1);
    daemon.verb("swap").expect(0);
    daemon.wait_generation(2);
    assert_eq!(proc_status(daemon.pid(), "Threads").unwrap(), "1");
    kilobytes(&daemon, "VmRSS")
}
