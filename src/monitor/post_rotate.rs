//! The command that is run for each generation of a log after a rotation: one at a time for all logs
//! of a sandbox. Neither the child nor the end of the sandbox waits for it.
//!
//! Each log knows, on disk too, which of its generations wait. This is the process that works on
//! them.

mod command;
mod logs;

use std::ffi::OsStr;
use std::mem;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use tracing::{debug, warn};

use super::background::{EndWatch, LeftCommand, reaped, report};
use super::channels::Channels;
use super::keys::{Cx, Source, Timer};
use crate::child::{Child, ForeignProcess, Identity, Liveness};
use crate::logfile::{LogFile, LogLock, Rotated};
use crate::process::FileLimit;
use command::{Commands, Rest, Who};
use logs::Logs;

/// The delay after a command that could not be started.
const RETRY: Duration = Duration::from_secs(10);

/// The command and the process that runs it.
pub(super) struct PostRotate {
    commands: Commands,
    state: State,
    /// The logs of the last run, between two runs.
    kept: Vec<LogFile>,
    /// The index of the log whose generation was processed last.
    turn: usize,
}

/// The process that works.
enum State {
    Idle,
    /// A command of this monitor.
    Working(Working),
    /// A process that an earlier supervisor of this sandbox has left. The next generation waits for
    /// it, so that one process works at a time.
    Earlier(ForeignProcess, EndWatch),
    /// The last command could not be started, which has been reported.
    Refused,
}

struct Working {
    child: Child,
    end: EndWatch,
    /// The path of the log.
    log: PathBuf,
    generation: Rotated,
}

impl State {
    /// The process that works.
    fn who(&self) -> Option<Identity> {
        match self {
            Self::Working(working) => Identity::of(working.child.pid()),
            Self::Earlier(earlier, _) => Some(earlier.identity().clone()),
            Self::Idle | Self::Refused => None,
        }
    }

    /// The generation of this log that a command of this monitor works on.
    fn works_on(&self, log: &LogFile) -> Option<u64> {
        match self {
            Self::Working(working) => {
                (working.log == log.path()).then_some(working.generation.number)
            }
            Self::Idle | Self::Earlier(..) | Self::Refused => None,
        }
    }
}

impl PostRotate {
    /// The rotate command, with the file limit that the sandbox's own command gets.
    pub(super) fn new(command: &OsStr, file_limit: Option<FileLimit>) -> Box<Self> {
        Box::new(Self {
            commands: Commands::new(command, file_limit),
            state: State::Idle,
            kept: Vec::new(),
            turn: 0,
        })
    }

    /// Closes the log of this name, which a run is about to open: a log has one writer. Its lock is
    /// returned, to be held until then.
    pub(super) fn close_log(&mut self, name: &str) -> Vec<LogLock> {
        let closed = self.kept.extract_if(.., |log| log.is_of(name));
        closed.filter_map(LogFile::into_lock).collect()
    }

    /// Keeps the logs of a run that is over, whose generations may still wait.
    pub(super) fn keep_logs(&mut self, logs: Vec<LogFile>) {
        self.kept.extend(logs);
    }

    /// Starts the command for the next generation, if one waits and no process works.
    pub(super) fn start_next(&mut self, channels: &mut Channels, cx: &mut Cx<'_>) {
        if !matches!(self.state, State::Idle) {
            return;
        }
        let mut logs = Logs { channels, kept: &mut self.kept };
        if let Some(earlier) = logs.earlier() {
            let end = watch(earlier.exit_fd(), cx);
            self.state = State::Earlier(earlier, end);
            return;
        }
        let Some((log, generation)) = logs.next_rotated(&mut self.turn) else { return };
        match self.commands.start(&generation) {
            Ok((child, gate)) => {
                debug!(path = %generation.path.display(), pid = child.pid(), "working on it");
                log.work_begins(generation.number, Who::is(&child));
                gate.open();
                let end = watch(child.exit_fd(), cx);
                let log = log.path().to_owned();
                self.state = State::Working(Working { child, end, log, generation });
            }
            Err(reason) => {
                let path = generation.path.display();
                warn!("can't start the rotate command for {path}: {reason}; trying again");
                log.take_back();
                self.state = State::Refused;
                cx.timers.set(RETRY, Timer::PostRotate.key());
            }
        }
    }

