//! Signals to `supervise` itself.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Child, Command};

use nix::fcntl::OFlag;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::support::{Launch, Place, SUPERVISE, example, proc_status, wait_for};

#[test]
fn a_second_request_to_stop_kills_at_once() {
    let place = Place::new();
    place.flags("--ignore-term --grandchildren 1");
    for second in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Launch::ready(&place, "--timeout-stop-sec 1h").start();
        daemon.wait_generation(1);
        daemon.signal(Signal::SIGTERM);
        daemon.wait_state("stopping");
        // As long as a person takes to press Ctrl-C again; the next test is about less.
        std::thread::sleep(std::time::Duration::from_millis(150));
        daemon.signal(second);
        daemon.end().expect(0);
    }
    assert_eq!(place.who("SIGTERM"), [1, 1]);
}

#[test]
fn a_verb_hastens_a_stop_as_a_second_signal_does() {
    let place = Place::new();
    place.flags("--ignore-term --grandchildren 1");
    for (words, answer) in [("stop", "stopped"), ("kill KILL", "sent SIGKILL to all that is left")] {
        let mut daemon = Launch::ready(&place, "--timeout-stop-sec 1h").start();
        daemon.wait_generation(1);
        let first = daemon.spawn_verb("stop");
        daemon.wait_state("stopping");
        let refused = daemon.verb("kill TERM").expect(1).text();
        assert!(refused.contains("is stopping"), "{refused}");
        // Longer than the time within which two requests to stop are one.
        std::thread::sleep(std::time::Duration::from_millis(150));
        let second = daemon.verb(words).expect(0).text();
        assert!(second.contains(answer), "{second}");
        first.end().expect(0);
        daemon.end().expect(0);
    }
}

/// timeout(1) sends its signal to its child and then to the group, which the child is in.
#[test]
fn one_request_to_stop_that_comes_twice_is_one() {
    let place = Place::new();
    let up = place.path("up");
    let script = format!(
        "trap 'sleep 0.3; echo in its own time >{up}; exit 0' TERM; echo >{up}; while :; do sleep 0.01; done"
    );
    let daemon = Launch::new(&place).command(&["/bin/sh", "-c", &script]).start();
    wait_for("the trap", || fs::exists(&up).unwrap().then_some(()));
    daemon.signal(Signal::SIGTERM);
    daemon.signal(Signal::SIGTERM);
    daemon.end().expect(0);
    assert_eq!(place.read("up"), "in its own time\n");
}

#[test]
fn quit_stops_with_quit() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "").start();
    daemon.wait_generation(1);
    daemon.signal(Signal::SIGQUIT);
    daemon.end().expect(0);
    assert_eq!((place.who("SIGQUIT"), place.who("SIGTERM")), (vec![1], vec![]));
}

#[test]
fn others_are_passed_on_to_the_current_generation() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "").start();
    daemon.wait_generation(1);
    for signal in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGWINCH, Signal::SIGALRM] {
        daemon.signal(signal);
        wait_for(signal.as_str(), || (place.who(signal.as_str()) == [1]).then_some(()));
    }
    for nothing_happens in [Signal::SIGPIPE, Signal::SIGTTIN, Signal::SIGTTOU] {
        daemon.signal(nothing_happens);
    }
    daemon.wait_generation(1);
    daemon.verb("pause").expect(0);
    daemon.wait_state("paused");
    let before = daemon.stderr().lines().count();
    for _ in 0..3 {
        daemon.signal(Signal::SIGUSR1);
    }
    daemon.wait_state("paused");
    let said = daemon.stderr().lines().skip(before).filter(|line| line.contains("USR1")).count();
    assert_eq!(said, 1, "dropped, and said once: {}", daemon.stderr());
}

