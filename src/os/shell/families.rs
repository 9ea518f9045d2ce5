//! Which families a port has: where a port alone is to be held and the server under InterceptBind= binds one of IPv4 for
//! itself, that is bound beside the socket of both, and a little later what the server does not have is let go.
//!
//! A bind(2) may be a try: some servers bind every address of their port, close what they got, and then bind one of them
//! for good. So nothing is decided, and nothing is said of what is not held, before that has had its time.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Shell;
use crate::core::{BindNote, Event, GenerationId, SlotId};
use crate::os::diag;
use crate::os::intercept::{Held, Interceptor, Tried};
use crate::os::socket::{HeldSocket, NamedSocket, set_non_blocking};

/// What is bound for so long is no try.
const SETTLE: Duration = Duration::from_millis(500);
/// A generation that ends so soon after a bind(2) that failed may have ended for that.
const RECENT: Duration = Duration::from_secs(5);
/// So many binds are remembered.
const TRIES: usize = 64;

/// What cannot be decided yet.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    pairs: Vec<Pair>,
    tried: Vec<(GenerationId, Tried, Instant)>,
    /// When it is looked at next, and how often that was.
    due: Option<Instant>,
    looks: u32,
    /// A bind(2) was seen that can only have failed.
    pub(super) has_failed: bool,
}

/// Two sockets of one port.
#[derive(Clone, Debug)]
struct Pair {
    asked: Rc<HeldSocket>,
    beside: Rc<HeldSocket>,
    wanted: SocketAddr,
}

impl Unsettled {
    /// Something was bound, or a generation has come or gone.
    pub(super) fn begin_anew(&mut self) {
        if !self.pairs.is_empty() || !self.tried.is_empty() {
            (self.due, self.looks) = (Some(Instant::now() + SETTLE), 0);
        }
    }

    pub(super) fn tried(&mut self, generation: GenerationId, tried: Tried) {
        self.has_failed |= tried.fails;
        if self.tried.len() < TRIES {
            self.tried.push((generation, tried, Instant::now()));
            self.begin_anew();
        }
    }

