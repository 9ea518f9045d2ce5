//! What a look at the processes shows: who accepts connections waits on the sockets, unless it is at work just then.

use std::collections::BTreeSet;

use socket_supervise::core::{Event, Finding, GenerationId, Looked, MayConnect, Sight};

use super::{Group, Kernel, Rules};

/// The sockets that every generation has.
pub(crate) const SOCKETS: [&str; 2] = ["http", "https"];

impl<R: Rules> Kernel<R> {
    pub(super) fn look(&mut self, generation: GenerationId, ask: MayConnect) {
        let all: BTreeSet<String> = SOCKETS.map(str::to_owned).into();
        let group = self.groups.get(&generation);
        let accepts = group.is_some_and(Group::is_accepting);
        // A thread that works is not waiting.
        let is_at_work = !self.net.is_exact && self.rng.u8(..4) == 0;
        let waited: BTreeSet<String> = match group {
            Some(group) if accepts && !is_at_work && !self.net.is_dark => group
                .main()
                .map_or(&[][..], |main| main.script.waits_on)
                .iter()
                .map(|name| (*name).to_owned())
                .collect(),
            Some(_) | None => BTreeSet::new(),
        };
        // All clients in this world come to the first socket.
        let is_used = group.is_some_and(|group| {
            let traffic = group.traffic;
            traffic.in_flight + traffic.recent + traffic.idle > 0
        });
        let mut others: BTreeSet<String> = all.difference(&waited).cloned().collect();
        let accepted: BTreeSet<String> =
            if is_used { others.take(SOCKETS[0]) } else { None }.into_iter().collect();
        let sight = match ask {
            _ if others.is_empty() => Sight::Clear,
            MayConnect::No | MayConnect::WhereBlind if !self.net.is_dark => Sight::Clear,
            MayConnect::No => Sight::Dim,
            // Through a shared socket, whose fds they are says who has accepted it.
            MayConnect::WhereBlind | MayConnect::Anyway if !self.setting.steers && self.net.is_dark => {
                Sight::Blind
            }
            MayConnect::WhereBlind | MayConnect::Anyway if accepts && !is_at_work => Sight::Accepted,
            MayConnect::WhereBlind | MayConnect::Anyway => Sight::Asked,
        };
        let is_blind = self.net.is_dark;
        let looked = Looked { waited, accepted, others, sight, is_blind, cost: self.cost() };
        self.answers.push_back(Event::Answered { generation, finding: Finding::Looked(looked) });
    }
}
