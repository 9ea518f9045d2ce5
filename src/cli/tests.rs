use super::*;
use crate::client::Task;
use crate::config::directives::row::{Directive, Support};
use crate::config::{Address, Handover, Restart, Signal};
use crate::core::Request;

fn words(line: &str) -> Parsed {
    parse(line.split(' ').map(OsString::from))
}

fn run(line: &str) -> Box<RunArgs> {
    match words(line) {
        Parsed::Run(run) => run,
        other => panic!("{line}: {other:?}"),
    }
}

/// The message of a refused line, which is one line with status 2 and a remedy.
fn refused(line: &str) -> String {
    match words(line) {
        Parsed::Exit { status: 2, text, stderr: true } => {
            let message = text.strip_suffix('\n').expect("whole lines");
            assert!(
                message.starts_with("supervise: ") && message.ends_with(')') && !message.contains('\n'),
                "{text}"
            );
            message.to_owned()
        }
        other => panic!("{line}: {other:?}"),
    }
}

fn printed(line: &str) -> String {
    match words(line) {
        Parsed::Exit { status: 0, text, stderr: false } => text,
        other => panic!("{line}: {other:?}"),
    }
}

fn list(json: bool) -> Parsed {
    Parsed::Verb(Verb { task: Task::List, name: None, control: None, json })
}

fn verb(request: Request) -> Verb {
    Verb { task: Task::Ask(request), name: None, control: None, json: false }
}

#[test]
fn a_command_line_becomes_a_configuration() {
    let run = run(
        "supervise -l 8080=web --listen=udp:53 -u www --restart always -p Backlog=7 -E A=1 -E B=x=y \
                   --environment-file=-/e --name w --control none -vvq --color never -- ./server -l {fd:web} --",
    );
    assert_eq!(run.config.launch.commands.start[0].words, ["./server", "-l", "{fd:web}", "--"]);
    let sockets: Vec<_> =
        run.config.listeners.iter().map(|listener| (listener.kind, listener.name.as_str())).collect();
    assert_eq!(sockets, [(Kind::Tcp, "web"), (Kind::Udp, "53")]);
    assert_eq!(
        (run.config.launch.user.as_deref(), run.config.policy.restart),
        (Some("www"), Restart::Always)
    );
    assert_eq!(run.config.socket.backlog, 7);
    assert_eq!(run.config.launch.environment, [("A".into(), "1".into()), ("B".into(), "x=y".into())]);
    assert!(run.config.launch.environment_files[0].optional);
    assert_eq!(
        (run.instance.name.as_deref(), run.instance.control, run.verbosity, run.color),
        (Some("w"), Control::None, 1, Color::Never)
    );
    assert!(run.warnings.is_empty());
}

#[test]
fn without_flags_everything_has_its_default() {
    let run = run("supervise -- ./server");
    let mut config = Config::for_command_line();
    config.launch.commands.start = vec![Exec::plain(vec!["./server".into()])];
    config.policy.commands = config.launch.commands.policy();
    assert_eq!(run.config, config);
    assert_eq!(
        (run.instance.name, run.instance.control, run.verbosity, run.color),
        (None, Control::Search, 0, Color::Auto)
    );
}

#[test]
fn the_later_of_flag_and_p_wins() {
    let kill = |line| run(line).config.policy.kill_signal.to_string();
    assert_eq!(kill("supervise --kill-signal INT -p KillSignal=QUIT -- x"), "SIGQUIT");
    assert_eq!(kill("supervise -p KillSignal=QUIT --kill-signal INT -- x"), "SIGINT");
    assert_eq!(kill("supervise --kill-signal HUP --kill-signal INT -p Nice=1 -- x"), "SIGINT");
    let variables = run("supervise -E A=1 -p Environment=A=2 -E A=3 -- x").config.launch.environment;
    assert_eq!(variables.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["1", "2", "3"]);
}

#[test]
fn of_servers_that_cannot_overlap_the_old_one_goes_first() {
    let handover = |line| run(line).config.policy.handover;
    assert_eq!(handover("supervise -l 80 -- nice apache2 -D FOREGROUND"), Handover::StopFirst);
    assert_eq!(handover("supervise -l 80 --handover steered -- apache2 -D FOREGROUND"), Handover::Steered);
    assert_eq!(handover("supervise -l 80 --ready http:/ -- apache2 -D FOREGROUND"), Handover::Steered);
    assert_eq!(handover("supervise -l 80 -- nginx"), Handover::Steered);
}

