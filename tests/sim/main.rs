//! The core under a fake kernel: seeded histories with faults, every short history, and the known races one by one.
//!
//! `SEED=12345 cargo test --test sim` replays one history with its trace; `SEEDS=1000000` lives through more of them,
//! and `DEPTH=8` makes the short histories longer.

mod all;
mod check;
mod history;
mod kernel;
mod races;
mod trace;
mod units;
mod waiting;
mod world;

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use fastrand::Rng;

/// Histories that `cargo test` lives through.
const SEEDS: u64 = 10_000;

/// What the histories are for; a change of theirs that no longer gets there shall be seen.
const SITUATIONS: [&str; 43] = [
    "a draining one died",
    "accepted ours",
    "arrived where nobody serves",
    "baking",
    "blind",
    "has accepted",
    "taken over unseen",
    "canary",
    "childless",
    "connection held back",
    "died in its bake",
    "drain cut short",
    "drained",
    "eight generations",
    "failed",
    "finishes first",
    "hint",
    "hint at the end",
    "killed",
    "killed itself",
    "left behind",
    "listening",
    "old died in a swap",
    "paused",
    "rescue failed",
    "rescued",
    "restored",
    "rolled back",
    "second stop",
    "socket lost",
    "socket lost in a bake",
    "started by a connection",
    "steering failed",
    "steering failed in a swap",
    "stopped in a swap",
    "stuck queue",
    "suspended",
    "swapped",
    "the kernel does not count",
    "third slot",
    "thrown out",
    "waiting",
    "watchdog",
];

type Marks = BTreeMap<&'static str, u32>;

#[test]
fn seeded_histories() {
    histories("seeded_histories", live, &SITUATIONS, SEEDS);
}

/// One history, with its trace if that was asked for; Err is the rule that was broken.
type Lived = (Result<Marks, String>, String);

fn live(seed: u64, traced: bool) -> Lived {
    let mut world = history::world(seed);
    world.trace.on = traced;
    let result = caught(&mut world, history::live);
    (result.map(|()| std::mem::take(&mut world.rules.marks)), world.text())
}

/// One history for each seed. Where there are `enough` of them, they have to come to all situations.
fn histories(test: &str, live: fn(u64, bool) -> Lived, situations: &[&str], enough: u64) {
    if let Some(seed) = number("SEED") {
        let (result, trace) = live(seed, true);
        println!("{trace}");
        return result.map(drop).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    }
    let seeds = number("SEEDS").unwrap_or(SEEDS);
    let add_seed = |mut marks: Marks, seed: u64| {
        let Ok(of_seed) = live(seed, false).0 else {
            let (again, trace) = live(seed, true);
            let broken = again.expect_err("the same seed is the same history");
            panic!("{trace}\nseed {seed}: {broken}\nreplay: SEED={seed} cargo test --test sim {test}");
        };
        add(&mut marks, of_seed);
        marks
    };
    let half = |odd: u64| (0..seeds).filter(|seed| seed % 2 == odd).fold(Marks::new(), add_seed);
    // The message of a broken rule is printed with its trace, once.
    let (mut marks, odd) = std::thread::scope(|scope| {
        let other = scope.spawn(|| half(1));
        (half(0), other.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    add(&mut marks, odd);
    println!("{marks:#?}");
    if seeds >= enough {
        for situation in situations {
            assert!(marks.contains_key(situation), "no history came to: {situation}");
        }
    }
}

fn add(marks: &mut Marks, more: Marks) {
    for (mark, times) in more {
        *marks.entry(mark).or_default() += times;
    }
}

/// Runs a history up to its end or its first broken rule.
fn caught<K>(kernel: &mut K, history: impl FnOnce(&mut K)) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(|| history(kernel))).map_err(|panic| message(panic.as_ref()))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

fn pick<T: Clone>(rng: &mut Rng, choices: &[T]) -> T {
    choices[rng.usize(..choices.len())].clone()
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}
