//! The expected values of tests/conformance, asked again: systemd-analyze(1) says what it makes of each text. It needs
//! no systemd that runs. The tables were made with systemd 252; a later one may have learned a specifier.

use std::process::{Command, Output};

use serde_json::{Map, Value, json};

use super::conformance::{all_agree, cases, expect, text};
use super::support::Place;

fn analyze(words: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new("systemd-analyze");
    command.args(words).env_remove("SYSTEMD_OS_RELEASE").envs(variables.iter().copied());
    command.output().unwrap_or_else(|error| panic!("systemd-analyze: {error}: run tests/real/run"))
}

/// What `verify` says of a unit, and what it loaded: the properties of `systemctl show`, more or less.
struct Verified {
    complaints: String,
    loaded: String,
}

impl Verified {
    fn ask(name: &str, unit: &str, variables: &[(&str, &str)]) -> Self {
        let place = Place::new();
        place.write(name, unit);
        let path = place.path(name);
        let complaints = analyze(&["verify", &path], variables).stderr;
        let debug: Vec<_> = [("SYSTEMD_LOG_LEVEL", "debug")].iter().chain(variables).copied().collect();
        let loaded = analyze(&["verify", &path], &debug).stdout;
        let owned = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { complaints: owned(complaints), loaded: owned(loaded) }
    }

    /// The rest of every loaded line that begins so.
    fn all(&self, start: &str) -> Vec<&str> {
        self.loaded.lines().filter_map(|line| line.trim_start().strip_prefix(start)).collect()
    }

    /// What stands between the brackets of `Description=<...>`, over several lines if need be.
    fn description(&self) -> Option<&str> {
        let rest = self.loaded.split_once("Description: <")?.1;
        Some(rest.split_once(">\n\t\tInstance")?.0)
    }
}

/// A command line as it is printed: blanks between words, `"` round some, a backslash before what is special.
fn printed_words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.get_or_insert_default().push(match chars.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                other => other.unwrap_or('\\'),
            }),
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn command_lines() {
    all_agree(&cases("command_lines.json"), |case| {
        let unit =
            format!("[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart={}\n", text(case, "exec_start"));
        let verified = Verified::ask("a.service", &unit, &[]);
        let refused = ["bad unit file setting", "lacks both ExecStart"];
        let refused = refused.iter().any(|words| verified.complaints.contains(words));
        let commands: Vec<_> = verified.all("Command Line: ").into_iter().map(printed_words).collect();
        let got = if refused || commands.is_empty() { Value::Null } else { json!(commands) };
        expect(&got, &case["commands"])?;
        expect(&Some(!refused && verified.complaints.contains("/a.service:4:")), &case["warned"].as_bool())
    });
}

#[test]
fn addresses() {
    all_agree(&cases("addresses.json"), |case| {
        let (key, value) = (text(case, "key"), text(case, "value"));
        // With a second one a refused line is no reason to refuse the unit.
        let unit = format!(
            "[Unit]\nDescription=x\n[Socket]\nListenFIFO=/run/only-so-that-one-is-left\n{key}={value}\n"
        );
        let verified = Verified::ask("a.socket", &unit, &[]);
        expect(&verified.all(&format!("{key}: ")).first().copied(), &case["held"].as_str())
    });
}

#[test]
fn specifiers() {
    all_agree(&cases("specifiers.json"), |case| {
        let (name, text) = (text(case, "unit"), text(case, "text"));
        let section = if name.ends_with(".service") {
            "[Service]\nType=oneshot\nExecStart=/bin/true"
        } else {
            "[Socket]\nListenStream=/run/x"
        };
        let verified = Verified::ask(name, &format!("[Unit]\nDescription=<{text}>\n{section}\n"), &[]);
        expect(&verified.description(), &case["value"].as_str())
    });
}

#[test]
fn time_spans() {
    all_agree(&cases("time_spans.json"), |case| {
        let output = analyze(&["timespan", "--", text(case, "text")], &[]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let micros = said.lines().find_map(|line| line.trim().strip_prefix("μs: ")?.parse::<u64>().ok());
        let got = match micros.filter(|_| output.status.success()) {
            Some(u64::MAX) => json!("infinity"),
            other => json!(other),
        };
        expect(&got, &case["microseconds"])
    });
}

/// The variables of the table by the names of os-release, which systemd reads in the same way, and their specifiers.
const NAMES: [(&str, &str, &str); 3] =
    [("T_A", "ID", "%o"), ("T_B", "VERSION_ID", "%w"), ("T_C", "BUILD_ID", "%B")];

#[test]
fn environment_files() {
    all_agree(&cases("environment_files.json"), |case| {
        let place = Place::new();
        let named =
            |text: &str| NAMES.iter().fold(text.to_owned(), |text, (ours, its, _)| text.replace(ours, its));
        place.write("os-release", &named(text(case, "file")));
        let mut got = Map::new();
        for (ours, _, specifier) in NAMES {
            let unit =
                format!("[Unit]\nDescription=<{specifier}>\n[Service]\nType=oneshot\nExecStart=/bin/true\n");
            let verified =
                Verified::ask("a.service", &unit, &[("SYSTEMD_OS_RELEASE", &place.path("os-release"))]);
            let value = verified.description().ok_or_else(|| verified.complaints.clone())?;
            // systemd shows an empty variable like one that is not set.
            let is_set = case["environment"].get(ours).is_some();
            if !value.is_empty() || is_set {
                got.insert(ours.to_owned(), value.into());
            }
        }
        let wanted = case["environment"].as_object().expect("an object");
        let wanted: Map<_, _> = wanted
            .iter()
            .map(|(name, value)| (name.clone(), named(value.as_str().unwrap()).into()))
            .collect();
        expect(&got, &wanted)
    });
}
