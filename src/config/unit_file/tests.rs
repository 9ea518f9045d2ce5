use std::path::Path;

use super::*;
use crate::config::directives::row::Context;
use crate::config::specifier::Specifiers;
use crate::config::{command_line, environment};

fn parsed(text: &[u8]) -> ParsedSource {
    let source = Source { name: "web.service".to_owned(), text: text.to_vec() };
    parse(&source).unwrap_or_else(|error| panic!("{error}"))
}

/// `Section/Key=Value@LINE`
fn lines(text: &str) -> Vec<String> {
    let parsed = parsed(text.as_bytes());
    assert_eq!(parsed.warnings, [], "{text:?}");
    let line = |place: &str| place.strip_prefix("web.service:").expect("our name").to_owned();
    let show = |a: &Assignment| format!("{}/{}={}@{}", a.section, a.key, a.value, line(&a.place));
    parsed.assignments.iter().map(show).collect()
}

/// The lines that were warned about.
fn warned(text: &[u8]) -> Vec<String> {
    parsed(text).warnings.iter().map(|warning| warning.0.place.clone()).collect()
}

#[test]
fn sections_keys_and_values() {
    let table: &[(&str, &[&str])] = &[
        ("", &[]),
        ("[A]\nB=1", &["A/B=1@2"]),
        ("  [A]  \n\t B  =  x y \t\n", &["A/B=x y@2"]),
        ("[A]\nB=1\n[C]\nD=\n\n[A]\nB=2\n", &["A/B=1@2", "C/D=@4", "A/B=2@7"]),
        ("[A]\nB=c=d # no comment\n", &["A/B=c=d # no comment@2"]),
        ("# c\n  ; c = d\n[A]\n#B=1\nB=2\n", &["A/B=2@5"]),
        ("\u{feff}[A]\nB=1\n", &["A/B=1@2"]),
        ("\u{feff}# c\n[A]\nB=1\n", &["A/B=1@3"]),
        ("[A B]\nb c=1\n", &["A B/b c=1@2"]),
        ("[]\nB=1\n", &["/B=1@2"]),
    ];
    for (text, expected) in table {
        assert_eq!(lines(text), *expected, "{text:?}");
    }
}

/// The first two are recorded from systemd 252.
#[test]
fn an_odd_number_of_backslashes_joins_lines() {
    let table: &[(&str, &[&str])] = &[
        ("[A]\nB=a \\\n# comment\n b\nC=1\n", &["A/B=a   b@2", "A/C=1@5"]),
        ("[A]\nB=a\\\nb\n", &["A/B=a b@2"]),
        ("[A]\nB=a\\\\\nC=1\n", &["A/B=a\\\\@2", "A/C=1@3"]),
        ("[A]\nB=a\\\\\\\nC=1\n", &["A/B=a\\\\ C=1@2"]),
        ("[A]\nB=a\\\n\nC=1\n", &["A/B=a@2", "A/C=1@4"]),
        ("[A]\nB=a\\ \nC=1\n", &["A/B=a\\@2", "A/C=1@3"]),
        ("[A]\n# c \\\nC=1\n", &["A/C=1@3"]),
        ("[A]\nB=1\\", &["A/B=1@2"]),
        ("[A]\nB=1\\\n; c\\\n\t#d\n2\\\n3\nC=1", &["A/B=1 2 3@2", "A/C=1@7"]),
        ("\\\n[A]\nB=1\n", &["A/B=1@3"]),
        ("[A]\n\\\n\\\nB=1\n", &["A/B=1@2"]),
    ];
    for (text, expected) in table {
        assert_eq!(lines(text), *expected, "{text:?}");
    }
}

#[test]
fn every_kind_of_line_end_ends_a_line() {
    let table: &[(&str, &[&str])] = &[
        ("[A]\r\nB=a\\\r\nb\r\n\r\nC=1\r\n", &["A/B=a b@2", "A/C=1@5"]),
        ("[A]\rB=1\rC=2", &["A/B=1@2", "A/C=2@3"]),
        ("[A]\n\rB=1\n\r\rC=2", &["A/B=1@2", "A/C=2@4"]),
        ("[A]\0B=1\0", &["A/B=1@2"]),
    ];
    for (text, expected) in table {
        assert_eq!(lines(text), *expected, "{text:?}");
    }
}

#[test]
fn what_has_no_effect_is_told_with_its_line() {
    assert_eq!(warned(b"A=1\n[A]\nB=1\n =1\n"), ["web.service:1", "web.service:4"]);
    assert_eq!(
        warned(b"[A]\nnonsense\n=1\n\n\xff\xfe=1\nB=1\\\n\xff\nC=1\n"),
        ["web.service:2", "web.service:3", "web.service:5", "web.service:6"]
    );
    let parsed = parsed(b"A=1\n[A]\nnonsense\nB=\xff\nC=1\n");
    assert_eq!(parsed.assignments.len(), 1);
    for warning in parsed.warnings {
        let line = warning.to_string();
        assert!(line.contains("has no effect") && !warning.0.remedy.is_empty(), "{line}");
    }
}

#[test]
fn warnings_do_not_grow_without_bound() {
    let parsed = parsed("nonsense\n".repeat(100_000).as_bytes());
    assert_eq!(parsed.warnings.len(), WARNINGS + 1);
    assert!(parsed.warnings[WARNINGS].to_string().contains("not shown"));
}

