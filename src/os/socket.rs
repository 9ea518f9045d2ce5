//! The sockets we hold: bound once, all or none, and kept until we end whatever the server does.
//!
//! [`bind_all`] is called once, before anything is started, [`rebind`] when the unit files are read anew. How a kind is
//! bound is in `inet`, `local` (AF_UNIX; its paths: `node`) and `inherited`, what is set on it in `options`.
//! What the sockets of one address can do is in `slots`, and each kind does it in its own way: `one` for all generations, a
//! `group` of TCP or UDP (its members' `order`, its `program`; `restore` undoes what a server set), `nodes` of AF_UNIX. One
//! family of a port on its own is `beside`, where clients find a socket `target`; `holder` finds out who is in the way, and
//! `error` puts it into words.

mod beside;
mod error;
mod group;
pub(super) mod holder;
mod inet;
mod inherited;
mod local;
mod node;
mod nodes;
mod one;
mod options;
mod order;
mod plan;
mod program;
mod rebind;
mod restore;
mod saved;
mod slots;
mod target;

use std::cell::{Cell, RefCell};
use std::collections::hash_map::DefaultHasher;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use nix::net::if_::if_indextoname;
use nix::sys::socket::{SockaddrStorage, getsockname};

use super::saved::KeptFds;
use super::sys::left::LeftFds;
use super::warning::Told;
use crate::config::{Address, Handover, Kind, Listener};
pub use error::BindError;
use group::Group;
pub use inherited::{Inherited, announced};
pub use node::OwnPath;
pub use nodes::WATCH;
use nodes::{NoSlots, Nodes};
use one::{NOT_ASKED, OneSocket};
pub use plan::Families;
pub use program::ProbePort;
pub use rebind::rebind;
pub use restore::carry_over;
use saved::SavedSlots;
pub use saved::{SavedNames, SavedSocket};
pub use slots::PathState;
use slots::Slots;
pub use target::Target;

/// One held address, and its sockets. Close-on-exec; O_NONBLOCK is off unless it was inherited with it.
#[derive(Debug)]
pub struct HeldSocket {
    /// The path to unlink at the end; None for all that we did not create. First, because it is dropped first: an open
    /// socket keeps its inode number from being used again.
    pub own_path: Option<OwnPath>,
    slots: RefCell<Box<dyn Slots>>,
    /// What it is; [`Kind::Fd`] only for an inherited socket of none of the other kinds.
    pub kind: Kind,
    /// The address by getsockname(2), with the port that the kernel picked: `[::]:443`, `/run/x.sock`, `@abstract`.
    pub address: String,
    /// The port of an internet socket; AF_UNIX has none.
    pub port: Option<u16>,
    /// The backlog; `None` for datagrams, and where an outer manager has called listen(2).
    pub backlog: Option<u32>,
    /// The listener for which it was bound.
    asked: Rc<Listener>,
    /// The number under which an outer manager handed it to us.
    inherited: Option<RawFd>,
    /// A server that binds for itself wanted it beside the one that was asked for (`beside`).
    is_beside: bool,
    /// It is of both families, and one of these takes what comes by IPv4.
    has_ipv4_beside: Cell<bool>,
}

/// A held socket as a list of listeners names it. The socket is shared with the list of before a swap that reads the
/// unit files anew, and closed with the last list that has it.
#[derive(Clone, Debug)]
pub struct NamedSocket {
    /// Its name in LISTEN_FDNAMES.
    pub name: String,
    pub socket: Rc<HeldSocket>,
}

impl Deref for NamedSocket {
    type Target = HeldSocket;

    fn deref(&self) -> &HeldSocket {
        &self.socket
    }
}

impl HeldSocket {
    /// `fd:NAME`: what it is was known only when it was taken over.
    pub fn was_of_unknown_kind(&self) -> bool {
        self.asked.kind == Kind::Fd
    }

    /// The form that `--listen` reads, without the kind where the address suggests it.
    pub fn shown(&self) -> String {
        if self.kind.is_stream() || self.kind == Kind::Fd {
            return self.address.clone();
        }
        format!("{}:{}", self.kind, self.address)
    }
}

