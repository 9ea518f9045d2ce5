use std::collections::BTreeSet;

use super::*;
use crate::config::close;
use crate::config::{
    Dialect, Directory, DirectoryPath, Exec, Handover, Input, KillMode, Listener, Ready, Resource, Restart,
    RestartDelay, Signal, Span, StartLimitAction,
};

fn draft() -> Draft {
    let mut config = Config::for_command_line();
    config.launch.commands.start = vec![Exec::plain(vec!["./server".into()])];
    Draft::new(config)
}

/// The configuration after these settings, or the message.
fn build(settings: &[(&str, &str)]) -> Result<Config, String> {
    let mut draft = draft();
    for (key, value) in settings {
        draft.set(key, value, &format!("-p {key}={value}")).map_err(|error| error.to_string())?;
    }
    close::command_line(draft).map(|(config, _)| config).map_err(|error| error.to_string())
}

#[test]
fn keys_and_flags_are_unique_and_documented() {
    let mut names = BTreeSet::new();
    for directive in DIRECTIVES {
        let name = format!("[{}] {}", directive.section.name(), directive.key);
        assert!(names.insert(name.clone()), "{name}");
        if let Some(flag) = directive.flag {
            assert!(names.insert(format!("--{flag}")), "--{flag}");
        }
        if let Some(short) = directive.short {
            assert!(names.insert(format!("-{short}")), "-{short}");
        }
        match directive.support {
            Support::Honoured(_) => {
                assert!(!directive.doc.is_empty() && !directive.value.is_empty(), "{}", directive.key)
            }
            Support::Inert(reason) | Support::NotHonoured(reason) => {
                assert!(!reason.is_empty() && directive.flag.is_none(), "{}", directive.key)
            }
        }
    }
}

/// The help shows what the table says; the configuration starts from what the code says.
#[test]
fn defaults_of_the_table_are_those_of_the_configuration() {
    for directive in DIRECTIVES.iter().filter(|directive| !directive.default.is_empty()) {
        assert_eq!(
            after(directive, directive.default, Config::for_command_line()),
            None,
            "{}",
            directive.key
        );
    }
}

/// The configuration after this value, where it is another one.
fn after(directive: &'static Directive, value: &str, config: Config) -> Option<Config> {
    let mut draft = Draft::new(config.clone());
    let scope = Context {
        expand: &|text| Ok(text.to_owned()),
        place: "here",
        warn: &|problem| panic!("{problem:?}"),
    };
    draft.apply(directive, value, &scope).expect(directive.key);
    Some(draft.config).filter(|after| *after != config)
}

/// From systemd.service(5), systemd.exec(5), systemd.kill(5), systemd.socket(5) and systemd.unit(5).
#[test]
fn defaults_of_unit_files_are_those_of_systemd() {
    let table = [
        ("Restart", "no"),
        ("RestartSec", "100ms"),
        ("RestartSteps", "0"),
        ("RestartMaxDelaySec", "infinity"),
        ("Type", "simple"),
        ("ExitType", "main"),
        ("TimeoutStartSec", "90s"),
        ("TimeoutStopSec", "90s"),
        ("TimeoutAbortSec", ""),
        ("TimeoutStartFailureMode", "terminate"),
        ("TimeoutStopFailureMode", "terminate"),
        ("RuntimeMaxSec", "infinity"),
        ("WatchdogSec", "0"),
        ("NotifyAccess", "none"),
        ("FileDescriptorStoreMax", "0"),
        ("RemainAfterExit", "no"),
        ("GuessMainPID", "yes"),
        ("NonBlocking", "no"),
        ("ReloadSignal", "SIGHUP"),
        ("KillMode", "control-group"),
        ("KillSignal", "SIGTERM"),
        ("FinalKillSignal", "SIGKILL"),
        ("WatchdogSignal", "SIGABRT"),
        ("SendSIGHUP", "no"),
        ("SendSIGKILL", "yes"),
        ("WorkingDirectory", "/"),
        ("UMask", "0022"),
        ("StandardInput", "null"),
        ("StandardOutput", "journal"),
        ("StandardError", "inherit"),
        ("IgnoreSIGPIPE", "yes"),
        ("RuntimeDirectoryMode", "0755"),
        ("RuntimeDirectoryPreserve", "no"),
        ("StartLimitBurst", "5"),
        ("StartLimitInterval", "10s"),
        ("StartLimitAction", "none"),
        ("Backlog", "4294967295"),
        ("BindIPv6Only", "default"),
        ("SocketMode", "0666"),
        ("DirectoryMode", "0755"),
        ("RemoveOnStop", "no"),
        ("DeferAcceptSec", "0"),
        ("Priority", "-1"),
        ("IPTOS", "-1"),
        ("IPTTL", "-1"),
        ("Mark", "-1"),
        ("Timestamping", "off"),
        ("TriggerLimitIntervalSec", "2s"),
        ("TriggerLimitBurst", "20"),
    ];
    for (key, value) in table {
        assert_eq!(after(find_by_key(key).expect(key), value, Config::for_units()), None, "{key}");
    }
    let timeout = find(Section::Socket, "TimeoutSec").expect("[Socket] has its own");
    assert_eq!(after(timeout, "90s", Config::for_units()), None);
}

