//! The consoles of a child beside its own streams: made before it is started, looked for while it
//! runs, drained when it has ended.
//!
//! Each is a [`Port`], with a log, a relay and an input of its own. Nothing here waits: what is not
//! there yet is looked for again by a timer, which there is none of while a console is open.

mod ours;
mod port;
mod way;

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Instant;

use super::StartError;
use super::console::{Console, ConsoleError, check_name};
use super::keys::{ConsoleId, Cx, Source, Stream};
use super::logging::open_log;
use super::name::Name;
use super::report::ConsoleReport;
use super::rotating::Rotating;
use super::sandbox::{OnLogError, Sandbox};
use super::sessions::Sessions;
use super::streams::DEFAULT_SIZE;
use crate::child::Command;
use crate::logfile::{LogFile, Mark};
use crate::relay::Log;
use crate::terminal::Terminal;
use ours::Ours;
use port::Port;
use way::Way;

/// All consoles of one sandbox.
#[derive(Debug, Default)]
pub(super) struct Consoles {
    /// While there is a run.
    ports: Vec<Port>,
    /// Descriptors of the host's, until there is one.
    given: Vec<(Name, OwnedFd)>,
    /// What became of those of the last run.
    last: Vec<ConsoleReport>,
}

impl Consoles {
    /// Takes a descriptor of the host's, for a child that is not there yet.
    pub(super) fn give(&mut self, name: Name, descriptor: OwnedFd) {
        self.given.push((name, descriptor));
    }

    /// Whether there can be such consoles, as far as that is known before anything is made.
    pub(super) fn check(&self, sandbox: &Sandbox) -> Result<(), StartError> {
        sandbox.consoles().try_for_each(Console::check)?;
        let names: Vec<&Name> = sandbox
            .consoles()
            .map(|console| console.name())
            .chain(self.given.iter().map(|(name, _)| name))
            .collect();
        for (at, name) in names.iter().enumerate() {
            check_name(name)?;
            if names.get(..at).unwrap_or_default().contains(name) {
                return Err(ConsoleError::Duplicate(name.to_string()).into());
            }
            check_log(sandbox, name)?;
        }
        match &sandbox.interactive {
            Some(name) if !names.contains(&name) => {
                Err(ConsoleError::NoSuchConsole(name.to_string()).into())
            }
            _ => Ok(()),
        }
    }

    /// Makes what has to be there before the child is started. What was made is gone again when
    /// this fails. `terminal` is ours, for the console that our terminal is to talk to.
    pub(super) fn prepare(
        &mut self,
        sandbox: &Sandbox,
        terminal: Option<Terminal>,
        mut rotating: Option<&mut Rotating>,
    ) -> Result<(), StartError> {
        let count = sandbox.consoles.len() + self.given.len();
        let size = terminal.as_ref().and_then(Terminal::window_size).unwrap_or(DEFAULT_SIZE);
        let mut terminal = terminal;
        let mut ports = Vec::with_capacity(count);
        let prepare = |console| Way::prepare(console, &size);
        // All of them before the first log: of a start that fails nothing is to be left.
        let ways: Vec<Way> = sandbox.consoles().map(prepare).collect::<Result<_, _>>()?;
        for (console, way) in sandbox.consoles().zip(ways) {
            let rotating = rotating.as_deref_mut();
            add(&mut ports, console.name(), way, sandbox, &mut terminal, rotating)?;
        }
        for (name, descriptor) in self.given.drain(..) {
            let way = Way::Given(Some(descriptor));
            add(&mut ports, &name, way, sandbox, &mut terminal, rotating.as_deref_mut())?;
        }
        self.ports = ports;
        self.last = Vec::new();
        Ok(())
    }

    /// The command with the paths of the PTYs that we have made in the places of their names.
    pub(super) fn fill_in(&self, command: Command) -> Command {
        let made = |port: &Port| {
            let path = port.way().made()?;
            Some((format!("{{{}}}", port.name()), path.as_os_str().to_owned()))
        };
        let paths: Vec<(String, OsString)> = self.ports.iter().filter_map(made).collect();
        if paths.is_empty() {
            return command;
        }
        command.map_arguments(|argument| {
            paths.iter().fold(argument, |argument, (name, path)| replace(&argument, name, path))
        })
    }

    /// The child runs: looks for all of them.
    pub(super) fn start(&mut self, child: u32, cx: &mut Cx<'_>) {
        for port in &mut self.ports {
            port.start(child, cx);
        }
    }

