//! `podman run` in its forms: output, input, terminals, exit codes.

use std::io::Write;
use std::process::Stdio;

use crate::common::{Terminal, contains, eventually, finish, ran, ran_well, spawned, text};
use crate::scene::{IMAGE, Scene, compare};

#[test]
fn run_gives_both_streams_and_the_exit_code() {
    let seen = compare(|scene| {
        let command = &mut scene.container(&[], "echo out; echo err >&2; exit 7");
        let output = scene.see(command);
        assert_eq!(text(&output.stdout), "out\n");
        assert_eq!(text(&output.stderr), "err\n");
        assert_eq!(output.status.code(), Some(7));
        scene.note_end();
    });
    let Some(seen) = seen else { return };
    assert!(seen.contains("state: exited 7"), "{seen}");
    assert!(
        seen.contains("log of stdout: out\n") && seen.contains("log of stderr: err\n"),
        "{seen}"
    );
}

#[test]
fn a_container_in_the_background_is_waited_for_and_listed() {
    compare(|scene| {
        let command = &mut scene.container(&["-d"], "read _ </gate/go; echo done; exit 3");
        scene.see(command);
        let list = [
            "ps",
            "--all",
            "--no-trunc",
            "--format",
            "{{.ID}} {{.Names}} {{.Exited}} {{.ExitCode}}",
        ];
        let filter = format!("name={}", scene.name);
        let listed = |scene: &Scene| ran_well(scene.podman(list).args(["--filter", &filter]));
        let running = listed(scene);
        assert!(running.contains("false"), "{running}");
        scene.note("listed", &running);
        scene.go();
        let wait = &mut scene.on("wait", &[]);
        let output = scene.see(wait);
        assert_eq!(text(&output.stdout), "3\n");
        let ended = listed(scene);
        scene.note("listed", &ended);
        scene.note_end();
    });
}

#[test]
fn rm_removes_the_container_at_its_end() {
    compare(|scene| {
        let command = &mut scene.container(&["--rm"], "echo once");
        let output = scene.see(command);
        assert_eq!(text(&output.stdout), "once\n");
        let exists = ran(&mut scene.podman(["container", "exists", &scene.name]));
        assert_eq!(exists.status.code(), Some(1), "{exists:?}");
        // In the background: the exit command alone removes it.
        let command = &mut scene.container(&["-d", "--rm"], "read _ </gate/go");
        scene.see(command);
        scene.go();
        eventually("it is removed", || {
            let exists = ran(&mut scene.podman(["container", "exists", &scene.name]));
            exists.status.code() == Some(1)
        });
    });
}

#[test]
fn input_reaches_a_container_and_its_end_ends_it() {
    compare(|scene| {
        let command = &mut scene.container(&["-i"], "cat; echo the end");
        let mut child = spawned(command.stdin(Stdio::piped()));
        let lines: String = (0..20_000).map(|number| format!("line {number}\n")).collect();
        let mut stdin = child.stdin.take().unwrap();
        let sent = lines.clone();
        let writer = std::thread::spawn(move || stdin.write_all(sent.as_bytes()).unwrap());
        let output = finish(child);
        writer.join().unwrap();
        assert!(text(&output.stdout) == lines + "the end\n", "{} bytes", output.stdout.len());
        scene.note_output(&output);
        scene.note_end();
    });
}

#[test]
fn without_i_a_container_has_no_input() {
    compare(|scene| {
        let command = &mut scene.container(&[], "cat; readlink /proc/self/fd/0");
        let output = scene.see(command);
        assert_eq!(text(&output.stdout), "/dev/null\n");
    });
}

#[test]
fn a_terminal_gives_one_stream_with_carriage_returns() {
    compare(|scene| {
        let script = "test -t 0 && test -t 1 && test -t 2 && echo terminal; echo err >&2; exit 5";
        let command = &mut scene.container(&["-t"], script);
        let output = scene.see(command);
        assert_eq!(text(&output.stdout), "terminal\r\nerr\r\n");
        assert_eq!(output.status.code(), Some(5));
        scene.note_end();
    });
}

