//! Checks the index with an independent reader written from `docs/formats.md`.

mod harm;
mod random;

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::{TempDir, tempdir};

use super::super::entry::RunEnd;
use super::super::{LogFile, LogOptions, Retention};
use super::*;

const MILLISECOND: u64 = 1_000_000;

/// What is known of one byte.
type Known = Option<(Stream, u64)>;

struct Fixture {
    directory: TempDir,
    log: LogFile,
    /// The wall clock.
    now: u64,
    /// The monotonic clock.
    monotonic: Instant,
}

impl Fixture {
    fn new(max_size: u64, max_files: u32) -> Self {
        let directory = tempdir().unwrap();
        let log = open(directory.path(), max_size, max_files);
        Self { directory, log, now: 1_000_000_000, monotonic: Instant::now() }
    }

    /// Writes, this many milliseconds after the last time.
    fn write(&mut self, milliseconds: u64, stream: Stream, bytes: &[u8]) {
        self.pass(milliseconds);
        self.log.write_at(self.moment(), &mut [], stream, bytes).unwrap();
    }

    /// Lets time pass on both clocks.
    fn pass(&mut self, milliseconds: u64) {
        self.now += milliseconds * MILLISECOND;
        self.monotonic += Duration::from_millis(milliseconds);
    }

    fn moment(&self) -> Moment {
        Moment { wall: Timestamp::from_nanoseconds(self.now), monotonic: self.monotonic }
    }

    fn mark(&mut self, mark: Mark) {
        self.log.mark_at(self.moment(), mark);
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.directory.path().join(format!("config/vm.log{suffix}"))
    }

    fn records(&self) -> Vec<Record> {
        records(&fs::read(self.path(".idx")).unwrap())
    }

    fn reopen(&mut self) {
        // The old one is dropped after the new one is there.
        self.log.flush_index();
        let retention = self.log.options.retention;
        self.log = open(self.directory.path(), retention.max_size, retention.max_files);
    }
}

fn open(directory: &Path, max_size: u64, max_files: u32) -> LogFile {
    let retention = Retention { max_size, max_files, ..Retention::default() };
    let options = LogOptions { retention, ..LogOptions::default() };
    LogFile::open(directory, "config", "vm", options).unwrap()
}

/// The records of an index as a reader takes them, without checks. The number of a stretch counts
/// from that of the first record.
fn records(index: &[u8]) -> Vec<Record> {
    let (header, body) = index.split_at(HEADER);
    assert_eq!(header[..13], *b"VMONIDX\n\x02\0\x18\0\0");
    let mut end = 0;
    let mut records: Vec<Record> = Vec::new();
    for record in body.as_chunks().0.iter().map_while(Record::decode) {
        if record.offset != end {
            break;
        }
        let is_in_order = |last: &Record| match last.stretch == record.stretch {
            true => last.time <= record.time,
            false => {
                last.stretch.next() == record.stretch
                    && record.content == Content::Mark(Mark::AfterStep)
            }
        };
        assert!(records.last().is_none_or(is_in_order), "{records:?}, {record:?}");
        end = record.end();
        records.push(record);
    }
    records.retain(|record| !matches!(record.content, Content::Check(_)));
    records.iter_mut().for_each(|record| record.stretch = Stretch::default());
    records
}

fn bytes(stream: Stream, milliseconds: u64, offset: u64, length: u32) -> Record {
    let time = Timestamp::from_nanoseconds(1_000_000_000 + milliseconds * MILLISECOND);
    let content = Content::Bytes { stream: Some(stream), length };
    Record { time, offset, content, stretch: Stretch::default() }
}

#[test]
fn neighbouring_chunks_of_one_stream_share_a_record_for_five_milliseconds() {
    let mut fixture = Fixture::new(0, 1);
    fixture.write(0, Stream::Stdout, b"abc");
    fixture.write(5, Stream::Stdout, b"de");
    fixture.write(1, Stream::Stdout, b"f");
    fixture.write(0, Stream::Stderr, b"g");
    fixture.write(0, Stream::Stdout, b"h");
    fixture.log.flush_index();
    let expected = [
        bytes(Stream::Stdout, 0, 0, 5),
        bytes(Stream::Stdout, 6, 5, 1),
        bytes(Stream::Stderr, 6, 6, 1),
        bytes(Stream::Stdout, 6, 7, 1),
    ];
    assert_eq!(fixture.records(), expected);
}

#[test]
fn a_stop_puts_the_index_on_disk() {
    let mut fixture = Fixture::new(0, 1);
    fixture.mark(Mark::Start { pid: 7 });
    assert!(!fixture.path(".idx").exists());
    assert!(fixture.log.deadline().is_some());
    fixture.mark(Mark::Stop(RunEnd::Exited(3)));
    assert_eq!(fixture.log.deadline(), None);
    let contents: Vec<_> = fixture.records().iter().map(|record| record.content).collect();
    let marks = [Mark::Start { pid: 7 }, Mark::Stop(RunEnd::Exited(3))];
    assert_eq!(contents, marks.map(Content::Mark));
}

