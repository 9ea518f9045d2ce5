//! What a start and a restart cost, in what differs little from machine to machine: system calls and page faults. Times
//! are compared by `cargo bench`. Each limit is what was counted here (glibc 2.36, a cgroup of our own) and a tenth.
//!
//! A traced process stops at each system call (ptrace(2)). Who traces it is the thread that runs the test.

use std::fs;

use nix::libc::PTRACE_SYSCALL_INFO_ENTRY;
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::super::support::{Daemon, Launch, Place, example, settled};
use super::wakeups;

const OPTIONS: &str = "--listen 127.0.0.1:0=http --restart-sec 0 -p StartLimitIntervalSec=0";

/// Our own calls from execve(2) to the clone(2) of the server, with those of the dynamic linker.
const START: usize = 132;
/// Ours from the death of a server to the clone(2) of the next one, and those of the new process up to its execve(2).
const RESTART: usize = 76;
/// Minor page faults from execve(2) to the clone(2) of the server.
const FAULTS: u64 = 229;

/// Makes `pid` a tracee. It is stopped then.
fn attach(pid: Pid) {
    ptrace::attach(pid).expect("a child of ours");
    waitpid(pid, None).expect("it stops");
    let all = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE;
    ptrace::setoptions(pid, all).expect("it is stopped");
}

/// Lets a stopped tracee go on until one of `ends`. The system calls that it began meanwhile.
fn calls_until(pid: Pid, ends: &[Event]) -> usize {
    let mut calls = 0;
    let mut signal = None;
    loop {
        ptrace::syscall(pid, signal.take()).expect("it is stopped");
        match waitpid(pid, Some(WaitPidFlag::__WALL)).expect("it is ours") {
            WaitStatus::PtraceSyscall(_) => {
                let is_entry = ptrace::syscall_info(pid).expect("Linux 5.3").op == PTRACE_SYSCALL_INFO_ENTRY;
                calls += usize::from(is_entry);
            }
            WaitStatus::PtraceEvent(_, _, event) if ends.iter().any(|end| *end as i32 == event) => {
                return calls;
            }
            WaitStatus::PtraceEvent(..) => {}
            WaitStatus::Stopped(_, Signal::SIGSTOP) => {}
            WaitStatus::Stopped(_, received) => signal = Some(received),
            ended => panic!("it ends: {ended:?}"),
        }
    }
}

/// A server is started so (CLONE_VFORK); threads are not.
const NEW_PROCESS: [Event; 1] = [Event::PTRACE_EVENT_VFORK];

/// The process that a tracee has just made. It is a stopped tracee, too.
fn new_process(pid: Pid) -> Pid {
    let child = Pid::from_raw(i32::try_from(ptrace::getevent(pid).expect("it made one")).expect("a pid"));
    waitpid(child, Some(WaitPidFlag::__WALL)).expect("it stops");
    child
}

/// proc_pid_stat(5), field 10.
fn minor_faults(pid: Pid) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(7).unwrap().parse().unwrap()
}

/// Ours from the death of the server to the clone(2) of the next one, and those of the new process up to its execve(2).
fn calls_of_a_restart(pid: Pid, server: Pid) -> (usize, usize) {
    attach(pid);
    kill(server, Signal::SIGKILL).unwrap();
    let ours = calls_until(pid, &NEW_PROCESS);
    let child = new_process(pid);
    let theirs = calls_until(child, &[Event::PTRACE_EVENT_EXEC]);
    ptrace::detach(child, None).unwrap();
    ptrace::detach(pid, None).unwrap();
    (ours, theirs)
}

#[test]
fn a_start_and_a_restart_make_few_system_calls() {
    let place = Place::new();
    let control = place.path("cost.ctl");
    let launch = Launch::new(&place)
        .wrapper(&["/bin/sh", "-c", "unset LD_LIBRARY_PATH; kill -STOP $$; exec \"$@\"", "sh"])
        .args(&format!("--control {control}"))
        .args(OPTIONS)
        .command(&[&example("hello")]);
    let mut daemon: Daemon = launch.spawn("cost", Some(control));
    let pid = Pid::from_raw(daemon.pid());
    waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("it stops itself");
    attach(pid);
    kill(pid, Signal::SIGCONT).unwrap();
    calls_until(pid, &[Event::PTRACE_EVENT_EXEC]);
    let start = calls_until(pid, &NEW_PROCESS);
    let faults = minor_faults(pid);
    ptrace::detach(new_process(pid), None).unwrap();
    ptrace::detach(pid, None).unwrap();

    // What supervise looks at now and then may come between: the least of three counts.
    let restarts = (1..=3).map(|generation| {
        daemon.wait_generation(generation);
        settled("the wake-ups", || wakeups(pid.as_raw()));
        calls_of_a_restart(pid, Pid::from_raw(daemon.server()))
    });
    let (ours, theirs) = restarts.min().expect("three");

    println!("start: {start} system calls, {faults} page faults; restart: {ours} and {theirs} system calls");
    assert!(start <= START, "{start} system calls for a start");
    assert!(ours + theirs <= RESTART, "{ours} and {theirs} system calls for a restart");
    // An unoptimised binary has more pages.
    assert!(faults <= FAULTS || cfg!(debug_assertions), "{faults} page faults for a start");
}
