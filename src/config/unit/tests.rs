use super::*;
use crate::config::specifier::UnitName;
use crate::config::unit_file::Source;
use crate::config::{
    DirectoryPath, Handover, Input, Kind, NotifyAccess, Ready, Restart, RestartDelay, Span, Type,
};

fn unit(name: &str, text: &str) -> Unit {
    Unit {
        name: UnitName::parse(name).expect(name),
        path: format!("/u/{name}").into(),
        sources: vec![Source { name: name.to_owned(), text: text.as_bytes().to_vec() }],
        skipped: Vec::new(),
    }
}

fn host(letter: char) -> Option<String> {
    match letter {
        'U' => Some("0".to_owned()),
        't' => Some("/run".to_owned()),
        'H' => Some("host".to_owned()),
        _ => None,
    }
}

const SOCKET: &str = "[Socket]\nListenStream=0.0.0.0:443\n";
const SERVICE: &str = "[Service]\nExecStart=/bin/server\n";

fn loaded(units: &[(&str, &str)]) -> Loaded {
    let units: Vec<Unit> = units.iter().map(|(name, text)| unit(name, text)).collect();
    load(&units, &[], &host)
}

/// A service of these lines alone, which loads.
#[track_caller]
fn service(lines: &str) -> (Config, Vec<String>) {
    let loaded = loaded(&[("web.service", &format!("{SERVICE}{lines}"))]);
    let warnings = loaded.warnings.iter().map(ToString::to_string).collect();
    (loaded.config.expect(lines), warnings)
}

#[track_caller]
fn refused(units: &[(&str, &str)]) -> String {
    loaded(units).config.expect_err("it is refused").to_string()
}

#[test]
fn the_pair_that_systemd_refuses_loads_with_one_warning() {
    let socket = "[Socket]\nListenStream = 0.0.0.0:443\nBindIPv6Only = both\nFileDescriptorName=https\n\
                  [Install]\nWantedBy = sockets.target\n";
    let service = "[Unit]\nDescription=Server Service\nAfter=network.target\nRequires=server-https.socket\n\
                   [Service]\nType=simple\nExecStart=/bin/server\nRestart=on-failure\nRestartSec=5\n\
                   [Install]\nWantedBy=multi-user.target\n";
    let loaded = loaded(&[("server-https.socket", socket), ("server.service", service)]);
    let config = loaded.config.expect("it loads");
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "server-https.socket: systemd would start server-https.service for it (add Service=server.service to its \
          [Socket] section)"
        ]
    );
    assert_eq!(config.description.as_deref(), Some("Server Service"));
    let [listener] = config.listeners.as_slice() else { panic!("{:?}", config.listeners) };
    assert_eq!((listener.kind, listener.name.as_str()), (Kind::Tcp, "https"));
    assert_eq!((listener.options.v6_only, listener.place.as_str()), (Some(false), "server-https.socket:2"));
    assert_eq!(config.policy.restart, Restart::OnFailure);
    let fixed = RestartDelay { base: Span::from_secs(5), steps: 0, max: Span::INFINITY };
    assert_eq!(config.policy.delay, fixed);
    assert_eq!((config.policy.ready, config.policy.handover), (Ready::Auto, Handover::Steered));
    let count =
        |wanted: fn(&LineOutcome) -> bool| loaded.lines.iter().filter(|line| wanted(&line.outcome)).count();
    assert_eq!(count(|outcome| matches!(outcome, LineOutcome::Honoured)), 8);
    assert_eq!(count(|outcome| matches!(outcome, LineOutcome::Inert(_))), 4);
}

