//! Repeats the standing orders of a core that was restored from its saved state: a new shell (src/os) knows the
//! processes and sockets, but not what was ordered.

use super::Action;
use super::service::{Phase, Step};

impl Step<'_> {
    /// Orders what the shell has to keep to, and has the server asked once more what it may not have answered. What a
    /// shell can answer by itself it has answered before it saved; what becomes of processes it knows by itself.
    pub(super) fn on_restored(&mut self) {
        let service = &*self.service;
        if service.steers() {
            self.out.push(Action::Steer(service.steering));
            self.out.extend(service.guarded.iter().map(|slot| Action::Guard { slot: *slot, on: true }));
        }
        if matches!(service.phase, Phase::Listening { hold_until: None }) {
            self.out.push(Action::WakeOnConnection { on: true });
        }
        self.watch().restored();
    }
}
