//! The log on real files: appending, rotation, retention, permissions, and a full disk. Replacement
//! of a log or its directory is in `src/logfile/tests.rs`, which can trigger the check of the path
//! that happens once a second.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::common::tmpfs::{Tmpfs, assert_full, skip, write_when_there_is_room};
use fastrand::Rng;
use nix::unistd::geteuid;
use tempfile::{TempDir, tempdir};
use vmon::logfile::{LogFile, LogOptions, Retention, Stream};

const ALL: u32 = u32::MAX;

fn open_at(log_dir: &Path, max_size: u64, max_files: u32) -> LogFile {
    let retention = Retention::default().max_size(max_size).max_files(max_files);
    let options = LogOptions::default().retention(retention).index(false);
    LogFile::open(log_dir, "config", "vm", options).unwrap()
}

fn open(directory: &TempDir, max_size: u64, max_files: u32) -> LogFile {
    open_at(directory.path(), max_size, max_files)
}

/// The generations of a log, oldest first, without the log itself.
fn generations(log: &Path) -> Vec<PathBuf> {
    let prefix = format!("{}.", log.file_name().unwrap().to_str().unwrap());
    let mut found: Vec<_> = fs::read_dir(log.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&prefix))
        .collect();
    found.sort();
    found
}

fn names(log: &Path) -> Vec<String> {
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    generations(log).iter().map(name).collect()
}

