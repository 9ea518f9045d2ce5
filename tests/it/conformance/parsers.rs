//! The tables of texts against the parsers themselves.

use socket_supervise::config::Span;
use socket_supervise::config::environment;

use super::{all_agree, cases, expect, text};

#[test]
fn time_spans_are_those_of_systemd_analyze() {
    all_agree(&cases("time_spans.json"), |case| {
        let got = Span::parse(text(case, "text")).ok();
        if case["microseconds"] == "infinity" {
            return expect(&got, &Some(Span::INFINITY));
        }
        expect(&got.map(|span| span.as_nanos() / 1_000), &case["microseconds"].as_u64())
    });
}

#[test]
fn environment_files_are_read_as_systemd_reads_them() {
    all_agree(&cases("environment_files.json"), |case| {
        let pairs = environment::parse_file(text(case, "file"), "test").map_err(|error| error.to_string())?;
        let got: serde_json::Map<_, _> =
            pairs.into_iter().map(|(name, value)| (name, value.into())).collect();
        expect(&got, case["environment"].as_object().unwrap())
    });
}
