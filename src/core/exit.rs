//! What the end of a main process means for its generation, by Type= and its kin: often, but not always, its end.

use super::restart::{Failure, RunResult, result};
use super::service::Generation;
use super::{End, Exit};
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
    pub(super) fn after_exit(&mut self, exit: Exit) -> AfterExit {
        let policy = &self.policy;
        let is_ignored = policy.commands.start.get(self.index).copied().unwrap_or_default();
        let is_clean = is_ignored || self.would_be_clean(exit);
        match policy.service_type {
            Type::Oneshot if !self.is_up && is_clean => AfterExit::NextCommand(self.index + 1),
            Type::Forking if !self.is_up && (is_ignored || exit == Exit::Code(0)) => AfterExit::FindMain,
            Type::Notify | Type::NotifyReload if !self.is_up => self.without_ready(is_clean),
            Type::Simple | Type::Exec if policy.ready == Ready::Notify && self.gate.is_none() => {
                self.without_ready(is_clean)
            }
            Type::Oneshot | Type::Forking | Type::Simple | Type::Exec | Type::Notify | Type::NotifyReload => {
                if self.is_up && policy.exit_type == ExitType::Cgroup {
                    AfterExit::LastProcess
                } else if self.active.is_some() && policy.remain_after_exit && is_clean {
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

    /// ExecStop= is still to be run.
    pub(super) fn has_stop(&self) -> bool {
        self.active.is_some() && !self.stop_begun && !self.policy.commands.stop.is_empty()
    }
}
