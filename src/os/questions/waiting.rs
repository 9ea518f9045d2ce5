//! Finds out for Ready=auto which processes wait on the sockets of a generation (silent.rs: whether it accepts), and
//! makes the hint for a server that does not take its sockets.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::rc::Rc;

use nix::sys::stat::fstat;

use super::traffic::Effort;
use super::{Facts, Questions};
use crate::config::known;
use crate::core::{GenerationId, HintAt, Looked, MayConnect, Note, Sight, SlotId};
use crate::os::children::Children;
use crate::os::exec;
use crate::os::intercept::Interceptor;
use crate::os::launch::Launcher;
use crate::os::socket::{HeldSocket, NamedSocket};
use crate::os::waiters::{self, SocketInode};

/// The number of failures that brings the hint even if no bind(2) of an address in use was seen.
const PAST_THE_FILTER: u32 = 3;

/// Binding a port below this one needs a privilege.
const PRIVILEGED: u16 = 1024;

/// What is remembered of hints for generations that have ended.
#[derive(Debug, Default)]
pub(super) struct Hinted {
    /// The log has said how this server takes the sockets.
    is_told: bool,
    /// Generations that failed before they waited on a socket, since one last did.
    failures: u32,
}

impl Questions {
    pub fn look(
        &mut self,
        (generation, slot): (GenerationId, SlotId),
        ask: MayConnect,
        launcher: &Launcher,
        facts: &Facts<'_>,
    ) -> Looked {
        let effort = Effort::begin();
        let sockets = launcher.sockets().to_vec();
        let waiters = waiters(generation, slot, &sockets, facts.children);
        let (waited, is_blind) = waiters.unwrap_or_else(|error| {
            log::debug!("{generation}: cannot see who waits on its sockets: {error}");
            (vec![false; sockets.len()], true)
        });
        let (sockets, waited) = facts.as_one(sockets, waited);
        let mut looked = Looked { is_blind, ..Looked::default() };
        let (mut labels_left, mut left) = (Vec::new(), Vec::new());
        for ((label, waited), socket) in labels(&sockets).into_iter().zip(waited).zip(&sockets) {
            if waited {
                looked.waited.insert(label);
            } else {
                labels_left.push(label);
                left.push(socket.clone());
            }
        }
        let held: Vec<_> = left.iter().map(|named| Rc::clone(&named.socket)).collect();
        // Our own connection to it is none of a client.
        let is_asking = self.asking.as_ref().is_some_and(|asking| asking.generation == generation);
        let accepted =
            if is_asking { vec![false; left.len()] } else { self.accepted(generation, slot, &held, facts) };
        let mut unseen = Vec::new();
        for ((label, accepted), socket) in labels_left.into_iter().zip(accepted).zip(&left) {
            if accepted || !is_blind && self.silent.has_accepted(generation, &socket.socket) {
                looked.accepted.insert(label);
            } else {
                looked.others.insert(label.clone());
                unseen.push((label, socket.clone()));
            }
        }
        looked.sight = match ask {
            _ if looked.others.is_empty() => Sight::Clear,
            MayConnect::No | MayConnect::WhereBlind if !is_blind => Sight::Clear,
            MayConnect::No => Sight::Dim,
            MayConnect::WhereBlind | MayConnect::Anyway if is_blind => {
                self.ask_to_accept(generation, slot, &sockets, true, facts.children)
            }
            MayConnect::WhereBlind | MayConnect::Anyway => {
                self.ask_unseen(generation, slot, unseen, &mut looked, facts.children)
            }
        };
        // The request of Ready=http: is not ended here.
        if looked.sight != Sight::Asked && self.asking.as_ref().is_some_and(|asking| asking.is_silent) {
            self.end_probe(generation, &facts.held);
        }
        if !looked.waited.is_empty() || !looked.accepted.is_empty() || looked.sight == Sight::Accepted {
            self.hinted.failures = 0;
        }
        looked.cost = effort.cost();
        looked
    }

    /// Where it can be seen who waits, a connection that was accepted proves nothing of another socket: each one on which
    /// nobody was seen is asked by itself.
    fn ask_unseen(
        &mut self,
        generation: GenerationId,
        slot: SlotId,
        mut unseen: Vec<(String, NamedSocket)>,
        looked: &mut Looked,
        children: &Children,
    ) -> Sight {
        while !unseen.is_empty() {
            let sockets: Vec<_> = unseen.iter().map(|(_, socket)| socket.clone()).collect();
            let sight = self.ask_to_accept(generation, slot, &sockets, false, children);
            if sight != Sight::Accepted {
                return sight;
            }
            let has_accepted =
                |(_, socket): &(String, NamedSocket)| self.silent.has_accepted(generation, &socket.socket);
            let (accepted, others): (Vec<_>, Vec<_>) = unseen.into_iter().partition(has_accepted);
            for (label, _) in accepted {
                looked.others.remove(&label);
                looked.accepted.insert(label);
            }
            unseen = others;
        }
        Sight::Accepted
    }

    /// How to take the sockets, for one that does not. Of one that has ended it is said once; of one that runs, the core
    /// sees to that.
    pub fn hint(
        &mut self,
        generation: GenerationId,
        sockets: &BTreeSet<String>,
        at: HintAt,
        launcher: &Launcher,
        facts: &Facts<'_>,
    ) -> Option<Note> {
        let has_failed = at == HintAt::Failure;
        self.hinted.failures = self.hinted.failures.saturating_add(has_failed.into());
        if has_failed && self.hinted.is_told {
            return None;
        }
        // It fails again and again, and none of its binds was seen to fail.
        let may_bind_past_the_filter = self.hinted.failures >= PAST_THE_FILTER && !facts.has_failed_bind;
        let note = hint(generation, (sockets, at), may_bind_past_the_filter, launcher, facts)?;
        self.hinted.is_told |= has_failed;
        Some(note)
    }
}