fn joined(log: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for path in generations(log).iter().map(PathBuf::as_path).chain([log]) {
        bytes.extend(fs::read(path).unwrap());
    }
    bytes
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Any bytes, with a newline about every sixty.
fn any_bytes(random: &mut Rng, count: usize) -> Vec<u8> {
    (0..count).map(|_| if random.u8(..60) == 0 { b'\n' } else { random.u8(..) }).collect()
}

#[test]
fn each_open_appends() {
    let directory = tempdir().unwrap();
    for line in ["one\n", "two\n"] {
        let mut log = open(&directory, 0, 1);
        log.write(Stream::Stdout, line.as_bytes()).unwrap();
        assert_eq!(log.bytes_written(), 4);
    }
    let path = directory.path().join("config/vm.log");
    assert_eq!(open(&directory, 0, 1).path(), path);
    assert_eq!(fs::read(path).unwrap(), b"one\ntwo\n");
}

#[test]
fn bytes_are_on_disk_when_write_returns() {
    let directory = tempdir().unwrap();
    let mut log = open(&directory, 0, 1);
    for count in 1..10_usize {
        log.write(Stream::Stdout, b"x").unwrap();
        assert_eq!(fs::read(log.path()).unwrap().len(), count);
    }
}

#[test]
fn rotation_loses_and_doubles_nothing_and_no_generation_exceeds_the_limit() {
    let mut random = Rng::with_seed(0x9e37_79b9_7f4a_7c15);
    for round in 0..30 {
        let directory = tempdir().unwrap();
        let max_size = random.u64(1..=3_000);
        let mut log = open(&directory, max_size, ALL);
        let mut expected = Vec::new();
        for _ in 0..60 {
            let count = random.usize(..if round % 2 == 0 { 200 } else { 5_000 });
            let chunk = any_bytes(&mut random, count);
            log.write(Stream::Stdout, &chunk).unwrap();
            expected.extend(chunk);
            if random.u8(..10) == 0 {
                log = open(&directory, max_size, ALL);
            }
        }
        assert!(joined(log.path()) == expected, "round {round}, limit {max_size}");
        for path in generations(log.path()).iter().map(PathBuf::as_path).chain([log.path()]) {
            let size = fs::metadata(path).unwrap().len();
            assert!(size <= max_size, "{} has {size} of {max_size}", path.display());
        }
    }
}

#[test]
fn a_log_is_filled_to_the_very_limit_when_there_is_no_newline() {
    let directory = tempdir().unwrap();
    let mut log = open(&directory, 10, ALL);
    log.write(Stream::Stdout, &[b'x'; 25]).unwrap();
    let sizes: Vec<_> =
        generations(log.path()).iter().map(|path| fs::metadata(path).unwrap().len()).collect();
    assert_eq!(sizes, [10, 10]);
    assert_eq!(fs::read(log.path()).unwrap().len(), 5);
}

#[test]
fn a_full_log_waits_for_the_next_byte_to_be_rotated() {
    let directory = tempdir().unwrap();
    let mut log = open(&directory, 10, ALL);
    log.write(Stream::Stdout, b"0123456789").unwrap();
    log.write(Stream::Stdout, b"").unwrap();
    assert!(generations(log.path()).is_empty());
    log.write(Stream::Stdout, b"a").unwrap();
    assert_eq!(names(log.path()), ["vm.log.00000001"]);
}

#[test]
fn lines_stay_whole_over_rotations_while_they_fit() {
    let directory = tempdir().unwrap();
    let mut log = open(&directory, 100, ALL);
    let line = |number: usize| format!("{number} {}\n", "x".repeat(number % 40));
    for number in (0..200).step_by(2) {
        // Two at a time: newlines within a chunk and at its end.
        log.write(Stream::Stdout, format!("{}{}", line(number), line(number + 1)).as_bytes())
            .unwrap();
    }
    let found = generations(log.path());
    assert!(found.len() > 30);
    for path in found {
        assert_eq!(fs::read(&path).unwrap().last(), Some(&b'\n'), "{}", path.display());
    }
}

#[test]
fn a_log_that_is_full_when_opened_is_rotated_before_the_first_write() {
    for length in [10, 11, 500] {
        let directory = tempdir().unwrap();
        let old = vec![b'o'; length];
        open(&directory, 0, 1).write(Stream::Stdout, &old).unwrap();
        let mut log = open(&directory, 10, 1);
        assert!(generations(log.path()).is_empty());
        log.write(Stream::Stdout, b"new").unwrap();
        assert_eq!(fs::read(log.path().with_extension("log.00000001")).unwrap(), old);
        assert_eq!(fs::read(log.path()).unwrap(), b"new");
    }
}

#[test]
fn a_limit_of_zero_never_rotates() {
    let directory = tempdir().unwrap();
    let mut log = open(&directory, 0, 1);
    for _ in 0..64 {
        log.write(Stream::Stdout, &[b'\n'; 65_536]).unwrap();
    }
    assert_eq!(log.bytes_written(), 4 << 20);
    assert_eq!(fs::metadata(log.path()).unwrap().len(), 4 << 20);
    assert!(generations(log.path()).is_empty());
}

#[test]
fn the_newest_generations_are_kept_and_no_more() {
    let directory = tempdir().unwrap();
    let mut log = open(&directory, 2, 3);
    log.write(Stream::Stdout, b"00112233445566").unwrap();
    assert_eq!(names(log.path()), ["vm.log.00000004", "vm.log.00000005", "vm.log.00000006"]);
    assert_eq!(joined(log.path()), b"33445566");
}

#[test]
fn a_generation_never_changes_its_name() {
    let directory = tempdir().unwrap();
    let mut log = open(&directory, 2, 5);
    log.write(Stream::Stdout, b"0011").unwrap();
    let first = &generations(log.path())[0];
    let inode = fs::metadata(first).unwrap().ino();
    log.write(Stream::Stdout, b"223344").unwrap();
    assert_eq!(fs::metadata(first).unwrap().ino(), inode);
}

#[test]
fn keeping_none_removes_the_full_log_and_its_readers_read_to_the_end() {
    let directory = tempdir().unwrap();
    let mut log = open(&directory, 4, 0);
    log.write(Stream::Stdout, b"0123").unwrap();
    let reader = File::open(log.path()).unwrap();
    log.write(Stream::Stdout, b"45").unwrap();
    assert!(generations(log.path()).is_empty());
    assert_eq!(fs::read(log.path()).unwrap(), b"45");
    assert_eq!(io::read_to_string(reader).unwrap(), "0123");
}

#[test]
fn a_lower_number_to_keep_prunes_at_the_first_rotation() {
    for (max_files, expected) in
        [(2, &["vm.log.00000009", "vm.log.00000010"][..]), (1, &["vm.log.00000010"]), (0, &[])]
    {
        let directory = tempdir().unwrap();
        open(&directory, 1, ALL).write(Stream::Stdout, b"0123456789").unwrap();
        let mut log = open(&directory, 1, max_files);
        assert_eq!(generations(log.path()).len(), 9);
        log.write(Stream::Stdout, b"a").unwrap();
        assert_eq!(names(log.path()), expected);
    }
}

#[test]
fn numbers_grow_over_opens_and_count_compressed_generations() {
    let directory = tempdir().unwrap();
    open(&directory, 1, 2).write(Stream::Stdout, b"0123456").unwrap();
    let log = directory.path().join("config/vm.log");
    assert_eq!(names(&log), ["vm.log.00000005", "vm.log.00000006"]);
    fs::rename(log.with_extension("log.00000005"), log.with_extension("log.00000005.zst")).unwrap();
    fs::rename(log.with_extension("log.00000006"), log.with_extension("log.00000006.gz")).unwrap();
    open(&directory, 1, 2).write(Stream::Stdout, b"7").unwrap();
    assert_eq!(names(&log), ["vm.log.00000006.gz", "vm.log.00000007"]);
    open(&directory, 1, 2).write(Stream::Stdout, b"89").unwrap();
    assert_eq!(names(&log), ["vm.log.00000008", "vm.log.00000009"]);
}

#[test]
fn a_generation_that_is_compressed_meanwhile_is_removed_in_its_turn() {
    let directory = tempdir().unwrap();
    let mut log = open(&directory, 1, 2);
    log.write(Stream::Stdout, b"012").unwrap();
    for path in generations(log.path()) {
        fs::rename(&path, format!("{}.gz", path.display())).unwrap();
    }
    log.write(Stream::Stdout, b"3").unwrap();
    assert_eq!(names(log.path()), ["vm.log.00000002.gz", "vm.log.00000003"]);
}

#[test]
fn other_files_in_the_directory_are_not_touched() {
    let directory = tempdir().unwrap();
    let config = directory.path().join("config");
    fs::create_dir(&config).unwrap();
    let others = ["vm.log.1", "vm.log.0000001", "vm.log.00000001.bak", "vm2.log.00000001", "x"];
    for other in others {
        fs::write(config.join(other), other).unwrap();
    }
    open(&directory, 1, 0).write(Stream::Stdout, b"0123").unwrap();
    for other in others {
        assert_eq!(fs::read(config.join(other)).unwrap(), other.as_bytes());
    }
}

#[test]
fn an_unremovable_generation_does_not_keep_the_others() {
    let directory = tempdir().unwrap();
    fs::create_dir_all(directory.path().join("config/vm.log.00000001/full")).unwrap();
    let mut log = open(&directory, 1, 1);
    log.write(Stream::Stdout, b"01234").unwrap();
    assert_eq!(names(log.path()), ["vm.log.00000001", "vm.log.00000005"]);
}

#[test]
fn directories_are_private_and_so_is_the_log() {
    let directory = tempdir().unwrap();
    let log_dir = directory.path().join("a/b");
    let mut log = open_at(&log_dir, 2, 1);
    log.write(Stream::Stdout, b"abc").unwrap();
    for path in [directory.path().join("a"), log_dir.clone(), log_dir.join("config")] {
        assert_eq!(mode(&path), 0o700, "{}", path.display());
    }
    assert_eq!(mode(log.path()), 0o600);
    assert_eq!(mode(&log.path().with_extension("log.00000001")), 0o600);
}

#[test]
fn a_log_directory_may_be_a_symlink() {
    let directory = tempdir().unwrap();
    fs::create_dir(directory.path().join("real")).unwrap();
    symlink("real", directory.path().join("link")).unwrap();
    open_at(&directory.path().join("link"), 1, 1).write(Stream::Stdout, b"ab").unwrap();
    assert_eq!(joined(&directory.path().join("real/config/vm.log")), b"ab");
}

#[test]
fn a_check_makes_the_directory_but_no_log() {
    let directory = tempdir().unwrap();
    LogFile::check(directory.path(), "config", "vm").unwrap();
    LogFile::check(directory.path(), "config", "vm").unwrap();
    assert_eq!(fs::read_dir(directory.path().join("config")).unwrap().count(), 0);
    open(&directory, 0, 0).write(Stream::Stdout, b"x").unwrap();
    LogFile::check(directory.path(), "config", "vm").unwrap();
}

#[test]
fn a_directory_without_permission_is_an_error_that_names_it() {
    if geteuid().is_root() {
        return skip("root may do everything; run the tests as an ordinary user");
    }
    for mode in [0o500, 0o600, 0o000] {
        let directory = tempdir().unwrap();
        let config = directory.path().join("config");
        fs::create_dir(&config).unwrap();
        fs::set_permissions(&config, PermissionsExt::from_mode(mode)).unwrap();
        let checked = LogFile::check(directory.path(), "config", "vm");
        let opened = LogFile::open(directory.path(), "config", "vm", LogOptions::default());
        fs::set_permissions(&config, PermissionsExt::from_mode(0o700)).unwrap();
        for error in [checked.unwrap_err(), opened.unwrap_err()] {
            let message = error.to_string();
            assert!(message.contains(config.to_str().unwrap()), "{message}");
            assert!(message.contains("denied"), "{message}");
        }
        assert_eq!(fs::read_dir(&config).unwrap().count(), 0);
    }
}

#[test]
fn a_log_without_permission_is_found_by_the_check() {
    if geteuid().is_root() {
        return skip("root may do everything; run the tests as an ordinary user");
    }
    let directory = tempdir().unwrap();
    let log = open(&directory, 0, 0);
    fs::set_permissions(log.path(), PermissionsExt::from_mode(0o400)).unwrap();
    let error = LogFile::check(directory.path(), "config", "vm").unwrap_err();
    assert!(error.to_string().contains("vm.log"), "{error}");
}

#[test]
fn a_refused_rotation_is_repeated_later() {
    if geteuid().is_root() {
        return skip("root may do everything; run the tests as an ordinary user");
    }
    let directory = tempdir().unwrap();
    let config = directory.path().join("config");
    let mut log = open(&directory, 4, ALL);
    fs::set_permissions(&config, PermissionsExt::from_mode(0o500)).unwrap();
    let error = log.write(Stream::Stdout, b"0123456").unwrap_err();
    assert_eq!(error.written, 4);
    assert!(error.to_string().contains(log.path().to_str().unwrap()), "{error}");
    assert_eq!(log.write(Stream::Stdout, b"456").unwrap_err().written, 0);
    fs::set_permissions(&config, PermissionsExt::from_mode(0o700)).unwrap();
    log.write(Stream::Stdout, b"456").unwrap();
    assert_eq!(joined(log.path()), b"0123456");
    assert_eq!(log.bytes_written(), 7);
}

/// Writes chunks until the disk is full, frees some of it, gives what was left over, goes on.
fn fill_and_recover(tmpfs: &Tmpfs, max_size: u64) {
    let ballast = tmpfs.path().join("ballast");
    fs::write(&ballast, [0; 65_536]).unwrap();
    let mut log = open_at(tmpfs.path(), max_size, ALL);
    let mut random = Rng::with_seed(1);
    let mut expected = Vec::new();
    let (chunk, error) = loop {
        let chunk = any_bytes(&mut random, 9_000);
        match log.write(Stream::Stdout, &chunk) {
            Ok(()) => expected.extend(chunk),
            Err(error) => break (chunk, error),
        }
    };
    assert_full(&error);
    let (within, rest) = chunk.split_at(error.written);
    expected.extend(within);
    assert!(joined(log.path()) == expected, "what is written is what is in the log");
    // Again while nothing has changed.
    let again = log.write(Stream::Stdout, rest).unwrap_err();
    assert_full(&again);
    assert_eq!(again.written, 0);
    assert!(joined(log.path()) == expected);

    fs::remove_file(ballast).unwrap();
    for more in [rest.to_vec(), any_bytes(&mut random, 9_000)] {
        write_when_there_is_room(&mut log, &more);
        expected.extend(more);
    }
    assert!(joined(log.path()) == expected);
    assert_eq!(log.bytes_written(), expected.len() as u64);
}

#[test]
fn a_full_disk_loses_and_doubles_nothing() {
    let Some(tmpfs) = Tmpfs::new("size=192k") else { return };
    fill_and_recover(&tmpfs, 0);
}

#[test]
fn a_disk_that_fills_between_rotations_loses_and_doubles_nothing() {
    for max_size in [5_000, 8_192, 16_384, 20_000] {
        let Some(tmpfs) = Tmpfs::new("size=192k") else { return };
        fill_and_recover(&tmpfs, max_size);
    }
}

#[test]
fn rotation_on_a_full_disk_makes_room_by_what_it_prunes() {
    let Some(tmpfs) = Tmpfs::new("size=64k") else { return };
    let mut log = open_at(tmpfs.path(), 16_384, 1);
    for _ in 0..50 {
        log.write(Stream::Stdout, &[b'x'; 8_192]).unwrap();
    }
    assert_eq!(joined(log.path()).len(), 32_768);
}

#[test]
fn a_new_log_that_can_not_be_made_after_the_rename_is_made_by_a_later_write() {
    let Some(tmpfs) = Tmpfs::new("size=1m,nr_inodes=10") else { return };
    let mut log = open_at(tmpfs.path(), 4, ALL);
    let spare = |number: u32| File::create_new(tmpfs.path().join(number.to_string()));
    assert!((0..20).take_while(|&number| spare(number).is_ok()).count() < 20);
    let error = log.write(Stream::Stdout, b"0123456").unwrap_err();
    assert_full(&error);
    assert_eq!(error.written, 4);
    assert!(!log.path().exists());
    assert_eq!(log.write(Stream::Stdout, b"456").unwrap_err().written, 0);
    assert!(tmpfs.remount("nr_inodes=100"));
    log.write(Stream::Stdout, b"456").unwrap();
    assert_eq!(joined(log.path()), b"0123456");
}
