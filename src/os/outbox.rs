//! What the parts of the shell hand over to it: events for the core, and notes for whoever follows over the control socket.

use std::collections::VecDeque;

use crate::core::{Event, Finding, GenerationId, Note};

#[derive(Debug, Default)]
pub struct Outbox {
    /// For the core, the oldest first.
    pub events: VecDeque<Event>,
    /// What was logged and the control socket has not heard yet; whether it reached the log.
    notes: Vec<(String, bool)>,
}

impl Outbox {
    pub fn push(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// What a question of the core about this generation has come to.
    pub fn answer(&mut self, generation: GenerationId, finding: Finding) {
        self.push(Event::Answered { generation, finding });
    }

    /// Logs a note, and keeps it for the control socket, which tells conclusions in its replies.
    pub fn tell(&mut self, note: impl Into<Note>) {
        let note = note.into();
        let text = note.to_string();
        log::log!(note.level(), "{text}");
        if !note.is_conclusion() {
            self.notes.push((text, log::log_enabled!(note.level())));
        }
    }

    /// Logs a warning about a line of the unit files, and keeps it for the control socket.
    pub fn warn(&mut self, text: String) {
        log::warn!("{text}");
        self.notes.push((text, log::log_enabled!(log::Level::Warn)));
    }

    /// What was told since the last time.
    pub fn take_notes(&mut self) -> Vec<(String, bool)> {
        std::mem::take(&mut self.notes)
    }
}
