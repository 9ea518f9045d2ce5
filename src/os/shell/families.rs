//! Which families a port has: where a port alone is to be held and the server under InterceptBind= binds one of IPv4 for
//! itself, that is bound beside the socket of both, and a little later what the server does not have is let go. A later
//! generation that binds what is not held any more gets it in the same way.
//!
//! A bind(2) may be a try: some servers bind every address of their port, close what they got, and then bind one of them
//! for good. So nothing is decided, and nothing is said of what is not held, before that has had its time.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Shell;
use super::configuration::Configuration;
use crate::core::{BindNote, Event, GenerationId, SlotId, Steering};
use crate::os::children::Children;
use crate::os::diag;
use crate::os::intercept::{Held, Interceptor, Tried};
use crate::os::launch::Launcher;
use crate::os::socket::{Families, HeldSocket, NamedSocket, set_non_blocking};

/// What is bound for so long is no try.
const SETTLE: Duration = Duration::from_millis(500);
/// A server that goes on binding is looked at after so long nevertheless.
const LONGEST: Duration = Duration::from_secs(2);
/// Of two sockets neither of which was bound for so long the added one goes.
const UNUSED: Duration = Duration::from_secs(5);
/// A generation that ends so soon after a bind(2) that failed may have ended for that.
const RECENT: Duration = Duration::from_secs(5);
/// So many binds are remembered.
const TRIES: usize = 64;

/// What cannot be decided yet.
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

/// Two sockets of one port.
#[derive(Clone, Debug)]
struct Pair {
    asked: Rc<HeldSocket>,
    beside: Rc<HeldSocket>,
    wanted: SocketAddr,
    /// A candidate wanted it beside what the one that serves has.
    is_for_candidate: bool,
    /// The last look found both bound; and since when each look found neither.
    had_both: bool,
    unused: Option<Instant>,
}

/// The sockets that generations have, for one look.
#[derive(Debug, Default)]
struct Bound(BTreeMap<GenerationId, Option<HashSet<u32>>>);

impl Bound {
    /// None: we may not look.
    fn has(&mut self, children: &Children, generation: GenerationId, inode: u64) -> Option<bool> {
        let look = || children.pids(generation).and_then(|pids| diag::inodes_of(&pids)).ok();
        let inodes = self.0.entry(generation).or_insert_with(look).as_ref()?;
        Some(u32::try_from(inode).is_ok_and(|inode| inodes.contains(&inode)))
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
        self.pairs.iter_mut().find(|pair| Rc::ptr_eq(&pair.beside, beside))
    }

    pub(super) fn tried(&mut self, generation: GenerationId, tried: Tried) {
        self.has_failed |= tried.fails;
        if self.tried.len() < TRIES {
            self.tried.push((generation, tried, Instant::now()));
            self.begin_anew();
        }
    }

    /// Both of a pair count as the one that was asked for, where somebody waits if he does on either. A candidate has to
    /// wait on the one that it does not have alone.
    pub(super) fn as_one(
        &self,
        mut sockets: Vec<NamedSocket>,
        mut waited: Vec<bool>,
    ) -> (Vec<NamedSocket>, Vec<bool>) {
        for pair in &self.pairs {
            let find = |one: &Rc<HeldSocket>| sockets.iter().position(|named| Rc::ptr_eq(&named.socket, one));
            if let (Some(asked), Some(beside)) = (find(&pair.asked), find(&pair.beside)) {
                sockets.remove(beside);
                let waits = beside < waited.len() && waited.remove(beside);
                if waits && !pair.is_for_candidate {
                    waited[asked.min(beside)] = true;
                }
            }
        }
        (sockets, waited)
    }
}

impl Shell {
    pub(super) fn settle_patience(&self) -> Option<Duration> {
        Some(self.intercepting.unsettled.due?.saturating_duration_since(Instant::now()))
    }

