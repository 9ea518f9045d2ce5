//! Ready=http: a generation is asked, again and again, until one answer suffices.

use serde::{Deserialize, Serialize};

use super::{Conclusion, Observed, Question, Watching};
use crate::config::Ready;
use crate::core::note::ReadyBy;
use crate::core::{GenerationId, Time, limits};

/// How far the GETs of Ready=http: are for one candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Probing {
    /// When it is asked next; while it is being asked, when that has taken too long.
    pub(super) due: Time,
    pub(super) is_asking: bool,
    asked: Time,
    /// What was wrong with the last answer.
    pub(super) last: Option<String>,
}

impl Observed {
    pub(super) fn begin_probing(&mut self, now: Time) {
        if self.ready == Ready::Http && self.passed_by.is_none() {
            self.probe = Some(Probing { due: now, is_asking: false, asked: now, last: None });
        }
    }
}

impl Probing {
    /// The question under way has come to nothing.
    pub(super) fn ask_again(&mut self, now: Time) {
        if std::mem::take(&mut self.is_asking) {
            self.due = self.asked.after(limits::PROBE_GAP).max(now);
        }
    }
}

impl Watching<'_> {
    pub(in crate::core) fn probe(&mut self, id: GenerationId) {
        let now = self.now;
        let Some(observed) = self.watch.get_mut(id) else { return };
        let slot = observed.slot;
        let Some(probe) = &mut observed.probe else { return };
        if probe.is_asking {
            probe.last = Some(format!("no answer within {}", limits::PROBE));
            probe.ask_again(now);
            return self.ask(Question::EndProbe { generation: id });
        }
        (probe.is_asking, probe.asked, probe.due) = (true, now, now.after(limits::PROBE));
        self.ask(Question::Probe { generation: id, slot });
    }

    pub(super) fn probed(&mut self, id: GenerationId, result: Result<(), String>) -> Option<Conclusion> {
        let probe = self.watch.get_mut(id)?.probe.as_mut().filter(|probe| probe.is_asking)?;
        if let Err(why) = result {
            probe.ask_again(self.now);
            probe.last = Some(why);
            return None;
        }
        self.open(id, ReadyBy::Http);
        Some(Conclusion::Ready(id))
    }
}
