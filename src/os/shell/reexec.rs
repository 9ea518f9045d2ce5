//! The verb reexec: another program takes our place in this process. It is tried first, by a process that reads the state
//! and does nothing else; what cannot go on from it is refused, and nothing has changed.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal as NixSignal, kill};
use nix::unistd::{Pid, execve};

use super::saved::Saved;
use super::{Reader, Shell, status_of};
use crate::config::Instance;
use crate::core::{ClientId, Event, Exit, Reply};
use crate::os::begin::take_variable;
use crate::os::keeper;
use crate::os::own;
use crate::os::sys;
use crate::os::sys::left::LeftFds;
use crate::os::warning::{Told, Warn};

/// The first argument of a program that is tried; the command line of ours follows. `--help` does not show it.
pub const TRY: &str = "_try";

/// The variable by which a program finds the state: our pid, a colon, the number of its fd.
const VARIABLE: &str = "SUPERVISE_STATE";

/// A program that cannot say so soon whether it can read the state is refused.
const PATIENCE: Duration = Duration::from_secs(5);

/// The most that is read of what it says.
const ANSWER: u64 = 4096;

/// A program that is being tried.
#[derive(Debug)]
pub(super) struct Tryout {
    client: ClientId,
    program: PathBuf,
    pid: i32,
    answer: PipeReader,
    due: Instant,
    is_late: bool,
}

impl Shell {
    pub(super) fn begin_reexec(&mut self, client: ClientId) {
        if self.trial.is_some() {
            return self.reply(client, Reply::failed("another reexec is under way (wait for its end)"));
        }
        if self.background.is_some() {
            let why =
                "whoever started it with --detach still waits for its server (try again when it is ready)";
            return self.reply(client, Reply::failed(why));
        }
        let program = own::program();
        match program.and_then(|program| self.try_out(client, program)) {
            Ok(trial) => {
                self.children.is_of_nobody(trial.pid);
                self.trial = Some(trial);
            }
            Err(why) => self.refuse_reexec(client, &why),
        }
    }

    fn try_out(&self, client: ClientId, program: PathBuf) -> Result<Tryout, String> {
        let saved = self.save(Some(client));
        self.go_on();
        let state = state_file(&saved).map_err(|error| format!("cannot save the state: {error}"))?;
        let cannot = |error| format!("{} cannot be executed: {error}", program.display());
        let (answer, writer) = io::pipe().map_err(cannot)?;
        let child = Command::new(&program)
            .arg0("supervise")
            .arg(TRY)
            .args(std::env::args_os().skip(1))
            .process_group(0)
            .stdin(state)
            .stdout(writer.try_clone().map_err(cannot)?)
            .stderr(Stdio::from(OwnedFd::from(writer)))
            .spawn()
            .map_err(cannot)?;
        let pid = i32::try_from(child.id()).map_err(|error| error.to_string())?;
        Ok(Tryout { client, program, pid, answer, due: Instant::now() + PATIENCE, is_late: false })
    }

    /// How long the loop may sleep before a trial has taken too long.
    pub(super) fn trial_patience(&self) -> Option<Duration> {
        let trial = self.trial.as_ref().filter(|trial| !trial.is_late)?;
        Some(trial.due.saturating_duration_since(Instant::now()))
    }

    pub(super) fn end_late_trial(&mut self) {
        if let Some(trial) = self.trial.as_mut().filter(|trial| !trial.is_late && Instant::now() >= trial.due)
        {
            trial.is_late = true;
            // It is not reaped yet, so no other process has its pid.
            if let Err(errno) = kill(Pid::from_raw(trial.pid), NixSignal::SIGKILL) {
                log::debug!("cannot send SIGKILL to process {}: {errno}", trial.pid);
            }
        }
    }

    /// Whether this process was a program that is tried.
    pub(super) fn on_tried(&mut self, pid: i32, exit: Exit) -> bool {
        let Some(trial) = self.trial.take_if(|trial| trial.pid == pid) else { return false };
        let client = trial.client;
        match trial.verdict(exit) {
            Ok(program) => self.state.successor = Some((client, program)),
            Err(why) => self.refuse_reexec(client, &why),
        }
        true
    }

    fn refuse_reexec(&mut self, client: ClientId, why: &str) {
        let text = format!("{why}; supervise {} goes on as before", env!("CARGO_PKG_VERSION"));
        Warn::Reexec.because(&text);
        self.reply(client, Reply::failed(format!("not replaced: {text}")));
    }

    /// The program was tried, and takes our place now. Returns where it cannot.
    pub(super) fn execute(&mut self, client: ClientId, program: &Path) {
        let saved = self.save(Some(client));
        let Err(error) = execute(program, &saved);
        for number in &saved.fds {
            if let Err(error) = sys::close_on_exec(*number) {
                log::debug!("cannot set close-on-exec on fd {number}: {error}");
            }
        }
        self.go_on();
        self.refuse_reexec(client, &format!("{} cannot be executed: {error}", program.display()));
    }