#[test]
fn an_idle_log_has_no_deadline_and_no_buffer() {
    let mut fixture = Fixture::new(0, 1);
    assert_eq!(fixture.log.deadline(), None);
    fixture.write(0, Stream::Stdout, b"a");
    fixture.log.flush_index();
    assert!(fixture.log.deadline().is_none() && fixture.log.index.pending.is_none());
}

#[test]
fn a_rotation_takes_the_index_along_and_begins_a_new_one() {
    let mut fixture = Fixture::new(4, 9);
    fixture.write(0, Stream::Stdout, b"abcd");
    fixture.write(9, Stream::Stderr, b"ef");
    drop(std::mem::replace(&mut fixture.log, open(tempdir().unwrap().path(), 0, 0)));
    let rotated = records(&fs::read(fixture.path(".00000001.idx")).unwrap());
    assert_eq!(rotated, [bytes(Stream::Stdout, 0, 0, 4)]);
    assert_eq!(fixture.records(), [bytes(Stream::Stderr, 9, 0, 2)]);
}

#[test]
fn a_removed_generation_takes_its_index_along() {
    let mut fixture = Fixture::new(2, 1);
    fixture.write(0, Stream::Stdout, b"aabbccd");
    let kept = [".00000001", ".00000002", ".00000003"].map(|number| {
        (fixture.path(number).exists(), fixture.path(&format!("{number}.idx")).exists())
    });
    assert_eq!(kept, [(false, false), (false, false), (true, true)]);
    let mut fixture = Fixture::new(2, 0);
    fixture.write(0, Stream::Stdout, b"aab");
    fixture.log.flush_index();
    assert_eq!(fixture.records(), [bytes(Stream::Stdout, 0, 0, 1)]);
}

#[test]
fn times_do_not_decrease_when_the_clock_is_set_back() {
    let mut fixture = Fixture::new(0, 1);
    fixture.write(100, Stream::Stdout, b"a");
    fixture.now -= 50 * MILLISECOND;
    fixture.write(0, Stream::Stderr, b"b");
    fixture.log.flush_index();
    fixture.write(10, Stream::Stderr, b"c");
    fixture.reopen();
    fixture.mark(Mark::Start { pid: 1 });
    fixture.write(60, Stream::Stderr, b"d");
    fixture.log.flush_index();
    let times: Vec<_> = fixture.records().iter().map(|it| it.time.nanoseconds()).collect();
    let expected = [100, 100, 100, 100, 120].map(|time| 1_000_000_000 + time * MILLISECOND);
    assert_eq!(times, expected);
}

#[test]
fn a_step_of_the_clock_is_a_record_and_times_are_the_new_clocks_after_it() {
    let mut fixture = Fixture::new(0, 1);
    fixture.write(100, Stream::Stdout, b"a");
    let steps: [&dyn Fn(u64) -> u64; 2] =
        [&|now| now + 3_600_000 * MILLISECOND, &|now| now - 3_600_000 * MILLISECOND];
    let mut expected = vec![(fixture.now, None)];
    for step in steps {
        fixture.pass(40);
        expected.push((fixture.now, Some(Mark::BeforeStep)));
        fixture.now = step(fixture.now);
        expected.push((fixture.now, Some(Mark::AfterStep)));
        expected.push((fixture.now, None));
        fixture.write(0, Stream::Stdout, b"b");
    }
    fixture.log.flush_index();
    let records: Vec<_> = fixture
        .records()
        .into_iter()
        .map(|record| match record.content {
            Content::Mark(mark) => (record.time.nanoseconds(), Some(mark)),
            _ => (record.time.nanoseconds(), None),
        })
        .collect();
    assert_eq!(records, expected);
}

#[test]
fn a_clock_that_was_set_back_between_two_processes_is_a_step_without_the_time_before_it() {
    let mut fixture = Fixture::new(0, 1);
    fixture.write(100, Stream::Stdout, b"a");
    fixture.reopen();
    fixture.now -= 500 * MILLISECOND;
    fixture.write(0, Stream::Stdout, b"b");
    fixture.log.flush_index();
    let marks: Vec<_> = fixture.records().iter().map(|record| record.content).collect();
    assert_eq!(marks[1], Content::Mark(Mark::AfterStep));
    assert_eq!(fixture.records().last().map(|last| last.time.nanoseconds()), Some(fixture.now));
}

/// An index of the version before, as it lay on disk.
#[test]
fn an_index_of_the_version_before_is_continued() {
    let mut fixture = Fixture::new(0, 1);
    fixture.write(100, Stream::Stdout, b"before\n");
    fixture.log.flush_index();
    let mut index = fs::read(fixture.path(".idx")).unwrap();
    index[8] = 1;
    index[HEADER + 21..].fill(0);
    fs::write(fixture.path(".idx"), index).unwrap();
    fixture.reopen();
    fixture.write(100, Stream::Stderr, b"after\n");
    fixture.log.flush_index();
    let expected = [bytes(Stream::Stdout, 100, 0, 7), bytes(Stream::Stderr, 200, 7, 6)];
    assert_eq!(fixture.records(), expected);
}

