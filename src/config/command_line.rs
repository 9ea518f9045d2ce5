//! The value of ExecStart= and similar directives (systemd.service(5), Command Lines), and the quoting that other
//! directives share with it (systemd.syntax(7), Quoting).

use std::ffi::OsString;

use super::directives::row::Context;
use super::unit_file::is_blank;
use super::{Exec, Privileges, Problem, Search, printable};

/// Expansion stops here. Linux limits argv and the environment to 6 MiB together (execve(2), E2BIG).
const ARGV_BYTES: usize = 8 << 20;

/// The commands of one assignment: none where the value is empty, several where a `;` between blanks separates them.
///
/// # Errors
/// A quote that is not closed, an unknown specifier, or a program that is neither an absolute path nor a name without
/// a slash. With the prefix `-` this is only a warning and the rest of the value is ignored, as in systemd.
pub fn parse(text: &str, scope: &Context<'_>) -> Result<Vec<Exec>, Problem> {
    let mut commands = Vec::new();
    let mut rest = text;
    while let Some(first) = take_word(&mut rest, scope.warn)? {
        if first == ";" {
            continue;
        }
        let (prefixes, program) = Prefixes::of(&first)?;
        match command(prefixes, program, &mut rest, scope) {
            Ok(exec) => commands.push(exec),
            Err(problem) if prefixes.ignore_failure => {
                let cause = format!("{}; because of the prefix - the command is left out", problem.cause);
                (scope.warn)(Problem { cause, ..problem });
                break;
            }
            Err(problem) => return Err(problem),
        }
    }
    Ok(commands)
}

#[derive(Clone, Copy, Default)]
struct Prefixes {
    ignore_failure: bool,
    /// `@`: the next word becomes argv[0].
    names_itself: bool,
    /// `:`: no `$VAR` is replaced.
    verbatim: bool,
    /// `+`, `!` or `!!`: User= and Group= do not apply.
    privileged: bool,
}

impl Prefixes {
    /// Splits the prefixes, in any order and each at most once, from the program.
    fn of(word: &str) -> Result<(Self, &str), Problem> {
        let mut prefixes = Self::default();
        let mut rest = word;
        loop {
            let prefix = rest.chars().next();
            let (flag, length) = match prefix {
                Some('-') => (&mut prefixes.ignore_failure, 1),
                Some('@') => (&mut prefixes.names_itself, 1),
                Some(':') => (&mut prefixes.verbatim, 1),
                Some('+') => (&mut prefixes.privileged, 1),
                Some('!') => (&mut prefixes.privileged, if rest.starts_with("!!") { 2 } else { 1 }),
                Some('|') => {
                    let remedy = "write it out: /bin/sh -c 'COMMAND'";
                    return Err(Problem::new("the prefix | (a login shell) is not supported", remedy));
                }
                _ => return Ok((prefixes, rest)),
            };
            // A repeated prefix is the first letter of the program's name.
            if std::mem::replace(flag, true) {
                return Ok((prefixes, rest));
            }
            rest = &rest[length..];
        }
    }
}

/// Reads one command up to its `;` and leaves what follows in `rest`.
fn command(prefixes: Prefixes, program: &str, rest: &mut &str, scope: &Context<'_>) -> Result<Exec, Problem> {
    let path = (scope.expand)(program)?;
    check_program(&path)?;
    let mut words = Vec::new();
    if !prefixes.names_itself {
        words.push(OsString::from(path.as_str()));
    }
    loop {
        // `;` and `\;` are special only unquoted.
        if let Some(after) = lone(rest, ";") {
            *rest = after;
            break;
        }
        if let Some(after) = lone(rest, "\\;") {
            *rest = after;
            words.push(";".into());
            continue;
        }
        let Some(word) = take_word(rest, scope.warn)? else { break };
        words.push((scope.expand)(&word)?.into());
    }
    if words.is_empty() {
        return Err(Problem::new("no word follows for argv[0]", "the prefix @ takes one: @/bin/sh -sh"));
    }
    Ok(Exec {
        path: path.into(),
        words,
        ignore_failure: prefixes.ignore_failure,
        expands: !prefixes.verbatim,
        privileges: if prefixes.privileged { Privileges::Full } else { Privileges::User },
        search: Search::Fixed,
        place: scope.place.to_owned(),
    })
}

