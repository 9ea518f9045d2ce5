use std::ffi::OsString;

use nix::sys::socket::{GetSockOpt, getsockopt};

use super::super::NamedSocket;
use super::super::tests::{asked, bind_with, has_ipv6, tcp};
use super::*;
use crate::config::Address;

fn read<O: GetSockOpt>(held: &NamedSocket, option: O) -> O::Val {
    getsockopt(&held.first(), option).unwrap()
}

fn udp(address: &str) -> Listener {
    asked(Kind::Udp, tcp(address).address, "dns")
}

fn abstract_name(kind: Kind, name: &str) -> Listener {
    asked(kind, Address::Abstract(format!("supervise-{name}-{}", std::process::id())), "local")
}

#[test]
fn options_of_tcp() {
    let options = SocketOptions {
        keep_alive: true,
        keep_alive_time: Some(Span::from_secs(100)),
        keep_alive_interval: Some(Span::from_millis(20_001)),
        keep_alive_probes: Some(5),
        no_delay: true,
        defer_accept: Span::from_millis(500),
        tcp_congestion: Some("reno".to_owned()),
        ..SocketOptions::new()
    };
    let held = bind_with(tcp("127.0.0.1:0"), &options).unwrap();
    assert!(read(&held, sockopt::KeepAlive) && read(&held, sockopt::TcpNoDelay));
    assert_eq!(read(&held, sockopt::TcpKeepIdle), 100);
    assert_eq!(read(&held, sockopt::TcpKeepInterval), 21, "a part of a second is a whole one");
    assert_eq!(read(&held, sockopt::TcpKeepCount), 5);
    let name: OsString = read(&held, sockopt::TcpCongestion);
    assert_eq!(name.to_string_lossy().trim_end_matches('\0'), "reno");
}

#[test]
fn options_of_all_kinds_and_of_both_families() {
    let options = SocketOptions {
        priority: Some(3),
        receive_buffer: Some(65536),
        send_buffer: Some(32768),
        ip_tos: Some(0x10),
        ip_ttl: Some(9),
        free_bind: true,
        reuse_port: true,
        broadcast: true,
        pass_packet_info: true,
        timestamping: Timestamping::Nanoseconds,
        ..SocketOptions::new()
    };
    let held = bind_with(udp("127.0.0.1:0"), &options).unwrap();
    assert_eq!((read(&held, sockopt::RcvBuf), read(&held, sockopt::SndBuf)), (2 * 65536, 2 * 32768));
    assert!(read(&held, sockopt::ReceiveTimestampns) && read(&held, sockopt::Ipv4PacketInfo));
    assert!(read(&held, sockopt::Broadcast) && read(&held, sockopt::IpFreebind));
    assert!(read(&held, sockopt::ReusePort));
    assert_eq!((read(&held, sockopt::Ipv4Tos), read(&held, sockopt::Ipv4Ttl)), (0x10, 9));
    let plain = SocketOptions { ip_tos: None, ..options.clone() };
    let held = bind_with(udp("127.0.0.1:0"), &plain).unwrap();
    assert_eq!(read(&held, sockopt::Priority), 3, "IPTOS= sets it, too");
    if has_ipv6() {
        let held = bind_with(udp("[::1]:0"), &options).unwrap();
        assert_eq!((read(&held, sockopt::Ipv6TClass), read(&held, sockopt::Ipv6Ttl)), (0x10, 9));
        assert_eq!((read(&held, sockopt::Ipv4Tos), read(&held, sockopt::Ipv4Ttl)), (0x10, 9));
        assert!(read(&held, sockopt::Ipv6RecvPacketInfo));
    }
}

