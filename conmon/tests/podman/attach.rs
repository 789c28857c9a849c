//! `podman attach`: several clients, detach keys, clients without input, clients that do not read.

use std::fs;
use std::process::Stdio;

use crate::common::{Process, Reader, Terminal, ran_well, spawned, stream, text, wait};
use crate::scene::{Scene, compare, ours};

/// Prints until the test lets it go on: a client that has seen a tick is attached.
const TICKS: &str = "until test -e /gate/enough; do echo tick; usleep 20000; done";

fn enough(scene: &Scene) {
    fs::write(scene.gate("enough"), "").unwrap();
}

/// The lines without the ticks, and without the empty lines that Podman appends when it ends.
fn after_ticks(bytes: &[u8]) -> String {
    let lines = text(bytes);
    let lines: Vec<_> = lines.trim_end().lines().filter(|line| *line != "tick").collect();
    lines.join("\n")
}

#[test]
fn every_client_gets_what_comes_while_it_is_attached() {
    compare(|scene| {
        scene.start(&[], &format!("{TICKS}; seq 1 20000; echo err >&2; exit 3"));
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let mut child = spawned(scene.on("attach", &["--no-stdin"]).stdin(Stdio::null()));
                let stdout = Reader::of(child.stdout.take().unwrap());
                let stderr = Reader::of(child.stderr.take().unwrap());
                (Process(child), stdout, stderr)
            })
            .collect();
        for (_, stdout, _) in &clients {
            stdout.wait_for("tick\n");
        }
        enough(scene);
        let expected = (1..=20_000).map(|n| n.to_string()).collect::<Vec<_>>().join("\n");
        for (mut client, stdout, stderr) in clients {
            wait(&mut client);
            let stdout = after_ticks(&stdout.rest());
            assert!(stdout == expected, "{} bytes", stdout.len());
            assert_eq!(text(&stderr.rest()), "err\n");
        }
    });
}

#[test]
fn any_client_may_write_and_the_first_end_of_input_counts() {
    compare(|scene| {
        scene.start(&["-i"], "while read -r line; do echo \"got $line\"; done; echo end of input");
        let client = || {
            let mut child = spawned(scene.on("attach", &[]).stdin(Stdio::piped()));
            let stdout = Reader::of(child.stdout.take().unwrap());
            let stdin = child.stdin.take().unwrap();
            (Process(child), stdin, stdout)
        };
        let (mut first, mut first_input, first_output) = client();
        let (mut second, mut second_input, second_output) = client();
        let say = |input: &mut std::process::ChildStdin, line: &str| {
            std::io::Write::write_all(input, format!("{line}\n").as_bytes()).unwrap();
        };
        say(&mut first_input, "one");
        first_output.wait_for("got one\n");
        say(&mut second_input, "two");
        second_output.wait_for("got two\n");
        first_output.wait_for("got two\n");
        drop(first_input);
        for client in [&mut first, &mut second] {
            let status = wait(client);
            assert_eq!(status.code(), Some(0));
        }
        let second = text(&second_output.rest());
        assert!(second.trim_end().ends_with("got two\nend of input"), "{second}");
        scene.note_end();
    });
}

#[test]
fn detach_keys_leave_the_container_running() {
    compare(|scene| {
        scene.start(&["-it"], "while read -r line; do echo \"got $line\"; done");
        for round in ["one", "two"] {
            let mut terminal =
                Terminal::spawn(&mut scene.on("attach", &["--detach-keys", "ctrl-a"]));
            terminal.send(format!("{round}\n"));
            terminal.wait_for(format!("got {round}\r\n"));
            terminal.send("\x01");
            assert_eq!(terminal.finish(), 0);
            let state = scene.inspect("{{.State.Status}}");
            scene.note("detached", &state);
        }
        scene.wait_for_log("got two");
        let command = &mut scene.on("kill", &[]);
        scene.see(command);
        ran_well(&mut scene.on("wait", &[]));
        scene.note_end();
    });
}

#[test]
fn an_attached_terminal_sets_the_size() {
    compare(|scene| {
        let script = "until test -e /gate/enough; do usleep 20000; done; stty size";
        scene.start_prepared(&["-t"], "trap 'stty size' WINCH", script);
        let mut terminal = Terminal::spawn(&mut scene.on("attach", &["--no-stdin"]));
        terminal.wait_for("40 100\r\n");
        terminal.resize(21, 81);
        terminal.wait_for("21 81\r\n");
        enough(scene);
        terminal.wait_for("21 81\r\n");
        assert_eq!(terminal.finish(), 0);
    });
}

#[test]
fn a_client_that_was_killed_is_forgotten() {
    compare(|scene| {
        scene.start(&[], &format!("{TICKS}; echo over"));
        for _ in 0..2 {
            let mut child = spawned(scene.on("attach", &["--no-stdin"]).stdin(Stdio::null()));
            let stdout = Reader::of(child.stdout.take().unwrap());
            stdout.wait_for("tick\n");
            child.kill().unwrap();
            child.wait().unwrap();
        }
        enough(scene);
        ran_well(&mut scene.on("wait", &[]));
        let log = after_ticks(&stream(&scene.records(), "stdout"));
        assert_eq!(log, "ready\nover");
    });
}

#[test]
fn a_client_that_does_not_read_holds_up_nothing() {
    ours(|scene| {
        scene.start(&[], &format!("{TICKS}; seq 1 400000; echo over"));
        // Podman's own pipe fills, then its socket, then our queue.
        let mut stuck = Process(spawned(scene.on("attach", &["--no-stdin"]).stdin(Stdio::null())));
        let mut first = [0; 5];
        std::io::Read::read_exact(stuck.stdout.as_mut().unwrap(), &mut first).unwrap();
        let mut reads = spawned(scene.on("attach", &["--no-stdin"]).stdin(Stdio::null()));
        let output = Reader::of(reads.stdout.take().unwrap());
        output.wait_for("tick\n");
        enough(scene);
        ran_well(&mut scene.on("wait", &[]));
        let log = stream(&scene.records(), "stdout");
        assert!(log.ends_with(b"\n399999\n400000\nover\n"), "{} bytes of log", log.len());
        assert_eq!(after_ticks(&log).lines().count(), 1 + 400_000 + 1);
        let seen = output.rest();
        assert!(
            after_ticks(&seen).ends_with("\n400000\nover"),
            "{} bytes by the other client",
            seen.len()
        );
        wait(&mut reads);
    });
}
