//! `K8sFile`: conmon's k8s-file policy on real files.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::common::tmpfs::{Tmpfs, assert_full};
use crate::common::{noise, own_test};
use vmon::logfile::{K8sFile, K8sFileOptions, Stream};

/// The size of a record's head.
const HEAD: usize = 45;

fn log(path: &Path, options: K8sFileOptions) -> K8sFile {
    K8sFile::open(path, options).unwrap()
}

fn limited(max_size: u64) -> K8sFileOptions {
    K8sFileOptions { max_size, ..Default::default() }
}

fn rotated(max_size: u64, files: u32) -> K8sFileOptions {
    K8sFileOptions { max_size, rotate: Some(files), ..Default::default() }
}

/// The lines of a file without their times.
fn records(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    text.split_inclusive('\n').map(|line| line[36..].to_owned()).collect()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    format!("{}{suffix}", path.display()).into()
}

/// The names in the directory of a log.
fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path.parent().unwrap()).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("ctr.log")
    }
}

#[test]
fn a_record_has_the_time_of_its_read_and_says_whether_it_ends_a_line() {
    let directory = Directory::new();
    let path = directory.path();
    let mut file = log(&path, K8sFileOptions::default());
    file.write(Stream::Stdout, b"one\n\ntw").unwrap();
    file.write(Stream::Tty, b"o\n").unwrap();
    file.write(Stream::Stderr, b"no end").unwrap();
    drop(file);
    // No `F` follows, neither at the end nor when a next run appends.
    log(&path, K8sFileOptions::default()).write(Stream::Stdout, b"next\n").unwrap();
    let expected = [
        "stdout F one\n",
        "stdout F \n",
        "stdout P tw\n",
        "stdout F o\n",
        "stderr P no end\n",
        "stdout F next\n",
    ];
    assert_eq!(records(&path), expected);
    let text = fs::read_to_string(&path).unwrap();
    let times: Vec<&str> = text.lines().map(|line| &line[..35]).collect();
    assert_eq!(times[0], times[2]);
    for time in times {
        assert!(chrono::DateTime::parse_from_rfc3339(time).is_ok(), "{time}");
        assert!(!time.ends_with('Z'), "{time}");
    }
    assert_eq!(names(&path), ["ctr.log"]);
}

#[test]
fn a_log_is_not_readable_for_other_users() {
    let directory = Directory::new();
    log(&directory.path(), K8sFileOptions::default());
    let mode = fs::metadata(directory.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7137, 0, "{mode:o}");
    assert_eq!(mode & 0o600, 0o600, "{mode:o}");
}

#[test]
fn a_long_line_is_split_where_every_engine_can_read_it() {
    let directory = Directory::new();
    let mut file = log(&directory.path(), K8sFileOptions::default());
    file.write(Stream::Stdout, &[b"x".repeat(20_000), b"\n".to_vec()].concat()).unwrap();
    let sizes: Vec<usize> = records(&directory.path()).iter().map(String::len).collect();
    assert_eq!(sizes, ["stdout P \n".len() + 16_384, "stdout F \n".len() + 20_000 - 16_384]);
}

#[test]
fn the_offset_is_that_of_the_local_zone() {
    let mut host = own_test(module_path!(), "host_in_another_zone");
    let output = host.env("TZ", "XST-05:45").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "run by another test, with TZ set"]
fn host_in_another_zone() {
    let directory = Directory::new();
    let mut file = log(&directory.path(), K8sFileOptions::default());
    file.write(Stream::Stdout, b"x\n").unwrap();
    let text = fs::read_to_string(directory.path()).unwrap();
    assert!(text.ends_with("+05:45 stdout F x\n"), "{text}");
    let written = chrono::DateTime::parse_from_rfc3339(&text[..35]).unwrap();
    let age = chrono::Utc::now() - written.to_utc();
    assert!(age.num_hours() == 0, "{text}");
}

