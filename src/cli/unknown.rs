//! The errors for a first word that is no verb and for a word between options, with what was probably meant.

use super::VERBS;
use crate::config::choice::nearest;
use crate::config::{Error, Problem, printable, typed};

/// Verbs of other programs, and the verb or option of ours that does the same.
const ELSEWHERE: [(&str, &str); 10] = [
    ("ps", "list"),
    ("ls", "list"),
    ("down", "stop"),
    ("disable", "stop"),
    ("quit", "stop"),
    ("upgrade", "swap"),
    ("deploy", "swap"),
    ("version", "--version"),
    ("help", "--help"),
    ("man", "--help"),
];
/// Verbs of other programs for what supervise does without a verb.
const BEGIN: [&str; 4] = ["start", "up", "enable", "serve"];
const FORMS: &str = "supervise -- COMMAND, or supervise run UNIT...";

/// The error for a first word that is neither an option nor a verb.
pub(super) fn unknown_word(words: &[String]) -> Error {
    let word = &words[0];
    let known = VERBS.iter().map(|(name, ..)| *name).chain(["list", "run", "check", "exec"]);
    let remedy = if word.is_empty() {
        FORMS.to_owned()
    } else if let Some(remedy) = elsewhere(words) {
        remedy
    } else if is_unit(word) {
        format!("supervise run {}", typed(words))
    } else if let Some(verb) = nearest(word, known) {
        format!("supervise {verb}; a program comes after --")
    } else {
        format!("supervise -- {}", as_command(words))
    };
    Problem::new("no verb of supervise", format!("did you mean: {remedy}")).at(typed(&words[..1]))
}

/// The error for the last `count` words, which are no options. `dashes`: a `--` follows them.
pub(super) fn stray(options: &[String], count: usize, dashes: bool) -> Error {
    let (options, strays) = options.split_at(options.len() - count);
    let word = &strays[0];
    let problem = if dashes {
        Problem::new(
            "this word belongs to no option",
            "leave it out; COMMAND and its arguments come after --",
        )
    } else if let Some((_, usage, _)) = VERBS.iter().find(|(name, ..)| name == word) {
        Problem::new("a verb comes first", format!("type supervise {usage}"))
    } else if is_unit(word) {
        let remedy = format!("did you mean: supervise run {}", typed(&[options, strays].concat()));
        Problem::new("unit files come after run", remedy)
    } else if let Some(remedy) = elsewhere(strays) {
        Problem::new("no verb of supervise", format!("did you mean: {remedy}"))
    } else {
        let before = typed(&[options, &["--".to_owned()]].concat());
        let remedy = format!("did you mean: supervise {before} {}", as_command(strays));
        Problem::new("COMMAND comes after --", remedy)
    };
    problem.at(printable(word))
}

fn is_unit(word: &str) -> bool {
    word.ends_with(".service") || word.ends_with(".socket")
}

/// What to type here in place of another program's verb and the words after it.
fn elsewhere(words: &[String]) -> Option<String> {
    let (word, rest) = words.split_first()?;
    if BEGIN.contains(&word.as_str()) {
        return Some(match rest.first() {
            Some(first) if is_unit(first) => format!("supervise run {}", typed(rest)),
            Some(_) if rest.iter().any(|word| word == "--") => format!("supervise {}", typed(rest)),
            Some(_) | None => FORMS.to_owned(),
        });
    }
    let (_, ours) = ELSEWHERE.iter().find(|(theirs, _)| theirs == word)?;
    Some(match rest.first().filter(|_| *ours != "--version") {
        Some(verb) if *ours == "--help" && VERBS.iter().any(|(name, ..)| name == verb) => {
            format!("supervise {verb} --help")
        }
        Some(name) if matches!(*ours, "stop" | "swap") => format!("supervise {ours} {}", printable(name)),
        Some(_) | None => format!("supervise {ours}"),
    })
}

/// The command line to suggest. A command quoted as one word is split, as no program has a name with blanks.
fn as_command(words: &[String]) -> String {
    match words {
        [line] if line.contains(|c: char| "|&;<>()$`\"'\\*?#~".contains(c)) && line.contains(' ') => {
            format!("sh -c {}", typed(words))
        }
        [line] => typed(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()),
        _ => typed(words),
    }
}
