//! How TCP and UDP sockets are bound: by themselves, or as a group with slots.
//!
//! SO_REUSEADDR is set on TCP, so that a restart does not wait for TIME_WAIT; two listeners still exclude each other.
//! It is not set on UDP, where it means something else: a second socket, of any user, could bind the same port and
//! take the datagrams. For the same reason a first socket is bound without SO_REUSEPORT, unless ReusePort= asks for it;
//! what follows, where there are to be several of one address, is in `group`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use nix::errno::Errno;
use nix::net::if_::{if_indextoname, if_nametoindex};

use super::group::Group;
use super::one::{NOT_ASKED, OneSocket};
use super::plan::{Families, InetError, InetPlan, NoGroup};
use super::slots::Slots;
use super::{BindError, options};
use crate::config::{Handover, Listener, Protocol};

/// How often a port picked by the kernel is tried before giving up: somebody took it between two system calls.
const PORT_TRIES: u32 = 16;

/// A port alone: `[::]` with IPv4 included, or `0.0.0.0` where the host has no IPv6.
pub(super) fn hold_port(
    listener: &Rc<Listener>,
    port: u16,
    handover: Handover,
) -> Result<Box<dyn Slots>, BindError> {
    let v6_only = listener.options.v6_only;
    let v6 = InetPlan {
        listener: Rc::clone(listener),
        v6_only: Some(v6_only.unwrap_or(false)),
        address: SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
        is_beside: false,
    };
    let v4 = || InetPlan {
        listener: Rc::clone(listener),
        v6_only: None,
        address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        is_beside: false,
    };
    let result = match hold(v6, handover) {
        // Not for BindIPv6Only=ipv6-only: IPv4 is what it asked to keep out.
        Err(InetError { errno: Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL, .. }) if v6_only != Some(true) => {
            hold(v4(), handover)
        }
        result => result,
    };
    result.map_err(|failure| BindError::inet(listener, &failure))
}

pub(super) fn hold_address(
    listener: &Rc<Listener>,
    mut address: SocketAddr,
    interface: Option<&str>,
    handover: Handover,
) -> Result<Box<dyn Slots>, BindError> {
    if let Some(interface) = interface {
        let SocketAddr::V6(v6) = &mut address else {
            return Err(BindError::scope_of_ipv4(listener, interface));
        };
        let index = interface_index(interface).ok_or_else(|| BindError::no_interface(listener, interface))?;
        v6.set_scope_id(index);
    }
    let v6_only = if address.is_ipv6() { listener.options.v6_only } else { None };
    let plan = InetPlan { listener: Rc::clone(listener), v6_only, address, is_beside: false };
    hold(plan, handover).map_err(|failure| BindError::inet(listener, &failure))
}

/// One family of a port alone, or both, beside a socket of ours that has another one, or both: the kernel prefers that of
/// IPv4 for what comes by IPv4. Both sockets need SO_REUSEPORT for that.
pub(super) fn hold_beside(
    listener: &Rc<Listener>,
    families: Families,
    port: u16,
    handover: Handover,
) -> Result<Box<dyn Slots>, BindError> {
    let (ip, v6_only) = match families {
        Families::V4 => (IpAddr::from(Ipv4Addr::UNSPECIFIED), None),
        Families::V6 => (Ipv6Addr::UNSPECIFIED.into(), Some(true)),
        Families::Both => (Ipv6Addr::UNSPECIFIED.into(), Some(false)),
    };
    let plan = InetPlan {
        listener: Rc::clone(listener),
        v6_only,
        address: SocketAddr::new(ip, port),
        is_beside: true,
    };
    hold(plan, handover).map_err(|failure| BindError::inet(listener, &failure))
}

/// The index of an interface, looked up by name first: one may be called `2`.
fn interface_index(interface: &str) -> Option<u32> {
    if let Ok(index) = if_nametoindex(interface) {
        return Some(index);
    }
    let index = interface.parse().ok()?;
    if_indextoname(index).is_ok().then_some(index)
}

/// A port picked by the kernel is not locked: after shutdown(2) and listen(2) by a server it would change. So the
/// number is learned with a scratch socket and then asked for by name.
fn hold(mut plan: InetPlan, handover: Handover) -> Result<Box<dyn Slots>, InetError> {
    if plan.address.port() != 0 {
        return slots(&plan, handover);
    }
    let mut tries = 1;
    loop {
        plan.address.set_port(0);
        plan.address.set_port(plan.free_port()?);
        match slots(&plan, handover) {
            Err(InetError { errno: Errno::EADDRINUSE, .. }) if tries < PORT_TRIES => tries += 1,
            result => return result,
        }
    }
}

fn slots(plan: &InetPlan, handover: Handover) -> Result<Box<dyn Slots>, InetError> {
    let (fd, failures) = plan.unbound()?;
    let kind = plan.listener.kind;
    let backlog = kind.listens().then_some(plan.listener.options.backlog);
    let slots: Box<dyn Slots> = match why_shared(plan, handover) {
        None => match Group::make(plan, fd) {
            Ok(group) => Box::new(group),
            Err(NoGroup::Shared(fd, why)) => OneSocket::hold(fd, kind, backlog, why),
            Err(NoGroup::Bind(error)) => return Err(error),
        },
        Some(why) => {
            plan.bind(&fd)?;
            plan.listen(&fd)?;
            OneSocket::hold(fd, kind, backlog, why)
        }
    };
    // For one beside another it was logged already.
    if !plan.is_beside {
        options::warn(&plan.listener, &failures);
    }
    Ok(slots)
}

/// What is known to be impossible, or not asked for.
fn why_shared(plan: &InetPlan, handover: Handover) -> Option<&'static str> {
    let options = &plan.listener.options;
    if handover == Handover::Shared {
        return Some(NOT_ASKED);
    }
    if options.reuse_port {
        return Some("with ReusePort=yes others may listen there, too");
    }
    match options.protocol {
        Some(Protocol::UdpLite) => return Some("UDP-Lite cannot be steered"),
        Some(Protocol::Sctp) => return Some("SCTP cannot be steered"),
        Some(Protocol::Mptcp) => return Some("MPTCP cannot be steered"),
        None => {}
    }
    // The kernel copies these to every socket of the port: the others would only collect them.
    let is_for_many = options.broadcast || plan.address.ip().is_multicast();
    (plan.is_udp() && is_for_many).then_some("broadcasts and multicasts reach every socket of a port")
}
