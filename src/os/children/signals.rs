//! Signals to generations.

use super::{Children, Leader};
use crate::config::Signal;
use crate::core::{GenerationId, Scope};
use crate::os::reap;
use crate::os::warning::Warn;

impl Children {
    /// Sends a signal. One that comes too late, to a process that is gone, is no error.
    pub fn kill(&mut self, generation: GenerationId, signal: Signal, scope: Scope) {
        let Some(running) = self.generations.get_mut(&generation) else { return };
        let result = match scope {
            Scope::Main => running.main_pidfd().map_or(Ok(false), |main| reap::signal_main(main, signal)),
            Scope::Command => {
                running.command_leader().map_or(Ok(false), |leader| leader.signal_group(signal))
            }
            Scope::All => {
                if signal == Signal::KILL {
                    running.is_killed = true;
                    self.cgroups.kill(generation);
                }
                let has_nobody = self.has_nobody;
                let signal_group = |leader: &mut Leader| {
                    if has_nobody && leader.is_reaped {
                        leader.group_is_gone = true;
                        return Ok(false);
                    }
                    let result = leader.signal_group(signal);
                    leader.group_is_gone |= leader.is_reaped && matches!(result, Ok(false));
                    result
                };
                let results: Vec<_> = running.leaders.iter_mut().map(signal_group).collect();
                self.signal_others(generation, signal);
                results.into_iter().find(Result::is_err).unwrap_or(Ok(true))
            }
        };
        if let Err(error) = result {
            Warn::SendTo(signal, generation).because(error);
        }
    }

    /// Processes of the generation that left the groups of its leaders: those still below one, and those that lost
    /// their parent and so became our children.
    pub(super) fn signal_others(&self, generation: GenerationId, signal: Signal) {
        let Some(running) = self.generations.get(&generation) else { return };
        let mut heads = self.strays_of(generation);
        heads.extend(running.leaders.iter().filter(|leader| !leader.is_reaped).map(|leader| leader.pid));
        let groups: Vec<i32> = running.leaders.iter().map(|leader| leader.pid).collect();
        if let Err(error) = reap::signal_trees(heads, &groups, signal) {
            Warn::SendToAll(signal, generation).because(error);
        }
    }
}
