//! Decides what follows once no process of a generation is left, by the phase and by Restart=.

use super::exit::describe;
use super::generation::Generation;
use super::note::Note;
use super::report::Reply;
use super::restart;
use super::service::{Phase, Step, Then};
use super::{Action, End, GenerationId, limits};
use crate::config::Span;

impl Step<'_> {
    /// Forgets a generation without processes, and goes on with what waited for that.
    pub(super) fn finish(&mut self, id: GenerationId) {
        let Some(index) = self.service.generations.iter().position(|generation| generation.id == id) else {
            return;
        };
        let generation = self.service.generations.remove(index);
        if generation.leaves_all() {
            self.service.haunted.insert(generation.slot);
        }
        self.out.push(Action::Forget { generation: id });
        if self.service.is_alone(id) {
            self.after_end(&generation);
        } else if let Phase::Replacing { current, then } = self.service.phase
            && current == id
        {
            self.after_replaced(then);
        } else if matches!(self.service.phase, Phase::Stopping { .. }) {
            self.sweep_if_alone();
        } else {
            self.drained(&generation);
        }
        self.watch().forget(id);
    }

    fn drained(&mut self, generation: &Generation) {
        let Some(ending) = generation.ending().filter(|ending| ending.was_told) else { return };
        let after = self.now.since(ending.since);
        self.tell(Note::Gone {
            generation: generation.id,
            after,
            cut: generation.replaced.as_ref().map_or(0, |replaced| replaced.cut),
        });
        if let Some(swap) = &mut self.service.last_swap
            && swap.from == Some(generation.id.0)
            && swap.outcome.is_taken()
        {
            let replaced = generation.replaced.as_ref().map_or(ending.since, |replaced| replaced.since);
            swap.drain_ms = Some(self.now.since(replaced).as_millis());
        }
    }

    fn after_replaced(&mut self, then: Then) {
        match then {
            Then::Start => self.spawn_alone(),
            Then::Pause => {
                self.service.phase = Phase::Paused;
                self.tell(Note::Paused);
                for client in std::mem::take(&mut self.service.clients.pause) {
                    self.reply(client, Reply::done("paused; new connections wait in the queue"));
                }
            }
        }
    }

    /// Applies Restart= after the only generation has ended by itself.
    fn after_end(&mut self, generation: &Generation) {
        // Without an end it was never started: a start that a stop overtook.
        let Some(end) = generation.end() else { return self.start_automatically() };
        let status = generation.exit_status(end);
        self.service.last_status = status;
        if self.service.ends_unless_ready && !self.service.manager_told {
            self.tell(Note::NeverReady { reason: describe(generation, end, false, self.now) });
            return self.end_with(status);
        }
        self.count_early_end(generation);
        // `settle` begins it, and reads the files for it.
        let is_swap_wanted = self.service.clients.next_swap.is_some();
        if restart::shall_restart(&generation.policy, end, generation.failure.as_ref()) {
            let healthy = restart::was_healthy(generation.ready(), self.now);
            let delay = self.service.ledger.next_delay(&generation.policy.delay, healthy);
            // RestartSec=0 must not make a missing file a busy loop.
            let floor = if matches!(end, End::NotStarted(_)) { limits::NOT_STARTED } else { Span::ZERO };
            let delay = delay.max(floor);
            let until = self.now.after(delay);
            self.tell(Note::Restarting { after: delay, holds_sockets: self.service.setting.holds_sockets });
            self.service.phase = Phase::Waiting { until };
            if delay == Span::ZERO && !is_swap_wanted {
                self.restart();
            }
        } else if self.service.setting.holds_sockets && !generation.policy.ends_with_server() {
            self.listen_after(generation);
        } else if is_swap_wanted {
            // Long enough for the files to be read first; should they be broken, what was there is started.
            self.service.phase = Phase::Waiting { until: self.now.after(limits::NOT_STARTED) };
        } else {
            self.end_with(status);
        }
    }
}