    /// The console of this name.
    pub(super) fn find(&self, name: &Name) -> Option<ConsoleId> {
        let index = self.ports.iter().position(|port| port.name() == name)?;
        u16::try_from(index).ok().map(ConsoleId)
    }

    pub(super) fn get(&mut self, id: ConsoleId) -> Option<&mut Port> {
        self.ports.get_mut(usize::from(id.0))
    }

    /// The one that our terminal talks to.
    pub(super) fn interactive(&mut self) -> Option<&mut Port> {
        self.ports.iter_mut().find(|port| port.has_ours())
    }

    /// Gives our terminal back to whoever had it.
    pub(super) fn leave_terminal(&mut self) {
        if let Some(ours) = self.interactive().and_then(Port::ours) {
            ours.leave();
        }
    }

    /// Makes it the console's again.
    pub(super) fn enter_terminal(&mut self) {
        if let Some(port) = self.interactive() {
            port.enter_terminal();
        }
    }

    /// Takes a descriptor of the host's.
    pub(super) fn add(
        &mut self,
        name: Name,
        descriptor: OwnedFd,
        sandbox: &Sandbox,
        child: Option<u32>,
        mut rotating: Option<&mut Rotating>,
        cx: &mut Cx<'_>,
    ) -> Result<(), StartError> {
        check_name(&name)?;
        let known = sandbox.consoles().any(|console| *console.name() == name)
            || self.given.iter().any(|(given, _)| *given == name)
            || self.find(&name).is_some();
        if known {
            return Err(ConsoleError::Duplicate(name.to_string()).into());
        }
        check_log(sandbox, &name)?;
        self.given.push((name, descriptor));
        let Some(child) = child else { return Ok(()) };
        for (name, descriptor) in self.given.drain(..) {
            let way = Way::Given(Some(descriptor));
            add(&mut self.ports, &name, way, sandbox, &mut None, rotating.as_deref_mut())?;
            if let Some(port) = self.ports.last_mut() {
                port.start(child, cx);
            }
        }
        Ok(())
    }

    /// The child has ended.
    pub(super) fn begin_drain(&mut self, sessions: &mut Sessions, cx: &mut Cx<'_>) {
        self.ports.iter_mut().for_each(|port| port.begin_drain(sessions, cx));
    }

    /// Reads what is there on every one; says whether anything came.
    pub(super) fn read_again(&mut self, sessions: &mut Sessions, cx: &mut Cx<'_>) -> bool {
        self.ports.iter_mut().filter_map(|port| port.read(sessions, cx).then_some(())).count() > 0
    }

    /// Whether nothing comes any more.
    pub(super) fn are_quiet(&self) -> bool {
        self.ports.iter().all(Port::is_quiet)
    }

    /// Whether all has been read, logged and forwarded.
    pub(super) fn are_finished(&self) -> bool {
        self.ports.iter().all(Port::is_finished)
    }

    /// Whether there is nothing to be read.
    pub(super) fn have_ended(&self) -> bool {
        self.ports.iter().all(Port::has_ended)
    }

    /// Whether nothing that was read waits for a log or a reader.
    pub(super) fn are_flushed(&self) -> bool {
        self.ports.iter().all(Port::is_flushed)
    }

    /// Reads no more from those that have given all that the child itself wrote.
    pub(super) fn end_complete(&mut self, cx: &mut Cx<'_>) {
        self.ports.iter_mut().for_each(|port| port.end_complete(cx));
    }

    /// Takes nobody else who connects.
    pub(super) fn last_call(&mut self) {
        self.ports.iter_mut().for_each(Port::last_call);
    }

    /// Gives up on those who are waited for.
    pub(super) fn abandon(&mut self, cx: &mut Cx<'_>) {
        self.ports.iter_mut().for_each(|port| port.abandon(cx));
    }

    /// Whether a log is to be tried again.
    pub(super) fn logs_need_retry(&self) -> bool {
        self.ports.iter().any(Port::log_needs_retry)
    }

    /// Whether the ends of what has been read are in the logs, or given up.
    pub(super) fn finish_logs(&mut self) -> bool {
        // Each of them, whatever comes of the others.
        self.ports.iter_mut().filter_map(|port| (!port.log().finish()).then_some(())).count() == 0
    }

