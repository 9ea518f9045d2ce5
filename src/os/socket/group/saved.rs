//! A group as it goes over to the program that takes our place.

use std::rc::Rc;

use super::{Group, Slot};
use crate::config::Listener;
use crate::os::saved::KeptFds;
use crate::os::socket::plan::InetPlan;
use crate::os::socket::saved::{SavedGroup, SavedSlot};
use crate::os::sys::left::LeftFds;

impl Group {
    pub(super) fn saved(&self, fds: &mut KeptFds) -> SavedGroup {
        let mut slot = |slot: &Slot| SavedSlot {
            fd: fds.keep(&slot.fd),
            is_fresh: slot.is_fresh,
            is_shut: slot.is_shut,
            is_out: slot.is_out,
        };
        let InetPlan { v6_only, address, is_beside, .. } = self.plan;
        SavedGroup {
            v6_only,
            address,
            is_beside,
            slots: self.slots.iter().map(|one| one.as_ref().map(&mut slot)).collect(),
            order: self.order.clone(),
            steering: self.steering,
            is_labelled: self.is_labelled,
            renews: self.renews,
        }
    }

    /// # Errors
    /// A sentence: an fd is missing.
    pub(in crate::os::socket) fn from_saved(
        saved: SavedGroup,
        listener: &Rc<Listener>,
        fds: &mut LeftFds,
    ) -> Result<Self, String> {
        let mut slots = Vec::new();
        for slot in saved.slots {
            let restored = |slot: SavedSlot| {
                let SavedSlot { fd, is_fresh, is_shut, is_out } = slot;
                Ok::<_, String>(Slot { fd: Rc::new(fds.take(fd)?), is_fresh, is_shut, is_out })
            };
            slots.push(slot.map(restored).transpose()?);
        }
        if !slots.first().is_some_and(Option::is_some) {
            return Err(format!("{} has no first socket", saved.address));
        }
        let SavedGroup { v6_only, address, is_beside, .. } = saved;
        Ok(Self {
            plan: InetPlan { listener: Rc::clone(listener), v6_only, address, is_beside },
            slots,
            order: saved.order,
            steering: saved.steering,
            // A question that was asked is asked again.
            probe: None,
            is_labelled: saved.is_labelled,
            renews: saved.renews,
        })
    }
}