#[test]
fn options_of_unix_sockets() {
    let options = SocketOptions {
        pass_credentials: true,
        pass_security: true,
        timestamping: Timestamping::Microseconds,
        // These are for others of the same file.
        no_delay: true,
        ip_ttl: Some(9),
        ..SocketOptions::new()
    };
    let listener = abstract_name(Kind::UnixGram, "options");
    let held = bind_with(listener, &options).unwrap();
    assert!(read(&held, sockopt::PassCred) && read(&held, sockopt::ReceiveTimestamp));
    assert_eq!(set(&held.first(), Family::Unix, Kind::UnixGram, &options), <[String; 0]>::default());
}

#[test]
fn two_of_one_address_with_reuse_port() {
    let options = SocketOptions { reuse_port: true, ..SocketOptions::new() };
    let first = bind_with(tcp("127.0.0.1:0"), &options).unwrap();
    let second = bind_with(tcp(&first.address), &options).unwrap();
    assert_eq!(first.address, second.address);
    let error = bind_with(tcp(&first.address), &SocketOptions::new()).expect_err("without it");
    assert!(error.by_us, "{error}");
}

#[test]
fn mark_and_transparent_need_a_capability_and_are_no_reason_to_fail() {
    let options = SocketOptions { mark: Some(7), transparent: true, ..SocketOptions::new() };
    let held = bind_with(tcp("127.0.0.1:0"), &options).unwrap();
    let failures = set(&held.first(), Family::Inet, Kind::Tcp, &options);
    if failures.is_empty() {
        assert_eq!(read(&held, sockopt::Mark), 7);
        assert!(read(&held, sockopt::IpTransparent));
    } else {
        assert!(failures.iter().all(|text| text.contains("CAP_NET_ADMIN")), "{failures:?}");
    }
}

#[test]
fn what_cannot_be_set_is_said_once_and_no_reason_to_fail() {
    let options = SocketOptions {
        tcp_congestion: Some("no-such-one".to_owned()),
        ip_ttl: Some(300),
        ..SocketOptions::new()
    };
    let held = bind_with(tcp("127.0.0.1:0"), &options).unwrap();
    let failures = set(&held.first(), Family::Inet, Kind::Tcp, &options);
    let [ttl, congestion] = &failures[..] else { panic!("{failures:?}") };
    assert!(ttl.starts_with("IPTTL= has no effect: ") && ttl.contains("does not take"), "{ttl}");
    assert!(congestion.contains("tcp_available_congestion_control"), "{congestion}");
}

#[test]
fn a_device_that_is_not_there_is_a_reason_to_fail() {
    let on = |device: &str| SocketOptions { device: Some(device.to_owned()), ..SocketOptions::new() };
    let error = bind_with(tcp("127.0.0.1:0"), &on("no-such-if")).expect_err("no such interface");
    assert!(error.to_string().contains("`no-such-if`"), "{error}");
    bind_with(tcp("127.0.0.1:0"), &on("an-interface-of-a-long-name")).expect_err("too long for one");
    let held = bind_with(tcp("127.0.0.1:0"), &on("lo")).unwrap();
    assert_eq!(read(&held, sockopt::BindToDevice).to_string_lossy().trim_end_matches('\0'), "lo");
}

#[test]
fn protocols_work_or_say_that_this_kernel_has_them_not() {
    let with = |protocol| SocketOptions { protocol: Some(protocol), no_delay: true, ..SocketOptions::new() };
    for (listener, protocol) in [
        (udp("127.0.0.1:0"), Protocol::UdpLite),
        (tcp("127.0.0.1:0"), Protocol::Sctp),
        (tcp("127.0.0.1:0"), Protocol::Mptcp),
    ] {
        match bind_with(listener, &with(protocol)) {
            Ok(held) => {
                let number = sys::int_option(held.first(), libc::SOL_SOCKET, libc::SO_PROTOCOL).unwrap();
                assert_eq!(number, super::protocol(&with(protocol)));
            }
            Err(error) => assert!(error.cause.contains("SocketProtocol="), "{error}"),
        }
    }
    let error = bind_with(tcp("127.0.0.1:0"), &with(Protocol::UdpLite)).expect_err("no stream");
    assert!(error.remedy.contains("udplite is for datagrams"), "{error}");
}
