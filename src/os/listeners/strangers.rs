//! Processes that have joined one of our addresses by SO_REUSEPORT: found, told, and reckoned with in steering.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{ListenerContext, Listeners};
use crate::core::SocketNote;
use crate::os::diag::{self, Diag, InetSocket, SocketState};
use crate::os::socket::HeldSocket;
use crate::os::warning::Warn;

/// How soon strangers are looked for again, as long as the end of one would move ours: nothing tells of that.
pub(super) const STRANGERS: Duration = Duration::from_millis(100);

/// How soon after a start strangers are looked for, at the latest. To look takes longer than all else that a start takes, so
/// it is done when the server is ready, which moves the traffic; restarts that follow each other faster have one look.
const UNSEEN: Duration = Duration::from_millis(20);

/// Sockets of other processes in our groups, and what was logged of them.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    /// The inodes of strangers, by held socket.
    found: Vec<(Rc<HeldSocket>, Vec<u64>)>,
    told: HashSet<ToldStranger>,
    /// When a process was first started since somebody looked.
    unseen_since: Option<Instant>,
}

impl Strangers {
    /// How long it may take until somebody looks.
    pub(super) fn patience(&self) -> Option<Duration> {
        self.unseen_since.map(|since| UNSEEN.saturating_sub(since.elapsed()))
    }

    pub(super) fn is_any_known(&self) -> bool {
        !self.found.is_empty()
    }

    /// Forgets a socket that is held no longer.
    pub(super) fn forget(&mut self, gone: &Rc<HeldSocket>) {
        self.found.retain(|(socket, _)| !Rc::ptr_eq(socket, gone));
    }
}

/// A note that was logged, remembered until its process is gone; for a process of a server for ever.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ToldStranger {
    socket: String,
    /// What it was said to take.
    takes: Option<String>,
    /// The process; `None` for one of a server.
    other: Option<String>,
}

/// Other processes that listen at held addresses.
impl Listeners {
    pub(super) fn may_strangers_move_us(&self) -> bool {
        self.strangers.found.iter().any(|(socket, _)| socket.may_move())
    }

    /// A process is about to start: who has come since the last one is to be looked for, before a socket of ours joins a
    /// group again or the traffic moves, and else soon.
    pub fn expect_strangers(&mut self) {
        self.strangers.unseen_since.get_or_insert_with(Instant::now);
    }

    pub(super) fn look_for_unseen_strangers(&mut self, cx: &mut ListenerContext<'_>) {
        if self.strangers.unseen_since.is_some() {
            self.look_for_strangers(cx);
        }
    }

    /// At each turn of the loop.
    pub fn look_for_strangers_in_time(&mut self, cx: &mut ListenerContext<'_>) {
        let is_late = self.strangers.patience().is_some_and(|left| left.is_zero());
        if is_late || self.may_strangers_move_us() {
            self.look_for_strangers(cx);
        }
    }

    pub fn look_for_strangers(&mut self, cx: &mut ListenerContext<'_>) {
        self.strangers.unseen_since = None;
        let held: Vec<_> =
            self.held().into_iter().filter(|one| one.is_steered() && one.kind.is_inet()).collect();
        // What a swap has removed is not kept open for them.
        self.strangers.found.retain(|(one, _)| held.iter().any(|socket| Rc::ptr_eq(socket, one)));
        match self.strangers_of(&held, &mut cx.questions.diag) {
            Ok(found) => {
                for (socket, found) in held.into_iter().zip(found) {
                    self.set_strangers(socket, found, cx);
                }
            }
            Err(error) => {
                log::debug!("cannot list the sockets of other processes at the held addresses: {error}")
            }
        }
    }

