//! Decides which address families (IPv4, IPv6) of a port stay bound under InterceptBind=, where only a port was asked
//! for. Where the server binds one of IPv4 for itself, that is bound beside the socket of both, and a little later
//! what the server does not have is let go. A later generation that binds what is not held any more gets it in the
//! same way.
//!
//! A bind(2) may be a try: some servers bind every address of their port, close what they got, and then bind one of them
//! for good. So nothing is decided, and nothing is said of what is not held, before that has had its time.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{ListenerContext, Listeners};
use crate::core::{BindNote, GenerationId, SlotId, Steering};
use crate::os::children::Children;
use crate::os::diag;
use crate::os::intercept::{Held, Interceptor, Tried};
use crate::os::outbox::Outbox;
use crate::os::questions::PortPair;
use crate::os::socket::{Families, HeldSocket, NamedSocket, set_non_blocking};

/// What is bound for so long is no try.
const SETTLE: Duration = Duration::from_millis(500);
/// A server that goes on binding is looked at after so long nevertheless.
const LONGEST: Duration = Duration::from_secs(2);
/// After this long without a bind of either of two sockets, the added one is closed.
const UNUSED: Duration = Duration::from_secs(5);
/// A generation that ends so soon after a bind(2) that failed may have ended for that.
const RECENT: Duration = Duration::from_secs(5);
/// The most binds that are remembered.
const TRIES: usize = 64;

/// A port whose families cannot be decided yet.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    pairs: Vec<Pair>,
    tried: Vec<(GenerationId, Tried, Instant)>,
    /// When it is looked at next, and since when there is something to be looked at.
    due: Option<Instant>,
    since: Option<Instant>,
    /// A bind(2) was seen that can only have failed.
    pub(super) has_failed: bool,
}

/// The IPv4 and the IPv6 socket of one port.
#[derive(Clone, Debug)]
struct Pair {
    port: PortPair,
    wanted: SocketAddr,
    /// The last look found both bound; and since when each look found neither.
    had_both: bool,
    unused: Option<Instant>,
}

/// The sockets that generations have, for one look.
#[derive(Debug, Default)]
pub(super) struct Bound(BTreeMap<GenerationId, Option<HashSet<u32>>>);

impl Bound {
    /// Whether a process has the socket; `None` if we may not look.
    pub(super) fn has(&mut self, children: &Children, generation: GenerationId, inode: u64) -> Option<bool> {
        let look = || children.pids(generation).and_then(|pids| diag::inodes_of(&pids)).ok();
        let inodes = self.0.entry(generation).or_insert_with(look).as_ref()?;
        Some(u32::try_from(inode).is_ok_and(|inode| inodes.contains(&inode)))
    }

    /// Where we may not look, what it got counts as what it has.
    fn has_bound(
        &mut self,
        children: &Children,
        generation: GenerationId,
        slot: SlotId,
        socket: &HeldSocket,
    ) -> bool {
        let has = socket.inode(slot).ok().and_then(|inode| self.has(children, generation, inode));
        has.unwrap_or_else(|| {
            let interceptors = children.interceptors(generation);
            interceptors.iter().any(|one: &Interceptor| one.has_given(socket))
        })
    }

    fn lasts(&mut self, children: &Children, generation: GenerationId, tried: &Tried) -> bool {
        // The same socket may have been bound again since, by a process that wants no more.
        let is_narrow = || {
            let interceptors = children.interceptors(generation);
            interceptors.iter().any(|one: &Interceptor| one.is_narrow(tried.inode))
        };
        let is_meant = !matches!(tried.note, BindNote::Narrow { .. }) || is_narrow();
        is_meant && self.has(children, generation, tried.inode) != Some(false)
    }
}

impl Unsettled {
    /// Something was bound, or a generation has come or gone.
    pub(super) fn begin_anew(&mut self) {
        if !self.pairs.is_empty() || !self.tried.is_empty() {
            let now = Instant::now();
            let since = *self.since.get_or_insert(now);
            self.due = Some((now + SETTLE).min(since + LONGEST));
        }
    }

