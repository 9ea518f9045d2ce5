//! The slots of a unix stream socket at a path: one socket for each, and the hard link by which the path leads to one
//! of them.
//!
//! Each slot is a socket with a node of its own in a hidden directory beside the path (`hidden`). The public path is a
//! hard link to one of these nodes: link(2) and rename(2) over it switch new connections to another slot, atomically
//! and both ways. A connection that waits in the queue of a slot stays there.
//!
//! * Every slot is bound at the public path's own text and then renamed into the hidden directory. getsockname(2) and
//!   a client's getpeername(2) show that text for ever, servers compare it (sd_is_socket_unix(3)), and its length is
//!   the only one that has to fit sun_path. So all slots are bound at the start, before the path is announced, and
//!   listen(2) only when a generation is to have them.
//! * After shutdown(2) a unix listener is dead for good: connect(2) gives ECONNREFUSED, and another listen(2) changes
//!   nothing (what waits in its queue can still be accepted). The slot gets a new socket: the target's
//!   at the public path, where clients are refused anyway; another's under its hidden name, which then is its text.
//! * A node with no name left cannot be linked again, whatever still has the socket open.
//! * Which slot an accepted connection belongs to is told by the inode of the node, which it shares.

mod hidden;
mod saved;

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::Hash;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::AddWatchFlags;

use super::node::{Attributes, Inode, OwnPath, make_directories, remove_inode};
use super::saved::SavedSlots;
use super::slots::{Checked, PathState, Slots};
use super::{BindError, local};
use crate::config::Listener;
use crate::core::{SlotId, Steering};
use crate::os::own;
use crate::os::saved::KeptFds;
use crate::os::sys;
use hidden::{Hidden, NoDirectory};

/// How often a path is put back for which others are faster, before it counts as taken.
const TRIES: u32 = 3;

/// What tells that one of our links is gone, watched on the inodes themselves ([`Nodes::watch_paths`]): IN_ATTRIB comes
/// when the number of links changes (unlink, a rename over it; also with chmod and chown), IN_MOVE_SELF when one is
/// renamed, IN_DELETE_SELF with the last one. Connections make none of these, nor does a stranger's file beside the
/// path; our own steering makes three at most, all before the call returns. What somebody else has put at the path is
/// watched in the same way (and not what it leads to, where it is a symbolic link).
pub const WATCH: AddWatchFlags = AddWatchFlags::IN_ATTRIB
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_DONT_FOLLOW);

/// The slots of one path.
#[derive(Debug)]
pub(super) struct Nodes {
    /// The public path; it goes first, while the sockets keep their inode numbers.
    public: OwnPath,
    /// The slots by their number.
    nodes: Vec<SlotNode>,
    hidden: Hidden,
    target: SlotId,
    /// Whether the public path led to another process's file when last looked at.
    is_taken: bool,
    asked: Rc<Listener>,
    /// The mode and owner that the target had when last seen, and every other slot gets.
    attributes: Attributes,
}

/// One slot. Its hidden name goes first, for the same reason.
#[derive(Debug)]
struct SlotNode {
    own: OwnPath,
    fd: Rc<OwnedFd>,
    listens: bool,
}

/// Why a path has no slots.
#[derive(Debug)]
pub(super) enum NoSlots {
    /// One socket for all generations can be had.
    Shared(String),
    /// The path cannot be bound at all.
    Bind(BindError),
}

enum There {
    Nobody,
    Slot(SlotId),
    Stranger,
}

impl Nodes {
    /// Binds all slots; 0 and 1 listen, and 0 is the target.
    pub(super) fn hold(listener: &Rc<Listener>, path: &Path) -> Result<Self, NoSlots> {
        let owner = local::prepare_path(listener, path).map_err(NoSlots::Bind)?;
        let hidden = Hidden::make(path).map_err(|cause| match cause {
            NoDirectory::InUse => NoSlots::Bind(local::in_use(listener, path)),
            NoDirectory::Because(reason) => NoSlots::Shared(reason),
        })?;
        let mut nodes = Vec::new();
        for slot in SlotId::all().rev() {
            let fd = local::bind_path(listener, path, slot.0 == 0).map_err(|error| match error.errno {
                Some(libc::EMFILE) => {
                    NoSlots::Shared("the limit of open files leaves no room for more (ulimit -Hn)".to_owned())
                }
                _ => NoSlots::Bind(error),
            })?;
            let own = adopt(path, &hidden.of(slot)).map_err(|error| shared(&error))?;
            local::dress(listener, &own, owner).map_err(NoSlots::Bind)?;
            nodes.insert(0, SlotNode { own, fd: Rc::new(fd), listens: false });
        }
        let attributes = nodes[0].own.attributes().map_err(|error| shared(&error))?;
        let mut this = Self {
            public: OwnPath::future(path, nodes[0].own.inode()),
            nodes,
            hidden,
            target: SlotId(0),
            is_taken: false,
            asked: Rc::clone(listener),
            attributes,
        };
        // Both ways once, while nobody listens: link(2) may be forbidden for a node that was given away
        // (fs.protected_hardlinks), or not be there at all, and rename(2) in a directory with the sticky bit.
        for slot in [1, 0].map(SlotId) {
            this.publish(slot).map_err(|error| shared(&error))?;
        }
        for slot in [0, 1].map(SlotId) {
            local::listen(listener, &this.nodes[index(slot)].fd, &listener.options).map_err(NoSlots::Bind)?;
            this.nodes[index(slot)].listens = true;
        }
        local::make_symlinks(listener, &mut this.public);
        Ok(this)
    }

