use super::*;

const NOTHING: Asked<'static> = Asked { ours: &[], given: &[], supervise: "supervise" };

fn say(command: &str, name: &str, address: &str) -> String {
    remedy(&split(command), &[Socket { name: name.to_owned(), address: address.to_owned() }], NOTHING)
}

fn split(command: &str) -> Vec<String> {
    command.split(' ').map(str::to_owned).collect()
}

fn web(command: &str) -> String {
    say(command, "web", "127.0.0.1:8080")
}

#[test]
fn servers_that_take_an_fd_get_their_whole_command_line() {
    for (command, fixed) in [
        ("uvicorn app:app", "uvicorn app:app --fd {fd:web}"),
        ("uvicorn --host 0.0.0.0 --port=80 app:app --reload", "uvicorn app:app --reload --fd {fd:web}"),
        ("/venv/bin/uvicorn app:app", "/venv/bin/uvicorn app:app --fd {fd:web}"),
        ("python3.11 -m uvicorn app:app", "python3.11 -m uvicorn app:app --fd {fd:web}"),
        ("python3 -u -X dev -m uvicorn app:app", "python3 -u -X dev -m uvicorn app:app --fd {fd:web}"),
        ("python3 /venv/bin/uvicorn app:app", "python3 /venv/bin/uvicorn app:app --fd {fd:web}"),
        ("uv run uvicorn app:app", "uv run uvicorn app:app --fd {fd:web}"),
        ("nice -n 5 env -i A=b uvicorn a:b", "nice -n 5 env -i A=b uvicorn a:b --fd {fd:web}"),
        ("env -u A daphne -p 80 a:b", "env -u A daphne a:b --fd {fd:web}"),
        ("gunicorn -b :80 -w 4 a:b", "supervise exec -- gunicorn -w 4 a:b"),
        ("gunicorn3 -b:80 --bind=fd://3 a:b", "supervise exec -- gunicorn3 a:b"),
        ("uv run python -m gunicorn a:b", "uv run supervise exec -- python -m gunicorn a:b"),
        ("hypercorn --bind :80 a:b", "hypercorn a:b --bind fd://{fd:web}"),
        ("twist web --port tcp:80", "twist web --listen systemd:domain=INET:name=web"),
        ("supervise exec -- gunicorn -b :80 a:b", "supervise exec -- gunicorn a:b"),
        ("gunicorn -w 2 --reuse-port a:b", "supervise exec -- gunicorn -w 2 a:b"),
        ("poetry run gunicorn -b :80 a:b", "poetry run supervise exec -- gunicorn a:b"),
        ("bundle exec unicorn -l 80 -c u.rb", "bundle exec supervise exec -- unicorn -c u.rb"),
        ("litestar --app a:b run -p 80", "litestar --app a:b run --fd {fd:web}"),
        ("uv run --with x -p 3.12 uvicorn a:b", "uv run --with x -p 3.12 uvicorn a:b --fd {fd:web}"),
        (
            "uwsgi --http :80 --wsgi-file a.py --need-app",
            "uwsgi --wsgi-file a.py --need-app --http-socket fd://{fd:web} --die-on-term",
        ),
    ] {
        assert_eq!(web(command), format!("start it as: {fixed}"), "{command}");
    }
    let twist = say("twist web", "my web", "/run/x.sock");
    assert_eq!(twist, "start it as: twist web --listen 'systemd:domain=UNIX:name=my web'");
    let daphne = say("daphne -u /run/x.sock a:b", "x", "/run/x.sock");
    assert_eq!(daphne, "start it as: daphne a:b -e systemd:domain=UNIX:name=x");
}

#[test]
fn what_was_told_already_is_not_told_again() {
    for command in [
        "uvicorn a:b --fd 3",
        "hypercorn --bind=fd://3 a:b",
        "twist web --listen systemd:index=0",
        "supervise exec -- gunicorn a:b",
        "uwsgi --http-socket fd://3 a.ini",
    ] {
        assert!(web(command).contains("already passes the socket to"), "{command}");
    }
}

