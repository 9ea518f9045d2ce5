//! A new socket in the place of one that a UDP server connects to a client.
//!
//! Some servers fork(2) for each client: the child connects the socket that the client's datagram came to, and the parent
//! binds a new one for the clients to come. connect(2) takes this *old* socket out of the group, and the kernel
//! moves the last member, the *heir*, to its index. Where no generation has the heir, what comes from then on waits in it,
//! and the parent is given the heir; a *new* socket becomes the last member.
//!
//! A socket that is bound to one address leaves the group so from Linux 6.13 on alone (udp_lib_hash4 of net/ipv4/udp.c);
//! one that is bound to all of them always did.

use std::io;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockaddrStorage, connect, recvmsg};

use super::{Group, Slot};
use crate::core::SlotId;
use crate::core::limits::GENERATIONS;
use crate::os::socket::slots::Slots;

impl Group {
    /// Gives the slot another socket, because its server binds the address again. The old one is connected by then, or is
    /// now where we `may_connect` it, to the client whose datagram is the first in it. `used` are the slots of generations.
    /// Returns whether there is another one.
    pub(super) fn replace(&mut self, id: SlotId, used: &[SlotId], may_connect: bool) -> io::Result<bool> {
        let Some(old) = self.slot(id).filter(|_| self.plan.is_udp()) else { return Ok(false) };
        // Asked before: what is the first in one that is connected may be another's.
        let client = first_sender(&old);
        if self.listens(id)? {
            let Some(client) = client.filter(|_| may_connect) else { return Ok(false) };
            connect(old.as_raw_fd(), &client)?;
        }
        let last = self.order.slots().filter(|member| *member != id).last();
        self.renews = true;
        match last.filter(|heir| !used.contains(heir)) {
            Some(heir) => self.inherit(id, heir)?,
            None => {
                self.place(id)?;
                self.have_heir(used)?;
            }
        }
        Ok(true)
    }

    /// Where servers connect their sockets, the last of all is one that nobody has.
    pub(super) fn have_heir(&mut self, used: &[SlotId]) -> io::Result<()> {
        let has_one = self.order.slots().last().is_some_and(|last| !used.contains(&last));
        let free = SlotId::all().take(GENERATIONS).find(|id| self.get(*id).is_none());
        match free.filter(|_| self.renews && !has_one) {
            Some(free) => self.place(free).map(drop),
            None => Ok(()),
        }
    }

    /// The socket of a slot that nobody has becomes that of this one, and that slot gets a new one, the last of all.
    fn inherit(&mut self, id: SlotId, heir: SlotId) -> io::Result<()> {
        self.order.leave(id);
        self.order.rename(heir, id);
        self.slots.swap(usize::from(id.0), usize::from(heir.0));
        if let Some(slot) = self.slots[usize::from(id.0)].as_mut() {
            slot.is_fresh = false;
        }
        // Before another joins: it would be at an index that the program may name.
        self.attach()?;
        let new = Slot::new(self.another(heir)?);
        self.slots[usize::from(heir.0)] = Some(new);
        self.order.join(heir);
        self.attach()
    }
}

/// The sender of the datagram that would be read next.
fn first_sender(fd: &OwnedFd) -> Option<SockaddrStorage> {
    let mut byte = [0];
    let mut byte = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    match recvmsg::<SockaddrStorage>(fd.as_raw_fd(), &mut byte, None, flags) {
        Ok(message) => message.address,
        Err(Errno::EAGAIN) => None,
        Err(errno) => {
            log::debug!("cannot look at a waiting datagram (MSG_PEEK): {}", errno.desc());
            None
        }
    }
}