#[cfg(test)]
impl NamedSocket {
    /// For tests of those who only pass it on.
    pub(super) fn of(name: &str, fd: OwnedFd) -> Self {
        let asked = Listener::parse("@test", None).expect("an address");
        let socket = HeldSocket {
            own_path: None,
            slots: RefCell::new(OneSocket::hold(fd, Kind::Unix, None, NOT_ASKED)),
            kind: Kind::Unix,
            address: String::new(),
            port: None,
            backlog: None,
            asked: Rc::new(asked),
            inherited: None,
            is_beside: false,
            has_ipv4_beside: Cell::new(false),
        };
        Self { name: name.to_owned(), socket: Rc::new(socket) }
    }
}

/// Binds all of them, or none: at the first error those already bound are closed, and the paths created for them are
/// gone again; directories made for them stay. [`Handover::Steered`] makes slots where that is possible.
pub fn bind_all(
    listeners: &[Listener],
    inherited: &Inherited,
    handover: Handover,
) -> Result<Vec<NamedSocket>, BindError> {
    rebind(&[], listeners, inherited, handover)
}

const UNSTEERED_UNIX: &str = "only stream sockets at a path can be steered among those of AF_UNIX";

fn hold(
    listener: &Rc<Listener>,
    inherited: &Inherited,
    taken: &[RawFd],
    handover: Handover,
) -> Result<HeldSocket, BindError> {
    let options = &listener.options;
    let theirs = inherited.take(listener, taken)?;
    let number = theirs.as_ref().map(|theirs| theirs.number);
    let mut own_path = None;
    let kind = theirs.as_ref().map_or(listener.kind, |theirs| theirs.kind);
    let backlog = (theirs.is_none() && kind.listens()).then_some(options.backlog);
    let unsteered = |fd, otherwise| {
        let why = if handover == Handover::Shared { NOT_ASKED } else { otherwise };
        OneSocket::hold(fd, kind, backlog, why)
    };
    let mismatch = || BindError::mismatch(listener);
    if theirs.is_none() && !listener.address.suits(kind) {
        return Err(mismatch());
    }
    // One arm for each way to bind an address.
    let slots = match (&listener.address, theirs) {
        (_, Some(theirs)) => unsteered(theirs.fd, "it was handed to us, and others may have it, too"),
        (Address::Port(port), None) => inet::hold_port(listener, *port, handover)?,
        (Address::Inet { address, interface }, None) => {
            inet::hold_address(listener, *address, interface.as_deref(), handover)?
        }
        (Address::Path(path), None) if kind.is_stream() && handover != Handover::Shared => {
            match Nodes::hold(listener, path) {
                Ok(nodes) => Box::new(nodes),
                Err(NoSlots::Shared(why)) => {
                    let (fd, own) = local::hold_path(listener, path, options)?;
                    own_path = Some(own);
                    OneSocket::hold(fd, kind, backlog, why)
                }
                Err(NoSlots::Bind(error)) => return Err(error),
            }
        }
        (Address::Path(path), None) => {
            let (fd, own) = local::hold_path(listener, path, options)?;
            own_path = Some(own);
            unsteered(fd, UNSTEERED_UNIX)
        }
        (Address::Abstract(name), None) => {
            unsteered(local::hold_abstract(listener, name, options)?, UNSTEERED_UNIX)
        }
        (Address::InheritedName(_) | Address::InheritedNumber(_), None) => return Err(mismatch()),
    };
    let fd = slots.first();
    let (address, port) =
        own_address(&fd).map_err(|errno| BindError::plain(listener, "getsockname", errno))?;
    let slots = RefCell::new(slots);
    if let Some(number) = number.filter(|_| listener.kind != Kind::Fd) {
        Told::Inherited(&listener.place, &address, number).log();
    }
    Ok(HeldSocket {
        own_path,
        slots,
        kind,
        address,
        port,
        backlog,
        asked: Rc::clone(listener),
        inherited: number,
        is_beside: false,
        has_ipv4_beside: Cell::new(false),
    })
}

