//! `vmon run --detach`: it returns when the command runs, and the supervisor is independent of the
//! caller.

#![cfg(target_os = "linux")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::held::lock;
use crate::common::{
    Detached, Process, State, Terminal, assert_same, code, contains, eventually, is_alive, noise,
    one_line, wait,
};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

#[test]
fn detach_prints_name_and_pid_and_returns_while_the_command_runs() {
    let state = State::new();
    // `output` waits until no process has the pipes open: the supervisor does not.
    let sandbox = Detached::start(&state, &mut state.run("web", &["-d"], "exec sleep 100"));
    assert_eq!(sandbox.name, "web");
    assert_eq!(state.run_column("web", "pid"), Some(sandbox.pid.to_string()));
    assert_eq!(state.run_column("web", "state").as_deref(), Some("RUNNING"));
}

#[test]
fn the_command_writes_to_the_log_and_its_end_is_recorded() {
    let state = State::new();
    let sandbox = Detached::start(
        &state,
        &mut state.run("web", &["--detach"], "echo out; echo err >&2; exec sleep 100"),
    );
    state.wait_for_log("web", b"out\n");
    state.wait_for_log("web", b"err\n");
    sandbox.signal(Signal::SIGTERM);
    eventually("it is stopped", || state.run_column("web", "reason").as_deref() == Some("stopped"));
    let said = state.logs().join("web@supervisor.log");
    assert!(!said.exists(), "there was nothing to say: {:?}", fs::read_to_string(said));
}

#[test]
fn a_failed_detached_start_is_reported_with_the_exit_code_of_run() {
    let state = State::new();
    let fails = |command: &mut Command, expected: i32, why: &str| {
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(expected), "{said}");
        assert!(said.starts_with("vmon: ") && said.contains(why), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(output.stdout.is_empty());
    };
    fails(state.vmon().args(["run", "-d", "--", "/nonexistent/x"]), 127, "command not found");
    fails(state.vmon().args(["run", "-d", "--", "/etc/passwd"]), 126, "can't be executed");
    fails(
        state.vmon().args(["run", "-d", "--log-dir", "/dev/null", "--", "true"]),
        125,
        "/dev/null",
    );
    fails(state.vmon().args(["run", "-d", "--forward-output=true", "--", "true"]), 125, "--detach");
    let _first = Detached::start(&state, &mut state.run("web", &["-d"], "exec sleep 100"));
    fails(&mut state.run("web", &["-d"], "true"), 125, "already running");
}

#[test]
fn a_name_that_was_not_given_gets_a_number_while_it_is_taken() {
    let state = State::new();
    let start = || Detached::start(&state, state.vmon().args(["run", "-d", "--", "sleep", "100"]));
    let (first, second) = (start(), start());
    assert_eq!((first.name.as_str(), second.name.as_str()), ("sleep", "sleep-2"));
}

#[test]
fn a_detached_run_survives_its_terminal_and_session() {
    let state = State::new();
    let mut shell = Command::new("sh");
    let vmon = env!("CARGO_BIN_EXE_vmon");
    shell.env("VMON_STATE_DIR", state.path());
    shell.args(["-c", &format!("{vmon} run -d --name web -- sleep 100; echo started; cat")]);
    let mut terminal = Terminal::spawn(&mut shell);
    terminal.wait_for("started");
    let answer = String::from_utf8(terminal.seen.clone()).unwrap();
    let sandbox = Detached::of(&state, answer.lines().next().unwrap());
    let session = |pid: u32| nix::unistd::getsid(Some(Pid::from_raw(pid as i32))).unwrap();
    assert_eq!(session(sandbox.supervisor).as_raw(), sandbox.supervisor as i32);
    killpg(Pid::from_raw(terminal.child.id() as i32), Signal::SIGKILL).unwrap();
    terminal.hang_up();
    wait(&mut terminal.child);
    // An end would be on record soon, and a life can only be shown by what it still does.
    sandbox.signal(Signal::SIGTERM);
    eventually("it is stopped", || state.run_column("web", "reason").as_deref() == Some("stopped"));
}

