//! A model of the order in which the kernel has the members of an SO_REUSEPORT group, since nothing tells that order.
//!
//! Who joins comes last; when one leaves, the last takes its index (reuseport_add_sock and reuseport_detach_sock of
//! net/core/sock_reuseport.c).

use serde::{Deserialize, Serialize};

use crate::core::SlotId;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Member {
    Slot(SlotId),
    /// A socket of another process, by its inode number.
    Stranger(u64),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Order(Vec<Member>);

impl Order {
    pub(super) fn index_of(&self, slot: SlotId) -> Option<u32> {
        self.find(Member::Slot(slot)).map(|index| index as u32)
    }

    /// The slots among the members, in their order.
    pub(super) fn slots(&self) -> impl Iterator<Item = SlotId> {
        self.0.iter().filter_map(|member| match member {
            Member::Slot(slot) => Some(*slot),
            Member::Stranger(_) => None,
        })
    }

    /// Whether the group has no other members.
    pub(super) fn is_only(&self, slots: [SlotId; 2]) -> bool {
        self.0.len() == slots.len() && slots.iter().all(|slot| self.index_of(*slot).is_some())
    }

    /// When a stranger leaves, one of ours takes its place.
    pub(super) fn may_move(&self) -> bool {
        let first = self.0.iter().position(|member| matches!(member, Member::Stranger(_)));
        let last = self.0.iter().rposition(|member| matches!(member, Member::Slot(_)));
        first.zip(last).is_some_and(|(stranger, slot)| stranger < slot)
    }

    /// Notes that two members have changed places.
    pub(super) fn exchange(&mut self, one: SlotId, other: SlotId) {
        if let (Some(one), Some(other)) = (self.find(Member::Slot(one)), self.find(Member::Slot(other))) {
            self.0.swap(one, other);
        }
    }

    pub(super) fn join(&mut self, slot: SlotId) {
        self.add(Member::Slot(slot));
    }

    /// A member is that of another slot now, which was none.
    pub(super) fn rename(&mut self, from: SlotId, to: SlotId) {
        if let Some(index) = self.find(Member::Slot(from)) {
            self.0[index] = Member::Slot(to);
        }
    }

    pub(super) fn leave(&mut self, slot: SlotId) {
        self.remove(Member::Slot(slot));
    }

    /// Who is there besides us, in the order they came. Where some left and some came since the last time, those that
    /// left are taken to have gone first.
    pub(super) fn set_strangers(&mut self, inodes: &[u64]) {
        let known = self.0.iter().filter(|member| matches!(member, Member::Stranger(_)));
        let gone = known.filter(|member| !inodes.iter().any(|inode| **member == Member::Stranger(*inode)));
        for member in gone.copied().collect::<Vec<_>>() {
            self.remove(member);
        }
        for inode in inodes {
            self.add(Member::Stranger(*inode));
        }
    }

    fn find(&self, wanted: Member) -> Option<usize> {
        self.0.iter().position(|member| *member == wanted)
    }

    fn add(&mut self, member: Member) {
        if self.find(member).is_none() {
            self.0.push(member);
        }
    }

    fn remove(&mut self, member: Member) {
        if let Some(index) = self.find(member) {
            self.0.swap_remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: [SlotId; 3] = [SlotId(0), SlotId(1), SlotId(2)];

    fn indices(order: &Order) -> [Option<u32>; 3] {
        SLOTS.map(|slot| order.index_of(slot))
    }

    #[test]
    fn the_last_takes_the_place_of_who_leaves() {
        let mut order = Order::default();
        SLOTS.into_iter().for_each(|slot| order.join(slot));
        order.leave(SLOTS[0]);
        assert_eq!(indices(&order), [None, Some(1), Some(0)]);
        order.join(SLOTS[0]);
        order.join(SLOTS[0]);
        assert_eq!(indices(&order), [Some(2), Some(1), Some(0)]);
        assert_eq!(order.slots().collect::<Vec<_>>(), [SLOTS[2], SLOTS[1], SLOTS[0]]);
    }

    #[test]
    fn strangers_have_places_too() {
        let mut order = Order::default();
        order.join(SLOTS[0]);
        order.set_strangers(&[7, 8]);
        order.join(SLOTS[1]);
        assert_eq!(indices(&order), [Some(0), Some(3), None]);
        assert!(order.may_move());
        order.set_strangers(&[8, 9]);
        assert_eq!(indices(&order), [Some(0), Some(1), None]);
        assert!(!order.may_move(), "they came after ours");
        order.set_strangers(&[]);
        assert_eq!(order.slots().count(), 2);
        assert!(!order.may_move());
    }
}
