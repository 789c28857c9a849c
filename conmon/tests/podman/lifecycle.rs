//! Stopping, signals, pausing, time limits, health checks, events, and what is handed to a container.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use crate::common::{contains, eventually, finish, ran, ran_well, spawned, text};
use crate::scene::{IMAGE, compare, ours};

const IDLE: &str = "read _ </gate/go";

#[test]
fn stop_asks_first() {
    compare(|scene| {
        scene.start_prepared(
            &[],
            "trap 'echo asked; exit 12' TERM",
            "while :; do usleep 20000; done",
        );
        let command = &mut scene.on("stop", &[]);
        scene.see(command);
        scene.note_end();
        assert_eq!(scene.inspect("{{.State.ExitCode}}"), "12");
    });
}

#[test]
fn stop_kills_after_its_time() {
    compare(|scene| {
        scene.start_prepared(&[], "trap '' TERM", "while :; do sleep 1; done");
        let command = &mut scene.on("stop", &["--time", "1"]);
        scene.see(command);
        scene.note_end();
        assert_eq!(scene.inspect("{{.State.ExitCode}}"), "137");
    });
}

#[test]
fn kill_sends_any_signal() {
    compare(|scene| {
        let traps = "trap 'echo one' USR1; trap 'echo two; exit 2' USR2";
        scene.start_prepared(&[], traps, "while :; do usleep 20000; done");
        let command = &mut scene.on("kill", &["--signal", "USR1"]);
        scene.see(command);
        scene.wait_for_log("one");
        let command = &mut scene.on("kill", &["--signal", "USR2"]);
        scene.see(command);
        let command = &mut scene.on("wait", &[]);
        scene.see(command);
        scene.note_end();
    });
    compare(|scene| {
        scene.start(&[], IDLE);
        let command = &mut scene.on("kill", &[]);
        scene.see(command);
        let command = &mut scene.on("wait", &[]);
        let output = scene.see(command);
        assert_eq!(text(&output.stdout), "137\n");
        scene.note_end();
    });
}

#[test]
fn a_paused_container_goes_on_later() {
    compare(|scene| {
        scene.start(&[], "read _ </gate/go; echo went on");
        let command = &mut scene.on("pause", &[]);
        scene.see(command);
        assert_eq!(scene.inspect("{{.State.Status}}"), "paused");
        let command = &mut scene.on("unpause", &[]);
        scene.see(command);
        scene.go();
        let command = &mut scene.on("wait", &[]);
        scene.see(command);
        scene.note_end();
    });
}

#[test]
fn a_container_is_killed_when_its_time_is_over() {
    compare(|scene| {
        let command =
            &mut scene.container(&["--timeout", "1"], "echo begun; while :; do sleep 1; done");
        let output = scene.see(command);
        assert_eq!(output.status.code(), Some(255), "{output:?}");
        let state = scene.inspect("{{.State.Status}} {{.State.ExitCode}}");
        scene.note("state", &state);
    });
}

#[test]
fn the_outcome_of_a_health_check_is_that_of_its_command() {
    compare(|scene| {
        let check = "--health-cmd=test -e /gate/healthy && echo well || exit 1";
        scene.start(&[check, "--health-interval=disable", "--health-retries=1"], IDLE);
        for healthy in [false, true] {
            if healthy {
                fs::write(scene.gate("healthy"), "").unwrap();
            }
            let command = &mut scene.podman(["healthcheck", "run", &scene.name]);
            let output = scene.see(command);
            assert_eq!(output.status.success(), healthy, "{output:?}");
            let health = "{{.State.Health.Status}} {{range .State.Health.Log}}{{.ExitCode}} {{.Output}}{{end}}";
            let health = scene.inspect(health);
            scene.note("health", &health);
        }
    });
}

