//! Reading back the end of a log that is being written, by its writer.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::directory::Directory;
use super::{LogError, LogFile};

impl LogFile {
    /// The last `most` bytes of the log, or as many as there are, over all generations that are
    /// not compressed. What is written next follows them without a gap.
    ///
    /// # Errors
    ///
    /// The log, or its directory, can't be read.
    pub fn tail(&mut self, most: usize) -> Result<Vec<u8>, LogError> {
        let directory = self.place.directory()?;
        let log = self.place.log_name();
        let mut tail = read_end(&directory, log, most)?.unwrap_or_default();
        if tail.len() < most {
            self.generations.survey(&directory, log)?;
        }
        for generation in self.generations.newest_first(log) {
            let Some(left) = most.checked_sub(tail.len()).filter(|&left| left > 0) else { break };
            // One that was compressed or removed is a gap: what lies before it does not belong.
            let Some(mut older) = read_end(&directory, &generation, left)? else { break };
            older.append(&mut tail);
            tail = older;
        }
        Ok(tail)
    }
}

/// The last bytes of one file, `most` at most; `None` where there is no such file.
fn read_end(directory: &Directory, name: &str, most: usize) -> Result<Option<Vec<u8>>, LogError> {
    let Some((file, size)) = directory.open_to_read(name)? else { return Ok(None) };
    let cannot = |error| LogError::io("read the log", directory.path().join(name), error);
    let count = usize::try_from(size).unwrap_or(usize::MAX).min(most);
    let mut bytes = vec![0; count];
    let read = read_at(&file, &mut bytes, size - count as u64).map_err(cannot)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Reads until `bytes` are full or the file is at its end: somebody may have truncated it.
fn read_at(file: &File, bytes: &mut [u8], from: u64) -> std::io::Result<usize> {
    let mut count = 0;
    while let Some(rest) = bytes.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, from + count as u64) {
            Ok(0) => break,
            Ok(read) => count += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}
