//! The channels of consoles: checked and made before the child is started.
//!
//! Nothing here blocks: a peer that is not there yet is tried again on a timer. An open console has
//! two or three descriptors and no timer.

mod backend;
mod link;

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::unistd::Uid;

use super::channel::backend::Backend;
use super::channel::{Channel, HostTerminal};
use super::console::{Console, ConsoleError, check_name};
use super::keys::{ChannelId, OutputId};
use super::logs::LogOpener;
use super::name::Name;
use super::sandbox::{Input, OnLogError, Sandbox};
use super::stdio::{DEFAULT_SIZE, host_sink};
use super::transition::StartError;
use crate::child::Command;
use crate::logfile::{LogFile, Stream};
use crate::relay::{Log, LogTarget};
use crate::terminal::Terminal;
use backend::ConsoleBackend;
use link::Link;

/// The consoles that a host gives as descriptors, until the run that they are for begins.
#[derive(Debug, Default)]
pub(super) struct GivenConsoles {
    list: Vec<(Name, OwnedFd)>,
    /// How many there have been in all runs, since no identifier is used twice.
    count: u16,
}

/// The channels of consoles that are not started yet.
#[derive(Default)]
pub(super) struct PreparedConsoles {
    pub(super) channels: Vec<Channel>,
    /// The one that the host's terminal is at.
    pub(super) host: Option<ChannelId>,
}

/// Checks the consoles of a sandbox, as far as that is possible before anything is made.
///
/// # Errors
///
/// A name is used twice, reserved or unknown; the path of a socket is too long; a log is unusable.
pub(super) fn check(sandbox: &Sandbox, given: &GivenConsoles) -> Result<(), StartError> {
    sandbox.consoles.iter().try_for_each(Console::check)?;
    let given = given.list.iter().map(|(name, _)| name);
    let names: Vec<&Name> = sandbox.consoles.iter().map(Console::name).chain(given).collect();
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

/// Makes what has to exist before the child is started. `terminal` is the host's, for the console
/// that it is at; PTYs get its size. PTYs and FIFOs that are made belong to the user `owner`.
///
/// # Errors
///
/// A back end or a log can't be made. What was made is removed.
pub(super) fn prepare(
    sandbox: &Sandbox,
    owner: Option<u32>,
    given: &mut GivenConsoles,
    mut terminal: Option<Terminal>,
    logs: &mut LogOpener<'_>,
) -> Result<PreparedConsoles, StartError> {
    let size = terminal.as_ref().and_then(Terminal::window_size).unwrap_or(DEFAULT_SIZE);
    let mut prepared = PreparedConsoles::default();
    // All back ends before the first log: a start that fails leaves no log.
    let owner = owner.map(Uid::from_raw);
    let prepare = |console| ConsoleBackend::prepare(console, &size, owner);
    let backends: Vec<ConsoleBackend> =
        sandbox.consoles.iter().map(prepare).collect::<Result<_, _>>()?;
    prepared.channels.reserve_exact(backends.len() + given.list.len() + 1);
    for (console, backend) in sandbox.consoles.iter().zip(backends) {
        let id = next_id(prepared.channels.len(), 0);
        prepared.add(id, console.name(), backend, sandbox, &mut terminal, logs)?;
    }
    given.open_in(prepared, sandbox, &mut terminal, logs)
}

/// Channel 0 is the child's own stdio.
fn next_id(configured: usize, given: u16) -> ChannelId {
    let configured = u16::try_from(configured).unwrap_or(u16::MAX);
    ChannelId(configured.saturating_add(given).saturating_add(1))
}

impl PreparedConsoles {
    fn add(
        &mut self,
        id: ChannelId,
        name: &Name,
        backend: ConsoleBackend,
        sandbox: &Sandbox,
        terminal: &mut Option<Terminal>,
        logs: &mut LogOpener<'_>,
    ) -> Result<(), StartError> {
        let log = match sandbox.log_off {
            true => LogTarget::Drivers(Box::default()),
            false => LogTarget::File(logs.open(&sandbox.log_of(name))?),
        };
        let log = Log::new(log, sandbox.on_log_error == OnLogError::Drop);
        let is_host = sandbox.interactive.as_ref() == Some(name);
        let output = OutputId { channel: id, stream: Stream::Tty };
        let sink = match is_host {
            true => host_sink(output, sandbox.forward).map_err(StartError::Monitor)?,
            false => None,
        };
        let terminal = if is_host { terminal.take() } else { None };
        let host = HostTerminal::new(terminal, is_host && sandbox.input == Input::Forward);
        if is_host {
            self.host = Some(id);
        }
        let peer = Backend::Peer(Box::new(Link::new(id, name.clone(), backend)));
        self.channels.push(Channel::new(id, peer, log, host, [(Stream::Tty, sink)], sandbox));
        Ok(())
    }
}

/// The command with the path of each PTY in the place of its `{NAME}`.
pub(super) fn fill_in<'a>(
    command: Command,
    ptys: impl Iterator<Item = (&'a Name, &'a Path)>,
) -> Command {
    let ptys: Vec<(String, &OsStr)> =
        ptys.map(|(name, path)| (format!("{{{name}}}"), path.as_os_str())).collect();
    if ptys.is_empty() {
        return command;
    }
    command.map_arguments(|argument| {
        ptys.iter().fold(argument, |argument, (name, path)| replace(&argument, name, path))
    })
}

