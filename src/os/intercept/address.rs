//! Parses the address that a server hands to bind(2). The bytes come from its memory and may be anything.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::os::saved;

/// The size of struct sockaddr_storage, the largest address that the kernel takes.
pub(super) const LONGEST: usize = 128;

/// The address that a server wants to bind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Wanted {
    Inet(SocketAddr),
    /// The path as the server wrote it, possibly relative to its directory.
    Path(#[serde(with = "saved::path")] PathBuf),
    Abstract(Vec<u8>),
}

impl Wanted {
    /// The shortest address length with this meaning.
    pub(super) const fn shortest(&self) -> usize {
        match self {
            Self::Inet(_) => size_of::<libc::sockaddr_in>(),
            Self::Path(_) | Self::Abstract(_) => size_of::<libc::sa_family_t>() + 1,
        }
    }
}

/// `None` for an address that cannot be held. The kernel reads the bytes again and decides about everything else.
pub(super) fn parse(bytes: &[u8]) -> Option<Wanted> {
    let (family, rest) = bytes.split_first_chunk::<2>()?;
    match i32::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET => inet(rest),
        // bind(2) treats this as AF_INET if the address is 0.0.0.0.
        libc::AF_UNSPEC => inet(rest).filter(|wanted| match wanted {
            Wanted::Inet(address) => address.ip().is_unspecified(),
            Wanted::Path(_) | Wanted::Abstract(_) => false,
        }),
        libc::AF_INET6 => inet6(rest),
        libc::AF_UNIX => unix(rest),
        _ => None,
    }
    .filter(|wanted| !matches!(wanted, Wanted::Inet(address) if address.port() == 0))
}

/// Reads struct sockaddr_in after the family; the kernel requires its padding.
fn inet(rest: &[u8]) -> Option<Wanted> {
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let (ip, padding) = rest.split_first_chunk::<4>()?;
    let ip = IpAddr::from(Ipv4Addr::from(*ip));
    (padding.len() >= 8).then(|| Wanted::Inet(SocketAddr::new(ip, u16::from_be_bytes(*port))))
}

/// Reads struct sockaddr_in6 after the family; the one of RFC 2133 has no scope.
fn inet6(rest: &[u8]) -> Option<Wanted> {
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let (_flow, rest) = rest.split_first_chunk::<4>()?;
    let (ip, rest) = rest.split_first_chunk::<16>()?;
    let ip = Ipv6Addr::from(*ip);
    let port = u16::from_be_bytes(*port);
    if let Some(v4) = ip.to_ipv4_mapped() {
        return Some(Wanted::Inet(SocketAddr::new(v4.into(), port)));
    }
    let scope = rest.first_chunk::<4>().map_or(0, |scope| u32::from_ne_bytes(*scope));
    Some(Wanted::Inet(SocketAddrV6::new(ip, port, 0, scope).into()))
}

/// Reads struct sockaddr_un after the family. An empty one makes the kernel pick a name, an abstract name is as long
/// as the address, a path ends at its NUL.
fn unix(rest: &[u8]) -> Option<Wanted> {
    let (first, name) = rest.split_first()?;
    if *first == 0 {
        return Some(Wanted::Abstract(name.to_vec()));
    }
    let path = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    Some(Wanted::Path(OsStr::from_bytes(path).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(family: i32, rest: &[u8]) -> Vec<u8> {
        [&(family as u16).to_ne_bytes(), rest].concat()
    }

    #[test]
    fn addresses_are_read_as_the_kernel_reads_them() {
        let v4 = address(libc::AF_INET, &[0x1f, 0x90, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(parse(&v4), Some(Wanted::Inet("127.0.0.1:8080".parse().unwrap())));
        let mut v6 = [0u8; 26];
        (v6[0], v6[1], v6[21]) = (0x1f, 0x90, 1);
        let v6 = address(libc::AF_INET6, &v6);
        assert_eq!(parse(&v6), Some(Wanted::Inet("[::1]:8080".parse().unwrap())));
        assert_eq!(parse(&v6[..24]), parse(&v6), "RFC 2133");
        let mut mapped = v6;
        mapped[18..24].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 1]);
        assert_eq!(parse(&mapped), Some(Wanted::Inet("10.0.0.1:8080".parse().unwrap())));
        let any = address(libc::AF_UNSPEC, &[0x1f, 0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(parse(&any), Some(Wanted::Inet("0.0.0.0:8080".parse().unwrap())));
    }

    #[test]
    fn unix_names_end_where_they_end() {
        assert_eq!(parse(&address(libc::AF_UNIX, b"x.sock\0junk")), Some(Wanted::Path("x.sock".into())));
        assert_eq!(parse(&address(libc::AF_UNIX, b"/x")), Some(Wanted::Path("/x".into())));
        assert_eq!(parse(&address(libc::AF_UNIX, b"\0a\0")), Some(Wanted::Abstract(b"a\0".to_vec())));
        assert_eq!(parse(&address(libc::AF_UNIX, b"")), None);
    }

    #[test]
    fn what_is_too_short_or_nobodys_is_nothing() {
        let v4 = address(libc::AF_INET, &[0x1f, 0x90, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!((0..16).all(|length| parse(&v4[..length]).is_none()));
        let port_0 = address(libc::AF_INET, &[0; 14]);
        assert_eq!(parse(&port_0), None);
        let elsewhere = address(libc::AF_UNSPEC, &v4[2..]);
        assert_eq!(parse(&elsewhere), None);
        assert_eq!(parse(&[]), None);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..20_000 {
            let mut bytes = vec![0; random.usize(0..=LONGEST)];
            random.fill(&mut bytes);
            if let Some(first) = bytes.first_mut() {
                *first %= 12;
            }
            if let Some(second) = bytes.get_mut(1) {
                *second = 0;
            }
            if let Some(Wanted::Inet(address)) = parse(&bytes) {
                assert_ne!(address.port(), 0);
            }
        }
    }
}
