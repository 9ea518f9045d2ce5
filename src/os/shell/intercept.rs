//! InterceptBind=: the thread that answers what a process of ours binds is started with it, and what it has to tell is
//! told, once.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use mio::Waker;

use super::{INTERCEPTED, Shell};
use crate::config::Kind;
use crate::core::{BindNote, GenerationId, SlotId, SocketNote};
use crate::os::intercept::{self, Held, Interceptor, Told};
use crate::os::launch::Launcher;

/// So many different things are said.
const SAID: usize = 64;

/// What all generations have in common.
#[derive(Debug, Default)]
pub(super) struct Intercepting {
    line: Option<Line>,
    /// What was told; a swap is no reason to say it again.
    said: BTreeSet<String>,
}

/// From the threads to the loop.
#[derive(Debug)]
struct Line {
    sender: Sender<Told>,
    receiver: Receiver<Told>,
    waker: Arc<Waker>,
}

impl Shell {
    /// A process was started; `listener` is that of its filter. Until it is answered its bind(2) waits.
    pub(super) fn intercept(
        &mut self,
        generation: GenerationId,
        slot: SlotId,
        listener: Option<io::Result<OwnedFd>>,
    ) {
        let Some(launcher) = self.children.launcher(generation).cloned() else { return };
        if !launcher.intercepts() {
            return;
        }
        let started = match listener {
            None => Err("this kind of machine is not known to it".to_owned()),
            Some(Err(error)) => Err(intercept::why_not(&error)),
            Some(Ok(listener)) => self.answer(listener, slot, &launcher).map_err(|error| error.to_string()),
        };
        match started {
            Ok(interceptor) => self.children.intercept(generation, interceptor),
            Err(why) => self.say(BindNote::NotIntercepted { why }),
        }
    }

    fn answer(&mut self, listener: OwnedFd, slot: SlotId, launcher: &Launcher) -> io::Result<Interceptor> {
        // This generation has a main process by now.
        let is_alone = self.children.slots().len() == 1;
        let held = launcher.sockets().iter();
        let held: Vec<Held> = held
            .map(|socket| Held::new(socket, slot, socket.is_steered() || is_alone))
            .collect::<io::Result<_>>()?;
        let line = match &self.intercepting.line {
            Some(line) => line,
            None => {
                let (sender, receiver) = channel();
                let waker = Arc::new(Waker::new(self.poll.registry(), INTERCEPTED)?);
                self.intercepting.line.insert(Line { sender, receiver, waker })
            }
        };
        let (sender, waker) = (line.sender.clone(), Arc::clone(&line.waker));
        Interceptor::start(listener, held, move |told| {
            // Nobody listens once we end.
            if sender.send(told).is_ok()
                && let Err(error) = waker.wake()
            {
                log::debug!("cannot wake the main thread: {error}");
            }
        })
    }

    pub(super) fn on_intercepted(&mut self) {
        let Some(line) = &self.intercepting.line else { return };
        // Each thread has a few things to tell in all its life.
        let told: Vec<Told> = line.receiver.try_iter().collect();
        for told in told {
            let address = |kind, at| format!("{}{at}", if kind == Kind::Udp { "udp:" } else { "" });
            self.say(match told {
                Told::WrongFamily { socket, kind, wanted } => {
                    BindNote::WrongFamily { socket, wanted: address(kind, wanted) }
                }
                Told::Beside { socket, kind, wanted } => {
                    BindNote::Beside { wanted: address(kind, wanted), socket }
                }
                Told::Unseen { why } => BindNote::NotIntercepted { why },
            });
        }
    }

    fn say(&mut self, note: BindNote) {
        let said = &mut self.intercepting.said;
        if said.len() < SAID && said.insert(note.to_string()) {
            self.tell(&SocketNote::Bind(note).into());
        }
    }
}
