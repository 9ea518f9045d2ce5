//! The rules themselves. They see what the shell sees and what check.rs remembers of it, nothing inside the core.

use std::collections::VecDeque;

use socket_supervise::config::{KillMode, Ready, Restart, Signal, Span, StartLimitAction};
use socket_supervise::core::report::{Outcome, Reply, Role, State, Status};
use socket_supervise::core::{Action, ClientId, Event, GenerationId, Scope, Time, Why, limits};

use super::{Check, Seen, is_passed_on, role};

impl Check {
    /// Numbers are never reused; one number is asked for again only while its file was busy.
    pub(super) fn generation_numbers_grow(&mut self, now: u64, event: &Event, id: GenerationId) {
        assert!(self.stops_asked == 0, "generation {} is started while we stop", id.0);
        let again = id.0 <= self.last;
        self.last = self.last.max(id.0);
        let seen = self.seen.entry(id).or_default();
        if again {
            assert!(
                seen.text_busy && !seen.pending && !seen.forgotten,
                "generation {} is started twice",
                id.0
            );
            let patience = (limits::TEXT_BUSY.as_nanos(), limits::TEXT_BUSY_RETRY.as_nanos());
            let by = seen.waits_since.map(|since| since + patience.0 + patience.1 + 2 * Self::LATE);
            assert!(by.is_some_and(|by| now <= by), "generation {} waits for a busy file for ever", id.0);
        }
        seen.waits_since.get_or_insert(now);
        (seen.pending, seen.ordered) = (true, now);
        self.instant.2 += 1;
        if !again {
            self.restart_rate_bounded(now, event);
        }
    }

    /// StartLimit*= and RestartSec= for starts nobody asked for, the trigger limit for those by connections.
    /// The windows are fixed ones that open with their first start: a sliding one can see two of them.
    pub(super) fn restart_rate_bounded(&mut self, now: u64, event: &Event) {
        let asked = matches!(event, Event::Begun | Event::Requested { .. } | Event::Signalled { .. });
        let triggered = self.listens || matches!(event, Event::Connected | Event::Arrived { .. });
        // What a connection starts meanwhile is not what was asked for.
        let was_asked = if triggered { self.asked } else { std::mem::take(&mut self.asked) };
        if was_asked || asked {
            self.automatic.clear();
            self.triggered.clear();
            return;
        }
        let count = |starts: &mut VecDeque<u64>, span: u64| {
            starts.push_back(now);
            starts.retain(|start| now - start <= span);
            starts.len()
        };
        if triggered {
            let starts = count(&mut self.triggered, self.policy.trigger_limit.interval.as_nanos());
            assert!(
                starts <= 2 * self.policy.trigger_limit.burst as usize,
                "{starts} starts by connections in 2 s"
            );
        } else {
            let base = self.policy.delay.base.as_nanos();
            assert!(now >= self.last_end.saturating_add(base), "restarted before RestartSec= was over");
        }
        let limit = self.policy.start_limit;
        if limit.burst > 0 && limit.interval > Span::ZERO {
            let starts = count(&mut self.automatic, limit.interval.as_nanos());
            assert!(
                starts <= 2 * limit.burst as usize,
                "{starts} starts against StartLimitBurst={}",
                limit.burst
            );
        }
    }

    /// Time passes between wake-ups: no instant sees the core run in circles.
    pub(super) fn no_spin(&mut self, now: u64, event: &Event, actions: &[Action], wake: Option<(Time, Why)>) {
        if self.instant.0 != now {
            self.instant = (now, 0, 0);
        }
        let (_, ticks, starts) = &mut self.instant;
        assert!(*starts <= 16, "{starts} starts at one instant");
        if matches!(event, Event::Tick) {
            *ticks += 1;
            assert!(*ticks <= 20, "{ticks} ticks at one instant");
            let due = wake.is_some_and(|(time, _)| time.0 <= now);
            assert!(!actions.is_empty() || !due, "a tick that did nothing wants another at once: {wake:?}");
        }
        assert!(wake.is_none_or(|(time, _)| time != Time::NEVER), "a wake-up that never comes");
    }