#[test]
fn a_variable_alone_is_ours() {
    let variables = run("supervise -E PATH -E SUPERVISE_TEST_UNSET -- x").config.launch.environment;
    assert_eq!(variables[0], ("PATH".to_owned(), std::env::var("PATH").unwrap_or_default()));
    assert_eq!(variables[1], ("SUPERVISE_TEST_UNSET".to_owned(), String::new()));
}

#[test]
fn flags_of_systemd_socket_activate() {
    let listeners = run("supervise -d -l 53 -l /run/x --fdname=a:b --now -- x").config.listeners;
    let got: Vec<_> = listeners.iter().map(|listener| (listener.kind, listener.name.as_str())).collect();
    assert_eq!(got, [(Kind::Udp, "a"), (Kind::UnixGram, "b")]);
    let listeners = run("supervise --seqpacket -l @x -l @y --fdname=n -- x").config.listeners;
    assert!(listeners.iter().all(|listener| listener.kind == Kind::SeqPacket && listener.name == "n"));
    let run = run("supervise -l 80 --fdname= -- x");
    assert_eq!(
        (run.config.listeners[0].name.as_str(), &run.config.listeners[0].address),
        ("", &Address::Port(80))
    );
}

#[test]
fn directives_without_effect_warn_or_are_refused() {
    let warnings = run("supervise -p PrivateTmp=yes -p ProtectHome=yes -- x").warnings;
    assert_eq!(warnings.len(), 2);
    assert!(warnings[0].to_string().starts_with("-p PrivateTmp=yes: "));
    assert!(
        refused("supervise -p PrivateTmp=yes --strict -- x")
            .contains("-p PrivateTmp=yes: PrivateTmp= has no effect")
    );
}

#[test]
fn verbs() {
    let table = [
        ("swap", verb(Request::Swap { wait: true })),
        ("swap web --no-wait", Verb { name: Some("web".into()), ..verb(Request::Swap { wait: false }) }),
        ("swap --json", Verb { json: true, ..verb(Request::Swap { wait: true }) }),
        ("abort web", Verb { name: Some("web".into()), ..verb(Request::Abort) }),
        ("restart", verb(Request::Restart)),
        ("pause", verb(Request::Pause)),
        ("resume", verb(Request::Resume)),
        ("stop --control /run/x.sock", Verb { control: Some("/run/x.sock".into()), ..verb(Request::Stop) }),
        ("kill HUP", verb(Request::Kill { signal: Signal::HUP })),
        ("kill 9 web", Verb { name: Some("web".into()), ..verb(Request::Kill { signal: Signal::KILL }) }),
        ("status", verb(Request::Status { wait_ns: None })),
        (
            "status web --wait 5 --json",
            Verb {
                name: Some("web".into()),
                json: true,
                ..verb(Request::Status { wait_ns: Some(5_000_000_000) })
            },
        ),
    ];
    for (line, args) in table {
        assert_eq!(words(&format!("supervise {line}")), Parsed::Verb(args), "{line}");
    }
    assert_eq!(words("supervise list"), list(false));
    assert_eq!(words("supervise list --json"), list(true));
}