#[test]
fn no_descriptor_of_the_callers_is_held() {
    let state = State::new();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut shell = Command::new("sh");
    let vmon = env!("CARGO_BIN_EXE_vmon");
    // Descriptor 7 is inherited by vmon, and would be by the supervisor and the command.
    shell.args(["-c", &format!("exec 7>&1; {vmon} run -d --name web -- sleep 100 >&2")]);
    shell.env("VMON_STATE_DIR", state.path()).stdout(writer).stderr(Stdio::piped());
    let child = shell.spawn().unwrap();
    drop(shell);
    let mut rest = Vec::new();
    // Ends only when no process has the pipe open.
    reader.read_to_end(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    let _sandbox = Detached::of(&state, &String::from_utf8(output.stderr).unwrap());
}

#[test]
fn later_messages_of_the_supervisor_are_in_its_own_log() {
    let state = State::new();
    let options = ["-d", "--log-level", "info"];
    let output = state.run("web", &options, "exec sleep 100").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let sandbox = Detached::of(&state, &String::from_utf8(output.stdout).unwrap());
    // Messages from before it ran went to the process that waited for the start.
    let early = String::from_utf8(output.stderr).unwrap();
    assert!(early.contains("vmon: info: running"), "{early}");
    sandbox.signal(Signal::SIGTERM);
    let said = state.logs().join("web@supervisor.log");
    eventually("the end is reported there", || {
        fs::read_to_string(&said).unwrap_or_default().contains("vmon: info: ")
    });
    for line in fs::read_to_string(&said).unwrap().lines() {
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(chrono::DateTime::parse_from_rfc3339(time).is_ok(), "{line}");
        assert!(rest.starts_with("vmon: "), "{line}");
    }
}

#[test]
fn a_detached_run_that_its_caller_has_given_up_is_not_started_later() {
    let state = State::new();
    state.ran("before", &[], "true");
    let started = state.file("started");
    for restarts in ["no", "always"] {
        let locked = lock(&state);
        let script = format!("touch {}", started.display());
        let mut starter = state.run("web", &["-d", "--restart", restarts], &script);
        // The supervisor takes the null device as its stdin once it has read its plan.
        starter.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut starter = Process::spawn(&mut starter);
        let children = format!("/proc/{0}/task/{0}/children", starter.id());
        let children = || fs::read_to_string(&children).unwrap_or_default();
        eventually("the supervisor has its plan", || {
            let supervisor = children();
            let stdin = fs::read_link(format!("/proc/{}/fd/0", supervisor.trim()));
            !supervisor.is_empty() && stdin.is_ok_and(|stdin| stdin == Path::new("/dev/null"))
        });
        let supervisor = children().trim().parse().unwrap();
        starter.kill().unwrap();
        starter.wait().unwrap();
        drop(locked);
        eventually("the supervisor has given up", || !is_alive(supervisor));
        assert!(!started.exists());
        let said = fs::read_to_string(state.logs().join("web@supervisor.log"));
        let said = said.unwrap_or_default();
        assert!(said.contains("not started: the 'vmon run -d'"), "{said}");
        // The name is free.
        state.ran("web", &[], "exit 3");
        assert_eq!(state.run_column("web", "exit_code").as_deref(), Some("3"));
    }
}

#[test]
fn a_detached_command_gets_a_terminal_with_tty() {
    let state = State::new();
    let script = "test -t 0 && test -t 1 && echo terminal; exec sleep 100";
    let _sandbox = Detached::start(&state, &mut state.run("web", &["-dt"], script));
    state.wait_for_log("web", b"terminal");
}

#[test]
fn a_detached_command_on_pipes_has_no_input_by_default() {
    let state = State::new();
    let _null =
        Detached::start(&state, &mut state.run("null", &["-d"], "cat; echo over; sleep 100"));
    state.wait_for_log("null", b"over\n");
    let mut open = state.run("open", &["-d", "--stdin", "forward"], "cat; echo over");
    let open = Detached::start(&state, &mut open);
    let link = fs::read_link(format!("/proc/{}/fd/0", open.pid)).unwrap();
    assert!(link.to_string_lossy().starts_with("pipe:"), "{link:?}");
    assert!(is_alive(open.pid));
}

#[test]
fn a_detached_run_keeps_the_callers_directory() {
    let state = State::new();
    let directory = state.file("here");
    fs::create_dir(&directory).unwrap();
    let mut command = state.run("web", &["-d"], "pwd; exec sleep 100");
    let _sandbox = Detached::start(&state, command.current_dir(&directory));
    state.wait_for_log("web", directory.canonicalize().unwrap().to_str().unwrap().as_bytes());
}

#[test]
fn a_closed_stdout_does_not_prevent_a_detached_run() {
    let state = State::new();
    let mut command = state.run("web", &["-d"], "exec sleep 100");
    command.stdout(File::create("/dev/full").unwrap_or_else(|_| File::open("/dev/null").unwrap()));
    let status = wait(&mut command.spawn().unwrap());
    assert_eq!(code(status), 1, "its answer could not be written");
    let supervisor = state.run_column("web", "supervisor_pid").unwrap().parse().unwrap();
    let sandbox = Detached { name: "web".to_owned(), pid: 0, supervisor };
    assert!(is_alive(sandbox.supervisor));
}

/// Everything below /proc/PID that other users may read, with its name.
fn public_files(pid: u32) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(format!("/proc/{pid}")).unwrap().map(Result::unwrap);
    let others =
        |path: &Path| fs::metadata(path).is_ok_and(|it| it.mode() & 0o4 != 0 && it.is_file());
    let public = entries.map(|entry| entry.path()).filter(|path| others(path));
    // Some are refused all the same, by their readers' capabilities.
    public.filter_map(|it| Some((it.display().to_string(), fs::read(it).ok()?))).collect()
}