    /// A signal goes to nobody that was reaped: the number may be somebody else's by now.
    pub(super) fn no_signal_after_reap(&self, id: GenerationId, scope: Scope) {
        let seen =
            self.seen.get(&id).unwrap_or_else(|| panic!("a signal to generation {}, which never was", id.0));
        assert!(
            !seen.cleared && !seen.forgotten,
            "a signal to generation {}, of which nothing is left",
            id.0
        );
        assert!(seen.started.is_some(), "a signal to generation {}, which does not run", id.0);
        assert!(
            scope == Scope::All || !seen.ended,
            "a signal to the reaped main process of generation {}",
            id.0
        );
    }

    /// During a swap the old generation is signalled only once the new one is ready and the bake is over.
    pub(super) fn old_untouched_until_new_ready(
        &self,
        now: u64,
        id: GenerationId,
        signal: Signal,
        after: &Status,
    ) {
        let Some(before) = &self.before else { return };
        let (Some(candidate), Some(old)) = (role(before, Role::Candidate), self.seen.get(&id)) else {
            return;
        };
        let own_fault =
            old.ended || old.lost || old.ready.is_none() || signal == Signal::ABRT || old.told.is_some();
        if before.generation != Some(id.0) || self.disturbed || own_fault {
            return;
        }
        let ready = self.seen.get(&GenerationId(candidate)).and_then(|seen| seen.ready);
        let ready_now =
            after.generations.iter().any(|entry| entry.generation == candidate && entry.ready_ms.is_some());
        let since = ready.or_else(|| ready_now.then_some(now));
        let since =
            since.unwrap_or_else(|| panic!("generation {} is signalled before {candidate} is ready", id.0));
        let canary =
            self.policy.canary.filter(|_| self.setting.steers).map_or(0, |canary| canary.span.as_nanos());
        let bake = self.policy.bake.as_nanos().saturating_add(canary);
        assert!(
            now >= since.saturating_add(bake),
            "generation {} is signalled before the bake is over",
            id.0
        );
    }

    pub(super) fn watchdog_kills_only_the_silent(&self, now: u64, id: GenerationId, signal: Signal) {
        if signal == Signal::ABRT && self.policy.kill_signal != Signal::ABRT {
            let Some(seen) = self.seen.get(&id) else { return };
            let (silent, watchdog) = (now.saturating_sub(seen.pinged), self.policy.watchdog.as_nanos());
            let is_silent = watchdog > 0 && silent >= watchdog;
            assert!(is_silent || seen.triggered, "the watchdog kills generation {} after {silent} ns", id.0);
        }
    }

    /// Ready= is kept: nothing counts as ready that neither said so nor lived long enough.
    pub(super) fn ready_means_ready(&self, now: u64, id: GenerationId) {
        let seen = &self.seen[&id];
        assert!(seen.started.is_some(), "generation {} is ready but not started", id.0);
        let age = now - seen.ordered;
        let right = match self.policy.ready {
            Ready::Notify => seen.ready_said,
            Ready::NotifyType => seen.ready_said && self.said_is_enough(age, id),
            Ready::Auto if seen.ready_said => self.said_is_enough(age, id),
            Ready::Auto => self.auto_means_seen(age, id),
            Ready::Exec => true,
            Ready::Http => self.was_asked(id),
            Ready::Delay(span) => age >= span.as_nanos(),
        };
        assert!(right, "generation {} counts as ready after {age} ns", id.0);
    }

