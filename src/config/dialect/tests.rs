use super::*;

const SOCKETS: [Passed<'_>; 5] = [
    Passed { fd: 3, kind: Kind::Tcp, address: "127.0.0.1:8080" },
    Passed { fd: 4, kind: Kind::Tcp, address: "[::]:443" },
    Passed { fd: 5, kind: Kind::Udp, address: "127.0.0.1:53" },
    Passed { fd: 6, kind: Kind::Unix, address: "/run/x.sock" },
    Passed { fd: 7, kind: Kind::Unix, address: "@x" },
];

#[test]
fn each_dialect_has_its_variables() {
    let table: [(Dialect, &[(&str, &str)]); 4] = [
        (
            Dialect::ServerStarter,
            &[
                ("SERVER_STARTER_PORT", "127.0.0.1:8080=3;[::]:443=4;/run/x.sock=6"),
                ("SERVER_STARTER_GENERATION", "9"),
            ],
        ),
        (
            Dialect::Einhorn,
            &[
                ("EINHORN_MASTER_PID", "77"),
                ("EINHORN_FD_COUNT", "4"),
                ("EINHORN_FD_0", "3"),
                ("EINHORN_FD_FAMILY_0", "AF_INET"),
                ("EINHORN_FD_1", "4"),
                ("EINHORN_FD_FAMILY_1", "AF_INET6"),
                ("EINHORN_FD_2", "6"),
                ("EINHORN_FD_FAMILY_2", "AF_UNIX"),
                ("EINHORN_FD_3", "7"),
                ("EINHORN_FD_FAMILY_3", "AF_UNIX"),
            ],
        ),
        (Dialect::Nginx, &[("NGINX", "3;4;5;6;")]),
        (Dialect::Fpm, &[("FPM_SOCKETS", "127.0.0.1:8080=3,:::443=4,/run/x.sock=6")]),
    ];
    for (dialect, expected) in table {
        let is = dialect.variables(&SOCKETS, 9, 77);
        let expected: Vec<_> = expected.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        assert_eq!(is, expected);
        assert!(is.iter().all(|(name, _)| dialect.owns(name)), "{is:?}");
        // Nothing to tell of: not even a count.
        assert_eq!(dialect.variables(&[], 9, 77), []);
        assert_eq!(dialect.variables(&[Passed { kind: Kind::UnixGram, ..SOCKETS[3] }], 9, 77), []);
    }
}

#[test]
fn a_scope_is_no_part_of_a_key_of_fpm() {
    let socket = Passed { fd: 3, kind: Kind::Tcp, address: "[fe80::1]:80%eth0" };
    assert_eq!(
        Dialect::Fpm.variables(&[socket], 1, 1),
        [("FPM_SOCKETS".to_owned(), "fe80::1:80=3".to_owned())]
    );
}

#[test]
fn what_would_be_misread_is_left_out() {
    let path = |address| Passed { fd: 3, kind: Kind::Unix, address };
    for (dialect, address, is_told) in [
        (Dialect::ServerStarter, "/run/a=b", false),
        (Dialect::ServerStarter, "/run/a;b", false),
        (Dialect::ServerStarter, "/run/a,b", true),
        (Dialect::Fpm, "/run/a,b", false),
        (Dialect::Fpm, "/run/a:1", false),
        (Dialect::Fpm, "/run/a=1", false),
        (Dialect::Fpm, "/run/a;1", true),
        (Dialect::Nginx, "/run/a=b;c,d:e", true),
        (Dialect::Nginx, "@x", false),
        (Dialect::Einhorn, "@x=1", true),
    ] {
        assert_eq!(!dialect.variables(&[path(address)], 1, 1).is_empty(), is_told, "{dialect:?} {address}");
    }
}

#[test]
fn names_are_read() {
    assert_eq!(parse("nginx"), Ok(vec![Dialect::Nginx]));
    assert_eq!(parse(" einhorn  fpm "), Ok(vec![Dialect::Einhorn, Dialect::Fpm]));
    assert_eq!(parse("systemd server-starter"), Ok(vec![Dialect::Systemd, Dialect::ServerStarter]));
    assert_eq!(parse(""), Ok(vec![]));
    assert!(parse("ngnix").expect_err("a slip").remedy.contains("nginx?"));
    assert!(parse("stdin").expect_err("another way").remedy.contains("--stdin fd:NAME"));
    for dialect in [Dialect::Systemd, Dialect::ServerStarter, Dialect::Einhorn, Dialect::Nginx, Dialect::Fpm]
    {
        assert_eq!(parse(dialect.as_str()), Ok(vec![dialect]));
    }
}

#[test]
fn what_is_not_told_is_said() {
    let texts = ["8080=web", "udp:53=dns", "fd:3=up", "@x"];
    let listeners = texts.map(|text| Listener::parse(text, None).expect(text));
    let said = |dialects: &[Dialect]| -> Vec<String> {
        untold(dialects, &listeners)
            .into_iter()
            .map(|Warning(error)| format!("{}: {}", error.place, error.cause))
            .collect()
    };
    assert_eq!(said(&[]), [""; 0]);
    let fpm = said(&[Dialect::Fpm]);
    assert!(
        fpm[0].starts_with("--listen udp:53=dns: ")
            && fpm[0].contains("\"dns\"")
            && fpm[1].contains("\"x\"")
            && fpm.len() == 2,
        "{fpm:?}"
    );
    assert_eq!(said(&[Dialect::Nginx, Dialect::Einhorn]).len(), 2);
}
