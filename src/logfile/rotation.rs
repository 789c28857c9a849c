//! Rotation: when the log is full, when it is too old, and when it is opened beyond its limits.

use std::time::{Duration, Instant};

use super::current::{Change, Current};
use super::directory::Directory;
use super::generations::Keep;
use super::{KeptGenerations, LogError, LogFile, LogLock, names};

/// How long after a failure a rotation by age is tried again.
const ROTATE_AGAIN: Duration = Duration::from_secs(10);

impl LogFile {
    /// Makes room in the log. Another process may have rotated, removed or truncated it, so the
    /// path is checked first: a rename must not hit another process's file.
    pub(super) fn rotate(&mut self) -> Result<(), LogError> {
        let directory = self.place.directory()?;
        let found = directory.stat(self.place.log_name())?;
        let change = match &mut self.current {
            Some(current) => current.compare(found.as_ref()),
            None => Change::Replaced,
        };
        match change {
            Change::Same => self.retire(&directory),
            Change::Resized => {
                self.resized(&directory);
                Ok(())
            }
            Change::Replaced => {
                self.close();
                self.open_in(&directory)
            }
        }
    }

    /// Makes the log a generation, or removes it if none are kept, and creates a new one.
    pub(super) fn retire(&mut self, directory: &Directory) -> Result<(), LogError> {
        let log_name = self.place.log_name();
        self.generations.survey(directory, log_name)?;
        if let Some(queue) = &mut self.queue
            && self.options.retention.max_files > 0
        {
            queue.expect(self.generations.next(), directory, log_name);
        }
        if let Some(current) = &self.current {
            self.index.flush(directory, log_name, current);
        }
        if self.options.retention.max_files == 0 {
            // Unlinked, not truncated: a reader that has it open reads it to the end, and notices
            // the new file (stat(2), `tail -F`).
            if self.index.is_there() {
                let _ = directory.remove_regular(&names::index(log_name));
            }
            directory.remove(log_name)?;
        } else {
            self.generations.add(directory, log_name, self.index.is_there())?;
        }
        self.rotated = true;
        // The open file is a generation now and must not grow, also if a step below fails.
        self.close_current();
        let log_name = self.place.log_name();
        self.index.forget();
        // Before the new file is created, which may need the blocks on a full disk.
        self.generations.prune(directory, log_name, &self.keep());
        self.open_in(directory)
    }

    /// The generations, if the log has been rotated since it was opened.
    pub(crate) fn rotated(&self) -> Option<KeptGenerations> {
        let (current, oldest) = (self.generations.next(), self.generations.oldest());
        self.rotated.then(|| KeptGenerations { log: self.path().to_owned(), current, oldest })
    }

    /// Ends writing to the open file, and keeps its lock.
    pub(super) fn close_current(&mut self) {
        if let Some(current) = self.current.take() {
            self.retired = Some(current.into_lock());
        }
    }

    /// Closes the log, and returns its lock.
    pub(crate) fn into_lock(mut self) -> Option<LogLock> {
        let _ = self.finish();
        self.close();
        self.retired.take()
    }

    /// Applies the limits on age and total size to the generations of earlier runs.
    pub(super) fn limit_at_start(&mut self, directory: &Directory) -> Result<(), LogError> {
        let (age, together) = (self.options.retention.max_age, self.limits.together);
        if age.is_none() && together.is_none() {
            return Ok(());
        }
        let log_name = self.place.log_name();
        self.generations.survey(directory, log_name)?;
        if age.is_some() {
            let is_empty = self.current.as_ref().is_none_or(Current::is_empty);
            let newest = self.generations.newest_first(log_name).next().filter(|_| is_empty);
            let newest = newest.unwrap_or_else(|| log_name.to_owned());
            self.generations.count_ages(directory, &newest);
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

    /// The limits on the generations now.
    pub(super) fn keep(&self) -> Keep {
        let retention = &self.options.retention;
        // A post-rotate command of an earlier run works on an unknown generation, which it may keep
        // open after it is removed.
        let is_inherited = self.queue.as_ref().is_some_and(|queue| queue.inherited().is_some());
        let reserved = if is_inherited { self.limits.together.unwrap_or(0) } else { 0 };
        Keep {
            max_files: retention.max_files,
            max_age: retention.max_age,
            bytes: self.limits.generations.map(|most| most.saturating_sub(reserved)),
        }
    }

    /// Rotates the log by age, whatever its size.
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
        // If another process had replaced the log, the new one has its own time. If it was only
        // resized, it is still to be rotated.
        match &self.current {
            Some(current) if current.size() > 0 && self.rotate_at.is_none() => self.rotate(),
            _ => Ok(()),
        }
    }
}