    fn look_again(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    fn pair(&mut self, beside: &Rc<HeldSocket>) -> Option<&mut Pair> {
        self.pairs.iter_mut().find(|pair| Rc::ptr_eq(&pair.port.beside, beside))
    }

    fn settled(&mut self, port: &PortPair) {
        self.pairs.retain(|one| !Rc::ptr_eq(&one.port.beside, &port.beside));
    }

    pub(super) fn tried(&mut self, generation: GenerationId, tried: Tried) {
        self.has_failed |= tried.fails;
        if self.tried.len() < TRIES {
            self.tried.push((generation, tried, Instant::now()));
            self.begin_anew();
        }
    }

    pub(super) fn pairs(&self) -> Vec<PortPair> {
        self.pairs.iter().map(|pair| pair.port.clone()).collect()
    }

    pub(super) fn patience(&self) -> Option<Duration> {
        Some(self.due?.saturating_duration_since(Instant::now()))
    }
}

impl Listeners {
    /// Opens what a server wants beyond the socket with this inode; `None` if it may not have that.
    pub(super) fn open_family(
        &mut self,
        (generation, inode): (GenerationId, u64),
        wanted: SocketAddr,
        families: Families,
        children: &Children,
    ) -> Option<Held> {
        let (alone, slots) = (alone(children), children.slots());
        let (_, slot) = *slots.iter().find(|(id, _)| *id == generation)?;
        let is_for_candidate = alone.is_none();
        let launcher = children.launcher(generation)?;
        // Who has sockets by their numbers cannot have others; what another generation serves stays with that.
        if launcher.passes_sockets() || is_for_candidate && families != Families::V6 {
            return None;
        }
        let is_it = |one: &&NamedSocket| one.inode(slot).is_ok_and(|own| own == inode);
        let asked = self.current.iter().find(is_it)?.clone();
        let opened = asked.beside(families).and_then(|beside| {
            // No server has this socket yet.
            beside.steer(&Steering::all_to(slot))?;
            set_non_blocking(&*beside.ready_slot(slot)?, launcher.non_blocking())?;
            Ok((Held::new(&beside, slot)?, beside))
        });
        let (held, beside) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                log::debug!("cannot bind {wanted} beside {}: {error}", asked.address);
                end_beside(&asked);
                return None;
            }
        };
        log::debug!("bound {} beside {}", beside.address, asked.address);
        self.intercepting.unsettled.pairs.push(Pair {
            port: PortPair {
                asked: Rc::clone(&asked.socket),
                beside: Rc::clone(&beside.socket),
                is_for_candidate,
            },
            wanted,
            had_both: false,
            unused: None,
        });
        insert_beside(&mut self.current, &asked, &beside);
        if let Some(staged) = &mut self.staged {
            insert_beside(staged, &asked, &beside);
        }
        self.arm();
        self.intercepting.unsettled.begin_anew();
        Some(held)
    }

    /// What has been bound for long enough is known by now. The generation, where its sockets have changed.
    pub(super) fn settle(&mut self, cx: &mut ListenerContext<'_>) -> Option<GenerationId> {
        let now = Instant::now();
        if self.intercepting.unsettled.due.is_none_or(|due| now < due) {
            return None;
        }
        (self.intercepting.unsettled.due, self.intercepting.unsettled.since) = (None, None);
        if self.end_last_relays() {
            self.intercepting.unsettled.look_again(now + SETTLE);
        }
        let mut bound = Bound::default();
        self.tell_lasting_binds(&mut bound, cx);
        // During a swap both are for both generations.
        let (generation, slot) = alone(cx.children).filter(|_| self.staged.is_none())?;
        let mut has_changed = false;
        for pair in self.intercepting.unsettled.pairs.clone() {
            let mut has = |socket: &HeldSocket| bound.has_bound(cx.children, generation, slot, socket);
            let found = (has(&pair.port.asked), has(&pair.port.beside));
            let unsettled = &mut self.intercepting.unsettled;
            let Some(noted) = unsettled.pair(&pair.port.beside) else { continue };
            let unused = noted.unused.take().unwrap_or(now);
            let had_both = std::mem::replace(&mut noted.had_both, found == (true, true));
            match found {
                // The next bind(2) will tell, if there is one soon.
                (false, false) if now < unused + UNUSED => {
                    noted.unused = Some(unused);
                    unsettled.look_again(unused + UNUSED);
                }
                (true, true) if !had_both => unsettled.look_again(now + 2 * SETTLE),
                (true, true) => self.keep_both(&pair, cx.outbox),
                (_, has_beside) => {
                    self.keep_one((generation, slot), &pair, !has_beside, cx);
                    has_changed = true;
                }
            }
        }
        has_changed.then_some(generation)
    }

    fn keep_both(&mut self, pair: &Pair, outbox: &mut Outbox) {
        self.intercepting.unsettled.settled(&pair.port);
        let (asked, bound) = (pair.port.asked.shown(), pair.port.beside.shown());
        self.say(BindNote::Families { asked, bound, wanted: pair.wanted.to_string(), both: true }, outbox);
    }

    fn keep_one(
        &mut self,
        (generation, slot): (GenerationId, SlotId),
        pair: &Pair,
        keeps_asked: bool,
        cx: &mut ListenerContext<'_>,
    ) {
        let PortPair { asked, beside, .. } = &pair.port;
        let (kept, gone) = if keeps_asked { (asked, beside) } else { (beside, asked) };
        self.intercepting.unsettled.settled(&pair.port);
        if let Err(error) = gone.take_no_more() {
            log::debug!(
                "{}: cannot stop new connections to it, so they come until it is closed: {error}",
                gone.address
            );
        }
        self.pass_to(kept, gone, cx.children);
        // What waited there is passed on by then; clients that go on coming would keep it open for ever.
        self.intercepting.unsettled.look_again(Instant::now() + SETTLE);
        cx.questions.leave(gone, &self.held(), cx.outbox);
        if let Ok(inode) = gone.inode(slot) {
            cx.children.interceptors(generation).iter().for_each(|one| one.forget(inode));
        }
        self.strangers.forget(gone);
        self.current.retain(|named| !Rc::ptr_eq(&named.socket, gone));
        self.let_go(cx.questions);
        end_beside(kept);
        if !keeps_asked {
            let (asked, bound) = (gone.shown(), kept.shown());
            let note = BindNote::Families { asked, bound, wanted: pair.wanted.to_string(), both: false };
            self.say(note, cx.outbox);
        }
    }

    /// Logs the binds beside held sockets that lasted; the others were only tries.
    fn tell_lasting_binds(&mut self, bound: &mut Bound, cx: &mut ListenerContext<'_>) {
        let now = Instant::now();
        let tried = std::mem::take(&mut self.intercepting.unsettled.tried);
        for (generation, tried, since) in tried {
            let is_young = now.duration_since(since) < SETTLE;
            if is_young && !tried.fails {
                self.intercepting.unsettled.look_again(now + SETTLE);
            }
            if is_young || tried.fails {
                self.intercepting.unsettled.tried.push((generation, tried, since));
            } else if bound.lasts(cx.children, generation, &tried) {
                self.say(tried.note, cx.outbox);
            }
        }
    }

    /// Those that can only have failed: the generation has ended, or a hint is due for it.
    pub fn tell_failed_binds(&mut self, generation: GenerationId, has_ended: bool, outbox: &mut Outbox) {
        let is_its = |(id, tried, _): &mut (GenerationId, Tried, Instant)| {
            *id == generation && (has_ended || tried.fails)
        };
        let its: Vec<_> = self.intercepting.unsettled.tried.extract_if(.., is_its).collect();
        for (_, tried, since) in its {
            if tried.fails && (!has_ended || since.elapsed() < RECENT) {
                self.say(tried.note, outbox);
            }
        }
    }
}

/// Puts a socket into the list, behind the one that --listen asks for.
fn insert_beside(sockets: &mut Vec<NamedSocket>, asked: &NamedSocket, beside: &NamedSocket) {
    if let Some(at) = sockets.iter().position(|one| Rc::ptr_eq(&one.socket, &asked.socket)) {
        sockets.insert(
            at + 1,
            NamedSocket { name: sockets[at].name.clone(), socket: Rc::clone(&beside.socket) },
        );
    }
}

/// The generation, if there is only one.
fn alone(children: &Children) -> Option<(GenerationId, SlotId)> {
    match children.slots()[..] {
        [alone] => Some(alone),
        _ => None,
    }
}

/// Clears SO_REUSEPORT of a socket, because the other socket of its port is gone or about to go.
fn end_beside(kept: &HeldSocket) {
    if let Err(error) = kept.be_alone_again() {
        log::debug!("{}: cannot clear SO_REUSEPORT: {error}", kept.address);
    }
}
