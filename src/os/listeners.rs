//! The owner of the held sockets: which there are, which slot has the traffic, what the poll watches, what servers and others
//! do to them. It knows the generations that live, asks [`Questions`], and hands over what follows in an [`Outbox`].

mod damages;
mod families;
mod intercept;
mod paths;
mod queues;
mod rescue;
mod saved;
mod slots;
mod strangers;

use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use mio::Registry;

use super::children::Children;
use super::fd_store::FdStore;
use super::launch::Launcher;
use super::outbox::Outbox;
use super::questions::{Facts, Questions};
use super::socket::{self, BindError, HeldSocket, Inherited, NamedSocket};
use super::warning::Told;
use crate::config::{Handover, Listener};
use crate::core::{GenerationId, SlotId};
use damages::Damages;
use intercept::Intercepting;
use paths::Paths;
use queues::Queues;
use rescue::Relays;
pub use saved::SavedListeners;
use slots::SlotWatch;
pub use slots::WokenSocket;
use strangers::Strangers;

#[derive(Debug)]
pub struct Listeners {
    registry: Registry,
    /// What our own manager gave us; a file read anew may ask for it.
    inherited: Inherited,
    current: Vec<NamedSocket>,
    /// Those of the swap that is under way, where the files were read anew for it.
    staged: Option<Vec<NamedSocket>>,
    slots: SlotWatch,
    relays: Relays,
    strangers: Strangers,
    queues: Queues,
    paths: Paths,
    damages: Damages,
    intercepting: Intercepting,
}

/// What a call may look at, ask, and hand over to.
#[derive(Debug)]
pub struct ListenerContext<'a> {
    pub children: &'a Children,
    /// The launcher of the current configuration.
    pub launcher: &'a Rc<Launcher>,
    pub questions: &'a mut Questions,
    pub outbox: &'a mut Outbox,
}

/// The held sockets.
impl Listeners {
    pub fn new(current: Vec<NamedSocket>, inherited: Inherited, registry: Registry) -> Self {
        Self {
            registry,
            inherited,
            current,
            staged: None,
            slots: SlotWatch::new(),
            relays: Relays::default(),
            strangers: Strangers::default(),
            queues: Queues::default(),
            paths: Paths::default(),
            damages: Damages::default(),
            intercepting: Intercepting::default(),
        }
    }

    pub fn current(&self) -> &[NamedSocket] {
        &self.current
    }

    pub fn staged(&self) -> Option<&[NamedSocket]> {
        self.staged.as_deref()
    }

    /// The sockets of the next generation.
    pub fn next(&self) -> &[NamedSocket] {
        self.staged.as_ref().unwrap_or(&self.current)
    }

    /// Every name there is: those that the swap under way has bound as well.
    fn named(&self) -> impl Iterator<Item = &NamedSocket> {
        self.current.iter().chain(self.staged.iter().flatten())
    }

    /// The slot with the traffic.
    pub fn target(&self) -> SlotId {
        self.slots.steering.slot
    }

    /// Every held socket, each once.
    pub fn held(&self) -> Vec<Rc<HeldSocket>> {
        let mut known = HashSet::new();
        let sockets = self.named().map(|named| &named.socket);
        sockets.filter(|socket| known.insert(Rc::as_ptr(socket))).cloned().collect()
    }

    /// Every held socket, and those of relays; one may come twice.
    pub fn every(&self) -> Vec<Rc<HeldSocket>> {
        let passed = self.relays.passing.iter().map(|passing| &passing.socket);
        self.held().into_iter().chain(passed.chain(self.replaced()).cloned()).collect()
    }

    /// What a question may have to know.
    pub fn facts<'a>(&'a self, children: &'a Children, store: &'a FdStore) -> Facts<'a> {
        Facts {
            children,
            store,
            named: self.named().collect(),
            held: self.held(),
            target: self.target(),
            relays: self.relays.pids(),
            pairs: self.intercepting.unsettled.pairs(),
            has_failed_bind: self.intercepting.unsettled.has_failed,
        }
    }

    /// Binds what files that were read anew ask for, and keeps what is held already.
    ///
    /// # Errors
    /// What could not be bound; nothing has changed then.
    pub fn rebind(&self, listeners: &[Listener], handover: Handover) -> Result<Vec<NamedSocket>, BindError> {
        socket::rebind(&self.current, listeners, &self.inherited, handover)
    }

    /// The swap that is under way has these. Where the traffic is when nobody runs, it is for them as well.
    ///
    /// # Errors
    /// A sentence: a new one cannot be steered, and none of them is held.
    pub fn stage(&mut self, sockets: Vec<NamedSocket>) -> Result<(), String> {
        for socket in beyond(&sockets, &self.current) {
            let steered = socket.steer(&self.slots.steering);
            steered.map_err(|error| format!("cannot steer {}: {error}", socket.address))?;
        }
        self.staged = Some(sockets);
        self.arm();
        Ok(())
    }

    /// The swap has done: its sockets are held from now on, and no others.
    pub fn adopt(&mut self, questions: &mut Questions) -> Vec<NamedSocket> {
        let Some(sockets) = self.staged.take() else { return Vec::new() };
        let new: Vec<NamedSocket> = beyond(&sockets, &self.current).cloned().collect();
        for socket in &new {
            Told::Listening(&socket.shown(), &socket.name, None).log();
        }
        for socket in beyond(&self.current, &sockets) {
            Told::NoLongerListening(&socket.shown(), &socket.name).log();
        }
        self.current = sockets;
        self.let_go(questions);
        new
    }

    pub fn discard(&mut self, questions: &mut Questions) {
        self.staged = None;
        self.let_go(questions);
    }

    /// Drops what would keep sockets bound that are held no longer.
    fn let_go(&mut self, questions: &mut Questions) {
        questions.forget_unheld(&self.held());
        self.arm();
    }

    /// To be called while nobody waits, when the first server was started.
    pub fn learn_options(&self) {
        for socket in self.held() {
            socket.learn_options();
        }
    }

    /// How long the loop may sleep, if no event comes, before the listeners have something to do.
    pub fn patience(&self) -> Option<Duration> {
        let strangers = self.may_strangers_move_us().then_some(strangers::STRANGERS);
        let unseen = self.strangers.patience();
        strangers
            .into_iter()
            .chain(unseen)
            .chain(self.paths.patience())
            .chain(self.intercepting.unsettled.patience())
            .min()
    }

    /// Nothing of a generation is left: what was to be told at its end, is.
    pub fn forget(&mut self, generation: GenerationId, outbox: &mut Outbox) {
        self.tell_damages(generation, outbox);
        self.tell_failed_binds(generation, true, outbox);
        self.intercepting.forget(generation);
    }
}

/// The sockets of the first list that are not in the second.
fn beyond<'a>(list: &'a [NamedSocket], known: &[NamedSocket]) -> impl Iterator<Item = &'a NamedSocket> {
    let known = set_of(known);
    list.iter().filter(move |one| !known.contains(&Rc::as_ptr(&one.socket)))
}

/// Identifies sockets by their addresses in memory, for a quick look-up of many.
fn set_of(list: &[NamedSocket]) -> HashSet<*const HeldSocket> {
    list.iter().map(|named| Rc::as_ptr(&named.socket)).collect()
}
