use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, getsockopt, socket, sockopt};

use super::*;
use crate::config::{Config, SocketOptions};
use crate::os::sys;

pub(super) fn options() -> SocketOptions {
    Config::for_command_line().socket
}

pub(super) fn asked(kind: Kind, address: Address, name: &str) -> Listener {
    Listener {
        kind,
        address,
        name: name.to_owned(),
        options: options().into(),
        place: format!("--listen {name}"),
    }
}

pub(super) fn tcp(address: &str) -> Listener {
    asked(Kind::Tcp, Address::Inet { address: address.parse().unwrap(), interface: None }, "web")
}

pub(super) fn unix(kind: Kind, path: &Path) -> Listener {
    asked(kind, Address::Path(path.to_path_buf()), "local")
}

pub(super) fn bind_one(listener: Listener) -> Result<NamedSocket, BindError> {
    bind_with(listener, &options())
}

pub(super) fn bind_with(listener: Listener, options: &SocketOptions) -> Result<NamedSocket, BindError> {
    let listener = Listener { options: options.clone().into(), ..listener };
    bind_all(&[listener], &Inherited::default(), Handover::Shared).map(|mut held| held.pop().unwrap())
}

pub(super) fn has_ipv6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}

#[test]
fn a_port_picked_by_the_kernel_is_real_and_locked() {
    let held = bind_one(tcp("127.0.0.1:0")).unwrap();
    let port = held.port.unwrap();
    assert_ne!(port, 0);
    assert_eq!(held.address, format!("127.0.0.1:{port}"));
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    // What a server may do to its copy: only a port bound by number is still the same after that.
    nix::sys::socket::shutdown(held.first().as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
    sys::listen(held.first(), 16).unwrap();
    assert_eq!(own_address(&held.first()).unwrap().1, Some(port));
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
}

#[test]
fn held_sockets_are_close_on_exec_and_blocking_until_told_otherwise() {
    let held = bind_one(tcp("127.0.0.1:0")).unwrap();
    let fd_flags = FdFlag::from_bits_retain(fcntl(held.first(), FcntlArg::F_GETFD).unwrap());
    assert!(fd_flags.contains(FdFlag::FD_CLOEXEC));
    let non_blocking = || fcntl(held.first(), FcntlArg::F_GETFL).unwrap() & OFlag::O_NONBLOCK.bits() != 0;
    assert!(!non_blocking());
    set_non_blocking(&held.first(), true).unwrap();
    assert!(non_blocking());
    set_non_blocking(&held.first(), false).unwrap();
    assert!(!non_blocking());
}

#[test]
fn a_port_alone_takes_both_families() {
    let held = bind_one(asked(Kind::Tcp, Address::Port(0), "web")).unwrap();
    let port = held.port.unwrap();
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    // Where IPv6 is switched off by sysctl there is no [::1], but [::] is still bound and takes IPv4.
    let wildcard = if TcpListener::bind("[::]:0").is_ok() { "[::]" } else { "0.0.0.0" };
    assert_eq!(held.address, format!("{wildcard}:{port}"));
    if has_ipv6() {
        TcpStream::connect(format!("[::1]:{port}")).unwrap();
    }
}

#[test]
fn ipv6_only_keeps_ipv4_out() {
    if !has_ipv6() {
        return;
    }
    let options = SocketOptions { v6_only: Some(true), ..options() };
    let held = bind_with(asked(Kind::Tcp, Address::Port(0), "web"), &options).unwrap();
    let port = held.port.unwrap();
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect_err("IPv6 only");
    TcpStream::connect(format!("[::1]:{port}")).unwrap();
}

#[test]
fn a_taken_port_names_its_holder() {
    let pid = std::process::id();
    let theirs = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = theirs.local_addr().unwrap().port();
    for listener in [tcp(&format!("127.0.0.1:{port}")), asked(Kind::Tcp, Address::Port(port), "web")] {
        let error = bind_one(listener).expect_err("taken");
        assert_eq!(error.errno, Some(libc::EADDRINUSE));
        let text = error.to_string();
        assert!(text.starts_with(&format!("--listen web: port {port} is in use by pid {pid} (")), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }
}

#[test]
fn a_wildcard_holder_of_the_port_is_named_too() {
    let theirs = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = theirs.local_addr().unwrap().port();
    let error = bind_one(tcp(&format!("127.0.0.1:{port}"))).expect_err("taken");
    assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
}

#[test]
fn a_port_listed_twice_is_told_so() {
    let held = bind_one(tcp("127.0.0.1:0")).unwrap();
    let error = bind_one(tcp(&held.address)).expect_err("we have it");
    assert!(error.to_string().contains("which is this supervise (list it once"), "{error}");
}

#[test]
fn a_low_port_needs_a_capability() {
    let start = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    match bind_one(tcp("127.0.0.1:1")) {
        Err(error) if error.errno == Some(libc::EACCES) => {
            let text = error.to_string();
            assert!(text.contains("CAP_NET_BIND_SERVICE") && text.contains(start.trim()), "{text}");
        }
        // We may: as root, or in a container that lowered the sysctl.
        Ok(held) => assert_eq!(held.port, Some(1)),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn udp_is_bound_once_only() {
    let address = Address::Inet { address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), interface: None };
    let held = bind_one(asked(Kind::Udp, address, "dns")).unwrap();
    let port = held.port.unwrap();
    let address = Address::Inet { address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), interface: None };
    let error =
        bind_one(asked(Kind::Udp, address, "dns")).expect_err("SO_REUSEADDR would let a second one in");
    assert_eq!(error.errno, Some(libc::EADDRINUSE));
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().send_to(b"x", (Ipv4Addr::LOCALHOST, port)).unwrap();
    assert_eq!(
        nix::sys::socket::recv(held.first().as_raw_fd(), &mut [0; 8], nix::sys::socket::MsgFlags::empty()),
        Ok(1)
    );
    assert_eq!(held.queue(), (None, None));
}

#[test]
fn all_or_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sock");
    let theirs = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    // An address of its own: no other test can pick the port in between.
    let first = bind_one(tcp("127.21.3.4:0")).unwrap();
    let free = first.address.clone();
    drop(first);
    let listeners = [tcp(&free), unix(Kind::Unix, &path), tcp(&theirs.local_addr().unwrap().to_string())];
    bind_all(&listeners, &Inherited::default(), Handover::Shared).expect_err("the last one is taken");
    assert!(!path.exists());
    TcpListener::bind(&free).expect("closed again");
}

#[test]
fn an_address_this_host_does_not_have_and_free_bind() {
    // 192.0.2.0/24 is TEST-NET-1: nobody has it.
    let error = bind_one(tcp("192.0.2.1:0")).expect_err("not ours");
    assert_eq!(error.errno, Some(libc::EADDRNOTAVAIL));
    assert!(error.to_string().contains("192.0.2.1"), "{error}");
    bind_with(tcp("192.0.2.1:0"), &SocketOptions { free_bind: true, ..options() }).unwrap();
}

#[test]
fn an_unknown_interface_is_named() {
    let address =
        Address::Inet { address: "[fe80::1]:0".parse().unwrap(), interface: Some("no-such-if".to_owned()) };
    let error = bind_one(asked(Kind::Tcp, address, "web")).expect_err("no such interface");
    assert!(error.to_string().contains("`no-such-if`"), "{error}");
}

#[test]
fn options_reach_the_socket() {
    let options = SocketOptions {
        backlog: 7,
        no_delay: true,
        keep_alive: true,
        defer_accept: crate::config::Span::from_millis(500),
        receive_buffer: Some(65536),
        ..options()
    };
    let held = bind_with(tcp("127.0.0.1:0"), &options).unwrap();
    assert!(getsockopt(&held.first(), sockopt::TcpNoDelay).unwrap());
    assert!(getsockopt(&held.first(), sockopt::KeepAlive).unwrap());
    assert_eq!(getsockopt(&held.first(), sockopt::RcvBuf).unwrap(), 2 * 65536);
    assert!(getsockopt(&held.first(), sockopt::ReuseAddr).unwrap());
    assert!(!getsockopt(&held.first(), sockopt::ReusePort).unwrap());
    assert_eq!(held.queue(), (Some(0), Some(7)));
}

#[test]
fn the_queue_is_counted() {
    let held = bind_one(tcp("127.0.0.1:0")).unwrap();
    let _clients = [(); 2].map(|()| TcpStream::connect(&held.address).unwrap());
    let (depth, limit) = held.queue();
    assert_eq!(depth, Some(2));
    assert!(limit.unwrap() > 0);
}

#[test]
fn a_unix_path_gets_its_mode_and_is_removed_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    for (kind, mode) in [(Kind::Unix, 0o666), (Kind::UnixGram, 0o600), (Kind::SeqPacket, 0o777)] {
        let path = directory.path().join("sock");
        let held = bind_with(unix(kind, &path), &SocketOptions { mode, ..options() }).unwrap();
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o7777, mode);
        assert_eq!((held.address.as_str(), held.port), (path.to_str().unwrap(), None));
        assert_eq!(held.queue(), (None, None));
        drop(held);
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn only_our_own_inode_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sock");
    let held = bind_one(unix(Kind::Unix, &path)).unwrap();
    assert!(held.own_path.as_ref().unwrap().is_ours());
    fs::remove_file(&path).unwrap();
    let theirs = UnixListener::bind(&path).unwrap();
    assert!(!held.own_path.as_ref().unwrap().is_ours());
    drop(held);
    UnixStream::connect(&path).unwrap();
    drop(theirs);
}