    /// The slot that gets new connections.
    #[cfg(test)]
    pub(super) fn target(&self) -> SlotId {
        self.target
    }

    /// The socket of a slot. It stays the same until [`Self::ready_slot`], [`Self::mend`] or [`Self::look_after_path`] says
    /// otherwise; connections that wait in the queue of one that was replaced can be had for as long as it is kept.
    pub(super) fn fd_of(&self, slot: SlotId) -> Rc<OwnedFd> {
        Rc::clone(&self.nodes[index(slot)].fd)
    }

    /// Where this slot alone can be reached, by us and by processes of our user.
    pub(super) fn hidden_path(&self, slot: SlotId) -> PathBuf {
        self.hidden.address(slot)
    }

    /// Sees to it that the public path leads to the target, and that the slots that listen have their hidden names.
    ///
    /// # Errors
    /// The file system refuses.
    pub(super) fn look_after_path(&mut self) -> io::Result<Checked> {
        for _ in 0..TRIES {
            match self.put_back() {
                // Somebody is there, or was faster and is gone again.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if let There::Stranger = self.there()? {
                        break;
                    }
                }
                result => return result,
            }
        }
        self.is_taken = true;
        Ok(Checked { state: PathState::Taken, anew: Vec::new() })
    }

    fn put_back(&mut self) -> io::Result<Checked> {
        let mut checked = Checked { state: PathState::Ours, anew: Vec::new() };
        self.is_taken = false;
        match self.there()? {
            There::Stranger => return Err(taken(self.public.path())),
            There::Slot(slot) if slot == self.target => {}
            There::Slot(_) | There::Nobody => checked.state = PathState::LinkedBack,
        }
        // The target is what clients wait for.
        if self.restore(self.target)? {
            checked = Checked { state: PathState::LinkedBack, anew: vec![self.target] };
        }
        self.publish(self.target)?;
        for slot in SlotId::all() {
            if self.nodes[index(slot)].listens && self.restore(slot)? {
                checked.anew.push(slot);
            }
        }
        Ok(checked)
    }

    fn there(&self) -> io::Result<There> {
        let inode = match fs::symlink_metadata(self.public.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(There::Nobody),
            result => Inode::of(&result?),
        };
        let slot = self.nodes.iter().position(|node| node.own.inode() == inode);
        Ok(slot.map_or(There::Stranger, |slot| There::Slot(SlotId(slot as u8))))
    }

    /// Makes the public path lead to a slot.
    fn publish(&mut self, slot: SlotId) -> io::Result<()> {
        let node = &self.nodes[index(slot)].own;
        match self.there()? {
            There::Slot(there) if there == slot => {}
            // link(2) replaces nothing: should somebody have taken the path meanwhile, it fails.
            There::Nobody => fs::hard_link(node.path(), self.public.path())?,
            There::Slot(_) => {
                let link = self.hidden.new_link()?;
                fs::hard_link(node.path(), &link)?;
                fs::rename(&link, self.public.path())?;
            }
            There::Stranger => {
                self.is_taken = true;
                return Err(taken(self.public.path()));
            }
        }
        self.public.follow(node.inode());
        if self.target != slot {
            let before = &self.nodes[index(self.target)];
            if before.listens {
                send_on(&before.fd, self.asked.options.backlog);
            }
        }
        self.target = slot;
        Ok(())
    }

    /// Gives a slot its hidden name back where a public link of it is left, or else a new socket; true: a new one.
    fn restore(&mut self, slot: SlotId) -> io::Result<bool> {
        let own = &self.nodes[index(slot)].own;
        if own.is_ours() {
            return Ok(false);
        }
        if !self.hidden.is_there() {
            let path = self.public.path();
            make_directories(path, self.asked.options.directory_mode).map_err(|(_, error)| error)?;
            self.hidden = Hidden::make(path).map_err(|cause| match cause {
                NoDirectory::InUse => taken(path),
                NoDirectory::Because(reason) => io::Error::other(reason),
            })?;
        }
        let own = &self.nodes[index(slot)].own;
        if matches!(self.there()?, There::Slot(there) if there == slot) {
            fs::hard_link(self.public.path(), own.path())?;
            if own.is_ours() {
                return Ok(false);
            }
        }
        self.bind_anew(slot)?;
        Ok(true)
    }

    /// A new socket in a slot's place. That of the target is bound at the public path, from where a link of ours makes
    /// way, for clients are refused there anyway; after that the path leads to the target again, also if this failed.
    fn bind_anew(&mut self, slot: SlotId) -> io::Result<()> {
        let old = &self.nodes[index(slot)];
        let old = Some(Rc::clone(&old.fd)).filter(|_| old.listens);
        self.replace(slot)?;
        if let Some(old) = old {
            send_on(&old, self.asked.options.backlog);
        }
        Ok(())
    }

    fn replace(&mut self, slot: SlotId) -> io::Result<()> {
        self.see_attributes();
        if slot != self.target {
            // Clients must not miss the path for it, so it gets the text of its hidden name.
            let own = &self.nodes[index(slot)].own;
            if own.is_ours() {
                remove_inode(own.path(), own.inode(), || true)?;
            }
            let fd =
                local::bind_path(&self.asked, &self.hidden.address(slot), false).map_err(io::Error::other)?;
            return self.install(slot, fd, OwnPath::of(&self.hidden.of(slot))?);
        }
        let path = self.public.path().to_path_buf();
        if let There::Slot(there) = self.there()? {
            remove_inode(&path, self.nodes[index(there)].own.inode(), || true)?;
        }
        if let There::Stranger = self.there()? {
            return Err(taken(&path));
        }
        let bound = self.bind_here(slot, &path);
        let published = self.publish(self.target);
        bound.and(published)
    }

    fn bind_here(&mut self, slot: SlotId, path: &Path) -> io::Result<()> {
        let fd = local::bind_path(&self.asked, path, false).map_err(io::Error::other)?;
        self.install(slot, fd, adopt(path, &self.hidden.of(slot))?)
    }

    fn install(&mut self, slot: SlotId, fd: OwnedFd, own: OwnPath) -> io::Result<()> {
        own.set_attributes(self.attributes)?;
        let listens = self.nodes[index(slot)].listens;
        if listens {
            sys::listen(&fd, self.asked.options.backlog)?;
        }
        self.nodes[index(slot)] = SlotNode { own, fd: Rc::new(fd), listens };
        Ok(())
    }

    /// The administrator may have changed the node that clients see.
    fn see_attributes(&mut self) {
        if let Ok(attributes) = self.nodes[index(self.target)].own.attributes() {
            self.attributes = attributes;
        }
    }
}

