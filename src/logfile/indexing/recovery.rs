//! What an index that is found beside a log still says truly of it, after a crash or not.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::super::current::Current;
use super::super::directory::Directory;
use super::super::entry::Timestamp;
use super::super::index::{self, HEADER, Header, RECORD, Record};
use super::Indexing;

/// How many records are read at a time, from the end.
const WINDOW: u64 = super::FULL as u64;

/// How much of an index is true.
struct Truth {
    length: u64,
    told: u64,
    time: Timestamp,
}

impl Indexing {
    /// Takes up the index that lies beside a log that was just opened: its end is cut where it is
    /// torn or goes beyond the log. One of another log is removed. What fails here is told by the
    /// first flush, which begins a new one.
    pub(in super::super) fn resume(
        &mut self,
        directory: &Directory,
        log_name: &str,
        log: &Current,
    ) {
        self.forget();
        let name = index::name(log_name);
        let Ok(Some((file, identity, size))) = directory.open_index(&name) else { return };
        match truth(&file, size, log) {
            Ok(Some(truth)) => {
                if truth.length == size || file.set_len(truth.length).is_ok() {
                    self.file = Some(identity);
                    Truth { length: self.length, told: self.told, time: self.time } = truth;
                }
            }
            Ok(None) => {
                let _ = directory.remove(&name);
            }
            Err(_) => {}
        }
    }
}

/// Reads the end of an index; `None` where it is not of this log.
fn truth(file: &File, size: u64, log: &Current) -> io::Result<Option<Truth>> {
    let mut header = [0; HEADER];
    let Some(records) = size.checked_sub(HEADER as u64) else { return Ok(None) };
    file.read_exact_at(&mut header, 0)?;
    if Header::decode(&header) != Some(Header { inode: log.identity().inode() }) {
        return Ok(None);
    }
    let (mut count, mut last) = sound(file, records / RECORD as u64)?;
    if last.is_some_and(|last| last.end() > log.size()) {
        // An empty log beside an index that knows more is a new one, and has got the number of a
        // removed one's inode; any other has lost its end, with the machine's.
        if log.size() == 0 {
            return Ok(None);
        }
        count = within(file, count, log.size())?;
        last = match count.checked_sub(1) {
            Some(number) => read(file, number)?,
            None => None,
        };
    }
    Ok(Some(Truth {
        length: HEADER as u64 + count * RECORD as u64,
        told: last.map_or(0, |last| last.end()),
        time: last.map_or(Timestamp::default(), |last| last.time),
    }))
}

/// How many records there are before what a crash may have left at the end, and the last of them.
fn sound(file: &File, records: u64) -> io::Result<(u64, Option<Record>)> {
    let mut count = records;
    while count > 0 {
        let from = count.saturating_sub(WINDOW);
        let mut bytes = vec![0; (count - from) as usize * RECORD];
        file.read_exact_at(&mut bytes, place(from))?;
        let (encoded, _) = bytes.as_chunks::<RECORD>();
        let mut last: Option<Record> = None;
        count = from;
        for record in encoded.iter().map_while(Record::decode) {
            // What lies before the first one that was read is taken to be in order.
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

/// How many records end within so many bytes of the log.
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

fn read(file: &File, number: u64) -> io::Result<Option<Record>> {
    let mut bytes = [0; RECORD];
    file.read_exact_at(&mut bytes, place(number))?;
    Ok(Record::decode(&bytes))
}

fn place(number: u64) -> u64 {
    HEADER as u64 + number * RECORD as u64
}
