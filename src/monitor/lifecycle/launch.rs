//! The start of a child: its channels first, then the child.

use tracing::warn;

use super::process::Process;
use super::stop_command;
use crate::child::lost::{RUN_VARIABLE, run_marker};
use crate::child::{Cgroup, Child, ChildIo, Command, OomKills, Stdio};
use crate::logfile::LogFile;
use crate::monitor::backoff::RestartBackoff;
#[cfg(feature = "consoles")]
use crate::monitor::console_channels;
use crate::monitor::keys::Cx;
use crate::monitor::logs::LogOpener;
use crate::monitor::parts::Parts;
use crate::monitor::post_rotate::PostRotate;
use crate::monitor::sandbox::{OnLogError, Restart, Sandbox};
use crate::monitor::stdio;
use crate::monitor::transition::StartError;
use crate::relay::{Both, Drivers, Log, LogTarget};
use crate::terminal::Terminal;

/// The child that is to be monitored.
pub(in crate::monitor) enum Launch {
    /// A command to start.
    Spawn(Command),
    /// A child that the host has started, and its streams; taken when it is monitored.
    Adopt(Option<(Child, ChildIo)>),
}

impl Launch {
    /// The command, if the child is to be started.
    pub(super) fn command(&self) -> Option<&Command> {
        match self {
            Self::Spawn(command) => Some(command),
            Self::Adopt(_) => None,
        }
    }

    /// Starts the child, or takes it over.
    ///
    /// # Errors
    ///
    /// Nothing is running then that was not before. Channels that have been made are still there.
    pub(super) fn start(
        &mut self,
        parts: &mut Parts,
        cx: &mut Cx<'_>,
    ) -> Result<Process, StartError> {
        if let Some(command) = parts.sandbox.post_rotate_command() {
            let file_limit = self.command().and_then(|command| command.file_limit);
            parts.post_rotate.get_or_insert_with(|| PostRotate::new(command, file_limit));
        }
        match self {
            Self::Spawn(command) => spawn(command, parts, cx),
            Self::Adopt(child) => match child.take() {
                Some((child, io)) => adopt(child, io, parts, cx),
                None => Err(StartError::Stopped),
            },
        }
    }
}

fn spawn(command: &Command, parts: &mut Parts, cx: &mut Cx<'_>) -> Result<Process, StartError> {
    if parts.sandbox.restart != Restart::No && parts.backoff.is_none() {
        parts.backoff = Some(Box::new(RestartBackoff::new(command.clone())));
    }
    let stop_command = stop_command::prepare(&parts.sandbox, Some(command));
    let marker = run_marker(&parts.supervisor, parts.run.asked);
    let command = command.clone().env(RUN_VARIABLE, marker);
    let mut terminal = open_consoles(command.get_pty(), command.get_uid(), parts)?;
    let log = open_log(parts)?;
    #[cfg(feature = "consoles")]
    let command = console_channels::fill_in(command, parts.channels.pty_paths());
    let command = match command.get_pty() {
        true => command.with_term(terminal.is_none()),
        false => command,
    };
    let io = stdio::spawn_io(&parts.sandbox, &command, terminal.as_ref());
    if let (Some(terminal), Some(_)) = (&mut terminal, command.get_pty_size()) {
        terminal.ignore_size();
    }
    let (child_stdio, io) = Stdio::open(&command, io)?;
    // Before the child: output that can't be relayed is a reason not to start it.
    open_stdio(io, log, terminal, parts, cx)?;
    let cgroup = open_cgroup(parts)?;
    let oom_kills = OomKills::before_start(cgroup.as_ref());
    let spawned = Child::spawn_on(&command, child_stdio, cgroup.as_ref());
    let child = spawned.inspect_err(|_| {
        if let Some(cgroup) = &cgroup {
            cgroup.remove();
        }
    })?;
    Ok(watch(child, cgroup, oom_kills, stop_command, parts, cx))
}

fn adopt(
    child: Child,
    io: ChildIo,
    parts: &mut Parts,
    cx: &mut Cx<'_>,
) -> Result<Process, StartError> {
    let terminal = open_consoles(matches!(io, ChildIo::Tty { .. }), None, parts)?;
    let log = open_log(parts)?;
    open_stdio(io, log, terminal, parts, cx)?;
    let cgroup = open_cgroup(parts)?;
    if let Some(cgroup) = &cgroup {
        child.join(cgroup).inspect_err(|_| cgroup.remove())?;
    }
    let oom_kills = OomKills::of_running(child.pid());
    let stop_command = stop_command::prepare(&parts.sandbox, None);
    Ok(watch(child, cgroup, oom_kills, stop_command, parts, cx))
}

fn watch(
    child: Child,
    cgroup: Option<Cgroup>,
    oom_kills: Option<OomKills>,
    stop_command: Option<Box<Command>>,
    parts: &Parts,
    cx: &mut Cx<'_>,
) -> Process {
    let child = if parts.host_reaps { child.reaped_by_host() } else { child };
    Process::new(child, cgroup, oom_kills, stop_command, cx)
}

