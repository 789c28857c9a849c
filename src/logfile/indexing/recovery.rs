//! Resuming an existing index: how much of it is valid for its log, also after a crash.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::super::current::Current;
use super::super::directory::Directory;
use super::super::entry::Timestamp;
use super::super::file_end;
use super::super::index::{CHECKED, Content, HEADER, Header, RECORD, Record, Stretch, hash};
use super::super::names;
use super::super::options::Format;
use super::Indexing;

/// How many records are read at a time, backwards from the end.
const WINDOW: u64 = super::FULL as u64;

/// As a reader reports it.
const NO_INDEX: &str = "it is not an index, or has an unknown version";

const OF_ANOTHER_LOG: &str = "it is not that of the log, which another program has replaced";

/// The valid part of an index.
struct Valid {
    format: Format,
    length: u64,
    indexed: u64,
    time: Timestamp,
    stretch: Option<Stretch>,
    checked: u64,
}

impl Indexing {
    /// Resumes the index of a log that was just opened. Records that are torn or beyond the end of
    /// the log are cut off. A file that is no index, or that of another log, is removed with a warning. A failure is reported
    /// by the first flush, which creates a new index.
    pub(in super::super) fn resume(
        &mut self,
        directory: &Directory,
        log_name: &str,
        log: &Current,
    ) {
        self.forget();
        let name = names::index(log_name);
        let Ok(Some((file, identity, size))) = directory.open_index(&name) else { return };
        match self.valid_part(&file, size, directory, log_name, log) {
            Ok(Ok(valid)) => {
                if valid.length != size && file.set_len(valid.length).is_err() {
                    return;
                }
                if self.stretch != valid.stretch {
                    self.first = None;
                }
                self.file = Some(identity);
                Valid {
                    format: self.format_on_disk,
                    length: self.length,
                    indexed: self.indexed,
                    time: self.time,
                    stretch: self.stretch,
                    checked: self.checked,
                } = valid;
            }
            Ok(Err(reason)) => {
                let index = directory.path().join(&name);
                tracing::warn!(index = %index.display(), "the time index is removed: {reason}");
                let _ = directory.remove(&name);
            }
            Err(_) => {}
        }
    }

    /// Reads the end of an index, or returns why it is not that of this log.
    fn valid_part(
        &self,
        file: &File,
        size: u64,
        directory: &Directory,
        log_name: &str,
        log: &Current,
    ) -> io::Result<Result<Valid, &'static str>> {
        let mut header = [0; HEADER];
        let Some(records) = size.checked_sub(HEADER as u64) else { return Ok(Err(NO_INDEX)) };
        file.read_exact_at(&mut header, 0)?;
        let Some(header) = Header::decode(&header) else { return Ok(Err(NO_INDEX)) };
        let same_file = header.inode == log.identity().inode();
        let (mut count, mut last) = valid_records(file, records / RECORD as u64)?;
        if last.is_some_and(|last| last.end() > log.size()) {
            // An empty log is a new file that reuses the inode of a removed log. Any other log has
            // lost its end in a crash of the machine.
            if log.size() == 0 || !same_file {
                return Ok(Err(OF_ANOTHER_LOG));
            }
            count = within(file, count, log.size())?;
            last = match count.checked_sub(1) {
                Some(number) => read(file, number)?,
                None => None,
            };
        }
        let indexed = last.map_or(0, |last| last.end());
        let check = last_check(file, count)?;
        let fits = match check {
            Some((offset, hash)) => is_checked(directory, log_name, offset, hash)?,
            // Of a copy there is no more evidence than that all of it is described.
            None => same_file || indexed == log.size(),
        };
        if !fits {
            return Ok(Err(OF_ANOTHER_LOG));
        }
        // An empty log has no format yet.
        let format = if log.is_empty() { self.format } else { header.format };
        let now = Header::new(format, log.identity().inode());
        if header != now {
            file.write_all_at(&now.encode(), 0)?;
        }
        Ok(Ok(Valid {
            format,
            length: HEADER as u64 + count * RECORD as u64,
            indexed,
            time: last.map_or(Timestamp::default(), |last| last.time),
            stretch: last.map(|last| last.stretch),
            checked: check.map_or(0, |(offset, _)| offset),
        }))
    }
}

/// The last check among the last records.
fn last_check(file: &File, count: u64) -> io::Result<Option<(u64, u32)>> {
    let from = count.saturating_sub(WINDOW);
    let mut bytes = vec![0; (count - from) as usize * RECORD];
    file.read_exact_at(&mut bytes, offset_of(from))?;
    let (encoded, _) = bytes.as_chunks::<RECORD>();
    Ok(encoded.iter().rev().filter_map(Record::decode).find_map(|record| match record.content {
        Content::Check(hash) => Some((record.offset, hash)),
        _ => None,
    }))
}

/// Whether the bytes of the log before `offset` have this hash.
fn is_checked(
    directory: &Directory,
    log_name: &str,
    offset: u64,
    expected: u32,
) -> io::Result<bool> {
    let Ok(Some((file, size))) = directory.open_to_read(log_name) else { return Ok(false) };
    Ok(size >= offset && hash(&file_end::end(&file, offset, CHECKED)?) == expected)
}

/// The number of valid records, before possible garbage from a crash, and the last of them.
fn valid_records(file: &File, records: u64) -> io::Result<(u64, Option<Record>)> {
    let mut count = records;
    while count > 0 {
        let from = count.saturating_sub(WINDOW);
        let mut bytes = vec![0; (count - from) as usize * RECORD];
        file.read_exact_at(&mut bytes, offset_of(from))?;
        let (encoded, _) = bytes.as_chunks::<RECORD>();
        let mut last: Option<Record> = None;
        count = from;
        for record in encoded.iter().map_while(Record::decode) {
            // The records before the first one that was read are taken to be in order.
            let offset = last.map_or(if from == 0 { 0 } else { record.offset }, |it| it.end());
            if record.offset != offset {
                break;
            }
            last = Some(record);
            count += 1;
        }
        if last.is_some() {
            return Ok((count, last));
        }
    }
    Ok((0, None))
}

/// How many records end within the first `size` bytes of the log.
fn within(file: &File, records: u64, size: u64) -> io::Result<u64> {
    let (mut inside, mut beyond) = (0, records);
    while inside < beyond {
        let middle = inside + (beyond - inside) / 2;
        match read(file, middle)? {
            Some(record) if record.end() <= size => inside = middle + 1,
            _ => beyond = middle,
        }
    }
    Ok(inside)
}

pub(super) fn read(file: &File, number: u64) -> io::Result<Option<Record>> {
    let mut bytes = [0; RECORD];
    file.read_exact_at(&mut bytes, offset_of(number))?;
    Ok(Record::decode(&bytes))
}

fn offset_of(number: u64) -> u64 {
    HEADER as u64 + number * RECORD as u64
}
