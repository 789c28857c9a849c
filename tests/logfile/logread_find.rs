//! Positions in a log: by time, and of the last lines.

use std::path::Path;

use fastrand::Rng;
use vmon::logfile::read::{Entry, LogReader};
use vmon::logfile::{Mark, Stream, Timestamp};

use crate::common::logs::{Chunk, Made, START, STDERR, STDOUT, generation, lines};

fn open(log_dir: &Path) -> LogReader {
    LogReader::open(log_dir, "config", "vm").unwrap()
}

fn text(reader: &mut LogReader, wanted: impl Fn(Option<Stream>) -> bool) -> String {
    let mut all = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        if let Entry::Bytes { stream, bytes, .. } = entry
            && wanted(stream)
        {
            all.extend_from_slice(bytes);
        }
    }
    String::from_utf8(all).unwrap()
}

/// Files of chunks, their times growing: some end lines, some do not, some are large.
fn files(random: &mut Rng, count: usize) -> Vec<Vec<Chunk>> {
    let mut time = 1_000_000_000;
    let mut chunk = 0;
    let mut file = || {
        let chunks = (0..random.usize(1..=40)).map(|_| {
            time += random.u64(..3) * 1_000;
            chunk += 1;
            let kind = if random.u8(..3) == 0 { STDERR } else { STDOUT };
            let long =
                if random.u8(..60) == 0 { random.usize(..200_000) } else { random.usize(..90) };
            let filler = "x".repeat(long);
            let end = if random.u8(..3) == 0 { "" } else { "\n" };
            let inner = if random.u8(..4) == 0 { "\n" } else { "" };
            Chunk::new(time, kind, format!("<{chunk}>{inner}{filler}{end}"))
        });
        chunks.collect()
    };
    (0..count).map(|_| file()).collect()
}

const FORMATS: [&str; 3] = ["raw", "cri", "json"];

fn made(files: &[Vec<Chunk>], format: &str, random: &mut Rng) -> Made {
    let made = Made::new();
    for (place, chunks) in files.iter().enumerate() {
        let last = place + 1 == files.len();
        let rest = if last { String::new() } else { generation(place as u32 + 3) };
        match format {
            "raw" => made.raw(&rest, chunks),
            format => made.write(&rest, &lines(format, chunks)),
        }
        match random.u8(..4) {
            0 if !last => made.compress(&rest, "gzip"),
            1 if !last => made.compress(&rest, "zstd"),
            _ => {}
        }
    }
    made
}

#[test]
fn a_time_is_found_in_every_format_and_in_compressed_generations() {
    let mut random = Rng::with_seed(7);
    for round in 0..6 {
        let count = random.usize(1..=7);
        let files = files(&mut random, count);
        let all: Vec<&Chunk> = files.iter().flatten().collect();
        for format in FORMATS {
            let made = made(&files, format, &mut random);
            let mut reader = open(made.log_dir());
            let last = all.last().unwrap().time;
            let times: Vec<u64> = all.iter().map(|chunk| chunk.time).collect();
            for since in times.into_iter().step_by(11).flat_map(|at| [at, at + 1]).chain([0, last])
            {
                let place = reader.find_time(Timestamp::from_nanoseconds(since)).unwrap();
                reader.seek(place);
                let expected: String = all
                    .iter()
                    .filter(|chunk| chunk.time >= since)
                    .map(|chunk| str::from_utf8(&chunk.bytes).unwrap())
                    .collect();
                let found = text(&mut reader, |_| true);
                assert!(found == expected, "{format}, round {round}, since {since}");
            }
        }
    }
}

