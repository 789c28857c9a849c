//! Logs in `cri` and `json` on real files: a reader gets what was written, after rotations, full
//! disks and crashes.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::records::{files, joined, records};
use crate::common::tmpfs::{Tmpfs, assert_full, write_when_there_is_room};
use fastrand::Rng;
use tempfile::{TempDir, tempdir};
use vmon::logfile::{Format, LogFile, LogOptions, Mark, Retention, RunEnd, Stream};

const ALL: u32 = u32::MAX;
const FORMATS: [Format; 2] = [Format::Cri, Format::Json];
const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

fn open_at(log_dir: &Path, format: Format, max_size: u64, max_files: u32) -> LogFile {
    let retention = Retention::default().max_size(max_size).max_files(max_files);
    let options = LogOptions::default().retention(retention).format(format);
    LogFile::open(log_dir, "config", "vm", options).unwrap()
}

fn open(directory: &TempDir, format: Format) -> LogFile {
    open_at(directory.path(), format, 0, ALL)
}

/// As a process that is killed leaves it.
fn crash(log: LogFile) {
    std::mem::forget(log);
}

/// A chunk of a stream: any bytes, or of characters of each size, for a format that keeps only
/// those. It may begin and end within a character.
fn any_chunk(
    random: &mut Rng,
    format: Format,
    longest: usize,
    text: &mut dyn Iterator<Item = u8>,
) -> Vec<u8> {
    let count = random.usize(..longest);
    match format {
        Format::Json => text.take(count).collect(),
        _ => (0..count).map(|_| if random.u8(..60) == 0 { b'\n' } else { random.u8(..) }).collect(),
    }
}

/// Text without end.
fn text() -> impl Iterator<Item = u8> {
    "ascii\n äöü€🚀\u{2028}\t\"<&>\\\u{1b}[0m\r\n".bytes().cycle()
}

/// What was written, stream by stream.
#[derive(Default)]
struct Expected([Vec<u8>; 2]);

impl Expected {
    fn add(&mut self, stream: Stream, bytes: &[u8]) {
        self.0[usize::from(stream == Stream::Stderr)].extend(bytes);
    }

    /// A run has ended here, in one way or another.
    fn end_run(&mut self, format: Format) {
        for stream in &mut self.0 {
            if format == Format::Cri && stream.last().is_some_and(|&last| last != b'\n') {
                stream.push(b'\n');
            }
        }
    }

    #[track_caller]
    fn is_in(&self, format: Format, log: &Path) {
        for (stream, expected) in STREAMS.into_iter().zip(&self.0) {
            assert!(joined(format, log, stream) == *expected, "{format:?} {stream:?}");
        }
    }
}

#[test]
fn rotation_splits_loses_and_repeats_no_record() {
    let mut random = Rng::with_seed(0x9e37_79b9_7f4a_7c15);
    for round in 0..20 {
        let format = random.choice(FORMATS).unwrap();
        let directory = tempdir().unwrap();
        let max_size = 1 + random.choice([200, 3_000, 200_000]).unwrap() * random.u64(..10) / 10;
        let mut log = open_at(directory.path(), format, max_size, ALL);
        let mut expected = Expected::default();
        let (mut out, mut err) = (text(), text());
        let mut given = 0;
        for _ in 0..60 {
            let stream = random.choice(STREAMS).unwrap();
            let text = if stream == Stream::Stdout { &mut out } else { &mut err };
            let longest = random.choice([3, 200, max_size.clamp(3, 20_000)]).unwrap();
            let chunk = any_chunk(&mut random, format, longest as usize, text);
            log.write(stream, &chunk).unwrap();
            given += chunk.len() as u64;
            assert_eq!(log.bytes_written(), given);
            expected.add(stream, &chunk);
            if format == Format::Cri && random.u8(..10) == 0 {
                match random.bool() {
                    true => crash(log),
                    false => drop(log),
                }
                log = open_at(directory.path(), format, max_size, ALL);
                expected.end_run(format);
                given = 0;
            }
        }
        // The last characters.
        for (stream, text) in STREAMS.into_iter().zip([&mut out, &mut err]) {
            if format == Format::Json {
                let line: Vec<u8> = text.take_while(|&byte| byte != b'\n').collect();
                log.write(stream, &line).unwrap();
                expected.add(stream, &line);
            }
        }
        log.mark(Mark::Stop(RunEnd::Exited(0)));
        expected.end_run(format);
        expected.is_in(format, log.path());
        for path in files(log.path()) {
            let size = fs::metadata(&path).unwrap().len();
            let most = max_size.max(128);
            assert!(size <= most, "round {round}: {} has {size} of {most}", path.display());
        }
    }
}

