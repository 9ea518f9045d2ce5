//! Reads the configuration anew at each swap, and handles broken files, a new policy and a swap that was aborted
//! meanwhile.

use super::report::Reply;
use super::service::{Attempt, Phase, Rereading, Step};
use super::{Action, ClientId, Manager, Reread};

impl Step<'_> {
    /// The swap for these clients begins as soon as the files are read.
    pub(super) fn reread(&mut self, clients: Vec<ClientId>) {
        self.service.clients.rereading = Rereading::For(clients);
        // Whoever sent us SIGHUP as ReloadSignal= waits for this (systemd.service(5), Type=notify-reload).
        if self.service.manager_told {
            self.out.push(Action::TellManager(Manager::Reloading));
        }
        self.out.push(Action::Reread);
    }

    pub(super) fn on_reread(&mut self, result: Result<Box<Reread>, String>) {
        let clients = match std::mem::take(&mut self.service.clients.rereading) {
            Rereading::No => return,
            Rereading::Void => return self.forget_reread(result.ok()),
            Rereading::For(clients) => clients,
        };
        let reread = match result {
            Ok(reread) => reread,
            Err(why) => return self.reread_failed(clients, why),
        };
        self.service.staged = Some(*reread);
        match self.service.phase {
            Phase::Up { current } => self.begin_swap(current, clients),
            Phase::Listening { .. } | Phase::Waiting { .. } | Phase::Failed => {
                self.adopt();
                self.start_by_request(true, None, clients);
            }
            Phase::Swapping { .. } | Phase::Replacing { .. } | Phase::Paused | Phase::Stopping { .. } => {
                self.discard();
                for client in clients {
                    self.reply(
                        client,
                        Reply::failed(
                            "another request (restart, pause or stop) came before this swap began; ask again",
                        ),
                    );
                }
            }
        }
    }

    /// Stages what was read for a swap that was aborted meanwhile and whose clients have their answer.
    fn forget_reread(&mut self, reread: Option<Box<Reread>>) {
        self.service.staged = reread.map(|reread| *reread);
        self.discard();
        if self.service.manager_told && !matches!(self.service.phase, Phase::Stopping { .. }) {
            self.out.push(Action::TellManager(Manager::Ready));
        }
    }

    /// Keeps everything as it is, and answers the clients with the reason.
    fn reread_failed(&mut self, clients: Vec<ClientId>, why: String) {
        let from = self.service.current();
        self.service.attempt = Some(Attempt { generation: None, from, is_swap: true, clients });
        self.refuse_swap(why);
    }

    /// Takes over the configuration that was read last.
    pub(super) fn adopt(&mut self) {
        if let Some(staged) = self.service.staged.take() {
            self.service.policy = staged.policy;
            self.service.setting.holds_sockets = staged.holds_sockets;
            self.service.setting.steers = staged.steers;
            self.out.push(Action::Adopt);
        }
    }

    pub(super) fn discard(&mut self) {
        if self.service.staged.take().is_some() {
            self.out.push(Action::Discard);
        }
    }
}
