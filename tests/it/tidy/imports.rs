//! Who imports whom, read off the `use` lines and paths of src: no circle among files, and no import against the order
//! of layers that src/lib.rs states.

use std::collections::{BTreeMap, BTreeSet};

use super::{assert_none, code, files, is_test};

/// The path of a module from the root of the crate: `os`, `socket`, `inet`. It is empty for src/lib.rs.
type Module = Vec<String>;

/// The imports of one file.
struct File {
    name: String,
    /// The path of each `use`, and its name in this file.
    imports: Vec<(Vec<String>, String)>,
    /// Paths in the code that begin with `crate` or `super`.
    paths: Vec<Vec<String>>,
}

struct Tree(BTreeMap<Module, File>);

fn segments(path: &str) -> Vec<String> {
    path.split("::").map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// `a::{b, c::{self, d as e}}` as three paths, each with its name.
fn expand(tree: &str) -> Vec<(Vec<String>, String)> {
    let Some((before, rest)) = tree.split_once('{') else {
        let (path, alias) = tree.split_once(" as ").unwrap_or((tree, ""));
        let mut path = segments(path);
        path.pop_if(|last| last == "self");
        let last = path.last().cloned().unwrap_or_default();
        return vec![(path, if alias.is_empty() { last } else { alias.trim().to_owned() })];
    };
    let inner = rest.rsplit_once('}').expect("rustfmt has seen it").0;
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in inner.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if c == ',' && depth == 0 {
            parts.push(String::new());
        } else {
            parts.last_mut().expect("never empty").push(c);
        }
    }
    let whole = |part: &String| format!("{before}{}", part.trim());
    parts.iter().filter(|part| !part.trim().is_empty()).flat_map(|part| expand(&whole(part))).collect()
}

impl File {
    fn new(name: &str, text: &str) -> Self {
        let (mut imports, mut paths, mut statement) = (Vec::new(), Vec::new(), String::new());
        for line in code(text).lines().map(str::trim) {
            let bare =
                line.split_once(") ").filter(|_| line.starts_with("pub(")).map_or(line, |(_, rest)| rest);
            let is_use = bare.trim_start_matches("pub ").starts_with("use ");
            if !statement.is_empty() || is_use {
                statement.push_str(bare);
                statement.push(' ');
                if let Some((whole, _)) = statement.split_once(';') {
                    imports.extend(expand(whole.trim_start_matches("pub ").trim_start_matches("use ")));
                    statement.clear();
                }
                continue;
            }
            let is_path = |word: &&str| word.starts_with("crate::") || word.starts_with("super::");
            let ends = |c: char| !(c.is_alphanumeric() || c == '_' || c == ':');
            paths.extend(line.split(ends).filter(is_path).map(segments));
        }
        Self { name: name.to_owned(), imports, paths }
    }
}

impl Tree {
    fn new(files: &[(String, String)]) -> Self {
        let module = |name: &str| {
            let path = name.trim_start_matches("src/").trim_end_matches(".rs");
            let path = path.trim_end_matches("/mod");
            if path == "lib" { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
        };
        let sources = files.iter().filter(|(name, _)| !is_test(name));
        Self(sources.map(|(name, text)| (module(name), File::new(name, text))).collect())
    }

    /// The module whose file defines what a path in `from` leads to, through whatever hands it on. `None` for
    /// another crate.
    fn resolve(&self, from: &[String], path: &[String], depth: u32) -> Option<Module> {
        let mut at = from.to_vec();
        let mut rest = path;
        while let Some((first, after)) = rest.split_first() {
            match first.as_str() {
                "crate" | "socket_supervise" => at.clear(),
                "super" => drop(at.pop()),
                "self" => {}
                _ => break,
            }
            rest = after;
        }
        let is_ours = rest.len() < path.len();
        let mut steps = 0;
        while let Some((first, after)) = rest.split_first() {
            let child = [at.as_slice(), std::slice::from_ref(first)].concat();
            if self.0.contains_key(&child) {
                (at, rest, steps) = (child, after, steps + 1);
                continue;
            }
            let imports = &self.0.get(&at)?.imports;
            let handed_on = imports.iter().find(|(path, name)| name == first && path.first() != Some(first));
            if let Some((path, _)) = handed_on.filter(|_| depth > 0)
                && let Some(found) = self.resolve(&at, &[path.as_slice(), after].concat(), depth - 1)
            {
                return Some(found);
            }
            break;
        }
        (is_ours || steps > 0).then_some(at)
    }

    /// What each file takes from which others. A file uses those of the folder that is named after it; what these take
    /// from it and the files above it does not count, for they are its parts.
    fn arrows(&self) -> BTreeMap<&Module, BTreeSet<&Module>> {
        let mut all: BTreeMap<&Module, BTreeSet<&Module>> = BTreeMap::new();
        for (module, file) in &self.0 {
            let paths = file.imports.iter().map(|(path, _)| path).chain(&file.paths);
            let used = paths.filter_map(|path| self.resolve(module, path, 8));
            let used: BTreeSet<Module> = used.filter(|other| !module.starts_with(other)).collect();
            let children = |other: &&Module| other.len() == module.len() + 1 && other.starts_with(module);
            let found = self.0.keys().filter(|other| used.contains(*other) || children(other));
            all.insert(module, found.collect());
        }
        // The crate and its program are no module that another could use.
        all.remove(&Vec::new());
        all
    }

    fn reach<'a>(arrows: &BTreeMap<&Module, BTreeSet<&'a Module>>, from: &Module) -> BTreeSet<&'a Module> {
        let mut found = BTreeSet::new();
        let mut left: Vec<&Module> = arrows[from].iter().copied().collect();
        while let Some(module) = left.pop() {
            if found.insert(module) {
                left.extend(&arrows[module]);
            }
        }
        found
    }

    /// The files of each circle, with its arrows.
    fn circles(&self) -> Vec<(Vec<&str>, String)> {
        let arrows = self.arrows();
        let reach: BTreeMap<&Module, _> =
            arrows.keys().map(|module| (*module, Self::reach(&arrows, module))).collect();
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        for module in arrows.keys().filter(|module| reach[**module].contains(**module)) {
            if !seen.insert(*module) {
                continue;
            }
            let round: Vec<&Module> =
                reach[*module].iter().copied().filter(|other| reach[*other].contains(*module)).collect();
            seen.extend(&round);
            let mut text = String::from("a circle:");
            for one in &round {
                let to: Vec<String> =
                    arrows[*one].iter().filter(|to| round.contains(to)).map(|to| to.join("::")).collect();
                text.push_str(&format!("\n  {} uses {}", one.join("::"), to.join(", ")));
            }
            found.push((round.iter().map(|one| self.0[*one].name.as_str()).collect(), text));
        }
        found
    }
}

