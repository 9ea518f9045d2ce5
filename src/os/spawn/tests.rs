//! Starts real programs. What a child got is read from /proc by us, so that no shell's own fds and signals show.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::rc::Rc;

use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::getuid;

use super::prepared::our_fds;
use super::*;
use crate::config::{Config, Exec, Launch, Limit, Signal};
use crate::core::{Exit, Stage};
use crate::os::proc;
use crate::os::sys::Disposition;
use crate::os::sys::tests::{alone, eventually, place};

fn plan(words: &[&str]) -> Plan {
    let launch = Config::for_command_line().launch;
    let additions = Additions { generation: Some(1), ..Additions::default() };
    let environment = build_environment(std::env::vars_os(), additions);
    let exec = Exec::plain(words.iter().map(OsString::from).collect());
    Plan::new(&launch, &exec, environment, Identity::default())
}

/// Kills and reaps at the end.
struct Running(Child);

impl Running {
    /// Returns when the new program is really there: clone(2) returns a little earlier.
    fn start(plan: &Plan) -> Self {
        let running = Self(spawn(plan).expect("starts"));
        eventually("the program is in place", || (!running.read("environ").is_empty()).then_some(()));
        running
    }

    fn read(&self, file: &str) -> Vec<u8> {
        fs::read(format!("/proc/{}/{file}", self.0.pid)).expect("it lives")
    }

    /// Waits, since the dynamic loader opens libraries of its own at first; what leaked from us would stay.
    fn has_fds(&self, expected: &[RawFd]) {
        eventually(&format!("{expected:?} and no other fd"), || (self.fds() == expected).then_some(()));
    }

    fn fds(&self) -> Vec<RawFd> {
        let mut fds: Vec<_> = proc::numbers(format!("/proc/{}/fd", self.0.pid)).expect("it lives").collect();
        fds.sort_unstable();
        fds
    }

    fn target(&self, fd: RawFd) -> String {
        let path = fs::read_link(format!("/proc/{}/fd/{fd}", self.0.pid)).expect("open");
        path.to_string_lossy().into_owned()
    }

    /// A line of /proc/PID/status.
    fn status(&self, name: &str) -> String {
        let text = String::from_utf8(self.read("status")).expect("text");
        proc::field(&text, &format!("{name}:")).expect("such a line").to_owned()
    }

