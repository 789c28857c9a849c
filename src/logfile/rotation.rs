//! The log out of the way of the next bytes: when it is full, when its time is over, and when it is
//! opened and more is there than may be kept.

use std::time::{Duration, Instant};

use super::current::{Current, Look};
use super::directory::Directory;
use super::generations::Keep;
use super::{LogError, LogFile, LogLock, index};

/// When a log that could not be rotated in its time is tried again.
const ROTATE_AGAIN: Duration = Duration::from_secs(10);

impl LogFile {
    /// Makes room, if only by learning that there is some: somebody else may have rotated,
    /// removed or truncated the log, and a rename must not hit a stranger's file.
    pub(super) fn rotate(&mut self) -> Result<(), LogError> {
        let directory = self.place.directory()?;
        let found = directory.stat(self.place.log_name())?;
        let look = match &mut self.current {
            Some(current) => current.compare(found.as_ref()),
            None => Look::Replaced,
        };
        match look {
            Look::Same => self.retire(&directory),
            Look::Resized => {
                self.resized(&directory);
                Ok(())
            }
            Look::Replaced => {
                self.close();
                self.open_in(&directory)
            }
        }
    }

    /// Takes the full log out of the way and begins a new one.
    pub(super) fn retire(&mut self, directory: &Directory) -> Result<(), LogError> {
        let log_name = self.place.log_name();
        self.generations.survey(directory, log_name)?;
        if let Some(handing) = &mut self.handing
            && self.options.retention.max_files > 0
        {
            handing.expect(self.generations.next(), directory, log_name);
        }
        if let Some(current) = &self.current {
            self.index.flush(directory, log_name, current);
        }
        if self.options.retention.max_files == 0 {
            // Unlinked, not truncated: who has it open reads it to its end, and sees (stat(2),
            // `tail -F`) that there is another one.
            if self.index.is_there() {
                let _ = directory.remove_regular(&index::name(log_name));
            }
            directory.remove(log_name)?;
        } else {
            self.generations.add(directory, log_name, self.index.is_there())?;
        }
        // From here on the open file is a generation that must not grow, whatever fails below.
        self.close_current();
        let log_name = self.place.log_name();
        self.index.forget();
        // Before the new file is made: on a full disk, this is what makes room for it.
        self.generations.prune(directory, log_name, &self.keep());
        self.open_in(directory)
    }

    /// Nothing more is written to the open file.
    pub(super) fn close_current(&mut self) {
        if let Some(current) = self.current.take() {
            self.retired = Some(current.into_lock());
        }
    }

    /// Closes the log for good, but for its lock.
    pub(crate) fn into_lock(mut self) -> Option<LogLock> {
        let _ = self.finish();
        self.close();
        self.retired.take()
    }

    /// Removes what earlier runs have left beyond limits that hold at any moment.
    pub(super) fn limit_at_start(&mut self, directory: &Directory) -> Result<(), LogError> {
        let (age, together) = (self.options.retention.max_age, self.limits.together);
        if age.is_none() && together.is_none() {
            return Ok(());
        }
        let size = self.current.as_ref().map_or(0, Current::size) + self.index.size();
        if together.is_some_and(|most| size > most) {
            self.retire(directory)?;
        }
        let log_name = self.place.log_name();
        self.generations.survey(directory, log_name)?;
        self.generations.prune_all(directory, log_name, &self.keep());
        Ok(())
    }

    /// What may be kept of the generations now.
    pub(super) fn keep(&self) -> Keep {
        let retention = &self.options.retention;
        // Somebody whom an earlier run has left works on one: which one is not known.
        let strangers = self.handing.as_ref().is_some_and(|handing| handing.stranger().is_some());
        let taken = if strangers { self.limits.together.unwrap_or(0) } else { 0 };
        Keep {
            max_files: retention.max_files,
            max_age: retention.max_age,
            bytes: self.limits.generations.map(|most| most.saturating_sub(taken)),
        }
    }

    /// The log's time is over, however little is in it.
    pub(super) fn rotate_in_time(&mut self) {
        self.rotate_at = None;
        if let Err(error) = self.rotate_unless_empty() {
            tracing::warn!("{error}; it is rotated later");
            self.rotate_at = Some(Instant::now() + ROTATE_AGAIN);
        }
    }

    fn rotate_unless_empty(&mut self) -> Result<(), LogError> {
        if self.current.as_ref().is_some_and(|current| current.size() == 0) {
            return Ok(());
        }
        self.rotate()?;
        // A log that somebody else has changed is as it was found: with a time of its own where it
        // is another one, and still to be rotated where it is not.
        match &self.current {
            Some(current) if current.size() > 0 && self.rotate_at.is_none() => self.rotate(),
            _ => Ok(()),
        }
    }
}