#[test]
fn before_the_limit_the_log_becomes_the_one_generation_beside() {
    let directory = Directory::new();
    let path = directory.path();
    let most = 3 * (HEAD as u64 + 2);
    let mut file = log(&path, limited(most));
    for line in ["1\n", "2\n", "3\n"] {
        file.write(Stream::Stdout, line.as_bytes()).unwrap();
    }
    assert_eq!(names(&path), ["ctr.log"], "exactly the limit fits");
    assert_eq!(fs::metadata(&path).unwrap().len(), most);
    // A piece has a newline of its own.
    file.write(Stream::Stdout, b"4").unwrap();
    assert_eq!(records(&path), ["stdout P 4\n"]);
    assert_eq!(records(&beside(&path, ".1")).len(), 3);
    file.write(Stream::Stdout, b"5\n6\n7\n8\n9\n").unwrap();
    assert_eq!(records(&path), ["stdout F 7\n", "stdout F 8\n", "stdout F 9\n"]);
    let old = ["stdout P 4\n", "stdout F 5\n", "stdout F 6\n"];
    assert_eq!(records(&beside(&path, ".1")), old);
    assert_eq!(names(&path), ["ctr.log", "ctr.log.1"]);
}

#[test]
fn the_size_of_an_earlier_run_counts_for_the_limits() {
    let directory = Directory::new();
    let path = directory.path();
    log(&path, K8sFileOptions::default()).write(Stream::Stdout, b"before\n").unwrap();
    let mut file = log(&path, limited(100));
    file.write(Stream::Stdout, b"now\n").unwrap();
    assert_eq!(records(&path), ["stdout F now\n"]);
    assert_eq!(records(&beside(&path, ".1")), ["stdout F before\n"]);
    let options = K8sFileOptions { global_max: 40, ..Default::default() };
    let mut file = log(&path, options);
    file.write(Stream::Stdout, b"too much\n").unwrap();
    assert_eq!(file.dropped(), 9);
    assert_eq!(records(&path), ["stdout F now\n"]);
}

#[test]
fn a_limit_below_a_record_gives_each_one_a_file() {
    let directory = Directory::new();
    let path = directory.path();
    let mut file = log(&path, rotated(10, 5));
    file.write(Stream::Stdout, b"1\n2\n3\n").unwrap();
    assert_eq!(records(&path), ["stdout F 3\n"]);
    assert_eq!(records(&beside(&path, ".1")), ["stdout F 2\n"]);
    assert_eq!(records(&beside(&path, ".2")), ["stdout F 1\n"]);
    // A line of 8 KiB, as conmon reads them, stays whole.
    file.write(Stream::Stdout, &[b"x".repeat(8191), b"\n".to_vec()].concat()).unwrap();
    assert_eq!(records(&path).len(), 1);
}

#[test]
fn rotations_lose_nothing_and_the_path_never_has_no_file() {
    const LINES: usize = 3000;
    let directory = Directory::new();
    let path = directory.path();
    let mut file = log(&path, rotated(20 * HEAD as u64, 100_000));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut looks = 0_u64;
            while !over.load(Ordering::Relaxed) {
                assert!(File::open(&path).is_ok());
                looks += 1;
            }
            looks
        });
        for number in 0..LINES {
            file.write(Stream::Stdout, format!("{number}\n").as_bytes()).unwrap();
        }
        over.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
    let generations = names(&path).len() - 1;
    assert!(generations > 100, "{generations}");
    let mut found = Vec::new();
    for number in (1..=generations).rev() {
        found.extend(records(&beside(&path, &format!(".{number}"))));
    }
    found.extend(records(&path));
    let expected: Vec<String> = (0..LINES).map(|number| format!("stdout F {number}\n")).collect();
    assert_eq!(found, expected);
}

