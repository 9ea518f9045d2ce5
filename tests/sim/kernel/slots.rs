//! The sockets of the fake kernel: a queue for each slot, who accepts from it, what is in flight, and what the shell does
//! and hears about them. Where nothing is steered there is slot 0 for all.

use std::collections::{BTreeMap, BTreeSet};

use socket_supervise::config::Span;
use socket_supervise::core::{Counted, Event, Finding, GenerationId, SlotId, Steering, Traffic, limits};

use super::{Deed, Happening, Health, Kernel, MS, Rules, SECOND};
use crate::check::Check;

#[derive(Clone, Copy, Debug, Default, Hash)]
pub(crate) struct Queue {
    /// Connections that nobody has accepted.
    pub(crate) waiting: u32,
    /// Since when nobody has.
    pub(crate) since: u64,
    /// Handshakes begun here: they come here, whoever has the traffic by then.
    handshakes: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Net {
    /// As ordered; what the program says may be another, where the kernel refused.
    pub(crate) wanted: Steering,
    steering: Steering,
    /// The kernel, or the limits of this host, refuse now and then.
    pub(crate) is_frail: bool,
    /// When a rescue failed last.
    pub(crate) unrescued: Option<u64>,
    /// `Connected` is wanted.
    pub(crate) watched: bool,
    pub(crate) guarded: BTreeSet<SlotId>,
    pub(crate) queues: [Queue; limits::GENERATIONS],
    /// Slots whose queue is being taken elsewhere.
    pub(crate) relayed: BTreeSet<SlotId>,
    /// Looks cost nothing and show what is; requests take their longest time.
    pub(crate) is_exact: bool,
    /// The kernel does not tell of connections.
    pub(crate) is_blind: bool,
    /// /proc does not show who waits.
    pub(crate) is_dark: bool,
    /// How many slots there are.
    made: u8,
    /// The last count missed a connection that was just being accepted.
    was_wrong: bool,
    /// Generations that are being asked, and the number of the question.
    asked: BTreeMap<GenerationId, u64>,
    questions: u64,
}

impl Net {
    pub(super) fn new() -> Self {
        Self {
            wanted: Steering::all_to(SlotId(0)),
            steering: Steering::all_to(SlotId(0)),
            is_frail: false,
            unrescued: None,
            watched: false,
            guarded: BTreeSet::new(),
            queues: [Queue::default(); limits::GENERATIONS],
            relayed: BTreeSet::new(),
            is_exact: true,
            is_blind: false,
            is_dark: false,
            made: 2,
            was_wrong: false,
            asked: BTreeMap::new(),
            questions: 0,
        }
    }

    /// What the shell was told to keep to. Whether it is to watch, where starts are held back, does not matter.
    pub(super) fn held(&self) -> (Steering, BTreeSet<SlotId>) {
        (self.wanted, self.guarded.clone())
    }

    /// Where the traffic goes is the kernel's to remember, and who was asked will not be heard.
    pub(super) fn forget(&mut self, steers: bool) {
        if steers {
            self.wanted = Steering::all_to(SlotId(limits::GENERATIONS as u8 - 1));
        }
        self.forget_the_rest();
    }

    pub(super) fn forget_the_rest(&mut self) {
        self.watched = false;
        self.guarded.clear();
        self.asked.clear();
    }

    pub(crate) fn queue(&mut self, slot: SlotId) -> &mut Queue {
        &mut self.queues[usize::from(slot.0)]
    }

    /// The slots on which something waits.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (SlotId, Queue)> + '_ {
        let queues = (0..).map(SlotId).zip(self.queues);
        queues.filter(|(_, queue)| queue.waiting > 0)
    }

    /// We were stopped for so long and could mend nothing.
    pub(super) fn slept(&mut self, span: u64) {
        for queue in &mut self.queues {
            queue.since += span;
        }
        self.unrescued = self.unrescued.map(|at| at + span);
    }

    /// What the same can happen from.
    pub(super) fn fingerprint(&self) -> impl std::hash::Hash + use<> {
        let Steering { slot, canary } = self.steering;
        (slot, canary, self.watched, self.guarded.clone(), self.queues, self.relayed.clone(), self.made)
    }
}

/// Clients.
impl<R: Rules> Kernel<R> {
    /// A new connection goes where the program says.
    pub(crate) fn connect(&mut self) {
        let slot = self.route();
        self.arrive(slot, 1);
    }

    /// Whether a connection waits for whoever has the traffic.
    pub(crate) fn is_connected(&self) -> bool {
        self.net.queues[usize::from(self.net.wanted.slot.0)].waiting > 0
    }

    fn route(&mut self) -> SlotId {
        let Steering { slot, canary } = self.net.steering;
        match canary {
            Some((other, percent)) if !self.net.is_exact && self.rng.u8(..100) < percent => other,
            Some(_) | None => slot,
        }
    }

