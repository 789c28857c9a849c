//! Logs in `cri` and `json`, compared with other writers and read by independent readers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::records::joined;
use crate::common::{State, assert_same, code, noise, python};
use vmon::logfile::format::{Decoder, Encoder};
use vmon::logfile::{Format, Stream, Timestamp};

const STREAMS: [(Stream, &str); 2] = [(Stream::Stdout, "stdout"), (Stream::Stderr, "stderr")];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

/// A program that `.ci/install` installs. `None`, with a message, if it is missing; with
/// `VMON_REQUIRE_PYTHON` set, that is a failure.
#[track_caller]
fn installed(program: &str) -> Option<Command> {
    let version = Command::new(program).arg("--version").stdout(Stdio::null()).status();
    if version.is_ok_and(|status| status.success()) {
        return Some(Command::new(program));
    }
    assert!(std::env::var_os("VMON_REQUIRE_PYTHON").is_none(), "{program} is missing");
    eprintln!("skipped: {program} is missing: run .ci/install");
    None
}

/// The output of a command that must succeed.
#[track_caller]
fn output(command: &mut Command) -> Vec<u8> {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert_eq!(code(output.status), 0, "{command:?}");
    output.stdout
}

/// The log of a run in this format with this output.
fn logged(format: &str, stdout: &[u8], stderr: &[u8]) -> (State, PathBuf) {
    let state = State::new();
    fs::write(state.file("out"), stdout).unwrap();
    fs::write(state.file("err"), stderr).unwrap();
    let script = format!("cd '{}' && cat out && cat err >&2", state.path().display());
    let options = ["--no-forward", "--log-format", format, "--log-max-size", "0"];
    assert_eq!(code(state.run("x", &options, &script).status().unwrap()), 0);
    let log = state.log_path("x");
    (state, log)
}

/// Random bytes in short and long lines.
fn bytes() -> Vec<u8> {
    let long = noise(100_000, 1).into_iter().map(|byte| if byte == b'\n' { b' ' } else { byte });
    noise(100_000, 2).into_iter().chain(long).chain(*b"\nand a last line").collect()
}

/// Characters of each UTF-8 length in short and long lines, with all JSON escapes.
fn text() -> String {
    let line = "ascii \u{e4}\u{20ac}\u{1f680} \"<&>\"\\ \t\0\u{1b}[0m\u{7f}\u{2028}\u{2029}\r\n";
    let long = line.trim_end().repeat(2_000);
    format!("{}{long}\n\nend\n", line.repeat(2_000))
}

// --- conmon, a writer ---

#[test]
fn logs_of_conmon_are_read_and_encoded_identically() {
    let log = fs::read(golden("conmon-2.1.6.k8s-file.log")).unwrap();
    let mut decoder = Decoder::new(Format::Cri);
    let mut encoder = Encoder::new(Format::Cri);
    let (mut rest, mut again) = (log.as_slice(), Vec::new());
    let mut said = [Vec::new(), Vec::new()];
    while let Some(record) = decoder.next(rest) {
        let (time, stream) = (record.time.unwrap(), record.stream.unwrap());
        encoder.encode(time, stream, record.bytes, &mut again);
        said[usize::from(stream == Stream::Stderr)].extend_from_slice(record.bytes);
        rest = &rest[record.size..];
    }
    assert_same(&again, &log, "the log of conmon");
    assert_eq!(said[1], b"err\n");
    let lines = Command::new("sh").arg(golden("lines.sh")).stderr(Stdio::null()).output().unwrap();
    assert_same(&said[0], &lines.stdout, "what its child has written");
    // conmon leaves the last line incomplete if the child does.
    encoder.finish(Timestamp::default(), &mut again);
    assert!(again.ends_with(b"+00:00 stdout F \n"));
}

#[test]
fn conmon_and_vmon_log_the_same_command_identically() {
    let Some(mut conmon) = installed("conmon") else { return };
    let state = State::new();
    let directory = state.file("bundle");
    let bundle = directory.to_str().unwrap();
    fs::create_dir(bundle).unwrap();
    fs::copy(golden("lines.sh"), directory.join("lines.sh")).unwrap();
    conmon.args(["--sync", "--cid", "x", "--name", "x", "--cuuid", "x", "--runtime-arg", "x"]);
    conmon.arg("--runtime").arg(golden("runtime.sh")).args(["--bundle", bundle]);
    conmon.args(["--socket-dir-path", bundle, "--container-pidfile", &format!("{bundle}/pid")]);
    conmon.arg("--log-path").arg(format!("k8s-file:{bundle}/log")).stdin(Stdio::null());
    output(&mut conmon);
    let script = format!("sh '{bundle}/lines.sh'");
    let mut vmon = state.run("x", &["--log-format", "cri", "--no-forward"], &script);
    output(&mut vmon);
    for (stream, _) in STREAMS {
        let theirs = joined(Format::Cri, &directory.join("log"), stream);
        let ours = joined(Format::Cri, &state.log_path("x"), stream);
        let ours = if stream == Stream::Stdout { ours.strip_suffix(b"\n").unwrap() } else { &ours };
        assert_same(ours, &theirs, "what a reader joins");
    }
}