/// cockpit.service asks for sockets of its helpers in this way.
#[test]
fn what_a_unit_cannot_do_without_is_not_inert() {
    let of = |line: &str| {
        let service = format!("[Unit]\n{line}\n{SERVICE}");
        let units = [("web.socket", "[Socket]\nListenStream=1\n"), ("web.service", service.as_str())];
        loaded(&units).lines.into_iter().find(|one| one.section == "Unit").expect("the line").outcome
    };
    for line in ["Requires=web.socket helper.socket", "BindsTo=db.service", "Requisite=%p-db.service"] {
        assert!(matches!(of(line), LineOutcome::NotHonoured(_)), "{line}");
    }
    for line in [
        "Requires=web.socket",
        "Requires=basic.target -.mount",
        "Wants=db.service",
        "After=db.service",
        "BindsTo=",
    ] {
        assert!(matches!(of(line), LineOutcome::Inert(_)), "{line}");
    }
}

#[test]
fn each_socket_file_has_its_own_options_and_name() {
    let loaded = loaded(&[
        ("b.socket", "[Socket]\nListenStream=1\nListenDatagram=2\nBacklog=7\nService=web.service\n"),
        ("web.service", SERVICE),
        ("a@x.socket", "[Socket]\nListenStream=/run/%i\nListenStream=\nListenSequentialPacket=@%p\n"),
    ]);
    let config = loaded.config.expect("it loads");
    let found: Vec<_> = config
        .listeners
        .iter()
        .map(|one| (one.kind, one.address.to_string(), one.name.as_str(), one.options.backlog))
        .collect();
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!((found[0].0, found[0].2, found[0].3), (Kind::Tcp, "b.socket", 7));
    assert_eq!((found[1].0, found[1].2, found[1].3), (Kind::Udp, "b.socket", 7));
    assert_eq!(found[2], (Kind::SeqPacket, "@a".to_owned(), "a@x.socket", u32::MAX));
}

#[test]
fn commands_of_sockets_are_not_those_of_the_service() {
    let units = [
        ("a.socket", "[Socket]\nListenStream=1\nExecStartPre=/bin/a\nTimeoutSec=5\n"),
        ("b.socket", "[Socket]\nListenStream=2\nExecStartPre=\nExecStartPre=/bin/b\n"),
        ("a.service", "[Service]\nExecStart=/bin/s\nExecStartPre=/bin/c\n"),
    ];
    let config = loaded(&units).config.expect("it loads");
    let paths = |list: &[crate::config::Exec]| list.iter().map(|exec| exec.path.clone()).collect::<Vec<_>>();
    assert_eq!(paths(&config.socket_commands.start_pre), ["/bin/a", "/bin/b"]);
    assert_eq!(paths(&config.launch.commands.start_pre), ["/bin/c"]);
    assert_eq!(config.policy.commands.start_pre, [false]);
}

#[test]
fn what_systemd_refuses_is_refused() {
    let table = [
        ("", "web.service:1: it has no ExecStart="),
        ("User=a\nExecStart=/a\nExecStart=\nGroup=b", "web.service:4: it has no ExecStart="),
        ("ExecStart=/a\nExecStart=/b", "web.service:3: a second ExecStart="),
        ("Type=oneshot\nExecStart=/a\nRestart=always", "web.service:4: a service of Type=oneshot"),
        ("Type=oneshot\nExecStart=/a\nRestart=on-success", "web.service:4: "),
        ("ExecStart=./server", "web.service:2: "),
        ("ExecStart=/bin/a %Z", "web.service:2: %Z"),
        ("ExecStart=/bin/a \"b", "web.service:2: "),
        ("ExecStart=/bin/a\nUser=%Z", "web.service:3: %Z"),
        ("ExecStart=/bin/a\nWorkingDirectory=x", "web.service:3: "),
        ("ExecStart=/bin/a\nStandardInput=socket", "web.service:3: StandardInput=socket needs exactly one"),
        (
            "ExecStart=/bin/a\nStandardInput=fd:x",
            "web.service:3: StandardInput=fd:x: no socket has this name",
        ),
    ];
    for (lines, start) in table {
        let message = refused(&[("web.service", &format!("[Service]\n{lines}\n"))]);
        assert!(message.starts_with(start), "{lines}: {message}");
    }
    let table = [
        ("", "web.socket:1: it has no Listen line"),
        ("ListenStream=1\nAccept=yes", "web.socket:3: this version does not accept"),
        ("ListenStream=1\nListenStream=foo:80", "web.socket:3: "),
        ("ListenStream=1\nListenFIFO=/run/fifo", "web.socket:3: this socket would not be held"),
        ("ListenStream=1\nListenStream=", "web.socket:3: it has no Listen line"),
        ("ListenStream=1\nService=other.service", "web.socket:3: the socket is for other.service"),
        ("ListenStream=1\nSymlinks=/run/x", "web.socket:2: Symlinks="),
        ("ListenStream=1\nListenStream=1", "web.socket:3: this address is held already"),
    ];
    for (lines, start) in table {
        let message = refused(&[("web.socket", &format!("[Socket]\n{lines}\n")), ("web.service", SERVICE)]);
        assert!(message.starts_with(start), "{lines}: {message}");
    }
    assert!(refused(&[("web.socket", SOCKET)]).contains("no .service file"));
    assert!(refused(&[("a.service", SERVICE), ("b.service", SERVICE)]).contains("a second service"));
    assert!(refused(&[("a.service", SERVICE), ("a.service", SERVICE)]).contains("second"));
    assert!(refused(&[("a.service", "[Service\n")]).contains("section header"));
}

