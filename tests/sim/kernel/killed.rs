//! Supervise is killed between any two of its steps, and its next life goes on from what was saved last: the state after
//! some step, with those of its orders that were not counted as carried out. The first of these may have been.
//!
//! What was read and led to no step that was saved is lost; what the world still shows is found again.

use std::collections::BTreeSet;

use socket_supervise::core::{
    Action, Command, End, Event, Exit, Found, GenerationId, SlotId, Steering, Supervisor,
};

use super::{Kernel, Life, MS, Part, Rules, Step};

/// One step of so many is cut short.
const OFTEN: u32 = 64;

/// How and when supervise is killed, and what its next life has to know.
#[derive(Debug)]
pub(crate) struct Killed {
    /// At random moments.
    pub(crate) is_random: bool,
    /// In each step that orders anything but questions and rescues, at this moment.
    pub(crate) after_each_step: Option<Moment>,
    /// Once, when the next event has been read.
    pub(crate) reading: bool,
    /// A datagram or a request that was read is lost; else the next life reads it.
    pub(crate) loses: bool,
    /// Whether the kernel tells how a process has ended that is no child of ours.
    pub(crate) tells_ends: bool,
    /// What was ordered last: whom to steer to, whom to guard.
    ordered: (Steering, BTreeSet<SlotId>),
    /// How often it was killed; between a kill and the end of `Recovered` the next life is not itself again.
    lives: u32,
    is_recovering: bool,
    /// The order that is obeyed now may have been before.
    is_repeated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Moment {
    /// The first order was carried out, and not counted.
    First,
    /// All were, but no answer is saved.
    Last,
}

impl Killed {
    pub(super) fn new() -> Self {
        Self {
            is_random: false,
            after_each_step: None,
            reading: false,
            loses: true,
            tells_ends: true,
            ordered: (Steering::all_to(SlotId(0)), BTreeSet::new()),
            lives: 0,
            is_recovering: false,
            is_repeated: false,
        }
    }

    pub(crate) const fn is_recovering(&self) -> bool {
        self.is_recovering
    }

    pub(super) const fn is_repeated(&self) -> bool {
        self.is_repeated
    }
}

/// What a generation was told to start whose answer was not saved.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Unanswered {
    pub(super) main: Option<u32>,
    pub(super) command: Option<Command>,
}

impl<R: Rules> Kernel<R> {
    /// Whether supervise is killed before this event has led to a step that is saved.
    pub(super) fn is_killed_before(&mut self, event: &Event) -> bool {
        if std::mem::take(&mut self.killed.reading) {
            return true;
        }
        self.killed.is_random && *event != Event::Begun && self.is_fatal() && self.rng.u8(..3) == 0
    }

    /// A life that has just begun may be short.
    fn is_fatal(&mut self) -> bool {
        if self.killed.is_recovering { self.rng.u8(..32) == 0 } else { self.steps % OFTEN == OFTEN - 1 }
    }

    /// The step is saved.
    pub(super) fn saved(&mut self, step: &Step) {
        match step.event {
            Event::Started { generation, .. } | Event::StartFailed { generation, .. } => {
                self.group(*generation).unanswered.main = None;
            }
            Event::CommandEnded { generation, .. } => self.group(*generation).unanswered.command = None,
            _ => {}
        }
        for action in step.actions {
            match action {
                Action::Steer(steering) => self.killed.ordered.0 = *steering,
                Action::Guard { slot, on: true } => drop(self.killed.ordered.1.insert(*slot)),
                Action::Guard { slot, on: false } => drop(self.killed.ordered.1.remove(slot)),
                _ => {}
            }
        }
    }

    fn group(&mut self, id: GenerationId) -> &mut super::Group<R::Seen> {
        self.groups.get_mut(&id).expect("what was started is there")
    }

    /// Whether that was done before supervise was killed; a start is answered once more.
    pub(super) fn was_started(&mut self, generation: GenerationId, part: Part) -> bool {
        let Unanswered { main, command } = self.group(generation).unanswered;
        match part {
            _ if !self.killed.is_repeated => false,
            Part::Command(wanted) => command == Some(wanted),
            Part::Main | Part::Other => {
                self.answers.extend(main.map(|pid| Event::Started { generation, pid }));
                main.is_some()
            }
        }
    }

