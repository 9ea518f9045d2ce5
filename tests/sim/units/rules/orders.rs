//! The rules that are looked at with each order of the core.

use super::*;

/// The rules, looked at with each order.
impl Units {
    pub(crate) fn rules_of(&mut self, event: &Event, action: &Action, after: &Status) {
        match action {
            Action::Spawn { generation, index, slot } => {
                self.begin(*generation, *slot);
                self.a_slot_has_one_living_generation(*generation, *slot);
                self.main_comes_after_what_is_before_it(*generation, *index);
            }
            Action::Run { generation, command, outcome, slot } => {
                self.begin(*generation, *slot);
                let is_end = matches!(command.list, CommandList::Stop | CommandList::StopPost);
                assert_eq!(outcome.is_some(), is_end, "$SERVICE_RESULT is for the end");
                self.one_command_at_a_time_in_order(*generation, *command);
                self.each_list_has_its_time(*generation, *command);
                self.note_run(*generation, *command);
            }
            Action::Kill { generation, signal, scope } => {
                if *scope != Scope::Command {
                    self.old_untouched_until_adopted(event, *generation, *signal);
                    self.asked_before_killed(event, *generation, *signal);
                }
                self.note_kill(event, *generation, *signal, *scope);
            }
            Action::Forget { generation } => self.forgotten_once_and_complete(*generation),
            Action::Reread => {
                assert!(self.staged.is_none(), "read anew before the last reading was decided");
                self.rules.readings += 1;
            }
            Action::Adopt => {
                self.adopted_after_the_bake(event, after);
                self.rules.mark("adopted", true);
            }
            Action::Discard => {
                let candidate = role(&self.rules.before, Role::Candidate);
                let is_current = candidate.is_some_and(|id| after.generation == Some(id.0));
                assert!(!is_current, "discarded, but the candidate has the traffic");
                self.rules.mark("discarded", true);
            }
            Action::Rescue { slot } => {
                let is_served = *slot == self.net.wanted.slot;
                assert!(!is_served, "what has the traffic is taken elsewhere: {slot:?}");
                self.rules.mark("rescued", true);
            }
            Action::Ask(Question::Look { generation, .. }) => self.looks_only_at_who_runs(*generation),
            Action::Ask(Question::Probe { generation, .. }) => self.asks_only_who_gets_ready(*generation),
            Action::Ask(Question::EndProbe { generation }) => {
                self.only_who_is_asked_is_left_alone(*generation)
            }
            Action::WakeOnConnection { on } => {
                assert!(!on || self.setting.holds_sockets, "no socket to watch")
            }
            Action::Reply { client, reply } => self.one_reply_per_request(*client, reply),
            // The next shell answers.
            Action::Reexec { client } => self.one_reply_per_request(*client, &Reply::done("")),
            Action::Exit(_) => self.ends_only_where_it_may(),
            Action::FindMain { generation } => {
                let generation = self.of(*generation);
                let is_forking = generation.policy.service_type == Type::Forking;
                assert!(is_forking && !generation.seen.forgotten, "a main process is sought");
            }
            Action::AwaitClear { .. }
            | Action::Sweep { .. }
            | Action::Steer(_)
            | Action::Guard { .. }
            | Action::Ask(Question::Count { .. } | Question::Hint { .. } | Question::Overflows)
            | Action::Tell(_)
            | Action::TellManager(_)
            | Action::Suspend => {}
        }
    }

    pub(super) fn main_comes_after_what_is_before_it(&mut self, id: GenerationId, index: usize) {
        let generation = self.of(id);
        assert!(generation.main().is_none() && generation.command().is_none(), "{id}: main beside another");
        let seen = &generation.seen;
        assert!(!seen.forgotten && !seen.is_ordered && !seen.told, "{id}: started after its end");
        for list in [CommandList::Condition, CommandList::StartPre] {
            assert!(!seen.broken.contains(&list), "{id}: started although {list:?} failed");
            let done = seen.done.get(&list).copied().unwrap_or_default();
            assert_eq!(done, generation.length(list), "{id}: started before the end of {list:?}");
        }
        let is_next = index == seen.starts && index < generation.length(CommandList::Start).max(1);
        let may_again = generation.policy.service_type == Type::Oneshot || seen.starts == 0;
        assert!(is_next && may_again, "{id}: command {index} of ExecStart= after {} starts", seen.starts);
        assert!(!seen.failed, "{id}: goes on after a failure");
        generation.seen.is_ordered = true;
        self.rules.mark("next of oneshot", index > 0);
    }

