//! A network of one's own, for settings that belong to the whole machine otherwise.

use std::fs;
use std::os::fd::AsRawFd;

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use nix::unistd::geteuid;

/// Moves this thread, and what it starts from now on, into a network namespace with nothing but a loopback. False for
/// those who may not: only root may.
pub(crate) fn enter() -> bool {
    if !geteuid().is_root() {
        return false;
    }
    unshare(CloneFlags::CLONE_NEWNET).expect("root may");
    raise_loopback().expect("it is there and down");
    true
}

/// A setting of the namespace of this thread.
pub(crate) fn set(name: &str, value: &str) {
    // /proc/sys/net is that of the thread that opens it.
    fs::write(format!("/proc/sys/net/{name}"), value).expect("root may");
}

/// RTM_NEWLINK (rtnetlink(7)) for interface 1, which is `lo` in every namespace: IFF_UP.
fn raise_loopback() -> nix::Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST_ACK: u16 = 1 | 4;
    let mut message = Vec::new();
    message.extend(32u32.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    // Sequence number, port, then struct ifinfomsg: family and type, index, flags, which flags.
    for word in [1u32, 0, 0, 1, 1, 1] {
        message.extend(word.to_ne_bytes());
    }
    let route =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    sendto(route.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 64];
    let length = recv(route.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    assert!(length >= 20 && answer[16..20] == [0; 4], "an acknowledgement: {answer:?}");
    Ok(())
}