    /// Polls the process that works, and starts the next one. `reap_descendants` is whether
    /// processes that a command leaves behind become children of this one.
    pub(super) fn poll(
        &mut self,
        channels: &mut Channels,
        reap_descendants: bool,
        cx: &mut Cx<'_>,
    ) {
        match &mut self.state {
            State::Idle => return,
            State::Refused => {}
            State::Working(working) => {
                let Some(status) = reaped(&working.child) else {
                    return working.end.poll_later(cx);
                };
                let succeeded = report(status, &command::failed(&working.generation));
                let mut logs = Logs { channels, kept: &mut self.kept };
                if let Some(log) = logs.find(&working.log) {
                    log.work_ends(working.generation.number, succeeded);
                }
                if reap_descendants {
                    self.commands.note_left_in(working.child.pid());
                }
            }
            // The logs learn of it when the command is started for the next generation.
            State::Earlier(earlier, end) => {
                if !earlier.has_ended() {
                    return end.poll_later(cx);
                }
            }
        }
        match mem::replace(&mut self.state, State::Idle) {
            State::Working(Working { end, .. }) | State::Earlier(_, end) => end.end(cx),
            State::Idle | State::Refused => {}
        }
        self.start_next(channels, cx);
    }

    /// Reaps processes that commands have left behind and that have become children of this one.
    pub(super) fn reap_left(&mut self) {
        self.commands.reap_left();
    }

    /// The sandbox has stopped: the process that works goes on, and a shell takes over the
    /// generations that wait.
    pub(super) fn leave(mut self, cx: &mut Cx<'_>) {
        self.leave_rest(cx);
        match self.state {
            State::Working(Working { child, end, generation, .. }) => {
                end.end(cx);
                let failed = Some(command::failed(&generation));
                cx.sources.detach(Box::new(LeftCommand { child, failed }));
            }
            State::Earlier(_, end) => end.end(cx),
            State::Idle | State::Refused => {}
        }
    }

    /// Leaves the generations that are not finished to a shell.
    fn leave_rest(&mut self, cx: &mut Cx<'_>) {
        let Self { commands, state, kept, .. } = self;
        let who = state.who();
        let mut rests: Vec<(&mut LogFile, Rest)> = kept
            .iter_mut()
            .filter_map(|log| rest_of(log, state, who.as_ref()).map(|rest| (log, rest)))
            .collect();
        if rests.is_empty() {
            return;
        }
        let words = rests.iter().map(|(log, rest)| (log.path(), rest));
        match commands.start_for_rest(who.as_ref(), words) {
            Ok((child, gate)) => {
                for (log, rest) in &mut rests {
                    log.work_is_left(rest.first, rest.last, Who::is(&child));
                }
                gate.open();
                cx.sources.detach(Box::new(LeftCommand { child, failed: None }));
            }
            Err(reason) => {
                for (log, _) in &rests {
                    let path = log.path().display();
                    warn!(
                        "generations of {path} wait for their rotate command until the next start: {reason}"
                    );
                }
            }
        }
    }
}

/// The generations of this log that are not finished, while `at_work` works.
fn rest_of(log: &mut LogFile, state: &State, at_work: Option<&Identity>) -> Option<Rest> {
    // It stays with a process of another supervisor that still works on it.
    if let Some(who) = log.earlier_command()
        && let Ok(Who(earlier)) = who.parse()
        && at_work != Some(&earlier)
        && earlier.liveness() == Liveness::Alive
    {
        return None;
    }
    let ours = state.works_on(log);
    match (ours, log.waiting(ours)) {
        (Some(number), Some((next, last))) => Some(Rest { first: number, next, last }),
        (Some(number), None) => {
            Some(Rest { first: number, next: number.saturating_add(1), last: number })
        }
        (None, Some((next, last))) => Some(Rest { first: next, next, last }),
        (None, None) => None,
    }
}

/// Watches for the end of the process that works.
fn watch(exit: Option<BorrowedFd<'_>>, cx: &mut Cx<'_>) -> EndWatch {
    EndWatch::new(exit, Source::PostRotate, Timer::PostRotate, cx)
}
