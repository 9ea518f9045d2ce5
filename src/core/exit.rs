//! What the end of a main process means for its generation, by Type= and its kin: often, but not always, its end.

use super::generation::{Generation, LastList, Main};
use super::note;
use super::report::rounded;
use super::restart::{Failure, RunResult, result};
use super::{End, Exit, Time};
use crate::config::{ExitType, Ready, Type};

/// What the end of a main process means for a generation that was not told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterExit {
    End,
    /// Type=oneshot: the next of its commands.
    NextCommand(usize),
    /// Type=forking: its daemon goes on.
    FindMain,
    /// ExitType=cgroup
    LastProcess,
    /// RemainAfterExit=
    Remain,
}

impl Generation {
    /// `waits_for_gate`: what Ready= waits for has not come.
    pub(super) fn after_exit(&mut self, exit: Exit, waits_for_gate: bool) -> AfterExit {
        let policy = &self.policy;
        let is_ignored = policy.commands.start.get(self.index).copied().unwrap_or_default();
        let is_clean = is_ignored || self.would_be_clean(exit);
        match policy.service_type {
            Type::Oneshot if !self.is_up() && is_clean => AfterExit::NextCommand(self.index + 1),
            // Where nobody knows how it ended, its daemon tells: it is there or not.
            Type::Forking
                if !self.is_up() && (is_ignored || matches!(exit, Exit::Code(0) | Exit::Unknown)) =>
            {
                AfterExit::FindMain
            }
            Type::Notify | Type::NotifyReload if !self.is_up() => self.without_ready(is_clean),
            Type::Simple | Type::Exec if policy.ready == Ready::Notify && waits_for_gate => {
                self.without_ready(is_clean)
            }
            Type::Oneshot | Type::Forking | Type::Simple | Type::Exec | Type::Notify | Type::NotifyReload => {
                if self.is_up() && policy.exit_type == ExitType::Cgroup {
                    AfterExit::LastProcess
                } else if self.active().is_some() && policy.remain_after_exit && is_clean {
                    AfterExit::Remain
                } else {
                    AfterExit::End
                }
            }
        }
    }

    /// Only READY=1 would have made it ready: a clean exit before that is a failure, too.
    fn without_ready(&mut self, is_clean: bool) -> AfterExit {
        if is_clean {
            self.failure.get_or_insert(Failure::Protocol);
        }
        AfterExit::End
    }

    fn would_be_clean(&self, exit: Exit) -> bool {
        result(&self.policy, &End::Exited(exit), None) == RunResult::Success
    }

    /// What we end with where its end is ours. One that has failed in another way than by its status has failed, too.
    pub(super) fn exit_status(&self, end: &End) -> u8 {
        let is_good = matches!(self.outcome().result, RunResult::Success | RunResult::ExecCondition);
        match end.exit_status() {
            0 if !is_good => 1,
            status => status,
        }
    }

    /// Type=forking: the end of the process that we started says nothing of its daemon, which was not found (yet).
    pub(super) fn has_no_daemon(&self) -> bool {
        self.policy.service_type == Type::Forking
            && (!self.is_up() || matches!(self.main, Main::Sought { .. }))
    }

    /// ExecStartPost= is to be run before the daemon is known: it may be what writes the PIDFile=.
    pub(super) fn starts_post_first(&self) -> bool {
        self.policy.has_pid_file && !self.is_up() && !self.policy.commands.start_post.is_empty()
    }

    /// ExecStop= is still to be run.
    pub(super) fn has_stop(&self) -> bool {
        self.active().is_some()
            && self.last_list == LastList::Neither
            && !self.policy.commands.stop.is_empty()
    }
}

/// A sentence for the user: how a generation ended, whether it had been ready, and whether it was the candidate of a swap.
pub(super) fn describe(generation: &Generation, end: &End, is_candidate: bool, now: Time) -> String {
    let id = generation.id.0;
    match end {
        End::NotStarted(failure) => failure.what.clone(),
        End::Skipped => format!("generation {id}: ExecCondition= says that it is not to be started"),
        End::Untried => match &generation.failure {
            Some(failure @ Failure::Command(..)) => {
                format!("generation {id}: {}", note::command_failed(failure))
            }
            Some(_) | None => format!("generation {id} was stopped before it was started"),
        },
        End::Exited(exit) => {
            let age = now.since(generation.ordered);
            let when =
                if generation.ready().is_some() { "after it was ready" } else { "before it was ready" };
            let ended_itself = generation.ending().is_none() && generation.ready().is_none();
            let hint = match exit {
                Exit::Code(_) if is_candidate && ended_itself => {
                    " (see what it printed; if it says that it is already running or that its files are locked: --handover \
                     stop-first)"
                }
                Exit::Code(0) if ended_itself && generation.policy.service_type == Type::Forking => {
                    " (its daemon has ended as well; see what it printed)"
                }
                Exit::Code(0) if generation.ready().is_none() => " (a server must stay in the foreground)",
                Exit::Code(_) | Exit::Signal { .. } | Exit::Unknown => "",
            };
            let errno =
                generation.said.errno.map(|errno| format!(" (it said ERRNO={errno})")).unwrap_or_default();
            format!("generation {id} {} after {}, {when}{hint}{errno}", note::ended(*exit), rounded(age))
        }
    }
}
