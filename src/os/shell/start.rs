//! Starts processes of a generation, as the core orders.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use mio::Interest;
use mio::unix::SourceFd;

use super::Shell;
use crate::config::CommandList;
use crate::core::{Command, End, Event, GenerationId, RunOutcome, SlotId, StartFailure};
use crate::os::children::Started;
use crate::os::tokens;

impl Shell {
    pub(super) fn spawn(&mut self, generation: GenerationId, index: usize, slot: SlotId) {
        let main = Command { list: CommandList::Start, index };
        if let Some(pid) = self.children.started(generation, main) {
            // A supervise before us did, and was killed before it had the answer.
            return self.outbox.push(Event::Started { generation, pid: pid.unsigned_abs() });
        }
        let started = self.admit(generation, slot).and_then(|()| {
            let non_blocking = self.configuration.next().launcher.non_blocking();
            // Before anything of ours ran, nobody can be a stranger.
            if self.state.is_announced {
                self.listeners.expect_strangers();
            }
            let interceptor = self.with_listeners(|listeners, cx| {
                listeners.ready_slot(slot, non_blocking, cx)?;
                listeners.interceptor(generation, slot, cx)
            })?;
            Ok((self.start(generation, main, None)?, interceptor))
        });
        if !self.state.is_announced {
            self.listeners.learn_options();
        }
        // A slot may have a new socket.
        self.listeners.arm();
        let event = match started {
            Ok((started, interceptor)) => {
                self.announce();
                if let (Some(interceptor), Some(listener)) = (interceptor, started.listener)
                    && let Some(answers) = self.listeners.intercept(interceptor, listener, &mut self.outbox)
                {
                    self.children.intercept(generation, answers);
                }
                Event::Started { generation, pid: started.pid.unsigned_abs() }
            }
            Err(failure) => Event::StartFailed { generation, failure },
        };
        self.outbox.push(event);
    }

    pub(super) fn run(
        &mut self,
        generation: GenerationId,
        command: Command,
        outcome: Option<RunOutcome>,
        slot: SlotId,
    ) {
        if self.children.started(generation, command).is_some() {
            return;
        }
        let started = self.admit(generation, slot).and_then(|()| self.start(generation, command, outcome));
        match started {
            Ok(_started) => self.announce(),
            Err(failure) => {
                self.outbox.push(Event::CommandEnded { generation, end: End::NotStarted(failure) });
            }
        }
    }

    fn start(
        &mut self,
        generation: GenerationId,
        command: Command,
        outcome: Option<RunOutcome>,
    ) -> Result<Started, StartFailure> {
        let board = self.keeping.keeper.as_ref().map(|keeper| &keeper.board);
        self.children.start(generation, command, outcome, &self.store, board)
    }

    fn admit(&mut self, generation: GenerationId, slot: SlotId) -> Result<(), StartFailure> {
        self.state.has_worked = true;
        let launcher = &self.configuration.next().launcher;
        let registry = self.poll.registry();
        let admitted = self.children.admit(generation, launcher, slot, |notify, is_used| {
            let (token, fd) = (tokens::notify(generation), notify.as_fd().as_raw_fd());
            // One that another generation had may be watched for that.
            match is_used.then(|| registry.reregister(&mut SourceFd(&fd), token, Interest::READABLE)) {
                Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Some(Ok(())) => Ok(()),
                Some(Err(_)) | None => registry.register(&mut SourceFd(&fd), token, Interest::READABLE),
            }
        });
        self.listeners.see_who_is_alone(&self.children);
        admitted
    }
}
