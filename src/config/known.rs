//! How well-known servers take a held socket: one sentence that tells the user how to change this very command.

mod programs;
mod servers;
mod whole;

use super::{printable, typed};
use programs::Fix::{Intercept, Own, Say, Words, Wrapper};
use programs::{BINDS, COMMANDS, DAPHNE_ON_UNIX, Fix, PREFIXES, PROGRAMS, PYTHON, Part, RUNNERS, SHELLS};
use servers::{Foreground, SERVERS, Server};
use whole::Typed;

/// A held socket on which no process waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    pub name: String,
    /// The address as `status` shows it: `127.0.0.1:8080`, `[::]:443`, `/run/x.sock`.
    pub address: String,
}

/// What the words of a remedy depend on besides the server's command.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The command line of supervise itself.
    pub ours: &'a [String],
    /// What the server is told already, as directives and variables: `Protocol=nginx`, `FD=3`.
    pub given: &'a [String],
    /// How a shell finds supervise: `supervise`, or an absolute path.
    pub supervise: &'a str,
}

impl Asked<'_> {
    /// Whether `option` (`WORD`, `WORD=VALUE` or `WORD:VALUE`) was given to us or is among the server's `words`.
    fn is_given(&self, words: &[String], option: &str) -> bool {
        let is_it = |word: &String| {
            word.strip_prefix(option).is_some_and(|rest| rest.is_empty() || rest.starts_with(['=', ':']))
        };
        self.given.iter().chain(words).any(is_it)
    }

    /// Joins `parts` to a sentence, leaving out each part whose option is given.
    fn sentence(&self, parts: &[Part], words: &[String]) -> String {
        let text = |part: &Part| match *part {
            Part::Text(text) => text,
            Part::Unless(given, _) if given.iter().any(|one| self.is_given(words, one)) => "",
            Part::Unless(_, text) => text,
        };
        parts.iter().map(text).collect()
    }
}

/// A command that was recognised.
struct Known {
    name: String,
    /// The index of the word that names it.
    at: usize,
    /// The index of the first word of the command: of its interpreter, if it has one.
    first: usize,
    fix: Fix,
}

/// How to change the command so that the server takes the first of `sockets`, on which nobody waits: a clause of
/// bounded length, without a capital and a full stop, that follows a semicolon. If supervise's own command line
/// starts that server, it is the whole command line that works.
pub fn remedy(words: &[String], sockets: &[Socket], asked: Asked<'_>) -> String {
    let nameless = Socket { name: "NAME".to_owned(), address: "ADDRESS".to_owned() };
    let socket = sockets.first().unwrap_or(&nameless);
    let typed_in = Typed::find(asked.ours, words);
    let words = typed_in.map_or(words, |typed| typed.command);
    let Some(Known { name, at, first, fix }) = identify(words) else {
        let text = "add --intercept-bind if it binds its port itself; if it takes an fd by number, give it {fd:<name>}; if \
                    it takes LISTEN_FDS and is started by a wrapper, put `<supervise> exec --` before it";
        return fill(text, socket, "", asked.supervise);
    };
    let is_on_unix = name == "daphne" && socket.address.starts_with(['/', '@']);
    let command = match if is_on_unix { DAPHNE_ON_UNIX } else { fix } {
        Words { told, .. } if words[at..].iter().any(|word| word.contains(told)) => words.to_vec(),
        Words { instead_of, add, .. } => {
            let (before, own) = words.split_at(at);
            let own = without(own, instead_of);
            let added = add.split(' ').map(|word| fill(word, socket, &name, asked.supervise));
            let added: Vec<String> = added.filter(|word| !own.contains(word)).collect();
            [before, &own, &added].concat()
        }
        Own { instead_of, but } => {
            let (before, own) = words.split_at(first);
            let own = without(own, instead_of).into_iter().filter(|word| !but.contains(&word.as_str()));
            let is_exec = |pair: &[String]| program(&pair[0]) == "supervise" && pair[1] == "exec";
            let exec =
                if before.windows(2).any(is_exec) { &[][..] } else { &[asked.supervise, "exec", "--"] };
            let exec = exec.iter().map(|word| (*word).to_owned());
            before.iter().cloned().chain(exec).chain(own).collect()
        }
        Say(parts) => match asked.sentence(parts, words) {
            text if text.is_empty() => words.to_vec(),
            text => return fill(&text, socket, &name, asked.supervise),
        },
        Intercept { with, mind } => {
            let with = if with.iter().any(|option| typed_in.is_some_and(|typed| typed.has(option))) {
                &[]
            } else {
                with
            };
            let options = [&["--intercept-bind"], with].concat();
            let mind = fill(&asked.sentence(mind, words), socket, &name, asked.supervise);
            let binds = format!("{name} usually binds its port itself{mind}");
            return match typed_in.and_then(|typed| typed.with(&options, words)) {
                Some(line) => format!("{binds}; start it as: {line}"),
                None => format!("{binds}: add {}", options.join(" ")),
            };
        }
        Wrapper(text) => {
            let text = fill(text, socket, &name, asked.supervise);
            return format!(
                "{name} starts the server as a child: {text}, or add --intercept-bind if the server binds its port itself"
            );
        }
    };
    if command == words {
        return format!(
            "the command already passes the socket to {name}, which does not take it: see what {name} logs"
        );
    }
    let line = typed_in.and_then(|typed| typed.with(&[], &command));
    format!("start it as: {}", line.unwrap_or_else(|| typed(&command)))
}

