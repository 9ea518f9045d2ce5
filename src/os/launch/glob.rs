//! glob(7) patterns of paths: `*`, `?` and `[...]` within a component, sorted as in glob(3), with limits.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// The most paths of one pattern; more are an error.
const PATHS: usize = 1000;
/// The most entries of one directory that are looked at.
const ENTRIES: usize = 1 << 16;

pub(super) fn is_pattern(path: &Path) -> bool {
    path.as_os_str().as_bytes().iter().any(|byte| b"*?[".contains(byte))
}

/// The existing paths that match. A directory that cannot be read has none, as in glob(3).
pub(super) fn paths(pattern: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::new()];
    for component in pattern.components() {
        let part = component.as_os_str();
        let is_plain = !matches!(component, Component::Normal(_)) || !is_pattern(Path::new(part));
        let mut next = Vec::new();
        for path in &found {
            if is_plain {
                next.push(path.join(unescaped(part)));
            } else {
                next.extend(matches_in(path, part)?.into_iter().map(|name| path.join(name)));
            }
            if next.len() > PATHS {
                return Err(io::Error::other("more than 1000 paths match"));
            }
        }
        found = next;
    }
    found.retain(|path| fs::symlink_metadata(path).is_ok());
    Ok(found)
}

fn unescaped(part: &OsStr) -> OsString {
    let mut out = Vec::new();
    let mut bytes = part.as_bytes().iter();
    while let Some(byte) = bytes.next() {
        out.push(*if *byte == b'\\' { bytes.next().unwrap_or(byte) } else { byte });
    }
    OsString::from_vec(out)
}

fn matches_in(directory: &Path, pattern: &OsStr) -> io::Result<Vec<OsString>> {
    let here = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let Ok(list) = fs::read_dir(here) else { return Ok(Vec::new()) };
    let pattern = pattern.as_bytes();
    let mut names = Vec::new();
    for (count, entry) in list.enumerate() {
        if count == ENTRIES {
            return Err(io::Error::other(format!("{} has more than {ENTRIES} entries", here.display())));
        }
        let name = entry?.file_name();
        // A leading dot matches only a dot in the pattern.
        if name.as_bytes().starts_with(b".") && !pattern.starts_with(b".") {
            continue;
        }
        if matches(pattern, name.as_bytes()) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether `name` matches, in time of at most the product of the lengths: only the last `*` is retried.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, n));
            p += 1;
        } else if let Some(length) = one(&pattern[p..], name[n]) {
            p += length;
            n += 1;
        } else if let Some((after, from)) = star {
            star = Some((after, from + 1));
            (p, n) = (after, from + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// The length of the pattern's first element if it matches this byte.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [b'[', rest @ ..] => match set(rest, byte) {
            Some((true, length)) => Some(1 + length),
            Some((false, _)) => None,
            // A bracket that is not closed is an ordinary character.
            None => (byte == b'[').then_some(1),
        },
        [first, ..] => (*first == byte).then_some(1),
        [] => None,
    }
}

/// Reads what follows a `[`: whether the byte is in the set, and the length with the `]`, if there is one.
fn set(rest: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(rest.first(), Some(b'!' | b'^'));
    let start = usize::from(negated);
    let mut at = start;
    let mut found = false;
    loop {
        match rest.get(at..)? {
            [] => return None,
            [b']', ..] if at > start => return Some((found != negated, at + 1)),
            [low, b'-', high, ..] if *high != b']' => {
                found |= (*low..=*high).contains(&byte);
                at += 3;
            }
            [member, ..] => {
                found |= *member == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_glob_does() {
        let cases = [
            ("*", "a", true),
            ("*.env", "a.env", true),
            ("*.env", "a.envx", false),
            ("a*b*c", "axxbyybzc", true),
            ("a*b*c", "axxbyybz", false),
            ("?", "", false),
            ("??", "ab", true),
            ("[abc]x", "bx", true),
            ("[!abc]x", "bx", false),
            ("[^a]", "b", true),
            ("[a-c0-9]", "7", true),
            ("[a-c]", "d", false),
            ("[]]", "]", true),
            ("[!]]", "a", true),
            ("[a-]", "-", true),
            ("[ab", "[ab", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("**", "", true),
            ("é?", "éx", true),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
        let (hard, long) = ("*a".repeat(100) + "b", "a".repeat(10_000));
        assert!(!matches(hard.as_bytes(), long.as_bytes()), "soon");
    }

    #[test]
    fn paths_are_sorted_and_dots_are_hidden() {
        let base = tempfile::tempdir().expect("a directory");
        for name in ["conf.d/b.env", "conf.d/a.env", "conf.d/.c.env", "conf.d/a.txt", "other/a.env"] {
            let path = base.path().join(name);
            fs::create_dir_all(path.parent().expect("below the base")).expect("mkdir");
            fs::write(path, "").expect("writes");
        }
        let found = |pattern: &str| {
            let paths = paths(&base.path().join(pattern)).expect("readable");
            let names =
                paths.iter().map(|path| path.strip_prefix(base.path()).expect("below").display().to_string());
            names.collect::<Vec<_>>()
        };
        assert_eq!(found("conf.d/*.env"), ["conf.d/a.env", "conf.d/b.env"]);
        assert_eq!(found("*/a.env"), ["conf.d/a.env", "other/a.env"]);
        assert_eq!(found("conf.d/.*.env"), ["conf.d/.c.env"]);
        assert_eq!(found("none*/a.env"), [""; 0]);
    }
}
