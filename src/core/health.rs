//! Ready=http: a generation is asked, again and again, until one answer suffices.

use super::generation::{Gate, Probing};
use super::note::ReadyBy;
use super::service::Step;
use super::{Action, GenerationId, limits};
use crate::config::Ready;

impl Step<'_> {
    /// The main process runs: from now on it may answer.
    pub(super) fn begin_probing(&mut self, id: GenerationId) {
        let now = self.now;
        let Some(generation) = self.service.get_mut(id) else { return };
        if generation.policy.ready == Ready::Http && generation.is_gate_closed() {
            let probe = Probing { due: now, is_asking: false, asked: now, last: None };
            generation.gate = Gate::Closed { probe: Some(probe) };
        }
    }

    pub(super) fn on_probe_due(&mut self, id: GenerationId) {
        let now = self.now;
        let Some(generation) = self.service.get_mut(id) else { return };
        let slot = generation.slot;
        let Some(probe) = generation.probe() else { return };
        if probe.is_asking {
            self.out.push(Action::EndProbe { generation: id });
            return self.on_probed(id, Err(format!("no answer within {}", limits::PROBE)));
        }
        (probe.is_asking, probe.asked, probe.due) = (true, now, now.after(limits::PROBE));
        self.out.push(Action::Probe { generation: id, slot });
    }

    pub(super) fn on_probed(&mut self, id: GenerationId, result: Result<(), String>) {
        let Some(generation) = self.service.get_mut(id) else { return };
        let Some(probe) = generation.probe().filter(|probe| probe.is_asking) else { return };
        match result {
            Ok(()) => self.pass_gate(id, ReadyBy::Http),
            Err(why) => {
                probe.is_asking = false;
                probe.due = probe.asked.after(limits::PROBE_GAP).max(self.now);
                probe.last = Some(why);
            }
        }
    }

    /// It is told to stop, or has ended: nobody asks it any more.
    pub(super) fn end_probing(&mut self, id: GenerationId) {
        self.end_asking(id);
        let Some(generation) = self.service.get_mut(id) else { return };
        if let Gate::Closed { probe } = &mut generation.gate
            && probe.take().is_some_and(|probe| probe.is_asking)
        {
            self.out.push(Action::EndProbe { generation: id });
        }
    }
}
