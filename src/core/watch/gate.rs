//! Decides whether a generation is ready as its Ready= demands (has passed its *gate*). For `auto` and Type=notify a
//! generation says READY=1, or is seen to wait on its sockets or to accept connections.
//!
//! A candidate is held to what the generation that serves has shown. Where that one was seen, READY=1 alone is not enough:
//! many a server sends it before its workers can answer. Where that one sent READY=1, being seen alone is not enough. Where
//! nobody was ever seen, a second of life has to do, and the swap is not called one: `taken over unseen`.

use std::collections::BTreeSet;

use super::sight::{MayConnect, Sight, Waiting};
use super::waiting::listed;
use super::{Observed, View, Watch, Watching};
use crate::config::{Ready, Span};
use crate::core::note::ReadyBy;
use crate::core::{GenerationId, Time, limits};

/// So long after the start of a candidate the one that serves may have a connection of ours, and after that the
/// candidate: one question at a time.
const ASK_CURRENT: Span = Span::from_millis(250);

/// So long after its start a generation that nobody was seen of may have a connection of ours, if it is alone or not ready:
/// whoever looks for clients from time to time is never seen to wait for them. Where only READY=1 is missing, that is in
/// time for the hint (`limits::HINT`), which would be wrong.
const ASK_UNSEEN: Span = Span::from_secs(1);

/// What the generation that serves has shown of itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shown {
    Seen,
    Unseen,
    /// The answer of the look at it is still to come.
    NotYet,
}

impl Observed {
    fn was_seen(&self) -> bool {
        self.waiting.as_ref().is_some_and(Waiting::was_seen)
    }

    /// Who waits on its sockets decides whether it is ready, and it is not.
    fn is_to_be_seen(&self) -> bool {
        self.passed_by.is_none() && matches!(self.ready, Ready::Auto | Ready::NotifyType)
    }
}

impl Watch {
    /// The evidence by which the generation counts as ready; `None` if it is not ready.
    pub(in crate::core) fn passed_by(&self, id: GenerationId) -> Option<&ReadyBy> {
        self.get(id)?.passed_by.as_ref()
    }

    /// Why it counts as ready although nobody has seen it serve: no other generation exists. `None` if there is no doubt.
    pub(in crate::core) fn doubt(&self, id: GenerationId) -> Option<String> {
        let observed = self.get(id)?;
        let by = observed.passed_by.as_ref()?;
        let is_seen = observed.waiting.as_ref().is_some_and(|waiting| waiting.unseen.is_empty());
        by.doubt().filter(|_| !is_seen || *by == ReadyBy::Alone)
    }

    /// It counts as ready because it lives, it has sockets, and no generation was ever seen to wait on them or to accept.
    pub(in crate::core) fn is_unseen(&self, id: GenerationId) -> bool {
        let Some(observed) = self.get(id) else { return false };
        let is_proved = match &observed.passed_by {
            None | Some(ReadyBy::Notify | ReadyBy::Exec | ReadyBy::Http) => true,
            Some(ReadyBy::Waits { .. } | ReadyBy::Serves { .. } | ReadyBy::Accepted) => true,
            Some(ReadyBy::Alive | ReadyBy::Blind | ReadyBy::Alone) => false,
            Some(ReadyBy::Unseen { .. } | ReadyBy::NotAccepted) => false,
        };
        observed.ready == Ready::Auto && !is_proved && !self.has_served && observed.waiting.is_some()
    }
}