#[test]
fn no_setter_fails_on_strange_text_in_a_strange_way() {
    let texts = [
        "",
        " ",
        "-",
        ":",
        "=",
        "\0",
        "é",
        "'",
        "\\",
        "18446744073709551616",
        "-9223372036854775809",
        "infinity:",
    ];
    for directive in DIRECTIVES {
        for text in texts {
            let scope = Context { expand: &|text| Ok(text.to_owned()), place: "here", warn: &|_| {} };
            let result = draft().apply(directive, text, &scope);
            if let Err(error) = result.map_err(|problem| problem.at("here")) {
                assert!(
                    !error.cause.is_empty() && !error.remedy.is_empty(),
                    "{}={text:?}: {error}",
                    directive.key
                );
                assert!(!error.to_string().contains(['\n', '\0']), "{}={text:?}: {error}", directive.key);
            }
        }
    }
}

#[test]
fn each_directive_reaches_its_field() {
    let config = build(&[
        ("Restart", "always"),
        ("StartLimitBurst", "5"),
        ("StartLimitIntervalSec", "1min"),
        ("StartLimitAction", "exit"),
        ("SuccessExitStatus", "3"),
        ("SuccessExitStatus", "SIGUSR1"),
        ("Ready", "delay:5s"),
        ("TimeoutSec", "7"),
        ("TimeoutStartSec", "0"),
        ("KillSignal", "quit"),
        ("KillMode", "process"),
        ("WatchdogSec", "2"),
        ("Handover", "stop-first"),
        ("User", "www"),
        ("Group", "1000"),
        ("SupplementaryGroups", "a b"),
        ("SupplementaryGroups", "c"),
        ("WorkingDirectory", "/srv"),
        ("Environment", "A=1 'B=x y'"),
        ("Environment", "A=2"),
        ("EnvironmentFile", "/a"),
        ("EnvironmentFile", "-/b"),
        ("UMask", "0027"),
        ("StandardInput", "inherit"),
        ("NonBlocking", "yes"),
        ("Protocol", "nginx"),
        ("Protocol", "systemd fpm"),
        ("LimitNOFILE", "1:2"),
        ("LimitNOFILE", "3"),
        ("LimitCORE", "infinity"),
        ("Nice", "-5"),
        ("OOMScoreAdjust", "-900"),
        ("Backlog", "128"),
        ("BindIPv6Only", "ipv6-only"),
        ("SocketMode", "0660"),
        ("DeferAcceptSec", "5"),
        ("ReceiveBuffer", "64K"),
    ])
    .expect("all good");
    let (policy, launch, socket) = (&config.policy, &config.launch, &config.socket);
    assert_eq!((policy.restart, policy.ready), (Restart::Always, Ready::Delay(Span::from_secs(5))));
    assert_eq!((policy.start_limit.burst, policy.start_limit.action), (5, StartLimitAction::Exit));
    assert_eq!(policy.start_limit.interval, Span::from_secs(60));
    assert!(
        policy.success.contains_code(3)
            && policy.success.contains_signal(Signal::parse("USR1").expect("one"))
    );
    assert_eq!((policy.timeout_start, policy.timeout_stop), (Span::INFINITY, Span::from_secs(7)));
    assert_eq!((policy.kill_signal, policy.kill_mode), (Signal::QUIT, KillMode::Process));
    assert_eq!((policy.watchdog, policy.handover), (Span::from_secs(2), Handover::StopFirst));
    assert_eq!((launch.user.as_deref(), launch.group.as_deref()), (Some("www"), Some("1000")));
    assert_eq!(launch.supplementary_groups, ["a", "b", "c"]);
    let srv = Directory { path: DirectoryPath::Path("/srv".into()), optional: false };
    assert_eq!(launch.directory, Some(srv));
    let variables: Vec<String> =
        launch.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(variables, ["A=1", "B=x y", "A=2"]);
    let files: Vec<_> =
        launch.environment_files.iter().map(|file| (file.path.to_str(), file.optional)).collect();
    assert_eq!(files, [(Some("/a"), false), (Some("/b"), true)]);
    assert_eq!((launch.umask, &launch.stdin, launch.non_blocking), (Some(0o27), &Input::Inherit, true));
    assert_eq!(launch.dialects, [Dialect::Nginx, Dialect::Systemd, Dialect::Fpm]);
    let limits: Vec<_> = launch.limits.iter().map(|limit| (limit.resource, limit.soft, limit.hard)).collect();
    assert_eq!(limits, [(Resource::Nofile, Some(3), Some(3)), (Resource::Core, None, None)]);
    assert_eq!((launch.nice, launch.oom_score_adjust), (Some(-5), Some(-900)));
    assert_eq!((socket.backlog, socket.v6_only, socket.mode), (128, Some(true), 0o660));
    assert_eq!((socket.defer_accept, socket.receive_buffer), (Span::from_secs(5), Some(65_536)));
}

