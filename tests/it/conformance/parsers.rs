//! The tables of texts against the parsers themselves.

use std::cell::Cell;
use std::path::Path;

use serde_json::Value;
use socket_supervise::config::command_line;
use socket_supervise::config::directives::row::Context;
use socket_supervise::config::environment;
use socket_supervise::config::specifier::{Specifiers, UnitName};
use socket_supervise::config::unit::load;
use socket_supervise::config::unit_file::{Source, Unit};
use socket_supervise::config::{Address, Kind, Problem, Span};
use socket_supervise::os::host;

use super::{all_agree, cases, expect, text};

#[test]
fn time_spans_are_those_of_systemd_analyze() {
    all_agree(&cases("time_spans.json"), |case| {
        let got = Span::parse(text(case, "text")).ok();
        if case["microseconds"] == "infinity" {
            return expect(&got, &Some(Span::INFINITY));
        }
        expect(&got.map(|span| span.as_nanos() / 1_000), &case["microseconds"].as_u64())
    });
}

#[test]
fn environment_files_are_read_as_systemd_reads_them() {
    all_agree(&cases("environment_files.json"), |case| {
        let pairs = environment::parse_file(text(case, "file"), "test").map_err(|error| error.to_string())?;
        let got: serde_json::Map<_, _> =
            pairs.into_iter().map(|(name, value)| (name, value.into())).collect();
        expect(&got, case["environment"].as_object().unwrap())
    });
}

/// `text` as it stands in the unit `name`, its specifiers replaced.
fn expanded(name: &str, text: &str) -> Result<String, Problem> {
    let unit = UnitName::parse(name)?;
    Specifiers { unit: &unit, path: Path::new("/etc/systemd/system/x"), host: &host::specifier }.expand(text)
}

#[test]
fn specifiers_stand_for_what_they_do_in_systemd() {
    all_agree(&cases("specifiers.json"), |case| {
        let got = expanded(text(case, "unit"), text(case, "text"));
        expect(&got.as_deref().ok(), &case["value"].as_str()).map_err(|fault| format!("{fault}: {got:?}"))
    });
}

#[test]
fn specifiers_of_the_machine_follow_their_rule() {
    all_agree(&cases("machine_specifiers.json"), |case| {
        if text(case, "letter") == "m" && !Path::new("/etc/machine-id").exists() {
            return Ok(());
        }
        let got = expanded("web.service", &format!("%{}", text(case, "letter")))
            .map_err(|problem| problem.cause)?;
        let id = |digits: &str| digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let kernel = |name: &str| std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap();
        let good = match text(case, "letter") {
            "b" => id(&got) && kernel("random/boot_id").replace('-', "").trim() == got,
            "m" => id(&got),
            "H" => kernel("hostname").trim() == got,
            "l" => kernel("hostname").trim().split('.').next() == Some(&got),
            "v" => kernel("osrelease").trim() == got,
            "U" => got == nix::unistd::geteuid().to_string(),
            "G" => got == nix::unistd::getegid().to_string(),
            "h" | "s" | "t" | "S" | "C" | "L" | "E" | "T" | "V" => got.starts_with('/'),
            "y" => got == "/etc/systemd/system/x",
            "Y" => got == "/etc/systemd/system",
            "a" | "u" | "g" | "q" => !got.is_empty(),
            // Specifiers of os-release may be empty, but they are no error.
            _ => true,
        };
        if good { Ok(()) } else { Err(format!("got {got:?}")) }
    });
}

/// The commands of an ExecStart= in `a.service`, and whether there was a warning.
fn commands(line: &str) -> (Option<Value>, bool) {
    let warned = Cell::new(false);
    let scope = Context {
        expand: &|text| expanded("a.service", text),
        place: "a.service:4",
        warn: &|_problem| warned.set(true),
    };
    // What surrounds a value has gone when it gets here.
    let commands = command_line::parse(line.trim(), &scope).ok().filter(|commands| !commands.is_empty());
    let words = |exec: &socket_supervise::config::Exec| -> Vec<String> {
        exec.words.iter().map(|word| word.to_str().unwrap().to_owned()).collect()
    };
    (commands.map(|all| all.iter().map(words).collect::<Vec<_>>().into()), warned.get())
}

#[test]
fn command_lines_are_split_as_systemd_splits_them() {
    all_agree(&cases("command_lines.json"), |case| {
        let (got, warned) = commands(text(case, "exec_start"));
        expect(&got.unwrap_or(Value::Null), &case["commands"])?;
        // More warnings than systemd has are welcome, fewer are not.
        if case["warned"] == true && !warned { Err("no warning".to_owned()) } else { Ok(()) }
    });
}

/// The one address of a socket unit as systemd would print it; None where the line is refused.
fn held(key: &str, value: &str) -> Result<String, String> {
    let file = |name: &str, text: String| Unit {
        name: UnitName::parse(name).unwrap(),
        path: Path::new("/etc/systemd/system").join(name),
        sources: vec![Source { name: name.to_owned(), text: text.into_bytes() }],
        skipped: Vec::new(),
    };
    let units = [
        file("a.socket", format!("[Socket]\n{key}={value}\n")),
        file("a.service", "[Service]\nExecStart=/bin/true\n".to_owned()),
    ];
    let config = load(&units, &[], &host::specifier).config.map_err(|error| error.to_string())?;
    let [listener] = config.listeners.as_slice() else {
        return Err(format!("{} sockets", config.listeners.len()));
    };
    let kind = match listener.kind {
        Kind::Tcp | Kind::Unix => "ListenStream",
        Kind::Udp | Kind::UnixGram => "ListenDatagram",
        Kind::SeqPacket => "ListenSequentialPacket",
        Kind::Fd => return Err("inherited".to_owned()),
    };
    assert_eq!(kind, key);
    Ok(match &listener.address {
        Address::Port(port) => format!("[::]:{port}"),
        Address::Inet { address, interface: Some(interface) } => format!("{address}%{interface}"),
        Address::Inet { address, interface: None } => address.to_string(),
        Address::Path(path) => path.display().to_string(),
        Address::Abstract(name) => format!("@{name}"),
        other => return Err(format!("{other:?}")),
    })
}

#[test]
fn addresses_are_those_systemd_holds() {
    all_agree(&cases("addresses.json"), |case| {
        let got = held(text(case, "key"), text(case, "value"));
        // Where we differ on purpose the case says so, and why.
        let wanted = case.get("here").unwrap_or_else(|| &case["held"]);
        expect(&got.as_deref().ok(), &wanted.as_str()).map_err(|fault| format!("{fault}: {got:?}"))
    });
}