fn waiters(
    generation: GenerationId,
    slot: SlotId,
    sockets: &[NamedSocket],
    children: &Children,
) -> io::Result<(Vec<bool>, bool)> {
    let inodes = sockets.iter().map(|socket| Ok(SocketInode::from(&fstat(socket.of(slot))?)));
    let inodes = inodes.collect::<io::Result<Vec<_>>>()?;
    let seen = waiters::look(&children.pids(generation)?, &inodes);
    Ok((seen.waited, seen.is_blind))
}

/// The hint for these sockets, named by their labels; an empty set means all. `None` if InterceptBind= saw that the server
/// has met no address in use, or if the log has said so already.
fn hint(
    generation: GenerationId,
    (sockets, at): (&BTreeSet<String>, HintAt),
    may_bind_past_the_filter: bool,
    launcher: &Launcher,
    facts: &Facts<'_>,
) -> Option<Note> {
    let interceptors = facts.children.interceptors(generation);
    let (held, _) = facts.as_one(launcher.sockets().to_vec(), Vec::new());
    let names = labels(&held).into_iter().zip(&held);
    let mut meant: Vec<&NamedSocket> = names
        .filter(|(label, _)| sockets.is_empty() || sockets.contains(label))
        .map(|(_, socket)| socket)
        .collect();
    let has_it = |socket: &&NamedSocket| interceptors.iter().any(|one| one.has_given(&socket.socket));
    let is_given = meant.iter().all(has_it);
    meant.retain(|socket| is_given || !has_it(socket));
    let is_seen = !interceptors.is_empty() && !interceptors.iter().any(Interceptor::may_have_failed);
    // What happens again and again may have gone past the filter.
    if at == HintAt::Failure && (is_given || is_seen && !may_bind_past_the_filter) {
        return None;
    }
    let known =
        |socket: &&NamedSocket| known::Socket { name: socket.name.clone(), address: socket.address.clone() };
    let remedy = if at == HintAt::CleanEnds {
        known::foreground(&launcher.words())
    } else if is_given {
        "it has bound that, but does not accept yet".to_owned()
    } else if meant.len() < held.len() {
        others_taken(&held, &meant)
    } else if launcher.intercepts() && interceptors.is_empty() {
        "--intercept-bind has no effect here, so it has to take them from LISTEN_FDS".to_owned()
    } else if launcher.intercepts() && facts.has_failed_bind {
        "a bind(2) of it has failed; the warning about that names the --listen that fits".to_owned()
    } else if launcher.intercepts() {
        let passes = match launcher.given().iter().any(|given| given == "Protocol=systemd") {
            true => "",
            false => " (-p Protocol=systemd passes that)",
        };
        format!(
            "--intercept-bind sees it bind none of them; if it binds another address, write that one with --listen; if it asks \
             by connect(2) first whether its port is free, it finds that ours is not (in robyn _check_port=False ends \
             that); in a chroot or container of its own, or where it binds by io_uring or is a 32-bit program, it has to \
             take them from LISTEN_FDS{passes}"
        )
    } else {
        let ours: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
        let (given, supervise) = (launcher.given(), exec::how_a_shell_finds_us());
        let asked = known::Asked { ours: &ours, given: &given, supervise: &supervise };
        known::remedy(&launcher.words(), &meant.iter().map(known).collect::<Vec<_>>(), asked)
    };
    let is_privileged =
        |socket: &&NamedSocket| socket.local_address().is_some_and(|at| at.port() < PRIVILEGED);
    let privileged = meant.iter().any(is_privileged);
    let named = |socket: &&NamedSocket| format!("{} ({})", socket.name, socket.address);
    let sockets = meant.iter().map(named).collect::<Vec<_>>().join(", ");
    Some(Note::Hint { generation, sockets, at, privileged, remedy })
}

/// Words for each socket that tell it apart from the others: its name, if that is nobody else's.
fn labels(sockets: &[NamedSocket]) -> Vec<String> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for socket in sockets {
        *counts.entry(&socket.name).or_default() += 1;
    }
    let label = |socket: &NamedSocket| {
        let HeldSocket { kind, address, .. } = &*socket.socket;
        if counts.get(socket.name.as_str()) == Some(&1) {
            socket.name.clone()
        } else {
            format!("{kind} {address}")
        }
    };
    sockets.iter().map(label).collect()
}

/// The remedy where the server waits on some of what is `held`, but not on what is `meant`.
fn others_taken(held: &[NamedSocket], meant: &[&NamedSocket]) -> String {
    let port = |socket: &NamedSocket| socket.local_address().map(|at| at.port());
    let is_meant = |socket: &&NamedSocket| meant.iter().any(|one| one.address == socket.address);
    let taken: Vec<&str> =
        held.iter().filter(|socket| !is_meant(socket)).map(|socket| &*socket.address).collect();
    // The two sockets of one --listen PORT, one for each family, have the same port.
    let is_one_port = held.iter().all(|one| port(one).is_some() && port(one) == port(&held[0]));
    if is_one_port && let [taken] = taken[..] {
        return format!("it takes {taken} alone: with --listen {taken} nothing else is held of this port");
    }
    "it takes others of these sockets: tell it of this one in the same way, or leave it out of --listen"
        .to_owned()
}
