//! Unit files from a careless editor: bytes lost, doubled, swapped and invented, a hundred thousand times. Nothing
//! panics, and no file takes long.

use std::time::{Duration, Instant};

use socket_supervise::config::unit_file::{Source, parse};

use super::{SEED_SERVICE, SEED_SOCKET};

const FILES: usize = 100_000;
/// Far beyond what the largest of these small files needs, on a machine that does something else as well.
const LONGEST: Duration = Duration::from_secs(2);

/// What a unit file may hold besides, to be mixed in.
const PIECES: [&str; 24] = [
    "[",
    "]",
    "=",
    "\\\n",
    "\\",
    "\"",
    "'",
    "%",
    "%n",
    "%i",
    "$",
    "${",
    "}",
    ";",
    " ; ",
    "\n",
    "\r",
    "\0",
    "\u{feff}",
    "\\x4",
    "\\u00e9",
    "[Socket]\n",
    "ListenStream=",
    "ExecStart=",
];

fn mutate(text: &mut Vec<u8>, random: &mut fastrand::Rng) {
    let at = random.usize(..=text.len());
    let length = random.usize(..=(text.len() - at).min(20));
    match random.u8(..6) {
        0 => drop(text.drain(at..at + length)),
        1 => {
            let again = text[at..at + length].to_vec();
            text.splice(at..at, again);
        }
        2 if at < text.len() => text[at] = random.u8(..),
        3 if at < text.len() => {
            let other = random.usize(..text.len());
            text.swap(at, other);
        }
        _ => drop(text.splice(at..at, PIECES[random.usize(..PIECES.len())].bytes())),
    }
}

#[test]
fn a_hundred_thousand_mutated_files_are_read_to_their_end() {
    let mut random = fastrand::Rng::with_seed(3);
    let originals = [("server.service", SEED_SERVICE), ("server-https.socket", SEED_SOCKET)];
    for number in 0..FILES {
        let (name, original) = originals[number % originals.len()];
        let mut text = original.as_bytes().to_vec();
        for _ in 0..random.usize(1..=8) {
            mutate(&mut text, &mut random);
        }
        let source = Source { name: name.to_owned(), text };
        let began = Instant::now();
        // Refused or read: either will do.
        let _either = parse(&source);
        assert!(began.elapsed() < LONGEST, "{}", String::from_utf8_lossy(&source.text));
    }
}
