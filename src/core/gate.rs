//! What opens the gate of Ready=auto and of Type=notify: a generation says READY=1, or is seen to wait on its sockets or
//! to accept connections.
//!
//! A candidate is held to what the generation that serves has shown. Where that one was seen, READY=1 alone is not enough:
//! many a server sends it before its workers can answer. Where that one sent READY=1, being seen alone is not enough. Where
//! nobody was ever seen, a second of life has to do, and the swap is not called one: `taken over unseen`.

use std::collections::BTreeSet;

use super::generation::{Gate, Generation, Probing};
use super::note::ReadyBy;
use super::service::{Phase, Service, Step};
use super::sight::{Ask, Sight, Waiting};
use super::waiting::listed;
use super::{GenerationId, Time, limits};
use crate::config::{Ready, Span};

/// So long after the start of a candidate the one that serves may have a connection of ours, and after that the
/// candidate: one question at a time.
const ASK_CURRENT: Span = Span::from_millis(250);

/// So long after its start a generation that is alone, and that nobody was seen of, may have a connection of ours: whoever
/// looks for clients from time to time is never seen to wait for them.
const ASK_ALONE: Span = Span::from_secs(1);

/// What the generation that serves has shown of itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Seen,
    Unseen,
    /// It is being looked at.
    NotYet,
}

impl Service {
    /// The generation that a candidate is to replace.
    fn replaced(&self) -> Option<&Generation> {
        let Phase::Swapping { old, .. } = self.phase else { return None };
        self.get(old)
    }

    fn shown_to(&self, candidate: &Generation) -> Shown {
        let Some(old) = self.replaced() else { return Shown::Unseen };
        match &old.waiting {
            Some(waiting) if waiting.was_seen() => Shown::Seen,
            Some(waiting) if old.lives() && !waiting.is_settled(candidate.spawned) => Shown::NotYet,
            Some(_) | None => Shown::Unseen,
        }
    }

    fn current_was_seen(&self) -> bool {
        self.replaced().and_then(|old| old.waiting.as_ref()).is_some_and(Waiting::was_seen)
    }

    /// READY=1 is wanted of it: by its Type=, or because the one that serves sends it.
    fn has_to_say(&self, generation: &Generation) -> bool {
        generation.policy.ready == Ready::NotifyType || self.server_notifies
    }

    /// READY=1 alone is not enough. One of which nothing can be known is taken at its word.
    fn has_to_be_seen(&self, generation: &Generation) -> bool {
        let can_be_seen = generation.waiting.as_ref().is_some_and(|waiting| waiting.sight != Sight::Blind);
        can_be_seen && self.is_candidate(generation.id) && self.shown_to(generation) != Shown::Unseen
    }

    /// All that is missing is a look.
    pub(super) fn is_gate_to_be_seen(&self, generation: &Generation) -> bool {
        let is_open = generation.is_gate_closed() && looks(generation.policy.ready);
        let is_said = generation.said.ready || !self.has_to_say(generation);
        is_open && is_said && (!generation.said.ready || self.has_to_be_seen(generation))
    }

    /// It serves, a candidate is to be held to what it shows, and nobody was seen yet: it may have taken longer to start
    /// than it was looked at, or be seldom at rest.
    pub(super) fn may_be_seen_late(&self, generation: &Generation) -> bool {
        let is_open = self.candidate().is_some_and(|new| new.is_gate_closed() && looks(new.policy.ready));
        let is_replaced = self.replaced().is_some_and(|old| old.id == generation.id);
        is_open && is_replaced && generation.waiting.as_ref().is_some_and(|waiting| !waiting.was_seen())
    }

    /// A candidate that nobody was seen of has the traffic, or part of it: it may show now that it serves.
    pub(super) fn may_be_proved(&self, generation: &Generation) -> bool {
        self.is_candidate(generation.id) && self.is_unseen(generation)
    }

