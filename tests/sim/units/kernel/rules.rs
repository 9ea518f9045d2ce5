//! systemd.service(5): which command may run when.

use socket_supervise::config::CommandList;
use socket_supervise::core::{Command, End, Exit, GenerationId};

use super::Kernel;

impl Kernel {
    /// systemd.service(5): serial, in order, and none after one that failed.
    pub(super) fn rules_of_order(&mut self, id: GenerationId, command: Command) {
        let Command { list, index } = command;
        let generation = self.of(id);
        // Given up: what SIGKILL did not end, or was not to, is nobody's.
        let leaves = generation.leaves_others() || generation.killed;
        if let Some((number, obeys, _)) = generation.command.take_if(|_| leaves) {
            generation.other = Some((number, obeys));
        }
        assert!(generation.command.is_none(), "{id}: two commands at a time: {command:?}");
        let done = generation.done.get(&list).copied().unwrap_or_default();
        let again = list == CommandList::Reload && index == 0;
        assert!(index == done || again, "{id}: {command:?} after {done} of its list");
        assert!(index == 0 || !generation.broken.contains(&list), "{id}: {command:?} after a failure");
        assert!(!generation.done.contains_key(&CommandList::StopPost) || list == CommandList::StopPost);
        match list {
            CommandList::Condition | CommandList::StartPre => {
                assert!(!generation.main_started, "{id}: {command:?} after the main process");
                assert!(!generation.told, "{id}: {command:?} after a stop");
            }
            CommandList::StartPost => assert!(generation.main_started, "{id}: {command:?} before main"),
            CommandList::Reload => assert!(generation.main_started && !generation.told, "{id}: {command:?}"),
            CommandList::Stop => {
                let policy = generation.policy.as_ref().expect("set when it was begun");
                let post = generation.done.get(&CommandList::StartPost).copied().unwrap_or_default();
                assert_eq!(post, policy.commands.start_post.len(), "{id}: stopped before it was up");
                assert!(index > 0 || !generation.main_failed, "{id}: ExecStop= after a failure");
            }
            CommandList::StopPost => {
                let leaves = generation.leaves_others() || generation.killed;
                assert!(generation.main.is_none() || leaves, "{id}: ExecStopPost= beside main");
                assert!(generation.other.is_none() || leaves, "{id}: ExecStopPost= beside others");
            }
            CommandList::Start => unreachable!("main is no command"),
        }
    }

    pub(super) fn note_command_end(&mut self, id: GenerationId, command: Command, end: &End) {
        let generation = self.of(id);
        let policy = generation.policy.as_ref().expect("set when it was begun");
        let ignored = policy.commands.list(command.list)[command.index];
        if *end != End::Exited(Exit::Code(0)) && !ignored {
            generation.broken.insert(command.list);
        } else if command.index == 0 {
            generation.broken.remove(&command.list);
        }
    }
}
