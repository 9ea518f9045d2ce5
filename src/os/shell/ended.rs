//! Processes that have ended: they are reaped, what they did to the held sockets is mended, and the core is told.

use super::Shell;
use crate::core::{End, Event, Exit, GenerationId};
use crate::os::children::Ended;
use crate::os::listeners::Listeners;
use crate::os::reap::{self, Reaped};
use crate::os::sys::Waited;
use crate::os::warning::Warn;

impl Shell {
    pub(super) fn on_main_gone(&mut self, generation: GenerationId) {
        if self.children.lost_main(generation) {
            self.listeners.expect_damage();
            // Only its parent knows its exit status.
            let event = self.main_ended(generation, Exit::Code(0));
            self.outbox.push(event);
            self.dispatch();
            self.with_listeners(Listeners::mend_sockets);
        }
    }

    pub(super) fn reap(&mut self) {
        let has_children = loop {
            match reap::next(|pid| self.children.look_at(pid)) {
                Ok(Reaped::Ended(waited)) => self.on_reaped(&waited),
                Ok(Reaped::NoneYet) => break true,
                Ok(Reaped::NoChildren) => break false,
                Err(error) => {
                    Warn::WaitForChildren.because(error);
                    break true;
                }
            }
        };
        self.reap_foreign();
        for generation in self.children.cleared(has_children || self.children.has_foreign()) {
            // Workers may outlive the main process.
            self.listeners.expect_damage();
            self.outbox.push(Event::Cleared { generation });
            self.dispatch();
        }
        if self.state.is_sweeping && !has_children {
            self.state.is_sweeping = false;
            self.outbox.push(Event::Childless);
            self.dispatch();
        }
        self.with_listeners(Listeners::mend_sockets);
    }

    pub(super) fn on_reaped(&mut self, waited: &Waited) {
        self.with_listeners(Listeners::mend_sockets);
        // What it sent last is there by now, also where poll had not seen it yet; MAINPID= may be part of it.
        if let Some(generation) = self.children.generation_of(waited.pid) {
            self.receive(generation);
        }
        // So is what it bound last, which is told before the call is let through.
        self.on_intercepted();
        let event = match self.children.reaped(waited.pid, waited.exit) {
            Ended::Main(generation) => {
                self.listeners.expect_damage();
                self.main_ended(generation, waited.exit)
            }
            Ended::Command(generation) => Event::CommandEnded { generation, end: End::Exited(waited.exit) },
            Ended::Other if self.listeners.on_relay_gone(waited.pid) => return,
            Ended::Other if self.on_tried(waited.pid, waited.exit) => return,
            Ended::Other => return log::debug!("reaped process {}, which a server left behind", waited.pid),
        };
        self.outbox.push(event);
        self.dispatch();
    }

    /// Reports the end of a main process, unless a successor took its place.
    fn main_ended(&mut self, generation: GenerationId, exit: Exit) -> Event {
        match self.children.successor(generation, exit) {
            Some(pid) => {
                self.watch_main(generation);
                Event::MainChanged { generation, pid: pid.unsigned_abs() }
            }
            None => Event::Exited { generation, exit },
        }
    }
}
