//! Names of units and the `%` specifiers of their values (systemd.unit(5), Specifiers and String Escaping).

use std::path::Path;

use super::{Problem, printable};

/// UNIT_NAME_MAX of systemd without its NUL.
const NAME_BYTES: usize = 255;
/// LONG_LINE_MAX of systemd: the longest value of a unit file, before and after its specifiers are replaced.
const VALUE_BYTES: usize = 1 << 20;

/// A valid name of a service or socket unit: `web.service`, `web@blue.service`, or the template `web@.service`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitName(String);

impl UnitName {
    /// Checks a file name by systemd's rule (unit_name_is_valid).
    ///
    /// # Errors
    /// A suffix other than `.service` and `.socket`, nothing before it, more than 255 bytes, or a character besides
    /// ASCII letters, digits and `:-_.\@`.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let bad = |what: &str, remedy: &str| {
            Err(Problem::new(format!("{:?} is no name of a unit: {what}", printable(text)), remedy))
        };
        let Some((stem, "service" | "socket")) = text.rsplit_once('.') else {
            return bad("its suffix is neither .service nor .socket", "name a file like web.service");
        };
        if stem.is_empty() || stem.starts_with('@') {
            return bad("nothing stands before the suffix or @", "name a file like web.service");
        }
        if text.len() > NAME_BYTES {
            return bad("it is longer than 255 bytes", "rename the file");
        }
        if let Some(c) = stem.chars().find(|c| !c.is_ascii_alphanumeric() && !":-_.\\@".contains(*c)) {
            let remedy =
                "it takes ASCII letters, digits and :-_.\\@; `systemd-escape TEXT` writes others with those";
            return bad(&format!("it contains {c:?}"), remedy);
        }
        Ok(Self(text.to_owned()))
    }

    /// The full name (%n): `web@blue.service`.
    pub fn full(&self) -> &str {
        &self.0
    }

    /// The name without its suffix (%N): `web@blue`.
    pub fn stem(&self) -> &str {
        self.split().0
    }

    /// The suffix without its dot: `service` or `socket`.
    pub fn suffix(&self) -> &str {
        self.split().1
    }

    fn split(&self) -> (&str, &str) {
        self.0.rsplit_once('.').expect("parse has seen the suffix")
    }

    /// The part before `@` (%p): `web`.
    pub fn prefix(&self) -> &str {
        self.stem().split_once('@').map_or_else(|| self.stem(), |(prefix, _)| prefix)
    }

    /// The part after `@` (%i): `blue`; empty for the template itself, `None` for a name without `@`.
    pub fn instance(&self) -> Option<&str> {
        self.stem().split_once('@').map(|(_, instance)| instance)
    }

    /// The template of an instance: `web@.service`; `None` for a name that is no instance.
    pub fn template(&self) -> Option<Self> {
        self.instance()
            .filter(|instance| !instance.is_empty())
            .map(|_| Self(format!("{}@.{}", self.prefix(), self.suffix())))
    }
}

/// The values of the specifiers of one unit.
#[expect(missing_debug_implementations, reason = "a closure has nothing to show")]
pub struct Specifiers<'a> {
    pub unit: &'a UnitName,
    /// The absolute path of the unit's file (%y).
    pub path: &'a Path,
    /// Answers specifiers about this machine, its user and directories; `None` for a letter that it does not know.
    pub host: &'a dyn Fn(char) -> Option<String>,
}

impl Specifiers<'_> {
    /// Replaces the specifiers of `text`. `%%` is a percent sign; before anything but a letter or digit, and at the
    /// end, `%` stands for itself.
    ///
    /// # Errors
    /// An unknown specifier, one that cannot be resolved here, or a result over 1 MiB.
    pub fn expand(&self, text: &str) -> Result<String, Problem> {
        let mut out = String::with_capacity(text.len());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            match chars.next() {
                None | Some('%') => out.push('%'),
                Some(letter) if letter.is_ascii_alphanumeric() => {
                    let value = self.resolve(letter);
                    let place = |what: &str| format!("%{letter} in {:?} {what}", printable(text));
                    out.push_str(
                        &value.map_err(|what| Problem::new(place(what), "write %% for a percent sign"))?,
                    );
                }
                Some(other) => out.extend(['%', other]),
            }
            if out.len() > VALUE_BYTES {
                let cause = "the value is longer than 1 MiB with its specifiers replaced";
                return Err(Problem::new(cause, "use fewer specifiers"));
            }
        }
        Ok(out)
    }

    fn resolve(&self, letter: char) -> Result<String, &'static str> {
        let unit = self.unit;
        let instance = unit.instance().unwrap_or_default();
        let last = unit.prefix().rsplit_once('-').map_or_else(|| unit.prefix(), |(_, last)| last);
        Ok(match letter {
            'n' => unit.full().to_owned(),
            'N' => unit.stem().to_owned(),
            'p' => unit.prefix().to_owned(),
            'P' => unescape(unit.prefix())?,
            'i' => instance.to_owned(),
            'I' => unescape(instance)?,
            'j' => last.to_owned(),
            'J' => unescape(last)?,
            'f' => unescape_path(unit.instance().unwrap_or_else(|| unit.prefix()))?,
            'y' => path_text(self.path)?,
            'Y' => path_text(self.path.parent().unwrap_or(self.path))?,
            _ => (self.host)(letter).ok_or("is no specifier that has a value here")?,
        })
    }
}

fn path_text(path: &Path) -> Result<String, &'static str> {
    path.to_str().map(str::to_owned).ok_or("is a path that is not UTF-8")
}

/// The reverse of `systemd-escape`: `-` becomes `/`, `\xHH` a byte.
fn unescape(text: &str) -> Result<String, &'static str> {
    const BAD: &str = "asks to unescape what systemd-escape has not written";
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        out.push(match byte {
            b'-' => b'/',
            b'\\' => {
                let digits = [rest.next(), rest.next(), rest.next()];
                let [Some(b'x'), Some(high), Some(low)] = digits else { return Err(BAD) };
                let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(BAD);
                u8::try_from(digit(high)? * 16 + digit(low)?).expect("two digits")
            }
            byte => byte,
        });
    }
    String::from_utf8(out).ok().filter(|text| !text.contains('\0')).ok_or("does not unescape to text")
}

/// The reverse of `systemd-escape --path`.
fn unescape_path(text: &str) -> Result<String, &'static str> {
    if text == "-" {
        return Ok("/".to_owned());
    }
    let path = unescape(text)?;
    // These include an empty path, and a slash at either end.
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err("asks for a path that the name does not hold");
    }
    Ok(format!("/{path}"))
}

#[cfg(test)]
mod tests;
