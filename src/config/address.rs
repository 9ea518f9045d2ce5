//! `--listen [KIND:]ADDRESS[=NAME]` and the address grammar of systemd.socket(5).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::kind::Kind;
use super::{Error, Problem, SocketOptions, printable};

/// One held socket as the user asked for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listener {
    pub kind: Kind,
    pub address: Address,
    /// LISTEN_FDNAMES: 0 to 255 printable ASCII characters without `:`.
    pub name: String,
    /// Those of one unit, or of the command line, are the same for all its sockets.
    pub options: Rc<SocketOptions>,
    /// The option or line that asked for it, for messages: `--listen 0.0.0.0:443=https`, `web.socket:3`.
    pub place: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Address {
    /// A bare port: `[::]` for both families, or `0.0.0.0` where the host has no IPv6. With 0 the kernel picks.
    Port(u16),
    Inet {
        address: SocketAddr,
        /// What follows `%` after the port: the name or number of an interface.
        interface: Option<String>,
    },
    Path(PathBuf),
    /// An abstract name without its leading `@`.
    Abstract(String),
    /// The name an outer manager gave it in LISTEN_FDNAMES.
    InheritedName(String),
    /// The number of the fd in our own process.
    InheritedNumber(i32),
}

const TRY_ADDRESSES: &str = "try 8080, 127.0.0.1:8080, [::1]:8080, /run/x.sock or @x";
/// The most bytes that sun_path (unix(7)) holds beside its final NUL.
const PATH_MAX: usize = 107;

impl Listener {
    /// Reads one `--listen`. `default_kind` stands in for a kind that is not written: with `None` the address decides
    /// (`tcp` or `unix`), with [`Kind::Udp`] it is `udp` or `unixgram`, as `--datagram` asks for.
    ///
    /// The last `=` begins the name, so an address with a `=` of its own needs one: `/run/a=b.sock=web`. Without it
    /// the name is the port (`0` stays `0`: a name must not change with the port the kernel picks), the file name of
    /// the path, the abstract name, or what follows `fd:`.
    ///
    /// # Errors
    /// What is wrong with the address, the kind for it, or the name; the place is `--listen TEXT`.
    pub fn parse(text: &str, default_kind: Option<Kind>) -> Result<Self, Error> {
        let place = format!("--listen {}", printable(text));
        match Self::read(text, default_kind) {
            Ok((kind, address, name)) => {
                Ok(Self { kind, address, name, options: Rc::new(SocketOptions::new()), place })
            }
            Err(problem) => Err(problem.at(place)),
        }
    }

    /// Reads the value of ListenStream= (no kind), ListenDatagram= ([`Kind::Udp`]) or ListenSequentialPacket=
    /// ([`Kind::SeqPacket`]). The caller sets the name and the options once it has read the whole unit.
    ///
    /// # Errors
    /// What is wrong with the address.
    pub fn of_unit(text: &str, kind: Option<Kind>, place: &str) -> Result<Self, Problem> {
        let address = Address::parse(text)?;
        let kind = fit(None, kind, &address)?;
        Ok(Self {
            kind,
            address,
            name: String::new(),
            options: Rc::new(SocketOptions::new()),
            place: place.to_owned(),
        })
    }

    fn read(text: &str, default_kind: Option<Kind>) -> Result<(Kind, Address, String), Problem> {
        let (spec, name) = match text.rsplit_once('=') {
            Some((spec, name)) => (spec, Some(name)),
            None => (text, None),
        };
        let (kind, rest) = split_kind(spec);
        let address = if kind == Some(Kind::Fd) { inherited(rest)? } else { Address::parse(rest)? };
        let kind = fit(kind, default_kind, &address)?;
        let name = match name {
            Some(name) => name.to_owned(),
            None => address.default_name(),
        };
        check_name(&name)?;
        Ok((kind, address, name))
    }

    /// Whether `{port:NAME}` can name this socket. An inherited one may; that shows later.
    pub fn may_have_port(&self) -> bool {
        self.kind.is_inet() || self.kind == Kind::Fd
    }
}

