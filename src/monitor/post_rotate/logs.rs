//! The logs whose generations are processed in turn: those of the current run and of the last one.

use std::path::Path;

use super::command::Who;
use crate::child::ForeignProcess;
use crate::logfile::{LogFile, Rotated};
use crate::monitor::channels::Channels;

/// All open logs of one sandbox.
pub(super) struct Logs<'a> {
    pub(super) channels: &'a mut Channels,
    /// The logs of the last run.
    pub(super) kept: &'a mut Vec<LogFile>,
}

impl Logs<'_> {
    fn iter(&mut self) -> impl Iterator<Item = &mut LogFile> {
        self.channels.log_files().chain(self.kept.iter_mut())
    }

    /// The log at this path.
    pub(super) fn find(&mut self, path: &Path) -> Option<&mut LogFile> {
        self.iter().find(|log| log.path() == path)
    }

    /// A process that an earlier supervisor has left at work on one of them. Generations of
    /// processes that are gone wait again.
    pub(super) fn earlier(&mut self) -> Option<ForeignProcess> {
        self.iter().find_map(|log| {
            let who = log.earlier_command()?;
            let earlier = who.parse::<Who>().ok().and_then(|who| ForeignProcess::watch(who.0));
            if earlier.is_none() {
                log.work_was_lost();
            }
            earlier
        })
    }

    /// The next generation that waits, and its log: one of each log in turn, so that a log that is
    /// rotated all the time does not keep another log's waiting.
    pub(super) fn next_rotated(&mut self, turn: &mut usize) -> Option<(&mut LogFile, Rotated)> {
        let count = self.iter().count();
        let (at, generation) = (1..=count).find_map(|step| {
            let at = turn.wrapping_add(step) % count;
            Some((at, self.iter().nth(at)?.next_rotated()?))
        })?;
        *turn = at;
        Some((self.iter().nth(at)?, generation))
    }
}