#[test]
fn hup_swaps_also_when_it_was_ignored_at_the_start() {
    let place = Place::new();
    let nohup = ["/bin/sh", "-c", "trap '' HUP; exec \"$@\"", "sh"];
    for (wrapper, first) in [(&[][..], 1), (&nohup[..], 1)] {
        let mut daemon = Launch::ready(&place, "--bake 0").wrapper(wrapper).start();
        daemon.wait_generation(first);
        daemon.signal(Signal::SIGHUP);
        daemon.wait_generation(first + 1);
        assert_eq!(place.who("SIGHUP"), [0; 0], "it is for us, not for the server");
    }
}

#[test]
fn tstp_stops_the_server_with_us_and_cont_continues_both() {
    let place = Place::new();
    let mut daemon = Launch::ready(&place, "").own_group().start();
    daemon.wait_generation(1);
    let server = daemon.server();
    let state = |pid: i32, wanted: &str| {
        wait_for(wanted, || proc_status(pid, "State").filter(|state| state.starts_with(wanted)));
    };
    daemon.signal(Signal::SIGTSTP);
    state(daemon.pid(), "T");
    state(server, "T");
    daemon.signal(Signal::SIGCONT);
    state(daemon.pid(), "S");
    state(server, "S");
    daemon.wait_generation(1);
    assert_eq!(daemon.server(), server);
}

/// A terminal, with `supervise` in its session.
struct Terminal {
    /// The side of the terminal's emulator; None once it is closed.
    master: Option<PtyMaster>,
    leader: Child,
    control: String,
}

impl Terminal {
    /// `shell` starts its words as leader of the session. util-linux and busybox have setsid(1).
    fn open(place: &Place, shell: &str) -> Self {
        // Close-on-exec from the first moment: a copy of it in another test's child would keep the terminal open.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = posix_openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let slave = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NOCTTY.bits())
            .open(ptsname_r(&master).unwrap())
            .unwrap();
        let control = place.path("supervise.ctl");
        let leader = Command::new("setsid")
            .args(["-c", "/bin/sh", "-c", shell, "sh", SUPERVISE, "--control", &control])
            .args(["--listen", "127.0.0.1:0=http", "--bake", "0", "--", &example("ready"), "--log"])
            .arg(place.path("log"))
            .stdin(slave.try_clone().unwrap())
            .stdout(slave)
            .stderr(File::create(place.path("stderr")).unwrap())
            .spawn()
            .expect("setsid(1) of util-linux or busybox");
        Self { master: Some(master), leader, control }
    }

    fn wait_for_end(&mut self) {
        wait_for("the end of the session", || self.leader.try_wait().unwrap());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.master = None;
        // It fails where all has ended, as it should.
        let _stopped = Command::new(SUPERVISE).args(["stop", "--control", &self.control]).output();
        let _gone = self.leader.kill();
        let _reaped = self.leader.wait();
    }
}

#[test]
fn a_terminal_that_closes_stops_us() {
    // Supervise is the leader of the session, then the child of a shell that is.
    for shell in ["exec \"$@\"", "\"$@\"; exit $?"] {
        let place = Place::new();
        let mut terminal = Terminal::open(&place, shell);
        wait_for("the server", || (place.who("ready") == [1]).then_some(()));
        terminal.master = None;
        terminal.wait_for_end();
        wait_for("the server's end", || (place.who("exit") == [1]).then_some(()));
        assert_eq!(place.who("start"), [1], "no swap");
    }
}

#[test]
fn hup_by_somebody_else_swaps_also_with_a_terminal() {
    let place = Place::new();
    let mut terminal = Terminal::open(&place, "exec \"$@\"");
    wait_for("the server", || (place.who("ready") == [1]).then_some(()));
    let pid = Pid::from_raw(i32::try_from(terminal.leader.id()).unwrap());
    kill(pid, Signal::SIGHUP).unwrap();
    wait_for("a swap", || (place.who("ready") == [1, 2]).then_some(()));
    // Ctrl-C: the terminal sends SIGINT to its foreground group.
    terminal.master.as_mut().unwrap().write_all(b"\x03").unwrap();
    terminal.wait_for_end();
    let mut ended = place.who("exit");
    ended.sort_unstable();
    assert_eq!(ended, [1, 2]);
}
