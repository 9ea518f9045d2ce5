//! Environment variables: `-E NAME[=VALUE]`, Environment= and the files of EnvironmentFile= (systemd.exec(5)).

use super::{Error, Problem, printable};

/// The variables of an environment file, in order; a later one of the same name wins.
///
/// A line is `NAME=VALUE`; a line without `=`, or that makes no valid variable, is skipped as in systemd. `#` and `;`
/// begin comments. A backslash at the end of a line continues it. A value is trimmed; in it a backslash quotes the next
/// character and joins lines; `'...'` is verbatim; in `"..."` only `"`, `\`, `` ` `` and `$`.
///
/// # Errors
/// A NUL byte, which no variable can hold. The place is `PLACE:LINE`.
pub fn parse_file(text: &str, place: &str) -> Result<Vec<(String, String)>, Error> {
    if let Some(nul) = text.find('\0') {
        let line = text[..nul].matches('\n').count() + 1;
        let problem = Problem::new("a NUL byte", "environment files are text: NAME=VALUE, one a line");
        return Err(problem.at(format!("{place}:{line}")));
    }
    let mut reader = FileReader {
        state: ReaderState::BeforeName,
        name: String::new(),
        value: RawValue::default(),
        out: Vec::new(),
    };
    for c in text.strip_prefix('\u{feff}').unwrap_or(text).chars() {
        reader.step(c);
    }
    if !matches!(
        reader.state,
        ReaderState::BeforeName | ReaderState::Name | ReaderState::Comment | ReaderState::CommentEscape
    ) {
        reader.finish_line();
    }
    Ok(reader.out)
}

/// The state of the reader, named for where the next character falls; the states are those of systemd's reader.
#[derive(Clone, Copy)]
enum ReaderState {
    BeforeName,
    Name,
    Comment,
    CommentEscape,
    /// After `=` or a closing quote: blanks are dropped, and a quote opens.
    BeforeValue,
    Value,
    ValueEscape,
    Single,
    Double,
    DoubleEscape,
}

struct FileReader {
    state: ReaderState,
    name: String,
    value: RawValue,
    out: Vec<(String, String)>,
}

/// A value that is being read, and where its trailing blanks begin.
#[derive(Default)]
struct RawValue {
    text: String,
    blanks_from: Option<usize>,
}

impl RawValue {
    fn push(&mut self, c: char) {
        self.blanks_from = None;
        self.text.push(c);
    }

    fn push_unquoted(&mut self, c: char) {
        let from = if is_blank(c) { Some(self.blanks_from.unwrap_or(self.text.len())) } else { None };
        self.text.push(c);
        self.blanks_from = from;
    }
}

const fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

const fn is_newline(c: char) -> bool {
    matches!(c, '\n' | '\r')
}

impl FileReader {
    fn step(&mut self, c: char) {
        self.state = match self.state {
            ReaderState::BeforeName => match c {
                '#' | ';' => ReaderState::Comment,
                c if is_blank(c) => ReaderState::BeforeName,
                c => {
                    self.name.push(c);
                    ReaderState::Name
                }
            },
            ReaderState::Name => match c {
                c if is_newline(c) => {
                    self.name.clear();
                    ReaderState::BeforeName
                }
                '=' => ReaderState::BeforeValue,
                c => {
                    self.name.push(c);
                    ReaderState::Name
                }
            },
            ReaderState::Comment => match c {
                '\\' => ReaderState::CommentEscape,
                c if is_newline(c) => ReaderState::BeforeName,
                _ => ReaderState::Comment,
            },
            ReaderState::CommentEscape => ReaderState::Comment,
            ReaderState::BeforeValue | ReaderState::Value | ReaderState::ValueEscape => self.step_unquoted(c),
            ReaderState::Single | ReaderState::Double | ReaderState::DoubleEscape => self.step_quoted(c),
        };
    }

    fn step_unquoted(&mut self, c: char) -> ReaderState {
        match (self.state, c) {
            (ReaderState::ValueEscape, c) => {
                if !is_newline(c) {
                    self.value.push(c);
                }
                ReaderState::Value
            }
            (_, c) if is_newline(c) => {
                self.finish_line();
                ReaderState::BeforeName
            }
            (_, '\\') => {
                self.value.blanks_from = None;
                ReaderState::ValueEscape
            }
            (ReaderState::BeforeValue, '\'') => ReaderState::Single,
            (ReaderState::BeforeValue, '"') => ReaderState::Double,
            (ReaderState::BeforeValue, c) if is_blank(c) => ReaderState::BeforeValue,
            (_, c) => {
                self.value.push_unquoted(c);
                ReaderState::Value
            }
        }
    }

    fn step_quoted(&mut self, c: char) -> ReaderState {
        match (self.state, c) {
            (ReaderState::Single, '\'') | (ReaderState::Double, '"') => return ReaderState::BeforeValue,
            (ReaderState::Double, '\\') => return ReaderState::DoubleEscape,
            (ReaderState::DoubleEscape, '"' | '\\' | '`' | '$')
            | (ReaderState::Single | ReaderState::Double, _) => self.value.push(c),
            (_, '\n') => {}
            (_, c) => {
                self.value.push('\\');
                self.value.push(c);
            }
        }
        if matches!(self.state, ReaderState::Single) { ReaderState::Single } else { ReaderState::Double }
    }