#[test]
fn numbered_generations_move_up_and_the_oldest_goes() {
    let directory = Directory::new();
    let path = directory.path();
    // What conmon has left of a rotation that failed stops none.
    for suffix in [".new", ".tmp"] {
        fs::write(beside(&path, suffix), "left").unwrap();
    }
    let mut file = log(&path, rotated(HEAD as u64 + 2, 3));
    for number in 1..=5 {
        file.write(Stream::Stdout, format!("{number}\n").as_bytes()).unwrap();
    }
    for (suffix, text) in [("", "5"), (".1", "4"), (".2", "3"), (".3", "2")] {
        assert_eq!(records(&beside(&path, suffix)), [format!("stdout F {text}\n")]);
    }
    let expected = ["ctr.log", "ctr.log.1", "ctr.log.2", "ctr.log.3", "ctr.log.new", "ctr.log.tmp"];
    assert_eq!(names(&path), expected);
    // A gap is filled before the oldest one goes.
    fs::remove_file(beside(&path, ".2")).unwrap();
    file.write(Stream::Stdout, b"6\n").unwrap();
    for (suffix, text) in [("", "6"), (".1", "5"), (".2", "4"), (".3", "2")] {
        assert_eq!(records(&beside(&path, suffix)), [format!("stdout F {text}\n")]);
    }
}

#[test]
fn a_second_name_that_a_crash_has_left_is_no_generation() {
    let directory = Directory::new();
    let path = directory.path();
    for options in [limited(HEAD as u64 + 2), rotated(HEAD as u64 + 2, 3)] {
        let mut file = log(&path, options);
        file.write(Stream::Stdout, b"1\n").unwrap();
        fs::hard_link(&path, beside(&path, ".1")).unwrap();
        file.write(Stream::Stdout, b"2\n").unwrap();
        assert_eq!(records(&path), ["stdout F 2\n"]);
        assert_eq!(records(&beside(&path, ".1")), ["stdout F 1\n"]);
        assert_eq!(names(&path), ["ctr.log", "ctr.log.1"]);
        fs::remove_file(&path).unwrap();
        fs::remove_file(beside(&path, ".1")).unwrap();
    }
}

#[test]
fn of_a_link_the_file_that_it_leads_to_is_replaced() {
    let (links, files) = (Directory::new(), Directory::new());
    let link = links.path();
    symlink(files.path(), &link).unwrap();
    let mut file = log(&link, limited(HEAD as u64 + 2));
    file.write(Stream::Stdout, b"1\n2\n").unwrap();
    assert_eq!(records(&link), ["stdout F 2\n"]);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(names(&link), ["ctr.log"]);
    assert_eq!(records(&beside(&files.path(), ".1")), ["stdout F 1\n"]);
}

#[test]
fn a_path_may_be_as_long_as_the_system_allows() {
    let directory = Directory::new();
    let mut path = directory.0.path().to_owned();
    while path.as_os_str().len() < 4095 - 101 {
        path.push("d".repeat(99));
        fs::create_dir(&path).unwrap();
    }
    path.push("f".repeat(4095 - 1 - path.as_os_str().len()));
    let mut file = log(&path, limited(HEAD as u64 + 2));
    file.write(Stream::Stdout, b"1\n").unwrap();
    assert_eq!(records(&path), ["stdout F 1\n"]);
    // The generation's own path is too long for a system call, and is a name in its directory.
    file.write(Stream::Stdout, b"2\n").unwrap();
    assert_eq!(records(&path), ["stdout F 2\n"]);
    assert_eq!(names(&path).len(), 2);
}

#[test]
fn beyond_the_bound_of_all_bytes_everything_is_dropped_and_counted() {
    let directory = Directory::new();
    let path = directory.path();
    let bound = 2 * (HEAD as u64 + 2) + 1;
    let mut file = log(&path, K8sFileOptions { global_max: bound, ..Default::default() });
    file.write(Stream::Stdout, b"1\n2\n3\n4\n").unwrap();
    // The record that reaches it is still written.
    assert_eq!(records(&path), ["stdout F 1\n", "stdout F 2\n", "stdout F 3\n"]);
    assert_eq!(file.dropped(), 2);
    file.write(Stream::Stderr, b"more").unwrap();
    file.reopen().unwrap();
    file.write(Stream::Stderr, b"more").unwrap();
    assert_eq!(records(&path).len(), 3);
    assert_eq!(file.dropped(), 10);
}