/// The rule of LISTEN_FDNAMES (sd_listen_fds(3)).
///
/// # Errors
/// More than 255 characters, or one that is not printable ASCII or a `:`.
pub fn check_name(name: &str) -> Result<(), Problem> {
    let bad = name.chars().find(|c| !(' '..='~').contains(c) || *c == ':');
    let cause = match bad {
        Some(c) => format!("the name {:?} contains {c:?}", printable(name)),
        None if name.len() > 255 => format!("the name has {} characters, more than 255", name.len()),
        None => return Ok(()),
    };
    Err(Problem::new(cause, "give it a name of printable ASCII characters without a colon: ADDRESS=web"))
}

/// Splits at the first `:` where a kind stands before it; else there is no kind and all of `spec` is the address.
fn split_kind(spec: &str) -> (Option<Kind>, &str) {
    let split = spec.split_once(':');
    let known = split
        .and_then(|(word, rest)| Some((Kind::ALL.into_iter().find(|kind| kind.as_str() == word)?, rest)));
    match known {
        Some((kind, rest)) => (Some(kind), rest),
        None => (None, spec),
    }
}

/// The kind of socket for this address, or why the two do not fit.
fn fit(kind: Option<Kind>, default: Option<Kind>, address: &Address) -> Result<Kind, Problem> {
    let natural = match (address, default) {
        (Address::InheritedName(_) | Address::InheritedNumber(_), _) => Kind::Fd,
        (Address::Path(_) | Address::Abstract(_), Some(Kind::Udp)) => Kind::UnixGram,
        (Address::Path(_) | Address::Abstract(_), None) => Kind::Unix,
        (Address::Port(_) | Address::Inet { .. }, None) => Kind::Tcp,
        (_, Some(default)) => default,
    };
    let kind = kind.unwrap_or(natural);
    if address.suits(kind) {
        return Ok(kind);
    }
    let remedy = match kind.is_inet() {
        true => "for a path or @name write unix:, unixgram: or seqpacket:",
        false => "for a port write tcp: or udp:; a unix socket has a path or @name",
    };
    Err(Problem::new(format!("{address} is no address for {kind}"), remedy))
}

fn inherited(text: &str) -> Result<Address, Problem> {
    if text.is_empty() {
        return Err(Problem::new(
            "no name or number after fd:",
            "write fd:3, or fd:NAME with a name of LISTEN_FDNAMES",
        ));
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return check_name(text).map(|()| Address::InheritedName(text.to_owned()));
    }
    match text.parse() {
        Ok(number) if number >= 3 => Ok(Address::InheritedNumber(number)),
        _ => Err(Problem::new(format!("fd {text} is no inherited socket"), "they are numbered from 3 on")),
    }
}

impl Address {
    /// Whether sockets of this kind have such addresses.
    pub fn suits(&self, kind: Kind) -> bool {
        match self {
            Self::Port(_) | Self::Inet { .. } => kind.is_inet(),
            Self::Path(_) | Self::Abstract(_) => kind.is_unix(),
            Self::InheritedName(_) | Self::InheritedNumber(_) => kind == Kind::Fd,
        }
    }

    /// Reads every form of an address except `fd:`, which names an inherited socket.
    fn parse(text: &str) -> Result<Self, Problem> {
        if text.starts_with('/') {
            return path(text);
        }
        if let Some(name) = text.strip_prefix('@') {
            return abstract_name(name);
        }
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return port(text).map(Self::Port);
        }
        if text.starts_with('[') {
            return ipv6(text);
        }
        let Some((host, number)) = text.rsplit_once(':') else { return Err(unreadable(text)) };
        let ip = if host == "localhost" { Ok(Ipv4Addr::LOCALHOST) } else { host.parse() };
        let ip = ip.map_err(|_| unreadable(text))?;
        if let Some((number, _)) = number.split_once('%') {
            let remedy = format!("leave the interface out: {host}:{number}");
            return Err(Problem::new("an interface belongs to IPv6 addresses only", remedy));
        }
        Ok(Self::Inet { address: SocketAddr::new(IpAddr::V4(ip), port(number)?), interface: None })
    }

    /// The port as asked for; `None` where the address has none, or only its socket knows.
    pub const fn port(&self) -> Option<u16> {
        match self {
            Self::Port(port) => Some(*port),
            Self::Inet { address, .. } => Some(address.port()),
            Self::Path(_) | Self::Abstract(_) | Self::InheritedName(_) | Self::InheritedNumber(_) => None,
        }
    }

    fn default_name(&self) -> String {
        match self {
            Self::Port(port) => port.to_string(),
            Self::Inet { address, .. } => address.port().to_string(),
            Self::Path(path) => {
                path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
            }
            Self::Abstract(name) | Self::InheritedName(name) => name.clone(),
            Self::InheritedNumber(number) => number.to_string(),
        }
    }
}