/// What follows `token` if `token` is the next word of `text`.
fn lone<'a>(text: &'a str, token: &str) -> Option<&'a str> {
    let after = text.trim_start_matches(is_blank).strip_prefix(token)?;
    (after.is_empty() || after.starts_with(is_blank)).then_some(after)
}

fn check_program(path: &str) -> Result<(), Problem> {
    let remedy = "write its absolute path, or its name alone to have it looked for in /usr/bin and the like";
    let bad = |what: &str| Err(Problem::new(format!("the program {:?} {what}", printable(path)), remedy));
    if path.is_empty() {
        return Err(Problem::new("no program is named", remedy));
    }
    if path.contains(|c: char| c.is_ascii_control() || "\"'\\".contains(c)) {
        return bad("contains a control character, quote or backslash");
    }
    if path.ends_with('/') || matches!(path, "." | "..") {
        return bad("is a directory");
    }
    if !path.starts_with('/') && path.contains('/') {
        return bad("is a relative path");
    }
    Ok(())
}

/// Expands argv as systemd does, from the second word on: a word `$NAME` becomes the words of its value (none if
/// unset), `${NAME}` its value as it is, `$$` a dollar sign. Anything else, such as `a$NAME` or `${NAME:-x}`, stays.
/// It stops above 8 MiB, where execve(2) fails with E2BIG in any case.
pub fn expand(exec: &Exec, lookup: &dyn Fn(&str) -> Option<OsString>) -> Vec<OsString> {
    if !exec.expands {
        return exec.words.clone();
    }
    let mut argv: Vec<OsString> = exec.words.iter().take(1).cloned().collect();
    let mut bytes = 0;
    for word in exec.words.iter().skip(1) {
        if bytes > ARGV_BYTES {
            break;
        }
        let done = argv.len();
        // Only the command line has words that are not UTF-8, and there nothing is expanded.
        let Some(text) = word.to_str() else {
            argv.push(word.clone());
            continue;
        };
        match text.strip_prefix('$').filter(|name| !name.starts_with(['{', '$'])) {
            Some(name) => argv.extend(lookup(name).map_or_else(Vec::new, split_value)),
            None => argv.push(expand_braces(text, lookup)),
        }
        bytes += argv[done..].iter().map(|word| word.len() + 1).sum::<usize>();
    }
    argv
}

/// Splits the value of `$NAME` at blanks. Quotes group, a backslash quotes the next character, and an open quote ends
/// with the value. A value that is not UTF-8 is one word.
fn split_value(value: OsString) -> Vec<OsString> {
    let Some(text) = value.to_str() else { return vec![value] };
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.get_or_insert_default().extend(chars.next()),
            c if quote == Some(c) => quote = None,
            '"' | '\'' if quote.is_none() => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            c if quote.is_none() && is_blank(c) => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words.into_iter().map(OsString::from).collect()
}

fn expand_braces(text: &str, lookup: &dyn Fn(&str) -> Option<OsString>) -> OsString {
    let mut out = OsString::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$').filter(|_| out.len() <= ARGV_BYTES) {
        out.push(before);
        let name = after.strip_prefix('{').and_then(|open| open.split_once('}'));
        rest = match name.filter(|(name, _)| !name.contains(':')) {
            Some((name, after)) => {
                out.push(lookup(name).unwrap_or_default());
                after
            }
            None => {
                out.push("$");
                after.strip_prefix('$').unwrap_or(after)
            }
        };
    }
    out.push(rest);
    out
}