#[test]
fn what_systemd_skips_is_skipped_with_a_warning() {
    let table = [
        ("Restart=somtimes", "web.service:3: unknown value"),
        ("RestartSec=5 # x", "web.service:3: "),
        ("NonBlocking=maybe", "web.service:3: "),
        ("LimitNOFILE=10:5", "web.service:3: the soft limit"),
        ("Environment=A", "web.service:3: \"A\" is no assignment"),
        ("SuccessExitStatus=3 300", "web.service:3: \"300\" is no exit status"),
        (
            "Resart=no",
            "web.service:3: unknown key \"Resart\" in [Service] has no effect (did you mean Restart?)",
        ),
        (
            "ListenStream=1",
            "web.service:3: unknown key \"ListenStream\" in [Service] has no effect (it belongs in",
        ),
        (
            "[Serivce]\nRestart=no",
            "web.service:4: unknown section [Serivce] has no effect (did you mean [Service]?)",
        ),
        ("[Socket]\nListenStream=1", "web.service:4: unknown section [Socket]"),
        ("ProtectSystem=full", "web.service:3: ProtectSystem= has no effect"),
        ("Type=dbus", "web.service:3: there is no bus"),
        ("StandardInput=tty", "web.service:3: "),
        ("KillMode=none", "web.service:3: "),
        ("EnvironmentFile=relative", "web.service:3: \"relative\" is no absolute path"),
        ("RuntimeDirectory=a:b", "web.service:3: no symbolic link"),
        ("RestartSteps=3", "web.service:3: RestartSteps= has no effect without RestartMaxDelaySec="),
        ("[Unit]\nStartLimitAction=reboot", "web.service:4: "),
    ];
    for (lines, start) in table {
        let (_, warnings) = service(lines);
        assert!(warnings.len() == 1 && warnings[0].starts_with(start), "{lines}: {warnings:?}");
    }
    let (config, _) = service("SuccessExitStatus=3 300 TERM\nRestartSteps=3\n");
    assert!(config.policy.success.contains_code(3));
    assert_eq!(config.policy.delay.steps, 0);
}

#[test]
fn what_asks_for_nothing_is_no_loss() {
    for line in ["PrivateTmp=no", "ProtectSystem=false", "MemoryMax=infinity", "[Unit]\nFailureAction=none"] {
        assert_eq!(service(line).1, [""; 0], "{line}");
    }
    for line in ["CapabilityBoundingSet=", "MemoryMax=0", "SystemCallFilter=@system-service"] {
        assert_eq!(service(line).1.len(), 1, "{line}");
    }
}

