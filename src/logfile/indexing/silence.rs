//! Marks with no byte behind them: of runs that print nothing, of a terminal that is resized again and
//! again. They go before they take the room of output.

use std::io;

use super::super::directory::Directory;
use super::super::index::{HEADER, RECORD};
use super::super::names;
use super::Indexing;
use super::recovery;

impl Indexing {
    /// Removes the marks at the end of the index if together they take more than `share` bytes: all
    /// but the first, which may end a run with output, and those of the run that is on. Records must
    /// not be pending.
    pub(in super::super) fn clear_silence(
        &mut self,
        directory: &Directory,
        log_name: &str,
        share: u64,
    ) {
        if self.pending.is_some() || self.length < self.cleared.saturating_add(share) {
            return;
        }
        self.cleared = self.length;
        let name = names::index(log_name);
        if let Ok(Some(file)) = self.open_existing(directory, &name)
            && let Ok(Some(length)) = self.cut_silence(&file, share)
        {
            (self.length, self.cleared) = (length, length);
        }
    }

    /// The new length; `None` if the index stays as it is.
    fn cut_silence(&self, file: &std::fs::File, share: u64) -> io::Result<Option<u64>> {
        let count = (self.length - HEADER as u64) / RECORD as u64;
        let mut first = count;
        while let Some(number) = first.checked_sub(1)
            && let Some(record) = recovery::read(file, number)?
            && record.length() == 0
        {
            first = number;
        }
        let kept = first + 1;
        if kept >= count || (count - kept) * (RECORD as u64) < share {
            return Ok(None);
        }
        let length = HEADER as u64 + kept * RECORD as u64;
        file.set_len(length)?;
        Ok(Some(length))
    }
}
