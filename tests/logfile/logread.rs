//! Reading a log back from real files: contents, and damaged files.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use tempfile::tempdir;
use vmon::logfile::read::{Entry, Hold, LogReader, ReadError, Warning};
use vmon::logfile::{Format, LogFile, LogOptions, Mark, Retention, RunEnd, Stream};

use crate::common::logs::{
    Chunk, Made, START, STDERR, STDOUT, STOP, TTY, generation, index, joined, lines,
};

fn log(log_dir: &Path, max_size: u64) -> LogFile {
    let retention = Retention::default().max_size(max_size).max_files(u32::MAX);
    let options = LogOptions::default().retention(retention);
    LogFile::open(log_dir, "config", "vm", options).unwrap()
}

fn open(log_dir: &Path) -> LogReader {
    LogReader::open(log_dir, "config", "vm").unwrap()
}

/// Every byte that is there, to the end.
fn bytes(reader: &mut LogReader) -> Vec<u8> {
    read_all(reader).into_iter().flat_map(|(_, _, bytes)| bytes).collect()
}

type Item = (Option<u64>, Option<Stream>, Vec<u8>);

/// The bytes with what is known of them; neighbours of which the same is known are one.
fn read_all(reader: &mut LogReader) -> Vec<Item> {
    let mut all: Vec<Item> = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        let Entry::Bytes { time, stream, bytes } = entry else { continue };
        let time = time.map(|time| time.nanoseconds());
        match all.last_mut() {
            Some(last) if (last.0, last.1) == (time, stream) => last.2.extend_from_slice(bytes),
            _ => all.push((time, stream, bytes.to_vec())),
        }
    }
    all
}

fn chunks() -> Vec<Chunk> {
    vec![
        Chunk::mark(5, START, 77),
        Chunk::new(10, STDOUT, "one\ntwo\n"),
        Chunk::new(20, STDERR, "bad\n"),
        Chunk::new(20, 1, "???"),
        Chunk::new(30, TTY, "\x1b[mthree"),
        Chunk::mark(40, STOP, 256 + 9),
    ]
}

fn stream(kind: u8) -> Option<Stream> {
    match kind {
        STDOUT => Some(Stream::Stdout),
        STDERR => Some(Stream::Stderr),
        TTY => Some(Stream::Tty),
        _ => None,
    }
}

