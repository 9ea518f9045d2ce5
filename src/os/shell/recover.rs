//! Goes on after a supervise that was killed: from what it saved last, its keeper has executed this program with all its fds.
//! What happened meanwhile is found out: the kernel has kept processes, datagrams and connections.

use std::os::fd::{AsFd, AsRawFd};

use mio::Interest;
use mio::unix::SourceFd;
use nix::sys::prctl;

use super::keeping::Moment;
use super::saved::SavedSetting;
use super::{Reader, Shell, now};
use crate::config::{Instance, Signal};
use crate::core::{Event, Reply};
use crate::os::control::server::ControlServer;
use crate::os::keeper;
use crate::os::own;
use crate::os::sys;
use crate::os::sys::left::LeftFds;
use crate::os::tokens;
use crate::os::warning::Warn;

impl Shell {
    pub(super) fn recover(
        left: keeper::Left,
        instance: &Instance,
        reader: Option<Reader>,
    ) -> Result<Self, String> {
        let unreadable = |error: serde_json::Error| format!("cannot read the state: {error}");
        let Moment { state, orders } = serde_json::from_str(&left.state).map_err(unreadable)?;
        let setting: SavedSetting = serde_json::from_str(&left.setting).map_err(unreadable)?;
        let birth = left.board.birth();
        let mut numbers = left.fds;
        numbers.extend(birth.map(|birth| birth.pidfd));
        let mut fds = LeftFds::new(&numbers);
        let newborn = birth.and_then(|birth| Some((birth, fds.take(birth.pidfd).ok()?)));
        let mut shell = Self::from_saved((state, setting), fds, instance, reader)?;
        shell.signals.leave_terminal();
        // It was executed as /proc/self/exe.
        if let Err(errno) = prctl::set_name(c"supervise") {
            log::debug!("cannot set the name of our process: {}", errno.desc());
        }
        shell.children.become_foreign();
        shell.listeners.become_foreign();
        if let Some((birth, pidfd)) = newborn
            && !shell.children.take_birth(birth, &pidfd)
        {
            // Its generation was not begun; it is started anew.
            let killed = sys::pidfd_send_signal_to_group(pidfd.as_fd(), Some(Signal::KILL));
            log::debug!("process {} was being started, and is ended ({killed:?})", birth.pid);
        }
        shell.watch_foreign();
        if let Some(control) = &mut shell.control {
            control.listen_anew();
        }
        shell.listeners.arm();
        let unwatched = now().since(left.board.end());
        Warn::Recovered(own::pid()).because(format_args!("nobody watched for {unwatched}"));
        // As the one before would have done, which may have carried out the first of these.
        for order in orders.into_iter().skip(left.board.carried_out()) {
            shell.apply(order);
            shell.pass_notes();
        }
        shell.dispatch();
        shell.outbox.push(Event::Recovered);
        shell.dispatch();
        shell.answer_lost_clients();
        shell.begin_keeping();
        Ok(shell)
    }

    fn watch_foreign(&self) {
        for (generation, pidfd) in self.children.foreign_pidfds() {
            let fd = pidfd.as_raw_fd();
            let token = tokens::main(generation);
            let watched = self.poll.registry().register(&mut SourceFd(&fd), token, Interest::READABLE);
            if let Err(error) = watched {
                Warn::WatchMain(generation).because(error);
            }
        }
    }

    /// Reports the ends of processes that a supervise before us has started.
    pub(super) fn reap_foreign(&mut self) {
        while let Some(waited) = self.children.ended_foreign() {
            self.on_reaped(&waited);
        }
        for pid in self.listeners.ended_foreign_relays() {
            self.listeners.on_relay_gone(pid);
        }
    }

    /// A request that was read, and of which no saved state knows.
    fn answer_lost_clients(&mut self) {
        let mut waiting = self.control.as_ref().map(ControlServer::waiting).unwrap_or_default();
        waiting.retain(|client| !self.supervisor.waits(*client));
        for client in waiting {
            let text =
                "supervise was killed before it had read this; \"supervise status\" shows how things are";
            self.reply(client, Reply::failed(text));
        }
    }
}
