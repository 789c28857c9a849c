//! A time index, read by the number of a record.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use super::super::index::{HEADER, Header, RECORD, Record};
use super::content::read_at;

/// How many records are read at a time, and kept: a page of them.
const BLOCK: u64 = 170;

/// An open index, and the part of it that was read last.
#[derive(Debug)]
pub(super) struct Times {
    file: File,
    inode: u64,
    records: Vec<u8>,
    /// The number of the first record that was read last.
    first: u64,
}

impl Times {
    /// `None` for what is no index, or one of another version.
    pub(super) fn new(file: File) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER];
        let read = read_at(&file, &mut header, 0)?;
        let header = Header::decode(&header).filter(|_| read == HEADER);
        Ok(header.map(|Header { inode }| Self { file, inode, records: Vec::new(), first: 0 }))
    }

    /// Of the log that it was begun for.
    pub(super) fn inode(&self) -> u64 {
        self.inode
    }

    /// Whether the file has no name any more.
    pub(super) fn is_removed(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
    }

    /// The record of this number; `None` where the index has ended, or is none any more.
    pub(super) fn record(&mut self, number: u64) -> io::Result<Option<Record>> {
        if let Some(record) = self.kept(number) {
            return Ok(Record::decode(record));
        }
        self.first = number;
        self.records.resize(BLOCK as usize * RECORD, 0);
        let offset = (HEADER as u64).saturating_add(number.saturating_mul(RECORD as u64));
        let read = read_at(&self.file, &mut self.records, offset);
        self.records.truncate(*read.as_ref().unwrap_or(&0));
        read?;
        Ok(self.kept(number).and_then(Record::decode))
    }

    fn kept(&self, number: u64) -> Option<&[u8; RECORD]> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.records.get(place.checked_mul(RECORD)?..)?.first_chunk()
    }

    /// How many whole records the file has room for.
    fn room(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len().saturating_sub(HEADER as u64) / RECORD as u64)
    }

    /// The number of the first record of which `is_before` does not hold. Those of which it does
    /// come first; a place without a record counts as one of which it does not.
    pub(super) fn partition_point(
        &mut self,
        is_before: impl Fn(&Record) -> bool,
    ) -> io::Result<u64> {
        let (mut low, mut high) = (0, self.room()?);
        // Nearly always the last one tells that there is nothing to look for.
        if let Some(last) = high.checked_sub(1)
            && self.record(last)?.is_some_and(|record| is_before(&record))
        {
            return Ok(high);
        }
        while low < high {
            let middle = low + (high - low) / 2;
            match self.record(middle)? {
                Some(record) if is_before(&record) => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// The last record, before what a crash may have left behind it.
    pub(super) fn last(&mut self) -> io::Result<Option<Record>> {
        let mut number = self.partition_point(|_| true)?;
        while let Some(last) = number.checked_sub(1) {
            let before = match last.checked_sub(1) {
                Some(before) => self.record(before)?.map(|record| record.end()),
                None => Some(0),
            };
            let record = self.record(last)?;
            if before.is_some() && record.map(|record| record.offset) == before {
                return Ok(record);
            }
            number = last;
        }
        Ok(None)
    }
}
