//! Splits the words of a command line into options with their values and other words.
//!
//! lexopt knows the forms (`--name=web`, `-l80`, `-qv`). Which options there are is said by [`Accepted`], and what is wrong
//! by us: one line with the place, the cause and what to type instead.

use std::ffi::OsString;

use lexopt::{Arg, Parser};

use super::help;
use crate::config::choice::nearest;
use crate::config::{Error, Problem, Signal, printable};

/// An option that a command line may have. `id` is how it is asked for in [`Matches`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Accepted {
    pub(super) id: &'static str,
    pub(super) short: Option<char>,
    pub(super) long: Option<&'static str>,
    takes: Takes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Nothing,
    /// `--flag=VALUE`, or `--flag`, which means `yes`.
    YesOrValue,
    /// A word that begins with `-` is no value, unless it is a number.
    Value,
    /// The value may begin with one `-`.
    AnyWord,
}

/// The words that are neither options nor their values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    /// As many as there are, anywhere among the options.
    Any,
    /// So many at most, anywhere among the options.
    UpTo(usize),
    /// As `UpTo`, and a number may begin with `-`.
    NumbersUpTo(usize),
    /// From the first one on, each word is one.
    Rest,
}

/// What a command line has.
#[derive(Debug, Default)]
pub(super) struct Matches {
    /// The options with their values, as they were typed. Those that take no value have the empty one.
    pub(super) options: Vec<(&'static str, String)>,
    pub(super) others: Vec<String>,
}

/// An option without a value.
pub(super) const fn switch(id: &'static str) -> Accepted {
    Accepted { id, short: None, long: Some(id), takes: Takes::Nothing }
}

/// An option with a value.
pub(super) const fn option(id: &'static str) -> Accepted {
    Accepted { takes: Takes::Value, ..switch(id) }
}

impl Accepted {
    pub(super) const fn short(self, short: char) -> Self {
        Self { short: Some(short), ..self }
    }

    pub(super) const fn long(self, long: &'static str) -> Self {
        Self { long: Some(long), ..self }
    }

    /// It has no long form.
    pub(super) const fn short_alone(self, short: char) -> Self {
        Self { short: Some(short), long: None, ..self }
    }

    pub(super) const fn yes_or_value(self) -> Self {
        Self { takes: Takes::YesOrValue, ..self }
    }

    pub(super) const fn any_word(self) -> Self {
        Self { takes: Takes::AnyWord, ..self }
    }

    /// As errors name it.
    fn shown(&self) -> String {
        match (self.long, self.short) {
            (Some(long), _) => format!("--{long}"),
            (None, Some(short)) => format!("-{short}"),
            (None, None) => self.id.to_owned(),
        }
    }
}

impl Matches {
    pub(super) fn has(&self, id: &str) -> bool {
        self.all(id).next().is_some()
    }

    pub(super) fn count(&self, id: &str) -> usize {
        self.all(id).count()
    }

    /// The values of an option, in the order in which they were typed.
    pub(super) fn all(&self, id: &str) -> impl DoubleEndedIterator<Item = &str> {
        self.options.iter().filter(move |(of, _)| *of == id).map(|(_, value)| value.as_str())
    }