    pub(super) fn is_to_be_asked(&self, generation: &Generation, now: Time) -> Ask {
        if self.is_to_be_asked_alone(generation, now) {
            return Ask::Anyway;
        }
        let asked_first = |candidate: &Generation| now < candidate.spawned.after(ASK_CURRENT);
        if self.is_gate_to_be_seen(generation) {
            let waits = |old: &Generation| old.waiting.as_ref().is_some_and(|waiting| waiting.waits);
            // Where the current one waits, a candidate that is about to start is only looked at.
            let is_quiet = self.replaced().is_none_or(waits) || asked_first(generation);
            return if is_quiet { Ask::WhereBlind } else { Ask::Anyway };
        }
        match self.candidate().filter(|_| self.may_be_seen_late(generation)) {
            Some(candidate) if asked_first(candidate) => Ask::Anyway,
            Some(_) | None => Ask::No,
        }
    }

    /// Nothing but READY=1 is missing of one that has not sent it.
    fn is_to_be_asked_alone(&self, generation: &Generation, now: Time) -> bool {
        let is_wanted = self.is_gate_to_be_seen(generation) || !generation.is_gate_closed();
        let is_due = generation.started().is_some_and(|started| now >= started.after(ASK_ALONE));
        let is_unseen = generation.waiting.as_ref().is_some_and(|waiting| !waiting.was_seen());
        is_wanted && is_due && is_unseen && self.is_alone(generation.id)
    }

    /// Ready=auto: how long a generation that is neither seen nor says READY=1 has to live to count as ready.
    pub(super) fn auto_alive(&self, generation: &Generation) -> Span {
        let is_alone = self.is_alone(generation.id);
        match &generation.waiting {
            _ if self.server_notifies && is_alone => limits::AUTO_ALONE,
            _ if self.server_notifies => Span::INFINITY,
            None | Some(Waiting { sight: Sight::Blind, .. }) => limits::AUTO_ALIVE,
            Some(_) if !self.is_candidate(generation.id) => limits::AUTO_ALONE,
            Some(_) if self.current_was_seen() => Span::INFINITY,
            Some(_) => limits::AUTO_ALIVE,
        }
    }

    /// Where this generation still has to be seen.
    fn missing(&self, generation: &Generation) -> BTreeSet<String> {
        let Some(waiting) = &generation.waiting else { return BTreeSet::new() };
        let old = self.replaced().filter(|_| self.is_candidate(generation.id));
        let of_old = old.and_then(|old| old.waiting.as_ref());
        let is_required = |socket: &&String| of_old.is_none_or(|old| old.seen.contains(*socket));
        let all = waiting.seen.union(&waiting.unseen);
        // Where none of its sockets is one of those, all of them are.
        if !all.clone().any(|socket| is_required(&socket)) {
            return waiting.unseen.clone();
        }
        waiting.unseen.iter().filter(is_required).cloned().collect()
    }

    /// By what it is known to be able to answer.
    fn seen_by(&self, generation: &Generation) -> Option<ReadyBy> {
        let waiting = generation.waiting.as_ref()?;
        if waiting.sight == Sight::Accepted {
            return Some(ReadyBy::Accepted);
        }
        let is_whole = !waiting.seen.is_empty() && self.missing(generation).is_empty();
        let sockets = listed(&waiting.seen);
        let by = if waiting.waits { ReadyBy::Waits { sockets } } else { ReadyBy::Serves { sockets } };
        Some(by).filter(|_| is_whole)
    }

    fn opened_by(&self, generation: &Generation) -> Option<ReadyBy> {
        let seen = self.seen_by(generation);
        match generation.policy.ready {
            Ready::Notify => generation.said.ready.then_some(ReadyBy::Notify),
            Ready::Auto | Ready::NotifyType if generation.said.ready => {
                (seen.is_some() || !self.has_to_be_seen(generation)).then_some(ReadyBy::Notify)
            }
            Ready::Auto => seen.filter(|_| !self.has_to_say(generation)),
            Ready::NotifyType | Ready::Exec | Ready::Delay(_) | Ready::Http => None,
        }
    }

