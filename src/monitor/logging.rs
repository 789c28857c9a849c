//! The log beside its bytes: opened before there is a child, tried again when it could not be
//! written, told where a run begins and ends, and given its turns; and those of consoles.

use super::keys::{Cx, Timer};
use super::rotating::Rotating;
use super::{Monitor, Outcome, Sandbox, StartError, Streams};
use crate::child::ExitStatus;
use crate::logfile::{End, LogFile, Mark};

impl Monitor {
    pub(super) fn check_log(&self) -> Result<(), StartError> {
        let Sandbox { log_dir, config_file, name, .. } = &self.sandbox;
        LogFile::check(log_dir, config_file.as_str(), name.as_str()).map_err(StartError::log)
    }

    /// Has the log tried again where that is needed, although no output comes.
    pub(super) fn try_log_later(&mut self, cx: &mut Cx<'_>) {
        let needed = self.streams.as_ref().is_some_and(Streams::log_needs_retry)
            || self.consoles.logs_need_retry();
        if needed && self.log_retry.is_none() {
            self.log_retry = Some(cx.timers.set(crate::relay::LOG_RETRY, Timer::Log.key()));
        }
    }

    pub(super) fn retry_log(&mut self, cx: &mut Cx<'_>) {
        self.log_retry = None;
        if let Some(streams) = &mut self.streams {
            streams.retry_log(&mut self.sessions, &mut cx.sources);
        }
        self.consoles.retry_logs(&mut self.sessions, cx);
        self.output_moved(false, cx);
    }

    /// What the log has wanted to be called for is due, or was.
    pub(super) fn log_due(&mut self, cx: &mut Cx<'_>) {
        self.log_turn = None;
        if let Some(streams) = &mut self.streams {
            streams.log_turn();
        }
        self.consoles.log_turn();
        // It may have been a rotation.
        self.hand_on(cx);
    }

    /// Has the log called when it wants to be. A call that comes too early does nothing, so the
    /// timer is set anew only where it would come too late.
    pub(super) fn follow_log(&mut self, cx: &mut Cx<'_>) {
        let own = self.streams.as_ref().and_then(Streams::log_deadline);
        let Some(at) = own.into_iter().chain(self.consoles.log_deadline()).min() else { return };
        match self.log_turn {
            Some(timer) if timer.at() <= at => return,
            Some(timer) => cx.timers.cancel(timer),
            None => {}
        }
        self.log_turn = Some(cx.timers.set_at(at, Timer::LogTurn.key()));
    }

    /// This run is over, and so is its part of the log.
    pub(super) fn close_log(&mut self, cx: &mut Cx<'_>) {
        for timer in [self.log_retry.take(), self.log_turn.take()].into_iter().flatten() {
            cx.timers.cancel(timer);
        }
    }
}

/// Opens a log of the sandbox for a run: its own, or a console's. `name` is without the ending.
pub(super) fn open_log(
    sandbox: &Sandbox,
    name: &str,
    rotating: Option<&mut Rotating>,
) -> Result<LogFile, StartError> {
    let Sandbox { log_dir, config_file, log, .. } = sandbox;
    let locks = rotating.map(|rotating| rotating.close_log(name));
    let open = if locks.is_some() { LogFile::open_handing_out } else { LogFile::open };
    open(log_dir, config_file.as_str(), name, *log).map_err(StartError::log)
}

/// What the log says of a run's end; nothing for one that never began.
pub(super) fn end_mark(outcome: &Outcome) -> Option<Mark> {
    let Outcome::Ended { status, .. } = outcome else { return None };
    Some(Mark::Stop(match status {
        ExitStatus::Code(code) => u8::try_from(*code).map_or(End::Unknown, End::Exited),
        ExitStatus::Signal(signal) => {
            u8::try_from(signal.number()).map_or(End::Unknown, End::Signalled)
        }
        ExitStatus::Unknown => End::Unknown,
    }))
}
