//! Sorts the events of one poll by their source (signals, paths, held sockets, notify sockets, clients).

use std::collections::BTreeSet;

use mio::{Events, Token};

use super::Shell;
use crate::core::GenerationId;
use crate::os::listeners::WokenSocket;
use crate::os::signal::ReceivedSignal;
use crate::os::tokens::{self, CONTROL, GENERATIONS, INTERCEPTED, KEEPER, PATHS, PROBE, SIGNALS, STORED};
use crate::os::warning::Warn;

/// The result of one poll, sorted by source.
#[derive(Default)]
pub(super) struct Woken {
    pub(super) signals: bool,
    pub(super) paths: bool,
    pub(super) keeper: bool,
    pub(super) sockets: Vec<WokenSocket>,
    pub(super) notified: BTreeSet<GenerationId>,
    pub(super) mains: BTreeSet<GenerationId>,
    pub(super) stored: Vec<usize>,
    pub(super) control: Vec<Token>,
}

impl From<&Events> for Woken {
    fn from(events: &Events) -> Self {
        let mut woken = Self::default();
        for event in events {
            match event.token() {
                SIGNALS => woken.signals = true,
                Token(token) if token >= GENERATIONS => {
                    let generation = GenerationId(((token - GENERATIONS) / 2) as u64);
                    let is_main = event.token() == tokens::main(generation);
                    let set = if is_main { &mut woken.mains } else { &mut woken.notified };
                    set.insert(generation);
                }
                Token(token) if token >= STORED => woken.stored.push(token - STORED),
                Token(token) if token >= CONTROL => {
                    woken.control.push(event.token());
                }
                // The loop looks after these at every turn.
                PROBE | INTERCEPTED => {}
                PATHS => woken.paths = true,
                KEEPER => woken.keeper = true,
                Token(_) => woken.sockets.push(WokenSocket::new(event)),
            }
        }
        woken
    }
}

impl Shell {
    pub(super) fn read_signals(&self) -> Vec<ReceivedSignal> {
        self.signals.read().unwrap_or_else(|error| {
            Warn::ReadSignals.because(error);
            Vec::new()
        })
    }
}
