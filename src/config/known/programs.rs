//! The table of well-known programs and how each takes a socket, and of the programs that only execute others.

/// How to make a program take a held socket. The texts have marks that [`fill`] replaces.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fix {
    /// Replace its options `instead_of` (where to bind) by `add`, unless a word contains `told`.
    Words { instead_of: &'static [&'static str], add: &'static str, told: &'static str },
    /// Remove its options `instead_of` and (without a value) `but`; LISTEN_PID must be its own pid.
    Own { instead_of: &'static [&'static str], but: &'static [&'static str] },
    /// A whole sentence in place of a command line.
    Say(&'static [Part]),
    /// It can only bind for itself: options to add beside --intercept-bind, and a clause after "binds its port itself".
    Intercept { with: &'static [&'static str], mind: &'static [Part] },
    /// It starts the server as its child or by a script: what to change there.
    Wrapper(&'static str),
}

use Fix::{Intercept, Own, Say, Words, Wrapper};
use Part::{Text, Unless};

pub(super) const BINDS: Fix = binds(&[]);

const fn binds(mind: &'static [Part]) -> Fix {
    Intercept { with: &[], mind }
}

/// A piece of a sentence.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Text(&'static str),
    /// A text that is left out if one of these is given: an option or variable of supervise, or a word of the server.
    Unless(&'static [&'static str], &'static str),
}

/// Daphne's --fd works for TCP only.
pub(super) const DAPHNE_ON_UNIX: Fix = Words {
    instead_of: &["-b", "--bind", "-p", "--port", "-u", "--unix-socket", "--fd"],
    add: "-e systemd:domain=UNIX:name=<name>",
    told: "systemd:",
};

