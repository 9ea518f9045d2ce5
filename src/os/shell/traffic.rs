//! What the kernel is asked about connections: how many a generation has, who else is on a port, what was lost.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use super::Shell;
use crate::config::{Kind, Span};
use crate::core::report::Status;
use crate::core::{Event, GenerationId, SlotId, SocketNote, Traffic, limits};
use crate::os::diag::{self, Diag, Handshakes, Holder, InetSocket, State, UnixSocket};
use crate::os::socket::HeldSocket;

/// How soon strangers are looked for again, as long as one is there: nothing tells that it leaves, and then members of
/// the group change places.
pub(super) const STRANGERS: Duration = Duration::from_millis(100);

/// What was asked and is remembered.
#[derive(Debug, Default)]
pub(super) struct Questions {
    diag: Diag,
    /// Half-open connections at the moment their slot lost the traffic.
    handshakes: BTreeMap<SlotId, Handshakes>,
    /// That the kernel does not answer was told.
    is_refusal_told: bool,
    /// ListenOverflows when the files were read last.
    overflows: Option<u64>,
    /// Other people's sockets in our groups, by ours.
    strangers: Vec<(Rc<HeldSocket>, Vec<u64>)>,
}

impl Questions {
    /// The server's side of a connection to `at`: its state, and its inode, which is 0 as long as it is not accepted.
    /// None: there is none.
    pub(super) fn other_side(
        &mut self,
        at: SocketAddr,
        from: SocketAddr,
    ) -> io::Result<Option<(State, u32)>> {
        let sockets = self.diag.tcp(at)?;
        let is_it = |one: &&InetSocket| one.is_at(at) && one.remote == from;
        Ok(sockets.iter().find(is_it).map(|one| (one.state, one.inode)))
    }
}

/// Connections.
impl Shell {
    pub(super) fn remember_handshakes(&mut self, slot: SlotId) {
        let mut begun = Handshakes::default();
        for socket in self.held().iter().filter(|socket| socket.is_steered() && socket.kind == Kind::Tcp) {
            let Some(at) = socket.local_address() else { continue };
            match self.questions.diag.handshakes(at) {
                Ok(sockets) => begun.extend(diag::handshakes(&sockets)),
                Err(error) => log::debug!("cannot look for handshakes of {}: {error}", socket.address),
            }
        }
        self.questions.handshakes.insert(slot, begun);
    }

    /// The connections of one generation on the sockets that are steered. None: the kernel does not say.
    pub(super) fn count(&mut self, generation: GenerationId, slot: SlotId, quiet: Span) {
        let held = self.held().into_iter().filter(|socket| socket.is_steered()).collect();
        let traffic = self.traffic(held, generation, slot, quiet).map_err(|error| {
            if !std::mem::replace(&mut self.questions.is_refusal_told, true) {
                log::warn!(
                    "the kernel does not tell of connections: {error}; an old generation gets all of Drain="
                );
            }
        });
        self.queue.push_back(Event::Counted { generation, traffic: traffic.ok() });
    }

    /// The connections of one generation on all sockets.
    fn connections(&mut self, generation: GenerationId, slot: SlotId) -> Option<u64> {
        let traffic = self.traffic(self.held(), generation, slot, Span::ZERO).ok()?;
        Some(u64::from(traffic.in_flight) + u64::from(traffic.recent) + u64::from(traffic.idle))
    }

    /// What of a status takes asking the kernel.
    pub(super) fn complete_traffic(&mut self, status: &mut Status) {
        let slots = self.children.slots();
        for of in &mut status.generations {
            let slot = slots.iter().find(|(generation, _)| generation.0 == of.generation);
            of.connections = slot.and_then(|(generation, slot)| self.connections(*generation, *slot));
        }
        for (index, of) in status.sockets.iter_mut().enumerate() {
            let socket = self.sockets.get(index).map(|named| Rc::clone(&named.socket));
            let unix = socket.filter(|one| matches!(one.kind, Kind::Unix | Kind::SeqPacket));
            if let Some((queue, limit)) = unix.and_then(|socket| self.unix_queue(&socket)) {
                (of.queue, of.backlog) = (Some(queue), Some(limit));
            }
        }
    }

