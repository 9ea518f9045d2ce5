//! The owner of the held sockets.

use std::collections::HashSet;
use std::rc::Rc;

use crate::os::socket::{HeldSocket, Inherited, NamedSocket};

#[derive(Debug)]
pub struct Listeners {
    /// What our own manager gave us; a file read anew may ask for it.
    pub inherited: Inherited,
    pub current: Vec<NamedSocket>,
    /// Those of the swap that is under way, where the files were read anew for it.
    pub staged: Option<Vec<NamedSocket>>,
}

impl Listeners {
    /// What the next generation gets.
    pub fn next(&self) -> &[NamedSocket] {
        self.staged.as_ref().unwrap_or(&self.current)
    }

    /// Every name there is: those that the swap under way has bound as well.
    pub fn named(&self) -> impl Iterator<Item = &NamedSocket> {
        self.current.iter().chain(self.staged.iter().flatten())
    }

    /// Every socket we hold, once.
    pub fn held(&self) -> Vec<Rc<HeldSocket>> {
        let mut known = HashSet::new();
        let sockets = self.named().map(|named| &named.socket);
        sockets.filter(|socket| known.insert(Rc::as_ptr(socket))).cloned().collect()
    }
}
