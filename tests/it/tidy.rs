//! Style as a test: sizes, who may import whom, where `unsafe` may stand, and that the map knows every file.

mod imports;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const LINES_OF_A_FILE: usize = 500;
const LINES_OF_A_FUNCTION: usize = 70;

/// The Rust files below a directory of the package, with their text.
fn files(directory: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = vec![root.join(directory)];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            found.push((name, fs::read_to_string(path).unwrap()));
        }
    }
    found.sort();
    assert!(!found.is_empty(), "{directory} has Rust files");
    found
}

fn everything() -> Vec<(String, String)> {
    ["src", "examples", "tests", "benches"].iter().flat_map(|directory| files(directory)).collect()
}

/// The text without comments and inline tests, good enough for code that rustfmt has seen.
fn code(text: &str) -> String {
    let text = text
        .split_once("\n#[cfg(test)]\n")
        .filter(|(_, rest)| rest.contains("mod tests {"))
        .map_or(text, |(code, _)| code);
    text.lines()
        .map(|line| if line.trim_start().starts_with("//") { "" } else { line.split(" // ").next().unwrap() })
        .collect::<Vec<_>>()
        .join("\n")
}

/// A file of unit tests: its name says what it is for, and it may do what the code may not.
fn is_test(name: &str) -> bool {
    name.ends_with("/tests.rs")
}

/// Asserts that nothing is wrong, and prints all that is.
#[track_caller]
fn assert_none(faults: Vec<String>) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let mut faults = Vec::new();
    for (name, text) in everything() {
        let lines = text.lines().count();
        if lines > LINES_OF_A_FILE {
            faults.push(format!("{name} has {lines} lines, {LINES_OF_A_FILE} are enough"));
        }
        if !text.starts_with("//!") && !is_test(&name) {
            faults.push(format!("{name} does not begin with what it is for (//!)"));
        }
    }
    assert_none(faults);
}

#[test]
fn functions_fit_on_a_screen() {
    let mut faults = Vec::new();
    for (name, text) in everything() {
        for (number, function, lines) in functions(&text) {
            if lines > LINES_OF_A_FUNCTION {
                faults.push(format!("{name}:{number}: {function} has {lines} lines"));
            }
        }
    }
    assert_none(faults);
}

/// Where each function begins, its name and its length. rustfmt puts the closing brace below the first letter.
fn functions(text: &str) -> Vec<(usize, String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let begins = |line: &str| {
        let words = line.trim_start();
        let words = ["pub ", "pub(crate) ", "pub(super) ", "const ", "async ", "unsafe ", "extern \"C\" "]
            .iter()
            .fold(words, |rest, word| rest.strip_prefix(word).unwrap_or(rest));
        words
            .strip_prefix("fn ")
            .map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
    };
    let mut found = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let Some(function): Option<String> = begins(line) else { continue };
        let indent = line.len() - line.trim_start().len();
        let closing = format!("{}}}", " ".repeat(indent));
        let one_line = line.trim_end().ends_with('}') || line.trim_end().ends_with(';');
        let length = if one_line {
            1
        } else {
            lines[number..].iter().position(|end| *end == closing).unwrap_or(0) + 1
        };
        found.push((number + 1, function, length));
    }
    found
}

#[test]
fn the_measure_of_functions_works() {
    let text = "impl A {\n    pub(crate) const fn one(&self) -> u8 {\n        1\n    }\n}\nfn two() {}\n";
    assert_eq!(functions(text), [(2, "one".into(), 3), (6, "two".into(), 1)]);
}

#[test]
fn the_core_and_the_configuration_touch_nothing() {
    // Addresses are values, and so is a Duration: no socket and no clock comes of them.
    let forbidden = [
        "std::fs",
        "std::io",
        "std::os",
        "std::process",
        "std::thread",
        "std::env",
        "std::time::Instant",
        "SystemTime",
        "TcpListener",
        "TcpStream",
        "UdpSocket",
        "ToSocketAddrs",
        "nix::",
        "libc::",
        "mio::",
        "unsafe ",
    ];
    let mut faults = Vec::new();
    for (name, text) in files("src/core").into_iter().chain(files("src/config")) {
        for word in forbidden.iter().filter(|word| !is_test(&name) && code(&text).contains(*word)) {
            faults.push(format!("{name} mentions {word}"));
        }
    }
    assert_none(faults);
}

/// Sentences of the shell stand in one file, so that they can be read together; a line that only passes one on may stand
/// anywhere.
#[test]
fn the_shell_has_its_words_in_one_place() {
    let mut faults = Vec::new();
    for (name, text) in files("src/os").into_iter().filter(|(name, _)| name != "src/os/warning.rs") {
        for call in ["log::error!(", "log::warn!(", "log::info!(", "log::log!("]
            .into_iter()
            .flat_map(|call| code(&text).split(call).skip(1).map(String::from).collect::<Vec<_>>())
        {
            let literal = call.split(");").next().unwrap().split('"').nth(1).unwrap_or_default();
            if literal.split(['{', '}']).step_by(2).any(|words| words.contains(char::is_alphabetic)) {
                faults.push(format!("{name} logs {literal:?}, which belongs into src/os/warning.rs"));
            }
        }
    }
    assert_none(faults);
}

