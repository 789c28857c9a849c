//! `ExecSync`: the kubelet's exec probes.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::common::{finish, hand_over, records, spawned, stream, text, unique};
use crate::engine::{Container, Shape, each, ours};

/// The most output that CRI-O takes.
const MAXIMUM: usize = 16 << 20;

const IDLE: &str = "read _ </gate/go";

/// What CRI-O answers the kubelet.
#[derive(Debug, PartialEq, Eq)]
struct Response {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    code: i64,
}

fn exec_sync(container: &Container, command: &[&str], seconds: u32) -> Result<Response, String> {
    let engine = container.engine;
    let file = |name: &str| -> PathBuf { engine.tmp().join(format!("{name}{}", unique())) };
    let (pid_file, log_path, process_file) =
        (file("pidfile"), file("crio-log-"), file("exec-process-"));
    // They are there, and empty.
    fs::write(&pid_file, "").unwrap();
    fs::write(&log_path, "").unwrap();
    let config = fs::read(container.bundle().join("config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    let terminal = config["process"]["terminal"].as_bool().unwrap();
    let mut process = config["process"].clone();
    process["args"] = json!(command);
    fs::write(&process_file, process.to_string()).unwrap();

    let (mut sync, child) = std::io::pipe().unwrap();
    let (start, child_start) = UnixStream::pair().unwrap();
    let mut conmon = engine.conmon();
    conmon.args(["-c", &container.id, "-n", &container.name(), "-r", "/usr/sbin/runc", "-p"]);
    conmon.arg(&pid_file).arg("-e").arg("-l").arg(&log_path).arg("--socket-dir-path");
    conmon.arg(engine.sockets()).args(["--log-level", "info", "--sync", "--log-global-size-max"]);
    conmon.arg(MAXIMUM.to_string());
    if terminal {
        conmon.arg("-t");
    }
    if seconds > 0 {
        conmon.args(["-T", &seconds.to_string()]);
    }
    conmon.arg("--exec-process-spec").arg(&process_file);
    conmon.args(["--runtime-arg", &engine.runtime_root()]);
    hand_over(&mut conmon, vec![OwnedFd::from(child), OwnedFd::from(child_start)]);
    let process = spawned(&mut conmon);
    drop(conmon);
    std::io::Write::write_all(&mut &start, &[0]).unwrap();
    // The end of conmon itself, and of its output.
    let output = finish(process);
    assert_eq!((text(&output.stdout), text(&output.stderr)), (String::new(), String::new()));
    let mut message = String::new();
    sync.read_to_string(&mut message).unwrap();
    let log = fs::read(&log_path).unwrap();
    for path in [pid_file, log_path, process_file] {
        fs::remove_file(path).unwrap();
    }

    let value: Value =
        serde_json::from_str(&message).map_err(|error| format!("{error}: {message:?}"))?;
    let code = value["exit_code"].as_i64().unwrap();
    let reason = value["message"].as_str().unwrap_or_default();
    assert!(message.len() <= 4096, "{} bytes", message.len());
    if code == -1 {
        if reason == "command timed out" {
            return Ok(Response { stdout: Vec::new(), stderr: reason.into(), code });
        }
        return Err(reason.to_owned());
    }
    assert_eq!(message, format!("{{\"exit_code\": {code}}}\n"));
    assert!(log.len() <= MAXIMUM + PAGE, "{} bytes", log.len());
    let records = records(&log);
    Ok(Response { stdout: stream(&records, "stdout"), stderr: stream(&records, "stderr"), code })
}

/// By this much the log may exceed its limit: one record.
const PAGE: usize = 16 << 10;

fn idle<'a>(engine: &'a crate::engine::Engine, shape: Shape) -> Container<'a> {
    let container = engine.create(shape, IDLE);
    container.start();
    container
}

fn response(stdout: &str, stderr: &str, code: i64) -> Result<Response, String> {
    Ok(Response { stdout: stdout.into(), stderr: stderr.into(), code })
}

#[test]
fn a_command_gives_both_streams_and_its_code() {
    each(|engine| {
        let container = idle(engine, Shape::default());
        let script = ["sh", "-c", "echo out; echo err >&2; printf rest; exit 3"];
        assert_eq!(exec_sync(&container, &script, 10), response("out\nrest", "err\n", 3));
        assert_eq!(exec_sync(&container, &["true"], 0), response("", "", 0));
        assert_eq!(exec_sync(&container, &["sh", "-c", "kill -9 $$"], 0), response("", "", 137));
        // The container's own log has nothing of it.
        assert_eq!(fs::read(container.log_path()).unwrap(), b"");
        container.go();
        assert_eq!(container.exit_code(), 0);
    });
}

#[test]
fn a_command_that_takes_too_long_times_out() {
    each(|engine| {
        let container = idle(engine, Shape::default());
        let script = ["sh", "-c", "echo begun; exec sleep 600"];
        assert_eq!(exec_sync(&container, &script, 1), response("", "command timed out", -1));
        // The next probe is not disturbed.
        assert_eq!(exec_sync(&container, &["echo", "well"], 1), response("well\n", "", 0));
    });
}

#[test]
fn a_command_in_a_container_with_a_terminal_has_one_too() {
    each(|engine| {
        let container = idle(engine, Shape { terminal: true, ..Shape::default() });
        let script = ["sh", "-c", "test -t 1 && echo terminal; exit 5"];
        assert_eq!(exec_sync(&container, &script, 10), response("terminal\r\n", "", 5));
    });
}

#[test]
fn a_command_that_cannot_be_run_is_an_error() {
    each(|engine| {
        for terminal in [false, true] {
            let container = idle(engine, Shape { terminal, ..Shape::default() });
            exec_sync(&container, &["/missing"], 10).unwrap_err();
        }
    });
}

#[test]
fn a_command_that_cannot_be_run_says_why() {
    ours(|engine| {
        for terminal in [false, true] {
            let container = idle(engine, Shape { terminal, ..Shape::default() });
            let error = exec_sync(&container, &["/missing"], 10).unwrap_err();
            assert!(error.contains("/missing"), "{error:?}");
            // As much as fits in a message.
            let long = "/".repeat(3000) + "missing";
            let error = exec_sync(&container, &[&long], 10).unwrap_err();
            assert!(error.contains("missing"), "{error:?}");
        }
    });
}

#[test]
fn a_command_leaves_its_daemon_behind() {
    each(|engine| {
        let container = idle(engine, Shape::default());
        let script = ["sh", "-c", "sleep 600 & echo left"];
        assert_eq!(exec_sync(&container, &script, 10), response("left\n", "", 0));
    });
}

#[test]
fn more_output_than_the_limit_is_cut() {
    each(|engine| {
        let container = idle(engine, Shape::default());
        let script =
            ["sh", "-c", "yes 0123456789012345678901234567890123456789 | head -c 20000000"];
        let response = exec_sync(&container, &script, 0).unwrap();
        assert_eq!(response.code, 0);
        let text = response.stdout;
        assert!((6 << 20..16 << 20).contains(&text.len()), "{} bytes", text.len());
    });
}

#[test]
fn many_probes_at_once_keep_their_output_apart() {
    each(|engine| {
        let container = idle(engine, Shape::default());
        std::thread::scope(|scope| {
            for number in 0..5 {
                let container = &container;
                scope.spawn(move || {
                    let script = format!("seq 1 {number}000; exit {number}");
                    let response = exec_sync(container, &["sh", "-c", &script], 0).unwrap();
                    assert_eq!(response.code, number);
                    assert_eq!(text(&response.stdout).lines().count(), number as usize * 1000);
                });
            }
        });
    });
}
