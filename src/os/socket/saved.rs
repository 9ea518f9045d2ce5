//! Held sockets as they go over to the program that takes our place. Their paths and fds are theirs alone: dropping what is
//! here closes and removes nothing.

use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::node::{Attributes, SavedPath};
use super::order::Order;
use super::{HeldSocket, NamedSocket};
use crate::config::{Kind, Listener};
use crate::core::{SlotId, Steering};
use crate::os::saved::{self, Shared, at};

#[derive(Debug, Serialize, Deserialize)]
pub struct SavedSocket {
    pub(super) own_path: Option<SavedPath>,
    pub(super) slots: SavedSlots,
    pub(super) kind: Kind,
    pub(super) address: String,
    pub(super) port: Option<u16>,
    pub(super) backlog: Option<u32>,
    pub(super) asked: Listener,
    pub(super) inherited: Option<RawFd>,
    pub(super) is_beside: bool,
    pub(super) has_ipv4_beside: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum SavedSlots {
    One { fd: RawFd, why_shared: String },
    Group(SavedGroup),
    Nodes(SavedNodes),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedGroup {
    pub(super) v6_only: Option<bool>,
    pub(super) address: SocketAddr,
    pub(super) is_beside: bool,
    pub(super) slots: Vec<Option<SavedSlot>>,
    pub(super) order: Order,
    pub(super) steering: Steering,
    pub(super) is_labelled: bool,
    pub(super) renews: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedSlot {
    pub(super) fd: RawFd,
    pub(super) is_fresh: bool,
    pub(super) is_shut: bool,
    pub(super) is_out: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedNodes {
    pub(super) public: SavedPath,
    pub(super) nodes: Vec<SavedNode>,
    pub(super) hidden: SavedHidden,
    pub(super) target: SlotId,
    pub(super) is_taken: bool,
    pub(super) attributes: Attributes,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedNode {
    pub(super) own: SavedPath,
    pub(super) fd: RawFd,
    pub(super) listens: bool,
}

/// The directory as it goes over to the program that takes our place; its lock belongs to the fd.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedHidden {
    #[serde(with = "saved::path")]
    pub(super) path: PathBuf,
    pub(super) directory: RawFd,
}

/// Held sockets by their names, and their places in a list of all.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedNames(Vec<(String, usize)>);

impl SavedNames {
    pub fn of(sockets: &[NamedSocket], all: &mut Shared<HeldSocket>) -> Self {
        Self(sockets.iter().map(|one| (one.name.clone(), all.place(&one.socket))).collect())
    }

    /// # Errors
    /// A sentence: it names a socket that is not in the list.
    pub fn sockets(self, all: &[Rc<HeldSocket>]) -> Result<Vec<NamedSocket>, String> {
        let named = |(name, place)| Ok(NamedSocket { name, socket: at(all, place)? });
        self.0.into_iter().map(named).collect()
    }
}