    pub(super) fn has_started(&mut self, generation: GenerationId, part: Part, pid: u32) {
        let unanswered = &mut self.group(generation).unanswered;
        if let Part::Command(command) = part {
            unanswered.command = Some(command);
        } else {
            unanswered.main = Some(pid);
            self.answers.push_back(Event::Started { generation, pid });
        }
    }

    /// Carries out the orders of a step, as far as supervise lives to do it.
    pub(super) fn carry_out(&mut self, step: &Step) {
        let end = self.last_order(step);
        for (index, action) in step.actions.iter().enumerate() {
            if end == Some(index) {
                let may = action.is_kept() && !matches!(action, Action::Exit(_));
                let is_done = may && (!self.killed.is_random || self.rng.bool());
                if is_done {
                    self.order(step, action);
                }
                return self.next_life(None, Some((step, index, is_done)));
            }
            self.order(step, action);
        }
        if end == Some(step.actions.len()) && self.ended.is_none() {
            return self.next_life(None, Some((step, step.actions.len(), false)));
        }
        R::obeyed(self, step);
    }

    /// Before which order of a step supervise is killed, if it is.
    fn last_order(&mut self, step: &Step) -> Option<usize> {
        let length = step.actions.len();
        if self.killed.is_random {
            return self.is_fatal().then(|| self.rng.usize(..=length));
        }
        // Who is killed in each of these never hears what comes of it.
        let waits = |action: &Action| matches!(action, Action::Ask(_) | Action::Rescue { .. });
        let is_idle = step.actions.iter().all(waits);
        let moment = self.killed.after_each_step.filter(|_| !is_idle && !self.killed.is_recovering)?;
        Some(if moment == Moment::First { 0 } else { length })
    }

    fn order(&mut self, step: &Step, action: &Action) {
        let is_again = matches!(
            action,
            Action::Spawn { .. }
                | Action::Run { .. }
                | Action::FindMain { .. }
                | Action::AwaitClear { .. }
                | Action::Reread
                | Action::Sweep { .. }
        );
        if *step.event == Event::Recovered && is_again {
            self.obey_again(action);
        } else {
            R::ordered(self, step, action);
            self.obey(action);
        }
    }

    fn obey_again(&mut self, action: &Action) {
        R::ordered_again(self, action);
        self.killed.is_repeated = true;
        self.obey(action);
        self.killed.is_repeated = false;
    }

    /// `read`: what was read and not saved. `rest`: the orders from this one on are to be carried out, and whether that one
    /// was already.
    pub(super) fn next_life(&mut self, read: Option<Event>, rest: Option<(&Step, usize, bool)>) {
        self.killed.lives += 1;
        let life = self.killed.lives;
        self.killed.is_recovering = true;
        self.dies_itself(read);
        if let Some((step, from, mut was_done)) = rest {
            self.trace.aside(self.now, || format!("the rest: {:?}", &step.actions[from..]));
            for action in &as_saved(&step.actions[from..]) {
                if self.killed.is_random && self.rng.u8(..32) == 0 {
                    self.dies_itself(None);
                }
                if std::mem::take(&mut was_done) {
                    self.obey_again(action);
                } else {
                    self.order(step, action);
                }
            }
            R::obeyed(self, step);
        }
        while self.ended.is_none()
            && self.killed.lives == life
            && let Some(answer) = self.answers.pop_front()
        {
            self.step(answer);
        }
        if self.ended.is_some() || self.killed.lives != life {
            return;
        }
        let steers = self.setting.steers || self.staged.as_ref().is_some_and(|staged| staged.steers);
        self.net.forget(steers);
        self.step(Event::Recovered);
        if self.killed.lives == life {
            self.killed.is_recovering = false;
            assert_eq!(
                self.net.held(),
                self.killed.ordered,
                "what the shell has to keep to is not ordered anew"
            );
        }
    }