fn port(text: &str) -> Result<u16, Problem> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or_else(|| {
        Problem::new(format!("{:?} is no port", printable(text)), "1 to 65535, or 0 to let the kernel pick")
    })
}

/// `[ADDRESS]:PORT[%INTERFACE]`
fn ipv6(text: &str) -> Result<Address, Problem> {
    let split = text.strip_prefix('[').and_then(|text| text.split_once("]:"));
    let Some((ip, after)) = split else { return Err(unreadable(text)) };
    if let Some((ip, interface)) = ip.split_once('%') {
        let remedy = format!("write [{ip}]:{after}%{interface}");
        return Err(Problem::new("the interface comes after the port", remedy));
    }
    let ip: Ipv6Addr = ip.parse().map_err(|_| unreadable(text))?;
    let (number, interface) = match after.split_once('%') {
        Some((number, interface)) => (number, Some(interface)),
        None => (after, None),
    };
    let port = port(number)?;
    if let Some(name) = interface {
        // IFNAMSIZ of netdevice(7), and the rule of the kernel's dev_valid_name.
        let bad = name.is_empty()
            || name.len() > 15
            || name.contains(|c: char| "/:".contains(c) || !c.is_ascii_graphic());
        if bad {
            let cause = format!("{:?} is no interface", printable(name));
            return Err(Problem::new(
                cause,
                "write its name or number after the port, as in [fe80::1]:80%eth0",
            ));
        }
    } else if ip.is_unicast_link_local() {
        let remedy = format!("write [{ip}]:{port}%eth0; `ip -6 addr` shows the name");
        return Err(Problem::new("a link-local address needs its interface", remedy));
    }
    let address = SocketAddr::new(IpAddr::V6(ip), port);
    Ok(Address::Inet { address, interface: interface.map(str::to_owned) })
}

fn path(text: &str) -> Result<Address, Problem> {
    if text.len() > PATH_MAX {
        let cause = format!("the path has {} bytes, a unix socket takes {PATH_MAX}", text.len());
        return Err(Problem::new(cause, "use a shorter directory, such as /run"));
    }
    if text.ends_with('/') || text.ends_with("/.") || text.ends_with("/..") || text.contains('\0') {
        return Err(Problem::new("the path names no file", "write the whole path, as in /run/x.sock"));
    }
    Ok(Address::Path(PathBuf::from(text)))
}

fn abstract_name(name: &str) -> Result<Address, Problem> {
    match name.len() {
        0 => Err(Problem::new("@ alone is no name", "write one after it: @x")),
        1..=PATH_MAX if !name.contains('\0') => Ok(Address::Abstract(name.to_owned())),
        _ => Err(Problem::new(
            format!("the name after @ is no abstract name of 1 to {PATH_MAX} bytes"),
            "shorten it",
        )),
    }
}

/// The error for a text that is no address, with what was probably meant.
fn unreadable(text: &str) -> Problem {
    let shown = printable(text);
    let tail = || text.rsplit(':').next().filter(|tail| port(tail).is_ok()).unwrap_or("8080");
    if text.is_empty() {
        return Problem::new("no address", TRY_ADDRESSES);
    }
    if text.starts_with("vsock") && text.contains(':') {
        return Problem::new(
            "vsock addresses are not supported",
            "hold a unix socket, and have socat pass vsock connections on to it",
        );
    }
    if text.starts_with(['.', '~']) || text.contains('/') && !text.contains(':') {
        return Problem::new(
            format!("the path {shown:?} is not absolute"),
            "begin it with /: \"$PWD/x.sock\"",
        );
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        let remedy = if ip.is_ipv6() { format!("write [{ip}]:8080") } else { format!("write {ip}:8080") };
        return Problem::new(format!("{shown:?} has no port"), remedy);
    }
    if let Some(host) = text.strip_suffix(tail()).and_then(|text| text.strip_suffix(':')) {
        if host.is_empty() || host == "*" {
            return Problem::new(
                format!("{shown:?} is no address"),
                format!("write {0} or 0.0.0.0:{0}", tail()),
            );
        }
        if host.parse::<Ipv6Addr>().is_ok() {
            return Problem::new("an IPv6 address needs brackets", format!("write [{host}]:{}", tail()));
        }
        if host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)) {
            let remedy =
                format!("write the IP address; {0} or 0.0.0.0:{0} is every address of this host", tail());
            return Problem::new(format!("the name {host:?} is not looked up"), remedy);
        }
    }
    Problem::new(format!("{shown:?} is no address"), TRY_ADDRESSES)
}