    fn variable(&self, name: &str) -> Option<String> {
        let environment = self.read("environ");
        let value = environment.split(|byte| *byte == 0).find_map(|line| line.strip_prefix(name.as_bytes()));
        Some(String::from_utf8_lossy(value?.strip_prefix(b"=")?).into_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        sys::pidfd_send_signal(self.0.pidfd.as_fd(), Some(Signal::KILL)).expect("not yet reaped");
        sys::wait_for(&self.0.pidfd).expect("ours");
    }
}

/// Runs a script and returns its status.
fn run(plan: &Plan) -> Exit {
    sys::wait_for(&spawn(plan).expect("starts").pidfd).expect("ours").exit
}

fn failed(plan: &Plan) -> StartFailure {
    spawn(plan).expect_err("must not start")
}

fn executable(path: &Path, content: &[u8]) {
    fs::write(path, content).expect("writes");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
}

#[test]
fn a_child_has_its_sockets_and_nothing_else_of_ours() {
    alone("os::spawn::tests::a_child_has_its_sockets_and_nothing_else_of_ours", || {
        let [root, proc] = ["/", "/proc"].map(|path| {
            let file = File::open(path).expect("it is there");
            fcntl(&file, FcntlArg::F_DUPFD_CLOEXEC(50)).expect("a free number")
        });
        // A careless parent leaves such fds open and without close-on-exec.
        for (source, number) in
            [(root, 3), (proc, 4), (root, 5), (root, 6), (root, 7), (root, 8), (root, 9), (root, 40)]
        {
            place(source, number);
        }
        let mut plan = plan(&["sleep", "60"]);
        // Crossed, onto itself, from above and twice.
        plan.fds = vec![4, 3, 5, proc, 3];
        let running = Running::start(&plan);
        running.has_fds(&[0, 1, 2, 3, 4, 5, 6, 7]);
        let targets: Vec<_> = [0, 3, 4, 5, 6, 7].map(|fd| running.target(fd)).into();
        assert_eq!(targets, ["/dev/null", "/proc", "/", "/", "/proc", "/"]);
        // Closed are the child's copies alone.
        assert!(fs::read_link("/proc/self/fd/9").is_ok_and(|path| path == Path::new("/")));
        plan.fds.clear();
        Running::start(&plan).has_fds(&[0, 1, 2]);
    });
}

#[test]
fn without_close_range_the_fds_are_marked_one_by_one() {
    alone("os::spawn::tests::without_close_range_the_fds_are_marked_one_by_one", || {
        let (one, two) = nix::unistd::pipe().expect("a pipe");
        let plan = plan(&["sleep", "60"]);
        let (status, pipe) = ReportChannel::new(true).expect("a pipe");
        let mut prepared = Prepared::new(&plan).expect("prepares");
        prepared.ours = Some(our_fds().expect("/proc"));
        let mut armed = prepared.arm(&plan, status, -1);
        let (pid, pidfd, in_cgroup) = armed.clone_child().expect("starts");
        drop((one, two));
        assert_eq!(armed.status.read(pipe).expect("a pipe"), []);
        let running = Running(Child { pid, pidfd, shortfalls: Vec::new(), in_cgroup, listener: None });
        running.has_fds(&[0, 1, 2]);
    });
}

#[test]
fn signals_are_as_a_program_expects_them_and_ours_untouched() {
    alone("os::spawn::tests::signals_are_as_a_program_expects_them_and_ours_untouched", || {
        let ignored = [Signal::HUP, Signal::PIPE, Signal::TERM];
        for signal in ignored {
            sys::set_disposition(signal, Disposition::Ignore).expect("a signal");
        }
        sys::signal_set([Signal::INT, Signal::QUIT]).thread_block().expect("a mask");
        let ours = |name: &str| {
            let text = fs::read_to_string("/proc/thread-self/status").expect("/proc");
            text.lines().find(|line| line.starts_with(name)).map(str::to_owned)
        };
        let before = (ours("SigBlk"), ours("SigIgn"), ours("SigCgt"));
        let mut plan = plan(&["sleep", "60"]);
        let none = format!("{:016x}", 0);
        let pipe = format!("{:016x}", 1 << 12);
        // From the second start on it is known which signals have to be reset.
        for (ignore_sigpipe, expected) in [(false, &none), (true, &pipe), (false, &none)] {
            plan.ignore_sigpipe = ignore_sigpipe;
            let running = Running::start(&plan);
            assert_eq!(&running.status("SigIgn"), expected);
            assert_eq!((running.status("SigBlk"), running.status("SigCgt")), (none.clone(), none.clone()));
        }
        assert_eq!(
            (ours("SigBlk"), ours("SigIgn"), ours("SigCgt")),
            before,
            "the memory is shared, the actions not"
        );
    });
}

#[test]
fn where_clone3_is_forbidden_it_starts_as_it_always_did() {
    alone("os::spawn::tests::where_clone3_is_forbidden_it_starts_as_it_always_did", || {
        sys::set_disposition(Signal::HUP, Disposition::Ignore).expect("a signal");
        let mut plan = plan(&["sleep", "60"]);
        let none = format!("{:016x}", 0);
        assert_eq!(
            Running::start(&plan).status("SigIgn"),
            none,
            "before, and clone3(2) is remembered to work"
        );
        forbid_clone3();
        // No directory of a cgroup, but that is not looked at.
        plan.cgroup = Some(Rc::new(File::open("/").expect("a directory").into()));
        for _ in 0..2 {
            let running = Running::start(&plan);
            assert_eq!((running.status("SigIgn"), running.status("SigCgt")), (none.clone(), none.clone()));
            assert!(!running.0.in_cgroup);
        }
    });
}

/// Older sandboxes refuse clone3(2) with EPERM.
fn forbid_clone3() {
    let instruction =
        |code: u32, k: u32, jump: u8| libc::sock_filter { code: code as u16, jt: 0, jf: jump, k };
    let instructions = [
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_clone3 as u32, 1),
        instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0),
        instruction(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0),
    ];
    let (_ours, theirs) = filter::channel().expect("a socket pair");
    filter::install(&instructions, theirs.as_raw_fd()).expect("a filter");
}

