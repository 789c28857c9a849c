//! The command that is run with each generation of a log once it has been rotated away: one at a
//! time for all logs of a sandbox, beside it, and waited for by nobody.
//!
//! Each log knows which of its generations wait, on disk too; here is who works on them.

mod command;
mod logs;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use tracing::{debug, warn};

use super::keys::{Cx, Source, Timer};
use super::running::LOOK;
use super::{Launch, Monitor};
use crate::child::{Bystander, Child, Identity, Liveness, Reach};
use crate::logfile::{LogFile, LogLock, Rotated};
use crate::reactor::{Interest, SourceId};
use command::{Commands, Left, Rest, Who};
use logs::Logs;

/// How long after a command could not be started the next try comes.
const RETRY: Duration = Duration::from_secs(10);

/// What a monitor knows of the command.
pub(super) struct PostRotate {
    commands: Commands,
    state: State,
    /// Logs that no run has: between two of them.
    kept: Vec<LogFile>,
    /// Which log has had its turn.
    turn: usize,
}

/// Who works.
enum State {
    Nobody,
    /// A command of ours.
    Ours(Working),
    /// What an earlier supervisor of this sandbox has left: waited for, so that there is one at a
    /// time.
    Earlier(Bystander, Option<SourceId>),
    /// The last one could not be started, which has been told.
    Refused,
}

struct Working {
    child: Child,
    exit: Option<SourceId>,
    /// The path of the log.
    log: PathBuf,
    generation: Rotated,
}

impl PostRotate {
    /// Of this command, with the file limit of the sandbox's own.
    pub(super) fn new(command: &OsStr, launch: &Launch) -> Box<Self> {
        Box::new(Self {
            commands: Commands::new(command, launch),
            state: State::Nobody,
            kept: Vec::new(),
            turn: 0,
        })
    }

    /// The log of this name is about to be opened by a run: there is one writer a log. Its lock is
    /// returned, to be kept until then.
    pub(super) fn close_log(&mut self, name: &str) -> Vec<LogLock> {
        let closed = self.kept.extract_if(.., |log| log.is_of(name));
        closed.filter_map(LogFile::into_lock).collect()
    }
}

impl State {
    /// The process that works, whosever it is.
    fn who(&self) -> Option<Identity> {
        match self {
            Self::Ours(working) => Identity::of(working.child.pid()),
            Self::Earlier(earlier, _) => Some(earlier.identity().clone()),
            Self::Nobody | Self::Refused => None,
        }
    }

    /// The generation of this log that a command of ours works on.
    fn works_on(&self, log: &LogFile) -> Option<u64> {
        match self {
            Self::Ours(working) => (working.log == log.path()).then_some(working.generation.number),
            Self::Nobody | Self::Earlier(..) | Self::Refused => None,
        }
    }
}

impl Monitor {
    /// Gives the next generation to the command, where one waits and nobody works.
    pub(super) fn hand_on(&mut self, cx: &mut Cx<'_>) {
        let Self { post_rotate: Some(rotating), channels, .. } = self else { return };
        let PostRotate { commands, state, kept, turn } = &mut **rotating;
        if !matches!(state, State::Nobody) {
            return;
        }
        let mut logs = Logs { channels, kept };
        if let Some(earlier) = logs.earlier() {
            let exit = earlier.exit_fd().and_then(|fd| {
                cx.sources.register(&fd, Interest::READ, Source::PostRotate.key()).ok()
            });
            look_later_without(exit, cx);
            *state = State::Earlier(earlier, exit);
            return;
        }
        let Some((log, generation)) = logs.hand_out(turn) else { return };
        match commands.start(&generation) {
            Ok((child, gate)) => {
                debug!(path = %generation.path.display(), pid = child.pid(), "working on it");
                log.work_begins(generation.number, Who::is(&child));
                gate.open();
                let exit = child.exit_fd().and_then(|fd| {
                    cx.sources.register(&fd, Interest::READ, Source::PostRotate.key()).ok()
                });
                look_later_without(exit, cx);
                let log = log.path().to_owned();
                *state = State::Ours(Working { child, exit, log, generation });
            }
            Err(reason) => {
                let path = generation.path.display();
                warn!("can't start the rotate command for {path}: {reason}; trying again");
                log.take_back();
                *state = State::Refused;
                cx.timers.set(RETRY, Timer::PostRotate.key());
            }
        }
    }