/// What is to be read of chunks, the bytes behind the last one of unknown time.
fn expected(chunks: &[Chunk], rest: &[u8]) -> Vec<Item> {
    let mut all: Vec<Item> = Vec::new();
    for chunk in chunks.iter().filter(|chunk| !chunk.bytes.is_empty()) {
        let stream = stream(chunk.kind);
        all.push((stream.map(|_| chunk.time), stream, chunk.bytes.clone()));
    }
    match all.last_mut() {
        _ if rest.is_empty() => {}
        Some((None, None, bytes)) => bytes.extend_from_slice(rest),
        _ => all.push((None, None, rest.to_vec())),
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
fn an_index_has_times_streams_and_marks() {
    let made = Made::new();
    made.raw("", &chunks());
    let mut reader = open(made.log_dir());
    let mut seen = Vec::new();
    while let Some(entry) = reader.next().unwrap() {
        match entry {
            Entry::Mark { time, mark } => seen.push(format!("{} {mark:?}", time.nanoseconds())),
            Entry::Bytes { time, stream, bytes } => {
                let time = time.map(|time| time.nanoseconds());
                seen.push(format!("{time:?} {stream:?} {:?}", str::from_utf8(bytes).unwrap()));
            }
        }
    }
    let start = Mark::Start { pid: 77 };
    let stop = Mark::Stop(RunEnd::Signalled(9));
    assert_eq!(
        seen,
        [
            format!("5 {start:?}"),
            r#"Some(10) Some(Stdout) "one\ntwo\n""#.to_owned(),
            r#"Some(20) Some(Stderr) "bad\n""#.to_owned(),
            r#"None None "???""#.to_owned(),
            r#"Some(30) Some(Tty) "\u{1b}[mthree""#.to_owned(),
            format!("40 {stop:?}"),
        ]
    );
    assert_eq!(reader.take_warnings(), []);
}

#[test]
fn of_an_index_cut_anywhere_the_whole_records_count_and_every_byte_is_given() {
    let (made, chunks) = (Made::new(), chunks());
    let (log, index) = (joined(&chunks), index(&chunks));
    made.write("", &log);
    for cut in 0..index.len() {
        made.write(".idx", &index[..cut]);
        let mut reader = open(made.log_dir());
        let whole = &chunks[..cut.saturating_sub(32) / 24];
        let rest = &log[joined(whole).len()..];
        assert_eq!(read_all(&mut reader), expected(whole, rest), "{cut}");
        // One whose header is cut is none at all; an empty one is still to be written.
        assert_eq!(reader.take_warnings().len(), usize::from((1..32).contains(&cut)), "{cut}");
    }
}

#[test]
fn a_truncated_index_is_read_up_to_its_last_whole_record() {
    let directory = tempdir().unwrap();
    let streams = [Stream::Stdout, Stream::Stderr, Stream::Tty, Stream::Notice];
    let mut log = log(directory.path(), 0);
    log.mark(Mark::Start { pid: 7 });
    let mut written: Vec<(Stream, Vec<u8>)> = Vec::new();
    for number in 0..24_usize {
        let bytes = format!("{number}\n").repeat(number % 5 + 1).into_bytes();
        let stream = streams[number * 7 % 4];
        log.write(stream, &bytes).unwrap();
        if number == 11 {
            log.mark(Mark::Resize { columns: 80, rows: 25 });
        }
        written.push((stream, bytes));
    }
    log.mark(Mark::Stop(RunEnd::Exited(0)));
    drop(log);
    let whole: Vec<u8> = written.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    let path = directory.path().join("config/vm.log.idx");
    let index = fs::read(&path).unwrap();
    // A record each: no two neighbours are of one stream. The marks, and a check.
    assert_eq!(index.len(), 32 + 24 * (written.len() + 4));
    let mut known_before = 0;
    for cut in 0..=index.len() {
        fs::write(&path, &index[..cut]).unwrap();
        let (mut read, mut known) = (Vec::new(), Vec::new());
        for (time, stream, bytes) in read_all(&mut open(directory.path())) {
            assert_eq!(time.is_some(), stream.is_some());
            read.extend_from_slice(&bytes);
            known.extend(stream.map(|stream| (stream, bytes)));
        }
        assert!(read == whole, "{cut}");
        assert_eq!(known, written[..known.len()], "{cut}");
        // Each complete index record adds the time and stream of its bytes.
        assert!(known.len() == known_before || (known.len() == known_before + 1 && cut % 24 == 8));
        known_before = known.len();
    }
    assert_eq!(known_before, written.len());
}

#[test]
fn of_a_log_cut_anywhere_every_byte_is_given_and_an_index_beyond_it_is_not_used() {
    let (made, chunks) = (Made::new(), chunks());
    let log = joined(&chunks);
    made.write(".idx", &index(&chunks));
    for cut in 0..log.len() {
        made.write("", &log[..cut]);
        let mut reader = open(made.log_dir());
        assert_eq!(read_all(&mut reader), expected(&[], &log[..cut]), "{cut}");
        let warnings = reader.take_warnings();
        assert!(matches!(warnings[..], [Warning::Index { .. }]), "{cut}: {warnings:?}");
    }
}

#[test]
fn an_index_ends_where_its_records_do_not_join_or_are_zeros() {
    let (made, chunks) = (Made::new(), chunks());
    let log = joined(&chunks);
    for broken in 1..chunks.len() {
        for wrong in [[0; 24], [1; 24]] {
            let mut index = index(&chunks);
            index[32 + 24 * broken..].iter_mut().zip(wrong).for_each(|(to, from)| *to = from);
            made.write("", &log);
            made.write(".idx", &index);
            let whole = &chunks[..broken];
            let found = read_all(&mut open(made.log_dir()));
            assert_eq!(found, expected(whole, &log[joined(whole).len()..]), "{broken}");
        }
    }
}

#[test]
fn a_file_that_is_not_an_index_is_reported_and_not_used() {
    let (made, chunks) = (Made::new(), chunks());
    made.raw("", &chunks);
    let mut other = index(&chunks);
    other[8] = 3;
    made.write(".idx", &other);
    let mut reader = open(made.log_dir());
    assert_eq!(read_all(&mut reader), expected(&[], &joined(&chunks)));
    let [warning] = &reader.take_warnings()[..] else { panic!() };
    assert!(warning.to_string().contains("vm.log.idx does not match its log"), "{warning}");
    // Once.
    assert_eq!(read_all(&mut reader), []);
    assert_eq!(reader.take_warnings(), []);
}

#[test]
fn compressed_generations_are_read_with_their_index() {
    let (made, all) = (Made::new(), chunks());
    for (number, program) in [(1, "gzip"), (2, "zstd"), (3, "")] {
        made.raw(&generation(number), &all);
        if !program.is_empty() {
            made.compress(&generation(number), program);
        }
    }
    made.raw("", &all);
    let mut reader = open(made.log_dir());
    let expected: Vec<Item> = (0..4).flat_map(|_| expected(&all, b"")).collect();
    assert_eq!(read_all(&mut reader), expected);
    assert_eq!(reader.take_warnings(), []);
}

#[test]
fn a_damaged_generation_is_reported_and_the_next_one_is_read() {
    for (program, ending) in [("gzip", ".gz"), ("zstd", ".zst")] {
        let made = Made::new();
        made.write(&generation(1), &vec![b'x'; 1 << 20]);
        made.compress(&generation(1), program);
        let path = made.path(&format!("{}{ending}", generation(1)));
        let packed = fs::read(&path).unwrap();
        fs::write(&path, &packed[..packed.len() / 2]).unwrap();
        made.write(&generation(2), b"next\n");
        let mut reader = open(made.log_dir());
        assert!(bytes(&mut reader).ends_with(b"next\n"));
        let warnings = reader.take_warnings();
        assert!(matches!(warnings[..], [Warning::Damaged { .. }]), "{warnings:?}");
    }
}

#[test]
fn lines_of_cri_and_json_are_what_the_child_wrote() {
    let chunks = [
        Chunk::new(1_000, STDOUT, "one\ntwo\nunfin"),
        Chunk::new(2_000, STDERR, "\"bad\"\t\u{1b}\n"),
        Chunk::new(3_000, STDOUT, "ished\n"),
    ];
    for format in ["cri", "json"] {
        let made = Made::new();
        made.write(&generation(1), &lines(format, &chunks));
        made.compress(&generation(1), "gzip");
        made.write("", &lines(format, &chunks));
        let twice: Vec<Item> = (0..2).flat_map(|_| expected(&chunks, b"")).collect();
        assert_eq!(read_all(&mut open(made.log_dir())), twice, "{format}");
    }
}

#[test]
fn a_log_with_an_index_is_raw_whatever_its_first_line() {
    let made = Made::new();
    let text = lines("cri", &[Chunk::new(1, STDOUT, "x\n")]);
    made.raw("", &[Chunk::new(9, STDERR, text.clone())]);
    let raw = [(Some(9), Some(Stream::Stderr), text.clone())];
    assert_eq!(read_all(&mut open(made.log_dir())), raw);
    fs::remove_file(made.path(".idx")).unwrap();
    assert_eq!(read_all(&mut open(made.log_dir()))[0].2, b"x\n");
    let mut reader = open(made.log_dir());
    reader.written_as(Format::Raw);
    assert_eq!(read_all(&mut reader), [(None, None, text)]);
}

#[test]
fn a_record_that_is_not_whole_waits_or_is_left_out() {
    for format in ["cri", "json"] {
        let made = Made::new();
        let whole = lines(format, &[Chunk::new(1_000, STDOUT, "one\ntwo\n")]);
        let first = whole.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        for cut in first + 1..whole.len() {
            made.write("", &whole[..cut]);
            let mut reader = open(made.log_dir());
            reader.hold(Hold::Parts);
            assert_eq!(bytes(&mut reader), b"one\n");
            made.write("", &whole);
            assert_eq!(bytes(&mut reader), b"two\n", "{format}, {cut}");

            // At the end of a generation it is in the next file, if anywhere.
            made.write(".00000001", &whole[..cut]);
            made.write("", &whole[first..]);
            assert_eq!(bytes(&mut open(made.log_dir())), b"one\ntwo\n", "{format}, {cut}");
            fs::remove_file(made.path(".00000001")).unwrap();
            made.write("", &whole[..cut]);
            let mut reader = open(made.log_dir());
            assert_eq!(bytes(&mut reader), b"one\n", "{format}, {cut}");
            // The next run cuts it off.
            made.write("", &whole[..first]);
            assert_eq!(bytes(&mut reader), b"", "{format}, {cut}");
            assert_eq!(reader.take_warnings(), [], "{format}, {cut}");
        }
        // What is no record, and none that was begun, is given as it is.
        made.write("", &[&whole[..first], b"so ends another's log"].concat());
        assert_eq!(bytes(&mut open(made.log_dir())), b"one\nso ends another's log");
    }
}

#[test]
fn lines_of_any_length_are_read() {
    let long = "x".repeat(1 << 20);
    let short = lines("cri", &[Chunk::new(1_000, STDOUT, "short\n")]);
    let made = Made::new();
    made.write("", &[&short[..], long.as_bytes(), b"\n", &short].concat());
    let read = bytes(&mut open(made.log_dir()));
    assert_eq!(read, format!("short\n{long}\nshort\n").as_bytes());
    let made = Made::new();
    made.raw("", &[Chunk::new(1, STDOUT, long.clone())]);
    assert_eq!(bytes(&mut open(made.log_dir())), long.as_bytes());
}

#[test]
fn bytes_without_an_index_record_are_held_back_on_request() {
    let (made, chunks) = (Made::new(), chunks());
    made.raw("", &chunks[..2]);
    made.write("", &joined(&chunks));
    let mut reader = open(made.log_dir());
    reader.hold(Hold::Pending);
    assert_eq!(read_all(&mut reader), expected(&chunks[..2], b""));
    made.write(".idx", &index(&chunks));
    assert_eq!(read_all(&mut reader), expected(&chunks[2..], b""));
}

#[test]
fn an_index_that_has_its_generations_name_already_is_the_logs() {
    let (made, all) = (Made::new(), chunks());
    made.raw(&generation(1), &all);
    made.write("", &joined(&all));
    let mut index = index(&all);
    index[16..24].copy_from_slice(&fs::metadata(made.path("")).unwrap().ino().to_le_bytes());
    made.write(".00000002.idx", &index);
    let twice: Vec<Item> = (0..2).flat_map(|_| expected(&all, b"")).collect();
    assert_eq!(read_all(&mut open(made.log_dir())), twice);
}

#[test]
fn an_index_whose_generation_was_taken_away_is_not_the_logs() {
    let (made, all) = (Made::new(), chunks());
    made.raw(&generation(1), &all);
    made.raw("", &all);
    let mut other = index(&all[..2]);
    other[16] = 1;
    made.write(".00000002.idx", &other);
    let twice: Vec<Item> = (0..2).flat_map(|_| expected(&all, b"")).collect();
    assert_eq!(read_all(&mut open(made.log_dir())), twice);
    fs::remove_file(made.path(".idx")).unwrap();
    let unknown = (None, None, joined(&all));
    assert_eq!(read_all(&mut open(made.log_dir())).last(), Some(&unknown));
}

#[test]
fn a_missing_log_is_an_error_and_nothing_is_created() {
    let directory = tempdir().unwrap();
    let error = LogReader::open(directory.path(), "config", "vm").unwrap_err();
    assert!(matches!(error, ReadError::NoLog { .. }), "{error}");
    assert!(error.to_string().ends_with("config/vm.log"), "{error}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn links_are_not_followed() {
    let made = Made::new();
    let secret = made.log_dir().join("secret");
    fs::write(&secret, b"secret\n").unwrap();
    symlink(&secret, made.path("")).unwrap();
    symlink(&secret, made.path(&generation(1))).unwrap();
    symlink(&secret, made.path(".00000002.gz")).unwrap();
    let read = LogReader::open(made.log_dir(), "config", "vm");
    assert!(read.is_err() || bytes(&mut read.unwrap()).is_empty());
    let outside = tempdir().unwrap();
    symlink(made.log_dir().join("config"), outside.path().join("config")).unwrap();
    let error = LogReader::open(outside.path(), "config", "vm").unwrap_err();
    assert!(error.to_string().contains("is a symbolic link"), "{error}");
}
