//! How well-known servers take a held socket: one sentence with the fix for this very command, for whoever reads the
//! log at two in the morning.

mod servers;
mod whole;

use super::{printable, typed};
use servers::{SERVERS, Server};
use whole::Typed;

/// A held socket that nobody waits on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    pub name: String,
    /// As shown in `status`: `127.0.0.1:8080`, `[::]:443`, `/run/x.sock`.
    pub address: String,
}

/// How a program is brought to take a socket. Texts have marks that [`fill`] replaces.
#[derive(Clone, Copy, Debug)]
enum Fix {
    /// Words of its own: options that say where to bind go, these come. `told` is in a word where they are there already.
    Words { instead_of: &'static [&'static str], add: &'static str, told: &'static str },
    /// None of these options, nor of those `but` that have no value, and its own pid in LISTEN_PID, whatever starts it.
    Own { instead_of: &'static [&'static str], but: &'static [&'static str] },
    /// A whole sentence.
    Say(&'static str),
    /// It binds for itself, and knows no other way: options of ours that it wants beside --intercept-bind, and what else to
    /// mind, as it goes on after "binds its port itself".
    Intercept { with: &'static [&'static str], mind: &'static str },
    /// It starts the server as its child, or runs a script that does: what to do there.
    Wrapper(&'static str),
}

use Fix::{Intercept, Own, Say, Words, Wrapper};

const BINDS: Fix = Intercept { with: &[], mind: "" };

const fn binds(mind: &'static str) -> Fix {
    Intercept { with: &[], mind }
}

/// Its --fd is for TCP alone.
const DAPHNE_ON_UNIX: Fix = Words {
    instead_of: &["-b", "--bind", "-p", "--port", "-u", "--unix-socket", "--fd"],
    add: "-e systemd:domain=UNIX:name=<name>",
    told: "systemd:",
};

/// Programs by the name of their file without its version, or by the module of `python -m`.
const PROGRAMS: &[(&[&str], Fix)] = &[
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
    // It takes LISTEN_FDS where LISTEN_PID is its own; with fd:// as well it would take them twice, and close them. With
    // --reuse-port it takes none.
    (&["gunicorn"], Own { instead_of: &["-b", "--bind"], but: &["--reuse-port"] }),
    (&["unicorn"], Own { instead_of: &["-l", "--listen"], but: &[] }),
    // What it inherits by itself it serves by a protocol of its own.
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
    (&["nginx"], Say("add -p Protocol=nginx, and write `listen <listen>;` in its configuration")),
    (&["angie"], Say("add -E 'ANGIE={fd:<name>};', and write `listen <listen>;` in its configuration")),
    (&["php-fpm"], Say("add -p Protocol=fpm, and write `listen = <address>` in its pool; php-fpm needs -F")),
    (
        &["haproxy"],
        Say(
            "add -E 'FD={fd:<name>}', and write `bind fd@${FD}` in its configuration; haproxy needs -db or -W",
        ),
    ),
    (
        &["caddy"],
        Say(
            "add -E 'FD={fd:<name>}', and write `bind fd/{$FD}` in the Caddyfile (Caddy before 2.9: add --intercept-bind)",
        ),
    ),
    (
        &["lighttpd"],
        Say(
            "write server.systemd-socket-activation = \"enable\" in its configuration, and there the same address, \
             <address>; lighttpd needs -D",
        ),
    ),
    (
        &["h2o"],
        Say("add -p Protocol=server-starter, and write the same address, <address>, in its configuration"),
    ),
    (&["plackup"], Say("add -p Protocol=server-starter")),
    (
        &["starman"],
        Say("add -p Protocol=server-starter; starman takes IPv4 addresses and paths, as in -l 0.0.0.0:8080"),
    ),
    (
        &["redis-server", "valkey-server", "postgres", "mysqld", "mariadbd"],
        Intercept { with: &["--handover", "stop-first"], mind: ", and two of them cannot share their data" },
    ),
    (&["java"], binds(" (with --stdin fd:<name> it can take System.inheritedChannel() instead)")),
    (
        &["node", "nodejs"],
        binds(
            " (with -E 'FD={fd:<name>}' its code can take the socket by server.listen({fd: Number(process.env.FD)}))",
        ),
    ),
    (&["vite"], binds(" (vite 8 wants --bypass-lock as well, or a swap finds the lock of the old one)")),
    (
        &["pm2-runtime", "pm2"],
        binds(
            " (pm2-runtime, and for a swap that does not stop the old one first in a PM2_HOME of each generation: sh -c \
             'PM2_HOME=/tmp/pm2-$SUPERVISE_GENERATION exec pm2-runtime ...')",
        ),
    ),
    (
        &["serve"],
        Say(
            "serve asks by connect(2) whether its TCP port is free, finds that ours is not, and takes another; it can \
             serve a unix socket (--listen /PATH --intercept-bind -- serve -l unix:/PATH), http-server a TCP port",
        ),
    ),
    (
        &["robyn"],
        binds(
            ", but asks by connect(2) first whether it is free, and finds that it is not (write _check_port=False into \
             app.start())",
        ),
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
            // of ruby:
            "thin",
            "rackup",
            "rails",
        ],
        BINDS,
    ),
    (
        &["npm", "yarn", "pnpm"],
        Wrapper("put `supervise exec --` before the server in the script of package.json"),
    ),
    (
        &["cargo"],
        Say(
            "cargo builds it first, which takes time; add --intercept-bind if it binds its port itself (a server that takes \
             LISTEN_FDS needs nothing)",
        ),
    ),
    (&["make"], Wrapper("put `supervise exec --` before the server in the Makefile")),
    (SHELLS, Wrapper("put `supervise exec --` before the server in the script")),
    (
        &["sudo", "su", "doas", "runuser"],
        Say(
            "leave <program> out, as -u USER of supervise changes the user; for the same user put `supervise exec --` \
             before the server",
        ),
    ),
];