#[cfg(feature = "reader")]
#[test]
fn each_stretch_between_steps_of_the_clock_is_searched_by_itself() {
    use super::super::read::{Entry, LogReader};

    // One file, and one for each three bytes.
    for max_size in [0, 3] {
        let mut fixture = Fixture::new(max_size, u32::MAX);
        let mut written: Vec<(u64, u8)> = Vec::new();
        for (number, step) in [0_i64, 7000, -5000, -3000, 4000].into_iter().enumerate() {
            fixture.now = fixture.now.saturating_add_signed(step * 1_000_000);
            for _ in 0..10 {
                let byte = b'a' + number as u8;
                fixture.write(100, Stream::Stdout, &[byte]);
                written.push((fixture.now, byte));
            }
        }
        fixture.log.flush_index();
        let mut reader = LogReader::open(fixture.directory.path(), "config", "vm").unwrap();
        for time in (0..12_000).step_by(50).map(|at| at * MILLISECOND) {
            let at = Timestamp::from_nanoseconds(time);
            let first = written.iter().position(|(when, _)| *when >= time);
            let last = written.iter().rposition(|(when, _)| *when < time);
            // A mark may be the only one at or after the time.
            let Some(first) = first.filter(|_| !(10_000..10_100).contains(&(time / MILLISECOND)))
            else {
                continue;
            };
            let places = [first, last.map_or(0, |last| last + 1)];
            let found = [reader.find_time(at).unwrap(), reader.find_end(at).unwrap()];
            for (place, found) in places.into_iter().zip(found) {
                reader.seek(found);
                let mut rest = Vec::new();
                while let Some(entry) = reader.next().unwrap() {
                    if let Entry::Bytes { bytes, .. } = entry {
                        rest.extend_from_slice(bytes);
                    }
                }
                let expected: Vec<u8> = written[place..].iter().map(|(_, byte)| *byte).collect();
                assert_eq!(rest, expected, "{max_size}, {time}");
            }
        }
    }
}

/// Stream and time that the records give each byte.
fn known(records: &[Record], size: usize) -> Vec<Known> {
    let mut known = vec![None; size];
    for record in records {
        if let Content::Bytes { stream: Some(stream), .. } = record.content {
            let range = record.offset as usize..record.end() as usize;
            for byte in &mut known[range] {
                *byte = Some((stream, record.time.nanoseconds()));
            }
        }
    }
    known
}

#[test]
fn records_after_a_truncation_of_log_or_index_are_correct() {
    let mut fixture = Fixture::new(0, 1);
    fixture.mark(Mark::Start { pid: 1 });
    for (stream, bytes) in
        [(Stream::Stdout, "one\n"), (Stream::Stderr, "three\n"), (Stream::Tty, "two\n")]
    {
        fixture.write(10, stream, bytes.as_bytes());
    }
    fixture.mark(Mark::Stop(RunEnd::Unknown));
    let whole = known(&fixture.records(), 14);
    let index = fs::read(fixture.path(".idx")).unwrap();
    let log = fs::read(fixture.path("")).unwrap();
    for (of_index, of_log) in (0..=index.len())
        .flat_map(|cut| [(cut, 14), (cut, 9)])
        .chain((0..=log.len()).map(|cut| (index.len(), cut)))
    {
        // In place, as a crash leaves it.
        fs::write(fixture.path(".idx"), &index[..of_index]).unwrap();
        fs::write(fixture.path(""), &log[..of_log]).unwrap();
        fixture.reopen();
        fixture.mark(Mark::Start { pid: 2 });
        fixture.write(10, Stream::Stdout, b"after");
        fixture.log.flush_index();
        let records = fixture.records();
        assert_eq!(records.last().map(Record::end), Some(of_log as u64 + 5));
        let now = known(&records, of_log + 5);
        assert!(now.ends_with(&[Some((Stream::Stdout, fixture.now)); 5]));
        for (byte, is) in now[..of_log].iter().enumerate() {
            assert!(is.is_none() || *is == whole[byte], "{of_index} {of_log}: byte {byte}");
        }
        // No complete, valid record is lost.
        let kept = of_index.saturating_sub(HEADER) / RECORD;
        let indexed = [0, 0, 4, 10, 14, 14, 14].get(kept).copied().unwrap();
        let first_unknown = now.iter().position(Option::is_none).unwrap_or(of_log);
        let expected = if indexed <= of_log {
            indexed
        } else {
            [0, 4, 10].into_iter().filter(|end| *end <= of_log).max().unwrap()
        };
        assert_eq!(first_unknown, expected, "{of_index} {of_log}");
    }
}
