//! Pairs of .socket and .service files as Debian's packages ship them, downloaded and unpacked, not installed:
//! `check` has a verdict for every line of them and knows every directive.

use std::fs;
use std::process::Command;

use super::support::{Launch, Place};

/// The packages that ship the files, and the files.
struct Pair {
    packages: &'static [&'static str],
    socket: &'static str,
    service: &'static str,
}

const fn pair(packages: &'static [&'static str], socket: &'static str, service: &'static str) -> Pair {
    Pair { packages, socket, service }
}

/// No pair has Accept=yes, which this version refuses.
const PAIRS: [Pair; 14] = [
    pair(&["dbus", "dbus-system-bus-common"], "dbus.socket", "dbus.service"),
    pair(&["podman"], "podman.socket", "podman.service"),
    pair(&["docker.io"], "docker.socket", "docker.service"),
    pair(&["cups-daemon"], "cups.socket", "cups.service"),
    pair(&["avahi-daemon"], "avahi-daemon.socket", "avahi-daemon.service"),
    pair(&["libvirt-daemon-system"], "virtlogd.socket", "virtlogd.service"),
    pair(&["libvirt-daemon-system"], "virtlockd.socket", "virtlockd.service"),
    pair(&["pcscd"], "pcscd.socket", "pcscd.service"),
    pair(&["rpcbind"], "rpcbind.socket", "rpcbind.service"),
    pair(&["uuid-runtime"], "uuidd.socket", "uuidd.service"),
    pair(&["openssh-server"], "ssh.socket", "ssh.service"),
    pair(&["gpsd"], "gpsd.socket", "gpsd.service"),
    pair(&["cockpit-ws"], "cockpit.socket", "cockpit.service"),
    pair(&["mpd"], "mpd.socket", "mpd.service"),
];

/// Downloads a package and unpacks it below `unpacked`.
pub(crate) fn unpack(place: &Place, package: &str) {
    let run = |words: &[&str]| {
        let output = Command::new(words[0]).args(&words[1..]).current_dir(place.path("")).output();
        let output =
            output.unwrap_or_else(|error| panic!("{}: {error}: this wants Debian or its kin", words[0]));
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run(&["apt-get", "-q", "download", package]);
    let is_it = |name: &str| name.starts_with(&format!("{package}_")) && name.ends_with(".deb");
    let files =
        fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let file = files.into_iter().find(|name| is_it(name)).expect("apt-get download says it worked");
    run(&["dpkg-deb", "-x", &file, "unpacked"]);
}

/// The unit of this name, wherever its package has it.
pub(crate) fn unit(place: &Place, name: &str) -> String {
    let roots = ["lib/systemd/system", "usr/lib/systemd/system", "lib/systemd/user", "usr/lib/systemd/user"];
    let paths = roots.map(|root| place.path(&format!("unpacked/{root}/{name}")));
    paths
        .into_iter()
        .find(|path| fs::exists(path).unwrap())
        .unwrap_or_else(|| panic!("no {name} in the package"))
}

/// The lines that assign something; what a backslash continues counts where it begins.
fn assignments(text: &str) -> Vec<usize> {
    let mut found = Vec::new();
    let mut continues = false;
    for (number, line) in (1..).zip(text.lines()) {
        let begins = !continues;
        let is_comment = line.trim_start().starts_with(['#', ';']);
        if !is_comment {
            continues = line.ends_with('\\');
        }
        if begins && !is_comment && line.contains('=') {
            found.push(number);
        }
    }
    found
}

#[test]
fn check_has_a_verdict_for_every_line_of_what_debian_ships() {
    let mut faults = Vec::new();
    for Pair { packages, socket, service } in PAIRS {
        let place = Place::new();
        for package in packages {
            unpack(&place, package);
        }
        let (socket, service) = (unit(&place, socket), unit(&place, service));
        let ended = Launch::new(&place).args("check").arg(&socket).arg(&service).run();
        let said = ended.text();
        println!("{packages:?}: {}", ended.status);
        if ![0, 1].contains(&ended.status) || said.contains("unknown directive") {
            faults.push(format!("{packages:?} ended with {}:\n{said}", ended.status));
        }
        for path in [&socket, &service] {
            let name = path.rsplit('/').next().unwrap();
            for line in assignments(&fs::read_to_string(path).unwrap()) {
                let place = format!("{name}:{line}");
                let told = |text: &str| {
                    text.split_once(&place).is_some_and(|(_, after)| !after.starts_with(char::is_numeric))
                };
                if !said.lines().any(told) {
                    faults.push(format!("{packages:?}: nothing about {place}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn assignments_are_counted_where_they_begin() {
    assert_eq!(assignments("# A=1\n[S]\nA=1 \\\n# B=2\n  C=3\n\nD=4\n"), [3, 7]);
}