#[test]
fn servers_with_a_configuration_get_the_line_for_it() {
    for (command, parts) in [
        ("nginx", &["-p Protocol=nginx", "`listen 127.0.0.1:8080;`"][..]),
        ("angie -c x", &["-E 'ANGIE={fd:web};'", "`listen 127.0.0.1:8080;`"]),
        ("/usr/sbin/php-fpm8.2", &["-p Protocol=fpm", "`listen = 127.0.0.1:8080`", "-F"]),
        ("haproxy -f c", &["-E 'FD={fd:web}'", "`bind fd@${FD}`", "-db"]),
        ("caddy run", &["-E 'FD={fd:web}'", "`bind fd/{$FD}`", "2.9", "--intercept-bind"]),
        ("lighttpd", &["-D", "systemd-socket-activation = \"enable\"", "127.0.0.1:8080"]),
        ("h2o -c x", &["-p Protocol=server-starter", "127.0.0.1:8080"]),
        ("plackup -s Starlet", &["-p Protocol=server-starter"]),
        ("starman app.psgi", &["-p Protocol=server-starter", "-l 0.0.0.0:8080"]),
        ("sudo -u app ./server", &["leave sudo out", "-u USER"]),
    ] {
        let said = web(command);
        assert!(parts.iter().all(|part| said.contains(part)), "{command}: {said}");
    }
    assert!(say("nginx", "a", "/run/x").contains("`listen unix:/run/x;`"));
    assert!(say("nginx", "a", "[::]:80").contains("`listen [::]:80 ipv6only=off;`"));
    assert!(say("nginx", "a", "[::1]:80").contains("`listen [::1]:80;`"));
}

#[test]
fn servers_that_bind_for_themselves() {
    for command in [
        "node server.js",
        "deno run a.ts",
        "bun run a.ts",
        "php -S 127.0.0.1:8080",
        "php8.2 -S :80",
        "python3 -m http.server 8080",
        "python3 server.py",
        "python3",
        "flask run",
        "go run .",
        "java -jar a.jar",
        "redis-server",
        "postgres -D data",
        "apache2 -X",
        "memcached",
        "npx -y vite --port 80",
        "pnpm exec next start",
        "npm exec -- http-server",
        "bundle exec thin start",
        "supervise exec -- node a.js",
        "pm2-runtime a.js",
        "robyn a.py",
    ] {
        let said = web(command);
        let parts = ["usually binds its port itself", ": add --intercept-bind"];
        assert!(parts.iter().all(|part| said.contains(part)), "{command}: {said}");
        let is_alone = said.contains("--handover stop-first");
        assert_eq!(is_alone, command.starts_with("redis") || command.starts_with("postgres"), "{said}");
    }
    assert!(web("java -jar a.jar").contains("--stdin fd:web"));
    assert!(web("node a.js").contains("{fd: Number(process.env.FD)}"));
    assert!(web("npx vite").contains("--bypass-lock"));
    assert!(web("pm2-runtime a.js").contains("PM2_HOME=/tmp/pm2-$SUPERVISE_GENERATION"));
    assert!(web("robyn a.py").contains("_check_port=False"));
    assert!(web("npx serve dist").contains("serve -l unix:/PATH"));
}

#[test]
fn a_build_takes_time() {
    let said = web("cargo run -q --example hello");
    assert!(said.starts_with("cargo builds it first") && said.contains("--intercept-bind"), "{said}");
}

#[test]
fn wrappers_are_told_where_exec_goes() {
    for command in ["npm start", "yarn dev", "make run", "sh -c x", "/bin/bash run", "./run.sh"] {
        let said = web(command);
        let has = |part| said.contains(part);
        assert!(has("`supervise exec --`") && has("--intercept-bind") && has("as a child"), "{said}");
    }
}

