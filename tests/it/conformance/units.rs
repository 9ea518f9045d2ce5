//! Commands, environments and the order of things: one unit a case, run to its end.

use std::fs;

use serde_json::Value;

use super::super::support::{Launch, example};
use super::{Desk, all_agree, cases, expect, list, text};

/// What the example `record` wrote.
fn recorded(desk: &Desk, service: &str, name: &str) -> Result<Value, String> {
    desk.0.write(name, service);
    let ended = Launch::units(&desk.0, &[name]).run();
    let record = desk.0.read("record");
    serde_json::from_str(&record).map_err(|_none| format!("nothing was recorded: {ended:?}"))
}

#[test]
fn the_words_of_commands_are_those_systemd_gives() {
    all_agree(&cases("systemd-252/command_lines.json"), |case| {
        let desk = Desk::new();
        let argv = list(&case["argv"]);
        // The unit had a number of its own, which only its specifiers show.
        let stem = argv.iter().find_map(|word| word.strip_prefix("t-argv-"));
        let number = stem.map_or("0", |word| word.trim_end_matches(".service"));
        let service = format!(
            "[Service]\nType=oneshot\n{}\nEnvironment=RECORD={}\nExecStart={} {}\n",
            text(case, "environment"),
            desk.0.path("record"),
            example("record"),
            text(case, "exec_start_tail"),
        );
        let record = recorded(&desk, &service, &format!("t-argv-{number}.service"))?;
        expect(&list(&record["argv"]), &argv)
    });
}

#[test]
fn environments_are_those_systemd_makes() {
    all_agree(&cases("systemd-252/environments.json"), |case| {
        let desk = Desk::new();
        let file = case["environment_file"].as_str().map_or_else(String::new, |content| {
            desk.0.write("variables", content);
            format!("EnvironmentFile={}\n", desk.0.path("variables"))
        });
        let service = format!(
            "[Service]\nType=oneshot\n{}\n{file}Environment=RECORD={}\nExecStart={}\n",
            text(case, "service"),
            desk.0.path("record"),
            example("record"),
        );
        let record = recorded(&desk, &service, "environment.service")?;
        expect(&record["environment"], &case["environment"])
    });
}

#[test]
fn commands_run_in_systemds_order_with_its_variables() {
    all_agree(&cases("systemd-252/command_order.json"), |case| {
        let desk = Desk::new();
        fs::create_dir(desk.0.path("home")).unwrap();
        let service: Vec<String> = list(&case["service"]).iter().map(|line| desk.fill(line)).collect();
        desk.0.write("order.service", &format!("[Service]\n{}\n", service.join("\n")));
        let launch = Launch::units(&desk.0, &["order.service"]).env("HOME", &desk.0.path("home"));
        let ended = launch.run();
        let wanted: Vec<String> = list(&case["log"]).iter().map(|line| desk.fill(line)).collect();
        expect(&sorted_beginning(desk.lines("LOG")), &sorted_beginning(wanted))
            .map_err(|fault| format!("{fault}; {ended:?}"))
    });
}

/// ExecStartPost= of Type=simple begins when the main process does: either may write first.
fn sorted_beginning(mut log: Vec<String>) -> Vec<String> {
    if let Some(at) = log.windows(2).position(|two| two == ["post", "main"]) {
        log.swap(at, at + 1);
    }
    log
}

#[test]
fn the_desk_fills_in_its_places() {
    let desk = Desk::new();
    let line = desk.fill("ExecStart=/bin/sh -c 'echo x >>LOG; echo DIR/home'");
    assert_eq!(
        line,
        format!("ExecStart=/bin/sh -c 'echo x >>{}; echo {}home'", desk.0.path("LOG"), desk.0.path(""))
    );
}