#[test]
fn an_empty_value_resets_lists() {
    let config = build(&[
        ("SuccessExitStatus", "3"),
        ("SuccessExitStatus", ""),
        ("Environment", "A=1"),
        ("Environment", ""),
        ("EnvironmentFile", "/a"),
        ("EnvironmentFile", ""),
        ("SupplementaryGroups", "a"),
        ("SupplementaryGroups", ""),
        ("Protocol", "nginx"),
        ("Protocol", ""),
        ("LimitCORE", "0"),
        ("LimitCORE", ""),
        ("User", "www"),
        ("User", ""),
    ]);
    assert_eq!(config, build(&[]));
}

#[test]
fn the_restart_delay() {
    let delay = |settings: &[(&str, &str)]| build(settings).map(|config| config.policy.delay);
    let growing = |base, steps, max| Ok(RestartDelay { base, steps, max });
    let (tenth, five, thirty) = (Span::from_millis(100), Span::from_secs(5), Span::from_secs(30));
    assert_eq!(delay(&[]), growing(tenth, 8, thirty));
    assert_eq!(delay(&[("RestartSec", "5")]), growing(five, 0, Span::INFINITY));
    assert_eq!(delay(&[("RestartSteps", "3"), ("RestartMaxDelaySec", "30")]), growing(tenth, 3, thirty));
    assert_eq!(delay(&[("RestartSteps", "0")]), growing(tenth, 0, Span::INFINITY));
    assert_eq!(
        delay(&[("RestartSec", "5"), ("RestartSteps", "3"), ("RestartMaxDelaySec", "2")]),
        growing(Span::from_secs(2), 3, Span::from_secs(2))
    );
    let steps = delay(&[("RestartSteps", "3")]).expect_err("no maximum");
    assert!(steps.starts_with("-p RestartSteps=3: ") && steps.contains("--restart-max-delay-sec"), "{steps}");
    let max = delay(&[("RestartSec", "1"), ("RestartMaxDelaySec", "9")]).expect_err("no steps");
    assert!(max.starts_with("-p RestartMaxDelaySec=9: ") && max.contains("--restart-steps"), "{max}");
    let none =
        delay(&[("RestartSteps", "0"), ("RestartMaxDelaySec", "9")]).expect_err("no steps, said twice");
    assert!(none.starts_with("-p RestartMaxDelaySec=9: ") && none.contains("--restart-steps"), "{none}");
}