#[test]
fn types_decide_what_is_not_written() {
    let of = |lines: &str| {
        let (config, warnings) = service(lines);
        assert!(warnings.is_empty(), "{warnings:?}");
        (config.policy.service_type, config.policy.ready, config.launch.notify_access)
    };
    assert_eq!(of(""), (Type::Simple, Ready::Auto, NotifyAccess::None));
    assert_eq!(of("Type=idle"), (Type::Simple, Ready::Auto, NotifyAccess::None));
    assert_eq!(of("Type=notify"), (Type::Notify, Ready::NotifyType, NotifyAccess::Main));
    assert_eq!(of("Type=notify\nNotifyAccess=all"), (Type::Notify, Ready::NotifyType, NotifyAccess::All));
    assert_eq!(of("Type=notify\n[X-Supervise]\nReady=exec").1, Ready::Exec);
    assert_eq!(of("WatchdogSec=5").2, NotifyAccess::Main);
    assert_eq!(of("FileDescriptorStoreMax=5").2, NotifyAccess::Main);
    assert_eq!(of("Type=oneshot").1, Ready::Exec);
    assert_eq!(service("Type=oneshot").0.policy.timeout_start, Span::INFINITY);
    assert_eq!(service("Type=oneshot\nTimeoutStartSec=5").0.policy.timeout_start, Span::from_secs(5));
    assert_eq!(service("").0.policy.timeout_start, Span::from_secs(90));
}

#[test]
fn a_swap_overlaps_only_where_the_unit_allows_it() {
    for line in ["ExecStop=/a", "ExecStopPost=/a", "PIDFile=x.pid", "Type=forking"] {
        let text = format!("{SERVICE}{line}\n");
        let found = loaded(&[("web.service", &text)]);
        assert_eq!(found.stop_first.as_deref(), Some("web.service:3"), "{line}");
        assert_eq!(found.config.expect(line).policy.handover, Handover::StopFirst, "{line}");
        let text = format!("{text}[X-Supervise]\nHandover=shared\n");
        let found = loaded(&[("web.service", &text)]);
        assert_eq!(found.config.expect(line).policy.handover, Handover::Shared, "{line}");
    }
    let (config, _) = service("PIDFile=x.pid");
    assert_eq!(config.launch.pid_file.as_deref(), Some(std::path::Path::new("/run/x.pid")));
    assert!(config.policy.has_pid_file);
    assert_eq!(service("ExecStop=/a\nExecStop=").0.policy.handover, Handover::Steered);
    // So do servers that are known not to: Debian's mariadb.service says nothing else about it.
    let of = |line: &str| {
        let (config, _) = service(&format!("Type=notify\nExecStart=\nExecStart={line}"));
        (config.policy.handover, config.launch.runs_alone().is_some())
    };
    assert_eq!(of("/usr/sbin/mariadbd $MYSQLD_OPTS"), (Handover::StopFirst, true));
    let shell = "/bin/sh -c \"set -f; [ $? -eq 0 ] || exit 1; exec /usr/sbin/mariadbd $MYSQLD_OPTS\"";
    assert_eq!(of(shell), (Handover::StopFirst, true));
    assert_eq!(of("/bin/echo /usr/sbin/mariadbd"), (Handover::Steered, false));
}

#[test]
fn settings_of_the_command_line_come_last() {
    let units = [unit("web.socket", SOCKET), unit("web.service", &format!("{SERVICE}Restart=no\n"))];
    let set = |key: &str, value: &str| Override::Directive {
        key: key.to_owned(),
        value: value.to_owned(),
        place: format!("-p {key}={value}"),
    };
    let variable = Override::Variable("A".to_owned(), "1".to_owned());
    let found = load(&units, &[set("Restart", "always"), set("Backlog", "9"), variable], &host);
    let config = found.config.expect("it loads");
    assert_eq!((config.policy.restart, config.listeners[0].options.backlog), (Restart::Always, 9));
    assert_eq!(config.launch.environment, [("A".to_owned(), "1".to_owned())]);
    let wrong = load(&units, &[set("Restart", "x")], &host).config.expect_err("no such value");
    assert_eq!(wrong.place, "-p Restart=x");
}