    /// Both of a pair count as the one that was asked for, where somebody waits if he does on either.
    pub(super) fn as_one(
        &self,
        mut sockets: Vec<NamedSocket>,
        mut waited: Vec<bool>,
    ) -> (Vec<NamedSocket>, Vec<bool>) {
        for pair in &self.pairs {
            let find = |one: &Rc<HeldSocket>| sockets.iter().position(|named| Rc::ptr_eq(&named.socket, one));
            if let (Some(asked), Some(beside)) = (find(&pair.asked), find(&pair.beside)) {
                sockets.remove(beside);
                if beside < waited.len() && waited.remove(beside) {
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
        is_ipv4: bool,
    ) -> Option<Held> {
        let slot = self.alone().filter(|(id, _)| *id == generation)?.1;
        let launcher = Rc::clone(self.children.launcher(generation)?);
        // Who has sockets by their numbers cannot have others.
        if self.staged.is_some() || launcher.passes_sockets() {
            return None;
        }
        let is_it = |one: &NamedSocket| one.inode(slot).is_ok_and(|own| own == inode);
        let at = self.sockets.iter().position(is_it)?;
        let asked = self.sockets[at].clone();
        let opened = asked.beside(is_ipv4).and_then(|beside| {
            beside.steer(&self.slots.steering)?;
            set_non_blocking(&*beside.ready_slot(slot)?, launcher.non_blocking())?;
            Ok((Held::new(&beside, slot)?, beside))
        });
        let (held, beside) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                log::debug!("{wanted} cannot be bound beside {}: {error}", asked.address);
                return None;
            }
        };
        asked.set_ipv4_beside(is_ipv4);
        log::debug!("{} is bound beside {}", beside.address, asked.address);
        let pair = Pair { asked: asked.socket, beside: Rc::clone(&beside.socket), wanted };
        self.intercepting.unsettled.pairs.push(pair);
        self.sockets.insert(at + 1, beside);
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
        let own = self.children.launcher(generation).filter(|own| !Rc::ptr_eq(own, &self.launcher));
        let own = own.map(|own| Rc::new(own.on(&self.sockets)));
        self.launcher = Rc::new(self.launcher.on(&self.sockets));
        self.children.set_launcher(generation, own.unwrap_or_else(|| Rc::clone(&self.launcher)));
        self.arm();
    }

    /// What has been bound for long enough is known by now.
    pub(super) fn settle(&mut self) {
        if self.intercepting.unsettled.due.is_none_or(|due| Instant::now() < due) {
            return;
        }
        self.intercepting.unsettled.due = None;
        self.intercepting.unsettled.looks += 1;
        self.end_last_relays();
        self.tell_lasting_binds();
        // During a swap both are for both generations.
        let Some((generation, slot)) = self.alone().filter(|_| self.staged.is_none()) else { return };
        for pair in self.intercepting.unsettled.pairs.clone() {
            let has = |socket: &HeldSocket| self.has_bound(generation, slot, socket);
            match (has(&pair.asked), has(&pair.beside)) {
                // The next bind(2) will tell.
                (false, false) => {}
                (true, true) if self.intercepting.unsettled.looks == 1 => {
                    self.intercepting.unsettled.due = Some(Instant::now() + 2 * SETTLE);
                }
                (true, true) => self.keep_both(&pair),
                (true, false) => self.keep_one(generation, slot, &pair, &pair.asked, &pair.beside),
                (false, true) => self.keep_one(generation, slot, &pair, &pair.beside, &pair.asked),
            }
        }
    }

    /// Where we may not look, what it got counts as what it has.
    fn has_bound(&self, generation: GenerationId, slot: SlotId, socket: &HeldSocket) -> bool {
        let has = || Ok::<_, std::io::Error>(self.has_inode(generation, socket.inode(slot)?));
        has().ok().flatten().unwrap_or_else(|| {
            let interceptors = self.children.interceptors(generation);
            interceptors.iter().any(|one: &Interceptor| one.has_given(socket))
        })
    }

    fn has_inode(&self, generation: GenerationId, inode: u64) -> Option<bool> {
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
        self.pass_to(kept, gone);
        // What waited there is passed on by then; clients that go on coming would keep it open for ever.
        self.intercepting.unsettled.due = Some(Instant::now() + SETTLE);
        // Whoever is asked there is asked at the other one next.
        if let Some(asking) = self.asking.as_ref().filter(|asking| Rc::ptr_eq(&asking.socket, gone)) {
            let (asked, is_silent) = (asking.generation, asking.is_silent);
            self.end_probe(asked);
            if !is_silent {
                let result = Err("the server has bound another address meanwhile".to_owned());
                self.queue.push_back(Event::Probed { generation: asked, result });
            }
        }
        if let Ok(inode) = gone.inode(slot) {
            self.children.interceptors(generation).iter().for_each(|one| one.forget(inode));
        }
        self.questions.strangers.retain(|(socket, _)| !Rc::ptr_eq(socket, gone));
        self.sockets.retain(|named| !Rc::ptr_eq(&named.socket, gone));
        self.use_sockets(generation);
        if let Err(error) = kept.be_alone_again() {
            log::debug!("{}: SO_REUSEPORT=0: {error}", kept.address);
        }
        if Rc::ptr_eq(kept, &pair.beside) {
            let (asked, bound) = (gone.shown(), kept.shown());
            self.say(BindNote::Families { asked, bound, wanted: pair.wanted.to_string(), both: false });
        }
    }

    /// Of those binds beside what is held that were let: the others were tries.
    fn tell_lasting_binds(&mut self) {
        let now = Instant::now();
        let tried = std::mem::take(&mut self.intercepting.unsettled.tried);
        for (generation, tried, since) in tried {
            let is_young = now.duration_since(since) < SETTLE;
            if is_young && !tried.fails {
                self.intercepting.unsettled.due = Some(now + SETTLE);
            }
            if is_young || tried.fails {
                self.intercepting.unsettled.tried.push((generation, tried, since));
            } else if self.has_inode(generation, tried.inode) != Some(false) {
                self.say(tried.note);
            }
        }
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