#[test]
fn both_limits_hold_together() {
    let directory = Directory::new();
    let path = directory.path();
    let record = HEAD as u64 + 2;
    let options = K8sFileOptions { global_max: 5 * record, ..rotated(2 * record, 9) };
    let mut file = log(&path, options);
    file.write(Stream::Stdout, b"1\n2\n3\n4\n5\n6\n7\n").unwrap();
    assert_eq!(records(&path), ["stdout F 5\n"]);
    assert_eq!(names(&path), ["ctr.log", "ctr.log.1", "ctr.log.2"]);
    assert_eq!(file.dropped(), 4);
}

/// Has a log with numbered generations exceed its limit, and expects it to grow.
fn grows(file: &mut K8sFile, path: &Path) {
    let files = names(path);
    for number in 1..=5 {
        file.write(Stream::Stdout, format!("{number}\n").as_bytes()).unwrap();
    }
    assert_eq!(records(path).len(), 5);
    assert_eq!(names(path), files);
}

#[test]
fn a_rotation_that_is_not_safe_is_refused_and_the_log_grows() {
    let most = HEAD as u64 + 2;
    let directory = Directory::new();
    let path = directory.path();
    let parent = directory.0.path();

    // Conmon's own reasons, one by one.
    fs::create_dir(parent.join("sub")).unwrap();
    grows(&mut log(&parent.join("sub/../ctr.log"), rotated(most, 3)), &path);
    fs::remove_file(&path).unwrap();

    symlink("file", &path).unwrap();
    File::create(parent.join("file")).unwrap();
    grows(&mut log(&path, rotated(most, 3)), &path);
    fs::remove_file(&path).unwrap();

    let allowed = vec![parent.join("sub"), parent.join("missing")];
    grows(&mut log(&path, K8sFileOptions { allowed, ..rotated(most, 3) }), &path);
    fs::remove_file(&path).unwrap();

    let mut file = log(&path, rotated(most, 3));
    let other = File::open(&path).unwrap();
    other.lock_shared().unwrap();
    grows(&mut file, &path);
    let error = file.reopen().unwrap_err().to_string();
    assert!(error.contains("another process has locked it"), "{error}");
    drop(other);
    file.reopen().unwrap();
    assert_eq!(records(&beside(&path, ".1")).len(), 5);

    let allowed = vec![parent.to_owned()];
    let path = parent.join("sub/ctr.log");
    let mut file = log(&path, K8sFileOptions { allowed, ..rotated(most, 3) });
    file.write(Stream::Stdout, b"1\n2\n").unwrap();
    assert_eq!(names(&path).len(), 2, "any depth below is allowed");
}

#[test]
fn a_log_that_is_gone_is_not_made_again_where_every_user_may_make_it_first() {
    let directory = Directory::new();
    let path = directory.path();
    let mut file = log(&path, rotated(1000, 3));
    file.write(Stream::Stdout, b"1\n").unwrap();
    fs::rename(&path, beside(&path, ".away")).unwrap();
    fs::set_permissions(directory.0.path(), Permissions::from_mode(0o1777)).unwrap();
    let error = file.reopen().unwrap_err().to_string();
    assert!(error.contains("every user can write to its directory"), "{error}");
    file.write(Stream::Stdout, b"2\n").unwrap();
    assert_eq!(records(&beside(&path, ".away")), ["stdout F 1\n", "stdout F 2\n"]);
}

