//! How much of a log is kept, on real files: by age, by a time for each log, and by a total size
//! that holds at any moment.

use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use tempfile::{TempDir, tempdir};
use vmon::logfile::read::{Entry, LogReader};
use vmon::logfile::{Format, LogFile, LogOptions, Mark, Retention, RunEnd, Stream};

const ALL: u32 = u32::MAX;
const HOUR: Duration = Duration::from_secs(3600);

fn open_with(directory: &TempDir, retention: Retention, index: bool) -> LogFile {
    let options = LogOptions::default().retention(retention).index(index);
    LogFile::open(directory.path(), "config", "vm", options).unwrap()
}

fn open(directory: &TempDir, retention: Retention) -> LogFile {
    open_with(directory, retention, false)
}

fn path(directory: &TempDir, name: &str) -> PathBuf {
    directory.path().join("config").join(name)
}

/// What is there beside the log, without indexes, by number and ending.
fn generations(directory: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(directory.path().join("config")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let generation = |name: String| Some(name.strip_prefix("vm.log.")?.to_owned());
    let mut found: Vec<String> =
        names.filter_map(generation).filter(|name| !name.ends_with("idx")).collect();
    found.sort();
    found
}

/// The size of all files, as one look finds them.
fn taken(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory.join("config")).unwrap();
    entries.map(|entry| entry.unwrap().metadata().map_or(0, |found| found.len())).sum()
}

fn make_older(path: &Path, by: Duration) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_times(FileTimes::new().set_modified(SystemTime::now() - by)).unwrap();
}

/// A log with generations of four bytes, of these ages in hours; the numbers begin with 1.
fn with_ages(directory: &TempDir, ages: &[u32]) {
    let retention = Retention::default().max_size(4).max_files(ALL);
    let mut log = open(directory, retention);
    for _ in 0..=ages.len() {
        log.write(Stream::Stdout, b"abc\n").unwrap();
    }
    for (number, &hours) in (1..).zip(ages) {
        make_older(&path(directory, &format!("vm.log.{number:08}")), HOUR * hours);
    }
}

fn of_age(hours: u32) -> Retention {
    let max_age = Some(HOUR * hours);
    Retention::default().max_size(4).max_files(ALL).max_age(max_age)
}

#[test]
fn generations_beyond_the_age_go_at_a_start() {
    let directory = tempdir().unwrap();
    with_ages(&directory, &[9, 7, 5, 3]);
    drop(open(&directory, of_age(6)));
    assert_eq!(generations(&directory), ["00000003", "00000004"]);
    drop(open(&directory, of_age(1)));
    assert!(generations(&directory).is_empty());
    assert_eq!(fs::read(path(&directory, "vm.log")).unwrap(), b"abc\n");
}

#[test]
fn generations_beyond_the_age_go_at_the_next_rotation() {
    let directory = tempdir().unwrap();
    with_ages(&directory, &[0, 0, 0]);
    let mut log = open(&directory, of_age(6));
    log.write(Stream::Stdout, b"def\n").unwrap();
    assert_eq!(generations(&directory).len(), 4);
    for number in [1, 2] {
        make_older(&path(&directory, &format!("vm.log.{number:08}")), HOUR * 7);
    }
    assert_eq!(generations(&directory).len(), 4, "until then they stay");
    log.write(Stream::Stdout, b"ghi\n").unwrap();
    assert_eq!(generations(&directory), ["00000003", "00000004", "00000005"]);
}

/// A generation is no older than those before it, whatever its time says. One from the future is as
/// old as the one behind it.
#[test]
fn a_generation_that_a_wrong_clock_has_stamped_goes_in_its_turn() {
    let directory = tempdir().unwrap();
    with_ages(&directory, &[9, 0, 9, 1, 9, 1]);
    let future = SystemTime::now() + HOUR * 1000;
    let second = File::options().write(true).open(path(&directory, "vm.log.00000002")).unwrap();
    second.set_times(FileTimes::new().set_modified(future)).unwrap();
    let mut log = open(&directory, of_age(6));
    assert_eq!(generations(&directory), ["00000004", "00000005", "00000006"]);
    make_older(&path(&directory, "vm.log.00000004"), HOUR * 7);
    log.write(Stream::Stdout, b"def\n").unwrap();
    assert_eq!(generations(&directory), ["00000006", "00000007"]);
}

