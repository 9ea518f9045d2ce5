//! The vocabulary: every directive with its section, flag, setter and documentation, in one table, [`DIRECTIVES`].
//!
//! The command line, its help and later unit files are made from it. A new directive is a field of [`Config`] and a
//! row of the table.

mod table;

use super::{Config, Error, Problem, RestartDelay, Span, Warning, placeholder, printable};
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

impl Scope<'_> {
    /// A value of the command line.
    pub fn of_command_line(place: &str) -> Scope<'_> {
        Scope { expand: &|text| Ok(text.to_owned()), place, warn: &|_| {} }
    }
}

impl Directive {
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

/// A [`Config`] that is being filled. Some rules ask what was written, not what holds: that is kept here.
#[derive(Clone, Debug)]
pub struct Draft {
    pub config: Config,
    /// Where each of [`DELAY_KEYS`] was last given.
    delay_places: [Option<String>; 3],
}

const DELAY_KEYS: [&str; 3] = ["RestartSec", "RestartSteps", "RestartMaxDelaySec"];

impl Draft {
    pub const fn new(config: Config) -> Self {
        Self { config, delay_places: [const { None }; 3] }
    }

    /// Sets one directive. A later value replaces an earlier one; lists grow, and an empty value empties them. The
    /// warning is about a directive that has no effect here.
    ///
    /// # Errors
    /// An unknown key or a value that is refused.
    pub fn set(&mut self, key: &str, value: &str, place: &str) -> Result<Option<Warning>, Error> {
        let Some(directive) = DIRECTIVES.iter().find(|directive| directive.key == key) else {
            return Err(unknown_key(key).at(place));
        };
        match directive.verdict {
            Verdict::NotHonoured(reason) => {
                Ok(Some(Warning(Problem::new(format!("{key}= has no effect"), reason).at(place))))
            }
            Verdict::Inert(_) => Ok(None),
            Verdict::Honoured(setter) => {
                let config = &mut self.config;
                let result = match setter {
                    Setter::Plain(set) | Setter::Expanded(set) => set(config, value),
                    Setter::Scoped(set) => set(config, value, &Scope::of_command_line(place)),
                };
                result.map_err(|problem| problem.at(place))?;
                if let Some(index) = DELAY_KEYS.iter().position(|known| *known == key) {
                    self.delay_places[index] = Some(place.to_owned());
                }
                Ok(None)
            }
        }
    }

    /// Closes the configuration: the rules that need more than one directive.
    ///
    /// # Errors
    /// Half a growing delay, two sockets of one address, a placeholder without its socket, no COMMAND.
    pub fn finish(mut self) -> Result<(Config, Vec<Warning>), Error> {
        let warnings = self.close_delay()?.into_iter().collect();
        let mut config = self.config;
        check_listeners(&config)?;
        for listener in &mut config.listeners {
            listener.options = config.socket.clone();
        }
        config.policy.commands = config.launch.commands.policy();
        let commands = &config.launch.commands.start;
        if commands.first().is_none_or(|exec| exec.path.is_empty()) {
            return Err(Problem::new("no COMMAND", "write it after --: supervise -l 8080 -- ./server")
                .at("command line"));
        }
        // A word that is not text has no placeholder either.
        for word in commands.iter().flat_map(|exec| &exec.words).filter_map(|word| word.to_str()) {
            let place = || format!("COMMAND {}", printable(word));
            placeholder::check([word], &config.listeners).map_err(|problem| problem.at(place()))?;
        }
        for (name, value) in &config.launch.environment {
            // Without the value: it may be a secret.
            let place = || format!("-E {name}");
            placeholder::check([value.as_str()], &config.listeners).map_err(|problem| problem.at(place()))?;
        }
        Ok((config, warnings))
    }

    /// CLI.md, Options: the delay grows by default; RestartSec= alone is fixed; growth needs steps and a maximum.
    fn close_delay(&mut self) -> Result<Option<Warning>, Error> {
        let delay = &mut self.config.policy.delay;
        match &self.delay_places {
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
        if delay.max >= delay.base {
            return Ok(None);
        }
        // As systemd does it.
        let cause = format!("RestartSec= is lowered from {} to {}", delay.base, delay.max);
        delay.base = delay.max;
        let place = self.delay_places[2].as_deref().unwrap_or(DELAY_KEYS[2]);
        let remedy = "RestartMaxDelaySec= is the longest wait, so it should be the larger one";
        Ok(Some(Warning(Problem::new(cause, remedy).at(place))))
    }
}

/// One address held twice is a typing error; the second bind would only say that the address is in use.
fn check_listeners(config: &Config) -> Result<(), Error> {
    for (index, listener) in config.listeners.iter().enumerate() {
        let picked = listener.address.port() == Some(0);
        let same =
            |other: &&super::Listener| other.kind == listener.kind && other.address == listener.address;
        if let Some(first) = config.listeners[..index].iter().find(same).filter(|_| !picked) {
            let cause = format!("this address is held already by {}", first.place);
            return Err(Problem::new(cause, "leave one of them out").at(listener.place.as_str()));
        }
    }
    Ok(())
}

fn unknown_key(key: &str) -> Problem {
    let remedy = match key {
        "ExecStart" => "COMMAND comes after --: supervise -l 8080 -- ./server".to_owned(),
        "Type" => "use --ready notify or --ready exec".to_owned(),
        _ if key.starts_with("Listen") => "use --listen [KIND:]ADDRESS".to_owned(),
        _ => match nearest(key, DIRECTIVES.iter().map(|directive| directive.key)) {
            Some(near) => format!("did you mean {near}?"),
            None => "`supervise --help` lists the directives".to_owned(),
        },
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
    let allowed = (text.chars().count() / 3).min(2);
    candidates
        .map(|candidate| (distance(&text.to_lowercase(), &candidate.to_lowercase()), candidate))
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