#[test]
fn refusals_say_what_to_type() {
    let table = [
        ("supervise", "supervise -h"),
        ("supervise ./run", "./run: no verb of supervise (did you mean: supervise -- ./run)"),
        ("supervise node a;b", "did you mean: supervise -- node 'a;b'"),
        ("supervise swpa", "did you mean: supervise swap;"),
        (
            "supervise -l 8080 ./run -x",
            "./run: COMMAND comes after -- (did you mean: supervise -l 8080 -- ./run -x)",
        ),
        ("supervise -l 8080 swap", "swap: a verb comes first (type supervise swap"),
        ("supervise -l 8080 x -- ./run", "x: this word belongs to no option (leave it out"),
        ("supervise -l 8080", "no COMMAND (write it after --"),
        ("supervise -l 8080 --", "no COMMAND (write it after --"),
        ("supervise -l -- ./run", "--listen: a value is missing (write --listen [KIND:]ADDRESS[=NAME])"),
        ("supervise -u -- ./run", "--user: a value is missing (write --user USER)"),
        ("supervise -l 8080=a:b -- ./run", "--listen 8080=a:b: the name \"a:b\" contains ':' (give"),
        ("supervise --bogus -- ./run", "--bogus: unknown option (`supervise -h`"),
        ("supervise --restrat no -- ./run", "did you mean --restart?"),
        ("supervise -z -- ./run", "-z: unknown option"),
        ("supervise --strict=x -- ./run", "write --strict alone"),
        ("supervise --restart-sec 5x -- ./run", "--restart-sec 5x: unknown time unit \"x\" (try 5s"),
        ("supervise --restart-sec -1 -- ./run", "cannot be negative"),
        ("supervise --restart-sec -1s -- ./run", "; --restart-sec=-1s if it begins with a minus)"),
        ("supervise -u -x -- ./run", "write --user USER; --user=-x if it begins with a minus)"),
        (
            "supervise -p -x -- ./run",
            "-p: a value is missing (write -p KEY=VALUE; -p-x if it begins with a minus)",
        ),
        ("supervise --environment-file --strict -- ./run", "a value is missing"),
        ("supervise -5 -- ./run", "--option=-1"),
        ("supervise --restart-sec= -- ./run", "--restart-sec '': no time span (try"),
        ("supervise --restart-steps 3 -- ./run", "add --restart-max-delay-sec 30s"),
        ("supervise -p Foo -- ./run", "write -p KEY=VALUE"),
        ("supervise -p RestartSecs=5 -- ./run", "did you mean RestartSec?"),
        ("supervise -E 1=secret -- ./run", "-E 1: \"1\" is no name of a variable (letters"),
        ("supervise --color red -- ./run", "it takes auto, always, never"),
        ("supervise --name a/b -- ./run", "--name a/b: "),
        ("supervise --name .a -- ./run", "write a short word"),
        ("supervise --name= -- ./run", "--name '': the name is empty"),
        ("supervise --control= -- ./run", "--control /run/web.sock"),
        ("supervise -d --seqpacket -l 80 -- ./run", "write one of the two"),
        ("supervise --fdname a:b -l 80 -- ./run", "2 names, but 1 --listen"),
        ("supervise -l 80 -l 80 -- ./run", "held already by --listen 80"),
        ("supervise -l 80 -- ./run {fd:web}", "no socket is named \"web\" (the names are \"80\""),
        ("supervise -E A={port:web} -- ./run", "-E A: no socket is named"),
        ("supervise swap a b", "b: one word too many (`supervise swap -h`"),
        ("supervise swap --json=1", "write --json alone"),
        ("supervise swap --control", "write --control PATH)"),
        ("supervise kill", "write it first: supervise kill TERM"),
        ("supervise kill -9", "write 9 without the dash"),
        ("supervise kill -HUP", "without a dash: supervise kill HUP"),
        ("supervise kill -KILL web", "without a dash: supervise kill KILL"),
        ("supervise kill -l", "`supervise kill -h` lists"),
        ("supervise kill FOO", "\"FOO\" is no signal (try TERM"),
        ("supervise status --wait x", "--wait x: unknown time unit"),
        ("supervise status a/b/c", "status a/b/c: "),
        ("supervise status /b", "status /b: "),
        ("supervise stop --json", "--json: unknown option (`supervise stop -h`"),
        ("supervise list x", "one word too many"),
        ("supervise pause --control none", "write its path"),
    ];
    for (line, part) in table {
        let message = refused(line);
        assert!(message.contains(part), "{line}: {message}");
        assert!(!message.contains("secret") && !message.contains("supervise: supervise"), "{message}");
    }
    assert!(refused(&format!("supervise --name {} -- x", "n".repeat(65))).contains("more than 64"));
}

