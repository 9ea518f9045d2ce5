//! Finds the lines of a unit that have no effect because a later line replaces or empties them.

use std::collections::HashMap;

use super::super::close::replacing;
use super::super::directives::find;
use super::super::directives::row::Section;
use super::{CheckedLine, LineOutcome};

/// The sections of a unit file.
const SECTIONS: [Section; 5] =
    [Section::Unit, Section::Service, Section::Socket, Section::Install, Section::XSupervise];

/// The name of the keys that an empty value empties together: an empty Listen...= of one kind empties all.
fn group(key: &str) -> &str {
    if key.starts_with("Listen") { "Listen" } else { key }
}

/// Corrects the verdicts on accepted lines of one unit without effect. `main` is the name of its file, drop-ins apart.
pub(super) fn judge(lines: &mut [CheckedLine], main: &str) {
    // The place of the line that voids those before it, by section and key.
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

/// Marks an address of a drop-in that was probably meant to replace the one of the main file but adds to it.
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
