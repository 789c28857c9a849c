//! A time index, read by the number of a record.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::SystemTime;

use super::super::current::Identity;
use super::super::index::{Content, HEADER, Header, RECORD, Record};
use super::super::options::Format;
use super::content::read_at;

/// How many records are read and buffered at a time: about a page.
const BLOCK: u64 = 170;

/// The file at the path of an index.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) path: PathBuf,
    /// The file, with its creation time where the file system has one: the inode number of a
    /// removed index may be reused for the next one.
    pub(super) identity: (Identity, Option<SystemTime>),
    /// `None` if the file is not an index, or one of an unknown version.
    pub(super) times: Option<Times>,
}

impl Index {
    /// The inode of the log that the index was made for.
    pub(super) fn inode(&self) -> Option<u64> {
        self.times.as_ref().map(|times| times.header.inode)
    }

    /// The format of the log; `None` if this is not an index.
    pub(super) fn format(&self) -> Option<Format> {
        self.times.as_ref().map(|times| times.header.format)
    }
}

/// An open index, and a buffer with the records that were read last.
#[derive(Debug)]
pub(super) struct Times {
    file: File,
    header: Header,
    records: Vec<u8>,
    /// The number of the first record in the buffer.
    first: u64,
}

impl Times {
    /// `None` if the file is not an index, or one of an unknown version.
    pub(super) fn new(file: File) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER];
        let read = read_at(&file, &mut header, 0)?;
        let header = Header::decode(&header).filter(|_| read == HEADER);
        Ok(header.map(|header| Self { file, header, records: Vec::new(), first: 0 }))
    }

    /// Whether the file was unlinked.
    pub(super) fn is_removed(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
    }

    /// The record of this number; `None` at the end of the index, or if it is damaged.
    pub(super) fn record(&mut self, number: u64) -> io::Result<Option<Record>> {
        if let Some(record) = self.buffered(number) {
            return Ok(Record::decode(record));
        }
        self.first = number;
        self.records.resize(BLOCK as usize * RECORD, 0);
        let offset = (HEADER as u64).saturating_add(number.saturating_mul(RECORD as u64));
        let read = read_at(&self.file, &mut self.records, offset);
        self.records.truncate(*read.as_ref().unwrap_or(&0));
        read?;
        Ok(self.buffered(number).and_then(Record::decode))
    }

    /// As [`record`](Self::record), from the file.
    pub(super) fn reread(&mut self, number: u64) -> io::Result<Option<Record>> {
        self.records.clear();
        self.record(number)
    }

    fn buffered(&self, number: u64) -> Option<&[u8; RECORD]> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.records.get(place.checked_mul(RECORD)?..)?.first_chunk()
    }

    /// How many whole records the file size allows.
    fn room(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len().saturating_sub(HEADER as u64) / RECORD as u64)
    }

    /// The number of the first record for which `is_before` is false, by bisection. A missing
    /// record counts as one for which it is false.
    pub(super) fn partition_point(
        &mut self,
        is_before: impl Fn(&Record) -> bool,
    ) -> io::Result<u64> {
        let room = self.room()?;
        self.partition(0..room, is_before)
    }

    /// As [`partition_point`](Self::partition_point), among the records from this number on.
    pub(super) fn partition_from(
        &mut self,
        from: u64,
        is_before: impl Fn(&Record) -> bool,
    ) -> io::Result<u64> {
        let room = self.room()?;
        self.partition(from..room, is_before)
    }

    /// As [`partition_point`](Self::partition_point), among the records of these numbers.
    pub(super) fn partition(
        &mut self,
        numbers: Range<u64>,
        is_before: impl Fn(&Record) -> bool,
    ) -> io::Result<u64> {
        let (mut low, mut high) = (numbers.start, numbers.end);
        // The common case: it is true for all of them.
        if let Some(last) = high.checked_sub(1).filter(|last| *last >= low)
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

    /// The last valid record. A crash may have left garbage behind it.
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

    /// The last check among the last records: the offset in the log, and the hash.
    pub(super) fn last_check(&mut self) -> io::Result<Option<(u64, u32)>> {
        let end = self.partition_point(|_| true)?;
        for number in (end.saturating_sub(BLOCK)..end).rev() {
            if let Some(Record { offset, content: Content::Check(hash), .. }) =
                self.record(number)?
            {
                return Ok(Some((offset, hash)));
            }
        }
        Ok(None)
    }
}