    /// Goes on from the text that the program before us in this process has saved.
    fn take_place(text: &str, instance: &Instance, reader: Option<Reader>) -> Result<Self, String> {
        let saved = Saved::read(text)?;
        let (version, client, keeper) = (saved.version().to_owned(), saved.client, saved.keeper);
        let fds = LeftFds::new(&saved.fds);
        let mut shell = Self::from_saved((saved.state, saved.setting), fds, instance, reader)?;
        shell.listeners.arm();
        shell.outbox.push(Event::Restored);
        shell.dispatch();
        if let Some(keeper) = keeper {
            keeper::end_another(keeper);
        }
        shell.begin_keeping();
        shell.tell_from_where(&version, client);
        Ok(shell)
    }

    /// Says that we have taken the place of another program.
    pub(super) fn tell_from_where(&mut self, version: &str, client: Option<ClientId>) {
        let versions = format!("supervise {} took over from {version}", env!("CARGO_PKG_VERSION"));
        Told::Reexecuted(&versions, own::pid()).log();
        if let Some(client) = client {
            self.reply(client, Reply::done(format!("replaced: {versions}")));
        }
    }
}

impl Tryout {
    /// The program, if it can read the state.
    fn verdict(mut self, exit: Exit) -> Result<PathBuf, String> {
        let mut bytes = Vec::new();
        // Something that it has left behind may keep the pipe open.
        if let Err(error) = sys::set_non_blocking(&self.answer, true) {
            return Err(format!("cannot read what {} says: {error}", self.program.display()));
        }
        match self.answer.by_ref().take(ANSWER).read_to_end(&mut bytes) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                return Err(format!("cannot read what {} says: {error}", self.program.display()));
            }
            Ok(_) | Err(_) => {}
        }
        let answer = String::from_utf8_lossy(&bytes);
        let program = self.program.display();
        if self.is_late {
            return Err(format!("{program} did not read the state within {} s", PATIENCE.as_secs()));
        }
        match exit {
            Exit::Code(0) if answer.starts_with("supervise ") => Ok(self.program),
            Exit::Code(0) => Err(format!("{program} is no supervise that can take over")),
            _ => {
                let last = answer.lines().last().unwrap_or("it says nothing");
                let last = last.strip_prefix("supervise: ").unwrap_or(last);
                Err(format!("{program} cannot take over: {last}"))
            }
        }
    }
}

/// What another program has left for this one.
#[derive(Debug)]
pub enum LeftState {
    /// The one that was in this process before: text.
    Handed(String),
    /// One that was killed.
    Kept(Box<keeper::Left>),
}

/// Goes on where another program was; returns the exit status.
pub fn resume(left: LeftState, instance: &Instance, reader: Option<Reader>) -> u8 {
    status_of(go_on(left, instance, reader))
}

/// Not inlined: what it has on the stack is not needed as long as supervise runs.
#[inline(never)]
fn go_on(left: LeftState, instance: &Instance, reader: Option<Reader>) -> Result<Box<Shell>, String> {
    let shell = match left {
        LeftState::Handed(text) => Shell::take_place(&text, instance, reader)?,
        LeftState::Kept(left) => Shell::recover(*left, instance, reader)?,
    };
    Ok(Box::new(shell))
}

/// Whether [`resume`] could go on from `text`.
///
/// # Errors
/// A sentence: it could not.
pub fn try_saved(text: &str) -> Result<(), String> {
    Saved::read(text).map(drop)
}

/// The state that the program before this one has left, where there was one in this process. To be called before an fd is
/// opened.
pub fn left_state() -> Option<LeftState> {
    match keeper::left() {
        Ok(None) => handed().map(LeftState::Handed),
        Ok(Some(left)) => Some(LeftState::Kept(Box::new(left))),
        Err(error) => {
            Warn::ReadLeft.log(log::Level::Error, error);
            None
        }
    }
}

fn handed() -> Option<String> {
    let value = take_variable(VARIABLE)?.into_string().ok()?;
    let (pid, number) = value.split_once(':')?;
    let number = number.parse().ok().filter(|_| pid.parse() == Ok(own::pid()))?;
    let mut text = String::new();
    File::from(LeftFds::new(&[number]).take(number).ok()?).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The state in a file in memory, to be read from its beginning.
fn state_file(saved: &Saved) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"supervise-state", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(&serde_json::to_vec(saved)?)?;
    io::Seek::rewind(&mut file)?;
    Ok(file)
}

fn execute(program: &Path, saved: &Saved) -> io::Result<std::convert::Infallible> {
    let state = state_file(saved)?;
    let text = |text: OsString| CString::new(text.into_vec()).map_err(io::Error::from);
    let arguments = std::env::args_os().map(text).collect::<io::Result<Vec<_>>>()?;
    let variable = format!("{VARIABLE}={}:{}", own::pid(), state.as_raw_fd());
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let mut pair = name;
        pair.push("=");
        pair.push(value);
        variables.push(text(pair)?);
    }
    variables.push(text(variable.into())?);
    for number in saved.fds.iter().copied().chain([state.as_raw_fd()]) {
        sys::set_close_on_exec(number, false)?;
    }
    let program = text(program.as_os_str().to_owned())?;
    Ok(execve(&program, &arguments, &variables)?)
}