#[test]
fn a_cgroup_that_cannot_be_started_in_stops_no_start() {
    alone("os::spawn::tests::a_cgroup_that_cannot_be_started_in_stops_no_start", || {
        let mut plan = plan(&["sleep", "60"]);
        plan.cgroup = Some(Rc::new(File::open("/").expect("a directory").into()));
        assert!(!Running::start(&plan).0.in_cgroup);
    });
}

#[test]
fn its_own_pid_group_and_parent() {
    let mut plan = plan(&["sleep", "60"]);
    for name in ["LISTEN_PID", "WATCHDOG_PID"] {
        plan.environment.insert(name.into(), Value::OwnPid);
    }
    let running = Running::start(&plan);
    let pid = running.0.pid.to_string();
    assert_eq!(running.variable("LISTEN_PID").as_ref(), Some(&pid));
    assert_eq!(running.variable("WATCHDOG_PID").as_ref(), Some(&pid));
    assert_eq!(running.variable("SUPERVISE_GENERATION").as_deref(), Some("1"));
    let child = nix::unistd::Pid::from_raw(running.0.pid);
    assert_eq!(nix::unistd::getpgid(Some(child)), Ok(child));
    assert_eq!(running.status("PPid"), std::process::id().to_string());
    assert!(running.0.shortfalls.is_empty());
}

#[test]
fn digits_of_any_pid() {
    let mut room = [0u8; PID_ROOM];
    write_pid(room.as_mut_ptr(), std::process::id().cast_signed());
    assert_eq!(
        std::str::from_utf8(&room).expect("text").trim_end_matches('\0'),
        std::process::id().to_string()
    );
}

#[test]
fn each_reason_not_to_execute_is_told_apart() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name).to_str().expect("text").to_owned();
    let check = |command: &str, errno, hint: &str| {
        let failure = failed(&plan(&[command]));
        assert_eq!((failure.stage, failure.errno), (Stage::Exec, errno), "{}", failure.what);
        assert!(failure.what.contains(hint), "{}", failure.what);
    };
    fs::write(at("plain"), "x").expect("writes");
    executable(at("text").as_ref(), b"exit 0\n");
    executable(at("python").as_ref(), b"#!/no/such/python -u\n");
    executable(at("dos").as_ref(), b"#!/bin/sh\r\nexit 0\r\n");
    check(&at("none"), libc::ENOENT, &format!("cannot execute {}: No such file or directory", at("none")));
    check("no-such-program", libc::ENOENT, "nowhere in PATH");
    check("no-such program.js", libc::ENOENT, "without them: -- no-such program.js)");
    check("", libc::ENOENT, "cannot execute : No such file");
    check(&at("plain"), libc::EACCES, &format!("chmod +x {}", at("plain")));
    check(&at("plain/x"), libc::ENOTDIR, "Not a directory");
    check(directory.path().to_str().expect("text"), libc::EACCES, "it is a directory");
    check(&at("text"), libc::ENOEXEC, "#! line");
    check(&at("python"), libc::ENOENT, "interpreter /no/such/python does not exist");
    check(&at("dos"), libc::ENOENT, "CR LF");
}