    /// Serial, each list from its first to its last, none after one that failed, none after the generation.
    pub(super) fn one_command_at_a_time_in_order(&mut self, id: GenerationId, command: Command) {
        let Command { list, index } = command;
        let generation = self.of(id);
        assert!(!generation.seen.forgotten, "{id}: {command:?} after it was forgotten");
        // Given up: what SIGKILL did not end, or was not to, is nobody's.
        if generation.leaves_others() || generation.seen.killed {
            generation.give_up_command();
        }
        assert!(generation.command().is_none(), "{id}: two commands at a time: {command:?}");
        let seen = &mut generation.seen;
        if list == CommandList::Reload && index == 0 {
            seen.broken.remove(&list);
        } else {
            let done = seen.done.get(&list).copied().unwrap_or_default();
            assert_eq!(index, done, "{id}: {command:?} after {done} of its list");
        }
        assert!(!seen.broken.contains(&list), "{id}: {command:?} after a failure");
        let is_over = seen.done.contains_key(&CommandList::StopPost);
        assert!(!is_over || list == CommandList::StopPost, "{id}: {command:?} after ExecStopPost=");
    }

    pub(super) fn each_list_has_its_time(&mut self, id: GenerationId, command: Command) {
        let generation = self.of(id);
        let leaves = generation.leaves_others() || generation.seen.killed;
        let seen = &generation.seen;
        match command.list {
            CommandList::Condition | CommandList::StartPre => {
                assert!(seen.starts == 0 && !seen.is_ordered, "{id}: {command:?} after the main process");
                assert!(!seen.told, "{id}: {command:?} after a stop");
            }
            CommandList::StartPost => {
                assert!(!seen.told, "{id}: {command:?} after a stop");
                let is_up = match generation.policy.service_type {
                    Type::Simple | Type::Exec => seen.started.is_some(),
                    Type::Notify | Type::NotifyReload => seen.ready_said.is_some(),
                    // It may write the PIDFile=.
                    Type::Forking => seen.found || generation.policy.has_pid_file,
                    Type::Oneshot => seen.starts == generation.length(CommandList::Start),
                };
                assert!(is_up, "{id}: {command:?} before the start was done");
            }
            CommandList::Reload => assert!(seen.ready.is_some() && !seen.told, "{id}: {command:?}"),
            CommandList::Stop => {
                let post = seen.done.get(&CommandList::StartPost).copied().unwrap_or_default();
                assert_eq!(
                    post,
                    generation.length(CommandList::StartPost),
                    "{id}: ExecStop= before it was up"
                );
                let failed_before = [CommandList::Condition, CommandList::StartPre, CommandList::StartPost];
                let has_failed = failed_before.iter().any(|list| seen.broken.contains(list));
                assert!(!has_failed, "{id}: ExecStop= after a start that failed");
                assert!(command.index > 0 || !seen.failed, "{id}: ExecStop= after a failure");
            }
            CommandList::StopPost => {
                assert!(generation.main().is_none() || leaves, "{id}: ExecStopPost= beside main");
                // Its own commands may leave something as well.
                let is_clear = command.index > 0 || !generation.has_others();
                assert!(is_clear || leaves, "{id}: ExecStopPost= beside others");
            }
            CommandList::Start => unreachable!("main is no command"),
        }
    }