    fn finish_line(&mut self) {
        let name = std::mem::take(&mut self.name);
        let mut value = std::mem::take(&mut self.value);
        value.text.truncate(value.blanks_from.unwrap_or(value.text.len()));
        let name = name.trim_end_matches(is_blank);
        // systemd drops values with control characters as well.
        if is_name(name) && !value.text.chars().any(|c| c.is_ascii_control() && c != '\t' && c != '\n') {
            self.out.push((name.to_owned(), value.text));
        }
    }
}

/// Whether `text` is a valid name: `[A-Za-z_][A-Za-z0-9_]*`, systemd's rule.
pub fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Reads `NAME=VALUE`. NAME alone takes its value from `lookup` (our own environment), or is empty where that has
/// none, as with systemd-socket-activate.
///
/// # Errors
/// NAME is no valid name of a variable, or the value has a NUL byte.
pub fn assignment(
    text: &str,
    lookup: impl FnOnce(&str) -> Option<String>,
) -> Result<(String, String), Problem> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    if !is_name(name) {
        let cause = format!("{:?} is no name of a variable", printable(name));
        return Err(Problem::new(cause, "letters, digits and _, no digit first: PORT=8080"));
    }
    let value = value.map(str::to_owned).or_else(|| lookup(name)).unwrap_or_default();
    if value.contains('\0') {
        return Err(Problem::new("the value contains a NUL byte", "a variable cannot hold one"));
    }
    Ok((name.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Vec<(String, String)> {
        parse_file(text, "test.env").unwrap_or_else(|error| panic!("{error}"))
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// Up to the empty line recorded from systemd 252, the rest after its documentation.
    #[test]
    fn files_are_read_as_systemd_reads_them() {
        let table: &[(&str, &[(&str, &str)])] = &[
            ("A=1\nB=2\n", &[("A", "1"), ("B", "2")]),
            ("A=x y  \n", &[("A", "x y")]),
            ("# c\n;c\nA=1\n", &[("A", "1")]),
            ("A='a\nb'\n", &[("A", "a\nb")]),
            ("A='a\\'b'\n", &[("A", "a\\b'")]),
            ("A=$HOME\n", &[("A", "$HOME")]),
            ("A=a #b\n", &[("A", "a #b")]),
            ("A=\nB=x\n", &[("A", ""), ("B", "x")]),
            ("A='b'c d\n", &[("A", "bc d")]),
            ("# c \\\nA=1\nB=2\n", &[("B", "2")]),
            ("nonsense\nB=2\n", &[("B", "2")]),
            ("A==x\n", &[("A", "=x")]),
            ("A=a\\\\b\n", &[("A", "a\\b")]),
            //
            ("", &[]),
            ("A=1", &[("A", "1")]),
            ("A", &[]),
            ("A=1\r\nB=2\r\n", &[("A", "1"), ("B", "2")]),
            ("\u{feff}A=1\n", &[("A", "1")]),
            ("  A =  1\n", &[("A", "1")]),
            ("A=x\\\ny\n", &[("A", "xy")]),
            ("A=x\\ \n", &[("A", "x ")]),
            ("A=\"a\\\"b\\\\c\\$d\\`e\\nf\"\n", &[("A", "a\"b\\c$d`e\\nf")]),
            ("A=\"a\\\nb\"\n", &[("A", "ab")]),
            ("A=\"x  \"  \nB=1\n", &[("A", "x  "), ("B", "1")]),
            ("A=\"a\" 'b'\n", &[("A", "ab")]),
            ("A=a\"b\"\n", &[("A", "a\"b\"")]),
            ("A=\"open\nB=1\n", &[("A", "open\nB=1\n")]),
            ("export A=1\nT-A=1\n1A=1\n=x\nB=2\n", &[("B", "2")]),
            ("A=\x1b[1m\nB=2\n", &[("B", "2")]),
        ];
        for (text, expected) in table {
            assert_eq!(file(text), pairs(expected), "{text:?}");
        }
    }

    #[test]
    fn a_nul_byte_is_an_error_with_its_line() {
        let error = parse_file("A=1\nB=\0\n", "x.env").expect_err("binary");
        assert_eq!(error.place, "x.env:2");
    }

    #[test]
    fn a_name_alone_is_looked_up() {
        let lookup = |name: &str| (name == "HOME").then(|| "/root".to_owned());
        let pair = |text| assignment(text, lookup).ok();
        assert_eq!(pair("A=1=2"), Some(("A".into(), "1=2".into())));
        assert_eq!(pair("A="), Some(("A".into(), String::new())));
        assert_eq!(pair("HOME"), Some(("HOME".into(), "/root".into())));
        assert_eq!(pair("UNSET"), Some(("UNSET".into(), String::new())));
        for bad in ["", "=1", "1A=1", "A-B=1", "A B=1", "é=1", "A=\0"] {
            assert_eq!(pair(bad), None, "{bad:?}");
        }
    }
}
