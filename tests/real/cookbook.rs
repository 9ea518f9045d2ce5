//! Each server of examples/cookbook, started as its recipe says and swapped five times under load: no request fails, the
//! old processes go, and nobody had to say how to see that the new ones are ready.

mod ask;
mod outage;
mod recipe;

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use super::load::{Load, Samples};
use super::support::{descendants, wait_for};
use ask::Protocol;
use recipe::Recipe;

const CONNECTIONS_PER_SECOND: u32 = 300;

/// A test for each directory of the cookbook.
macro_rules! matrix {
    ($($test:ident, $name:literal, $protocol:expr;)*) => {
        const MATRIX: &[&str] = &[$($name),*];
        $(#[test]
        fn $test() {
            five_swaps($name, &Recipe::copy($name), $protocol);
        })*
    };
}

matrix! {
    nginx, "nginx", Protocol::Http;
    haproxy, "haproxy", Protocol::Http;
    lighttpd, "lighttpd", Protocol::Http;
    gunicorn, "gunicorn", Protocol::Http;
    uvicorn, "uvicorn", Protocol::Http;
    hypercorn, "hypercorn", Protocol::Http;
    php_fpm, "php-fpm", Protocol::FastCgi;
    caddy, "caddy", Protocol::Http;
    node, "node", Protocol::Http;
    go, "go", Protocol::Http;
    jvm, "jvm", Protocol::Http;
    php, "php", Protocol::Http;
    redis, "redis", Protocol::Redis;
}

#[test]
fn the_matrix_has_each_recipe() {
    let entries = fs::read_dir(recipe::COOKBOOK).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(names.collect::<BTreeSet<_>>(), MATRIX.iter().map(|name| (*name).to_owned()).collect());
}

#[test]
fn npm_start() {
    five_swaps("node", &Recipe::copy("node").through_npm(), Protocol::Http);
}

fn five_swaps(name: &str, recipe: &Recipe, protocol: Protocol) {
    let mut daemon = recipe.start();
    let first = daemon.wait_generation(1);
    let mut ready = vec![first["generations"][0]["ready_ms"].clone()];
    let load = Load::asking(&recipe.address(), CONNECTIONS_PER_SECOND, protocol.ask(name));
    load.let_pass(100);
    for generation in 2..=6 {
        let old = descendants(daemon.pid());
        assert!(!old.is_empty(), "{name} runs");
        let swap = daemon.verb("swap --json").expect(0).json();
        assert_eq!((&swap["to"], &swap["outcome"]), (&generation.into(), &"swapped".into()), "{swap}");
        ready.push(swap["ready_ms"].clone());
        daemon.wait_generation(generation);
        wait_for("the end of the old processes", || {
            let all = descendants(daemon.pid());
            old.iter().all(|process| !all.contains(process)).then_some(())
        });
        load.let_pass(100);
    }
    let samples = load.samples();
    let times = [0.5, 0.99, 1.0].map(|share| samples.quantile(share).as_millis());
    println!("{name}: ready after {ready:?} ms; {}; 50 %, 99 %, all within {times:?} ms", samples.counts());
    assert_eq!(samples.counts().failed(), 0, "{}\n{}", failures(&samples), daemon.stderr());
    protocol.assert_whole(&samples);
    daemon.verb("stop").expect(0);
    assert_eq!(daemon.end().status, 0);
}

/// The failed requests, with the times at which they failed, and how.
fn failures(samples: &Samples) -> String {
    let begin = samples.all.iter().map(|sample| sample.begun).min();
    let since = |sample: &super::load::Sample| begin.map_or(Duration::ZERO, |begin| sample.begun - begin);
    let failed = samples.all.iter().filter(|sample| sample.result.is_err());
    failed.map(|sample| format!("{:?} {:?} {:?}\n", since(sample), sample.took, sample.result)).collect()
}
