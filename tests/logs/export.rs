//! `vmon export`, checked with the programs whose formats it writes.

#![cfg(target_os = "linux")]

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::recorded::{Kind, Recording};
use crate::common::{
    Process, State, Terminal, assert_same, code, contains, eventually, needs_terminal_program,
    noise, wait,
};
use serde_json::Value;

fn export(state: &State, args: &[&str]) -> Command {
    let mut command = state.vmon();
    command.arg("export").args(args);
    command
}

/// Runs it, and asserts that it succeeds without a message.
#[track_caller]
fn exported(state: &State, args: &[&str]) -> Vec<u8> {
    let output = export(state, args).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    output.stdout
}

fn session(state: &State) -> Vec<u8> {
    Recording::of(state, "web")
        .size(100, 40)
        .pause(20)
        .tty("hello \x1b[31mred\x1b[0m\r\n")
        .pause(30)
        .size(90, 30)
        .tty("gr\u{fc}\u{df}e \u{1f980}\r\n")
        .hour()
        .tty("the end\r\n")
        .write(state)
}

#[test]
fn asciinema_plays_an_asciicast() {
    let Some(()) = needs_terminal_program("asciinema") else { return };
    let state = State::new();
    let log = session(&state);
    let cast = state.file("web.cast");
    let cast = cast.to_str().unwrap();
    exported(&state, &["web", "--to", "asciicast", "-o", cast]);
    for args in [&["cat", cast][..], &["play", "-i", "0.01", "-s", "10", cast]] {
        let mut command = Command::new("asciinema");
        command.args(args).env("HOME", state.path()).env("LANG", "C.UTF-8").env("TERM", "xterm");
        let mut terminal = Terminal::spawn(&mut command);
        assert_eq!(terminal.finish(), 0, "{:?}", String::from_utf8_lossy(&terminal.seen));
        assert_same(&terminal.seen, &log, "what asciinema has shown");
    }
}

#[test]
fn an_asciicast_has_sizes_times_and_the_command() {
    let state = State::new();
    session(&state);
    let cast = String::from_utf8(exported(&state, &["web", "--to", "asciicast"])).unwrap();
    let lines: Vec<Value> = cast.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let head = &lines[0];
    assert_eq!(head["version"], 2);
    assert_eq!((&head["width"], &head["height"]), (&100.into(), &40.into()));
    assert_eq!((&head["title"], &head["command"]), (&"Sandboxfile/web".into(), &"true".into()));
    assert!(head["timestamp"].as_u64().unwrap() > 1_700_000_000);
    let events: Vec<(f64, &str)> = lines[1..]
        .iter()
        .map(|event| (event[0].as_f64().unwrap(), event[1].as_str().unwrap()))
        .collect();
    assert_eq!(events, [(0.02, "o"), (0.05, "r"), (0.05, "o"), (3600.05, "o")]);
}

#[test]
fn a_run_on_a_terminal_can_be_exported_as_a_recording() {
    let state = State::new();
    let script = "echo one; read line; stty size; echo \"got $line\"";
    let mut terminal = Terminal::spawn(&mut state.run("web", &[], script));
    terminal.wait_for("one");
    terminal.resize(33, 77);
    eventually("the new size", || {
        // Until its index is written, the log has no times, which is reported.
        let cast = export(&state, &["web", "--to", "asciicast"]).output().unwrap().stdout;
        contains(&cast, br#""r", "77x33"]"#)
    });
    terminal.send("text\r");
    assert_eq!(terminal.finish(), 0);
    let cast = String::from_utf8(exported(&state, &["web", "--to", "asciicast"])).unwrap();
    let (head, events) = cast.split_once('\n').unwrap();
    let head: Value = serde_json::from_str(head).unwrap();
    assert_eq!((&head["width"], &head["height"]), (&100.into(), &40.into()));
    assert_eq!(head["command"], format!("sh -c '{script}'"));
    let events: Vec<Value> =
        events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let text: String = events
        .iter()
        .filter(|event| event[1] == "o")
        .map(|event| event[2].as_str().unwrap())
        .collect();
    assert_eq!(text, "one\r\ntext\r\n33 77\r\ngot text\r\n");
}

#[test]
fn scriptreplay_plays_a_script() {
    let state = State::new();
    let log = session(&state);
    let script = state.file("web.script");
    let script = script.to_str().unwrap();
    let timing = format!("{script}.timing");
    let said = exported(&state, &["web", "--to", "scriptreplay", "-o", script]);
    assert_eq!(String::from_utf8(said).unwrap(), format!("wrote {script} and {timing}\n"));
    for path in [script, &timing] {
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, 0o600);
    }
    let mut command = Command::new("scriptreplay");
    command.args(["-d", "100", "-m", "0.01", &timing, script]).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
    // It ends with a newline of its own.
    assert_same(&output.stdout, &[&log[..], b"\n"].concat(), "what scriptreplay has shown");
    let summary = Command::new("scriptreplay").args(["--summary", "-t", &timing]).output().unwrap();
    let summary = String::from_utf8(summary.stdout).unwrap();
    let values: Vec<&str> = summary.split_whitespace().collect();
    for value in [["COLUMNS:", "100"], ["LINES:", "40"], ["COMMAND:", "true"]] {
        assert!(values.windows(2).any(|window| window == value), "{summary}");
    }
}