#[test]
fn three_thousand_generations_are_one_stream() {
    for format in FORMATS {
        let directory = tempdir().unwrap();
        let mut log = open_at(directory.path(), format, 300, ALL);
        let mut expected = Expected::default();
        let mut text = text();
        while files_fewer_than(3_000, &directory) {
            let chunk: Vec<u8> = text.by_ref().take(70_000).collect();
            log.write(Stream::Stdout, &chunk).unwrap();
            expected.add(Stream::Stdout, &chunk);
        }
        let rest: Vec<u8> = text.take_while(|&byte| byte != b'\n').collect();
        log.write(Stream::Stdout, &rest).unwrap();
        log.write(Stream::Stdout, b"\n").unwrap();
        expected.add(Stream::Stdout, &rest);
        expected.add(Stream::Stdout, b"\n");
        expected.is_in(format, log.path());
    }
}

fn files_fewer_than(count: usize, directory: &TempDir) -> bool {
    fs::read_dir(directory.path().join("config")).unwrap().count() < count
}

#[test]
fn an_unfinished_line_is_ended_with_the_run() {
    for ends_by_mark in [true, false] {
        let directory = tempdir().unwrap();
        let mut log = open(&directory, Format::Cri);
        log.write(Stream::Stdout, b"one\n").unwrap();
        assert!(!log.is_unfinished());
        log.write(Stream::Stderr, b"tw").unwrap();
        log.write(Stream::Stderr, b"o").unwrap();
        assert!(log.is_unfinished());
        let path = log.path().to_owned();
        if ends_by_mark {
            log.mark(Mark::Stop(RunEnd::Exited(0)));
            assert!(!log.is_unfinished());
        }
        drop(log);
        assert_eq!(joined(Format::Cri, &path, Stream::Stdout), b"one\n");
        assert_eq!(joined(Format::Cri, &path, Stream::Stderr), b"two\n");
        assert_eq!(records(Format::Cri, &path).len(), 4, "it ends once");
    }
}

#[test]
fn json_adds_no_newline_and_ends_with_what_was_held_back_of_a_character() {
    let directory = tempdir().unwrap();
    let mut log = open(&directory, Format::Json);
    log.write(Stream::Stdout, b"one \xc3").unwrap();
    log.write(Stream::Tty, b"\xa9, two \xe2\x82").unwrap();
    assert_eq!(log.bytes_written(), 14);
    assert_eq!(joined(Format::Json, log.path(), Stream::Stdout), "one é, two ".as_bytes());
    log.finish().unwrap();
    let expected = "one é, two \u{fffd}\u{fffd}";
    assert_eq!(joined(Format::Json, log.path(), Stream::Stdout), expected.as_bytes());
}

#[test]
fn a_terminal_is_stdout_and_a_line_of_our_own_stderr() {
    for format in FORMATS {
        let directory = tempdir().unwrap();
        let mut log = open(&directory, format);
        log.write(Stream::Tty, b"child\n").unwrap();
        log.write(Stream::Notice, b"vmon\n").unwrap();
        let expected =
            [(Stream::Stdout, b"child\n".to_vec()), (Stream::Stderr, b"vmon\n".to_vec())];
        assert_eq!(records(format, log.path()), expected);
    }
}

#[test]
fn a_torn_last_record_is_cut_off() {
    for format in FORMATS {
        let directory = tempdir().unwrap();
        let mut log = open(&directory, format);
        log.write(Stream::Stdout, b"one\n").unwrap();
        let whole = fs::metadata(log.path()).unwrap().len();
        log.write(Stream::Stdout, b"two\n").unwrap();
        let (path, all) = (log.path().to_owned(), fs::read(log.path()).unwrap());
        crash(log);
        for cut in whole as usize..all.len() {
            fs::write(&path, &all[..cut]).unwrap();
            crash(open(&directory, format));
            assert_eq!(fs::read(&path).unwrap(), all[..whole as usize], "cut at {cut}");
            assert_eq!(files(&path).len(), 1);
        }
    }
}

#[test]
fn a_torn_first_record_is_cut_off_if_it_shows_its_format() {
    let directory = tempdir().unwrap();
    let mut log = open(&directory, Format::Cri);
    log.write(Stream::Stdout, &[b'x'; 1_000]).unwrap();
    let path = log.path().to_owned();
    crash(log);
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(500).unwrap();
    crash(open(&directory, Format::Cri));
    assert_eq!((files(&path), fs::read(&path).unwrap()), (vec![path], vec![]));
}