#[test]
fn a_terminal_in_the_background_has_no_size() {
    compare(|scene| {
        // busybox fails where there are no rows and no columns.
        let command = &mut scene.container(&["-dt"], "stty size");
        scene.see(command);
        ran_well(&mut scene.on("wait", &[]));
        scene.note_end();
        assert_eq!(text(&scene.records()[0].text), "stty: standard input\r");
    });
}

#[test]
fn a_terminal_takes_input_sizes_and_signals() {
    compare(|scene| {
        let script = "trap 'stty size' WINCH; trap 'echo interrupted' INT
            until stty size 2>/dev/null | grep .; do usleep 20000; done
            while read -r line || test -z \"$line\"; do
                case $line in end) exit 4 ;; ?*) echo got $line ;; esac; line=
            done";
        let mut terminal = Terminal::spawn(&mut scene.container(&["-it"], script));
        terminal.wait_for("40 100\r\n");
        terminal.send("hello\n");
        terminal.wait_for("got hello\r\n");
        terminal.resize(50, 120);
        terminal.wait_for("50 120\r\n");
        terminal.send("\x03");
        terminal.wait_for("interrupted\r\n");
        terminal.send("end\n");
        assert_eq!(terminal.finish(), 4);
        scene.note("state", &scene.inspect("{{.State.Status}} {{.State.ExitCode}}"));
    });
}

#[test]
fn a_command_that_cannot_be_run_is_reported() {
    compare(|scene| {
        let missing = &mut scene.podman(["run", "--name", &scene.name, IMAGE, "/missing"]);
        let output = scene.see(missing);
        assert_eq!(output.status.code(), Some(127));
        assert!(contains(&output.stderr, b"/missing"), "{output:?}");
    });
    compare(|scene| {
        let directory = &mut scene.podman(["run", "-t", "--name", &scene.name, IMAGE, "/etc"]);
        let output = scene.see(directory);
        assert_eq!(output.status.code(), Some(126));
    });
}

#[test]
fn much_output_arrives_whole_and_in_order() {
    let script = "seq 1 60000; seq 60001 120000 >&2; head -c 50000 /dev/zero | tr '\\0' x";
    compare(|scene| {
        let output = ran(&mut scene.container(&[], script));
        let lines = |from, to| (from..=to).map(|n| format!("{n}\n")).collect::<String>();
        let stdout = lines(1, 60_000) + &"x".repeat(50_000);
        assert!(text(&output.stdout) == stdout, "{} bytes of stdout", output.stdout.len());
        assert!(text(&output.stderr) == lines(60_001, 120_000), "{} bytes", output.stderr.len());
        scene.note_end();
    });
}

#[test]
fn bytes_that_are_no_text_are_kept() {
    compare(|scene| {
        let command = &mut scene.container(&[], r"printf 'a\000b\377\n\n\r\n\033[0m'");
        let output = scene.see(command);
        assert_eq!(output.stdout, b"a\0b\xff\n\n\r\n\x1b[0m");
        scene.note_end();
    });
}

#[test]
fn a_user_may_open_the_streams_by_name() {
    compare(|scene| {
        let script = "echo out >/dev/stdout; echo err >/dev/stderr";
        let command = &mut scene.container(&["--user", "65534"], script);
        let output = scene.see(command);
        assert_eq!((text(&output.stdout), text(&output.stderr)), ("out\n".into(), "err\n".into()));
    });
}

#[test]
fn a_process_in_the_background_does_not_delay_the_end() {
    // Of another pid namespace's first process the kernel kills the rest: so it shares the host's.
    compare(|scene| {
        let script = "sleep 600 & echo $! >/gate/pid; echo started";
        let command = &mut scene.container(&["--pid", "host"], script);
        let output = scene.see(command);
        assert_eq!(text(&output.stdout), "started\n");
        scene.note_end();
        let pid = std::fs::read_to_string(scene.gate("pid")).unwrap();
        let pid = nix::unistd::Pid::from_raw(pid.trim().parse().unwrap());
        // runc kills what is left in the cgroup, with either monitor.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    });
}