#[test]
fn what_a_shell_is_given_to_run_is_looked_at() {
    for (command, program) in [
        ("php -S 127.0.0.1:8080", "php"),
        ("cd app && exec node server.js", "node"),
        ("X=1; env PORT=1 python3 -m http.server", "http.server"),
    ] {
        let said = remedy(&["sh", "-c", command].map(str::to_owned), &[], NOTHING);
        let binds = said.starts_with(&format!("{program} usually binds its port itself"));
        assert!(binds && said.ends_with(": add --intercept-bind"), "{said}");
    }
    for command in ["uvicorn a:b", "./server", "", "sh -c 'php -S x'", "echo php"] {
        let said = remedy(&["sh", "-c", command].map(str::to_owned), &[], NOTHING);
        assert!(said.starts_with("sh starts the server as a child"), "{said}");
    }
}

#[test]
fn the_unknown_is_told_of_all_ways() {
    for command in ["./server", "", "uv pip", "poetry", "env", "nice -n", "/", "42", "uv run"] {
        let said = web(command);
        let ways = ["--intercept-bind", "{fd:web}", "supervise exec --"];
        assert!(ways.iter().all(|way| said.contains(way)), "{command}: {said}");
    }
    assert!(remedy(&[], &[], NOTHING).contains("{fd:NAME}"));
}

#[test]
fn a_sentence_is_one_line_of_bounded_length() {
    let long = "x\n".repeat(100_000);
    for program in ["uvicorn", "nginx", "node", "npm", "server", &long] {
        let words = vec![program.to_owned(), long.clone()];
        let said = remedy(&words, &[Socket { name: long.clone(), address: long.clone() }], NOTHING);
        assert!(said.len() < 1500 && !said.contains('\n'), "{} {said}", said.len());
    }
    let marks = Socket { name: "<address>".to_owned(), address: "<name><".to_owned() };
    assert!(remedy(&["php-fpm".to_owned()], &[marks], NOTHING).contains("`listen = <name><`"));
}

#[test]
fn servers_are_told_how_to_stay_in_the_foreground() {
    let said = |command: &str| foreground(&split(&command.replace('\'', "")));
    for (command, option) in [
        ("nginx -c x", "-g 'daemon off;'"),
        ("/usr/sbin/apache2 -k start", "-D FOREGROUND"),
        ("env A=b /usr/sbin/php-fpm8.2", "-F"),
        ("nice -n 5 supervise exec -- memcached -d", "leave -d out"),
        ("uwsgi --daemonize=/x", "leave --daemonize out"),
        ("gunicorn a:b", "by default"),
        ("nginx -g 'daemon off;'", "daemon off; already keeps nginx there"),
        ("apache2 -DFOREGROUND", "-DFOREGROUND already keeps apache there"),
        ("nice -n 5 chronyd", "for chronyd: -n"),
        ("pg_ctlcluster 15 main start", "--foreground"),
        ("vsftpd x.conf", "after the name"),
        ("postgres -D x", "by default"),
        ("mariadbd", "by default"),
        ("chronyd", "-n"),
        ("cupsd", "-f, or -l"),
        ("true", "--foreground"),
        ("", "--foreground"),
    ] {
        assert!(said(command).contains(option), "{command}: {}", said(command));
    }
}

#[test]
fn of_some_servers_two_cannot_run() {
    let why = |command: &str| alone(&command.split(' ').map(str::to_owned).collect::<Vec<_>>());
    for command in [
        "mariadbd --datadir=x",
        "/usr/lib/postgresql/15/bin/postgres -D x",
        "apache2 -DFOREGROUND",
        "varnishd -F -n x",
        "nice -n 5 knotd",
        "pdns_server",
        "dovecot -F",
        "squid --foreground",
        "tor",
        "hypnotoad -f app",
        "./prometheus",
        "env A=b etcd",
        "npx pm2-runtime a.js",
        "sh -c postgres",
    ] {
        assert!(why(command).is_some_and(|why| why.starts_with("two of ")), "{command}");
    }
    let in_a_shell = |shell: &str, option: &str, text: &str| alone(&[shell, option, text].map(str::to_owned));
    for text in [
        "set -f; [ ! -e /x ] && V= || V=`/x`; [ $? -eq 0 ] || exit 1; exec /usr/sbin/mariadbd $MYSQLD_OPTS $V",
        "if true; then A=b exec tor; fi",
        "x && env B=c squid --foreground",
    ] {
        assert!(
            in_a_shell("/bin/sh", "-c", text).is_some() && in_a_shell("bash", "-ec", text).is_some(),
            "{text}"
        );
        assert_eq!(in_a_shell("sh", "x", text), None);
    }
    for text in ["", "-c", "echo tor", "sh -c tor", "A=tor", "exec", "mariadb-admin ping; ./server --tor"] {
        assert_eq!(in_a_shell("sh", "-c", text), None, "{text}");
    }
    // Not what another program is given, nor what has folders of its own in each generation.
    for command in [
        "nginx",
        "echo postgres",
        "sh postgres",
        "./prometheus-exporter",
        "tor-exporter",
        "python3 tor",
        "varnishd -n /x/$SUPERVISE_GENERATION",
        "",
    ] {
        assert_eq!(why(command), None, "{command}");
    }
}

