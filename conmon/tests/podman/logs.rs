//! `podman logs` on what the monitors have written.

use std::fs;
use std::process::Stdio;

use crate::common::{contains, finish, ran, ran_well, spawned, stream, text};
use crate::scene::compare;

#[test]
fn logs_print_both_streams() {
    compare(|scene| {
        ran(&mut scene.container(&[], "echo out 1; echo err 1 >&2; echo out 2; echo err 2 >&2"));
        let command = &mut scene.on("logs", &[]);
        let output = scene.see(command);
        assert_eq!(text(&output.stdout), "out 1\nout 2\n");
        assert_eq!(text(&output.stderr), "err 1\nerr 2\n");
    });
}

#[test]
fn logs_print_the_last_lines() {
    // One stream: which of two comes first in the log is a matter of the reads.
    compare(|scene| {
        let script = "for n in 1 2 3 4 5; do echo out $n; done; printf rest";
        ran(&mut scene.container(&[], script));
        for options in [["--tail", "0"], ["--tail", "1"], ["--tail", "3"], ["--tail", "100"]] {
            let command = &mut scene.on("logs", &options);
            scene.see(command);
        }
    });
}

#[test]
fn logs_have_times_that_podman_reads() {
    compare(|scene| {
        ran(&mut scene.container(&[], "echo first"));
        let output = ran_well(&mut scene.on("logs", &["--timestamps"]));
        let (_, line) = output.split_once(' ').unwrap();
        assert_eq!(line, "first\n");
        let all =
            ran_well(&mut scene.on("logs", &["--since", "1h", "--until", "2099-01-01T00:00:00Z"]));
        assert_eq!(all, "first\n");
        let none = ran_well(&mut scene.on("logs", &["--until", "2020-01-01T00:00:00Z"]));
        assert_eq!(none, "");
        let none = ran_well(&mut scene.on("logs", &["--since", "2099-01-01T00:00:00Z"]));
        assert_eq!(none, "");
    });
}

#[test]
fn logs_follow_a_container_to_its_end() {
    compare(|scene| {
        scene.start(&[], "read _ </gate/go; seq 1 2000; echo last >&2; printf unended");
        let follow = spawned(scene.on("logs", &["--follow"]).stdin(Stdio::null()));
        scene.go();
        let output = finish(follow);
        assert!(output.stdout.starts_with(b"ready\n1\n") && contains(&output.stdout, b"\n2000\n"));
        scene.note_output(&output);
    });
}

#[test]
fn logs_of_a_terminal_keep_its_carriage_returns() {
    compare(|scene| {
        ran(&mut scene.container(&["-t"], "echo one; printf two"));
        let command = &mut scene.on("logs", &[]);
        let output = scene.see(command);
        assert_eq!(text(&output.stdout), "one\r\ntwo");
    });
}

#[test]
fn a_log_keeps_its_limit_and_its_last_lines() {
    compare(|scene| {
        // At its own pace, or nothing but the last read is left with either.
        let script = "n=0; while test $n -lt 400; do n=$((n+1)); echo line $n; done";
        ran(&mut scene.container(&["--log-opt", "max-size=4kb"], script));
        let size = fs::metadata(scene.log_path()).unwrap().len();
        assert!(size <= 4096, "{size} bytes");
        let lines = text(&stream(&scene.records(), "stdout"));
        assert!(lines.ends_with("line 399\nline 400\n"), "{lines}");
        let printed = ran_well(&mut scene.on("logs", &[]));
        assert_eq!(printed, lines);
        let limit = scene.inspect("{{.HostConfig.LogConfig.Size}}");
        scene.note("limit", &limit);
    });
}