/// Splits `text` into words: quotes of both kinds may stand anywhere in a word, C escapes inside and outside of them.
/// An unknown escape stays as written and is reported to `warn`.
///
/// # Errors
/// A quote that is not closed, or `\x` escapes whose bytes are not UTF-8.
pub fn unquote(text: &str, warn: &dyn Fn(Problem)) -> Result<Vec<String>, Problem> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(word) = take_word(&mut rest, warn)? {
        words.push(word);
    }
    Ok(words)
}

/// Takes the first word off `rest`; `None` when only blanks are left.
fn take_word(rest: &mut &str, warn: &dyn Fn(Problem)) -> Result<Option<String>, Problem> {
    let text = rest.trim_start_matches(is_blank);
    *rest = text;
    if text.is_empty() {
        return Ok(None);
    }
    let mut word = Vec::new();
    let mut quote = None;
    let mut unknown = false;
    let mut left = text;
    while let Some(c) = left.chars().next() {
        let after = &left[c.len_utf8()..];
        left = match c {
            '\\' => unescape(after, &mut word).unwrap_or_else(|| {
                unknown = true;
                // The backslash stays in front of the next character, even of a blank.
                let length = 1 + after.chars().next().map_or(0, char::len_utf8);
                word.extend_from_slice(&left.as_bytes()[..length]);
                &left[length..]
            }),
            c if quote == Some(c) => {
                quote = None;
                after
            }
            '"' | '\'' if quote.is_none() => {
                quote = Some(c);
                after
            }
            c if quote.is_none() && is_blank(c) => break,
            c => {
                word.extend_from_slice(&left.as_bytes()[..c.len_utf8()]);
                after
            }
        };
    }
    *rest = left;
    if quote.is_some() {
        let cause = format!("a quote is not closed: {}", printable(text));
        return Err(Problem::new(cause, "close it, or write \\\" or \\' for one that is meant literally"));
    }
    let word = String::from_utf8(word).map_err(|_| {
        let cause = format!("the escapes in {} make no UTF-8", printable(text));
        Problem::new(cause, "write the character itself, or \\u and four hexadecimal digits")
    })?;
    if unknown {
        let cause = format!("unknown escape sequence in {:?}, which stays as it is", printable(&word));
        warn(Problem::new(cause, "write \\\\ for a backslash"));
    }
    Ok(Some(word))
}

/// Decodes the C escape behind a backslash into `out` and returns the rest. `None` for an unknown one and for NUL.
fn unescape<'a>(text: &'a str, out: &mut Vec<u8>) -> Option<&'a str> {
    let kind = text.chars().next()?;
    let plain = match kind {
        'a' => 0x07,
        'b' => 0x08,
        'f' => 0x0c,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 0x0b,
        's' => b' ',
        '\\' => b'\\',
        '"' => b'"',
        '\'' => b'\'',
        _ => return unescape_number(kind, text, out),
    };
    out.push(plain);
    Some(&text[1..])
}

fn unescape_number<'a>(kind: char, text: &'a str, out: &mut Vec<u8>) -> Option<&'a str> {
    let (start, length, radix) = match kind {
        'x' => (1, 2, 16),
        'u' => (1, 4, 16),
        'U' => (1, 8, 16),
        '0'..='7' => (0, 3, 8),
        _ => return None,
    };
    // from_str_radix alone would accept a sign.
    let digits =
        text.get(start..start + length).filter(|digits| digits.chars().all(|c| c.is_digit(radix)))?;
    let number = u32::from_str_radix(digits, radix).ok().filter(|number| *number != 0)?;
    if matches!(kind, 'u' | 'U') {
        out.extend_from_slice(char::from_u32(number)?.encode_utf8(&mut [0; 4]).as_bytes());
    } else {
        out.push(u8::try_from(number).ok()?);
    }
    Some(&text[start + length..])
}

#[cfg(test)]
mod tests;