#[test]
fn the_whole_of_our_command_line_is_said_where_it_is_known() {
    let said = |ours: &str, address: &str| {
        let ours: Vec<String> = ours.split(' ').map(str::to_owned).collect();
        let at = ours.iter().position(|word| word == "--").expect("a command");
        remedy(
            &ours[at + 1..],
            &[Socket { name: "8080".to_owned(), address: address.to_owned() }],
            Asked { ours: &ours, ..NOTHING },
        )
    };
    for (ours, fixed) in [
        (
            "supervise -l 8080 -- python3 -m http.server 8080",
            "supervise -l 8080 --intercept-bind -- python3 -m http.server 8080",
        ),
        (
            "/opt/supervise -l 8080 -- redis-server c",
            "/opt/supervise -l 8080 --intercept-bind --handover stop-first -- redis-server c",
        ),
        ("supervise -l 8080 -- uvicorn --port 8080 a:b", "supervise -l 8080 -- uvicorn a:b --fd {fd:8080}"),
        ("supervise -l 8080 -- gunicorn a:b", "supervise -l 8080 -- supervise exec -- gunicorn a:b"),
    ] {
        let said = said(ours, "[::]:8080");
        assert!(said.ends_with(&format!("start it as: {fixed}")), "{ours}: {said}");
    }
    for ours in
        ["supervise -l 8080 -E A=secret -- php -S x", "supervise -pEnvironment=A=secret -l 80 -- php -S x"]
    {
        let said = said(ours, "[::]:8080");
        assert!(said.ends_with(": add --intercept-bind") && !said.contains("secret"), "{said}");
    }
    let long = format!("supervise -l 8080 -- php {}", "x".repeat(1000));
    assert!(said(&long, "[::]:8080").ends_with(": add --intercept-bind"));
    // This supervise was started with unit files.
    let units = ["supervise", "run", "a.service"].map(str::to_owned);
    let words = ["php", "-S", "x"].map(str::to_owned);
    assert!(
        remedy(
            &words,
            &[Socket { name: "a".to_owned(), address: "b".to_owned() }],
            Asked { ours: &units, ..NOTHING }
        )
        .ends_with("bind")
    );
    // What was typed, not what was made of it.
    let ours = ["supervise", "-l", "80=a", "--", "php", "-S", "{addr:a}"].map(str::to_owned);
    let words = ["php", "-S", "[::]:80"].map(str::to_owned);
    let said = remedy(&words, &[], Asked { ours: &ours, ..NOTHING });
    assert!(said.ends_with("supervise -l 80=a --intercept-bind -- php -S {addr:a}"), "{said}");
}

