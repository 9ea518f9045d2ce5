use super::*;

fn name(text: &str) -> UnitName {
    UnitName::parse(text).unwrap_or_else(|problem| panic!("{problem:?}"))
}

fn expand(unit: &str, text: &str) -> Result<String, Problem> {
    let host = |letter| match letter {
        'H' => Some("box.example".to_owned()),
        'A' => Some(String::new()),
        'v' => Some("6".repeat(1000)),
        _ => None,
    };
    Specifiers { unit: &name(unit), path: Path::new("/srv/units/x.service"), host: &host }.expand(text)
}

#[test]
fn names_are_taken_as_systemd_takes_them() {
    for good in
        ["a.service", "a.b.socket", "a@.service", "a@b@c.service", "A:-_.\\x2d9.service", ".a.service"]
    {
        assert_eq!(name(good).full(), good);
    }
    let long = |bytes: usize| format!("{}.service", "a".repeat(bytes - ".service".len()));
    assert_eq!(name(&long(255)).full().len(), 255);
    let long = long(256);
    for bad in [
        "",
        "a",
        ".service",
        "@.service",
        "@a.service",
        "a.timer",
        "a.Service",
        "a b.service",
        "é.service",
        "a/b.service",
        &long,
    ] {
        let problem = UnitName::parse(bad).expect_err(bad);
        assert!(!problem.remedy.is_empty(), "{problem:?}");
    }
}

#[test]
fn the_parts_of_a_name() {
    let unit = name("foo-bar@a@b.c.service");
    assert_eq!((unit.stem(), unit.suffix()), ("foo-bar@a@b.c", "service"));
    assert_eq!((unit.prefix(), unit.instance()), ("foo-bar", Some("a@b.c")));
    assert_eq!(unit.template(), Some(name("foo-bar@.service")));
    let plain = name("foo.socket");
    assert_eq!((plain.prefix(), plain.instance(), plain.template()), ("foo", None, None));
    let template = name("foo@.service");
    assert_eq!((template.instance(), template.template()), (Some(""), None));
}

/// The first five are recorded from systemd 252, the rest is its documentation.
#[test]
fn specifiers_are_replaced() {
    let table = [
        ("t.service", "%n", "t.service"),
        ("t.service", "%N", "t"),
        ("t.service", "%i|%I", "|"),
        ("t.service", "\"%n\" '%n'", "\"t.service\" 't.service'"),
        ("t.service", "%", "%"),
        ("a-b\\x2dc@d-e\\x20f.service", "%n %N", "a-b\\x2dc@d-e\\x20f.service a-b\\x2dc@d-e\\x20f"),
        ("a-b\\x2dc@d-e\\x20f.service", "%p %P", "a-b\\x2dc a/b-c"),
        ("a-b\\x2dc@d-e\\x20f.service", "%i %I", "d-e\\x20f d/e f"),
        ("a-b\\x2dc@d-e\\x20f.service", "%j %J", "b\\x2dc b-c"),
        ("a-b\\x2dc@d-e\\x20f.service", "%f", "/d/e f"),
        ("a-b.service", "%f", "/a/b"),
        ("a@-.service", "%f", "/"),
        ("a@\\xc3\\xa9.service", "%I", "é"),
        ("t.service", "%y %Y", "/srv/units/x.service /srv/units"),
        ("t.service", "%H%A.", "box.example."),
        ("t.service", "%%n 100%% 5%.", "%n 100% 5%."),
        ("t.service", "%é%-", "%é%-"),
    ];
    for (unit, text, expanded) in table {
        assert_eq!(expand(unit, text).as_deref(), Ok(expanded), "{unit}: {text}");
    }
}

#[test]
fn unknown_and_unresolvable_specifiers_are_errors() {
    for text in ["%x", "a %1", "%Z", "%z%%"] {
        let problem = expand("t.service", text).expect_err(text);
        assert!(problem.remedy.contains("%%"), "{problem:?}");
    }
    for (unit, text) in [
        ("a@\\x2.service", "%I"),
        ("a@\\n.service", "%I"),
        ("a@\\xff.service", "%I"),
        ("a@\\x00.service", "%I"),
        ("a@b-.service", "%f"),
        ("a@b--c.service", "%f"),
        ("a@..-b.service", "%f"),
        ("a@.service", "%f"),
    ] {
        assert!(expand(unit, text).is_err(), "{unit}: {text}");
    }
}

#[test]
fn a_value_does_not_grow_without_bound() {
    assert_eq!(expand("t.service", &"%v".repeat(1000)).expect("1 MB").len(), 1_000_000);
    let problem = expand("t.service", &"%v".repeat(1_000_000)).expect_err("1 GB");
    assert!(problem.cause.contains("1 MiB"), "{problem:?}");
}
