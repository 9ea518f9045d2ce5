//! What the documents tell a newcomer to type works: the first line of each example, and the commands of README.md.

use std::fs;
use std::path::Path;

use super::load::get;
use super::support::{Daemon, Launch, Place, example};

/// The examples by name, each with the command of its first line.
fn examples() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut all: Vec<(String, String)> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let first = text.lines().next().unwrap();
            let command = first.strip_prefix("//! ").unwrap_or_else(|| panic!("{name} begins with {first}"));
            (name, command.to_owned())
        })
        .collect();
    all.sort();
    all
}

/// The words of a command as they are run here: with what is built already, and ports of the kernel's choice.
fn words(name: &str, command: &str) -> (Vec<String>, Vec<String>) {
    let rest = command.strip_prefix("cargo run -- ").unwrap_or_else(|| panic!("{name}: {command}"));
    let (options, program) = rest.split_once("-- ").unwrap_or_else(|| panic!("{name}: {command}"));
    let with_cargo = format!("cargo run -q --example {name}");
    let arguments = program.strip_prefix(&with_cargo).unwrap_or_else(|| panic!("{name}: {program}"));
    let options = options.split_whitespace().map(|word| word.replace(":8080", ":0").replace(":9090", ":0"));
    let mut command = vec![example(name)];
    command.extend(arguments.split_whitespace().filter(|word| *word != "--").map(String::from));
    (options.collect(), command)
}

#[test]
fn each_example_runs_as_its_first_line_says() {
    for (name, command) in examples() {
        let place = Place::new();
        let (options, command) = words(&name, &command);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        let launch = Launch::new(&place).args(&options.join(" ")).command(&command);
        if options.is_empty() {
            let ended = launch.run().expect(0);
            let stamped = ended.stdout.trim().parse::<u64>().is_ok();
            assert!(stamped || name != "stamp", "{name}: {ended:?}");
            continue;
        }
        let mut daemon = launch.start();
        daemon.wait_generation(1);
        let body = get(&daemon.address("http"), "/").unwrap();
        assert!(body.contains("generation 1") || body.contains("site"), "{name}: {body}");
    }
}

/// With a drop-in for what differs here: the port is the kernel's choice, and the server is built already.
#[test]
fn the_example_units_run_as_their_first_line_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = ["hello.socket", "hello.service"];
    let place = Place::new();
    for name in names {
        let text = fs::read_to_string(root.join("examples/units").join(name)).unwrap();
        let first = text.lines().next().unwrap();
        assert_eq!(first, "# cargo run -- run examples/units/hello.socket examples/units/hello.service");
        assert!(document("docs/guide.md").contains(&first[2..]), "docs/guide.md has the same");
        place.write(name, &text);
        fs::create_dir(place.path(&format!("{name}.d"))).unwrap();
    }
    place.write("hello.socket.d/port.conf", "[Socket]\nListenStream=\nListenStream=127.0.0.1:0\n");
    let server = format!("[Service]\nExecStart=\nExecStart={}\n", example("hello"));
    place.write("hello.service.d/server.conf", &server);
    let mut daemon = Launch::units(&place, &names).start();
    daemon.wait_generation(1);
    assert_eq!(get(&daemon.address("http"), "/").unwrap(), "hello from generation 1\n");
}

fn document(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect(name)
}

fn readme() -> String {
    document("README.md")
}

#[test]
fn the_readme_begins_with_the_command_of_the_first_example() {
    let hello = examples().into_iter().find(|(name, _)| name == "hello").expect("the example hello").1;
    let text = readme();
    let commands: Vec<&str> = text
        .lines()
        .map(|line| line.trim().trim_start_matches("$ "))
        .filter(|line| line.starts_with("cargo "))
        .collect();
    let first = commands.iter().position(|command| *command == hello);
    let second = commands.iter().position(|command| *command == "cargo test");
    assert!(first == Some(0) && second.is_some(), "{commands:?}");
}

/// What else it tells to do with cargo, in code or in a sentence, is done by every run of the tests.
#[test]
fn the_commands_for_cargo_are_run_by_ci() {
    let ci = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/run")).expect(".ci/run");
    let is_run = |command: &&str| {
        let rest = |line: &str| {
            line.strip_prefix(*command).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        ci.lines().any(rest)
    };
    let text = readme();
    let in_code = text.lines().map(str::trim);
    let commands =
        text.split('`').chain(in_code).filter(|span| span.starts_with("cargo ") && !span.contains('\n'));
    // `cargo run` starts the examples, which have tests of their own.
    let commands: Vec<&str> = commands.filter(|command| !command.starts_with("cargo run")).collect();
    assert!(commands.contains(&"cargo install-static") && commands.contains(&"cargo static"));
    assert!(commands.iter().all(is_run), "{commands:?}");
}

/// The commands of the README's transcript, each with what it says it prints.
fn transcript(text: &str) -> Vec<(String, Vec<&str>)> {
    let block =
        text.split_once("```console\n").expect("a transcript").1.split_once("```").expect("its end").0;
    let mut steps: Vec<(String, Vec<&str>)> = Vec::new();
    for line in block.lines() {
        match line.strip_prefix("$ ") {
            Some(command) => {
                let command = command.split("  #").next().unwrap_or_default().trim();
                steps.push((command.to_owned(), Vec::new()));
            }
            None => steps.last_mut().expect("a command comes first").1.push(line),
        }
    }
    steps
}

/// Its files are made here, its port is one of the kernel's choice, and all else is done and printed as it shows.
#[test]
fn the_transcript_is_true() {
    let place = Place::new();
    for name in ["server", "server-2.0"] {
        fs::copy(example("hello"), place.path(name)).unwrap();
    }
    let text = readme();
    let mut running: Option<Daemon> = None;
    let mut swaps = 0;
    for (command, expected) in transcript(&text) {
        let mut printed = String::new();
        for part in command.split(" && ") {
            match part.split_whitespace().collect::<Vec<_>>()[..] {
                ["supervise", ref options @ .., "--", "./server", "&"] => {
                    let options = options.join(" ").replace(":8080=", ":0=");
                    let server = place.path("server");
                    let mut daemon = Launch::new(&place).args(&options).command(&[&server]).start();
                    daemon.wait_generation(1);
                    running = Some(daemon);
                }
                ["curl", "127.0.0.1:8080"] => {
                    let daemon = running.as_ref().expect("it is started first");
                    printed.push_str(&get(&daemon.address("http"), "/").unwrap());
                }
                ["cp", from, to] => drop(fs::copy(place.path(from), place.path(to)).unwrap()),
                ["mv", from, to] => fs::rename(place.path(from), place.path(to)).unwrap(),
                ["supervise", "swap", "|", "tail", "-n", "1"] => {
                    let ended = running.as_ref().expect("it is started first").verb("swap").expect(0);
                    printed.push_str(ended.stdout.lines().last().expect("a swap says what came of it"));
                    swaps += 1;
                }
                ref other => panic!("this test does not know how to do {other:?}"),
            }
        }
        assert_eq!(printed.lines().collect::<Vec<_>>(), expected, "{command}");
    }
    assert_eq!(swaps, 1, "the transcript shows a swap");
}