impl Slots for Nodes {
    fn slot(&self, slot: SlotId) -> Option<Rc<OwnedFd>> {
        Some(self.fd_of(slot))
    }

    /// Readies a slot for a new generation: it listens with the backlog asked for, and has the mode and owner of the
    /// node that clients see now. A new socket if the old one was shut down or lost its node.
    ///
    /// # Errors
    /// It needs a new socket, and the public path is taken by somebody else or cannot be bound.
    fn ready_slot(&mut self, slot: SlotId) -> io::Result<Rc<OwnedFd>> {
        if self.nodes[index(slot)].is_dead()? {
            self.bind_anew(slot)?;
        }
        self.restore(slot)?;
        self.see_attributes();
        let node = &mut self.nodes[index(slot)];
        node.own.set_attributes(self.attributes)?;
        sys::listen(&node.fd, self.asked.options.backlog)?;
        node.listens = true;
        Ok(Rc::clone(&node.fd))
    }

    /// listen(2) once more with our backlog, on all that listen. A client that had looked the path up just before a
    /// switch goes on from here as well.
    fn refresh(&mut self) -> io::Result<()> {
        let backlog = self.asked.options.backlog;
        for (at, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.listens) {
            if at == index(self.target) {
                sys::listen(&node.fd, backlog)?;
            } else {
                send_on(&node.fd, backlog);
            }
        }
        Ok(())
    }