#[test]
fn the_user_manager_starts_at_home() {
    let user = |letter| if letter == 'U' { Some("1000".to_owned()) } else { None };
    let of = |lines: &str, host: &dyn Fn(char) -> Option<String>| {
        let found = load(&[unit("web.service", &format!("{SERVICE}{lines}\n"))], &[], host);
        found.config.expect(lines).launch.directory.expect("always one").path
    };
    assert_eq!(of("", &user), DirectoryPath::Home);
    assert_eq!(of("", &host), DirectoryPath::Path("/".into()));
    assert_eq!(of("WorkingDirectory=/\nWorkingDirectory=", &user), DirectoryPath::Home);
    assert_eq!(of("WorkingDirectory=/", &user), DirectoryPath::Path("/".into()));
    assert_eq!(of("WorkingDirectory=~", &host), DirectoryPath::Home);
}

#[test]
fn values_are_expanded_where_systemd_does() {
    let (config, warnings) = service(
        "User=u-%p\nEnvironment=H=%H \"P=100%%\"\nStandardInputText=a b\\tc\nStandardInputData=ZA==\n\
         StandardOutput=append:/log/%n\nRuntimeDirectory=%p/x ../y",
    );
    assert_eq!(config.launch.user.as_deref(), Some("u-web"));
    let pairs = [("H".to_owned(), "host".to_owned()), ("P".to_owned(), "100%".to_owned())];
    assert_eq!(config.launch.environment, pairs);
    assert_eq!(config.launch.stdin, Input::Data(b"a b\tc\nd".to_vec()));
    assert_eq!(config.launch.stdout, crate::config::Output::Append("/log/web.service".into()));
    assert_eq!(config.launch.directories.runtime.names, [std::path::PathBuf::from("web/x")]);
    assert!(warnings.len() == 1 && warnings[0].contains("../y"), "{warnings:?}");
}

#[test]
fn companions_are_read_beside_the_unit() {
    let names = |units: &[Unit]| {
        companions(units, &host).iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&[unit("web.socket", SOCKET)]), ["/u/web.service"]);
    let other = unit("web.socket", "[Socket]\nListenStream=1\nService=%p-main.service\n");
    assert_eq!(names(std::slice::from_ref(&other)), ["/u/web-main.service"]);
    let service = unit("a.service", "[Service]\nExecStart=/a\nSockets=web.socket b.socket nonsense\n");
    assert_eq!(names(std::slice::from_ref(&service)), ["/u/web.socket", "/u/b.socket"]);
    assert_eq!(names(&[service, other]), ["/u/b.socket"]);
    assert_eq!(names(&[unit("a.service", SERVICE)]), [""; 0]);
}

/// What [Unit] of a .socket file limits is the socket, and what it describes, too.
#[test]
fn a_socket_does_not_speak_for_its_service() {
    let socket = format!("[Unit]\nDescription=x\nStartLimitBurst=99\n{SOCKET}");
    let config = loaded(&[("web.socket", &socket), ("web.service", SERVICE)]).config.expect("it loads");
    assert_eq!((config.description, config.policy.start_limit.burst), (None, 5));
}

/// The verdicts about lines of one unit, as `check` words them.
fn verdicts(lines: &str) -> Vec<String> {
    let loaded = loaded(&[("web.socket", lines), ("web.service", SERVICE)]);
    let of_socket = loaded.lines.iter().filter(|line| line.place.starts_with("web.socket"));
    of_socket.map(|line| format!("{} {:?}", line.place, line.outcome)).collect()
}