#[test]
fn a_live_socket_is_refused_and_untouched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sock");
    for kind in [Kind::Unix, Kind::UnixGram, Kind::SeqPacket] {
        let theirs = UnixListener::bind(&path).unwrap();
        let before = fs::symlink_metadata(&path).unwrap().ino();
        let error = bind_one(unix(kind, &path)).expect_err("somebody listens");
        assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
        assert_eq!(fs::symlink_metadata(&path).unwrap().ino(), before);
        theirs.set_nonblocking(true).unwrap();
        let untouched = theirs.accept().expect_err("nobody connected to find out");
        assert_eq!(untouched.kind(), io::ErrorKind::WouldBlock);
        UnixStream::connect(&path).unwrap();
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_live_datagram_socket_and_one_that_does_not_listen_yet_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sock");
    let datagram = UnixDatagram::bind(&path).unwrap();
    for kind in [Kind::Unix, Kind::UnixGram] {
        bind_one(unix(kind, &path)).expect_err("somebody reads");
    }
    drop(datagram);
    fs::remove_file(&path).unwrap();
    let silent = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap();
    bind(silent.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    bind_one(unix(Kind::Unix, &path)).expect_err("somebody is about to listen");
    assert!(path.exists());
}

#[test]
fn a_dead_socket_is_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sock");
    for kind in [Kind::Unix, Kind::UnixGram, Kind::SeqPacket] {
        drop(UnixListener::bind(&path).unwrap());
        let held = bind_one(unix(kind, &path)).unwrap();
        assert_eq!(held.kind, kind);
        if kind == Kind::Unix {
            UnixStream::connect(&path).unwrap();
        }
        drop(held);
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing set aside is left");
}

#[test]
fn what_is_no_socket_is_refused_and_untouched() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "precious").unwrap();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    for (path, word) in [(&file, "a regular file"), (&link, "a symbolic link")] {
        let error = bind_one(unix(Kind::Unix, path)).expect_err(word);
        assert!(error.to_string().contains(word), "{error}");
    }
    assert!(bind_one(unix(Kind::Unix, directory.path())).is_err());
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    assert_eq!(fs::read_link(&link).unwrap(), Path::new("nowhere"));
}

