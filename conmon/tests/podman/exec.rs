//! `podman exec`: its monitors live beside that of the container.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use crate::common::{Terminal, contains, eventually, finish, ran, ran_well, spawned, text};
use crate::scene::compare;

const IDLE: &str = "read _ </gate/go";

#[test]
fn exec_gives_both_streams_and_the_exit_code() {
    compare(|scene| {
        scene.start(&[], IDLE);
        let command = &mut scene.exec(&[], "echo out; echo err >&2; exit 9");
        let output = scene.see(command);
        assert_eq!(text(&output.stdout), "out\n");
        assert_eq!(text(&output.stderr), "err\n");
        assert_eq!(output.status.code(), Some(9));
        let command = &mut scene.exec(&["--env", "A=b c", "--workdir", "/tmp"], "echo $A; pwd");
        let output = scene.see(command);
        assert_eq!(text(&output.stdout), "b c\n/tmp\n");
        // By a signal.
        let command = &mut scene.exec(&[], "kill -9 $$");
        let output = scene.see(command);
        assert_eq!(output.status.code(), Some(137));
        // Nothing of it is in the container's log, and the container goes on.
        scene.note_end();
    });
}

#[test]
fn exec_takes_input_to_its_end() {
    compare(|scene| {
        scene.start(&[], IDLE);
        let command = &mut scene.exec(&["-i"], "wc -c; echo done");
        let mut child = spawned(command.stdin(Stdio::piped()));
        let mut stdin = child.stdin.take().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(&[b'x'; 300_000]).unwrap());
        let output = finish(child);
        writer.join().unwrap();
        assert_eq!(text(&output.stdout), "300000\ndone\n");
        scene.note_output(&output);
    });
}

#[test]
fn exec_on_a_terminal_has_its_size_at_once() {
    compare(|scene| {
        scene.start(&[], IDLE);
        let script = "trap 'stty size' WINCH; until stty size 2>/dev/null | grep .; do usleep 20000; done; while ! read -r line; do :; done; echo got $line; exit 6";
        let mut terminal = Terminal::spawn(&mut scene.exec(&["-it"], script));
        terminal.wait_for("40 100\r\n");
        terminal.resize(33, 77);
        terminal.wait_for("33 77\r\n");
        terminal.send("hello\n");
        terminal.wait_for("got hello\r\n");
        assert_eq!(terminal.finish(), 6);
        let ids = scene.inspect("{{.ExecIDs}}");
        scene.note("sessions", &ids);
    });
}

#[test]
fn exec_in_the_background_runs_on() {
    compare(|scene| {
        scene.start(&[], IDLE);
        let command = &mut scene.exec(&["-d"], "echo quiet; echo $$ >/gate/there");
        scene.see(command);
        eventually("the command has run", || {
            fs::read(scene.gate("there")).is_ok_and(|text| text.ends_with(b"\n"))
        });
        scene.go();
        ran_well(&mut scene.on("wait", &[]));
        scene.note_end();
    });
}

#[test]
fn an_exec_that_cannot_be_run_is_reported() {
    compare(|scene| {
        scene.start(&[], IDLE);
        let missing = &mut scene.on("exec", &[]);
        let output = scene.see(missing.arg("/missing"));
        assert_eq!(output.status.code(), Some(127), "{output:?}");
        assert!(contains(&output.stderr, b"/missing"), "{output:?}");
        let directory = &mut scene.on("exec", &["-t"]);
        let output = scene.see(directory.arg("/etc"));
        assert_eq!(output.status.code(), Some(126), "{output:?}");
        let command = &mut scene.exec(&["--workdir", "/missing"], "true");
        scene.see(command);
        // The container has not noticed.
        scene.go();
        let output = ran(&mut scene.on("wait", &[]));
        assert_eq!(text(&output.stdout), "0\n");
        let command = &mut scene.exec(&[], "true");
        scene.see(command);
    });
}

#[test]
fn an_exec_that_leaves_a_daemon_ends_at_once() {
    compare(|scene| {
        scene.start(&[], IDLE);
        let command = &mut scene.exec(&[], "sleep 600 & echo left");
        let output = scene.see(command);
        assert_eq!(text(&output.stdout), "left\n");
    });
}

#[test]
fn many_execs_at_once_keep_their_output_apart() {
    compare(|scene| {
        scene.start(&[], IDLE);
        let numbers: Vec<usize> = (0..6).collect();
        let scene = &*scene;
        std::thread::scope(|scope| {
            for number in numbers {
                scope.spawn(move || {
                    let output =
                        ran(&mut scene.exec(&[], &format!("seq 1 {number}000; exit {number}")));
                    assert_eq!(output.status.code(), Some(number as i32), "{output:?}");
                    assert_eq!(text(&output.stdout).lines().count(), number * 1000);
                });
            }
        });
    });
}

#[test]
fn the_containers_end_ends_an_exec() {
    compare(|scene| {
        scene.start(&[], IDLE);
        let mut exec = scene.exec(&[], "echo here >/gate/there; exec sleep 600");
        let exec = spawned(exec.stdin(Stdio::null()));
        eventually("the command runs", || scene.gate("there").exists());
        scene.go();
        let output = finish(exec);
        scene.note_output(&output);
        assert_eq!(output.status.code(), Some(137), "{output:?}");
    });
}