    /// Whoever works may have ended.
    pub(super) fn look_at_rotation(&mut self, cx: &mut Cx<'_>) {
        let Self { post_rotate: Some(rotating), channels, .. } = self else { return };
        let PostRotate { commands, state, kept, .. } = &mut **rotating;
        let exit = match state {
            State::Nobody => return,
            State::Refused => None,
            State::Ours(working) => {
                let Some(status) = command::reaped(&working.child) else {
                    return not_yet(working.exit, cx);
                };
                let succeeded = command::report(status, &working.generation);
                let mut logs = Logs { channels, kept };
                if let Some(log) = logs.find(&working.log) {
                    log.work_ends(working.generation.number, succeeded);
                }
                if self.reach != Reach::Group {
                    commands.note_left_in(working.child.pid());
                }
                working.exit
            }
            // The logs are told when the next one is handed out.
            State::Earlier(earlier, exit) => {
                if !earlier.has_ended() {
                    return not_yet(*exit, cx);
                }
                *exit
            }
        };
        if let Some(exit) = exit {
            cx.sources.deregister(exit);
        }
        *state = State::Nobody;
        self.hand_on(cx);
    }

    /// Reaps what commands have left in the background and has come down to us.
    pub(super) fn reap_left_of_rotations(&mut self) {
        if let Some(rotating) = &mut self.post_rotate {
            rotating.commands.reap_left();
        }
    }

    /// A run is over and these logs with it. Rotate commands may need them still; where the command
    /// is started again, they stay locked until the next run has opened them.
    pub(super) fn keep_logs(&mut self, logs: impl IntoIterator<Item = LogFile>) {
        match (&mut self.post_rotate, &mut self.again) {
            (Some(rotating), _) => rotating.kept.extend(logs),
            (None, Some(again)) => again.keep_locked(logs),
            (None, None) => {}
        }
    }

    /// All is over: whoever works goes on, and a shell of its own waits for that and takes over
    /// those whose turn has not come.
    pub(super) fn leave_rotations(&mut self, cx: &mut Cx<'_>) {
        let Some(mut rotating) = self.post_rotate.take() else { return };
        rotating.leave_rest(cx);
        match rotating.state {
            State::Ours(Working { child, exit, generation, .. }) => {
                if let Some(exit) = exit {
                    cx.sources.deregister(exit);
                }
                cx.sources.detach(Box::new(Left { child, generation: Some(generation) }));
            }
            State::Earlier(_, Some(exit)) => cx.sources.deregister(exit),
            State::Earlier(..) | State::Nobody | State::Refused => {}
        }
    }
}

impl PostRotate {
    /// Leaves to a shell what is not finished.
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
                cx.sources.detach(Box::new(Left { child, generation: None }));
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

/// What is not finished of this log, while `at_work` works.
fn rest_of(log: &mut LogFile, state: &State, at_work: Option<&Identity>) -> Option<Rest> {
    // It stays with somebody else who has it and is not waited for.
    if let Some(who) = log.stranger_at_work()
        && let Ok(Who(stranger)) = who.parse()
        && at_work != Some(&stranger)
        && stranger.liveness() == Liveness::Alive
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

/// Without a descriptor that tells of the end, that is looked for.
fn look_later_without(exit: Option<SourceId>, cx: &mut Cx<'_>) {
    if exit.is_none() {
        cx.timers.set(LOOK, Timer::PostRotate.key());
    }
}

fn not_yet(exit: Option<SourceId>, cx: &mut Cx<'_>) {
    // kqueue may tell of the end before waitpid(2) knows of it, and tells once.
    if let Some(exit) = exit {
        cx.sources.would_block(exit, Interest::READ);
    }
    cx.timers.set(LOOK, Timer::PostRotate.key());
}
