//! Starts the thread of InterceptBind= (os/intercept.rs) for each process of the server, and handles what these
//! threads report: each message is logged once.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use mio::Waker;

use super::families::{Bound, Unsettled};
use super::{ListenerContext, Listeners};
use crate::core::{BindNote, GenerationId, SlotId, SocketNote, Stage, StartFailure};
use crate::os::children::Children;
use crate::os::intercept::{self, Held, Interceptor, News, SavedInterceptor};
use crate::os::launch::Launcher;
use crate::os::outbox::Outbox;
use crate::os::socket::HeldSocket;
use crate::os::sys::left::LeftFds;
use crate::os::tokens::INTERCEPTED;
use crate::os::warning::Warn;

/// The most different notes that are logged.
const SAID: usize = 64;

/// What all generations have in common.
#[derive(Debug, Default)]
pub(super) struct Intercepting {
    line: Option<AnswerLine>,
    /// Only one generation has been started and is not forgotten yet.
    is_alone: Arc<AtomicBool>,
    /// The lines that were logged; they are not repeated after a swap.
    pub(super) said: BTreeSet<String>,
    pub(super) unsettled: Unsettled,
    /// UDP addresses that a generation has connected: one that binds them again within the time of one rescue gets a new
    /// socket.
    pub(super) to_be_bound: BTreeSet<(GenerationId, String)>,
    /// Addresses for which it was logged that a server that connects its socket gets no further one.
    unrenewed: BTreeSet<String>,
}

/// The channel by which the threads send news to the loop.
#[derive(Debug)]
struct AnswerLine {
    sender: Sender<(GenerationId, News)>,
    receiver: Receiver<(GenerationId, News)>,
    waker: Arc<Waker>,
}

impl Intercepting {
    pub(super) fn forget(&mut self, generation: GenerationId) {
        self.to_be_bound.retain(|(id, _)| *id != generation);
    }
}

impl Listeners {
    /// The interceptor for a process that is about to be started; `None` if it gets no filter.
    ///
    /// # Errors
    /// No thread or fd is left for that.
    pub fn interceptor(
        &mut self,
        generation: GenerationId,
        slot: SlotId,
        cx: &mut ListenerContext<'_>,
    ) -> Result<Option<Interceptor>, StartFailure> {
        let Some(launcher) = cx.children.launcher(generation).filter(|launcher| launcher.intercepts()) else {
            return Ok(None);
        };
        if let Err(why) = intercept::program() {
            self.say(BindNote::NotIntercepted { why: why.to_owned() }, cx.outbox);
            return Ok(None);
        }
        let interceptor =
            self.open_interceptor(generation, slot, launcher).map_err(|error| StartFailure {
                stage: Stage::Resources,
                errno: error.raw_os_error().unwrap_or(0),
                what: format!("cannot intercept what it binds: {error}"),
            })?;
        Ok(Some(interceptor))
    }

    fn open_interceptor(
        &mut self,
        generation: GenerationId,
        slot: SlotId,
        launcher: &Launcher,
    ) -> io::Result<Interceptor> {
        let held = launcher.sockets().iter();
        let held = held.map(|socket| Held::new(socket, slot)).collect::<io::Result<_>>()?;
        let tell = self.teller(generation)?;
        Interceptor::new(held, Arc::clone(&self.intercepting.is_alone), tell)
    }

    /// The program before us has begun this.
    ///
    /// # Errors
    /// A sentence: no thread or fd is left for that.
    pub fn go_on_intercepting(
        &mut self,
        generation: GenerationId,
        saved: SavedInterceptor,
        fds: &mut LeftFds,
    ) -> Result<Interceptor, String> {
        let tell = self.teller(generation).map_err(|error| error.to_string())?;
        Interceptor::from_saved(saved, fds, Arc::clone(&self.intercepting.is_alone), tell)
    }

    /// What a thread calls that has something to tell of this generation.
    fn teller(&mut self, generation: GenerationId) -> io::Result<impl Fn(News) + Send + use<>> {
        let line = match &self.intercepting.line {
            Some(line) => line,
            None => {
                let (sender, receiver) = channel();
                let waker = Arc::new(Waker::new(&self.registry, INTERCEPTED)?);
                self.intercepting.line.insert(AnswerLine { sender, receiver, waker })
            }
        };
        let (sender, waker) = (line.sender.clone(), Arc::clone(&line.waker));
        Ok(move |news| {
            // The receiver is gone once supervise ends.
            if sender.send((generation, news)).is_ok()
                && let Err(error) = waker.wake()
            {
                log::debug!("cannot wake the main thread: {error}");
            }
        })
    }