impl View<'_> {
    pub(in crate::core) fn is_gate_closed(self, id: GenerationId) -> bool {
        self.watch.get(id).is_some_and(|observed| observed.passed_by.is_none())
    }

    fn shown_to(self, candidate: &Observed) -> Shown {
        let Some(old) = self.replaced() else { return Shown::Unseen };
        match &old.waiting {
            Some(waiting) if waiting.was_seen() => Shown::Seen,
            Some(waiting) if !old.leaves && !waiting.is_settled(candidate.spawned) => Shown::NotYet,
            Some(_) | None => Shown::Unseen,
        }
    }

    /// READY=1 is wanted of it: by its Type=, or because the one that serves sends it.
    fn has_to_say(self, observed: &Observed) -> bool {
        observed.ready == Ready::NotifyType || self.watch.server_notifies
    }

    /// READY=1 alone is not enough. One of which nothing can be known is taken at its word.
    fn has_to_be_seen(self, observed: &Observed) -> bool {
        let can_be_seen = observed.waiting.as_ref().is_some_and(|waiting| waiting.sight != Sight::Blind);
        can_be_seen && self.is_candidate(observed) && self.shown_to(observed) != Shown::Unseen
    }

    /// All that is missing is a look.
    pub(super) fn is_gate_to_be_seen(self, observed: &Observed) -> bool {
        let is_said = observed.said_ready || !self.has_to_say(observed);
        observed.is_to_be_seen() && is_said && (!observed.said_ready || self.has_to_be_seen(observed))
    }

    /// It serves, a candidate is to be held to what it shows, and nobody was seen yet: it may have taken longer to start
    /// than it was looked at, or be seldom at rest.
    pub(super) fn may_be_seen_late(self, observed: &Observed) -> bool {
        let is_replaced = self.replaced().is_some_and(|old| old.id == observed.id);
        let is_open = self.candidate().is_some_and(Observed::is_to_be_seen);
        is_open && is_replaced && observed.waiting.is_some() && !observed.was_seen()
    }

    /// A candidate that nobody was seen of has the traffic, or part of it: it may show now that it serves.
    pub(super) fn may_be_proved(self, observed: &Observed) -> bool {
        self.is_candidate(observed) && self.watch.is_unseen(observed.id)
    }

    pub(super) fn is_to_be_asked(self, observed: &Observed, now: Time) -> MayConnect {
        if self.is_to_be_asked_alone(observed, now) || self.is_to_be_asked_for_hint(observed, now) {
            return MayConnect::Anyway;
        }
        let asked_first = |candidate: &Observed| now < candidate.spawned.after(ASK_CURRENT);
        if self.is_gate_to_be_seen(observed) {
            let waits = |old: &Observed| old.waiting.as_ref().is_some_and(|waiting| waiting.waits);
            // Where the current one waits, a candidate that is about to start is only looked at.
            let is_quiet = self.replaced().is_none_or(waits) || asked_first(observed);
            return if is_quiet { MayConnect::WhereBlind } else { MayConnect::Anyway };
        }
        match self.candidate().filter(|_| self.may_be_seen_late(observed)) {
            Some(candidate) if asked_first(candidate) => MayConnect::Anyway,
            Some(_) | None => MayConnect::No,
        }
    }

    /// Nobody was seen of it since it started, or it is asked socket by socket already.
    fn is_unseen_for_long(self, observed: &Observed, now: Time) -> bool {
        let is_open = |waiting: &Waiting| !waiting.was_seen() || waiting.sight == Sight::Asked;
        let is_due = |waiting: &Waiting| now >= waiting.since.after(ASK_UNSEEN) && is_open(waiting);
        observed.waiting.as_ref().is_some_and(is_due)
    }

    fn is_to_be_asked_alone(self, observed: &Observed, now: Time) -> bool {
        let is_wanted = self.is_gate_to_be_seen(observed) || observed.passed_by.is_some();
        is_wanted && self.is_unseen_for_long(observed, now) && self.scene.is_alone(observed.id)
    }

    /// It is not ready, and Ready=http: does not ask it already.
    fn is_to_be_asked_for_hint(self, observed: &Observed, now: Time) -> bool {
        let is_known = observed.waiting.as_ref().is_none_or(|waiting| waiting.is_known);
        let is_free = observed.passed_by.is_none() && observed.probe.is_none();
        !self.watch.hint_told && !is_known && is_free && self.is_unseen_for_long(observed, now)
    }

    /// How long a generation has to live to count as ready, whatever else it shows.
    pub(in crate::core) fn lives_for(self, id: GenerationId) -> Span {
        let Some(observed) = self.watch.get(id) else { return Span::INFINITY };
        match observed.ready {
            Ready::Delay(span) => span,
            Ready::Auto => self.auto_alive(observed),
            Ready::Notify | Ready::NotifyType | Ready::Exec | Ready::Http => Span::INFINITY,
        }
    }

    /// Ready=auto: how long a generation that is neither seen nor says READY=1 has to live.
    fn auto_alive(self, observed: &Observed) -> Span {
        let server_notifies = self.watch.server_notifies;
        match &observed.waiting {
            _ if server_notifies && self.scene.is_alone(observed.id) => limits::AUTO_ALONE,
            _ if server_notifies => Span::INFINITY,
            None | Some(Waiting { sight: Sight::Blind, .. }) => limits::AUTO_ALIVE,
            Some(_) if !self.is_candidate(observed) => limits::AUTO_ALONE,
            Some(_) if self.replaced().is_some_and(Observed::was_seen) => Span::INFINITY,
            Some(_) => limits::AUTO_ALIVE,
        }
    }

    /// Where this generation still has to be seen.
    fn missing(self, observed: &Observed) -> BTreeSet<String> {
        let Some(waiting) = &observed.waiting else { return BTreeSet::new() };
        let old = self.replaced().filter(|_| self.is_candidate(observed));
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
    fn seen_by(self, observed: &Observed) -> Option<ReadyBy> {
        let waiting = observed.waiting.as_ref()?;
        if waiting.sight == Sight::Accepted {
            return Some(ReadyBy::Accepted);
        }
        let is_whole = !waiting.seen.is_empty() && self.missing(observed).is_empty();
        let sockets = listed(&waiting.seen);
        let by = if waiting.waits { ReadyBy::Waits { sockets } } else { ReadyBy::Serves { sockets } };
        Some(by).filter(|_| is_whole)
    }

    fn opened_by(self, observed: &Observed) -> Option<ReadyBy> {
        let seen = self.seen_by(observed);
        match observed.ready {
            Ready::Notify => observed.said_ready.then_some(ReadyBy::Notify),
            Ready::Auto | Ready::NotifyType if observed.said_ready => {
                (seen.is_some() || !self.has_to_be_seen(observed)).then_some(ReadyBy::Notify)
            }
            Ready::Auto => seen.filter(|_| !self.has_to_say(observed)),
            Ready::NotifyType | Ready::Exec | Ready::Delay(_) | Ready::Http => None,
        }
    }

    /// ` (nobody waits on https)`: why it is not ready, as far as that is known.
    pub(in crate::core) fn what_is_missing(self, id: GenerationId) -> Option<String> {
        let observed = self.watch.get(id)?;
        match observed.ready {
            Ready::Http => observed.probe.as_ref()?.last.as_ref().map(|last| format!(" (the last answer: {last})")),
            Ready::Notify => Some(no_ready(observed, "--ready auto")),
            Ready::NotifyType if !observed.said_ready => Some(no_ready(observed, "Type=simple")),
            Ready::Auto
                if self.watch.server_notifies && !observed.said_ready && self.is_candidate(observed) =>
            {
                Some(
                " (it sent no READY=1, as the one that serves did; if it never does, `supervise restart` takes it)"
                    .to_owned(),
            )
            }
            Ready::Auto | Ready::NotifyType => {
                let waiting = observed.waiting.as_ref()?;
                let said = if observed.said_ready { "it said READY=1, but " } else { "" };
                match waiting.sight {
                    _ if waiting.unseen.is_empty() => None,
                    Sight::Clear => Some(format!(" ({said}nobody waits on {})", listed(&waiting.unseen))),
                    Sight::Asked => Some(format!(" ({said}it has not accepted a connection from supervise)")),
                    Sight::Dim | Sight::Accepted | Sight::Blind => None,
                }
            }
            Ready::Exec | Ready::Delay(_) => None,
        }
    }

    /// By what one is ready that has lived for [`View::lives_for`].
    fn lived_by(self, observed: &Observed) -> ReadyBy {
        match &observed.waiting {
            _ if observed.ready != Ready::Auto => ReadyBy::Alive,
            _ if self.watch.server_notifies => ReadyBy::Alone,
            Some(Waiting { sight: Sight::Blind, .. }) => ReadyBy::Blind,
            Some(waiting) if !self.is_candidate(observed) => match waiting.sight {
                _ if !waiting.is_blind => ReadyBy::Unseen { sockets: listed(&waiting.unseen) },
                Sight::Clear | Sight::Dim | Sight::Asked | Sight::Accepted | Sight::Blind => {
                    ReadyBy::NotAccepted
                }
            },
            Some(_) | None => ReadyBy::Alive,
        }
    }
}

