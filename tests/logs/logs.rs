//! `vmon logs` of stopped sandboxes.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Output, Stdio};

use crate::common::logs::{Chunk, START, STDERR, STDOUT, TTY, index, joined, lines};
use crate::common::{self, CONFIG, State, Terminal, code, contains};

fn logs_of(state: &State, args: &[&str]) -> Command {
    let mut command = state.vmon();
    command.arg("logs").args(args).env("TZ", "UTC");
    command
}

fn output(state: &State, args: &[&str]) -> Output {
    logs_of(state, args).output().unwrap()
}

#[track_caller]
fn printed(state: &State, args: &[&str]) -> String {
    let Output { status, stdout, stderr } = output(state, args);
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert!(status.success() && stderr.is_empty(), "{args:?}: {status}, {stdout}, {stderr}");
    stdout
}

/// The error line of a failed command, and its output.
#[track_caller]
fn failed(state: &State, args: &[&str], with: i32) -> (String, String) {
    let Output { status, stdout, stderr } = output(state, args);
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!(code(status), with, "{args:?}: {stdout}, {stderr}");
    assert!(stderr.starts_with("vmon: ") && stderr.lines().count() == 1, "{stderr}");
    (stderr, stdout)
}

/// Writes a log file of a sandbox that is not on record.
fn put(state: &State, config: &str, file: &str, bytes: &[u8]) {
    let directory = state.path().join("log").join(config);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(file), bytes).unwrap();
}

const SECOND: u64 = 1_000_000_000;

/// 2026-01-31T12:00:00Z.
const NOON: u64 = 1_769_860_800 * SECOND;

/// Two files with a line every ten seconds from noon on, every other one from stderr.
fn put_lines(state: &State, format: &str, compressed: bool) {
    let chunks: Vec<Chunk> = (0..20)
        .map(|line| {
            let kind = if line % 2 == 0 { STDOUT } else { STDERR };
            Chunk::new(NOON + line * 10 * SECOND, kind, format!("line {line}\n"))
        })
        .collect();
    for (rest, chunks) in [(".00000001", &chunks[..10]), ("", &chunks[10..])] {
        let file = format!("old.log{rest}");
        match format {
            "raw" => {
                put(state, CONFIG, &file, &joined(chunks));
                put(state, CONFIG, &format!("{file}.idx"), &index(chunks));
            }
            format => put(state, CONFIG, &file, &lines(format, chunks)),
        }
    }
    if compressed {
        let path = state.logs().join("old.log.00000001");
        assert!(Command::new("gzip").arg(path).status().unwrap().success());
    }
}

fn all(lines: impl IntoIterator<Item = u64>) -> String {
    lines.into_iter().map(|line| format!("line {line}\n")).collect()
}

#[test]
fn the_log_of_a_stopped_sandbox_is_printed_exactly() {
    let state = State::new();
    let script = r"printf 'out\n\033]0;title\007\377\000'; printf 'err\n' >&2";
    state.run("web", &[], script).output().unwrap();
    let printed = output(&state, &["web"]);
    assert!(printed.status.success());
    assert_eq!(printed.stdout, state.whole_log("web"));
    assert!(contains(&printed.stdout, b"out\n\x1b]0;title\x07\xff\0"));
    let errors = output(&state, &["web", "--stream", "stderr"]);
    assert_eq!(errors.stdout, b"err\n");
}

#[test]
fn the_log_of_a_sandbox_no_longer_on_record_is_printed() {
    let state = State::new();
    state.run("web", &[], "echo gone").output().unwrap();
    assert!(state.vmon().args(["rm", "web"]).status().unwrap().success());
    assert_eq!(printed(&state, &["web"]), "gone\n");
    assert_eq!(printed(&state, &["web", "--config-file", CONFIG]), "gone\n");
    assert_eq!(printed(&state, &[&format!("{CONFIG}/web")]), "gone\n");
    put(&state, "other", "web.log", b"other\n");
    let (error, _) = failed(&state, &["web"], 1);
    assert!(error.contains("Sandboxfile/web, other/web"), "{error}");
    assert_eq!(printed(&state, &["other/web"]), "other\n");
    assert_eq!(printed(&state, &["--config-file", "other", "web"]), "other\n");
}