    fn traffic(
        &mut self,
        sockets: Vec<Rc<HeldSocket>>,
        generation: GenerationId,
        slot: SlotId,
        quiet: Span,
    ) -> io::Result<Traffic> {
        let mut sum = Traffic::default();
        for socket in sockets {
            sum += match (socket.kind, socket.local_address()) {
                (Kind::Tcp, Some(at)) => self.tcp_traffic(&socket, at, generation, slot, quiet)?,
                (Kind::Unix, _) => self.unix_traffic(&socket, generation, slot)?,
                _ => Traffic { queued: socket.queued(slot)?, ..Traffic::default() },
            };
        }
        Ok(sum)
    }

    /// By label; where there are none, by what the processes of the generation have open.
    fn tcp_traffic(
        &mut self,
        socket: &HeldSocket,
        at: SocketAddr,
        generation: GenerationId,
        slot: SlotId,
        quiet: Span,
    ) -> io::Result<Traffic> {
        let mut sockets = self.questions.diag.tcp(at)?;
        // Another socket of ours may have the same port at another address.
        sockets.retain(|one| one.is_at(at));
        let relayed = self.relayed(slot)?;
        sockets.retain(|one| !relayed.contains(&one.inode));
        let none = Handshakes::default();
        let begun = self.questions.handshakes.get(&slot).unwrap_or(&none);
        // What is left of a connection, or not one yet, shows no label in any kernel.
        let is_whole = |one: &&InetSocket| matches!(one.state, State::Established | State::CloseWait);
        if socket.is_labelled() && sockets.iter().filter(is_whole).all(|one| one.label.is_some()) {
            let is_ours = |one: &InetSocket| one.label == Some(slot.0);
            return Ok(diag::traffic(&sockets, is_ours, quiet, begun));
        }
        let inodes = diag::inodes_of(&self.children.pids(generation)?)?;
        let is_ours = |one: &InetSocket| one.inode != 0 && inodes.contains(&one.inode);
        let traffic = diag::traffic(&sockets, is_ours, quiet, begun);
        Ok(Traffic { queued: socket.queued(slot)?, ..traffic })
    }

    fn unix_traffic(
        &mut self,
        socket: &HeldSocket,
        generation: GenerationId,
        slot: SlotId,
    ) -> io::Result<Traffic> {
        let sockets = self.questions.diag.unix()?;
        // Connections carry the node of the listener that they came by, as the kernel sees it: on some file systems
        // stat(2) sees another.
        let own = socket.inode(slot)?;
        let listener = sockets.iter().find(|one| u64::from(one.inode) == own);
        let Some(node) = listener.and_then(|one| one.node) else { return Ok(Traffic::default()) };
        if socket.is_steered() {
            let relayed = self.relayed(slot)?;
            let is_ours = |one: &UnixSocket| one.node == Some(node) && !relayed.contains(&one.inode);
            return Ok(diag::unix_traffic(&sockets, is_ours));
        }
        let inodes = diag::inodes_of(&self.children.pids(generation)?)?;
        let is_ours = |one: &UnixSocket| one.node == Some(node) && inodes.contains(&one.inode);
        Ok(diag::unix_traffic(&sockets, is_ours))
    }
}

/// Queues.
impl Shell {
    /// What waits on a listening unix socket, on all of its slots, and how much may: TCP says it of itself.
    pub(super) fn unix_queue(&mut self, socket: &HeldSocket) -> Option<(u32, u32)> {
        let slots = (0..limits::GENERATIONS as u8).map(SlotId);
        let own: BTreeSet<u64> = slots.filter_map(|slot| socket.inode(slot).ok()).collect();
        let target = socket.inode(self.slots.steering.slot).ok()?;
        let listeners = self.questions.diag.unix().ok()?;
        let ours = |one: &&UnixSocket| one.state == State::Listen && own.contains(&one.inode.into());
        let limit = listeners.iter().filter(ours).find(|one| u64::from(one.inode) == target)?.wqueue;
        Some((listeners.iter().filter(ours).map(|one| one.rqueue).sum(), limit))
    }
}