/// Tests wait for conditions as well.
#[test]
fn nothing_sleeps() {
    let sleepers = files("src").into_iter().filter(|(_, text)| text.contains("thread::sleep"));
    assert_none(sleepers.map(|(name, _)| format!("{name} sleeps")).collect());
}

/// A name with two meanings has to be read twice, also where only one file sees it.
#[test]
fn a_type_name_has_one_meaning() {
    let mut places: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, text) in files("src").into_iter().filter(|(name, _)| !is_test(name)) {
        for found in code(&text).lines().filter_map(defined_type) {
            places.entry(found.to_owned()).or_default().insert(name.clone());
        }
    }
    assert!(places.len() > 100, "types are found: {}", places.len());
    let twice = places.into_iter().filter(|(_, files)| files.len() > 1);
    assert_none(twice.map(|(name, files)| format!("{name} is a type in each of {files:?}")).collect());
}

/// The name of the type that this line begins to define.
fn defined_type(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("pub").map_or(line, |rest| match rest.split_once(") ") {
        Some((_, rest)) if line.starts_with("pub(") => rest,
        _ => rest.trim_start(),
    });
    let (kind, rest) = rest.split_once(' ')?;
    let ends = |c: char| !(c.is_alphanumeric() || c == '_');
    ["struct", "enum", "union", "trait", "type"].contains(&kind).then(|| rest.split(ends).next())?
}

#[test]
fn defined_types_are_found() {
    let lines = [
        ("pub struct A<'a> {", Some("A")),
        ("pub(super) enum B {", Some("B")),
        ("pub(in crate::os) type C = u8;", Some("C")),
        ("struct D;", Some("D")),
        ("pub fn e() {}", None),
        ("    type F = u8;", None),
    ];
    for (line, expected) in lines {
        assert_eq!(defined_type(line), expected, "{line}");
    }
}

#[test]
fn unsafe_stands_where_system_calls_are_made() {
    let allowed = [
        "src/main.rs",
        "src/os/background.rs",
        "src/os/begin.rs",
        "src/os/spawn.rs",
        "src/os/spawn/clone.rs",
        "src/os/spawn/filter.rs",
        "src/os/spawn/limits.rs",
        "src/os/spawn/status.rs",
        "src/os/sys.rs",
        "src/os/sys/attribute.rs",
        "src/os/sys/left.rs",
        "src/os/keeper.rs",
        "src/os/keeper/board.rs",
        "src/os/keeper/kit.rs",
        "src/os/sys/memory.rs",
        "src/os/sys/options.rs",
        "src/os/sys/seccomp.rs",
        "examples/common/mod.rs",
        "tests/servers/stamp.rs",
    ];
    let keywords =
        ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "#[unsafe", "allow(unsafe_code)"];
    let mut faults = Vec::new();
    for (name, text) in everything().into_iter().filter(|(name, _)| name != "tests/it/tidy.rs") {
        if keywords.iter().any(|keyword| code(&text).contains(keyword)) && !allowed.contains(&name.as_str()) {
            faults.push(format!("{name} is unsafe"));
        }
    }
    assert_none(faults);
}

#[test]
fn the_map_names_every_file() {
    let map = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let named = named_in(&map);
    let missing = files("src")
        .into_iter()
        .map(|(name, _)| name.trim_start_matches("src/").to_owned())
        .filter(|name| name != "lib.rs" && !is_test(name) && !named.contains(name))
        .map(|name| format!("the map in src/lib.rs does not name {name}"))
        .collect();
    assert_none(missing);
}

/// The files that the map names. `folder/` at the margin stands before those below it, further right before those
/// that follow it in the same entry.
fn named_in(map: &str) -> Vec<String> {
    let (mut folder, mut below) = (String::new(), String::new());
    let mut named = Vec::new();
    for line in map.lines().filter_map(|line| line.strip_prefix("//! ")) {
        if !line.starts_with("    ") {
            below.clear();
        }
        for (place, word) in line.split_whitespace().enumerate() {
            let word = word.trim_matches([';', ',', ':', '(', ')', '`']);
            if word.ends_with('/') {
                let is_margin = place == 0 && !line.starts_with(' ');
                word.clone_into(if is_margin { &mut folder } else { &mut below });
            } else if word.ends_with(".rs") {
                named.extend([word.to_owned(), format!("{folder}{word}"), format!("{below}{word}")]);
            }
        }
    }
    named
}

#[test]
fn the_map_is_read_as_a_person_would() {
    let map = "//! a.rs  x\n//! b/\n//!   c.rs  y; b/d/e.rs\n//!   f.rs  in b/f/: g.rs,\n//!         h.rs\n//!   i.rs\n";
    let named = named_in(map);
    for name in ["a.rs", "b/c.rs", "b/d/e.rs", "b/f.rs", "b/f/g.rs", "b/f/h.rs", "b/i.rs"] {
        assert!(named.iter().any(|one| one == name), "{name} is not in {named:?}");
    }
    assert!(!named.iter().any(|one| one == "b/f/i.rs"), "{named:?}");
}
