//! A [`Draft`]: a [`Config`] that is being filled, one directive after the other, each by its row of [`DIRECTIVES`].
//!
//! That one table makes the options, `--help` and the keys of unit files. A new directive is a field of [`Config`]
//! and a row in `service`, `exec` or `socket`.

mod exec;
pub mod row;
mod service;
mod socket;
mod swap;
pub mod table;
mod values;
mod without;

use std::cell::RefCell;

use super::choice::nearest;
use super::{Config, Error, Problem, Warning, printable};
use row::{Context, Directive, Section, Setter, Support};
use table::DIRECTIVES;

/// The row of `key` in `section`. A key may mean another thing in another section.
pub fn find(section: Section, key: &str) -> Option<&'static Directive> {
    DIRECTIVES.iter().find(|directive| directive.section == section && directive.key == key)
}

/// The row of a `-p KEY=`, where no section is given.
fn find_by_key(key: &str) -> Option<&'static Directive> {
    [Section::Service, Section::Unit, Section::Socket, Section::XSupervise]
        .into_iter()
        .find_map(|section| find(section, key))
}

/// A [`Config`] that is being filled, and which directives were written where; some rules depend on that.
#[derive(Clone, Debug)]
pub struct Draft {
    pub config: Config,
    /// The place of the last value of each directive that was set.
    written: Vec<(Section, &'static str, String)>,
}

/// Whether a line has an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Honoured,
    Inert(&'static str),
    NotHonoured(&'static str),
}

impl Draft {
    pub const fn new(config: Config) -> Self {
        Self { config, written: Vec::new() }
    }

    /// Where this directive was last set.
    pub fn place_of(&self, section: Section, key: &str) -> Option<&str> {
        let found = self.written.iter().rfind(|(one, name, _)| *one == section && *name == key);
        found.map(|(_, _, place)| place.as_str())
    }

    /// Sets one directive of the command line. A later value replaces an earlier one; lists grow, and an empty value
    /// empties them. Returns a warning about a directive that has no effect here.
    ///
    /// # Errors
    /// An unknown key or an invalid value, also where a unit file would only get a warning.
    pub fn set(&mut self, key: &str, value: &str, place: &str) -> Result<Option<Warning>, Error> {
        let instead = match key {
            "ExecStart" => Some("COMMAND comes after --: supervise -l 8080 -- ./server"),
            "Accept" if super::number::boolean(value) == Ok(true) => {
                Some("leave it out: this version does not accept connections itself")
            }
            "Type" => Some("use --ready notify or --ready exec"),
            _ if key.starts_with("Listen") => Some("use --listen [KIND:]ADDRESS"),
            _ => None,
        };
        if let Some(remedy) = instead {
            let cause = format!("{} is not set this way", printable(key));
            return Err(Problem::new(cause, remedy).at(place));
        }
        let Some(directive) = find_by_key(key) else { return Err(unknown_key(key).at(place)) };
        let warned = RefCell::new(None);
        let scope = Context {
            expand: &|text| Ok(text.to_owned()),
            place,
            warn: &|problem| *warned.borrow_mut() = Some(problem),
        };
        let effect = self.apply(directive, value, &scope).map_err(|problem| problem.at(place))?;
        if let Some(problem) = warned.into_inner() {
            return Err(problem.at(place));
        }
        Ok(match effect {
            Effect::NotHonoured(reason) => Some(no_effect(key, reason, place)),
            Effect::Honoured | Effect::Inert(_) => None,
        })
    }

    /// Sets a directive of [Socket] for the sockets that are being read; ignores other sections.
    ///
    /// # Errors
    /// Those of [`Draft::set`].
    pub(super) fn set_socket(
        &mut self,
        key: &str,
        value: &str,
        place: &str,
    ) -> Result<Option<Warning>, Error> {
        match find_by_key(key) {
            Some(directive) if directive.section == Section::Socket => self.set(key, value, place),
            _ => Ok(None),
        }
    }

    /// Sets one directive, whatever its origin.
    ///
    /// # Errors
    /// The value cannot be read, or the directive does not take it.
    pub fn apply(
        &mut self,
        directive: &'static Directive,
        value: &str,
        scope: &Context<'_>,
    ) -> Result<Effect, Problem> {
        let setter = match directive.support {
            Support::Inert(reason) => return Ok(Effect::Inert(reason)),
            Support::NotHonoured(_) if is_off(directive.key, value) => {
                return Ok(Effect::Inert("it is switched off"));
            }
            Support::NotHonoured(reason) => return Ok(Effect::NotHonoured(reason)),
            Support::Honoured(setter) => setter,
        };
        let config = &mut self.config;
        match setter {
            Setter::Plain(set) => set(config, value)?,
            Setter::Expanded(set) => set(config, &(scope.expand)(value)?)?,
            Setter::Scoped(set) => set(config, value, scope)?,
        }
        self.written.retain(|(section, key, _)| *section != directive.section || *key != directive.key);
        self.written.push((directive.section, directive.key, scope.place.to_owned()));
        Ok(Effect::Honoured)
    }
}

/// The warning about a line that is not honoured.
pub(super) fn no_effect(key: &str, reason: &str, place: &str) -> Warning {
    Warning(Problem::new(format!("{key}= has no effect"), reason).at(place))
}

/// Whether the value of a directive that is not honoured asks for nothing (`no`). A number does ask: `MemoryMax=0`.
fn is_off(key: &str, value: &str) -> bool {
    // Any word for these asks for something, `no` and the empty value included.
    if matches!(
        key,
        "CapabilityBoundingSet" | "SetLoginEnvironment" | "MemoryZSwapWriteback" | "AcceptFileDescriptors"
    ) {
        return key == "AcceptFileDescriptors" && super::number::boolean(value) == Ok(true);
    }
    let none = value == "none" && key.ends_with("Action");
    none || matches!(
        value.to_ascii_lowercase().as_str(),
        "" | "no" | "n" | "false" | "f" | "off" | "infinity"
    )
}

fn unknown_key(key: &str) -> Problem {
    let remedy = match nearest(key, DIRECTIVES.iter().map(|directive| directive.key)) {
        Some(near) => format!("did you mean {near}?"),
        None => "`supervise --help` lists the directives".to_owned(),
    };
    Problem::new(format!("unknown directive {:?}", printable(key)), remedy)
}

#[cfg(test)]
mod tests;