/// Where the listener will be, as [`own_address`] writes it; none where only the kernel or an outer manager knows.
fn addresses(listener: &Listener) -> Vec<String> {
    match &listener.address {
        Address::Port(0) | Address::InheritedName(_) | Address::InheritedNumber(_) => Vec::new(),
        Address::Inet { address, .. } if address.port() == 0 => Vec::new(),
        // The second is what a host without IPv6 makes of it.
        Address::Port(port) => vec![format!("[::]:{port}"), format!("0.0.0.0:{port}")],
        Address::Inet { address, interface: None } => vec![address.to_string()],
        Address::Inet { address, interface: Some(interface) } => vec![format!("{address}%{interface}")],
        Address::Path(path) => vec![path.display().to_string()],
        Address::Abstract(name) => vec![format!("@{}", name.as_bytes().escape_ascii())],
    }
}

/// For the program that takes our place.
impl HeldSocket {
    pub fn save(&self, fds: &mut KeptFds) -> SavedSocket {
        SavedSocket {
            own_path: self.own_path.as_ref().map(OwnPath::save),
            slots: self.slots.borrow().save(fds),
            kind: self.kind,
            address: self.address.clone(),
            port: self.port,
            backlog: self.backlog,
            asked: Listener::clone(&self.asked),
            inherited: self.inherited.map(|number| fds.keep_number(number)),
            is_beside: self.is_beside,
            has_ipv4_beside: self.has_ipv4_beside.get(),
        }
    }
}

impl HeldSocket {
    /// Adds what differs where [`Self::save`] does.
    pub fn fingerprint(&self, hasher: &mut DefaultHasher) {
        self.slots.borrow().fingerprint(hasher);
    }
}

/// # Errors
/// A sentence: an fd is missing.
pub fn from_saved(saved: Vec<SavedSocket>, fds: &mut LeftFds) -> Result<Vec<Rc<HeldSocket>>, String> {
    let mut sockets: Vec<Rc<HeldSocket>> = Vec::new();
    for one in saved {
        let mut asked = one.asked;
        // Those of one unit have had one set of options.
        let before = sockets.last().map(|before| &before.asked.options);
        if let Some(options) = before.filter(|options| **options == asked.options) {
            asked.options = Rc::clone(options);
        }
        let asked = Rc::new(asked);
        if let Some(number) = one.inherited {
            fds.take_number(number);
        }
        let slots: Box<dyn Slots> = match one.slots {
            SavedSlots::One { fd, why_shared } => {
                OneSocket::hold(fds.take(fd)?, one.kind, one.backlog, why_shared)
            }
            SavedSlots::Group(group) => Box::new(Group::from_saved(group, &asked, fds)?),
            SavedSlots::Nodes(nodes) => Box::new(Nodes::from_saved(nodes, &asked, fds)?),
        };
        sockets.push(Rc::new(HeldSocket {
            own_path: one.own_path.map(OwnPath::from_saved),
            slots: RefCell::new(slots),
            kind: one.kind,
            address: one.address,
            port: one.port,
            backlog: one.backlog,
            asked,
            inherited: one.inherited,
            is_beside: one.is_beside,
            has_ipv4_beside: Cell::new(one.has_ipv4_beside),
        }));
    }
    Ok(sockets)
}

/// The address a socket is bound to, as text, and its port.
fn own_address(fd: &OwnedFd) -> nix::Result<(String, Option<u16>)> {
    let address: SockaddrStorage = getsockname(fd.as_raw_fd())?;
    if let Some(v4) = address.as_sockaddr_in() {
        return Ok((v4.to_string(), Some(v4.port())));
    }
    if let Some(v6) = address.as_sockaddr_in6() {
        let mut text = format!("[{}]:{}", v6.ip(), v6.port());
        if v6.scope_id() != 0 {
            // systemd's way of writing it: the interface comes after the port.
            let name = if_indextoname(v6.scope_id())
                .map_or_else(|_| v6.scope_id().to_string(), |name| name.to_string_lossy().into_owned());
            text.push('%');
            text.push_str(&name);
        }
        return Ok((text, Some(v6.port())));
    }
    Ok((address.as_unix_addr().map_or_else(|| "unknown".to_owned(), local::name_of), None))
}

/// O_NONBLOCK belongs to the open file description, so this changes it for every process that has the socket.
pub fn set_non_blocking(socket: &OwnedFd, on: bool) -> io::Result<()> {
    super::sys::set_non_blocking(socket, on)
}

#[cfg(test)]
mod tests;