const SHELLS: &[&str] = &["sh", "bash", "dash", "ash", "zsh", "fish", "busybox"];

/// Programs that run the rest of their words, and those of their options that take a word.
const PREFIXES: &[(&str, &[&str])] = &[
    ("env", &["-u", "--unset", "-C", "--chdir"]),
    ("nice", &["-n", "--adjustment"]),
    ("ionice", &["-c", "--class", "-n", "--classdata"]),
    ("nohup", &[]),
    ("setsid", &[]),
    ("stdbuf", &["-i", "-o", "-e"]),
    ("npx", &["-p", "--package"]),
    ("bunx", &[]),
];

/// The same, after a word of their own.
const RUNNERS: &[(&str, &str, &[&str])] = &[
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

/// Of a text for a shell, so many commands, and of each so many words, are looked at.
const COMMANDS: usize = 32;

/// Options of python that take a word.
const PYTHON: &[&str] = &["-X", "-W"];

/// What a command is, as far as it is known.
struct Known {
    name: String,
    /// Which word says so.
    at: usize,
    /// Its first word: its interpreter, if it has one.
    first: usize,
    fix: Fix,
}

/// What to change so that the first of `sockets`, on which nobody waits, is taken by the server that `words` start: a
/// sentence of bounded length, without a capital and a full stop, as it comes after a semicolon. `ours` are the words that
/// we were started with: where they are the command line of that server, the whole of what works is said.
pub fn remedy(words: &[String], sockets: &[Socket], ours: &[String]) -> String {
    let nameless = Socket { name: "NAME".to_owned(), address: "ADDRESS".to_owned() };
    let socket = sockets.first().unwrap_or(&nameless);
    let typed_in = Typed::find(ours, words);
    let words = typed_in.map_or(words, |typed| typed.command);
    let Some(Known { name, at, first, fix }) = identify(words) else {
        let text = "add --intercept-bind if it binds its port itself; if it takes an fd by number, give it {fd:<name>}; if \
                    it takes LISTEN_FDS and is started by a wrapper, put `supervise exec --` before it";
        return fill(text, socket, "");
    };
    let is_on_unix = name == "daphne" && socket.address.starts_with(['/', '@']);
    let command = match if is_on_unix { DAPHNE_ON_UNIX } else { fix } {
        Words { told, .. } if words[at..].iter().any(|word| word.contains(told)) => words.to_vec(),
        Words { instead_of, add, .. } => {
            let (before, own) = words.split_at(at);
            let own = without(own, instead_of);
            let added = add.split(' ').map(|word| fill(word, socket, &name));
            let added: Vec<String> = added.filter(|word| !own.contains(word)).collect();
            [before, &own, &added].concat()
        }
        Own { instead_of, but } => {
            let (before, own) = words.split_at(first);
            let own = without(own, instead_of).into_iter().filter(|word| !but.contains(&word.as_str()));
            let is_exec = |pair: &[String]| program(&pair[0]) == "supervise" && pair[1] == "exec";
            let exec = if before.windows(2).any(is_exec) { &[][..] } else { &["supervise", "exec", "--"] };
            let exec = exec.iter().map(|word| (*word).to_owned());
            before.iter().cloned().chain(exec).chain(own).collect()
        }
        Say(text) => return fill(text, socket, &name),
        Intercept { with, mind } => {
            let options = [&["--intercept-bind"], with].concat();
            let binds = format!("{name} usually binds its port itself{}", fill(mind, socket, &name));
            return match typed_in.and_then(|typed| typed.with(&options, words)) {
                Some(line) => format!("{binds}; start it as: {line}"),
                None => format!("{binds}: add {}", options.join(" ")),
            };
        }
        Wrapper(text) => {
            return format!(
                "{name} starts the server as a child: {text}, or add --intercept-bind if the server binds its port itself"
            );
        }
    };
    if command == words {
        return format!("{name} was told of its socket and does not take it: look at what it says itself");
    }
    let line = typed_in.and_then(|typed| typed.with(&[], &command));
    format!("start it as: {}", line.unwrap_or_else(|| typed(&command)))
}

/// How the server that `words` start is kept in the foreground: a clause without a full stop.
pub fn foreground(words: &[String]) -> String {
    match server(words) {
        Some((name, Server { foreground: "", .. })) => {
            format!("{name} does so by default: look at what it says itself, and into its configuration")
        }
        Some((name, Server { foreground, .. })) => format!("for {name}: {foreground}"),
        None => "look for its option, such as --foreground, -F, -D or --no-daemon".to_owned(),
    }
}

/// Why two of the server that `words` start cannot run at once, as far as that is known. Where they name the generation,
/// each may have folders of its own.
pub fn alone(words: &[String]) -> Option<String> {
    let (name, server) = server(words)?;
    let is_apart = words.iter().any(|word| word.contains("SUPERVISE_GENERATION"));
    (!server.alone.is_empty() && !is_apart)
        .then(|| format!("two of {name} cannot run at once, because of {}", server.alone))
}

/// The row for a command, and the name that it was found by.
fn server(words: &[String]) -> Option<(String, Server)> {
    let at = past_prefixes(words)?;
    let name = program(words.get(at)?);
    match SERVERS.iter().find(|server| server.names.contains(&name)) {
        Some(row) => Some((name.to_owned(), *row)),
        // `sh -c '...; exec mariadbd ...'`, as unit files have it.
        None if SHELLS.contains(&name) => commands(words, at).into_iter().find_map(|words| server(&words)),
        None => None,
    }
}

/// Where the program is that prefixes like `env` and `nice` run in the end.
fn past_prefixes(words: &[String]) -> Option<usize> {
    let mut at = 0;
    loop {
        let name = program(words.get(at)?);
        if let Some((_, options)) = PREFIXES.iter().find(|(prefix, _)| *prefix == name) {
            at = skip(words, at + 1, options, name == "env");
        } else if name == "supervise" && words.get(at + 1).is_some_and(|word| word == "exec") {
            at = skip(words, at + 2, &[], false);
        } else if let Some((_, verb, options)) = RUNNERS.iter().find(|(runner, ..)| *runner == name)
            && words.get(at + 1).is_some_and(|word| word == verb)
        {
            at = skip(words, at + 2, options, false);
        } else {
            return Some(at);
        }
    }
}

/// Looks through prefixes and interpreters for a program of the table.
fn identify(words: &[String]) -> Option<Known> {
    let at = past_prefixes(words)?;
    let name = program(words.get(at)?);
    if name == "python" {
        return Some(script(words, at));
    }
    let shell = if name.ends_with(".sh") { "sh" } else { name };
    let fix = lookup(shell)?;
    let inner = if matches!(fix, Wrapper(_)) { inline(words, at) } else { None };
    let (fix, name) = inner.map_or_else(|| (fix, printable(name)), |inner| (inner.fix, inner.name));
    Some(Known { fix, name, at, first: at })
}

/// The program that a shell is given to run in its next word but one, if that binds for itself: `sh -c 'cd x && node y'`.
fn inline(words: &[String], shell: usize) -> Option<Known> {
    let binds = |words: Vec<String>| identify(&words).filter(|known| matches!(known.fix, Intercept { .. }));
    commands(words, shell).into_iter().find_map(binds)
}

/// The commands in the text that a shell is given to run, without what comes before a program. Of one that is a shell itself
/// nothing is looked at.
fn commands(words: &[String], shell: usize) -> Vec<Vec<String>> {
    let has_text = |option: &&String| option.starts_with('-') && option.ends_with('c');
    let Some(text) = words.get(shell + 1).filter(has_text).and_then(|_| words.get(shell + 2)) else {
        return Vec::new();
    };
    let is_before = |word: &&str| {
        ["exec", "then", "else", "do", "!", "{", "("].contains(word)
            || word.split_once('=').is_some_and(|(name, _)| !name.contains(['-', '/']))
    };
    let command = |text: &str| -> Vec<String> {
        text.split_whitespace().skip_while(is_before).take(COMMANDS).map(str::to_owned).collect()
    };
    let commands = text.split([';', '&', '|', '\n']).take(COMMANDS).map(command);
    commands.filter(|words| !words.first().is_some_and(|word| SHELLS.contains(&program(word)))).collect()
}

/// What python runs: a module, a script of a known name, or something else that binds for itself.
fn script(words: &[String], python: usize) -> Known {
    let at = skip(words, python + 1, PYTHON, false);
    // skip() goes over -m as over any option.
    let name = words.get(at).map(|word| program(word).trim_end_matches(".py")).unwrap_or_default();
    match lookup(name) {
        Some(fix) => Known { fix, name: name.to_owned(), at, first: python },
        None => Known { fix: BINDS, name: "python".to_owned(), at: python, first: python },
    }
}

fn lookup(name: &str) -> Option<Fix> {
    PROGRAMS.iter().find(|(names, _)| names.contains(&name)).map(|(_, fix)| *fix)
}

/// `/usr/sbin/php-fpm8.2` is php-fpm.
fn program(word: &str) -> &str {
    let file = word.rsplit('/').next().unwrap_or_default();
    let plain = file.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    if plain.is_empty() { file } else { plain }
}

/// The first word from `at` on that is no option, nor the value of one, nor (for env) a variable.
fn skip(words: &[String], mut at: usize, with_value: &[&str], variables: bool) -> usize {
    while let Some(word) = words.get(at) {
        if with_value.contains(&word.as_str()) {
            at += 2;
        } else if word.starts_with('-') || variables && word.contains('=') {
            at += 1;
        } else {
            break;
        }
    }
    at
}

/// `words` without these options and their values: `-b X`, `-bX`, `--bind X`, `--bind=X`.
fn without(words: &[String], options: &[&str]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        if options.contains(&word.as_str()) {
            rest.next();
            continue;
        }
        let has_value = options.iter().filter_map(|option| Some((option, word.strip_prefix(option)?)));
        let is_one =
            has_value.into_iter().any(|(option, value)| !option.starts_with("--") || value.starts_with('='));
        if !is_one {
            kept.push(word.clone());
        }
    }
    kept
}

/// Replaces the marks of a text, each once: a name may look like one.
fn fill(text: &str, socket: &Socket, program: &str) -> String {
    let (name, address) = (printable(&socket.name), printable(&socket.address));
    let listen = match address.get(..1) {
        Some("/") => format!("unix:{address}"),
        // An address for IPv4 as well; nginx needs it said.
        Some("[") if address.starts_with("[::]:") => format!("{address} ipv6only=off"),
        _ => address.clone(),
    };
    let family = match address.get(..1) {
        Some("/" | "@") => "UNIX",
        Some("[") => "INET6",
        _ => "INET",
    };
    let marks = [
        ("<name>", name.as_str()),
        ("<address>", &address),
        ("<listen>", &listen),
        ("<family>", family),
        ("<program>", program),
    ];
    let mut parts = text.split('<');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let mark = marks.iter().find_map(|(mark, value)| Some((value, part.strip_prefix(&mark[1..])?)));
        match mark {
            Some((value, rest)) => out.extend([value, rest]),
            None => out.extend(["<", part]),
        }
    }
    out
}

#[cfg(test)]
mod tests;
