//! Restores the backlog of a socket that a server has shortened by a listen(2) of its own. The kernel tells nobody of
//! it, so it is looked at when the event loop is awake anyway.

use std::time::{Duration, Instant};

use super::{ListenerContext, Listeners};
use crate::core::{Damage, GenerationId};
use crate::os::diag;
use crate::os::questions::Questions;
use crate::os::socket::HeldSocket;

/// How often, where something else wakes us that often.
const GAP: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Queues {
    /// The time of the next look.
    next: Option<Instant>,
    /// The generation that has the traffic, once its sockets were looked at after it was ready. Most servers call listen(2)
    /// while they start, which is undone and not told.
    seen: Option<GenerationId>,
    somaxconn: Option<u32>,
}

impl Listeners {
    /// `serving`: the generation that has the traffic, and whether it is ready. `now`: somebody wants to know, however short
    /// ago the last look was.
    pub fn look_at_queues(
        &mut self,
        serving: Option<(GenerationId, bool)>,
        now: bool,
        cx: &mut ListenerContext<'_>,
    ) {
        let Some((generation, is_ready)) = serving else { return };
        let is_first = self.queues.seen != Some(generation);
        let is_early = || !now && self.queues.next.is_some_and(|next| Instant::now() < next);
        if if is_first { !is_ready } else { is_early() } {
            return;
        }
        // Where it cannot be read nothing is known to be short.
        let somaxconn = diag::somaxconn().unwrap_or(0);
        // A queue is no longer than it allowed at the last listen(2).
        let is_raised = self.queues.somaxconn.replace(somaxconn).is_none_or(|before| before < somaxconn);
        for socket in self.held() {
            let wanted = socket.backlog.map_or(0, |asked| asked.min(somaxconn));
            if self.limit(&socket, cx.questions).is_none_or(|limit| limit >= wanted) {
                continue;
            }
            if self.listen_again(&socket) && !is_first && !is_raised {
                self.tell_damage(&socket.address, Some(generation), Damage::Shortened, cx);
            }
            cx.questions.diag.forget();
        }
        self.queues.seen = Some(generation);
        self.queues.next = Some(Instant::now() + GAP);
    }

    /// The limit of the queue; `None` where the kernel does not say, or for a socket that does not listen.
    fn limit(&self, socket: &HeldSocket, questions: &mut Questions) -> Option<u32> {
        if socket.kind.is_unix() && socket.kind.listens() {
            return questions.unix_queue(socket, self.target()).map(|(_, limit)| limit);
        }
        socket.queue().1
    }
}