    /// Offers the logs again what they have not taken.
    pub(super) fn retry_logs(&mut self, sessions: &mut Sessions, cx: &mut Cx<'_>) {
        self.ports.iter_mut().for_each(|port| port.retry_log(sessions, cx));
    }

    /// Opens the logs anew by their names; all of them, and tells of the first that can't be.
    pub(super) fn reopen_logs(&mut self) -> Result<(), crate::logfile::LogError> {
        let failed = self.ports.iter_mut().filter_map(|port| port.log().reopen().err());
        // To its end: each is to be reopened.
        failed.fold(None, |first, error| first.or(Some(error))).map_or(Ok(()), Err)
    }

    /// When a log is to be called.
    pub(super) fn log_deadline(&self) -> Option<Instant> {
        self.ports.iter().filter_map(Port::log_deadline).min()
    }

    /// Lets the logs do what is due.
    pub(super) fn log_turn(&mut self) {
        self.ports.iter_mut().for_each(|port| port.log().turn());
    }

    /// The logs themselves.
    pub(super) fn log_files(&mut self) -> impl Iterator<Item = &mut LogFile> {
        self.ports.iter_mut().map(|port| port.log().file())
    }

    /// Ends everything, and removes what was made; of which the logs may be wanted still.
    pub(super) fn close(&mut self, end: Option<Mark>, cx: &mut Cx<'_>) -> Vec<LogFile> {
        let mut ports = std::mem::take(&mut self.ports);
        if !ports.is_empty() {
            self.last = ports.iter_mut().map(|port| port.close(end, cx)).collect();
        }
        ports.into_iter().map(Port::into_log).collect()
    }

    pub(super) fn report(&self) -> Vec<ConsoleReport> {
        match self.ports.is_empty() {
            true => self.last.clone(),
            false => self.ports.iter().map(Port::report).collect(),
        }
    }

    /// Bytes that a log or a reader of ours lacks.
    pub(super) fn dropped(&self) -> u64 {
        self.report().iter().map(|console| console.bytes_dropped).sum()
    }
}

fn check_log(sandbox: &Sandbox, console: &Name) -> Result<(), StartError> {
    let Sandbox { log_dir, config_file, .. } = sandbox;
    let name = sandbox.log_of(console);
    LogFile::check(log_dir, config_file.as_str(), &name).map_err(StartError::log)
}

fn add(
    ports: &mut Vec<Port>,
    name: &Name,
    way: Way,
    sandbox: &Sandbox,
    terminal: &mut Option<Terminal>,
    rotating: Option<&mut Rotating>,
) -> Result<(), StartError> {
    let id = ConsoleId(u16::try_from(ports.len()).unwrap_or(u16::MAX));
    let file = open_log(sandbox, &sandbox.log_of(name), rotating)?;
    let log = Log::new(file, sandbox.on_log_error == OnLogError::Drop);
    let ours =
        (sandbox.interactive.as_ref() == Some(name)).then(|| Ours::new(sandbox, terminal.take()));
    let sink = match ours {
        Some(_) => Ours::sink(sandbox.forward, Source::Sink(Stream::Console(id)).key())
            .map_err(|error| StartError::Monitor(error.to_string()))?,
        None => None,
    };
    let mut port = Port::new(id, name.clone(), way, log, ours, sink);
    if let Some(rate) = sandbox.log_rate {
        port.limit(rate.into());
    }
    ports.push(port);
    Ok(())
}

/// `text` with `path` in the place of every `name`.
fn replace(text: &OsStr, name: &str, path: &OsStr) -> OsString {
    let (bytes, name) = (text.as_bytes(), name.as_bytes());
    let mut replaced = Vec::new();
    let mut rest = bytes;
    while let Some(at) = memchr::memmem::find(rest, name) {
        let (before, after) = rest.split_at(at);
        replaced.extend_from_slice(before);
        replaced.extend_from_slice(path.as_bytes());
        rest = after.get(name.len()..).unwrap_or_default();
    }
    replaced.extend_from_slice(rest);
    OsString::from_vec(replaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_of_a_name_gets_the_path_and_all_else_stays() {
        let replace = |text: &str| replace(text.as_ref(), "{a}", "/dev/pts/7".as_ref());
        assert_eq!(replace("x,path={a},y={a}"), "x,path=/dev/pts/7,y=/dev/pts/7");
        for text in ["", "a", "{b}", "{{a", "a}"] {
            assert_eq!(replace(text), text);
        }
    }
}