    /// The process was started; `listener` is that of its filter. Until it is answered its bind(2) waits.
    pub fn intercept(
        &mut self,
        interceptor: Interceptor,
        listener: io::Result<OwnedFd>,
        outbox: &mut Outbox,
    ) -> Option<Interceptor> {
        match listener {
            Ok(listener) => {
                interceptor.answer(listener);
                Some(interceptor)
            }
            Err(error) => {
                self.say(BindNote::NotIntercepted { why: intercept::why_not(&error) }, outbox);
                None
            }
        }
    }

    /// Looks which generation is alone, after one has come or gone.
    pub fn see_who_is_alone(&mut self, children: &Children) {
        self.intercepting.is_alone.store(children.slots().len() == 1, Ordering::Relaxed);
        self.intercepting.unsettled.begin_anew();
    }

    /// What the threads had to tell. The generations whose sockets have changed by it.
    pub fn on_intercepted(&mut self, cx: &mut ListenerContext<'_>) -> BTreeSet<GenerationId> {
        let mut changed = BTreeSet::new();
        let Some(line) = &self.intercepting.line else { return changed };
        // Each thread has a few things to tell in all its life, and waits for an answer to whatever else it sends.
        let news: Vec<_> = line.receiver.try_iter().collect();
        for (generation, news) in news {
            match news {
                News::Told(note) => self.say(note, cx.outbox),
                // The generation has ended.
                News::Beside(_) if cx.children.launcher(generation).is_none() => {}
                News::Beside(tried) => self.intercepting.unsettled.tried(generation, tried),
                News::GotPort(is_untold) => {
                    is_untold.store(false, Ordering::Relaxed);
                    self.intercepting.unsettled.begin_anew();
                }
                News::Family { inode, wanted, families, answer } => {
                    // The thread that asked is gone when its generation is.
                    let opened = self.open_family((generation, inode), wanted, families, cx.children);
                    changed.extend(opened.is_some().then_some(generation));
                    let _nobody_waits = answer.send(opened);
                }
                News::Again { inode, may_connect, answer } => {
                    self.renew(generation, inode, may_connect, cx);
                    // The thread that asked is gone when its generation is.
                    let _nobody_waits = answer.send(());
                }
                News::PathGone(done) => {
                    self.check_paths(cx);
                    // The asking thread is gone if its generation is.
                    let _nobody_waits = done.send(());
                }
            }
        }
        changed.extend(self.settle(cx));
        changed
    }

    /// A UDP server binds once more what it has already. One that has closed it unconnected goes on with the same.
    fn renew(
        &mut self,
        generation: GenerationId,
        inode: u64,
        may_connect: bool,
        cx: &mut ListenerContext<'_>,
    ) {
        let slots = cx.children.slots();
        let Some((_, slot)) = slots.iter().find(|(id, _)| *id == generation).copied() else { return };
        let used: Vec<SlotId> = slots.into_iter().map(|(_, slot)| slot).collect();
        let is_it = |socket: &Rc<HeldSocket>| socket.inode(slot).is_ok_and(|own| own == inode);
        let Some(socket) = self.held().into_iter().find(is_it) else { return };
        // The process that had connected it may be done with its client already.
        if Bound::default().has(cx.children, generation, inode) != Some(true) && !socket.is_lost(slot) {
            return;
        }
        let renewed = socket.renew(slot, &used, may_connect).and_then(|is_renewed| {
            if is_renewed {
                self.intercepting.to_be_bound.remove(&(generation, socket.address.clone()));
                for interceptor in cx.children.interceptors(generation) {
                    interceptor.exchange(inode, Held::new(&socket, slot)?);
                }
                self.arm();
            }
            Ok(is_renewed)
        });
        match renewed {
            Ok(true) => {}
            Ok(false) => {
                let has_client = socket.is_lost(slot) || socket.queued(slot).is_ok_and(|count| count > 0);
                if let Some(why) = socket.why_shared().filter(|_| may_connect && has_client) {
                    self.say(BindNote::OneForAll { socket: socket.address.clone(), why }, cx.outbox);
                }
            }
            // A server may bind for each datagram.
            Err(error) if self.intercepting.unrenewed.insert(socket.address.clone()) => {
                Warn::BindOneMore(&socket.address).because(error);
            }
            Err(_) => {}
        }
    }

    pub(super) fn say(&mut self, note: BindNote, outbox: &mut Outbox) {
        let said = &mut self.intercepting.said;
        if said.len() < SAID && said.insert(note.to_string()) {
            outbox.tell(SocketNote::Bind(note));
        }
    }
}