/// What was lost.
impl Shell {
    pub(super) fn begin_overflows(&mut self) {
        self.questions.overflows = diag::listen_overflows().ok();
    }

    pub(super) fn tell_overflows(&mut self) {
        let (Some(before), Ok(now)) = (self.questions.overflows.take(), diag::listen_overflows()) else {
            return;
        };
        let count = now.saturating_sub(before);
        if count > 0 {
            self.tell(&SocketNote::Overflowed { count }.into());
        }
    }
}

/// Processes that have joined one of our addresses by SO_REUSEPORT.
impl Shell {
    pub(super) fn has_strangers(&self) -> bool {
        self.questions.strangers.iter().any(|(_, inodes)| !inodes.is_empty())
    }

    pub(super) fn look_for_strangers(&mut self) {
        let held: Vec<_> =
            self.held().into_iter().filter(|one| one.is_steered() && one.kind != Kind::Unix).collect();
        // What a swap has removed is not kept open for them.
        self.questions.strangers.retain(|(one, _)| held.iter().any(|socket| Rc::ptr_eq(socket, one)));
        for socket in held {
            match self.strangers_of(&socket) {
                Ok(found) => self.set_strangers(socket, found),
                Err(error) => log::debug!("cannot see who else has {}: {error}", socket.address),
            }
        }
    }

    /// Sockets of others at the port that get, or could get, what comes to ours; in the order of their inode numbers,
    /// which is that in which they came.
    fn strangers_of(&mut self, socket: &HeldSocket) -> io::Result<Vec<InetSocket>> {
        let Some(address) = socket.local_address() else { return Ok(Vec::new()) };
        let mut families = vec![address];
        if socket.takes_ipv4() {
            // A socket for IPv4 goes before one for both.
            families.push(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())));
        }
        let mut found = Vec::new();
        for at in families {
            found.append(&mut match socket.kind {
                Kind::Tcp => self.questions.diag.listeners(at)?,
                _ => self.questions.diag.udp(at)?,
            });
        }
        let mut own = HashSet::new();
        for held in self.held() {
            own.extend(held.inodes()?);
        }
        found.retain(|one| one.inode != 0 && !own.contains(&u64::from(one.inode)) && one.is_at(address));
        found.sort_by_key(|one| one.inode);
        Ok(found)
    }

    fn set_strangers(&mut self, socket: Rc<HeldSocket>, found: Vec<InetSocket>) {
        let inodes: Vec<u64> = found.iter().map(|one| one.inode.into()).collect();
        let known = self.questions.strangers.iter().position(|(one, _)| Rc::ptr_eq(one, &socket));
        let before = known.map(|at| self.questions.strangers.swap_remove(at).1).unwrap_or_default();
        if inodes != before {
            // Only those of the same address have a place in the group.
            let is_member = |one: &&InetSocket| socket.local_address().is_some_and(|own| own == one.local);
            let members: Vec<u64> = found.iter().filter(is_member).map(|one| one.inode.into()).collect();
            if let Err(error) = socket.set_strangers(&members) {
                log::warn!("cannot steer {}: {error}", socket.address);
            }
            for new in found.iter().filter(|one| !before.contains(&one.inode.into())) {
                let who = match diag::holder(new.inode, new.uid) {
                    Holder::Process { pid, command } => format!("pid {pid} ({command})"),
                    Holder::Unseen { .. } | Holder::Unknown => format!("a process of uid {}", new.uid),
                };
                let takes = (!is_member(&new)).then(|| new.local.to_string());
                self.tell(&SocketNote::Stranger { socket: socket.address.clone(), who, takes }.into());
            }
            if inodes.is_empty() {
                self.tell(&SocketNote::StrangerGone { socket: socket.address.clone() }.into());
            }
        }
        if !inodes.is_empty() {
            self.questions.strangers.push((socket, inodes));
        }
    }
}
