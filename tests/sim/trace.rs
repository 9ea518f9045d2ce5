//! The last lines of a history, one per step: what a failing seed prints.

use std::collections::VecDeque;
use std::fmt::Write as _;

use socket_supervise::core::report::State;
use socket_supervise::core::{Action, Event, Notify, Question, Reply, Steering};

/// How many steps a failure shows.
const LINES: usize = 60;

/// Off by default: formatting costs more than the steps themselves, and a seed that failed can be run again.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) on: bool,
    lines: VecDeque<String>,
    /// The step that is being made: the last thing known if the core panics in it.
    begun: Option<String>,
}

impl Trace {
    pub(crate) fn begin(&mut self, now: u64, event: &Event) {
        if self.on {
            self.begun = Some(format!("{:>12.3}ms  {} (in this step)", now as f64 / 1e6, event_text(event)));
        }
    }

    pub(crate) fn step(&mut self, now: u64, event: &Event, actions: &[Action], state: State) {
        if !self.on {
            return;
        }
        self.begun = None;
        let mut line = format!("{:>12.3}ms  {}", now as f64 / 1e6, event_text(event));
        for action in actions {
            let _ = write!(line, " | {}", action_text(action));
        }
        let _ = write!(line, "  => {state:?}");
        self.add(line);
    }

    /// Something of the fake kernel that explains a later step.
    pub(crate) fn aside(&mut self, now: u64, text: impl FnOnce() -> String) {
        if self.on {
            let line = format!("{:>12.3}ms    ({})", now as f64 / 1e6, text());
            self.add(line);
        }
    }

    pub(crate) fn text(&self) -> String {
        self.lines.iter().chain(&self.begun).fold(String::new(), |mut text, line| {
            text.push_str(line);
            text.push('\n');
            text
        })
    }

    fn add(&mut self, line: String) {
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

fn event_text(event: &Event) -> String {
    match event {
        Event::Started { generation, pid } => format!("Started g{} pid {pid}", generation.0),
        Event::StartFailed { generation, failure } => {
            format!("StartFailed g{} {:?} errno {}", generation.0, failure.stage, failure.errno)
        }
        Event::Exited { generation, exit } => format!("Exited g{} {exit:?}", generation.0),
        Event::Cleared { generation } => format!("Cleared g{}", generation.0),
        Event::Notified { generation, message } => {
            format!("Notified g{} {}", generation.0, notify_text(message))
        }
        Event::Signalled { signal, sender, terminal } => {
            format!("Signalled {} by {sender:?}, terminal {terminal:?}", signal.number())
        }
        Event::Requested { client, request } => format!("Requested c{} {request:?}", client.0),
        Event::ClientGone { client } => format!("ClientGone c{}", client.0),
        Event::Reread { result } => format!("Reread {}", if result.is_ok() { "ok" } else { "broken" }),
        Event::Begun
        | Event::Restored
        | Event::Recovered
        | Event::Connected
        | Event::Childless
        | Event::Tick
        | Event::CommandEnded { .. }
        | Event::MainChanged { .. }
        | Event::Arrived { .. }
        | Event::SteerFailed { .. }
        | Event::RescueFailed { .. }
        | Event::SocketLost { .. }
        | Event::Answered { .. }
        | Event::MainSought { .. } => format!("{event:?}"),
    }
}

fn notify_text(message: &Notify) -> String {
    let words = [
        (message.ready, "READY"),
        (message.watchdog, "WATCHDOG"),
        (message.stopping, "STOPPING"),
        (message.watchdog_trigger, "WATCHDOG=trigger"),
        (message.status.is_some(), "STATUS"),
    ];
    words.iter().filter(|(said, _)| *said).map(|(_, word)| *word).collect::<Vec<_>>().join(" ")
}

fn action_text(action: &Action) -> String {
    match action {
        Action::Spawn { generation, slot, .. } => format!("Spawn g{} on {}", generation.0, slot.0),
        Action::Steer(Steering { slot, canary: None }) => format!("Steer {}", slot.0),
        Action::Steer(Steering { slot, canary: Some((to, percent)) }) => {
            format!("Steer {}, {percent} % to {}", slot.0, to.0)
        }
        Action::Guard { slot, on } => format!("Guard {} {on}", slot.0),
        Action::Rescue { slot } => format!("Rescue {}", slot.0),
        Action::Ask(Question::Count { generation, .. }) => format!("Count g{}", generation.0),
        Action::Ask(Question::Probe { generation, .. }) => format!("Probe g{}", generation.0),
        Action::Ask(Question::Look { generation, ask, .. }) => format!("Look g{} {ask:?}", generation.0),
        Action::Ask(Question::EndProbe { generation }) => format!("EndProbe g{}", generation.0),
        Action::Kill { generation, signal, scope } => {
            format!("Kill g{} {} {scope:?}", generation.0, signal.number())
        }
        Action::Forget { generation } => format!("Forget g{}", generation.0),
        Action::Reply { client, reply } => format!("Reply c{} {}", client.0, reply_text(reply)),
        Action::Sweep { signal } => format!("Sweep {}", signal.number()),
        Action::WakeOnConnection { .. }
        | Action::Tell(_)
        | Action::Ask(Question::Hint { .. } | Question::Overflows)
        | Action::TellManager(_)
        | Action::Suspend
        | Action::Run { .. }
        | Action::FindMain { .. }
        | Action::AwaitClear { .. }
        | Action::Reread
        | Action::Adopt
        | Action::Discard
        | Action::Reexec { .. }
        | Action::Exit(_) => format!("{action:?}"),
    }
}

fn reply_text(reply: &Reply) -> String {
    let mut text = format!("exit {} {:?}", reply.exit, reply.text);
    if let Some(swap) = &reply.swap {
        let _ = write!(text, " {:?}->{:?} {:?}", swap.from, swap.to, swap.outcome);
    }
    text
}
