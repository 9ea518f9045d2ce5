//! Queues that a server has made shorter by a listen(2) of its own: looked at when we are awake anyway. The kernel tells
//! nobody of it.

use std::time::{Duration, Instant};

use super::Shell;
use super::slots::Damaged;
use crate::config::Kind;
use crate::core::{Damage, GenerationId};
use crate::os::diag;
use crate::os::socket::HeldSocket;

/// How often, where something else wakes us that often.
const GAP: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Queues {
    /// Nobody looks before that.
    next: Option<Instant>,
    /// The generation that has the traffic, once its sockets were looked at after it was ready. Most servers call listen(2)
    /// while they start, which is undone and not told.
    seen: Option<GenerationId>,
    somaxconn: Option<u32>,
}

impl Shell {
    pub(super) fn look_at_queues(&mut self) {
        let Some(generation) = self.children.on_slot(self.slots.steering.slot) else { return };
        let is_first = self.queues.seen != Some(generation);
        let is_early = || self.queues.next.is_some_and(|next| Instant::now() < next);
        if if is_first { !self.is_ready(generation) } else { is_early() } {
            return;
        }
        // Where it cannot be read nothing is known to be short.
        let somaxconn = diag::somaxconn().unwrap_or(0);
        // A queue is no longer than it allowed at the last listen(2).
        let is_raised = self.queues.somaxconn.replace(somaxconn).is_none_or(|before| before < somaxconn);
        for socket in self.listeners.held() {
            let wanted = socket.backlog.map_or(0, |asked| asked.min(somaxconn));
            if self.limit(&socket).is_none_or(|limit| limit >= wanted) {
                continue;
            }
            if self.listen_again(&socket) && !is_first && !is_raised {
                let (socket, generation) = (socket.address.clone(), Some(generation));
                self.tell_damage(Damaged { socket, generation, damage: Damage::Shortened });
            }
            self.questions.diag.forget();
        }
        self.queues.seen = Some(generation);
        self.queues.next = Some(Instant::now() + GAP);
    }

    /// Somebody wants to know now.
    pub(super) fn look_at_queues_now(&mut self) {
        self.queues.next = None;
        self.look_at_queues();
    }

    fn is_ready(&self, generation: GenerationId) -> bool {
        self.supervisor.is_ready(generation)
    }

    /// How many may wait. None: the kernel does not say, or it is no listener.
    fn limit(&mut self, socket: &HeldSocket) -> Option<u32> {
        match socket.kind {
            Kind::Tcp => socket.queue().1,
            Kind::Unix | Kind::SeqPacket => self.unix_queue(socket).map(|(_, limit)| limit),
            _ => None,
        }
    }
}
