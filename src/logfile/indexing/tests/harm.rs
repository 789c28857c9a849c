//! What others may do to an index, and a disk that takes none.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::*;

fn contents(records: &[Record]) -> Vec<(u64, Content)> {
    records.iter().map(|record| (record.offset, record.content)).collect()
}

fn unknown(offset: u64, length: u32) -> (u64, Content) {
    (offset, Content::Bytes { stream: None, length })
}

fn stdout(offset: u64, length: u32) -> (u64, Content) {
    (offset, Content::Bytes { stream: Some(Stream::Stdout), length })
}

impl Fixture {
    fn write_and_flush(&mut self, bytes: &[u8]) {
        self.write(10, Stream::Stdout, bytes);
        self.log.flush_index();
    }

    /// Has the next write look where the log is.
    fn a_second_later(&mut self) {
        self.log.checked = None;
    }
}

#[test]
fn an_index_is_private_to_its_owner() {
    let mut fixture = Fixture::new(0, 1);
    fixture.write_and_flush(b"a");
    let mode = fs::metadata(fixture.path(".idx")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_non_file_in_place_of_an_index_blocks_no_log_and_is_kept() {
    let mut fixture = Fixture::new(0, 1);
    let (index, target) = (fixture.path(".idx"), fixture.directory.path().join("target"));
    fs::write(&target, "mine").unwrap();
    let plant: [&dyn Fn(); 3] = [
        &|| symlink(&target, &index).unwrap(),
        &|| mkfifo(&index, Mode::S_IRUSR | Mode::S_IWUSR).unwrap(),
        &|| fs::create_dir(&index).unwrap(),
    ];
    for plant in plant {
        plant();
        let planted = fs::symlink_metadata(&index).unwrap().ino();
        fixture.reopen();
        fixture.write_and_flush(b"ab");
        fixture.write(10, Stream::Stderr, b"c");
        fixture.mark(Mark::Stop(RunEnd::Exited(0)));
        assert!(fixture.log.deadline().is_some_and(|again| again > Instant::now()));
        assert_eq!(fs::symlink_metadata(&index).unwrap().ino(), planted);
        fs::remove_file(&index).or_else(|_| fs::remove_dir(&index)).unwrap();
        fixture.log.flush_index();
        let records = fixture.records();
        assert_eq!(
            records.last().map(Record::end),
            Some(fs::metadata(fixture.path("")).unwrap().len())
        );
        let times =
            records.iter().filter(|it| !matches!(it.content, Content::Bytes { stream: None, .. }));
        assert_eq!(times.count(), 3);
        assert!(fixture.log.deadline().is_none());
        fs::remove_file(&index).unwrap();
    }
    assert_eq!(fs::read(&target).unwrap(), b"mine");
    assert_eq!(fs::read(fixture.path("")).unwrap(), b"abcabcabc");
}

#[test]
fn an_index_that_was_removed_or_replaced_is_created_again() {
    let mut fixture = Fixture::new(0, 1);
    fixture.write_and_flush(b"ab");
    let index = fixture.path(".idx");
    let copy = fixture.directory.path().join("copy");
    let harm: [&dyn Fn(); 4] = [
        &|| fs::remove_file(&index).unwrap(),
        // Another file of the same bytes is another file.
        &|| {
            fs::copy(&index, &copy).unwrap();
            fs::rename(&copy, &index).unwrap();
        },
        &|| fs::write(&index, "short").unwrap(),
        &|| fs::rename(&index, &copy).unwrap(),
    ];
    for (size, harm) in (2..).zip(harm) {
        harm();
        fixture.write_and_flush(b"c");
        assert_eq!(contents(&fixture.records()), [unknown(0, size), stdout(size.into(), 1)]);
    }
}

#[test]
fn bytes_that_another_process_has_appended_to_an_index_are_overwritten() {
    let mut fixture = Fixture::new(0, 1);
    fixture.write_and_flush(b"ab");
    let mut index = fs::read(fixture.path(".idx")).unwrap();
    index.extend([0xff; 100]);
    fs::write(fixture.path(".idx"), index).unwrap();
    fixture.write_and_flush(b"c");
    assert_eq!(fs::metadata(fixture.path(".idx")).unwrap().len() as usize, HEADER + 2 * RECORD);
    assert_eq!(contents(&fixture.records()), [stdout(0, 2), stdout(2, 1)]);
}

#[test]
fn zeros_and_records_beyond_the_log_are_truncated() {
    let mut fixture = Fixture::new(0, 1);
    for _ in 0..500 {
        fixture.write(10, Stream::Stdout, b"abc");
    }
    fixture.log.flush_index();
    let mut index = fs::read(fixture.path(".idx")).unwrap();
    index.extend([0; 20_000]);
    fs::write(fixture.path(".idx"), index).unwrap();
    fixture.reopen();
    assert_eq!(fixture.records().len(), 500);
    assert_eq!(fs::metadata(fixture.path(".idx")).unwrap().len() as usize, HEADER + 500 * RECORD);
    // In the middle of a record.
    File::options().write(true).open(fixture.path("")).unwrap().set_len(601).unwrap();
    fixture.reopen();
    fixture.write_and_flush(b"d");
    let records = fixture.records();
    assert_eq!(records.len(), 202);
    assert_eq!(contents(&records[199..]), [stdout(597, 3), unknown(600, 1), stdout(601, 1)]);
}

#[test]
fn a_log_that_was_copied_and_truncated_gets_a_new_index() {
    let mut fixture = Fixture::new(0, 1);
    fixture.write_and_flush(b"before");
    File::options().write(true).open(fixture.path("")).unwrap().set_len(0).unwrap();
    // Before the writer looks, it takes this for the bytes behind the others.
    fixture.write_and_flush(b"between");
    fixture.a_second_later();
    fixture.write_and_flush(b"after");
    assert_eq!(contents(&fixture.records()), [unknown(0, 7), stdout(7, 5)]);
}

#[test]
fn bytes_that_another_process_has_appended_to_the_log_shift_nothing() {
    let mut fixture = Fixture::new(0, 1);
    fixture.write_and_flush(b"before");
    fs::write(fixture.path(""), "before and more").unwrap();
    fixture.a_second_later();
    fixture.write_and_flush(b"after");
    assert_eq!(contents(&fixture.records()), [unknown(0, 15), stdout(15, 5)]);
}

#[test]
fn the_index_of_a_moved_log_is_not_used_for_the_next_one() {
    let mut fixture = Fixture::new(0, 1);
    fixture.write_and_flush(b"before");
    fixture.write(10, Stream::Stdout, b"last");
    // As logrotate(8) does it.
    fs::rename(fixture.path(""), fixture.path(".1")).unwrap();
    fixture.log.reopen().unwrap();
    assert!(!fixture.path(".idx").exists());
    fixture.write_and_flush(b"after");
    assert_eq!(contents(&fixture.records()), [stdout(0, 5)]);
    // Without a move it stays.
    fixture.write(10, Stream::Stdout, b"more");
    fixture.log.reopen().unwrap();
    fixture.write_and_flush(b"still");
    assert_eq!(contents(&fixture.records()), [stdout(0, 5), stdout(5, 4), stdout(9, 5)]);
}

#[test]
fn a_removed_log_gets_no_index_for_its_pending_records() {
    let mut fixture = Fixture::new(0, 1);
    fixture.write(10, Stream::Stdout, b"gone");
    fs::remove_file(fixture.path("")).unwrap();
    fixture.log.flush_index();
    assert!(!fixture.path(".idx").exists() && fixture.log.deadline().is_none());
    fs::remove_dir_all(fixture.directory.path().join("config")).unwrap();
    fixture.write(10, Stream::Stdout, b"gone");
    fixture.log.flush_index();
    assert!(!fixture.directory.path().join("config").exists());
}

#[test]
fn an_index_that_a_crash_has_left_under_the_next_number_is_the_logs_again() {
    let mut fixture = Fixture::new(4, 9);
    fixture.write_and_flush(b"abcdef");
    let index = fs::read(fixture.path(".idx")).unwrap();
    fs::rename(fixture.path(".idx"), fixture.path(".00000002.idx")).unwrap();
    fixture.reopen();
    assert_eq!(fs::read(fixture.path(".idx")).unwrap(), index);
    fixture.write_and_flush(b"ghi");
    assert_eq!(contents(&fixture.records()), [stdout(0, 1)]);
    let next = [".00000002", ".00000003"].into_iter().find(|it| fixture.path(it).exists()).unwrap();
    let rotated = records(&fs::read(fixture.path(&format!("{next}.idx"))).unwrap());
    assert_eq!(contents(&rotated), [stdout(0, 2), stdout(2, 2)]);
}

#[test]
fn a_taken_number_keeps_log_and_index_together() {
    let mut fixture = Fixture::new(4, 9);
    fixture.write(10, Stream::Stdout, b"abcde");
    fs::write(fixture.path(".00000002"), "mine").unwrap();
    fs::write(fixture.path(".00000003.idx"), "mine").unwrap();
    fixture.write(10, Stream::Stdout, b"fghi");
    assert_eq!(fs::read(fixture.path(".00000002")).unwrap(), b"mine");
    assert!(!fixture.path(".00000002.idx").exists());
    assert_eq!(fs::read(fixture.path(".00000003.idx")).unwrap(), b"mine");
    assert_eq!(fs::read(fixture.path(".00000004")).unwrap(), b"efgh");
    let rotated = records(&fs::read(fixture.path(".00000004.idx")).unwrap());
    assert_eq!(contents(&rotated), [stdout(0, 1), stdout(1, 3)]);
}

#[test]
fn an_index_that_can_not_be_written_takes_little_memory() {
    let mut fixture = Fixture::new(0, 1);
    fs::create_dir(fixture.path(".idx")).unwrap();
    for _ in 0..5 * FULL {
        fixture.write(1, Stream::Stdout, b"a");
        fixture.write(1, Stream::Stderr, b"b");
        let waits = fixture.log.index.pending.as_ref().unwrap().records.capacity();
        assert!(waits <= 2 * FULL, "{waits}");
    }
    assert!(fixture.log.index.failures < 5, "it is not tried at each byte");
    fs::remove_dir(fixture.path(".idx")).unwrap();
    fixture.log.flush_index();
    let all = 10 * FULL as u64;
    let records = fixture.records();
    assert!(records.len() < FULL + 2);
    assert_eq!(records.last().map(Record::end), Some(all));
}

#[test]
fn with_the_index_off_an_earlier_index_stays_valid() {
    let mut fixture = Fixture::new(8, 9);
    fixture.write_and_flush(b"abc\n");
    let retention = fixture.log.options.retention;
    let options = LogOptions { retention, index: false, ..LogOptions::default() };
    let directory = fixture.directory.path().to_owned();
    fixture.log = LogFile::open(&directory, "config", "vm", options).unwrap();
    fixture.mark(Mark::Start { pid: 1 });
    fixture.write_and_flush(b"def\n");
    assert_eq!(contents(&fixture.records()), [stdout(0, 4)]);
    fixture.write_and_flush(b"ghi\n");
    assert!(!fixture.path(".idx").exists());
    let rotated = records(&fs::read(fixture.path(".00000001.idx")).unwrap());
    assert_eq!(contents(&rotated), [stdout(0, 4)]);
    // And what is not true goes.
    fs::write(fixture.path(".idx"), [0; 80]).unwrap();
    drop(LogFile::open(&directory, "config", "vm", options).unwrap());
    assert!(!fixture.path(".idx").exists());
}