    /// It counts as ready because it lives, it has sockets, and no generation was ever seen to wait on them or to accept.
    pub(super) fn is_unseen(&self, generation: &Generation) -> bool {
        let is_proved = match generation.passed_by() {
            None | Some(ReadyBy::Notify | ReadyBy::Exec | ReadyBy::Http) => true,
            Some(ReadyBy::Waits { .. } | ReadyBy::Serves { .. } | ReadyBy::Accepted) => true,
            Some(ReadyBy::Alive | ReadyBy::Blind | ReadyBy::Alone) => false,
            Some(ReadyBy::Unseen { .. } | ReadyBy::NotAccepted) => false,
        };
        let is_auto = generation.policy.ready == Ready::Auto;
        is_auto && !is_proved && !self.has_served && generation.waiting.is_some()
    }

    /// ` (nobody waits on https)`: why it is not ready, as far as that is known.
    pub(super) fn what_is_missing(&self, generation: &Generation) -> Option<String> {
        let is_candidate = self.is_candidate(generation.id);
        match generation.policy.ready {
            Ready::Http => {
                let Gate::Closed { probe: Some(Probing { last: Some(last), .. }) } = &generation.gate else {
                    return None;
                };
                Some(format!(" (the last answer: {last})"))
            }
            Ready::Notify => Some(" (it sent no READY=1)".to_owned()),
            Ready::NotifyType if !generation.said.ready => Some(" (it sent no READY=1)".to_owned()),
            Ready::Auto if self.server_notifies && !generation.said.ready && is_candidate => Some(
                " (it sent no READY=1, as the one that serves did; if it never does, `supervise restart` takes it)"
                    .to_owned(),
            ),
            Ready::Auto | Ready::NotifyType => {
                let waiting = generation.waiting.as_ref()?;
                let said = if generation.said.ready { "it said READY=1, but " } else { "" };
                match waiting.sight {
                    _ if waiting.unseen.is_empty() => None,
                    Sight::Clear => Some(format!(" ({said}nobody waits on {})", listed(&waiting.unseen))),
                    Sight::Asked => Some(format!(" ({said}it has not accepted a connection of ours)")),
                    Sight::Dim | Sight::Accepted | Sight::Blind => None,
                }
            }
            Ready::Exec | Ready::Delay(_) => None,
        }
    }
}

/// Who waits on its sockets matters for it.
fn looks(ready: Ready) -> bool {
    matches!(ready, Ready::Auto | Ready::NotifyType)
}

impl Step<'_> {
    /// The one that serves is looked at for a candidate.
    pub(super) fn begin_comparing(&mut self, old: GenerationId) {
        let now = self.now;
        let waiting = self.service.get_mut(old).and_then(|old| old.waiting.as_mut());
        if let Some(waiting) = waiting.filter(|waiting| !waiting.was_seen()) {
            waiting.look_soon(now);
        }
    }

    /// READY=1 came, or somebody was looked at, or the one that served is gone.
    pub(super) fn check_gate(&mut self, id: GenerationId) {
        let generation = self.service.get(id).filter(|generation| generation.is_gate_closed());
        if let Some(by) = generation.and_then(|generation| self.service.opened_by(generation)) {
            self.pass_gate(id, by);
        }
    }

    /// Ready=auto: it has lived for [`Service::auto_alive`].
    pub(super) fn lived_for_auto(&self, generation: &Generation) -> ReadyBy {
        match &generation.waiting {
            _ if self.service.server_notifies => ReadyBy::Alone,
            Some(Waiting { sight: Sight::Blind, .. }) => ReadyBy::Blind,
            Some(waiting) if !self.service.is_candidate(generation.id) => match waiting.sight {
                _ if !waiting.is_blind => ReadyBy::Unseen { sockets: listed(&waiting.unseen) },
                Sight::Clear | Sight::Dim | Sight::Asked | Sight::Accepted | Sight::Blind => {
                    ReadyBy::NotAccepted
                }
            },
            Some(_) | None => ReadyBy::Alive,
        }
    }
}
