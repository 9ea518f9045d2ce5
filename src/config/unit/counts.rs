//! Which lines of a unit count: a later one may replace an earlier one, or take it back.

use std::collections::HashMap;

use super::super::close::replacing;
use super::super::directives::find;
use super::super::directives::row::Section;
use super::{CheckedLine, LineOutcome};

/// The sections that a unit file may have lines in.
const SECTIONS: [Section; 5] =
    [Section::Unit, Section::Service, Section::Socket, Section::Install, Section::XSupervise];

/// What is emptied together: an empty line of one kind of `Listen` takes back all of them.
fn group(key: &str) -> &str {
    if key.starts_with("Listen") { "Listen" } else { key }
}

/// Changes the verdict about lines of one unit that were accepted and have no effect. `main` is the name of its file, as
/// opposed to its drop-ins.
pub(super) fn judge(lines: &mut [CheckedLine], main: &str) {
    // The place of the line that makes those before it void, by section and key.
    let mut last: HashMap<(String, String), String> = HashMap::new();
    for line in lines.iter_mut().rev() {
        let section = SECTIONS.into_iter().find(|section| section.name() == line.section);
        let Some(row) = section.and_then(|section| find(section, &line.key)) else { continue };
        if line.outcome != LineOutcome::Honoured {
            continue;
        }
        let of = (line.section.clone(), group(&line.key).to_owned());
        if let Some(place) = last.get(&of) {
            let how = if row.is_list() { "takes it back" } else { "replaces it" };
            line.outcome = LineOutcome::Inert(format!("{place} {how}"));
        } else if !row.is_list() || line.value.is_empty() {
            last.insert(of, line.place.clone());
        }
    }
    beside(lines, main);
}

/// A drop-in that is to replace an address, and only adds one, holds both.
fn beside(lines: &mut [CheckedLine], main: &str) {
    let is_main = |line: &CheckedLine| line.place.rsplit_once(':').is_some_and(|(file, _)| file == main);
    let listens = |line: &CheckedLine| {
        line.key.starts_with("Listen") && !line.value.is_empty() && line.outcome == LineOutcome::Honoured
    };
    let Some(first) = lines.iter().find(|line| listens(line) && is_main(line)) else { return };
    let first = first.place.clone();
    for line in lines.iter_mut().filter(|line| listens(line) && !is_main(line)) {
        line.outcome = LineOutcome::Beside(format!("{first} is held as well; {}", replacing(&line.key)));
    }
}
