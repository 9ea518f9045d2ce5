//! The values of specifiers about this machine, its user and directories (systemd.unit(5), Specifiers).

use std::env;
use std::path::{Path, PathBuf};

use super::unit_files::read_regular;
use super::users;
use crate::config::environment;
use crate::os::own;

/// The most that is read of a file such as os-release.
const FILE_BYTES: usize = 64 << 10;

/// The value of `%LETTER`, looked up at each call: for root the system's directories, else the user's. `%u`, `%h` and
/// the like are those of supervise, not of User=. `None` for an unknown letter, and where this machine has no value.
pub fn specifier(letter: char) -> Option<String> {
    Some(match letter {
        'a' => architecture().to_owned(),
        'b' => line("/proc/sys/kernel/random/boot_id")?.replace('-', ""),
        'm' => line("/etc/machine-id").filter(|id| id.len() == 32)?,
        'v' => line("/proc/sys/kernel/osrelease")?,
        'H' => hostname()?,
        'l' => short_hostname()?,
        'q' => match field(&["/etc/machine-info"], "PRETTY_HOSTNAME") {
            name if name.is_empty() => short_hostname()?,
            name => name,
        },
        'o' => os_release("ID"),
        'A' => os_release("IMAGE_VERSION"),
        'B' => os_release("BUILD_ID"),
        'M' => os_release("IMAGE_ID"),
        'w' => os_release("VERSION_ID"),
        'W' => os_release("VARIANT_ID"),
        'u' | 'U' | 'g' | 'G' | 'h' | 's' => user(letter)?,
        't' | 'S' | 'C' | 'L' | 'E' | 'D' => directory(letter)?,
        'T' => temporary("/tmp"),
        'V' => temporary("/var/tmp"),
        'd' => env::var("CREDENTIALS_DIRECTORY").ok()?,
        _ => return None,
    })
}

/// The first line of a small file.
fn line(path: &str) -> Option<String> {
    let text = String::from_utf8(read_regular(Path::new(path), FILE_BYTES).ok()?).ok()?;
    text.lines().next().filter(|line| !line.is_empty()).map(str::to_owned)
}

/// The host name from /proc, which is what gethostname(2) returns.
fn hostname() -> Option<String> {
    line("/proc/sys/kernel/hostname")
}

fn short_hostname() -> Option<String> {
    hostname().map(|name| name.split('.').next().unwrap_or_default().to_owned())
}

/// The name of the architecture in systemd's terms (ConditionArchitecture=) where Rust has another.
fn architecture() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "x86-64",
        "aarch64" if cfg!(target_endian = "big") => "arm64-be",
        "aarch64" => "arm64",
        "powerpc" => "ppc",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64-le",
        "powerpc64" => "ppc64",
        same => same,
    }
}

/// A variable of the first of `paths` that can be read; empty where it is not set, as in systemd.
fn field(paths: &[&str], name: &str) -> String {
    let Some(text) = paths.iter().find_map(|path| read_regular(Path::new(path), FILE_BYTES).ok()) else {
        return String::new();
    };
    let variables = environment::parse_file(&String::from_utf8_lossy(&text), paths[0]).unwrap_or_default();
    variables.into_iter().rfind(|(key, _)| key == name).map(|(_, value)| value).unwrap_or_default()
}

fn os_release(name: &str) -> String {
    field(&["/etc/os-release", "/usr/lib/os-release"], name)
}

/// The user of supervise. For root these are fixed, as in systemd's system manager, whatever the environment says.
fn user(letter: char) -> Option<String> {
    let (uid, gid) = (own::euid(), own::egid());
    let entry = || users::find_user(&uid.to_string()).ok();
    match letter {
        'U' => Some(uid.to_string()),
        'G' => Some(gid.to_string()),
        'u' => entry().map(|user| user.name),
        'g' => Some(users::group_name(gid).unwrap_or_else(|| gid.to_string())),
        'h' if uid == 0 => Some("/root".to_owned()),
        'h' => home().and_then(text),
        _ => entry()
            .and_then(|user| user.shell)
            .or_else(|| env::var_os("SHELL"))
            .and_then(|shell| shell.into_string().ok()),
    }
}

/// HOME, else the home directory in /etc/passwd.
fn home() -> Option<PathBuf> {
    absolute("HOME").or_else(|| users::find_user(&own::euid().to_string()).ok()?.home.map(PathBuf::from))
}

/// The roots of file-hierarchy(7), or those of the XDG base directory specification.
fn directory(letter: char) -> Option<String> {
    if own::euid() == 0 {
        let system = match letter {
            't' => "/run",
            'S' => "/var/lib",
            'C' => "/var/cache",
            'L' => "/var/log",
            'E' => "/etc",
            _ => "/usr/share",
        };
        return Some(system.to_owned());
    }
    let below_home = |name, default| absolute(name).or_else(|| Some(home()?.join(default)));
    let path = match letter {
        't' => absolute("XDG_RUNTIME_DIR"),
        'S' => below_home("XDG_STATE_HOME", ".local/state"),
        'C' => below_home("XDG_CACHE_HOME", ".cache"),
        'L' => below_home("XDG_STATE_HOME", ".local/state").map(|state| state.join("log")),
        'E' => below_home("XDG_CONFIG_HOME", ".config"),
        _ => below_home("XDG_DATA_HOME", ".local/share"),
    };
    path.and_then(text)
}

fn temporary(default: &str) -> String {
    ["TMPDIR", "TEMP", "TMP"]
        .iter()
        .filter_map(|name| absolute(name))
        .find(|path| path.is_dir())
        .and_then(text)
        .unwrap_or_else(|| default.to_owned())
}

/// A variable that holds an absolute path.
fn absolute(name: &str) -> Option<PathBuf> {
    env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn text(path: PathBuf) -> Option<String> {
    path.into_os_string().into_string().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_letter_is_known() {
        for letter in "avHlqoABMwWUGTV".chars() {
            assert!(specifier(letter).is_some(), "%{letter}");
        }
        for letter in "xyZknNpPiIjJfY19%".chars() {
            assert_eq!(specifier(letter), None, "%{letter} is not ours");
        }
    }

    #[test]
    fn they_ask_this_machine() {
        let uid = own::euid();
        assert_eq!(specifier('U'), Some(uid.to_string()));
        let group = specifier('g').expect("a name, or the number where it has none");
        assert_eq!(users::find_group(&group), Ok(own::egid()));
        let host = specifier('H').expect("a host has a name");
        assert_eq!(specifier('l').as_deref(), host.split('.').next());
        assert!(specifier('b').expect("a boot has an id").chars().all(|c| c.is_ascii_hexdigit()));
        assert!(specifier('T').expect("always").starts_with('/'));
        if uid == 0 {
            let paths = ['h', 't', 'S', 'C', 'L', 'E'].map(|letter| specifier(letter).expect("root has all"));
            assert_eq!(paths, ["/root", "/run", "/var/lib", "/var/cache", "/var/log", "/etc"]);
        } else {
            let state = specifier('S');
            assert_eq!(specifier('L'), state.map(|state| format!("{state}/log")));
        }
    }

    #[test]
    fn fields_are_read_as_os_release_writes_them() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("os-release");
        std::fs::write(&path, "NAME=\"A B\"\nID='x'\nID=y\n").expect("written");
        let path = path.to_str().expect("text");
        assert_eq!(field(&["/nonexistent/x", path], "NAME"), "A B");
        assert_eq!(field(&[path], "ID"), "y");
        assert_eq!(field(&[path], "VERSION_ID"), "");
        assert_eq!(field(&["/nonexistent/x"], "ID"), "");
    }
}