#[test]
fn a_rotation_that_fails_loses_nothing() {
    let directory = Directory::new();
    let path = directory.path();
    // No file can take the generation's name.
    fs::create_dir(beside(&path, ".1")).unwrap();
    let mut file = log(&path, limited(HEAD as u64 + 2));
    grows(&mut file, &path);
    fs::remove_dir(beside(&path, ".1")).unwrap();
    // A reopening has it tried again at once.
    file.reopen().unwrap();
    file.write(Stream::Stdout, b"6\n").unwrap();
    assert_eq!(records(&path), ["stdout F 6\n"]);
    assert_eq!(records(&beside(&path, ".1")).len(), 5);
}

/// ext4 writes a file to the disk before it is renamed over another one.
#[cfg(target_os = "linux")]
#[test]
fn the_oldest_generation_is_removed_and_none_renamed_over_it() {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

    for (options, oldest) in
        [(limited(HEAD as u64 + 2), "ctr.log.1"), (rotated(HEAD as u64 + 2, 2), "ctr.log.2")]
    {
        let directory = Directory::new();
        let path = directory.path();
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
        inotify.add_watch(directory.0.path(), AddWatchFlags::IN_DELETE).unwrap();
        let mut file = log(&path, options);
        for line in 1..=5 {
            file.write(Stream::Stdout, format!("{line}\n").as_bytes()).unwrap();
        }
        let removed: Vec<_> =
            inotify.read_events().unwrap().into_iter().filter_map(|event| event.name).collect();
        // Events that are alike are one (inotify(7)).
        assert_eq!(removed, [oldest]);
    }
}

#[test]
fn a_reopened_log_keeps_its_bytes() {
    let directory = Directory::new();
    let path = directory.path();
    let mut file = log(&path, limited(10_000));
    file.write(Stream::Stdout, b"1\n").unwrap();
    file.reopen().unwrap();
    file.write(Stream::Stdout, b"2\n").unwrap();
    assert_eq!(records(&path).len(), 2);
    fs::rename(&path, beside(&path, ".moved")).unwrap();
    file.write(Stream::Stdout, b"3\n").unwrap();
    file.reopen().unwrap();
    file.write(Stream::Stdout, b"4\n").unwrap();
    assert_eq!(records(&beside(&path, ".moved")).len(), 3);
    assert_eq!(records(&path), ["stdout F 4\n"]);
}

#[test]
fn a_reopening_that_fails_keeps_the_file_that_is_open() {
    let directory = Directory::new();
    let path = directory.path();
    let mut file = log(&path, K8sFileOptions::default());
    fs::rename(&path, beside(&path, ".moved")).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(file.reopen().unwrap_err().to_string().contains(path.to_str().unwrap()));
    file.write(Stream::Stdout, b"1\n").unwrap();
    assert_eq!(records(&beside(&path, ".moved")), ["stdout F 1\n"]);
}

#[test]
fn a_reopened_log_with_numbered_generations_is_rotated() {
    let directory = Directory::new();
    let path = directory.path();
    let mut file = log(&path, rotated(0, 2));
    for line in ["1\n", "2\n", "3\n"] {
        file.write(Stream::Stdout, line.as_bytes()).unwrap();
        file.reopen().unwrap();
        file.reopen().unwrap();
    }
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    assert_eq!(records(&beside(&path, ".1")), ["stdout F 3\n"]);
    assert_eq!(records(&beside(&path, ".2")), ["stdout F 2\n"]);
}