    /// At most one of each, `generation` is the current one, and what is listed is what was not forgotten.
    pub(super) fn one_current_one_candidate(&self, status: &Status) {
        let count = |wanted: Role| status.generations.iter().filter(|entry| entry.role == wanted).count();
        assert!(count(Role::Current) <= 1 && count(Role::Candidate) <= 1, "two of a role: {status:?}");
        assert_eq!(
            status.generation,
            role(status, Role::Current),
            "generation is not the current one: {status:?}"
        );
        assert!(status.generations.len() <= limits::GENERATIONS, "more than eight generations");
        let has_one = matches!(status.state, State::Starting | State::Running | State::Swapping);
        assert!(!has_one || status.generation.is_some(), "nothing is current: {status:?}");
        let swapping = status.state == State::Swapping;
        assert_eq!(swapping, count(Role::Candidate) == 1, "a candidate is a swap: {status:?}");
        let listed: Vec<u64> = status.generations.iter().map(|entry| entry.generation).collect();
        let known: Vec<u64> =
            self.seen.iter().filter(|(_, seen)| !seen.forgotten).map(|(id, _)| id.0).collect();
        assert_eq!(listed, known, "status lists other generations than there are");
    }

    /// After a roll-back the same generation serves as the same process, was told nothing, and counts no restart.
    pub(super) fn failed_swap_changes_nothing(&self, status: &Status) {
        let (Some(before), Some(swap)) = (&self.before, &status.last_swap) else { return };
        let rolled_back = swap.outcome == Outcome::RolledBack && before.last_swap.as_ref() != Some(swap);
        let Some(old) = swap.from.filter(|_| rolled_back && before.state == State::Swapping) else { return };
        let seen = &self.seen[&GenerationId(old)];
        assert_ne!(status.generation, swap.to, "rolled back, but the candidate is the current generation");
        if seen.ended || seen.forgotten || seen.told.is_some() || self.disturbed {
            return;
        }
        let pid = |status: &Status| {
            status.generations.iter().find(|entry| entry.generation == old).and_then(|entry| entry.pid)
        };
        assert_eq!(status.generation, Some(old), "a roll-back changed the current generation");
        assert_eq!(pid(status), pid(before), "a roll-back changed the pid");
        assert_eq!(status.restarts, before.restarts, "a roll-back counted as a restart");
        assert!(
            matches!(status.state, State::Running | State::Swapping | State::Starting),
            "after a roll-back: {:?}",
            status.state
        );
    }

    /// What is passed on goes to the current main process, once, as it came.
    pub(super) fn signals_are_passed_on_once(&self, event: &Event, actions: &[Action]) {
        let Event::Signalled { signal, .. } = event else { return };
        if !is_passed_on(event) || matches!(*signal, Signal::TSTP | Signal::CONT) {
            return;
        }
        let current = self.before.as_ref().and_then(|status| status.generation);
        let mut kills = 0;
        for action in actions {
            if let Action::Kill { generation, signal: sent, scope } = action {
                kills += 1;
                assert!(
                    sent == signal && *scope == Scope::Main && Some(generation.0) == current,
                    "{action:?} is not the signal {signal:?} for the current generation"
                );
            }
        }
        assert!(kills <= 1, "a signal was passed on {kills} times");
    }

    /// Whoever was told to stop and did not gets SIGKILL in time; what the kernel then holds is given up in time.
    pub(super) fn hung_ones_are_killed(&self, now: u64) {
        let (stop, kill) = (self.policy.timeout_stop.as_nanos(), limits::AFTER_KILL.as_nanos());
        for (id, seen) in self.seen.iter().filter(|(_, seen)| !seen.ended && !seen.forgotten) {
            let overdue = |since: Option<u64>, span: u64| {
                since.is_some_and(|since| now > since.saturating_add(span).saturating_add(2 * Self::LATE))
            };
            assert!(
                seen.killed.is_some() || !overdue(seen.told, stop),
                "generation {} hangs and is not killed",
                id.0
            );
            // A second stop signal kills once more, and `stop_terminates` has the bound then.
            let waits = self.stops_asked == 0 && overdue(seen.killed, kill);
            assert!(!waits, "generation {} was killed in vain and is still waited for", id.0);
        }
    }

