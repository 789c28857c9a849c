//! The disk that a sandbox can use is a number that is known before it runs.

mod common;

use std::fs;
use std::path::Path;

use vmon::logfile::{End, Format, LogFile, LogOptions, Mark, Retention, Stream};

/// The bytes of all files in a directory.
fn size(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap();
    entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len())).sum()
}

fn retention(max_size: u64, max_files: u32) -> Retention {
    Retention { max_size, max_files, ..Retention::default() }
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
            most = most.max(size(&directory.path().join("c")));
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
        Retention { total_size: Some(32 << 10), max_files: 100, ..retention(8 << 10, 2) },
        Retention { total_size: Some(4 << 10), max_files: 100, ..retention(0, 2) },
    ] {
        let options = LogOptions { retention, ..LogOptions::default() };
        let (most, bound) = fill(options, 2_500, write_alternating);
        assert!(most <= bound, "{retention:?}: {most} of {bound}");
        assert!(most > bound / 4, "{retention:?}: {most} of {bound}");
    }
}

#[test]
fn runs_that_print_nothing_stay_within_the_bound() {
    let options = LogOptions { retention: retention(8 << 10, 2), ..LogOptions::default() };
    let (most, bound) = fill(options, 3_000, |log, call| {
        log.mark(Mark::Start { pid: call });
        log.mark(Mark::Stop(End::Exited(1)));
    });
    assert!(most <= bound, "{most} of {bound}");
}

#[test]
fn logs_of_every_format_stay_within_the_bound() {
    for format in [Format::Raw, Format::Cri, Format::Json] {
        for max_size in [30, 100, 10_000] {
            let options =
                LogOptions { format, retention: retention(max_size, 2), ..LogOptions::default() };
            let line = common::noise(700, 5);
            let (most, bound) = fill(options, 300, |log, call| {
                log.write(Stream::Stdout, &line[..call as usize * 2]).unwrap();
            });
            assert!(most <= bound, "{format:?}, {max_size}: {most} of {bound}");
        }
    }
}

#[test]
fn a_log_that_is_never_rotated_has_no_bound() {
    let options = LogOptions { retention: retention(0, 7), ..LogOptions::default() };
    assert_eq!(options.disk_bound(true), None);
}

#[test]
fn a_bound_that_no_number_can_have_is_the_largest() {
    let options = LogOptions { retention: retention(u64::MAX, u32::MAX), ..LogOptions::default() };
    assert_eq!(options.disk_bound(true), Some(u64::MAX));
}

mod command {
    use std::process::Stdio;

    use nix::sys::signal::Signal;
    use serde_json::Value;

    use super::common::{Process, State, code, eventually, process_state, signal, wait};
    use super::size;

    fn bound(state: &State) -> Value {
        let output = state.vmon().args(["inspect", "x"]).output().unwrap();
        let list: Value = serde_json::from_slice(&output.stdout).unwrap();
        list[0]["disk_bound"].clone()
    }

    /// Runs a child that is as hard on the index as one can be, and a command that makes a second
    /// copy of each generation and fails, and looks at all files until so many generations have come.
    fn flood(options: &[&str], generations: usize) {
        let script = "while :; do printf a; printf b >&2; done";
        flood_by(script, &["x"], options, generations);
    }

    /// The same by this script, which fills all of these logs.
    fn flood_by(script: &str, logs: &[&str], options: &[&str], generations: usize) {
        let state = State::new();
        let broken = "f() { cat \"$1\" >\"$1.gz\"; exit 1; }; f";
        let own = ["--no-forward", "--log-level", "error", "--log-rotate-command", broken];
        let options = [&own, options].concat();
        let mut vmon = Process::spawn(state.run("x", &options, script).stdin(Stdio::null()));
        state.wait_for_status("x", "RUNNING");
        let bound = bound(&state).as_u64().unwrap();
        let newest = |log: &&str| {
            let names = state.generations(log).into_iter();
            let names = names.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
            names.filter_map(|name| name.split('.').nth(2)?.parse::<usize>().ok()).max()
        };
        eventually("the generations have come", || {
            // Nothing is renamed while it is looked at.
            signal(&vmon.0, Signal::SIGSTOP);
            eventually("it is stopped", || process_state(vmon.0.id()) == Some('T'));
            let found = size(&state.logs());
            signal(&vmon.0, Signal::SIGCONT);
            assert!(found <= bound, "{found} of {bound}");
            logs.iter().map(newest).min() >= Some(Some(generations))
        });
        signal(&vmon.0, Signal::SIGTERM);
        assert_eq!(code(wait(&mut vmon.0)), 143);
        let found = size(&state.logs());
        assert!(found <= bound, "at the end: {found} of {bound}");
    }

    #[test]
    fn a_sandbox_whose_compression_fails_stays_within_its_total_size() {
        flood(&["--log-total-size", "64KiB", "--log-max-size", "4KiB"], 20);
    }

    #[test]
    fn a_sandbox_whose_compression_fails_stays_within_what_inspect_prints() {
        flood(&["--log-max-size", "4KiB", "--log-max-files", "3"], 20);
    }

    #[test]
    fn consoles_whose_compression_fails_stay_within_what_inspect_prints() {
        let script = "flood() { while :; do head -c 500 /dev/zero; done; }; \
                      flood >{a} & flood >{b} & wait";
        let consoles = ["--console", "a=pty", "--console", "b=pty"];
        for limits in [
            ["--log-max-size", "4KiB", "--log-max-files", "3"],
            ["--log-max-size", "4KiB", "--log-total-size", "64KiB"],
        ] {
            flood_by(script, &["x@a", "x@b"], &[&consoles[..], &limits].concat(), 20);
        }
    }

    #[test]
    fn the_bound_is_on_record_before_the_end_and_after_it() {
        for (options, expected) in [
            (&["--log-total-size", "1MiB"][..], Some((1 << 20) + (2 << 20))),
            (&["--log-max-size", "1MiB", "--log-max-files", "4"], Some((10 << 20) + (2 << 20))),
            (&["--log-max-size", "1MiB", "--console", "a=pty"], Some((8 << 20) + (2 << 20))),
            // Of either log one generation more, and what is made of it.
            (
                &["--log-max-size", "1MiB", "--console", "a=pty", "--log-rotate-command", "gzip"],
                Some((8 << 20) + 2 * ((3 << 20) + (1 << 14) + (1 << 10)) + (2 << 20)),
            ),
            (&["--log-max-size", "0"], None),
        ] {
            let state = State::new();
            assert_eq!(code(state.run("x", options, "true").status().unwrap()), 0);
            assert_eq!(bound(&state).as_u64(), expected, "{options:?}");
        }
    }
}