#[test]
fn preserved_descriptors_reach_the_container() {
    compare(|scene| {
        let file = scene.gate("handed");
        fs::write(&file, "what was handed over\n").unwrap();
        let podman =
            scene.podman(["run", "--preserve-fds", "1", "--name", &scene.name, IMAGE, "cat"]);
        // A shell opens the descriptor that the container gets.
        let mut command = Command::new("sh");
        command.args(["-c", r#"file=$1; shift; exec "$@" 3<"$file""#, "sh"]).arg(&file);
        command.arg(podman.get_program()).args(podman.get_args()).arg("/dev/fd/3");
        command.envs(podman.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = ran(&mut command);
        assert_eq!(text(&output.stdout), "what was handed over\n", "{output:?}");
        scene.note_output(&output);
    });
}

#[test]
fn notifications_of_the_container_reach_the_host() {
    compare(|scene| {
        let path = scene.gate("notify.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        let program = "--volume=/usr/bin/systemd-notify:/bin/systemd-notify:ro";
        let libraries =
            ["--volume=/lib:/lib:ro", "--volume=/lib64:/lib64:ro", "--volume=/usr/lib:/usr/lib:ro"];
        let options =
            ["-d", "--sdnotify=container", program, libraries[0], libraries[1], libraries[2]];
        let script = "systemd-notify --ready --status=up SECRET=1; read _ </gate/go";
        let mut command = scene.container(&options, script);
        let mut child = spawned(command.env("NOTIFY_SOCKET", &path).stdin(Stdio::null()));
        let mut messages = Vec::new();
        let mut buffer = [0; 4096];
        socket.set_nonblocking(true).unwrap();
        // The container's own words, by its monitor; MAINPID is Podman's to send.
        eventually("both notifications, or a failure", || {
            while let Ok(count) = socket.recv(&mut buffer) {
                messages.extend(&buffer[..count]);
                messages.push(b'\n');
            }
            let all = contains(&messages, b"READY=1") && contains(&messages, b"MAINPID=");
            all || child.try_wait().unwrap().is_some_and(|status| !status.success())
        });
        let output = finish(child);
        assert!(output.status.success(), "{output:?}");
        let messages = text(&messages);
        assert!(!messages.contains("SECRET"), "{messages}");
        let pid = format!("MAINPID={}", scene.monitor_pid());
        assert!(messages.lines().any(|line| line == pid), "{pid}: {messages}");
        if scene.monitor.is_ours() {
            assert!(messages.lines().any(|line| line == "STATUS=up"), "{messages}");
        }
        scene.go();
        let command = &mut scene.on("wait", &[]);
        scene.see(command);
    });
}

#[test]
fn events_tell_the_same_life() {
    compare(|scene| {
        scene.start(&[], IDLE);
        ran_well(&mut scene.exec(&[], "true"));
        scene.go();
        ran_well(&mut scene.on("wait", &[]));
        let options = ["events", "--stream=false", "--filter"];
        let filter = format!("container={}", scene.name);
        let format = ["--format", "{{.Status}} {{.Name}} {{.ContainerExitCode}}"];
        let mut last = String::new();
        eventually("the end is among the events", || {
            last = ran_well(scene.podman(options).arg(&filter).args(format));
            last.contains("cleanup")
        });
        // The caller of an exec and the command that its monitor runs at the end may each report it.
        let mut events: Vec<&str> = last.lines().collect();
        events.dedup();
        scene.note("events", &events.join("\n"));
    });
}

#[test]
fn a_container_that_ends_at_once_keeps_its_status() {
    for code in ["0", "1", "255"] {
        compare(|scene| {
            let command = &mut scene.container(&[], &format!("exit {code}"));
            let output = scene.see(command);
            assert_eq!(output.status.code().unwrap().to_string(), code);
            assert_eq!(scene.inspect("{{.State.ExitCode}}"), code);
        });
    }
}

#[test]
fn a_container_without_memory_was_killed_for_it() {
    // Debian's conmon writes the note into its own working directory, where Podman does not look.
    ours(|scene| {
        let script = "echo begun; tail /dev/zero; exit $?";
        let output = ran(&mut scene.container(&["--memory=16m", "--memory-swap=16m"], script));
        assert_eq!(output.status.code(), Some(137), "{output:?}");
        assert_eq!(scene.inspect("{{.State.OOMKilled}}"), "true");
    });
}

#[test]
fn input_may_be_written_before_the_start() {
    compare(|scene| {
        ran_well(&mut scene.podman(["create", "-i", "--name", &scene.name, IMAGE, "cat"]));
        let mut start = scene.on("start", &["--attach", "--interactive"]);
        let mut child = spawned(start.stdin(Stdio::piped()));
        child.stdin.take().unwrap().write_all(b"early\n").unwrap();
        let output = finish(child);
        assert_eq!(text(&output.stdout), "early\n", "{output:?}");
        scene.note_output(&output);
        scene.note_end();
    });
}
