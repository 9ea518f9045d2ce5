//! Undoes and reports what servers do to the held sockets and must not, such as shutdown(2).

use std::collections::{BTreeSet, HashSet};
use std::rc::Rc;

use super::{ListenerContext, Listeners, set_of};
use crate::core::{Damage, Event, GenerationId, SlotId, SocketNote};
use crate::os::outbox::Outbox;
use crate::os::socket::HeldSocket;
use crate::os::warning::Warn;

/// What servers did to held sockets, and what was logged of it.
#[derive(Debug, Default)]
pub(super) struct Damages {
    /// What living generations did to a socket, and how often each did so again.
    done: Vec<(Damaged, u32)>,
    /// What was told that a program did to a socket. Many a server does the same at the end of each generation; as no
    /// connection is lost then, it is told once.
    told: HashSet<(Vec<String>, String, Damage)>,
    /// Addresses on which listen(2) fails, as far as that was logged.
    unlistened: BTreeSet<String>,
    /// A process has ended since the held sockets were mended.
    is_unmended: bool,
}

#[derive(Debug, PartialEq)]
struct Damaged {
    socket: String,
    generation: Option<GenerationId>,
    damage: Damage,
}

impl Listeners {
    /// Has the held sockets mended before anything else is done with them: a process has ended that may have changed them.
    pub fn expect_damage(&mut self) {
        self.damages.is_unmended = true;
    }

    /// After an exit: shutdown(2) and a small listen(2) are undone. The queue of a socket that nobody runs on is as
    /// long as it was asked for.
    pub fn mend_sockets(&mut self, cx: &mut ListenerContext<'_>) {
        self.mend_unless(|_| false, cx);
    }

    /// The same, but for the sockets that are about to be made ready for a generation on this slot: that mends them.
    pub(super) fn mend_all_but(&mut self, slot: SlotId, cx: &mut ListenerContext<'_>) {
        let (next, all_listen) = (set_of(self.next()), self.damages.unlistened.is_empty());
        let is_readied = |socket: &Rc<HeldSocket>| {
            all_listen && next.contains(&Rc::as_ptr(socket)) && socket.ready_mends_all(slot)
        };
        self.mend_unless(is_readied, cx);
    }

    fn mend_unless(&mut self, is_mended: impl Fn(&Rc<HeldSocket>) -> bool, cx: &mut ListenerContext<'_>) {
        if !std::mem::take(&mut self.damages.is_unmended) {
            return;
        }
        for socket in self.held() {
            if !is_mended(&socket) {
                self.listen_again(&socket);
            }
        }
        // Where what is there could not be watched.
        if self.paths.is_any_taken() {
            self.check_paths(cx);
        }
    }

    pub(super) fn mend(&mut self, socket: &Rc<HeldSocket>, slot: SlotId, cx: &mut ListenerContext<'_>) {
        // It may have to join its group again.
        self.look_for_unseen_strangers(cx);
        // A replaced unix socket: its queue is reset when the last fd is closed.
        let old = socket.slot(slot);
        match socket.mend(slot) {
            Ok(false) => {}
            Ok(true) => {
                self.end_relays_of(socket, slot);
                let is_new =
                    old.is_some_and(|old| socket.slot(slot).is_some_and(|new| !Rc::ptr_eq(&old, &new)));
                if is_new {
                    self.lose(&socket.address, slot, Damage::Ended, cx);
                } else {
                    self.tell_damage(&socket.address, cx.children.on_slot(slot), Damage::Shutdown, cx);
                }
                self.arm();
            }
            Err(error) => Warn::Repair(&socket.address).because(error),
        }
    }

    /// Listens again with the configured backlog and returns whether that worked; a failure is logged once.
    pub(super) fn listen_again(&mut self, socket: &HeldSocket) -> bool {
        let result = socket.refresh();
        let Err(error) = &result else {
            self.damages.unlistened.remove(&socket.address);
            return true;
        };
        if self.damages.unlistened.insert(socket.address.clone()) {
            Warn::Listen(&socket.address).because(error);
        }
        false
    }

    /// Handles a slot whose server has a socket that no client finds any more.
    pub(super) fn lose(&mut self, address: &str, slot: SlotId, damage: Damage, cx: &mut ListenerContext<'_>) {
        self.tell_damage(address, cx.children.on_slot(slot), damage, cx);
        cx.outbox.push(Event::SocketLost { slot, socket: address.to_owned() });
    }

    /// Logs a damage the first time. A server that does it in a loop, or at each of its ends, does not fill the log; what costs
    /// a generation its socket is logged for each generation.
    pub(super) fn tell_damage(
        &mut self,
        address: &str,
        generation: Option<GenerationId>,
        damage: Damage,
        cx: &mut ListenerContext<'_>,
    ) {
        let done = Damaged { socket: address.to_owned(), generation, damage };
        if let Some((_, again)) = self.damages.done.iter_mut().find(|(told, _)| *told == done) {
            *again = again.saturating_add(1);
            return;
        }
        self.damages.done.push((done, 0));
        let socket = address.to_owned();
        let launcher = generation.and_then(|generation| cx.children.launcher(generation));
        let program = launcher.unwrap_or(cx.launcher).words();
        let is_mended = matches!(damage, Damage::Shutdown | Damage::Unlinked | Damage::Shortened);
        let is_new = self.damages.told.insert((program, socket.clone(), damage));
        if is_new || !is_mended {
            cx.outbox.tell(SocketNote::Mended { socket, generation, damage });
        }
    }

    /// How often it did so again, if that is many times, and what was done by nobody knows whom meanwhile.
    pub(super) fn tell_damages(&mut self, ended: GenerationId, outbox: &mut Outbox) {
        let is_over = |(told, _): &mut (Damaged, u32)| told.generation.is_none_or(|id| id == ended);
        let over: Vec<_> = self.damages.done.extract_if(.., is_over).collect();
        for (Damaged { socket, generation, .. }, again) in over {
            if again > 1 {
                outbox.tell(SocketNote::MendedAgain { socket, generation, again });
            }
        }
    }
}
