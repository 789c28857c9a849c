//! Marks between the bytes of a log, and the check by which a log is known again.

use super::LogFile;
use super::clock::Moment;
use super::entry::Mark;
use super::file_end;
use super::index::{CHECKED, hash};

impl LogFile {
    /// Records an event before the next bytes in the time index. A [`Mark::Stop`] also writes the
    /// index to disk; so does dropping the `LogFile`.
    ///
    /// Without an index this does nothing. A failure to write the index is a warning.
    pub fn mark(&mut self, mark: Mark) {
        self.mark_at(self.now(), mark);
    }

    pub(super) fn mark_at(&mut self, now: Moment, mark: Mark) {
        // The line that an earlier run has left open is not the next one's.
        if matches!(mark, Mark::Stop(_)) || (matches!(mark, Mark::Start { .. }) && self.left_open) {
            let _ = self.end_lines(now.wall);
        }
        self.make_room_for_mark();
        // Not open after a failed rotation: the mark is lost.
        let Some(current) = &self.current else { return };
        let offset = current.size();
        if matches!(mark, Mark::Stop(_)) {
            self.check_end(now);
        }
        self.index.mark(mark, offset, now);
        // In a log of records, a mark is on disk before the bytes that follow it.
        if matches!(mark, Mark::Stop(_)) || self.index.is_of_marks() {
            self.flush_index();
        } else {
            self.flush_full_index();
        }
    }

    /// Rotates the log if its index has no room for a mark, unless marks can go for it.
    fn make_room_for_mark(&mut self) {
        let share = self.limits.share_of_marks();
        if self.index.size_at_next() > share
            && let Ok(Some(directory)) = self.place.existing()
        {
            self.flush_index();
            self.index.clear_silence(&directory, self.place.log_name(), share);
        }
        let Some(current) = &self.current else { return };
        if self.limits.are_reached(current.size(), self.index.size_at_next())
            && let Err(error) = self.rotate()
        {
            tracing::debug!(%error, "the time index grows beyond its limit");
        }
    }

    /// Records a hash of the end of the log, by which it is known again.
    fn check_end(&mut self, now: Moment) {
        let Some(current) = &self.current else { return };
        let size = current.size();
        if self.index.needs_check(size)
            && let Ok(Some(directory)) = self.place.existing()
            && let Ok(Some((file, _))) = directory.open_to_read(self.place.log_name())
            && current.is(&file)
            && let Ok(end) = file_end::end(&file, size, CHECKED)
        {
            self.index.check(hash(&end), size, now);
        }
    }
}
