//! The environment of a server: what it inherits, what the user sets, and what the protocol says.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use crate::config::{Dialect, Span};
use crate::os::fetch;
use crate::os::users::User;

/// What an outer service manager told us about ourselves; a server must not take it for its own.
const NOT_INHERITED: [&str; 14] = [
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "LISTEN_FDS_FIRST_FD",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "FDSTORE",
    "MAINPID",
    "SERVICE_RESULT",
    "EXIT_CODE",
    "EXIT_STATUS",
    fetch::VARIABLE,
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(OsString),
    /// The pid of the process that will run COMMAND, written by itself: nobody knows it earlier.
    OwnPid,
}

/// Names are unique by construction.
pub type Environment = BTreeMap<OsString, Value>;

/// What comes on top of the inherited environment, in the order in which it is added: later wins.
#[derive(Clone, Copy, Debug, Default)]
pub struct Additions<'a> {
    /// User=: gives USER, LOGNAME, HOME and SHELL (systemd.exec(5), Environment Variables).
    pub user: Option<&'a User>,
    /// RUNTIME_DIRECTORY, STATE_DIRECTORY and so on.
    pub directories: &'a [(&'static str, OsString)],
    /// ExecSearchPath=, which becomes PATH.
    pub search_path: Option<&'a OsStr>,
    /// PassEnvironment= with the values we have.
    pub passed: &'a [(&'a str, OsString)],
    /// Environment=
    pub environment: &'a [(String, String)],
    /// The content of EnvironmentFile=.
    pub files: &'a [(String, String)],
    /// UnsetEnvironment=
    pub unset: &'a [String],
    /// LISTEN_FDNAMES: one name for each fd passed.
    pub names: &'a [String],
    /// Protocol=, and what it says of the sockets.
    pub dialects: &'a [Dialect],
    pub told: &'a [(String, String)],
    pub notify_socket: Option<&'a OsStr>,
    /// Where the sockets can be fetched, should a wrapper close them.
    pub fetch_socket: Option<&'a OsStr>,
    /// [`Span::ZERO`] or infinity: no watchdog.
    pub watchdog: Span,
    /// MAINPID, SERVICE_RESULT and the like.
    pub facts: &'a [(&'static str, String)],
    /// SUPERVISE_GENERATION
    pub generation: Option<u64>,
}

/// The whole environment. Ours comes last: systemd lets Environment=LISTEN_PID= break the activation, we do not.
pub fn build_environment(
    inherited: impl Iterator<Item = (OsString, OsString)>,
    additions: Additions<'_>,
) -> Environment {
    let mut all: Environment = inherited
        .filter(|(name, _)| !NOT_INHERITED.iter().any(|ours| name == ours))
        .map(|(name, value)| (name, Value::Text(value)))
        .collect();
    let mut set = |name: &str, value: &OsStr| {
        all.insert(name.into(), Value::Text(value.to_owned()));
    };
    if let Some(user) = additions.user {
        set("USER", user.name.as_ref());
        set("LOGNAME", user.name.as_ref());
        let (home, shell) =
            (user.home.iter().map(|home| ("HOME", home)), user.shell.iter().map(|shell| ("SHELL", shell)));
        home.chain(shell).for_each(|(name, value)| set(name, value));
    }
    additions.directories.iter().for_each(|(name, value)| set(name, value));
    additions.search_path.into_iter().for_each(|path| set("PATH", path));
    additions.passed.iter().for_each(|(name, value)| set(name, value));
    for (name, value) in additions.environment.iter().chain(additions.files) {
        set(name, value.as_ref());
    }
    add_ours(&mut all, &additions);
    // Also what was added last: systemd.exec(5) names the variables of a protocol as what this is for.
    unset(&mut all, additions.unset);
    // This variable attributes processes to their generation.
    if let Some(generation) = additions.generation {
        all.insert("SUPERVISE_GENERATION".into(), Value::Text(generation.to_string().into()));
    }
    all
}

/// UnsetEnvironment=: `NAME`, or `NAME=VALUE` for this value alone.
fn unset(all: &mut Environment, unset: &[String]) {
    for assignment in unset {
        let (name, value) =
            assignment.split_once('=').map_or((assignment.as_str(), None), |(n, v)| (n, Some(v)));
        let name = OsStr::new(name);
        if value.is_none_or(|value| all.get(name) == Some(&Value::Text(value.into()))) {
            all.remove(name);
        }
    }
}

