use std::cell::RefCell;

use super::*;

/// `%n` is `t.service` as in systemd, and `%X` is unknown.
fn scoped<T>(run: impl FnOnce(&Context<'_>) -> T) -> (T, Vec<Problem>) {
    let warnings = RefCell::new(Vec::new());
    let expand = |text: &str| {
        if text.contains("%X") {
            return Err(Problem::new("unknown specifier", "none"));
        }
        Ok(text.replace("%n", "t.service").replace("%N", "t").replace("%T", "/tmp").replace("%i|%I", "|"))
    };
    let warn = |problem| warnings.borrow_mut().push(problem);
    let result = run(&Context { expand: &expand, place: "t.service:7", warn: &warn });
    (result, warnings.into_inner())
}

fn commands(text: &str) -> Vec<Exec> {
    let (result, warnings) = scoped(|scope| parse(text, scope));
    assert_eq!(warnings, [], "{text}");
    result.unwrap_or_else(|problem| panic!("{text}: {problem:?}"))
}

fn words(exec: &Exec) -> Vec<&str> {
    exec.words.iter().map(|word| word.to_str().expect("text")).collect()
}

/// What the words of the one command are.
fn argv(text: &str) -> Vec<String> {
    let commands = commands(text);
    assert_eq!(commands.len(), 1, "{text}");
    words(&commands[0]).into_iter().map(str::to_owned).collect()
}

fn lookup(name: &str) -> Option<OsString> {
    let value = match name {
        "T_A" => "1 2",
        "T_B" => "b",
        "T_E" => "",
        "T_Q" => "'p q' r",
        _ => return None,
    };
    Some(value.into())
}

/// Recorded from systemd 252, with T_A="1 2", T_B=b, T_E= and T_Q="'p q' r"; all but those of several lines.
#[test]
fn words_and_variables_are_those_of_systemd() {
    let table: &[(&str, &[&str])] = &[
        ("a b  c", &["a", "b", "c"]),
        ("'a b' c", &["a b", "c"]),
        ("'it'\\''s'", &["it's"]),
        ("'a\\\"b'", &["a\"b"]),
        ("\\x41\\102", &["AB"]),
        ("\\s", &[" "]),
        ("\\u00e9", &["é"]),
        ("$T_A", &["1", "2"]),
        ("x${T_A}y", &["x1 2y"]),
        ("$$T_A", &["$T_A"]),
        ("\"$T_A\"", &["1", "2"]),
        ("$T_NONE z", &["z"]),
        ("\"${T_NONE}\" z", &["", "z"]),
        ("${T_A}${T_B}", &["1 2b"]),
        ("$T_Q", &["p q", "r"]),
        ("${T_A", &["${T_A"]),
        ("$ x", &["x"]),
        ("$1", &[]),
        ("%n", &["t.service"]),
        ("%N", &["t"]),
        ("%i|%I", &["|"]),
        ("a \\; b", &["a", ";", "b"]),
        ("| cat", &["|", "cat"]),
        ("*.txt ~", &["*.txt", "~"]),
        ("a #b", &["a", "#b"]),
        ("'' ''", &["", ""]),
        ("--x=\"b c\"d", &["--x=b cd"]),
        ("\"a b\"c\"d e\"", &["a bcd e"]),
        ("a   b", &["a", "b"]),
        ("{a,b}", &["{a,b}"]),
        ("!x", &["!x"]),
        ("@x", &["@x"]),
        ("\"%n\" '%n'", &["t.service", "t.service"]),
        ("${T_E} x", &["", "x"]),
        ("a${T_B}b${T_B}", &["abbb"]),
        ("\"x\\x20y\"", &["x y"]),
        ("%T", &["/tmp"]),
        ("%", &["%"]),
    ];
    for (tail, expected) in table {
        let commands = commands(&format!("/bin/p {tail}"));
        let argv = expand(&commands[0], &lookup);
        assert_eq!(argv[0], "/bin/p");
        assert_eq!(argv[1..], **expected, "{tail}");
    }
}

/// After systemd.service(5) and the source of systemd.
#[test]
fn further_variables() {
    let table: &[(&str, &[&str])] = &[
        ("a$T_B", &["a$T_B"]),
        ("$T_E", &[]),
        ("$T_B.", &[]),
        ("$$", &["$"]),
        ("$$$$ $$$T_A a$$", &["$$", "$$T_A", "a$"]),
        ("${T_A:-x} ${T_B}", &["${T_A:-x}", "b"]),
        ("${} ${T_A${T_B}}", &["", "}"]),
        ("$${T_B} $\\x24", &["${T_B}", "$"]),
        ("'$T_B ' ${T_B\\x20}", &[""]),
    ];
    for (tail, expected) in table {
        let commands = commands(&format!("/bin/p {tail}"));
        assert_eq!(expand(&commands[0], &lookup)[1..], **expected, "{tail}");
    }
    let plain = commands(":/bin/p $T_A ${T_B} $$");
    assert_eq!(expand(&plain[0], &lookup), ["/bin/p", "$T_A", "${T_B}", "$$"]);
    let named = commands("@/bin/p $T_A $T_A");
    assert_eq!(expand(&named[0], &lookup), ["$T_A", "1", "2"]);
}

#[test]
fn a_value_is_split_with_its_quotes_and_never_refused() {
    let split = |text: &str| split_value(text.into());
    assert_eq!(split(" a\t'b \"c' \"\" d'e'f "), ["a", "b \"c", "", "def"]);
    assert_eq!(split("a\\ b \\'c \"d\\\"e\""), ["a b", "'c", "d\"e"]);
    assert_eq!(split("a 'b c"), ["a", "b c"]);
    assert_eq!(split("a\\"), ["a"]);
    assert_eq!(split(" \n"), [""; 0]);
}

#[test]
fn prefixes_come_in_any_order_each_once() {
    let one = |text: &str| commands(text).pop().expect("one");
    let exec = one("/bin/p a");
    assert_eq!((exec.ignore_failure, exec.expands, exec.privileges), (false, true, Privileges::User));
    assert_eq!((exec.search, exec.place.as_str()), (Search::Fixed, "t.service:7"));
    assert!(one("-/bin/p").ignore_failure);
    assert!(!one(":/bin/p").expands);
    for prefix in ["+", "!", "!!"] {
        let exec = one(&format!("{prefix}/bin/p"));
        assert_eq!((exec.privileges, exec.path), (Privileges::Full, "/bin/p".into()), "{prefix}");
    }
    let exec = one("@:!!-/bin/p argv0 a");
    assert!(exec.ignore_failure && !exec.expands && exec.privileges == Privileges::Full);
    assert_eq!((exec.path.to_str(), words(&exec)), (Some("/bin/p"), vec!["argv0", "a"]));
    assert_eq!(one("@/bin/p ''").words, [""]);
    // The second one belongs to a name.
    assert_eq!(one("--p").path, "-p");
    assert_eq!(one("\"-/bin/with space\"").words, ["/bin/with space"]);
}

#[test]
fn lone_semicolons_separate_commands() {
    let all = |text: &str| commands(text).iter().map(|exec| words(exec).join(",")).collect::<Vec<_>>();
    assert_eq!(all("echo one ; -/bin/p \"two two\" ;"), ["echo,one", "/bin/p,two two"]);
    assert_eq!(all("echo / >/dev/null & \\; ls"), ["echo,/,>/dev/null,&,;,ls"]);
    assert_eq!(all("echo a; ;b c;d ; ; p"), ["echo,a;,;b,c;d", "p"]);
    assert_eq!(all("echo ';' \"\\x3b\" ;"), ["echo,;,;"]);
    assert_eq!(all("; ;"), [""; 0]);
    assert_eq!(all(" \t"), [""; 0]);
    assert!(commands("/bin/a ; -/bin/b")[1].ignore_failure);
}

#[test]
fn a_program_is_an_absolute_path_or_a_bare_name() {
    assert_eq!(argv("p"), ["p"]);
    assert_eq!(argv("%n a"), ["t.service", "a"]);
    for bad in [
        "./p",
        "a/b",
        "@",
        "''",
        "/bin/",
        ".",
        "..",
        "/bin/p\\n",
        "/a\\\"b",
        "$X/p",
        "/bin/p 'a",
        "'/bin/p",
        "/bin/p %X",
        "/%X",
        "@/bin/p",
        "@/bin/p ;",
        "|/bin/p",
        "-|p",
        "/bin/p \\xff",
        "/bin/p ; ./p",
    ] {
        let (result, _) = scoped(|scope| parse(bad, scope));
        assert!(result.is_err(), "{bad}: {result:?}");
    }
}

#[test]
fn the_prefix_minus_makes_a_bad_command_a_warning() {
    for bad in ["-./p", "-", "-/bin/p %X", "-/bin/p 'a"] {
        let (result, warnings) = scoped(|scope| parse(&format!("/bin/a ; {bad} ; /bin/c"), scope));
        assert_eq!(result.map(|commands| commands.len()), Ok(1), "{bad}");
        assert_eq!(warnings.len(), 1, "{bad}: {warnings:?}");
        assert!(warnings[0].cause.contains("left out"), "{warnings:?}");
    }
}

#[test]
fn unknown_escapes_stay_and_are_told() {
    let table = [
        ("\\q", "\\q"),
        ("a\\;b", "a\\;b"),
        ("a\\ b", "a\\ b"),
        ("'a\\qb'", "a\\qb"),
        ("a\\", "a\\"),
        ("\\x4", "\\x4"),
        ("\\x+4", "\\x+4"),
        ("\\x00", "\\x00"),
        ("\\u12g4", "\\u12g4"),
        ("\\ud800", "\\ud800"),
        ("\\U00110000", "\\U00110000"),
        ("\\400", "\\400"),
        ("\\08", "\\08"),
        ("\\é", "\\é"),
    ];
    for (text, word) in table {
        let (result, warnings) = scoped(|scope| unquote(text, scope.warn));
        assert_eq!(result.as_deref(), Ok(&[word.to_owned()][..]), "{text}");
        assert_eq!(warnings.len(), 1, "{text}: {warnings:?}");
    }
}

#[test]
fn known_escapes_hold_inside_and_outside_of_quotes() {
    let (text, meaning) = (
        "\\a\\b\\f\\n\\r\\t\\v\\\\\\\"\\'\\s\\x7e\\176\\U0001f600\\xc3\\xa9",
        "\x07\x08\x0c\n\r\t\x0b\\\"' ~~😀é",
    );
    for text in [text.to_owned(), format!("'{text}'"), format!("\"{text}\"")] {
        assert_eq!(unquote(&text, &|problem| panic!("{problem:?}")), Ok(vec![meaning.to_owned()]), "{text}");
    }
    let quotes = unquote("'a\"b' \"c'd\" ''e'' ''", &|problem| panic!("{problem:?}"));
    assert_eq!(quotes.expect("balanced"), ["a\"b", "c'd", "e", ""]);
}

#[test]
fn problems_name_what_is_wrong() {
    let problem = |text: &str| scoped(|scope| parse(text, scope)).0.expect_err(text);
    assert!(problem("./server").cause.contains("relative path"));
    assert!(problem("/bin/p 'a").cause.contains("quote is not closed: 'a"));
    assert!(problem("|/bin/p").remedy.contains("/bin/sh -c"));
    assert!(problem("@/bin/p").cause.contains("argv[0]"));
}

#[test]
fn an_endless_argv_is_cut_where_the_kernel_refuses_it_anyway() {
    let long = |_: &str| Some(OsString::from("x ".repeat(1 << 19)));
    for tail in ["$A ".repeat(1 << 17), "${A} ".repeat(1 << 17), "${A}".repeat(1 << 17)] {
        let argv = expand(&commands(&format!("/bin/p {tail}"))[0], &long);
        let bytes: usize = argv.iter().map(|word| word.len() + 1).sum();
        assert!((ARGV_BYTES..ARGV_BYTES + (2 << 20)).contains(&bytes), "{bytes}");
    }
}