// --- jq, a reader of JSON ---

fn jq(state: &State, arguments: &[&str], log: &Path) -> Option<Vec<u8>> {
    let mut jq = installed("jq")?;
    Some(output(jq.args(arguments).arg(log).current_dir(state.path())))
}

#[test]
fn jq_decodes_text_exactly_from_json() {
    let text = text();
    let (state, log) = logged("json", text.as_bytes(), b"err\n");
    for (stream, expected) in [("stdout", text.as_bytes()), ("stderr", b"err\n")] {
        let filter = format!("select(.stream == \"{stream}\") | .log");
        let Some(read) = jq(&state, &["-j", &filter], &log) else { return };
        assert_same(&read, expected, stream);
    }
}

#[test]
fn jq_parses_each_line_as_an_object_whatever_the_bytes() {
    let (state, log) = logged("json", &bytes(), &noise(5_000, 3));
    let Some(read) = jq(&state, &["-c", "[keys, (.log | type)]"], &log) else { return };
    let read = String::from_utf8(read).unwrap();
    assert!(read.lines().all(|line| line == r#"[["log","stream","time"],"string"]"#));
    assert_eq!(read.lines().count(), fs::read_to_string(log).unwrap().lines().count());
}

// --- the agent of a log service, a reader of both ---

/// Prints how the agent parses each line: time, stream, tags, length and bytes.
const READ_CRI: &str = r#"
import sys
from scalyr_agent.log_processing import _parse_cri_log
for line in open(sys.argv[1], "rb"):
    assert line.endswith(b"\n"), line
    time, stream, tags, message = _parse_cri_log(line[:-1].decode("latin-1"))
    if stream == sys.argv[2]:
        sys.stdout.buffer.write(message.encode("latin-1") + (b"" if tags == "P" else b"\n"))
"#;

/// Prints the lines that the agent would ship.
const READ: &str = r#"
import sys, types
from scalyr_agent.json_lib import JsonArray
from scalyr_agent.log_processing import LogFileIterator
config = types.SimpleNamespace(
    close_old_files_duration_in_seconds=3600, max_line_size=1 << 20, line_completion_wait_time=300,
    log_deletion_delay=600, read_page_size=1 << 20, include_raw_timestamp_field=False,
    merge_json_parsed_lines=True, internal_parse_max_line_size=1 << 20,
    enable_copy_truncate_log_rotation_support=True, max_sequence_number=1 << 40)
form = {"parse_format": sys.argv[2], "lineGroupers": JsonArray()}
log = LogFileIterator(
    sys.argv[1], config, form, checkpoint=LogFileIterator.create_checkpoint(0))
log.scan_for_new_bytes()
while True:
    log.mark(log.tell())
    line = log.readline()
    if not line.line:
        break
    assert line.timestamp > 1_700_000_000_000_000_000, line.timestamp
    if line.attrs["stream"] == sys.argv[3]:
        sys.stdout.buffer.write(line.line)
"#;

#[test]
fn a_shipper_joins_any_bytes_from_cri_exactly() {
    let (out, err) = (bytes(), noise(5_000, 3));
    let (_state, log) = logged("cri", &out, &err);
    for ((_, stream), written) in STREAMS.into_iter().zip([out, err]) {
        let Some(mut python) = python() else { return };
        let read = output(python.args(["-c", READ_CRI]).arg(&log).arg(stream));
        let ended = written.ends_with(b"\n");
        let expected = [written.as_slice(), if ended { b"" } else { b"\n" }].concat();
        assert_same(&read, &expected, stream);
    }
}

#[test]
fn a_shipper_ships_each_line_with_its_stream() {
    let lines: String = (0..3_000).map(|line| format!("line {line} \u{e4}\n")).collect();
    for format in ["cri", "json"] {
        // In JSON it joins lines of all streams, so each stream has complete lines here.
        let (_state, log) = logged(format, lines.as_bytes(), b"err\n");
        for (stream, expected) in [("stdout", lines.as_bytes()), ("stderr", b"err\n")] {
            let Some(mut python) = python() else { return };
            let read = output(python.args(["-c", READ]).arg(&log).args([format, stream]));
            match format {
                // It ships an incomplete line at the end of a chunk on its own.
                "cri" => assert_eq!(without_newlines(&read), without_newlines(expected)),
                _ => assert_same(&read, expected, stream),
            }
        }
    }
}

fn without_newlines(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().filter(|&byte| byte != b'\n').collect()
}
