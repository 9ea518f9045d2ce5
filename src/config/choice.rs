//! Reads a word out of a fixed set, and finds the word that a misspelled one probably means.

use super::{Problem, printable};

/// The value that `text` names.
///
/// # Errors
/// No value has that name.
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

/// The candidate that `text` probably means: at most two edits away (short words: a third), case ignored.
pub fn nearest<'a>(text: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if text.len() > 64 {
        return None;
    }
    let length = text.chars().count();
    let allowed = (length / 3).min(2);
    let text = text.to_lowercase();
    candidates
        // A difference in length is at least as many edits; this skips most of the hundreds of candidates.
        .filter(|candidate| candidate.chars().count().abs_diff(length) <= allowed)
        .map(|candidate| (distance(&text, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edit distance (Levenshtein, a transposition of neighbours counts as one edit).
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