#[test]
fn a_program_still_being_written_is_busy() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("server");
    executable(&path, b"");
    let open = fs::OpenOptions::new().append(true).open(&path).expect("opens");
    fs::write(&path, fs::read("/proc/self/exe").expect("a program")).expect("writes");
    let failure = failed(&plan(&[path.to_str().expect("text")]));
    assert_eq!((failure.stage, failure.errno), (Stage::Exec, libc::ETXTBSY), "{}", failure.what);
    drop(open);
}

#[test]
fn path_is_searched_as_the_child_has_it() {
    let directory = tempfile::tempdir().expect("a directory");
    for name in ["a", "b"] {
        fs::create_dir(directory.path().join(name)).expect("mkdir");
    }
    // Not executable in a: remembered, and the search goes on (execvp(3)).
    fs::write(directory.path().join("a/server"), "x").expect("writes");
    let mut plan = plan(&["server"]);
    plan.directory = Some(directory.path().to_owned());
    plan.environment.insert("PATH".into(), Value::Text("a:/nowhere:b".into()));
    assert_eq!(failed(&plan).errno, libc::EACCES);
    symlink("/bin/true", directory.path().join("b/server")).expect("links");
    assert_eq!(run(&plan), Exit::Code(0));
    plan.path = "./b/server".into();
    assert_eq!(run(&plan), Exit::Code(0), "relative to the directory of the child");
    plan.path = "./c".into();
    assert!(failed(&plan).what.ends_with(&format!("(in {})", directory.path().display())));
    plan.path = "true".into();
    plan.environment.remove(OsStr::new("PATH"));
    assert_eq!(run(&plan), Exit::Code(0), "the default path");
}

#[test]
fn a_directory_that_cannot_be_entered_is_named() {
    let mut plan = plan(&["true"]);
    plan.directory = Some("/no/such/place".into());
    let failure = failed(&plan);
    assert_eq!((failure.stage, failure.errno), (Stage::Directory, libc::ENOENT));
    assert_eq!(failure.what, "cannot enter /no/such/place: No such file or directory [ENOENT]");
}

#[test]
fn what_cannot_be_passed_on_is_refused() {
    let nul = failed(&plan(&["true", "a\0b"]));
    assert_eq!((nul.stage, nul.errno), (Stage::Setup, libc::EINVAL));
    let mut plan = plan(&["true"]);
    plan.fds = vec![1 << 20];
    let closed = failed(&plan);
    assert_eq!((closed.stage, closed.errno), (Stage::Setup, libc::EBADF), "{}", closed.what);
}

#[test]
fn directory_umask_limits_nice_and_oom_score_are_the_child_s() {
    let mut plan = plan(&[
        "/bin/sh",
        "-c",
        "umask >u; ulimit -n >n; cat /proc/$$/stat >s; cat /proc/$$/oom_score_adj >o",
    ]);
    let directory = tempfile::tempdir().expect("a directory");
    plan.directory = Some(directory.path().to_owned());
    plan.umask = Some(0o027);
    plan.nice = Some(7);
    plan.oom_score_adjust = Some(900);
    plan.limits = vec![Limit { resource: Resource::Nofile, soft: Some(77), hard: Some(99) }];
    assert_eq!(run(&plan), Exit::Code(0));
    let read =
        |name: &str| fs::read_to_string(directory.path().join(name)).expect("written").trim().to_owned();
    assert_eq!((read("u").as_str(), read("n").as_str(), read("o").as_str()), ("0027", "77", "900"));
    assert_eq!(read("s").split(' ').nth(18), Some("7"));
}