#[test]
fn a_missing_log_is_reported() {
    let state = State::new();
    let (error, _) = failed(&state, &["nosuch"], 1);
    assert!(error.contains("no sandbox has the name 'nosuch'"), "{error}");
    for name in ["../x", "a/../b", "x\ny", ""] {
        failed(&state, &[name], 1);
    }
    state.run("web", &[], "echo here").output().unwrap();
    let (error, _) = failed(&state, &["web", "--config-file", "other"], 1);
    assert!(error.contains("no sandbox has the name 'other/web'"), "{error}");
    fs::remove_file(state.log_path("web")).unwrap();
    for args in [&["web"][..], &["-f", "web"], &["web", "-n", "3"]] {
        let (error, _) = failed(&state, args, 1);
        assert!(error.contains("there is no log") && error.contains("web.log"), "{error}");
    }
    failed(&state, &["web", "--since", "yesterday"], 125);
    failed(&state, &["web", "--stream", "tty"], 125);
    failed(&state, &["web", "--run", "first"], 125);
}

#[test]
fn times_lines_and_streams_select_in_every_format() {
    for (format, compressed) in [("raw", false), ("raw", true), ("cri", true), ("json", false)] {
        let state = State::new();
        put_lines(&state, format, compressed);
        let of = |args: &[&str]| printed(&state, &[&["old"], args].concat());
        assert_eq!(of(&[]), all(0..20), "{format}");
        assert_eq!(of(&["--since", "2026-01-31T12:01:30Z"]), all(9..20));
        assert_eq!(of(&["--since", "2026-01-31 12:01:31"]), all(10..20));
        assert_eq!(of(&["--until", "2026-01-31T13:00:30+01:00"]), all(0..3));
        let between = ["--since", "2026-01-31T12:00:50", "--until", "2026-01-31T12:02:00"];
        assert_eq!(of(&between), all(5..12));
        assert_eq!(of(&[&between[..], &["-n", "2"]].concat()), all(10..12));
        assert_eq!(of(&["--since", "1m"]), "");
        assert_eq!(of(&["--until", "2026-01-31"]), "");
        assert_eq!(of(&["-n", "0"]), "");
        assert_eq!(of(&["-n", "3"]), all(17..20));
        assert_eq!(of(&["-n", "13"]), all(7..20));
        assert_eq!(of(&["--tail=1000"]), all(0..20));
        assert_eq!(of(&["--stream", "stderr"]), all((1..20).step_by(2)));
        assert_eq!(of(&["--stream", "stdout", "-n", "7"]), all((6..20).step_by(2)));
        let stamped = of(&["-t", "-n", "2"]);
        let expected = "2026-01-31T12:03:00.000000000+00:00 line 18\n\
                        2026-01-31T12:03:10.000000000+00:00 line 19\n";
        assert_eq!(stamped, expected);
    }
}

#[test]
fn a_run_is_selected_by_its_marks() {
    let state = State::new();
    for word in ["one", "two", "three"] {
        state.run("web", &[], &format!("echo {word}; echo {word}")).output().unwrap();
    }
    assert_eq!(printed(&state, &["web"]), "one\none\ntwo\ntwo\nthree\nthree\n");
    assert_eq!(printed(&state, &["web", "--run", "all"]), printed(&state, &["web"]));
    assert_eq!(printed(&state, &["web", "--run", "last"]), "three\nthree\n");
    assert_eq!(printed(&state, &["web", "--run", "2"]), "two\ntwo\n");
    assert_eq!(printed(&state, &["web", "--run", "2", "-n", "1"]), "two\n");
    assert_eq!(printed(&state, &["web", "--run", "1", "-f"]), "one\none\n");
    let (error, _) = failed(&state, &["web", "--run", "17"], 1);
    assert!(error.contains("it has no run 17: 'vmon history"), "{error}");
    // Without the record, only the marks are left.
    assert!(state.vmon().args(["rm", "web"]).status().unwrap().success());
    assert_eq!(printed(&state, &["web", "--run", "last"]), "three\nthree\n");
    failed(&state, &["web", "--run", "2"], 1);
}