#[test]
fn reading_stops_at_the_given_position() {
    let mut random = Rng::with_seed(21);
    let files = files(&mut random, 6);
    let all: Vec<&Chunk> = files.iter().flatten().collect();
    for format in FORMATS {
        let made = made(&files, format, &mut random);
        for until in all.iter().map(|chunk| chunk.time).step_by(7) {
            let mut reader = open(made.log_dir());
            let stop = reader.find_time(Timestamp::from_nanoseconds(until)).unwrap();
            reader.stop_at(stop);
            let expected: String = all
                .iter()
                .filter(|chunk| chunk.time < until)
                .map(|chunk| str::from_utf8(&chunk.bytes).unwrap())
                .collect();
            assert!(text(&mut reader, |_| true) == expected, "{format}, until {until}");
        }
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    lines[lines.len().saturating_sub(count)..].concat()
}

#[test]
fn the_last_lines_are_found_from_the_end_of_any_stream() {
    let mut random = Rng::with_seed(3);
    for round in 0..6 {
        let count = random.usize(1..=6);
        let files = files(&mut random, count);
        for format in FORMATS {
            let made = made(&files, format, &mut random);
            for only in [None, Some(Stream::Stderr), Some(Stream::Stdout)] {
                let wanted = |stream| only.is_none() || stream == only;
                let kind = if only == Some(Stream::Stderr) { STDERR } else { STDOUT };
                let whole: String = files
                    .iter()
                    .flatten()
                    .filter(|chunk| only.is_none() || chunk.kind == kind)
                    .map(|chunk| str::from_utf8(&chunk.bytes).unwrap())
                    .collect();
                for count in [0, 1, 2, 3, 10, 50, 100_000, u64::MAX] {
                    let mut reader = open(made.log_dir());
                    reader.seek_last_lines(count, wanted).unwrap();
                    let found = text(&mut reader, wanted);
                    let expected = last_lines(&whole, count as usize);
                    assert!(found == expected, "{format}, round {round}, {only:?}, {count}");
                }
            }
        }
    }
}

#[test]
fn the_last_lines_are_those_between_a_beginning_and_an_end() {
    let mut random = Rng::with_seed(99);
    let files = files(&mut random, 5);
    let all: Vec<&Chunk> = files.iter().flatten().collect();
    let (since, until) = (all[all.len() / 4].time, all[all.len() * 3 / 4].time);
    let between: String = all
        .iter()
        .filter(|chunk| (since..until).contains(&chunk.time))
        .map(|chunk| str::from_utf8(&chunk.bytes).unwrap())
        .collect();
    for format in FORMATS {
        let made = made(&files, format, &mut random);
        for count in [1, 5, 1_000_000] {
            let mut reader = open(made.log_dir());
            let start = reader.find_time(Timestamp::from_nanoseconds(since)).unwrap();
            let stop = reader.find_time(Timestamp::from_nanoseconds(until)).unwrap();
            reader.seek(start);
            reader.stop_at(stop);
            reader.seek_last_lines(count, |_| true).unwrap();
            let expected = last_lines(&between, count as usize);
            assert!(text(&mut reader, |_| true) == expected, "{format}, {count}");
        }
    }
}

#[test]
fn a_position_is_where_reading_goes_on() {
    let mut random = Rng::with_seed(11);
    let files = files(&mut random, 4);
    for format in FORMATS {
        let made = made(&files, format, &mut random);
        let whole = text(&mut open(made.log_dir()), |_| true);
        let mut reader = open(made.log_dir());
        let mut before = String::new();
        loop {
            let place = reader.position();
            let mut other = open(made.log_dir());
            other.seek(place);
            assert!(before.clone() + &text(&mut other, |_| true) == whole, "{format}");
            match reader.next().unwrap() {
                Some(Entry::Bytes { bytes, .. }) => before += str::from_utf8(bytes).unwrap(),
                Some(Entry::Mark { .. }) => {}
                None => break,
            }
        }
    }
}

#[test]
fn marks_are_found_without_reading_what_lies_between() {
    let made = Made::new();
    let chunks = [
        Chunk::mark(1, START, 10),
        Chunk::new(2, STDOUT, "one\n"),
        Chunk::mark(3, START, 20),
        Chunk::new(4, STDOUT, "two\n"),
    ];
    made.raw(&generation(1), &chunks[..2]);
    made.raw(&generation(2), &chunks[2..3]);
    made.raw("", &chunks[3..]);
    let mut reader = open(made.log_dir());
    let next = |reader: &mut LogReader| reader.next_mark().unwrap().map(|(_, mark)| mark);
    assert_eq!(next(&mut reader), Some(Mark::Start { pid: 10 }));
    assert_eq!(next(&mut reader), Some(Mark::Start { pid: 20 }));
    let place = reader.position();
    assert_eq!(next(&mut reader), None);
    reader.seek(place);
    assert_eq!(text(&mut reader, |_| true), "two\n");
    let mut reader = open(made.log_dir());
    reader.stop_at(place);
    assert_eq!(text(&mut reader, |_| true), "one\n");
}

#[test]
fn without_any_time_all_is_after_it_but_files_that_have_not_changed_since() {
    let made = Made::new();
    made.write(&generation(1), b"old\n");
    made.write("", b"new\n");
    let file = std::fs::File::options().append(true).open(made.path(&generation(1))).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1000)).unwrap();
    let mut reader = open(made.log_dir());
    for (since, expected) in [(1_000, "old\nnew\n"), (2_000_000_000_000, "new\n")] {
        let place = reader.find_time(Timestamp::from_nanoseconds(since)).unwrap();
        reader.seek(place);
        assert_eq!(text(&mut reader, |_| true), expected);
    }
}
