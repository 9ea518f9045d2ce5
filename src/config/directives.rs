//! The vocabulary: every directive with its section, flag, setter and documentation, in one table, [`DIRECTIVES`].
//!
//! The command line, its help and later unit files are made from it. A new directive is a field of [`Config`] and a
//! row of the table.

mod exec;
mod service;
mod socket;
mod swap;
mod table;
mod without;

use std::cell::RefCell;
use std::collections::HashMap;

use super::unit::replacing;
use super::{
    Address, Config, Error, Exec, Input, Kind, Listener, Output, Problem, RestartDelay, Span, Warning,
    dialect, placeholder, printable,
};
pub(super) use swap::{check_steering, known_handover};
pub use table::DIRECTIVES;

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Directive {
    /// As in a unit file: `RestartSec`.
    pub key: &'static str,
    pub section: Section,
    /// The heading it stands under in the help.
    pub group: Group,
    /// What its value is, for the help.
    pub value: &'static str,
    /// The long flag, without the dashes. Without one it is set by `-p KEY=VALUE`.
    pub flag: Option<&'static str>,
    pub short: Option<char>,
    /// Of the command line, as one would write it; empty where there is none.
    pub default: &'static str,
    pub verdict: Verdict,
    pub doc: &'static str,
}

/// The section of a unit file it belongs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    Unit,
    Service,
    Socket,
    Install,
    /// `[X-Supervise]`, which systemd skips.
    XSupervise,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Sockets,
    Process,
    Readiness,
    Restarting,
    Swapping,
    Stopping,
    Limits,
}

#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    Honoured(Setter),
    /// Accepted, because it has no meaning here; why.
    Inert(&'static str),
    /// Known from systemd, without effect here, which is a loss; why, and what does it instead.
    NotHonoured(&'static str),
}

/// How a value gets into the [`Config`].
#[derive(Clone, Copy, Debug)]
pub enum Setter {
    /// The text as it stands.
    Plain(fn(&mut Config, &str) -> Result<(), Problem>),
    /// The text with its `%` specifiers replaced.
    Expanded(fn(&mut Config, &str) -> Result<(), Problem>),
    /// The text as it stands, which has words of its own whose specifiers are replaced one by one.
    Scoped(fn(&mut Config, &str, &Scope<'_>) -> Result<(), Problem>),
}

/// Where a value was written, as far as its meaning depends on it.
#[expect(missing_debug_implementations, reason = "a closure has nothing to show")]
pub struct Scope<'a> {
    /// Replaces the `%` specifiers; on the command line there are none, and the text stays as it is.
    pub expand: &'a dyn Fn(&str) -> Result<String, Problem>,
    /// `web.service:7`, or `-p ExecReload=...`.
    pub place: &'a str,
    /// Takes what systemd warns about and goes on with.
    pub warn: &'a dyn Fn(Problem),
}

impl Directive {
    /// Its flag alone means yes.
    pub fn is_switch(&self) -> bool {
        self.value == table::SWITCH
    }

    const fn flag(mut self, flag: &'static str) -> Self {
        self.flag = Some(flag);
        self
    }

    const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }

    const fn default(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }
}

impl Section {
    /// As between its brackets.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unit => "Unit",
            Self::Service => "Service",
            Self::Socket => "Socket",
            Self::Install => "Install",
            Self::XSupervise => "X-Supervise",
        }
    }
}

/// The row of a key in its section; the same key may mean another thing in another section.
pub fn find(section: Section, key: &str) -> Option<&'static Directive> {
    DIRECTIVES.iter().find(|directive| directive.section == section && directive.key == key)
}

/// The row that `-p KEY=` means.
fn find_by_key(key: &str) -> Option<&'static Directive> {
    [Section::Service, Section::Unit, Section::Socket, Section::XSupervise]
        .into_iter()
        .find_map(|section| find(section, key))
}

const DELAY_KEYS: [&str; 3] = ["RestartSec", "RestartSteps", "RestartMaxDelaySec"];

