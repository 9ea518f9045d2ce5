//! The grammar of a unit file (systemd.syntax(7)): text to assignments, each with the line it begins on.
//!
//! [`super::directives`] knows what they mean and reports unknown sections and keys.

use std::path::PathBuf;

use super::specifier::UnitName;
use super::{Error, Problem, Warning, printable};

/// The largest unit file that is read: LONG_LINE_MAX of systemd. Real ones have a few KiB.
pub const FILE_BYTES: usize = 1 << 20;
/// The most warnings about one file; a file with more is no unit file.
const WARNINGS: usize = 50;

/// One file and its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its name in messages: the path as given; of a drop-in its own.
    pub name: String,
    pub text: Vec<u8>,
}

/// One unit as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    pub name: UnitName,
    /// The absolute path of its main file.
    pub path: PathBuf,
    /// The main file, then its drop-ins in the order in which they apply.
    pub sources: Vec<Source>,
    /// Warnings about drop-ins that are no regular files.
    pub skipped: Vec<Warning>,
}

/// One `Key=Value`, without the blanks around either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    pub section: String,
    pub key: String,
    pub value: String,
    /// The line it begins on: `web.service:7`.
    pub place: String,
}

/// The content of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedSource {
    /// The assignments in the order of the file; a repeated section continues the earlier one.
    pub assignments: Vec<Assignment>,
    /// The lines that begin a section, with the section's name.
    pub headers: Vec<(String, String)>,
    pub warnings: Vec<Warning>,
}

/// Reads one file. As in systemd, a line that is no assignment, stands before the first section or is not UTF-8 is
/// skipped with a warning; sections (other than `[X-Supervise]`) and keys that begin with `X-` are skipped without.
///
/// # Errors
/// The file is larger than 1 MiB, or a section header is malformed (systemd: "Bad message").
pub fn parse(source: &Source) -> Result<ParsedSource, Error> {
    if source.text.len() > FILE_BYTES {
        let problem = Problem::new("the file is larger than 1 MiB", "this is no unit file");
        return Err(problem.at(printable(&source.name)));
    }
    let mut parser = Parser { name: printable(&source.name), section: None, parsed: ParsedSource::default() };
    let text = source.text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&source.text);
    // A line that a backslash continues, and the number of its first line.
    let mut joined: Option<(Vec<u8>, usize)> = None;
    for (index, line) in Lines(text).enumerate() {
        // Comments may also stand between the parts of a continued line.
        if matches!(line.trim_ascii_start().first(), Some(b'#' | b';')) {
            continue;
        }
        let (mut whole, start) = joined.take().unwrap_or_else(|| (Vec::new(), index + 1));
        whole.extend_from_slice(line);
        let backslashes = line.iter().rev().take_while(|byte| **byte == b'\\').count();
        if backslashes % 2 == 1 {
            whole.pop();
            whole.push(b' ');
            joined = Some((whole, start));
        } else {
            parser.line(&whole, start)?;
        }
    }
    if let Some((whole, start)) = joined {
        parser.line(&whole, start)?;
    }
    Ok(parser.parsed)
}

/// Physical lines as systemd's read_line() splits them: a newline, a carriage return or a NUL ends a line, and a run
/// of different ones (CR LF) counts once.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        const ENDS: [u8; 3] = *b"\n\r\0";
        if self.0.is_empty() {
            return None;
        }
        let length = self.0.iter().position(|byte| ENDS.contains(byte)).unwrap_or(self.0.len());
        let (line, rest) = self.0.split_at(length);
        let ends = (0..rest.len().min(ENDS.len()))
            .take_while(|&at| ENDS.contains(&rest[at]) && !rest[..at].contains(&rest[at]))
            .count();
        self.0 = &rest[ends..];
        Some(line)
    }
}

struct Parser {
    name: String,
    /// The current section; `None` before the first header.
    section: Option<String>,
    parsed: ParsedSource,
}

impl Parser {
    /// Reads one logical line that begins in line `number`.
    fn line(&mut self, line: &[u8], number: usize) -> Result<(), Error> {
        let place = format!("{}:{number}", self.name);
        let Ok(text) = std::str::from_utf8(line) else {
            self.warn("the line is not UTF-8 and has no effect".to_owned(), "save the file as UTF-8", place);
            return Ok(());
        };
        let text = text.trim_matches(is_blank);
        // Such a comment follows a byte order mark, or was joined to a line of blanks.
        if text.is_empty() || text.starts_with(['#', ';']) {
            return Ok(());
        }
        if text.starts_with('[') {
            let section = header(text).map_err(|problem| problem.at(place.as_str()))?;
            self.parsed.headers.push((section.clone(), place));
            self.section = Some(section);
            return Ok(());
        }
        let Some(section) = &self.section else {
            let cause = format!("{:?} stands before the first section and has no effect", printable(text));
            self.warn(cause, "put a section above it: [Service]", place);
            return Ok(());
        };
        let Some((key, value)) = text.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            let cause = format!("{:?} is no assignment and has no effect", printable(text));
            self.warn(cause, "write Key=Value, or # before a comment", place);
            return Ok(());
        };
        let (key, value) = (key.trim_matches(is_blank), value.trim_matches(is_blank));
        let foreign = section.starts_with("X-") && section != "X-Supervise";
        if !foreign && !key.starts_with("X-") {
            let section = section.clone();
            self.parsed.assignments.push(Assignment { section, key: key.into(), value: value.into(), place });
        }
        Ok(())
    }

    fn warn(&mut self, cause: String, remedy: &str, place: String) {
        let warnings = &mut self.parsed.warnings;
        if warnings.len() < WARNINGS {
            warnings.push(Warning(Problem::new(cause, remedy).at(place)));
        } else if warnings.len() == WARNINGS {
            let problem = Problem::new("further lines like those are not shown", "is this a unit file?");
            warnings.push(Warning(problem.at(place)));
        }
    }
}

/// WHITESPACE of systemd.
pub(super) const fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

fn header(text: &str) -> Result<String, Problem> {
    let name = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    name.filter(|name| !name.contains(|c: char| c.is_ascii_control() || "\"'\\".contains(c)))
        .map(str::to_owned)
        .ok_or_else(|| {
            let cause = format!("{:?} is no section header, so the whole file fails", printable(text));
            Problem::new(cause, "write [Service], alone on its line")
        })
}

#[cfg(test)]
mod tests;