#[test]
fn words_of_other_programs_lead_to_ours() {
    let table = [
        ("supervise help", "(did you mean: supervise --help)"),
        (
            "supervise -listen 80 -- ./run",
            "-listen: a long option begins with two dashes (did you mean --listen?)",
        ),
        ("supervise -", "-: COMMAND comes after -- (did you mean: supervise -- -)"),
        ("supervise help swap", "(did you mean: supervise swap --help)"),
        ("supervise man", "(did you mean: supervise --help)"),
        ("supervise version", "(did you mean: supervise --version)"),
        ("supervise ps", "(did you mean: supervise list)"),
        ("supervise down web", "(did you mean: supervise stop web)"),
        ("supervise start", "(did you mean: supervise -- COMMAND, or supervise run UNIT...)"),
        ("supervise up web", "(did you mean: supervise -- COMMAND, or supervise run UNIT...)"),
        ("supervise enable a.service", "(did you mean: supervise run a.service)"),
        ("supervise start -l 80 -- ./run", "(did you mean: supervise -l 80 -- ./run)"),
        ("supervise -l 80 start", "(did you mean: supervise -- COMMAND, or supervise run UNIT...)"),
        ("supervise -q ps", "(did you mean: supervise list)"),
        ("supervise a.socket dir/a@1.service", "(did you mean: supervise run a.socket dir/a@1.service)"),
        ("supervise a.service -- ./run", "(did you mean: supervise run a.service -- ./run)"),
        ("supervise --strict a.socket", "come after run (did you mean: supervise run --strict a.socket)"),
    ];
    for (line, part) in table {
        let message = refused(line);
        assert!(message.contains(part) && !message.contains("-- start"), "{line}: {message}");
    }
}

#[test]
fn a_quoted_command_line_is_taken_apart() {
    let quoted = |options: &[&str], line: &str| {
        let words = ["supervise"].iter().chain(options).chain([&line]).map(OsString::from);
        let Parsed::Exit { status: 2, text, stderr: true } = parse(words) else { panic!("accepted: {line}") };
        text
    };
    let text = quoted(&[], "node server.js");
    assert!(text.contains("(did you mean: supervise -- node server.js)"), "{text}");
    let text = quoted(&["-l", "80"], "node server.js");
    assert!(text.contains("(did you mean: supervise -l 80 -- node server.js)"), "{text}");
    let text = quoted(&[], "cd web && node server.js");
    assert!(text.contains("(did you mean: supervise -- sh -c 'cd web && node server.js')"), "{text}");
}

#[test]
fn words_that_are_not_utf8_are_the_commands_alone() {
    use std::os::unix::ffi::OsStringExt as _;
    let odd = OsString::from_vec(b"./\xff".to_vec());
    let words =
        |place: &str| [OsString::from("supervise"), place.into(), odd.clone(), "--".into(), "x".into()];
    let Parsed::Run(run) = parse(words("--")) else { panic!("refused") };
    assert_eq!(run.config.launch.commands.start[0].words, [odd.clone(), "--".into(), "x".into()]);
    let words = words("-C");
    let Parsed::Exit { status: 2, text, stderr: true } = parse(words) else { panic!("accepted") };
    assert!(text.contains("not UTF-8"), "{text}");
}

#[test]
fn the_short_help_is_one_screen_and_the_long_one_complete() {
    let short = printed("supervise -h");
    assert!(short.lines().count() <= 50, "{}", short.lines().count());
    let wide: Vec<_> = short.lines().filter(|line| line.chars().count() > 110).collect();
    assert!(wide.is_empty(), "{wide:#?}");
    let long = printed("supervise --help");
    let shown = |row: &&Directive| matches!(row.support, Support::Honoured(_)) && !help::is_of_files(row);
    for row in DIRECTIVES.iter().filter(shown) {
        let flag = row.flag.map_or_else(|| row.key.to_owned(), |flag| format!("--{flag} "));
        assert!(long.contains(&flag), "{flag}");
    }
    for (verb, usage, doc) in VERBS {
        assert!(long.contains(usage) && long.contains(doc), "{verb}");
        // The help has a few words of its meaning, not only its name.
        let named = |line: &str| line.starts_with("  ") && format!("{line} ").contains(&format!(" {verb} "));
        assert!(short.lines().any(named), "{verb} is not in: {short}");
        assert!(printed(&format!("supervise {verb} --help")).contains(usage), "{verb}");
    }
    // Every option that is accepted is documented.
    for accepted in run_options().iter().filter(|accepted| accepted.id != "long-help") {
        let short = || format!("  -{}", accepted.short.unwrap_or(' '));
        let flag = accepted.long.map_or_else(short, |long| format!("--{long}"));
        assert!(long.contains(&flag), "{flag}");
    }
    assert_eq!(printed("supervise --version"), concat!("supervise ", env!("CARGO_PKG_VERSION"), "\n"));
    assert_eq!(printed("supervise list -h"), help::LIST);
}

