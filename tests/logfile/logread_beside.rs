//! A reader beside a writer that rotates every few milliseconds: nothing is lost, nothing repeated.
//!
//! With `VMON_FULL_SIZE` set, 200 MB in more than 3,000 generations, and every one of them is kept.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use fastrand::Rng;
use tempfile::tempdir;
use vmon::logfile::read::{Entry, Hold, LogReader};
use vmon::logfile::{Format, LogFile, LogOptions, Mark, Retention, Stream};

fn full() -> bool {
    std::env::var_os("VMON_FULL_SIZE").is_some()
}

/// What a child might print: random bytes where any may be, else text; lines of any length.
fn stream(format: Format) -> Vec<u8> {
    let size = if full() { 200_000_000 } else { 6_000_000 };
    let mut random = Rng::with_seed(5);
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        let word = random.u64(..);
        match (format, word % 40) {
            (_, 0) => bytes.push(b'\n'),
            (Format::Json, 1) => bytes.extend("ä\u{1f680}\"\\\u{1b}".as_bytes()),
            (Format::Json, _) => bytes.extend(format!("{word:x} ").as_bytes()),
            _ => bytes.extend(word.to_le_bytes()),
        }
    }
    bytes
}

/// How the bytes are written: chunks of any size, most of them small.
fn chunks(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut random = Rng::with_seed(17);
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let most = random.choice([64, 4_096, 70_000]).unwrap();
        let (chunk, after) = rest.split_at(rest.len().min(random.usize(1..=most)));
        rest = after;
        (!chunk.is_empty()).then_some(chunk)
    })
}

fn options(format: Format, max_files: u32) -> LogOptions {
    let retention = Retention::default().max_size(64 << 10).max_files(max_files);
    LogOptions::default().retention(retention).format(format)
}

/// Reads until the writer has ended and nothing is left, and compares as it goes.
#[track_caller]
fn assert_follows(mut reader: LogReader, expected: &[u8], ended: &AtomicBool) {
    let mut read = 0;
    loop {
        let last = ended.load(Ordering::Acquire);
        while let Some(entry) = reader.next().unwrap() {
            let Entry::Bytes { bytes, .. } = entry else { continue };
            let wanted = expected.get(read..read + bytes.len());
            assert!(wanted == Some(bytes), "differs in the {} bytes from {read} on", bytes.len());
            read += bytes.len();
        }
        let warnings = reader.take_warnings();
        assert!(warnings.is_empty(), "{warnings:?}");
        if last {
            break;
        }
        thread::yield_now();
    }
    assert_eq!(read, expected.len());
}

#[track_caller]
fn assert_reproduces(format: Format, hold: Hold) {
    let directory = tempdir().unwrap();
    let log_dir = directory.path();
    let bytes = stream(format);
    let ended = AtomicBool::new(false);
    let mut log = LogFile::open(log_dir, "config", "vm", options(format, 9_999)).unwrap();
    thread::scope(|scope| {
        let mut reader = LogReader::open(log_dir, "config", "vm").unwrap();
        reader.hold(hold);
        scope.spawn(|| {
            log.mark(Mark::Start { pid: 1 });
            for chunk in chunks(&bytes) {
                log.write(Stream::Stdout, chunk).unwrap();
                log.turn();
            }
            drop(log);
            ended.store(true, Ordering::Release);
        });
        assert_follows(reader, &with_end(format, &bytes), &ended);
    });
    let kept = generations(log_dir);
    assert!(!full() || kept >= 3_000, "{kept} generations");
    // And once more afterwards, from the beginning.
    let again = LogReader::open(log_dir, "config", "vm").unwrap();
    assert_follows(again, &with_end(format, &bytes), &ended);
}

/// A log of records ends its last line; the newline is the format's.
fn with_end(format: Format, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if format == Format::Cri && !bytes.ends_with(b"\n") {
        bytes.push(b'\n');
    }
    bytes
}

fn generations(log_dir: &Path) -> usize {
    let names = fs::read_dir(log_dir.join("config")).unwrap();
    let is_one = |name: &str| !name.ends_with(".idx") && name != "vm.log";
    names.filter(|entry| is_one(entry.as_ref().unwrap().file_name().to_str().unwrap())).count()
}

#[test]
fn a_raw_log_is_reproduced_beside_its_writer() {
    assert_reproduces(Format::Raw, Hold::Nothing);
}

#[test]
fn a_raw_log_is_reproduced_with_its_times() {
    assert_reproduces(Format::Raw, Hold::Pending);
}

#[test]
fn a_cri_log_is_reproduced_beside_its_writer() {
    assert_reproduces(Format::Cri, Hold::Parts);
}

#[test]
fn a_json_log_is_reproduced_beside_its_writer() {
    assert_reproduces(Format::Json, Hold::Parts);
}

#[test]
fn generations_that_are_compressed_meanwhile_are_reproduced() {
    let directory = tempdir().unwrap();
    let log_dir = directory.path();
    let bytes = stream(Format::Raw);
    let bytes = &bytes[..bytes.len().min(6_000_000)];
    let ended = AtomicBool::new(false);
    let mut log = LogFile::open(log_dir, "config", "vm", options(Format::Raw, 9_999)).unwrap();
    thread::scope(|scope| {
        let reader = LogReader::open(log_dir, "config", "vm").unwrap();
        scope.spawn(|| {
            for chunk in chunks(bytes) {
                log.write(Stream::Stdout, chunk).unwrap();
            }
            ended.store(true, Ordering::Release);
        });
        scope.spawn(|| {
            let mut number = 1;
            while !ended.load(Ordering::Acquire) {
                let path = log_dir.join(format!("config/vm.log.{number:08}"));
                if path.exists() {
                    let program = if number % 2 == 0 { "gzip" } else { "zstd" };
                    let rm: &[&str] = if program == "zstd" { &["-q", "--rm"] } else { &[] };
                    assert!(Command::new(program).args(rm).arg(path).status().unwrap().success());
                    number += 1;
                }
                thread::yield_now();
            }
        });
        assert_follows(reader, bytes, &ended);
    });
}

#[test]
fn a_reader_reports_exactly_the_generations_that_it_missed() {
    let directory = tempdir().unwrap();
    let log_dir = directory.path();
    let bytes: Vec<u8> = (0..400_000_u32).flat_map(|n| format!("{n:07}\n").into_bytes()).collect();
    let mut log = LogFile::open(log_dir, "config", "vm", options(Format::Raw, 3)).unwrap();
    let mut reader = LogReader::open(log_dir, "config", "vm").unwrap();
    let mut read = Vec::new();
    let mut random = Rng::with_seed(3);
    let mut written = 0;
    while written < bytes.len() {
        let more = random.usize(..600_000).min(bytes.len() - written);
        log.write(Stream::Stdout, &bytes[written..written + more]).unwrap();
        written += more;
        while let Some(entry) = reader.next().unwrap() {
            if let Entry::Bytes { bytes, .. } = entry {
                read.extend_from_slice(bytes);
            }
        }
    }
    let missed: u64 = reader
        .take_warnings()
        .iter()
        .map(|warning| match warning {
            vmon::logfile::read::Warning::Missed { first, last, .. } => last - first + 1,
            other => panic!("{other:?}"),
        })
        .sum();
    // Each generation is full to its last line.
    assert_eq!(bytes.len() - read.len(), missed as usize * (64 << 10));
    let numbers: Vec<u32> =
        String::from_utf8(read).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b));
}