#[test]
fn wishes_beyond_our_rights_are_told_and_let_go() {
    // As a user without rights: a process of its own gives them up for good. Root's may be given up, others have none.
    alone("os::spawn::tests::wishes_beyond_our_rights_are_told_and_let_go", || {
        if getuid().is_root() {
            let nobody = nix::unistd::Uid::from_raw(65533);
            nix::unistd::setresuid(nobody, nobody, nobody).expect("root may");
        }
        let (_, hard) =
            nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).expect("a limit");
        let mut plan = plan(&["/bin/sh", "-c", "test $(ulimit -n) = \"$1\"", "sh", &hard.to_string()]);
        plan.limits = vec![Limit { resource: Resource::Nofile, soft: None, hard: None }];
        plan.nice = Some(-20);
        let child = spawn(&plan).expect("starts all the same");
        assert_eq!(child.shortfalls.len(), 2, "{:?}", child.shortfalls);
        assert!(
            child.shortfalls.iter().any(|text| text.starts_with("cannot set LimitNOFILE=")),
            "{:?}",
            child.shortfalls
        );
        assert_eq!(sys::wait_for(&child.pidfd).expect("ours").exit, Exit::Code(0));
        // Nobody else's rights either.
        plan.identity = Identity { uid: Some(1), gid: Some(1), groups: Some(vec![1]), ..Identity::default() };
        let failure = failed(&plan);
        assert_eq!((failure.stage, failure.errno), (Stage::Group, libc::EPERM));
        assert!(failure.what.contains("only root may"), "{}", failure.what);
        plan.identity.user = Some(crate::os::users::User {
            name: "app".to_owned(),
            uid: 1,
            gid: Some(1),
            home: None,
            shell: None,
            groups: vec![1],
        });
        let failure = failed(&plan);
        let sentence = "cannot change to user app: Operation not permitted [EPERM] (only root may; run as root or without -u)";
        assert_eq!((failure.stage, failure.what.as_str()), (Stage::User, sentence));
    });
}

#[test]
fn a_user_is_changed_to_before_the_directory_is_entered() {
    if !getuid().is_root() {
        let launch = Config::for_command_line().launch;
        // The group too: a uid made up by a container has no line that names one.
        let (user, group) = (Some(getuid().to_string()), Some(nix::unistd::getgid().to_string()));
        let identity = Identity::resolve(&Launch { user, group, ..launch });
        assert!(identity.is_ok_and(|identity| !identity.changes_credentials()), "ourselves needs no rights");
        return;
    }
    let mut plan = plan(&["sleep", "60"]);
    plan.identity =
        Identity { uid: Some(65533), gid: Some(65532), groups: Some(vec![7, 9]), ..Identity::default() };
    plan.directory = Some("/".into());
    let running = Running::start(&plan);
    assert_eq!(running.status("Uid"), "65533\t65533\t65533\t65533");
    assert_eq!(running.status("Gid"), "65532\t65532\t65532\t65532");
    assert_eq!(running.status("Groups"), "7 9");
    assert_eq!(running.status("CapEff"), format!("{:016x}", 0));
    assert_eq!(nix::sys::prctl::get_dumpable(), Ok(true), "our memory was not shared");
    let closed = tempfile::tempdir().expect("a directory");
    plan.directory = Some(closed.path().to_owned());
    fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).expect("chmod");
    let failure = failed(&plan);
    assert_eq!((failure.stage, failure.errno), (Stage::Directory, libc::EACCES));
}

#[test]
fn a_hundred_starts_leave_nothing_behind() {
    alone("os::spawn::tests::a_hundred_starts_leave_nothing_behind", || {
        let count = || {
            (
                our_fds().expect("/proc").len(),
                fs::read_to_string("/proc/self/maps").expect("/proc").lines().count(),
            )
        };
        run(&plan(&["true"]));
        let before = count();
        for _ in 0..50 {
            assert_eq!(run(&plan(&["true"])), Exit::Code(0));
            failed(&plan(&["/no/such/program"]));
        }
        let after = count();
        assert_eq!(after.0, before.0);
        assert!(after.1 <= before.1 + 2, "one stack for all: {} mappings became {}", before.1, after.1);
        assert!(sys::wait_any().is_err_and(|error| error.raw_os_error() == Some(libc::ECHILD)), "no zombie");
    });
}
