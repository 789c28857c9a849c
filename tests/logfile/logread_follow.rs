//! Reading a log while it is written, rotated, compressed, moved and removed.

use std::fs;
use std::io::Write;
use std::path::Path;

use tempfile::tempdir;
use vmon::logfile::read::{Entry, Hold, LogReader, Warning};
use vmon::logfile::{LogFile, LogOptions, Retention, Stream};

use crate::common::logs::{Chunk, Made, STDOUT, generation};

fn log(log_dir: &Path, max_size: u64, max_files: u32) -> LogFile {
    let retention = Retention::default().max_size(max_size).max_files(max_files);
    let options = LogOptions::default().retention(retention);
    LogFile::open(log_dir, "config", "vm", options).unwrap()
}

fn open(log_dir: &Path) -> LogReader {
    LogReader::open(log_dir, "config", "vm").unwrap()
}

fn bytes(reader: &mut LogReader) -> String {
    let mut all = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        if let Entry::Bytes { bytes, .. } = entry {
            all.extend_from_slice(bytes);
        }
    }
    String::from_utf8(all).unwrap()
}

#[test]
fn a_reader_goes_on_through_rotations_and_repeats_nothing() {
    let directory = tempdir().unwrap();
    let mut log = log(directory.path(), 10, u32::MAX);
    log.write(Stream::Stdout, b"first\n").unwrap();
    let mut reader = open(directory.path());
    assert_eq!(bytes(&mut reader), "first\n");
    assert_eq!(bytes(&mut reader), "");
    let mut unread = String::new();
    for line in 0..40 {
        let line_text = format!("line {line}\n");
        log.write(Stream::Stdout, line_text.as_bytes()).unwrap();
        unread.push_str(&line_text);
        if line % 7 == 0 {
            assert_eq!(bytes(&mut reader), std::mem::take(&mut unread));
        }
    }
    assert_eq!(reader.take_warnings(), []);
}

#[test]
fn generations_that_are_removed_before_they_are_read_are_reported() {
    let directory = tempdir().unwrap();
    let mut log = log(directory.path(), 4, u32::MAX);
    log.write(Stream::Stdout, b"aaaabbbbccccdd").unwrap();
    let mut reader = open(directory.path());
    for number in 1..3 {
        fs::remove_file(directory.path().join(format!("config/vm.log.0000000{number}"))).unwrap();
    }
    assert_eq!(bytes(&mut reader), "ccccdd");
    let warnings = reader.take_warnings();
    assert!(matches!(warnings[..], [Warning::Missed { first: 1, last: 2, .. }]), "{warnings:?}");
}

#[test]
fn a_reader_that_falls_behind_reports_what_it_has_missed() {
    let directory = tempdir().unwrap();
    let mut log = log(directory.path(), 4, 2);
    log.write(Stream::Stdout, b"aaaabb").unwrap();
    let mut reader = open(directory.path());
    assert_eq!(bytes(&mut reader), "aaaabb");
    // Of 2 the reader has the file; 3 and 4 go, 5 and 6 stay.
    log.write(Stream::Stdout, b"bbccccddddeeeeffffgg").unwrap();
    assert_eq!(bytes(&mut reader), "bbeeeeffffgg");
    let warnings = reader.take_warnings();
    assert!(matches!(warnings[..], [Warning::Missed { first: 3, last: 4, .. }]), "{warnings:?}");
}

#[test]
fn a_file_that_is_compressed_or_removed_while_it_is_read_is_read_to_its_end() {
    let made = Made::new();
    let text: String = (0..50_000).map(|line| format!("line {line}\n")).collect();
    made.write(&generation(1), text.as_bytes());
    made.write(&generation(2), text.as_bytes());
    made.write("", b"end\n");
    let mut reader = open(made.log_dir());
    let mut all = Vec::new();
    let Some(Entry::Bytes { bytes: first, .. }) = reader.next().unwrap() else { panic!() };
    all.extend_from_slice(first);
    made.compress(&generation(1), "zstd");
    made.compress(&generation(2), "gzip");
    all.extend(bytes(&mut reader).into_bytes());
    assert!(all == [&text, &text, "end\n"].concat().as_bytes());
    assert_eq!(reader.take_warnings(), []);
}

#[test]
fn a_log_that_is_compressed_as_soon_as_it_is_rotated_is_read_once() {
    let directory = tempdir().unwrap();
    let mut log = log(directory.path(), 4, 9);
    log.write(Stream::Stdout, b"aa").unwrap();
    let mut reader = open(directory.path());
    assert_eq!(bytes(&mut reader), "aa");
    log.write(Stream::Stdout, b"aabbbbcc").unwrap();
    for number in 1..3 {
        let path = directory.path().join(format!("config/vm.log.0000000{number}"));
        let packed = std::process::Command::new("gzip").arg(path).status().unwrap();
        assert!(packed.success());
    }
    assert_eq!(bytes(&mut reader), "aabbbbcc");
    assert_eq!(reader.take_warnings(), []);
}