    /// A handshake is begun with whoever has the traffic now, and completed some time later.
    pub(crate) fn begin_handshake(&mut self) {
        let slot = self.route();
        self.net.queue(slot).handshakes += 1;
        let after = self.rng.u64(..8 * SECOND);
        self.plan(after, Happening::Completes(slot));
    }

    pub(super) fn completes(&mut self, slot: SlotId) {
        self.net.queue(slot).handshakes -= 1;
        self.arrive(slot, 1);
    }

    /// A server shuts its socket down: its queue is lost, and until that is mended other slots get what comes.
    pub(crate) fn vandalize(&mut self) {
        let slots: Vec<SlotId> =
            self.groups.values().filter(|group| group.is_alive()).map(|group| group.slot).collect();
        if !self.setting.steers || slots.is_empty() {
            return;
        }
        let slot = slots[self.rng.usize(..slots.len())];
        self.net.queue(slot).waiting = 0;
        for _ in 0..self.rng.u8(..3) {
            let other = SlotId(self.rng.u8(..self.net.made));
            self.arrive(other, 1);
        }
    }

    /// A server does what its socket does not outlive (AF_UNIX): it accepts nothing any more.
    pub(crate) fn lose_socket(&mut self) {
        let alive = self.groups.iter().filter(|(_, group)| group.is_alive() && !group.is_lost);
        let all: Vec<GenerationId> = alive.map(|(id, _)| *id).collect();
        if !self.setting.steers || all.is_empty() {
            return;
        }
        let id = all[self.rng.usize(..all.len())];
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.is_lost = true;
        let slot = group.slot;
        self.net.queue(slot).waiting = 0;
        self.queue.push_back(Event::SocketLost { slot, socket: "/x.sock".to_owned() });
    }

    /// Something comes to a slot, whoever has the traffic. The shell is told of it once.
    pub(crate) fn arrive(&mut self, slot: SlotId, count: u32) {
        let now = self.now;
        let queue = self.net.queue(slot);
        if queue.waiting == 0 {
            queue.since = now;
        }
        queue.waiting += count;
        self.serve(slot);
        self.report(slot);
    }

    fn report(&mut self, slot: SlotId) {
        if self.net.queue(slot).waiting == 0 {
            return;
        }
        if self.net.watched && slot == self.net.wanted.slot {
            if !self.queue.contains(&Event::Connected) {
                self.queue.push_back(Event::Connected);
            }
        } else if self.net.guarded.contains(&slot) {
            self.queue.push_back(Event::Arrived { slot });
        }
    }

    /// Whoever accepts there takes what waits.
    pub(super) fn serve(&mut self, slot: SlotId) {
        let queue = self.net.queue(slot);
        let group = self.groups.iter_mut().find(|(_, group)| group.slot == slot && group.is_accepting());
        let Some((id, group)) = group else { return };
        let (generation, count) = (*id, std::mem::take(&mut queue.waiting));
        group.traffic.in_flight += count;
        if let Some(span) = group.main().and_then(|main| main.script.service) {
            for _ in 0..count {
                let after = if self.net.is_exact { span } else { self.rng.u64(..=span) };
                self.will(generation, after, Deed::Answers);
            }
        }
    }

    /// One of its requests is answered.
    pub(super) fn answered(&mut self, generation: GenerationId) {
        let Some(group) = self.groups.get_mut(&generation) else { return };
        if group.traffic.in_flight > 0 {
            group.traffic.in_flight -= 1;
            group.traffic.recent += 1;
            self.plan(self.policy.drain_quiet.as_nanos(), Happening::Quiet(generation));
        }
    }

    /// The client of an answer stays connected, and is quiet.
    pub(super) fn quiet(&mut self, generation: GenerationId) {
        let Some(group) = self.groups.get_mut(&generation) else { return };
        if group.traffic.recent > 0 {
            group.traffic.recent -= 1;
            group.traffic.idle += 1;
        }
    }

    /// Everything in flight is answered.
    pub(crate) fn calm_traffic(&mut self) {
        (self.net.is_blind, self.net.is_frail) = (false, false);
        for queue in &mut self.net.queues {
            queue.since = self.now;
        }
        for group in self.groups.values_mut() {
            group.traffic = Traffic { idle: group.traffic.idle, ..Traffic::default() };
        }
    }

    /// Somebody whose requests are not answered.
    pub(crate) fn busy(&self) -> Option<GenerationId> {
        self.groups.iter().find(|(_, group)| group.traffic.in_flight > 0).map(|(id, _)| *id)
    }

    /// All of them are.
    pub(crate) fn answers(&mut self, generation: GenerationId) {
        if let Some(group) = self.groups.get_mut(&generation) {
            group.traffic = Traffic::default();
        }
    }

    pub(crate) fn accepts(&mut self, generation: GenerationId) {
        self.will(generation, 0, Deed::Accepts);
    }

    /// A slot without traffic, where nothing waits yet.
    pub(crate) fn idle_slot(&self) -> Option<SlotId> {
        let is_idle = |slot: &SlotId| {
            *slot != self.net.wanted.slot && self.net.queues[usize::from(slot.0)].waiting == 0
        };
        (0..self.net.made).map(SlotId).find(is_idle)
    }
}

