//! README.md and the documents beside it stay true: their commands parse, their links lead somewhere, the messages that
//! they explain are ours, and the table of directives is that of the program.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use socket_supervise::cli::{Parsed, parse};
use socket_supervise::config::directives::row::{Section, Support};
use socket_supervise::config::directives::table::DIRECTIVES;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README.md and its like, and docs/*.md, by their place in the package.
fn documents() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for directory in ["", "docs"] {
        for entry in fs::read_dir(root().join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                all.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    all.sort();
    assert!(all.iter().any(|(name, _)| name == "README.md") && all.len() > 5, "the documents are there");
    all
}

/// The text outside fenced blocks, and each block with the word after its fence. A line that ends in `\` goes on.
fn parts(text: &str) -> (String, Vec<(String, String)>) {
    let (mut prose, mut blocks) = (String::new(), Vec::new());
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(word), None) => open = Some((word.to_owned(), String::new())),
            (None, Some((_, block))) => block.push_str(&format!("{line}\n")),
            (None, None) => prose.push_str(&format!("{line}\n")),
        }
    }
    assert!(open.is_none(), "a block has no end");
    (prose, blocks.into_iter().map(|(word, block)| (word, block.replace("\\\n", " "))).collect())
}

fn inline(prose: &str) -> impl Iterator<Item = &str> {
    prose.split('`').skip(1).step_by(2).filter(|span| !span.contains('\n'))
}

/// The words of the call of `supervise` in a line of shell, as far as it goes. `None` if there is none, or if it is a
/// usage.
fn call(line: &str) -> Option<Vec<OsString>> {
    let line = line.replace("\\|", "|");
    let is_usage =
        |(at, _): (usize, &str)| line[at + 1..].starts_with(|c: char| c.is_uppercase() || c == '-');
    if line.match_indices('[').any(is_usage) || line.contains(" ... ") || line.ends_with(" ...") {
        return None;
    }
    let is_ours = |word: &&str| *word == "supervise" || word.ends_with("/supervise");
    let mut words = line.split_whitespace().skip_while(|word| !is_ours(word));
    words.next()?;
    let is_end = |word: &str| ["|", "&", ";", "#", ">", "2>"].iter().any(|end| word.starts_with(end));
    let mut found = vec![OsString::from("supervise")];
    for word in words {
        if is_end(word) && !found.iter().any(|earlier| earlier == "--") {
            break;
        }
        found.push(word.trim_end_matches(';').trim_matches(['\'', '"']).into());
        if word.ends_with(';') {
            break;
        }
    }
    (found.len() > 1).then_some(found)
}

/// What a document tells to type, each as a line.
fn commands(text: &str) -> Vec<String> {
    let (prose, blocks) = parts(text);
    let ours = |line: &str| line.replacen("cargo run -- ", "supervise ", 1);
    let mut lines: Vec<String> =
        inline(&prose).map(ours).filter(|line| line.starts_with("supervise ")).collect();
    for (word, block) in blocks {
        let lines_of_block = block.lines().filter_map(|line| match word.as_str() {
            // A block without a language is a drawing or a usage.
            "" => None,
            "console" => line.strip_prefix("$ ").map(String::from),
            "dockerfile" => line.split_once('[').map(|(_, list)| list.replace(['"', ',', ']'], " ")),
            _ => Some(line.to_owned()),
        });
        lines.extend(lines_of_block.map(|line| ours(&line)).filter(|line| line.contains("supervise ")));
    }
    lines
}

/// This test only parses the commands; other tests run them.
#[test]
fn the_commands_of_the_documents_are_spelled_right() {
    let mut count = 0;
    for (name, text) in documents() {
        for line in commands(&text) {
            let Some(words) = call(&line) else { continue };
            count += 1;
            if let Parsed::Exit { status, text, .. } = parse(words) {
                assert_eq!(status, 0, "{name}: {line}: {text}");
            }
        }
    }
    assert!(count >= 60, "{count} commands");
}

#[test]
fn a_command_that_is_not_spelled_right_is_found() {
    let text = "`supervise swop`\n\n```sh\nexec /usr/bin/supervise -l 8080 --nme app -- ./run 2>&1\nsupervise swap app  # now\n\
                ```\n```dockerfile\nCOPY supervise x\nENTRYPOINT [\"supervise\", \"--listn\", \"8080\"]\n```\n";
    let wrong = |line: &String| {
        let words = call(line).unwrap_or_else(|| panic!("{line} is a command"));
        matches!(parse(words), Parsed::Exit { status: 2, .. })
    };
    assert_eq!(commands(text).iter().map(wrong).collect::<Vec<_>>(), [true, true, false, true]);
}

#[test]
fn files_that_the_documents_name_exist() {
    let starts = ["src/", "tests/", "examples/", "benches/", "docs/", ".ci/"];
    let ends = |c: char| !(c.is_alphanumeric() || "/._-".contains(c));
    for (name, text) in documents() {
        for path in text.split(ends).filter(|word| starts.iter().any(|start| word.starts_with(start))) {
            let path = path.trim_end_matches(['.', '/']);
            assert!(root().join(path).exists(), "{name} names {path}");
        }
    }
}

/// The anchor that GitHub makes for a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut count = 0;
    for (name, text) in documents() {
        let (prose, _) = parts(&text);
        for (_, rest) in prose.match_indices("](").map(|(at, found)| prose.split_at(at + found.len())) {
            let target = rest.split(')').next().unwrap();
            if target.contains("://") {
                continue;
            }
            count += 1;
            let (file, wanted) = target.split_once('#').unwrap_or((target, ""));
            let path: PathBuf = if file.is_empty() {
                root().join(&name)
            } else {
                root().join(&name).parent().unwrap().join(file)
            };
            assert!(path.exists(), "{name} links to {target}");
            if !wanted.is_empty() {
                let (prose, _) = parts(&fs::read_to_string(&path).unwrap());
                let headings = prose.lines().filter_map(|line| line.strip_prefix('#'));
                let anchors: BTreeSet<String> =
                    headings.map(|line| anchor(line.trim_start_matches('#'))).collect();
                assert!(anchors.contains(wanted), "{name} links to {target}: {anchors:?}");
            }
        }
    }
    assert!(count >= 20, "{count} links");
}

/// All of src as one text: a string that is written over several lines is one.
fn source() -> String {
    let (mut all, mut left) = (String::new(), vec![root().join("src")]);
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&fs::read_to_string(path).unwrap());
        }
    }
    let lines: Vec<&str> = all.lines().map(str::trim_start).collect();
    lines.join("\n").replace("\\\n", "").replace("\\\"", "\"")
}

/// The first column of docs/messages.md.
fn explained() -> Vec<String> {
    let text = fs::read_to_string(root().join("docs/messages.md")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    rows.map(String::from).collect()
}

/// Each piece of a message between two `…` occurs in src.
#[test]
fn messages_that_are_explained_are_ours() {
    let (rows, source) = (explained(), source());
    assert!(rows.len() >= 60, "{} messages", rows.len());
    let is_ours = |piece: &str| source.contains(piece);
    let strange: Vec<&String> = rows.iter().filter(|row| !row.split('…').all(is_ours)).collect();
    assert!(strange.is_empty(), "docs/messages.md has words that src has not: {strange:#?}");
}

/// The first text of each arm of src/os/warning.rs.
fn warnings() -> Vec<String> {
    let text = fs::read_to_string(root().join("src/os/warning.rs")).unwrap();
    let (_, arms) = text.split_once("fn words").expect("the table of warnings");
    let arms = arms.lines().take_while(|line| *line != "    }");
    let words: Vec<String> =
        arms.filter_map(|arm| Some(arm.split_once("=> (")?.1.split('"').nth(1)?.to_owned())).collect();
    assert!(words.len() >= 40, "{} warnings", words.len());
    words
}

/// The warnings of src/os/warning.rs and of src/main.rs have rows. The other messages are notes of the core.
#[test]
fn warnings_of_the_shell_are_explained() {
    let (rows, source, table) = (explained(), source(), warnings());
    let calls = source.split("log::warn!(").chain(source.split("log::error!(")).skip(1);
    let words = calls.filter_map(|call| call.trim_start().strip_prefix('"')?.split("\",").next());
    let words = words.map(|text| text.split("\")").next().unwrap());
    // What only passes a sentence on has its words elsewhere.
    let is_whole = |text: &&str| text.split(['{', '}']).step_by(2).any(|piece| piece.trim().len() >= 8);
    let is_explained =
        |text: &&str| rows.iter().any(|row| row.split('…').all(|piece| text.contains(piece.trim())));
    let words = words.chain(table.iter().map(String::as_str));
    let missing: BTreeSet<&str> = words.filter(is_whole).filter(|text| !is_explained(text)).collect();
    assert!(missing.is_empty(), "docs/messages.md does not explain: {missing:#?}");
}

const TABLE_BEGINS: &str =
    "<!-- directives: made by BLESS=1 cargo test --test it directives_of_the_docs -->\n";
const TABLE_ENDS: &str = "<!-- directives end -->\n";

/// The table of docs/directives.md: honoured directives a row each, the others by what is said of them.
fn directives() -> String {
    let sections = [Section::Unit, Section::Service, Section::Socket, Section::Install, Section::XSupervise];
    let mut out = String::new();
    for section in sections {
        out.push_str(&format!("\n`[{}]`\n\n| directive | verdict |\n|---|---|\n", section.name()));
        let mut rest: Vec<(String, Vec<&str>)> = Vec::new();
        for row in DIRECTIVES.iter().filter(|row| row.section == section) {
            let reason = match row.support {
                Support::Honoured(_) => {
                    let doc = row.doc.replace('|', "\\|");
                    out.push_str(&format!("| `{}=` | honoured: {doc} |\n", row.key));
                    continue;
                }
                Support::Inert(reason) => format!("inert: {reason}"),
                Support::NotHonoured(reason) => format!("**not honoured**: {reason}"),
            };
            match rest.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, keys)) => keys.push(row.key),
                None => rest.push((reason, vec![row.key])),
            }
        }
        for (reason, keys) in rest {
            let keys: Vec<String> = keys.iter().map(|key| format!("`{key}=`")).collect();
            out.push_str(&format!("| {} | {reason} |\n", keys.join(" ")));
        }
    }
    out.push('\n');
    out
}

#[test]
fn directives_of_the_docs() {
    let text = fs::read_to_string(root().join("docs/directives.md")).unwrap();
    let (head, rest) = text.split_once(TABLE_BEGINS).expect("the mark before the table");
    let (table, tail) = rest.split_once(TABLE_ENDS).expect("the mark after the table");
    let expected = directives();
    if std::env::var_os("BLESS").is_some() {
        let text = format!("{head}{TABLE_BEGINS}{expected}{TABLE_ENDS}{tail}");
        fs::write(root().join("docs/directives.md"), text).expect("docs/directives.md is written");
        return;
    }
    assert!(
        table == expected,
        "the table of docs/directives.md is old: BLESS=1 cargo test --test it directives_of_the_docs"
    );
}