#[test]
fn the_options_of_a_detached_run_are_not_in_its_arguments() {
    let state = State::new();
    let (variable, argument) = ("TOKEN=hunter2", "swordfish");
    let mut run = state.run("web", &["-d", "--env", variable], "echo $TOKEN $1; exec sleep 1000");
    let first = Detached::start(&state, run.args(["sh", argument]));
    let check = |sandbox: &Detached| {
        state.wait_for_log("web", b"hunter2 swordfish\n");
        let files = public_files(sandbox.supervisor);
        let line = files.iter().find(|(name, _)| name.ends_with("/cmdline")).unwrap();
        let line = String::from_utf8(line.1.clone()).unwrap();
        assert!(line.ends_with("vmon\0run\0--detach\0--supervisor\0--name\0web\0"), "{line:?}");
        for (name, bytes) in files {
            assert!(!contains(&bytes, b"hunter2") && !contains(&bytes, b"swordfish"), "{name}");
        }
        let stdin = fs::read_link(format!("/proc/{}/fd/0", sandbox.supervisor)).unwrap();
        assert_eq!(stdin, Path::new("/dev/null"));
    };
    check(&first);
    let second = Detached::start(&state, state.vmon().args(["restart", "web"]));
    assert_ne!(first.supervisor, second.supervisor);
    check(&second);
}

#[test]
fn a_plan_may_be_as_long_as_a_command_line() {
    let state = State::new();
    let mut run = state.run("web", &["-d"], "cat /proc/$$/cmdline; exec sleep 1000");
    run.arg("sh");
    let mut expected = b"sh\0-c\0cat /proc/$$/cmdline; exec sleep 1000\0sh\0".to_vec();
    // Above 600 kB: far more than a pipe holds; one of them is almost as long as one may be.
    let words = (0..5000).map(|seed| (100, seed)).chain([(100_000, 5000), (0, 0)]);
    for (length, seed) in words {
        let mut word = noise(length, seed);
        word.retain(|&byte| byte != 0);
        run.arg(OsStr::from_bytes(&word));
        expected.extend(word);
        expected.push(0);
    }
    let _web = Detached::start(&state, &mut run);
    eventually("all of it", || state.log("web").len() >= expected.len());
    assert_same(&state.whole_log("web"), &expected, "the arguments");
}

#[test]
fn a_supervisor_that_is_started_by_hand_exits_with_a_message() {
    let state = State::new();
    let by_hand = |input: Stdio| {
        let mut vmon = state.vmon();
        vmon.args(["run", "--detach", "--supervisor", "--", "true"]).stdin(input);
        let output = vmon.output().unwrap();
        assert!(one_line(&output).contains("--supervisor"), "{output:?}");
        assert_eq!(output.status.code(), Some(125));
    };
    by_hand(Stdio::null());
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"other input, and long enough").unwrap();
    drop(writer);
    by_hand(reader.into());
    let output = state.vmon().args(["run", "-d", "--supervisor", "true"]).output().unwrap();
    assert!(one_line(&output).contains("unexpected argument '--supervisor'"), "{output:?}");
    assert!(!state.db().exists());
}