    /// For each: sockets of others at the port that get, or could get, what comes to ours; in the order of their inode
    /// numbers, which is that in which they came.
    fn strangers_of(&self, sockets: &[Rc<HeldSocket>], diag: &mut Diag) -> io::Result<Vec<Vec<InetSocket>>> {
        let mut own = HashSet::new();
        for held in self.held().iter().chain(self.replaced()) {
            own.extend(held.inodes()?);
        }
        let addresses: Vec<Vec<SocketAddr>> = sockets.iter().map(|socket| addresses_of(socket)).collect();
        let of_kind = |is_tcp: bool| -> Vec<SocketAddr> {
            let meant =
                sockets.iter().zip(&addresses).filter(|(socket, _)| socket.kind.is_stream() == is_tcp);
            meant.flat_map(|(_, at)| at.iter().copied()).collect()
        };
        let tcp = diag.listeners(&of_kind(true))?;
        let udp = diag.udp(&of_kind(false))?;
        let known: HashSet<u64> =
            self.strangers.found.iter().flat_map(|(_, inodes)| inodes).copied().collect();
        let others = |(socket, addresses): (&Rc<HeldSocket>, &Vec<SocketAddr>)| {
            let there = if socket.kind.is_stream() { &tcp } else { &udp };
            let Some(address) = addresses.first() else { return Vec::new() };
            // Connected, a UDP socket is in no group; and where servers connect theirs, a new one may have been ours.
            let is_possible = |inode: u64| !socket.renews() || known.contains(&inode);
            let is_other = |one: &&InetSocket| {
                one.inode != 0
                    && is_possible(one.inode.into())
                    && one.state != SocketState::Established
                    && !own.contains(&u64::from(one.inode))
                    && one.is_at(*address)
            };
            let found = addresses.iter().flat_map(|at| there.at(*at));
            let mut found: Vec<InetSocket> = found.filter(is_other).cloned().collect();
            found.sort_by_key(|one| one.inode);
            found
        };
        Ok(sockets.iter().zip(&addresses).map(others).collect())
    }

    fn set_strangers(
        &mut self,
        socket: Rc<HeldSocket>,
        found: Vec<InetSocket>,
        cx: &mut ListenerContext<'_>,
    ) {
        let inodes: Vec<u64> = found.iter().map(|one| one.inode.into()).collect();
        let known = self.strangers.found.iter().position(|(one, _)| Rc::ptr_eq(one, &socket));
        let before = known.map(|at| self.strangers.found.swap_remove(at).1).unwrap_or_default();
        if inodes != before {
            // Only those of the same address have a place in the group.
            let is_member = |one: &&InetSocket| socket.local_address().is_some_and(|own| own == one.local);
            let members: Vec<u64> = found.iter().filter(is_member).map(|one| one.inode.into()).collect();
            if let Err(error) = socket.set_strangers(&members) {
                Warn::SteerPast(&socket.address).because(error);
            }
            for new in found.iter().filter(|one| !before.contains(&one.inode.into())) {
                self.tell_stranger(&socket, new, !is_member(&new), cx);
            }
            let told = &mut self.strangers.told;
            let others = |told: &ToldStranger| told.socket == socket.address && told.other.is_some();
            if inodes.is_empty() && told.extract_if(others).count() > 0 {
                cx.outbox.tell(SocketNote::StrangerGone { socket: socket.address.clone() });
            }
        }
        if !inodes.is_empty() {
            self.strangers.found.push((socket, inodes));
        }
    }

    /// Once: each thread of a server may have a socket of its own, and each of its generations has them anew.
    fn tell_stranger(
        &mut self,
        socket: &HeldSocket,
        stranger: &InetSocket,
        takes: bool,
        cx: &mut ListenerContext<'_>,
    ) {
        // Mostly it is a process of a server of ours. All of this machine would be too many to look at.
        let of_generation = |(generation, _)| cx.children.pids(generation).unwrap_or_default();
        let pids: Vec<_> = cx.children.slots().into_iter().flat_map(of_generation).collect();
        let server = diag::holder(stranger.inode, &pids);
        let is_server = server.is_some();
        let who = server.unwrap_or_else(|| format!("a process of uid {}", stranger.uid));
        let takes = takes.then(|| stranger.local.to_string());
        let socket = socket.address.clone();
        let other = (!is_server).then(|| who.clone());
        let told = ToldStranger { socket: socket.clone(), takes: takes.clone(), other };
        if self.strangers.told.insert(told) {
            cx.outbox.tell(SocketNote::Stranger { socket, who, takes, is_server });
        }
    }
}

/// Its own, and where somebody would get what comes to it.
fn addresses_of(socket: &HeldSocket) -> Vec<SocketAddr> {
    let Some(address) = socket.local_address() else { return Vec::new() };
    // A socket for IPv4 goes before one for both.
    let ipv4 = socket.takes_ipv4().then(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())));
    [address].into_iter().chain(ipv4).collect()
}
