//! What the kernel and the servers are asked: how many connections a generation has, who waits on its sockets, whether it
//! answers a connection of ours. Nothing here changes who gets the traffic.

mod health;
mod silent;
mod traffic;
mod waiting;

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::children::Children;
use super::diag::{self, Diag};
use super::fd_store::FdStore;
use super::socket::{HeldSocket, NamedSocket};
use crate::core::{Event, SlotId};
use health::Asking;
pub use health::socket_of;
use silent::Silent;
use traffic::TrafficMemory;
use waiting::Hinted;

/// The questions that are asked, and what earlier answers have shown.
#[derive(Debug, Default)]
pub struct Questions {
    /// Dumps of the kernel's tables; each is taken at most once in a turn of the loop.
    pub diag: Diag,
    memory: TrafficMemory,
    asking: Option<Asking>,
    silent: Silent,
    hinted: Hinted,
}

impl Questions {
    /// How long the loop may sleep, if no event comes, before there is something to do here.
    pub fn patience(&self) -> Option<Duration> {
        let due = self.answer_due().into_iter().chain(self.handshakes_due()).min()?;
        Some(due.saturating_duration_since(Instant::now()))
    }

    /// Does what is due, and returns the answer to Ready=http:, where there is one by now.
    pub fn on_turn(&mut self) -> Option<Event> {
        self.list_due_handshakes();
        self.on_probe()
    }
}

/// What is held and who lives, as far as a question takes it.
#[derive(Debug)]
pub struct Facts<'a> {
    pub children: &'a Children,
    pub store: &'a FdStore,
    /// Every socket by all its names, and each once.
    pub named: Vec<&'a NamedSocket>,
    pub held: Vec<Rc<HeldSocket>>,
    /// The slot with the traffic.
    pub target: SlotId,
    /// The processes that pass on what waits on a slot.
    pub relays: Vec<(SlotId, Pid)>,
    /// Ports of which it is not settled which sockets the server keeps.
    pub pairs: Vec<PortPair>,
    /// A bind(2) was seen that can only have failed.
    pub has_failed_bind: bool,
}

/// An IPv4 and an IPv6 socket of one port.
#[derive(Clone, Debug)]
pub struct PortPair {
    pub asked: Rc<HeldSocket>,
    pub beside: Rc<HeldSocket>,
    /// Whether a candidate wanted it in addition to what the current generation has.
    pub is_for_candidate: bool,
}

impl Facts<'_> {
    /// Connections that are not for a generation to finish, though they carry the label of its slot: those of relays, and
    /// those in the store, which the next one gets.
    fn of_nobody(&self, slot: SlotId) -> io::Result<HashSet<u32>> {
        let pids: Vec<Pid> = self.relays.iter().filter(|(of, _)| *of == slot).map(|(_, pid)| *pid).collect();
        let mut found = if pids.is_empty() { HashSet::new() } else { diag::inodes_of(&pids)? };
        found.extend(self.store.sockets());
        Ok(found)
    }

    /// Both of a pair count as the one that was asked for, where somebody waits if he does on either. A candidate has to
    /// wait on the one that it does not have alone.
    fn as_one(&self, mut sockets: Vec<NamedSocket>, mut waited: Vec<bool>) -> (Vec<NamedSocket>, Vec<bool>) {
        for pair in &self.pairs {
            let find = |one: &Rc<HeldSocket>| sockets.iter().position(|named| Rc::ptr_eq(&named.socket, one));
            if let (Some(asked), Some(beside)) = (find(&pair.asked), find(&pair.beside)) {
                sockets.remove(beside);
                let waits = beside < waited.len() && waited.remove(beside);
                if waits && !pair.is_for_candidate {
                    waited[asked.min(beside)] = true;
                }
            }
        }
        (sockets, waited)
    }

    /// By its number or name, since the kernel does not know. There a handshake alone is no request.
    fn speaks_tls(&self, socket: &HeldSocket, at: SocketAddr) -> bool {
        let is_said = |name: &str| ["https", "tls", "ssl"].iter().any(|word| name.contains(word));
        at.port() % 1000 == 443
            || self.named.iter().any(|one| {
                std::ptr::eq(Rc::as_ptr(&one.socket), socket) && is_said(&one.name.to_ascii_lowercase())
            })
    }
}