/// Makes the channels of consoles, for a child of the user `owner`. Returns the host's terminal, if it
/// is at the child's own stdio and not at a console.
#[cfg_attr(not(feature = "consoles"), expect(unused_variables))]
fn open_consoles(
    pty: bool,
    owner: Option<u32>,
    parts: &mut Parts,
) -> Result<Option<Terminal>, StartError> {
    let terminal = stdio::open_terminal(&parts.sandbox, pty).map_err(StartError::Monitor)?;
    #[cfg(feature = "consoles")]
    let terminal = {
        let (own, console) = match parts.sandbox.interactive {
            Some(_) => (None, terminal),
            None => (terminal, None),
        };
        let Parts { sandbox, given_consoles, post_rotate, channels, .. } = parts;
        let mut logs = LogOpener { sandbox, post_rotate: post_rotate.as_deref_mut() };
        let prepared =
            console_channels::prepare(sandbox, owner, given_consoles, console, &mut logs)?;
        channels.begin(prepared.channels, prepared.host);
        own
    };
    Ok(terminal)
}

/// What the output of the child's own stdio is logged to.
fn open_log(parts: &mut Parts) -> Result<LogTarget, StartError> {
    match parts.log_drivers.take() {
        Some(drivers) => Ok(LogTarget::Drivers(drivers)),
        None if parts.sandbox.log_off => Ok(LogTarget::Drivers(match parts.sandbox.journal {
            true => Box::new(journal(&parts.sandbox)?),
            false => Box::default(),
        })),
        None => {
            let file = open_own_log(parts)?;
            Ok(match parts.sandbox.journal {
                true => LogTarget::Both(Box::new(Both::new(file, journal(&parts.sandbox)?))),
                false => LogTarget::File(file),
            })
        }
    }
}

/// The journal, with the fields of this sandbox.
#[cfg(all(feature = "journald", target_os = "linux"))]
fn journal(sandbox: &Sandbox) -> Result<Drivers, StartError> {
    use crate::journal::{Field, Journal, JournalOptions};
    use crate::relay::LogDriver;

    let name = sandbox.name.as_str();
    let fields = [
        ("SYSLOG_IDENTIFIER", name),
        ("VMON_NAME", name),
        ("VMON_CONFIG_FILE", sandbox.config_file.as_str()),
    ];
    let options = JournalOptions {
        after_priority: fields
            .iter()
            .filter_map(|(it, value)| Field::new(it, value).ok())
            .collect(),
        partial: Field::new("VMON_PARTIAL", "true").ok(),
        level: Some("VMON_LEVEL"),
        ..JournalOptions::default()
    };
    if !options.socket.exists() {
        warn!("there is no journal at {}: its entries are lost", options.socket.display());
    }
    Ok(Drivers::new([LogDriver::Journal(Journal::new(options))]))
}

#[cfg(not(all(feature = "journald", target_os = "linux")))]
fn journal(_: &Sandbox) -> Result<Drivers, StartError> {
    Err(StartError::NoJournal)
}

fn open_own_log(parts: &mut Parts) -> Result<LogFile, StartError> {
    let Parts { sandbox, post_rotate, .. } = parts;
    let mut logs = LogOpener { sandbox, post_rotate: post_rotate.as_deref_mut() };
    let log = logs.open(sandbox.name.as_str())?;
    // Reported once, however often the command is started again.
    if parts.run.restarts == 0
        && let Some((path, writers)) = log.foreign_writers()
    {
        warn!(
            "the log directory {} is not safe: {writers} can write into it and replace logs: \
             {}choose another log directory",
            path.display(),
            writers.remedy()
        );
    }
    Ok(log)
}

/// Relays the child's own stdio from now on. The channel is closed with the start if that fails
/// later.
fn open_stdio(
    io: ChildIo,
    log: LogTarget,
    terminal: Option<Terminal>,
    parts: &mut Parts,
    cx: &mut Cx<'_>,
) -> Result<(), StartError> {
    let log = Log::new(log, parts.sandbox.on_log_error == OnLogError::Drop);
    let channel = stdio::channel(&parts.sandbox, log, io, terminal, &mut cx.sources);
    match channel {
        Ok(channel) => {
            parts.channels.add_stdio(channel);
            Ok(())
        }
        Err((error, log)) => {
            parts.keep_logs(vec![*log]);
            Err(StartError::Monitor(error))
        }
    }
}

fn open_cgroup(parts: &Parts) -> Result<Option<Cgroup>, StartError> {
    // Processes that an earlier run was allowed to leave behind are still in it.
    let empty = !parts.sandbox.leave_descendants;
    let opened = parts.sandbox.cgroup.as_deref().map(|path| Cgroup::open(path, empty));
    Ok(opened.transpose()?)
}
