//! Logs, indexes and compressed generations that something has damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fastrand::Rng;
use tempfile::TempDir;
use vmon::logfile::read::{Entry, LogReader};
use vmon::logfile::{Format, LogFile, LogOptions, Mark, Retention, RunEnd, Stream, Timestamp};

use crate::common::fuzz::{mutate, rounds};

const FORMATS: [Format; 3] = [Format::Raw, Format::Cri, Format::Json];

/// Parts of records, in all formats.
const WORDS: &[&[u8]] = &[
    b"\n",
    b"{\"log\":\"",
    b"\\u00e4\\ud83d",
    b"\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:00.5Z\"}\n",
    b"2026-01-01T00:00:00.000000000Z stdout F ",
    b"2026-01-01T00:00:00+00:00 stderr P ",
    b"VMONIDX\n\x02\0\x18\0",
    &[0; 24],
    &[0xff; 24],
];

/// The files of one log.
struct Log {
    format: Format,
    files: Vec<(PathBuf, Vec<u8>)>,
}

fn options(format: Format) -> LogOptions {
    let retention = Retention::default().max_size(900).max_files(u32::MAX);
    LogOptions::default().format(format).retention(retention)
}

fn any_stream(random: &mut Rng) -> Stream {
    random.choice([Stream::Stdout, Stream::Stderr, Stream::Tty]).unwrap()
}

/// A log of some runs and generations, of which some are compressed.
fn any_log(random: &mut Rng, format: Format) -> Log {
    let directory = TempDir::new().unwrap();
    for _ in 0..random.usize(1..4) {
        let mut log = LogFile::open(directory.path(), "config", "vm", options(format)).unwrap();
        log.mark(Mark::Start { pid: random.u32(..) });
        for _ in 0..random.usize(..30) {
            let stream = any_stream(random);
            let line = format!(
                "{}{}",
                "text \u{e4}\0\"".repeat(random.usize(..12)),
                "\n".repeat(random.usize(..2))
            );
            log.write(stream, line.as_bytes()).unwrap();
        }
        log.mark(Mark::Stop(RunEnd::Exited(random.u8(..))));
    }
    let directory = directory.path().join("config");
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let is_generation = path.extension().is_some_and(|end| end.len() == 8);
        let tool = random.choice(["gzip", "zstd", ""]).unwrap();
        if is_generation && !tool.is_empty() {
            let mut tool = Command::new(tool);
            tool.arg("-q").arg(&path).stdout(Stdio::null()).stderr(Stdio::null());
            assert!(tool.status().unwrap().success());
            let _ = fs::remove_file(&path);
        }
    }
    let entries = fs::read_dir(&directory).unwrap();
    let mut files: Vec<_> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            (PathBuf::from(path.file_name().unwrap()), bytes)
        })
        .collect();
    files.sort();
    Log { format, files }
}

fn ends_with(path: &Path, extensions: &[&str]) -> bool {
    path.extension().is_some_and(|end| extensions.iter().any(|extension| end == *extension))
}

/// Everything that the log has, as the reader tells it.
fn read(directory: &Path) -> Vec<u8> {
    let mut reader = LogReader::open(directory, "config", "vm").unwrap();
    let (mut all, mut entries) = (Vec::new(), 0);
    loop {
        match reader.next() {
            Ok(Some(Entry::Bytes { bytes, .. })) => all.extend_from_slice(bytes),
            Ok(Some(_)) => {}
            Ok(None) => break,
            // A damaged generation, after which the rest is read.
            Err(_) => {}
        }
        entries += 1;
        assert!(entries < 100_000, "it does not end");
    }
    all
}

/// Everything else that a reader can be asked.
fn search(random: &mut Rng, directory: &Path) {
    let mut reader = LogReader::open(directory, "config", "vm").unwrap();
    let now = Timestamp::now().nanoseconds();
    for _ in 0..4 {
        let near = now.wrapping_sub(random.u64(..2_000_000_000));
        let any = random.u64(..);
        let time = random.choice([0, near, now, u64::MAX, any]).unwrap();
        let time = Timestamp::from_nanoseconds(time);
        let found = if random.bool() { reader.find_time(time) } else { reader.find_end(time) };
        if let Ok(position) = found {
            if random.bool() {
                reader.stop_at(position);
            } else {
                reader.seek(position);
            }
        }
        let wanted = any_stream(random);
        let lines = random.choice([0, 1, 7, u64::MAX]).unwrap();
        let _ = reader.seek_last_lines(lines, |stream| stream.is_none_or(|it| it == wanted));
        let mut marks = 0;
        while let Ok(Some(_)) = reader.next_mark() {
            marks += 1;
            assert!(marks < 100_000, "it does not end");
        }
        let _ = reader.next().map(|entry| entry.is_some());
        let _ = reader.end();
    }
    reader.take_warnings();
}

#[test]
fn damaged_logs_are_read_and_continued() {
    let mut random = Rng::with_seed(1);
    let logs: Vec<_> = (0..12).map(|number| any_log(&mut random, FORMATS[number % 3])).collect();
    rounds(|random| {
        let log = &logs[random.usize(..logs.len())];
        let root = TempDir::new().unwrap();
        let directory = root.path().join("config");
        fs::create_dir(&directory).unwrap();
        let mut files = log.files.clone();
        let (mut plain, only_indexes) = (true, random.bool());
        for _ in 0..random.usize(1..3) {
            let (path, bytes) = random.choice(&mut files).unwrap();
            if !only_indexes || ends_with(path, &["idx"]) {
                plain &= !ends_with(path, &["gz", "zst"]);
                mutate(random, bytes, WORDS);
            }
        }
        for (path, bytes) in &files {
            fs::write(directory.join(path), bytes).unwrap();
        }
        let before = read(root.path());
        search(random, root.path());

        // What an index says changes no byte of the log, but for the format in its header.
        let header = |bytes: &[u8]| bytes.get(..16).map(<[u8]>::to_vec);
        let mut pairs = files.iter().zip(&log.files);
        if only_indexes && pairs.all(|((_, bytes), (_, before))| header(bytes) == header(before)) {
            let whole = TempDir::new().unwrap();
            fs::create_dir(whole.path().join("config")).unwrap();
            for (path, bytes) in log.files.iter().filter(|(path, _)| !ends_with(path, &["idx"])) {
                fs::write(whole.path().join("config").join(path), bytes).unwrap();
            }
            assert!(before == read(whole.path()), "an index has changed the log");
        }

        // The next run keeps what is there, and is read after it.
        let mut next = LogFile::open(root.path(), "config", "vm", options(log.format)).unwrap();
        next.mark(Mark::Start { pid: 1 });
        next.write(Stream::Stdout, b"next run\n").unwrap();
        drop(next);
        let after = read(root.path());
        search(random, root.path());
        assert!(after.ends_with(b"next run\n"), "{:?}", after.escape_ascii().to_string());
        if log.format == Format::Raw && plain {
            assert!(after.strip_suffix(b"next run\n") == Some(&before), "bytes were changed");
        }
    });
}