    /// TimeoutStartSec= is kept; `auto` forgives one that is alone.
    pub(super) fn late_starts_fail(&self, now: u64, status: &Status) {
        let patience = self.policy.timeout_start.as_nanos().saturating_add(2 * Self::LATE);
        for entry in status.generations.iter().filter(|entry| entry.ready_ms.is_none()) {
            let is_bound = match self.policy.ready {
                Ready::Notify | Ready::NotifyType | Ready::Http => true,
                Ready::Auto => entry.role == Role::Candidate,
                Ready::Exec | Ready::Delay(_) => false,
            };
            let seen = &self.seen[&GenerationId(entry.generation)];
            let starts = is_bound && seen.started.is_some() && seen.told.is_none() && !seen.ended;
            let by = |since: u64| since.saturating_add(patience).max(seen.spared + 2 * Self::LATE);
            let is_late = seen.waits_since.is_some_and(|since| now > by(since));
            assert!(!(starts && is_late), "generation {} is late and still waited for", entry.generation);
        }
    }

    pub(super) fn stop_terminates(&self, now: u64) {
        assert!(self.exited || self.stop_by.is_none_or(|by| now <= by), "a stop that does not end");
    }

    /// Every answer is somebody's, who gets one; a swap is answered by a start that came after the request.
    pub(super) fn one_reply_per_request(&mut self, client: ClientId, reply: &Reply) {
        let waiting = self.clients.remove(&client);
        let waiting = waiting.unwrap_or_else(|| panic!("client {} is answered but does not wait", client.0));
        if let Some(swap) = &reply.swap {
            assert!(
                swap.to.is_none_or(|to| to > waiting.newest),
                "the swap of client {} began before its request",
                client.0
            );
            assert_eq!(reply.exit == 0, swap.outcome == Outcome::Swapped, "exit status and outcome disagree");
        }
    }

    /// We end only where the contract says so, and with the status it says.
    pub(super) fn listener_stays_open(&self, code: u8) {
        if self.stops_asked > 0 && !self.ends_itself {
            assert_eq!(code, 0, "stopped by request");
            return;
        }
        let limit = self.policy.start_limit;
        let limited = limit.burst > 0 && limit.action == StartLimitAction::Exit;
        let never_ran = self.last == 1 && self.seen.values().all(|seen| seen.started.is_none());
        let allowed =
            !self.setting.holds_sockets || self.policy.restart == Restart::No || limited || never_ran;
        assert!(allowed, "ended without being asked to");
        // A server that ends with 0 may have failed all the same: it was late, or missed its watchdog.
        let is_its = self.ends.contains(&code) || (code == 1 && self.ends.contains(&0));
        assert!(is_its, "ended with {code}, the status of no server: {:?}", self.ends);
    }

    /// Nothing is left at the end but what SIGKILL could not end, or KillMode=process leaves alone.
    pub(crate) fn end(&self, now: u64, code: u8, left: usize) {
        assert!(self.clients.is_empty(), "ended with {code}, unanswered: {:?}", self.clients);
        let after_kill = limits::AFTER_KILL.as_nanos();
        let in_vain = |since: Option<u64>| since.is_some_and(|since| now >= since.saturating_add(after_kill));
        for (id, seen) in &self.seen {
            assert!(!seen.pending, "ended while generation {} was being started", id.0);
            let given_up = seen.killed.is_some() && (seen.forgotten || in_vain(seen.killed));
            let gone = seen.ended || seen.started.is_none() || given_up;
            assert!(gone, "every_spawn_is_reaped: generation {} is left", id.0);
        }
        let given_up = |seen: &Seen| seen.killed.is_some() && !seen.cleared && seen.forgotten;
        let unkillable = in_vain(self.swept) || self.seen.values().any(given_up);
        let may_stay = self.policy.kill_mode == KillMode::Process && !self.setting.init;
        assert!(left == 0 || unkillable || may_stay, "every_spawn_is_reaped: {left} processes are left");
    }
}