/// A [`Config`] that is being filled. Some rules ask what was written, not what holds: that is kept here.
#[derive(Clone, Debug)]
pub struct Draft {
    pub config: Config,
    /// The last place of each directive that was set.
    written: Vec<(Section, &'static str, String)>,
}

/// What became of one line.
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
    /// empties them. The warning is about a directive that has no effect here.
    ///
    /// # Errors
    /// An unknown key or a value that is refused, also where a unit file would only be warned about.
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
        let scope = Scope {
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

    /// Sets one option of the sockets that are being read; another directive is left alone.
    ///
    /// # Errors
    /// As of [`Draft::set`].
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

    /// Sets one directive of any origin.
    ///
    /// # Errors
    /// The value is refused.
    pub fn apply(
        &mut self,
        directive: &'static Directive,
        value: &str,
        scope: &Scope<'_>,
    ) -> Result<Effect, Problem> {
        let setter = match directive.verdict {
            Verdict::Inert(reason) => return Ok(Effect::Inert(reason)),
            Verdict::NotHonoured(_) if is_off(directive.key, value) => {
                return Ok(Effect::Inert("it is switched off"));
            }
            Verdict::NotHonoured(reason) => return Ok(Effect::NotHonoured(reason)),
            Verdict::Honoured(setter) => setter,
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

    /// Closes the configuration: the rules that need more than one directive.
    ///
    /// # Errors
    /// Half a growing delay, two sockets of one address, a placeholder without its socket, no COMMAND.
    pub fn finish(mut self) -> Result<(Config, Vec<Warning>), Error> {
        let mut warnings: Vec<Warning> = self.close_delay()?.into_iter().collect();
        for listener in &mut self.config.listeners {
            listener.options = self.config.socket.clone();
        }
        check_listeners(&self.config)?;
        let place = |key| self.place_of(Section::Service, key).unwrap_or("command line").to_owned();
        check_streams(&self.config, place)?;
        known_handover(&mut self);
        let place = |key| self.place_of(Section::XSupervise, key).unwrap_or("command line").to_owned();
        check_steering(&self.config, place)?;
        warnings.extend(dialect::untold(&self.config.launch.dialects, &self.config.listeners));
        let mut config = self.config;
        config.policy.commands = config.launch.commands.policy();
        let commands = &config.launch.commands.start;
        if commands.first().is_none_or(|exec| exec.path.is_empty()) {
            return Err(Problem::new("no COMMAND", "write it after --: supervise -l 8080 -- ./server")
                .at("command line"));
        }
        check_placeholders(&config)?;
        Ok((config, warnings))
    }

    /// CLI.md, Options: the delay grows by default; RestartSec= alone is fixed; growth needs steps and a maximum.
    fn close_delay(&mut self) -> Result<Option<Warning>, Error> {
        let places = DELAY_KEYS.map(|key| self.place_of(Section::Service, key).map(str::to_owned));
        let delay = &mut self.config.policy.delay;
        match &places {
            [_, Some(place), None] if delay.steps > 0 => {
                let remedy = "add --restart-max-delay-sec 30s";
                return Err(
                    Problem::new("the delay grows in steps, but to no maximum", remedy).at(place.as_str())
                );
            }
            [_, None, Some(place)] if !delay.max.is_infinite() => {
                let remedy = "add --restart-steps 8";
                return Err(Problem::new("the delay has a maximum, but no steps to grow in", remedy)
                    .at(place.as_str()));
            }
            [None, None, None] | [_, Some(_), Some(_)] => {}
            _ => *delay = RestartDelay { base: delay.base, steps: 0, max: Span::INFINITY },
        }
        Ok(self.lower_delay())
    }

    /// As systemd does it.
    pub(super) fn lower_delay(&mut self) -> Option<Warning> {
        let place = self.place_of(Section::Service, DELAY_KEYS[2]).unwrap_or(DELAY_KEYS[2]).to_owned();
        let delay = &mut self.config.policy.delay;
        if delay.max >= delay.base {
            return None;
        }
        let cause = format!("RestartSec= is lowered from {} to {}", delay.base, delay.max);
        delay.base = delay.max;
        let remedy = "RestartMaxDelaySec= is the longest wait, so it should be the larger one";
        Some(Warning(Problem::new(cause, remedy).at(place)))
    }
}

/// What a line that cannot be honoured is told.
pub(super) fn no_effect(key: &str, reason: &str, place: &str) -> Warning {
    Warning(Problem::new(format!("{key}= has no effect"), reason).at(place))
}

/// Whether a directive that is not honoured asks for nothing. A number is not: `MemoryMax=0` asks for much.
fn is_off(key: &str, value: &str) -> bool {
    // Of these, the word or its absence is a wish.
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

/// {fd:NAME} and its kin name sockets that there are.
pub(super) fn check_placeholders(config: &Config) -> Result<(), Error> {
    // A word that is not text has no placeholder either.
    let words = |exec: &Exec| {
        exec.words.iter().filter_map(|word| word.to_str()).map(str::to_owned).collect::<Vec<_>>()
    };
    for exec in &config.launch.commands.start {
        for word in words(exec) {
            let place = || format!("{} {}", exec.place, printable(&word));
            placeholder::check([word.as_str()], &config.listeners).map_err(|problem| problem.at(place()))?;
        }
    }
    for (name, value) in &config.launch.environment {
        // Without the value: it may be a secret.
        let place = || format!("-E {name}");
        placeholder::check([value.as_str()], &config.listeners).map_err(|problem| problem.at(place()))?;
    }
    Ok(())
}

/// One address held twice is a typing error; the second bind would only say that the address is in use.
pub(super) fn check_listeners(config: &Config) -> Result<(), Error> {
    // There may be thousands.
    let mut places: HashMap<(Kind, &Address), &str> = HashMap::new();
    for listener in &config.listeners {
        let picked = listener.address.port() == Some(0) || listener.options.reuse_port;
        let before = places.get(&(listener.kind, &listener.address));
        if let Some(first) = before.filter(|_| !picked) {
            let cause = format!("this address is held already by {first}");
            let is_drop_in = listener.place.contains(".socket.d/");
            let remedy =
                if is_drop_in { replacing("ListenStream") } else { "leave one of them out".to_owned() };
            return Err(Problem::new(cause, remedy).at(listener.place.as_str()));
        }
        places.entry((listener.kind, &listener.address)).or_insert(&listener.place);
    }
    check_links(&config.listeners)
}

/// Symlinks= needs one path to lead to: listeners with the same ones are those of one .socket file.
fn check_links(listeners: &[Listener]) -> Result<(), Error> {
    for listener in listeners.iter().filter(|listener| !listener.options.symlinks.is_empty()) {
        let same = listeners.iter().filter(|other| other.options.symlinks == listener.options.symlinks);
        let paths = same.filter(|other| matches!(other.address, Address::Path(_))).count();
        if paths != 1 {
            let cause = format!("Symlinks= needs exactly one unix path to lead to, and there are {paths}");
            let remedy = "leave it out, or use one .socket file for each path";
            return Err(Problem::new(cause, remedy).at(listener.place.as_str()));
        }
    }
    Ok(())
}

/// A stream that is a socket needs it: the only one there is, or one of its name. `place` is where a key was written.
pub(super) fn check_streams(config: &Config, place: impl Fn(&'static str) -> String) -> Result<(), Error> {
    let (launch, listeners) = (&config.launch, &config.listeners);
    // How many sockets an outer manager passes under a name is known when they are taken over.
    if listeners.iter().any(|listener| listener.kind == Kind::Fd) {
        return Ok(());
    }
    let stdin = match &launch.stdin {
        Input::Socket => Some(None),
        Input::Fd(name) => Some(Some(name)),
        Input::Null | Input::Inherit | Input::File(_) | Input::Data(_) => None,
    };
    let of = |output| match output {
        &Output::Socket => Some(None),
        Output::Fd(name) => Some(Some(name)),
        _ => None,
    };
    let streams = [
        ("StandardInput", stdin),
        ("StandardOutput", of(&launch.stdout)),
        ("StandardError", of(&launch.stderr)),
    ];
    for (key, wanted) in streams {
        let problem = match wanted {
            Some(None) if listeners.len() != 1 => Problem::new(
                format!("{key}=socket needs exactly one socket, and there are {}", listeners.len()),
                format!("use {key}=fd:NAME"),
            ),
            Some(Some(name)) if listeners.iter().all(|listener| listener.name != *name) => {
                let names: Vec<&str> = listeners.iter().map(|listener| listener.name.as_str()).collect();
                Problem::new(
                    format!("{key}=fd:{}: no socket has this name", printable(name)),
                    format!(
                        "there are: {}; FileDescriptorName= names those of a .socket file",
                        names.join(", ")
                    ),
                )
            }
            Some(_) | None => continue,
        };
        return Err(problem.at(place(key)));
    }
    Ok(())
}

fn unknown_key(key: &str) -> Problem {
    let remedy = match nearest(key, DIRECTIVES.iter().map(|directive| directive.key)) {
        Some(near) => format!("did you mean {near}?"),
        None => "`supervise --help` lists the directives".to_owned(),
    };
    Problem::new(format!("unknown directive {:?}", printable(key)), remedy)
}

/// The value that `text` names.
///
/// # Errors
/// None of `values` has that name.
pub fn choice<T: Copy>(text: &str, values: &[(&str, T)]) -> Result<T, Problem> {
    if let Some((_, value)) = values.iter().find(|(name, _)| *name == text) {
        return Ok(*value);
    }
    let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
    let remedy = match nearest(text, names.iter().copied()) {
        Some(near) => format!("did you mean {near}? It takes {}", names.join(", ")),
        None => format!("it takes {}", names.join(", ")),
    };
    Err(Problem::new(format!("unknown value {:?}", printable(text)), remedy))
}

/// The candidate that `text` was probably meant to be: up to two letters wrong, a third of a short word, case ignored.
pub fn nearest<'a>(text: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if text.len() > 64 {
        return None;
    }
    let length = text.chars().count();
    let allowed = (length / 3).min(2);
    let text = text.to_lowercase();
    candidates
        // Each letter too few or too many is an edit, and there are hundreds of candidates.
        .filter(|candidate| candidate.chars().count().abs_diff(length) <= allowed)
        .map(|candidate| (distance(&text, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edits between two words (Levenshtein), two letters swapped counting as one.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests;
