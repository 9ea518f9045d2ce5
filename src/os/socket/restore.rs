//! Restores the socket options that a server has changed on a held socket. What it sets on its copy is set for all
//! who have the socket, and the next server would inherit it.
//!
//! The model is a new socket with the options that were asked for. What it said is remembered for each kind of socket, so
//! that a restart compares with that, and makes a model only where something differs: the server changed it, or the
//! system's own default is another one since (of buffers the one of the time when it was bound stays). Left out is what is
//! fixed by bind(2), and what cannot be set back on a socket that listens.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use nix::sys::socket::{setsockopt, sockopt};

use super::plan::InetPlan;
use crate::config::{Kind, Listener, SocketOptions};
use crate::os::sys;
use crate::os::warning::Warn;

const SO_BUF_LOCK: libc::c_int = 72;
/// Options of <linux/udp.h> that libc lacks.
const UDP_CORK: libc::c_int = 1;
const UDP_SEGMENT: libc::c_int = 103;
const UDP_GRO: libc::c_int = 104;
const IPPROTO_UDP: libc::c_int = libc::IPPROTO_UDP;

/// Those that a server may have a reason to set. SO_TIMESTAMP comes before SO_TIMESTAMPNS, because either switches the
/// other off.
const OPTIONS: &[(libc::c_int, libc::c_int)] = &[
    (libc::SOL_SOCKET, libc::SO_REUSEADDR),
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_LINGER),
    (libc::SOL_SOCKET, libc::SO_RCVTIMEO),
    (libc::SOL_SOCKET, libc::SO_SNDTIMEO),
    (libc::SOL_SOCKET, libc::SO_RCVLOWAT),
    (libc::SOL_SOCKET, libc::SO_OOBINLINE),
    (libc::SOL_SOCKET, libc::SO_PRIORITY),
    (libc::SOL_SOCKET, libc::SO_MARK),
    (libc::SOL_SOCKET, libc::SO_INCOMING_CPU),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMP),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS),
    (libc::SOL_SOCKET, libc::SO_BINDTODEVICE),
    (libc::IPPROTO_IP, libc::IP_TOS),
    (libc::IPPROTO_IP, libc::IP_TTL),
    (libc::IPPROTO_IP, libc::IP_MINTTL),
    (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
    (libc::IPPROTO_IP, libc::IP_RECVERR),
    (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    (libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
];

const OPTIONS_OF_TCP: &[(libc::c_int, libc::c_int)] = &[
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_CORK),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_TCP, libc::TCP_SYNCNT),
    (libc::IPPROTO_TCP, libc::TCP_LINGER2),
    (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT),
    (libc::IPPROTO_TCP, libc::TCP_CONGESTION),
];

/// The general ones among them say what comes with a datagram, or where it may go. On TCP they change nothing but what is
/// read from the queue of errors, while their twins of IPv6 make the kernel copy each packet.
const OPTIONS_OF_UDP: &[(libc::c_int, libc::c_int)] = &[
    (libc::SOL_SOCKET, libc::SO_BROADCAST),
    (libc::SOL_SOCKET, libc::SO_RXQ_OVFL),
    (libc::IPPROTO_IP, libc::IP_PKTINFO),
    (libc::IPPROTO_IP, libc::IP_RECVTOS),
    (libc::IPPROTO_IP, libc::IP_RECVTTL),
    (IPPROTO_UDP, UDP_CORK),
    (IPPROTO_UDP, UDP_SEGMENT),
    (IPPROTO_UDP, UDP_GRO),
];

/// The options of a new socket of one kind.
#[derive(Debug)]
struct Model {
    kind: Kind,
    is_ipv6: bool,
    options: Rc<SocketOptions>,
    values: Vec<OptionValue>,
    buffers: Option<[u32; 2]>,
}

/// An option that the model has: its level, its name, and what it is there.
#[derive(Debug)]
struct OptionValue(libc::c_int, libc::c_int, sys::OptionBytes);

/// Each reading of the files may ask for other options; where a model was dropped, the next restart makes one.
const MOST_MODELS: usize = 64;

thread_local! {
    static MODELS: RefCell<Vec<Model>> = const { RefCell::new(Vec::new()) };
}

impl Model {
    fn of(fd: &OwnedFd, plan: &InetPlan) -> Self {
        let value = |(level, name): &(libc::c_int, libc::c_int)| {
            Some(OptionValue(*level, *name, sys::option(fd, *level, *name).ok()?))
        };
        let values = options_of(plan).filter_map(value).collect();
        let Listener { kind, options, .. } = &*plan.listener;
        let (options, is_ipv6) = (Rc::clone(options), plan.address.is_ipv6());
        Self { kind: *kind, is_ipv6, options, values, buffers: sys::socket_buffers(fd).ok() }
    }

    fn is_of(&self, plan: &InetPlan) -> bool {
        let Listener { kind, options, .. } = &*plan.listener;
        let is_same = |one: &Rc<SocketOptions>| Rc::ptr_eq(one, options) || one == options;
        self.kind == *kind && self.is_ipv6 == plan.address.is_ipv6() && is_same(&self.options)
    }