#[test]
fn a_line_that_a_crash_leaves_unfinished_ends_before_the_next_run() {
    let directory = tempdir().unwrap();
    // In the log, far before its end, and in a generation.
    for (max_size, lines) in [(0, 0), (0, 2_000), (4_000, 20)] {
        let mut log = open_at(directory.path(), Format::Cri, max_size, ALL);
        log.write(Stream::Stderr, b"what was").unwrap();
        for _ in 0..lines {
            log.write(Stream::Stdout, b"something else, and more of it\n").unwrap();
        }
        log.write(Stream::Stdout, b"half").unwrap();
        crash(log);
        let mut log = open_at(directory.path(), Format::Cri, max_size, ALL);
        log.write(Stream::Stdout, b"new\n").unwrap();
        log.write(Stream::Stderr, b"new\n").unwrap();
        log.finish().unwrap();
        for stream in STREAMS {
            let said = joined(Format::Cri, log.path(), stream);
            let said = str::from_utf8(&said).unwrap();
            let end = if stream == Stream::Stdout { "half\nnew\n" } else { "what was\nnew\n" };
            assert!(said.ends_with(end), "{said}");
        }
    }
}

#[test]
fn a_run_in_another_format_begins_a_new_generation() {
    let all = [Format::Raw, Format::Cri, Format::Json];
    for before in all {
        for index in [true, false] {
            for after in all {
                let directory = tempdir().unwrap();
                let options = LogOptions::default().format(before).index(index);
                let mut log = LogFile::open(directory.path(), "config", "vm", options).unwrap();
                log.write(Stream::Stdout, b"before\n").unwrap();
                let path = log.path().to_owned();
                drop(log);
                let former = fs::read(&path).unwrap();
                let mut log = open(&directory, after);
                log.write(Stream::Stdout, b"after\n").unwrap();
                drop(log);
                let found = files(&path);
                if before == after {
                    assert_eq!(found.len(), 1);
                    continue;
                }
                assert_eq!(found.len(), 2, "{before:?} {after:?}");
                assert_eq!(fs::read(&found[0]).unwrap(), former);
                let indexed = |path: &Path| Path::new(&format!("{}.idx", path.display())).exists();
                assert_eq!(indexed(&found[0]), before == Format::Raw && index);
                assert_eq!(indexed(&path), after == Format::Raw);
                if after != Format::Raw {
                    let said = [(Stream::Stdout, b"after\n".to_vec())];
                    assert_eq!(records(after, &path), said);
                }
            }
        }
    }
}

#[test]
fn a_log_with_an_index_is_raw_whatever_its_first_line() {
    let directory = tempdir().unwrap();
    for _ in 0..2 {
        let mut log = open(&directory, Format::Raw);
        log.write(Stream::Stdout, b"1970-01-01T00:00:01Z stdout F text\n").unwrap();
        assert_eq!(files(log.path()).len(), 1);
    }
    let log = open(&directory, Format::Cri);
    assert_eq!(files(log.path()).len(), 2);
}

#[test]
fn an_empty_log_takes_any_format() {
    let directory = tempdir().unwrap();
    for format in [Format::Raw, Format::Cri, Format::Json, Format::Raw] {
        assert_eq!(files(open(&directory, format).path()).len(), 1);
    }
}

#[test]
fn the_index_of_a_run_that_printed_nothing_takes_the_format_of_the_next_run() {
    for format in FORMATS {
        let directory = tempdir().unwrap();
        let mut silent = open(&directory, Format::Raw);
        silent.mark(Mark::Start { pid: 1 });
        silent.mark(Mark::Stop(RunEnd::Exited(0)));
        drop(silent);
        let mut log = open(&directory, format);
        log.write(Stream::Stdout, b"one\n").unwrap();
        let index = log.path().with_extension("log.idx");
        let number = 1 + FORMATS.iter().position(|it| *it == format).unwrap();
        assert_eq!(usize::from(fs::read(index).unwrap()[12]), number);
        drop(log);
        drop(open(&directory, format));
        assert_eq!(files(&directory.path().join("config/vm.log")).len(), 1);
    }
}