#[test]
fn json_and_cri_contain_the_whole_log_as_records() {
    let state = State::new();
    let text = "one\ntwo\u{e4}\n";
    Recording::of(&state, "web")
        .bytes(Kind::Stdout, text)
        .pause(1500)
        .bytes(Kind::Stderr, "three\n")
        .pending("unknown")
        .write(&state);
    let json = String::from_utf8(exported(&state, &["web", "--to", "json"])).unwrap();
    let records: Vec<Value> =
        json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let member =
        |key: &str| records.iter().map(|record| record[key].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(member("log").concat(), format!("{text}three\nunknown"));
    assert_eq!(member("stream"), ["stdout", "stdout", "stderr", "stdout"]);
    let times = member("time");
    assert!(times[0] == times[1] && times[1] < times[2] && times[2] == times[3], "{times:?}");
    let cri = String::from_utf8(exported(&state, &["web", "--to", "cri"])).unwrap();
    let rests: Vec<&str> = cri.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(
        rests,
        ["stdout F one", "stdout F two\u{e4}", "stderr F three", "stdout P unknown", "stdout F "]
    );
}

#[test]
fn any_bytes_become_text_in_an_asciicast() {
    let state = State::new();
    let mut recording = Recording::of(&state, "web");
    for seed in 1..200 {
        recording = recording.bytes(Kind::Stdout, noise(97, seed)).pause(1);
    }
    let log = recording.write(&state);
    let cast = String::from_utf8(exported(&state, &["web", "--to", "asciicast"])).unwrap();
    let events = cast.lines().skip(1).map(|line| serde_json::from_str::<Value>(line).unwrap());
    let text: String = events.map(|event| event[2].as_str().unwrap().to_owned()).collect();
    // asciinema's terminal is in raw mode, so it needs the carriage returns.
    assert_eq!(text.replace('\r', ""), String::from_utf8_lossy(&log).replace('\r', ""));
}

#[test]
fn only_a_regular_file_is_replaced_and_only_when_complete() {
    let state = State::new();
    session(&state);
    let victim = state.file("victim");
    fs::write(&victim, "mine").unwrap();
    let link = state.file("link");
    symlink(&victim, &link).unwrap();
    fs::create_dir(state.file("directory")).unwrap();
    for (name, why) in [
        ("directory", "it is a directory"),
        ("link", "it is no regular file"),
        ("missing/file", "No such file or directory"),
    ] {
        let path = state.file(name);
        let output = export(&state, &["web", "--to", "json", "-o"]).arg(&path).output().unwrap();
        let expected =
            format!("vmon: can't export Sandboxfile/web: can't write {}: {why}\n", path.display());
        assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
        assert_eq!(output.status.code(), Some(1));
    }
    assert_eq!(fs::read(&victim).unwrap(), b"mine");
    exported(&state, &["web", "--to", "json", "-o", victim.to_str().unwrap()]);
    assert_eq!(fs::metadata(&victim).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::read(&victim).unwrap(), exported(&state, &["web", "--to", "json"]));
    assert_eq!(left_behind(state.path()), 0);
}

#[test]
fn both_files_are_written_or_none() {
    let state = State::new();
    session(&state);
    let script = state.file("web.script");
    fs::create_dir(state.file("web.script.timing")).unwrap();
    let mut command = export(&state, &["web", "--to", "scriptreplay", "-o"]);
    assert_eq!(command.arg(&script).output().unwrap().status.code(), Some(1));
    assert!(!script.exists());
    assert_eq!(left_behind(state.path()), 0);
}

/// Number of temporary files left.
fn left_behind(directory: &Path) -> usize {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with(".vmon.")).count()
}

#[test]
fn a_closed_stdout_ends_it_without_a_message() {
    let state = State::new();
    Recording::of(&state, "web").tty(noise(3_000_000, 3)).write(&state);
    let mut command = export(&state, &["web", "--to", "json"]);
    let mut exporting = Process::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    exporting.stdout.take().unwrap().read_exact(&mut [0; 10]).unwrap();
    assert_eq!(code(wait(&mut exporting)), 0);
    let mut said = String::new();
    exporting.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "");
}

#[test]
fn a_failed_export_is_reported_in_one_line() {
    let state = State::new();
    session(&state);
    let script = "vmon: --to scriptreplay writes two files, FILE and FILE.timing: give -o FILE\n";
    for (args, expected, said) in [
        (&["web", "--to", "scriptreplay"][..], 125, script),
        (
            &["nix", "--to", "cri"],
            1,
            "vmon: no sandbox has the name 'nix': 'vmon ps --all' lists them\n",
        ),
        (
            &["web", "--to", "cri", "--config-file", "b"],
            1,
            "vmon: no sandbox has the name 'b/web': 'vmon ps --all' lists them\n",
        ),
    ] {
        let output = export(&state, args).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), said);
        assert_eq!(output.status.code(), Some(expected), "{args:?}");
        assert_eq!(output.stdout, b"");
    }
}
