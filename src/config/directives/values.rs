//! Setters for the kinds of values that many directives share.

use super::super::number::unsigned;
use super::super::specifier::UnitName;
use super::super::{Problem, Signal, Span, printable};
use super::row::SetResult;

pub(super) fn put<T>(value: T, field: &mut T) -> SetResult {
    *field = value;
    Ok(())
}

pub(super) fn span(text: &str, field: &mut Span) -> SetResult {
    put(Span::parse(text)?, field)
}

pub(super) fn count(text: &str, field: &mut u32) -> SetResult {
    put(unsigned(text)?, field)
}

/// A timeout; 0 means none, as in systemd.
pub(super) fn timeout(text: &str, field: &mut Span) -> SetResult {
    let value = Span::parse(text)?;
    put(if value == Span::ZERO { Span::INFINITY } else { value }, field)
}

/// A text; an empty one resets the field to `None`.
pub(super) fn optional(text: &str, field: &mut Option<String>) -> SetResult {
    put((!text.is_empty()).then(|| text.to_owned()), field)
}

pub(super) fn signal(text: &str, field: &mut Option<Signal>) -> SetResult {
    put(Some(Signal::parse(text)?), field)
}

/// Appends to a list; an empty text empties it.
pub(super) fn grow<T>(list: &mut Vec<T>, new: Vec<T>, text: &str) -> SetResult {
    if text.trim().is_empty() {
        list.clear();
    }
    list.extend(new);
    Ok(())
}

/// Checks that each word is the name of a unit with this suffix.
pub(super) fn units(text: &str, suffix: &str) -> SetResult {
    let wrong = |word: &&str| UnitName::parse(word).ok().is_none_or(|name| name.suffix() != suffix);
    match text.split_ascii_whitespace().find(wrong) {
        Some(word) => Err(Problem::new(
            format!("{:?} is no {suffix} unit", printable(word)),
            format!("write its file name: web.{suffix}"),
        )),
        None => Ok(()),
    }
}
