//! The kernel under the rules of check.rs: histories of swaps, slots, queues and waiting.

use std::hash::{DefaultHasher, Hash, Hasher};

use fastrand::Rng;
use socket_supervise::config::{Policy, Signal};
use socket_supervise::core::{Event, Exit, GenerationId, Notify, Setting};

use crate::check::Check;
use crate::kernel::{Deed, Happening, Kernel, Rules, SECOND, Script, Step};

pub(crate) type World = Kernel<Check>;

impl Rules for Check {
    type Seen = ();

    fn decided(world: &mut World, step: &Step) {
        world.rules.step(world.now, step);
        let frozen = |id| world.groups.get(&id).filter(|it| it.stopped).map(|it| it.stopped_at);
        world.rules.who_is_stopped_is_not_taken(world.now, (step.event, step.status), frozen);
        world.rules.nobody_else_is_thrown_out(step.actions, frozen);
    }

    fn obeyed(world: &mut World, step: &Step) {
        if let Some(code) = world.ended {
            let left = world.groups.values().flat_map(|group| group.left()).count();
            world.rules.end(world.now, code, left);
        } else if world.is_quiet() && !world.is_suspended() {
            let (now, wake, net) = (world.now, step.wake, &world.net);
            world.rules.every_queued_connection_has_a_server_a_next_start_or_a_rescue(now, wake, net);
            world.rules.stuck_queues_are_rescued(now, net);
        }
    }

    fn slept(world: &mut World, span: u64) {
        world.rules.slept(span);
    }

    fn lost(world: &mut World, event: &Event) {
        world.rules.lost(world.now, event);
    }

    fn user_acts(world: &mut World) {
        crate::history::user_acts(world);
    }
}

impl World {
    pub(crate) fn new(seed: u64, policy: Policy, setting: Setting) -> Self {
        let check = Check::new(policy.clone(), setting);
        Self::under(check, Rng::with_seed(seed), policy, setting)
    }

    /// Equal for states from which the same can happen, and about which the rules say the same.
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash_state(&mut hasher);
        self.rules.fingerprint().hash(&mut hasher);
        hasher.finish()
    }

    /// From now on every process does as it is told, gets ready, and stays.
    pub(crate) fn heal(&mut self) {
        self.fault = None;
        self.killed.loses = false;
        self.tick = self.tick.map(|(wish, _)| (wish, wish.max(self.now)));
        self.scripts.clear();
        self.calm_traffic();
        let ids: Vec<GenerationId> = self.groups.keys().copied().collect();
        self.agenda.retain(|_, happening| match happening {
            Happening::Does(_, deed) => !matches!(deed, Deed::Dies(..) | Deed::Pings(_) | Deed::Answers),
            Happening::User => false,
            _ => true,
        });
        for generation in ids {
            let Some(group) = self.groups.get_mut(&generation) else { continue };
            let pings = group.main().and_then(|main| main.script.pings).map(|(every, _)| (every, u32::MAX));
            for process in &mut group.processes {
                process.script = Script { pings, ..Script::good() };
            }
            let told = self.rules.was_told_to_stop(generation) || !group.is_alive();
            let count = group.processes.len();
            if std::mem::take(&mut group.stopped) {
                group.held.clear();
            }
            // Process 0 is the main one.
            for who in 0..count {
                if told || who > 0 {
                    let exit = Exit::Signal { signal: Signal::KILL, core: false };
                    self.will(generation, SECOND, Deed::Dies(who, exit));
                }
            }
            if !told {
                let message = Notify { ready: true, ..Notify::default() };
                self.will(generation, SECOND, Deed::Says(message));
                self.will(generation, SECOND, Deed::Accepts);
                if let Some((_, left)) = pings {
                    self.will(generation, 0, Deed::Pings(left));
                }
            }
        }
    }
}
