//! Reading a log back, on real files.

#![cfg(feature = "reader")]

use std::fs;
use std::path::Path;

use tempfile::tempdir;
use vmon::logfile::read::{Entry, LogReader, ReadError, Warning};
use vmon::logfile::{LogFile, LogOptions, Retention, Stream};

fn log(log_dir: &Path, max_size: u64) -> LogFile {
    let retention = Retention { max_size, max_files: u32::MAX, ..Retention::default() };
    let options = LogOptions { retention, ..LogOptions::default() };
    LogFile::open(log_dir, "config", "vm", options).unwrap()
}

fn open(log_dir: &Path) -> LogReader {
    LogReader::open(log_dir, "config", "vm").unwrap()
}

/// Every byte that is there, to the end.
fn bytes(reader: &mut LogReader) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        if let Entry::Bytes { bytes, .. } = entry {
            all.extend_from_slice(bytes);
        }
    }
    all
}

#[test]
fn generations_come_in_order_and_then_the_log() {
    let directory = tempdir().unwrap();
    let mut log = log(directory.path(), 10);
    for line in 0..40 {
        log.write(Stream::Stdout, format!("line {line}\n").as_bytes()).unwrap();
    }
    let expected: String = (0..40).map(|line| format!("line {line}\n")).collect();
    assert_eq!(bytes(&mut open(directory.path())), expected.as_bytes());
}

#[test]
fn a_reader_goes_on_through_rotations_and_repeats_nothing() {
    let directory = tempdir().unwrap();
    let mut log = log(directory.path(), 10);
    log.write(Stream::Stdout, b"first\n").unwrap();
    let mut reader = open(directory.path());
    assert_eq!(bytes(&mut reader), b"first\n");
    assert_eq!(bytes(&mut reader), b"");
    for line in 0..40 {
        log.write(Stream::Stdout, format!("line {line}\n").as_bytes()).unwrap();
        if line % 7 == 0 {
            let expected: Vec<u8> = (line.max(6) - 6..=line)
                .flat_map(|line| format!("line {line}\n").into_bytes())
                .collect();
            assert_eq!(bytes(&mut reader), expected);
        }
    }
    assert_eq!(reader.take_warnings(), []);
}

#[test]
fn where_there_is_no_log_that_is_told_and_nothing_is_made() {
    let directory = tempdir().unwrap();
    let error = LogReader::open(directory.path(), "config", "vm").unwrap_err();
    assert!(matches!(error, ReadError::NoLog { .. }), "{error}");
    assert!(error.to_string().ends_with("config/vm.log"), "{error}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn generations_that_are_removed_before_they_are_read_are_told() {
    let directory = tempdir().unwrap();
    let mut log = log(directory.path(), 4);
    log.write(Stream::Stdout, b"aaaabbbbccccdd").unwrap();
    let mut reader = open(directory.path());
    for number in 1..3 {
        fs::remove_file(directory.path().join(format!("config/vm.log.0000000{number}"))).unwrap();
    }
    assert_eq!(bytes(&mut reader), b"ccccdd");
    let warnings = reader.take_warnings();
    assert!(matches!(warnings[..], [Warning::Missed { first: 1, last: 2, .. }]), "{warnings:?}");
}