/// How the server that `words` start is kept in the foreground: a clause without a full stop and without what `words`
/// have.
pub fn foreground(words: &[String]) -> String {
    let Some((name, server, own)) = server(words) else {
        return "look for its option, such as --foreground, -F, -D or --no-daemon".to_owned();
    };
    let line = format!(" {} ", own.join(" ").replace('=', " = "));
    let has = |option: &&&str| line.contains(&format!(" {} ", option.replace('=', " = ")));
    match server.foreground {
        Foreground::With { add, told } => match told.iter().find(has) {
            Some(told) => {
                format!("{told} already keeps {name} there: see what {name} logs, and its configuration")
            }
            None => format!("for {name}: {add}"),
        },
        Foreground::Without(options) => match options.iter().find(has) {
            Some(option) => format!("for {name}: leave {option} out"),
            None => {
                format!("{name} does so by default: see what {name} logs, and its configuration")
            }
        },
    }
}

/// Why two instances of the server that `words` start cannot run at once; `None` where that is not known, or where
/// `words` name the generation and so may give each its own directory.
pub fn alone(words: &[String]) -> Option<String> {
    let (name, server, _) = server(words)?;
    let is_apart = words.iter().any(|word| word.contains("SUPERVISE_GENERATION"));
    (!server.alone.is_empty() && !is_apart)
        .then(|| format!("two of {name} cannot run at once, because of {}", server.alone))
}

/// The row of the server that `words` start, the name that it was found by, and its own words.
fn server(words: &[String]) -> Option<(String, Server, Vec<String>)> {
    let at = past_prefixes(words)?;
    let name = program(words.get(at)?);
    match SERVERS.iter().find(|server| server.names.contains(&name)) {
        Some(row) => Some((name.to_owned(), *row, words[at + 1..].to_vec())),
        // Unit files have `sh -c '...; exec mariadbd ...'`.
        None if SHELLS.contains(&name) => commands(words, at).into_iter().find_map(|words| server(&words)),
        None => None,
    }
}

/// The index of the program that prefixes such as `env` and `nice` execute in the end.
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

/// Looks behind prefixes and interpreters for a program of the table.
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

/// The program that a shell's `-c` text runs, if that program binds for itself: `sh -c 'cd x && node y'`.
fn inline(words: &[String], shell: usize) -> Option<Known> {
    let binds = |words: Vec<String>| identify(&words).filter(|known| matches!(known.fix, Intercept { .. }));
    commands(words, shell).into_iter().find_map(binds)
}

/// The commands in a shell's `-c` text, each from its program on. A nested shell is not looked into.
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
    // skip() passes over -m as over any option.
    let name = words.get(at).map(|word| program(word).trim_end_matches(".py")).unwrap_or_default();
    match lookup(name) {
        Some(fix) => Known { fix, name: name.to_owned(), at, first: python },
        None => Known { fix: BINDS, name: "python".to_owned(), at: python, first: python },
    }
}

fn lookup(name: &str) -> Option<Fix> {
    PROGRAMS.iter().find(|(names, _)| names.contains(&name)).map(|(_, fix)| *fix)
}

/// The name of a program without its directory and version: `/usr/sbin/php-fpm8.2` is `php-fpm`.
fn program(word: &str) -> &str {
    let file = word.rsplit('/').next().unwrap_or_default();
    let plain = file.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    if plain.is_empty() { file } else { plain }
}

/// The index of the first word from `at` on that is neither an option nor an option's value nor (for env) a variable.
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

/// Replaces each mark of a text once, so that a socket's name that looks like a mark stays.
fn fill(text: &str, socket: &Socket, program: &str, supervise: &str) -> String {
    let (name, address) = (printable(&socket.name), printable(&socket.address));
    let listen = match address.get(..1) {
        Some("/") => format!("unix:{address}"),
        // nginx needs ipv6only=off to accept IPv4 on an IPv6 address.
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
        ("<supervise>", supervise),
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