/// The form that `--listen` reads; a bare port gets its wildcard: `[::]:443`, `/run/x.sock`, `@x`, `fd:3`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, "[::]:{port}"),
            Self::Inet { address, interface: None } => write!(f, "{address}"),
            Self::Inet { address, interface: Some(interface) } => write!(f, "{address}%{interface}"),
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Abstract(name) => write!(f, "@{name}"),
            Self::InheritedName(name) => write!(f, "fd:{name}"),
            Self::InheritedNumber(number) => write!(f, "fd:{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text, kind, address as shown, name.
    const GOOD: [(&str, &str, &str, &str); 31] = [
        ("443", "tcp", "[::]:443", "443"),
        ("443=https", "tcp", "[::]:443", "https"),
        ("443=", "tcp", "[::]:443", ""),
        ("0", "tcp", "[::]:0", "0"),
        ("65535", "tcp", "[::]:65535", "65535"),
        ("tcp:443", "tcp", "[::]:443", "443"),
        ("udp:443=quic", "udp", "[::]:443", "quic"),
        ("0.0.0.0:443", "tcp", "0.0.0.0:443", "443"),
        ("127.0.0.1:0=web", "tcp", "127.0.0.1:0", "web"),
        ("udp:127.0.0.1:53", "udp", "127.0.0.1:53", "53"),
        ("[::]:443", "tcp", "[::]:443", "443"),
        ("[::1]:443", "tcp", "[::1]:443", "443"),
        ("udp:[::1]:443", "udp", "[::1]:443", "443"),
        ("[fe80::1]:80%eth0", "tcp", "[fe80::1]:80%eth0", "80"),
        ("[fe80::1]:80%2=x", "tcp", "[fe80::1]:80%2", "x"),
        ("localhost:8080", "tcp", "127.0.0.1:8080", "8080"),
        ("tcp:localhost:8080=a b", "tcp", "127.0.0.1:8080", "a b"),
        ("/run/x.sock", "unix", "/run/x.sock", "x.sock"),
        ("/x=web", "unix", "/x", "web"),
        ("/run/a=b.sock=web", "unix", "/run/a=b.sock", "web"),
        ("/run/a:b=web", "unix", "/run/a:b", "web"),
        ("unix:/run/x.sock", "unix", "/run/x.sock", "x.sock"),
        ("unixgram:/dev/log", "unixgram", "/dev/log", "log"),
        ("seqpacket:/run/s", "seqpacket", "/run/s", "s"),
        ("@abstract", "unix", "@abstract", "abstract"),
        ("@a:b=c", "unix", "@a:b", "c"),
        ("seqpacket:@s", "seqpacket", "@s", "s"),
        ("fd:3", "fd", "fd:3", "3"),
        ("fd:web", "fd", "fd:web", "web"),
        ("fd:web.socket=web", "fd", "fd:web.socket", "web"),
        ("fd:17=x", "fd", "fd:17", "x"),
    ];

    /// Text and a part of the message: what is wrong, or what to write instead.
    const BAD: [(&str, &str); 46] = [
        ("", "no address"),
        ("=web", "no address"),
        ("tcp:", "no address"),
        ("65536", "1 to 65535"),
        ("99999999999999999999", "1 to 65535"),
        ("-1", "is no address"),
        (" 80", "is no address"),
        ("0.0.0.0", "write 0.0.0.0:8080"),
        ("0.0.0.0:", "is no port"),
        ("0.0.0.0:+80", "is no port"),
        ("0.0.0.0:65536", "is no port"),
        ("0.0.0.0:80%eth0", "leave the interface out"),
        ("256.0.0.1:80", "is not looked up"),
        ("::1", "write [::1]:8080"),
        ("[::1]", "write [::1]:8080"),
        ("::1:80", "has no port"),
        ("2001:db8:0:0:0:0:0:1:80", "write [2001:db8:0:0:0:0:0:1]:80"),
        ("[::1]8888", "is no address"),
        ("[::1]:x", "is no port"),
        ("[::g]:80", "is no address"),
        ("[fe80::1%eth0]:80", "write [fe80::1]:80%eth0"),
        ("[fe80::1]:80", "write [fe80::1]:80%eth0"),
        ("[::1]:80%", "is no interface"),
        ("[::1]:80%a_name_that_is_too_long", "is no interface"),
        ("example.com:80", "write the IP address"),
        ("*:80", "write 80 or 0.0.0.0:80"),
        (":8080", "write 8080 or 0.0.0.0:8080"),
        ("http://localhost:80", "is no address"),
        ("vsock:2:80", "vsock addresses are not supported"),
        ("vsock-stream::80=web", "vsock addresses are not supported"),
        ("TCP:80", "is not looked up"),
        ("/", "names no file"),
        ("/run/", "names no file"),
        ("/run/..", "names no file"),
        ("/run/a:b", "without a colon"),
        ("unix:./x.sock", "$PWD/x.sock"),
        ("run/x.sock", "$PWD/x.sock"),
        ("@", "write one after it"),
        ("@é", "printable ASCII"),
        ("8080=a:b", "without a colon"),
        ("8080=a\tb", "printable ASCII"),
        ("udp:/run/x", "unixgram:"),
        ("tcp:@x", "unix:"),
        ("unix:8080", "tcp:"),
        ("fd:", "fd:3"),
        ("fd:2", "from 3 on"),
    ];

    #[test]
    fn addresses_that_are_held() {
        for (text, kind, address, name) in GOOD {
            let listener = Listener::parse(text, None).unwrap_or_else(|error| panic!("{text}: {error}"));
            let got = (listener.kind.to_string(), listener.address.to_string(), listener.name);
            assert_eq!(got, (kind.to_owned(), address.to_owned(), name.to_owned()), "{text}");
            assert_eq!(listener.place, format!("--listen {text}"));
        }
    }

    #[test]
    fn addresses_that_are_refused_say_what_to_write() {
        for (text, part) in BAD {
            let error = Listener::parse(text, None).expect_err(text);
            let line = error.to_string();
            assert!(
                line.contains(part) && !error.remedy.is_empty() && !line.contains('\t'),
                "{text:?}: {line}"
            );
        }
    }

    #[test]
    fn lengths_have_their_limits() {
        let path = |length: usize| format!("/{}=x", "p".repeat(length - 1));
        assert!(Listener::parse(&path(107), None).is_ok());
        assert!(Listener::parse(&path(108), None).is_err());
        assert!(Listener::parse(&format!("@{}=x", "p".repeat(107)), None).is_ok());
        assert!(Listener::parse(&format!("@{}=x", "p".repeat(108)), None).is_err());
        assert!(Listener::parse(&format!("80={}", "n".repeat(255)), None).is_ok());
        assert!(Listener::parse(&format!("80={}", "n".repeat(256)), None).is_err());
    }

    #[test]
    fn the_default_kind_gives_way_to_a_written_one() {
        let kind = |text, default| Listener::parse(text, Some(default)).map(|listener| listener.kind).ok();
        assert_eq!(kind("80", Kind::Udp), Some(Kind::Udp));
        assert_eq!(kind("/x", Kind::Udp), Some(Kind::UnixGram));
        assert_eq!(kind("tcp:80", Kind::Udp), Some(Kind::Tcp));
        assert_eq!(kind("@x", Kind::SeqPacket), Some(Kind::SeqPacket));
        assert_eq!(kind("80", Kind::SeqPacket), None);
        assert_eq!(kind("fd:3", Kind::Udp), Some(Kind::Fd));
    }
}