#[test]
fn the_age_of_a_compressed_generation_is_its_files() {
    let directory = tempdir().unwrap();
    with_ages(&directory, &[9, 9]);
    let compressed = |number: u32, ending: &str| {
        let plain = path(&directory, &format!("vm.log.{number:08}"));
        let compressed = path(&directory, &format!("vm.log.{number:08}.{ending}"));
        fs::rename(plain, &compressed).unwrap();
        compressed
    };
    compressed(1, "gz");
    make_older(&compressed(2, "zst"), HOUR);
    drop(open(&directory, of_age(6)));
    assert_eq!(generations(&directory), ["00000002.zst"]);
}

#[test]
fn a_log_is_rotated_a_time_after_its_first_byte_also_when_nothing_more_comes() {
    let directory = tempdir().unwrap();
    let every = Duration::from_millis(300);
    let retention = Retention::default().rotate_every(Some(every)).max_files(ALL);
    let mut log = open(&directory, retention);
    assert_eq!(log.deadline(), None, "an empty log waits for nothing");
    let before = Instant::now();
    log.write(Stream::Stdout, b"one\n").unwrap();
    let due = log.deadline().unwrap();
    assert!(due >= before + every && due <= Instant::now() + every);
    log.write(Stream::Stdout, b"two\n").unwrap();
    assert_eq!(log.deadline(), Some(due), "it is the first byte that counts");
    log.turn();
    assert!(generations(&directory).is_empty() || Instant::now() >= due);
    std::thread::sleep(due.saturating_duration_since(Instant::now()));
    log.turn();
    assert_eq!(fs::read(path(&directory, "vm.log.00000001")).unwrap(), b"one\ntwo\n");
    assert_eq!((log.deadline(), fs::read(log.path()).unwrap().len()), (None, 0));
    log.turn();
    assert_eq!(generations(&directory).len(), 1, "an empty log is not rotated");
    log.write(Stream::Stdout, b"three\n").unwrap();
    assert!(log.deadline().is_some_and(|next| next > due));
}

#[test]
fn the_time_of_a_log_that_is_there_already_began_when_it_was_made() {
    let directory = tempdir().unwrap();
    fs::create_dir(directory.path().join("config")).unwrap();
    fs::write(path(&directory, "vm.log"), "before\n").unwrap();
    let Ok(born) = fs::metadata(path(&directory, "vm.log")).unwrap().created() else {
        eprintln!("skipped: this file system does not know when a file was made");
        return;
    };
    let every = |time| Retention::default().rotate_every(Some(time));
    let log = open(&directory, every(HOUR));
    let left = log.deadline().unwrap().duration_since(Instant::now());
    let age = born.elapsed().unwrap();
    assert!(left <= HOUR && left + age + Duration::from_secs(60) > HOUR, "{left:?}");
    drop(log);
    std::thread::sleep(Duration::from_millis(20));
    let mut log = open(&directory, every(Duration::from_millis(1)));
    assert!(log.deadline().unwrap() <= Instant::now());
    log.turn();
    assert_eq!(fs::read(path(&directory, "vm.log.00000001")).unwrap(), b"before\n");
}

#[test]
fn a_log_that_another_process_has_emptied_or_moved_is_not_rotated_by_age() {
    let directory = tempdir().unwrap();
    let every = Duration::from_millis(1);
    let retention = Retention::default().rotate_every(Some(every));
    let mut log = open(&directory, retention);
    log.write(Stream::Stdout, b"one\n").unwrap();
    File::create(log.path()).unwrap();
    std::thread::sleep(every * 2);
    log.turn();
    assert_eq!((generations(&directory).len(), log.deadline()), (0, None));
    log.write(Stream::Stdout, b"two\n").unwrap();
    fs::rename(log.path(), path(&directory, "vm.log.1")).unwrap();
    std::thread::sleep(every * 2);
    log.turn();
    assert_eq!(generations(&directory), ["1"]);
    assert_eq!((fs::read(log.path()).unwrap().len(), log.deadline()), (0, None));
}