#[test]
fn what_is_for_others_is_passed_over() {
    let text = "[X-Foo]\nA=1\n[X-Supervise]\nBake=1s\nX-A=1\n[Service]\nX-B=1\nC=1\n[x-a]\nD=1\n";
    assert_eq!(lines(text), ["X-Supervise/Bake=1s@4", "Service/C=1@8", "x-a/D=1@10"]);
}

#[test]
fn a_malformed_header_fails_the_whole_file() {
    for (text, line) in [("[A]\nB=1\n[Foo\n", 3), ("[", 1), ("[A] # c", 1), ("\n[a\"b]", 2), ("[A\\\nB]x", 1)]
    {
        let source = Source { name: "web.service".to_owned(), text: text.into() };
        let error = parse(&source).expect_err(text);
        assert_eq!(error.place, format!("web.service:{line}"), "{text:?}");
        assert!(error.remedy.contains("[Service]"), "{error}");
    }
}

#[test]
fn a_file_is_a_mebibyte_at_most() {
    let file = |bytes| Source { name: "big.service".to_owned(), text: vec![b'#'; bytes] };
    assert_eq!(parse(&file(FILE_BYTES)), Ok(ParsedSource::default()));
    assert_eq!(parse(&file(FILE_BYTES + 1)).expect_err("too large").place, "big.service");
}

/// Each line goes on: the joined text must not be looked at anew for each.
#[test]
fn many_continuations_are_read_in_time() {
    let mut text = b"[A]\nB=".to_vec();
    while text.len() < FILE_BYTES - 4 {
        text.extend_from_slice(b"\\\n");
    }
    assert_eq!(parsed(&text).assignments.len(), 1);
}

const PIECES: &[&[u8]] = &[
    b"[",
    b"]",
    b"[Service]\n",
    b"[X-a]\n",
    b"\nExecStart=",
    b"\nX-",
    b"=",
    b"\n",
    b"\r",
    b"\0",
    b"\\",
    b"\\\n",
    b"\\\r\n",
    b"#",
    b";",
    b" ; ",
    b"\\;",
    b" ",
    b"\t",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xc3\xa9",
    b"%",
    b"%%",
    b"%n",
    b"%f",
    b"%I",
    b"%J",
    b"%y",
    b"%H",
    b"%9",
    b"$",
    b"${",
    b"}",
    b"${A}",
    b"$A",
    b":",
    b"\"",
    b"'",
    b"\\x",
    b"\\u",
    b"\\U",
    b"41",
    b"00",
    b"d800",
    b"-",
    b"@",
    b"+",
    b"!",
    b"|",
    b"/",
    b"/bin/a",
    b".",
    b"a",
];

/// Reads a file as `supervise run` does, and returns the errors.
fn read_all(text: Vec<u8>, name: &UnitName) -> Vec<Error> {
    let source = Source { name: "web\n.service".to_owned(), text };
    let parsed = match parse(&source) {
        Ok(parsed) => parsed,
        Err(error) => return vec![error],
    };
    let told =
        std::cell::RefCell::new(parsed.warnings.into_iter().map(|warning| warning.0).collect::<Vec<_>>());
    let host = |letter| (letter == 'H').then(|| "%n \"".to_owned());
    let specifiers = Specifiers { unit: name, path: Path::new("/srv/x@.service"), host: &host };
    for assignment in parsed.assignments {
        let tell = |problem: Problem| told.borrow_mut().push(problem.at(assignment.place.as_str()));
        let scope =
            Context { expand: &|text| specifiers.expand(text), place: &assignment.place, warn: &tell };
        for exec in command_line::parse(&assignment.value, &scope).unwrap_or_else(|problem| {
            tell(problem);
            Vec::new()
        }) {
            let argv = command_line::expand(&exec, &|name| (name != "a").then(|| "'a \\".into()));
            assert!(!exec.path.is_empty() && argv.first() == exec.words.first(), "{exec:?}");
        }
        for word in command_line::unquote(&assignment.value, &|_| {}).unwrap_or_default() {
            environment::assignment(&word, |_| None).map_or_else(tell, |_| ());
        }
    }
    told.into_inner()
}

#[test]
fn no_file_panics_and_every_message_is_one_line() {
    let mut random = fastrand::Rng::with_seed(11);
    let mut messages = 0;
    for _ in 0..20_000 {
        let piece = |random: &mut fastrand::Rng| PIECES[random.usize(..PIECES.len())];
        let mut text = b"[Service]\nExecStart=".repeat(random.usize(..2));
        (0..random.usize(..16)).for_each(|_| text.extend_from_slice(piece(&mut random)));
        let instance: String =
            (0..random.usize(..4)).filter_map(|_| std::str::from_utf8(piece(&mut random)).ok()).collect();
        let name = UnitName::parse(&format!("x@{instance}.service"))
            .unwrap_or_else(|_| UnitName::parse("x@\\xff-.service").expect("valid"));
        for error in read_all(text.clone(), &name) {
            let line = error.to_string();
            assert!(!line.contains(char::is_control) && !error.remedy.is_empty(), "{text:?}: {line:?}");
            assert!(line.chars().count() < 800, "{line}");
            messages += 1;
        }
    }
    assert!(messages > 10_000, "the pieces provoke: {messages}");
}
