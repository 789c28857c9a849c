//! Rotation: the kubelet renames the log, and CRI-O has it reopened.

use std::fs;

use crate::client::{control, reopen_log};
use crate::common::{eventually, records, stream, text};
use crate::engine::{Shape, each, ours};

#[test]
fn a_log_that_was_renamed_is_reopened_without_loss() {
    each(|engine| {
        let script = "n=0; until test -e /gate/enough; do n=$((n+1)); echo $n; done; echo last $n";
        let container = engine.create(Shape::default(), script);
        container.start();
        let mut bytes = Vec::new();
        for round in 0..10 {
            container.wait_for_log("stdout F");
            let rotated = container.log_path().with_extension(format!("log.{round}"));
            fs::rename(container.log_path(), &rotated).unwrap();
            reopen_log(&container);
            // From now on the old one does not grow.
            bytes.extend(fs::read(&rotated).unwrap());
            let length = fs::metadata(&rotated).unwrap().len();
            container.wait_for_log("stdout F");
            assert_eq!(fs::metadata(&rotated).unwrap().len(), length);
        }
        fs::write(container.gate().join("enough"), "").unwrap();
        assert_eq!(container.exit_code(), 0);
        bytes.extend(fs::read(container.log_path()).unwrap());
        let lines = text(&stream(&records(&bytes), "stdout"));
        let count = lines.lines().count() - 1;
        let expected: String = (1..=count).map(|n| format!("{n}\n")).collect();
        assert!(lines == format!("{expected}last {count}\n"), "{count} lines");
    });
}

#[test]
fn a_log_that_is_still_there_gives_an_event_and_keeps_what_it_has() {
    ours(|engine| {
        let container =
            engine.create(Shape::default(), "echo before; read _ </gate/go; echo after");
        container.start();
        container.wait_for_log("before");
        for _ in 0..3 {
            reopen_log(&container);
        }
        container.go();
        assert_eq!(container.exit_code(), 0);
        assert_eq!(container.logged("stdout"), "before\nafter\n");
    });
}

#[test]
fn lines_that_are_no_commands_do_no_harm() {
    use std::io::Write;
    each(|engine| {
        let shape = Shape { terminal: true, ..Shape::default() };
        let container = engine.create(
            shape,
            "trap 'stty size' WINCH; echo ready; until test -e /gate/enough; do usleep 20000; done; echo over",
        );
        container.start();
        container.wait_for_log("ready");
        let mut fifo = control(&container);
        // A line in two pieces.
        fifo.write_all(b"1 11 ").unwrap();
        fifo.write_all(b"22\n").unwrap();
        container.wait_for_log("11 22");
        // conmon 2.1.6 takes one line of a read, and none after one that it has refused.
        if engine.monitor.is_ours() {
            fifo.write_all(b"1 12 23\n1 13 24\n").unwrap();
            container.wait_for_log("13 24");
            let lines = ["", "foo", "1", "1 2", "9 9 9", "1 -1 -1", "1 0x10 0x20", "1 10.5 20.3"];
            for line in lines {
                fifo.write_all(format!("{line}\n").as_bytes()).unwrap();
            }
            fifo.write_all(&[b'1'; 65_000]).unwrap();
            fifo.write_all(b"\n1 14 25\n").unwrap();
            container.wait_for_log("14 25");
        }
        fs::write(container.gate().join("enough"), "").unwrap();
        eventually("the end", || container.status() == "stopped");
        assert_eq!(container.exit_code(), 0);
        let log = container.logged("stdout");
        assert!(log.ends_with("over\r\n"), "{log}");
    });
}