/// Programs by their file name without its version, or by the module of `python -m`.
pub(super) const PROGRAMS: &[(&[&str], Fix)] = &[
    (
        &["uvicorn"],
        Words { instead_of: &["--host", "--port", "--uds"], add: "--fd {fd:<name>}", told: "--fd" },
    ),
    (
        &["daphne"],
        Words {
            instead_of: &["-b", "--bind", "-p", "--port", "-u", "--unix-socket"],
            add: "--fd {fd:<name>}",
            told: "--fd",
        },
    ),
    (&["hypercorn"], Words { instead_of: &["-b", "--bind"], add: "--bind fd://{fd:<name>}", told: "fd://" }),
    (
        &["litestar"],
        Words {
            instead_of: &["-H", "--host", "-p", "--port", "-U", "--uds", "--unix-domain-socket"],
            add: "--fd {fd:<name>}",
            told: "--fd",
        },
    ),
    // gunicorn takes LISTEN_FDS if LISTEN_PID is its own, not with --reuse-port; with fd:// it takes the fds twice.
    (&["gunicorn"], Own { instead_of: &["-b", "--bind"], but: &["--reuse-port"] }),
    (&["unicorn"], Own { instead_of: &["-l", "--listen"], but: &[] }),
    // uWSGI serves sockets it finds by itself with its own protocol, not HTTP.
    (
        &["uwsgi", "uwsgi-core"],
        Words {
            instead_of: &["--http", "--http-socket", "--https", "--https-socket", "--socket", "-s"],
            add: "--http-socket fd://{fd:<name>} --need-app --die-on-term",
            told: "fd://",
        },
    ),
    (
        &["twist", "twisted"],
        Words {
            instead_of: &["--listen", "--port", "-p"],
            add: "--listen systemd:domain=<family>:name=<name>",
            told: "systemd:",
        },
    ),
    (
        &["nginx"],
        Say(&[
            Unless(&["Protocol=nginx"], "add -p Protocol=nginx, and "),
            Text("write `listen <listen>;` in its configuration"),
        ]),
    ),
    (
        &["angie"],
        Say(&[
            Unless(&["ANGIE"], "add -E 'ANGIE={fd:<name>};', and "),
            Text("write `listen <listen>;` in its configuration"),
        ]),
    ),
    (
        &["php-fpm"],
        Say(&[
            Unless(&["Protocol=fpm"], "add -p Protocol=fpm, and "),
            Text("write `listen = <address>` in its pool"),
            Unless(&["-F", "--nodaemonize"], "; php-fpm needs -F"),
        ]),
    ),
    (
        &["haproxy"],
        Say(&[
            Unless(&["FD"], "add -E 'FD={fd:<name>}', and "),
            Text("write `bind fd@${FD}` in its configuration"),
            Unless(&["-db", "-Ws", "-W"], "; haproxy needs -db or -W"),
        ]),
    ),
    (
        &["caddy"],
        Say(&[
            Unless(&["FD"], "add -E 'FD={fd:<name>}', and "),
            Text("write `bind fd/{$FD}` in the Caddyfile (Caddy before 2.9: add --intercept-bind)"),
        ]),
    ),
    (
        &["lighttpd"],
        Say(&[
            Text(
                "write server.systemd-socket-activation = \"enable\" in its configuration, and there the same address, \
                 <address>",
            ),
            Unless(&["-D"], "; lighttpd needs -D"),
        ]),
    ),
    (
        &["h2o"],
        Say(&[
            Unless(&["Protocol=server-starter"], "add -p Protocol=server-starter, and "),
            Text("write the same address, <address>, in its configuration"),
        ]),
    ),
    (&["plackup"], Say(&[Unless(&["Protocol=server-starter"], "add -p Protocol=server-starter")])),
    (
        &["starman"],
        Say(&[
            Unless(&["Protocol=server-starter"], "add -p Protocol=server-starter; "),
            Text("starman takes IPv4 addresses and paths, as in -l 0.0.0.0:8080"),
        ]),
    ),
    (
        &["redis-server", "valkey-server", "postgres", "mysqld", "mariadbd"],
        Intercept {
            with: &["--handover", "stop-first"],
            mind: &[Text(", and two of them cannot share their data")],
        },
    ),
    (
        &["java"],
        binds(&[Unless(
            &["StandardInput=fd"],
            " (with --stdin fd:<name> it can take System.inheritedChannel() instead)",
        )]),
    ),
    (
        &["node", "nodejs"],
        binds(&[
            Text(" ("),
            Unless(&["FD"], "with -E 'FD={fd:<name>}' "),
            Text("its code can take the socket by server.listen({fd: Number(process.env.FD)}))"),
        ]),
    ),
    (
        &["vite"],
        binds(&[Unless(
            &["--bypass-lock"],
            " (vite 8 wants --bypass-lock as well, or a swap finds the lock of the old one)",
        )]),
    ),
    (
        &["pm2-runtime", "pm2"],
        binds(&[Text(
            " (pm2-runtime, and for a swap that does not stop the old one first in a PM2_HOME of each generation: sh -c \
             'PM2_HOME=/tmp/pm2-$SUPERVISE_GENERATION exec pm2-runtime ...')",
        )]),
    ),
    (
        &["serve"],
        Say(&[Text(
            "serve asks by connect(2) whether its TCP port is free, finds that ours is not, and takes another; it can \
             serve a unix socket (--listen /PATH --intercept-bind -- serve -l unix:/PATH), http-server a TCP port",
        )]),
    ),
    (
        &["robyn"],
        binds(&[Text(
            ", but asks by connect(2) first whether it is free, and finds that it is not (write _check_port=False into \
             app.start())",
        )]),
    ),
    (
        &[
            "deno",
            "bun",
            "go",
            "php",
            "python",
            "ruby",
            "perl",
            "apache",
            "httpd",
            "memcached",
            "named",
            "varnishd",
            "unbound", // of python:
            "http.server",
            "flask",
            "waitress-serve",
            "granian",
            "sanic",
            "fastapi",
            "streamlit",
            "jupyter",
            "mkdocs",
            "datasette",
            "radicale",
            "django-admin", // of node:
            "next",
            "nodemon",
            "http-server",
            "json-server",
            "webpack",
            "webpack-dev-server",
            "fastify",
            "verdaccio",
            // The next are servers that Ruby programs are started by.
            "thin",
            "rackup",
            "rails",
        ],
        BINDS,
    ),
    (
        &["npm", "yarn", "pnpm"],
        Wrapper("put `<supervise> exec --` before the server in the script of package.json"),
    ),
    (
        &["cargo"],
        Say(&[Text(
            "cargo builds it first, which takes time; add --intercept-bind if it binds its port itself (a server that takes \
             LISTEN_FDS needs nothing)",
        )]),
    ),
    (&["make"], Wrapper("put `<supervise> exec --` before the server in the Makefile")),
    (SHELLS, Wrapper("put `<supervise> exec --` before the server in the script")),
    (
        &["sudo", "su", "doas", "runuser"],
        Say(&[Text(
            "leave <program> out, as -u USER of supervise changes the user; for the same user put `<supervise> exec --` \
             before the server",
        )]),
    ),
];

pub(super) const SHELLS: &[&str] = &["sh", "bash", "dash", "ash", "zsh", "fish", "busybox"];

/// Programs that execute the rest of their words, and their options that take a value.
pub(super) const PREFIXES: &[(&str, &[&str])] = &[
    ("env", &["-u", "--unset", "-C", "--chdir"]),
    ("nice", &["-n", "--adjustment"]),
    ("ionice", &["-c", "--class", "-n", "--classdata"]),
    ("nohup", &[]),
    ("setsid", &[]),
    ("stdbuf", &["-i", "-o", "-e"]),
    ("npx", &["-p", "--package"]),
    ("bunx", &[]),
];

/// Programs that do so after a subcommand.
pub(super) const RUNNERS: &[(&str, &str, &[&str])] = &[
    (
        "uv",
        "run",
        &["--with", "-p", "--python", "--project", "--extra", "--group", "--env-file", "--package"],
    ),
    ("poetry", "run", &[]),
    ("pipenv", "run", &[]),
    ("pdm", "run", &["-p", "--project"]),
    ("bundle", "exec", &[]),
    ("npm", "exec", &["--package"]),
    ("pnpm", "exec", &[]),
    ("yarn", "exec", &[]),
];

/// The most commands that are read of a shell's text, and the most words of each.
pub(super) const COMMANDS: usize = 32;

/// Options of python that take a value.
pub(super) const PYTHON: &[&str] = &["-X", "-W"];
