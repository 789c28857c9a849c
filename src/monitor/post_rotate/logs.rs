//! The logs whose generations are worked on: the child's own and its consoles', in turn.

use std::path::Path;

use super::super::channels::Channels;
use super::command::Who;
use crate::child::Bystander;
use crate::logfile::{LogFile, Rotated};

/// All logs of one sandbox that are open, whoever has them.
pub(super) struct Logs<'a> {
    pub(super) channels: &'a mut Channels,
    /// Those that no run has.
    pub(super) kept: &'a mut Vec<LogFile>,
}

impl Logs<'_> {
    fn iter(&mut self) -> impl Iterator<Item = &mut LogFile> {
        self.channels.log_files().chain(self.kept.iter_mut())
    }

    /// The one at this place.
    pub(super) fn find(&mut self, path: &Path) -> Option<&mut LogFile> {
        self.iter().find(|log| log.path() == path)
    }

    /// Somebody whom an earlier supervisor has left at work on one of them. What those had who are
    /// gone waits again.
    pub(super) fn earlier(&mut self) -> Option<Bystander> {
        self.iter().find_map(|log| {
            let who = log.stranger_at_work()?;
            let earlier = who.parse::<Who>().ok().and_then(|who| Bystander::watch(who.0));
            if earlier.is_none() {
                log.work_was_lost();
            }
            earlier
        })
    }

    /// The next generation that waits, and its log: of each log one, in turn, so that one that is
    /// rotated all the time keeps none of another's waiting.
    pub(super) fn hand_out(&mut self, turn: &mut usize) -> Option<(&mut LogFile, Rotated)> {
        let count = self.iter().count();
        let (at, generation) = (1..=count).find_map(|step| {
            let at = turn.wrapping_add(step) % count;
            Some((at, self.iter().nth(at)?.hand_out()?))
        })?;
        *turn = at;
        Some((self.iter().nth(at)?, generation))
    }
}