    /// The last value of an option that may be repeated.
    pub(super) fn last(&self, id: &str) -> Option<&str> {
        self.all(id).next_back()
    }
}

/// `here`: the words before these, to which the errors refer.
pub(super) fn split(
    words: &[String],
    accepted: &[Accepted],
    others: Others,
    here: &str,
) -> Result<Matches, Error> {
    let mut matches = Matches::default();
    let mut parser = Parser::from_args(words);
    loop {
        let (found, typed) = match parser.next() {
            Ok(None) => return Ok(matches),
            Ok(Some(Arg::Value(word))) => {
                matches.others.push(text(word));
                if others == Others::Rest {
                    matches.others.extend(parser.raw_args().into_iter().flatten().map(text));
                }
                within(&matches.others, others, here)?;
                continue;
            }
            Ok(Some(Arg::Long(name))) => {
                (accepted.iter().find(|one| one.long == Some(name)), format!("--{name}"))
            }
            Ok(Some(Arg::Short(letter))) => {
                (accepted.iter().find(|one| one.short == Some(letter)), format!("-{letter}"))
            }
            Err(error) => return Err(superfluous(&error, here)),
        };
        match found {
            Some(found) => {
                matches.options.push((found.id, value(found, &typed, accepted, &mut parser)?));
            }
            None if begins_with_digit(&typed[1..]) => {
                let number = format!("{typed}{}", parser.optional_value().map(text).unwrap_or_default());
                if !matches!(others, Others::NumbersUpTo(_)) {
                    return Err(no_option(&number));
                }
                matches.others.push(number);
                within(&matches.others, others, here)?;
            }
            None => {
                // A word like -HUP is named whole.
                let rest = typed[1..].starts_with('-').then(String::new);
                let rest = rest.or_else(|| parser.optional_value().map(text)).unwrap_or_default();
                return Err(unknown(&typed, &rest, accepted, here));
            }
        }
    }
}

/// `-listen` is `-l isten`; nobody means that.
fn one_dash(typed: &str, value: &str, accepted: &[Accepted]) -> Result<(), Error> {
    let word = format!("{typed}{value}");
    match accepted.iter().find(|one| one.long.is_some_and(|long| word.strip_prefix('-') == Some(long))) {
        Some(meant) => {
            let problem = Problem::new(
                "a long option begins with two dashes",
                format!("did you mean {}?", meant.shown()),
            );
            Err(problem.at(word))
        }
        None => Ok(()),
    }
}

/// The value of an option that was read last. `typed`: the option as it was typed.
fn value(
    option: &Accepted,
    typed: &str,
    accepted: &[Accepted],
    parser: &mut Parser,
) -> Result<String, Error> {
    match option.takes {
        Takes::Nothing => return Ok(String::new()),
        Takes::YesOrValue => {
            return Ok(parser.optional_value().map_or_else(|| "yes".to_owned(), text));
        }
        Takes::Value | Takes::AnyWord => {}
    }
    if let Some(attached) = parser.optional_value() {
        let attached = text(attached);
        return one_dash(typed, &attached, accepted).map(|()| attached);
    }
    let mut rest = parser.raw_args().into_iter().flatten();
    let next = rest.next().map(text);
    match next {
        Some(word) if !word.starts_with('-') || is_value(&word) => Ok(word),
        Some(word) if option.takes == Takes::AnyWord && !word.starts_with("--") => Ok(word),
        next => {
            let flag = option.shown();
            let mut remedy = format!("write {flag} {}", help::value_of(&flag).trim_end_matches("|none"));
            if let Some(word) = next.filter(|word| !word.starts_with("--")) {
                let attached = if option.long.is_some() { "=" } else { "" };
                let typed = format!("; {flag}{attached}{} if it begins with a minus", printable(&word));
                remedy.push_str(&typed);
            }
            Err(Problem::new("a value is missing", remedy).at(flag))
        }
    }
}

/// A word that begins with `-` is one if it is `-` alone or a number.
fn is_value(word: &str) -> bool {
    let is_number = |rest: &str| begins_with_digit(rest) && rest.parse::<f64>().is_ok();
    word == "-" || word.strip_prefix('-').is_some_and(is_number)
}

fn begins_with_digit(text: &str) -> bool {
    text.starts_with(|letter: char| letter.is_ascii_digit())
}

fn within(words: &[String], others: Others, here: &str) -> Result<(), Error> {
    match others {
        Others::UpTo(limit) | Others::NumbersUpTo(limit) if words.len() > limit => {
            let problem = Problem::new("one word too many", format!("`{here} -h` shows what it takes"));
            Err(problem.at(if words[limit].is_empty() { here.to_owned() } else { printable(&words[limit]) }))
        }
        Others::UpTo(_) | Others::NumbersUpTo(_) | Others::Any | Others::Rest => Ok(()),
    }
}

fn no_option(number: &str) -> Error {
    let remedy = "a value that begins with a minus is written --option=-1";
    Problem::new("a number is no option", remedy).at(printable(number))
}

/// `rest`: what follows a letter in the same word.
fn unknown(typed: &str, rest: &str, accepted: &[Accepted], here: &str) -> Error {
    let signal = format!("{typed}{rest}");
    let signal = signal.trim_start_matches('-');
    let name = typed.trim_start_matches('-');
    let near = nearest(name, accepted.iter().filter_map(|one| one.long)).filter(|_| typed.starts_with("--"));
    let remedy = match near {
        Some(near) => format!("did you mean --{near}?"),
        None if here == "supervise kill" && Signal::parse(signal).is_ok() => {
            format!("write the signal without a dash: supervise kill {signal}")
        }
        None => format!("`{here} -h` lists the options"),
    };
    Problem::new("unknown option", remedy).at(printable(typed))
}

/// A value for an option that takes none, the only thing that lexopt itself refuses.
fn superfluous(error: &lexopt::Error, here: &str) -> Error {
    match error {
        lexopt::Error::UnexpectedValue { option, .. } => {
            Problem::new("this option takes no value", format!("write {option} alone")).at(option)
        }
        _ => Problem::new("cannot be parsed", format!("see `{here} -h`")).at(here),
    }
}

/// All words were made of text.
fn text(word: OsString) -> String {
    word.into_string().unwrap_or_else(|word| word.to_string_lossy().into_owned())
}
