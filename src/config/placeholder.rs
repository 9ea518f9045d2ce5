//! `{fd:NAME}`, `{port:NAME}` and `{addr:NAME}` in COMMAND's words and in the values of variables.
//!
//! Anything else in braces stays as it is, so that JSON and shell text pass through untouched.

use super::{Listener, Problem, printable};

/// One socket as it is passed to a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumberedSocket {
    pub name: String,
    /// The number of the fd in the server.
    pub fd: i32,
    /// `None` for unix sockets.
    pub port: Option<u16>,
    /// The address as `status` shows it: `127.0.0.1:8080`, `/run/x.sock`.
    pub address: String,
}

#[derive(Clone, Copy)]
enum Field {
    Fd,
    Port,
    Address,
}

const FIELDS: [(&str, Field); 3] = [("{fd:", Field::Fd), ("{port:", Field::Port), ("{addr:", Field::Address)];

/// Checks that every placeholder of `words` can be replaced once the sockets are held.
///
/// # Errors
/// An unknown NAME, or `{port:NAME}` of a socket that has none.
pub fn check<'a>(words: impl IntoIterator<Item = &'a str>, listeners: &[Listener]) -> Result<(), Problem> {
    for word in words {
        let mut rest = word;
        while let Some(found) = next(rest) {
            let listener = listeners.iter().find(|listener| listener.name == found.name);
            let names = || listeners.iter().map(|listener| listener.name.as_str());
            let listener = listener.ok_or_else(|| unknown(found.name, names()))?;
            if matches!(found.field, Field::Port) && !listener.may_have_port() {
                return Err(no_port(found.name));
            }
            rest = found.after;
        }
    }
    Ok(())
}

/// Whether `word` has an `{fd:NAME}`, by which the server learns the number of an fd.
pub fn names_fd(word: &str) -> bool {
    std::iter::successors(next(word), |found| next(found.after)).any(|found| matches!(found.field, Field::Fd))
}

/// Replaces the placeholders of `word`, each by the first socket of that name.
///
/// # Errors
/// Those of [`check`]; once that has passed, only an inherited socket without a port.
pub fn expand(word: &str, sockets: &[NumberedSocket]) -> Result<String, Problem> {
    let mut out = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(found) = next(rest) {
        let held = sockets.iter().find(|held| held.name == found.name);
        let held = held.ok_or_else(|| unknown(found.name, sockets.iter().map(|held| held.name.as_str())))?;
        out.push_str(found.before);
        match found.field {
            Field::Fd => out.push_str(&held.fd.to_string()),
            Field::Port => out.push_str(&held.port.ok_or_else(|| no_port(found.name))?.to_string()),
            Field::Address => out.push_str(&held.address),
        }
        rest = found.after;
    }
    out.push_str(rest);
    Ok(out)
}

struct FoundField<'a> {
    before: &'a str,
    field: Field,
    name: &'a str,
    after: &'a str,
}

/// Finds the first placeholder. A NAME has no `:` and no braces here, so `{port:${X}}` is none.
fn next(text: &str) -> Option<FoundField<'_>> {
    text.match_indices('{').find_map(|(start, _)| {
        let (before, tail) = text.split_at(start);
        let (field, tail) =
            FIELDS.iter().find_map(|(open, field)| Some((*field, tail.strip_prefix(open)?)))?;
        let (name, after) = tail.split_once('}')?;
        let valid = name.chars().all(|c| (' '..='~').contains(&c) && !":{".contains(c));
        valid.then_some(FoundField { before, field, name, after })
    })
}

fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Problem {
    let mut names: Vec<String> = known.map(|name| format!("{:?}", printable(name))).collect();
    names.dedup();
    let remedy = if names.is_empty() {
        format!("add one: --listen ADDRESS={name}")
    } else {
        format!("the names are {}; --listen ADDRESS={name} gives this one", names.join(", "))
    };
    Problem::new(format!("no socket is named {:?}", printable(name)), remedy)
}

fn no_port(name: &str) -> Problem {
    Problem::new(format!("the socket {name:?} has no port"), format!("write {{addr:{name}}} for its address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> Vec<NumberedSocket> {
        let socket = |name: &str, fd, port, address: &str| NumberedSocket {
            name: name.into(),
            fd,
            port,
            address: address.into(),
        };
        vec![
            socket("web", 3, Some(8080), "127.0.0.1:8080"),
            socket("web", 4, Some(8081), "127.0.0.1:8081"),
            socket("x.sock", 5, None, "/run/x.sock"),
            socket("", 6, Some(1), "[::]:1"),
        ]
    }

    #[test]
    fn placeholders_are_replaced_and_other_braces_stay() {
        let table = [
            ("--fd={fd:web}", "--fd=3"),
            ("{port:web}{addr:x.sock}", "8080/run/x.sock"),
            ("http://{addr:web}/", "http://127.0.0.1:8080/"),
            ("{fd:}", "6"),
            ("{}", "{}"),
            ("{\"port\": 1}", "{\"port\": 1}"),
            ("{{fd:web}}", "{3}"),
            ("{port:${X}}", "{port:${X}}"),
            ("{port:a:b}", "{port:a:b}"),
            ("{fd:web", "{fd:web"),
            ("{FD:web} {fd :web}", "{FD:web} {fd :web}"),
            ("{fd:é}", "{fd:é}"),
            ("${fd:web}é{", "$3é{"),
            ("{fd:{fd:web}", "{fd:3"),
        ];
        for (word, expanded) in table {
            assert_eq!(expand(word, &held()).as_deref(), Ok(expanded), "{word}");
        }
    }

    #[test]
    fn only_an_fd_is_the_number_of_an_fd() {
        for word in ["{fd:web}", "--port {port:web} --fd={fd:web}", "{}{fd:}"] {
            assert!(names_fd(word), "{word}");
        }
        for word in ["", "{addr:web}{port:web}", "{fd:web", "{FD:web}"] {
            assert!(!names_fd(word), "{word}");
        }
    }

    #[test]
    fn an_unknown_name_and_a_missing_port_are_errors() {
        let error = expand("{fd:wbe}", &held()).expect_err("unknown");
        assert!(error.cause.contains("\"wbe\"") && error.remedy.contains("\"web\", \"x.sock\""), "{error:?}");
        assert!(expand("{port:x.sock}", &held()).expect_err("no port").remedy.contains("{addr:x.sock}"));
        assert!(expand("{fd:web}", &[]).expect_err("none").remedy.contains("--listen ADDRESS=web"));
    }

    #[test]
    fn a_command_is_checked_before_anything_is_held() {
        let listeners: Vec<Listener> = ["8080=web", "/run/x.sock", "fd:3=up"]
            .map(|text| Listener::parse(text, None).expect(text))
            .to_vec();
        for good in ["{fd:web} {port:web}", "{addr:x.sock}", "{port:up}", "{x}"] {
            assert_eq!(check(["--", good], &listeners), Ok(()), "{good}");
        }
        for bad in ["{fd:web} {port:wbe}", "{port:x.sock}"] {
            assert!(check([bad], &listeners).is_err(), "{bad}");
        }
    }
}
