//! The texts of the warnings and errors that the shell logs by itself: one sentence for each event, with its remedy
//! last. Everything else in the log is a note of the core (core/note.rs), or an error that carries its own words.

use std::fmt::Display;
use std::path::Path;

use crate::config::{Signal, Span};
use crate::core::GenerationId;

const FILES: &str = "raise the limit of open files: ulimit -n";
const WATCHES: &str = "raise fs.epoll.max_user_watches";
const INOTIFY: &str = "raise fs.inotify.max_user_instances and fs.inotify.max_user_watches";
const PROC: &str = "mount /proc";
const NEW_SOCKETS: &str = "\"supervise restart\" gives the server new sockets";
const BY_HAND: &str = "remove it by hand";
const SANDBOX: &str = "see whether a sandbox forbids it";
const LATER: &str = "stop and start supervise";
/// What to do where no directory takes the control socket.
pub const NOWHERE: &str = "pass --control PATH, or make one of these directories writable; a tmpfs is enough";

/// A warning: what supervise cannot do, or found done to it, and goes on without.
#[rustfmt::skip]
#[derive(Clone, Copy, Debug)]
pub enum Warn<'a> {
    AbstractNotifySocket, AcceptControl, AwaitBackground(i32), BackgroundEnded(i32), DetachFromManager, BindControlAgain, BindOneMore(&'a str), CloseInherited,
    ControlIsBack, EndCommand(&'a str), EndProbe(&'a str), FindAllLeft, FindLeft(GenerationId),
    Handover(&'a str), IgnoredFailure, JoinPort(&'a str), Keeper, KeeperEnds, Link(&'a str, &'a Path), Listen(&'a str),
    ListenOnControl, Lost(&'a str, u32), NoControl, NotifyManager, Options(&'a str), ReadLeft, ReadSignals, Recovered(u32), Reexec,
    RefusedByServer(&'a str), Relay, RemoveFile(&'a Path), RemovePidFile(&'a Path), RemoveRuntime,
    Repair(&'a str), RestPaths, SeeConnections, SendTo(Signal, GenerationId),
    SendToAll(Signal, GenerationId), SendToProcess(Signal, i32), ServeControl, StdinIsTerminal,
    Steer(&'a str), SteerPast(&'a str), StopOurselves, StoreFd, TakeMainPid(GenerationId, i32),
    TakeNotification(GenerationId), Undo(&'a str), WaitForBind, WaitForChildren, WatchControl,
    WatchMain(GenerationId), WatchNotify(GenerationId), WatchPaths, WatchSocket, WatchStored(&'a str),
}

impl Warn<'_> {
    /// What happened and to what, without its reason; and what to do, empty where the reason says it or nothing is to be done.
    #[rustfmt::skip]
    fn words(self) -> (String, &'static str) {
        match self {
            Self::AbstractNotifySocket => ("NOTIFY_SOCKET is an abstract name, which some servers (Ruby's, Rust's) take for a file name, because no directory can hold it".into(), "make one of them writable; a tmpfs is enough"),
            Self::AcceptControl => ("cannot accept control connections, so verbs have to wait".into(), FILES),
            Self::AwaitBackground(pid) => (format!("cannot wait for process {pid}, which is in the background"), "see what became of it by \"supervise list\""),
            Self::BackgroundEnded(pid) => (format!("process {pid} has ended in the background, and has not said why"), "try it without --detach"),
            Self::DetachFromManager => ("--detach below a service manager (NOTIFY_SOCKET)".into(), "leave out --detach"),
            Self::BindControlAgain => ("the control socket was removed, and supervise cannot bind it again".into(), "make its directory again"),
            Self::BindOneMore(address) => (format!("cannot bind one more socket of {address} for its server, so its other clients get no answer"), NEW_SOCKETS),
            Self::CloseInherited => ("relay: cannot close inherited fds".into(), ""),
            Self::ControlIsBack => ("the control socket was removed; supervise has bound it again".into(), ""),
            Self::EndCommand(key) => (format!("cannot end what {key}= left behind"), "end its processes by hand"),
            Self::EndProbe(address) => (format!("cannot end a probe of {address}, whose source port still leads to the new server"), NEW_SOCKETS),
            Self::FindAllLeft => ("cannot look for processes left behind".into(), PROC),
            Self::FindLeft(generation) => (format!("cannot look for processes that {generation} left behind"), PROC),
            Self::IgnoredFailure => ("a command failed, and supervise goes on (prefix -)".into(), ""),
            Self::JoinPort(address) => (format!("cannot keep other processes from joining the port of {address}"), ""),
            Self::Keeper => ("there is no keeper, so the end of supervise by SIGKILL closes the sockets".into(), FILES),
            Self::KeeperEnds => ("the keeper ends again and again, so there is none any more, and the end of supervise by SIGKILL closes the sockets".into(), "see what kills it"),
            Self::Link(place, link) => (format!("{place}: Symlinks=: cannot make {}", link.display()), "move away what is there"),
            Self::Listen(address) => (format!("cannot listen on {address} again, so its queue may be short"), NEW_SOCKETS),
            Self::ListenOnControl => ("cannot watch the control socket, so verbs do not reach this instance".into(), LATER),
            Self::Lost(address, queued) => (format!("{queued} connections to {address} are lost"), ""),
            Self::NoControl => ("no control socket, so verbs cannot reach this instance".into(), NOWHERE),
            Self::NotifyManager => ("cannot notify the service manager, which is told nothing more".into(), "see that its NOTIFY_SOCKET is still there"),
            Self::ReadLeft => ("cannot read what the supervise before this one has left".into(), ""),
            Self::Recovered(pid) => (format!("the supervise before this one was killed; process {pid} goes on with its servers and sockets"), "see what killed it: often it is the OOM killer"),
            Self::Reexec => ("no other program has taken the place of this one".into(), ""),
            Self::Options(place) => (format!("{place}: a held socket keeps the options it was bound with"), LATER),
            Self::Handover(place) => (format!("{place}: a held socket keeps its Handover="), LATER),
            Self::ReadSignals => ("cannot read signals".into(), SANDBOX),
            Self::RefusedByServer(address) => (format!("the server refused connections to {address} that supervise passed on"), ""),
            Self::Relay => ("relay failed".into(), "supervise starts relays itself; connections that wait stay in their queue"),
            Self::RemoveFile(path) => (format!("cannot remove {}", path.display()), BY_HAND),
            Self::RemovePidFile(path) => (format!("cannot remove PIDFile={}", path.display()), "see whose it is"),
            Self::RemoveRuntime => ("cannot remove RuntimeDirectory=".into(), BY_HAND),
            Self::Repair(address) => (format!("{address} was shut down, and supervise cannot repair it"), NEW_SOCKETS),
            Self::RestPaths => ("cannot stop watching unix sockets".into(), ""),
            Self::SeeConnections => ("cannot see connections, so an old generation gets all of Drain=".into(), "allow NETLINK_SOCK_DIAG in the sandbox"),
            Self::SendTo(signal, generation) => (format!("cannot send {signal} to {generation}"), "run supervise as root, or set the user by --user"),
            Self::SendToAll(signal, generation) => (format!("cannot send {signal} to all processes of {generation}"), PROC),
            Self::SendToProcess(signal, pid) => (format!("cannot send {signal} to process {pid}"), "see whose it is"),
            Self::ServeControl => ("cannot serve a control connection, which is closed".into(), "repeat the verb"),
            Self::Steer(address) => (format!("cannot steer {address}"), NEW_SOCKETS),
            Self::SteerPast(address) => (format!("cannot steer {address} past other processes, so some connections may wait where nobody accepts"), "end the process that the log names"),
            Self::StdinIsTerminal => ("--stdin inherit: our stdin is a terminal".into(), "use a pipe, a file, or --stdin null"),
            Self::StopOurselves => ("cannot stop supervise together with its server".into(), ""),
            Self::StoreFd => ("supervise did not store a fd".into(), "raise FileDescriptorStoreMax="),
            Self::TakeMainPid(generation, pid) => (format!("{generation}: supervise does not accept MAINPID={pid}"), ""),
            Self::TakeNotification(generation) => (format!("{generation}: supervise dropped a notification"), ""),
            Self::Undo(place) => (format!("{place}: cannot undo what a server set on its socket"), "leave the option to supervise: -p KEY=VALUE"),
            Self::WaitForBind => ("cannot wait for what the server binds, so its next bind(2) fails".into(), NEW_SOCKETS),
            Self::WaitForChildren => ("cannot wait for children".into(), SANDBOX),
            Self::WatchControl => ("cannot watch the file of the control socket, so it stays away if it is removed".into(), INOTIFY),
            Self::WatchMain(generation) => (format!("cannot watch the main process of {generation}, so its end is seen late"), WATCHES),
            Self::WatchNotify(generation) => (format!("cannot watch the notify socket of {generation}, so its READY=1 is not seen"), WATCHES),
            Self::WatchPaths => ("cannot watch unix sockets, so a removed path stays away".into(), INOTIFY),
            Self::WatchSocket => ("cannot watch a held socket, so what happens to it is seen late".into(), WATCHES),
            Self::WatchStored(name) => (format!("cannot watch the stored fd {name}, so it is kept when it hangs up"), WATCHES),
        }
    }

    /// Logs it as a warning, with its reason.
    pub fn because(self, reason: impl Display) {
        self.log(log::Level::Warn, reason);
    }

    /// Logs it with its reason at another level.
    pub fn log(self, level: log::Level, reason: impl Display) {
        let (what, remedy) = self.words();
        let [open, close] = if remedy.is_empty() { ["", ""] } else { [" (", ")"] };
        log::log!(level, "{what}: {reason}{open}{remedy}{close}");
    }
}

/// What supervise does without the core.
#[derive(Clone, Copy, Debug)]
pub enum Told<'a> {
    /// The address as it is shown, the name, and the fd in the server.
    Listening(&'a str, &'a str, Option<i32>),
    NoLongerListening(&'a str, &'a str),
    Instance(&'a str, &'a Path),
    /// The line that asks for it, its address, and our fd.
    Inherited(&'a str, &'a str, i32),
    SocketCommand(&'a str, &'a str, Span),
    /// The address that connections waited on, and the one that they are passed on to.
    PassesOn(&'a str, &'a str),
    SentToAllLeft(Signal),
    /// The child of --detach whose first server is not ready yet.
    AwaitsReady(i32),
    /// From which version to which, and our pid.
    Reexecuted(&'a str, u32),
}

impl Told<'_> {
    pub fn log(self) {
        match self {
            Self::Listening(address, name, Some(fd)) => {
                log::info!("listening on {address} as {name} (fd {fd})")
            }
            Self::Listening(address, name, None) => log::info!("listening on {address} as {name}"),
            Self::NoLongerListening(address, name) => log::info!("no longer listening on {address} ({name})"),
            Self::Instance(name, path) => log::info!("instance {name}, control socket {}", path.display()),
            Self::Inherited(place, address, fd) => {
                log::info!(
                    "{place}: {address} is inherited from the process that started supervise (fd {fd})"
                );
            }
            Self::SocketCommand(key, path, limit) => {
                log::info!("running {path} ({key}= of the socket) for at most {limit}");
            }
            Self::AwaitsReady(pid) => log::info!(
                "--detach waits until the first server is ready; supervise is process {pid} (Ctrl-C gives up)"
            ),
            Self::Reexecuted(versions, pid) => log::info!("{versions}, in process {pid}"),
            Self::PassesOn(old, new) => {
                log::info!("supervise passes connections that wait on {old} on to {new}")
            }
            Self::SentToAllLeft(signal) => log::info!("sent {signal} to the processes left behind"),
        }
    }
}