impl GivenConsoles {
    /// Takes a descriptor for the next run.
    pub(super) fn give(&mut self, name: Name, descriptor: OwnedFd) {
        self.list.push((name, descriptor));
    }

    /// Takes a descriptor for the next run, if no other console has the name. `exists` is whether
    /// a console of this run has it.
    ///
    /// # Errors
    ///
    /// The name is reserved or used already, or the log is unusable.
    pub(super) fn try_give(
        &mut self,
        name: Name,
        descriptor: OwnedFd,
        sandbox: &Sandbox,
        exists: bool,
    ) -> Result<(), StartError> {
        check_name(&name)?;
        let configured = sandbox.consoles.iter().any(|console| *console.name() == name);
        if exists || configured || self.list.iter().any(|(given, _)| *given == name) {
            return Err(ConsoleError::Duplicate(name.to_string()).into());
        }
        check_log(sandbox, &name)?;
        self.give(name, descriptor);
        Ok(())
    }

    /// Makes the channels of the descriptors that have been given, while the child runs.
    ///
    /// # Errors
    ///
    /// A log can't be opened.
    pub(super) fn open(
        &mut self,
        sandbox: &Sandbox,
        logs: &mut LogOpener<'_>,
    ) -> Result<PreparedConsoles, StartError> {
        self.open_in(PreparedConsoles::default(), sandbox, &mut None, logs)
    }

    fn open_in(
        &mut self,
        mut prepared: PreparedConsoles,
        sandbox: &Sandbox,
        terminal: &mut Option<Terminal>,
        logs: &mut LogOpener<'_>,
    ) -> Result<PreparedConsoles, StartError> {
        for (name, descriptor) in self.list.drain(..) {
            let id = next_id(sandbox.consoles.len(), self.count);
            self.count = self.count.saturating_add(1);
            let backend = ConsoleBackend::Given(Some(descriptor));
            prepared.add(id, &name, backend, sandbox, terminal, logs)?;
        }
        Ok(prepared)
    }
}

fn check_log(sandbox: &Sandbox, console: &Name) -> Result<(), StartError> {
    let Sandbox { log_dir, config_file, .. } = sandbox;
    if sandbox.log_off {
        return Ok(());
    }
    let name = sandbox.log_of(console);
    Ok(LogFile::check(log_dir, config_file.as_str(), &name)?)
}

/// `text` with every `name` replaced by `path`.
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
    fn every_occurrence_of_a_name_is_replaced_by_the_path_and_nothing_else_changes() {
        let replace = |text: &str| replace(text.as_ref(), "{a}", "/dev/pts/7".as_ref());
        assert_eq!(replace("x,path={a},y={a}"), "x,path=/dev/pts/7,y=/dev/pts/7");
        for text in ["", "a", "{b}", "{{a", "a}"] {
            assert_eq!(replace(text), text);
        }
    }
}