#[test]
fn a_socket_of_the_outer_manager_is_taken_where_we_would_bind() {
    let theirs = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = theirs.local_addr().unwrap().to_string();
    let inherited = Inherited::from_listeners([(theirs.as_raw_fd(), "web")]);
    let held = bind_all(&[tcp("127.0.0.1:0"), tcp(&address)], &inherited, Handover::Shared).unwrap();
    assert_ne!(held[0].address, address, "a port that the kernel picks is none of theirs");
    assert_eq!(
        (held[1].address.as_str(), held[1].backlog, held[1].own_path.is_none()),
        (&*address, None, true)
    );
    let (theirs, ours) = (fd_inode(theirs.as_raw_fd()), fd_inode(held[1].first().as_raw_fd()));
    assert_eq!(theirs, ours);
    let error = bind_all(&[tcp(&address), tcp(&address)], &inherited, Handover::Shared)
        .expect_err("there is one only");
    assert!(error.by_us, "{error}");
    let udp = asked(Kind::Udp, tcp(&address).address, "dns");
    assert_ne!(
        fd_inode(bind_all(&[udp], &inherited, Handover::Shared).unwrap()[0].first().as_raw_fd()),
        theirs
    );
}

fn fd_inode(fd: RawFd) -> std::path::PathBuf {
    fs::read_link(format!("/proc/self/fd/{fd}")).unwrap()
}

