//! Protocol=: environment variables other than LISTEN_FDS by which servers learn of inherited sockets.
//!
//! Each dialect adds its variables to LISTEN_FDS and takes nothing away. A socket that a dialect cannot express is
//! left out of its variables; the server still has the fd.

use serde::{Deserialize, Serialize};

use super::choice::choice;
use super::{Address, Kind, Listener, Problem, Warning};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dialect {
    /// LISTEN_FDS, which every server gets; under InterceptBind= only one that asks for it by this word.
    Systemd,
    /// Server::Starter(3pm), read by Starlet, Starman and h2o: `SERVER_STARTER_PORT=127.0.0.1:8080=3;/run/x.sock=4`.
    ServerStarter,
    /// Einhorn's README: EINHORN_FD_COUNT, EINHORN_FD_0, ...; EINHORN_MASTER_PID must be the parent.
    Einhorn,
    /// nginx's binary upgrade: `NGINX=3;4;`. nginx finds the address of each fd by getsockname(2).
    Nginx,
    /// The reload of php-fpm: `FPM_SOCKETS=127.0.0.1:9000=3,/run/x.sock=4`.
    Fpm,
}

/// A socket as it is passed to a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed<'a> {
    /// The number of the fd in the server.
    pub fd: i32,
    pub kind: Kind,
    /// The address as `status` shows it: `127.0.0.1:8080`, `[::]:443`, `/run/x.sock`.
    pub address: &'a str,
}

/// Reads one or several names separated by blanks: `nginx einhorn`. `systemd`, the default, adds no variable.
///
/// # Errors
/// A word that names no dialect.
pub fn parse(text: &str) -> Result<Vec<Dialect>, Problem> {
    let names = [
        ("systemd", Dialect::Systemd),
        ("server-starter", Dialect::ServerStarter),
        ("einhorn", Dialect::Einhorn),
        ("nginx", Dialect::Nginx),
        ("fpm", Dialect::Fpm),
    ];
    let read = |word| match word {
        "stdin" => Err(Problem::new(
            "a socket as fd 0 is no protocol",
            "write --stdin fd:NAME (StandardInput=fd:NAME)",
        )),
        word => choice(word, &names),
    };
    text.split_ascii_whitespace().map(read).collect()
}

impl Dialect {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::ServerStarter => "server-starter",
            Self::Einhorn => "einhorn",
            Self::Nginx => "nginx",
            Self::Fpm => "fpm",
        }
    }

    /// Whether the variable `name` belongs to this dialect. An inherited one describes the fds of another process.
    pub fn owns(self, name: &str) -> bool {
        match self {
            Self::Systemd => false,
            Self::ServerStarter => name.starts_with("SERVER_STARTER_"),
            Self::Einhorn => name.starts_with("EINHORN_"),
            Self::Nginx => name == "NGINX",
            Self::Fpm => name == "FPM_SOCKETS" || name.starts_with("FPM_SOCKETS_"),
        }
    }

    /// Why this dialect cannot express a socket; `None` where it can.
    pub fn refuses(self, kind: Kind, address: &str) -> Option<&'static str> {
        let is_path = address.starts_with('/');
        let has = |signs: &[char]| is_path && address.contains(signs);
        match (self, kind) {
            (Self::Systemd, _) | (Self::Nginx, Kind::Udp) => None,
            _ if kind.has_datagrams() => Some("it knows stream sockets, and this one has datagrams"),
            _ if !kind.is_stream() => Some("it knows no such kind of socket"),
            (Self::Einhorn, _) => None,
            _ if kind.is_unix() && !is_path => {
                Some("it knows unix sockets by their paths, and this one has none")
            }
            (Self::ServerStarter, _) if has(&['=', ';']) => Some("it cannot write a path with = or ;"),
            (Self::Fpm, _) if has(&['=', ',', ':']) => Some("it cannot write a path with = or , or :"),
            _ => None,
        }
    }

    /// The variables that describe `sockets`; none if it can express none. `parent` is the pid of the server's parent.
    pub fn variables(self, sockets: &[Passed<'_>], generation: u64, parent: u32) -> Vec<(String, String)> {
        let known: Vec<&Passed<'_>> =
            sockets.iter().filter(|socket| self.refuses(socket.kind, socket.address).is_none()).collect();
        if known.is_empty() {
            return Vec::new();
        }
        let joined = |separator: &str, write: &dyn Fn(&Passed<'_>) -> String| {
            known.iter().map(|socket| write(socket)).collect::<Vec<_>>().join(separator)
        };
        let pair = |name: &str, value: String| (name.to_owned(), value);
        match self {
            Self::Systemd => Vec::new(),
            Self::ServerStarter => vec![
                pair("SERVER_STARTER_PORT", joined(";", &|one| format!("{}={}", one.address, one.fd))),
                pair("SERVER_STARTER_GENERATION", generation.to_string()),
            ],
            Self::Einhorn => {
                let mut all = vec![
                    pair("EINHORN_MASTER_PID", parent.to_string()),
                    pair("EINHORN_FD_COUNT", known.len().to_string()),
                ];
                for (index, socket) in known.iter().enumerate() {
                    all.push((format!("EINHORN_FD_{index}"), socket.fd.to_string()));
                    all.push((format!("EINHORN_FD_FAMILY_{index}"), family(socket).to_owned()));
                }
                all
            }
            Self::Nginx => vec![pair("NGINX", joined("", &|one| format!("{};", one.fd)))],
            Self::Fpm => {
                vec![pair("FPM_SOCKETS", joined(",", &|one| format!("{}={}", fpm_key(one.address), one.fd)))]
            }
        }
    }
}

/// The name of the address family (socket(2)) that Einhorn's clients expect.
fn family(socket: &Passed<'_>) -> &'static str {
    match socket.address.starts_with('[') {
        _ if !socket.kind.is_inet() => "AF_UNIX",
        true => "AF_INET6",
        false => "AF_INET",
    }
}

/// The key that php-fpm looks for: its `listen` address by inet_ntop(3), a colon, the port, no brackets.
fn fpm_key(address: &str) -> String {
    match address.strip_prefix('[') {
        Some(v6) => v6.split('%').next().unwrap_or_default().replace(']', ""),
        None => address.to_owned(),
    }
}

/// Warnings about the sockets that a dialect cannot express. Inherited ones are known later and left out here.
pub fn untold(dialects: &[Dialect], listeners: &[Listener]) -> Vec<Warning> {
    let mut all = Vec::new();
    for listener in listeners {
        if matches!(listener.address, Address::InheritedName(_) | Address::InheritedNumber(_)) {
            continue;
        }
        let address = listener.address.to_string();
        let told = dialects.iter().map(|dialect| (*dialect, dialect.refuses(listener.kind, &address)));
        all.extend(told.filter_map(|(dialect, why)| {
            Some(Warning(problem(dialect, &listener.name, why?).at(listener.place.as_str())))
        }));
    }
    all
}

/// The message about a socket that a dialect cannot express.
pub fn problem(dialect: Dialect, name: &str, why: &str) -> Problem {
    let cause = format!("Protocol={} does not tell of the socket {name:?}: {why}", dialect.as_str());
    Problem::new(cause, format!("the server finds it in LISTEN_FDS, or by {{fd:{name}}}"))
}

#[cfg(test)]
mod tests;
