//! A recipe of examples/cookbook, copied into a directory of its own, with a free port in place of the customary one.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use crate::support::{Daemon, Launch, Place};

pub(super) const COOKBOOK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/cookbook");

/// How a recipe begins: a comment in the language of the file.
const COMMENTS: [&str; 4] = ["# ", "// ", "; ", "<?php // "];

pub(super) struct Recipe {
    place: Place,
    /// What its first line says to run, as a shell takes it.
    line: String,
    address: String,
}

impl Recipe {
    pub(super) fn copy(name: &str) -> Self {
        let files: Vec<(String, String)> = fs::read_dir(Path::new(COOKBOOK).join(name))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap();
                (name.to_owned(), fs::read_to_string(&path).unwrap())
            })
            .collect();
        let lines: Vec<&str> = files.iter().filter_map(|(_, text)| command(text)).collect();
        let [line] = lines[..] else { panic!("{name}: one file begins with the command: {lines:?}") };
        let socket = line.split_once("-l 127.0.0.1:").map(|(_, rest)| rest.split([' ', '=']).next().unwrap());
        let customary = socket.unwrap_or_else(|| panic!("{name} listens on loopback: {line}"));
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let replaced = |text: &str| text.replace(customary, &address.port().to_string());
        let place = Place::new();
        files.iter().for_each(|(name, text)| place.write(name, &replaced(text)));
        Self { line: replaced(line), address: address.to_string(), place }
    }

    /// The recipe, started by `npm start`.
    pub(super) fn through_npm(mut self) -> Self {
        let (before, command) = self.line.split_once(" -- ").unwrap();
        self.place.write("package.json", &format!(r#"{{"scripts": {{"start": "{command}"}}}}"#));
        self.line = format!("{before} -- npm start");
        self
    }

    pub(super) fn address(&self) -> String {
        self.address.clone()
    }

    /// Starts it: first what comes before `supervise`, then `supervise` with a control socket in the place.
    pub(super) fn start(&self) -> Daemon {
        self.start_with("")
    }

    /// Starts the recipe with further options of supervise.
    pub(super) fn start_with(&self, options: &str) -> Daemon {
        let (build, arguments) = self.line.split_once("supervise ").unwrap();
        let directory = self.place.path("");
        if let Some(build) = build.strip_suffix("&& ") {
            let status = Command::new("sh").args(["-ec", build]).current_dir(&directory).status().unwrap();
            assert!(status.success(), "{build}");
        }
        let arguments = arguments.replacen(" -- ", &format!(" {options} -- "), 1);
        let rest = format!("exec \"$0\" \"$@\" {arguments}");
        let installed = |name: &str| {
            let place = std::env::var(name).unwrap_or_else(|_| panic!("{name}, as tests/real/run sets it"));
            format!("{place}/bin")
        };
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{path}:/usr/sbin:{}", installed("VENV"), installed("NPM"));
        let launch = Launch::new(&self.place).wrapper(&["sh", "-ec", &rest]).directory(&directory);
        launch.env("PATH", &path).start()
    }
}

/// The first line of a file that is a recipe, without the signs of a comment.
fn command(text: &str) -> Option<&str> {
    let line = text.lines().next()?;
    let line = COMMENTS.iter().find_map(|comment| line.strip_prefix(comment))?;
    line.contains("supervise -l ").then_some(line)
}
