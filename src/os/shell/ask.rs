//! Orders of the core to ask the kernel or a server: carried out, and answered by an event each.

use std::collections::BTreeSet;

use super::Shell;
use crate::config::Span;
use crate::core::{Ask, Event, GenerationId, HintAt, SlotId};

impl Shell {
    pub(super) fn count(&mut self, generation: GenerationId, slot: SlotId, quiet: Span) {
        let facts = self.listeners.facts(&self.children, &self.store);
        let counted = self.questions.count(generation, slot, quiet, &facts);
        self.outbox.push(Event::Counted { generation, counted });
    }

    pub(super) fn probe(&mut self, generation: GenerationId, slot: SlotId) {
        let health = self.configuration.next().health.as_ref();
        let (sockets, held) = (self.listeners.next(), self.listeners.held());
        let registry = self.poll.registry();
        let asked =
            self.questions.ask((generation, slot), health, sockets, &held, registry, &mut self.outbox);
        if let Err(why) = asked {
            self.outbox.push(Event::Probed { generation, result: Err(why) });
        }
    }

    pub(super) fn look(&mut self, generation: GenerationId, slot: SlotId, ask: Ask) {
        let launcher = self.children.launcher(generation).unwrap_or(&self.configuration.current.launcher);
        let facts = self.listeners.facts(&self.children, &self.store);
        let looked = self.questions.look((generation, slot), ask, launcher, &facts);
        self.outbox.push(Event::Looked { generation, looked });
    }

    pub(super) fn hint(&mut self, generation: GenerationId, sockets: &BTreeSet<String>, at: HintAt) {
        self.listeners.tell_failed_binds(generation, false, &mut self.outbox);
        let launcher = self.children.launcher(generation).unwrap_or(&self.configuration.current.launcher);
        let facts = self.listeners.facts(&self.children, &self.store);
        if let Some(note) = self.questions.hint(generation, sockets, at, launcher, &facts) {
            self.outbox.tell(note);
        }
    }
}