    pub(super) fn note_kill(&mut self, event: &Event, id: GenerationId, signal: Signal, scope: Scope) {
        let now = self.now;
        let generation = self.of(id);
        assert!(!generation.seen.forgotten, "no_signal_after_reap: {id}");
        let is_users = matches!(event, Event::Requested { request: Request::Kill { .. }, .. });
        if scope == Scope::Main && signal == generation.policy.reload_signal {
            generation.seen.reload_signalled = Some(now);
            generation.seen.reload_begun = now;
        } else if signal != Signal::CONT && !is_users {
            generation.seen.told |= scope != Scope::Command;
            generation.seen.killed |= signal == Signal::KILL;
            generation.seen.command_signalled |= scope != Scope::Main;
        }
    }

    /// SIGKILL for a server that works is the last resort: ExecStop= or a signal came before it.
    pub(super) fn asked_before_killed(&mut self, event: &Event, id: GenerationId, signal: Signal) {
        let generation = self.of(id);
        let (policy, seen) = (&generation.policy, &generation.seen);
        let works =
            generation.main().is_some() && seen.ready.is_some() && !seen.failed && !seen.stopping_said;
        let is_asked = seen.told || seen.done.contains_key(&CommandList::Stop);
        let may_skip = policy.start_failure_mode == FailureMode::Kill;
        if *event == Event::Tick && signal == Signal::KILL && works && !may_skip {
            assert!(is_asked, "{id} is killed and was never asked to stop");
        }
    }

    /// During a swap the old generation gets no signal of ours unless by its own fault, or after the new one counts.
    pub(super) fn old_untouched_until_adopted(&self, event: &Event, id: GenerationId, signal: Signal) {
        let (before, generation) = (&self.rules.before, &self.groups[&id]);
        let is_users = matches!(event, Event::Requested { request: Request::Kill { .. }, .. });
        let is_old = before.state == State::Swapping && before.generation == Some(id.0);
        if !is_old || self.rules.disturbed || is_users || signal == generation.policy.reload_signal {
            return;
        }
        let at_fault = self.ends_by_itself(event, id);
        let is_decided = self.staged.is_none();
        assert!(at_fault || is_decided, "{id} gets signal {signal} before the swap is decided: {event:?}");
    }

    /// What makes a generation end that nobody asked to end.
    pub(super) fn ends_by_itself(&self, event: &Event, id: GenerationId) -> bool {
        let generation = &self.groups[&id];
        let is_its = match event {
            Event::Exited { generation, .. }
            | Event::StartFailed { generation, .. }
            | Event::CommandEnded { generation, .. }
            | Event::MainSought { generation, .. }
            | Event::Cleared { generation }
            | Event::Notified { generation, .. } => *generation == id,
            _ => false,
        };
        let may_time_out = !generation.policy.runtime_max.is_infinite()
            || generation.policy.watchdog != Span::ZERO
            || generation.seen.watchdog_said
            || generation.seen.stopping_said
            || generation.seen.ready.is_none()
            || generation.seen.told;
        is_its || may_time_out || generation.seen.done.contains_key(&CommandList::Stop)
    }

    /// What was read counts once the candidate is ready and the bake is over, or the old generation is gone.
    pub(super) fn adopted_after_the_bake(&self, event: &Event, after: &Status) {
        let before = &self.rules.before;
        let Some(candidate) = role(before, Role::Candidate) else { return };
        assert_ne!(after.generation, before.generation, "adopted, but the old one has the traffic");
        let generation = &self.groups[&candidate];
        let is_ready_now = || {
            let entry = after.generations.iter().find(|entry| entry.generation == candidate.0);
            // Type=oneshot is ready and over in one step, and no longer listed.
            let is_over = entry.is_none() && generation.policy.service_type == Type::Oneshot;
            (is_over || entry.is_some_and(|entry| entry.ready_ms.is_some())).then_some(self.now)
        };
        let ready = generation.seen.ready.or_else(is_ready_now);
        let bake = generation.policy.bake.as_nanos();
        let is_baked = ready.is_some_and(|ready| self.now >= ready + bake);
        let old_ends = before.generation.is_some_and(|old| self.ends_by_itself(event, GenerationId(old)));
        assert!(old_ends || !generation.seen.stopping_said, "adopted, but {candidate} said STOPPING=1");
        assert!(is_baked || old_ends, "adopted before {candidate} was ready and baked: {event:?}");
    }

