//! Runs the readiness checks that connect to a generation, one at a time: the GET of Ready=http:, or a silent
//! connection that it has to accept (Ready=auto).

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::time::Instant;

use mio::unix::SourceFd;
use mio::{Interest, Registry};

use super::Questions;
use crate::config::Health;
use crate::core::{Event, Finding, GenerationId, SlotId};
use crate::os::outbox::Outbox;
use crate::os::probe::Probe;
use crate::os::socket::{self, HeldSocket, NamedSocket, Target};
use crate::os::tokens::PROBE;
use crate::os::warning::Warn;

/// A question to one generation: a request of Ready=http:, or a silent connection.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) generation: GenerationId,
    pub(super) slot: SlotId,
    pub(super) socket: Rc<HeldSocket>,
    pub(super) probe: Probe,
    /// The connection only waits to be accepted, so no event of it wakes the loop.
    pub(super) is_silent: bool,
    /// No other generation was there to accept it.
    pub(super) is_alone: bool,
    pub(super) begun: Instant,
}

/// The socket that is asked.
///
/// # Errors
/// It cannot be asked for one generation alone; a sentence.
pub fn socket_of(health: &Health, sockets: &[NamedSocket]) -> Result<Rc<HeldSocket>, String> {
    let is_it = |one: &&NamedSocket| {
        one.kind.is_stream() && health.socket.as_ref().is_none_or(|name| *name == one.name)
    };
    let Some(found) = sockets.iter().find(is_it) else {
        return Err("Ready=http: there is no such stream socket".to_owned());
    };
    match found.why_shared() {
        Some(why) => Err(format!(
            "Ready=http: cannot reach one generation alone on {}: {why} (use notify, auto or delay:5s)",
            found.address
        )),
        None => Ok(Rc::clone(&found.socket)),
    }
}

/// A connection that will reach this slot alone, once it is begun.
///
/// # Errors
/// A sentence: there is none.
pub(super) fn begin_probe(
    socket: &HeldSocket,
    slot: SlotId,
    begin: impl FnOnce(Target) -> io::Result<Probe>,
) -> Result<Probe, String> {
    let target = socket.target(slot);
    let target = target.ok_or_else(|| format!("{} cannot be reached from this host", socket.address))?;
    let probe = begin(target).map_err(|error| error.to_string())?;
    if socket.kind.is_inet() {
        let source_port = probe.local_address().map_err(|error| error.to_string())?.port();
        let only = socket::ProbePort { source_port, slot };
        socket.probe(Some(only)).map_err(|error| format!("cannot steer the question: {error}"))?;
    }
    Ok(probe)
}

impl Questions {
    /// Asks a generation for Ready=http:. A request to another one ends, which `outbox` is told.
    ///
    /// # Errors
    /// A sentence: it cannot be asked.
    pub fn ask(
        &mut self,
        (generation, slot): (GenerationId, SlotId),
        health: Option<&Health>,
        sockets: &[NamedSocket],
        held: &[Rc<HeldSocket>],
        registry: &Registry,
        outbox: &mut Outbox,
    ) -> Result<(), String> {
        self.end_other("another generation was asked meanwhile", |_| true, held, outbox);
        let health = health.ok_or("nothing to ask")?;
        let socket = socket_of(health, sockets)?;
        let mut probe = begin_probe(&socket, slot, |target| Probe::begin(target, &health.path))?;
        let asked = probe.connect().and_then(|()| {
            let fd = probe.as_fd().as_raw_fd();
            let interest = Interest::READABLE | Interest::WRITABLE;
            let registered = registry.register(&mut SourceFd(&fd), PROBE, interest);
            registered.map_err(|error| error.to_string())
        });
        let begun = Instant::now();
        self.asking =
            Some(Asking { generation, slot, socket, probe, is_silent: false, is_alone: false, begun });
        asked.inspect_err(|_| drop(self.close_probe()))
    }

    /// How long the server may take to end an answer whose status is known.
    pub(super) fn answer_due(&self) -> Option<Instant> {
        self.asking.as_ref().filter(|asking| !asking.is_silent)?.probe.deadline()
    }

    /// The answer, where there is one by now.
    pub(super) fn on_probe(&mut self) -> Option<Event> {
        let asking = self.asking.as_mut().filter(|asking| !asking.is_silent)?;
        let result = asking.probe.ready().or_else(|| asking.probe.expired(Instant::now()))?;
        let generation = asking.generation;
        self.close_probe();
        Some(Event::Answered { generation, finding: Finding::Probed(result) })
    }

    /// Leaves a socket that is about to be closed; the next request goes to another one.
    pub fn leave(&mut self, gone: &Rc<HeldSocket>, held: &[Rc<HeldSocket>], outbox: &mut Outbox) {
        let why = "the server has bound another address meanwhile";
        self.end_other(why, |asking| Rc::ptr_eq(&asking.socket, gone), held, outbox);
    }

    fn end_other(
        &mut self,
        why: &str,
        is_meant: impl Fn(&Asking) -> bool,
        held: &[Rc<HeldSocket>],
        outbox: &mut Outbox,
    ) {
        let Some(asking) = self.asking.as_ref().filter(|asking| is_meant(asking)) else { return };
        let (generation, is_silent) = (asking.generation, asking.is_silent);
        self.end_probe(generation, held);
        if !is_silent {
            outbox.answer(generation, Finding::Probed(Err(why.to_owned())));
        }
    }

    pub fn end_probe(&mut self, generation: GenerationId, held: &[Rc<HeldSocket>]) {
        if self.asking.as_ref().is_some_and(|asking| asking.generation == generation)
            && let Some(asking) = self.close_probe()
        {
            self.withdraw(asking, held);
        }
    }

    /// Its connection is closed with it, which takes it out of the poll.
    pub(super) fn close_probe(&mut self) -> Option<Asking> {
        let asking = self.asking.take()?;
        if let Err(error) = asking.socket.probe(None) {
            Warn::EndProbe(&asking.socket.address).because(error);
        }
        Some(asking)
    }
}
