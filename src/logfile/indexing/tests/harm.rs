//! What others may do to an index, and a disk that takes none.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::*;

fn contents(records: &[Record]) -> Vec<(u64, Content)> {
    records.iter().map(|record| (record.offset, record.content)).collect()
}

fn unknown(offset: u64, length: u32) -> (u64, Content) {
    (offset, Content::Bytes { stream: None, length })
}

fn stdout(offset: u64, length: u32) -> (u64, Content) {
    (offset, Content::Bytes { stream: Some(Stream::Stdout), length })
}

impl Scene {
    fn write_and_flush(&mut self, bytes: &[u8]) {
        self.write(10, Stream::Stdout, bytes);
        self.log.flush_index();
    }

    /// Has the next write look where the log is.
    fn a_second_later(&mut self) {
        self.log.checked = None;
    }
}

#[test]
fn an_index_is_private_to_its_owner() {
    let mut scene = Scene::new(0, 1);
    scene.write_and_flush(b"a");
    let mode = fs::metadata(scene.path(".idx")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_non_file_in_place_of_an_index_blocks_no_log_and_is_kept() {
    let mut scene = Scene::new(0, 1);
    let (index, target) = (scene.path(".idx"), scene.directory.path().join("target"));
    fs::write(&target, "mine").unwrap();
    let plant: [&dyn Fn(); 3] = [
        &|| symlink(&target, &index).unwrap(),
        &|| mkfifo(&index, Mode::S_IRUSR | Mode::S_IWUSR).unwrap(),
        &|| fs::create_dir(&index).unwrap(),
    ];
    for plant in plant {
        plant();
        let planted = fs::symlink_metadata(&index).unwrap().ino();
        scene.reopen();
        scene.write_and_flush(b"ab");
        scene.write(10, Stream::Stderr, b"c");
        scene.mark(Mark::Stop(RunEnd::Exited(0)));
        assert!(scene.log.deadline().is_some_and(|again| again > Instant::now()));
        assert_eq!(fs::symlink_metadata(&index).unwrap().ino(), planted);
        fs::remove_file(&index).or_else(|_| fs::remove_dir(&index)).unwrap();
        scene.log.flush_index();
        let records = scene.records();
        assert_eq!(
            records.last().map(Record::end),
            Some(fs::metadata(scene.path("")).unwrap().len())
        );
        let times =
            records.iter().filter(|it| !matches!(it.content, Content::Bytes { stream: None, .. }));
        assert_eq!(times.count(), 3);
        assert!(scene.log.deadline().is_none());
        fs::remove_file(&index).unwrap();
    }
    assert_eq!(fs::read(&target).unwrap(), b"mine");
    assert_eq!(fs::read(scene.path("")).unwrap(), b"abcabcabc");
}

#[test]
fn an_index_that_was_removed_or_replaced_is_created_again() {
    let mut scene = Scene::new(0, 1);
    scene.write_and_flush(b"ab");
    let index = scene.path(".idx");
    let copy = scene.directory.path().join("copy");
    let harm: [&dyn Fn(); 4] = [
        &|| fs::remove_file(&index).unwrap(),
        // Another file of the same bytes is another file.
        &|| {
            fs::copy(&index, &copy).unwrap();
            fs::rename(&copy, &index).unwrap();
        },
        &|| fs::write(&index, "short").unwrap(),
        &|| fs::rename(&index, &copy).unwrap(),
    ];
    for (size, harm) in (2..).zip(harm) {
        harm();
        scene.write_and_flush(b"c");
        assert_eq!(contents(&scene.records()), [unknown(0, size), stdout(size.into(), 1)]);
    }
}

#[test]
fn bytes_that_another_process_has_appended_to_an_index_are_overwritten() {
    let mut scene = Scene::new(0, 1);
    scene.write_and_flush(b"ab");
    let mut index = fs::read(scene.path(".idx")).unwrap();
    index.extend([0xff; 100]);
    fs::write(scene.path(".idx"), index).unwrap();
    scene.write_and_flush(b"c");
    assert_eq!(fs::metadata(scene.path(".idx")).unwrap().len() as usize, HEADER + 2 * RECORD);
    assert_eq!(contents(&scene.records()), [stdout(0, 2), stdout(2, 1)]);
}

#[test]
fn zeros_and_records_beyond_the_log_are_truncated() {
    let mut scene = Scene::new(0, 1);
    for _ in 0..500 {
        scene.write(10, Stream::Stdout, b"abc");
    }
    scene.log.flush_index();
    let mut index = fs::read(scene.path(".idx")).unwrap();
    index.extend([0; 20_000]);
    fs::write(scene.path(".idx"), index).unwrap();
    scene.reopen();
    assert_eq!(scene.records().len(), 500);
    assert_eq!(fs::metadata(scene.path(".idx")).unwrap().len() as usize, HEADER + 500 * RECORD);
    // In the middle of a record.
    File::options().write(true).open(scene.path("")).unwrap().set_len(601).unwrap();
    scene.reopen();
    scene.write_and_flush(b"d");
    let records = scene.records();
    assert_eq!(records.len(), 202);
    assert_eq!(contents(&records[199..]), [stdout(597, 3), unknown(600, 1), stdout(601, 1)]);
}

#[test]
fn a_log_that_was_copied_and_truncated_gets_a_new_index() {
    let mut scene = Scene::new(0, 1);
    scene.write_and_flush(b"before");
    File::options().write(true).open(scene.path("")).unwrap().set_len(0).unwrap();
    // Before the writer looks, it takes this for the bytes behind the others.
    scene.write_and_flush(b"between");
    scene.a_second_later();
    scene.write_and_flush(b"after");
    assert_eq!(contents(&scene.records()), [unknown(0, 7), stdout(7, 5)]);
}

#[test]
fn bytes_that_another_process_has_appended_to_the_log_shift_nothing() {
    let mut scene = Scene::new(0, 1);
    scene.write_and_flush(b"before");
    fs::write(scene.path(""), "before and more").unwrap();
    scene.a_second_later();
    scene.write_and_flush(b"after");
    assert_eq!(contents(&scene.records()), [unknown(0, 15), stdout(15, 5)]);
}

#[test]
fn the_index_of_a_moved_log_is_not_used_for_the_next_one() {
    let mut scene = Scene::new(0, 1);
    scene.write_and_flush(b"before");
    scene.write(10, Stream::Stdout, b"last");
    // As logrotate(8) does it.
    fs::rename(scene.path(""), scene.path(".1")).unwrap();
    scene.log.reopen().unwrap();
    assert!(!scene.path(".idx").exists());
    scene.write_and_flush(b"after");
    assert_eq!(contents(&scene.records()), [stdout(0, 5)]);
    // Without a move it stays.
    scene.write(10, Stream::Stdout, b"more");
    scene.log.reopen().unwrap();
    scene.write_and_flush(b"still");
    assert_eq!(contents(&scene.records()), [stdout(0, 5), stdout(5, 4), stdout(9, 5)]);
}

#[test]
fn a_removed_log_gets_no_index_for_its_pending_records() {
    let mut scene = Scene::new(0, 1);
    scene.write(10, Stream::Stdout, b"gone");
    fs::remove_file(scene.path("")).unwrap();
    scene.log.flush_index();
    assert!(!scene.path(".idx").exists() && scene.log.deadline().is_none());
    fs::remove_dir_all(scene.directory.path().join("config")).unwrap();
    scene.write(10, Stream::Stdout, b"gone");
    scene.log.flush_index();
    assert!(!scene.directory.path().join("config").exists());
}

#[test]
fn an_index_that_a_crash_has_left_under_the_next_number_is_the_logs_again() {
    let mut scene = Scene::new(4, 9);
    scene.write_and_flush(b"abcdef");
    let index = fs::read(scene.path(".idx")).unwrap();
    fs::rename(scene.path(".idx"), scene.path(".00000002.idx")).unwrap();
    scene.reopen();
    assert_eq!(fs::read(scene.path(".idx")).unwrap(), index);
    scene.write_and_flush(b"ghi");
    assert_eq!(contents(&scene.records()), [stdout(0, 1)]);
    let next = [".00000002", ".00000003"].into_iter().find(|it| scene.path(it).exists()).unwrap();
    let rotated = records(&fs::read(scene.path(&format!("{next}.idx"))).unwrap());
    assert_eq!(contents(&rotated), [stdout(0, 2), stdout(2, 2)]);
}

#[test]
fn a_taken_number_keeps_log_and_index_together() {
    let mut scene = Scene::new(4, 9);
    scene.write(10, Stream::Stdout, b"abcde");
    fs::write(scene.path(".00000002"), "mine").unwrap();
    fs::write(scene.path(".00000003.idx"), "mine").unwrap();
    scene.write(10, Stream::Stdout, b"fghi");
    assert_eq!(fs::read(scene.path(".00000002")).unwrap(), b"mine");
    assert!(!scene.path(".00000002.idx").exists());
    assert_eq!(fs::read(scene.path(".00000003.idx")).unwrap(), b"mine");
    assert_eq!(fs::read(scene.path(".00000004")).unwrap(), b"efgh");
    let rotated = records(&fs::read(scene.path(".00000004.idx")).unwrap());
    assert_eq!(contents(&rotated), [stdout(0, 1), stdout(1, 3)]);
}

#[test]
fn an_index_that_can_not_be_written_takes_little_memory() {
    let mut scene = Scene::new(0, 1);
    fs::create_dir(scene.path(".idx")).unwrap();
    for _ in 0..5 * FULL {
        scene.write(1, Stream::Stdout, b"a");
        scene.write(1, Stream::Stderr, b"b");
        let waits = scene.log.index.pending.as_ref().unwrap().records.capacity();
        assert!(waits <= 2 * FULL, "{waits}");
    }
    assert!(scene.log.index.failures < 5, "it is not tried at each byte");
    fs::remove_dir(scene.path(".idx")).unwrap();
    scene.log.flush_index();
    let all = 10 * FULL as u64;
    let records = scene.records();
    assert!(records.len() < FULL + 2);
    assert_eq!(records.last().map(Record::end), Some(all));
}

#[test]
fn with_the_index_off_an_earlier_index_stays_valid() {
    let mut scene = Scene::new(8, 9);
    scene.write_and_flush(b"abc\n");
    let retention = scene.log.options.retention;
    let options = LogOptions { retention, index: false, ..LogOptions::default() };
    let directory = scene.directory.path().to_owned();
    scene.log = LogFile::open(&directory, "config", "vm", options).unwrap();
    scene.mark(Mark::Start { pid: 1 });
    scene.write_and_flush(b"def\n");
    assert_eq!(contents(&scene.records()), [stdout(0, 4)]);
    scene.write_and_flush(b"ghi\n");
    assert!(!scene.path(".idx").exists());
    let rotated = records(&fs::read(scene.path(".00000001.idx")).unwrap());
    assert_eq!(contents(&rotated), [stdout(0, 4)]);
    // And what is not true goes.
    fs::write(scene.path(".idx"), [0; 80]).unwrap();
    drop(LogFile::open(&directory, "config", "vm", options).unwrap());
    assert!(!scene.path(".idx").exists());
}
