//! Nodes as they go over to the program that takes our place.

use std::rc::Rc;

use super::hidden::Hidden;
use super::{Nodes, SlotNode};
use crate::config::Listener;
use crate::core::limits::GENERATIONS;
use crate::os::saved::KeptFds;
use crate::os::socket::node::OwnPath;
use crate::os::socket::saved::{SavedNode, SavedNodes};
use crate::os::sys::left::LeftFds;

impl Nodes {
    pub(super) fn saved(&self, fds: &mut KeptFds) -> SavedNodes {
        let node = |node: &SlotNode| SavedNode {
            own: node.own.save(),
            fd: fds.keep(&node.fd),
            listens: node.listens,
        };
        SavedNodes {
            public: self.public.save(),
            nodes: self.nodes.iter().map(node).collect(),
            hidden: self.hidden.save(fds),
            target: self.target,
            is_taken: self.is_taken,
            attributes: self.attributes,
        }
    }

    /// # Errors
    /// A sentence: an fd or a slot is missing.
    pub(in crate::os::socket) fn from_saved(
        saved: SavedNodes,
        listener: &Rc<Listener>,
        fds: &mut LeftFds,
    ) -> Result<Self, String> {
        let mut nodes = Vec::new();
        for SavedNode { own, fd, listens } in saved.nodes {
            nodes.push(SlotNode { own: OwnPath::from_saved(own), fd: Rc::new(fds.take(fd)?), listens });
        }
        if nodes.len() != GENERATIONS || usize::from(saved.target.0) >= GENERATIONS {
            return Err(format!("a unix socket has {} slots, not {GENERATIONS}", nodes.len()));
        }
        Ok(Self {
            public: OwnPath::from_saved(saved.public),
            nodes,
            hidden: Hidden::from_saved(saved.hidden, fds)?,
            target: saved.target,
            is_taken: saved.is_taken,
            asked: Rc::clone(listener),
            attributes: saved.attributes,
        })
    }
}
