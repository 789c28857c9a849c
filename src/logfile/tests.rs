//! Files of other types at the path of a log or of its directory. These tests are here, not in
//! `tests/logfile`, because they set when the check of the path is due.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::{TempDir, tempdir};

use super::*;

fn open(directory: &TempDir, max_size: u64) -> LogFile {
    let retention = Retention { max_size, max_files: 9, ..Retention::default() };
    let options = LogOptions { retention, index: false, ..LogOptions::default() };
    LogFile::open(directory.path(), "config", "vm", options).unwrap()
}

fn write_a_second_later(log: &mut LogFile, bytes: &[u8]) -> Result<(), WriteError> {
    log.checked = None;
    log.write(Stream::Stdout, bytes)
}

fn content(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_removed_log_is_created_again() {
    let directory = tempdir().unwrap();
    let mut log = open(&directory, 0);
    log.write(Stream::Stdout, b"before\n").unwrap();
    fs::remove_file(log.path()).unwrap();
    write_a_second_later(&mut log, b"after\n").unwrap();
    assert_eq!(content(log.path()), "after\n");
}

/// Whether a log or a generation is locked by a writer.
fn is_locked(path: &Path) -> bool {
    matches!(File::open(path).unwrap().try_lock(), Err(TryLockError::WouldBlock))
}

#[test]
fn a_log_is_locked_while_it_is_open_and_its_generations_are_not() {
    let directory = tempdir().unwrap();
    let mut log = open(&directory, 10);
    let (path, generation) = (log.path().to_owned(), log.path().with_extension("log.00000001"));
    assert!(is_locked(&path));
    log.write(Stream::Stdout, b"12345678\nabc\n").unwrap();
    assert!(is_locked(&path) && !is_locked(&generation));
    // Another writer of the same log, and the lock of one that is closed.
    let other = open(&directory, 10);
    drop(log);
    assert!(is_locked(&path));
    let lock = other.into_lock();
    assert!(is_locked(&path));
    drop(lock);
    assert!(!is_locked(&path));
}

#[test]
fn a_log_that_another_process_has_locked_is_written_and_locked_later() {
    let directory = tempdir().unwrap();
    let mut log = open(&directory, 0);
    fs::remove_file(log.path()).unwrap();
    let other = File::create(log.path()).unwrap();
    other.try_lock().unwrap();
    write_a_second_later(&mut log, b"one\n").unwrap();
    write_a_second_later(&mut log, b"two\n").unwrap();
    assert_eq!(content(log.path()), "one\ntwo\n");
    drop(other);
    assert!(!is_locked(log.path()));
    write_a_second_later(&mut log, b"three\n").unwrap();
    assert!(is_locked(log.path()));
}

#[test]
fn a_log_that_can_not_be_created_again_keeps_the_lock_on_the_last_one() {
    let directory = tempdir().unwrap();
    let mut log = open(&directory, 0);
    let (path, moved) = (log.path().to_owned(), directory.path().join("moved"));
    fs::rename(&path, &moved).unwrap();
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    for _ in 0..2 {
        log.reopen().unwrap_err();
        assert!(is_locked(&moved));
    }
    fs::remove_file(&path).unwrap();
    log.reopen().unwrap();
    assert!(is_locked(&path) && !is_locked(&moved));
    // The blocks of one that is removed are not kept.
    fs::remove_file(&path).unwrap();
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    log.reopen().unwrap_err();
    assert!(log.retired.is_none());
}

#[test]
fn the_path_is_checked_at_most_once_a_second() {
    let directory = tempdir().unwrap();
    let mut log = open(&directory, 0);
    fs::remove_file(log.path()).unwrap();
    // An instant in the future is a look that stays fresh however slow this machine is.
    log.checked = Some(Instant::now() + Duration::from_secs(3600));
    log.write(Stream::Stdout, b"gone\n").unwrap();
    assert!(!log.path().exists());
    log.checked = Instant::now().checked_sub(CHECK_EVERY);
    log.write(Stream::Stdout, b"here\n").unwrap();
    assert_eq!(content(log.path()), "here\n");
}

#[test]
fn a_removed_log_directory_is_created_again() {
    let directory = tempdir().unwrap();
    let log_dir = directory.path().join("a/b");
    let mut log = LogFile::open(&log_dir, "config", "vm", LogOptions::default()).unwrap();
    fs::remove_dir_all(directory.path().join("a")).unwrap();
    write_a_second_later(&mut log, b"after\n").unwrap();
    assert_eq!(content(log.path()), "after\n");
}

#[test]
fn a_renamed_directory_is_left_and_a_new_one_made() {
    let directory = tempdir().unwrap();
    let mut log = open(&directory, 0);
    log.write(Stream::Stdout, b"before\n").unwrap();
    let moved = directory.path().join("moved");
    fs::rename(directory.path().join("config"), &moved).unwrap();
    write_a_second_later(&mut log, b"after\n").unwrap();
    assert_eq!(content(&moved.join("vm.log")), "before\n");
    assert_eq!(content(log.path()), "after\n");
}

#[test]
fn numbers_continue_in_a_directory_that_was_created_again() {
    let directory = tempdir().unwrap();
    let mut log = open(&directory, 4);
    log.write(Stream::Stdout, b"1234567").unwrap();
    fs::remove_dir_all(directory.path().join("config")).unwrap();
    write_a_second_later(&mut log, b"abcdefg").unwrap();
    assert_eq!(content(&directory.path().join("config/vm.log.00000002")), "abcd");
}

#[test]
fn a_truncated_log_has_room_again() {
    let directory = tempdir().unwrap();
    let mut log = open(&directory, 10);
    log.write(Stream::Stdout, b"12345678").unwrap();
    fs::write(log.path(), b"").unwrap();
    write_a_second_later(&mut log, b"abcdefgh").unwrap();
    assert_eq!(content(log.path()), "abcdefgh");
    assert_eq!(fs::read_dir(directory.path().join("config")).unwrap().count(), 1);
}

#[test]
fn a_log_that_another_process_lengthened_is_rotated_in_time() {
    let directory = tempdir().unwrap();
    let mut log = open(&directory, 10);
    log.write(Stream::Stdout, b"1234").unwrap();
    fs::write(log.path(), b"12345678").unwrap();
    write_a_second_later(&mut log, b"abcd").unwrap();
    assert_eq!(content(&directory.path().join("config/vm.log.00000001")), "12345678ab");
    assert_eq!(content(log.path()), "cd");
}

#[test]
fn a_fifo_or_symlink_put_in_the_logs_place_is_refused_until_it_is_gone() {
    let directory = tempdir().unwrap();
    let mut log = open(&directory, 0);
    let target = directory.path().join("target");
    fs::write(&target, b"").unwrap();
    let plant: [&dyn Fn(&Path); 2] =
        [&|path| mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap(), &|path| {
            symlink(&target, path).unwrap()
        }];
    for plant in plant {
        fs::remove_file(log.path()).unwrap();
        plant(log.path());
        let error = write_a_second_later(&mut log, b"x").unwrap_err();
        assert_eq!(error.written, 0);
        assert!(matches!(error.source, LogError::WrongKind { .. }), "{error}");
        assert!(error.to_string().contains(log.path().to_str().unwrap()), "{error}");
        assert_eq!(log.write(Stream::Stdout, b"x").unwrap_err().written, 0);
        fs::remove_file(log.path()).unwrap();
        log.write(Stream::Stdout, b"back\n").unwrap();
        assert_eq!(content(log.path()), "back\n");
    }
    assert_eq!(content(&target), "");
}

#[test]
fn a_symlink_put_in_the_directorys_place_is_refused_also_by_a_rotation() {
    let directory = tempdir().unwrap();
    let mut log = open(&directory, 4);
    let (config, moved) = (directory.path().join("config"), directory.path().join("moved"));
    fs::rename(&config, &moved).unwrap();
    symlink(&moved, &config).unwrap();
    let error = log.write(Stream::Stdout, b"12345678").unwrap_err();
    assert_eq!(error.written, 4);
    assert!(error.to_string().contains("config is a symbolic link"), "{error}");
    assert_eq!(fs::read_dir(&moved).unwrap().count(), 1);
    fs::remove_file(&config).unwrap();
    log.write(Stream::Stdout, b"5678").unwrap();
    assert_eq!(content(log.path()), "5678");
}

#[test]
fn a_rename_never_takes_the_place_of_another_file() {
    let directory = tempdir().unwrap();
    let mut log = open(&directory, 2);
    log.write(Stream::Stdout, b"abc").unwrap();
    let planted = directory.path().join("config/vm.log.00000002");
    fs::write(&planted, b"mine").unwrap();
    log.write(Stream::Stdout, b"de").unwrap();
    assert_eq!(content(&planted), "mine");
    assert_eq!(content(&directory.path().join("config/vm.log.00000003")), "cd");
}

#[test]
fn names_that_lead_out_of_the_directory_are_refused() {
    let directory = tempdir().unwrap();
    let long = "x".repeat(255);
    for bad in ["", ".", "..", "a/b", "/", "../vm", "a\0b"] {
        for (config, name) in [(bad, "vm"), ("config", bad)] {
            let opened = LogFile::open(directory.path(), config, name, LogOptions::default());
            assert!(matches!(opened, Err(LogError::Name { .. })), "{config:?} {name:?}");
            let checked = LogFile::check(directory.path(), config, name);
            assert!(matches!(checked, Err(LogError::Name { .. })), "{config:?} {name:?}");
        }
    }
    // A log that could be made, but not rotated.
    let checked = LogFile::check(directory.path(), "config", &long[..250]);
    assert!(matches!(checked, Err(LogError::Name { .. })));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// Both ways in say the same of what is in the log's place, and name it.
fn assert_refused(log_dir: &Path, path: &Path, found: &str) {
    let opened = LogFile::open(log_dir, "config", "vm", LogOptions::default()).unwrap_err();
    let checked = LogFile::check(log_dir, "config", "vm").unwrap_err();
    for error in [opened, checked] {
        let message = error.to_string();
        assert!(matches!(error, LogError::WrongKind { .. }), "{message}");
        assert!(message.starts_with(&format!("{} is {found}", path.display())), "{message}");
    }
}

#[test]
fn a_symlinked_config_directory_is_refused() {
    let directory = tempdir().unwrap();
    let target = directory.path().join("target");
    fs::create_dir(&target).unwrap();
    symlink(&target, directory.path().join("config")).unwrap();
    assert_refused(directory.path(), &directory.path().join("config"), "a symbolic link");
    assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
}

#[test]
fn anything_but_a_file_in_the_logs_place_is_refused() {
    let directory = tempdir().unwrap();
    let target = directory.path().join("target");
    let dangling = directory.path().join("nowhere");
    let config = directory.path().join("config");
    fs::write(&target, b"").unwrap();
    fs::create_dir(&config).unwrap();
    let log = config.join("vm.log");

    for (found, to) in [("a symbolic link", &target), ("a symbolic link", &dangling)] {
        symlink(to, &log).unwrap();
        assert_refused(directory.path(), &log, found);
        fs::remove_file(&log).unwrap();
    }
    mkfifo(&log, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    assert_refused(directory.path(), &log, "a FIFO");
    // Also while the FIFO has a reader, so that it could be opened.
    let reader = File::options().read(true).write(true).open(&log).unwrap();
    assert_refused(directory.path(), &log, "a FIFO");
    drop(reader);
    fs::remove_file(&log).unwrap();
    let socket = UnixListener::bind(&log).unwrap();
    assert_refused(directory.path(), &log, "a socket");
    drop(socket);
    fs::remove_file(&log).unwrap();
    fs::create_dir(&log).unwrap();
    assert_refused(directory.path(), &log, "a directory");

    assert_eq!(fs::read(&target).unwrap(), b"");
    assert!(!dangling.exists());
}

#[test]
fn an_unusable_directory_is_an_error_that_names_it() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, b"").unwrap();
    let error = LogFile::check(&file, "config", "vm").unwrap_err();
    assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
    let error = LogFile::check(&file.join("below"), "config", "vm").unwrap_err();
    assert!(error.to_string().contains("file/below"), "{error}");
    fs::write(directory.path().join("config"), b"").unwrap();
    assert_refused(directory.path(), &directory.path().join("config"), "a regular file");
    assert!(LogFile::check(Path::new(""), "config", "vm").is_err());
}
