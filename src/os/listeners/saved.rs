//! What we know of the held sockets as it goes over to the program that takes our place. What can be found out again is.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Instant;

use mio::Registry;
use serde::{Deserialize, Serialize};

use super::Listeners;
use super::rescue::Passing;
use crate::core::{GenerationId, SlotId, Steering};
use crate::os::relay::{Relay, SavedRelay};
use crate::os::saved::{KeptFds, Past, Shared, at};
use crate::os::socket::{HeldSocket, Inherited, SavedNames};
use crate::os::sys::left::LeftFds;

#[derive(Debug, Serialize, Deserialize)]
pub struct SavedListeners {
    inherited: Inherited,
    current: SavedNames,
    staged: Option<SavedNames>,
    steering: Steering,
    relays: Vec<SavedPassing>,
    /// What the log has said and need not say again.
    moved_flows: BTreeSet<String>,
    unrescued: BTreeSet<String>,
    intercepted: BTreeSet<String>,
    to_be_bound: BTreeSet<(GenerationId, String)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedPassing {
    relay: SavedRelay,
    socket: usize,
    slot: SlotId,
    has_left: bool,
    last: Option<(usize, Past)>,
}

impl Listeners {
    pub fn save(&self, fds: &mut KeptFds, sockets: &mut Shared<HeldSocket>) -> SavedListeners {
        self.inherited.keep(fds);
        // The held ones come first, as in every saved state.
        let current = SavedNames::of(&self.current, sockets);
        let staged = self.staged.as_ref().map(|staged| SavedNames::of(staged, sockets));
        let relays = self.relays.passing.iter().map(|passing| SavedPassing {
            relay: passing.relay.save(fds),
            socket: sockets.place(&passing.socket),
            slot: passing.slot,
            has_left: passing.has_left,
            last: passing.last.as_ref().map(|(old, since)| (sockets.place(old), Past::from(*since))),
        });
        SavedListeners {
            relays: relays.collect(),
            inherited: self.inherited.clone(),
            current,
            staged,
            steering: self.slots.steering,
            moved_flows: self.slots.moved_flows.clone(),
            unrescued: self.relays.unrescued.clone(),
            intercepted: self.intercepting.said.clone(),
            to_be_bound: self.intercepting.to_be_bound.clone(),
        }
    }

    /// Its relays are not our children.
    pub fn become_foreign(&mut self) {
        self.relays.passing.iter_mut().for_each(|passing| passing.relay.become_foreign());
    }

    /// # Errors
    /// A sentence: an fd or a socket is missing.
    pub fn from_saved(
        saved: SavedListeners,
        fds: &mut LeftFds,
        sockets: &[Rc<HeldSocket>],
        registry: Registry,
    ) -> Result<Self, String> {
        saved.inherited.take_over(fds);
        let mut this = Self::new(saved.current.sockets(sockets)?, saved.inherited, registry);
        this.staged = saved.staged.map(|staged| staged.sockets(sockets)).transpose()?;
        for SavedPassing { relay, socket, slot, has_left, last } in saved.relays {
            let old = |(place, since)| Ok::<_, String>((at(sockets, place)?, Instant::from(since)));
            // One whose pipe is closed has ended.
            let Ok(relay) = Relay::from_saved(relay, fds) else { continue };
            let socket = at(sockets, socket)?;
            let last = last.map(old).transpose()?;
            this.relays.passing.push(Passing { relay, socket, slot, has_left, last });
        }
        this.slots.steering = saved.steering;
        this.slots.moved_flows = saved.moved_flows;
        this.relays.unrescued = saved.unrescued;
        this.intercepting.said = saved.intercepted;
        this.intercepting.to_be_bound = saved.to_be_bound;
        // Nobody has looked for a while.
        this.expect_damage();
        this.expect_strangers();
        this.intercepting.unsettled.begin_anew();
        Ok(this)
    }
}