#[test]
fn a_log_that_is_removed_or_emptied_meanwhile_goes_on_with_whole_records() {
    for format in FORMATS {
        let directory = tempdir().unwrap();
        let mut log = open_at(directory.path(), format, 300, ALL);
        log.write(Stream::Stdout, b"one\n").unwrap();
        fs::write(log.path(), b"").unwrap();
        log.write(Stream::Stdout, b"two\n").unwrap();
        assert_eq!(records(format, log.path()), [(Stream::Stdout, b"two\n".to_vec())]);
        fs::remove_file(log.path()).unwrap();
        log.reopen().unwrap();
        log.write(Stream::Stdout, b"three\n").unwrap();
        assert_eq!(records(format, log.path()), [(Stream::Stdout, b"three\n".to_vec())]);
    }
}

#[test]
fn the_tail_is_what_the_child_wrote_whatever_the_formats() {
    let directory = tempdir().unwrap();
    let mut expected = Vec::new();
    for (round, format) in
        [Format::Json, Format::Raw, Format::Cri, Format::Json, Format::Cri].into_iter().enumerate()
    {
        let mut log = open_at(directory.path(), format, 10_000, ALL);
        for line in 0..500 {
            let line = format!("{round} {line} äöü <>\n");
            log.write(Stream::Stdout, line.as_bytes()).unwrap();
            expected.extend(line.into_bytes());
        }
        for most in [0, 1, 100, 5_000, 20_000, 1 << 20] {
            let tail = log.tail(most).unwrap();
            let from = expected.len().saturating_sub(most);
            assert!(tail == expected[from..], "{format:?} {most}: {} bytes", tail.len());
        }
    }
    let mut log = open(&directory, Format::Json);
    log.write(Stream::Stdout, b"caf\xc3").unwrap();
    assert_eq!(log.tail(4).unwrap(), b"caf\xc3", "what is held back is shown too");
}

#[test]
fn a_full_disk_loses_and_doubles_nothing() {
    for (format, max_size) in
        FORMATS.into_iter().flat_map(|format| [0, 5_000, 20_000].map(|size| (format, size)))
    {
        let Some(tmpfs) = Tmpfs::new("size=192k") else { return };
        let ballast = tmpfs.path().join("ballast");
        fs::write(&ballast, [0; 65_536]).unwrap();
        let mut log = open_at(tmpfs.path(), format, max_size, ALL);
        let (mut text, mut random) = (text(), Rng::with_seed(1));
        let mut expected = Expected::default();
        // Whole lines, so that nothing is held back.
        let mut chunk = |random: &mut Rng| {
            let mut chunk: Vec<u8> = text.by_ref().take(random.usize(..4_000)).collect();
            chunk.extend(text.by_ref().take_while(|&byte| byte != b'\n'));
            chunk.push(b'\n');
            chunk
        };
        let rest = loop {
            let chunk = chunk(&mut random);
            let outcome = log.write(Stream::Stdout, &chunk);
            let written = outcome.as_ref().map_or_else(|error| error.written, |()| chunk.len());
            expected.add(Stream::Stdout, &chunk[..written]);
            if let Err(error) = outcome {
                assert_full(&error);
                break chunk[written..].to_vec();
            }
        };
        // What is written is what is in the log.
        expected.is_in(format, log.path());
        let again = log.write(Stream::Stdout, &rest).unwrap_err();
        assert_full(&again);
        assert_eq!(again.written, 0);
        expected.is_in(format, log.path());

        fs::remove_file(ballast).unwrap();
        for more in [rest, chunk(&mut random)] {
            write_when_there_is_room(&mut log, &more);
            expected.add(Stream::Stdout, &more);
        }
        expected.is_in(format, log.path());
    }
}

#[test]
fn an_end_of_a_run_that_found_no_room_is_written_when_there_is_some() {
    let Some(tmpfs) = Tmpfs::new("size=64k") else { return };
    let mut log = open_at(tmpfs.path(), Format::Cri, 0, ALL);
    log.write(Stream::Stdout, b"half").unwrap();
    let ballast = tmpfs.path().join("ballast");
    // The page of the log has room for so much.
    let filler = vec![b'x'; 3_970];
    log.write(Stream::Stdout, &filler).unwrap();
    assert!(fs::write(&ballast, [0; 65_536]).is_err());
    log.finish().unwrap_err();
    assert!(log.is_unfinished());
    fs::remove_file(ballast).unwrap();
    let give_up = Instant::now() + Duration::from_secs(60);
    while log.finish().is_err() {
        assert!(Instant::now() < give_up);
        std::thread::yield_now();
    }
    let expected = [b"half".to_vec(), filler, b"\n".to_vec()].concat();
    assert_eq!(joined(Format::Cri, log.path(), Stream::Stdout), expected);
}
