use super::*;

fn held(text: &str) -> HeldPlace {
    // `any:0.0.0.0:80`: for port 80 was asked.
    let (is_port, text) = text.strip_prefix("any:").map_or((false, text), |rest| (true, rest));
    let (kind, text) = match text.strip_prefix("udp:") {
        Some(rest) => (Kind::Udp, rest),
        None => (Kind::Tcp, text),
    };
    // `*` for `[::]` with IPv4.
    let (takes_ipv4, text) = match text.strip_prefix('*') {
        Some(port) => (true, format!("[::]{port}")),
        None => (false, text.to_owned()),
    };
    HeldPlace { kind, at: Wanted::Inet(text.parse().unwrap()), takes_ipv4, is_port }
}

#[track_caller]
fn check(family: WantedFamily, wanted: &str, places: &[&str], expected: Answer) {
    let kind = if wanted.starts_with("udp:") { WantedType::Datagram } else { WantedType::Stream };
    let (family, v6_only) = (family, (family == WantedFamily::V6).then_some(false));
    let wanted = Wanted::Inet(wanted.trim_start_matches("udp:").parse().unwrap());
    let places: Vec<HeldPlace> = places.iter().map(|text| held(text)).collect();
    let got = answer(WantedSocket { family, kind, v6_only }, &wanted, &places, |_| false);
    assert_eq!(got, expected, "{wanted:?} of {places:?}");
    if got != Answer::Pass {
        assert!(is_near(&wanted, &places));
    }
}

#[test]
fn the_address_itself_or_one_that_includes_it() {
    use WantedFamily::{V4, V6};
    check(V4, "127.0.0.1:80", &["127.0.0.1:80"], Answer::Held(0));
    check(V4, "127.0.0.1:81", &["127.0.0.1:80"], Answer::Pass);
    check(V4, "127.0.0.2:80", &["127.0.0.1:80"], Answer::Pass);
    check(V4, "127.0.0.2:80", &["127.0.0.1:80", "0.0.0.0:80"], Answer::Held(1));
    check(V4, "udp:127.0.0.1:80", &["127.0.0.1:80"], Answer::Pass);
    check(V4, "udp:127.0.0.1:80", &["127.0.0.1:80", "udp:127.0.0.1:80"], Answer::Held(1));
    check(V6, "[::1]:80", &["[::]:80"], Answer::Held(0));
    check(V6, "[::1]:80", &["*:80"], Answer::Held(0));
}

#[test]
fn a_server_that_wants_all_of_a_port() {
    use WantedFamily::{V4, V6};
    check(V6, "[::]:80", &["*:80"], Answer::Held(0));
    check(V6, "[::]:80", &["0.0.0.0:80"], Answer::Held(0));
    check(V6, "[::]:80", &["0.0.0.0:80", "[::]:80"], Answer::Held(1));
    check(V4, "0.0.0.0:80", &["0.0.0.0:80", "[::]:80"], Answer::Held(0));
    // The only one held.
    check(V4, "0.0.0.0:80", &["127.0.0.1:80"], Answer::Held(0));
    check(V6, "[::]:80", &["127.0.0.1:80"], Answer::Held(0));
    check(V6, "[::]:80", &["127.0.0.1:80", "127.0.0.2:80"], Answer::Pass);
}

#[test]
fn no_ipv4_socket_becomes_one_of_ipv6() {
    use WantedFamily::{V4, V6};
    check(V4, "0.0.0.0:80", &["*:80"], Answer::WrongFamily(0));
    check(V4, "127.0.0.1:80", &["*:80"], Answer::WrongFamily(0));
    check(V4, "0.0.0.0:80", &["*:80", "udp:0.0.0.0:80"], Answer::WrongFamily(0));
    check(V6, "127.0.0.1:80", &["0.0.0.0:80"], Answer::Held(0));
    // The only held socket is of IPv6 alone, which a server of IPv4 cannot use.
    check(V4, "127.0.0.1:80", &["[::]:80"], Answer::Pass);
}

#[test]
fn a_socket_of_ipv6_alone_stands_beside_one_of_ipv4() {
    let places = [held("0.0.0.0:80")];
    let wanted = Wanted::Inet("[::]:80".parse().unwrap());
    let socket = |v6_only| WantedSocket { family: WantedFamily::V6, kind: WantedType::Stream, v6_only };
    let of = |v6_only| answer(socket(v6_only), &wanted, &places, |_| false);
    assert_eq!(of(Some(true)), Answer::Beside(0));
    assert_eq!((of(Some(false)), of(None)), (Answer::Held(0), Answer::Held(0)));
    let places = [held("*:80")];
    assert_eq!(answer(socket(Some(true)), &wanted, &places, |_| false), Answer::Held(0));
}

#[test]
fn of_a_port_alone_a_server_may_have_either_family() {
    use WantedFamily::{V4, V6};
    check(V6, "[::1]:80", &["any:0.0.0.0:80"], Answer::Beside(0));
    check(V6, "[::1]:80", &["0.0.0.0:80"], Answer::Pass);
    check(V6, "[::]:80", &["any:0.0.0.0:80"], Answer::Wider(0));
    check(V6, "[::]:80", &["any:0.0.0.0:80", "any:[::]:80"], Answer::Held(1));
    check(V6, "127.0.0.1:80", &["any:0.0.0.0:80"], Answer::Held(0));
    check(V4, "127.0.0.1:80", &["any:0.0.0.0:80", "any:[::]:80"], Answer::Held(0));
    check(V6, "[::1]:80", &["any:0.0.0.0:80", "any:[::]:80"], Answer::Held(1));
    check(V6, "[::1]:80", &["any:0.0.0.0:80", "any:*:80"], Answer::Held(1));
}

#[test]
fn unix_names() {
    let place = |kind, at| HeldPlace { kind, at, takes_ipv4: false, is_port: false };
    let path = || Wanted::Path("/run/x".into());
    let places = [place(Kind::Unix, path()), place(Kind::UnixGram, Wanted::Abstract(b"x".to_vec()))];
    let socket = |kind| WantedSocket { family: WantedFamily::Unix, kind, v6_only: None };
    let is_same = |place: &HeldPlace| place.at == path();
    assert_eq!(answer(socket(WantedType::Stream), &path(), &places, is_same), Answer::Held(0));
    assert_eq!(answer(socket(WantedType::Stream), &path(), &places, |_| false), Answer::Pass);
    assert_eq!(answer(socket(WantedType::NoStream), &path(), &places, is_same), Answer::Pass);
    assert_eq!(
        answer(socket(WantedType::NoStream), &places[1].at.clone(), &places, is_same),
        Answer::Held(1)
    );
    // A sockaddr of another family than the socket: the kernel refuses it.
    let inet = WantedSocket { family: WantedFamily::V4, kind: WantedType::Stream, v6_only: None };
    assert_eq!(answer(inet, &path(), &places, is_same), Answer::Pass);
}
