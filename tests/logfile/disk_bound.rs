//! The disk usage of a sandbox has a bound that is known before it runs.

use crate::common::{directory_size, noise};
use vmon::logfile::{Format, LogFile, LogOptions, Mark, Retention, RunEnd, Stream};

fn retention(max_size: u64, max_files: u32) -> Retention {
    Retention::default().max_size(max_size).max_files(max_files)
}

/// Has `write` fill a log, and looks at all its files after some calls. Says how large they were at
/// most, and how large they could have been.
fn fill(options: LogOptions, calls: u32, write: impl Fn(&mut LogFile, u32)) -> (u64, u64) {
    let directory = tempfile::tempdir().unwrap();
    let mut log = LogFile::open(directory.path(), "c", "x", options).unwrap();
    let bound = options.disk_bound(false).unwrap();
    let mut most = 0;
    for call in 0..calls {
        write(&mut log, call);
        // A peak lasts for some calls.
        if call.is_multiple_of(5) {
            most = most.max(directory_size(&directory.path().join("c")));
        }
    }
    (most, bound)
}

fn write_alternating(log: &mut LogFile, call: u32) {
    let stream = if call.is_multiple_of(2) { Stream::Stdout } else { Stream::Stderr };
    log.write(stream, b"x").unwrap();
}

#[test]
fn output_that_changes_its_stream_with_each_byte_stays_within_the_bound() {
    for retention in [
        retention(16 << 10, 2),
        retention(16 << 10, 0),
        retention(100, 3),
        retention(8 << 10, 2).total_size(Some(32 << 10)).max_files(100),
        retention(0, 2).total_size(Some(4 << 10)).max_files(100),
    ] {
        let options = LogOptions::default().retention(retention);
        let (most, bound) = fill(options, 2_500, write_alternating);
        assert!(most <= bound, "{retention:?}: {most} of {bound}");
        assert!(most > bound / 4, "{retention:?}: {most} of {bound}");
    }
}

#[test]
fn runs_that_print_nothing_stay_within_the_bound() {
    let options = LogOptions::default().retention(retention(8 << 10, 2));
    let (most, bound) = fill(options, 3_000, |log, call| {
        log.mark(Mark::Start { pid: call });
        log.mark(Mark::Stop(RunEnd::Exited(1)));
    });
    assert!(most <= bound, "{most} of {bound}");
}

#[test]
fn logs_of_every_format_stay_within_the_bound() {
    for format in [Format::Raw, Format::Cri, Format::Json] {
        for max_size in [30, 100, 10_000] {
            let options = LogOptions::default().format(format).retention(retention(max_size, 2));
            let line = noise(700, 5);
            let (most, bound) = fill(options, 300, |log, call| {
                log.write(Stream::Stdout, &line[..call as usize * 2]).unwrap();
            });
            assert!(most <= bound, "{format:?}, {max_size}: {most} of {bound}");
        }
    }
}

#[test]
fn a_log_that_is_never_rotated_has_no_bound() {
    let options = LogOptions::default().retention(retention(0, 7));
    assert_eq!(options.disk_bound(true), None);
}

#[test]
fn a_bound_that_no_number_can_have_is_the_largest() {
    let options = LogOptions::default().retention(retention(u64::MAX, u32::MAX));
    assert_eq!(options.disk_bound(true), Some(u64::MAX));
}