    fn is_like(&self, fd: &OwnedFd) -> bool {
        let is_same = |OptionValue(level, name, value): &OptionValue| {
            sys::option(fd, *level, *name).is_ok_and(|now| now == *value)
        };
        self.values.iter().all(is_same)
            && self.buffers.is_some()
            && sys::socket_buffers(fd).ok() == self.buffers
    }
}

fn options_of(plan: &InetPlan) -> impl Iterator<Item = &'static (libc::c_int, libc::c_int)> {
    OPTIONS.iter().chain(if plan.is_udp() { OPTIONS_OF_UDP } else { OPTIONS_OF_TCP })
}

/// Remembers what a new socket of this kind is like, while nobody waits for it.
pub(super) fn learn(plan: &InetPlan) {
    let is_known = MODELS.with_borrow(|models| models.iter().any(|model| model.is_of(plan)));
    if !is_known && let Ok((model, _)) = plan.unbound() {
        keep(Model::of(&model, plan), plan);
    }
}

/// What cannot be undone is a warning: the next server may never notice.
pub(super) fn restore(slot: &OwnedFd, plan: &InetPlan) {
    let is_as_new =
        MODELS.with_borrow(|models| models.iter().any(|model| model.is_of(plan) && model.is_like(slot)));
    if !is_as_new {
        restore_options(slot, plan);
    }
}

fn restore_options(slot: &OwnedFd, plan: &InetPlan) {
    let place = &plan.listener.place;
    let model = match plan.unbound() {
        Ok((model, _)) => model,
        Err(failure) => {
            return Warn::Undo(place).because(failure.errno.desc());
        }
    };
    for (level, name) in options_of(plan) {
        if let Err(error) = sys::copy_option(&model, slot, *level, *name) {
            Warn::Undo(place).because(format_args!("option {level}/{name}: {error}"));
        }
    }
    restore_buffers(slot, &model);
    keep(Model::of(&model, plan), plan);
}

fn keep(new: Model, plan: &InetPlan) {
    MODELS.with_borrow_mut(|models| {
        models.retain(|model| !model.is_of(plan));
        if models.len() >= MOST_MODELS {
            models.remove(0);
        }
        models.push(new);
    });
}

/// What a server has set on a socket of its own that ours takes the place of: the options that are not as a new socket has
/// them. What one of them cannot have is left out.
pub fn carry_over(theirs: &OwnedFd, slot: &OwnedFd) -> io::Result<()> {
    let of = |name| sys::int_option(theirs, libc::SOL_SOCKET, name);
    let new = sys::socket(of(libc::SO_DOMAIN)?, of(libc::SO_TYPE)?, of(libc::SO_PROTOCOL)?)?;
    let own = [(libc::SOL_SOCKET, libc::SO_PASSCRED)];
    // Who may share the address, and through which interface it is reached, is ours to say.
    let carried = |(_, name): &&(libc::c_int, libc::c_int)| {
        ![libc::SO_REUSEADDR, libc::SO_BINDTODEVICE, libc::SO_INCOMING_CPU].contains(name)
    };
    let general = OPTIONS.iter().filter(|(level, _)| *level == libc::SOL_SOCKET).filter(carried).chain(&own);
    let others = OPTIONS.iter().filter(|(level, _)| *level != libc::SOL_SOCKET);
    for (level, name) in general.chain(others).chain(OPTIONS_OF_TCP).chain(OPTIONS_OF_UDP) {
        if !sys::is_same_option(&new, theirs, *level, *name)
            && let Err(error) = sys::copy_option(theirs, slot, *level, *name)
        {
            log::debug!("cannot take over option {level}/{name} of the server's socket: {error}");
        }
    }
    let is_same_buffer = |name| sys::is_same_option(&new, theirs, libc::SOL_SOCKET, name);
    if ![libc::SO_RCVBUF, libc::SO_SNDBUF].into_iter().all(is_same_buffer) {
        restore_buffers(slot, theirs);
    }
    Ok(())
}

/// The kernel doubles what it is given, and stops tuning a buffer that was set.
fn restore_buffers(slot: &OwnedFd, model: &OwnedFd) {
    let read = |fd: &OwnedFd, name| sys::int_option(fd.as_fd(), libc::SOL_SOCKET, name).ok();
    for name in [libc::SO_RCVBUF, libc::SO_SNDBUF] {
        let wanted = read(model, name);
        if wanted != read(slot, name)
            && let Some(bytes) = wanted
        {
            let bytes = (bytes / 2) as usize;
            let result = match name {
                libc::SO_RCVBUF => setsockopt(slot, sockopt::RcvBufForce, &bytes)
                    .or_else(|_| setsockopt(slot, sockopt::RcvBuf, &bytes)),
                _ => setsockopt(slot, sockopt::SndBufForce, &bytes)
                    .or_else(|_| setsockopt(slot, sockopt::SndBuf, &bytes)),
            };
            if let Err(error) = result {
                log::debug!("cannot set a buffer of a held socket back to {bytes} bytes: {error}");
            }
            // Linux 5.14; before, only the tuning is lost.
            if let Err(error) = sys::copy_option(model, slot, libc::SOL_SOCKET, SO_BUF_LOCK) {
                log::debug!("cannot set SO_BUF_LOCK of a held socket back: {error}");
            }
        }
    }
}