#[test]
fn a_run_whose_output_was_rotated_away_is_reported() {
    let state = State::new();
    let small = ["--log-max-size", "1000", "--log-max-files", "1"];
    for script in ["echo early", ":", "seq 1000"] {
        state.run("web", &small, script).output().unwrap();
    }
    let (error, out) = failed(&state, &["web", "--run", "1"], 1);
    assert!(error.contains("the output of this run of Sandboxfile/web is not found in its log"));
    assert_eq!(out, "");
    // No output, or none in the selected time.
    assert_eq!(printed(&state, &["web", "--run", "2"]), "");
    assert_eq!(printed(&state, &["web", "--run", "1", "-n", "0"]), "");
}

#[test]
fn a_run_of_a_log_without_marks_is_selected_by_its_time() {
    for format in ["cri", "json"] {
        let state = State::new();
        for word in ["one", "two", "three"] {
            let script = format!("echo {word}");
            state.run("web", &["--log-format", format], &script).output().unwrap();
        }
        assert_eq!(printed(&state, &["web"]), "one\ntwo\nthree\n");
        assert_eq!(printed(&state, &["web", "--run", "last"]), "three\n");
        assert_eq!(printed(&state, &["web", "--run", "2"]), "two\n");
        assert_eq!(printed(&state, &["web", "--run", "1"]), "one\n");
    }
}

#[test]
fn bytes_of_unknown_time_count_as_stdout_and_have_a_dash() {
    let state = State::new();
    let chunks = [Chunk::mark(NOON, START, 7), Chunk::new(NOON, STDERR, "known\n")];
    put(&state, CONFIG, "old.log", b"known\nbehind the index\n");
    put(&state, CONFIG, "old.log.idx", &index(&chunks));
    assert_eq!(printed(&state, &["old", "--stream", "stdout"]), "behind the index\n");
    let stamped = printed(&state, &["old", "-t"]);
    assert_eq!(stamped, "2026-01-31T12:00:00.000000000+00:00 known\n- behind the index\n");
}

#[test]
fn unknown_times_and_streams_are_reported() {
    let state = State::new();
    put(&state, CONFIG, "old.log", b"no index\n");
    let (error, out) = failed(&state, &["old", "--since", "1h"], 1);
    assert!(error.contains("has no times"), "{error}");
    assert_eq!(out, "no index\n");
    let (error, out) = failed(&state, &["old", "--stream", "stderr"], 1);
    assert!(error.contains("does not distinguish stdout from stderr"), "{error}");
    assert_eq!(out, "");
    assert_eq!(printed(&state, &["old", "-t"]), "- no index\n");
}

#[test]
fn a_mismatched_index_is_reported_and_fails_only_if_it_is_needed() {
    let state = State::new();
    put(&state, CONFIG, "old.log", b"short\n");
    put(&state, CONFIG, "old.log.idx", &index(&[Chunk::new(NOON, STDERR, "much longer\n")]));
    let (warning, out) = failed(&state, &["old"], 0);
    assert!(warning.contains("old.log.idx does not match its log"), "{warning}");
    assert_eq!(out, "short\n");
    let Output { status, stderr, .. } = output(&state, &["old", "--stream", "stderr"]);
    assert_eq!(code(status), 1);
    assert!(contains(&stderr, b"does not match its log"));
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(stderr.matches("does not match").count(), 1, "{stderr}");
}

