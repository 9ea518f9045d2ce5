//! Text from outside, at random: no parser panics, and every refusal is one line with a remedy.

use super::command_line;
use super::directives::table::DIRECTIVES;
use super::{Listener, Problem, Signal, Span, StatusSet, directives::Draft, environment, placeholder};
use crate::config::Config;

const PIECES: [&str; 48] = [
    "1",
    "5",
    "0",
    "65536",
    "18446744073709551615",
    ".",
    "-",
    "+",
    " ",
    "\t",
    "\n",
    "\r",
    "\0",
    "=",
    ":",
    "::",
    "[",
    "]",
    "%",
    "@",
    "/",
    "\\",
    "\"",
    "'",
    "#",
    ";",
    "{fd:",
    "{port:",
    "{",
    "}",
    "fd:",
    "udp:",
    "unix:",
    "localhost:",
    "127.0.0.1",
    "fe80::1",
    "s",
    "min",
    "M",
    "infinity",
    "SIG",
    "RTMIN",
    "TERM",
    "A",
    "é",
    "\u{feff}",
    "µs",
    "delay:",
];

fn text(random: &mut fastrand::Rng) -> String {
    (0..random.usize(..9)).map(|_| PIECES[random.usize(..PIECES.len())]).collect()
}

#[test]
fn no_text_panics_and_every_refusal_is_one_line() {
    let mut random = fastrand::Rng::with_seed(7);
    let sockets = [Listener::parse("80=A", None).expect("good")];
    for _ in 0..5_000 {
        let text = text(&mut random);
        let mut problems: Vec<Problem> = Vec::new();
        problems.extend(Span::parse(&text).err());
        problems.extend(Signal::parse(&text).err());
        problems.extend(StatusSet::default().add(&text).err());
        problems.extend(command_line::unquote(&text, &|_| {}).err());
        problems.extend(environment::assignment(&text, |_| None).err());
        problems.extend(placeholder::check([text.as_str()], &sockets).err());
        let key = DIRECTIVES[random.usize(..DIRECTIVES.len())].key;
        let mut errors: Vec<_> = problems.into_iter().map(|problem| problem.at("here")).collect();
        errors.extend(Draft::new(Config::for_command_line()).set(key, &text, "here").err());
        errors.extend(Draft::new(Config::for_command_line()).set(&text, key, "here").err());
        errors.extend(Listener::parse(&text, None).err());
        errors.extend(environment::parse_file(&text, "here").err());
        for error in errors {
            let line = error.to_string();
            assert!(!line.contains(char::is_control) && !error.remedy.is_empty(), "{text:?}: {line:?}");
        }
    }
}