#[test]
fn what_follows_from_a_directive_follows_on_the_command_line_too() {
    assert!(!build(&[]).unwrap().policy.has_pid_file);
    assert!(build(&[("PIDFile", "/run/x.pid")]).unwrap().policy.has_pid_file);
}

#[test]
fn refusals_say_what_to_do_instead() {
    let table = [
        ("RestartSecs", "5", "did you mean RestartSec?"),
        ("restartsec", "5", "did you mean RestartSec?"),
        ("LimitNOFLIE", "5", "did you mean LimitNOFILE?"),
        ("Zzz", "5", "supervise --help"),
        ("ExecStart", "x", "after --"),
        ("ListenStream", "80", "--listen"),
        ("Type", "notify", "--ready notify"),
        ("Accept", "yes", "does not accept"),
        ("Restart", "on-falure", "did you mean on-failure?"),
        ("Restart", "", "takes no, on-success"),
        ("Ready", "http:health", "http:/health"),
        ("Ready", "http:/a b", "%XX"),
        ("Ready", "http:/health", "--listen"),
        ("Canary", "10", "10:30s"),
        ("Canary", "0:30s", "1 to 99"),
        ("Canary", "10:infinity", "below infinity"),
        ("Canary", "10:0", "above 0"),
        ("Canary", "10:30s", "TCP and UDP"),
        ("Ready", "notfy", "did you mean notify?"),
        ("Ready", "delay:", "try 5s"),
        ("KillMode", "none", "process"),
        ("Protocol", "enginx", "did you mean nginx?"),
        ("Protocol", "stdin", "--stdin fd:NAME"),
        ("Handover", "steerd", "did you mean steered?"),
        ("StandardInput", "tty", "inherit"),
        ("WorkingDirectory", "~/x", "~ alone"),
        ("Environment", "A", "-E NAME"),
        ("LimitNOFILE", "10:5", "SOFT:HARD"),
    ];
    for (key, value, part) in table {
        let message = build(&[(key, value)]).expect_err(key);
        assert!(message.contains(part), "{key}={value}: {message}");
    }
}

/// The names as systemd 252 itself lists them, where its manager is installed.
#[test]
fn every_directive_of_the_installed_systemd_is_known() {
    let manager = "/lib/systemd/systemd";
    let listing = std::process::Command::new(manager).arg("--dump-configuration-items").output();
    let Ok(listing) = listing else { return };
    let sections = [Section::Unit, Section::Service, Section::Socket, Section::Install];
    let mut section = None;
    let mut seen = 0;
    for line in String::from_utf8_lossy(&listing.stdout).lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = sections.into_iter().find(|section| name.trim_end_matches(']') == section.name());
        } else if let (Some(section), Some((key, _))) = (section, line.split_once('=')) {
            assert!(find(section, key).is_some(), "[{}] {key}", section.name());
            seen += 1;
        }
    }
    assert!(seen > 600 || listing.stdout.is_empty(), "{seen}");
}

#[test]
fn sandboxing_is_a_warning() {
    let warning =
        draft().set("ProtectSystem", "full", "-p ProtectSystem=full").expect("known").expect("a warning");
    assert!(warning.to_string().starts_with("-p ProtectSystem=full: ProtectSystem= has no effect ("));
}

#[test]
fn finishing_looks_at_the_whole() {
    let mut twice = draft();
    for text in ["8080", "0", "0=b", "udp:8080", "tcp:8080=web"] {
        twice.config.listeners.push(Listener::parse(text, None).expect(text));
    }
    let error = close::command_line(twice).expect_err("held twice");
    assert_eq!(error.place, "--listen tcp:8080=web");
    assert!(error.cause.ends_with("by --listen 8080"), "{error}");

    let mut unknown = draft();
    unknown.config.launch.commands.start[0].words.push("--fd={fd:web}".into());
    assert_eq!(close::command_line(unknown).expect_err("no web").place, "COMMAND --fd={fd:web}");

    assert!(build(&[("Environment", "A={port:web}")]).is_err());
    assert!(
        close::command_line(Draft::new(Config::for_command_line()))
            .expect_err("no command")
            .remedy
            .contains("--")
    );
}