impl Watching<'_> {
    /// A candidate is to be held to what the one that serves shows, which is looked at for it.
    pub(in crate::core) fn compare(&mut self) {
        let now = self.now;
        let old = self.scene.current.and_then(|old| self.watch.get_mut(old));
        let waiting = old.and_then(|old| old.waiting.as_mut());
        if let Some(waiting) = waiting.filter(|waiting| !waiting.was_seen()) {
            waiting.look_soon(now);
        }
    }

    /// Opens the gate if nothing is missing any more: after READY=1, a look, or the end of the generation that served.
    /// Returns whether this call has opened it.
    pub(in crate::core) fn check_gate(&mut self, id: GenerationId) -> bool {
        let observed = self.watch.get(id).filter(|observed| observed.passed_by.is_none() && !observed.leaves);
        let by = observed.and_then(|observed| self.view().opened_by(observed));
        by.map(|by| self.open(id, by)).is_some()
    }

    /// Opens the gate of a generation that has lived for [`View::lives_for`].
    pub(in crate::core) fn lived(&mut self, id: GenerationId) {
        if let Some(observed) = self.watch.get(id) {
            let by = self.view().lived_by(observed);
            self.open(id, by);
        }
    }

    /// What Ready= waits for has come, and no connection of ours has to be accepted any more.
    pub(in crate::core) fn open(&mut self, id: GenerationId, by: ReadyBy) {
        if let Some(observed) = self.watch.get_mut(id) {
            observed.passed_by.get_or_insert(by);
            observed.probe = None;
        }
        self.end_asking(id);
        if let Some(current) = self.scene.current {
            self.end_asking(current);
        }
    }
}

/// `remedy`: the setting with which it needs to send none.
fn no_ready(observed: &Observed, remedy: &str) -> String {
    if observed.was_seen() {
        format!(" (it sent no READY=1, but it accepts connections; with {remedy} that is enough)")
    } else {
        " (it sent no READY=1)".to_owned()
    }
}