#[test]
fn an_inherited_path_is_taken_and_left_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sock");
    let theirs = UnixListener::bind(&path).unwrap();
    let inherited = Inherited::from_listeners([(theirs.as_raw_fd(), "x")]);
    bind_all(&[unix(Kind::SeqPacket, &path)], &inherited, Handover::Shared)
        .expect_err("it is of another kind");
    drop(bind_all(&[unix(Kind::Unix, &path)], &inherited, Handover::Shared).unwrap());
    UnixStream::connect(&path).unwrap();
}

#[test]
fn paths_up_to_107_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let room = node::LONGEST_PATH - directory.path().as_os_str().len() - 1;
    let path = directory.path().join("x".repeat(room));
    drop(UnixListener::bind(&path).unwrap());
    let held = bind_one(unix(Kind::Unix, &path)).expect("a dead one of full length is taken over");
    UnixStream::connect(&path).unwrap();
    drop(held);
    let error = bind_one(unix(Kind::Unix, &path.with_file_name("x".repeat(room + 1)))).expect_err("too long");
    assert_eq!(error.errno, Some(libc::ENAMETOOLONG));
}

#[test]
fn an_abstract_name_leaves_nothing_behind_and_names_its_holder() {
    let name = format!("supervise-test-{}", std::process::id());
    let listener = asked(Kind::Unix, Address::Abstract(name.clone()), "local");
    let held = bind_one(listener.clone()).unwrap();
    assert_eq!(held.address, format!("@{name}"));
    assert!(held.own_path.is_none());
    let error = bind_one(listener).expect_err("taken");
    assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
}

#[test]
fn an_inherited_socket_keeps_its_address_and_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sock");
    let theirs = UnixListener::bind(&path).unwrap();
    let held = bind_one(asked(Kind::Fd, Address::InheritedNumber(theirs.as_raw_fd()), "web")).unwrap();
    assert_eq!((held.kind, held.address.as_str()), (Kind::Unix, path.to_str().unwrap()));
    assert_eq!(held.name, "web");
    drop(held);
    assert!(path.exists());
}

#[test]
fn a_kind_that_does_not_fit_is_an_error_not_a_panic() {
    bind_one(asked(Kind::Unix, Address::Port(80), "web")).expect_err("a port is no path");
}