/// 2 GiB of window and content, in blocks that repeat one byte (RFC 8878).
#[test]
fn a_generation_that_needs_too_much_memory_is_reported_and_the_rest_is_printed() {
    let state = State::new();
    let repeated = (131_072_u32 << 3 | 1 << 1).to_le_bytes();
    let block = [&repeated[..3], b"x"].concat();
    let large = [&b"\x28\xb5\x2f\xfd\x00\xa8"[..], &block.repeat(1 << 14)].concat();
    put(&state, CONFIG, "old.log.00000001.zst", &large);
    put(&state, CONFIG, "old.log", b"rest\n");
    let mut logs = Command::new("sh");
    let limited = "ulimit -v 1000000; exec \"$0\" logs old";
    logs.args(["-c", limited, env!("CARGO_BIN_EXE_vmon")]).env("VMON_STATE_DIR", state.path());
    let Output { status, stdout, stderr } = logs.output().unwrap();
    let error = String::from_utf8(stderr).unwrap();
    assert!(error.contains("old.log.00000001.zst") && error.contains("2147483648"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert_eq!((code(status), &stdout[..]), (1, &b"rest\n"[..]));
}

#[test]
fn a_damaged_generation_is_reported_and_the_rest_is_printed() {
    let state = State::new();
    put(&state, CONFIG, "old.log.00000001.gz", b"no gzip at all, and long enough");
    put(&state, CONFIG, "old.log", b"rest\n");
    let (error, out) = failed(&state, &["old"], 1);
    assert!(error.contains("old.log.00000001.gz") && error.contains("damaged"), "{error}");
    assert_eq!(out, "rest\n");
}

/// Escape sequences that must not reach a terminal.
const EVIL: &str = "\x1b]0;title\x07\x1b[?1049h\x1b[?25l\x1b[?2004h\x1b[c\x1b[6n\x1b]52;c;eA==\x07\
                    \x1bP+q544e\x1b\\\x1b[2J\x1b(0\x0e\x1bc";

fn at_terminal(state: &State, args: &[&str], variable: Option<(&str, &str)>) -> String {
    let mut command = logs_of(state, args);
    command.env("TERM", "xterm").env_remove("NO_COLOR").envs(variable);
    let mut terminal = Terminal::spawn(&mut command);
    assert_eq!(terminal.finish(), 0);
    String::from_utf8(terminal.seen.clone()).unwrap().replace("\r\n", "\n")
}

#[test]
fn on_a_terminal_stderr_is_tinted_and_the_terminal_is_unchanged() {
    let state = State::new();
    let chunks = [
        Chunk::new(NOON, STDOUT, format!("one{EVIL}\n")),
        Chunk::new(NOON, STDERR, format!("{EVIL}bad\n")),
        Chunk::new(NOON, TTY, "\x1b[1mtwo"),
    ];
    put(&state, CONFIG, "old.log", &joined(&chunks));
    put(&state, CONFIG, "old.log.idx", &index(&chunks));
    let seen = at_terminal(&state, &["old"], None);
    let plain = |text: &str| text.replace("\x1b[0m", "\x1b[m");
    assert_eq!(plain(&seen), "one\n\x1b[31mbad\n\x1b[39m\x1b[1mtwo\x1b[m");
    let untinted = "one\nbad\n\x1b[1mtwo\x1b[m";
    assert_eq!(plain(&at_terminal(&state, &["old", "--no-color"], None)), untinted);
    assert_eq!(plain(&at_terminal(&state, &["old"], Some(("NO_COLOR", "1")))), untinted);
    assert_eq!(at_terminal(&state, &["old", "--raw"], None).as_bytes(), joined(&chunks));
    // A pipe gets every byte.
    assert_eq!(output(&state, &["old"]).stdout, joined(&chunks));
}

#[test]
fn with_plain_a_pipe_gets_text_only() {
    let state = State::new();
    put(&state, CONFIG, "old.log", format!("one{EVIL}\ttwo\r\n\x1b[8mhidden\n").as_bytes());
    assert_eq!(output(&state, &["--plain", "old"]).stdout, b"one\ttwo\nhidden\n");
    assert_eq!(at_terminal(&state, &["--plain", "old"], None), "one\ttwo\nhidden\n");
}

#[test]
fn a_closed_stdout_ends_it_without_a_message() {
    let state = State::new();
    let line = "a line that is printed again and again\n";
    put(&state, CONFIG, "old.log", line.repeat(100_000).as_bytes());
    let mut child =
        logs_of(&state, &["old"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    reader.read_line(&mut first).unwrap();
    assert_eq!(first, line);
    drop(reader);
    let status = common::wait(&mut child);
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(status.success() && said.is_empty(), "{status}: {said}");
}
