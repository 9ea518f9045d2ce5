//! The rules that are looked at after each step.

use super::*;

/// The rules, looked at after each step.
impl Units {
    pub(super) fn a_broken_file_changes_nothing(
        &mut self,
        event: &Event,
        actions: &[Action],
        status: &Status,
    ) {
        let Event::Reread { result: Err(why) } = event else { return };
        let before = &self.rules.before;
        assert_eq!(before.state, status.state, "a broken file changed the state");
        assert_eq!(before.generations, status.generations, "a broken file touched a generation");
        for action in actions {
            match action {
                Action::Reply { reply, .. } => {
                    assert!(
                        reply.exit == 1 && reply.text.contains(why.as_str()),
                        "the verb says why: {reply:?}"
                    );
                }
                Action::Reread | Action::Tell(_) | Action::TellManager(_) => {}
                Action::Ask(Question::Overflows) => {}
                action => panic!("a broken file leads to {action:?}"),
            }
        }
        self.rules.mark("broken file", true);
    }

    /// No command runs longer than it may without a signal of ours.
    pub(super) fn slow_commands_are_ended(&mut self) {
        let now = self.now;
        let is_in_time = now <= self.rules.unwatched_until;
        let mut overdue = None;
        for (id, generation) in &mut self.groups {
            let Some(Command { list, .. }) = generation.command() else { continue };
            if generation.seen.forgotten {
                continue;
            }
            let is_end = matches!(list, CommandList::Stop | CommandList::StopPost);
            let policy = &generation.policy;
            let timeout = if is_end { policy.timeout_stop } else { policy.timeout_start };
            let seen = &mut generation.seen;
            let due = (seen.command_since + timeout.as_nanos()).max(seen.extended);
            // The signal comes at the due time itself, so this holds as well for the step that sends it.
            if now >= due && !seen.is_overdue {
                seen.is_overdue = true;
                overdue = Some(list);
            }
            seen.failed |= seen.is_overdue && list == CommandList::StartPost;
            let is_given_up = generation.seen.killed || generation.seen.stopping_said;
            let is_ended = generation.seen.command_signalled || is_given_up;
            assert!(
                now <= due || is_ended || is_in_time,
                "{id}: {list:?} has hung since {}",
                generation.seen.command_since
            );
        }
        if let Some(list) = overdue {
            self.rules.mark("slow command", true);
            self.rules.mark("slow ExecStartPost=", list == CommandList::StartPost);
        }
    }

    /// TimeoutStartSec= is kept where Type= waits for something.
    pub(super) fn late_starts_fail(&self) {
        for (id, generation) in &self.groups {
            let (policy, seen) = (&generation.policy, &generation.seen);
            let is_up = match policy.service_type {
                Type::Simple | Type::Exec => true,
                Type::Notify | Type::NotifyReload => seen.ready_said.is_some(),
                Type::Forking => seen.found,
                Type::Oneshot => generation.main().is_none(),
            };
            let is_up = is_up || seen.ready.is_some() || seen.done.contains_key(&CommandList::StartPost);
            let Some(started) = seen.started.filter(|_| !is_up) else { continue };
            let due = (started + policy.timeout_start.as_nanos()).max(seen.extended).max(seen.spared);
            let is_over = seen.told || seen.failed || seen.stopping_said || seen.has_ended();
            let is_ending = is_over || generation.main().is_none() && policy.service_type != Type::Forking;
            assert!(self.now <= due || is_ending, "{id} is late and still waited for");
        }
    }

    pub(super) fn runtime_max_is_kept(&mut self) {
        let mut hits = false;
        for (id, generation) in &self.groups {
            let (policy, seen) = (&generation.policy, &generation.seen);
            let Some(ready) =
                seen.ready.filter(|_| generation.main().is_some() && !seen.remains && !seen.has_ended())
            else {
                continue;
            };
            let due = Span::from_nanos(policy.runtime_max.as_nanos().saturating_add(ready)).as_nanos();
            let due = due.max(seen.extended);
            let is_ending =
                seen.told || seen.stopping_said || seen.failed || seen.done.contains_key(&CommandList::Stop);
            let is_ending = is_ending || (generation.command().is_some() && seen.command_signalled);
            assert!(self.now <= due || is_ending, "{id} runs longer than RuntimeMaxSec=");
            hits |= self.now >= due;
        }
        self.rules.mark("runtime over", hits);
    }

    /// With all told, something will happen, or a process or RemainAfterExit= keeps the service up.
    pub(crate) fn nothing_is_waited_for_in_vain(&self, tick: Option<u64>, happening: Option<u64>) {
        let status = &self.rules.before;
        if let (State::Running, Some(current)) = (status.state, status.generation) {
            let generation = &self.groups[&GenerationId(current)];
            let is_there = !generation.is_empty() || generation.policy.remain_after_exit;
            assert!(is_there, "nothing is left of g{current}, but it counts as running");
        }
        let may_rest =
            matches!(status.state, State::Running | State::Listening | State::Paused | State::Failed);
        let lives = self.groups.values().any(|generation| generation.main().is_some());
        assert!(tick.is_some() || happening.is_some() || may_rest || lives, "stuck: {status:?}");
    }
}