#[test]
fn no_circle_of_files() {
    let tree = Tree::new(&files("src"));
    assert_none(tree.circles().into_iter().map(|(_, text)| text).collect());
}

/// `os -> core, config` of the sentence in src/lib.rs, by layer.
fn allowed(map: &str) -> BTreeMap<String, Vec<Vec<String>>> {
    let sentence = map.split_once("Imports go one way: ").expect("src/lib.rs says who may import whom").1;
    let sentence = sentence.split_once('.').expect("a whole sentence").0.replace("//!", "");
    let rules = sentence.split(';').map(|rule| rule.trim().trim_matches('`'));
    let rules = rules.map(|rule| rule.split_once(" -> ").unwrap_or_else(|| panic!("no rule: {rule}")));
    rules.map(|(layer, to)| (layer.to_owned(), to.split(',').map(segments).collect())).collect()
}

/// Imports that the sentence does not allow.
fn breaches(map: &str, tree: &Tree) -> Vec<String> {
    let allowed = allowed(map);
    let mut faults = Vec::new();
    for (module, file) in tree.0.iter().filter(|(module, _)| !module.is_empty()) {
        let rules =
            allowed.get(&module[0]).unwrap_or_else(|| panic!("{} is no layer of src/lib.rs", module[0]));
        for path in file.imports.iter().map(|(path, _)| path).chain(&file.paths) {
            let from_root = match path.first().map(String::as_str) {
                Some("crate" | "socket_supervise") => path[1..].to_vec(),
                Some("super") => {
                    let ups = path.iter().take_while(|part| *part == "super").count();
                    [&module[..module.len() - ups.min(module.len())], &path[ups..]].concat()
                }
                _ => continue,
            };
            let is_own = from_root.first() == Some(&module[0]);
            if !is_own && !rules.iter().any(|rule| from_root.starts_with(rule)) {
                faults.push(format!("{} uses {}, against src/lib.rs", file.name, from_root.join("::")));
            }
        }
    }
    faults
}

#[test]
fn imports_go_as_the_map_says() {
    let all = files("src");
    let map = &all.iter().find(|(name, _)| name == "src/lib.rs").expect("the map").1;
    assert_none(breaches(map, &Tree::new(&all)));
}

#[test]
fn circles_and_breaches_are_found() {
    let tree = |files: &[(&str, &str)]| {
        Tree::new(&files.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect::<Vec<_>>())
    };
    let lib = ("src/lib.rs", "pub mod os;\n");
    let circles = |files: &[(&str, &str)]| {
        let files: Vec<_> = [lib].iter().chain(files).copied().collect();
        let tree = tree(&files);
        tree.circles().into_iter().map(|(round, _)| round.join(" ")).collect::<Vec<_>>()
    };
    // A part may use the whole, and the whole its parts.
    let parts = [("src/os/mod.rs", "pub use a::A;\npub struct O;\n"), ("src/os/a.rs", "use super::O;\n")];
    assert_eq!(circles(&parts), [""; 0]);
    // What another file hands on is taken from where it is defined.
    let round = [
        ("src/os/mod.rs", "pub use a::A;\n"),
        ("src/os/a.rs", "use super::{\n    b::{self, B as C},\n};\n"),
        ("src/os/b.rs", "fn f() -> super::A {}\n"),
    ];
    assert_eq!(circles(&round), ["src/os/a.rs src/os/b.rs"]);
    // A file that uses another one uses its parts as well.
    let through = [
        ("src/os/mod.rs", ""),
        ("src/os/a.rs", "mod c;\npub struct A;\n"),
        ("src/os/a/c.rs", "use crate::os::b::B;\n"),
        ("src/os/b.rs", "use super::a::A;\n"),
    ];
    assert_eq!(circles(&through), ["src/os/a.rs src/os/a/c.rs src/os/b.rs"]);
    let map = "//! Imports go one way: `os -> core::X`;\n//! `core -> config`.\n";
    let wrong = tree(&[
        ("src/os/a.rs", "use crate::core::X;\nuse crate::core::Y;\nuse std::fs;\n"),
        ("src/core/b.rs", "use crate::config::Z;\nfn f() { super::super::os::g() }\n"),
    ]);
    let said =
        ["src/core/b.rs uses os::g, against src/lib.rs", "src/os/a.rs uses core::Y, against src/lib.rs"];
    assert_eq!(breaches(map, &wrong), said);
}
