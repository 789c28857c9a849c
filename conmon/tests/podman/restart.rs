//! Containers that are started again: by hand, and by their policy, which the exit command carries out.

use crate::common::{eventually, ran, ran_well, stream, text};
use crate::scene::compare;

#[test]
fn a_restart_appends_to_the_log() {
    compare(|scene| {
        scene.start_prepared(&[], "trap 'exit 0' TERM", "while :; do usleep 20000; done");
        let command = &mut scene.on("restart", &[]);
        scene.see(command);
        let twice = || text(&stream(&scene.records(), "stdout")) == "ready\nready\n";
        eventually("both lives are in the log", twice);
        let command = &mut scene.on("stop", &[]);
        scene.see(command);
        scene.note_end();
        let command = &mut scene.on("start", &[]);
        scene.see(command);
        let state = scene.inspect("{{.State.Status}}");
        scene.note("state", &state);
    });
}

#[test]
fn on_failure_restarts_so_often_and_no_more() {
    compare(|scene| {
        ran(&mut scene.container(&["-d", "--restart", "on-failure:2"], "echo life; exit 5"));
        eventually("three lives", || {
            scene.inspect("{{.State.Status}} {{.RestartCount}}") == "exited 2"
        });
        scene.note_end();
    });
}

#[test]
fn on_failure_leaves_a_success_alone() {
    compare(|scene| {
        let command = &mut scene.container(&["--restart", "on-failure"], "echo life");
        scene.see(command);
        scene.note_end();
    });
}

#[test]
fn always_restarts_until_it_is_stopped() {
    compare(|scene| {
        let script = "trap 'exit 0' TERM; echo life
            test -e /gate/second && while :; do usleep 20000; done; : >/gate/second";
        ran_well(&mut scene.container(&["-d", "--restart", "always"], script));
        eventually("the second life", || {
            scene.inspect("{{.State.Status}} {{.RestartCount}}") == "running 1"
                && text(&stream(&scene.records(), "stdout")) == "life\nlife\n"
        });
        let command = &mut scene.on("stop", &[]);
        scene.see(command);
        scene.note_end();
    });
}
