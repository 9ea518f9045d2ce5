//! Processes that have joined one of our addresses by SO_REUSEPORT: found, told, and reckoned with in steering.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use super::Shell;
use crate::config::Kind;
use crate::core::SocketNote;
use crate::os::diag::{self, InetSocket};
use crate::os::socket::HeldSocket;

/// How soon strangers are looked for again, as long as the end of one would move ours: nothing tells of that.
pub(super) const STRANGERS: Duration = Duration::from_millis(100);

/// Whoever else listens there.
impl Shell {
    pub(super) fn may_strangers_move_us(&self) -> bool {
        self.questions.strangers.iter().any(|(socket, _)| socket.may_move())
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
                let who = self.name_of(new);
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

    /// Mostly it is a process of a server of ours. All of this machine would be too many to look at.
    fn name_of(&self, stranger: &InetSocket) -> String {
        let of_generation = |(generation, _)| self.children.pids(generation).unwrap_or_default();
        let pids: Vec<_> = self.children.slots().into_iter().flat_map(of_generation).collect();
        diag::holder(stranger.inode, &pids).unwrap_or_else(|| format!("a process of uid {}", stranger.uid))
    }
}