fn total(total: u64, max_size: u64) -> Retention {
    let total_size = Some(total);
    Retention::default().max_size(max_size).max_files(ALL).total_size(total_size)
}

#[test]
fn the_total_holds_after_each_write_and_is_used() {
    for index in [false, true] {
        let directory = tempdir().unwrap();
        let mut log = open_with(&directory, total(100_000, 10_000), index);
        let mut largest = 0;
        for number in 0..20_000_u32 {
            let line = format!("{number:0width$}\n", width = number as usize % 70);
            let stream = if number % 3 == 0 { Stream::Stderr } else { Stream::Stdout };
            log.write(stream, line.as_bytes()).unwrap();
            largest = largest.max(taken(directory.path()));
        }
        drop(log);
        assert!(largest.max(taken(directory.path())) <= 100_000, "{index}: {largest}");
        assert!(largest > 89_000, "{index}: {largest}");
    }
}

#[test]
fn the_total_holds_in_each_format() {
    for format in [Format::Cri, Format::Json] {
        for max_size in [100, 5_000] {
            let directory = tempdir().unwrap();
            let options = LogOptions::default().retention(total(20_000, max_size)).format(format);
            let mut log = LogFile::open(directory.path(), "config", "vm", options).unwrap();
            let mut largest = 0;
            for number in 0..2_000_usize {
                let stream = if number % 3 == 0 { Stream::Stderr } else { Stream::Stdout };
                let bytes = [&[b'x'; 90][..number % 90], &b"\xc3\n"[number % 2..]].concat();
                log.write(stream, &bytes).unwrap();
                largest = largest.max(taken(directory.path()));
            }
            log.mark(Mark::Stop(RunEnd::Exited(0)));
            assert!(largest.max(taken(directory.path())) <= 20_000, "{format:?}: {largest}");
            assert!(largest > 14_000, "{format:?}: {largest}");
        }
    }
}

#[test]
fn an_index_larger_than_its_log_is_within_the_total() {
    let directory = tempdir().unwrap();
    let mut log = open_with(&directory, total(20_000, 5_000), true);
    for number in 0..20_000 {
        // A record each.
        let stream = if number % 2 == 0 { Stream::Stderr } else { Stream::Stdout };
        log.write(stream, b"x").unwrap();
        if number % 100 == 0 {
            log.mark(Mark::Resize { columns: 80, rows: 24 });
            assert!(taken(directory.path()) <= 20_000);
        }
    }
    for _ in 0..3_000 {
        log.mark(Mark::Resize { columns: 80, rows: 24 });
        assert!(taken(directory.path()) <= 20_000);
    }
    drop(log);
    assert!(taken(directory.path()) <= 20_000);
}

#[test]
fn the_total_holds_from_the_start_whatever_was_there() {
    let directory = tempdir().unwrap();
    let mut log = open(&directory, total(1_000_000, 100_000));
    log.write(Stream::Stdout, &[b'x'; 950_000]).unwrap();
    drop(log);
    assert!(taken(directory.path()) > 900_000);
    drop(open(&directory, total(300_000, 100_000)));
    assert!(taken(directory.path()) <= 300_000);
    assert_eq!(generations(&directory), ["00000008", "00000009"]);
    // The log alone is too large by now.
    drop(open(&directory, total(20_000, 5_000)));
    assert_eq!(taken(directory.path()), 0);
}