/// What a hint of each program asks for is given to it, a piece at a time: the hint names that no more.
#[test]
fn no_hint_asks_for_what_is_there_already() {
    let socket = Socket { name: "web".to_owned(), address: "127.0.0.1:8080".to_owned() };
    let mut asked_for = 0;
    for (name, fix) in PROGRAMS.iter().flat_map(|(names, fix)| names.iter().map(move |name| (*name, *fix))) {
        let words = if name == "http.server" { split("python3 -m http.server") } else { split(name) };
        let sockets = [socket.clone()];
        let said = |given: &[String], words: &[String]| remedy(words, &sockets, Asked { given, ..NOTHING });
        let parts = match fix {
            Say(parts) | Intercept { mind: parts, .. } => parts,
            Words { told, .. } => {
                let line = said(&[], &words).split_once("start it as: ").expect(name).1.to_owned();
                assert!(line.contains(told), "{name}: {line}");
                let said = said(&[], &split(&line));
                assert!(said.contains("already passes the socket to"), "{name}: {said}");
                continue;
            }
            Own { .. } | Wrapper(_) => continue,
        };
        for part in parts {
            let Part::Unless(ways, text) = part else { continue };
            let text = fill(text, &socket, name, "supervise");
            assert!(said(&[], &words).contains(&text), "{name}: {text:?} is not asked for");
            for way in *ways {
                asked_for += 1;
                let value = format!("{way}=x");
                let own = [words.clone(), vec![(*way).to_owned()]].concat();
                for said in [said(&[value], &words), said(&[], &own)] {
                    assert!(!said.contains(&text) && !said.is_empty(), "{name} with {way}: {said}");
                }
            }
        }
        if let Intercept { with: [option, value], .. } = fix {
            let ours = split(&format!("supervise -l 80 {option} {value} -- {}", words.join(" ")));
            let said = remedy(&words, &sockets, Asked { ours: &ours, ..NOTHING });
            assert_eq!(said.matches(option).count(), 1, "{name}: {said}");
        }
    }
    assert!(asked_for > 10, "{asked_for}");
    for server in SERVERS {
        let said = |own: &str| foreground(&split(&format!("{} {own}", server.names[0])));
        let asks = |said: &str| said.starts_with("for ");
        match server.foreground {
            Foreground::With { told, .. } => {
                assert!(asks(&said("x")), "{server:?}");
                assert!(!told.iter().any(|told| asks(&said(told))), "{server:?}");
            }
            Foreground::Without(options) => {
                assert!(!asks(&said("x")), "{server:?}");
                assert!(options.iter().all(|option| said(option).ends_with(&format!("leave {option} out"))));
            }
        }
    }
}

#[test]
fn supervise_is_named_as_a_shell_finds_it() {
    let sockets = [Socket { name: "web".to_owned(), address: "127.0.0.1:8080".to_owned() }];
    let asked = Asked { supervise: "/opt/x/supervise", ..NOTHING };
    for (name, fix) in PROGRAMS.iter().flat_map(|(names, fix)| names.iter().map(move |name| (*name, *fix))) {
        let said = remedy(&split(name), &sockets, asked);
        assert!(!said.contains("`supervise exec") && !said.contains(": supervise exec"), "{said}");
        let is_named = said.contains("/opt/x/supervise exec --");
        assert!(is_named || !matches!(fix, Own { .. } | Wrapper(_)), "{name}: {said}");
    }
    assert!(remedy(&split("./server"), &sockets, asked).contains("`/opt/x/supervise exec --`"));
}

/// Each server as it is typed below each program that only runs others: it is known as if it stood alone.
#[test]
fn a_server_is_known_below_what_only_runs_it() {
    let before = [
        "supervise exec --",
        "/opt/supervise exec --",
        "env A=b C=d",
        "env -i -u A PORT=80",
        "npx",
        "npx -y --package x",
        "uv run",
        "uv run --with x -p 3.12",
        "poetry run",
        "pipenv run",
        "bundle exec",
        "nice -n 5 env A=b supervise exec --",
    ];
    for server in
        ["uvicorn a:b", "nginx -c x", "node a.js", "redis-server", "hypnotoad x", "etcd", "thin start"]
    {
        let plain = web(server);
        let (stays, two) = (foreground(&split(server)), alone(&split(server)));
        for before in before {
            let words = format!("{before} {server}");
            assert_eq!(
                web(&words).replace(&words, server).replace(&format!("{before} "), ""),
                plain,
                "{words}"
            );
            assert_eq!(foreground(&split(&words)), stays, "{words}");
            assert_eq!(alone(&split(&words)), two, "{words}");
        }
    }
    for command in ["cargo run --release -- --port 80", "env A=b cargo run", "nice cargo run -p x"] {
        assert!(web(command).starts_with("cargo builds it first"), "{command}: {}", web(command));
    }
}
