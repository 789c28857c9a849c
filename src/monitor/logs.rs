//! Opening the logs of a run, and the mark of its end.

use super::post_rotate::PostRotate;
use super::sandbox::Sandbox;
use super::transition::{Outcome, StartError};
use crate::child::ExitStatus;
use crate::logfile::{LogFile, Mark, RunEnd};

/// Opens the logs of a sandbox for a run: its own and those of its consoles.
pub(super) struct LogOpener<'a> {
    pub(super) sandbox: &'a Sandbox,
    /// Set if generations of the logs are handed to a command.
    pub(super) post_rotate: Option<&'a mut PostRotate>,
}

impl LogOpener<'_> {
    /// Opens the log of this name, which is without the suffix.
    ///
    /// # Errors
    ///
    /// [`StartError::Log`].
    pub(super) fn open(&mut self, name: &str) -> Result<LogFile, StartError> {
        let Sandbox { log_dir, config_file, log, .. } = self.sandbox;
        // A log has one writer. Its lock is held until the new one is open.
        let locks = self.post_rotate.as_mut().map(|post_rotate| post_rotate.close_log(name));
        let open = if locks.is_some() { LogFile::open_with_queue } else { LogFile::open };
        Ok(open(log_dir, config_file.as_str(), name, *log)?)
    }
}

/// The mark of a run's end; none for a run that never began.
pub(super) fn end_mark(outcome: &Outcome) -> Option<Mark> {
    let Outcome::Ended { status, .. } = outcome else { return None };
    Some(Mark::Stop(match status {
        ExitStatus::Code(code) => u8::try_from(*code).map_or(RunEnd::Unknown, RunEnd::Exited),
        ExitStatus::Signal(signal) => {
            u8::try_from(signal.number()).map_or(RunEnd::Unknown, RunEnd::Signalled)
        }
        ExitStatus::Unknown => RunEnd::Unknown,
    }))
}