#[cfg(target_os = "linux")]
#[test]
fn each_reopening_is_an_event_of_exactly_the_logs_name() {
    use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

    let directory = Directory::new();
    let path = directory.path();
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
    // What fsnotify, and so CRI-O, takes for a file that was created or written.
    let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_MODIFY;
    inotify.add_watch(directory.0.path(), flags).unwrap();
    let seen = || {
        let events = inotify.read_events().unwrap_or_default();
        events.iter().any(|event| event.name.as_deref() == Some("ctr.log".as_ref()))
    };
    let cases: [(&str, &dyn Fn()); 4] = [
        ("the same file", &|| {}),
        ("moved away", &|| fs::rename(&path, beside(&path, ".moved")).unwrap()),
        ("removed", &|| fs::remove_file(&path).unwrap()),
        ("another file", &|| {
            fs::rename(&path, beside(&path, ".moved")).unwrap();
            fs::write(&path, "").unwrap();
        }),
    ];
    for options in [limited(0), rotated(0, 2)] {
        for empty in [true, false] {
            for (what, happen) in &cases {
                let mut file = log(&path, options.clone());
                if !empty {
                    file.write(Stream::Stdout, b"x\n").unwrap();
                }
                happen();
                while seen() {}
                file.reopen().unwrap();
                assert!(seen(), "{what}, {options:?}, empty: {empty}");
            }
        }
    }
}

#[test]
fn a_full_disk_loses_and_repeats_nothing() {
    let Some(disk) = Tmpfs::new("size=256k") else { return };
    let path = disk.path().join("ctr.log");
    let mut file = log(&path, K8sFileOptions::default());
    let filler = disk.fill_up_to(8 << 10);
    let lines: Vec<String> = (0..2000).map(|number| format!("line {number}\n")).collect();
    let text = lines.concat();
    let mut rest = text.as_bytes();
    let error = file.write(Stream::Stdout, rest).unwrap_err();
    assert_full(&error);
    rest = &rest[error.written..];
    assert!(fs::read(&path).unwrap().ends_with(b"\n"), "no torn record");
    fs::remove_file(filler).unwrap();
    while let Err(error) = file.write(Stream::Stdout, rest) {
        rest = &rest[error.written..];
    }
    let found: Vec<String> =
        records(&path).iter().map(|record| record["stdout F ".len()..].to_owned()).collect();
    assert_eq!(found, lines);
}

#[test]
fn a_log_that_another_process_has_truncated_is_not_replaced_too_early() {
    let directory = Directory::new();
    let path = directory.path();
    let mut file = log(&path, limited(2 * (HEAD as u64 + 2)));
    file.write(Stream::Stdout, b"1\n2\n").unwrap();
    File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    file.write(Stream::Stdout, b"3\n4\n").unwrap();
    assert_eq!(records(&path).len(), 2);
    assert_eq!(names(&path), ["ctr.log"]);
}

#[test]
fn two_writers_of_one_path_share_the_file_that_is_there() {
    let directory = Directory::new();
    let path = directory.path();
    let most = 2 * (HEAD as u64 + 2);
    let (mut first, mut second) = (log(&path, limited(most)), log(&path, limited(most)));
    first.write(Stream::Stdout, b"1\n2\n3\n").unwrap();
    second.write(Stream::Stdout, b"4\n5\n").unwrap();
    second.write(Stream::Stdout, b"6\n").unwrap();
    assert!(fs::metadata(&path).unwrap().len() <= most);
    assert!(records(&path).contains(&"stdout F 6\n".to_owned()));
}

#[test]
fn what_is_no_file_is_written_to_and_never_rotated() {
    let directory = Directory::new();
    let path = directory.path();
    let mut device = log(Path::new("/dev/null"), rotated(1, 3));
    device.write(Stream::Stdout, &noise(10_000, 1)).unwrap();
    device.reopen().unwrap();
    device.sync().unwrap();
    assert!(!fs::exists("/dev/null.1").unwrap());
    mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let error = K8sFile::open(&path, K8sFileOptions::default()).unwrap_err().to_string();
    assert!(error.contains("ctr.log"), "{error}");
    let inode = fs::metadata(&path).unwrap().ino();
    let reader = File::options().read(true).write(true).open(&path).unwrap();
    let mut fifo = log(&path, limited(10));
    fifo.write(Stream::Stdout, b"1\n2\n").unwrap();
    fifo.reopen().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    drop(reader);
}