/// What the shell is told to do.
impl<R: Rules> Kernel<R> {
    pub(super) fn take_slot(&mut self, slot: SlotId) {
        // Whoever passed its queue on stops doing so.
        self.net.relayed.remove(&slot);
        self.net.made = self.net.made.max(slot.0 + 1);
    }

    pub(super) fn watch(&mut self, on: bool) {
        self.net.watched = on;
        self.report(self.net.wanted.slot);
    }

    pub(super) fn steer(&mut self, steering: Steering) {
        let before = std::mem::replace(&mut self.net.wanted, steering);
        if self.is_refused() {
            self.answers.push_back(Event::SteerFailed { why: "Operation not permitted".to_owned() });
        } else {
            self.net.steering = steering;
        }
        if before.slot != steering.slot {
            self.report(steering.slot);
        }
    }

    fn is_refused(&mut self) -> bool {
        self.net.is_frail && self.rng.u8(..3) == 0
    }

    pub(super) fn guard(&mut self, slot: SlotId, on: bool) {
        if on {
            self.net.guarded.insert(slot);
            self.report(slot);
        } else {
            self.net.guarded.remove(&slot);
        }
    }

    pub(super) fn rescue(&mut self, slot: SlotId) {
        if self.is_refused() {
            self.net.unrescued = Some(self.now);
            return self.answers.push_back(Event::RescueFailed { slot });
        }
        // The shell steers once more, or what is passed on would come back.
        self.net.steering = self.net.wanted;
        if self.net.relayed.insert(slot) {
            let after = if self.orderly || self.rng.bool() { 0 } else { self.rng.u64(..50 * MS) };
            self.plan(after, Happening::Rescued(slot));
        }
    }

    /// The kernel moves the queue, or the relay connects anew: either way the program says where to.
    pub(super) fn rescued(&mut self, slot: SlotId) {
        if !self.net.relayed.remove(&slot) || slot == self.net.wanted.slot {
            return;
        }
        if slot == self.net.steering.slot {
            // It would come back: the relay ends, and what is left is told of anew.
            self.report(slot);
        } else {
            let count = std::mem::take(&mut self.net.queue(slot).waiting);
            for _ in 0..count {
                self.connect();
            }
        }
    }

    pub(super) fn count(&mut self, generation: GenerationId, slot: SlotId) {
        let queue = *self.net.queue(slot);
        let seen = self.groups.get(&generation).map(|group| group.traffic).unwrap_or_default();
        let mut traffic = Traffic { queued: queue.waiting, handshakes: queue.handshakes, ..seen };
        // A dump is not one moment: who is accepted during it may be in neither list. That does not happen twice.
        let is_wrong = !self.net.is_exact && !self.net.was_wrong && self.rng.u8(..4) == 0;
        self.net.was_wrong = is_wrong;
        if is_wrong {
            (traffic.in_flight, traffic.recent) = (0, 0);
        }
        let traffic = (!self.net.is_blind).then_some(traffic);
        let cost = self.cost();
        let is_stopped = self.groups.get(&generation).is_some_and(|group| group.stopped);
        let finding = Finding::Counted(Counted { traffic, is_stopped, cost });
        self.answers.push_back(Event::Answered { generation, finding });
    }

    /// The time that one look takes the shell.
    pub(super) fn cost(&mut self) -> Span {
        Span::from_nanos(if self.net.is_exact { 0 } else { self.rng.u64(..Check::COST) })
    }

    pub(super) fn probe(&mut self, generation: GenerationId) {
        self.net.questions += 1;
        let number = self.net.questions;
        self.net.asked.insert(generation, number);
        let after = if self.net.is_exact { MS } else { self.rng.u64(..20 * MS) };
        self.will(generation, after, Deed::Replies(number));
    }

    pub(super) fn end_probe(&mut self, generation: GenerationId) {
        self.net.asked.remove(&generation);
        self.queue.retain(
            |event| !matches!(event, Event::Answered { generation: other, .. } if *other == generation),
        );
    }

    /// The answer to a question, unless it was withdrawn or nobody is there who answers.
    pub(super) fn replies(&mut self, generation: GenerationId, number: u64) {
        let Some(group) = self.groups.get(&generation) else { return };
        if self.net.asked.get(&generation) != Some(&number) || !group.is_alive() {
            return;
        }
        let result = match group.main().map_or(Health::Silent, |main| main.script.health) {
            // It waits in the queue until somebody accepts it.
            _ if !group.is_accepting() => {
                return self.will(generation, 50 * MS, Deed::Replies(number));
            }
            Health::Good => Ok(()),
            Health::Bad => Err("500".to_owned()),
            Health::Silent => return,
        };
        self.net.asked.remove(&generation);
        self.queue.push_back(Event::Answered { generation, finding: Finding::Probed(result) });
    }
}