    /// Gives a slot that was shut down a new socket; false: it was not. What waits in the old one's queue is reset when
    /// it is closed, by us and by all who have it: keep [`Self::slot`] first to rescue it.
    ///
    /// # Errors
    /// The errors of [`Self::ready_slot`].
    fn mend(&mut self, slot: SlotId) -> io::Result<bool> {
        let is_dead = self.nodes[index(slot)].is_dead()?;
        if is_dead {
            self.bind_anew(slot)?;
        }
        Ok(is_dead)
    }

    /// All new connections go to `steering.slot`; a path has no canary. The slot was made ready before.
    ///
    /// # Errors
    /// The public path leads to another process's file, or the file system refuses; everything is as it was before.
    fn steer(&mut self, steering: &Steering) -> io::Result<()> {
        self.see_attributes();
        self.nodes[index(steering.slot)].own.set_attributes(self.attributes)?;
        self.publish(steering.slot)
    }

    fn path_of(&self, slot: SlotId) -> Option<PathBuf> {
        Some(self.hidden_path(slot))
    }

    fn check_path(&mut self) -> io::Result<Option<Checked>> {
        self.look_after_path().map(Some)
    }

    /// The public path with its links, and the hidden directory with all that is in it.
    fn made_paths(&self) -> Vec<PathBuf> {
        let mut made = self.public.made_paths();
        made.push(self.hidden.path().to_path_buf());
        made
    }

    /// What to watch for [`WATCH`]: inodes, so again after a slot was made ready, mended or bound anew, and after
    /// another process's file was seen at the public path.
    fn watch_paths(&self) -> Vec<PathBuf> {
        let listening = self.nodes.iter().filter(|node| node.listens);
        let stranger = self.is_taken.then(|| self.public.path());
        listening.map(|node| node.own.path()).chain(stranger).map(Path::to_path_buf).collect()
    }

    /// RemoveOnStop=
    fn set_removes(&mut self, removes: bool) {
        self.public.set_removes(removes);
    }

    fn save(&self, fds: &mut KeptFds) -> SavedSlots {
        SavedSlots::Nodes(self.saved(fds))
    }

    fn fingerprint(&self, hasher: &mut DefaultHasher) {
        let node = |node: &SlotNode| (node.fd.as_raw_fd(), node.own.inode().number, node.listens);
        let nodes: Vec<_> = self.nodes.iter().map(node).collect();
        (nodes, self.target, self.is_taken, self.public.inode().number).hash(hasher);
    }
}

impl SlotNode {
    /// Whether somebody called shutdown(2): only then a listener hangs up.
    fn is_dead(&self) -> io::Result<bool> {
        let flags = PollFlags::from_bits_retain(libc::POLLRDHUP);
        let answers = poll(&mut [PollFd::new(self.fd.as_fd(), flags)], PollTimeout::ZERO)?;
        Ok(self.listens && answers > 0)
    }
}

/// Clients whom the full queue keeps in connect(2) look the path up again, which leads elsewhere by now. accept(2) wakes
/// one of them alone, who will not take the place it made; listen(2) with more room than there was wakes all.
fn send_on(fd: &OwnedFd, backlog: u32) {
    if let Err(error) = sys::listen(fd, 0).and_then(|()| sys::listen(fd, backlog)) {
        log::debug!("cannot wake clients that wait in connect(2) to a unix socket: {error}");
    }
}

fn index(slot: SlotId) -> usize {
    usize::from(slot.0)
}

fn taken(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::AlreadyExists,
        format!(
            "somebody else has taken {} (a server that binds it itself: add --intercept-bind; else move away what is \
             there)",
            path.display()
        ),
    )
}

fn shared(error: &io::Error) -> NoSlots {
    NoSlots::Shared(format!("its file system does not let us switch: {error}"))
}

/// Moves the node just bound at `path` to its hidden name, where nobody but us can reach it.
fn adopt(path: &Path, name: &Path) -> io::Result<OwnPath> {
    let there = fs::symlink_metadata(path)?;
    let is_ours = there.file_type().is_socket() && there.nlink() == 1 && there.uid() == own::euid();
    if !is_ours {
        return Err(taken(path));
    }
    if let Err(error) = fs::rename(path, name) {
        remove_inode(path, Inode::of(&there), || true)?;
        return Err(error);
    }
    let own = OwnPath::of(name)?;
    if own.inode() != Inode::of(&there) {
        fs::hard_link(name, path)?;
        return Err(taken(path));
    }
    Ok(own)
}

#[cfg(test)]
mod tests;