#[test]
fn compressed_generations_count_with_the_size_that_they_have() {
    let directory = tempdir().unwrap();
    let mut log = open(&directory, total(10_000, 1_000));
    let shrink = |number: u32| {
        let plain = path(&directory, &format!("vm.log.{number:08}"));
        let mut compressed = plain.clone().into_os_string();
        compressed.push(".gz");
        fs::rename(&plain, &compressed).unwrap();
        fs::write(&compressed, [0; 100]).unwrap();
    };
    for number in 0..200 {
        log.write(Stream::Stdout, &[b'x'; 1_000]).unwrap();
        if number > 0 {
            shrink(number);
        }
        assert!(taken(directory.path()) <= 10_000);
    }
    // 80 and one that is not compressed yet fit; changes by other processes are detected from time
    // to time.
    let kept = generations(&directory).len();
    assert!((50..=81).contains(&kept), "{kept}");
}

#[test]
fn a_log_whose_size_does_not_fit_into_the_total_gets_an_eighth_of_it() {
    for max_size in [0, 10 << 20] {
        let directory = tempdir().unwrap();
        let mut log = open(&directory, total(80_000, max_size));
        log.write(Stream::Stdout, &[b'x'; 25_000]).unwrap();
        assert_eq!(generations(&directory).len(), 2);
        assert_eq!(fs::read(path(&directory, "vm.log.00000002")).unwrap().len(), 10_000);
    }
}

#[test]
fn the_limit_that_is_reached_first_holds() {
    let directory = tempdir().unwrap();
    let retention = total(100_000, 1_000).max_files(3);
    let mut log = open(&directory, retention);
    log.write(Stream::Stdout, &[b'x'; 50_500]).unwrap();
    assert_eq!(generations(&directory), ["00000048", "00000049", "00000050"]);
}

/// Neither is a figure to be kept: they are far from what a look at each generation would take.
#[test]
fn rotations_cost_the_same_however_many_generations_there_are() {
    let directory = tempdir().unwrap();
    let retention = total(60_000, 10).max_age(Some(HOUR));
    let mut log = open(&directory, retention);
    for _ in 0..12_000 {
        log.write(Stream::Stdout, b"123456789\n").unwrap();
    }
    assert_eq!(generations(&directory).len(), 5_999);
    assert!(taken(directory.path()) <= 60_000);
}

/// 1,500 runs that print nothing, and 3,000 new sizes of a terminal.
#[test]
fn marks_without_output_push_no_byte_out() {
    for format in [Format::Raw, Format::Cri] {
        let directory = tempdir().unwrap();
        let options = LogOptions::default().retention(total(64 << 10, 0)).format(format);
        let open = || LogFile::open(directory.path(), "config", "vm", options).unwrap();
        let mut log = open();
        log.mark(Mark::Start { pid: 1 });
        log.write(Stream::Stdout, b"kept\n").unwrap();
        log.mark(Mark::Stop(RunEnd::Exited(0)));
        let check = |log: &LogFile, what: &str| {
            let text = fs::read_to_string(log.path()).unwrap();
            assert!(text.ends_with("kept\n"), "{format} {what}");
            assert_eq!(generations(&directory).len(), 0, "{format} {what}");
            assert!(taken(directory.path()) < 64 << 10, "{format} {what}");
        };
        for pid in 2..1502 {
            log.mark(Mark::Start { pid });
            log.mark(Mark::Stop(RunEnd::Exited(1)));
            if pid % 7 == 0 {
                drop(log);
                log = open();
            }
        }
        check(&log, "after runs");
        for columns in 1..3001 {
            log.mark(Mark::Resize { columns, rows: 24 });
        }
        check(&log, "after sizes");
        log.write(Stream::Stdout, b"more\n").unwrap();
        drop(log);
        let mut reader = LogReader::open(directory.path(), "config", "vm").unwrap();
        let mut sizes = Vec::new();
        while let Some(entry) = reader.next().unwrap() {
            match entry {
                Entry::Bytes { time, .. } => assert!(time.is_some(), "{format}"),
                Entry::Mark { mark: Mark::Resize { columns, .. }, .. } => sizes.push(columns),
                Entry::Mark { .. } => {}
            }
        }
        assert_eq!(sizes.last(), Some(&3000), "{format}");
    }
}