    /// Supervise is killed, and for a while nobody watches.
    fn dies_itself(&mut self, read: Option<Event>) {
        self.trace.aside(self.now, || format!("supervise is killed, having read {read:?}"));
        self.core = Supervisor::restore(&self.core.save()).expect("what was saved is restored");
        self.twin = None;
        self.lose(read);
        if let Some(since) = self.suspended.take() {
            R::slept(self, self.now - since);
            self.net.slept(self.now - since);
        }
        if !self.killed.is_random {
            return;
        }
        let before = self.now;
        let until = before + self.rng.u64(..100 * MS);
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= until) {
            self.now = self.now.max(entry.key().0);
            let happening = entry.remove();
            self.happen(happening);
        }
        self.now = self.now.max(until);
        R::slept(self, self.now - before);
        self.net.slept(self.now - before);
    }

    /// What nobody knows any more.
    fn lose(&mut self, read: Option<Event>) {
        let loses = self.killed.loses;
        let mut queue = std::mem::take(&mut self.queue);
        if let Some(event) = read {
            if is_said(&event) && loses {
                R::lost(self, &event);
            } else {
                queue.push_front(event);
            }
        }
        for event in std::mem::take(&mut self.answers).into_iter().chain(queue) {
            match event {
                Event::Reread { .. } => self.staged = None,
                Event::MainSought { generation, found: Found::Main(pid) } => self.demote(generation, pid),
                // Those to a process that is gone are gone as well.
                Event::Signalled { .. } if loses => {}
                event if is_found_again(&event) => self.queue.push_back(self.as_found(event)),
                _ => {}
            }
        }
        for group in self.groups.values_mut() {
            group.awaited = false;
            for process in group.processes.iter_mut().filter(|process| process.life != Life::Gone) {
                process.is_ours = false;
            }
        }
        self.sweeping = false;
        self.net.forget_the_rest();
        // The relays are processes of their own, and may live on or not.
        let mut relayed = std::mem::take(&mut self.net.relayed);
        relayed.retain(|_| !self.killed.is_random || self.rng.bool());
        self.net.relayed = relayed;
    }

    /// The daemon was found, and nobody has heard of it.
    fn demote(&mut self, generation: GenerationId, pid: u32) {
        let who = pid - super::processes::pid(generation, 0);
        self.group(generation).processes[who as usize].part = Part::Other;
    }

    fn as_found(&self, event: Event) -> Event {
        match event {
            Event::Exited { generation, exit } => {
                Event::Exited { generation, exit: self.seen_from_afar(exit) }
            }
            Event::CommandEnded { generation, end: End::Exited(exit) } => {
                Event::CommandEnded { generation, end: End::Exited(self.seen_from_afar(exit)) }
            }
            event => event,
        }
    }

    /// How a process ends that is no child of ours.
    pub(super) const fn seen_from_afar(&self, exit: Exit) -> Exit {
        if self.killed.tells_ends { exit } else { Exit::Unknown }
    }
}

/// The orders as the next life reads them.
fn as_saved(actions: &[Action]) -> Vec<Action> {
    let kept: Vec<&Action> = actions.iter().filter(|action| action.is_kept()).collect();
    let text = serde_json::to_string(&kept).expect("what is kept can be saved");
    let saved: Vec<Action> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(saved.iter().collect::<Vec<_>>(), kept, "saved and read again, they differ");
    saved
}

/// Somebody has said it once.
const fn is_said(event: &Event) -> bool {
    matches!(event, Event::Notified { .. } | Event::Signalled { .. } | Event::Requested { .. })
}

/// Answers are not; what they answer is asked again.
fn is_found_again(event: &Event) -> bool {
    match event {
        Event::Exited { .. } | Event::CommandEnded { end: End::Exited(_), .. } => true,
        Event::Notified { .. } | Event::Signalled { .. } | Event::Requested { .. } => true,
        // The last stands for a shell that saves which process is the main one as soon as it knows.
        Event::ClientGone { .. } | Event::SocketLost { .. } | Event::MainChanged { .. } => true,
        Event::Begun | Event::Restored | Event::Recovered | Event::Tick | Event::Connected => false,
        Event::Started { .. } | Event::StartFailed { .. } | Event::CommandEnded { .. } => false,
        Event::MainSought { .. } | Event::Cleared { .. } | Event::Reread { .. } | Event::Answered { .. } => {
            false
        }
        Event::Arrived { .. } | Event::SteerFailed { .. } | Event::RescueFailed { .. } | Event::Childless => {
            false
        }
    }
}