#[test]
fn a_log_that_another_process_moves_is_read_to_its_end_before_the_new_one() {
    let made = Made::new();
    let log_at = made.path("");
    made.write("", b"one\n");
    let mut reader = open(made.log_dir());
    assert_eq!(bytes(&mut reader), "one\n");
    // As logrotate does: the writer appends to the moved file until it reopens the log.
    fs::rename(&log_at, made.path(".1")).unwrap();
    made.write("", b"");
    made.write(".1", b"one\ntwo\n");
    assert_eq!(bytes(&mut reader), "two\n");
    made.write(".1", b"one\ntwo\nthree\n");
    made.write("", b"four\n");
    assert_eq!(bytes(&mut reader), "three\nfour\n");
    fs::remove_file(&log_at).unwrap();
    assert_eq!(bytes(&mut reader), "");
    made.write("", b"five\n");
    assert_eq!(bytes(&mut reader), "five\n");
    assert_eq!(reader.take_warnings(), []);
}

#[test]
fn reading_continues_in_a_directory_that_is_created_again() {
    let made = Made::new();
    made.write(&generation(7), b"one\n");
    made.write("", b"two\n");
    let mut reader = open(made.log_dir());
    assert_eq!(bytes(&mut reader), "one\ntwo\n");
    fs::remove_dir_all(made.log_dir().join("config")).unwrap();
    assert_eq!(bytes(&mut reader), "");
    fs::create_dir(made.log_dir().join("config")).unwrap();
    made.write("", b"three\n");
    assert_eq!(bytes(&mut reader), "three\n");
}

#[test]
fn a_truncated_log_is_read_again_and_reported() {
    let made = Made::new();
    made.write("", b"a longer beginning\n");
    let mut reader = open(made.log_dir());
    assert_eq!(bytes(&mut reader), "a longer beginning\n");
    made.write("", b"new\n");
    assert_eq!(bytes(&mut reader), "new\n");
    let warnings = reader.take_warnings();
    assert!(matches!(warnings[..], [Warning::Truncated { .. }]), "{warnings:?}");
}

#[test]
fn a_truncated_log_has_times_again_when_it_gets_a_new_index() {
    let made = Made::new();
    let before = [Chunk::new(1, STDOUT, "a longer beginning\n")];
    made.raw("", &before);
    let mut reader = open(made.log_dir());
    assert_eq!(bytes(&mut reader), "a longer beginning\n");
    made.write("", b"new\n");
    // The index is still the old one, and then one that may have the number of its inode.
    assert_eq!(bytes(&mut reader), "new\n");
    fs::remove_file(made.path(".idx")).unwrap();
    let anew = [Chunk::new(5, 1, "new\n"), Chunk::new(7, STDOUT, "known\n")];
    made.raw("", &anew);
    let entry = reader.next().unwrap();
    let Some(Entry::Bytes { time: Some(time), bytes, .. }) = entry else { panic!("{entry:?}") };
    assert_eq!((time.nanoseconds(), bytes), (7, &b"known\n"[..]));
}

#[test]
fn bytes_that_wait_for_their_time_outlast_a_truncation() {
    let made = Made::new();
    made.raw("", &[Chunk::new(1, STDOUT, "first\n")]);
    let mut reader = open(made.log_dir());
    reader.hold(Hold::Pending);
    assert_eq!(bytes(&mut reader), "first\n");
    let mut log = fs::File::options().append(true).open(made.path("")).unwrap();
    log.write_all(b"second\n").unwrap();
    // The index does not have it yet.
    assert_eq!(bytes(&mut reader), "");
    log.set_len(0).unwrap();
    log.write_all(b"third\n").unwrap();
    assert_eq!(bytes(&mut reader), "second\n");
    reader.hold(Hold::Nothing);
    assert_eq!(bytes(&mut reader), "third\n");
    let warnings = reader.take_warnings();
    assert!(matches!(warnings[..], [Warning::Truncated { .. }]), "{warnings:?}");
}

#[test]
fn a_log_that_does_not_exist_yet_can_be_followed() {
    let directory = tempdir().unwrap();
    let mut reader = LogReader::expect(directory.path(), "config", "vm").unwrap();
    assert_eq!(bytes(&mut reader), "");
    let mut log = log(directory.path(), 4, 9);
    assert_eq!(bytes(&mut reader), "");
    log.write(Stream::Stdout, b"aaaabb").unwrap();
    assert_eq!(bytes(&mut reader), "aaaabb");
}
