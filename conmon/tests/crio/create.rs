//! Creating, starting, stopping, and the end.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::client::Client;
use crate::common::{is_alive, text};
use crate::engine::{Shape, Watch, each};

#[test]
fn a_container_is_created_started_and_ends() {
    each(|engine| {
        let container = engine.prepare(Shape::default(), "echo out; echo err >&2; exit 7");
        let pid = container.create().unwrap();
        assert_eq!(pid, container.pid());
        assert!(is_alive(container.monitor_pid()));
        assert!(container.is_in_its_cgroup());
        let exe = fs::read_link(format!("/proc/{}/exe", container.monitor_pid())).unwrap();
        assert_eq!(exe.file_name().unwrap(), "conmon");
        assert_eq!(container.status(), "created");
        assert_eq!(fs::read(container.log_path()).unwrap(), b"");
        let bundle = container.bundle();
        let link = fs::read_link(engine.sockets().join(&container.id)).unwrap();
        assert_eq!(link, bundle);
        for (file, mode) in [("attach", 0o700), ("ctl", 0o640)] {
            let metadata = fs::symlink_metadata(bundle.join(file)).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, mode, "{file}");
        }
        let watch = Watch::of(&engine.exits());
        container.start();
        // The bell: the file is complete when it appears, and so is the log.
        watch.wait_for(&container.id, false);
        assert_eq!(fs::read_to_string(engine.exits().join(&container.id)).unwrap(), "7");
        assert_eq!(fs::read_to_string(container.persist().join("exit")).unwrap(), "7");
        assert_eq!(container.logged("stdout"), "out\n");
        assert_eq!(container.logged("stderr"), "err\n");
        assert_eq!(container.exit_code(), 7);
        container.wait_for_monitor();
        assert!(!bundle.join("attach").exists());
        if engine.monitor.is_ours() {
            assert!(fs::symlink_metadata(engine.sockets().join(&container.id)).is_err());
        }
        // Nothing is left of the temporary names.
        let exits: Vec<_> = fs::read_dir(engine.exits()).unwrap().collect();
        assert_eq!(exits.len(), 1, "{exits:?}");
        assert!(container.delete().status.success());
    });
}

#[test]
fn a_container_that_cannot_be_created_says_why() {
    each(|engine| {
        for terminal in [false, true] {
            let container = engine.prepare(Shape { terminal, ..Shape::default() }, "true");
            let config = container.bundle().join("config.json");
            let text = fs::read_to_string(&config).unwrap();
            fs::write(&config, text.replacen("\"sh\"", "\"/missing \\\"program\\\"\"", 1)).unwrap();
            let error = container.create().unwrap_err();
            assert!(error.contains("/missing"), "{error:?}");
            container.wait_for_monitor();
        }
    });
}

#[test]
fn a_container_is_asked_then_killed() {
    each(|engine| {
        let script = "trap 'echo asked' TERM; echo ready; while :; do usleep 20000; done";
        let container = engine.create(Shape::default(), script);
        container.start();
        container.wait_for_log("ready");
        assert!(engine.runtime(&["kill", &container.id, "TERM"]).status().unwrap().success());
        container.wait_for_log("asked");
        container.stop("KILL");
        assert_eq!(container.exit_code(), 137);
    });
}

#[test]
fn a_container_that_is_never_started_can_be_deleted() {
    each(|engine| {
        let container = engine.create(Shape::default(), "true");
        assert!(container.delete().status.success());
        container.wait_for_monitor();
        assert!(container.persist().join("exit").exists());
    });
}

#[test]
fn a_terminal_is_received_from_the_runtime() {
    each(|engine| {
        let shape = Shape { terminal: true, ..Shape::default() };
        let script =
            "stty size; until stty size | grep '24 80'; do usleep 20000; done 2>/dev/null; exit 3";
        let container = engine.create(shape, script);
        let mut client = Client::attach(&container);
        container.start();
        // There is no size before one is set; busybox fails where it is asked for.
        client.wait_for("stty: standard input\r\n");
        client.resize(24, 80);
        client.wait_for("24 80\r\n");
        client.rest();
        assert_eq!(container.exit_code(), 3);
        assert_eq!(container.logged("stdout"), "stty: standard input\r\n24 80\r\n");
        assert_eq!(container.logged("stderr"), "");
    });
}

#[test]
fn a_size_that_comes_early_is_kept() {
    each(|engine| {
        let shape = Shape { terminal: true, ..Shape::default() };
        let container = engine.create(shape, "until stty size | grep .; do usleep 20000; done");
        let mut client = Client::attach(&container);
        client.resize(33, 99);
        container.start();
        client.rest();
        assert_eq!(text(&client.stdout), "33 99\r\n");
    });
}

#[test]
fn another_cri_o_finds_everything_again() {
    each(|engine| {
        let shape = Shape { stdin: true, ..Shape::default() };
        let script = "while read -r line; do echo \"got $line\"; test $line = end && exit 6; done";
        let container = engine.create(shape, script);
        container.start();
        let mut first = Client::attach(&container);
        first.send(b"one\n");
        first.wait_for("got one\n");
        // CRI-O ends: all that it had open is closed, without a word.
        drop(first);
        // Another one reads the pid file, asks the runtime, and goes on.
        assert!(is_alive(container.monitor_pid()));
        assert_eq!(container.status(), "running");
        let watch = Watch::of(&engine.exits());
        let mut second = Client::attach(&container);
        second.send(b"two\n");
        second.wait_for("got two\n");
        second.send(b"end\n");
        second.rest();
        watch.wait_for(&container.id, false);
        assert_eq!(container.exit_code(), 6);
        assert_eq!(container.logged("stdout"), "got one\ngot two\ngot end\n");
    });
}

#[test]
fn the_end_of_memory_is_noted() {
    each(|engine| {
        let shape = Shape { memory: 16 << 20, ..Shape::default() };
        let container = engine.create(shape, "read _ </gate/go; tail /dev/zero; exit $?");
        container.start();
        container.go();
        assert_eq!(container.exit_code(), 137);
        assert!(container.bundle().join("oom").exists());
        if engine.monitor.is_ours() {
            assert!(container.persist().join("oom").exists());
        }
    });
}

#[test]
fn signals_to_the_monitor_are_the_containers() {
    use nix::sys::signal::{Signal, kill};
    each(|engine| {
        let script = "trap 'echo asked; exit 4' TERM; echo ready; while :; do usleep 20000; done";
        let container = engine.create(Shape::default(), script);
        container.start();
        container.wait_for_log("ready");
        let monitor = nix::unistd::Pid::from_raw(container.monitor_pid() as i32);
        // The signal of a scope that ends with its node.
        kill(monitor, Signal::SIGPIPE).unwrap();
        kill(monitor, Signal::SIGTERM).unwrap();
        assert_eq!(container.exit_code(), 4);
        assert_eq!(container.logged("stdout"), "ready\nasked\n");
    });
}