#[test]
fn only_the_lines_that_count_are_honoured() {
    let lines = "[Socket]\nListenStream=1\nFileDescriptorName=a\nListenDatagram=2\nFileDescriptorName=b\n\
                 ListenStream=\nListenStream=3\nFileDescriptorName=c\nListenStream=4\nBacklog=x\nBacklog=5\n\
                 [Unit]\nDescription=a\nDescription=b\n";
    let expected = [
        r#"web.socket:2 Inert("web.socket:6 takes it back")"#,
        r#"web.socket:3 Inert("web.socket:8 replaces it")"#,
        r#"web.socket:4 Inert("web.socket:6 takes it back")"#,
        r#"web.socket:5 Inert("web.socket:8 replaces it")"#,
        "web.socket:6 Honoured",
        "web.socket:7 Honoured",
        "web.socket:8 Honoured",
        "web.socket:9 Honoured",
    ];
    let found = verdicts(lines);
    assert_eq!(found[..8], expected);
    assert!(found[8].starts_with("web.socket:10 Wrong") && found[9] == "web.socket:11 Honoured", "{found:?}");

    // Lists grow, and what is emptied is told from what is replaced.
    let (_, warnings) = service("Environment=A=1\nEnvironment=\nEnvironment=B=2\nUser=a\nUser=b\nNice=1\n");
    assert_eq!(warnings, Vec::<String>::new());
    let lines = "[Service]\nExecStart=/a\nExecStart=\nExecStart=/b\nEnvironment=A=1\nEnvironment=B=2\nUser=a\n\
                 User=b\n";
    let loaded = loaded(&[("web.service", lines)]);
    let inert = |line: &&CheckedLine| matches!(line.outcome, LineOutcome::Inert(_));
    let places: Vec<&str> = loaded.lines.iter().filter(inert).map(|line| line.place.as_str()).collect();
    assert_eq!(places, ["web.service:2", "web.service:7"]);
}

#[test]
fn many_lines_are_judged_in_no_time() {
    let lines = format!("[Socket]\nListenStream=1\n{}", "Backlog=1\n".repeat(20_000));
    let begun = std::time::Instant::now();
    assert!(verdicts(&lines)[1].contains("web.socket:20002 replaces it"));
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn a_drop_in_that_adds_an_address_is_told_how_to_replace_it() {
    let with = |text: &str| {
        let mut socket = unit("web.socket", "[Socket]\nListenStream=9090\n");
        let source = Source { name: "web.socket.d/listen.conf".to_owned(), text: text.as_bytes().to_vec() };
        socket.sources.push(source);
        load(&[socket, unit("web.service", SERVICE)], &[], &host)
    };
    let both = with("[Socket]\nListenStream=443\n");
    let LineOutcome::Beside(words) = &both.lines[1].outcome else { panic!("{:?}", both.lines) };
    assert_eq!(words, "web.socket:2 is held as well; an empty ListenStream= before this line replaces that");
    assert_eq!(both.config.unwrap().listeners.len(), 2);
    let replaced = with("[Socket]\nListenStream=\nListenStream=443\n");
    assert_eq!(replaced.lines[2].outcome, LineOutcome::Honoured);
    assert_eq!(replaced.config.unwrap().listeners.len(), 1);
    let same = with("[Socket]\nListenStream=9090\n").config.unwrap_err();
    assert!(same.remedy.starts_with("an empty ListenStream= before"), "{same}");
}

#[test]
fn a_service_may_ask_for_a_socket_of_another_name() {
    let asks = |text: &str| {
        let source = Source { name: "x.service".to_owned(), text: text.as_bytes().to_vec() };
        asks_for(&source, "server-https.socket")
    };
    assert_eq!(asks("[Unit]\nRequires=a.socket server-https.socket\n"), Some("Requires"));
    assert_eq!(asks("[Service]\nSockets=server-https.socket\n"), Some("Sockets"));
    for other in ["[Unit]\nRequires=https.socket\n", "[Install]\nAlso=server-https.socket\n", "[Unit\n", ""] {
        assert_eq!(asks(other), None, "{other}");
    }
}