#[test]
fn run_takes_unit_files_and_options() {
    let args = run("supervise run web.socket --restart no -p Backlog=7 -E A=1 dir/x@1.service --strict -q");
    let units = args.units.expect("unit files");
    assert_eq!(units.paths, ["web.socket", "dir/x@1.service"].map(PathBuf::from));
    let directive = |key: &str, value: &str, place: &str| Override::Directive {
        key: key.to_owned(),
        value: value.to_owned(),
        place: place.to_owned(),
    };
    let expected = [
        directive("Restart", "no", "--restart no"),
        directive("Backlog", "7", "-p Backlog=7"),
        Override::Variable("A".to_owned(), "1".to_owned()),
    ];
    assert_eq!(units.settings, expected);
    assert!(units.strict);
    assert_eq!((args.instance.name.as_deref(), args.verbosity), (None, -1));
    assert_eq!(run("supervise run --name w web.socket").instance.name.as_deref(), Some("w"));
}

#[test]
fn run_refuses_what_belongs_to_a_command() {
    let table = [
        ("supervise run", "no unit file"),
        ("supervise run -l 80 web.service", "ListenStream="),
        ("supervise run -d web.service", "--listen"),
        ("supervise run --fdname a web.service", "FileDescriptorName="),
        ("supervise run web.service -- ./server", "ExecStart="),
        ("supervise run web.service --restart x", "unknown value"),
        ("supervise run web.service -p Nonsense=1", "unknown directive"),
        ("supervise check", "no unit file"),
        (
            "supervise check web.service -- ./server",
            "web.service: check takes this word for a unit file, but",
        ),
        ("supervise check --name= -- ./server", "the name is empty"),
        ("supervise check --color x web.service", "it takes auto, always, never"),
        ("supervise check --restart x -- ./server", "unknown value"),
        ("supervise rnu web.service", "did you mean: supervise run"),
    ];
    for (line, part) in table {
        let message = refused(line);
        assert!(message.contains(part), "{line}: {message}");
    }
}

#[test]
fn exec_takes_a_command_alone() {
    let words_of = |line| match words(line) {
        Parsed::Exec(words) => words,
        other => panic!("{line}: {other:?}"),
    };
    assert_eq!(words_of("supervise exec -- ./server -- -h"), ["./server", "--", "-h"]);
    for (line, part) in [
        ("supervise exec ./server -x", "did you mean: supervise exec -- ./server -x"),
        ("supervise exec x -- ./server", "leave this word out"),
        ("supervise exec -l 80 -- ./server", "`supervise exec -h`"),
        ("supervise exec --", "no COMMAND"),
        ("supervise exec -- ", "no COMMAND"),
        ("supervise exce -- ./server", "did you mean: supervise exec"),
    ] {
        let message = refused(line);
        assert!(message.contains(part), "{line}: {message}");
    }
    for line in ["supervise exec -h", "supervise exec --help -- ./server"] {
        assert!(printed(line).starts_with("Usage: supervise exec -- COMMAND"), "{line}");
    }
}

fn check(line: &str) -> Box<Check> {
    match words(line) {
        Parsed::Check(check) => check,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn check_looks_at_files_or_at_a_command() {
    let files = check("supervise check --json web.service");
    assert!(files.json);
    assert!(matches!(&files.subject, Subject::Units(units) if units.paths == [PathBuf::from("web.service")]));
    let command = check("supervise check -l 80=web -p ProtectSystem=full -E A=secret -- ./server {fd:web}");
    let Subject::Command { lines, .. } = &command.subject else { panic!("{command:?}") };
    assert_eq!(lines.len(), 2);
    assert!(format!("{lines:?}").contains("NotHonoured") && !format!("{lines:?}").contains("secret"));
}