    pub(super) fn forgotten_once_and_complete(&mut self, id: GenerationId) {
        let generation = self.of(id);
        assert!(!std::mem::replace(&mut generation.seen.forgotten, true), "{id} is forgotten twice");
        let list = CommandList::StopPost;
        let done = generation.seen.done.get(&list).copied().unwrap_or_default();
        let is_cut = generation.seen.broken.contains(&list) || generation.seen.is_overdue;
        assert!(done > 0 || generation.length(list) == 0, "{id}: ExecStopPost= did not run");
        assert!(done == generation.length(list) || is_cut, "{id}: ExecStopPost= ended after {done}");
        let leaves = generation.leaves_others() || generation.seen.killed;
        assert!(generation.is_empty() || leaves, "{id} is left: {generation:?}");
    }

    /// One that is announced and never ends does not stand in the way of the next (TimeoutStartSec=).
    fn a_reload_ends(&mut self) {
        let now = self.now;
        let current = GenerationId(self.rules.before.generation.expect("who reloads is current"));
        let generation = self.of(current);
        let by = generation.seen.reload_begun + generation.policy.timeout_start.as_nanos();
        let by = by.max(generation.seen.extended) + limits::AFTER_KILL.as_nanos();
        assert!(now <= by, "{current} reloads for ever");
    }

    pub(super) fn one_reply_per_request(&mut self, client: ClientId, reply: &Reply) {
        let exit = reply.exit;
        let asked = self.rules.clients.remove(&client);
        let asked = asked.unwrap_or_else(|| panic!("client {} is answered but does not wait", client.0));
        match asked.request {
            Request::Reload if exit == 0 => {
                // It may have been replaced meanwhile.
                let is_named = |id: &&GenerationId| reply.text.starts_with(&format!("{id} has reloaded"));
                let current = *self.groups.keys().find(is_named).expect("the answer says who has reloaded");
                let generation = self.of(current);
                let (seen, length) = (&generation.seen, generation.length(CommandList::Reload));
                let done = seen.done.get(&CommandList::Reload).copied().unwrap_or_default();
                assert!(done == length && !seen.broken.contains(&CommandList::Reload), "reloaded by halves");
                let is_asked = seen.reload_signalled.is_some_and(|at| at >= asked.at);
                let has_said = seen.ready_said > seen.reload_signalled;
                let by_signal = generation.policy.service_type == Type::NotifyReload;
                assert!(!by_signal || (is_asked && has_said), "{current} has not said that it has reloaded");
                self.rules.mark("reloaded", true);
            }
            Request::Reload => {
                if reply.text.contains("reloading already") {
                    self.a_reload_ends();
                }
                self.rules.mark("not reloaded", true);
            }
            Request::Swap { wait: true } if exit == 0 => {
                assert!(self.rules.readings > asked.readings, "a_swap_reads_the_files: {client:?}");
                self.rules.mark("swapped", true);
            }
            _ => {}
        }
    }

    pub(super) fn ends_only_where_it_may(&self) {
        let is_asked = self.rules.stop_by.is_some();
        // The very first start failed, whatever a swap has tried meanwhile.
        let first = self.groups.get(&GenerationId(1));
        let never_ran = first.is_some_and(|generation| generation.seen.started.is_none());
        assert!(is_asked || !self.setting.holds_sockets || never_ran, "ended without being asked to");
    }

    fn note_run(&mut self, generation: GenerationId, command: Command) {
        // It may be obeyed later, where we were killed before that.
        let now = self.decided_at;
        let seen = &mut self.of(generation).seen;
        seen.done.insert(command.list, command.index + 1);
        seen.last_list = Some(command.list);
        if command.list == CommandList::Reload {
            seen.reload_begun = now;
        }
        (seen.command_since, seen.command_signalled) = (now, false);
        self.rules.mark(command.list.key(), true);
    }
}
