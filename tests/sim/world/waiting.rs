//! What a look at the processes shows: who accepts connections waits on the sockets, unless it is at work just then.

use std::collections::BTreeSet;

use socket_supervise::core::{Event, GenerationId, Looked, Sight};

use super::World;

/// The sockets that every generation has.
pub(crate) const SOCKETS: [&str; 2] = ["http", "https"];

impl World {
    pub(super) fn look(&mut self, generation: GenerationId, ask: bool) {
        let all: BTreeSet<String> = SOCKETS.map(str::to_owned).into();
        let group = self.groups.get(&generation);
        let accepts = group.is_some_and(|group| group.is_accepting());
        // A thread that works is not waiting.
        let is_at_work = !self.orderly && self.rng.u8(..4) == 0;
        let waited: BTreeSet<String> = match group {
            Some(group) if accepts && !is_at_work && !self.net.is_dark => {
                group.script.waits_on.iter().map(|name| (*name).to_owned()).collect()
            }
            Some(_) | None => BTreeSet::new(),
        };
        let sight = match (self.net.is_dark, ask) {
            (false, _) => Sight::Clear,
            (true, false) => Sight::Dim,
            (true, true) if !self.setting.steers => Sight::Blind,
            (true, true) if accepts && !is_at_work => Sight::Accepted,
            (true, true) => Sight::Asked,
        };
        let others = all.difference(&waited).cloned().collect();
        let looked = Looked { waited, others, sight, cost: self.cost() };
        self.answers.push_back(Event::Looked { generation, looked });
    }
}