/// Adds the variables that only supervise can set.
fn add_ours(all: &mut Environment, additions: &Additions<'_>) {
    // A dialect that is spoken is spoken by us alone.
    let is_owned = |name: &OsStr| {
        name.to_str().is_some_and(|name| additions.dialects.iter().any(|dialect| dialect.owns(name)))
    };
    all.retain(|name, _| !is_owned(name));
    let mut set = |name: &str, value: &OsStr| {
        all.insert(name.into(), Value::Text(value.to_owned()));
    };
    if !additions.names.is_empty() {
        set("LISTEN_FDS", additions.names.len().to_string().as_ref());
        set("LISTEN_FDNAMES", additions.names.join(":").as_ref());
        additions.fetch_socket.into_iter().for_each(|path| set(fetch::VARIABLE, path));
    }
    additions.told.iter().for_each(|(name, value)| set(name, value.as_ref()));
    if let Some(path) = additions.notify_socket {
        set("NOTIFY_SOCKET", path);
    }
    let watched = additions.watchdog != Span::ZERO && !additions.watchdog.is_infinite();
    if watched {
        // A watchdog below a microsecond must not read as none.
        let microseconds = (additions.watchdog.as_nanos() / 1000).max(1);
        set("WATCHDOG_USEC", microseconds.to_string().as_ref());
    }
    additions.facts.iter().for_each(|(name, value)| set(name, value.as_ref()));
    if !additions.names.is_empty() {
        all.insert("LISTEN_PID".into(), Value::OwnPid);
    }
    if watched {
        all.insert("WATCHDOG_PID".into(), Value::OwnPid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn inherited(list: &[(&str, &str)]) -> impl Iterator<Item = (OsString, OsString)> {
        pairs(list).into_iter().map(|(name, value)| (name.into(), value.into()))
    }

    fn text(environment: &Environment, name: &str) -> Option<String> {
        match environment.get(OsStr::new(name))? {
            Value::Text(value) => Some(value.to_string_lossy().into_owned()),
            Value::OwnPid => Some("own pid".to_owned()),
        }
    }

    #[test]
    fn nothing_of_the_outer_protocol_is_inherited() {
        let outer = NOT_INHERITED.map(|name| (name, "1"));
        let all =
            build_environment(inherited(&outer).chain(inherited(&[("PATH", "/bin")])), Additions::default());
        let names: Vec<_> = all.keys().map(|name| name.to_string_lossy()).collect();
        assert_eq!(names, ["PATH"]);
    }

    #[test]
    fn later_wins_and_ours_is_last() {
        let user = User {
            name: "app".into(),
            uid: 1,
            gid: Some(1),
            home: Some("/srv/app".into()),
            shell: None,
            groups: vec![],
        };
        let (environment, files) =
            (pairs(&[("HOME", "/a"), ("A", "1"), ("LISTEN_PID", "1")]), pairs(&[("A", "2")]));
        let names = ["web".to_owned(), "admin".to_owned()];
        let additions = Additions {
            user: Some(&user),
            environment: &environment,
            files: &files,
            names: &names,
            notify_socket: Some("/run/n".as_ref()),
            watchdog: Span::from_millis(1500),
            generation: Some(7),
            ..Additions::default()
        };
        let all = build_environment(inherited(&[("USER", "root"), ("SHELL", "/bin/zsh")]), additions);
        let want = [
            ("USER", "app"),
            ("LOGNAME", "app"),
            ("HOME", "/a"),
            ("SHELL", "/bin/zsh"),
            ("A", "2"),
            ("LISTEN_FDS", "2"),
            ("LISTEN_FDNAMES", "web:admin"),
            ("LISTEN_PID", "own pid"),
            ("NOTIFY_SOCKET", "/run/n"),
            ("WATCHDOG_USEC", "1500000"),
            ("WATCHDOG_PID", "own pid"),
            ("SUPERVISE_GENERATION", "7"),
        ];
        for (name, value) in want {
            assert_eq!(text(&all, name).as_deref(), Some(value), "{name}");
        }
        assert_eq!(all.len(), want.len());
    }

    #[test]
    fn what_the_protocol_says_can_be_taken_away() {
        let unset =
            ["LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET=/run/n", "WATCHDOG_PID", "SUPERVISE_GENERATION"];
        let (unset, names) = (unset.map(str::to_owned), ["web".to_owned()]);
        let additions = Additions {
            unset: &unset,
            names: &names,
            notify_socket: Some("/run/n".as_ref()),
            watchdog: Span::from_millis(1500),
            generation: Some(7),
            ..Additions::default()
        };
        let all = build_environment(inherited(&[]), additions);
        let left: Vec<_> = all.keys().map(|name| name.to_string_lossy()).collect();
        assert_eq!(left, ["LISTEN_FDNAMES", "SUPERVISE_GENERATION", "WATCHDOG_USEC"]);
    }

    #[test]
    fn a_dialect_is_spoken_by_us_alone() {
        let environment = pairs(&[("NGINX", "8;"), ("EINHORN_FD_0", "8")]);
        let told = pairs(&[("NGINX", "3;")]);
        let additions = Additions {
            environment: &environment,
            dialects: &[Dialect::Nginx, Dialect::Fpm],
            told: &told,
            ..Additions::default()
        };
        let all = build_environment(inherited(&[("NGINX", "9;"), ("FPM_SOCKETS_1", "/x=9")]), additions);
        assert_eq!(text(&all, "NGINX").as_deref(), Some("3;"));
        assert_eq!(text(&all, "EINHORN_FD_0").as_deref(), Some("8"), "nobody asked us to speak that");
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn without_sockets_the_user_may_set_the_variables() {
        let environment = pairs(&[("LISTEN_FDS", "1")]);
        let all = build_environment(
            inherited(&[]),
            Additions { environment: &environment, ..Additions::default() },
        );
        assert_eq!(text(&all, "LISTEN_FDS").as_deref(), Some("1"));
        assert_eq!(text(&all, "LISTEN_PID"), None);
    }
}
