//! Carries out the core's questions to the kernel or a server, and passes each answer to the core as an event.

use std::collections::BTreeSet;

use super::Shell;
use crate::config::Span;
use crate::core::{Finding, GenerationId, HintAt, MayConnect, Question, SlotId};

impl Shell {
    pub(super) fn ask(&mut self, question: Question) {
        match question {
            Question::Count { generation, slot, quiet } => self.count(generation, slot, quiet),
            Question::Probe { generation, slot } => self.probe(generation, slot),
            Question::EndProbe { generation } => {
                self.questions.end_probe(generation, &self.listeners.held());
            }
            Question::Look { generation, slot, ask } => self.look(generation, slot, ask),
            Question::Hint { generation, sockets, at } => self.hint(generation, &sockets, at),
            Question::Overflows => {
                if let Some(note) = self.questions.overflows(&self.listeners.held()) {
                    self.outbox.tell(note);
                }
            }
        }
    }

    fn count(&mut self, generation: GenerationId, slot: SlotId, quiet: Span) {
        let facts = self.listeners.facts(&self.children, &self.store);
        let counted = self.questions.count(generation, slot, quiet, &facts);
        self.outbox.answer(generation, Finding::Counted(counted));
    }

    fn probe(&mut self, generation: GenerationId, slot: SlotId) {
        let health = self.configuration.next().health.as_ref();
        let (sockets, held) = (self.listeners.next(), self.listeners.held());
        let registry = self.poll.registry();
        let asked =
            self.questions.ask((generation, slot), health, sockets, &held, registry, &mut self.outbox);
        if let Err(why) = asked {
            self.outbox.answer(generation, Finding::Probed(Err(why)));
        }
    }

    fn look(&mut self, generation: GenerationId, slot: SlotId, ask: MayConnect) {
        let launcher = self.children.launcher(generation).unwrap_or(&self.configuration.current.launcher);
        let facts = self.listeners.facts(&self.children, &self.store);
        let looked = self.questions.look((generation, slot), ask, launcher, &facts);
        self.outbox.answer(generation, Finding::Looked(looked));
    }

    fn hint(&mut self, generation: GenerationId, sockets: &BTreeSet<String>, at: HintAt) {
        self.listeners.tell_failed_binds(generation, false, &mut self.outbox);
        let launcher = self.children.launcher(generation).unwrap_or(&self.configuration.current.launcher);
        let facts = self.listeners.facts(&self.children, &self.store);
        if let Some(note) = self.questions.hint(generation, sockets, at, launcher, &facts) {
            self.outbox.tell(note);
        }
    }
}