    /// A server wants what the socket with this inode has not, or not alone. None: it may not have it.
    pub(super) fn open_family(
        &mut self,
        generation: GenerationId,
        inode: u64,
        wanted: SocketAddr,
        families: Families,
    ) -> Option<Held> {
        let (alone, slots) = (self.alone(), self.children.slots());
        let (_, slot) = *slots.iter().find(|(id, _)| *id == generation)?;
        let is_for_candidate = alone.is_none();
        let launcher = Rc::clone(self.children.launcher(generation)?);
        // Who has sockets by their numbers cannot have others; what another generation serves stays with that.
        if launcher.passes_sockets() || is_for_candidate && families != Families::V6 {
            return None;
        }
        let is_it = |one: &&NamedSocket| one.inode(slot).is_ok_and(|own| own == inode);
        let asked = self.listeners.current.iter().find(is_it)?.clone();
        let opened = asked.beside(families).and_then(|beside| {
            // Nobody else has it.
            beside.steer(&Steering::all_to(slot))?;
            set_non_blocking(&*beside.ready_slot(slot)?, launcher.non_blocking())?;
            Ok((Held::new(&beside, slot)?, beside))
        });
        let (held, beside) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                log::debug!("{wanted} cannot be bound beside {}: {error}", asked.address);
                self.end_beside(&asked);
                return None;
            }
        };
        log::debug!("{} is bound beside {}", beside.address, asked.address);
        self.intercepting.unsettled.pairs.push(Pair {
            asked: Rc::clone(&asked.socket),
            beside: Rc::clone(&beside.socket),
            wanted,
            is_for_candidate,
            had_both: false,
            unused: None,
        });
        insert_beside(&mut self.listeners.current, &asked, &beside);
        if let Some(staged) = &mut self.listeners.staged {
            insert_beside(staged, &asked, &beside);
        }
        self.use_sockets(generation);
        self.intercepting.unsettled.begin_anew();
        Some(held)
    }

    /// The only generation there is.
    fn alone(&self) -> Option<(GenerationId, SlotId)> {
        match self.children.slots()[..] {
            [alone] => Some(alone),
            _ => None,
        }
    }

    fn use_sockets(&mut self, generation: GenerationId) {
        // Where the files were read anew, ours is for the next generation.
        let own = self.children.launcher(generation).cloned();
        let is_own = |one: &Rc<Launcher>| own.as_ref().is_some_and(|own| Rc::ptr_eq(own, one));
        let with = |launcher: &Launcher, sockets: &[NamedSocket]| Rc::new(launcher.on(sockets));
        let Configuration { current, staged, .. } = &mut self.configuration;
        let is_ours = is_own(&current.launcher);
        current.launcher = with(&current.launcher, &self.listeners.current);
        let mut new = is_ours.then(|| Rc::clone(&current.launcher));
        if let (Some(staged), Some(sockets)) = (staged, &self.listeners.staged) {
            let is_staged = is_own(&staged.launcher);
            staged.launcher = with(&staged.launcher, sockets);
            new = if is_staged { Some(Rc::clone(&staged.launcher)) } else { new };
        }
        if let Some(new) = new.or_else(|| Some(with(own.as_deref()?, &self.listeners.current))) {
            self.children.set_launcher(generation, new);
        }
        self.arm();
    }

    /// The other socket of its port is gone, or about to go.
    fn end_beside(&self, kept: &HeldSocket) {
        if let Err(error) = kept.be_alone_again() {
            log::debug!("{}: SO_REUSEPORT=0: {error}", kept.address);
        }
    }

    /// What has been bound for long enough is known by now.
    pub(super) fn settle(&mut self) {
        let now = Instant::now();
        if self.intercepting.unsettled.due.is_none_or(|due| now < due) {
            return;
        }
        (self.intercepting.unsettled.due, self.intercepting.unsettled.since) = (None, None);
        if self.end_last_relays() {
            self.intercepting.unsettled.look_again(now + SETTLE);
        }
        let mut bound = Bound::default();
        self.tell_lasting_binds(&mut bound);
        // During a swap both are for both generations.
        let Some((generation, slot)) = self.alone().filter(|_| self.listeners.staged.is_none()) else {
            return;
        };
        for pair in self.intercepting.unsettled.pairs.clone() {
            let mut has = |socket: &HeldSocket| self.has_bound(&mut bound, generation, slot, socket);
            let found = (has(&pair.asked), has(&pair.beside));
            let unsettled = &mut self.intercepting.unsettled;
            let Some(noted) = unsettled.pair(&pair.beside) else { continue };
            let unused = noted.unused.take().unwrap_or(now);
            let had_both = std::mem::replace(&mut noted.had_both, found == (true, true));
            match found {
                // The next bind(2) will tell, if there is one soon.
                (false, false) if now < unused + UNUSED => {
                    noted.unused = Some(unused);
                    unsettled.look_again(unused + UNUSED);
                }
                (true, true) if !had_both => unsettled.look_again(now + 2 * SETTLE),
                (true, true) => self.keep_both(&pair),
                (true | false, false) => {
                    self.keep_one(generation, slot, &pair, &pair.asked, &pair.beside);
                }
                (false, true) => self.keep_one(generation, slot, &pair, &pair.beside, &pair.asked),
            }
        }
    }

    /// Where we may not look, what it got counts as what it has.
    fn has_bound(
        &self,
        bound: &mut Bound,
        generation: GenerationId,
        slot: SlotId,
        socket: &HeldSocket,
    ) -> bool {
        let has = socket.inode(slot).ok().and_then(|inode| bound.has(&self.children, generation, inode));
        has.unwrap_or_else(|| {
            let interceptors = self.children.interceptors(generation);
            interceptors.iter().any(|one: &Interceptor| one.has_given(socket))
        })
    }

    pub(super) fn has_inode(&self, generation: GenerationId, inode: u64) -> Option<bool> {
        let inodes = self.children.pids(generation).and_then(|pids| diag::inodes_of(&pids)).ok()?;
        Some(u32::try_from(inode).is_ok_and(|inode| inodes.contains(&inode)))
    }

    fn keep_both(&mut self, pair: &Pair) {
        self.intercepting.unsettled.pairs.retain(|one| !Rc::ptr_eq(&one.beside, &pair.beside));
        let (asked, bound) = (pair.asked.shown(), pair.beside.shown());
        self.say(BindNote::Families { asked, bound, wanted: pair.wanted.to_string(), both: true });
    }

    fn keep_one(
        &mut self,
        generation: GenerationId,
        slot: SlotId,
        pair: &Pair,
        kept: &Rc<HeldSocket>,
        gone: &Rc<HeldSocket>,
    ) {
        self.intercepting.unsettled.pairs.retain(|one| !Rc::ptr_eq(&one.beside, &pair.beside));
        if let Err(error) = gone.take_no_more() {
            log::debug!("{}: connections go on coming to it until it is closed: {error}", gone.address);
        }
        self.pass_to(kept, gone);
        // What waited there is passed on by then; clients that go on coming would keep it open for ever.
        self.intercepting.unsettled.look_again(Instant::now() + SETTLE);
        // Whoever is asked there is asked at the other one next.
        if let Some(asking) = self.asking.as_ref().filter(|asking| Rc::ptr_eq(&asking.socket, gone)) {
            let (asked, is_silent) = (asking.generation, asking.is_silent);
            self.end_probe(asked);
            if !is_silent {
                let result = Err("the server has bound another address meanwhile".to_owned());
                self.outbox.push(Event::Probed { generation: asked, result });
            }
        }
        if let Ok(inode) = gone.inode(slot) {
            self.children.interceptors(generation).iter().for_each(|one| one.forget(inode));
        }
        self.questions.strangers.retain(|(socket, _)| !Rc::ptr_eq(socket, gone));
        self.listeners.current.retain(|named| !Rc::ptr_eq(&named.socket, gone));
        self.use_sockets(generation);
        self.end_beside(kept);
        if Rc::ptr_eq(kept, &pair.beside) {
            let (asked, bound) = (gone.shown(), kept.shown());
            self.say(BindNote::Families { asked, bound, wanted: pair.wanted.to_string(), both: false });
        }
    }

    /// Of those binds beside what is held that were let: the others were tries.
    fn tell_lasting_binds(&mut self, bound: &mut Bound) {
        let now = Instant::now();
        let tried = std::mem::take(&mut self.intercepting.unsettled.tried);
        for (generation, tried, since) in tried {
            let is_young = now.duration_since(since) < SETTLE;
            if is_young && !tried.fails {
                self.intercepting.unsettled.look_again(now + SETTLE);
            }
            if is_young || tried.fails {
                self.intercepting.unsettled.tried.push((generation, tried, since));
            } else if self.lasts(bound, generation, &tried) {
                self.say(tried.note);
            }
        }
    }

    fn lasts(&self, bound: &mut Bound, generation: GenerationId, tried: &Tried) -> bool {
        // The same socket may have been bound anew since, by one that wants no more than that.
        let is_narrow = || {
            let interceptors = self.children.interceptors(generation);
            interceptors.iter().any(|one: &Interceptor| one.is_narrow(tried.inode))
        };
        let is_meant = !matches!(tried.note, BindNote::Narrow { .. }) || is_narrow();
        is_meant && bound.has(&self.children, generation, tried.inode) != Some(false)
    }

    /// Those that can only have failed: the generation has ended, or a hint is due for it.
    pub(super) fn tell_failed_binds(&mut self, generation: GenerationId, has_ended: bool) {
        let is_its = |(id, tried, _): &mut (GenerationId, Tried, Instant)| {
            *id == generation && (has_ended || tried.fails)
        };
        let its: Vec<_> = self.intercepting.unsettled.tried.extract_if(.., is_its).collect();
        for (_, tried, since) in its {
            if tried.fails && (!has_ended || since.elapsed() < RECENT) {
                self.say(tried.note);
            }
        }
    }
}

/// Behind the one that was asked for.
fn insert_beside(sockets: &mut Vec<NamedSocket>, asked: &NamedSocket, beside: &NamedSocket) {
    if let Some(at) = sockets.iter().position(|one| Rc::ptr_eq(&one.socket, &asked.socket)) {
        sockets.insert(
            at + 1,
            NamedSocket { name: sockets[at].name.clone(), socket: Rc::clone(&beside.socket) },
        );
    }
}
